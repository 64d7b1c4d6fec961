"""Token buckets that all nodes share, as they lie in Redis.

P:bucket:<key>   when the bucket will be full again, in microseconds of Redis' own time; it
                 expires then, for a bucket that nobody knows is full
"""

import logging

from gateway.limits.buckets import MICROS, MemoryBuckets, Rate
from gateway.nodes.away import BrokerAway
from gateway.nodes.link import Link, Script

log = logging.getLogger(__name__)

# The same as `gateway.limits.buckets.taken`. A double holds these times exactly until 2255.
TAKE = Script(
    "take",
    """
local interval, tolerance = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local kept = tonumber(redis.call('GET', KEYS[1]) or now)
local full_at = math.min(math.max(kept, now), now + tolerance + interval)
local wait = full_at - now - tolerance
if wait <= 0 then
  full_at, wait = full_at + interval, 0
end
if full_at ~= kept then
  local left = math.ceil((full_at - now) / 1000)
  redis.call('SET', KEYS[1], string.format('%.0f', full_at), 'PX', left)
end
return wait
""",
)


class SharedBuckets:
    """The buckets of all nodes, in one round trip each. Implements `Buckets`.

    While Redis is away each node counts for itself, in `alone`, beginning with full buckets:
    somebody may take as much from each node as from all. Said once in the log, as is its end.
    """

    def __init__(self, link: Link, alone: MemoryBuckets | None = None) -> None:
        self._link = link
        self._alone = alone if alone is not None else MemoryBuckets()
        self._failures = 0
        self._is_alone = False

    async def take(self, key: str, rate: Rate) -> float:
        """Take a token: 0.0 if there was one, else in how many seconds one will be there.

        Takes as long as Redis does, and no longer than the link waits for it. Cancelled, it may
        have taken one.
        """
        if not rate.per_minute:
            return 0.0
        failures = self._failures
        try:
            wait_us: int = await self._link.run(
                TAKE, [self._link.key(f"bucket:{key}")], [rate.interval_us, rate.tolerance_us]
            )
        except BrokerAway as error:
            self._mourn(error)
            return self._alone.take_now(key, rate)
        if self._is_alone and failures == self._failures:
            self._rejoin()
        return wait_us / MICROS

    def _mourn(self, error: BrokerAway) -> None:
        self._failures += 1
        if not self._is_alone:
            self._is_alone = True
            log.warning("rates are limited by each node for itself: %s", error)

    def _rejoin(self) -> None:
        # Asked and answered since the last failure: what was asked before it may come late.
        self._is_alone = False
        log.warning("rates are limited for all nodes together again")
