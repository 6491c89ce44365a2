"""What a cluster process must be given before it imports Ray. Nothing here imports it."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Mapping

RECONNECT_TIMEOUT_S = 3600
# Where Ray looks for its token, in this order.
TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


def make_temp_dir() -> str:
    """A fresh folder for one Ray, short enough for its sockets."""
    # Unix socket paths end at 107 bytes, and Ray appends about 70 to its folder.
    base = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix="baton-ray-", dir=base if len(base) <= 12 else "/tmp")


def environment(
    base: Mapping[str, str],
    *,
    local: bool,
    given_token: bool = False,
    shared_port: int | None = None,
) -> dict[str, str]:
    """The environment that a process with Ray needs from its start: `import ray` reads it.

    Ray's processes and the workers inherit it. With `given_token` a local Ray uses the token that
    `base` names, if it names one. `shared_port`: where other machines join it; None: none does.
    """
    # ray.init() would join whatever this names.
    env = {name: value for name, value in base.items() if name != "RAY_ADDRESS"} | {
        # Raylets, drivers and workers would exit 60 s after the head; streams shall outlive it.
        "RAY_gcs_rpc_server_reconnect_timeout_s": str(RECONNECT_TIMEOUT_S),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Actors that ask for no GPU keep CUDA_VISIBLE_DEVICES as it is.
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DEDUP_LOGS": "0",
        # Ray's default is 15: anything else on the machine would slow a stream down.
        "RAY_worker_niceness": "0",
    }
    if local:
        env["RAY_AUTH_MODE"] = "token"
        if shared_port is None:
            # Ray turns 127.0.0.1 into the outside address unless it is told that it stands alone;
            # despite its name the variable works on Linux. All its listeners are then on loopback.
            env["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        else:
            env["RAY_GCS_SERVER_PORT"] = str(shared_port)
        if not given_token or not any(env.get(name) for name in TOKEN_VARIABLES):
            # Ray's default is a token in ~/.ray, shared by all of a user's clusters: each of ours
            # has its own, which never touches the disk.
            env["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    return env
