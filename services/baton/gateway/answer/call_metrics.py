"""What one API call adds to the metrics and the log, with the labels looked up once per model."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from baton.gateway import errors
from baton.gateway.recent import RecentTimes
from baton.telemetry.logging import event
from baton.telemetry.metrics import Metrics
from baton.wire.frames import HELD_WAIT_S

if TYPE_CHECKING:
    from baton.gateway.answer.base import Answer
    from baton.gateway.answer.output import ChoiceOutput


log = logging.getLogger(__name__)


class ModelMetrics:
    """The series of one model and API."""

    def __init__(self, metrics: Metrics, model: str, api: str, recent: RecentTimes) -> None:
        self.recent = recent
        self._requests = metrics.requests
        self._labels = (model, api)
        self.api = api
        self.inflight = metrics.inflight.labels(model)
        self.duration = metrics.request_duration.labels(model, api)
        self.first_token = metrics.time_to_first_token.labels(model)
        self.per_token = metrics.time_per_output_token.labels(model)
        self.gap = metrics.inter_token_latency.labels(model)
        self.prompt_length = metrics.prompt_length.labels(model)
        self.output_length = metrics.output_length.labels(model)
        self.prompt_tokens = metrics.prompt_tokens.labels(model)
        self.completion_tokens = metrics.completion_tokens.labels(model)
        self.cached_tokens = metrics.cached_tokens.labels(model)
        self.cancelled = metrics.cancelled.labels(model)

    def ended(self, code: str) -> None:
        self._requests.labels(*self._labels, code).inc()


class CallMetrics:
    """Follows one call from its arrival (an instant of `time.monotonic`) to its end."""

    __slots__ = ("_first", "_last", "_series", "arrived", "max_gap_s")

    def __init__(self, series: ModelMetrics, arrived: float) -> None:
        self._series = series
        self.arrived = arrived
        # The longest that a choice stood still between two tokens.
        self.max_gap_s = 0.0
        self._first = 0.0
        self._last = 0.0

    @property
    def api(self) -> str:
        return self._series.api

    def begin(self) -> None:
        """The call is submitted; `end` follows."""
        self._series.inflight.inc()

    def token(self, output: ChoiceOutput, *, is_alone: bool = True) -> None:
        """A token of a choice came; by itself, or among others that its worker has held back."""
        now = self._last = time.monotonic()
        if output.token_at:
            gap_s = now - output.token_at
            if is_alone:
                self._series.gap.observe(gap_s)
            else:
                # It stood still for so long at least.
                gap_s -= HELD_WAIT_S
            if gap_s > self.max_gap_s:
                self.max_gap_s = gap_s
        else:
            output.first_at = now
            if not self._first:
                self._first = now
                self._series.first_token.observe(now - self.arrived)
        output.token_at = now

    def end(self, answer: Answer, request_id: str) -> None:
        """The call is over: completed, failed, or its client is gone."""
        series = self._series
        series.inflight.dec()
        num_tokens = answer.num_tokens
        duration_s = time.monotonic() - self.arrived
        series.completion_tokens.inc(num_tokens)
        series.duration.observe(duration_s)
        code = "ok"
        failed = False
        tpot_s: float | None = None
        if answer.gone:
            code = "cancelled"
            series.cancelled.inc()
        elif answer.error is not None:
            code = answer.error.code
            failed = errors.mapping(answer.error).http >= 500
        else:
            series.output_length.observe(num_tokens)
            if num_tokens > 1 and answer.num_choices == 1:
                tpot_s = (self._last - self._first) / (num_tokens - 1)
                series.per_token.observe(tpot_s)
        series.recent.ended(
            self._first - self.arrived if self._first else None, tpot_s, failed=failed
        )
        if answer.stream_interval > 1:
            self._observe_mean_gaps(answer)
        for sink in answer.sinks:
            series.prompt_length.observe(len(sink.request.prompt))
            series.prompt_tokens.inc(len(sink.request.prompt))
            series.cached_tokens.inc(sink.cached_tokens)
        series.ended(code)
        self._log(answer, request_id, code, num_tokens, duration_s)

    def _observe_mean_gaps(self, answer: Answer) -> None:
        """Of tokens that came together nothing else is known."""
        for sink in answer.sinks:
            for output in sink.outputs:
                num_gaps = output.num_tokens - 1
                if num_gaps > 0:
                    mean_s = (output.token_at - output.first_at) / num_gaps
                    self._series.gap.observe(mean_s, num_gaps)

    def _log(
        self, answer: Answer, request_id: str, code: str, num_tokens: int, duration_s: float
    ) -> None:
        if log.isEnabledFor(logging.INFO):
            log.info(
                *event(
                    "request_finished",
                    request_id=request_id,
                    id=answer.sinks[0].request.request_id,
                    model=answer.model.name,
                    code=code,
                    completion_tokens=num_tokens,
                    duration_s=round(duration_s, 4),
                )
            )
