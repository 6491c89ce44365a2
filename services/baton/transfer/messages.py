"""Bodies of the handoff's messages, built and read. Reading trusts nothing that a peer says."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import chain, compress
from struct import Struct

from baton.core.block_hash import HASH_BYTES
from baton.core.errors import HandoffError, InvalidRequestError, UnsupportedError
from baton.core.handoff import ReservedGroup, SourceOutput
from baton.core.request import FinishReason
from baton.transfer.state import BlockCheck, Due, Reserve, Verify
from baton.v1 import common_pb2, transfer_pb2

_HASH = Struct(f"{HASH_BYTES}s")
# Index of an offered block to the target's block id and that block's generation.
GrantedBlocks = dict[int, tuple[int, int]]


@dataclass(slots=True)
class GroupGrant:
    """What a target has granted of one group."""

    blocks: GrantedBlocks = field(default_factory=dict)
    skip: set[int] = field(default_factory=set)


def offer_body(due: Due, choices: Collection[int], grant_wait_s: float) -> transfer_pb2.Offer:
    """All choices share the prompt's blocks, so each names all of them."""
    offer = transfer_pb2.Offer(
        grant_wait_ms=max(1, int(grant_wait_s * 1000)), growth_tokens=due.growth_tokens
    )
    if due.codecs:
        offer.codecs.extend(due.codecs)
    for choice in sorted(choices):
        sequence = offer.sequences.add(choice=choice, num_tokens=due.num_tokens)
        for _ in due.num_blocks:
            sequence.groups.add()
    for group, (count, hashes) in enumerate(zip(due.num_blocks, due.hashes, strict=True)):
        offer.groups.add(group=group, num_blocks=count, hashes=b"".join(hashes))
    return offer


def read_offer(offer: transfer_pb2.Offer, choices: AbstractSet[int], num_groups: int) -> Reserve:
    """What to reserve. Raises InvalidRequestError when the offer is not of this request."""
    growth_tokens = offer.growth_tokens
    hashes: list[tuple[bytes, ...]] = []
    num_blocks: list[int] = []
    for group in offer.groups:
        if group.group != len(num_blocks):
            break
        num_blocks.append(group.num_blocks)
        hashes.append(_offered_hashes(group, growth_tokens > 0))
    if not len(num_blocks) == len(offer.groups) == num_groups:
        raise InvalidRequestError(f"the offer must list groups 0 to {num_groups - 1}, each once")
    lengths: dict[int, int] = {}
    for sequence in offer.sequences:
        lengths[sequence.choice] = sequence.num_tokens
        _check_blocks(sequence, num_blocks)
    if len(offer.sequences) != len(lengths) or lengths.keys() != choices:
        raise InvalidRequestError("the offer's choices are not those of the request")
    codecs = tuple(offer.codecs)
    if not choices:
        # Fetched blocks: full ones, of no sequence in particular.
        return Reserve(0, tuple(hashes), tuple(num_blocks), codecs=codecs)
    num_tokens, *others = set(lengths.values())
    if others:
        raise UnsupportedError("choices of different length cannot share a handoff yet")
    return Reserve(num_tokens, tuple(hashes), tuple(num_blocks), growth_tokens, codecs)


def _check_blocks(sequence: transfer_pb2.OfferedSequence, num_blocks: Sequence[int]) -> None:
    """Every sequence has all blocks of every group."""
    named = sequence.groups
    if len(named) != len(num_blocks):
        raise InvalidRequestError("a sequence must name its blocks in every group")
    for blocks, count in zip(named, num_blocks, strict=True):
        index = blocks.index
        if index and (len(index) != count or index[:] != list(range(count))):
            raise UnsupportedError("choices with blocks of their own cannot be handed over yet")


def _offered_hashes(group: transfer_pb2.OfferedGroup, grows: bool) -> tuple[bytes, ...]:
    raw = group.hashes
    num_hashes, rest = divmod(len(raw), HASH_BYTES)
    num_bare = group.num_blocks - num_hashes
    # Those without a hash: a partial tail, and what a sequence may grow into.
    if rest or num_bare < 0 or (num_bare > 1 and not grows):
        raise InvalidRequestError(
            f"group {group.group} offers {group.num_blocks} blocks with {len(raw)} bytes of hashes"
        )
    return _split_hashes(raw)


def _split_hashes(raw: bytes) -> tuple[bytes, ...]:
    """The hashes; what is left over is dropped."""
    rest = len(raw) % HASH_BYTES
    return tuple(chain.from_iterable(_HASH.iter_unpack(raw[: len(raw) - rest] if rest else raw)))


def grant_body(
    groups: Sequence[ReservedGroup], transport_epoch: int, codec: str = ""
) -> transfer_pb2.Grant:
    """Everything that is reserved, in one grant."""
    grant = transfer_pb2.Grant(grant_seq=1, transport_epoch=transport_epoch, codec=codec)
    for group, reserved in enumerate(groups):
        skip = reserved.skip
        if len(skip) == len(reserved.block_ids):
            grant.groups.add(group=group, skip=sorted(skip))
            continue
        columns: tuple[Sequence[int], ...] = (
            range(len(reserved.block_ids)),
            reserved.block_ids,
            reserved.generations,
        )
        if skip:
            wanted = [index not in skip for index in columns[0]]
            columns = tuple([list(compress(column, wanted)) for column in columns])
        index, block_id, generation = columns
        grant.groups.add(
            group=group,
            index=index,
            block_id=block_id,
            generation=generation,
            skip=sorted(skip),
        )
    return grant


def read_grant(grant: transfer_pb2.Grant, into: Sequence[GroupGrant], due: Due) -> None:
    """Add a grant to what was granted before; what is known already stays as it is.

    Raises HandoffError when it grants what was not offered.
    """
    codec = grant.codec
    if codec and codec not in due.codecs:
        raise HandoffError(f"the grant wants codec {codec!r}, which was not offered")
    for granted in grant.groups:
        group = granted.group
        if group >= len(into):
            raise HandoffError(f"the grant names group {group}, which was not offered")
        known, limit = into[group], due.num_blocks[group]
        if granted.index or granted.block_id or granted.generation:
            _read_blocks(granted, known, limit)
        if granted.skip:
            # Copies of a message's columns are twice as fast to go through.
            skip = granted.skip[:]
            highest = max(skip)
            if highest >= limit:
                raise HandoffError(f"the grant skips block {highest} of {limit}")
            blocks = known.blocks
            known.skip.update([i for i in skip if i not in blocks] if blocks else skip)


def _read_blocks(granted: transfer_pb2.GrantedGroup, known: GroupGrant, limit: int) -> None:
    index, block_ids, generations = granted.index[:], granted.block_id[:], granted.generation[:]
    if not len(index) == len(block_ids) == len(generations):
        raise HandoffError("the grant's columns differ in length")
    highest = max(index)
    if highest >= limit:
        raise HandoffError(f"the grant names block {highest} of {limit}")
    fresh = dict(zip(index, zip(block_ids, generations, strict=True), strict=True))
    for skipped in known.skip:
        fresh.pop(skipped, None)
    known.blocks = fresh | known.blocks


def commit_body(
    due: Due,
    outputs: Mapping[int, SourceOutput],
    granted: Sequence[GroupGrant],
    checksums: Sequence[Mapping[int, int]],
) -> transfer_pb2.Commit:
    """`due` is what was offered and, of what had room to grow, has come.

    `checksums[group]` maps each written index to its checksum, if there are any.
    """
    commit = transfer_pb2.Commit()
    for choice, output in sorted(outputs.items()):
        commit.sequences.add(
            choice=choice,
            output=output.tokens,
            finish_reason=common_pb2.FinishReason.ValueType(output.finish or 0),
        )
    shard = commit.shards.add()
    for group, (grant, sums) in enumerate(zip(granted, checksums, strict=True)):
        hashes = b"".join(due.hashes[group])
        if not grant.blocks:
            shard.groups.add(group=group, hashes=hashes)
            continue
        order = sorted(grant.blocks)
        # What it had room to grow into and did not come is not committed.
        order = order[: bisect_left(order, due.num_blocks[group])]
        blocks = [grant.blocks[index] for index in order]
        shard.groups.add(
            group=group,
            index=order,
            block_id=[block_id for block_id, _ in blocks],
            generation=[generation for _, generation in blocks],
            checksum=[sums[i] for i in order] if sums else [],
            hashes=hashes,
        )
    return commit


def read_commit(
    commit: transfer_pb2.Commit,
    choices: AbstractSet[int],
    granted: Sequence[transfer_pb2.GrantedGroup],
    hashes: Sequence[Sequence[bytes]],
    *,
    checksums: bool,
    grows: bool = False,
    codec: str = "",
) -> Verify:
    """What to verify; `codec` is the grant's.

    Raises HandoffError when the commit is not of what was offered and granted, in its order. With
    `checksums` it must bring one for every written block. When the sequence `grows` the last of the
    granted blocks may be missing, and there may be hashes beyond the offered `hashes`.
    """
    outputs: dict[int, SourceOutput] = {}
    for sequence in commit.sequences:
        outputs[sequence.choice] = _output(sequence)
    if len(commit.sequences) != len(outputs) or outputs.keys() != choices:
        raise HandoffError("the commit's choices are not those of the request")
    shard, *others = commit.shards or (None,)
    if shard is None or others or shard.tp_rank or shard.pp_rank:
        raise HandoffError("the commit must come from one shard, rank 0")
    checks: list[BlockCheck] = []
    all_hashes: list[tuple[bytes, ...]] = []
    num_blocks: list[int] = []
    for group in shard.groups:
        number = group.group
        if number != len(checks) or number >= len(granted):
            break
        offered = hashes[number]
        check = _check_group(group, granted[number], offered, checksums, grows)
        checks.append(check)
        all_hashes.append(_split_hashes(group.hashes) if grows else tuple(offered))
        count = len(offered)
        num_blocks.append(max(count, group.index[-1] + 1) if check.block_ids else count)
    if not len(checks) == len(shard.groups) == len(granted):
        raise HandoffError("the commit's groups are not those of the offer")
    return Verify(tuple(checks), outputs, tuple(all_hashes), tuple(num_blocks), codec)


def _output(sequence: transfer_pb2.CommittedSequence) -> SourceOutput:
    output, reason = tuple(sequence.output), sequence.finish_reason
    if not output:
        raise HandoffError(f"choice {sequence.choice} comes without a token to go on from")
    if not reason:
        return SourceOutput(output, None)
    try:
        return SourceOutput(output, FinishReason(reason))
    except ValueError:
        return SourceOutput(output, FinishReason.ERROR)


def _check_group(
    group: transfer_pb2.CommittedGroup,
    granted: transfer_pb2.GrantedGroup,
    hashes: Sequence[bytes],
    checksums: bool,
    grows: bool,
) -> BlockCheck:
    number = group.group
    block_ids: tuple[int, ...] = ()
    if granted.index or group.index or group.block_id or group.generation:
        block_ids = _granted_ids(group, granted, grows)
    offered = b"".join(hashes)
    if group.hashes[: len(offered) if grows else None] != offered:
        raise HandoffError(f"the commit's hashes of group {number} are not those offered")
    sums = tuple(group.checksum)
    if len(sums) != (len(block_ids) if checksums or sums else 0):
        raise HandoffError(f"the commit has {len(sums)} checksums for {len(block_ids)} blocks")
    return BlockCheck(number, block_ids, sums if checksums else ())


def _granted_ids(
    group: transfer_pb2.CommittedGroup, granted: transfer_pb2.GrantedGroup, grows: bool
) -> tuple[int, ...]:
    end = len(group.index) if grows else None
    block_ids = group.block_id[:]
    if (
        group.index[:] != granted.index[:end]
        or block_ids != granted.block_id[:end]
        or group.generation[:] != granted.generation[:end]
    ):
        raise HandoffError(
            f"the commit's blocks or generations of group {group.group} are not those granted"
        )
    return tuple(block_ids)
