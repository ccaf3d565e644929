"""Users of GitHub Enterprise Server, under the names that they have had since their server is in them.

Earlier versions called the user 583231 of every GitHub server `github:583231`. Now only those of github.com are called
so, and those of an Enterprise Server `github:HOST:583231`. What Redis holds from before belongs to the server that is
configured when this version first starts on it; a marker says that this has happened, so that nobody is renamed when
the operator goes over to another server later.
"""

from __future__ import annotations

from typing import Final, cast

import redis

from .ephemeral import denies_when_unavailable

MARKER: Final = "subjects-name-servers"
"""The key that is there once no user has a name of the former kind, or none has to lose it."""

# One step for everyone: of several workers and hosts that start at once, one does it. What is written meanwhile under
# the new names is joined, and a name on a list stays whose it was. JSON is changed as text, in the one form that it is
# written in: Redis would write numbers and empty lists in another. The marker comes last, and doing all of it twice
# does no harm: a Redis that is full in between breaks off.
# KEYS marker · ARGV provider's name: `github:HOST`, or empty where nobody is renamed; the same for string.gsub
_RENAME = """
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


class Subjects:
    """The names of users that Redis holds. Raises ServiceUnavailable when Redis does not answer."""

    def __init__(self, connection: redis.Redis) -> None:
        """Share a connection pool."""
        self._rename = connection.register_script(_RENAME)

    @denies_when_unavailable
    def name_servers(self, provider: str) -> int:
        """Rename all users who have a name of the former kind, once and for all; return how many entries of users were.

        `provider` is what the subjects of the configured provider begin with.
        """
        server = provider if provider.startswith("github:") else ""
        in_pattern = server.replace("%", "%%")  # where Lua puts it in the place of something
        return max(cast("int", self._rename(keys=[MARKER], args=[server, in_pattern])), 0)
