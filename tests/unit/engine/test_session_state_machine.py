"""Pins, hints, lent and fetched blocks in any order, beside requests, on two small engines.

One lends to the other, which has a lower tier. Whatever happens, the mock runner finds in every
block what it must, tokens are those of an engine of its own, and no block is lost.
"""

from __future__ import annotations

from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from baton.core.handoff import Key, ReservedGroup
from fakes.engines import Driver, alone, prompt, request
from fakes.lower_tiers import TieredDriver

BLOCK = 4
NUM_BLOCKS = 16
PROMPTS = [(9, 1), (17, 2), (30, 3), (38, 4)]
REQUESTS = [request(prompt(length, seed), max_tokens=4, seed=seed) for length, seed in PROMPTS]
# A next turn, and a prompt's beginning under another salt.
REQUESTS.append(request([*REQUESTS[1].prompt, *prompt(14, seed=6)], max_tokens=3))
REQUESTS.append(replace(request(REQUESTS[2].prompt[:25], max_tokens=3), tenant_salt="b"))
EXPECTED = alone(REQUESTS)
OPTIONS = {
    "block_size": BLOCK,
    "kv_blocks": NUM_BLOCKS,
    "max_batch_tokens": 12,
    "max_sequences": 4,
    "max_pinned_share": 0.5,
}
indices = st.integers(0, len(REQUESTS) - 1)
picks = st.integers(0, 1_000_000)
ttls = st.sampled_from([0.0, 0.0, 1.0, 50.0])


class SessionMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.lender = Driver(**OPTIONS)
        self.borrower = TieredDriver(host=30, tiers={"max_copies": 2}, **OPTIONS)
        self.drivers: list[Driver] = [self.lender, self.borrower]
        self.index: dict[Key, int] = {}
        self.names = 0
        # Lent, and reserved: what was offered, and where it goes.
        self.lent: dict[Key, tuple[int, ...]] = {}
        self.reserved: dict[Key, ReservedGroup] = {}
        self.apart: list[Key] = []

    @initialize(cached=st.permutations(range(len(REQUESTS))), lent=indices)
    def fill_caches(self, cached: list[int], lent: int) -> None:
        self.answer_at_once(lent, 0, 0.0)
        for index in cached[:4]:
            self.answer_at_once(index, 1, 0.0)

    def new_key(self, session: str = "s") -> Key:
        self.names += 1
        return (session, self.names)

    @rule(index=indices, on=st.integers(0, 1), ttl_s=ttls)
    def add(self, index: int, on: int, ttl_s: float) -> None:
        key = self.new_key()
        self.index[key] = index
        self.drivers[on].add(key, replace(REQUESTS[index], cache_ttl_s=ttl_s))

    @rule(on=st.integers(0, 1), times=st.integers(1, 8))
    def step(self, on: int, times: int) -> None:
        for _ in range(times):
            if self.drivers[on].engine.has_work:
                self.drivers[on].step()

    @rule(on=st.integers(0, 1))
    def run_until_idle(self, on: int) -> None:
        """So that something gets cached, and evicted."""
        self.drivers[on].run()
        for _ in range(20):
            self.borrower.tiers.finish_all()
            if not self.borrower.engine.has_work:
                break
            self.borrower.step()

    @rule(index=indices, on=st.integers(0, 1), ttl_s=ttls)
    def answer_at_once(self, index: int, on: int, ttl_s: float) -> None:
        self.add(index, on, ttl_s)
        self.run_until_idle(on)

    @rule(seconds=st.sampled_from([0.1, 1.0, 40.0]))
    def wait(self, seconds: float) -> None:
        for driver in self.drivers:
            driver.clock.advance(seconds)

    @precondition(lambda self: self.borrower.tiers.jobs)
    @rule(pick=picks, fails=st.integers(0, 5))
    def finish_a_copy(self, pick: int, fails: int) -> None:
        self.borrower.tiers.finish(pick % len(self.borrower.tiers.jobs), fails=fails == 0)

    @rule(index=indices, ttl_s=ttls)
    def hint(self, index: int, ttl_s: float) -> None:
        free = self.borrower.engine.load().free_blocks
        loads = len(self.borrower.tiers.jobs)
        self.borrower.engine.prefetch(replace(REQUESTS[index], cache_ttl_s=ttl_s))
        # It takes what is being copied, and keeps no more.
        taken = free - self.borrower.engine.load().free_blocks
        assert taken <= len(self.borrower.tiers.jobs) - loads

    @rule(index=indices, at_once=st.booleans())
    def fetch(self, index: int, at_once: bool) -> None:
        """The borrower asks for what it lacks, and is offered what the lender has of it."""
        (asked,) = self.borrower.engine.missing(REQUESTS[index])
        if not asked:
            return
        key = self.new_key("")
        lent = self.lender.engine.fetches.lend(key, 0, asked)
        if not lent:
            return
        assert sum(map(len, self.lent.values())) + len(lent) <= NUM_BLOCKS // 4
        offered = [tuple(asked[: len(lent)])]
        fetches = self.borrower.engine.fetches
        reserved = fetches.reserve(key, 0, asked, offered, [len(lent)])
        if reserved is None:
            self.lender.engine.fetches.release(key)
            return
        self.lent[key], self.reserved[key] = lent, reserved[0]
        if at_once:
            self.blocks_arrive(sorted(self.reserved).index(key))

    @precondition(lambda self: self.reserved)
    @rule(pick=picks)
    def blocks_arrive(self, pick: int) -> None:
        key = sorted(self.reserved)[pick % len(self.reserved)]
        group, lent = self.reserved.pop(key), self.lent.pop(key)
        (src,), (dst,) = (d.runner.arenas() for d in (self.lender, self.borrower))
        for index, block in enumerate(lent):
            if index not in group.skip:
                dst.view[group.block_ids[index]] = src.view[block]
        self.borrower.engine.fetches.adopt(key)
        self.lender.engine.fetches.release(key)

    @precondition(lambda self: self.reserved)
    @rule(pick=picks, quarantine=st.booleans())
    def fetch_fails(self, pick: int, quarantine: bool) -> None:
        key = sorted(self.reserved)[pick % len(self.reserved)]
        self.borrower.engine.unreserve(key, quarantine=quarantine)
        del self.reserved[key], self.lent[key]
        self.lender.engine.fetches.release(key)
        if quarantine:
            self.apart.append(key)

    @precondition(lambda self: self.apart)
    @rule()
    def quarantine_ends(self) -> None:
        self.borrower.engine.lift_quarantine(self.apart.pop())

    @invariant()
    def no_block_is_lost(self) -> None:
        for driver in self.drivers:
            driver.engine.check_integrity()
            assert driver.engine.load().pinned_blocks <= NUM_BLOCKS // 2

    def teardown(self) -> None:
        for key in list(self.reserved):
            self.borrower.engine.unreserve(key, quarantine=False)
            self.lender.engine.fetches.release(key)
        for key in self.apart:
            self.borrower.engine.lift_quarantine(key)
        self.lender.run()
        self.borrower.settle()
        for driver in self.drivers:
            assert not driver.errors
            for key, wanted in driver.requests.items():
                assert driver.answers(key) == EXPECTED[self.index[key]], wanted
            driver.assert_all_free()


SessionMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=50, deadline=None)
TestSessions = SessionMachine.TestCase
