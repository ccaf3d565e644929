"""All scripts that Redis runs in one step, in Lua. Each names its KEYS and ARGV."""

from __future__ import annotations

from typing import Final

# If there are too many, the oldest are removed: during a flood of registrations or logins, honest ones still have time,
# and a publisher of a thousand documents displaces its own first.
# KEYS index, entry · ARGV value, lifetime, name, now, most, prefix, lifetime of the index
KEEP_NEWEST: Final = """
redis.call('SET', KEYS[2], ARGV[1], 'EX', ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[4] - ARGV[7])
redis.call('ZADD', KEYS[1], ARGV[4], ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[7])
local excess = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[5])
if excess > 0 then
  for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, excess - 1)) do redis.call('DEL', ARGV[6] .. name) end
  redis.call('ZREMRANGEBYRANK', KEYS[1], 0, excess - 1)
end
"""

# `EXPIRE … GT` would be enough, but needs Redis 7.0.
_PROLONG: Final = """
local function prolong(key, lifetime)
  if redis.call('TTL', key) < tonumber(lifetime) then redis.call('EXPIRE', key, lifetime) end
end
"""
# The indices are the last keys.
_NOTE_USE: Final = (
    _PROLONG
    + """
local function note_use(first, sid, rank, lifetime)
  for index = first, #KEYS do
    redis.call('ZADD', KEYS[index], rank, sid)
    prolong(KEYS[index], lifetime)
  end
end
"""
)

# KEYS any · ARGV lifetime
PROLONG: Final = _PROLONG + "prolong(KEYS[1], ARGV[1])"

# KEYS grant, indices
# ARGV lifetime, sid, rank, index lifetime
PROLONG_GRANT: Final = (
    _NOTE_USE
    + """
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
prolong(KEYS[1], ARGV[1])
note_use(2, ARGV[2], ARGV[3], ARGV[4])
return 1
"""
)

# KEYS redeemed, grant, refresh, client, unused clients, indices
# ARGV code memory, grant lifetime, has refresh, client lifetime, attempt, client identifier, sid, rank, index lifetime
REDEEM: Final = (
    _NOTE_USE
    + """
if redis.call('EXISTS', KEYS[2]) == 0 then return 'gone' end
local redeemer = redis.call('GET', KEYS[1])
if redeemer and redeemer ~= ARGV[5] then return 'replayed' end
redis.call('SET', KEYS[1], ARGV[5], 'EX', ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[2])
if ARGV[3] == '1' then
  redis.call('HSET', KEYS[3], 'current', 0)
  redis.call('EXPIRE', KEYS[3], ARGV[2])
end
redis.call('EXPIRE', KEYS[4], ARGV[4])
redis.call('ZREM', KEYS[5], ARGV[6])
note_use(6, ARGV[7], ARGV[8], ARGV[9])
return 'done'
"""
)

# A generation ahead of ours is one that we have given out and Redis has lost again, with what it had not yet written
# when it failed: as good as the current one.
# A former generation's time of use is kept for the last 16 only: enough for any honest overlap, and bounded. Only its
# successor's use tells a token that was sent again for want of an answer from one that was stolen. Who may send one
# again gets the newest, so that all who share a grant have the same.
# Answers what became of it, and which generation to hand out.
# KEYS refresh, grant, client, login, indices
# ARGV generation, now, grace, grant lifetime, client lifetime, sid, lost answer
ROTATE: Final = (
    _NOTE_USE
    + """
local current = tonumber(redis.call('HGET', KEYS[1], 'current'))
if not current or redis.call('EXISTS', KEYS[2]) == 0 then return {'gone', 0} end
local generation = tonumber(ARGV[1])
if generation >= current then
  redis.call('HSET', KEYS[1], 'current', generation + 1, generation, ARGV[2])
  redis.call('HDEL', KEYS[1], generation - 16)
  redis.call('EXPIRE', KEYS[1], ARGV[4])
  redis.call('EXPIRE', KEYS[2], ARGV[4])
  redis.call('EXPIRE', KEYS[3], ARGV[5])
  redis.call('EXPIRE', KEYS[4], ARGV[4])
  note_use(5, ARGV[6], ARGV[2], ARGV[4])
  return {'rotated', generation + 1}
end
local now = tonumber(ARGV[2])
local used_at = tonumber(redis.call('HGET', KEYS[1], generation))
local successor_used_at = tonumber(redis.call('HGET', KEYS[1], generation + 1))
if used_at and successor_used_at and now - successor_used_at <= tonumber(ARGV[3]) then return {'repeated', current} end
if used_at and generation + 1 == current and now - used_at <= tonumber(ARGV[7]) then return {'repeated', current} end
return {'reused', 0}
"""
)

# Another worker may have replaced or removed the value meanwhile. Answers whether it was still the former one.
# KEYS any · ARGV former, new
REPLACE: Final = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
return 1
"""

# As REPLACE, for a member of a hash; an empty new value removes it, and further members with it.
# KEYS hash · ARGV member, former, new, further members
REPLACE_CREDENTIAL: Final = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then return 0 end
if ARGV[3] ~= '' then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
else
  redis.call('HDEL', KEYS[1], ARGV[1], unpack(ARGV, 4))
end
return 1
"""

# Not of what was removed meanwhile.
# KEYS hash · ARGV now, lifetime, prefix of members with a time, members
NOTE_CREDENTIAL_USE: Final = (
    _PROLONG
    + """
for position = 4, #ARGV do
  if redis.call('HEXISTS', KEYS[1], ARGV[position]) == 1 then
    redis.call('HSET', KEYS[1], ARGV[3] .. ARGV[position], ARGV[1])
  end
end
prolong(KEYS[1], ARGV[2])
"""
)

# `EXPIRE … LT` would be enough, but needs Redis 7.0.
# KEYS any · ARGV lifetime
SHORTEN: Final = "if redis.call('TTL', KEYS[1]) > tonumber(ARGV[1]) then redis.call('EXPIRE', KEYS[1], ARGV[1]) end"

# At once, or it could be of a grant or session that has come in between.
# KEYS index of the user's grants or sessions, what is kept of the user while there is one
DROP_WITH_LAST: Final = "if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('DEL', KEYS[2]) end"

# Answers 0 for a use that counts, else the seconds to wait, of which Redis' TTL says 0 for less than half a second.
# KEYS quota · ARGV limit, window
TAKE: Final = """
if tonumber(redis.call('GET', KEYS[1]) or '0') >= tonumber(ARGV[1]) then
  return math.max(redis.call('TTL', KEYS[1]), 1)
end
if redis.call('INCR', KEYS[1]) == 1 then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
return 0
"""

# KEYS used · ARGV attempt, seconds
USE: Final = """
local user = redis.call('GET', KEYS[1])
if user and user ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
"""

# Of those that live, each with its time to live and that of its refresh token.
# ARGV prefix of grants, prefix of refresh tokens, grant ids
READ_GRANTS: Final = """
local found = {}
for position = 3, #ARGV do
  local document = redis.call('GET', ARGV[1] .. ARGV[position])
  if document then
    found[#found + 1] = document
    found[#found + 1] = redis.call('TTL', ARGV[1] .. ARGV[position])
    found[#found + 1] = redis.call('TTL', ARGV[2] .. ARGV[position])
  end
end
return found
"""

# How many grants of each index live, -1 where there are too many to be counted at once.
# KEYS indices · ARGV prefix of grants, most
COUNT_LIVE: Final = """
local counts = {}
for position, index in ipairs(KEYS) do
  local count = -1
  if redis.call('ZCARD', index) <= tonumber(ARGV[2]) then
    count = 0
    for _, sid in ipairs(redis.call('ZRANGE', index, 0, -1)) do
      count = count + redis.call('EXISTS', ARGV[1] .. sid)
    end
  end
  counts[position] = count
end
return counts
"""

# One step for all: of several workers and hosts that start at once, one does it. What is written meanwhile under
# the new names is joined, and a name on a list stays whose it was. JSON is changed as text, in the one form that it is
# written in: Redis would write numbers and empty lists in another. The marker comes last, and doing all of it twice
# does no harm: a Redis that is full in between breaks off.
# KEYS marker · ARGV provider's name: `github:HOST`, or empty if no user is renamed; the same for string.gsub
RENAME: Final = """
if redis.call('EXISTS', KEYS[1]) == 1 then return -1 end
if ARGV[1] == '' then
  redis.call('SET', KEYS[1], '1')
  return 0
end
local found, cursor = {}, '0'
repeat
  local answer = redis.call('SCAN', cursor, 'COUNT', 1000)
  cursor = answer[1]
  for _, key in ipairs(answer[2]) do found[key] = true end
until cursor == '0'
local function join(former, key)
  local kind, lifetime = redis.call('TYPE', former).ok, redis.call('TTL', former)
  if redis.call('EXISTS', key) == 0 then redis.call('RENAME', former, key) return end
  if kind == 'zset' then redis.call('ZUNIONSTORE', key, 2, key, former, 'AGGREGATE', 'MAX') end
  if kind == 'hash' then
    local members = redis.call('HGETALL', former)
    for index = 1, #members, 2 do redis.call('HSET', key, members[index], members[index + 1]) end
  end
  if redis.call('TTL', key) < lifetime then redis.call('EXPIRE', key, lifetime) end
  redis.call('DEL', former)
end
local renamed = 0
for key in pairs(found) do
  local prefix, id = string.match(key, '^(%l+%-of%-user:)github:(%d+)$')
  if prefix then
    join(key, prefix .. ARGV[1] .. ':' .. id)
    renamed = renamed + 1
  elseif key == 'pins:github' then
    local pins = redis.call('HGETALL', key)
    for index = 2, #pins, 2 do
      redis.call('HSET', key, pins[index - 1], (string.gsub(pins[index], '^github:(%d+)$', ARGV[2] .. ':%1')))
    end
    join(key, 'pins:' .. ARGV[1])
  elseif string.match(key, '^grant:') or string.match(key, '^session:') then
    local document = redis.call('GET', key)
    local changed, times = string.gsub(document, '"sub": "github:(%d+)"', '"sub": "' .. ARGV[2] .. ':%1"', 1)
    if times == 1 then redis.call('SET', key, changed, 'KEEPTTL') end
  end
end
redis.call('SET', KEYS[1], '1')
return renamed
"""
