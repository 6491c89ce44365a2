"""The target's side of `dist`: takes channels, and puts into the arenas what it has granted.

A piece is received into memory of its own first. Whole, and only while each of its blocks is
expected, it is copied to where it belongs: so nothing lands that was not granted, nor half of
anything, and nothing at all once the receiver is closed.
"""

from __future__ import annotations

import datetime
import json
import logging
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from baton.core.errors import HandoffError
from baton.core.handoff import Key, ReservedGroup
from baton.core.kv import Arena
from baton.transfer.block_copy import scatter
from baton.transfer.checksum import Run
from baton.transfer.dist_channel import (
    CONNECT_WAIT_S,
    FOREVER_S,
    HEADER_LEN,
    LANDED,
    REFUSED,
    SCRATCH_GROUP,
    Announcement,
    Channel,
    DistEndpoint,
    announce,
    connect_store,
    torch_distributed,
)
from baton.transfer.process import node

log = logging.getLogger(__name__)

# A source sends this much at once, at most; more is not believed.
MAX_PIECE_BYTES = 2**30
MAX_RUNS = 2**16
STOP_WAIT_S = 5.0
# Torch knows no wait without an end: after this another one begins, and after a failed one a pause.
WISH_WAIT_S = 3600.0
ACCEPT_PAUSE_S = 1.0


class Landing:
    """Which blocks may be written to now, and the writing."""

    def __init__(self, arenas: Mapping[int, Arena]) -> None:
        self._arenas = arenas
        # Held while a piece is copied: what is no longer expected does not change any more.
        self._lock = threading.Lock()
        self._expected: dict[Key, Sequence[ReservedGroup]] = {}
        self._times = {g: np.zeros(a.num_blocks, np.int32) for g, a in arenas.items()}

    def expect(self, key: Key, groups: Sequence[ReservedGroup]) -> None:
        """These blocks, and no others of this key."""
        with self._lock:
            self._count(self._expected.pop(key, ()), -1)
            self._expected[key] = groups
            self._count(groups, 1)

    def unexpect(self, key: Key) -> None:
        with self._lock:
            self._count(self._expected.pop(key, ()), -1)

    def _count(self, groups: Sequence[ReservedGroup], by: int) -> None:
        for group, reserved in enumerate(groups):
            written = [b for i, b in enumerate(reserved.block_ids) if i not in reserved.skip]
            np.add.at(self._times[group], written, by)

    def land(self, group: int, ids: np.ndarray, runs: Sequence[Run], data: Any) -> bool:
        """Copy a piece; False, and nothing is touched, unless all its blocks are expected."""
        with self._lock:
            if not (self._times[group][ids] > 0).all():
                return False
            scatter(self._arenas[group], ids, runs, data)
            return True


class DistReceiver:
    """An agent's store, the thread that waits for channels in it, and a thread per channel."""

    def __init__(self, name: str, host: str, arenas: Mapping[int, Arena], prefix: str) -> None:
        self._host = host
        self._arenas = arenas
        self.landing = Landing(arenas)
        # The store would listen on every address of the machine.
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, 0), family=family) as listener:
            port = listener.getsockname()[1]
            self._store = torch_distributed().TCPStore(
                host,
                port,
                is_master=True,
                wait_for_workers=False,
                timeout=datetime.timedelta(seconds=CONNECT_WAIT_S),
                master_listen_fd=listener.detach(),
            )
        self.endpoint = DistEndpoint(host, port, prefix, node())
        # All whose thread may still run; only the acceptor changes it.
        self._incoming: list[_Incoming] = []
        self._closing = False
        try:
            # The acceptor's own: its waits would hold up others'.
            wishes = connect_store(self.endpoint)
        except (OSError, RuntimeError) as error:
            raise HandoffError(f"the agent's own store does not answer: {error}") from error
        self._thread = threading.Thread(
            target=self._accept, args=(wishes,), name=f"dist-{name}", daemon=True
        )
        self._thread.start()

    def _accept(self, store: Any) -> None:
        number = 0
        while not self._closing:
            try:
                raw = self._take_wish(store, number)
            except RuntimeError as error:
                log.debug("waiting for channels: %s", error)
                time.sleep(ACCEPT_PAUSE_S)
                continue
            number += 1
            if self._closing:
                return
            try:
                wish = Announcement(**json.loads(raw))
            except (ValueError, TypeError):
                log.warning("a peer's announcement of a channel cannot be read")
                continue
            self._incoming = [incoming for incoming in self._incoming if incoming.is_alive()]
            before = [incoming for incoming in self._incoming if incoming.source == wish.source]
            incoming = _Incoming(self, wish, before)
            incoming.start()
            self._incoming.append(incoming)

    def _take_wish(self, store: Any, number: int) -> bytes:
        key = f"{self.endpoint.prefix}/wish/{number}"
        store.wait([key], datetime.timedelta(seconds=WISH_WAIT_S))
        raw: bytes = store.get(key)
        store.delete_key(key)
        return raw

    def open_channel(self, wish: Announcement) -> Channel:
        return Channel(connect_store(self.endpoint), self._host, wish, rank=1)

    def receive(self, channel: Channel) -> None:
        """Take pieces until the channel breaks, which raises."""
        while True:
            header = channel.recv_numbers(HEADER_LEN, FOREVER_S)
            group, num_blocks, num_runs, num_bytes = header.tolist()
            if not 0 < num_bytes <= MAX_PIECE_BYTES or not 0 < num_runs <= MAX_RUNS:
                raise HandoffError("a piece's header makes no sense")
            if group == SCRATCH_GROUP:
                self._take(channel, None, num_bytes)
                verdict = LANDED
            else:
                verdict = self._receive_blocks(channel, group, num_blocks, num_runs, num_bytes)
            channel.send_numbers(np.array([verdict], np.int64), CONNECT_WAIT_S)

    def _receive_blocks(
        self, channel: Channel, group: int, num_blocks: int, num_runs: int, num_bytes: int
    ) -> int:
        arena = self._arenas.get(group)
        if arena is None or not 0 < num_blocks <= arena.num_blocks:
            raise HandoffError(f"group {group} does not have {num_blocks} blocks here")
        index = channel.recv_numbers(num_blocks + 2 * num_runs, FOREVER_S)
        ids, runs = index[:num_blocks], index[num_blocks:].reshape(num_runs, 2)
        if (
            ids.min() < 0
            or ids.max() >= arena.num_blocks
            or runs.min() < 0
            or runs.max() > arena.block_bytes
            or (runs.sum(axis=1) > arena.block_bytes).any()
            or num_blocks * int(runs[:, 1].sum()) != num_bytes
        ):
            raise HandoffError("a piece's index is not of blocks here")
        data = self._take(channel, arena, num_bytes).reshape(num_blocks, -1)
        pairs = [(int(start), int(length)) for start, length in runs]
        return LANDED if self.landing.land(group, ids, pairs, data) else REFUSED

    def _take(self, channel: Channel, arena: Arena | None, num_bytes: int) -> Any:
        import torch

        device = "cpu"
        if channel.on_device:
            device = f"cuda:{arena.device_id if arena is not None else 0}"
        data = torch.empty(num_bytes, dtype=torch.uint8, device=device)
        channel.recv_bytes(data, FOREVER_S)
        return data

    def close(self) -> None:
        """End all channels; nothing lands after this. Raises HandoffError when one cannot end."""
        self._closing = True
        give_up = time.monotonic() + STOP_WAIT_S + CONNECT_WAIT_S
        # Wakes the acceptor.
        announce(self._store, self.endpoint.prefix, "", nccl=False)
        self._thread.join(STOP_WAIT_S)
        incoming = list(self._incoming)
        for one in incoming:
            one.sever()
        for one in incoming:
            one.join(max(0.0, give_up - time.monotonic()))
        if any(thread.is_alive() for thread in (self._thread, *incoming)):
            raise HandoffError("a receive hangs inside torch.distributed")
        self._incoming.clear()


class _Incoming(threading.Thread):
    """Serves one channel. `before` are earlier ones of the same source, which end first.

    So once a source has a new channel, nothing that it sent on the old one can land any more.
    """

    def __init__(
        self, receiver: DistReceiver, wish: Announcement, before: Sequence[_Incoming]
    ) -> None:
        super().__init__(name=f"dist-from-{wish.source}", daemon=True)
        self.source = wish.source
        self._receiver = receiver
        self._wish = wish
        self._before = before
        self._channel: Channel | None = None
        self._ending = False

    def run(self) -> None:
        before, self._before = self._before, ()
        for one in before:
            one.sever()
            one.join(STOP_WAIT_S + CONNECT_WAIT_S)
            if one.is_alive():
                return
        try:
            self._channel = self._receiver.open_channel(self._wish)
            if not self._ending:
                self._receiver.receive(self._channel)
        except Exception as error:
            # Torch raises RuntimeErrors of its own for a peer that is gone.
            log.debug("channel from %s: %s", self._wish.source, error)
        if self._channel is not None:
            self._channel.sever()

    def sever(self) -> None:
        """End it soon. From any thread."""
        self._ending = True
        if self._channel is not None:
            self._channel.sever()
