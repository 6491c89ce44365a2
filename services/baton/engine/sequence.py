"""What the engine knows of a request: a submission, and the sequences that compute its choices."""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from enum import Enum, auto

from baton.core.block_hash import extend_hashes
from baton.core.handoff import Key
from baton.core.kv import GroupSpec
from baton.core.request import Request
from baton.engine.batch import BatchEntry, BlockCopy, Int32, SampleSpec
from baton.engine.int_buffer import IntBuffer


class Status(Enum):
    """WAITING holds no blocks; RUNNING and HELD do; HELD (a source's end) computes no further."""

    WAITING = auto()
    RUNNING = auto()
    HELD = auto()
    FINISHED = auto()


class Submission:
    """One request on this worker, under the worker's name for it."""

    __slots__ = (
        "charged_blocks",
        "granted",
        "handoff",
        "is_cramped",
        "is_moving",
        "key",
        "max_output",
        "offered",
        "released",
        "request",
        "root",
        "scheduled",
        "sequences",
        "serial",
        "stop_ids",
    )

    def __init__(
        self,
        key: Key,
        request: Request,
        root: bytes,
        serial: int,
        *,
        eos_token_ids: frozenset[int],
        max_model_len: int,
        handoff: bool = False,
    ) -> None:
        self.key = key
        self.request = request
        # Parent of the first block's hash.
        self.root = root
        # Order of arrival: the youngest is preempted first.
        self.serial = serial
        self.handoff = handoff
        params = request.sampling
        stops = frozenset(params.stop_token_ids)
        self.stop_ids = stops if params.ignore_eos else stops | eos_token_ids
        # A choice ends when its output has this many tokens.
        self.max_output = min(params.max_tokens, max_model_len - len(request.prompt))
        # Those not finished.
        self.sequences: list[Sequence] = []
        self.scheduled = False
        # Source side: what has been said to and by the target, ...
        self.offered = False
        self.granted = False
        self.released = False
        # ... and blocks counted against the bound of ungranted ones.
        self.charged_blocks = 0
        # Being moved while it decodes (see `migration`) ...
        self.is_moving = False
        # ... and without a block for its next token.
        self.is_cramped = False


class Sequence:
    """Tokens of one choice and the blocks of their KV.

    Before a prompt forks into its `choices`, one sequence (the leader) stands for all of them.
    Sequences compare by identity.
    """

    __slots__ = (
        "choices",
        "copies",
        "hashes",
        "num_computed",
        "num_ready",
        "num_registered",
        "num_scheduled",
        "num_tokens",
        "output",
        "register_at",
        "sequence_id",
        "specs",
        "status",
        "submission",
        "table_views",
        "tables",
        "tokens",
        "turn",
        "writable",
    )

    def __init__(
        self,
        sequence_id: int,
        submission: Submission,
        choices: tuple[int, ...],
        tokens: IntBuffer,
        output: list[int],
        num_groups: int,
    ) -> None:
        self.sequence_id = sequence_id
        self.submission = submission
        self.choices = choices
        # Prompt, then output.
        self.tokens = tokens
        self.num_tokens = len(tokens)
        self.output = output
        self.status = Status.WAITING
        # KV of the first num_computed tokens is in the blocks.
        self.num_computed = 0
        self.num_scheduled = 0
        # Lower ones compute their prompt first, where prompts are not served in order of arrival.
        self.turn = 0
        self.tables = tuple(IntBuffer() for _ in range(num_groups))
        self.table_views: tuple[Int32, ...] = ()
        # Tokens that the blocks can take before one must be allocated or copied.
        self.writable = 0
        # Copy-on-write due before the next compute.
        self.copies: list[BlockCopy] = []
        # Per group: hashes of full blocks, so far as tokens are known ...
        self.hashes: tuple[list[bytes], ...] = tuple([] for _ in range(num_groups))
        # ... how many of them are in the prefix cache, ...
        self.num_registered = [0] * num_groups
        # ... and the number of computed tokens at which some group has another.
        self.register_at = 0
        # Source side, per group: blocks already announced.
        self.num_ready = [0] * num_groups
        request = submission.request
        self.specs = [
            SampleSpec(
                choice=choice,
                position=len(output),
                seed=request.seed,
                params=request.sampling,
                output=output,
                prompt_len=len(request.prompt),
            )
            for choice in choices
        ]

    @property
    def age(self) -> tuple[int, int]:
        """Larger is younger."""
        return (self.submission.serial, self.choices[0])

    @property
    def num_slots(self) -> int:
        """Sequences that this one will run as. A source's never forks here."""
        return 1 if self.submission.handoff else len(self.choices)

    def append(self, token: int) -> None:
        """A token was sampled for this (single) choice."""
        self.tokens.append(token)
        self.num_tokens += 1
        self.output.append(token)
        self.specs[0].position += 1

    def entry(self) -> BatchEntry:
        """This step's compute, `num_scheduled` tokens."""
        start = self.num_computed
        end = start + self.num_scheduled
        data = self.tokens.data
        sample = end == self.num_tokens
        return BatchEntry(
            data[start:end],
            start,
            self.table_views,
            sample,
            self.specs if sample else (),
            self.sequence_id,
            data[:end],
        )

    def tables_changed(self, groups: SequenceOf[GroupSpec]) -> None:
        """Refresh what is derived from the block tables."""
        self.table_views = tuple([table.view() for table in self.tables])
        self.writable = min(
            len(table) * spec.block_size for table, spec in zip(self.tables, groups, strict=True)
        )

    def extend_hashes(self, groups: SequenceOf[GroupSpec], num_tokens: int) -> None:
        """Hash the full blocks of the first `num_tokens` tokens that have no hash yet."""
        for hashes, spec in zip(self.hashes, groups, strict=True):
            start = len(hashes) * spec.block_size
            if num_tokens - start >= spec.block_size:
                parent = hashes[-1] if hashes else self.submission.root
                hashes += extend_hashes(parent, self.tokens.data[start:num_tokens], spec.block_size)

    def restart(self) -> None:
        """Preempted: the blocks are gone, the tokens stay."""
        self.status = Status.WAITING
        self.num_computed = 0
        self.num_registered = [0] * len(self.tables)

    def fork(self, sequence_id: int, choice: int) -> Sequence:
        """A sequence for one of the leader's choices: same tokens and blocks.

        The caller counts the new owner of the blocks.
        """
        child = Sequence(
            sequence_id, self.submission, (choice,), self.tokens.copy(), [], len(self.tables)
        )
        child.num_computed = self.num_computed
        child.tables = tuple([table.copy() for table in self.tables])
        child.hashes = tuple([list(h) for h in self.hashes])
        child.num_registered = list(self.num_registered)
        child.register_at = self.register_at
        # A shared tail is to be copied before the first write: `writable` stays at 0, which makes
        # the scheduler look.
        return child
