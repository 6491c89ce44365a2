"""After a run: record progress and tokens, finish, fork, announce finished blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from baton.core.request import FinishReason
from baton.engine.announce import newly_final
from baton.engine.batch import SampledToken
from baton.engine.block_manager import BlockManager
from baton.engine.outputs import StepOutput, TokenRow
from baton.engine.scheduler import Scheduler
from baton.engine.sequence import Sequence as Seq
from baton.engine.sequence import Submission


class Postprocessor:
    """Takes a run's tokens into the sequences that asked for them."""

    def __init__(
        self,
        scheduler: Scheduler,
        blocks: BlockManager,
        sequence_ids: Iterator[int],
        ends: Callable[[Seq], None],
    ) -> None:
        """`ends(sequence)` hears of those that finish, before their blocks are free."""
        self._scheduler = scheduler
        self._blocks = blocks
        self._sequence_ids = sequence_ids
        self._ends = ends

    def process(
        self,
        chosen: Sequence[Seq],
        sampled: Sequence[SampledToken],
        out: StepOutput,
        num_parts: int = 1,
    ) -> list[Submission]:
        """Update the sequences that ran; `out` gets rows, counts and finished blocks.

        `sampled` has one token for each of their specs, in order. All parts but the last of
        `num_parts` of the finished blocks were announced during the run. Returns the submissions
        that have ended.
        """
        decoding, rows, register = self._scheduler.decoding, out.rows, self._blocks.register
        ended: list[Submission] = []
        index = num_decodes = num_prefill = 0
        for seq in chosen:
            num_computed = seq.num_computed = seq.num_computed + seq.num_scheduled
            if num_computed >= seq.register_at:
                register(seq)
            submission = seq.submission
            decodes = seq in decoding
            if decodes:
                num_decodes += 1
            else:
                num_prefill += seq.num_scheduled
                if num_computed < seq.num_tokens:
                    if submission.handoff:
                        self._announce(seq, out, num_parts, done=False)
                    continue
                if submission.handoff or len(seq.choices) > 1:
                    tokens = sampled[index : index + len(seq.choices)]
                    index += len(tokens)
                    if submission.handoff:
                        self._end_source(seq, tokens, out, num_parts, ended)
                    else:
                        self._fork(seq, tokens, out, ended)
                    continue
            token, logprobs = sampled[index]
            index += 1
            position = len(seq.output)
            finish = _finish(submission, position, token)
            choice = seq.choices[0]
            rows.append(TokenRow(submission.key, choice, position, token, finish, logprobs))
            if finish is not None:
                self._end(seq, ended)
                continue
            seq.append(token)
            if not decodes:
                self._scheduler.file(seq)
        assert index == len(sampled), f"{len(sampled)} tokens for {index} samples"
        out.num_decode_tokens += num_decodes
        out.num_prefill_tokens += num_prefill
        return ended

    def _fork(
        self,
        leader: Seq,
        sampled: Sequence[SampledToken],
        out: StepOutput,
        ended: list[Submission],
    ) -> None:
        """The prompt is computed: each choice goes on as a sequence that shares its blocks."""
        submission = leader.submission
        tokens = _emit(leader, sampled, out)
        children = [leader.fork(next(self._sequence_ids), choice) for choice in tokens]
        for child in children:
            self._blocks.share(child)
        if not children:
            self._ends(leader)
        # First the children's share, so that no block falls idle in between.
        self._scheduler.drop(leader)
        for child in children:
            child.append(tokens[child.choices[0]])
            self._scheduler.start(child)
        submission.sequences = children
        if not children:
            ended.append(submission)

    def _end_source(
        self,
        seq: Seq,
        sampled: Sequence[SampledToken],
        out: StepOutput,
        num_parts: int,
        ended: list[Submission],
    ) -> None:
        """The prompt is computed: its blocks stay until the target has them."""
        submission = seq.submission
        _emit(seq, sampled, out)
        self._announce(seq, out, num_parts, done=True)
        self._scheduler.hold(seq)
        if submission.released:
            self._scheduler.discharge(submission)
            self._end(seq, ended)

    def _announce(self, seq: Seq, out: StepOutput, num_parts: int, *, done: bool) -> None:
        """Report the blocks that became final, or their last part."""
        ready = newly_final(
            seq,
            self._blocks.groups,
            seq.num_computed,
            done=done,
            part=num_parts - 1,
            num_parts=num_parts,
        )
        if ready is not None:
            out.ready.append(ready)

    def _end(self, seq: Seq, ended: list[Submission]) -> None:
        submission = seq.submission
        self._ends(seq)
        self._scheduler.drop(seq)
        submission.sequences.remove(seq)
        if not submission.sequences:
            ended.append(submission)


def _emit(leader: Seq, sampled: Sequence[SampledToken], out: StepOutput) -> dict[int, int]:
    """Rows for a prompt's first tokens. Returns those of the choices that go on."""
    submission, position = leader.submission, len(leader.output)
    going_on = {}
    for choice, (token, logprobs) in zip(leader.choices, sampled, strict=True):
        finish = _finish(submission, position, token)
        out.rows.append(TokenRow(submission.key, choice, position, token, finish, logprobs))
        if finish is None:
            going_on[choice] = token
    return going_on


def _finish(submission: Submission, position: int, token: int) -> FinishReason | None:
    """Whether an output ends with the token at `position`, and why."""
    if token in submission.stop_ids and position >= submission.request.sampling.min_tokens:
        return FinishReason.STOP
    if position + 1 >= submission.max_output:
        return FinishReason.LENGTH
    return None
