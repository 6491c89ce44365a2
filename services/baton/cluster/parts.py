"""From the settings tree to what each part of a deployment is told."""

from __future__ import annotations

from pathlib import Path

from baton.cluster.protocol import ClusterConfig
from baton.core.settings import Settings
from baton.gateway.server import GatewayConfig


def gateway_config(settings: Settings, folder: Path, token: str) -> GatewayConfig:
    """For the gateway of the model in `folder`."""
    return GatewayConfig(
        gateway=settings.gateway,
        records=settings.records,
        router=settings.router,
        store=settings.store,
        model=settings.model,
        folder=folder,
        token=token,
    )


def cluster_config(settings: Settings, gateway: GatewayConfig, store_url: str) -> ClusterConfig:
    """For the workers that serve a running gateway, whose store is at `store_url`."""
    return ClusterConfig(
        settings=settings.model_dump(mode="json"),
        token=gateway.token,
        store_url=store_url,
        model_folder=str(gateway.folder),
        model_name=gateway.model_name,
    )
