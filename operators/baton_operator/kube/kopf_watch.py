"""kopf as the watcher: it lists and watches, the rest of the operator decides and acts.

kopf runs in a thread with an event loop of its own, because when it ends it cancels every task of
its loop, and because it would take the process's signals. Its handlers are of two sorts only:
`index` ones, which kopf calls for every object before any other handler of any object runs, fill
the cache; `event` ones then say what changed. So the first round begins when everything has been
listed. kopf is given nothing to remember: no finalizers, no annotations, no progress, no events.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import kopf
from kubernetes.aio.client import Configuration

from baton_operator import kinds, names
from baton_operator.kinds import Kind
from baton_operator.kube.client import Manifest

Type = Literal["known", "listed", "changed", "deleted"]


@dataclass(frozen=True, slots=True)
class Notice:
    """One object, as a watch told of it.

    known: its state, for the cache; nothing to do yet. listed: it was there when a watch began.
    changed: added or modified. deleted: gone for good.
    """

    type: Type
    kind: str
    manifest: Manifest


class Backoffs:
    """Waits between tries of one of kopf's API calls, without end: an API server that is away for
    an hour is waited for, and whether this process may go on is the Lease's question.
    """

    def __iter__(self) -> Iterator[float]:
        yield from (0.5, 1, 2, 4)
        while True:
            yield 8


class Watcher:
    """Watches some kinds in one namespace or in all; `run` until cancelled.

    `sink` is called in the event loop that `run` was called in, in the order of each object's
    events.
    """

    def __init__(
        self,
        configuration: Configuration,
        watched: Collection[Kind],
        namespace: str | None,
        sink: Callable[[Notice], None],
    ) -> None:
        self._configuration = configuration
        self._watched = watched
        self._namespace = namespace
        self._sink = sink

    async def run(self) -> None:
        """Returns only by an exception: cancellation, or what made kopf end."""
        home = asyncio.get_running_loop()
        stop: concurrent.futures.Future[None] = concurrent.futures.Future()

        def deliver(notice: Notice) -> None:
            # The rounds' loop may be closed while the last events of a stopped watch come in.
            if not stop.done():
                home.call_soon_threadsafe(self._sink, notice)

        thread = home.run_in_executor(None, self._serve, deliver, stop)
        try:
            await asyncio.shield(thread)
        finally:
            if not stop.done():
                stop.set_result(None)
            await asyncio.wait([thread])
        raise RuntimeError("kopf ended without saying why")

    def _serve(
        self, deliver: Callable[[Notice], None], stop: concurrent.futures.Future[None]
    ) -> None:
        asyncio.run(self._operate(deliver, stop))

    async def _operate(
        self, deliver: Callable[[Notice], None], stop: concurrent.futures.Future[None]
    ) -> None:
        flag = asyncio.Event()
        loop = asyncio.get_running_loop()
        stop.add_done_callback(lambda _: loop.call_soon_threadsafe(flag.set))
        await kopf.operator(
            registry=self._registry(deliver),
            settings=_settings(self._watched),
            standalone=True,
            clusterwide=self._namespace is None,
            namespaces=[] if self._namespace is None else [self._namespace],
            stop_flag=flag,
        )

    def _registry(self, deliver: Callable[[Notice], None]) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(self._login)
        for each in self._watched:
            _register(registry, each, deliver)
        return registry

    async def _login(self, **_: Any) -> kopf.ConnectionInfo:
        """Called at the start and whenever the API server took the token no more."""
        configuration = self._configuration
        bearer = (await configuration.auth_settings()).get("BearerToken", {}).get("value")
        token = str(bearer).partition(" ")[2] if bearer else None
        return kopf.ConnectionInfo(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            insecure=not configuration.verify_ssl,
            token=token,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
        )


def _register(
    registry: kopf.OperatorRegistry, kind: Kind, deliver: Callable[[Notice], None]
) -> None:
    async def remember(body: kopf.Body, **_: Any) -> None:
        deliver(Notice("known", kind.kind, _plain(body)))

    async def notice(body: kopf.Body, type: str | None, **_: Any) -> None:
        deliver(Notice(_TYPES[type], kind.kind, _plain(body)))

    where = (kind.group, kind.version, kind.plural)
    kopf.index(*where, id=f"remember-{kind.plural}", registry=registry)(remember)
    kopf.on.event(*where, id=f"notice-{kind.plural}", registry=registry)(notice)


_TYPES: Mapping[str | None, Type] = {
    None: "listed",
    "ADDED": "changed",
    "MODIFIED": "changed",
    "DELETED": "deleted",
}


def _plain(body: kopf.Body) -> Manifest:
    """The manifest itself; kopf's view of it makes new objects with every look."""
    return dict(body)


class _NoEssence(kopf.DiffBaseStorage):
    """kopf copies every object of every event, to compare it with what it handled last: for
    handlers of changes, of which there are none here."""

    def build(self, *, body: kopf.Body, extra_fields: object = None) -> kopf.BodyEssence:
        return {}

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None: ...


def _settings(watched: Collection[Kind]) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    # No watching of namespaces and CRDs, which needs cluster-wide permissions. CRDs that come and
    # go are looked for by the operator itself.
    settings.scanning.disabled = True
    # kopf takes its own finalizer off objects that have it. One of another operator that is
    # written with kopf must stay, so ours is a name that nobody has.
    settings.persistence.finalizer = f"{names.GROUP}/none"
    settings.persistence.diffbase_storage = _NoEssence()
    settings.networking.error_backoffs = Backoffs()
    settings.networking.connect_timeout = 5
    settings.networking.request_timeout = 60
    # Else a connection that a firewall dropped would be noticed late.
    settings.watching.server_timeout = 240
    settings.watching.reconnect_backoff = 0.5
    settings.queueing.exit_timeout = 0.5
    # Memory of one list, however many pods there are.
    settings.watching.chunk_size = 500
    for kind in watched:
        if kind != kinds.SERVICE:
            where = (kind.group, kind.version, kind.plural)
            settings.watching.label_selectors[where] = names.LABEL_SERVICE
    return settings


def quiet_kopf() -> None:
    """No warning at every start that kopf takes no signals: its thread is meant to get none."""
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
