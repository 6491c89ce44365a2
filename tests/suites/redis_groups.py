"""Real Redis servers in groups: a Cluster, and a primary with its replica behind Sentinels."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from fakes.free_port import free_port

START_S = 30.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll `condition`; servers that do not answer yet count as false."""
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        try:
            if condition():
                return
        except (RedisError, OSError):
            pass
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {START_S:g} s")


class Process:
    """One redis-server with options of its own, in a folder of its own."""

    def __init__(
        self, folder: Path, *options: str, config: str | None = None, password: str | None = None
    ) -> None:
        self.port = free_port()
        self._password = password
        self.folder = folder / str(self.port)
        self.folder.mkdir()
        self._options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        self._options += ["--save", "", "--appendonly", "no", *options]
        if config is not None:
            file = self.folder / "sentinel.conf"
            file.write_text(config)
            self._options = [str(file), "--sentinel", "--port", str(self.port)]
            self._options += ["--bind", "127.0.0.1", "--dir", str(self.folder)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def client(self) -> Redis:
        return Redis(port=self.port, password=self._password, socket_timeout=2.0)

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        program = shutil.which("redis-server")
        assert program is not None, "redis-server is not installed"
        self._process = subprocess.Popen(
            [program, *self._options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._answers, "redis-server")

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def unfreeze(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def info(self, name: str) -> object:
        with self.client as client:
            return client.info("replication")[name]

    def _answers(self) -> bool:
        assert self._process is not None and self._process.poll() is None, "redis-server ended"
        with self.client as client:
            return bool(client.ping())


class ClusterServers:
    """A Redis Cluster of `num_primaries`, the slots shared evenly; each may have a replica."""

    def __init__(self, num_primaries: int, *, replicas: bool = False) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="baton-redis-")
        folder = Path(self._folder.name)
        self.primaries = [self._node(folder) for _ in range(num_primaries)]
        self.replicas = [self._node(folder) for _ in range(num_primaries)] if replicas else []

    @staticmethod
    def _node(folder: Path) -> Process:
        return Process(
            folder,
            *("--cluster-enabled", "yes", "--cluster-port", str(free_port())),
            *("--cluster-node-timeout", "1000", "--cluster-replica-validity-factor", "0"),
        )

    @property
    def nodes(self) -> list[Process]:
        return self.primaries + self.replicas

    @property
    def url(self) -> str:
        return self.url_of("")

    def url_of(self, login: str) -> str:
        """With `USER:PASSWORD@` before the hosts."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"redis+cluster://{login}{hosts}"

    def create(self) -> None:
        """Start all nodes and join them."""
        for node in self.nodes:
            node.start()
        first, num = self.primaries[0], len(self.primaries)
        bounds = [16384 * i // num for i in range(num + 1)]
        for i, node in enumerate(self.nodes):
            with node.client as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
                if i < num:
                    client.execute_command("CLUSTER", "ADDSLOTSRANGE", bounds[i], bounds[i + 1] - 1)
                if node is not first:
                    with first.client as one:
                        bus = int(client.config_get("cluster-port")["cluster-port"])
                        one.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        wait_until(lambda: all(self._knows_all(node) for node in self.nodes), "the nodes to meet")
        for primary, replica in zip(self.primaries, self.replicas, strict=False):
            with primary.client as one, replica.client as client:
                client.execute_command("CLUSTER", "REPLICATE", one.execute_command("CLUSTER MYID"))
        self.wait_ok()
        for replica in self.replicas:
            wait_until(lambda r=replica: r.info("master_link_status") == "up", "a replica")  # type: ignore[misc]

    def _knows_all(self, node: Process) -> bool:
        with node.client as client:
            return int(client.cluster("INFO")["cluster_known_nodes"]) == len(self.nodes)

    def wait_ok(self) -> None:
        """Until every running node takes commands."""

        def is_ok(node: Process) -> bool:
            with node.client as client:
                return bool(client.cluster("INFO")["cluster_state"] == "ok")

        running = [node for node in self.nodes if node.is_running]
        wait_until(lambda: all(is_ok(node) for node in running), "the cluster")

    def owner(self, key: str) -> Process:
        """The primary, as it was created, of a key's slot."""
        with self.primaries[0].client as client:
            slot = int(client.cluster("KEYSLOT", key))
        return self.primaries[(slot * len(self.primaries) + len(self.primaries) - 1) // 16384]

    def close(self) -> None:
        for node in self.nodes:
            node.stop()
        self._folder.cleanup()


class SentinelServers:
    """A primary and its replica, watched by three Sentinels that fail over within seconds."""

    MASTER = "main"

    def __init__(self, password: str | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="baton-redis-")
        folder = Path(self._folder.name)
        self.password = password
        secret = ("--requirepass", password, "--masterauth", password) if password else ()
        self.primary = Process(folder, *secret, password=password)
        follows = ("--replicaof", f"127.0.0.1 {self.primary.port}")
        self.replica = Process(folder, *secret, *follows, password=password)
        auth = f"sentinel auth-pass {self.MASTER} {password}\n" if password else ""
        config = (
            f"sentinel monitor {self.MASTER} 127.0.0.1 {self.primary.port} 2\n"
            f"{auth}sentinel down-after-milliseconds {self.MASTER} 500\n"
            f"sentinel failover-timeout {self.MASTER} 3000\n"
        )
        self.sentinels = [Process(folder, config=config) for _ in range(3)]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        login = f":{self.password}@" if self.password else ""
        return f"redis+sentinel://{login}{hosts}/{self.MASTER}"

    def start(self) -> None:
        self.primary.start()
        self.replica.start()
        for sentinel in self.sentinels:
            sentinel.start()
        wait_until(lambda: all(map(self._is_ready, self.sentinels)), "the Sentinels")

    def _is_ready(self, sentinel: Process) -> bool:
        with sentinel.client as client:
            state = client.sentinel_master(self.MASTER)
        return bool(state["num-other-sentinels"] == 2 and state["num-slaves"] == 1)

    def close(self) -> None:
        for process in (*self.sentinels, self.replica, self.primary):
            process.stop()
        self._folder.cleanup()
