"""Whether the measured latencies meet the objectives."""

from __future__ import annotations

from typing import Any

from baton_operator.decide.report.conditions import Verdict
from baton_operator.seen import Seen

KIND = "SLOMet"


def slo_met(seen: Seen) -> Verdict:
    """From what the gateways measured over the last minutes."""
    wanted, signals = seen.service.spec.slo, seen.signals
    if wanted is None:
        return Verdict(KIND, "Unknown", "NoObjective", "spec.slo is not set")
    if signals is None:
        return Verdict(KIND, "Unknown", "NoGateway", "no gateway answers")
    pairs = (
        ("time to first token", signals.ttft_s, wanted.ttft_seconds),
        ("time per output token", signals.tpot_s, wanted.tpot_seconds),
    )
    measured = [(what, is_s, to_be_s) for what, is_s, to_be_s in pairs if to_be_s and is_s]
    if not measured:
        return Verdict(KIND, "Unknown", "NoRequests", "too few requests to measure")
    missed = [what for what, is_s, to_be_s in measured if is_s > to_be_s]
    if not missed:
        return Verdict(KIND, "True", "Met", f"at quantile {wanted.quantile}")
    return Verdict(KIND, "False", "Missed", f"{' and '.join(missed)} at quantile {wanted.quantile}")


def measured(seen: Seen) -> dict[str, Any] | None:
    """The status's `slo`; None: nothing was measured, or nobody wants to know."""
    if seen.service.spec.slo is None or seen.signals is None:
        return None
    found = {"ttftSeconds": seen.signals.ttft_s, "tpotSeconds": seen.signals.tpot_s}
    # Three digits: more is noise, and each change is a write.
    rounded = {key: float(f"{value:.3g}") for key, value in found.items() if value is not None}
    return rounded or None
