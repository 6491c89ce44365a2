"""Process groups of two ranks, and how a piece of a write is framed on one.

A channel carries pieces from one agent (rank 0) to another (rank 1), one at a time:

    header  int64[4]   group, number of blocks, number of runs, number of bytes
    index   int64[n]   block ids there, then offset and length of each run of a block
    bytes   uint8[n]   `[block, byte]`, the runs of a block one after the other
    verdict int64[1]   the other way: what became of it

The first three travel on gloo, bytes too unless both arenas are a GPU's: then they go by NCCL.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import secrets
import socket
import threading
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from baton.core.errors import HandoffError

HEADER_LEN = 4
# The group of pieces that are sent to measure the link, and go nowhere.
SCRATCH_GROUP = -1
LANDED, REFUSED = 0, 1
# Torch's connect to a store that is alive was seen to take 5 s, once in about 50 times.
CONNECT_WAIT_S = 15.0
# A wait without an end (torch counts milliseconds in 32 bits): gloo closes the connection of a
# receive that times out.
FOREVER_S = 20 * 86400.0


@dataclass(frozen=True, slots=True)
class DistEndpoint:
    """How to reach an agent: its store, and the prefix of its keys there, which is not guessable.

    `node` is `process.node()`.
    """

    host: str
    port: int
    prefix: str
    node: str

    def pack(self) -> bytes:
        return json.dumps({"dist": asdict(self)}).encode()


def unpack(metadata: bytes) -> DistEndpoint:
    """Raises HandoffError for what is no such endpoint, or another transport's."""
    try:
        return DistEndpoint(**json.loads(metadata)["dist"])
    except (ValueError, TypeError, KeyError) as error:
        raise HandoffError("the peer's endpoint is not of transport dist") from error


@dataclass(frozen=True, slots=True)
class Announcement:
    """A source's wish for a channel. A new one of the same source replaces the one before."""

    source: str
    name: str
    nccl: bool

    def pack(self) -> str:
        return json.dumps(asdict(self))


def announce(store: Any, prefix: str, source: str, *, nccl: bool) -> Announcement:
    """Ask for a channel; the target's acceptor waits for these keys in their order."""
    wish = Announcement(source, secrets.token_hex(8), nccl)
    number = store.add(f"{prefix}/count", 1) - 1
    store.set(f"{prefix}/wish/{number}", wish.pack())
    return wish


def torch_distributed() -> Any:
    """Loaded late, for it takes seconds; untyped, for torch's stubs lack most of what is used."""
    import torch.distributed

    return torch.distributed


def connect_store(endpoint: DistEndpoint) -> Any:
    """A client of an agent's store: one per thread, for a wait in it holds up all else.

    Raises OSError when nothing listens there. Hangs, as all its calls do, while the process at the
    other end is frozen.
    """
    # Torch would try for as long as it may wait, and write a page about it.
    socket.create_connection((endpoint.host, endpoint.port), CONNECT_WAIT_S).close()
    wait = datetime.timedelta(seconds=CONNECT_WAIT_S)
    return torch_distributed().TCPStore(endpoint.host, endpoint.port, is_master=False, timeout=wait)


class Channel:
    """One end of a channel. Waits for the other end; raises whatever torch raises if none comes."""

    def __init__(self, store: Any, host: str, wish: Announcement, rank: int) -> None:
        dist = torch_distributed()
        options = dist.ProcessGroupGloo._Options()
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=host)]
        options._timeout = datetime.timedelta(seconds=CONNECT_WAIT_S)
        self._peer = 1 - rank
        gloo = dist.PrefixStore(f"gloo/{wish.name}", store)
        self._gloo = dist.ProcessGroupGloo(gloo, rank, 2, options)
        self._bytes = self._gloo
        self.on_device = wish.nccl
        if wish.nccl:
            nccl = dist.PrefixStore(f"nccl/{wish.name}", store)
            self._bytes = dist.ProcessGroupNCCL(nccl, rank, 2, dist.ProcessGroupNCCL.Options())

    def send_numbers(self, numbers: np.ndarray, wait_s: float) -> None:
        import torch

        work = self._gloo.send([torch.from_numpy(numbers)], self._peer, 0)
        work.wait(datetime.timedelta(seconds=wait_s))

    def recv_numbers(self, count: int, wait_s: float) -> np.ndarray:
        import torch

        tensor = torch.empty(count, dtype=torch.int64)
        self._gloo.recv([tensor], self._peer, 0).wait(datetime.timedelta(seconds=wait_s))
        numbers: np.ndarray = tensor.numpy()
        return numbers

    def send_bytes(self, data: Any, wait_s: float) -> None:
        """`data` is a tensor of the device that the channel carries bytes between."""
        self._bytes.send([data], self._peer, 0).wait(datetime.timedelta(seconds=wait_s))

    def recv_bytes(self, data: Any, wait_s: float) -> None:
        """Fill a tensor; all of it has come when this returns."""
        self._bytes.recv([data], self._peer, 0).wait(datetime.timedelta(seconds=wait_s))
        if self.on_device:
            import torch

            torch.cuda.synchronize(data.device)

    def sever(self) -> None:
        """Close the connection: whoever waits on it, on either side, fails. From any thread."""
        import torch

        nothing = torch.empty(1, dtype=torch.int64)
        # Gloo has no close, but a wait that times out closes the connection, whatever its tag.
        with contextlib.suppress(RuntimeError):
            self._gloo.recv([nothing], self._peer, 1).wait(datetime.timedelta(milliseconds=1))
        if self._bytes is not self._gloo:
            self._bytes.abort()


class Dial(threading.Thread):
    """Opens a channel to an agent, on a thread of its own: a frozen peer holds nobody else up."""

    def __init__(self, endpoint: DistEndpoint, host: str, source: str, *, nccl: bool) -> None:
        super().__init__(name=f"dist-dial-{source}", daemon=True)
        self._endpoint = endpoint
        self._host = host
        self._source = source
        self._nccl = nccl
        self._channel: Channel | None = None
        self._error: Exception | None = None
        self._lock = threading.Lock()
        self._unwanted = False

    def run(self) -> None:
        channel, error = None, None
        try:
            store = connect_store(self._endpoint)
            wish = announce(store, self._endpoint.prefix, self._source, nccl=self._nccl)
            channel = Channel(store, self._host, wish, rank=0)
        except Exception as caught:
            # Torch raises errors of many classes; all mean that the peer cannot be written to.
            error = caught
        with self._lock:
            self._channel, self._error = channel, error
            unwanted = self._unwanted
        if unwanted and channel is not None:
            channel.sever()

    def result(self, wait_s: float) -> Channel:
        """Raises TimeoutError while there is none, and HandoffError when there will be none."""
        self.join(wait_s)
        with self._lock:
            if self._channel is not None:
                return self._channel
            if self._error is not None:
                reason = str(self._error).partition("\n")[0]
                raise HandoffError(f"{type(self._error).__name__}: {reason}")
        raise TimeoutError("the peer does not answer")

    def abandon(self) -> None:
        """Nobody waits for it any more; a channel that comes all the same is closed."""
        with self._lock:
            self._unwanted = True
            channel = self._channel
        if channel is not None:
            channel.sever()
