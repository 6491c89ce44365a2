"""Real Redis servers in groups: a Cluster, and a primary with its replica behind Sentinels."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from redis.exceptions import RedisError

from fakes.free_port import free_port
from suites.redis_server import START_S, RedisSentinel, RedisServer


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


def _is_in_sync(replica: RedisServer) -> bool:
    with replica.client as client:
        return bool(client.info("replication")["master_link_status"] == "up")


class ClusterServers:
    """A Redis Cluster of `num_primaries`, the slots shared evenly; each may have a replica."""

    def __init__(self, num_primaries: int, *, replicas: bool = False) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="baton-redis-")
        folder = Path(self._folder.name)
        self.primaries = [self._node(folder) for _ in range(num_primaries)]
        self.replicas = [self._node(folder) for _ in range(num_primaries)] if replicas else []

    @staticmethod
    def _node(folder: Path) -> RedisServer:
        bus = str(free_port())
        return RedisServer(
            "",
            *("--cluster-enabled", "yes", "--cluster-port", bus),
            *("--dir", str(folder), "--cluster-config-file", f"nodes-{bus}.conf"),
            *("--cluster-node-timeout", "1000", "--cluster-replica-validity-factor", "0"),
        )

    @property
    def nodes(self) -> list[RedisServer]:
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
        wait_until(lambda: all(map(_is_in_sync, self.replicas)), "the replicas")

    def _knows_all(self, node: RedisServer) -> bool:
        with node.client as client:
            return int(client.cluster("INFO")["cluster_known_nodes"]) == len(self.nodes)

    def wait_ok(self) -> None:
        """Until every running node takes commands."""

        def is_ok(node: RedisServer) -> bool:
            with node.client as client:
                return bool(client.cluster("INFO")["cluster_state"] == "ok")

        running = [node for node in self.nodes if node.is_running]
        wait_until(lambda: all(is_ok(node) for node in running), "the cluster")

    def owner(self, key: str) -> RedisServer:
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

    def __init__(self, password: str = "") -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="baton-redis-")
        folder = Path(self._folder.name)
        self.password = password
        options = ("--dir", str(folder), *(("--masterauth", password) if password else ()))
        self.primary = RedisServer(password, *options)
        follows = ("--replicaof", f"127.0.0.1 {self.primary.port}")
        self.replica = RedisServer(password, *options, *follows)
        auth = f"sentinel auth-pass {self.MASTER} {password}\n" if password else ""
        config = (
            f"sentinel monitor {self.MASTER} 127.0.0.1 {self.primary.port} 2\n"
            f"{auth}sentinel down-after-milliseconds {self.MASTER} 500\n"
            f"sentinel failover-timeout {self.MASTER} 3000\n"
        )
        self.sentinels = [RedisSentinel(folder, config) for _ in range(3)]

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

    def _is_ready(self, sentinel: RedisServer) -> bool:
        with sentinel.client as client:
            state = client.sentinel_master(self.MASTER)
        return bool(state["num-other-sentinels"] == 2 and state["num-slaves"] == 1)

    def close(self) -> None:
        for server in (*self.sentinels, self.replica, self.primary):
            server.stop()
        self._folder.cleanup()
