"""Source side of a move: a decoding sequence is copied to another worker while it goes on.

```
COPYING: it decodes; full blocks are announced as they become so, for they do not change any more
   -> STOPPED: it is HELD; its last blocks are announced, the partial tail too -> handed over
   either one: the move came to nothing for certain -> it goes on here
               it ended, or was aborted             -> its move ends with it
```

What a move has announced it *pins*: it is one more owner of these blocks until `unpin`, which comes
when no write reads them any more. So the sequence may end, be preempted, or go on decoding after a
failed move whenever that happens; of a pinned tail it makes a copy before it writes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from baton.core.errors import BatonError, HandoffError, UnsupportedError
from baton.core.handoff import BlocksReady, Key, MoveStopped, OfferDue, SourceOutput
from baton.core.request import FinishReason
from baton.engine.block_manager import BlockManager
from baton.engine.outputs import Failure, StepOutput
from baton.engine.scheduler import Scheduler
from baton.engine.sequence import Sequence, Status, Submission


@dataclass(slots=True, eq=False)
class _Move:
    seq: Sequence
    # Output tokens that the target's submission has, and how many more it may be sent.
    next_position: int
    growth_tokens: int
    # Per group: blocks that had a hash in the offer, and blocks announced.
    num_hashed: tuple[int, ...]
    num_ready: list[int]
    is_granted: bool = False
    # It is to stop as soon as there is a token to hand over.
    stop_wanted: bool = False

    @property
    def num_new(self) -> int:
        """Tokens that the target does not have."""
        return len(self.seq.output) - self.next_position


class Migrations:
    """What `Engine` says of migrate, stop_move and end_move holds here."""

    def __init__(self, blocks: BlockManager, scheduler: Scheduler) -> None:
        self._blocks = blocks
        self._scheduler = scheduler
        self._moves: dict[Key, _Move] = {}
        # Per key and group. Outlives the move.
        self._pinned: dict[Key, list[list[int]]] = {}

    def begin(
        self, submission: Submission | None, next_position: int, max_growth_tokens: int
    ) -> tuple[OfferDue, BlocksReady]:
        """Start to move a submission's only sequence; raises as `Engine.migrate` does."""
        seq = self._movable(submission)
        submission = seq.submission
        growth = min(max_growth_tokens, submission.max_output - next_position)
        num_new = len(seq.output) - next_position
        if not 0 <= num_new < growth:
            raise HandoffError(
                f"the target was given {next_position} of {len(seq.output)} output tokens, with "
                f"room for {growth} more"
            )
        groups = self._blocks.groups
        num_tokens = len(submission.request.prompt) + next_position
        seq.extend_hashes(groups, num_tokens)
        num_hashed = tuple([num_tokens // spec.block_size for spec in groups])
        due = OfferDue(
            submission.key,
            num_tokens,
            tuple([tuple(h[:n]) for h, n in zip(seq.hashes, num_hashed, strict=True)]),
            self._blocks.needed(num_tokens + growth),
            growth,
        )
        move = _Move(seq, next_position, growth, num_hashed, [0] * len(groups))
        submission.is_moving = True
        self._moves[submission.key] = move
        self._pinned[submission.key] = [[] for _ in groups]
        return due, BlocksReady(submission.key, *self._announce(move), done=False)

    def _movable(self, submission: Submission | None) -> Sequence:
        if submission is None:
            raise HandoffError("nothing of this submission runs here")
        if submission.request.num_choices > 1:
            raise UnsupportedError("several choices cannot be moved together yet")
        if submission.key in self._pinned:
            raise HandoffError("its last move has not settled yet")
        seq = submission.sequences[0]
        if submission.handoff or seq not in self._scheduler.decoding:
            raise HandoffError("it is not being decoded now")
        return seq

    def grant(self, key: Key) -> None:
        """The target has room. Unknown keys are ignored."""
        if key in self._moves:
            self._moves[key].is_granted = True

    def want_stop(self, key: Key) -> None:
        """The copy has caught up. Unknown keys are ignored."""
        if key in self._moves:
            self._moves[key].stop_wanted = True

    def stop_if_due(self, key: Key) -> MoveStopped | None:
        """Stop the sequence if that is wanted and it has a token to hand over. Between steps."""
        move = self._moves.get(key)
        if move is None or not (move.stop_wanted and move.num_new) or _has_stopped(move):
            return None
        return self._stop(move)

    def collect(self, out: StepOutput) -> None:
        """After a step: announce what became final, stop what is to stop."""
        for key, move in list(self._moves.items()):
            if _has_stopped(move):
                continue
            if move.seq.status is Status.FINISHED:
                self.end(key)
                out.stopped.append(_ended(move, out))
            elif move.is_granted and move.num_new and self._must_stop(move):
                out.stopped.append(self._stop(move))
            elif move.seq.submission.is_cramped or move.num_new >= move.growth_tokens:
                out.unmoved.append(Failure(key, _outgrown(move)))
                self.end(key)
            else:
                ready = BlocksReady(key, *self._announce(move), done=False)
                if any(ready.block_ids):
                    out.ready.append(ready)

    def end(self, key: Key) -> None:
        """The move is over; a sequence that it stopped goes on. Unknown keys are ignored."""
        move = self._moves.pop(key, None)
        if move is None:
            return
        seq = move.seq
        seq.submission.is_moving = seq.submission.is_cramped = False
        if seq.status is Status.HELD:
            self._scheduler.num_slots -= seq.num_slots
            # The scheduler looks at the tail, which may be pinned, first.
            seq.writable = 0
            self._scheduler.start(seq)

    def unpin(self, key: Key) -> None:
        """No write reads the key's announced blocks any more. Unknown keys are ignored."""
        pinned = self._pinned.pop(key, None)
        if pinned is not None:
            for pool, blocks in zip(self._blocks.pools, pinned, strict=True):
                pool.free_all(blocks)

    def pinned(self, group: int) -> Iterable[int]:
        """Block ids, for integrity checks."""
        return (block for pinned in self._pinned.values() for block in pinned[group])

    # --- parts ---

    def _must_stop(self, move: _Move) -> bool:
        return (
            move.stop_wanted or move.seq.submission.is_cramped or move.num_new >= move.growth_tokens
        )

    def _stop(self, move: _Move) -> MoveStopped:
        """Hold the sequence, with its slot: it must be able to go on at once."""
        seq = move.seq
        self._scheduler.hold(seq)
        self._scheduler.num_slots += seq.num_slots
        num_computed = seq.num_computed
        hashes = tuple(
            tuple(h[done : num_computed // spec.block_size])
            for h, done, spec in zip(seq.hashes, move.num_hashed, self._blocks.groups, strict=True)
        )
        return MoveStopped(
            seq.submission.key,
            *self._announce(move, tail=True),
            hashes,
            _new_output(move, None),
        )

    def _announce(
        self, move: _Move, *, tail: bool = False
    ) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        """Pin the full blocks (with `tail` all) not announced before: first indices, block ids."""
        seq = move.seq
        first = tuple(move.num_ready)
        block_ids = []
        pinned = self._pinned[seq.submission.key]
        for group, (table, pool) in enumerate(zip(seq.tables, self._blocks.pools, strict=True)):
            size = pool.spec.block_size
            end = pool.spec.num_blocks(seq.num_computed) if tail else seq.num_computed // size
            ids = tuple(table.data[first[group] : end].tolist())
            for block in ids:
                pool.share(block)
            pinned[group] += ids
            block_ids.append(ids)
            move.num_ready[group] = end
        return first, tuple(block_ids)


def _has_stopped(move: _Move) -> bool:
    return move.seq.status is Status.HELD


def _ended(move: _Move, out: StepOutput) -> MoveStopped:
    """The sequence finished in this step: `out` has its last row."""
    key, nothing = move.seq.submission.key, tuple(() for _ in move.num_ready)
    finish = next((row.finish for row in out.rows if row.key == key), None)
    return MoveStopped(
        key,
        tuple(move.num_ready),
        nothing,
        nothing,
        _new_output(move, finish or FinishReason.ERROR),
    )


def _new_output(move: _Move, finish: FinishReason | None) -> dict[int, SourceOutput]:
    """What the target's submission does not have."""
    tokens = tuple(move.seq.output[move.next_position :])
    return {move.seq.choices[0]: SourceOutput(tokens, finish)}


def _outgrown(move: _Move) -> BatonError:
    if move.seq.submission.is_cramped:
        return HandoffError("no free KV block to go on with before the target granted room")
    return HandoffError(
        f"it generated the {move.growth_tokens} tokens that there was to be room for before the "
        "target granted any"
    )
