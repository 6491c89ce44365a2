"""Any order of requests, aborts, steps and copies that end, fail or hang, on one engine with tiers.

The model is brute force: what the KV of every block hash must be is known from the tokens, and
after every operation each block that can be found, on any tier, must hold just that. Budgets hold,
nothing leaks, and whoever waits gets on: at the end all have the tokens of an engine of their own.
"""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from baton.core.block_hash import extend_hashes, root_hash
from baton.core.handoff import Key, ReservedGroup
from baton.core.request import Request
from baton.engine.mock import NUM_LAYERS, kv_of
from fakes.engines import alone, prompt, request
from fakes.lower_tiers import TieredDriver

BLOCK = 4
NUM_BLOCKS = 13
HOST, DISK = 7, 12
PROMPTS = [(9, 1), (17, 2), (24, 3), (30, 4), (33, 5)]
REQUESTS = [
    request(prompt(length, seed), max_tokens=2 + length % 5, seed=length, temperature=seed % 2)
    for length, seed in PROMPTS
]
# Continued, cut short, and in several choices: they share prefixes.
REQUESTS.append(request([*REQUESTS[1].prompt, *prompt(12, seed=6)], max_tokens=4))
REQUESTS.append(request(REQUESTS[3].prompt[:18], max_tokens=6))
REQUESTS.append(request(REQUESTS[2].prompt, n=2, max_tokens=3, seed=8, temperature=1.0))
EXPECTED = alone(REQUESTS)


def kv_by_hash() -> dict[bytes, bytes]:
    """What the block of each hash must hold."""
    known: dict[bytes, bytes] = {}
    for wanted, answers in zip(REQUESTS, EXPECTED, strict=True):
        for tokens in answers.values():
            known |= blocks_of(wanted, [*wanted.prompt, *tokens])
    return known


def blocks_of(wanted: Request, tokens: list[int]) -> dict[bytes, bytes]:
    hashes = extend_hashes(root_hash("digest", wanted.tenant_salt), tokens, BLOCK)
    sums = kv_of(tokens)
    layers = [
        sums[i * BLOCK : (i + 1) * BLOCK].view(np.uint16).reshape(-1, NUM_LAYERS).T
        for i in range(len(hashes))
    ]
    return {h: np.ascontiguousarray(kv).tobytes() for h, kv in zip(hashes, layers, strict=True)}


KV = kv_by_hash()
indices = st.integers(0, len(REQUESTS) - 1)
picks = st.integers(0, 1_000_000)


class TieringMachine(RuleBasedStateMachine):
    @initialize(disk=st.sampled_from([0, DISK]), host=st.sampled_from([3, HOST]))
    def start(self, disk: int, host: int) -> None:
        self.driver = TieredDriver(
            block_size=BLOCK,
            kv_blocks=NUM_BLOCKS,
            max_batch_tokens=12,
            max_sequences=5,
            host=host,
            disk=disk,
            staging=bool(disk) and host == 3,
            tiers={"max_copies": 2, "promote_wait_s": 0.2},
        )
        self.num_keys = 0
        self.index: dict[Key, int] = {}
        self.running: set[Key] = set()
        self.sources: set[Key] = set()
        self.reserved: dict[Key, ReservedGroup] = {}
        self.aborted: set[Key] = set()

    def new_key(self, index: int) -> Key:
        self.num_keys += 1
        key = ("s", self.num_keys)
        self.index[key] = index
        return key

    @rule(index=indices)
    def add(self, index: int) -> None:
        key = self.new_key(index)
        self.driver.add(key, REQUESTS[index])
        self.running.add(key)

    @rule(index=indices)
    def add_source(self, index: int) -> None:
        key = self.new_key(index)
        self.driver.add(key, REQUESTS[index], handoff=True)
        self.driver.engine.grant(key)
        self.sources.add(key)

    @precondition(lambda self: self.driver.engine.has_work)
    @rule(times=st.integers(1, 6))
    def step(self, times: int) -> None:
        for _ in range(times):
            self.driver.step()

    @precondition(lambda self: self.driver.tiers.jobs)
    @rule(pick=picks, fails=st.integers(0, 5))
    def finish_a_copy(self, pick: int, fails: int) -> None:
        self.driver.tiers.finish(pick % len(self.driver.tiers.jobs), fails=fails == 0)

    @precondition(lambda self: self.driver.tiers.jobs)
    @rule()
    def finish_all_copies(self) -> None:
        self.driver.tiers.finish_all()

    @rule()
    def settle(self) -> None:
        self.driver.settle()

    @precondition(lambda self: not self.driver.engine.has_work)
    @rule(seconds=st.sampled_from([0.05, 0.3, 40.0]))
    def pass_time(self, seconds: float) -> None:
        self.driver.clock.advance(seconds)

    @precondition(lambda self: self.running)
    @rule(pick=picks)
    def abort(self, pick: int) -> None:
        key = choose(self.running, pick)
        self.driver.engine.abort(key)
        self.running.remove(key)
        self.aborted.add(key)

    @precondition(lambda self: self.sources)
    @rule(pick=picks)
    def release(self, pick: int) -> None:
        key = choose(self.sources, pick)
        self.driver.engine.release(key)
        self.driver.engine.abort(key)
        self.sources.remove(key)

    @rule(index=indices)
    def reserve(self, index: int) -> None:
        key = self.new_key(index)
        answer = self.driver.reserve(key, REQUESTS[index])
        if answer is not None:
            (self.reserved[key],) = answer

    @precondition(lambda self: self.reserved)
    @rule(pick=picks, adopts=st.booleans())
    def end_reservation(self, pick: int, adopts: bool) -> None:
        key = choose(self.reserved, pick)
        group = self.reserved.pop(key)
        if not adopts:
            self.driver.engine.unreserve(key, quarantine=False)
            return
        self.driver.write(REQUESTS[self.index[key]], (group,))
        expected = EXPECTED[self.index[key]]
        for choice, tokens in expected.items():
            self.driver.tokens[(key, choice)] = tokens[:1]
        self.driver.engine.adopt(key, {c: (tokens[0],) for c, tokens in expected.items()})
        self.running.add(key)

    @invariant()
    def every_block_that_can_be_found_holds_its_own_bytes(self) -> None:
        driver = self.driver
        (pool,) = driver.engine._blocks.pools
        arena = driver.runner.arenas()[0].view
        for block, block_hash in pool.cache.blocks().items():
            assert arena[block].tobytes() == KV[block_hash]
        (host,), (disk,) = driver.tiering._host, driver.tiering._disk
        for block_hash, entry in host._entries.items():
            if host.ready(block_hash):
                assert driver.tiers.slots[0][entry.slot].tobytes() == KV[block_hash]
        for block_hash in disk._entries:
            if disk.ready(block_hash):
                assert driver.tiers.records[0][block_hash].tobytes() == KV[block_hash]

    @invariant()
    def all_is_accounted_for(self) -> None:
        self.driver.engine.check_integrity()
        for load in self.driver.engine.load().tiers:
            assert load.used_bytes <= load.capacity_bytes
        for reserved in self.reserved.values():
            new = [b for i, b in enumerate(reserved.block_ids) if i not in reserved.skip]
            # A peer may write into these at any time.
            self.driver.runner.arenas()[0].view[new] = 0xAB

    def teardown(self) -> None:
        if not hasattr(self, "driver"):
            return
        for key in self.sources:
            self.driver.engine.release(key)
        for key in self.reserved:
            self.driver.engine.unreserve(key, quarantine=False)
        self.reserved.clear()
        self.driver.settle()
        self.driver.assert_all_free()
        assert not self.driver.tiering.promotions.waiting()
        for key in self.running:
            assert key not in self.driver.errors
            assert self.driver.answers(key) == EXPECTED[self.index[key]]


def choose(keys: object, pick: int) -> Key:
    ordered = sorted(keys)  # type: ignore[call-overload]
    chosen: Key = ordered[pick % len(ordered)]
    return chosen


TieringMachine.TestCase.settings = settings(
    derandomize=True, deadline=None, max_examples=200, stateful_step_count=60
)
TestTiering = TieringMachine.TestCase
