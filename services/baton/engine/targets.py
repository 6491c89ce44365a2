"""The engine's target side: reserve room for KV that another worker sends, then go on from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from baton.core.errors import HandoffError, InvalidRequestError
from baton.core.request import Request
from baton.engine.block_manager import BlockManager
from baton.engine.intake import Intake
from baton.engine.limits import Limits
from baton.engine.outputs import Key, Reserved
from baton.engine.reservations import Reservation, Reservations
from baton.engine.scheduler import Scheduler
from baton.engine.sequence import Submission

# Offers that wait for room are checked once, as long as no more than these wait.
MAX_KNOWN_OFFERS = 256

Hashes = tuple[tuple[bytes, ...], ...]


class Targets:
    """What `Engine` says of reserve, adopt, unreserve and lift_quarantine holds here."""

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
    ) -> tuple[Reserved, ...] | None:
        own_tokens, own_hashes = self._expected(key, request)
        if (
            num_tokens != own_tokens
            or tuple(num_blocks) != self._blocks.needed(num_tokens)
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
            key, request, num_tokens, own_hashes, scheduler.headroom
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
        submission = self._intake.submission(key, reservation.request)
        if not self._limits.plausible(submission, outputs):
            self.reservations.close(reservation)
            raise HandoffError("the source reported tokens that cannot be this request's")
        self.reservations.register(reservation)
        submission.scheduled = True
        for choice, tokens in outputs.items():
            output = reservation.request.outputs[choice] + tuple(tokens)
            self._start(submission, choice, output, reservation)
        if submission.sequences:
            runs(submission)
        # After the sequences took their share, so that no block falls idle in between.
        self.reservations.close(reservation)
        return len(reservation.groups[0].skip) * self._blocks.groups[0].block_size

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

    def _start(
        self, submission: Submission, choice: int, output: Sequence[int], kv: Reservation
    ) -> None:
        seq = self._intake.sequence(submission, (choice,), output)
        seq.hashes = tuple([list(h) for h in kv.hashes])
        seq.num_registered = [len(h) for h in kv.hashes]
        seq.num_computed = kv.num_tokens
        self._blocks.set_register_at(seq)
        for table, group in zip(seq.tables, kv.groups, strict=True):
            table.extend(group.block_ids)
        # `writable` stays at 0: the scheduler looks at the tail, which may be shared, first.
        self._blocks.share(seq)
        submission.sequences.append(seq)
        self._scheduler.start(seq)

    def _pop(self, key: Key) -> Reservation | None:
        reservation = self.reservations.open.pop(key, None)
        if reservation is not None:
            self._scheduler.num_slots -= reservation.num_slots
        return reservation

    def _expected(self, key: Key, request: Request) -> tuple[int, Hashes]:
        """How many tokens an honest source offers for `request`, and their hashes.

        Raises as `reserve` does. Kept while the target waits for room and asks again.
        """
        known = self._known_offers.get(key)
        if known is not None and known[0] is request:
            return known[1], known[2]
        self._limits.check(request)
        self._limits.check_handoff(request)
        seq = self._intake.sequences(self._intake.submission(key, request))[0]
        hashes = tuple([tuple(h) for h in seq.hashes])
        if len(self._known_offers) >= MAX_KNOWN_OFFERS:
            del self._known_offers[next(iter(self._known_offers))]
        self._known_offers[key] = (request, seq.num_tokens, hashes)
        return seq.num_tokens, hashes
