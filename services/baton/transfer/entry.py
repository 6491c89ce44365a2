"""One handoff as the worker has it in its books."""

from __future__ import annotations

from dataclasses import dataclass

from baton.core.handoff import Key
from baton.core.request import Request
from baton.transfer.base import HandoffHost
from baton.transfer.peers import PeerId
from baton.transfer.source_state import SourceHandoff
from baton.transfer.target_state import TargetHandoff, TargetState
from baton.transfer.verifier import Check


@dataclass(slots=True, eq=False)
class Entry:
    """A handoff's machine, and whom it concerns."""

    key: Key
    machine: SourceHandoff | TargetHandoff
    peer_id: PeerId
    request_id: str
    # None once it has ended: prompts are long, and ended handoffs are kept for a while.
    request: Request | None
    host: HandoffHost
    num_quarantined: int = 0
    # Target: what may be decoding its blocks.
    check: Check | None = None

    @property
    def handoff_id(self) -> bytes:
        return self.machine.identity.handoff_id

    @property
    def is_unsettled(self) -> bool:
        """It has ended, but a write may still land, here or at the peer."""
        if isinstance(self.machine, SourceHandoff):
            return self.machine.closed and self.machine.may_land
        return self.machine.state is TargetState.QUARANTINED
