"""A decoding sequence moved between two engines by hand, as the handoff protocol does it."""

from __future__ import annotations

from typing import Any

from baton.core.handoff import BlocksReady, Key, MoveStopped, OfferDue, ReservedGroup, SourceOutput
from baton.core.request import Request
from baton.engine.outputs import StepOutput
from fakes.engines import Driver

GROWTH = 12


class Mover:
    """One move from `source` to `target`; the target's key has another session's name."""

    def __init__(self, source: Driver, target: Driver, key: Key) -> None:
        self.source, self.target, self.key = source, target, key
        self.heir: Key = (f"{key[0]}'", key[1])
        self.ready: list[Any] = []
        self.reserved: tuple[ReservedGroup, ...] = ()
        self.stop: MoveStopped | None = None
        self.unmoved: str | None = None

    @property
    def request(self) -> Request:
        return self.source.requests[self.key]

    def begin(self, *, lag: int = 0, growth: int = GROWTH) -> OfferDue:
        """`lag`: how many of the tokens the gateway has not seen yet."""
        output = self.source.engine.request(self.key).outputs[0]
        output = (*output, *self.source.tokens[(self.key, 0)])
        self.position = len(output) - lag
        due, ready = self.source.engine.migrate(self.key, self.position, growth)
        self.due = due
        self.ready.append(ready)
        self.wanted = Request(
            **{
                name: getattr(self.request, name)
                for name in self.request.__dataclass_fields__
                if name != "outputs"
            },
            outputs={0: output[: self.position]},
        )
        return due

    def grant(self) -> bool:
        due = self.due
        self.target.expect(self.heir, self.wanted)
        reserved = self.target.engine.reserve(
            self.heir, self.wanted, due.num_tokens, due.hashes, due.num_blocks, due.growth_tokens
        )
        if reserved is None:
            return False
        self.reserved = reserved
        self.source.engine.grant(self.key)
        self.copy()
        return True

    def step(self) -> StepOutput:
        """One step of the source."""
        out = self.source.step()
        self.hear(out)
        self.source.engine.check_integrity()
        return out

    def hear(self, out: StepOutput) -> None:
        self.ready += [ready for ready in out.ready if ready.key == self.key]
        for stop in out.stopped:
            if stop.key == self.key:
                self.take_stop(stop)
        for failure in out.unmoved:
            if failure.key == self.key:
                self.unmoved = failure.error.message
        if self.reserved:
            self.copy()

    def ask_to_stop(self) -> None:
        stop = self.source.engine.stop_move(self.key)
        if stop is not None:
            self.take_stop(stop)
            self.copy()

    def take_stop(self, stop: MoveStopped) -> None:
        assert self.stop is None, "it stops once"
        self.stop = stop
        self.ready.append(stop)

    @property
    def output(self) -> SourceOutput:
        """What its only choice generated meanwhile."""
        assert self.stop is not None
        [output] = self.stop.outputs.values()
        return output

    def copy(self) -> None:
        """Write what is announced where it was granted."""
        for ready in self.ready:
            self._copy(ready)
        self.ready.clear()

    def _copy(self, ready: BlocksReady | MoveStopped) -> None:
        for group, ids in enumerate(ready.block_ids):
            src = self.source.runner.arenas()[group].view
            dst = self.target.runner.arenas()[group].view
            for index, block in enumerate(ids, ready.first_index[group]):
                if index not in self.reserved[group].skip:
                    dst[self.reserved[group].block_ids[index]] = src[block]

    def committed(self) -> tuple[dict[int, tuple[int, ...]], Any, tuple[int, ...]]:
        """Outputs, hashes and numbers of blocks, as in the Commit."""
        assert self.stop is not None
        counts = tuple(
            first + len(ids)
            for first, ids in zip(self.stop.first_index, self.stop.block_ids, strict=True)
        )
        hashes = tuple(a + b for a, b in zip(self.due.hashes, self.stop.hashes, strict=True))
        outputs = {choice: out.tokens for choice, out in self.stop.outputs.items()}
        return outputs, hashes, counts

    def hand_over(self) -> None:
        """Commit, check, adopt; the source lets go."""
        outputs, hashes, counts = self.committed()
        self.target.engine.check_commit(self.heir, outputs, hashes, counts)
        self.target.tokens[(self.heir, 0)] = list(outputs[0])
        self.target.engine.adopt(self.heir, outputs)
        self.source.engine.release(self.key)
        self.source.engine.abort(self.key)
        self.check()

    def fail(self) -> None:
        """The handoff came to nothing; writes may read on until `release`."""
        self.source.engine.end_move(self.key)
        if self.reserved:
            self.target.engine.unreserve(self.heir, quarantine=False)
        self.check()

    def check(self) -> None:
        self.source.engine.check_integrity()
        self.target.engine.check_integrity()

    def answer(self) -> list[int]:
        """All tokens after the request's own, whoever made them."""
        ours = self.source.tokens[(self.key, 0)]
        start = len(self.request.outputs[0])
        theirs = self.target.tokens[(self.heir, 0)]
        for place, token in enumerate(theirs, self.position - start):
            assert place >= len(ours) or ours[place] == token, "two workers disagree"
        return ours[: self.position - start] + theirs


def decoding(driver: Driver, key: Key, request: Request, num_tokens: int) -> None:
    """Let the driver run a request until it has that many tokens."""
    driver.add(key, request)
    while len(driver.tokens[(key, 0)]) < num_tokens:
        driver.step()


def pinned_contents(driver: Driver, stop_or_ready: Any) -> dict[int, bytes]:
    """Contents of announced blocks of group 0, to see that they stay as they are."""
    view = driver.runner.arenas()[0].view
    return {block: view[block].tobytes() for block in stop_or_ready.block_ids[0]}
