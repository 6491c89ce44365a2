"""Moves blocks between the tiers, on threads of its own: `engine.lower_tiers.LowerTiers`.

One thread copies between device and host, one writes and deletes files, one reads them. Whoever
calls bounds what is under way. What goes wrong is logged once until it goes well again, and is
otherwise only a copy that is not there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from baton.telemetry.logging import event
from baton.transfer.tiers.disk import DiskTier
from baton.transfer.tiers.host import BadCopyError, HostTier
from baton.transfer.tiers.lane import NORMAL, URGENT, Lane
from baton.transfer.tiers.record import BadRecordError

log = logging.getLogger(__name__)

Done = Callable[[bool], None]
# Hashes of an earlier life that are told at once.
FOUND_CHUNK = 4096
CLOSE_WAIT_S = 2.0


class Mover:
    """`post(work)` runs work on the engine's thread; every `done` goes there."""

    def __init__(
        self,
        host: HostTier,
        disk: DiskTier | None,
        post: Callable[[Callable[[], None]], None],
    ) -> None:
        self._host = host
        self._disk = disk
        self._post = post
        self._copies = Lane("tier-copy")
        self._lanes = [self._copies]
        if disk is not None:
            self._writes, self._reads = Lane("tier-write"), Lane("tier-read")
            self._lanes += [self._writes, self._reads]
        # Kinds of work that failed last time.
        self._failing: set[str] = set()

    def save(self, group: int, block: int, slot: int, done: Done) -> None:
        self._run(self._copies, "save", lambda: self._host.save(group, block, slot), done)

    def load(self, group: int, slot: int, block: int, done: Done) -> None:
        work = lambda: self._host.load(group, slot, block)  # noqa: E731
        self._run(self._copies, "load", work, done, URGENT)

    def write(self, group: int, slot: int, block_hash: bytes, done: Done) -> None:
        host, disk = self._host, self._on_disk()

        def work() -> None:
            checksum = int(host.checksums[group][slot])
            disk.write(group, block_hash, host.slots[group][slot], checksum)

        self._run(self._writes, "write", work, done)

    def read(self, group: int, block_hash: bytes, slot: int, done: Done) -> None:
        host, disk = self._host, self._on_disk()

        def work() -> None:
            host.checksums[group][slot] = disk.read(group, block_hash, host.slots[group][slot])

        self._run(self._reads, "read", work, done)

    def delete(self, group: int, block_hash: bytes) -> None:
        disk = self._on_disk()
        self._run(self._writes, "delete", lambda: disk.delete(group, block_hash), None)

    def find_earlier(
        self,
        num_groups: int,
        found: Callable[[int, Sequence[bytes]], None],
        all_found: Callable[[int], None],
    ) -> None:
        """Tell the records of an earlier life, in the background; both run on the engine's thread.

        `found(group, hashes)` newest first, then `all_found(foreign_bytes)`.
        """
        if self._disk is not None:
            disk = self._disk
            self._reads.put(lambda: self._scan(disk, num_groups, found, all_found))

    def close(self) -> None:
        """Finish what is under way, unless the disk takes too long."""
        ended = [lane.close(CLOSE_WAIT_S) for lane in self._lanes]
        if self._disk is not None and all(ended):
            self._disk.close()

    def _on_disk(self) -> DiskTier:
        assert self._disk is not None, "there is no disk tier"
        return self._disk

    def _run(
        self,
        lane: Lane,
        kind: str,
        work: Callable[[], None],
        done: Done | None,
        urgency: int = NORMAL,
    ) -> None:
        def run() -> None:
            ok = self._try(kind, work)
            if done is not None:
                self._post(lambda: done(ok))

        lane.put(run, urgency)

    def _try(self, kind: str, work: Callable[[], None]) -> bool:
        try:
            work()
        except (OSError, ValueError, BadCopyError, BadRecordError) as error:
            if kind not in self._failing:
                self._failing.add(kind)
                log.warning(*event("tier_copy_failed", kind=kind, error=str(error)))
            return False
        except Exception:
            # A thread that ends would leave blocks with nobody for ever.
            log.exception(*event("tier_copy_broke", kind=kind))
            return False
        self._failing.discard(kind)
        return True

    def _scan(
        self,
        disk: DiskTier,
        num_groups: int,
        found: Callable[[int, Sequence[bytes]], None],
        all_found: Callable[[int], None],
    ) -> None:
        foreign = 0

        def look() -> None:
            nonlocal foreign
            for group in range(num_groups):
                hashes = disk.scan(group)
                log.info(*event("tier_records_found", group=group, count=len(hashes)))
                for i in range(0, len(hashes), FOUND_CHUNK):
                    self._tell(found, group, hashes[i : i + FOUND_CHUNK])
            foreign = disk.foreign_bytes()
            if foreign:
                log.warning(*event("tier_foreign_records", folder=str(disk.folder), bytes=foreign))

        self._try("scan", look)
        self._post(lambda: all_found(foreign))

    def _tell(
        self, found: Callable[[int, Sequence[bytes]], None], group: int, hashes: list[bytes]
    ) -> None:
        self._post(lambda: found(group, hashes))
