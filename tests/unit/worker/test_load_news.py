"""Which changes of a worker's load gateways hear of soon, late, or not at all."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from baton.v1 import common_pb2, events_pb2, session_pb2, worker_pb2
from baton.worker.load_news import LoadNews, load_news

OLD = session_pb2.Load(
    sequence_number=7,
    num_running=3,
    num_waiting=1,
    free_blocks=90,
    step_s=0.02,
    prefill_step_s=0.1,
    prefill_tokens_per_s=5000.0,
)
LINK = worker_pb2.PeerLink(peer=common_pb2.WorkerRef(worker_id="p"), bytes_per_s=1e9, is_up=True)
TIER = session_pb2.TierLoad(tier=events_pb2.KV_TIER_HOST, used_bytes=9)


def after(**changes: Any) -> LoadNews:
    return load_news(OLD, _changed(OLD, **changes))


def _changed(load: session_pb2.Load, **changes: Any) -> session_pb2.Load:
    changed = session_pb2.Load()
    changed.CopyFrom(load)
    for name, value in changes.items():
        if isinstance(value, list):
            getattr(changed, name).extend(value)
        else:
            setattr(changed, name, value)
    return changed


def test_first_load_is_news() -> None:
    assert load_news(None, session_pb2.Load()) is LoadNews.SUDDEN


def test_averages_alone_are_none() -> None:
    news = after(sequence_number=8, step_s=0.021, prefill_step_s=0.2, prefill_tokens_per_s=1.0)
    assert news is LoadNews.NONE


@pytest.mark.parametrize(
    "changes",
    [
        {"free_blocks": 89},
        {"free_blocks": 0, "cached_blocks": 4, "step_s": 0.03},
        {"reserved_blocks": 1, "pinned_blocks": 2, "fetched_blocks": 3},
        {"promotions": 1, "promotion_timeouts": 1},
        {"links": [LINK]},
        {"tiers": [TIER]},
    ],
    ids=lambda changes: "+".join(changes),
)
def test_how_full_it_is_is_gradual(changes: dict[str, Any]) -> None:
    assert after(**changes) is LoadNews.GRADUAL


@pytest.mark.parametrize(
    "changes",
    [
        {"num_running": 4},
        {"num_running": 0, "free_blocks": 100},
        {"num_waiting": 0},
        {"queued_prefill_tokens": 100},
        {"queue_room": 1},
        {"quarantined_blocks": 1},
        {"draining": True},
        {"short_of_blocks": 1},
    ],
    ids=lambda changes: "+".join(changes),
)
def test_what_moves_work_is_sudden(changes: dict[str, Any]) -> None:
    assert after(**changes) is LoadNews.SUDDEN


def test_time_left_is_news_when_it_begins_and_ends() -> None:
    loads = [_changed(OLD, draining=True, leaving_in_ms=left) for left in (0, 5000, 4900, 0)]
    news = [load_news(old, new) for old, new in pairwise(loads)]
    assert news == [LoadNews.SUDDEN, LoadNews.NONE, LoadNews.SUDDEN]


def test_loads_are_left_as_they_are() -> None:
    old, new = _changed(OLD, leaving_in_ms=9), _changed(OLD, leaving_in_ms=8, free_blocks=1)
    copies = _changed(old), _changed(new)
    load_news(old, new)
    assert (old, new) == copies
