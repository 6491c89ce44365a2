"""KV memory as peers see it: group specs, shards and arenas on the wire, and their descriptors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from baton.core.errors import HandoffError
from baton.core.kv import Arena, GroupSpec, ShardSlice, whole_slice
from baton.transfer.base import PeerShard
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


def slice_of(shard: common_pb2.Shard, groups: Sequence[GroupSpec], group: int) -> ShardSlice:
    """What a rank holds of a group.

    Raises HandoffError for ranks of a model with several groups: a Shard counts layers and heads of
    the whole model, which says nothing of theirs.
    """
    whole = whole_shard(shard.agent_name, groups)
    first_head, first_layer = shard.kv_head_start, shard.layer_start
    heads, layers = shard.num_kv_heads, shard.num_layers
    if (first_head, heads, first_layer, layers) == (0, whole.num_kv_heads, 0, whole.num_layers):
        return whole_slice(groups[group])
    if len(groups) != 1:
        raise HandoffError("a model with several attention groups cannot be divided yet")
    return ShardSlice((first_layer, first_layer + layers), (first_head, first_head + heads))


def arena_from_proto(ref: transfer_pb2.ArenaRef, held: ShardSlice) -> Arena:
    """A peer's arena: an address to write to, nothing to read."""
    return Arena(
        group=ref.group,
        address=ref.address,
        num_blocks=ref.num_blocks,
        block_bytes=ref.block_bytes,
        memory=ref.memory,
        device_id=ref.device_id,
        view=None,
        held=held,
    )


def peer_shard(endpoint: transfer_pb2.ShardEndpoint, groups: Sequence[GroupSpec]) -> PeerShard:
    """A rank's memory as its worker's Hello describes it. Raises HandoffError."""
    if any(ref.group >= len(groups) for ref in endpoint.arenas):
        raise HandoffError(f"an arena's group is not one of the {len(groups)}")
    return PeerShard(
        endpoint.metadata,
        tuple(
            arena_from_proto(ref, slice_of(endpoint.shard, groups, ref.group))
            for ref in endpoint.arenas
        ),
    )


def run_descriptors(arena: Arena, runs: Sequence[tuple[int, int]]) -> np.ndarray:
    """One strided row `(address, length, device, stride, count)` for each (offset, length) run.

    Element `r * num_blocks + i` of the list that NIXL prepares from them is run r of block i.
    """
    rows = [
        (arena.address + offset, length, arena.device_id, arena.block_bytes, arena.num_blocks)
        for offset, length in runs
    ]
    return np.array(rows, dtype=np.uint64)
