"""The record of a decision says what was known then, whatever has changed since."""

from __future__ import annotations

import json

import pytest

from baton.core.settings import RouterSettings
from baton.router.choice import MAX_CANDIDATES
from baton.router.policy.registry import policy_named
from fakes.routing import BLOCK_SIZE, Routed


def routed(*names: str, policy: str = "kv_aware", disaggregation: str = "always") -> Routed:
    settings = RouterSettings(disaggregation=disaggregation)
    return Routed(policy_named(policy, settings), *names)


def test_pair_with_candidates_of_both_stages() -> None:
    one = routed("p1", "p2", "d1")
    one.measure(tokens_per_s=10_000, link=1e9)
    one.load("p2", queued_prefill_tokens=5000)
    document = one.choice(1600, cached={"p1": 40}).to_json()
    assert (document["prefill"], document["decode"], document["fetch_from"]) == ("p1", "d1", None)
    assert document["policy"] == "kv_aware"
    assert document["num_candidates"] == {"prefill": 2, "decode": 1}
    assert document["predicted"]["cached_tokens"] == 40 * BLOCK_SIZE
    assert document["predicted"]["ttft_s"] == pytest.approx(0.096, rel=0.02)
    assert document["predicted"]["transfer_s"] > 0
    by_worker = {candidate["worker"]: candidate for candidate in document["candidates"]}
    assert [c["worker"] for c in document["candidates"]] == ["p1", "p2", "d1"]
    assert {w: c["chosen"] for w, c in by_worker.items()} == {"p1": True, "p2": False, "d1": True}
    assert by_worker["p2"]["terms"]["prefill_queue_s"] == pytest.approx(0.25, rel=0.02)
    assert by_worker["p1"]["terms"]["prefill_cached_s"] < 0
    assert set(by_worker["d1"]["terms"]) == {
        "decode_step_s",
        "decode_occupancy_s",
        "transfer_s",
    }
    for candidate in document["candidates"]:
        assert candidate["score"] == pytest.approx(sum(candidate["terms"].values()), abs=1e-5)
    json.dumps(document)


def test_record_is_of_the_moment_of_the_choice() -> None:
    one = routed("a1", "a2")
    one.measure()
    choice = one.choice(1600, cached={"a1": 40})
    before = json.dumps(choice.to_json())
    one.measure(tokens_per_s=10, queued_prefill_tokens=10**6, num_running=60)
    one.pool.remove(one.rows["a1"])
    assert json.dumps(choice.to_json()) == before


def test_fetched_blocks_count_as_cached() -> None:
    one = routed("a1", "a2")
    one.measure(tokens_per_s=10_000, link=10e9)
    one.load("a1", queued_prefill_tokens=50_000)
    document = one.choice(16_000, cached={"a1": 990}).to_json()
    assert (document["decode"], document["fetch_from"]) == ("a2", "a1")
    predicted = document["predicted"]
    assert predicted["cached_tokens"] == 990 * BLOCK_SIZE
    assert predicted["ttft_s"] == pytest.approx(0.016 + 990 * 128 * 2**10 / 10e9, rel=0.1)


def test_worker_that_computes_in_place_of_a_pair_is_the_chosen_one() -> None:
    one = routed("p1", "d1", "d2", disaggregation="auto")
    one.measure()
    one.load("d1", num_running=1)
    document = one.choice(1600, cached={"d1": 99}).to_json()
    assert (document["prefill"], document["decode"]) == (None, "d1")
    assert document["alone_s"] < document["pair_s"]
    assert document["reason"].startswith("d1 computes the prompt itself")
    assert [c["worker"] for c in document["candidates"] if c["chosen"]] == ["d1"]
    assert document["predicted"]["cached_tokens"] == 99 * BLOCK_SIZE


def test_few_of_many_candidates_are_kept_with_the_chosen_one() -> None:
    names = [f"a{i}" for i in range(50)]
    settings = RouterSettings(temperature=1e9)
    one = Routed(policy_named("kv_aware", settings), *names)
    one.measure()
    for i, name in enumerate(names):
        one.load(name, queued_prefill_tokens=100 * i)
    for _ in range(20):
        document = one.choice().to_json()
        assert len(document["candidates"]) == MAX_CANDIDATES
        assert document["num_candidates"] == {"alone": 50}
        chosen = [c["worker"] for c in document["candidates"] if c["chosen"]]
        assert chosen == [document["decode"]]
        scores = [c["score"] for c in document["candidates"]]
        assert scores == sorted(scores)


def test_worker_without_room_has_no_score() -> None:
    one = routed("a1", "a2")
    one.load("a2", queue_room=0)
    document = one.choice().to_json()
    assert {c["worker"]: c["score"] is None for c in document["candidates"]} == {
        "a1": False,
        "a2": True,
    }
    json.dumps(document)


def test_times_are_unknown_while_nothing_is_measured() -> None:
    predicted = routed("a1").choice(320).to_json()["predicted"]
    assert predicted == {"cached_tokens": 0, "ttft_s": None, "tpot_s": None, "transfer_s": None}


def test_replay_gives_its_reason() -> None:
    assert "again" in routed("p1", "d1").choice(alone=True).to_json()["reason"]


@pytest.mark.parametrize("policy", ["round_robin", "power_of_two", "session_affinity", "conductor"])
def test_every_policy_can_say_why(policy: str) -> None:
    one = routed("a1", "a2", "a3", policy=policy)
    document = one.choice(affinity="x").to_json()
    (chosen,) = [c for c in document["candidates"] if c["chosen"]]
    assert chosen["worker"] == document["decode"]
    assert chosen["terms"]
