"""Bodies of the handoff's messages, built and read. Reading trusts nothing that a peer says."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from baton.core.block_hash import HASH_BYTES
from baton.core.errors import HandoffError, InvalidRequestError, UnsupportedError
from baton.core.request import FinishReason
from baton.transfer.base import ReservedGroup, SourceOutput
from baton.transfer.state import BlockCheck, Due, Reserve
from baton.v1 import common_pb2, transfer_pb2

# Index of an offered block to the target's block id and that block's generation.
GrantedBlocks = dict[int, tuple[int, int]]


@dataclass(slots=True)
class GroupGrant:
    """What a target has granted of one group."""

    blocks: GrantedBlocks = field(default_factory=dict)
    skip: set[int] = field(default_factory=set)


def offer_body(due: Due, choices: Collection[int], grant_wait_s: float) -> transfer_pb2.Offer:
    """All choices share the prompt's blocks, so each names all of them."""
    return transfer_pb2.Offer(
        sequences=[
            transfer_pb2.OfferedSequence(
                choice=choice,
                num_tokens=due.num_tokens,
                groups=[transfer_pb2.BlockIndices() for _ in due.num_blocks],
            )
            for choice in sorted(choices)
        ],
        groups=[
            transfer_pb2.OfferedGroup(group=group, num_blocks=count, hashes=b"".join(hashes))
            for group, (count, hashes) in enumerate(zip(due.num_blocks, due.hashes, strict=True))
        ],
        grant_wait_ms=max(1, int(grant_wait_s * 1000)),
    )


def read_offer(offer: transfer_pb2.Offer, choices: Collection[int], num_groups: int) -> Reserve:
    """What to reserve. Raises InvalidRequestError when the offer is not of this request."""
    if [group.group for group in offer.groups] != list(range(num_groups)):
        raise InvalidRequestError(f"the offer must list groups 0 to {num_groups - 1}, each once")
    hashes = tuple(_split_hashes(group) for group in offer.groups)
    num_blocks = tuple(group.num_blocks for group in offer.groups)
    if sorted(sequence.choice for sequence in offer.sequences) != sorted(choices):
        raise InvalidRequestError("the offer's choices are not those of the request")
    num_tokens = {sequence.num_tokens for sequence in offer.sequences}
    if len(num_tokens) != 1:
        raise UnsupportedError("choices of different length cannot share a handoff yet")
    for sequence in offer.sequences:
        if len(sequence.groups) != num_groups:
            raise InvalidRequestError("a sequence must name its blocks in every group")
        for blocks, count in zip(sequence.groups, num_blocks, strict=True):
            if blocks.index and list(blocks.index) != list(range(count)):
                raise UnsupportedError("choices with blocks of their own cannot be handed over yet")
    return Reserve(num_tokens.pop(), hashes, num_blocks)


def _split_hashes(group: transfer_pb2.OfferedGroup) -> tuple[bytes, ...]:
    raw = group.hashes
    num_hashes, rest = divmod(len(raw), HASH_BYTES)
    if rest or not num_hashes <= group.num_blocks <= num_hashes + 1:
        raise InvalidRequestError(
            f"group {group.group} offers {group.num_blocks} blocks with {len(raw)} bytes of hashes"
        )
    return tuple(raw[i : i + HASH_BYTES] for i in range(0, len(raw), HASH_BYTES))


def grant_body(groups: Sequence[ReservedGroup], transport_epoch: int) -> transfer_pb2.Grant:
    """Everything that is reserved, in one grant."""
    grant = transfer_pb2.Grant(grant_seq=1, transport_epoch=transport_epoch)
    for group, reserved in enumerate(groups):
        rows = [
            (index, block_id, generation)
            for index, (block_id, generation) in enumerate(
                zip(reserved.block_ids, reserved.generations, strict=True)
            )
            if index not in reserved.skip
        ]
        grant.groups.add(
            group=group,
            index=[row[0] for row in rows],
            block_id=[row[1] for row in rows],
            generation=[row[2] for row in rows],
            skip=sorted(reserved.skip),
        )
    return grant


def read_grant(grant: transfer_pb2.Grant, into: Sequence[GroupGrant], due: Due) -> None:
    """Add a grant to what was granted before; what is known already stays as it is.

    Raises HandoffError when it grants what was not offered.
    """
    for granted in grant.groups:
        if granted.group >= len(into):
            raise HandoffError(f"the grant names group {granted.group}, which was not offered")
        if not len(granted.index) == len(granted.block_id) == len(granted.generation):
            raise HandoffError("the grant's columns differ in length")
        known, limit = into[granted.group], due.num_blocks[granted.group]
        for index, block_id, generation in zip(
            granted.index, granted.block_id, granted.generation, strict=True
        ):
            if index >= limit:
                raise HandoffError(f"the grant names block {index} of {limit}")
            if index not in known.skip:
                known.blocks.setdefault(index, (block_id, generation))
        for index in granted.skip:
            if index >= limit:
                raise HandoffError(f"the grant skips block {index} of {limit}")
            if index not in known.blocks:
                known.skip.add(index)


def commit_body(
    due: Due,
    outputs: Mapping[int, SourceOutput],
    granted: Sequence[GroupGrant],
    checksums: Sequence[Mapping[int, int]],
) -> transfer_pb2.Commit:
    """`checksums[group]` maps each written index to its checksum, if there are any."""
    commit = transfer_pb2.Commit()
    for choice, output in sorted(outputs.items()):
        commit.sequences.add(
            choice=choice,
            output=output.tokens,
            finish_reason=common_pb2.FinishReason.ValueType(output.finish or 0),
        )
    shard = commit.shards.add()
    for group, grant in enumerate(granted):
        order = sorted(grant.blocks)
        sums = checksums[group]
        shard.groups.add(
            group=group,
            index=order,
            block_id=[grant.blocks[i][0] for i in order],
            generation=[grant.blocks[i][1] for i in order],
            checksum=[sums[i] for i in order] if sums else [],
            hashes=b"".join(due.hashes[group]),
        )
    return commit


@dataclass(frozen=True, slots=True)
class ReadCommit:
    """A commit that fits its offer and grant."""

    outputs: Mapping[int, SourceOutput]
    checks: tuple[BlockCheck, ...]


def read_commit(
    commit: transfer_pb2.Commit,
    choices: Collection[int],
    granted: Sequence[GrantedBlocks],
    hashes: Sequence[Sequence[bytes]],
    *,
    checksums: bool,
) -> ReadCommit:
    """Raises HandoffError when the commit is not of what was offered and granted.

    With `checksums` it must bring one for every written block.
    """
    outputs = {s.choice: _output(s) for s in commit.sequences}
    if len(commit.sequences) != len(outputs) or outputs.keys() != set(choices):
        raise HandoffError("the commit's choices are not those of the request")
    if len(commit.shards) != 1 or (commit.shards[0].tp_rank, commit.shards[0].pp_rank) != (0, 0):
        raise HandoffError("the commit must come from one shard, rank 0")
    groups = commit.shards[0].groups
    if [group.group for group in groups] != list(range(len(granted))):
        raise HandoffError("the commit's groups are not those of the offer")
    checks = tuple(
        _check_group(group, granted[group.group], hashes[group.group], checksums)
        for group in groups
    )
    return ReadCommit(outputs, checks)


def _output(sequence: transfer_pb2.CommittedSequence) -> SourceOutput:
    if not sequence.output:
        raise HandoffError(f"choice {sequence.choice} comes without a token to go on from")
    try:
        finish = FinishReason(sequence.finish_reason) if sequence.finish_reason else None
    except ValueError:
        finish = FinishReason.ERROR
    return SourceOutput(tuple(sequence.output), finish)


def _check_group(
    group: transfer_pb2.CommittedGroup,
    granted: GrantedBlocks,
    hashes: Sequence[bytes],
    checksums: bool,
) -> BlockCheck:
    name = f"group {group.group}"
    if not len(group.index) == len(group.block_id) == len(group.generation):
        raise HandoffError(f"the commit's columns of {name} differ in length")
    written = dict(
        zip(group.index, zip(group.block_id, group.generation, strict=True), strict=True)
    )
    if len(written) != len(group.index) or written != granted:
        raise HandoffError(f"the commit's blocks or generations of {name} are not those granted")
    if group.hashes != b"".join(hashes):
        raise HandoffError(f"the commit's hashes of {name} are not those offered")
    sums = tuple(group.checksum)
    if len(sums) != (len(written) if checksums or sums else 0):
        raise HandoffError(f"the commit has {len(sums)} checksums for {len(written)} blocks")
    return BlockCheck(group.group, tuple(group.block_id), sums if checksums else ())
