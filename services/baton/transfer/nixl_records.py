"""A sender's writes of encoded blocks, piece by piece through its staging memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from baton.core.kv import Arena
from baton.transfer.checksum import block_checksums
from baton.transfer.codec import Codec
from baton.transfer.nixl_peer import NixlPeer
from baton.transfer.nixl_staging import Staging, StagingPool
from baton.transfer.wire_codec import encode_block
from baton.transfer.writes import ArrayWrite


@dataclass(frozen=True, slots=True)
class Piece:
    """NIXL requests for some blocks, and what goes: a checksum of each block, in order."""

    requests: list[Any]
    checksums: list[int]
    num_bytes: int


class RecordWriter:
    """Belongs to one sender's thread. Staging is taken with the first record."""

    def __init__(
        self, codecs: Sequence[Codec], arenas: Mapping[int, Arena], pool: StagingPool
    ) -> None:
        self._codecs = tuple(codecs)
        self._arenas = arenas
        self._pool = pool
        self._staging: Staging | None = None
        self._half = 0

    def piece_blocks(self) -> int:
        """Blocks of a piece, at most."""
        return self._ready().piece_slots

    def encode(
        self,
        peer: NixlPeer,
        write: ArrayWrite,
        first: int,
        end: int,
        drive: Callable[[], None],
    ) -> Piece:
        """Blocks `first` to `end`. Uses the staging of the last piece but one.

        `drive` is called between blocks, each of which takes a while.
        """
        staging, codec = self._ready(), self._codecs[write.group]
        arena = self._arenas[write.group]
        slot = self._half * staging.piece_slots
        self._half = 1 - self._half
        slots: list[int] = []
        plain: list[int] = []
        checksums: list[int] = []
        for i, block_id in enumerate(write.local[first:end].tolist(), first):
            record = staging.slots[slot, : codec.record_bytes]
            checksum = encode_block(codec, arena.view[block_id], record)
            if checksum is None:
                [checksum] = block_checksums(arena, [block_id], "xxh3")
                plain.append(i)
            else:
                slots.append(slot)
                slot += 1
            checksums.append(checksum)
            drive()
        requests: list[Any] = []
        num_bytes = len(slots) * codec.record_bytes + len(plain) * arena.block_bytes
        remote = write.remote[first:end]
        if plain:
            at = np.array(plain)
            rest = ArrayWrite(write.group, write.local[at], write.remote[at], 0, 1)
            requests += peer.requests(rest, 0, len(plain))
            remote = np.delete(remote, at - first)
        if slots:
            records = staging.lists[write.group]
            requests.append(
                peer.record_request(
                    write.group, codec.record_bytes, records, np.array(slots, np.int32), remote
                )
            )
        return Piece(requests, checksums, num_bytes)

    def leave(self) -> None:
        """The thread ends."""
        if self._staging is not None:
            self._pool.give(self._staging)
            self._staging = None

    def _ready(self) -> Staging:
        if self._staging is None:
            self._staging = self._pool.take()
        return self._staging
