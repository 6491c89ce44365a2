"""What transfers need from a transport, and from the worker that they serve.

Everything here is called on the worker's loop thread unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from baton.core.errors import BatonError
from baton.core.handoff import Key, MoveStopped, ReservedGroup, SourceOutput
from baton.core.kv import Arena
from baton.core.request import Request
from baton.transfer.codec import Codec


@dataclass(frozen=True, slots=True)
class PeerShard:
    """One rank of a peer: how to reach its agent, and its arenas (`view` is None)."""

    metadata: bytes
    arenas: tuple[Arena, ...]


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """What carries the bytes to a peer, see `preflight`; 0 bytes per second: not measured."""

    fabric: str
    bytes_per_s: float


class HandoffHost(Protocol):
    """The worker, as its handoffs see it."""

    # target side
    def reserve(
        self,
        key: Key,
        request: Request,
        num_tokens: int,
        hashes: Sequence[Sequence[bytes]],
        num_blocks: Sequence[int],
        growth_tokens: int,
    ) -> tuple[ReservedGroup, ...] | None:
        """Reserve blocks for an offer; None while there is no room.

        Raises InvalidRequestError (a BatonError) when the offer contradicts `request`.
        """

    def check_commit(
        self,
        key: Key,
        outputs: Mapping[int, SourceOutput],
        hashes: Sequence[Sequence[bytes]],
        num_blocks: Sequence[int],
    ) -> None:
        """Raise HandoffError unless the reserved blocks can hold the KV of these tokens.

        `hashes[g]` are those of all full blocks of group g, of `num_blocks[g]` with the tail.
        """

    def adopt(self, key: Key, outputs: Mapping[int, SourceOutput]) -> None:
        """The KV is verified: run the sequences that have not finished."""

    def unreserve(self, key: Key, *, quarantine: bool) -> None:
        """Give the reserved blocks back, or set them aside while a write may still land."""

    def lift_quarantine(self, key: Key) -> None:
        """No write can land any more: the key's quarantined blocks are free."""

    # source side
    def granted(self, key: Key) -> None:
        """The target has room: the prompt may be computed past the bound of ungranted blocks."""

    def release(self, key: Key) -> None:
        """No write reads the key's blocks any more: they become plain prefix cache."""

    def stop_move(self, key: Key) -> MoveStopped | None:
        """All blocks so far are copied: stop a sequence that decodes on.

        None when it stops a little later, by itself.
        """

    def in_doubt(self, key: Key, error: BatonError) -> None:
        """As `failed`, but the target may have adopted: a sequence must not go on here."""

    # both
    def handed_off(self, key: Key, timing: HandoffTiming) -> None:
        """Source: the target has accepted. Target: the sequences were adopted."""

    def withdrawn(self, key: Key) -> None:
        """Every choice ended at the source; nothing was handed over."""

    def failed(self, key: Key, error: BatonError) -> None:
        """The handoff ended otherwise. Its resources are settled by the calls above."""


@dataclass(slots=True)
class HandoffTiming:
    """Where the time went; seconds and bytes. `transport` is filled in last."""

    # Target: from the submission to the Offer.
    offer_wait_s: float = 0.0
    grant_wait_s: float = 0.0
    # Source: with a write under way. Target: from the grant to the commit.
    transfer_s: float = 0.0
    verify_s: float = 0.0
    num_bytes: int = 0
    # Of these, bytes that had landed when the last token of the prompt was computed, ...
    hidden_bytes: int = 0
    # ... and the time from then until the last write was done.
    exposed_s: float = 0.0
    transport: str = ""


@dataclass(frozen=True, slots=True)
class BlockWrite:
    """Blocks of one group to write: local ids to remote ids, in order.

    Of `num_parts` > 1, part p is the bytes of layers p * L // num_parts up to
    (p + 1) * L // num_parts of the L that the rank holds. The last part of a block is written last:
    its result brings the checksum of the whole block, those of other parts bring none.

    With a `codec`, each block's record goes to the beginning of the remote one, whole (one part),
    and the checksum is that of the record. A block that cannot be encoded goes plain, with its own.
    """

    group: int
    local: tuple[int, ...]
    remote: tuple[int, ...]
    part: int = 0
    num_parts: int = 1
    codec: str = ""


@dataclass(frozen=True, slots=True)
class WriteResult:
    """`checksums` has an entry per BlockWrite, or none at all when they are off.

    An entry holds one number per block, none for parts but the last. `error` is set when the write
    failed. `quiesced` is False when bytes of a failed write may still land.
    """

    checksums: tuple[tuple[int, ...], ...]
    num_bytes: int
    error: str | None = None
    quiesced: bool = True


class Transport(Protocol):
    """Moves blocks between the arenas of two workers; one transport for each rank."""

    name: str
    # recreate() also ends the writes of peers on this node. False where such a peer may copy into
    # our memory by itself (CMA, CUDA IPC), which no agent of ours takes part in.
    recreate_fences_node: bool

    def register(self, arenas: Sequence[Arena], codecs: Sequence[Codec] = ()) -> None:
        """Make the arenas reachable. Once, before anything else.

        `codecs` has one for each group, or none: see `wire_codec`.
        """

    @property
    def codecs(self) -> tuple[str, ...]:
        """What blocks can be sent in, besides plain bytes."""

    def endpoint_metadata(self) -> bytes:
        """What a peer needs to reach this transport; handed out on authenticated calls only."""

    @property
    def agent_name(self) -> str: ...

    @property
    def transport_epoch(self) -> int:
        """New whenever the agent is recreated."""

    def connect(
        self,
        peer: str,
        shards: Sequence[PeerShard],
        measured: Callable[[LinkInfo], None] | None = None,
    ) -> None:
        """Prepare descriptors for all ranks of a peer. Replaces an earlier life.

        Block i of a worker is block i of each of its ranks: a write goes to every rank that holds
        some of our layers and heads, the bytes of those only. `measured` is called once, on any
        thread, when the link has been looked at; never for a peer that is not reached.
        """

    def disconnect(self, peer: str) -> None:
        """Forget a peer; its queued writes fail."""

    def expect(self, key: Key, groups: Sequence[ReservedGroup]) -> None:
        """Target: writes will come here. Nothing to do for one-sided transports."""

    def unexpect(self, key: Key) -> None:
        """Target: no more writes are wanted there; a two-sided transport takes none."""

    def send(
        self,
        peer: str,
        writes: Sequence[BlockWrite],
        done: Callable[[WriteResult], None],
        timeout_s: float,
    ) -> None:
        """Source: queue writes to a peer and return. `done` is called once, on any thread.

        It is called once more, with `quiesced` set, when a write that was reported without it can
        no longer land.

        Raises HandoffError when the peer's bounded queue is full or the peer is unknown.
        """

    def recreate(self) -> None:
        """Destroy the agent, so that no peer's write can land any more, and start a new one.

        Peers are forgotten; connect to them again. See `recreate_fences_node`. Raises HandoffError
        when the old agent cannot be destroyed.
        """

    def close(self) -> None: ...
