"""The broker: whether Redis is there, new enough, and keeps what it is given."""

from gateway.checks.finding import Finding, ok, warning, wrong
from gateway.secrets import without_secrets
from gateway.settings import Settings

ABOUT = "broker"
ANSWER_S = 2.0
OLDEST = (6, 2)


async def check_broker(settings: Settings) -> list[Finding]:
    """Ask Redis how it is; alone, there is none to ask."""
    if not settings.broker_url:
        return []
    # Only here: a gateway that is alone needs none of its packages.
    from redis.asyncio import Redis
    from redis.exceptions import AuthenticationError, RedisError

    where = without_secrets(settings.broker_url)
    client = Redis.from_url(
        settings.broker_url, socket_connect_timeout=ANSWER_S, socket_timeout=ANSWER_S
    )
    try:
        info = await client.info()
    except AuthenticationError as error:
        return [wrong(ABOUT, f"{where}: {error}", "correct the password in BROKER_URL")]
    except (RedisError, OSError) as error:
        return [wrong(ABOUT, f"{where}: {error}", "start it, or correct BROKER_URL")]
    finally:
        await client.aclose()
    return _judged(info, where)


def _judged(info: dict[str, object], where: str) -> list[Finding]:
    version = str(info.get("redis_version", "0"))
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if tuple(int(part) for part in version.split(".")[:2] if part.isdecimal()) < OLDEST:
        return [wrong(ABOUT, f"{where} is version {version}", "use Redis 6.2 or newer, or Valkey")]
    if info.get("role") not in (None, "master"):
        return [wrong(ABOUT, f"{where} is a replica", "name the primary in BROKER_URL")]
    if policy != "noeviction" and info.get("maxmemory"):
        do = "set maxmemory-policy noeviction: keys that are thrown out stop replies"
        return [warning(ABOUT, f"{where} throws out keys when it is full ({policy})", do)]
    return [ok(ABOUT, f"{where}, version {version}")]
