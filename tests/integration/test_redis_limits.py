"""The limits' Lua against the table that the embedded store has, and what Redis is left with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from redis import Redis

from baton.store import redis_limits
from baton.store.limits import Charge, Limit, LimitKind, LimitStep, LimitTable, Verb
from suites.limit_model import moments
from suites.redis_server import RedisServer

pytestmark = pytest.mark.redis

START_US = 1_700_000_000_000_000
# The script with the clock in the test's hands.
CLOCKED = "local now = tonumber(ARGV[3])\n" + redis_limits.BODY


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    server = RedisServer()
    server.start()
    client = Redis.from_url(server.url)
    yield client
    client.close()
    server.stop()


@settings(max_examples=100)
@given(script=moments())
def test_the_script_does_what_the_table_does_number_by_number(
    redis: Redis, script: list[tuple[int, LimitStep]]
) -> None:
    redis.flushall()
    run = redis.register_script(CLOCKED)
    table, now_us = LimitTable(), START_US
    for wait_us, step in script:
        now_us += wait_us
        answer = run(["p:lasting"], ["p:limit:", redis_limits.encode([step]), now_us])
        assert redis_limits.decode(answer) == [table.apply(now_us, step)]


def test_everything_but_a_budget_for_ever_expires(redis: Redis) -> None:
    redis.flushall()
    limits = [
        Limit("rate", LimitKind.RATE, 5, 60_000),
        Limit("slots", LimitKind.SLOTS, 5, 30_000),
        Limit("month", LimitKind.TOTAL, 5, 90_000),
        Limit("budget", LimitKind.TOTAL, 5, 0),
    ]
    step = LimitStep(Verb.TAKE, "r", tuple(Charge(limit, 1) for limit in limits))
    run = redis.register_script(redis_limits.LIMIT)
    run(["p:lasting"], ["p:limit:", redis_limits.encode([step])])
    assert redis.zrange("p:lasting", 0, -1) == [b"p:limit:budget"]
    assert sorted(redis.keys("*")) == [
        b"p:lasting",
        b"p:limit:budget",
        b"p:limit:month",
        b"p:limit:rate",
        b"p:limit:slots",
    ]
    assert redis.pttl("p:limit:budget") == -1
    for name in ("rate", "slots", "month"):
        assert 0 < redis.pttl(f"p:limit:{name}") <= 180_000


def test_a_clock_that_is_set_back_costs_at_most_the_longest_debt(redis: Redis) -> None:
    redis.flushall()
    run = redis.register_script(CLOCKED)
    limit = Limit("rpm", LimitKind.RATE, 6, 60_000)
    step = LimitStep(Verb.TAKE, "r", (Charge(limit, 6),))

    def apply(now_us: int, what: LimitStep) -> bool:
        answer = run(["p:lasting"], ["p:limit:", redis_limits.encode([what]), now_us])
        return redis_limits.decode(answer)[0].granted

    year_us = 365 * 86400 * 1_000_000
    assert apply(START_US + year_us, step)
    assert not apply(START_US, step)
    assert not apply(START_US + 599_000_000, step)
    assert apply(START_US + 600_000_000, step)
