"""When a handoff went from one phase to the next. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Phases:
    """Seconds of the machine's clock; 0 for what has not come."""

    submitted_at: float = 0.0
    offered_at: float = 0.0
    granted_at: float = 0.0
    committed_at: float = 0.0

    def offer_wait_s(self, now: float) -> float:
        """From the submission to the Offer."""
        return max(0.0, (self.offered_at or now) - self.submitted_at)

    def grant_wait_s(self, now: float) -> float:
        """From the Offer to the grant."""
        return max(0.0, (self.granted_at or now) - self.offered_at) if self.offered_at else 0.0

    def transfer_s(self, now: float) -> float:
        """From the grant to the commit."""
        return max(0.0, (self.committed_at or now) - (self.granted_at or now))

    def verify_s(self, now: float) -> float:
        """From the commit to the verdict."""
        return max(0.0, now - (self.committed_at or now))
