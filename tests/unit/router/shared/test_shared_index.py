"""One index for several processes says what a private one would, at every moment."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from baton.core.block_hash import IndexKeys
from baton.router.holder_sets import ABSENT
from baton.router.key_table import KeyTable
from baton.router.prefix_index import IndexTier, Overlap, PrefixIndex
from baton.router.shared.index import IndexView, IndexWriter, worker_key
from baton.router.shared.layers import LayeredIndex
from baton.router.shared.memory import SharedArray, SharedFile
from fakes.index_reader import PREFIX, ROWS, keys_of

DEVICE, HOST, DISK = IndexTier
READER = Path(__file__).parents[3] / "fakes" / "index_reader.py"
TTL_S = 3.0


def counts(found: Overlap) -> dict[int, tuple[int, ...]]:
    """Row to (device, host, disk), for rows that hold any."""
    columns = np.stack((found.device, found.host, found.disk), axis=1)
    return {row: tuple(c) for row, c in enumerate(columns.tolist()) if any(c)}


class Shared:
    """A writer, and a process that has the writer's rows in another order."""

    def __init__(self, num_rows: int) -> None:
        self.file = SharedFile.create()
        self.writer = IndexWriter(self.file)
        self.view = IndexView(self.file)
        self.layered = LayeredIndex(self.view, TTL_S)
        self.here = [num_rows - 1 - row for row in range(num_rows)]
        for row, here in enumerate(self.here):
            self.writer.add_worker(row, worker_key(f"w{row}", 1))
            self.layered.add_worker(here, worker_key(f"w{row}", 1))

    def match(self, keys: IndexKeys, now: float = 0.0) -> dict[int, tuple[int, ...]]:
        """By the writer's rows."""
        found = counts(self.layered.match(keys, now))
        return {self.here.index(row): held for row, held in found.items()}


numbers = st.lists(st.integers(0, 40), max_size=25)
spans = st.builds(lambda a, n: list(range(a, a + n)), st.integers(0, 30), st.integers(0, 12))
rows = st.integers(0, ROWS - 1)
tiers = st.sampled_from(IndexTier)


class LayersMachine(RuleBasedStateMachine):
    """Shared and private parts together are one private index, whatever happens."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = Shared(ROWS)
        self.alone = PrefixIndex(TTL_S)
        self.now = 1000.0

    @rule(row=rows, tier=tiers, some=numbers | spans)
    def store(self, row: int, tier: IndexTier, some: list[int]) -> None:
        for index in (self.shared.writer, self.alone):
            index.store(row, tier, keys_of(some))

    @rule(row=rows, tier=tiers, some=numbers | spans)
    def remove(self, row: int, tier: IndexTier, some: list[int]) -> None:
        for index in (self.shared.writer, self.alone):
            index.remove(row, tier, keys_of(some))

    @rule(row=rows)
    def comes_again(self, row: int) -> None:
        here, worker = self.shared.here[row], worker_key(f"w{row}", 1)
        self.alone.drop_worker(row)
        self.shared.writer.remove_worker(row)
        self.shared.layered.remove_worker(here)
        self.shared.writer.add_worker(row, worker)
        self.shared.layered.add_worker(here, worker)

    @rule(row=rows)
    def sends_a_snapshot(self, row: int) -> None:
        # What was predicted stays expected.
        self.now += 2 * TTL_S
        self.alone.expire(self.now)
        self.alone.drop_worker(row)
        self.shared.writer.drop_worker(row)

    @rule(row=rows, some=spans)
    def predict(self, row: int, some: list[int]) -> None:
        self.alone.predict(row, keys_of(some), self.now)
        self.shared.layered.predict(self.shared.here[row], keys_of(some), self.now)

    @rule(passed=st.floats(0, 2 * TTL_S))
    def time_passes(self, passed: float) -> None:
        self.now += passed

    @rule(prompt=numbers | spans)
    def ask(self, prompt: list[int]) -> None:
        keys = keys_of(prompt)
        assert self.shared.match(keys, self.now) == counts(self.alone.match(keys, self.now))

    @invariant()
    def agrees(self) -> None:
        for start in (0, 7, 20):
            self.ask(list(range(start, 42)))

    def teardown(self) -> None:
        self.shared.file.close()


TestLayersMachine: Any = LayersMachine.TestCase
TestLayersMachine.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


def test_index_grows_far_beyond_what_was_mapped_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baton.router.shared.index._LEAST_BUCKETS", 128)
    monkeypatch.setattr("baton.router.shared.index._LEAST_ROWS", 2)
    monkeypatch.setattr("baton.router.shared.sets._LEAST_SETS", 2)
    monkeypatch.setattr("baton.router.shared.sets._LEAST_MEMBERS", 2)
    shared, alone = Shared(30), PrefixIndex()
    rng = np.random.default_rng(1)
    prompts = [rng.integers(1, 2**64, 300, np.uint64) for _ in range(60)]
    draw = random.Random(2)
    for _ in range(400):
        row, tier = draw.randrange(30), draw.choice(list(IndexTier))
        keys = draw.choice(prompts)[: draw.randrange(1, 300)]
        for index in (shared.writer, alone):
            index.store(row, tier, keys)
        gone = draw.choice(prompts)[draw.randrange(300) :]
        for index in (shared.writer, alone):
            index.remove(row, tier, gone)
    for keys in prompts:
        assert shared.match(keys) == counts(alone.match(keys, 0.0))


def test_other_life_of_a_worker_has_nothing_of_the_one_before() -> None:
    shared = Shared(2)
    shared.writer.store(0, DEVICE, keys_of([1, 2]))
    assert shared.match(keys_of([1, 2])) == {0: (2, 0, 0)}
    # The reader hears of the new life first ...
    shared.layered.remove_worker(shared.here[0])
    shared.layered.add_worker(shared.here[0], worker_key("w0", 2))
    assert shared.match(keys_of([1, 2])) == {}
    # ... then the writer.
    shared.writer.remove_worker(0)
    shared.writer.add_worker(0, worker_key("w0", 2))
    shared.writer.store(0, DEVICE, keys_of([1]))
    assert shared.match(keys_of([1, 2])) == {0: (1, 0, 0)}


def test_reader_is_synced_when_the_writer_is_with_all_its_workers() -> None:
    shared = Shared(2)
    assert not shared.view.is_synced()
    shared.writer.set_synced(0, True)
    assert not shared.view.is_synced()
    shared.writer.set_synced(1, True)
    assert shared.view.is_synced()
    # A snapshot begins.
    shared.writer.drop_worker(1)
    assert not shared.view.is_synced()
    shared.layered.remove_worker(shared.here[1])
    assert shared.view.is_synced()
    shared.view.add_worker(5, worker_key("the writer does not know it", 1))
    assert not shared.view.is_synced()


def test_reader_cannot_write_to_the_index() -> None:
    file = SharedFile.create()
    SharedArray(file, 3, np.uint64, least=8, writable=True).rows[0] = 7
    seen = SharedArray(file, 3, np.uint64, least=8, writable=False).rows
    assert seen[0] == 7
    with pytest.raises(ValueError, match="read-only"):
        seen[0] = 1


def test_lookup_in_whose_time_the_table_changed_still_finds_what_stays(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The writer works between its looks at the shape, at keys and at values."""
    monkeypatch.setattr("baton.router.shared.index._LEAST_BUCKETS", 128)
    shared = Shared(2)
    keys = keys_of(range(400))
    shared.writer.store(0, DEVICE, keys)
    rng = np.random.default_rng(5)
    find = KeyTable.find
    num_changes = 0

    def find_late(table: KeyTable, asked: IndexKeys) -> Any:
        nonlocal num_changes
        if table is shared.view._table and num_changes < 30:
            num_changes += 1
            # Buckets are split between the look at the shape and that at the keys, ...
            shared.writer.store(1, DEVICE, rng.integers(1, 2**64, 3000, np.uint64))
            slots = find(table, asked)
            # ... and slots become others' before their values are read.
            shared.writer.store(1, DEVICE, rng.integers(1, 2**64, 3000, np.uint64))
            shared.writer.store(1, HOST, keys)
            return slots
        return find(table, asked)

    monkeypatch.setattr(KeyTable, "find", find_late)
    while num_changes < 30:
        assert shared.match(keys)[0] == (400, 0, 0)


def test_answer_stands_while_other_workers_come_and_go() -> None:
    shared = Shared(3)
    keys = keys_of(range(4))
    shared.writer.store(0, DEVICE, keys)
    shared.writer.store(1, HOST, keys)
    num_looks = 0

    def look() -> tuple[int, int]:
        nonlocal num_looks
        num_looks += 1
        found = shared.view.best_tiers(int(shared.view.set_ids(keys)[0]))
        shared.writer.drop_worker(1)
        shared.writer.remove_worker(2)
        shared.writer.add_worker(3, worker_key("new", 1))
        return int(found[shared.here[0]]), int(found[shared.here[1]])

    assert shared.view.read(5, look) == (DEVICE, HOST)
    assert num_looks == 1


def test_lookup_is_done_again_when_a_row_became_another_workers() -> None:
    shared = Shared(3)
    keys = keys_of(range(4))
    shared.writer.store(0, DEVICE, keys)
    seen: list[int] = []

    def look() -> int:
        if not seen:
            shared.writer.remove_worker(1)
            shared.writer.add_worker(1, worker_key("new", 1))
            shared.writer.store(1, DEVICE, keys)
        found = shared.view.best_tiers(int(shared.view.set_ids(keys)[0]))
        seen.append(int(found[shared.here[1]]))
        return seen[-1]

    # The first look took the new worker's blocks for those of the one that left.
    assert shared.view.read(3, look) == ABSENT
    assert seen == [DEVICE, ABSENT]


def test_lookup_that_took_longer_than_ids_stay_unused_is_done_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("baton.router.shared.index._UNUSED_IDS", 8)
    shared = Shared(3)
    keys = keys_of(range(4))
    shared.writer.store(0, DEVICE, keys)
    num_looks = 0

    def look() -> int:
        nonlocal num_looks
        num_looks += 1
        found = shared.view.best_tiers(int(shared.view.set_ids(keys)[0]))
        if num_looks < 3:
            # Sets come and go, until the id above is another one's.
            for number in range(20):
                shared.writer.store(1, DEVICE, keys_of([number]))
                shared.writer.remove(1, DEVICE, keys_of([number]))
        return int(found[shared.here[0]])

    assert shared.view.read(3, look) == DEVICE
    assert num_looks == 3
    # There is an end to it.
    num_looks = -1000
    assert shared.view.read(3, look) is None


@pytest.mark.timeout(120)
def test_reader_in_another_process_sees_what_was() -> None:
    """While the writer changes the index as fast as it can. Of six workers the first one holds the
    whole prefix all the time, the last one never; one only gains, one only loses, from its end; the
    two others' blocks come and go, and with them the sets that all these are in."""
    file = SharedFile.create()
    writer = IndexWriter(file)
    for row in range(ROWS):
        writer.add_worker(row, worker_key(f"w{row}", 1))
    prefix = keys_of(range(PREFIX))
    full, gains, loses, never = 0, 1, 2, 5
    for row in (full, loses):
        writer.store(row, DEVICE, prefix)
    num_gained, num_lost = 0, 0
    draw, random_keys = random.Random(3), np.random.default_rng(4)
    old: deque[IndexKeys] = deque()
    command = [sys.executable, str(READER), str(file.fd)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, pass_fds=[file.fd], stdout=subprocess.PIPE, env=environment
    ) as reader:
        assert reader.stdout is not None and reader.stdout.readline() == b"ready\n"
        end = time.monotonic() + 4
        while time.monotonic() < end:
            count = draw.randrange(4)
            writer.store(gains, HOST, prefix[num_gained : num_gained + count])
            num_gained = min(PREFIX, num_gained + count)
            writer.remove(loses, DEVICE, prefix[PREFIX - num_lost - count : PREFIX - num_lost])
            num_lost = min(PREFIX, num_lost + count)
            row, tier = draw.choice((3, 4)), draw.choice((DEVICE, HOST))
            start = draw.choice((0, draw.randrange(PREFIX)))
            some = prefix[start : start + draw.randrange(1, 900)]
            change = draw.choice((writer.store, writer.store, writer.remove))
            change(row, tier, some)
            if draw.random() < 0.02:
                writer.drop_worker(row)
            # The table is split again and again, slots and ids of sets become others'.
            old.append(random_keys.integers(1, 2**64, draw.randrange(1, 500), np.uint64))
            writer.store(never, DEVICE, old[-1])
            if len(old) > 300:
                writer.remove(never, DEVICE, old.popleft())
        reader.send_signal(signal.SIGTERM)
        answers = np.array(json.loads(reader.stdout.read()))
        assert reader.wait(20) == 0
    assert len(answers) > 10
    assert (answers[:, full] == PREFIX).all()
    assert (answers[:, never] == 0).all()
    assert (np.diff(answers[:, gains]) >= 0).all() and answers[-1, gains] <= num_gained
    assert (np.diff(answers[:, loses]) <= 0).all() and answers[-1, loses] >= PREFIX - num_lost
    assert answers[-1, gains] > 0 and answers[-1, loses] < PREFIX
