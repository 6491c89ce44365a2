"""Source side: which blocks of a prompt became final, whole or part by part."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from baton.core.handoff import BlocksReady
from baton.core.kv import GroupSpec
from baton.engine.outputs import StepOutput
from baton.engine.runner import LayerPieces
from baton.engine.sequence import Sequence as Seq

# Takes what is known in the midst of a step.
Tell = Callable[[StepOutput], None]


def newly_final(
    seq: Seq,
    groups: Sequence[GroupSpec],
    num_tokens: int,
    *,
    done: bool = False,
    part: int = 0,
    num_parts: int = 1,
) -> BlocksReady | None:
    """The blocks not announced before that `num_tokens` computed tokens fill, or a part of them.

    The partial tail is one of them when that is the whole prompt. They count as announced with
    their last part. None when there are none, unless `done`.
    """
    first = tuple(seq.num_ready)
    whole = num_tokens == seq.num_tokens
    block_ids = []
    for group, (table, spec) in enumerate(zip(seq.tables, groups, strict=True)):
        end = len(table) if whole else num_tokens // spec.block_size
        block_ids.append(tuple(table.data[first[group] : end].tolist()))
        if part == num_parts - 1:
            seq.num_ready[group] = end
    if not done and not any(block_ids):
        return None
    return BlocksReady(seq.submission.key, first, tuple(block_ids), done, part, num_parts)


class Announcer:
    """Tells of the blocks of sources while their prompts are being computed.

    Every chunk is cut into `layer_groups` parts, not the last one alone: a link that needs as long
    for a chunk as its compute never catches up with what starts a whole chunk late.
    """

    def __init__(self, groups: Sequence[GroupSpec], layer_groups: int) -> None:
        self._groups = groups
        self._num_pieces = min(layer_groups, *(spec.num_layers for spec in groups))

    def begin(self, chosen: Sequence[Seq], out: StepOutput, tell: Tell) -> LayerPieces | None:
        """Before the compute of `chosen`: tell of offers, and of blocks that a prefix hit brought.

        Takes the offers from `out`. Returns what the runner needs for telling of the rest.
        """
        sources = [seq for seq in chosen if seq.submission.handoff]
        early = StepOutput(offers=out.offers)
        out.offers = []
        for seq in sources:
            ready = newly_final(seq, self._groups, seq.num_computed)
            if ready is not None:
                early.ready.append(ready)
        if early.offers or early.ready:
            tell(early)
        if not sources or self._num_pieces == 1:
            return None

        def layers_done(piece: int) -> None:
            parts = [
                newly_final(
                    seq,
                    self._groups,
                    seq.num_computed + seq.num_scheduled,
                    part=piece,
                    num_parts=self._num_pieces,
                )
                for seq in sources
            ]
            tell(StepOutput(ready=[ready for ready in parts if ready is not None]))

        return LayerPieces(self._num_pieces, layers_done)
