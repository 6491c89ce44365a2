"""Any order of requests, aborts, steps and handoffs, plain, source and target on one engine.

Much of it also happens in the midst of steps, when parts of a source's blocks are announced, which
must be in memory by then. After every operation all blocks are accounted for, and the mock runner
has found in them what it must; at the end all are free. Tokens of what was not aborted are those of
an engine of its own.
"""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from baton.core.errors import OverloadedError
from baton.core.handoff import BlocksReady, Key, ReservedGroup
from baton.engine.mock import NUM_LAYERS, kv_of
from baton.engine.outputs import StepOutput
from fakes.engines import Driver, alone, by_layer, layers_of, prompt, request

BLOCK = 4
NUM_BLOCKS = 14
REQUESTS = [
    request(prompt(length, seed), n=n, max_tokens=max_tokens, seed=length, temperature=heat)
    for length, seed, n, max_tokens, heat in [
        (1, 0, 1, 6, 1.0),
        (4, 1, 1, 1, 0.0),
        (7, 1, 3, 9, 1.0),
        (8, 2, 1, 12, 1.0),
        (13, 2, 3, 2, 1.0),
        (21, 3, 1, 5, 0.0),
        (30, 3, 1, 10, 1.0),
    ]
]
# Two that share a prefix with another.
REQUESTS.append(request(REQUESTS[5].prompt[:18], max_tokens=3))
REQUESTS.append(request(REQUESTS[6].prompt, n=2, max_tokens=7, seed=5))
EXPECTED = alone(REQUESTS)
# Fits as a prompt, but its output outgrows the pool.
TOO_LARGE = len(REQUESTS)
REQUESTS.append(request(prompt(50), max_tokens=20))
EXPECTED += alone(REQUESTS[TOO_LARGE:])

indices = st.integers(0, len(REQUESTS) - 1)
picks = st.integers(0, 1_000_000)
# Rules that may run in the midst of a step, and what each needs some of.
MEANWHILE = {
    "abort": "plain",
    "abort_source": "sources",
    "grant": "ungranted",
    "reserve": "index",
    "release": "sources",
    "adopt": "reserved",
    "lift_quarantine": "quarantined",
}


class EngineMachine(RuleBasedStateMachine):
    queue_policy = "fcfs"

    def __init__(self) -> None:
        super().__init__()
        self.driver = Driver(
            layer_groups=3,
            block_size=BLOCK,
            kv_blocks=NUM_BLOCKS,
            max_batch_tokens=9,
            max_sequences=6,
            queue_policy=self.queue_policy,
        )
        self.num_keys = 0
        self.index: dict[Key, int] = {}
        self.plain: set[Key] = set()
        # Sources, with the blocks announced so far, and those offered and not yet granted.
        self.sources: dict[Key, list[int]] = {}
        self.ungranted: set[Key] = set()
        self.aborted: set[Key] = set()
        self.reserved: dict[Key, ReservedGroup] = {}
        self.quarantined: dict[Key, list[int]] = {}
        self.generations = [0] * NUM_BLOCKS

    @property
    def arena(self) -> np.ndarray:
        view: np.ndarray = self.driver.runner.arenas()[0].view
        return view

    def new_key(self, index: int) -> Key:
        self.num_keys += 1
        key = ("s", self.num_keys)
        self.index[key] = index
        return key

    @rule(index=indices)
    def add(self, index: int) -> None:
        key = self.new_key(index)
        self.driver.add(key, REQUESTS[index])
        self.plain.add(key)

    @rule(index=indices)
    def add_source(self, index: int) -> None:
        key = self.new_key(index)
        self.driver.add(key, REQUESTS[index], handoff=True)
        self.sources[key] = []

    @precondition(lambda self: self.driver.engine.has_work)
    @rule(
        times=st.integers(1, 4),
        meanwhile=st.lists(st.tuples(st.sampled_from(sorted(MEANWHILE)), picks), max_size=4),
    )
    def step(self, times: int, meanwhile: list[tuple[str, int]]) -> None:
        def tell(output: StepOutput) -> None:
            for ready in output.ready:
                if ready.key in self.sources:
                    self.check_part(ready)
            for name, pick in [meanwhile.pop() for _ in meanwhile[:2]]:
                if getattr(self, MEANWHILE[name]):
                    getattr(self, name)(pick % len(REQUESTS) if name == "reserve" else pick)

        if meanwhile:
            # Only sources make a step speak.
            self.add_source(meanwhile[0][1] % len(REQUESTS))
        for _ in range(times):
            out = self.driver.step(tell)
            for due in out.offers:
                index = self.index[due.key]
                assert due == self.driver.offer_for(due.key, REQUESTS[index])
                self.ungranted.add(due.key)
            for ready in out.ready:
                if ready.key not in self.sources:
                    # Released in the midst of the step.
                    continue
                announced = self.sources[ready.key]
                assert ready.first_index == (len(announced),)
                self.check_part(ready)
                if ready.part == ready.num_parts - 1:
                    announced += ready.block_ids[0]
                if ready.done:
                    assert len(announced) * BLOCK >= len(REQUESTS[self.index[ready.key]].prompt)

    def check_part(self, ready: BlocksReady) -> None:
        """What was announced is in memory."""
        begin, end = (NUM_LAYERS * p // ready.num_parts for p in (ready.part, ready.part + 1))
        sums = kv_of(REQUESTS[self.index[ready.key]].prompt)
        for index, block in enumerate(ready.block_ids[0], ready.first_index[0]):
            wanted = by_layer(sums[index * BLOCK :][:BLOCK])
            found = layers_of(self.arena[block])[:, : wanted.shape[1]]
            assert np.array_equal(found[begin:end], wanted[begin:end])

    @precondition(lambda self: self.plain)
    @rule(pick=picks)
    def abort(self, pick: int) -> None:
        key = choose(self.plain, pick)
        self.driver.engine.abort(key)
        self.plain.remove(key)
        self.aborted.add(key)

    @precondition(lambda self: self.sources)
    @rule(pick=picks)
    def abort_source(self, pick: int) -> None:
        key = choose(self.sources, pick)
        self.driver.engine.abort(key)
        self.aborted.add(key)

    @precondition(lambda self: self.ungranted)
    @rule(pick=picks)
    def grant(self, pick: int) -> None:
        key = choose(self.ungranted, pick)
        self.driver.engine.grant(key)
        self.ungranted.remove(key)

    @precondition(lambda self: self.sources)
    @rule(pick=picks)
    def release(self, pick: int) -> None:
        key = choose(self.sources, pick)
        self.driver.engine.release(key)
        self.driver.engine.abort(key)
        self.aborted.add(key)
        del self.sources[key]
        self.ungranted.discard(key)

    @rule(index=indices)
    def reserve(self, index: int) -> None:
        key = self.new_key(index)
        answer = self.driver.reserve(key, REQUESTS[index])
        if answer is None:
            return
        (group,) = answer
        for i, (block, generation) in enumerate(
            zip(group.block_ids, group.generations, strict=True)
        ):
            if i not in group.skip:
                assert generation > self.generations[block], "a life of a block was seen twice"
                self.generations[block] = generation
        self.reserved[key] = group

    @precondition(lambda self: self.reserved)
    @rule(pick=picks)
    def adopt(self, pick: int) -> None:
        key = choose(self.reserved, pick)
        wanted = REQUESTS[self.index[key]]
        self.driver.write(wanted, (self.reserved.pop(key),))
        going_on = {}
        for choice, tokens in EXPECTED[self.index[key]].items():
            self.driver.tokens[(key, choice)] = tokens[:1]
            if wanted.sampling.max_tokens > 1:
                going_on[choice] = (tokens[0],)
        self.driver.engine.adopt(key, going_on)
        self.plain.add(key)

    @precondition(lambda self: self.reserved)
    @rule(pick=picks, quarantine=st.booleans())
    def unreserve(self, pick: int, quarantine: bool) -> None:
        key = choose(self.reserved, pick)
        group = self.reserved.pop(key)
        self.driver.engine.unreserve(key, quarantine=quarantine)
        if quarantine:
            new = [b for i, b in enumerate(group.block_ids) if i not in group.skip]
            self.quarantined[key] = new

    @precondition(lambda self: self.quarantined)
    @rule(pick=picks)
    def lift_quarantine(self, pick: int) -> None:
        key = choose(self.quarantined, pick)
        self.driver.engine.lift_quarantine(key)
        del self.quarantined[key]

    @rule()
    def write_late(self) -> None:
        """Peers may write into granted blocks at any time: nobody else's KV may be there."""
        for group in self.reserved.values():
            new = [b for i, b in enumerate(group.block_ids) if i not in group.skip]
            self.arena[new] = 0xAB
        for blocks in self.quarantined.values():
            self.arena[blocks] = 0xCD

    @invariant()
    def all_is_accounted_for(self) -> None:
        self.driver.engine.check_integrity()
        load = self.driver.engine.load()
        assert load.quarantined_blocks == sum(map(len, self.quarantined.values()))

    @invariant()
    def announced_blocks_stay_as_they_are(self) -> None:
        for key, blocks in self.sources.items():
            sums = kv_of(REQUESTS[self.index[key]].prompt)
            for index, block in enumerate(blocks):
                wanted = by_layer(sums[index * BLOCK :][:BLOCK])
                found = layers_of(self.arena[block])
                assert np.array_equal(found[:, : wanted.shape[1]], wanted)

    def teardown(self) -> None:
        for key in list(self.sources):
            self.driver.engine.release(key)
            self.driver.engine.grant(key)
        for key in list(self.reserved):
            self.driver.engine.unreserve(key, quarantine=False)
        for key in list(self.quarantined):
            self.driver.engine.lift_quarantine(key)
        self.sources.clear()
        self.driver.run()
        self.driver.assert_all_free()
        for key in self.plain:
            index = self.index[key]
            if index == TOO_LARGE:
                assert isinstance(self.driver.errors[key], OverloadedError)
            else:
                assert key not in self.driver.errors
                assert self.driver.answers(key) == EXPECTED[index]


def choose(keys: object, pick: int) -> Key:
    ordered = sorted(keys)  # type: ignore[call-overload]
    chosen: Key = ordered[pick % len(ordered)]
    return chosen


class ShortestFirstMachine(EngineMachine):
    queue_policy = "shortest"


for machine in (EngineMachine, ShortestFirstMachine):
    machine.TestCase.settings = settings(
        derandomize=True, deadline=None, max_examples=60, stateful_step_count=50
    )
TestEngine = EngineMachine.TestCase
TestShortestFirst = ShortestFirstMachine.TestCase
