"""Tokens: JSON Web Tokens (RFC 7519) that somebody else issued, verified here."""

import logging
import re
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt import PyJWK
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, RSAAlgorithm

from gateway.auth.authenticator import Proof
from gateway.auth.jwks import MIN_RSA_BITS, KeysUnavailable, UnknownKey, name_of
from protocol.errors import ErrorCode, Refusal
from protocol.text import storable

log = logging.getLogger(__name__)

LEEWAY_S = 5.0
"""How far the issuer's clock and ours may be apart."""

MIN_SECRET_BYTES = 32
MAX_SUBJECT_CHARS = 256
MAX_TIME = 2**53

_UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_REQUIRED = ["exp", "sub", "iss", "aud"]


class Invalid(Exception):
    """A token proves nothing; the text says why, for the log at its most talkative."""


class Expired(Exception):
    """A token proved something once."""


class Keys(Protocol):
    """What tokens are verified with; each key has its one algorithm."""

    async def key(self, kid: str | None) -> PyJWK:
        """Find a key by the id in a token's header; raises `UnknownKey` or `KeysUnavailable`."""

    def has(self, name: str) -> bool:
        """Whether a key may still be used."""


class FixedKey:
    """One key for all tokens, whatever key they name."""

    def __init__(self, key: PyJWK) -> None:
        self._key = key

    async def key(self, kid: str | None) -> PyJWK:
        """Return it."""
        return self._key

    def has(self, name: str) -> bool:
        """Whether it is the one."""
        return name == name_of(self._key)


def shared_secret(secret: bytes) -> FixedKey:
    """Make the key of HS256 tokens; raises `ValueError`, which does not show it."""
    if len(secret) < MIN_SECRET_BYTES:
        raise ValueError(f"should be at least {MIN_SECRET_BYTES} bytes")
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
    except jwt.InvalidKeyError:
        raise ValueError("should be a secret, and is a key that others may know") from None
    encoded = urlsafe_b64encode(secret).rstrip(b"=").decode()
    return FixedKey(PyJWK({"kty": "oct", "k": encoded}, "HS256"))


def public_key(pem: bytes) -> FixedKey:
    """Make the key of RS256 or ES256 tokens, whichever it is for; raises `ValueError`."""
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError(
            "should be a public key in PEM, as `openssl pkey -pubout` writes"
        ) from None
    if isinstance(key, RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        return FixedKey(PyJWK(RSAAlgorithm.to_jwk(key, as_dict=True), "RS256"))
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return FixedKey(PyJWK(ECAlgorithm.to_jwk(key, as_dict=True), "ES256"))
    raise ValueError(f"should be of RSA, with at least {MIN_RSA_BITS} bits, or of P-256")


class Verifier:
    """Takes the tokens of one issuer that are meant for one audience.

    The key decides on the algorithm (RFC 8725, section 3.1); of a token's header its `kid` alone
    is believed, and only to choose among keys that are known. `clock` tells seconds since 1970.
    """

    def __init__(
        self, keys: Keys, *, issuer: str, audience: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audience = audience
        self._clock = clock

    async def verify(self, token: str) -> Proof:
        """Verify a token; raises `Refusal`, which holds nothing of it.

        `unauthorized` if it proves nothing, `upstream_unavailable` if nobody can tell right now.
        """
        try:
            key = await self._keys.key(_kid_of(token))
            claims = self._claims(token, key)
            return _proof(claims, name_of(key), now=self._clock())
        except (Invalid, UnknownKey) as why:
            log.debug("a token was refused: %s %s", type(why).__name__, why)
            raise Refusal(ErrorCode.UNAUTHORIZED, "The token is not valid.") from None
        except Expired:
            raise Refusal(ErrorCode.UNAUTHORIZED, "The token has expired.") from None
        except KeysUnavailable:
            says = "The issuer of tokens cannot be reached right now."
            raise Refusal(ErrorCode.UPSTREAM_UNAVAILABLE, says) from None

    def stands(self, key: str) -> bool:
        """Whether the key that once verified a token is still one of the issuer's."""
        return self._keys.has(key)

    def _claims(self, token: str, key: PyJWK) -> dict[str, Any]:
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                issuer=self._issuer,
                audience=self._audience,
                # The times are left to `_proof`: the library looks at a clock of its own.
                options={
                    "require": _REQUIRED,
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "verify_jti": False,
                },
            )
        except Exception as error:  # whatever a stranger's bytes provoke, they prove nothing
            raise Invalid(type(error).__name__) from None
        return claims


def _kid_of(token: str) -> str | None:
    try:
        kid: str | None = jwt.get_unverified_header(token).get("kid")
    except Exception as error:  # as above
        raise Invalid(type(error).__name__) from None
    return kid


def _proof(claims: Mapping[str, Any], key: str, *, now: float) -> Proof:
    """Judge the claims of a token whose signature, issuer and audience are in order."""
    expires_at = _time(claims, "exp") + LEEWAY_S
    starts_at = max(_time(claims, "nbf"), _time(claims, "iat"))
    if now >= expires_at:
        raise Expired
    if starts_at - LEEWAY_S > now:
        raise Invalid("not yet")
    return Proof(_subject(claims), key=key, expires_at=expires_at)


def _time(claims: Mapping[str, Any], name: str) -> float:
    """Read a NumericDate (RFC 7519, section 2); what is not there is long past."""
    value = claims.get(name, 0)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= MAX_TIME:  # nor is it NaN
        raise Invalid(f"{name} is no time")
    return float(value)


def _subject(claims: Mapping[str, Any]) -> str:
    subject = claims["sub"]
    if not isinstance(subject, str) or not 1 <= len(subject) <= MAX_SUBJECT_CHARS:
        raise Invalid("sub is too short or too long")
    if storable(subject) != subject or _UNFIT.search(subject):
        raise Invalid("sub holds what cannot be stored")
    return subject
