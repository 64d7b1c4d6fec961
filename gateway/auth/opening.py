"""Makes an authenticator of settings. What verifies tokens is imported only if there are any."""

import re
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Never
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import httpx

from gateway.auth.api_keys import KeyRing, parse_keys
from gateway.auth.authenticator import ANONYMOUS, Authenticator, Verifier
from gateway.auth.tickets import Tickets
from llm.transport import DirectTransport

KEYS_EVERY_S = 2.0

Chore = Callable[[], Coroutine[object, object, Never]]
"""Is to be run as a task for as long as the authenticator is used; it ends when cancelled."""

_OWNER = re.compile(r"(key|jwt):.+")
_SOURCES = "JWT_SECRET, JWT_PUBLIC_KEY_FILE or JWT_JWKS_URL"


@dataclass(frozen=True)
class _Jwt:
    """The settings of tokens, under their own names."""

    jwt_issuer: str
    jwt_audience: str
    jwt_secret: str = field(repr=False)
    jwt_public_key_file: Path | None
    jwt_jwks_url: str

    @property
    def given(self) -> int:
        """How many ways to verify a token there are; one at most makes sense."""
        return sum(map(bool, (self.jwt_secret, self.jwt_public_key_file, self.jwt_jwks_url)))


@asynccontextmanager
async def open_authenticator(
    *,
    api_keys: Sequence[str],
    api_keys_file: Path | None,
    jwt_issuer: str,
    jwt_audience: str,
    jwt_secret: str,
    jwt_public_key_file: Path | None,
    jwt_jwks_url: str,
    allow_anonymous: bool,
    default_owner: str,
    tickets: Tickets,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[tuple[Authenticator, list[Chore]]]:
    """Open what the settings of these names say; what is empty or None is not configured.

    The chores are to be run by whoever opens it. `clock` tells seconds since 1970. Raises
    `ValueError` for what cannot be used: the name of the setting, a colon, and what it should be,
    never what it is. An issuer that cannot be reached is no error.
    """
    jwt = _Jwt(jwt_issuer, jwt_audience, jwt_secret, jwt_public_key_file, jwt_jwks_url)
    check_combination(
        jwt_issuer=jwt_issuer,
        jwt_audience=jwt_audience,
        jwt_secret=jwt_secret,
        jwt_public_key_file=jwt_public_key_file,
        jwt_jwks_url=jwt_jwks_url,
        default_owner=default_owner,
    )
    chores: list[Chore] = []
    keys = _key_ring(api_keys, api_keys_file)
    if keys is not None and api_keys_file is not None:
        chores.append(lambda: _watch(keys))
    async with AsyncExitStack() as stack:
        verifier = await _verifier(jwt, stack=stack, chores=chores, clock=clock)
        authenticator = Authenticator(
            tickets=tickets,
            keys=keys,
            verifier=verifier,
            allow_anonymous=allow_anonymous,
            default_owner=default_owner,
            clock=clock,
        )
        yield authenticator, chores


def check_combination(
    *,
    jwt_issuer: str,
    jwt_audience: str,
    jwt_secret: str,
    jwt_public_key_file: Path | None,
    jwt_jwks_url: str,
    default_owner: str,
) -> None:
    """Raise the `ValueError` that opening would, as far as can be told without reading a file."""
    jwt = _Jwt(jwt_issuer, jwt_audience, jwt_secret, jwt_public_key_file, jwt_jwks_url)
    given = [name for name in ("jwt_issuer", "jwt_audience") if getattr(jwt, name)]
    if jwt.given > 1:
        raise ValueError(f"{_first_of(jwt)}: only one of {_SOURCES} should be given")
    if given and not jwt.given:
        raise ValueError(f"{given[0]}: needs one of {_SOURCES} beside it")
    for name in ("jwt_issuer", "jwt_audience"):
        if jwt.given and name not in given:
            raise ValueError(f"{name}: is needed beside {_first_of(jwt).upper()}")
    if jwt_jwks_url and not _is_url(jwt_jwks_url):
        raise ValueError("jwt_jwks_url: should be a URL such as https://id.example.org/jwks.json")
    if default_owner not in ("", ANONYMOUS) and not _OWNER.fullmatch(default_owner):
        raise ValueError(f"default_owner: should be key:NAME, jwt:SUBJECT or {ANONYMOUS}")


def _first_of(jwt: _Jwt) -> str:
    names = ("jwt_secret", "jwt_public_key_file", "jwt_jwks_url")
    return next(name for name in names if getattr(jwt, name))


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        httpx.URL(text)
    except (ValueError, httpx.InvalidURL):
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _key_ring(lines: Sequence[str], file: Path | None) -> KeyRing | None:
    with _about("api_keys"):
        fixed = parse_keys(lines)
    with _about("api_keys_file"):
        # A lock that no key opens is a lock: whoever took the last key out wants nobody in.
        return KeyRing(fixed, file) if lines or file is not None else None


async def _watch(keys: KeyRing) -> Never:
    while True:
        await anyio.sleep(KEYS_EVERY_S)
        # The file may lie on a network, which may hang.
        await anyio.to_thread.run_sync(keys.refresh, abandon_on_cancel=True)


async def _verifier(
    jwt: _Jwt, *, stack: AsyncExitStack, chores: list[Chore], clock: Callable[[], float]
) -> Verifier | None:
    if not jwt.given:
        return None
    # Only here: PyJWT and cryptography are large, and most gateways need neither.
    from gateway.auth import tokens
    from gateway.auth.jwks import Jwks

    keys: tokens.Keys
    if jwt.jwt_jwks_url:
        keys = jwks = Jwks(
            jwt.jwt_jwks_url, client=await stack.enter_async_context(direct_client())
        )
        chores.append(jwks.run)
    elif jwt.jwt_public_key_file is not None:
        with _about("jwt_public_key_file"):
            keys = tokens.public_key(_read(jwt.jwt_public_key_file))
    else:
        with _about("jwt_secret"):
            # Bytes that are no UTF-8 arrive from the environment as lone surrogates.
            keys = tokens.shared_secret(jwt.jwt_secret.encode(errors="surrogateescape"))
    return tokens.Verifier(keys, issuer=jwt.jwt_issuer, audience=jwt.jwt_audience, clock=clock)


def direct_client() -> httpx.AsyncClient:
    """Make the client by which an issuer's keys are fetched, to be opened and closed."""
    # Without a pool: that of httpx loses a slot now and then when a request runs out of time.
    return httpx.AsyncClient(transport=DirectTransport(), trust_env=False, follow_redirects=False)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None


@contextmanager
def _about(setting: str) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{setting}: {error}") from None
