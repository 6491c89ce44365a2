"""What a source is to hand over, and how far that is: part of its pure state machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from baton.core.errors import HandoffError
from baton.core.handoff import MoveStopped, SourceOutput
from baton.transfer import messages
from baton.transfer.overlap import Overlap
from baton.transfer.state import Due, Ready, Write, Written
from baton.transfer.write_ledger import WriteLedger
from baton.v1 import transfer_pb2

# Before the offer and after the end; nothing is ever booked in it.
_EMPTY = WriteLedger(())


class SourceBooks:
    """Empty until the engine has scheduled the prompt."""

    def __init__(self) -> None:
        self.ledger = _EMPTY
        self.overlap = Overlap()
        self.outputs: Mapping[int, SourceOutput] | None = None
        """Set once everything is computed."""
        self._due: Due | None = None
        # What came of it, once a sequence that decodes on has stopped.
        self._grown: Due | None = None

    @property
    def due(self) -> Due:
        """What was offered."""
        assert self._due is not None, "the engine has scheduled the prompt"
        return self._due

    @property
    def has_stopped(self) -> bool:
        """A sequence that decoded on does so no longer."""
        return self._grown is not None

    @property
    def has_finished(self) -> bool:
        """Every choice has ended: there is nothing to hand over."""
        if not self.outputs:
            return False
        return None not in [output.finish for output in self.outputs.values()]

    def schedule(self, due: Due) -> None:
        self._due = due
        self.ledger = WriteLedger(due.num_blocks)

    def add_ready(self, ready: Ready, now: float) -> None:
        """Blocks are final; with the last ones come outputs."""
        self.ledger.add_ready(ready.first_index, ready.block_ids, ready.part, ready.num_parts)
        if ready.outputs is not None:
            self.outputs = ready.outputs
            self.overlap.computed(now)

    def stop(self, stop: MoveStopped, now: float) -> None:
        """A sequence that decoded on has stopped, and these are its last blocks."""
        self.ledger.add_ready(stop.first_index, stop.block_ids)
        self.ledger.end_growth()
        hashes = tuple(a + b for a, b in zip(self.due.hashes, stop.hashes, strict=True))
        self._grown = replace(self.due, hashes=hashes, num_blocks=self.ledger.num_blocks)
        self.outputs = stop.outputs
        self.overlap.computed(now)

    def add_grant(self, grant: transfer_pb2.Grant, *, is_first: bool) -> None:
        """Raises HandoffError for one that does not fit the offer, or an earlier grant."""
        ledger = self.ledger
        if is_first:
            ledger.transport_epoch = grant.transport_epoch
        elif grant.transport_epoch != ledger.transport_epoch:
            raise HandoffError("the target's transport was recreated", reason="recreated")
        messages.read_grant(grant, ledger.granted, self.due)
        if is_first:
            ledger.use_codec(grant.codec, self.due.hashes)
        elif grant.codec != ledger.codec:
            raise HandoffError("the target has changed its mind about the codec")

    def start(self, write: Write, now: float) -> None:
        """The write is about to be queued."""
        self.overlap.started(write.write_id, now)

    def settle(self, written: Written) -> bool:
        """Book a write's end; False for a late repeat."""
        self.overlap.ended(written.write_id, written.at, written.result.num_bytes)
        return self.ledger.settle(written.write_id, written.result)

    def commit_body(self) -> transfer_pb2.Commit:
        """Everything is written."""
        assert self.outputs is not None, "and computed"
        due, ledger = self._grown or self.due, self.ledger
        return messages.commit_body(due, self.outputs, ledger.granted, ledger.checksums)

    def close(self) -> None:
        """Nothing will be asked of it any more: lists of blocks and hashes are long."""
        self.ledger = _EMPTY
        self._due = self._grown = self.outputs = None
