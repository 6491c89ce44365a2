"""Candidates are kept between choices, and are always what a look at every worker would find."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from baton.router.columns import Role
from baton.router.groups import RowSet
from baton.router.pool import Pool
from baton.v1 import common_pb2, session_pb2
from fakes.routing import lease

MODELS = ("m", "n")
DIGESTS = ("x", "y")
REVISIONS = ("", "r2")


class CandidatesMachine(RuleBasedStateMachine):
    """Workers come, go, change; the pool's lists equal a brute-force search after each event."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool()
        self.leases: dict[int, common_pb2.WorkerLease] = {}
        self.up: set[int] = set()
        self.draining: set[int] = set()
        self.count = 0

    def draw_row(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.leases)))

    def kind(self, row: int) -> tuple[str, str]:
        return self.leases[row].revision, self.leases[row].digest

    @rule(
        role=st.sampled_from("pda"),
        model=st.sampled_from(MODELS),
        digest=st.sampled_from(DIGESTS),
        revision=st.sampled_from(REVISIONS),
    )
    def add(self, role: str, model: str, digest: str, revision: str) -> None:
        self.count += 1
        one = lease(f"{role}{self.count}", digest, model, revision)
        self.leases[self.pool.add(one)] = one

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        row = self.draw_row(data)
        self.pool.remove(row)
        del self.leases[row]
        self.up.discard(row)
        self.draining.discard(row)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), up=st.booleans())
    def set_up(self, data: st.DataObject, up: bool) -> None:
        row = self.draw_row(data)
        self.pool.set_up(row, up)
        (self.up.add if up else self.up.discard)(row)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), draining=st.booleans())
    def report(self, data: st.DataObject, draining: bool) -> None:
        row = self.draw_row(data)
        self.pool.report(row, session_pb2.Load(draining=draining, queue_room=1))
        (self.draining.add if draining else self.draining.discard)(row)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), role=st.sampled_from("pda"))
    def change_role(self, data: st.DataObject, role: str) -> None:
        row = self.draw_row(data)
        changed = lease(role + self.leases[row].worker.worker_id[1:], self.leases[row].digest)
        changed.worker.worker_id = self.leases[row].worker.worker_id
        changed.model, changed.revision = self.leases[row].model, self.leases[row].revision
        self.pool.update(row, changed)
        self.leases[row] = changed

    @invariant()
    def lists_equal_a_search(self) -> None:
        for model in MODELS:
            takes_work = [
                row
                for row, one in self.leases.items()
                if one.model == model and row in self.up and row not in self.draining
            ]
            assert self.pool.candidates(model).tolist() == sorted(takes_work)
            found = {}
            for group in self.pool.groups(model):
                rows = sorted([*group.prefill.numbers.tolist(), *group.generating.numbers.tolist()])
                ((revision, digest),) = {self.kind(row) for row in rows}
                assert self.pool.kind(rows[0]) == (group.revision, group.digest)
                found[revision, digest] = rows
                assert group.everyone.numbers.tolist() == [
                    row for row in sorted(takes_work) if self.leases[row].digest == digest
                ]
                for rowset, roles in (
                    (group.prefill, {Role.PREFILL}),
                    (group.decode, {Role.DECODE}),
                    (group.both, {Role.ANY}),
                    (group.generating, {Role.DECODE, Role.ANY}),
                ):
                    expected = [row for row in rows if Role(self.leases[row].role) in roles]
                    assert rowset.numbers.tolist() == expected
                    assert self.pool.columns.life[rowset.index].tolist() == [
                        self.pool.columns.life[row] for row in expected
                    ]
            expected_groups: dict[tuple[str, str], list[int]] = {}
            for row in sorted(takes_work):
                expected_groups.setdefault(self.kind(row), []).append(row)
            assert found == expected_groups
            revisions = [group.revision for group in self.pool.groups(model)]
            assert revisions == sorted(revisions)
            assert set(self.pool.split(model).shares) == {kind[0] for kind in expected_groups}


TestCandidatesMachine = CandidatesMachine.TestCase
TestCandidatesMachine.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_rows_side_by_side_are_a_slice() -> None:
    pool = Pool()
    for number in range(4):
        pool.set_up(pool.add(lease(f"{'paad'[number]}{number}")), True)
    (group,) = pool.groups("m")
    assert group.both.index == slice(1, 3)
    assert isinstance(group.prefill.without(frozenset([0])), RowSet)
    assert len(group.prefill.without(frozenset([0]))) == 0
