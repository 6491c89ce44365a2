"""What a parent hears of a cluster process that could not start."""

from __future__ import annotations

from pathlib import Path

import pytest

from baton.cluster.child import Child
from baton.cluster.protocol import ClusterConfig
from baton.cluster.ray_env import make_temp_dir
from baton.core.errors import UnavailableError
from baton.core.settings import Settings

MODULE = "a_ray_that_does_not_start"
BROKEN = """
import json, sys
print("a warning", file=sys.stderr, flush=True)
print(json.dumps({"event": "error", "code": "unavailable", "message": "Ray did not start"}))
"""


@pytest.mark.parametrize(
    ("with_log", "message"),
    [(True, "Ray did not start\na warning"), (False, "Ray did not start")],
)
async def test_reason_comes_first_and_the_log_not_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_log: bool, message: str
) -> None:
    (tmp_path / f"{MODULE}.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    lines: list[str] = []
    config = ClusterConfig(
        settings=Settings().model_dump(mode="json"),
        token="token",
        store_url="grpc://127.0.0.1:1",
        model_folder=None,
        model_name="name",
        temp_dir=make_temp_dir(),
    )
    child = await Child.spawn(config, lambda event: None, lines.append, module=MODULE)
    try:
        with pytest.raises(UnavailableError) as raised:
            await child.serve(with_log=with_log)
        assert raised.value.message == message
        assert lines == ["a warning"]
    finally:
        await child.stop(force=True)
