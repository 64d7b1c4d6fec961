"""Who may use the gateway: whether key files can be read, and an issuer's keys be fetched."""

import asyncio

import httpx

from gateway.auth.api_keys import KeyRing, parse_keys
from gateway.auth.opening import direct_client
from gateway.checks.finding import Finding, ok, wrong
from gateway.secrets import without_secrets
from gateway.settings import Settings

ABOUT = "API keys"
TOKENS = "tokens"
FETCH_S = 4.0


async def check_access(settings: Settings) -> list[Finding]:
    """Read the files, and fetch the issuer's keys."""
    findings = [*_api_keys(settings), *_own_keys(settings)]
    if settings.jwt_jwks_url:
        findings.append(await _published(settings.jwt_jwks_url))
    if not settings.authenticates or settings.allow_anonymous:
        who = "on this machine alone" if settings.is_private else "from anywhere: ALLOW_ANONYMOUS"
        findings.append(ok("access", f"everybody, {who}"))
    return findings


def _api_keys(settings: Settings) -> list[Finding]:
    if not settings.api_keys and settings.api_keys_file is None:
        return []
    fixed = parse_keys(settings.api_keys)
    try:
        KeyRing(fixed, settings.api_keys_file)
    except ValueError as error:
        do = "correct the file, or API_KEYS_FILE; `midm-gateway key create` writes such lines"
        return [wrong(ABOUT, f"{settings.api_keys_file}: {error}", do)]
    return [ok(ABOUT, "can be read")]


def _own_keys(settings: Settings) -> list[Finding]:
    if not settings.jwt_secret and settings.jwt_public_key_file is None:
        return []
    # Only here: PyJWT and cryptography are large, and most gateways need neither.
    from gateway.auth import tokens

    try:
        if settings.jwt_public_key_file is not None:
            tokens.public_key(settings.jwt_public_key_file.read_bytes())
        else:
            tokens.shared_secret(settings.jwt_secret.encode(errors="surrogateescape"))
    except OSError as error:
        says = f"{settings.jwt_public_key_file} cannot be read: {error.strerror}"
        return [wrong(TOKENS, says, "correct JWT_PUBLIC_KEY_FILE, or let this user read it")]
    except ValueError as error:
        name = "JWT_PUBLIC_KEY_FILE" if settings.jwt_public_key_file is not None else "JWT_SECRET"
        return [wrong(TOKENS, f"{name} {error}", f"correct {name}")]
    return [ok(TOKENS, f"of {settings.jwt_issuer} can be verified")]


async def _published(url: str) -> Finding:
    # Only here, as above.
    from gateway.auth.jwks import fetch_keys

    where = without_secrets(url)
    do = "correct JWT_JWKS_URL; until it works no token opens the gateway"
    try:
        async with asyncio.timeout(FETCH_S), direct_client() as client:
            keys = await fetch_keys(client, url)
    except TimeoutError:
        return wrong(TOKENS, f"{where} does not answer within {FETCH_S:.0f} s", do)
    except (httpx.HTTPError, ValueError) as error:
        return wrong(TOKENS, f"{where}: {error or type(error).__name__}", do)
    if not keys:
        return wrong(TOKENS, f"{where} has no key for RS256 or ES256", do)
    return ok(TOKENS, f"{where} publishes {len(keys)} keys that can be used")
