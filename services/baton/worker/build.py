"""From settings to an engine: which runner, which digest, which transport."""

from __future__ import annotations

import os

from baton.core import model_folder
from baton.core.errors import ConfigError
from baton.core.hub import ByteProgress
from baton.core.kv import kv_digest
from baton.engine.engine import Engine
from baton.engine.runner import Runner
from baton.transfer.base import Transport
from baton.worker.config import WorkerConfig


def build_engine(
    config: WorkerConfig, folder: str, progress: ByteProgress
) -> tuple[Engine, Runner, str]:
    """Load the model in `folder` (or the mock) and return (engine, runner, digest).

    `progress` hears of the weights' bytes.
    Raises ModelLoadError and ConfigError, whose messages say what to change.
    """
    settings = config.settings
    if settings.engine.deterministic:
        raise ConfigError("engine.deterministic is not available yet; leave it off")
    if settings.engine.kind == "mock":
        runner = _mock_runner(config, folder)
    else:
        runner = _torch_runner(config, folder, progress)
    digest = kv_digest(runner.identity, runner.groups, runner.rope)
    engine = Engine(
        settings.engine,
        runner,
        digest,
        max_ungranted_share=settings.transfer.max_ungranted_share,
        layer_groups=settings.transfer.layer_groups,
    )
    return engine, runner, digest


def _mock_runner(config: WorkerConfig, folder: str) -> Runner:
    from baton.engine.mock import MockRunner

    document = model_folder.config(folder)
    return MockRunner(
        config.settings.engine,
        vocab_size=model_folder.vocab_size(document),
        max_model_len=model_folder.served_length(document, config.settings.model.max_model_len),
        eos_token_ids=model_folder.eos_token_ids(folder),
    )


def _torch_runner(config: WorkerConfig, folder: str, progress: ByteProgress) -> Runner:
    # Torch takes seconds to import and hundreds of MB; mock workers go without.
    from baton.engine.model_runner import ModelRunner

    # The folder is resolved already: a hub id is not asked for again by each worker.
    model = config.settings.model.model_copy(update={"source": folder, "revision": None})
    engine = config.settings.engine.model_copy(update={"num_threads": config.num_threads})
    return ModelRunner(model, engine, progress)


def build_transport(config: WorkerConfig, agent_name: str) -> Transport:
    """The transport that the settings name."""
    settings = config.settings.transfer
    if settings.transport == "inproc":
        from baton.transfer.inproc import InprocTransport

        return InprocTransport(agent_name)
    if settings.transport == "dist":
        from baton.transfer.dist import DistTransport

        return DistTransport(agent_name, config.settings.worker.host, settings)
    from baton.transfer.nixl import NixlTransport

    return NixlTransport(agent_name, settings)


def limit_cpu_threads(num_threads: int) -> None:
    """Bound the math libraries' threads; must run before they load."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(num_threads)
    # Threads that spin while they wait take the cores from other workers on the same machine.
    os.environ["GOMP_SPINCOUNT"] = "0"
