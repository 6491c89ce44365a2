"""From settings to the tiers below one worker's device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from baton.core.errors import ConfigError
from baton.core.kv import Arena, GroupSpec
from baton.core.settings import TierSettings
from baton.engine.engine import Engine
from baton.engine.lower_tiers import TierSizes
from baton.telemetry.logging import event
from baton.transfer.codec import make_codec
from baton.transfer.tiers.disk import DiskTier, disk_record_bytes
from baton.transfer.tiers.host import HostTier
from baton.transfer.tiers.mover import Mover
from baton.transfer.tiers.record import Kind

log = logging.getLogger(__name__)


def build_tiers(
    settings: TierSettings,
    engine: Engine,
    groups: Sequence[GroupSpec],
    digest: str,
    arenas: Sequence[Arena],
    post: Callable[[Callable[[], None]], None],
) -> Mover | None:
    """Give the engine its lower tiers, if the settings want any; `post` is the engine loop's.

    A disk that cannot be used is logged and done without. Raises ConfigError when the settings
    make no sense.
    """
    if not (settings.host_bytes or settings.disk_bytes):
        return None
    if settings.disk_bytes and settings.disk_path is None:
        raise ConfigError("--disk-kv needs a folder: give --disk-kv-path (tiers.disk_path)")
    codecs = [make_codec(settings.codec, spec) for spec in groups]
    kinds = [
        Kind(digest, group, codec.name, codec.record_bytes) for group, codec in enumerate(codecs)
    ]
    disk = _open_disk(settings, kinds)
    if disk is None and not settings.host_bytes:
        return None
    # Each group gets of a tier what it has of the device.
    shares = [arena.num_blocks * arena.block_bytes for arena in arenas]
    sizes = []
    for codec, share in zip(codecs, shares, strict=True):
        part = share / sum(shares)
        staging = 2 * settings.max_copies if disk is not None else 0
        slots = int(settings.host_bytes * part) // codec.record_bytes
        if max(slots, staging) == 0:
            raise ConfigError(
                f"--host-kv {settings.host_bytes} does not hold one block of "
                f"{codec.record_bytes} bytes; give it more, or 0"
            )
        on_disk = disk_record_bytes(codec.record_bytes)
        sizes.append(
            TierSizes(
                host_slots=max(slots, staging),
                host_record_bytes=codec.record_bytes,
                disk_records=int(settings.disk_bytes * part) // on_disk if disk is not None else 0,
                disk_record_bytes=on_disk,
                host_is_staging=slots < staging,
            )
        )
    try:
        host = HostTier(arenas, codecs, [size.host_slots for size in sizes])
    except (MemoryError, RuntimeError) as error:
        if disk is not None:
            disk.close()
        raise ConfigError(f"--host-kv {settings.host_bytes} cannot be had: {error}") from error
    mover = Mover(host, disk, post)
    tiering = engine.attach_tiers(settings, sizes, mover)
    mover.find_earlier(len(groups), tiering.found, tiering.all_found)
    return mover


def _open_disk(settings: TierSettings, kinds: Sequence[Kind]) -> DiskTier | None:
    if not settings.disk_bytes or settings.disk_path is None:
        return None
    try:
        disk = DiskTier(settings.disk_path, kinds)
    except OSError as error:
        log.warning(*event("tier_disk_unusable", path=str(settings.disk_path), error=str(error)))
        return None
    log.info(*event("tier_disk_claimed", folder=str(disk.folder)))
    return disk
