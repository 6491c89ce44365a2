"""The limits' state against a plain account under random steps, and what it forgets."""

from __future__ import annotations

from hypothesis import given

from baton.store.limits import Charge, Limit, LimitKind, LimitStep, LimitTable, Verb
from suites.limit_model import Account, moments

START_US = 1_700_000_000_000_000


@given(moments())
def test_the_table_gives_what_there_is_and_nothing_more(
    script: list[tuple[int, LimitStep]],
) -> None:
    table, account = LimitTable(), Account()
    account.check(START_US, LimitStep(Verb.LOOK, "", ()), table.apply(START_US, _look()))
    now_us = START_US
    for wait_us, step in script:
        now_us += wait_us
        account.check(now_us, step, table.apply(now_us, step))


def _look() -> LimitStep:
    return LimitStep(Verb.LOOK, "", ())


def test_limits_that_say_nothing_any_more_are_forgotten() -> None:
    table = LimitTable()
    for i in range(1000):
        charges = (
            Charge(Limit(f"rate-{i}", LimitKind.RATE, 5, 60_000), 5),
            Charge(Limit(f"slots-{i}", LimitKind.SLOTS, 5, 30_000), 1),
            Charge(Limit(f"day-{i}", LimitKind.TOTAL, 5, 90_000), 1),
        )
        table.apply(START_US, LimitStep(Verb.TAKE, "r", charges))
    assert len(table) == 3000
    for _ in range(5000):
        table.apply(START_US + 100_000_000, _look())
    assert len(table) == 0


def test_a_rate_keeps_the_long_run_average_whatever_the_rhythm() -> None:
    table = LimitTable()
    limit = Limit("rpm", LimitKind.RATE, 7, 60_000)
    one = LimitStep(Verb.TAKE, "r", (Charge(limit, 1),))
    granted = sum(
        table.apply(START_US + i * 10_000, one).granted
        for i in range(60_000)  # ten minutes
    )
    # The first burst, and seven a minute.
    assert 7 + 70 - 1 <= granted <= 7 + 70 + 1
