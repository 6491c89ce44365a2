"""Pinned conversations: what stays cached, for how long, and who gives way to whom."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from baton.core.block_hash import extend_hashes, root_hash
from baton.core.kv import GroupSpec
from baton.core.request import Request
from baton.engine.block_manager import BlockManager
from baton.engine.pins import Pins
from fakes.engines import Driver, alone, mixed_requests, prompt, request
from fakes.lower_tiers import TieredDriver

BLOCK = 4
TTL_S = 60.0


def pinned(length: int, seed: int, *, ttl_s: float = TTL_S, **params: Any) -> Request:
    return replace(request(prompt(length, seed), **params), cache_ttl_s=ttl_s)


def plain(length: int, seed: int, **params: Any) -> Request:
    return request(prompt(length, seed), **params)


def finish(driver: Driver, name: int, wanted: Request) -> list[int]:
    key = ("s", name)
    driver.add(key, wanted)
    for _ in range(1000):
        if key in driver.finished or all((key, c) in driver.finished for c in wanted.outputs):
            break
        driver.step()
        driver.engine.check_integrity()
    return driver.answers(key)[0]


def next_turn(wanted: Request, answer: list[int]) -> Request:
    return replace(wanted, prompt=(*wanted.prompt, *answer, 7), cache_ttl_s=0.0)


def cached_of_next_turn(driver: Driver, name: int, wanted: Request, answer: list[int]) -> int:
    finish(driver, name, next_turn(wanted, answer))
    return driver.cached_tokens[("s", name)]


def flood(driver: Driver, first_name: int, count: int, **params: Any) -> None:
    """Other people's prompts, which between them fill the pool several times."""
    for i in range(count):
        finish(driver, first_name + i, plain(30, 1000 + first_name + i, **params))


def test_pinned_conversation_survives_what_evicts_others() -> None:
    driver = Driver(kv_blocks=32, max_pinned_share=0.5)
    kept, lost = pinned(21, 1, max_tokens=9), plain(21, 2, max_tokens=9)
    answers = [finish(driver, 1, kept), finish(driver, 2, lost)]
    flood(driver, 10, 8)
    # Prompt and output; the last token was never computed, and its block is not full.
    assert cached_of_next_turn(driver, 3, kept, answers[0]) == 28
    assert cached_of_next_turn(driver, 4, lost, answers[1]) == 0


def test_pin_ends_with_its_time() -> None:
    driver = Driver(kv_blocks=32)
    wanted = pinned(21, 1)
    answer = finish(driver, 1, wanted)
    assert driver.engine.load().pinned_blocks == 7
    due = driver.engine.next_deadline()
    assert due is not None
    driver.clock.advance(due - driver.clock())
    assert driver.engine.has_work
    driver.run()
    assert driver.engine.load().pinned_blocks == 0 and driver.engine.next_deadline() is None
    flood(driver, 10, 8)
    assert cached_of_next_turn(driver, 2, wanted, answer) == 0


def test_next_turn_prolongs_the_pin_of_the_last() -> None:
    driver = Driver(kv_blocks=64)
    first = pinned(21, 1)
    answer = finish(driver, 1, first)
    driver.clock.advance(TTL_S * 0.7)
    second = replace(next_turn(first, answer), cache_ttl_s=TTL_S)
    finish(driver, 2, second)
    pinned_then = driver.engine.load().pinned_blocks
    driver.clock.advance(TTL_S * 0.7)
    driver.run()
    assert driver.engine.load().pinned_blocks == pinned_then == len(second.prompt) // BLOCK + 2


def test_shorter_pin_does_not_end_a_longer_one() -> None:
    driver = Driver()
    finish(driver, 1, pinned(21, 1, ttl_s=100.0, max_tokens=2))
    finish(driver, 2, pinned(21, 1, ttl_s=1.0, max_tokens=2))
    driver.clock.advance(50.0)
    driver.run()
    assert driver.engine.load().pinned_blocks == 5


def test_oldest_pin_gives_way_at_the_bound_tail_first() -> None:
    driver = Driver(kv_blocks=32, max_pinned_share=0.25)
    wanted = [pinned(21, seed, max_tokens=2) for seed in (1, 2)]
    answers = [finish(driver, i, one) for i, one in enumerate(wanted)]
    # 5 blocks each, 8 in all.
    assert driver.engine.load().pinned_blocks == 8
    flood(driver, 10, 8)
    assert cached_of_next_turn(driver, 20, wanted[1], answers[1]) == 20
    flood(driver, 30, 8)
    assert cached_of_next_turn(driver, 40, wanted[0], answers[0]) == 12


def test_pins_give_way_before_anybody_is_preempted_or_refused() -> None:
    """With every block pinned the engine still does what it does with an empty pool."""
    steps = {}
    for share in (0.0, 1.0):
        driver = Driver(kv_blocks=24, max_pinned_share=share)
        finish(driver, 1, pinned(70, 1, max_tokens=20))
        assert driver.engine.load().free_blocks == 24
        assert driver.engine.load().pinned_blocks == (22 if share else 0)
        before = driver.num_steps
        for i in range(4):
            driver.add(("t", i), plain(20, 100 + i, max_tokens=4))
        driver.run()
        assert not driver.errors
        steps[share] = driver.num_steps - before
    # One more: nothing waits for a pin, it only sees when they end.
    assert steps[1.0] <= steps[0.0] + 1


def test_source_pins_its_prompt_once_its_target_has_it() -> None:
    driver = Driver(kv_blocks=32)
    wanted = pinned(21, 1)
    driver.add(("s", 1), wanted, handoff=True)
    driver.run()
    assert driver.engine.load().pinned_blocks == 0
    driver.engine.grant(("s", 1))
    driver.engine.release(("s", 1))
    driver.engine.check_integrity()
    assert driver.engine.load().pinned_blocks == 5
    assert driver.engine.load().free_blocks == 32


def test_every_choice_is_pinned_and_what_they_share_counts_once() -> None:
    driver = Driver(kv_blocks=64)
    finish(driver, 1, pinned(16, 1, n=3, max_tokens=9, temperature=1.0))
    assert driver.engine.load().pinned_blocks == 4 + 3 * 2


def test_cancelled_conversation_is_pinned_as_far_as_it_came() -> None:
    """A gateway ends an answer at a stop string by cancelling the rest."""
    driver = Driver(kv_blocks=64)
    driver.add(("s", 1), pinned(21, 1, max_tokens=50))
    for _ in range(5):
        driver.step()
    driver.engine.abort(("s", 1))
    driver.engine.check_integrity()
    assert driver.engine.load().pinned_blocks == 6


def test_pinned_block_that_must_go_is_demoted_and_pinned_again_when_promoted() -> None:
    driver = TieredDriver(kv_blocks=24, host=64, max_pinned_share=1.0)
    wanted = pinned(41, 1, ttl_s=1e6)
    answer = finish(driver, 1, wanted)
    while driver.tiers.jobs:
        driver.tiers.finish_all()
        driver.step()
    # Larger than what is not pinned.
    finish(driver, 2, plain(80, 2))
    left = driver.engine.load().cached_blocks
    assert left and driver.load_of("host").drops == 0
    driver.add(("s", 3), next_turn(wanted, answer))
    while (("s", 3), 0) not in driver.finished:
        driver.step()
        driver.tiers.finish_all()
        driver.engine.check_integrity()
    assert driver.cached_tokens[("s", 3)] == 48
    for name in range(10, 16):
        finish(driver, name, plain(9, name, max_tokens=2))
        driver.tiers.finish_all()
    assert cached_of_next_turn(driver, 4, wanted, answer) == 48


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_tokens_are_those_of_an_engine_without_pins(share: float) -> None:
    requests = [replace(wanted, cache_ttl_s=1.0) for wanted in mixed_requests()]
    expected = alone(requests)
    driver = Driver(kv_blocks=26, max_pinned_share=share, max_sequences=8)
    for turn in range(2):
        for i, wanted in enumerate(requests):
            driver.add((f"turn {turn}", i), wanted)
        driver.run()
        assert [driver.answers((f"turn {turn}", i)) for i in range(len(requests))] == expected
    driver.assert_all_free()


def chain(seed: int, length: int) -> list[bytes]:
    return extend_hashes(root_hash("pins", str(seed // 2)), prompt(40, seed)[: length * BLOCK], 4)


CHAINS = [chain(seed, 10) for seed in range(4)]
CHAINS[1] = [*CHAINS[0][:5], *CHAINS[1][5:]]
NUM_BLOCKS = 16
chains = st.integers(0, len(CHAINS) - 1)


class PinsMachine(RuleBasedStateMachine):
    """Sequences that come, end with a pin or without, and time, on one pool."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = BlockManager([GroupSpec("full", 1, 1, 8, 8, BLOCK, "float16")], [NUM_BLOCKS])
        (self.pool,) = self.blocks.pools
        self.pins = Pins(self.blocks, 0.5)
        self.now = 0.0
        self.running: dict[int, tuple[list[bytes], list[int]]] = {}
        self.until: dict[bytes, float] = {}
        self.names = 0

    @rule(which=chains, length=st.integers(1, 10))
    def begin(self, which: int, length: int) -> None:
        hashes = CHAINS[which][:length]
        found = self.pool.cached(hashes)
        num_new = length - len(found)
        if num_new > self.pool.num_free - self.pool.num_idle(found):
            return
        for block in found:
            self.pool.share(block)
        table = list(found)
        for block_hash in hashes[len(found) :]:
            table.append(self.allocate())
            self.pool.cache.add(block_hash, table[-1])
        self.names += 1
        self.running[self.names] = (hashes, table)

    def allocate(self) -> int:
        """Whoever goes, no pinned block does while another is there."""
        cache = self.pool.cache
        idle = {cache.hash_of(block) for block in cache.idle_blocks()}
        kept = {h for h in idle if self.until.get(h, 0.0) > self.now}
        spare = self.pool.num_unused + len(idle - kept)
        block = self.pool.allocate()
        gone = {h for h in kept if cache.get(h) is None}
        assert not (gone and spare), "a pinned block went before one that was not"
        return block

    @precondition(lambda self: self.running)
    @rule(pick=st.integers(0, 1000), ttl=st.sampled_from([0.0, 1.0, 3.0, 10.0]))
    def end(self, pick: int, ttl: float) -> None:
        name = sorted(self.running)[pick % len(self.running)]
        hashes, table = self.running.pop(name)
        if ttl:
            self.pins.pin(0, hashes, self.now + ttl)
            for block_hash in reversed(hashes):
                end = max(self.now + ttl, self.until.pop(block_hash, 0.0))
                self.until[block_hash] = end
            while len(self.until) > NUM_BLOCKS // 2:
                del self.until[next(iter(self.until))]
        self.pool.free_all(table)

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.pins.expire(self.now)
        self.until = {h: end for h, end in self.until.items() if end > self.now}

    @invariant()
    def what_is_pinned_is_known(self) -> None:
        self.pins.check()
        assert self.pins.num_kept(0) == len(self.until) <= NUM_BLOCKS // 2
        expiry = self.pins.next_expiry()
        assert not self.until or (expiry is not None and expiry <= min(self.until.values()))

    @invariant()
    def no_block_is_lost(self) -> None:
        owned = [block for _, table in self.running.values() for block in table]
        assert self.pool.num_free == NUM_BLOCKS - len(set(owned))


PinsMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestPins = PinsMachine.TestCase
