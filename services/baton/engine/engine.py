"""The engine: add -> schedule -> run -> postprocess. Pure Python; a Runner computes.

Everything is called on one thread. A submission is plain (compute and generate here), a source
(compute the prompt, then hold its blocks for another worker) or a target (KV comes from another
worker, then generate).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from baton.core.clock import Clock, monotonic
from baton.core.errors import HandoffError
from baton.core.kv import GroupSpec
from baton.core.request import Request
from baton.core.settings import EngineSettings
from baton.engine.batch import Batch
from baton.engine.block_manager import BlockManager
from baton.engine.intake import Intake
from baton.engine.integrity import check_integrity
from baton.engine.limits import Limits
from baton.engine.outputs import (
    CacheDelta,
    EngineLoad,
    Failure,
    Key,
    Reserved,
    Scheduled,
    StepOutput,
)
from baton.engine.postprocess import Postprocessor
from baton.engine.runner import Runner
from baton.engine.scheduler import Scheduler
from baton.engine.sequence import Sequence as Seq
from baton.engine.sequence import Status, Submission
from baton.engine.targets import Targets

# A worker's queue is bounded to about this many steps of its token budget; the rest waits in the
# gateway, where it can still be routed elsewhere.
QUEUED_STEPS = 2
# Weight of the newest prompt in the mean prompt length.
MEAN_WEIGHT = 0.1


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
    ) -> None:
        """`max_ungranted_share` is that of TransferSettings."""
        self.max_model_len = runner.max_model_len
        self.groups: tuple[GroupSpec, ...] = runner.groups
        self._runner = runner
        self._clock = clock
        self._budget = settings.max_batch_tokens
        self._blocks = BlockManager(runner.groups, runner.num_blocks)
        self._scheduler = Scheduler(
            self._blocks, settings.max_batch_tokens, settings.max_sequences, max_ungranted_share
        )
        self._limits = Limits(
            runner.vocab_size, runner.max_model_len, settings.max_sequences, self._blocks
        )
        self._intake = Intake(runner, digest)
        self._targets = Targets(self._blocks, self._scheduler, self._limits, self._intake)
        self._postprocessor = Postprocessor(
            self._scheduler, self._blocks, self._intake.sequence_ids
        )
        self._submissions: dict[Key, Submission] = {}
        # What the next step reports although it did not bring it about.
        self._pending = StepOutput()
        # Nothing that waits can run before something changes.
        self._stalled = False
        self._mean_prompt = self._budget / 4

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
        self._mean_prompt += MEAN_WEIGHT * (len(request.prompt) - self._mean_prompt)
        submission.sequences = self._intake.sequences(submission)
        for seq in submission.sequences:
            self._scheduler.waiting.push(seq)
        self._stalled = False

    def abort(self, key: Key) -> None:
        """Stop a submission. A source's blocks stay until `release`; unknown keys are ignored."""
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
        self._forget(submission)

    # --- steps ---

    @property
    def has_work(self) -> bool:
        """Whether a step would do something."""
        if self._pending.failures or self._pending.scheduled or self._blocks.changed:
            return True
        scheduler = self._scheduler
        return not self._stalled and bool(
            scheduler.decoding or scheduler.prefilling or len(scheduler.waiting)
        )

    def step(self) -> StepOutput:
        """Schedule, run, postprocess. Without work it returns an empty output."""
        out, self._pending = self._pending, StepOutput()
        started = self._clock()
        chosen = self._scheduler.schedule(started, out)
        for failure in out.failures:
            self._submissions.pop(failure.key, None)
        if chosen:
            sampled = self._runner.run(self._batch(chosen))
            for submission in self._postprocessor.process(chosen, sampled, out):
                del self._submissions[submission.key]
            out.step_s = self._clock() - started
        self._stalled = not chosen and not self._scheduler.lost_blocks
        for group, stored, removed in self._blocks.take_changes():
            out.cache.append(CacheDelta(group, stored, removed))
        return out

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
        submission = self._submissions.get(key)
        if submission is not None:
            submission.granted = True
            self._scheduler.discharge(submission)
            self._stalled = False

    def release(self, key: Key) -> None:
        """Nobody reads a source's blocks any more: they become plain prefix cache.

        While the prompt is still being computed they do so at its end. Unknown keys are ignored.
        """
        submission = self._submissions.get(key)
        if submission is None or not submission.handoff:
            return
        submission.released = True
        self._stalled = False
        if submission.sequences[0].status is Status.HELD:
            self._forget(submission)

    # --- target side ---

    def reserve(
        self,
        key: Key,
        request: Request,
        num_tokens: int,
        hashes: Sequence[Sequence[bytes]],
        num_blocks: Sequence[int],
    ) -> tuple[Reserved, ...] | None:
        """Room for offered KV, or None while there is none.

        The offer must be for just the tokens of `request`: those of its prompt and, with one
        choice, of its output so far. Raises InvalidRequestError when it is not, or can never run.
        """
        return self._targets.reserve(key, request, num_tokens, hashes, num_blocks)

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
        scheduler, pool = self._scheduler, self._blocks.pools[0]
        waiting_tokens = sum(seq.num_tokens for seq in scheduler.waiting)
        running_tokens = sum(s.num_tokens - s.num_computed for s in scheduler.prefilling)
        return EngineLoad(
            num_waiting=len(scheduler.waiting),
            num_running=scheduler.num_running,
            queued_prefill_tokens=waiting_tokens + running_tokens,
            free_blocks=pool.num_free,
            cached_blocks=pool.cache.num_idle,
            reserved_blocks=self._targets.reservations.num_reserved,
            quarantined_blocks=self._targets.reservations.num_quarantined,
            queue_room=self._queue_room(waiting_tokens + running_tokens),
            short_of_blocks=scheduler.short_of_blocks,
        )

    def cached_hashes(self) -> list[list[bytes]]:
        """Per group, the hashes of all blocks in the prefix cache."""
        return [pool.cache.hashes() for pool in self._blocks.pools]

    def check_integrity(self) -> None:
        """Assert that every block and slot is accounted for. Linear in the size of the pool."""
        check_integrity(
            self._blocks, self._scheduler, self._targets.reservations, self._submissions
        )

    # --- parts ---

    def _queue_room(self, queued_tokens: int) -> int:
        scheduler = self._scheduler
        left = QUEUED_STEPS * self._budget - queued_tokens
        # Past the slots a few may wait, so that one that comes free is taken in the next step.
        slots = scheduler.max_sequences + max(1, scheduler.max_sequences // 8)
        slots -= scheduler.num_slots + len(scheduler.waiting)
        if left <= 0 or slots <= 0 or scheduler.short_of_blocks:
            return 0
        return min(slots, max(1, int(left / max(1.0, self._mean_prompt))))

    def _register(self, submission: Submission) -> None:
        assert submission.key not in self._submissions, f"key {submission.key} is taken"
        self._submissions[submission.key] = submission

    def _forget(self, submission: Submission) -> None:
        """Drop a submission with its sequences."""
        self._scheduler.discharge(submission)
        for seq in submission.sequences:
            self._scheduler.drop(seq)
        del self._submissions[submission.key]
