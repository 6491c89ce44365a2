"""All ports of a gateway, taken or refused before anything else is started."""

from __future__ import annotations

import socket

from baton.core.errors import ConfigError
from baton.core.settings import Settings
from baton.core.store_url import EMBEDDED
from baton.telemetry.addresses import check_bindable, listening_socket


def bind_ports(settings: Settings) -> socket.socket:
    """The gateway's HTTP socket; the other ports are tried. Raises ConfigError naming a taken one.

    gRPC's cannot be handed over, so it is bound a moment later.
    """
    gateway, store = settings.gateway, settings.store
    if gateway.port and gateway.port == gateway.grpc_port:
        raise ConfigError(f"--port and --grpc-port are both {gateway.port}; choose two")
    check_bindable(gateway.host, gateway.grpc_port)
    if store.url == EMBEDDED:
        check_bindable(store.host, store.port)
    return listening_socket(gateway.host, gateway.port)
