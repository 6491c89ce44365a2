"""Every metric of Baton and its buckets, in one place.

`Metrics` registers them in the registry that it is given, so each test has a fresh one. Labels are
bounded: models served here, APIs, codes of the error tree, roles, worker ids of live workers;
never request ids or clients' input. The gateway sets workers' from the load reports and the events
on their sessions; those that a worker serves itself are in `worker_metrics`.
"""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from baton.telemetry.counter import Counter
from baton.telemetry.histogram import Histogram

CONTENT_TYPE = CONTENT_TYPE_LATEST
NAMESPACE = "baton"

# Seconds. The ranges are those in which each has an SLO: requests to the default deadline, first
# tokens to a long prompt's prefill, gaps between tokens to a preemption, waits to their deadlines.
REQUEST_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 300, 600)
FIRST_TOKEN_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1, 2, 4, 8, 15, 30, 60)
TOKEN_BUCKETS = (0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5)
QUEUE_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
PHASE_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)
# Bytes per second, 1 MiB/s to 256 GiB/s.
RATE_BUCKETS = tuple(float(2**20 * 4**i) for i in range(10))
# Tokens of a prompt or an answer, and bytes of one handoff's KV (4 KiB to 16 GiB).
LENGTH_BUCKETS = (1, 8, 32, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
BYTES_BUCKETS = tuple(float(4096 * 4**i) for i in range(12))


class Metrics:
    """The metrics of one process; attribute names are the metrics' without prefix and unit.

    Labels, where they are not plain: `priority` is a class of gateway.priorities; `tenant` one that
    gateway.tenant_weights names, or "other"; `reason` of a rejection is queue_full, displaced (by
    one with more right to the room), deadline or objective (predicted on arrival to miss it), late
    (predicted when its turn came) or expired; `limit` is requests, tokens, concurrent_requests or
    budget; `api` is chat, completions, generate, ...; `code` is "ok" or an error's code; `state` of
    workers is ready, draining, foreign (of another tokenizer) or lost; `state` of blocks is free,
    cached, reserved, quarantined or pinned (cached ones are counted as free too, and pinned ones
    are in any state but quarantined); `reason` of a retry is the code of the error that ended the
    attempt; `outcome` of a handoff is accepted, failed or skipped (the decode worker computed the
    prompt itself); `side` of a failed one is source or target, its `reason` that of its
    HandoffError or the code of another error; `overlap` of KV is hidden or exposed; `reason` of a
    move is drain or short_of_blocks, its `outcome` moved, failed (it goes on where it was) or ended
    (the request did meanwhile); `kind` of a KV event is chunk (of a snapshot), snapshot (its last
    chunk), delta or gap.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        # The client library's extra series with creation times would double the number of series.
        disable_created_metrics()  # type: ignore[no-untyped-call]

        # Requests
        self.requests = self._counter(
            "requests_total", "Requests that ended.", ("model", "api", "code")
        )
        self.inflight = self._gauge("inflight_requests", "Requests not ended yet.", ("model",))
        self.request_duration = self._histogram(
            "request_duration_seconds",
            "From arrival to the end.",
            REQUEST_BUCKETS,
            ("model", "api"),
        )
        self.time_to_first_token = self._histogram(
            "time_to_first_token_seconds",
            "From arrival to the first token.",
            FIRST_TOKEN_BUCKETS,
            ("model",),
        )
        self.time_per_output_token = self._histogram(
            "time_per_output_token_seconds",
            "(Duration - time to first token) / (output tokens - 1), one value per request.",
            TOKEN_BUCKETS,
            ("model",),
        )
        self.inter_token_latency = self._histogram(
            "inter_token_latency_seconds",
            "Gap between two tokens of a choice; the mean where they came together.",
            TOKEN_BUCKETS,
            ("model",),
        )
        self.prompt_length = self._histogram(
            "prompt_length_tokens", "Tokens of a prompt.", LENGTH_BUCKETS, ("model",)
        )
        self.output_length = self._histogram(
            "output_length_tokens", "Output tokens of a request.", LENGTH_BUCKETS, ("model",)
        )
        self.prompt_tokens = self._counter(
            "prompt_tokens_total", "Prompt tokens of requests that were taken.", ("model",)
        )
        self.completion_tokens = self._counter(
            "completion_tokens_total", "Tokens that clients were sent.", ("model",)
        )
        self.cached_tokens = self._counter(
            "cached_tokens_total", "Prompt tokens served from a prefix cache.", ("model",)
        )
        self.cancelled = self._counter(
            "cancelled_requests_total", "Requests whose client went away.", ("model",)
        )

        # Keys and limits
        self.key_refusals = self._counter(
            "key_refusals_total", "Calls refused for their API key.", ("code",)
        )
        self.limit_refusals = self._counter(
            "limit_refusals_total", "Requests that a limit of a key or tenant refused.", ("limit",)
        )
        self.limit_time = self._histogram(
            "limit_seconds", "The store's answers about limits.", PHASE_BUCKETS
        )
        self.unchecked_limits = self._counter(
            "unchecked_limits_total", "Requests whose limits the store could not check."
        )

        # Queue and placement
        self.queue_length = self._gauge(
            "queue_length", "Requests that wait for a worker.", ("priority", "tenant")
        )
        self.queue_time = self._histogram(
            "queue_seconds", "Wait in the gateway before placement.", QUEUE_BUCKETS, ("priority",)
        )
        self.rejections = self._counter(
            "rejections_total", "Requests that overload ended.", ("reason", "priority")
        )
        self.attempts = self._counter("attempts_total", "Placements of requests on workers.")
        self.retries = self._counter(
            "retries_total", "Placements after an earlier one failed.", ("reason",)
        )
        self.routed = self._counter(
            "routed_total", "Choices of the router.", ("policy", "role", "worker")
        )

        # Handoffs
        self.handoffs = self._counter("handoffs_total", "Handoffs that ended.", ("outcome",))
        self.handoff_failures = self._counter(
            "handoff_failures_total", "Handoffs that failed, and why.", ("side", "reason")
        )
        self.handoff_offer_wait = self._histogram(
            "handoff_offer_wait_seconds",
            "From the submission at the target to the Offer.",
            PHASE_BUCKETS,
        )
        self.handoff_grant_wait = self._histogram(
            "handoff_grant_wait_seconds", "From the Offer to the first Grant.", PHASE_BUCKETS
        )
        self.handoff_transfer = self._histogram(
            "handoff_transfer_seconds",
            "With a write of the handoff under way.",
            PHASE_BUCKETS,
            ("transport",),
        )
        self.handoff_goodput = self._histogram(
            "handoff_goodput_bytes_per_second",
            "KV moved by a handoff in the time with a write under way.",
            RATE_BUCKETS,
            ("transport",),
        )
        self.handoff_exposed = self._histogram(
            "handoff_exposed_seconds",
            "From the last prompt token's compute until the last write was done.",
            PHASE_BUCKETS,
            ("transport",),
        )
        self.handoff_kv = self._counter(
            "handoff_kv_bytes_total",
            "KV moved by handoffs: hidden behind compute, or exposed.",
            ("transport", "overlap"),
        )
        self.handoff_first_step = self._histogram(
            "handoff_first_step_seconds",
            "From the adoption to the target's first token.",
            PHASE_BUCKETS,
        )
        self.handoff_verify = self._histogram(
            "handoff_verify_seconds", "From Commit to Accepted or Rejected.", PHASE_BUCKETS
        )
        self.handoff_bytes = self._histogram(
            "handoff_bytes", "KV moved by a handoff.", BYTES_BUCKETS
        )

        self.moves = self._counter(
            "moves_total", "Moves of running sequences that ended.", ("reason", "outcome")
        )
        self.move_duration = self._histogram(
            "move_seconds", "From a move's begin to the adoption.", PHASE_BUCKETS
        )

        # Workers, from their load reports
        self.workers = self._gauge("workers", "Known workers.", ("role", "state"))
        self.worker_losses = self._counter(
            "worker_losses_total", "Workers dropped by this gateway.", ("role", "reason")
        )
        self.running = self._gauge("running_sequences", "Sequences in the batch.", ("worker",))
        self.waiting = self._gauge("waiting_sequences", "Sequences waiting there.", ("worker",))
        self.queued_prefill_tokens = self._gauge(
            "queued_prefill_tokens", "Prompt tokens taken and not computed.", ("worker",)
        )
        self.kv_blocks = self._gauge("kv_blocks", "KV blocks by state.", ("worker", "state"))
        self.tier_bytes = self._gauge(
            "tier_bytes", "Of a tier below the device: used and capacity.", ("worker", "tier", "of")
        )
        self.tier_blocks = self._counter(
            "tier_blocks_total",
            "Hits, demotions, drops and failures of a tier.",
            ("worker", "tier", "event"),
        )
        self.promoted_blocks = self._counter(
            "promoted_blocks_total", "Blocks brought back from lower tiers.", ("worker",)
        )
        self.promotion_timeouts = self._counter(
            "promotion_timeouts_total", "Sequences that stopped waiting for those.", ("worker",)
        )
        self.fetched_blocks = self._counter(
            "fetched_blocks_total", "Blocks taken from peers' caches.", ("worker",)
        )
        self.prefill_rate = self._gauge(
            "prefill_tokens_per_second", "Moving average over about 20 steps.", ("worker",)
        )
        self.step = self._gauge(
            "step_seconds", "Moving average of steps without prefill.", ("worker",)
        )
        self.peer_links = self._gauge(
            "peer_links",
            "Peers that KV moves to and from, by what carries it.",
            ("worker", "transport", "fabric"),
        )
        self.peer_bandwidth = self._gauge(
            "peer_bandwidth_bytes_per_second",
            "Measured from a worker to a peer when their link came up.",
            ("worker", "peer", "transport", "fabric"),
        )
        self.digest_mismatches = self._gauge(
            "digest_mismatched_workers", "Workers that no peer shares a KV digest with."
        )

        # The prefix index
        self.indexed_blocks = self._gauge(
            "indexed_blocks",
            "Cached KV blocks of a worker that this gateway knows of.",
            ("worker", "tier"),
        )
        self.index_keys = self._gauge(
            "index_keys", "Distinct KV blocks in the prefix index, predicted ones included."
        )
        self.index_sets = self._gauge(
            "index_sets", "Distinct sets of workers that hold a block of the prefix index."
        )
        self.kv_events = self._counter(
            "kv_events_total", "Messages about workers' caches.", ("kind",)
        )
        self.kv_event_lag = self._histogram(
            "kv_event_lag_seconds",
            "From a change of a worker's cache until the prefix index has it, above the least.",
            PHASE_BUCKETS,
        )

        # The gateway itself
        self.store_up = self._gauge("store_up", "1 while the store answers.")
        self.dropped_records = self._counter(
            "dropped_records_total", "Records of requests that were not written to the store."
        )
        self.tasks = self._gauge("gateway_tasks", "Tasks of the gateway's event loop.")
        self.build = self._gauge("build_info", "Always 1.", ("version",))

    def render(self) -> bytes:
        """The registry in Prometheus' text format; send it as CONTENT_TYPE."""
        return generate_latest(self.registry)

    def forget_worker(self, worker: str) -> None:
        """Drop the series of a worker that is gone, so that none shows its last load for ever."""
        for metric in (
            self.running,
            self.waiting,
            self.queued_prefill_tokens,
            self.kv_blocks,
            self.tier_bytes,
            self.tier_blocks,
            self.promoted_blocks,
            self.promotion_timeouts,
            self.fetched_blocks,
            self.prefill_rate,
            self.step,
        ):
            metric.remove_by_labels({"worker": worker})

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"{NAMESPACE}_{name}", text, labels, self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(name, text, labels, namespace=NAMESPACE, registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()
    ) -> Histogram:
        return Histogram(f"{NAMESPACE}_{name}", text, buckets, labels, self.registry)
