"""From a request to its submission and sequences."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from baton.core.block_hash import root_hash
from baton.core.handoff import Key
from baton.core.request import Request
from baton.engine.int_buffer import IntBuffer
from baton.engine.runner import Runner
from baton.engine.sequence import Sequence as Seq
from baton.engine.sequence import Submission


class Intake:
    """Numbers submissions and sequences, and fills in what the model says of them."""

    def __init__(self, runner: Runner, digest: str) -> None:
        self._runner = runner
        self._digest = digest
        self._serials = count()
        self.sequence_ids = count()

    def submission(self, key: Key, request: Request, *, handoff: bool = False) -> Submission:
        """An empty submission, younger than all before."""
        root = root_hash(self._digest, request.tenant_salt, request.lora_id, request.lora_revision)
        return Submission(
            key,
            request,
            root,
            next(self._serials),
            eos_token_ids=self._runner.eos_token_ids,
            max_model_len=self._runner.max_model_len,
            handoff=handoff,
        )

    def sequence(
        self, submission: Submission, choices: tuple[int, ...], output: Sequence[int]
    ) -> Seq:
        """A waiting sequence of the prompt and `output`, not yet one of the submission's."""
        tokens = IntBuffer(submission.request.prompt)
        tokens.extend(output)
        num_groups = len(self._runner.groups)
        ident = next(self.sequence_ids)
        return Seq(ident, submission, choices, tokens, list(output), num_groups)

    def sequences(self, submission: Submission) -> list[Seq]:
        """What has to be computed for a request: one prompt to fork, or each choice by itself."""
        outputs = submission.request.outputs
        if any(outputs.values()):
            # Each has tokens of its own to compute; what they share is found by hash.
            made = [self.sequence(submission, (c,), output) for c, output in outputs.items()]
        else:
            made = [self.sequence(submission, tuple(outputs), ())]
        for seq in made:
            seq.extend_hashes(self._runner.groups, seq.num_tokens)
        return made
