"""The engine's target side: reserve room for KV that another worker sends, then go on from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from baton.core.errors import HandoffError, InvalidRequestError
from baton.core.handoff import Key, ReservedGroup
from baton.core.request import Request
from baton.engine.block_manager import BlockManager
from baton.engine.intake import Intake
from baton.engine.limits import Limits
from baton.engine.reservations import Reservation, Reservations
from baton.engine.scheduler import Scheduler
from baton.engine.sequence import Sequence as Seq
from baton.engine.sequence import Submission

# Offers that wait for room are checked once, as long as no more than these wait.
MAX_KNOWN_OFFERS = 256
_IMPLAUSIBLE = "the source reported tokens that cannot be this request's"

Hashes = tuple[tuple[bytes, ...], ...]


class Targets:
    """What `Engine` says of reserve, check_commit, adopt, unreserve, lift_quarantine holds here."""

    def __init__(
        self, blocks: BlockManager, scheduler: Scheduler, limits: Limits, intake: Intake
    ) -> None:
        self.reservations = Reservations(blocks)
        self._blocks = blocks
        self._scheduler = scheduler
        self._limits = limits
        self._intake = intake
        self._known_offers: dict[Key, tuple[Request, int, Hashes]] = {}

    def reserve(
        self,
        key: Key,
        request: Request,
        num_tokens: int,
        hashes: Sequence[Sequence[bytes]],
        num_blocks: Sequence[int],
        growth_tokens: int,
    ) -> tuple[ReservedGroup, ...] | None:
        own_tokens, own_hashes = self._expected(key, request, growth_tokens)
        if (
            num_tokens != own_tokens
            or tuple(num_blocks) != self._blocks.needed(num_tokens + growth_tokens)
            or tuple([tuple(h) for h in hashes]) != own_hashes
        ):
            raise InvalidRequestError("the offer is not for the tokens of this request")
        scheduler = self._scheduler
        if scheduler.short_of_blocks:
            # Those that wait for blocks here already go first.
            return None
        if scheduler.num_slots + request.num_choices > scheduler.max_sequences:
            return None
        reserved = self.reservations.reserve(
            key, request, num_tokens, own_hashes, scheduler.headroom, growth_tokens
        )
        if reserved is not None:
            scheduler.num_slots += request.num_choices
            del self._known_offers[key]
        return reserved

    def adopt(
        self, key: Key, outputs: Mapping[int, tuple[int, ...]], runs: Callable[[Submission], None]
    ) -> int:
        """Start the choices in `outputs`; returns the tokens that were not transferred.

        `runs` is told of the submission, unless no choice goes on. Raises HandoffError when the
        outputs cannot be; nothing of the reservation is left then.
        """
        reservation = self._pop(key)
        assert reservation is not None, f"nothing is reserved for {key}"
        submission = self._intake.submission(key, reservation.owner)
        if not self._plausible(submission, reservation, outputs):
            self.reservations.close(reservation)
            raise HandoffError(_IMPLAUSIBLE)
        sequences = [
            self._grown(submission, reservation, choice, tokens)
            for choice, tokens in outputs.items()
        ]
        self.reservations.register(
            reservation, sequences[0].hashes if sequences else reservation.hashes
        )
        submission.scheduled = True
        for seq in sequences:
            self._start(seq, reservation)
        if submission.sequences:
            runs(submission)
        # After the sequences took their share, so that no block falls idle in between. What the
        # source did not fill of its room to grow is free.
        self.reservations.close(reservation)
        return len(reservation.groups[0].skip) * self._blocks.groups[0].block_size

    def check_commit(
        self,
        key: Key,
        outputs: Mapping[int, tuple[int, ...]],
        hashes: Sequence[Sequence[bytes]],
        num_blocks: Sequence[int],
    ) -> None:
        reservation = self.reservations.open[key]
        submission = self._intake.submission(key, reservation.owner)
        if not self._plausible(submission, reservation, outputs):
            raise HandoffError(_IMPLAUSIBLE)
        num_tokens, own_hashes = reservation.num_tokens, reservation.hashes
        if reservation.growth_tokens:
            (grown,) = (self._grown(submission, reservation, c, t) for c, t in outputs.items())
            num_tokens, own_hashes = grown.num_computed, tuple([tuple(h) for h in grown.hashes])
        if tuple([tuple(h) for h in hashes]) != own_hashes:
            raise HandoffError("the committed hashes are not those of the committed tokens")
        if tuple(num_blocks) != self._blocks.needed(num_tokens):
            raise HandoffError(f"{num_blocks} blocks are not those of {num_tokens} tokens")

    def unreserve(self, key: Key, *, quarantine: bool) -> None:
        reservation = self._pop(key)
        if reservation is None:
            return
        if quarantine:
            self.reservations.quarantine(key, reservation)
        else:
            self.reservations.close(reservation)

    def forget_offer(self, key: Key) -> None:
        """No more `reserve` will come for this key, so far as is known."""
        self._known_offers.pop(key, None)

    def _plausible(
        self,
        submission: Submission,
        kv: Reservation,
        outputs: Mapping[int, tuple[int, ...]],
    ) -> bool:
        """Whether a source can have generated this. One that decoded on brings its one choice."""
        if not self._limits.plausible(submission, outputs):
            return False
        if not kv.growth_tokens:
            return True
        return len(outputs) == 1 and all(len(t) <= kv.growth_tokens for t in outputs.values())

    def _grown(
        self, submission: Submission, kv: Reservation, choice: int, tokens: Sequence[int]
    ) -> Seq:
        """The sequence that goes on from `kv`, without its blocks.

        A source that decoded on has left the KV of all tokens but the last one.
        """
        seq = self._intake.sequence(submission, (choice,), kv.owner.outputs[choice] + tuple(tokens))
        seq.hashes = tuple([list(h) for h in kv.hashes])
        seq.num_computed = kv.num_tokens
        if kv.growth_tokens:
            seq.num_computed += len(tokens) - 1
            seq.extend_hashes(self._blocks.groups, seq.num_computed)
        return seq

    def _start(self, seq: Seq, kv: Reservation) -> None:
        seq.num_registered = [len(h) for h in seq.hashes]
        self._blocks.set_register_at(seq)
        needed = self._blocks.needed(seq.num_computed)
        for table, group, num_used in zip(seq.tables, kv.groups, needed, strict=True):
            table.extend(group.block_ids[:num_used])
        # `writable` stays at 0: the scheduler looks at the tail, which may be shared, first.
        self._blocks.share(seq)
        seq.submission.sequences.append(seq)
        self._scheduler.start(seq)

    def _pop(self, key: Key) -> Reservation | None:
        reservation = self.reservations.open.pop(key, None)
        if reservation is not None:
            self._scheduler.num_slots -= reservation.num_slots
        return reservation

    def _expected(self, key: Key, request: Request, growth_tokens: int) -> tuple[int, Hashes]:
        """How many tokens an honest source offers for `request`, and their hashes.

        Raises as `reserve` does. Kept while the target waits for room and asks again.
        """
        known = self._known_offers.get(key)
        if known is not None and known[0] is request:
            return known[1], known[2]
        self._limits.check(request)
        self._limits.check_handoff(request)
        submission = self._intake.submission(key, request)
        self._limits.check_growth(submission, growth_tokens)
        seq = self._intake.sequences(submission)[0]
        hashes = tuple([tuple(h) for h in seq.hashes])
        if len(self._known_offers) >= MAX_KNOWN_OFFERS:
            del self._known_offers[next(iter(self._known_offers))]
        self._known_offers[key] = (request, seq.num_tokens, hashes)
        return seq.num_tokens, hashes
