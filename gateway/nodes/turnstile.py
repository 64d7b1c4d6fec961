"""The queue of all nodes as it lies in Redis, and the scripts that change it.

    P:{queue}:calls     who may call the model server, by when that lapses
    P:{queue}:waiting   who waits, by ticket: the lowest is next
    P:{queue}:leases    who waits, by when that lapses
    P:{queue}:state     `epoch`: there for as long as the rest is, so that a node which remembers
                        another one knows that Redis has lost its memory meanwhile;
                        `seen`: when a node last renewed its places; `typical`: what a call takes;
                        `quiet`, `patient`: until when nobody is admitted, or lapses
    P:node:<node>       a channel: each place of a node's that was admitted

Times are Redis' own, in milliseconds; tickets are its microseconds, so that those given after it
lost its memory are higher than those given before. Places are named `<node>|<number>`.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from gateway.nodes.asking import Argument, Call, Script
from llm.admission import WEIGHT_OF_NEWEST

Kind = Literal["call", "cooling", "wait"]

FULL = -1
"""Instead of a position: as many wait as may wait."""

ADMITTED = 0
"""Instead of a position."""

_SHARED = """
local calls, waiting, leases, state = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local known, most, lease, grace = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local channel = ARGV[5]
local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local now = math.floor(micros / 1000)

local kept = redis.call('HMGET', state, 'epoch', 'seen', 'quiet', 'patient', 'typical')
local epoch, seen = kept[1], tonumber(kept[2] or now)
local quiet, patient, typical = tonumber(kept[3] or 0), tonumber(kept[4] or 0), kept[5] or ''
if not epoch then
  epoch = string.format('%.0f', micros)
  redis.call('HSET', state, 'epoch', epoch, 'seen', now)
end
if known ~= '' and known ~= epoch then
  -- Others may hold places that are not known here yet: they are given time to say so.
  quiet = math.floor(tonumber(epoch) / 1000) + grace
  redis.call('HSET', state, 'quiet', quiet)
end
if now - seen > grace then
  -- Nobody could renew anything. Redis itself stood still, as like as not: what lapsed in that
  -- time says nothing about its owner.
  patient = now + grace
  redis.call('HSET', state, 'seen', now, 'patient', patient)
end

local function lapse()
  if now < patient then return end
  redis.call('ZREMRANGEBYSCORE', calls, '-inf', now)
  for _, place in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now)) do
    redis.call('ZREM', waiting, place)
    redis.call('ZREM', leases, place)
  end
end

-- Who is admitted keeps the lease of its wait: its node, if it is dead, is not to block the call
-- for another one.
local function admit()
  if now < quiet then return end
  local free = most - redis.call('ZCARD', calls)
  if free <= 0 then return end
  local first = redis.call('ZPOPMIN', waiting, free)
  for at = 1, #first, 2 do
    local place = first[at]
    redis.call('ZADD', calls, redis.call('ZSCORE', leases, place) or now + lease, place)
    redis.call('ZREM', leases, place)
    redis.call('PUBLISH', channel .. string.match(place, '^(.*)|'), place)
  end
end

-- With in how many milliseconds somebody may be admitted although nobody does anything.
local function answer(rest)
  local queued, change = redis.call('ZCARD', waiting), -1
  if queued > 0 then
    local first = redis.call('ZRANGE', calls, 0, 0, 'WITHSCORES')[2]
    if now < quiet then
      change = quiet - now
    elseif first then
      change = math.max(tonumber(first), patient, now) - now
    end
  end
  return {epoch, redis.call('ZCARD', calls), queued, typical, change, rest}
end
"""

_RESERVE = Script(
    "reserve",
    _SHARED
    + """
local place, most_waiting, even_if_full = ARGV[6], tonumber(ARGV[7]), ARGV[8] == '1'
lapse()
admit()  -- so that a call which is free yet is one that nobody waits for
local queued, position, ticket = redis.call('ZCARD', waiting), -1, micros
if now >= quiet and redis.call('ZCARD', calls) < most then
  redis.call('ZADD', calls, now + lease, place)
  position = 0
elseif queued < most_waiting or even_if_full then
  -- Clocks are set back at times; nobody gets in front of others by that.
  local last = redis.call('ZREVRANGE', waiting, 0, 0, 'WITHSCORES')[2]
  if last then ticket = math.max(micros, tonumber(last) + 1) end
  redis.call('ZADD', waiting, ticket, place)
  redis.call('ZADD', leases, now + lease, place)
  position = queued + 1
end
return answer({position, string.format('%.0f', ticket)})
""",
)

_RENEW = Script(
    "renew",
    _SHARED
    + """
redis.call('HSET', state, 'seen', now)
-- All are renewed before anybody lapses: who comes late and is missed by nobody has lost nothing.
for at = 7, #ARGV, 3 do
  local kind, place, number = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if kind == 'wait' then
    if redis.call('ZADD', leases, now + lease, place) == 1 then
      -- It did not wait: it was admitted, or lapsed, or is from before Redis lost its memory.
      if redis.call('ZSCORE', calls, place) then
        redis.call('ZADD', calls, now + lease, place)
        redis.call('ZREM', leases, place)
      else
        redis.call('ZADD', waiting, number, place)
      end
    end
  elseif kind == 'call' then
    if redis.call('ZADD', calls, now + lease, place) == 1 then
      redis.call('ZREM', waiting, place)
      redis.call('ZREM', leases, place)
    end
  elseif known ~= epoch then
    -- What cools down is told in case it was forgotten; else it may just have lapsed.
    redis.call('ZADD', calls, now + number, place)
  end
end
lapse()
admit()
local positions = {}
for at = 7, #ARGV, 3 do
  if ARGV[at] == 'wait' then
    local rank = redis.call('ZRANK', waiting, ARGV[at + 1])
    table.insert(positions, rank and rank + 1 or 0)
  end
end
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[6]) end
return answer(positions)
""",
)

_RELEASE = Script(
    "release",
    _SHARED
    + """
for at = 7, #ARGV, 3 do
  local place, cool, took = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  redis.call('ZREM', waiting, place)
  redis.call('ZREM', leases, place)
  if cool > 0 then
    redis.call('ZADD', calls, now + cool, place)
  else
    redis.call('ZREM', calls, place)
  end
  if took >= 0 then
    local before = tonumber(typical) or took
    typical = string.format('%.3f', before + ARGV[6] * (took - before))
    redis.call('HSET', state, 'typical', typical)
  end
end
lapse()
admit()
return answer({})
""",
)


@dataclass(frozen=True)
class Rules:
    """What holds for the whole deployment; times in seconds."""

    max_calls: int
    max_waiting: int
    lease_s: float = 6.0
    renew_s: float = 2.0
    look_s: float = 1.0
    """How often a node renews while somebody waits there, and how often at most they are told."""
    quiet_s: float = 3.0
    """How long nobody is admitted after Redis has lost its memory, and nobody lapses after nobody
    was heard for as long; longer than `renew_s` and the making of a link take together."""
    keep_s: float = 86_400.0
    """How long all stays that nobody looks after; longer than any cool-down."""

    @property
    def sure_s(self) -> float:
        """How long, by its own clock, a node may count on a lease since it asked for it."""
        return self.lease_s * 5 / 6


class Release(NamedTuple):
    """A place that is given back, and what the call took; times in seconds."""

    place: str
    cool_down_s: float
    took_s: float | None


class Renewal(NamedTuple):
    """A place that is kept: with its ticket if it waits, with seconds if it cools down."""

    kind: Kind
    place: str
    number: str | float = 0


class Answer(NamedTuple):
    """How all stands: calls and waiting of all nodes, what a call typically takes.

    In `change_s` somebody may be admitted although nobody does anything: then is the time to ask
    again. None of these are known to change by themselves if it is None.
    """

    epoch: str
    calls: int
    waiting: int
    typical_s: float | None
    change_s: float | None
    rest: list[Any]


class Turnstile:
    """Words what is asked of Redis, and reads its answers."""

    def __init__(self, prefix: str, rules: Rules) -> None:
        self._rules = rules
        self._channel = f"{prefix}:node:"
        self._keys = [
            f"{prefix}:{{queue}}:{name}" for name in ("calls", "waiting", "leases", "state")
        ]

    def channel(self, node: str) -> str:
        """Name the channel where a node hears which of its places are admitted."""
        return self._channel + node

    def reserve(self, place: str, *, even_if_full: bool, epoch: str) -> Call:
        """Take a place; the rest of the answer is its position and its ticket."""
        return self._call(
            _RESERVE, epoch, [place, self._rules.max_waiting, "1" if even_if_full else "0"]
        )

    def renew(self, renewals: Iterable[Renewal], *, epoch: str) -> Call:
        """Keep places, whether Redis remembers them or not; all of the node's, if it may not.

        The rest of the answer is the positions of those that waited, in their order.
        """
        told: list[Argument] = [_ms(self._rules.keep_s)]
        for kind, place, number in renewals:
            told += (kind, place, number if isinstance(number, str) else _ms(number))
        return self._call(_RENEW, epoch, told)

    def release(self, releases: Iterable[Release], *, epoch: str) -> Call:
        """Give places back, whether Redis remembers them or not; there is no rest."""
        told: list[Argument] = [WEIGHT_OF_NEWEST]
        for place, cool_down_s, took_s in releases:
            told += (place, _ms(cool_down_s), -1 if took_s is None else _ms(took_s))
        return self._call(_RELEASE, epoch, told)

    def _call(self, script: Script, epoch: str, told: list[Argument]) -> Call:
        rules = self._rules
        shared = (epoch, rules.max_calls, _ms(rules.lease_s), _ms(rules.quiet_s), self._channel)
        return Call(script, self._keys, [*shared, *told])


def read(answer: Any) -> Answer:
    """Read what a script returned."""
    epoch, calls, waiting, typical, change, rest = answer
    return Answer(
        epoch=epoch,
        calls=calls,
        waiting=waiting,
        typical_s=float(typical) / 1000 if typical else None,
        change_s=change / 1000 if change >= 0 else None,
        rest=rest,
    )


def _ms(seconds: float) -> int:
    return math.ceil(seconds * 1000)
