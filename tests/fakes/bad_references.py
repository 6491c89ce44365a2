"""Ways in which a handoff's references and bytes can be wrong, for the integrity fuzz.

Bad references are sealed anew, as if their sender believed in them; bit flips are not.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from baton.transfer.seal import seal
from baton.v1 import transfer_pb2 as pb

Message = pb.HandoffMessage
Change = Callable[[Message, random.Random], None]
# Blocks of the target's pool that none of its handoffs holds.
UNUSED_BLOCKS = range(400, 500)
ALWAYS = 1000


@dataclass(frozen=True)
class Injection:
    """What is changed in messages of `kind`; `memory` flips a bit of a landed block instead."""

    name: str
    kind: str = ""
    change: Change | None = None
    sealed: bool = True

    @property
    def memory(self) -> bool:
        return not self.kind

    def edit(self, rng: random.Random) -> Callable[[Message], None]:
        def edit(message: Message) -> None:
            assert self.change is not None, "only messages are edited"
            self.change(message, rng)
            if self.sealed:
                seal(message)

        return edit


def flip(data: bytes, rng: random.Random, first: int = 0, end: int | None = None) -> bytes:
    """`data` with one bit changed somewhere in [first, end)."""
    changed = bytearray(data)
    changed[rng.randrange(first, len(data) if end is None else end)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _flip_message(message: Message, rng: random.Random) -> None:
    """One bit of the encoding, such that it can be read."""
    data = message.SerializeToString()
    while True:
        changed = Message()
        with contextlib.suppress(DecodeError):
            changed.ParseFromString(flip(data, rng))
            if changed != message and changed.WhichOneof("body") not in (None, "hello"):
                message.CopyFrom(changed)
                return


# --- offers ---


def _offer_hash(message: Message, rng: random.Random) -> None:
    group = message.offer.groups[0]
    group.hashes = flip(group.hashes, rng)


def _offer_tokens(message: Message, rng: random.Random) -> None:
    message.offer.sequences[0].num_tokens += rng.choice([-1, 1])


def _offer_blocks(message: Message, rng: random.Random) -> None:
    message.offer.groups[0].num_blocks += rng.choice([-1, 1])


def _offer_choice(message: Message, rng: random.Random) -> None:
    message.offer.sequences[0].choice += 1


# --- grants ---


def _grant_block(message: Message, rng: random.Random) -> None:
    blocks = message.grant.groups[0].block_id
    blocks[rng.randrange(len(blocks))] = rng.choice(UNUSED_BLOCKS)


def _grant_swapped(message: Message, rng: random.Random) -> None:
    blocks = message.grant.groups[0].block_id
    a, b = rng.sample(range(len(blocks)), 2)
    blocks[a], blocks[b] = blocks[b], blocks[a]


def _grant_generation(message: Message, rng: random.Random) -> None:
    generations = message.grant.groups[0].generation
    generations[rng.randrange(len(generations))] += 1


def _grant_skip(message: Message, rng: random.Random) -> None:
    group = message.grant.groups[0]
    group.skip.append(group.index.pop())
    group.block_id.pop()
    group.generation.pop()


def _grant_agent(message: Message, rng: random.Random) -> None:
    message.grant.transport_epoch += 1


# --- commits ---


def _written(message: Message) -> pb.CommittedGroup:
    return message.commit.shards[0].groups[0]


def _commit_block(message: Message, rng: random.Random) -> None:
    blocks = _written(message).block_id
    blocks[rng.randrange(len(blocks))] = rng.choice(UNUSED_BLOCKS)


def _commit_generation(message: Message, rng: random.Random) -> None:
    generations = _written(message).generation
    generations[rng.randrange(len(generations))] += rng.choice([-1, 1])


def _commit_checksum(message: Message, rng: random.Random) -> None:
    sums = _written(message).checksum
    sums[rng.randrange(len(sums))] ^= 1 << rng.randrange(64)


def _commit_hash(message: Message, rng: random.Random) -> None:
    group = _written(message)
    group.hashes = flip(group.hashes, rng)


def _commit_missing(message: Message, rng: random.Random) -> None:
    group = _written(message)
    for column in (group.index, group.block_id, group.generation, group.checksum):
        column.pop()


def _commit_choice(message: Message, rng: random.Random) -> None:
    message.commit.sequences[0].choice += 1


class _Replay:
    """The body of an earlier handoff's commit, under this one's name."""

    def __init__(self) -> None:
        self._earlier: pb.Commit | None = None

    def __call__(self, message: Message, rng: random.Random) -> None:
        earlier, self._earlier = self._earlier, pb.Commit()
        self._earlier.CopyFrom(message.commit)
        if earlier is None:
            _commit_hash(message, rng)
        else:
            message.commit.CopyFrom(earlier)


# --- what names the handoff ---


def _nonce(message: Message, rng: random.Random) -> None:
    # Its end counts the handoffs of the fuzz: another one's name is not drawn by chance.
    message.handoff_id = flip(message.handoff_id, rng, 0, 8)


def _attempt(message: Message, rng: random.Random) -> None:
    message.attempt += rng.choice([-1, 1])


def _source_epoch(message: Message, rng: random.Random) -> None:
    message.source_epoch -= 1


def _target_epoch(message: Message, rng: random.Random) -> None:
    message.target_epoch -= 1


_NAMES: dict[str, Change] = {
    "wrong nonce": _nonce,
    "wrong attempt": _attempt,
    "stale source epoch": _source_epoch,
    "stale target epoch": _target_epoch,
}


def injections() -> list[Injection]:
    """Every kind; some remember earlier messages, so each fuzz takes its own."""
    bad: dict[str, dict[str, Change]] = {
        "offer": {
            "wrong hash": _offer_hash,
            "wrong number of tokens": _offer_tokens,
            "wrong number of blocks": _offer_blocks,
            "wrong choice": _offer_choice,
        },
        "grant": {
            "wrong block id": _grant_block,
            "block ids swapped": _grant_swapped,
            "wrong generation": _grant_generation,
            "skips what is not held": _grant_skip,
            "stale agent": _grant_agent,
        },
        "commit": {
            "wrong block id": _commit_block,
            "wrong generation": _commit_generation,
            "checksum bit": _commit_checksum,
            "wrong hash": _commit_hash,
            "block missing": _commit_missing,
            "wrong choice": _commit_choice,
            "of another handoff": _Replay(),
        },
    }
    found = [Injection("memory: bit of a landed block")]
    for kind, changes in bad.items():
        for name, change in (changes | _NAMES).items():
            found.append(Injection(f"{kind}: {name}", kind, change))
    for kind in ("offer", "grant", "commit", "accepted"):
        found.append(Injection(f"{kind}: any bit of the message", kind, _flip_message, False))
    return found
