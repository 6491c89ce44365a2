"""What a worker tells gateways about its load."""

from __future__ import annotations

from baton.engine.outputs import EngineLoad, StepOutput
from baton.v1 import session_pb2

# Weight of the newest step in the moving averages; about the last 20 steps count.
_ALPHA = 0.1


class LoadMeter:
    """Turns engine loads into reports. Lives on the engine's thread."""

    def __init__(self) -> None:
        self._sequence_number = 0
        self._prefill_rate = 0.0
        self._step_s = 0.0

    def observe(self, output: StepOutput) -> None:
        """Take a step's measurements into the averages."""
        if output.step_s <= 0:
            return
        if output.num_prefill_tokens:
            rate = output.num_prefill_tokens / output.step_s
            self._prefill_rate = _average(self._prefill_rate, rate)
        else:
            self._step_s = _average(self._step_s, output.step_s)

    def report(self, load: EngineLoad, *, draining: bool) -> session_pb2.Load:
        """The engine's load now, numbered."""
        self._sequence_number += 1
        return session_pb2.Load(
            sequence_number=self._sequence_number,
            num_waiting=load.num_waiting,
            num_running=load.num_running,
            queued_prefill_tokens=load.queued_prefill_tokens,
            free_blocks=load.free_blocks,
            cached_blocks=load.cached_blocks,
            reserved_blocks=load.reserved_blocks,
            quarantined_blocks=load.quarantined_blocks,
            queue_room=load.queue_room,
            draining=draining,
            short_of_blocks=load.short_of_blocks,
            prefill_tokens_per_s=self._prefill_rate,
            step_s=self._step_s,
        )


def _average(old: float, new: float) -> float:
    return new if old == 0 else old + _ALPHA * (new - old)
