"""Limits in Redis: `store.limits` as Lua, so that all gateways take from the same ones, atomically.

Under a prefix P, `P:limit:<name>` is a number for a rate (the instant by which all of it is back,
in microseconds of the server's clock) and for a total, and a sorted set of holders by the end of
their leases for slots. Each expires when it says nothing any more, a while later: a server's clock
that is set forward must not end leases that are being renewed. No watcher hears of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from baton.store.limits import MAX_DEBT_WINDOWS, Level, LimitResult, LimitStep

CLOCK = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
"""

# KEYS: `P:lasting`, to which totals for ever are added. ARGV: key prefix, steps as JSON:
# [[verb, holder, [[name, kind, bound, window_ms, amount], ...]]].
# Returns for each step: granted (0 or 1), then left and reset_us of each charge.
BODY = (
    f"local MAX_DEBT_WINDOWS = {MAX_DEBT_WINDOWS}"
    + """
local TAKE, SETTLE, HOLD, LOOK = 1, 2, 3, 4
local RATE, SLOTS, TOTAL = 1, 2, 3
local SLACK_MS = 60000

local function number(key)
  return tonumber(redis.call('GET', key) or '0')
end

local function whole(value)
  return string.format('%.0f', value)
end

local function live(key)
  redis.call('ZREMRANGEBYSCORE', key, '-inf', whole(now))
  return redis.call('ZCARD', key)
end

local function cost_us(limit, amount)
  return math.floor(amount * (limit.window_ms * 1000) / limit.bound)
end

local function keep_rate(limit, full_at)
  if full_at > now then
    local stays_ms = math.floor((full_at - now) / 1000) + SLACK_MS
    redis.call('SET', limit.key, whole(full_at), 'PX', whole(stays_ms))
  else
    redis.call('DEL', limit.key)
  end
end

local function debt_us(limit)
  local most = MAX_DEBT_WINDOWS * limit.window_ms * 1000
  local debt = math.max(0, number(limit.key) - now)
  if debt > most then
    -- The clock was set back.
    debt = most
    keep_rate(limit, now + debt)
  end
  return debt
end

local function has_room(holder, limit, amount)
  if limit.kind == SLOTS then
    return live(limit.key) < limit.bound or redis.call('ZSCORE', limit.key, holder)
  end
  if limit.kind == TOTAL then
    return number(limit.key) + amount <= limit.bound
  end
  return debt_us(limit) + cost_us(limit, amount) <= limit.window_ms * 1000
end

local function charge(verb, holder, limit, amount)
  local key, window_us = limit.key, limit.window_ms * 1000
  if limit.kind == SLOTS then
    if verb == SETTLE then
      redis.call('ZREM', key, holder)
    else
      redis.call('ZADD', key, whole(now + window_us), holder)
      redis.call('PEXPIRE', key, limit.window_ms + SLACK_MS)
    end
  elseif verb == HOLD then
    return
  elseif limit.kind == TOTAL then
    local used = whole(math.max(0, number(key) + amount))
    if redis.call('EXISTS', key) == 1 then
      redis.call('SET', key, used, 'KEEPTTL')
    elseif limit.window_ms > 0 then
      redis.call('SET', key, used, 'PX', limit.window_ms)
    else
      redis.call('SET', key, used)
      redis.call('ZADD', KEYS[1], 0, key)
    end
  else
    local debt = math.max(0, debt_us(limit) + cost_us(limit, amount))
    keep_rate(limit, now + math.min(debt, MAX_DEBT_WINDOWS * window_us))
  end
end

local function level(limit)
  if limit.kind == SLOTS then
    return limit.bound - live(limit.key), 0
  end
  if limit.kind == TOTAL then
    return limit.bound - number(limit.key), 0
  end
  local window_us = limit.window_ms * 1000
  local reset_us = debt_us(limit)
  return math.floor((window_us - reset_us) * limit.bound / window_us), reset_us
end

local results = {}
for _, step in ipairs(cjson.decode(ARGV[2])) do
  local verb, holder, limits = step[1], step[2], {}
  for i, c in ipairs(step[3]) do
    limits[i] = {
      key = ARGV[1] .. c[1], kind = c[2], bound = c[3], window_ms = c[4], amount = c[5]
    }
  end
  local granted = true
  if verb == TAKE then
    for _, limit in ipairs(limits) do
      granted = granted and has_room(holder, limit, limit.amount)
    end
  end
  if granted and verb ~= LOOK then
    for _, limit in ipairs(limits) do
      charge(verb, holder, limit, limit.amount)
    end
  end
  local result = {granted and 1 or 0}
  for _, limit in ipairs(limits) do
    local left, reset_us = level(limit)
    result[#result + 1] = left
    result[#result + 1] = reset_us
  end
  results[#results + 1] = result
end
return results
"""
)

LIMIT = CLOCK + BODY


def encode(steps: Sequence[LimitStep]) -> str:
    """The script's second argument."""
    return json.dumps(
        [
            [
                int(step.verb),
                step.holder,
                [
                    [c.limit.name, int(c.limit.kind), c.limit.bound, c.limit.window_ms, c.amount]
                    for c in step.charges
                ],
            ]
            for step in steps
        ]
    )


def decode(results: Sequence[Sequence[Any]]) -> list[LimitResult]:
    """What the script returned."""
    return [
        LimitResult(
            bool(granted),
            tuple(
                Level(int(left), int(reset_us))
                for left, reset_us in zip(rest[0::2], rest[1::2], strict=True)
            ),
        )
        for granted, *rest in results
    ]
