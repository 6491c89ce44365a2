"""The store's operations as Lua: each is atomic in Redis, its message to watchers included.

Under a prefix P: `P:k:<key>` are the entries (leases by PX), `P:index` is a sorted set of all keys
(scores 0, so ranges are by name: listing does not scan the server), `P:lasting` one of the Redis
keys that were given no TTL, `P:version` counts changes, and `P:events` is the channel. A message is
a kind (p, d, e), the version, a space, the key and, for a put, a NUL and the value. An entry that
ran out is announced by the next listing, whose callers are the watchers. In a Redis Cluster, P puts
all of them into one slot: scripts read keys that they find in a set, and only those of their own
slot are there.
"""

from __future__ import annotations

# KEYS: entry, index, version, lasting. ARGV: channel, key, value, TTL in ms (0: none).
PUT = """
local old = redis.call('GET', KEYS[1])
if ARGV[4] == '0' then
  redis.call('SET', KEYS[1], ARGV[3])
  redis.call('ZADD', KEYS[4], 0, KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[3], 'PX', ARGV[4])
  redis.call('ZREM', KEYS[4], KEYS[1])
end
redis.call('ZADD', KEYS[2], 0, ARGV[2])
if old ~= ARGV[3] then
  local version = redis.call('INCR', KEYS[3])
  redis.call('PUBLISH', ARGV[1], 'p' .. version .. ' ' .. ARGV[2] .. '\\0' .. ARGV[3])
end
return false
"""

# As PUT, with one more ARGV: the value that may be replaced. Returns what was in the way, or nil.
CLAIM = (
    """
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[3] and holder ~= ARGV[5] then
  return holder
end
"""
    + PUT
)

# KEYS: entry, index, version, lasting. ARGV: channel, key.
DELETE = """
local found = redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[2])
redis.call('ZREM', KEYS[4], KEYS[1])
if found == 1 then
  local version = redis.call('INCR', KEYS[3])
  redis.call('PUBLISH', ARGV[1], 'd' .. version .. ' ' .. ARGV[2])
end
return found
"""

# KEYS: index, version. ARGV: channel, entry prefix, first and last bound of the range.
# Returns the version, then keys and values in turn.
LIST = """
local found = {}
for _, key in ipairs(redis.call('ZRANGEBYLEX', KEYS[1], ARGV[3], ARGV[4])) do
  local value = redis.call('GET', ARGV[2] .. key)
  if value then
    found[#found + 1] = key
    found[#found + 1] = value
  else
    redis.call('ZREM', KEYS[1], key)
    local version = redis.call('INCR', KEYS[2])
    redis.call('PUBLISH', ARGV[1], 'e' .. version .. ' ' .. key)
  end
end
table.insert(found, 1, redis.call('GET', KEYS[2]) or '0')
return found
"""

# What lasts goes on for so long, or for ever. KEYS: lasting, index, version. ARGV: TTL in ms (0:
# for ever).
RENEW = """
local function renew(key)
  if ARGV[1] == '0' then
    redis.call('PERSIST', key)
    return redis.call('EXISTS', key)
  end
  return redis.call('PEXPIRE', key, ARGV[1])
end
for _, key in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if renew(key) == 0 then
    redis.call('ZREM', KEYS[1], key)
  end
end
for _, key in ipairs(KEYS) do
  renew(key)
end
return false
"""
