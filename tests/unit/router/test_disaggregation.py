"""When a decode worker computes a prompt itself: whenever that is predicted to cost less."""

from __future__ import annotations

import pytest

from baton.core.settings import RouterSettings
from baton.router.policy.registry import policy_named
from fakes.routing import BLOCK_BYTES, BLOCK_SIZE, Routed

RATE = 10_000.0
LINK = 1e9


def split(
    *names: str, policy: str = "kv_aware", disaggregation: str = "auto", link: float = LINK
) -> Routed:
    """Workers of 10,000 tokens/s that fetch nothing; without names one of each role."""
    settings = RouterSettings(disaggregation=disaggregation, fetch=False)
    routed = Routed(policy_named(policy, settings), *(names or ("p1", "d1")))
    routed.measure(tokens_per_s=RATE, link=link)
    return routed


def seconds_of_transfer(num_tokens: int, link: float = LINK) -> float:
    return num_tokens / BLOCK_SIZE * BLOCK_BYTES / link


def test_idle_decode_worker_computes_as_there_is_nobody_to_disturb() -> None:
    assert split().pick(3200) == "d1"


@pytest.mark.parametrize("num_tokens", [160, 1600, 16_000])
def test_busy_decode_worker_leaves_prompts_to_the_prefill_worker(num_tokens: int) -> None:
    routed = split()
    routed.load("d1", num_running=20)
    assert routed.pick(num_tokens) == "p1+d1"


def test_crossover_is_where_the_predicted_times_are_equal() -> None:
    """alone = 0.1 s * (1 + 4 running), pair = queue + 0.1 s + transfer."""
    num_tokens = 1000
    routed = split()
    routed.load("d1", num_running=4)
    compute_s = num_tokens / RATE
    queue_s = 5 * compute_s - compute_s - seconds_of_transfer(num_tokens)
    routed.load("p1", queued_prefill_tokens=round(queue_s * RATE) - 10)
    assert routed.pick(num_tokens) == "p1+d1"
    routed.load("p1", queued_prefill_tokens=round(queue_s * RATE) + 10)
    assert routed.pick(num_tokens) == "d1"


def test_crossover_over_a_slow_link() -> None:
    """The transfer of a block takes as long as computing it so many times over."""
    num_tokens = 1600
    slow = LINK / 1000
    running = seconds_of_transfer(num_tokens, slow) / (num_tokens / RATE)
    routed = split(link=slow)
    routed.load("d1", num_running=int(running) - 1)
    assert routed.pick(num_tokens) == "d1"
    routed.load("d1", num_running=int(running) + 1)
    assert routed.pick(num_tokens) == "p1+d1"


def test_crossover_by_what_the_decode_worker_has_cached() -> None:
    """A conversation's next turn is computed where its KV already is."""
    num_tokens, running = 1600, 9
    pair_s = num_tokens / RATE
    routed = split()
    routed.load("d1", num_running=running)
    # alone = uncached / RATE * 10: equal when a tenth of the prompt, and the transfer, is left.
    few, many = 88, 92
    for blocks, expected in ((few, "p1+d1"), (many, "d1")):
        transfer_s = seconds_of_transfer(num_tokens - blocks * BLOCK_SIZE)
        alone_s = (num_tokens - blocks * BLOCK_SIZE) / RATE * (1 + running)
        assert (alone_s < pair_s + transfer_s) == (expected == "d1")
        assert routed.pick(num_tokens, cached={"d1": blocks}) == expected


def test_workers_own_measured_rates_count() -> None:
    routed = split()
    for _ in range(60):
        routed.measure("d1", tokens_per_s=RATE / 20, num_running=0)
    assert routed.pick(1600) == "p1+d1", "an idle one, but a slow one"


def test_best_decode_worker_for_computing_need_not_be_the_best_for_decoding() -> None:
    routed = split("p1", "d1", "d2")
    routed.load("d1", num_running=3)
    assert routed.pick(1600, cached={"d1": 99}) == "d1"


def test_busy_prefill_pool_is_waited_for_only_while_that_is_faster() -> None:
    routed = split()
    routed.load("d1", num_running=20)
    routed.load("p1", queue_room=0, queued_prefill_tokens=4000)
    assert routed.pick(1000) is None
    routed.load("p1", queue_room=0, queued_prefill_tokens=40_000)
    assert routed.pick(1000) == "d1"


def test_decode_worker_without_room_computes_nothing() -> None:
    routed = split()
    routed.load("d1", queue_room=0, num_running=1)
    routed.load("p1", queue_room=0)
    assert routed.pick() is None


def test_unmeasured_workers_are_used_as_they_were_meant() -> None:
    routed = Routed(policy_named("kv_aware"), "p1", "d1")
    assert routed.pick() == "p1+d1"


def test_always_pairs_when_told_to() -> None:
    assert split(disaggregation="always").pick() == "p1+d1"


@pytest.mark.parametrize("policy", ["round_robin", "least_loaded", "random"])
def test_policies_that_do_not_look_at_caches_keep_the_decode_worker_they_chose(
    policy: str,
) -> None:
    routed = split("p1", "d1", "d2", policy=policy)
    assert {routed.pick() for _ in range(30)} <= {"d1", "d2"}
    for name in ("d1", "d2"):
        routed.load(name, num_running=30)
    assert {routed.pick() for _ in range(30)} <= {"p1+d1", "p1+d2"}


def test_replay_is_computed_alone() -> None:
    routed = split()
    routed.load("d1", num_running=50)
    assert routed.pick(alone=True) == "d1"


def test_aggregated_and_split_pools_share_a_service() -> None:
    """Each request goes where it costs less."""
    routed = split("p1", "d1", "a1")
    routed.load("d1", num_running=20)
    routed.load("a1", num_running=20, queued_prefill_tokens=9000)
    assert routed.pick(1000) == "p1+d1"
    routed.load("a1")
    routed.load("p1", queued_prefill_tokens=9000)
    assert routed.pick(1000) == "a1"
    # The longest prefix is on the other side.
    routed.load("p1", queued_prefill_tokens=500)
    assert routed.pick(16_000, cached={"p1": 990}) == "p1+d1"


def test_reason_gives_both_times() -> None:
    routed = split()
    routed.load("d1", num_running=20)
    document = routed.choice(1000).to_json()
    assert document["alone_s"] == pytest.approx(2.1, rel=0.01)
    assert document["pair_s"] == pytest.approx(0.1 + seconds_of_transfer(1000), rel=0.02)
    assert "p1" in document["reason"] and "d1" in document["reason"]
