"""Engines over the mock runner, driven by hand, and a stand-in for the transfer between two."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from baton.core.block_hash import extend_hashes, root_hash
from baton.core.errors import BatonError
from baton.core.handoff import Key, OfferDue, ReservedGroup
from baton.core.request import FinishReason, Request, SamplingParams
from baton.core.settings import EngineSettings
from baton.engine.announce import Tell
from baton.engine.engine import Engine
from baton.engine.mock import NUM_LAYERS, MockRunner, kv_of
from baton.engine.outputs import StepOutput, Tier
from fakes.clock import ManualClock

VOCAB = 512
FOREVER = 1e9


class Driver:
    """One engine with its runner; collects what its steps say and checks it on the way.

    Rows must come in order, without gaps, and none after a finish; replaying the cache's deltas
    must give the cache.
    """

    def __init__(
        self, *, max_ungranted_share: float = 0.25, layer_groups: int = 1, **settings: Any
    ) -> None:
        runner_args = {
            name: settings.pop(name)
            for name in ("block_sizes", "max_model_len", "eos_token_ids")
            if name in settings
        }
        self.settings = EngineSettings(
            **{
                "kind": "mock",
                "block_size": 4,
                "kv_blocks": 64,
                "max_batch_tokens": 64,
                "max_sequences": 16,
                **settings,
            }
        )
        self.clock = ManualClock()
        self.runner = MockRunner(
            self.settings, vocab_size=VOCAB, sleep=self.clock.advance, **runner_args
        )
        self.engine = Engine(
            self.settings,
            self.runner,
            "digest",
            self.clock,
            max_ungranted_share=max_ungranted_share,
            layer_groups=layer_groups,
        )
        self.requests: dict[Key, Request] = {}
        self.tokens: dict[tuple[Key, int], list[int]] = defaultdict(list)
        self.finished: dict[tuple[Key, int], FinishReason] = {}
        self.cached_tokens: dict[Key, int] = {}
        self.errors: dict[Key, BatonError] = {}
        self.cache: list[set[bytes]] = [set() for _ in self.runner.groups]
        self.lower: dict[tuple[Tier, int], set[bytes]] = defaultdict(set)
        self.num_steps = 0

    @property
    def num_blocks(self) -> int:
        return self.runner.num_blocks[0]

    def add(self, key: Key, request: Request, *, handoff: bool = False) -> None:
        self.engine.add(key, request, handoff=handoff)
        self.expect(key, request)

    def expect(self, key: Key, request: Request) -> None:
        """Rows of this key will come."""
        self.requests[key] = request

    def step(self, tell: Tell | None = None) -> StepOutput:
        """One step. With `tell` the engine may speak early; the output has it all in order."""
        early = StepOutput()

        def note(output: StepOutput) -> None:
            early.offers += output.offers
            early.ready += output.ready
            assert tell is not None
            tell(output)

        out = self.engine.step(note if tell is not None else None)
        out.offers[:0] = early.offers
        out.ready[:0] = early.ready
        self.num_steps += 1
        for row in out.rows:
            choice = (row.key, row.choice)
            so_far = self.requests[row.key].outputs[row.choice]
            assert choice not in self.finished, f"a row after the end: {row}"
            assert row.position == len(so_far) + len(self.tokens[choice]), f"out of order: {row}"
            self.tokens[choice].append(row.token)
            if row.finish is not None:
                self.finished[choice] = row.finish
        for scheduled in out.scheduled:
            assert scheduled.key not in self.cached_tokens, "scheduled twice"
            self.cached_tokens[scheduled.key] = scheduled.cached_tokens
        for failure in out.failures:
            assert failure.key not in self.errors, "failed twice"
            self.errors[failure.key] = failure.error
        for delta in out.cache:
            stored, removed = set(delta.stored), set(delta.removed)
            on_device = delta.tier is Tier.DEVICE
            held = self.cache[delta.group] if on_device else self.lower[delta.tier, delta.group]
            assert not stored & held and removed <= held and not stored & removed
            held |= stored
            held -= removed
        assert [set(hashes) for hashes in self.engine.cached_hashes()] == self.cache
        return out

    def run(self, max_steps: int = 5000) -> None:
        """Step until there is no work, checking every block after each."""
        for _ in range(max_steps):
            if not self.engine.has_work:
                return
            self.step()
            self.engine.check_integrity()
        raise AssertionError(f"still busy after {max_steps} steps: {self.engine.load()}")

    def answers(self, key: Key) -> dict[int, list[int]]:
        """Choice -> tokens that this engine generated."""
        return {c: self.tokens[(key, c)] for c in self.requests[key].outputs}

    def offer_for(self, key: Key, wanted: Request) -> OfferDue:
        """What an honest source would offer for a request without output."""
        root = root_hash("digest", wanted.tenant_salt, wanted.lora_id, wanted.lora_revision)
        num_tokens = len(wanted.prompt)
        groups = self.runner.groups
        hashes = [tuple(extend_hashes(root, wanted.prompt, spec.block_size)) for spec in groups]
        num_blocks = [spec.num_blocks(num_tokens) for spec in groups]
        return OfferDue(key, num_tokens, tuple(hashes), tuple(num_blocks))

    def reserve(self, key: Key, wanted: Request) -> tuple[ReservedGroup, ...] | None:
        """Offer a request's prompt to this engine."""
        due = self.offer_for(key, wanted)
        self.expect(key, wanted)
        return self.engine.reserve(key, wanted, due.num_tokens, due.hashes, due.num_blocks)

    def write(self, wanted: Request, reserved: tuple[ReservedGroup, ...]) -> None:
        """Write a prompt's KV where it was granted, as a source does."""
        sums = kv_of(wanted.prompt)
        for spec, group, arena in zip(
            self.runner.groups, reserved, self.runner.arenas(), strict=True
        ):
            for index, block in enumerate(group.block_ids):
                if index not in group.skip:
                    part = sums[index * spec.block_size :][: spec.block_size]
                    layers_of(arena.view[block])[:, : len(part)] = by_layer(part)

    def assert_all_free(self) -> None:
        self.engine.check_integrity()
        load = self.engine.load()
        assert load.free_blocks == self.num_blocks, load
        assert load.reserved_blocks == load.quarantined_blocks == 0, load
        assert load.num_running == load.num_waiting == 0, load


def layers_of(block: Any) -> Any:
    """A block of the mock's arena, `[block_bytes]`, as `[NUM_LAYERS, block_size]`."""
    return block.view(np.uint16).reshape(NUM_LAYERS, -1)


def by_layer(sums: Any) -> Any:
    """What `kv_of` says of some tokens, as the mock's layers hold it: `[NUM_LAYERS, tokens]`."""
    return sums.view(np.uint16).reshape(-1, NUM_LAYERS).T


class Pair:
    """A source and a target: offers, grants, copied blocks and adoption, as transfers do it."""

    def __init__(self, source: Driver, target: Driver) -> None:
        self.source = source
        self.target = target
        # Offers that found no room yet, in order.
        self.queued: list[Any] = []
        self.reserved: dict[Key, Any] = {}
        self.ready: dict[Key, list[Any]] = defaultdict(list)
        self.num_copied = 0

    def add(self, key: Key, request: Request) -> None:
        self.target.engine.check(request)
        self.source.add(key, request, handoff=True)
        self.target.expect(key, request)

    def turn(self) -> None:
        """A step of each, where there is work, and all messages between them."""
        if self.source.engine.has_work:
            out = self.source.step()
            self.queued += out.offers
            for ready in out.ready:
                self.ready[ready.key].append(ready)
        self._grant()
        for key in [k for k in self.ready if k in self.reserved]:
            for ready in self.ready.pop(key):
                self._send(ready)
        if self.target.engine.has_work:
            self.target.step()
        self.source.engine.check_integrity()
        self.target.engine.check_integrity()

    def run(self, max_turns: int = 5000) -> None:
        for _ in range(max_turns):
            busy = self.source.engine.has_work or self.target.engine.has_work
            if not busy and not self.ready and not self.queued:
                return
            self.turn()
        raise AssertionError("the pair is still busy")

    def _grant(self) -> None:
        for offer in list(self.queued):
            request = self.target.requests[offer.key]
            reserved = self.target.engine.reserve(
                offer.key, request, offer.num_tokens, offer.hashes, offer.num_blocks
            )
            if reserved is None:
                return
            self.queued.remove(offer)
            self.reserved[offer.key] = reserved
            self.source.engine.grant(offer.key)

    def _send(self, ready: Any) -> None:
        groups = self.reserved[ready.key]
        for group, ids in enumerate(ready.block_ids):
            src = self.source.runner.arenas()[group].view
            dst = self.target.runner.arenas()[group].view
            for index, block in enumerate(ids, ready.first_index[group]):
                if index not in groups[group].skip:
                    dst[groups[group].block_ids[index]] = src[block]
                    self.num_copied += 1
        if ready.done:
            del self.reserved[ready.key]
            live = {
                choice: tuple(tokens)
                for choice, tokens in self.source.answers(ready.key).items()
                if (ready.key, choice) not in self.source.finished
            }
            # The target's rows go on where the source's end.
            for choice, tokens in self.source.answers(ready.key).items():
                self.target.tokens[(ready.key, choice)] = list(tokens)
            self.target.engine.adopt(ready.key, live)
            self.source.engine.release(ready.key)

    def answers(self, key: Key) -> dict[int, list[int]]:
        return self.target.answers(key)


def request(
    prompt: Sequence[int], *, n: int = 1, outputs: Any = None, seed: int = 1, **params: Any
) -> Request:
    params = {"max_tokens": 8, **params}
    return Request(
        request_id="r",
        model="m",
        prompt=tuple(prompt),
        sampling=SamplingParams(**params),
        seed=seed,
        deadline=FOREVER,
        outputs=outputs if outputs is not None else dict.fromkeys(range(n), ()),
    )


def prompt(length: int, seed: int = 0) -> list[int]:
    rng = random.Random(seed * 7919 + length)
    return [rng.randrange(1, VOCAB) for _ in range(length)]


def mixed_requests(count: int = 12) -> list[Request]:
    """Short and long prompts, shared prefixes, one and three choices, greedy and seeded."""
    shared = prompt(23, seed=99)
    requests = []
    for i in range(count):
        head = shared if i % 3 == 0 else []
        requests.append(
            request(
                [*head, *prompt(1 + (i * 7) % 40, seed=i)],
                n=3 if i % 4 == 1 else 1,
                seed=i,
                temperature=0.0 if i % 2 else 1.0,
                max_tokens=1 + (i * 5) % 17,
            )
        )
    return requests


def alone(requests: Iterable[Request]) -> list[dict[int, list[int]]]:
    """What each request gets from an engine that has all the room it wants."""
    answers = []
    for i, wanted in enumerate(requests):
        driver = Driver(kv_blocks=512, max_batch_tokens=2048)
        driver.add(("alone", i), wanted)
        driver.run()
        driver.assert_all_free()
        answers.append(driver.answers(("alone", i)))
    return answers
