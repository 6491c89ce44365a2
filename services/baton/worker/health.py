"""What a worker's probes are told (pure).

| probe | true when |
|---|---|
| startup | the model is loaded and a lease has been written once since the start |
| liveness | the engine's loop gets round; it may be idle, or in one long step |
| readiness | as startup, and the worker does not drain |

A store that goes away later changes none of them: gateways that know the worker keep using it.
"""

from __future__ import annotations

from dataclasses import dataclass

from baton.worker.lifecycle import WorkerState
from baton.worker.start_progress import Progress, Stage


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The engine's loop: whether its thread lives, since when it stands still, and its steps."""

    alive: bool
    age_s: float
    num_steps: int


@dataclass(frozen=True, slots=True)
class Vitals:
    """A worker at one moment. `heartbeat` is None before its loop has begun."""

    progress: Progress
    state: WorkerState
    registered: bool
    heartbeat: Heartbeat | None
    store: str
    """The store's URL without its password, for messages."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A probe's answer; without `reason` it is yes."""

    reason: str = ""

    @property
    def ok(self) -> bool:
        return not self.reason


def started(vitals: Vitals) -> Verdict:
    """Whether the worker has begun to serve."""
    if vitals.registered:
        return Verdict()
    progress = vitals.progress
    match progress.stage:
        case Stage.DOWNLOADING:
            return Verdict(f"looks for the model: {_amount(progress)}")
        case Stage.LOADING:
            return Verdict(f"loads the model: {_amount(progress)}")
        case _:
            return Verdict(
                f"no lease is written: the store at {vitals.store} has not taken it for "
                f"{progress.seconds:.0f} s; check that it runs, store.url and the deployment's "
                "token (the log says more)"
            )


def ready(vitals: Vitals) -> Verdict:
    """Whether gateways should send new requests."""
    verdict = started(vitals)
    if verdict.ok and vitals.state is not WorkerState.READY:
        return Verdict(f"the worker is {vitals.state.value} and takes no new requests")
    return verdict


def alive(vitals: Vitals, stuck_after_s: float) -> Verdict:
    """Whether it makes sense to let the process live."""
    heartbeat = vitals.heartbeat
    if heartbeat is None or vitals.state is WorkerState.STOPPED:
        return Verdict()
    if not heartbeat.alive:
        return Verdict("the engine's thread has ended; restart the worker, the log says why")
    if heartbeat.age_s > stuck_after_s:
        return Verdict(
            f"the engine's loop has stood still for {heartbeat.age_s:.0f} s; restart the worker "
            f"(or raise worker.stuck_after_s, {stuck_after_s:g}, if one step takes that long)"
        )
    return Verdict()


def _amount(progress: Progress) -> str:
    if not progress.num_bytes and progress.total_bytes is None:
        return f"{progress.seconds:.0f} s so far"
    done, total = progress.num_bytes / 1e6, progress.total_bytes
    of = "" if total is None else f" of {total / 1e6:.1f}"
    return f"{done:.1f}{of} MB in {progress.seconds:.0f} s"
