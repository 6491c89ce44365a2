"""What a request that nobody takes is told."""

from __future__ import annotations

import pytest

from baton.router.pool import Pool
from baton.router.shortage import shortage
from baton.v1 import common_pb2, session_pb2

ROLES = {
    "p": common_pb2.WORKER_ROLE_PREFILL,
    "d": common_pb2.WORKER_ROLE_DECODE,
    "a": common_pb2.WORKER_ROLE_ANY,
}


def pool_of(*workers: str) -> Pool:
    """Each is a role, then `-` when it does not answer or `~` when it drains."""
    pool = Pool()
    for i, worker in enumerate(workers):
        lease = common_pb2.WorkerLease(
            worker=common_pb2.WorkerRef(worker_id=f"{worker}{i}", epoch=1),
            role=ROLES[worker[0]],
            model="m",
        )
        row = pool.add(lease)
        pool.set_up(row, "-" not in worker)
        pool.report(row, session_pb2.Load(draining="~" in worker))
    return pool


@pytest.mark.parametrize(
    ("workers", "words"),
    [
        ((), "no worker for model 'm' is alive"),
        (("p", "p-"), "no decode worker for model 'm' is alive, only prefill workers: 2"),
        (("p", "d~"), "no worker for model 'm' takes requests: 1 draining"),
        (("a-", "a~", "d-"), "takes requests: 1 draining and 2 not answering"),
        (("p", "d", "a", "a~"), "every worker for model 'm' is busy (2 could take it)"),
    ],
)
def test_the_reason_names_what_is_missing(workers: tuple[str, ...], words: str) -> None:
    assert words in shortage(pool_of(*workers), "m")


def test_workers_of_other_models_do_not_count() -> None:
    assert shortage(pool_of("a"), "other") == "no worker for model 'other' is alive"
