"""A sequence of which only lengths and block hashes are known, for the engine's own scheduler."""

from __future__ import annotations

import math
from collections.abc import Sequence as SequenceOf

from baton.core.kv import GroupSpec
from baton.core.request import Request, SamplingParams
from baton.engine.int_buffer import IntBuffer
from baton.engine.sequence import Sequence, Submission
from baton.sim.report import Served
from baton.sim.workload import block_hash

# The engine asks no request of the simulator for more than its lengths, which are elsewhere.
REQUEST = Request(
    request_id="",
    model="",
    prompt=(),
    sampling=SamplingParams(max_tokens=1, ignore_eos=True),
    seed=0,
    deadline=math.inf,
)
_NO_TOKENS = IntBuffer()
_NO_STOPS: frozenset[int] = frozenset()
# What a sequence that has generated something has for its output: the scheduler asks whether there
# is any.
_SOMETHING = [0]
# Sets numbers of generated blocks apart from those that traces give.
_GENERATED = 1 << 63


class SimSequence(Sequence):
    """One request on one worker. Its tokens have no values; `served` is what becomes of it."""

    __slots__ = ("num_generated", "served")

    def __init__(
        self, serial: int, served: Served, hashes: SequenceOf[bytes], *, handoff: bool = False
    ) -> None:
        """`hashes` are those of the prompt's full blocks."""
        submission = Submission(
            ("sim", serial),
            REQUEST,
            b"",
            serial,
            eos_token_ids=_NO_STOPS,
            max_model_len=1,
            handoff=handoff,
        )
        super().__init__(serial, submission, (0,), _NO_TOKENS, [], 1)
        submission.sequences = [self]
        self.num_tokens = served.request.num_tokens
        self.hashes[0].extend(hashes)
        self.served = served
        self.num_generated = 0

    @property
    def num_left(self) -> int:
        """Tokens still to generate."""
        return self.served.request.num_output - self.num_generated

    def generated(self, num_tokens: int) -> None:
        """It has as many tokens more, and goes on."""
        self.num_tokens += num_tokens
        self.num_generated += num_tokens
        self.output = _SOMETHING

    def extend_hashes(self, groups: SequenceOf[GroupSpec], num_tokens: int) -> None:
        """What it generated nobody else has: such a block is named after the sequence."""
        (spec,), (hashes,) = groups, self.hashes
        while (len(hashes) + 1) * spec.block_size <= num_tokens:
            own = self.served.request.number << 32 | len(hashes)
            hashes.append(block_hash(own | _GENERATED))
