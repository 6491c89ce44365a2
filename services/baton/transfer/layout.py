"""KV memory as peers see it: group specs, shards and arenas on the wire, and their descriptors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from baton.core.errors import HandoffError
from baton.core.kv import GroupSpec
from baton.transfer.base import Arena
from baton.v1 import common_pb2, transfer_pb2

_KINDS = {
    "full": common_pb2.GroupSpec.KIND_FULL,
    "window": common_pb2.GroupSpec.KIND_WINDOW,
    "mla": common_pb2.GroupSpec.KIND_MLA,
}
_KIND_NAMES = {value: name for name, value in _KINDS.items()}


def group_to_proto(group: GroupSpec) -> common_pb2.GroupSpec:
    """A group spec as Hellos and leases carry it."""
    return common_pb2.GroupSpec(
        kind=_KINDS[group.kind],
        num_layers=group.num_layers,
        num_kv_heads=group.num_kv_heads,
        k_dim=group.k_dim,
        v_dim=group.v_dim,
        block_size=group.block_size,
        window=group.window,
        dtype=group.dtype,
    )


def group_from_proto(group: common_pb2.GroupSpec) -> GroupSpec:
    """The way back; a kind that this build does not know keeps its number as its name."""
    return GroupSpec(
        kind=_KIND_NAMES.get(group.kind, str(int(group.kind))),
        num_layers=group.num_layers,
        num_kv_heads=group.num_kv_heads,
        k_dim=group.k_dim,
        v_dim=group.v_dim,
        block_size=group.block_size,
        dtype=group.dtype,
        window=group.window,
    )


def whole_shard(agent_name: str, groups: Sequence[GroupSpec]) -> common_pb2.Shard:
    """The one shard of a worker with a single rank: every head of every layer."""
    return common_pb2.Shard(
        agent_name=agent_name,
        num_kv_heads=max((group.num_kv_heads for group in groups), default=0),
        num_layers=sum(group.num_layers for group in groups),
    )


def arena_to_proto(arena: Arena) -> transfer_pb2.ArenaRef:
    return transfer_pb2.ArenaRef(
        group=arena.group,
        address=arena.address,
        num_blocks=arena.num_blocks,
        block_bytes=arena.block_bytes,
        memory=arena.memory,
        device_id=arena.device_id,
    )


def arena_from_proto(ref: transfer_pb2.ArenaRef) -> Arena:
    """A peer's arena: an address to write to, nothing to read."""
    return Arena(
        group=ref.group,
        address=ref.address,
        num_blocks=ref.num_blocks,
        block_bytes=ref.block_bytes,
        memory=ref.memory,
        device_id=ref.device_id,
        view=None,
    )


def check_arenas(ours: Sequence[Arena], theirs: Sequence[Arena]) -> None:
    """Raise HandoffError unless block i of a group has the same bytes on both sides."""
    mine = {arena.group: arena.block_bytes for arena in ours}
    peer = {arena.group: arena.block_bytes for arena in theirs}
    if mine != peer:
        raise HandoffError(f"block sizes per group differ: here {mine}, there {peer} bytes")


def block_descriptors(arena: Arena) -> np.ndarray:
    """The whole arena as one strided descriptor row `(address, length, device, stride, count)`.

    Element i of the list that NIXL prepares from it is block i.
    """
    row = (arena.address, arena.block_bytes, arena.device_id, arena.block_bytes, arena.num_blocks)
    return np.array([row], dtype=np.uint64)
