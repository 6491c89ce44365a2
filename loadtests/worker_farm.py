"""Many mock workers in one process, for benches that need more workers than cores.

Usage: worker_farm.py JSON, with store_url, token, role, count, step_ms and, where they are not the
usual ones, max_sequences and kv_blocks. With first_tokens, a file's name, see that module. Ends at
end of input.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from first_tokens import write_first_tokens

from baton.core import model_folder
from baton.core.settings import (
    EngineSettings,
    LogSettings,
    ModelSettings,
    StoreSettings,
    TransferSettings,
    WorkerSettings,
)
from baton.worker.config import WorkerConfig, WorkerGroups
from baton.worker.start_progress import StartProgress
from baton.worker.worker import Worker


def main() -> None:
    wanted = json.loads(sys.argv[1])
    if "first_tokens" in wanted:
        write_first_tokens(Path(wanted["first_tokens"]))
    groups = WorkerGroups(
        model=ModelSettings(),
        engine=EngineSettings(
            kind="mock",
            mock_step_ms=wanted["step_ms"],
            mock_prefill_us_per_token=1.0,
            max_sequences=wanted.get("max_sequences", 256),
            max_batch_tokens=max(1024, 2 * wanted.get("max_sequences", 0)),
            kv_blocks=wanted.get("kv_blocks"),
        ),
        worker=WorkerSettings(),
        # Workers of role any hand nothing over, and need no agent each.
        transfer=TransferSettings(transport="inproc" if wanted["role"] == "any" else "nixl"),
        store=StoreSettings(),
        log=LogSettings(),
    )
    workers = []
    for i in range(wanted["count"]):
        config = WorkerConfig(
            settings=groups,
            role=wanted["role"],
            worker_id=f"farm-{wanted['role']}-{i}",
            model_folder=str(model_folder.resolve("baton-tiny")),
            model_name="baton-tiny",
            store_url=wanted["store_url"],
            token=wanted["token"],
            num_threads=1,
        )
        workers.append(Worker(config, StartProgress()))
        workers[-1].start()
    sys.stdin.read()
    for worker in workers:
        worker.stop(0.0)


if __name__ == "__main__":
    main()
