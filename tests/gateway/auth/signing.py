"""Issuers of tokens: keys of theirs, and tokens good and bad."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

ISSUER = "https://id.example.org/"
AUDIENCE = "chat"
SECRET = "a secret of more than thirty-two bytes"
NOW = 1_900_000_000.0

CLAIMS: Mapping[str, Any] = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": NOW + 60}


class Clock:
    """Tells the time that a test sets."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Signer:
    """A private key that signs tokens; `kid` may be None."""

    kid: str | None
    private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

    @property
    def algorithm(self) -> str:
        return "RS256" if isinstance(self.private, rsa.RSAPrivateKey) else "ES256"

    @property
    def jwk(self) -> dict[str, Any]:
        public = self.private.public_key()
        if isinstance(public, rsa.RSAPublicKey):
            fields = RSAAlgorithm.to_jwk(public, as_dict=True)
        else:
            fields = ECAlgorithm.to_jwk(public, as_dict=True)
        fields.pop("key_ops", None)
        return fields if self.kid is None else fields | {"kid": self.kid}

    @property
    def pem(self) -> bytes:
        return self.private.public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )

    def token(self, headers: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """Sign the usual claims, changed by those given; those that are None are left out."""
        told = {} if self.kid is None else {"kid": self.kid}
        return jwt.encode(
            claims_with(**claims),
            self.private,
            self.algorithm,
            headers=told | dict(headers or {}),
        )


@cache
def rsa_signer(kid: str | None = None, bits: int = 2_048) -> Signer:
    return Signer(kid, rsa.generate_private_key(65_537, bits))


@cache
def ec_signer(kid: str | None = None) -> Signer:
    return Signer(kid, ec.generate_private_key(ec.SECP256R1()))


def private_pem(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def claims_with(**changed: Any) -> dict[str, Any]:
    return {name: value for name, value in {**CLAIMS, **changed}.items() if value is not None}


def hs256(secret: str = SECRET, /, **claims: Any) -> str:
    return jwt.encode(claims_with(**claims), secret, "HS256")


def forged(header: Mapping[str, Any], claims: Mapping[str, Any], secret: bytes = b"") -> str:
    """Make a token that no library would: with any header, and with HMAC by any bytes, or none."""
    signed = f"{_encoded(header)}.{_encoded(claims)}"
    signature = hmac.digest(secret, signed.encode(), hashlib.sha256) if secret else b""
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def _encoded(fields: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")
