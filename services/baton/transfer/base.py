"""What transfers need from a transport, and from the worker that they serve.

Everything here is called on the worker's loop thread unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from baton.core.errors import BatonError
from baton.core.request import FinishReason, Request

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Arena:
    """One group's registered memory: `[num_blocks, block_bytes]` from `address` on.

    `view` is a writable uint8 numpy array of that shape for host memory, else None.
    """

    group: int
    address: int
    num_blocks: int
    block_bytes: int
    memory: str  # DRAM or VRAM
    device_id: int
    view: Any


@dataclass(frozen=True, slots=True)
class ReservedGroup:
    """Where a target wants the offered blocks of one group.

    `block_ids[i]` and `generations[i]` belong to offered index i; those in `skip` are held already.
    """

    block_ids: tuple[int, ...]
    generations: tuple[int, ...]
    skip: frozenset[int]


@dataclass(frozen=True, slots=True)
class SourceOutput:
    """What a source generated for one choice, and why it ended there, if it did."""

    tokens: tuple[int, ...]
    finish: FinishReason | None


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
    ) -> tuple[ReservedGroup, ...] | None:
        """Reserve blocks for an offer; None while there is no room.

        Raises InvalidRequestError (a BatonError) when the offer contradicts `request`.
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

    # both
    def handed_off(self, key: Key, timing: HandoffTiming) -> None:
        """Source: the target has accepted. Target: the sequences were adopted."""

    def failed(self, key: Key, error: BatonError) -> None:
        """The handoff ended otherwise. Its resources are settled by the calls above."""


@dataclass(frozen=True, slots=True)
class HandoffTiming:
    """Where the time went; seconds and bytes."""

    grant_wait_s: float = 0.0
    transfer_s: float = 0.0
    verify_s: float = 0.0
    num_bytes: int = 0


@dataclass(frozen=True, slots=True)
class BlockWrite:
    """Blocks of one group to write: local ids to remote ids, in order."""

    group: int
    local: tuple[int, ...]
    remote: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WriteResult:
    """`checksums` holds one number per block of each BlockWrite; `error` is set when it failed.

    `quiesced` is False when bytes of a failed write may still land.
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

    def register(self, arenas: Sequence[Arena]) -> None:
        """Make the arenas reachable. Once, before anything else."""

    def endpoint_metadata(self) -> bytes:
        """What a peer needs to reach this transport; handed out on authenticated calls only."""

    @property
    def agent_name(self) -> str: ...

    @property
    def transport_epoch(self) -> int:
        """New whenever the agent is recreated."""

    def connect(self, peer: str, metadata: bytes, arenas: Sequence[Arena]) -> None:
        """Prepare descriptors for a peer's arenas (`view` is None). Replaces an earlier life."""

    def disconnect(self, peer: str) -> None:
        """Forget a peer; its queued writes fail."""

    def expect(self, key: Key, groups: Sequence[ReservedGroup]) -> None:
        """Target: writes will come here. Nothing to do for one-sided transports."""

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
