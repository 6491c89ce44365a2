"""Which sequences compute how many tokens in the next step. Pure: no torch, no clock.

Decoding sequences come first, one token each; what is left of the step's token budget goes to
prefill chunks, oldest first, then to sequences that wait. With policy `shortest` those that run and
those that wait take turns instead (`core.queue_policy.shortest`): a long prompt lets short ones by,
which share its steps. A sequence gets the blocks of all its known tokens when it is admitted and
one more whenever it fills up; when none is left the youngest gives all of its blocks back, keeps
its tokens and waits at the front to compute them again.
"""

from __future__ import annotations

import math

from baton.core.errors import BatonError, DeadlineExceededError, OverloadedError
from baton.core.handoff import OfferDue
from baton.core.queue_policy.base import QueuePolicy
from baton.core.queue_policy.fcfs import Fcfs
from baton.core.queue_policy.priority import Priority
from baton.core.queue_policy.shortest import ShortestFirst
from baton.core.settings import QueueOrder
from baton.engine.block_manager import BlockManager
from baton.engine.outputs import Failure, Scheduled, StepOutput
from baton.engine.promotions import Promotions
from baton.engine.sequence import Sequence, Status, Submission

# While a source is at its bound of ungranted blocks, this many prompts are offered ahead of their
# compute: enough that one slow target does not stop the others, few enough that grants come due.
MAX_OFFERED_AHEAD = 4


class Scheduler:
    """Owns the queue and the running sequences; allocates for them from `blocks`."""

    def __init__(
        self,
        blocks: BlockManager,
        max_batch_tokens: int,
        max_sequences: int,
        max_ungranted_share: float,
        policy: QueueOrder = "fcfs",
    ) -> None:
        self.blocks = blocks
        self.max_batch_tokens = max_batch_tokens
        self.max_sequences = max_sequences
        self.waiting: QueuePolicy[Sequence] = Fcfs()
        if policy == "priority":
            self.waiting = Priority(lambda seq: seq.submission.request.priority, Fcfs)
        elif policy == "shortest":
            self.waiting = ShortestFirst(self._turn_of)
        self._has_turns = policy == "shortest"
        # Prompt tokens that were ever given to a step: what turns are counted in.
        self._num_prefilled = 0
        # Set where there are tiers below the device.
        self.promotions: Promotions | None = None
        # Running, in order of service: several tokens to compute, and one.
        self.prefilling: dict[Sequence, None] = {}
        self.decoding: dict[Sequence, None] = {}
        # Sequences that run or may without asking again: forks of a leader, reservations.
        self.num_slots = 0
        # Source side: blocks of handoffs without a grant, and how many may there be.
        self.ungranted_blocks = 0
        self.max_ungranted_blocks = max_ungranted_share * blocks.pools[0].size
        # The last step took blocks from running sequences ...
        self.lost_blocks = False
        # ... or it did not admit the head of the queue for want of blocks.
        self._was_short = False

    @property
    def short_of_blocks(self) -> bool:
        """Somebody here waits for blocks, or has just lost his. Over once nobody is left here."""
        return self._was_short and bool(self.num_running or len(self.waiting))

    @property
    def num_running(self) -> int:
        return len(self.prefilling) + len(self.decoding)

    @property
    def headroom(self) -> int:
        """Blocks to leave free when more is taken on: one for each sequence that may grow."""
        forks = sum(s.num_slots for s in self.prefilling if not s.submission.handoff)
        return len(self.decoding) + forks

    def schedule(self, now: float, out: StepOutput) -> list[Sequence]:
        """Pick the step's sequences and set their `num_scheduled`.

        `out` gets what this brings about: Scheduled, OfferDue, Failure. A failed submission's
        sequences are dropped already.
        """
        self.lost_blocks = False
        chosen = self._pick_decodes(out)
        most = budget = self.max_batch_tokens - len(chosen)
        for seq in self._prefills():
            if self._has_turns and budget and not self.lost_blocks:
                budget = self._admit(budget, now, chosen, out, before=seq.turn)
            if budget == 0:
                break
            if not self._make_room(seq, out):
                continue
            seq.num_scheduled = min(budget, seq.num_tokens - seq.num_computed)
            budget -= seq.num_scheduled
            chosen.append(seq)
        if self.lost_blocks:
            # Some that were picked have lost their blocks to others since.
            self._was_short = True
            chosen = [seq for seq in chosen if seq.status is Status.RUNNING]
        elif budget:
            budget = self._admit(budget, now, chosen, out)
        self._num_prefilled += most - budget
        return chosen

    def _prefills(self) -> list[Sequence]:
        """Running sequences with several tokens to compute, in their order."""
        if self._has_turns:
            return sorted(self.prefilling, key=lambda seq: seq.turn)
        return list(self.prefilling)

    def _turn_of(self, seq: Sequence) -> int:
        """What is cached now need not be computed."""
        num_cached, _ = self.blocks.longest_prefix(seq.hashes, seq.num_tokens - 1)
        seq.turn = self._num_prefilled + seq.num_tokens - num_cached
        return seq.turn

    def _pick_decodes(self, out: StepOutput) -> list[Sequence]:
        chosen = []
        budget = self.max_batch_tokens
        for seq in list(self.decoding):
            if budget == 0:
                break
            # One preempted since has no blocks, so it fails here too.
            if seq.num_tokens > seq.writable and not self._make_room(seq, out):
                continue
            seq.num_scheduled = 1
            budget -= 1
            chosen.append(seq)
        if len(chosen) < len(self.decoding):
            # Those left out go first in the next step.
            for seq in chosen:
                if seq.status is Status.RUNNING:
                    del self.decoding[seq]
                    self.decoding[seq] = None
        return chosen

    def _make_room(self, seq: Sequence, out: StepOutput) -> bool:
        """See to the blocks of a running sequence, at others' expense if need be.

        False when it lost its own instead.
        """
        if seq.status is not Status.RUNNING:
            return False
        if seq.num_tokens <= seq.writable:
            return True
        while not self.blocks.can_grow(seq):
            if self.promotions is not None and self.promotions.give_way():
                continue
            if seq.submission.is_moving:
                # It is about to leave: it takes nobody's blocks.
                seq.submission.is_cramped = True
                return False
            if not self.blocks.ever_fits(seq.num_tokens):
                self.lost_blocks = True
                self.fail(seq.submission, self._too_large(seq), out)
                return False
            victim = self._youngest()
            self._preempt(victim)
            if victim is seq:
                return False
        self.blocks.grow(seq)
        return True

    def _youngest(self) -> Sequence:
        """Whom to preempt. Not a source's prompt, nor what is moving: it would free nothing."""
        candidates = (
            s
            for s in (*self.prefilling, *self.decoding)
            if not s.submission.handoff and not s.submission.is_moving
        )
        return max(candidates, key=lambda seq: seq.age)

    def _preempt(self, seq: Sequence) -> None:
        self.lost_blocks = True
        self._stop(seq)
        self.blocks.free(seq)
        seq.restart()
        self.waiting.push_front(seq)

    # --- admission ---

    def _admit(
        self,
        budget: int,
        now: float,
        chosen: list[Sequence],
        out: StepOutput,
        before: float = math.inf,
    ) -> int:
        """Take on waiting sequences in their order, and with a turn lower than `before`, until one
        finds no room. Returns what is left of the token budget.
        """
        self._was_short = False
        admitted: list[Sequence] = []
        expired: list[Submission] = []
        offered_ahead = 0
        for seq in self.waiting:
            if seq.turn >= before:
                break
            submission = seq.submission
            if submission.request.deadline <= now:
                expired.append(submission)
                continue
            if self.num_slots + seq.num_slots > self.max_sequences:
                break
            if self._needs_grant(submission):
                offered_ahead += 1
                if offered_ahead <= MAX_OFFERED_AHEAD:
                    self._offer(seq, out)
                continue
            if self.promotions is not None and self.promotions.must_wait(seq, now):
                continue
            fits = self._take_on(seq, out)
            if not fits and self.promotions is not None and self.promotions.give_way():
                fits = self._take_on(seq, out)
            if not fits:
                self._was_short = True
                break
            admitted.append(seq)
            seq.num_scheduled = min(budget, seq.num_tokens - seq.num_computed)
            budget -= seq.num_scheduled
            if budget == 0:
                break
        for seq in admitted:
            self.waiting.remove(seq)
        chosen += admitted
        for submission in expired:
            if submission.sequences:
                error = DeadlineExceededError("the deadline passed before the prompt was computed")
                self.fail(submission, error, out)
        if expired:
            # A choice of an expired submission may have been running.
            chosen[:] = [seq for seq in chosen if seq.status is Status.RUNNING]
        return budget

    def _take_on(self, seq: Sequence, out: StepOutput) -> bool:
        """Allocate for a waiting sequence and make it run; False without room for it."""
        submission = seq.submission
        # At least one token is left to compute: its logits are wanted.
        num_cached, found = self.blocks.longest_prefix(seq.hashes, seq.num_tokens - 1)
        headroom = self.headroom
        if not self.blocks.fits(found, seq.num_tokens, headroom):
            return False
        self.blocks.allocate(seq, found, seq.num_tokens)
        if self.promotions is not None:
            self.promotions.release(seq)
        seq.num_computed = num_cached
        seq.num_registered = [len(blocks) for blocks in found]
        self.blocks.set_register_at(seq)
        self.start(seq)
        if not submission.scheduled:
            submission.scheduled = True
            out.scheduled.append(Scheduled(submission.key, num_cached))
        if submission.handoff:
            self._offer(seq, out)
            if not submission.granted:
                submission.charged_blocks = len(seq.tables[0])
                self.ungranted_blocks += submission.charged_blocks
        return True

    def _needs_grant(self, submission: Submission) -> bool:
        """Whether a source's prompt must wait for its target to have room."""
        return (
            submission.handoff
            and not (submission.granted or submission.released)
            and self.ungranted_blocks > self.max_ungranted_blocks
        )

    def _offer(self, seq: Sequence, out: StepOutput) -> None:
        submission = seq.submission
        if submission.offered:
            return
        submission.offered = True
        hashes = tuple([tuple(h) for h in seq.hashes])
        needed = self.blocks.needed(seq.num_tokens)
        out.offers.append(OfferDue(submission.key, seq.num_tokens, hashes, needed))

    # --- changes of state, also for the engine ---

    def start(self, seq: Sequence) -> None:
        """A sequence with its blocks begins to run."""
        seq.status = Status.RUNNING
        self.num_slots += seq.num_slots
        self.file(seq)

    def file(self, seq: Sequence) -> None:
        """Put a running sequence on the list that suits what it has left to compute."""
        left = seq.num_tokens - seq.num_computed
        if left == 1 and seq.output and not seq.submission.handoff:
            self.prefilling.pop(seq, None)
            self.decoding[seq] = None
        else:
            self.prefilling[seq] = None

    def drop(self, seq: Sequence) -> None:
        """Finish a sequence in whatever state it is; its blocks are free."""
        if seq.status is Status.WAITING:
            self.waiting.remove(seq)
            if self.promotions is not None:
                self.promotions.release(seq)
        elif seq.status is Status.RUNNING:
            self._stop(seq)
        if seq.status is not Status.FINISHED:
            self.blocks.free(seq)
            seq.status = Status.FINISHED

    def hold(self, seq: Sequence) -> None:
        """A source's running sequence computes no further and keeps its blocks."""
        self._stop(seq)
        seq.status = Status.HELD

    def discharge(self, submission: Submission) -> None:
        """A source's blocks count against the bound no longer."""
        self.ungranted_blocks -= submission.charged_blocks
        submission.charged_blocks = 0

    def fail(self, submission: Submission, error: BatonError, out: StepOutput) -> None:
        """End a submission with all its sequences."""
        for seq in submission.sequences:
            self.drop(seq)
        submission.sequences = []
        self.discharge(submission)
        out.failures.append(Failure(submission.key, error))

    def _stop(self, seq: Sequence) -> None:
        """Take a running sequence off its list."""
        if seq in self.decoding:
            del self.decoding[seq]
        else:
            del self.prefilling[seq]
        self.num_slots -= seq.num_slots

    def _too_large(self, seq: Sequence) -> OverloadedError:
        size = self.blocks.pools[0].size
        return OverloadedError(
            f"{seq.num_tokens} tokens need more KV blocks than the {size} of this worker; "
            "ask for fewer tokens, or give workers more (engine.kv_blocks, engine.kv_memory_bytes)"
        )
