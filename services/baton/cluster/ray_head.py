"""Starting a local Ray, or joining a cluster, and noticing that its head or a node is gone."""

from __future__ import annotations

import socket
import warnings
from typing import Any

from baton.core.errors import ConfigError, UnavailableError
from baton.core.settings import ClusterSettings

PROBE_TIMEOUT_S = 1.0
JOIN_TIMEOUT_S = 5.0
# A busy head may miss a probe; three in a row are a dead one.
PROBES = 3


def start(
    settings: ClusterSettings, temp_dir: str, num_workers: int, host: str | None = None
) -> str:
    """Start a local Ray or join the one at `ray_address`; returns its head's HOST:PORT.

    A local one listens on `host`, for other nodes to join; None: on loopback. Call it on the main
    thread: Ray's processes die with the thread that started them. Raises ConfigError for an address
    where no cluster answers, UnavailableError when Ray does not start.
    """
    address = settings.ray_address
    if address is not None:
        check_cluster(address)
    with warnings.catch_warnings():
        # Of Ray's own making, and nothing that a user could change.
        warnings.simplefilter("ignore")
        import ray

        options: dict[str, Any] = {"logging_level": "warning", "log_to_driver": True}
        try:
            if address is None:
                ray.init(
                    address="local",
                    include_dashboard=False,
                    # Actors ask for no CPU; Ray has as many processes waiting as it has CPUs.
                    num_cpus=max(1, num_workers),
                    object_store_memory=settings.object_store_bytes,
                    _temp_dir=temp_dir,
                    _node_ip_address=host,
                    **options,
                )
            else:
                ray.init(address=address, **options)
        except ConnectionError as error:
            raise ConfigError(f"no Ray cluster answers at {address}: {error}") from error
        except Exception as error:
            where = "start" if address is None else f"join the Ray cluster at {address}"
            raise UnavailableError(f"Ray did not {where}: {error}") from error
        head: str = ray.get_runtime_context().gcs_address
    return head


def check_cluster(address: str) -> None:
    """Raise ConfigError where `ray.init` would try for minutes: nobody listens at `address`."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise ConfigError(f"--ray-address {address}: expected HOST:PORT of a Ray head, or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), JOIN_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"no Ray cluster answers at {address}: {error}") from error


class PortProbe:
    """Asks whether somebody still listens at `address`; `lost` stays true once nobody did for as
    many times in a row as `probes`."""

    def __init__(self, address: str, probes: int = PROBES) -> None:
        host, _, port = address.rpartition(":")
        self.address = address
        self._at = (host.strip("[]"), int(port))
        self._probes = probes
        self._failures = 0

    @property
    def lost(self) -> bool:
        return self._failures >= self._probes

    def probe(self) -> bool:
        """Ask once; True while it counts as alive."""
        if not self.lost:
            try:
                socket.create_connection(self._at, timeout=PROBE_TIMEOUT_S).close()
                self._failures = 0
            except OSError:
                self._failures += 1
        return not self.lost
