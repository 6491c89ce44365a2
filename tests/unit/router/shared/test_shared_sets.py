"""Members of sets as readers see them while the writer moves them."""

from __future__ import annotations

import random

import numpy as np
import pytest

from baton.router.shared import sets
from baton.router.shared.memory import SharedArray, SharedFile
from baton.router.shared.sets import SharedSets

NUM_SETS = 50


def shared_sets(*, writable: bool, file: SharedFile) -> SharedSets:
    moves = SharedArray(file, 0, np.int64, least=8, writable=writable).rows[:1]
    return SharedSets(file, 1, (2, 3), moves, writable=writable)


def test_writer_held_up_anywhere_keeps_no_reader_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """At every barrier, so also amid moves, a reader that looks once finds the members of each set
    that anybody may know of."""
    file = SharedFile.create()
    writer, reader = shared_sets(writable=True, file=file), shared_sets(writable=False, file=file)
    draw = random.Random(5)
    known: dict[int, list[int]] = {}
    num_moves: set[int] = set()

    def look() -> int:
        num_moves.add(int(writer._moves[0]))
        for set_id, expected in known.items():
            members = reader.members(set_id)
            assert members is not None and members.tolist() == expected
        return 0

    monkeypatch.setattr(sets, "_LEAST_MEMBERS", 64)
    monkeypatch.setattr(sets, "_MAX_LOOKS", 1)
    monkeypatch.setattr(sets, "barrier", look)
    for _ in range(400):
        set_id = draw.randrange(NUM_SETS)
        # The id of a dead set, which nobody knows of.
        known.pop(set_id, None)
        members = sorted(draw.sample(range(10_000), draw.randrange(1, 3000)))
        writer.put(set_id, np.array(members, np.uint32).tobytes())
        known[set_id] = members
    look()
    assert len(num_moves) > 4


def test_members_that_moved_during_a_look_are_looked_at_again() -> None:
    file = SharedFile.create()
    writer, reader = shared_sets(writable=True, file=file), shared_sets(writable=False, file=file)
    writer.put(0, np.array([7, 8], np.uint32).tobytes())
    arena = reader._arenas[0]

    class MovingOnce:
        """Twice as many moves as keep what was left."""

        def reserve(self, num_rows: int) -> np.ndarray:
            reader._arenas[0] = arena
            rows = arena.reserve(num_rows)
            for number in (1, 2):
                while int(writer._moves[0]) < number:
                    writer.put(number, np.arange(20_000, dtype=np.uint32).tobytes())
            return rows

    reader._arenas[0] = MovingOnce()  # type: ignore[call-overload]
    members = reader.members(0)
    assert int(writer._moves[0]) == 2
    assert members is not None and members.tolist() == [7, 8]
