"""Lower tiers whose copies are made when the test says so, over an engine with the mock runner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from baton.core.settings import TierSettings
from baton.engine.lower_tiers import Done, TierSizes
from fakes.engines import Driver

RECORD_BYTES = 100
GARBAGE = 0xEE


@dataclass(frozen=True)
class Job:
    kind: str
    group: int
    run: Callable[[], bool]
    done: Done
    # What is read and written; nobody else may write to the first, or touch the second.
    reads: Any
    fills: Any


class ManualTiers:
    """`LowerTiers` with real bytes. `finish(i)` makes the i-th copy that is under way."""

    def __init__(self, arenas: list[np.ndarray], sizes: list[TierSizes]) -> None:
        self.arenas = arenas
        self.sizes = sizes
        self.slots: list[dict[int, np.ndarray]] = [{} for _ in arenas]
        self.records: list[dict[bytes, np.ndarray]] = [{} for _ in arenas]
        self.jobs: list[Job] = []
        self.num_done = {"save": 0, "load": 0, "write": 0, "read": 0}

    def save(self, group: int, block: int, slot: int, done: Done) -> None:
        assert slot < self.sizes[group].host_slots

        def run() -> bool:
            self.slots[group][slot] = self.arenas[group][block].copy()
            return True

        self._add(Job("save", group, run, done, ("block", block), ("slot", slot)))

    def load(self, group: int, slot: int, block: int, done: Done) -> None:
        # Until the bytes are there anybody who looks gets nonsense.
        self.arenas[group][block] = GARBAGE

        def run() -> bool:
            self.arenas[group][block] = self.slots[group][slot]
            return True

        self._add(Job("load", group, run, done, ("slot", slot), ("block", block)))

    def write(self, group: int, slot: int, block_hash: bytes, done: Done) -> None:
        assert block_hash not in self.records[group]

        def run() -> bool:
            self.records[group][block_hash] = self.slots[group][slot].copy()
            assert len(self.records[group]) <= self.sizes[group].disk_records
            return True

        self._add(Job("write", group, run, done, ("slot", slot), ("record", block_hash)))

    def read(self, group: int, block_hash: bytes, slot: int, done: Done) -> None:
        assert slot < self.sizes[group].host_slots
        self.slots[group][slot] = np.full_like(self.arenas[group][0], GARBAGE)

        def run() -> bool:
            record = self.records[group].get(block_hash)
            if record is None:
                return False
            self.slots[group][slot] = record
            return True

        self._add(Job("read", group, run, done, ("record", block_hash), ("slot", slot)))

    def delete(self, group: int, block_hash: bytes) -> None:
        used = [job.reads for job in self.jobs if job.group == group]
        assert ("record", block_hash) not in used, "a record is deleted while it is read"
        self.records[group].pop(block_hash, None)

    def finish(self, index: int = 0, *, fails: bool = False) -> None:
        """One copy ends. A failed one may have left anything where it was to go."""
        job = self.jobs.pop(index)
        if fails:
            place, name = job.fills
            if place == "block":
                self.arenas[job.group][name] = GARBAGE
            # What could not be read is bad, and stays so.
            place, name = job.reads
            if place == "slot" and job.kind == "load":
                self.slots[job.group][name] = np.full_like(self.arenas[job.group][0], GARBAGE)
            if place == "record" and name in self.records[job.group]:
                self.records[job.group][name] = np.full_like(self.arenas[job.group][0], GARBAGE)
            job.done(False)
            return
        ok = job.run()
        self.num_done[job.kind] += ok
        job.done(ok)

    def finish_all(self) -> None:
        while self.jobs:
            self.finish()

    def _add(self, job: Job) -> None:
        same = [other for other in self.jobs if other.group == job.group]
        taken = [x for other in same for x in (other.reads, other.fills)]
        assert job.fills not in taken, f"{job.fills} is filled while it is in use"
        assert job.reads not in [other.fills for other in same], f"{job.reads} is not filled yet"
        self.jobs.append(job)


class TieredDriver(Driver):
    """A Driver with tiers of so many blocks; the cache's deltas are checked tier by tier."""

    def __init__(
        self,
        *,
        host: int,
        disk: int = 0,
        staging: bool = False,
        tiers: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        arenas = [arena.view for arena in self.runner.arenas()]
        sizes = [TierSizes(host, RECORD_BYTES, disk, RECORD_BYTES, staging) for _ in arenas]
        self.tiers = ManualTiers(arenas, sizes)
        self.tiering = self.engine.attach_tiers(
            TierSettings(**{"promote_wait_s": 5.0, "max_copies": 3, **(tiers or {})}),
            sizes,
            self.tiers,
        )
        if disk:
            self.tiering.all_found(0)

    def settle(self, max_turns: int = 2000) -> None:
        """Run until nothing is left to do, to copy or to wait for."""
        for _ in range(max_turns):
            due = self.engine.next_deadline()
            if self.engine.has_work:
                self.step()
                self.engine.check_integrity()
            elif self.tiers.jobs:
                self.tiers.finish()
            elif due is not None:
                self.clock.advance(max(0.0, due - self.clock()))
            else:
                return
        raise AssertionError(f"still busy: {self.engine.load()}")

    def load_of(self, name: str) -> Any:
        return next(load for load in self.engine.load().tiers if load.tier.name.lower() == name)
