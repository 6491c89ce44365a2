"""From the settings tree to what each part of a deployment is told."""

from __future__ import annotations

from pathlib import Path

from baton.cluster.protocol import ClusterConfig
from baton.core.errors import ConfigError
from baton.core.settings import Settings
from baton.gateway.server import GatewayConfig


def gateway_config(settings: Settings, folder: Path, token: str) -> GatewayConfig:
    """For the gateway of the model in `folder`."""
    return GatewayConfig(
        gateway=settings.gateway,
        records=settings.records,
        router=settings.router,
        store=settings.store,
        tls=settings.tls,
        model=settings.model,
        folder=folder,
        token=token,
    )


def cluster_config(settings: Settings, gateway: GatewayConfig, store_url: str) -> ClusterConfig:
    """For the workers that serve a running gateway, whose store is at `store_url`.

    Raises ConfigError for settings that only one worker of a machine can have.
    """
    worker = settings.worker
    if worker.port or worker.health_port:
        raise ConfigError(
            "worker.port and worker.health_port are for a worker that is started by itself, with "
            "`baton worker`; leave them unset where several share a machine"
        )
    if worker.num_nodes > 1 or worker.join is not None:
        raise ConfigError(
            "worker.num_nodes and worker.join are for `baton worker`: those of a whole deployment "
            "have one node each; leave them unset"
        )
    return ClusterConfig(
        settings=settings.model_dump(mode="json"),
        token=gateway.token,
        store_url=store_url,
        model_folder=str(gateway.folder),
        model_name=gateway.model_name,
    )
