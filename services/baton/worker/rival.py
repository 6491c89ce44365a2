"""Two processes with one worker id: is the other one alive?

The lease says where its holder listens. A session opened with its epoch tells more than a health
check would: the port may belong to another worker by now.
"""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import socket

from google.protobuf.message import DecodeError

from baton.core.errors import ConfigError, UnavailableError
from baton.store.connect import open_store
from baton.store.lease import Holder
from baton.telemetry.addresses import split_address
from baton.v1 import common_pb2, session_pb2
from baton.wire.streams.client import dial
from baton.wire.streams.methods import SESSION
from baton.wire.streams.status import Code, StreamError

ASK_S = 2.0


async def look(value: bytes, own_epoch: int, token: str) -> Holder:
    """Whether the worker that wrote this lease lives. GONE too for our own, and for no lease."""
    try:
        lease = common_pb2.WorkerLease.FromString(value)
    except DecodeError:
        return Holder.GONE
    if lease.worker.epoch == own_epoch or not lease.worker.address:
        return Holder.GONE
    if lease.node != socket.gethostname() and _is_loopback(lease.worker.address):
        # Who answers there is somebody here.
        return Holder.SILENT
    try:
        async with asyncio.timeout(ASK_S):
            return await _open_session(lease, token)
    except TimeoutError:
        return Holder.SILENT
    except StreamError as error:
        # FAILED_PRECONDITION: a worker of another epoch listens there now.
        is_gone = error.refused or error.code is Code.FAILED_PRECONDITION
        return Holder.GONE if is_gone else Holder.SILENT


async def _open_session(lease: common_pb2.WorkerLease, token: str) -> Holder:
    opening = session_pb2.Open(
        session_id=secrets.token_hex(16),
        worker_epoch=lease.worker.epoch,
        protocol=lease.protocol_max,
    )
    async with dial(lease.worker.address, token, SESSION) as stream:
        stream.send(session_pb2.SessionRequest(open=opening))
        # A session that says goodbye leaves nothing there.
        stream.done_writing()
        responses = [response async for response in stream]
    return Holder.LIVES if any(r.HasField("opened") for r in responses) else Holder.SILENT


async def check_free(url: str, token: str, prefix: str, worker_id: str) -> None:
    """Raise ConfigError when a living worker has this id. A store that is down says nothing."""
    store = open_store(url, token, prefix)
    try:
        holder = await store.get(f"workers/{worker_id}")
        if holder is not None and await look(holder, 0, token) is Holder.LIVES:
            raise taken(holder)
    except UnavailableError:
        # The lease's keeper goes on trying, and says so.
        return
    finally:
        await store.close()


def taken(value: bytes) -> ConfigError:
    """What to tell the one that has to go; `value` is the other's lease."""
    lease = common_pb2.WorkerLease.FromString(value)
    worker = lease.worker
    return ConfigError(
        f"worker id {worker.worker_id!r} is taken: the worker at {worker.address} (process "
        f"{lease.pid} on {lease.node}, epoch {worker.epoch:016x}) holds its lease; stop that one, "
        "or start this one with another --worker-id (or none, to have one drawn)"
    )


def _is_loopback(address: str) -> bool:
    host, _ = split_address(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
