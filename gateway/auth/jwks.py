"""The keys that an issuer of tokens publishes: a JSON Web Key Set (RFC 7517), kept up to date."""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Never

import httpx
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 256 * 1024
MIN_RSA_BITS = 2_048

_HEADERS = {
    "Accept": "application/json",
    "Accept-Encoding": "identity",  # what is small may be huge once it is decompressed
    "User-Agent": "midm-chat-gateway",
}
# What is needed of a key to verify with it: whatever else is in there, a private key's parts even,
# is left out.
_PUBLIC = ("kty", "kid", "n", "e", "crv", "x", "y")


class UnknownKey(Exception):
    """The issuer publishes no such key."""


class KeysUnavailable(Exception):
    """The issuer cannot be asked; it may or may not publish such a key."""


@dataclass(frozen=True)
class JwksTimes:
    """How often to ask, and for how long, in seconds.

    `refresh_s`: while all is well; `retry_s`: while it is not; `unknown_s`: at most that often
    because somebody named a key that is not known; `fetch_s`: one attempt, all of it.
    """

    refresh_s: float = 600.0
    retry_s: float = 5.0
    unknown_s: float = 30.0
    fetch_s: float = 5.0


class Jwks:
    """The keys published at `url`, as long as `run` runs.

    That task alone fetches; whoever misses a key rings it and waits. So there is one fetch at a
    time however many wait, and nobody who stops waiting stops it. What was fetched once stays
    until something newer was. `clock` tells seconds and is never set back.
    """

    def __init__(
        self,
        url: str,
        *,
        client: httpx.AsyncClient,
        times: JwksTimes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._client = client
        self._times = times or JwksTimes()
        self._clock = clock
        self._keys: dict[str | None, PyJWK] = {}
        self._names: frozenset[str] = frozenset()
        self._well: bool | None = None
        self._asked_at: float | None = None
        self._under_way = asyncio.Event()
        self._landed = asyncio.Event()

    async def key(self, kid: str | None) -> PyJWK:
        """Look a key up, asking the issuer if it is not known; None is the one without an id.

        Waits at most for two fetches. Raises `UnknownKey` or `KeysUnavailable`.
        """
        if kid not in self._keys and self._may_ask():
            await self._next_fetch()
        if (key := self._keys.get(kid)) is not None:
            return key
        raise UnknownKey if self._well else KeysUnavailable

    def has(self, name: str) -> bool:
        """Whether a key is published, by its id, or by its algorithm if it has none."""
        return name in self._names

    async def run(self) -> Never:
        """Fetch the keys, again and again, until cancelled."""
        while True:
            self._under_way.set()
            await self._refresh()
            self._under_way.clear()
            landed, self._landed = self._landed, asyncio.Event()
            landed.set()
            await self._pause()

    def _may_ask(self) -> bool:
        """Decide whether to wait for a fetch: for one that is made anyway, or a new one."""
        if self._under_way.is_set() or self._well is None:
            return True
        now = self._clock()
        if self._asked_at is not None and now - self._asked_at < self._times.unknown_s:
            return False
        self._asked_at = now
        return True

    async def _next_fetch(self) -> None:
        self._under_way.set()
        try:
            # Longer than it can take: whoever waits does not depend on the task being there.
            async with asyncio.timeout(2 * self._times.fetch_s):
                await self._landed.wait()
        except TimeoutError:
            return

    async def _pause(self) -> None:
        """Wait until it is time again, or somebody rings."""
        wait_s = self._times.refresh_s if self._well else self._times.retry_s
        try:
            async with asyncio.timeout(wait_s):
                await self._under_way.wait()
        except TimeoutError:
            return

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(self._times.fetch_s):
                keys = await fetch_keys(self._client, self._url)
        except Exception as error:  # whatever it is, the keys that are there stay
            self._mourn(error)
            return
        self._keys = keys
        self._names = frozenset(name_of(key) for key in keys.values())
        if not self._well:
            log.info("the issuer of tokens publishes %d keys that can be used", len(keys))
        self._well = True

    def _mourn(self, error: Exception) -> None:
        if self._well is not False:
            kind = type(error).__name__
            log.warning("the keys of the issuer of tokens cannot be fetched: %s: %s", kind, error)
        self._well = False


async def fetch_keys(client: httpx.AsyncClient, url: str) -> dict[str | None, PyJWK]:
    """Fetch a key set, and read it as `read_keys` does; how long that may take is the caller's.

    Raises `ValueError` for an answer that is none, and `httpx.HTTPError`.
    """
    async with client.stream("GET", url, headers=_HEADERS) as answer:
        if answer.status_code != httpx.codes.OK:
            raise ValueError(f"it answers with status {answer.status_code}")
        body = bytearray()
        async for piece in answer.aiter_raw():
            body += piece
            if len(body) > MAX_BODY_BYTES:
                raise ValueError(f"it sends more than {MAX_BODY_BYTES} bytes")
    return read_keys(bytes(body))


def name_of(key: PyJWK) -> str:
    """Name a key: its id, or its algorithm if it has none."""
    return key.key_id or key.algorithm_name


def read_keys(body: bytes) -> dict[str | None, PyJWK]:
    """Read a key set: by their ids, the keys that RS256 or ES256 tokens may be signed with.

    What else is in there is left out, and so are several without an id, of which nobody could say
    which one is meant. Raises `ValueError` for what is no key set.
    """
    try:
        found = json.loads(body)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    match found:
        case {"keys": list(entries)}:
            keys = list(_usable(entries))
        case _:
            raise ValueError("it is no set of keys")
    by_id = {key.key_id: key for key in keys}
    if sum(key.key_id is None for key in keys) > 1:
        del by_id[None]
    return by_id


def _usable(entries: list[object]) -> Iterator[PyJWK]:
    for entry in entries:
        if isinstance(entry, dict) and (key := _key_of(entry)) is not None:
            yield key


def _key_of(entry: dict[str, Any]) -> PyJWK | None:
    match entry:
        case {"kty": "RSA"}:
            algorithm = "RS256"
        case {"kty": "EC", "crv": "P-256"}:
            algorithm = "ES256"
        case _:
            return None
    if not _is_for(entry, algorithm):
        return None
    public = {name: entry[name] for name in _PUBLIC if name in entry}
    try:
        key = PyJWK(public, algorithm)
    except Exception:  # whatever a strange key provokes, in one of two libraries
        return None
    is_weak = isinstance(key.key, RSAPublicKey) and key.key.key_size < MIN_RSA_BITS
    return None if is_weak else key


def _is_for(entry: dict[str, Any], algorithm: str) -> bool:
    """Whether a key says that it is, or does not say that it is not, one to verify with."""
    operations = entry.get("key_ops", ["verify"])
    return (
        entry.get("use", "sig") == "sig"
        and entry.get("alg", algorithm) == algorithm
        and isinstance(operations, list)
        and "verify" in operations
        and isinstance(entry.get("kid", ""), str)
    )
