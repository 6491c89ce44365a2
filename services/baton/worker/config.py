"""What one worker process is told at its start; crosses process boundaries as plain JSON."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from baton.core.settings import (
    EngineSettings,
    LogSettings,
    ModelSettings,
    StoreSettings,
    TierSettings,
    TlsSettings,
    TransferSettings,
    WorkerSettings,
)


class WorkerGroups(BaseModel):
    """The branches of the settings tree that a worker reads; the others are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: ModelSettings
    engine: EngineSettings
    worker: WorkerSettings
    transfer: TransferSettings
    tiers: TierSettings = TierSettings()
    store: StoreSettings
    tls: TlsSettings = TlsSettings()
    log: LogSettings


class WorkerConfig(BaseModel):
    """One worker. `store_url` and `token` are resolved, unlike in the settings.

    Without a `model_folder` the worker's process resolves `settings.model` itself, and downloads
    it if need be.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    settings: WorkerGroups
    role: str
    worker_id: str
    model_folder: str | None
    model_name: str
    store_url: str
    token: str
    num_threads: int
