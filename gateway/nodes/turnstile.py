"""The queue of all nodes as it lies in Redis, and the one script that changes it.

`calls` holds who may call the model server, by when that lapses; `waiting` who waits, by ticket;
`alive` by when a wait lapses. Times are Redis' own, in milliseconds; tickets its microseconds.
`epoch` is there for as long as the rest is: a node that remembers another one knows that Redis has
lost its memory meanwhile.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.nodes.asking import Call, Script

_LUA = """
local calls, waiting, alive, epoch_key, quiet_key =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local ask = cjson.decode(ARGV[1])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local micros = time[1] * 1000000 + time[2]
local lapses = now + ask.lease_ms

-- Who is there, and who was.
local epoch = redis.call('GET', epoch_key)
if not epoch then
  epoch = string.format('%.0f', micros)
  redis.call('SET', epoch_key, epoch)
end
if ask.epoch ~= '' and ask.epoch ~= epoch then
  -- Others hold places that are not known here yet: nobody is admitted until they have come.
  if redis.call('HSETNX', quiet_key, 'of', epoch) == 1 or
     redis.call('HGET', quiet_key, 'of') ~= epoch then
    redis.call('HSET', quiet_key, 'of', epoch, 'until', now + ask.quiet_ms)
  end
end
local quiet = redis.call('HGET', quiet_key, 'until')
quiet = quiet and tonumber(quiet) > now

redis.call('ZREMRANGEBYSCORE', calls, '-inf', now)
for _, place in ipairs(redis.call('ZRANGEBYSCORE', alive, '-inf', now)) do
  redis.call('ZREM', alive, place)
  redis.call('ZREM', waiting, place)
end

for _, release in ipairs(ask.released) do
  local place, cool_ms = release[1], release[2]
  redis.call('ZREM', waiting, place)
  redis.call('ZREM', alive, place)
  if cool_ms > 0 then
    redis.call('ZADD', calls, now + cool_ms, place)
  else
    redis.call('ZREM', calls, place)
  end
end
for _, place in ipairs(ask.running) do
  redis.call('ZADD', calls, lapses, place)
end

local answer = {epoch = epoch, admitted = {}, standing = {}, full = {}}
local mine = {}
for _, wait in ipairs(ask.waiting) do
  local place, ticket = wait[1], wait[2]
  mine[place] = true
  if redis.call('ZSCORE', calls, place) then
    redis.call('ZADD', calls, lapses, place)
    table.insert(answer.admitted, place)
  else
    redis.call('ZADD', waiting, ticket, place)
    redis.call('ZADD', alive, lapses, place)
  end
end
for index, new in ipairs(ask.reserved) do
  local place, even_if_full = new[1], new[2]
  local free = not quiet and redis.call('ZCARD', calls) < ask.max_calls
  local queued = redis.call('ZCARD', waiting)
  if not (free and queued == 0) and queued >= ask.max_waiting and not even_if_full then
    table.insert(answer.full, place)
  else
    mine[place] = true
    redis.call('ZADD', waiting, micros + index, place)
    redis.call('ZADD', alive, lapses, place)
  end
end

while not quiet and redis.call('ZCARD', calls) < ask.max_calls do
  local place = redis.call('ZPOPMIN', waiting)[1]
  if not place then break end
  redis.call('ZREM', alive, place)
  redis.call('ZADD', calls, lapses, place)
  if mine[place] then
    table.insert(answer.admitted, place)
  else
    redis.call('PUBLISH', ask.prefix .. string.match(place, '^(.*)|'), place)
  end
end
for place in pairs(mine) do
  local rank = redis.call('ZRANK', waiting, place)
  if rank then
    local ticket = string.format('%.0f', redis.call('ZSCORE', waiting, place))
    table.insert(answer.standing, {place, rank + 1, ticket})
  end
end
answer.calls = redis.call('ZCARD', calls)
answer.queued = redis.call('ZCARD', waiting)
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, ask.keep_ms)
end
return cjson.encode(answer)
"""
_SCRIPT = Script("turnstile", _LUA)
_KEYS = ("calls", "waiting", "alive", "epoch", "quiet")


@dataclass(frozen=True)
class Rules:
    """What holds for the whole deployment; times in seconds."""

    max_calls: int
    max_waiting: int
    lease_s: float = 6.0
    renew_s: float = 2.0
    quiet_s: float = 3.0
    """How long nobody is admitted after Redis has lost its memory; longer than `renew_s`."""
    look_s: float = 1.0
    """How often who waits looks where it stands."""
    keep_s: float = 60.0


@dataclass(frozen=True)
class Request:
    """What a node tells and asks; places are named `<node>|<number>`."""

    released: list[tuple[str, int]] = field(default_factory=list)
    """With how many milliseconds each still counts as a call."""
    running: list[str] = field(default_factory=list)
    waiting: list[tuple[str, str]] = field(default_factory=list)
    """With their tickets."""
    reserved: list[tuple[str, bool]] = field(default_factory=list)
    """With whether they are to have a place even if as many wait as may wait."""


@dataclass(frozen=True)
class Standing:
    """Where a place stands in the queue, 1 being next."""

    position: int
    ticket: str


@dataclass(frozen=True)
class Answer:
    """What became of the places that were asked about, and how many calls there are in all."""

    epoch: str
    admitted: list[str]
    full: list[str]
    standing: Mapping[str, Standing]
    calls: int
    waiting: int

    @classmethod
    def parse(cls, text: str) -> "Answer":
        """Read what the script returned."""
        told: dict[str, Any] = json.loads(text)
        # To Lua an empty list is an empty object.
        standing = {
            place: Standing(position, ticket) for place, position, ticket in told["standing"]
        }
        return cls(
            epoch=told["epoch"],
            admitted=list(told["admitted"]),
            full=list(told["full"]),
            standing=standing,
            calls=told["calls"],
            waiting=told["queued"],
        )


def channel(prefix: str, node: str) -> str:
    """Where a node hears that a place of its own was admitted by what another one did."""
    return f"{prefix}:node:{node}"


def turn(request: Request, *, rules: Rules, prefix: str, epoch: str) -> Call:
    """Make a call of the script; `epoch` is the one this node remembers, empty at first."""
    told = {
        "released": request.released,
        "running": request.running,
        "waiting": request.waiting,
        "reserved": request.reserved,
        "epoch": epoch,
        "prefix": channel(prefix, ""),
        "max_calls": rules.max_calls,
        "max_waiting": rules.max_waiting,
        "lease_ms": round(rules.lease_s * 1000),
        "quiet_ms": round(rules.quiet_s * 1000),
        "keep_ms": round(rules.keep_s * 1000),
    }
    keys = [f"{prefix}:{{queue}}:{name}" for name in _KEYS]
    return Call(_SCRIPT, keys, [json.dumps(told)])
