"""One process acts at a time, whatever the clocks say, and none for long after it lost touch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from baton_operator.kube.client import KubeClient
from baton_operator.kube.lease import LeaseHolder, LeaseLostError, Rivalry
from baton_operator.settings import OperatorSettings
from fakes.kube_api import KubeApi
from fakes.until import until

PATH = "/apis/coordination.k8s.io/v1/namespaces/here/leases/baton-operator"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def settings(identity: str = "a") -> OperatorSettings:
    return OperatorSettings(
        key="0123456789abcdef",
        own_namespace="here",
        identity=identity,
        lease_duration_s=15,
        lease_deadline_s=10,
        lease_retry_s=0.2,
    )


@pytest.fixture
async def api() -> AsyncIterator[KubeApi]:
    yield KubeApi()


def lease(holder: str, renewed: str = "t1", duration: int = 15) -> dict[str, Any]:
    return {
        "metadata": {"name": "baton-operator", "namespace": "here"},
        "spec": {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": duration},
    }


def test_a_lease_is_free_once_it_has_not_changed_for_its_duration() -> None:
    rivalry = Rivalry("me", duration_s=15)
    assert not rivalry.may_take(lease("other", "t1"), now=0)
    assert not rivalry.may_take(lease("other", "t1"), now=14.9)
    assert not rivalry.may_take(lease("other", "t2"), now=15), "it was renewed"
    assert not rivalry.may_take(lease("other", "t2"), now=29.9)
    assert rivalry.may_take(lease("other", "t2"), now=30)


def test_what_the_holders_clock_says_means_nothing() -> None:
    rivalry = Rivalry("me", duration_s=15)
    for renewed in ("1970-01-01T00:00:00Z", "2999-01-01T00:00:00Z"):
        assert not rivalry.may_take(lease("other", renewed), now=0)


def test_the_holders_duration_counts_not_ours() -> None:
    rivalry = Rivalry("me", duration_s=15)
    assert not rivalry.may_take(lease("other", duration=60), now=0)
    assert not rivalry.may_take(lease("other", duration=60), now=59)
    assert rivalry.may_take(lease("other", duration=60), now=60)


@pytest.mark.parametrize("holder", ["", "me"])
def test_one_that_was_given_back_or_is_ours_is_taken_at_once(holder: str) -> None:
    assert Rivalry("me", duration_s=15).may_take(lease(holder), now=0)


async def test_acquired_renewed_and_given_back(api: KubeApi, client: KubeClient) -> None:
    holder = LeaseHolder(client, settings(), Clock())
    assert not holder.held
    await holder.acquire()
    assert holder.held and api.objects[PATH]["spec"]["holderIdentity"] == "a"
    first = api.objects[PATH]["spec"]["renewTime"]
    holding = asyncio.create_task(holder.hold())
    await until(lambda: api.objects[PATH]["spec"]["renewTime"] != first)
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)
    await holder.release()
    assert not holder.held
    other = LeaseHolder(client, settings("b"), Clock())
    await asyncio.wait_for(other.acquire(), timeout=5)
    assert api.objects[PATH]["spec"]["holderIdentity"] == "b"
    assert api.objects[PATH]["spec"]["leaseTransitions"] == 1


@pytest.mark.parametrize(("holder", "left"), [("a", ""), ("b", "b")])
async def test_given_back_if_it_is_ours_still_whatever_was_written_since(
    holder: str, left: str, api: KubeApi, client: KubeClient
) -> None:
    """As after a renewal that was cut off: done, and its answer never read."""
    ours = LeaseHolder(client, settings(), Clock())
    await ours.acquire()
    written = api.objects[PATH]
    spec = {**written["spec"], "holderIdentity": holder, "renewTime": "later"}
    api.store(PATH, {**written, "metadata": {**written["metadata"]}, "spec": spec})
    await ours.release()
    assert not ours.held
    assert api.objects[PATH]["spec"]["holderIdentity"] == left


async def test_of_two_standbys_one_gets_it(api: KubeApi, client: KubeClient) -> None:
    holders = [LeaseHolder(client, settings(name), Clock()) for name in "ab"]
    tasks = [asyncio.create_task(holder.acquire()) for holder in holders]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for _ in range(5):
        await asyncio.sleep(0.02)
        assert [holder.held for holder in holders].count(True) == 1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_lost_when_it_cannot_be_renewed_until_the_deadline(
    api: KubeApi, client: KubeClient
) -> None:
    clock = Clock()
    holder = LeaseHolder(client, settings(), clock)
    await holder.acquire()
    api.refuse = lambda method, path: (503, "ServiceUnavailable")
    holding = asyncio.create_task(holder.hold())
    await asyncio.sleep(0.1)
    assert not holding.done() and holder.held
    clock.now += 10
    assert not holder.held, "known without any call"
    with pytest.raises(LeaseLostError):
        await asyncio.wait_for(holding, timeout=5)
    await holder.release()
    assert api.objects[PATH]["spec"]["holderIdentity"] == "a", "not ours to give back any more"


async def test_lost_at_once_when_another_took_it(api: KubeApi, client: KubeClient) -> None:
    holder = LeaseHolder(client, settings(), Clock())
    await holder.acquire()
    api.store(PATH, lease("thief"))
    with pytest.raises(LeaseLostError, match="thief"):
        await asyncio.wait_for(holder.hold(), timeout=5)
    assert not holder.held


async def test_a_lease_that_somebody_touched_or_deleted_is_kept(
    api: KubeApi, client: KubeClient
) -> None:
    holder = LeaseHolder(client, settings(), Clock())
    await holder.acquire()
    holding = asyncio.create_task(holder.hold())
    touched = lease("a", "t9")
    touched["metadata"]["labels"] = {"by": "hand"}
    api.store(PATH, touched)
    await until(lambda: api.objects[PATH]["spec"]["renewTime"] != "t9")
    del api.objects[PATH]
    await until(lambda: PATH in api.objects)
    assert not holding.done() and holder.held
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)
