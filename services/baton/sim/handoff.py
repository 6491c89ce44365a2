"""KV on its way from one simulated worker to another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from baton.sim.clock import EventLoop, Phase
from baton.sim.link import Link
from baton.sim.report import Served
from baton.sim.sequence import SimSequence
from baton.sim.worker import SimWorker
from baton.sim.workload import BLOCK_SIZE


@dataclass(frozen=True, slots=True)
class TransferSpec:
    """How fast KV goes, and when.

    `streamed` is what Baton does: the target reserves its blocks before, each chunk is sent while
    it is computed, one of `layer_groups` parts after the other, blocks that the target holds
    already are skipped, and the client gets the first token from the source. Without it, it is what
    Dynamo's replay does: the whole prompt's KV goes when it is computed, nothing of it is skipped,
    transfers do not share a link, the target looks for room when all has come, and generates the
    first token.
    """

    bytes_per_s: float = 40e9
    bytes_per_token: int = 262_144
    streamed: bool = True
    layer_groups: int = 4

    def seconds(self, num_tokens: int) -> float:
        """For the KV of so many tokens on an idle link."""
        return num_tokens * self.bytes_per_token / self.bytes_per_s


class Handoff:
    """One prompt's, from the offer to the release of the source's blocks."""

    def __init__(
        self,
        seq: SimSequence,
        hashes: Sequence[bytes],
        source: SimWorker,
        target: SimWorker,
        link: Link,
        spec: TransferSpec,
        loop: EventLoop,
        on_adopted: Callable[[], None],
    ) -> None:
        self._seq = seq
        self._hashes = hashes
        self._source = source
        self._target = target
        self._link = link
        self._spec = spec
        self._loop = loop
        self._on_adopted = on_adopted
        self._is_granted = False
        # Tokens that are on their way or need not be sent.
        self._num_sent = 0

    def offer(self) -> None:
        """The source has, or will soon have, begun to compute."""
        if self._spec.streamed:
            self._target.reserve(self._seq.served, self._hashes, self._granted)
        else:
            self._source.grant(self._seq)

    def _granted(self, num_cached_blocks: int) -> None:
        self._is_granted = True
        self._num_sent = num_cached_blocks * BLOCK_SIZE
        self._source.grant(self._seq)
        self.advance(0.0)

    def advance(self, step_s: float) -> None:
        """More of the prompt has been computed, in a pass of `step_s`; 0 for what was there."""
        seq = self._seq
        is_done = seq.num_computed == seq.num_tokens
        if self._spec.streamed:
            if self._is_granted:
                num_new = max(0, seq.num_computed - self._num_sent)
                self._num_sent += num_new
                on_sent = self._arrived if is_done else None
                self._link.send(self._target.row, num_new, on_sent, over_s=step_s)
        elif is_done:
            arrival = self._loop.now + self._spec.seconds(seq.num_tokens)
            self._loop.at(arrival, Phase.END, self._arrived)

    def _arrived(self) -> None:
        if self._spec.streamed:
            self._adopted()
        else:
            self._source.release(self._seq)
            self._target.reserve(self._seq.served, self._hashes, lambda _: self._adopted())

    def _adopted(self) -> None:
        # The source's token counts, when it was for the client.
        self._target.adopt(self._seq.served, self._hashes, 1 if self._spec.streamed else 0)
        if self._spec.streamed:
            self._source.release(self._seq)
        self._on_adopted()


class Fetch:
    """The prefix of one prompt, from a peer's cache, before the prompt is queued."""

    def __init__(
        self,
        served: Served,
        hashes: Sequence[bytes],
        source: SimWorker,
        target: SimWorker,
        link: Link,
        on_end: Callable[[], None],
    ) -> None:
        """`hashes` are those that the target lacks, as far as the source is known to have them."""
        self._served = served
        self._source = source
        self._target = target
        self._on_end = on_end
        num_lent = source.lend(served, hashes) if hashes else 0
        if num_lent and target.fetch(served, hashes[:num_lent]):
            served.fetched_tokens = num_lent * BLOCK_SIZE
            link.send(target.row, served.fetched_tokens, self._arrived)
            return
        source.take_back(served)
        on_end()

    def _arrived(self) -> None:
        self._target.fetched(self._served)
        self._source.take_back(self._served)
        self._on_end()
