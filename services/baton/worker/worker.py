"""One worker: an engine loop, streams, handoffs and a lease. Its role is a label.

Threads: the engine loop owns the engine and all handoffs; an asyncio thread owns the streams;
the transport has senders of its own; the lease is renewed from one more.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from baton.core import model_folder
from baton.core.errors import BatonError, HandoffError, UnavailableError
from baton.core.gc_pauses import settle_gc
from baton.core.handoff import Key
from baton.core.kv import Arena, GroupSpec
from baton.core.redact import redact_url
from baton.engine.outputs import EngineLoad, StepOutput
from baton.store.lease import LeaseKeeper
from baton.telemetry.logging import event
from baton.telemetry.worker_metrics import WorkerReading
from baton.transfer.base import Transport
from baton.transfer.handoffs import Handoffs
from baton.transfer.wire_codec import wire_codecs
from baton.v1 import common_pb2, session_pb2
from baton.wire.streams import methods
from baton.wire.streams.server import StreamServer
from baton.worker import health, rival
from baton.worker.async_thread import AsyncThread
from baton.worker.build import build_engine, build_transport, limit_cpu_threads
from baton.worker.config import WorkerConfig
from baton.worker.control import WorkerControl
from baton.worker.engine_loop import EngineLoop
from baton.worker.events import MIN_GAP_S, EventLog
from baton.worker.health import Heartbeat, Vitals
from baton.worker.lease import worker_lease
from baton.worker.lifecycle import Lifecycle, WorkerState
from baton.worker.load import LoadMeter
from baton.worker.readings import read_metrics
from baton.worker.sessions import Sessions
from baton.worker.start_progress import Stage, StartProgress
from baton.worker.tiers import build_tiers

log = logging.getLogger(__name__)

# How often a drain looks whether anything is left.
DRAIN_POLL_S = 0.05
# For streams to end by themselves when the process leaves.
STOP_GRACE_S = 0.2


def exit_process(error: BaseException) -> None:
    """A worker whose engine broke has no state worth keeping: gateways replay, Ray restarts it."""
    del error
    os._exit(1)


class Worker:
    """`start()` returns when it serves; `stop(grace_s)` drains and leaves."""

    def __init__(
        self,
        config: WorkerConfig,
        progress: StartProgress,
        died: Callable[[BaseException], None] = exit_process,
    ) -> None:
        self._config = config
        self._progress = progress
        self._died = died
        # Probes look at the worker while it starts: what is there once it has got so far.
        self._heartbeat: Callable[[], Heartbeat] | None = None
        self._lease: LeaseKeeper | None = None
        self._load: session_pb2.Load | None = None
        self._lifecycle = Lifecycle()
        self._meter = LoadMeter()
        # Ray may run two stops at once, a worn-out worker stops itself, others ask for drains.
        self._state_lock = threading.Lock()
        # When the machine goes away, if somebody has said so.
        self._leaves_at: float | None = None

    def start(self) -> None:
        """Fetch and load the model, listen, register. Raises ConfigError, saying what to change."""
        config, progress = self._config, self._progress
        prefix = config.settings.store.key_prefix
        # Loading may take minutes, only to be refused.
        asyncio.run(rival.check_free(config.store_url, config.token, prefix, config.worker_id))
        limit_cpu_threads(config.num_threads)
        folder = config.model_folder or self._find_model()
        tokenizer = model_folder.tokenizer_identity(folder)
        progress.begin(Stage.LOADING)
        self._engine, runner, self._digest = build_engine(config, folder, progress.advance)
        self._groups: tuple[GroupSpec, ...] = runner.groups
        arenas = runner.arenas()
        epoch = secrets.randbits(64) | 1
        self._transport: Transport = build_transport(config, f"{config.worker_id}-{epoch:016x}")
        self._transport.register(
            arenas, wire_codecs(config.settings.transfer, self._groups, arenas)
        )
        self._async = AsyncThread("worker-streams")
        self._loop = EngineLoop(
            self._engine,
            self._publish,
            self._died,
            self._worn_out,
            config.settings.transfer.max_growth_tokens,
        )
        self._tiers = build_tiers(
            config.settings.tiers,
            self._engine,
            self._groups,
            self._digest,
            arenas,
            self._loop.post,
        )
        self._server = StreamServer(
            config.settings.worker.host, config.settings.worker.port, config.token
        )
        self._me = common_pb2.WorkerRef(
            worker_id=config.worker_id, epoch=epoch, address=self._server.address
        )
        self._lease_now = partial(
            worker_lease,
            self._me,
            config,
            digest=self._digest,
            tokenizer=tokenizer,
            groups=self._groups,
            num_blocks=runner.num_blocks[0],
            max_model_len=self._engine.max_model_len,
            transport=self._transport,
        )
        self._async.run(self._serve(arenas))
        self._loop.start()
        self._heartbeat = self._loop.heartbeat
        self._lifecycle.move(WorkerState.READY)
        progress.begin(Stage.REGISTERING)
        self._lease = LeaseKeeper(
            config.store_url,
            config.token,
            prefix,
            f"workers/{config.worker_id}",
            lambda: self._lease_now().SerializeToString(),
            lambda holder: rival.look(holder, epoch, config.token),
            self._displaced,
            config.settings.worker.lease_ttl_s,
            config.settings.worker.lease_renew_s,
            lambda: progress.begin(Stage.READY),
        )
        holder = self._lease.start()
        if holder is not None:
            self.stop(0.0)
            raise rival.taken(holder)
        settle_gc()
        log.info(*event("worker_ready", worker=config.worker_id, address=self._me.address))

    def _find_model(self) -> str:
        model = self._config.settings.model
        return str(model_folder.resolve(model.source, model.revision, self._progress.advance))

    async def _serve(self, arenas: list[Arena]) -> None:
        config = self._config
        self._sessions = Sessions(
            self._me,
            self._lease_now,
            self._on_submit,
            self._on_cancel,
            self._on_migrate,
            self._on_prefetch,
            config.settings.worker,
        )
        self._events = EventLog(self._me.epoch, MIN_GAP_S)
        self._handoffs = Handoffs(
            self._me,
            self._digest,
            self._transport,
            arenas,
            self._groups,
            self._loop.host,
            self._loop.post,
            self._async.loop,
            config.token,
            config.settings.transfer,
            link_changed=self._loop.report,
            fetch_host=self._loop.fetch_host,
            do=self._loop.do,
        )
        self._loop.attach(self._handoffs)
        control = WorkerControl(self.drain, self.undrain)
        self._server.add(methods.SESSION, self._sessions.serve)
        self._server.add(methods.KV_EVENTS, self._events.serve)
        self._server.add(methods.HANDOFF, self._handoffs.serve)
        self._server.add_single(methods.DRAIN, control.drain)
        self._server.add_single(methods.UNDRAIN, control.undrain)
        await self._server.start()

    # --- between the threads ---

    def _on_submit(self, key: Key, submit: session_pb2.Submit) -> None:
        self._loop.post(lambda: self._loop.submit(key, submit))

    def _on_cancel(self, key: Key) -> None:
        self._loop.post(lambda: self._loop.cancel(key))

    def _on_migrate(self, key: Key, attempt: int, migrate: session_pb2.Migrate) -> None:
        self._loop.post(lambda: self._loop.migrate(key, attempt, migrate))

    def _on_prefetch(self, prefetch: session_pb2.Prefetch) -> None:
        self._loop.post(lambda: self._loop.prefetch(prefetch))

    def _publish(
        self,
        output: StepOutput,
        events: list[tuple[Key, session_pb2.SlotEvent]],
        engine_load: EngineLoad,
    ) -> None:
        """On the engine's thread: hand a step's news to the asyncio thread, in one call."""
        self._meter.observe(output)
        leaves_at, leaving_in_ms = self._leaves_at, 0
        if leaves_at is not None:
            leaving_in_ms = max(1, int(1000 * (leaves_at - time.monotonic())))
        load = self._meter.report(
            engine_load,
            self._handoffs.peers(),
            draining=self._lifecycle.is_draining,
            leaving_in_ms=leaving_in_ms,
        )
        self._load = load
        num_submitted = self._loop.num_submitted

        def tell() -> None:
            if output.cache:
                self._events.append(output.cache)
            self._sessions.publish(output.rows, events, load, num_submitted)

        self._async.loop.call_soon_threadsafe(tell)

    def _worn_out(self) -> None:
        """On the engine's thread, which must go on."""
        self._leave(HandoffError("too many blocks are in quarantine; the process starts again"))

    def _displaced(self, holder: bytes) -> None:
        """On the lease's thread: another living worker has our id, and gateways know only that."""
        error = rival.taken(holder)
        log.critical(*event("worker_id_taken", worker=self._me.worker_id, message=error.message))
        self._leave(error)

    def _leave(self, error: BatonError) -> None:
        """Drain and die, from a thread of its own."""

        def leave() -> None:
            self.stop()
            self._died(error)

        threading.Thread(target=leave, name="leave", daemon=True).start()

    # --- about itself ---

    def info(self) -> dict[str, Any]:
        """worker_id, pid, address, state."""
        return {
            "worker_id": self._me.worker_id,
            "pid": os.getpid(),
            "address": self._me.address,
            "state": self._lifecycle.state.value,
        }

    @property
    def state(self) -> WorkerState:
        """Takes no lock: signal handlers ask."""
        return self._lifecycle.state

    @property
    def is_registered(self) -> bool:
        """Its lease has been in the store: gateways can find it."""
        return self._lease is not None and self._lease.wait_registered()

    def vitals(self) -> Vitals:
        """What probes are told from; also before and during `start`. From any thread."""
        return Vitals(
            progress=self._progress.look(),
            state=self._lifecycle.state,
            registered=self.is_registered,
            heartbeat=self._heartbeat and self._heartbeat(),
            store=redact_url(self._config.store_url),
        )

    def reading(self) -> WorkerReading:
        """What /metrics shows. From any thread."""
        return read_metrics(self.vitals(), self._config, self._progress, self._meter, self._load)

    def drain(self, within_s: float = 0.0) -> int:
        """Ask for no new work, and for what runs to be moved away; how many submissions are here.

        With `within_s` all of it is wanted elsewhere by then. What comes all the same is served.
        May be repeated. From any thread.
        """
        with self._state_lock:
            self._leaves_at = time.monotonic() + within_s if within_s else None
            if self._lifecycle.state is WorkerState.READY:
                self._lifecycle.move(WorkerState.DRAINING)
        self._loop.report()
        return self._sessions.num_slots

    def undrain(self) -> None:
        """Take work again. Raises UnavailableError when the process is leaving."""
        with self._state_lock:
            if self._lifecycle.state not in (WorkerState.READY, WorkerState.DRAINING):
                raise UnavailableError(f"{self._me.worker_id} is about to stop")
            self._lifecycle.move(WorkerState.READY)
            self._leaves_at = None
        self._loop.report()

    def stop(self, grace_s: float | None = None) -> None:
        """Drain for up to `grace_s` (by default worker.drain_grace_s), then leave. Idempotent.

        A worker that /livez calls dead dies at once: in its engine nothing moves away or ends, and
        gateways replay the sooner.
        """
        settings = self._config.settings.worker
        if grace_s is None:
            grace_s = settings.drain_grace_s
        verdict = health.alive(self.vitals(), settings.stuck_after_s)
        if not verdict.ok:
            log.critical(*event("worker_given_up", reason=verdict.reason))
            self._died(UnavailableError(verdict.reason))
            return
        with self._state_lock:
            if self._lifecycle.state is WorkerState.STOPPED:
                return
            self._lifecycle.move(WorkerState.LEAVING)
        self._loop.report()
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline and self._sessions.num_slots:
            time.sleep(DRAIN_POLL_S)
        with self._state_lock:
            if not self._lifecycle.move(WorkerState.STOPPED):
                return
        if self._lease is not None:
            self._lease.stop(delete=True)
        self._async.run(self._end_streams())
        self._loop.post(self._handoffs.close)
        self._loop.stop()
        self._loop.join()
        if self._tiers is not None:
            self._tiers.close()
        self._transport.close()
        self._async.stop()

    async def _end_streams(self) -> None:
        await self._server.stop(STOP_GRACE_S)
        self._sessions.close()
