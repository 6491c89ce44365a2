"""The engine: add -> schedule -> run -> postprocess. Pure Python; a Runner computes.

Everything is called on one thread. A submission is plain (compute and generate here), a source
(compute the prompt, then hold its blocks for another worker) or a target (KV comes from another
worker, then generate). A plain one, or a target's, can be moved to another worker as it decodes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from baton.core.clock import Clock, monotonic
from baton.core.errors import HandoffError
from baton.core.handoff import BlocksReady, Key, MoveStopped, OfferDue, ReservedGroup
from baton.core.kv import GroupSpec
from baton.core.request import Request
from baton.core.settings import EngineSettings, TierSettings
from baton.engine.announce import Announcer, Tell
from baton.engine.batch import Batch
from baton.engine.block_manager import BlockManager
from baton.engine.fetches import Fetches
from baton.engine.intake import Intake
from baton.engine.integrity import check_integrity
from baton.engine.limits import Limits
from baton.engine.load_report import LoadReport
from baton.engine.lower_tiers import LowerTiers, TierSizes
from baton.engine.migration import Migrations
from baton.engine.outputs import (
    CacheDelta,
    EngineLoad,
    Failure,
    Scheduled,
    StepOutput,
)
from baton.engine.pins import Pins
from baton.engine.postprocess import Postprocessor
from baton.engine.prefetch import prefetch
from baton.engine.runner import Runner
from baton.engine.scheduler import Scheduler
from baton.engine.sequence import Sequence as Seq
from baton.engine.sequence import Status, Submission
from baton.engine.targets import Targets
from baton.engine.tiering import Tiering

# Key of what is only looked at.
PROBE: Key = ("", 0)


class Engine:
    """Continuous batching over one Runner."""

    def __init__(
        self,
        settings: EngineSettings,
        runner: Runner,
        digest: str,
        clock: Clock = monotonic,
        *,
        max_ungranted_share: float = 0.25,
        layer_groups: int = 1,
    ) -> None:
        """`max_ungranted_share` and `layer_groups` are those of TransferSettings."""
        self.max_model_len = runner.max_model_len
        self.groups: tuple[GroupSpec, ...] = runner.groups
        self._runner = runner
        self._clock = clock
        self._blocks = BlockManager(runner.groups, runner.num_blocks)
        self._scheduler = Scheduler(
            self._blocks,
            settings.max_batch_tokens,
            settings.max_sequences,
            max_ungranted_share,
            settings.queue_policy,
        )
        self._limits = Limits(
            runner.vocab_size, runner.max_model_len, settings.max_sequences, self._blocks
        )
        self._intake = Intake(runner, digest)
        self._targets = Targets(self._blocks, self._scheduler, self._limits, self._intake)
        self._migrations = Migrations(self._blocks, self._scheduler)
        self._pins = Pins(self._blocks, settings.max_pinned_share)
        self._postprocessor = Postprocessor(
            self._scheduler, self._blocks, self._intake.sequence_ids, self._ends
        )
        reservations = self._targets.reservations
        self.fetches = Fetches(self._blocks, self._scheduler, reservations, self._wake)
        self._report = LoadReport(
            self._blocks, self._scheduler, reservations, self._pins, self.fetches
        )
        self._announcer = Announcer(runner.groups, layer_groups)
        self._tiering: Tiering | None = None
        self._submissions: dict[Key, Submission] = {}
        # What was asked for in the midst of a step of sequences that it may be computing; None
        # outside of steps.
        self._after_step: list[Callable[[], None]] | None = None
        # What the next step reports although it did not bring it about.
        self._pending = StepOutput()
        # Nothing that waits can run before something changes.
        self._stalled = False

    def attach_tiers(
        self, settings: TierSettings, sizes: Sequence[TierSizes], tiers: LowerTiers
    ) -> Tiering:
        """Keep copies of cached blocks in lower tiers, `sizes[g]` for group g. Before any step."""
        self._tiering = Tiering(
            settings,
            self._blocks,
            sizes,
            tiers,
            self._clock,
            headroom=lambda: self._scheduler.headroom,
            wake=self._wake,
        )
        self._scheduler.promotions = self._tiering.promotions
        return self._tiering

    # --- requests ---

    def check(self, request: Request) -> None:
        """Raise InvalidRequestError or ContextLengthError when it can never run here."""
        self._limits.check(request)

    def add(self, key: Key, request: Request, *, handoff: bool = False) -> None:
        """Queue a request; with `handoff` this worker is its source. Never refuses for load.

        Raises InvalidRequestError as `check` does, and UnsupportedError for a handoff of several
        choices with output.
        """
        self.check(request)
        if handoff:
            self._limits.check_handoff(request)
        submission = self._intake.submission(key, request, handoff=handoff)
        self._register(submission)
        self._report.saw_prompt(len(request.prompt))
        submission.sequences = self._intake.sequences(submission)
        for seq in submission.sequences:
            self._scheduler.waiting.push(seq)
        self._stalled = False

    def abort(self, key: Key) -> None:
        """Stop a submission. A source's blocks stay until `release`; unknown keys are ignored.

        In the midst of a step it takes effect at the step's end.
        """
        if self._after_step is not None:
            self._after_step.append(lambda: self.abort(key))
            return
        self._targets.forget_offer(key)
        submission = self._submissions.get(key)
        if submission is None:
            return
        self._stalled = False
        if submission.handoff and submission.sequences[0].status is not Status.WAITING:
            seq = submission.sequences[0]
            if seq.status is Status.RUNNING:
                self._scheduler.hold(seq)
            if not submission.released:
                return
        self._migrations.end(key)
        self._forget(submission)

    def prefetch(self, request: Request) -> bool:
        """A prompt is about to come: promote what tiers have of it, and pin it as it says.

        False when so many prompts are being promoted that this one is not. Raises as `check` does.
        """
        self.check(request)
        promotions = None if self._tiering is None else self._tiering.promotions
        return prefetch(self._probe(request), self._blocks, self._pins, promotions, self._clock())

    def missing(self, request: Request) -> list[list[bytes]]:
        """Per group, the hashes that `fetches` could ask a peer for."""
        promotions = None if self._tiering is None else self._tiering.promotions
        return self.fetches.missing(self._probe(request), promotions)

    def _probe(self, request: Request) -> Seq:
        """A sequence of the request that is never run."""
        return self._intake.sequences(self._intake.submission(PROBE, request))[0]

    def request(self, key: Key) -> Request | None:
        """What runs, waits or is held under this key."""
        submission = self._submissions.get(key)
        return None if submission is None else submission.request

    # --- steps ---

    @property
    def has_work(self) -> bool:
        """Whether a step would do something."""
        expiry = self._pins.next_expiry()
        if expiry is not None and expiry <= self._clock():
            return True
        if self._pending.failures or self._pending.scheduled or self._blocks.changed:
            return True
        if self._tiering is not None and self._tiering.due:
            return True
        scheduler = self._scheduler
        return not self._stalled and bool(
            scheduler.decoding or scheduler.prefilling or len(scheduler.waiting)
        )

    def step(self, tell: Tell | None = None) -> StepOutput:
        """Schedule, run, postprocess. Without work it returns an empty output.

        `tell(output)` is called in the midst of it, on this thread, with what a target wants to
        hear early and the step's own output lacks then: offers before anything is computed, and
        parts of blocks while later layers are. It may call everything here but `step`.
        """
        out, self._pending = self._pending, StepOutput()
        started = self._clock()
        self._pins.expire(started)
        if self._tiering is not None:
            self._tiering.promotions.expire(started)
        chosen = self._scheduler.schedule(started, out)
        self._stalled = not chosen and not self._scheduler.lost_blocks
        for failure in out.failures:
            self._submissions.pop(failure.key, None)
        self._after_step = []
        pieces = self._announcer.begin(chosen, out, tell) if tell is not None else None
        if chosen:
            sampled = self._runner.run(self._batch(chosen), pieces)
            num_parts = 1 if pieces is None else pieces.num_pieces
            for submission in self._postprocessor.process(chosen, sampled, out, num_parts):
                del self._submissions[submission.key]
            out.step_s = self._clock() - started
        self._migrations.collect(out)
        if out.unmoved:
            self._stalled = False
        put_off, self._after_step = self._after_step, None
        for work in put_off:
            work()
        if self._tiering is not None:
            self._tiering.pump()
            out.cache += self._tiering.take_changes()
        for group, stored, removed in self._blocks.take_changes():
            out.cache.append(CacheDelta(group, stored, removed))
        return out

    def next_deadline(self) -> float | None:
        """When `has_work` may become true by itself, on the engine's clock."""
        promoted = None if self._tiering is None else self._tiering.promotions.next_deadline()
        deadlines = (promoted, self._pins.next_expiry())
        return min((d for d in deadlines if d is not None), default=None)

    def _batch(self, chosen: Sequence[Seq]) -> Batch:
        batch = Batch([seq.entry() for seq in chosen])
        for seq in chosen:
            if seq.copies:
                batch.copies += seq.copies
                seq.copies.clear()
        return batch

    # --- source side ---

    def grant(self, key: Key) -> None:
        """The target of a source's submission has room. Unknown keys are ignored."""
        self._migrations.grant(key)
        submission = self._submissions.get(key)
        if submission is not None:
            submission.granted = True
            self._scheduler.discharge(submission)
            self._stalled = False

    def release(self, key: Key) -> None:
        """Nobody reads a source's blocks any more: they become plain prefix cache.

        While the prompt is still being computed they do so at its end, and a moved sequence that
        is here keeps its own. Unknown keys are ignored.
        """
        self._migrations.unpin(key)
        self._stalled = False
        submission = self._submissions.get(key)
        if submission is None or not submission.handoff:
            return
        submission.released = True
        if submission.sequences[0].status is Status.HELD:
            self._forget(submission)

    # --- source side of a move ---

    def migrate(
        self, key: Key, next_position: int, max_growth_tokens: int
    ) -> tuple[OfferDue, BlocksReady]:
        """Offer a decoding sequence to another worker that has `next_position` output tokens of it.

        It goes on; later blocks, and its stop, come with the steps' outputs. It may generate
        `max_growth_tokens` more, beyond `next_position`, before it must have stopped. Announced
        blocks stay until `release`. Raises HandoffError when it cannot be moved now, and
        UnsupportedError when it never can.
        """
        return self._migrations.begin(self._submissions.get(key), next_position, max_growth_tokens)

    def stop_move(self, key: Key) -> MoveStopped | None:
        """All that was announced has been copied: stop the sequence, to hand over the rest.

        None when it must make another token first, or computes one now: it stops with that step.
        Unknown keys are ignored.
        """
        self._migrations.want_stop(key)
        return None if self._after_step is not None else self._migrations.stop_if_due(key)

    def end_move(self, key: Key) -> None:
        """The target will never have it: the sequence goes on here. Unknown keys are ignored."""
        self._migrations.end(key)
        self._stalled = False

    # --- target side ---

    def reserve(
        self,
        key: Key,
        request: Request,
        num_tokens: int,
        hashes: Sequence[Sequence[bytes]],
        num_blocks: Sequence[int],
        growth_tokens: int = 0,
    ) -> tuple[ReservedGroup, ...] | None:
        """Room for offered KV, or None while there is none.

        The offer must be for just the tokens of `request`: those of its prompt and, with one
        choice, of its output so far, and for room for `growth_tokens` more, of which a source that
        decodes on may fill some. Raises InvalidRequestError when it is not, or can never run.
        """
        return self._targets.reserve(key, request, num_tokens, hashes, num_blocks, growth_tokens)

    def check_commit(
        self,
        key: Key,
        outputs: Mapping[int, tuple[int, ...]],
        hashes: Sequence[Sequence[bytes]],
        num_blocks: Sequence[int],
    ) -> None:
        """Whether what a source committed can be what was reserved for.

        `outputs` as for `adopt`; `hashes` and `num_blocks` are those of all blocks that hold KV
        now. Raises HandoffError.
        """
        self._targets.check_commit(key, outputs, hashes, num_blocks)

    def adopt(self, key: Key, outputs: Mapping[int, tuple[int, ...]]) -> None:
        """The reserved blocks hold verified KV: run the choices in `outputs` from here.

        `outputs[c]` are the tokens that the source generated, which follow `request.outputs[c]`; no
        rows are emitted for them. The choices left out have ended. Tokens that cannot be are
        reported as a Failure.
        """
        self._stalled = False
        try:
            num_cached = self._targets.adopt(key, outputs, self._register)
        except HandoffError as error:
            self._pending.failures.append(Failure(key, error))
        else:
            self._pending.scheduled.append(Scheduled(key, num_cached))

    def unreserve(self, key: Key, *, quarantine: bool) -> None:
        """Give reserved blocks back or, while a write may still land in them, set them aside.

        Ignored for keys without a reservation.
        """
        self._targets.unreserve(key, quarantine=quarantine)
        self._stalled = False

    def lift_quarantine(self, key: Key) -> None:
        """No write can land any more: the key's quarantined blocks are free. Others ignored."""
        self._targets.reservations.lift(key)
        self._stalled = False

    # --- what others want to know ---

    def load(self) -> EngineLoad:
        """What the engine is doing now. Blocks are those of group 0, reserved ones of all."""
        return self._report.load(self._tiering)

    def cached_hashes(self) -> list[list[bytes]]:
        """Per group, the hashes of all blocks in the prefix cache."""
        return [pool.cache.hashes() for pool in self._blocks.pools]

    def check_integrity(self) -> None:
        """Assert that every block and slot is accounted for. Linear in the size of the pool."""
        check_integrity(
            self._blocks,
            self._scheduler,
            self._targets.reservations,
            self._migrations,
            self._submissions,
            self._tiering,
            self.fetches,
        )
        self._pins.check()

    # --- parts ---

    def _wake(self) -> None:
        """What waits may find room now."""
        self._stalled = False

    def _register(self, submission: Submission) -> None:
        assert submission.key not in self._submissions, f"key {submission.key} is taken"
        self._submissions[submission.key] = submission

    def _forget(self, submission: Submission) -> None:
        """Drop a submission with its sequences."""
        self._scheduler.discharge(submission)
        for seq in submission.sequences:
            self._ends(seq)
            self._scheduler.drop(seq)
        del self._submissions[submission.key]

    def _ends(self, seq: Seq) -> None:
        """A sequence is wanted here no more. One that is moved goes on, and ends, elsewhere."""
        if not seq.submission.is_moving:
            self._pins.keep(seq, self._clock())
