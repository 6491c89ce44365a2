"""What each policy prefers, by tables; and that its terms are what it decides by."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baton.core.settings import RouterSettings
from baton.router.policy.base import Policy
from baton.router.policy.registry import policy_named
from fakes.routing import BLOCK_SIZE, Routed

NAMES = (
    "kv_aware",
    "conductor",
    "dynamo",
    "latency",
    "least_loaded",
    "power_of_two",
    "random",
    "round_robin",
    "session_affinity",
)


def policy(name: str, **settings: Any) -> Policy:
    return policy_named(name, RouterSettings(policy=name, **settings))


def kv_aware(**settings: Any) -> Policy:
    """Without what other terms bring in."""
    return policy(
        "kv_aware",
        **({"queue_weight": 1.0, "occupancy_weight": 0.0, "decode_weight": 0.0} | settings),
    )


def picks(routed: Routed, **view: Any) -> set[str | None]:
    return {routed.pick(**view) for _ in range(40)}


# --- kv_aware ---


@pytest.mark.parametrize(
    ("cached", "queued", "winner"),
    [
        # What is cached need not be computed.
        ({"a1": 10}, {}, "a1"),
        # A queue that costs more than the cache saves.
        ({"a1": 10}, {"a1": 164}, "a2"),
        ({"a1": 10}, {"a1": 156}, "a1"),
        # The longer prefix.
        ({"a1": 10, "a2": 12}, {}, "a2"),
        # Lower tiers count by their credit: 12 host blocks are worth 9, 12 disk blocks 3.
        ({"a1": 10, "a2_host": 12}, {}, "a1"),
        ({"a1": 8, "a2_host": 12}, {}, "a2"),
        ({"a1": 4, "a2_disk": 12}, {}, "a1"),
        ({"a1": 2, "a2_disk": 12}, {}, "a2"),
    ],
)
def test_kv_aware_weighs_caches_against_queues(
    cached: dict[str, int], queued: dict[str, int], winner: str
) -> None:
    routed = Routed(kv_aware(fetch=False), "a1", "a2")
    routed.measure()
    for name, tokens in queued.items():
        routed.load(name, queued_prefill_tokens=tokens)
    assert picks(routed, num_tokens=16 * BLOCK_SIZE, cached=cached) == {winner}


def test_ties_at_zero_load_are_drawn() -> None:
    """448 to 0 was somebody's split when all loads were 0 at the pick."""
    routed = Routed(policy("kv_aware"), *(f"a{i}" for i in range(8)))
    counts = Counter(routed.pick() for _ in range(800))
    assert len(counts) == 8
    assert max(counts.values()) < 150


def test_decay_takes_a_loaded_worker_its_claim_on_a_prefix() -> None:
    # Four prompts queue on a1; what it has cached still saves more than that.
    def loaded(decay: float) -> Routed:
        routed = Routed(kv_aware(fetch=False, overlap_decay=decay), "a1", "a2")
        routed.measure()
        routed.load("a1", queued_prefill_tokens=4 * 100)
        return routed

    view: dict[str, Any] = {"num_tokens": 60 * BLOCK_SIZE, "cached": {"a1": 50}}
    assert picks(loaded(0.0), **view) == {"a1"}
    assert picks(loaded(10.0), **view) == {"a2"}


def test_temperature_draws_also_who_is_not_best() -> None:
    def counts(temperature: float) -> Counter[str | None]:
        routed = Routed(kv_aware(temperature=temperature), "a1", "a2", "a3")
        routed.measure()
        routed.load("a2", queued_prefill_tokens=1000)
        routed.load("a3", queued_prefill_tokens=2000)
        return Counter(routed.pick() for _ in range(600))

    assert counts(0.0) == {"a1": 600}
    # Weights 1, exp(-1), exp(-2) of a spread of 2000 tokens at temperature 1/2.
    drawn = counts(0.5)
    assert [drawn[name] / 600 for name in ("a1", "a2", "a3")] == pytest.approx(
        [0.665, 0.245, 0.09], abs=0.06
    )


def test_full_worker_is_not_drawn_however_high_the_temperature() -> None:
    routed = Routed(kv_aware(temperature=1e6), "a1", "a2")
    routed.measure()
    routed.load("a2", queue_room=0)
    assert picks(routed) == {"a1"}


def test_shared_prompt_spreads_where_another_sequence_costs_the_others_no_time() -> None:
    """Steps take as long whatever the batch is, so only occupancy tells workers apart."""
    routed = Routed(policy("kv_aware", fetch=False), "a1", "a2")
    routed.measure(num_running=1)
    view: dict[str, Any] = {"num_tokens": 1600, "cached": {"a1": 99}}
    assert picks(routed, **view) == {"a1"}
    routed.load("a1", num_running=60, free_blocks=1000)
    assert picks(routed, **view) == {"a2"}


def test_decode_worker_is_chosen_by_its_step_and_not_by_its_cache() -> None:
    """A cached prefix must not draw everybody to one decode worker."""
    routed = Routed(policy("kv_aware", disaggregation="always"), "p1", "d1", "d2")
    routed.measure("p1")
    for running in (1, 8, 20, 40):
        for _ in range(8):
            routed.measure("d1", "d2", step_s=0.005 + 0.001 * running, num_running=running)
    routed.load("d1", num_running=40)
    routed.load("d2", num_running=2)
    assert picks(routed, cached={"d1": 19}) == {"p1+d2"}


def test_blocks_that_the_handoff_skips_count_among_equal_decode_workers() -> None:
    routed = Routed(policy("kv_aware", disaggregation="always"), "p1", "d1", "d2")
    routed.measure(link=1e6)
    assert picks(routed, cached={"d1": 19}) == {"p1+d1"}


# --- fetching ---


def test_hot_prefix_is_fetched_by_an_idle_worker_when_that_beats_computing() -> None:
    for name in ("kv_aware", "conductor"):
        routed = Routed(policy(name), "a1", "a2")
        routed.measure()
        routed.load("a1", queued_prefill_tokens=30_000)
        selection = routed.select(16_000, cached={"a1": 990})
        assert selection is not None
        assert (selection.decode, selection.fetch_from) == (routed.rows["a2"], routed.rows["a1"])


@pytest.mark.parametrize("why_not", ["slow_link", "unmeasured", "off", "short", "draining"])
def test_nothing_is_fetched_where_it_does_not_pay(why_not: str) -> None:
    routed = Routed(policy("kv_aware", fetch=why_not != "off"), "a1", "a2")
    if why_not != "unmeasured":
        # Computing a block takes 1.6 ms, moving it over this link 13 ms.
        routed.measure(link=1e7 if why_not == "slow_link" else 10e9)
    routed.load("a1", queued_prefill_tokens=50_000, draining=why_not == "draining")
    blocks = 5 if why_not == "short" else 990
    selection = routed.select(blocks * BLOCK_SIZE + 1, cached={"a1": blocks})
    assert selection is not None
    assert (selection.decode, selection.fetch_from) == (routed.rows["a2"], None)


def test_holder_of_the_longest_prefix_asks_nobody() -> None:
    routed = Routed(policy("conductor"), "a1", "a2")
    routed.measure()
    selection = routed.select(16_000, cached={"a1": 990, "a2": 400})
    assert selection is not None
    assert (selection.decode, selection.fetch_from) == (routed.rows["a1"], None)


def test_prefill_worker_of_a_pair_fetches() -> None:
    routed = Routed(policy("kv_aware", disaggregation="always"), "p1", "p2", "d1")
    routed.measure()
    routed.load("p1", queued_prefill_tokens=60_000)
    selection = routed.select(16_000, cached={"p1": 990})
    assert selection is not None
    assert (selection.prefill, selection.fetch_from) == (routed.rows["p2"], routed.rows["p1"])


# --- latency ---


def test_latency_keeps_both_objectives_where_one_worker_can() -> None:
    routed = Routed(policy("latency", ttft_slo_s=1.0, tpot_slo_s=0.05), "a1", "a2", "a3")
    for running in (1, 8, 20, 40):
        for _ in range(8):
            routed.measure(step_s=0.005 + 0.002 * running, num_running=running)
    # 0.085 s between tokens; 2 s until the first; and 0.7 s and 0.045 s.
    routed.load("a1", num_running=40)
    routed.load("a2", num_running=1, queued_prefill_tokens=20_000)
    routed.load("a3", num_running=20, queued_prefill_tokens=7_000)
    assert picks(routed) == {"a3"}


# --- session affinity ---


def test_same_conversation_goes_to_the_same_worker() -> None:
    routed = Routed(policy("session_affinity"), *(f"a{i}" for i in range(10)))
    homes = {s: routed.pick(affinity=s) for s in map(str, range(200))}
    again = {s: routed.pick(affinity=s) for s in map(str, range(200))}
    assert homes == again
    assert set(Counter(homes.values()).values()) <= set(range(5, 45)), "spread over all"


def test_only_conversations_of_the_worker_that_left_move() -> None:
    routed = Routed(policy("session_affinity"), *(f"a{i}" for i in range(10)))
    homes = {s: routed.pick(affinity=s) for s in map(str, range(200))}
    routed.pool.remove(routed.rows["a3"])
    moved = [s for s, home in homes.items() if routed.pick(affinity=s) != home]
    assert moved == [s for s, home in homes.items() if home == "a3"]


def test_popular_conversation_does_not_overload_its_worker() -> None:
    routed = Routed(
        policy("session_affinity", affinity_load_bound=1.25), *(f"a{i}" for i in range(8))
    )
    for name in routed.rows:
        routed.load(name, queue_room=1000)
    placed = Counter(routed.place(affinity="everybody")[0] for _ in range(800))
    assert max(placed.values()) <= 1.25 * 100 + 1


def test_request_without_a_session_goes_to_the_least_loaded() -> None:
    routed = Routed(policy("session_affinity"), "a1", "a2")
    routed.load("a1", num_running=5)
    assert picks(routed) == {"a2"}


# --- those that do not look ---


def test_random_spreads_and_looks_at_nothing() -> None:
    routed = Routed(policy("random"), "a1", "a2", "a3")
    routed.load("a1", num_running=60, queued_prefill_tokens=9000)
    counts = Counter(routed.pick() for _ in range(600))
    assert min(counts.values()) > 140


def test_power_of_two_takes_the_better_of_those_drawn() -> None:
    routed = Routed(policy("power_of_two"), "a1", "a2", "a3", "a4")
    for i, name in enumerate(routed.rows):
        routed.load(name, num_running=10 * i)
    counts = Counter(routed.pick() for _ in range(1200))
    # Of the six pairs, a1 is better in three, a2 in two, a3 in one.
    assert "a4" not in counts
    shares = [counts[name] / 1200 for name in ("a1", "a2", "a3")]
    assert shares == pytest.approx([3 / 6, 2 / 6, 1 / 6], abs=0.05)


# --- all of them ---


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_terms_add_up_to_the_scores(name: str, data: st.DataObject) -> None:
    workers = [f"{role}{i}" for i, role in enumerate("aaapppdd")]
    routed = Routed(policy(name), *workers)
    number = st.integers(0, 500)
    routed.measure(num_running=1)
    for worker in workers:
        routed.load(
            worker,
            num_running=data.draw(number),
            queued_prefill_tokens=data.draw(number),
            free_blocks=data.draw(st.integers(0, 10_000)),
            queue_room=data.draw(st.integers(0, 3)),
        )
    cached = {worker: data.draw(st.integers(0, 19)) for worker in workers}
    affinity = data.draw(st.sampled_from(["", "one"]))
    view = routed.view(cached=cached, affinity=affinity, expected_output=data.draw(number))
    columns, rows = routed.pool.columns, np.arange(len(workers))
    terms = routed.policy.terms(view, columns, rows)
    totals = {
        "prefill_": routed.policy.prefill_scores(view, columns, rows),
        "decode_": routed.policy.decode_scores(view, columns, rows),
        "transfer_": routed.policy.transfer_scores(view, columns, rows),
    }
    assert all(key.startswith(tuple(totals)) for key in terms)
    for stage, scores in totals.items():
        parts = [term for key, term in terms.items() if key.startswith(stage)]
        np.testing.assert_allclose(sum(parts, np.zeros(len(rows))), scores, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_slices_and_row_numbers_score_alike_and_change_nothing(name: str) -> None:
    routed = Routed(policy(name), *(f"a{i}" for i in range(6)))
    routed.measure(num_running=3)
    for i, worker in enumerate(routed.rows):
        routed.load(worker, queued_prefill_tokens=100 * i, num_running=i)
    view = routed.view(cached={"a1": 5, "a2_host": 7}, affinity="one")
    columns = routed.pool.columns
    before = columns.snapshot(np.arange(len(columns)))
    for score in (routed.policy.prefill_scores, routed.policy.decode_scores):
        by_slice = score(view, columns, slice(1, 5))
        np.testing.assert_array_equal(by_slice, score(view, columns, np.arange(1, 5)))
        assert by_slice.shape == (4,)
    for block, old in zip(columns.snapshot(np.arange(len(columns))), before, strict=True):
        np.testing.assert_array_equal(block, old)


def test_prompts_that_nobody_has_go_where_there_is_room_in_the_cache() -> None:
    """Also when one worker seems to be a little faster."""
    routed = Routed(policy("kv_aware"), "a1", "a2")
    for _ in range(50):
        routed.measure("a1", tokens_per_s=10_800)
        routed.measure("a2", tokens_per_s=10_000)
    assert picks(routed, num_tokens=3200) == {"a1"}
    routed.load("a1", cached_blocks=3000)
    assert picks(routed, num_tokens=3200) == {"a2"}
