"""Predicted times, and the bookings that they count."""

from __future__ import annotations

import math

import pytest

from baton.core.settings import RouterSettings
from baton.router import forecast
from baton.router.policy.registry import policy_named
from fakes.routing import BLOCK_BYTES, BLOCK_SIZE, NUM_BLOCKS, Routed


def routed(*names: str) -> Routed:
    settings = RouterSettings(disaggregation="always", fetch=False)
    return Routed(policy_named("kv_aware", settings), *(names or ("a1",)))


def ttft(one: Routed, name: str, num_tokens: int, **view: object) -> float:
    row = one.rows[name]
    return float(
        forecast.ttft_s(one.view(num_tokens, **view), one.pool.columns, slice(row, row + 1))[0]
    )


def test_first_token_comes_after_the_queue_and_the_uncached_prompt() -> None:
    one = routed()
    one.measure(tokens_per_s=10_000)
    assert ttft(one, "a1", 1000) == pytest.approx(0.1, rel=0.01)
    one.load("a1", queued_prefill_tokens=3000)
    assert ttft(one, "a1", 1000) == pytest.approx(0.4, rel=0.01)
    cached = {"a1": 10, "a1_host": 20, "a1_disk": 5}
    assert ttft(one, "a1", 1000, cached=cached) == pytest.approx(
        0.4 - 35 * BLOCK_SIZE / 10_000, rel=0.01
    )


def test_dispatched_work_counts_at_once_and_cached_tokens_never() -> None:
    one = routed()
    one.measure(tokens_per_s=10_000)
    _, (booking,) = one.place(1600, cached={"a1": 60})
    assert one.pool.columns.queued_tokens[0] == 1600 - 60 * BLOCK_SIZE
    # The worker counts all of a prompt that waits; its cache will cover 960 of them.
    one.load("a1", queued_prefill_tokens=1600)
    assert one.pool.columns.queued_tokens[0] == 640
    one.pool.begin(booking)
    one.load("a1", queued_prefill_tokens=640)
    assert one.pool.columns.queued_tokens[0] == 640
    one.pool.end(booking)
    one.load("a1")
    assert one.pool.columns.queued_tokens[0] == 0


def test_fetched_tokens_are_not_booked_as_work() -> None:
    one = Routed(policy_named("conductor"), "a1", "a2")
    one.measure()
    one.load("a1", queued_prefill_tokens=30_000)
    one.place(16_000, cached={"a1": 990})
    assert one.pool.columns.queued_tokens[one.rows["a2"]] == 160


def test_sequences_count_other_gateways_and_those_on_their_way() -> None:
    one = routed("p1", "d1")
    one.load("d1", num_running=10, num_waiting=2)
    _, (_, target) = one.place()
    row = one.rows["d1"]
    assert one.pool.columns.sequences[row] == 13
    one.load("d1", num_running=10)
    assert one.pool.columns.sequences[row] == 11, "it still waits for its KV, unseen by reports"
    one.pool.begin(target)
    one.load("d1", num_running=11)
    assert one.pool.columns.sequences[row] == 11
    one.pool.end(target)
    one.load("d1", num_running=10)
    assert one.pool.columns.sequences[row] == 10


def test_expected_output_counts_half_until_the_end() -> None:
    one = routed()
    _, (booking,) = one.place(16 * BLOCK_SIZE, expected_output=20 * BLOCK_SIZE, num_choices=2)
    assert one.pool.columns.active_blocks[0] == 16 + 2 + 20
    one.pool.begin(booking)
    one.load("a1", free_blocks=NUM_BLOCKS - 18)
    assert one.pool.columns.active_blocks[0] == 18 + 20
    one.pool.end(booking)
    one.load("a1")
    assert one.pool.columns.active_blocks[0] == 0


def test_step_time_grows_with_what_is_placed() -> None:
    one = routed()
    for running in (1, 8, 20, 40):
        for _ in range(10):
            one.measure(step_s=0.005 + 0.001 * running, num_running=running)
    before = float(forecast.tpot_s(one.view(), one.pool.columns, slice(0, 1))[0])
    assert before == pytest.approx(0.005 + 0.041, rel=0.1)
    for _ in range(5):
        one.place()
    after = float(forecast.tpot_s(one.view(), one.pool.columns, slice(0, 1))[0])
    assert after == pytest.approx(0.005 + 0.046, rel=0.1)


def test_transfer_is_of_what_the_target_lacks() -> None:
    one = routed("p1", "d1")
    one.measure(link=2e9)
    rows = slice(one.rows["d1"], one.rows["d1"] + 1)
    view = one.view(100 * BLOCK_SIZE, cached={"d1": 40, "d1_host": 60})
    seconds = float(forecast.transfer_s(view, one.pool.columns, rows)[0])
    assert seconds == pytest.approx(60 * BLOCK_BYTES / 2e9)


def test_best_time_is_of_any_worker_that_computes_prompts() -> None:
    one = routed("p1", "p2", "d1", "a1")
    assert forecast.best_ttft_s(one.view(1000), one.pool) is None, "nothing is measured"
    one.measure(tokens_per_s=10_000)
    one.load("p1", queued_prefill_tokens=1000)
    one.load("p2", queued_prefill_tokens=2000)
    one.load("a1", queued_prefill_tokens=4000)
    best = forecast.best_ttft_s(one.view(1000), one.pool)
    assert best == pytest.approx(0.2, rel=0.01)
    # A replay is computed by the worker that goes on.
    alone = forecast.best_ttft_s(one.view(1000, alone=True), one.pool)
    assert alone == pytest.approx(0.1, rel=0.01)
    one.load("p1", queued_prefill_tokens=1000, queue_room=0)
    assert forecast.best_ttft_s(one.view(1000), one.pool) == pytest.approx(0.2, rel=0.01)
    assert forecast.best_ttft_s(one.view(1000), Routed(one.policy, "p1").pool) is None


def test_workers_that_never_worked_are_taken_to_be_like_those_that_did() -> None:
    one = routed("p1", "p2", "d1")
    one.measure("p1", tokens_per_s=5000)
    assert one.pool.columns.prefill_is_measured[[one.rows[n] for n in ("p1", "p2", "d1")]].all()
    assert ttft(one, "p2", 1000) == pytest.approx(0.2, rel=0.01)


def test_full_worker_is_behind_a_barrier_until_it_reports_room() -> None:
    one = routed()
    one.load("a1", queue_room=1)
    _, (booking,) = one.place(5000)
    assert one.pool.columns.barrier[0] == math.inf and not one.pool.has_room("m")
    one.pool.end(booking)
    assert one.pool.columns.barrier[0] == 0 and one.pool.has_room("m")


def test_unmeasured_workers_follow_their_pool_until_they_show_something_themselves() -> None:
    one = routed("a1", "a2")
    for _ in range(400):
        one.measure("a1", tokens_per_s=4000)
    assert ttft(one, "a2", 1000) == pytest.approx(ttft(one, "a1", 1000), rel=0.05)
    for _ in range(2000):
        one.measure("a2", tokens_per_s=1000)
    assert ttft(one, "a2", 1000) == pytest.approx(1.0, rel=0.25)
