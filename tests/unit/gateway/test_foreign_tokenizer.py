"""Token ids go only to workers for which they stand for the same texts."""

from __future__ import annotations

import pytest

from fakes.token_plane import TokenPlane
from fakes.worker import FakeWorker


def worker(name: str, tokenizer: str, role: str = "any") -> FakeWorker:
    made = FakeWorker(name, role)
    made.lease.tokenizer = tokenizer
    return made


async def test_a_worker_of_another_tokenizer_gets_no_request() -> None:
    new = worker("new", "t2")
    async with TokenPlane(worker("old", "t1"), new, tokenizer="t1") as plane:
        for seed in range(8):
            sink, _ = plane.submit(seed=seed)
            assert await sink.end() is None
        assert not new.submits
        rows = {row["id"]: row["reason"] for row in plane.fleet.workers()}
        assert rows["old"] == "" and "tokenizer is another" in rows["new"]


async def test_nor_is_one_asked_when_there_is_no_other() -> None:
    """As in a rollout's last moments, at a gateway that has not been replaced yet."""
    async with TokenPlane(worker("new", "t2"), tokenizer="t1") as plane:
        sink, _ = plane.submit(seed=1)
        assert plane.num_waiting == 1 and not plane.fleet.is_ready("fake")
        told = "no worker for model 'fake' takes requests: 1 of another tokenizer"
        assert plane.fleet.shortage("fake") == told
        assert plane.fleet.shortage("other") == "no worker for model 'other' has registered"
        assert [row["state"] for row in plane.fleet.workers()] == ["foreign"]
        await plane.add(worker("old", "t1"))
        assert await sink.end() is None


async def test_a_foreign_worker_can_be_drained() -> None:
    """By whoever is asked: perhaps no gateway has its tokenizer any more."""
    async with TokenPlane(worker("old", "t1"), tokenizer="t2") as plane:
        assert await plane.fleet.drain("old", 5.0, "replaced") == 0
        await plane.until(lambda: plane.state(plane.workers[0]) == "draining")


@pytest.mark.parametrize(("its", "ours"), [("", "t1"), ("t1", ""), ("t1", "t1")])
async def test_who_does_not_say_is_believed_to_have_the_same(its: str, ours: str) -> None:
    """Workers of the version before have none in their lease."""
    async with TokenPlane(worker("a", its), tokenizer=ours) as plane:
        sink, _ = plane.submit(seed=1)
        assert await sink.end() is None
