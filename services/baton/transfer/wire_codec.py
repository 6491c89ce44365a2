"""Full blocks as smaller records on the wire of a handoff.

The two sides agree in Offer and Grant. A record is written to the beginning of the block that it is
for, and the target decodes it there once it has proved to be what was sent. A record and a block
that could not be encoded are told apart by their checksum, which is of either form.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import xxhash

from baton.core.kv import Arena, GroupSpec, whole_slice
from baton.core.settings import TransferSettings
from baton.transfer.codec import INT8_DTYPES, Bytes, Codec, make_codec


def wire_codecs(
    settings: TransferSettings, groups: Sequence[GroupSpec], arenas: Sequence[Arena]
) -> tuple[Codec, ...]:
    """What this worker can send and take full blocks in: a codec for each group, or nothing.

    Nothing where checksums are off, or a group's elements have no int8 form that is smaller; where
    blocks are in a device's memory, or this is one rank of several.
    """
    if settings.codec == "none" or settings.checksum == "off":
        return ()
    by_group = {arena.group: arena for arena in arenas}
    codecs = []
    for group, spec in enumerate(groups):
        arena = by_group[group]
        whole = arena.block_bytes == spec.block_bytes and arena.held == whole_slice(spec)
        if spec.dtype not in INT8_DTYPES or arena.memory != "DRAM" or not whole:
            return ()
        codec = make_codec(settings.codec, spec)
        if codec.record_bytes >= spec.block_bytes:
            return ()
        codecs.append(codec)
    return tuple(codecs)


def choose(offered: Collection[str], codecs: Sequence[Codec]) -> str:
    """A target's choice among the source's codecs; empty is plain bytes."""
    return codecs[0].name if codecs and codecs[0].name in offered else ""


def encode_block(codec: Codec, block: Bytes, record: Bytes) -> int | None:
    """Fill `record` and return its checksum; None for a block that must go plain."""
    try:
        codec.encode(block, record)
    except ValueError:
        return None
    return xxhash.xxh3_64_intdigest(record.data)


def is_record(codec: Codec, block: Bytes, checksum: int) -> bool | None:
    """Whether what lies in `block` is a record, or else plain; None when it is neither."""
    if xxhash.xxh3_64_intdigest(block[: codec.record_bytes].data) == checksum:
        return True
    return False if xxhash.xxh3_64_intdigest(block.data) == checksum else None


def decode_in_place(codec: Codec, block: Bytes, scratch: Bytes) -> None:
    """Replace the record at the beginning of `block`; `scratch` [record_bytes] is overwritten."""
    scratch[:] = block[: codec.record_bytes]
    # Of what a peer says: a scale that is no number makes elements that are none.
    with np.errstate(over="ignore", invalid="ignore"):
        codec.decode(scratch, block)
