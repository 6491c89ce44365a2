"""Hints go to the workers that would get the request, and cost their load nothing."""

from __future__ import annotations

from typing import Any

import pytest

from baton.core.errors import InvalidRequestError, UnavailableError
from baton.gateway.hints import Hint, Hints, Told
from baton.router.policy.registry import policy_named
from fakes.token_plane import TokenPlane
from fakes.worker import MODEL, FakeWorker


def hints(plane: TokenPlane) -> Hints:
    return Hints(plane.fleet, policy_named("least_loaded"), seed=1)


def hint(**fields: Any) -> Hint:
    return Hint(MODEL, (5, 6, 7), 2.5, **fields)


async def test_the_pair_that_would_get_it_is_told_and_nothing_is_booked() -> None:
    workers = [FakeWorker("p", "prefill"), FakeWorker("d", "decode")]
    async with TokenPlane(*workers) as plane:
        assert hints(plane).prefetch(hint(tenant_salt="a")) == [
            Told("d", "decode"),
            Told("p", "prefill"),
        ]
        await plane.until(lambda: all(worker.prefetches for worker in workers))
        for worker in workers:
            (heard,) = worker.prefetches
            assert list(heard.prompt[0].token_ids.ids) == [5, 6, 7]
            assert (heard.model, heard.tenant_salt, heard.cache_ttl_ms) == (MODEL, "a", 2500)
            assert not heard.HasField("fetch_from") and not worker.submits
        assert not plane.pool.columns.inflight.any()


async def test_named_worker_is_whom_the_others_ask() -> None:
    workers = [FakeWorker("p", "prefill"), FakeWorker("d", "decode")]
    async with TokenPlane(*workers) as plane:
        hints(plane).prefetch(hint(from_worker="p"))
        await plane.until(lambda: all(worker.prefetches for worker in workers))
        prefill, decode = (worker.prefetches[0] for worker in workers)
        assert decode.fetch_from == workers[0].lease.worker
        # Nobody asks himself.
        assert not prefill.HasField("fetch_from")
        with pytest.raises(InvalidRequestError) as caught:
            hints(plane).prefetch(hint(from_worker="nobody"))
        assert caught.value.param == "from_worker"


async def test_nobody_to_tell_is_an_error() -> None:
    async with TokenPlane(FakeWorker("p", "prefill")) as plane:
        with pytest.raises(UnavailableError):
            hints(plane).prefetch(hint())
