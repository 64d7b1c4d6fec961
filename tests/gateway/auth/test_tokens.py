"""Tokens: what they have to prove, and every way not to."""

import logging
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from gateway.auth.authenticator import Proof
from gateway.auth.jwks import KeysUnavailable, UnknownKey
from gateway.auth.tokens import LEEWAY_S, FixedKey, Keys, Verifier, public_key, shared_secret
from protocol.errors import ErrorCode, Refusal
from tests.gateway.auth.signing import (
    AUDIENCE,
    CLAIMS,
    ISSUER,
    NOW,
    SECRET,
    Clock,
    Signer,
    claims_with,
    ec_signer,
    forged,
    hs256,
    private_pem,
    rsa_signer,
)

RSA, EC = rsa_signer(), ec_signer()
HS = shared_secret(SECRET.encode())
VALID, EXPIRED = "The token is not valid.", "The token has expired."


def verifier(keys: Keys = HS, clock: Clock | None = None) -> Verifier:
    return Verifier(keys, issuer=ISSUER, audience=AUDIENCE, clock=clock or Clock())


async def refused(token: str, keys: Keys = HS, says: str = VALID) -> None:
    with pytest.raises(Refusal) as refusal:
        await verifier(keys).verify(token)
    assert (refusal.value.code, refusal.value.message) == (ErrorCode.UNAUTHORIZED, says)
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__


# What is accepted


async def test_a_token_signed_with_the_shared_secret_proves_who_bears_it() -> None:
    proof = await verifier().verify(hs256())
    assert proof == Proof("alice", key="HS256", expires_at=NOW + 60 + LEEWAY_S)


@pytest.mark.parametrize("signer", [RSA, EC], ids=["RS256", "ES256"])
async def test_a_token_signed_with_the_key_whose_public_half_is_known_does_too(
    signer: Signer,
) -> None:
    proof = await verifier(public_key(signer.pem)).verify(signer.token())
    assert (proof.subject, proof.key) == ("alice", signer.algorithm)


async def test_one_key_is_for_all_tokens_whatever_key_they_name() -> None:
    token = RSA.token({"kid": "some"})
    assert (await verifier(public_key(RSA.pem)).verify(token)).key == "RS256"


async def test_a_token_may_be_meant_for_others_too() -> None:
    assert await verifier().verify(hs256(aud=["mail", AUDIENCE]))


async def test_a_subject_may_be_written_in_any_script() -> None:
    assert (await verifier().verify(hs256(sub="앨리스 😀" + "x" * 250))).subject[:3] == "앨리스"


async def test_other_claims_say_nothing() -> None:
    assert await verifier().verify(hs256(jti=7, scope="admin", nonce=[1]))


# The algorithm


async def test_the_public_key_is_no_shared_secret() -> None:
    """The classic confusion: HMAC by what everybody knows."""
    for header in ({"alg": "HS256", "typ": "JWT"}, {"alg": "HS256"}):
        await refused(forged(header, CLAIMS, RSA.pem), public_key(RSA.pem))
        await refused(forged(header, CLAIMS, RSA.pem.strip()), public_key(RSA.pem))


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", None, [], {}, 0, ["HS256"]])
@pytest.mark.parametrize("keys", [HS, public_key(RSA.pem)], ids=["HS256", "RS256"])
async def test_a_token_that_nobody_signed_proves_nothing(keys: FixedKey, algorithm: object) -> None:
    await refused(forged({"alg": algorithm}, CLAIMS), keys)
    await refused(forged({"alg": algorithm}, CLAIMS, SECRET.encode()), keys)
    await refused(forged({}, CLAIMS, SECRET.encode()), keys)


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
async def test_the_secret_is_for_one_algorithm(algorithm: str) -> None:
    await refused(jwt.encode(claims_with(), SECRET * 2, algorithm), shared_secret(b"x" * 64))
    secret = (SECRET * 2).encode()
    await refused(jwt.encode(claims_with(), secret, algorithm), shared_secret(secret))


@pytest.mark.parametrize("algorithm", ["RS384", "RS512", "PS256"])
async def test_a_public_key_is_for_one_algorithm(algorithm: str) -> None:
    await refused(jwt.encode(claims_with(), RSA.private, algorithm), public_key(RSA.pem))


async def test_a_key_that_the_token_brings_along_is_not_used() -> None:
    stranger = Signer(None, ec.generate_private_key(ec.SECP256R1()))
    for header in (
        {"jwk": stranger.jwk},
        {"jku": "http://127.0.0.1:1/jwks.json"},
        {"x5u": "http://127.0.0.1:1/x5u"},
        {"x5c": ["MIIB"]},
        {"jwk": stranger.jwk, "kid": "some"},
    ):
        await refused(stranger.token(header), public_key(EC.pem))


async def test_what_is_critical_in_a_header_and_not_understood_is_not_passed_over() -> None:
    await refused(forged({"alg": "HS256", "crit": ["exp"], "exp": 1}, CLAIMS, SECRET.encode()))
    await refused(forged({"alg": "HS256", "crit": ["b64"], "b64": False}, CLAIMS, SECRET.encode()))


# The signature


async def test_a_token_that_was_signed_by_another_proves_nothing() -> None:
    await refused(hs256("another secret of more than thirty-two bytes"))
    other = Signer(None, ec.generate_private_key(ec.SECP256R1()))
    await refused(other.token(), public_key(EC.pem))
    await refused(RSA.token(), public_key(EC.pem))
    await refused(EC.token(), public_key(RSA.pem))


async def test_claims_that_were_changed_prove_nothing() -> None:
    head, _, signature = hs256().split(".")
    _, claims, _ = hs256(sub="mallory").split(".")
    await refused(f"{head}.{claims}.{signature}")
    await refused(f"{head}.{claims}.")
    await refused(f"{head}.{claims}")


# Claims


@pytest.mark.parametrize("claim", ["iss", "aud", "sub", "exp"])
async def test_a_token_without_what_it_has_to_say_proves_nothing(claim: str) -> None:
    await refused(hs256(**{claim: None}))
    claims = {**CLAIMS, claim: None}
    await refused(forged({"alg": "HS256"}, claims, SECRET.encode()))


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": ISSUER.rstrip("/")},
        {"iss": "https://evil.example.org/"},
        {"iss": [ISSUER]},
        {"iss": ""},
        {"aud": "mail"},
        {"aud": []},
        {"aud": ["mail"]},
        {"aud": "chat2"},
        {"aud": {AUDIENCE: 1}},
        {"aud": [AUDIENCE, 7]},
        {"sub": ""},
        {"sub": "x" * 257},
        {"sub": 7},
        {"sub": ["alice"]},
        {"sub": "a\0"},
        {"sub": "a\nb"},
        {"sub": "a\x7f"},
        {"sub": "a\x85"},
        {"sub": "a\u2028"},
        {"sub": "\ud800"},
        {"exp": "1900000060"},
        {"exp": True},
        {"exp": [1]},
        {"exp": -1},
        {"exp": 10**400},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"nbf": "soon"},
        {"iat": "now"},
        {"iat": float("nan")},
    ],
    ids=lambda claims: repr(claims)[:40],
)
async def test_a_token_that_says_something_else_proves_nothing(claims: dict[str, Any]) -> None:
    await refused(forged({"alg": "HS256"}, {**CLAIMS, **claims}, SECRET.encode()))


async def test_a_token_expires() -> None:
    token, clock = hs256(exp=int(NOW)), Clock()
    for early_s in (-60.0, 0.0, LEEWAY_S - 0.1):
        clock.now = NOW + early_s
        assert await verifier(clock=clock).verify(token)
    for late_s in (LEEWAY_S, LEEWAY_S + 60):
        clock.now = NOW + late_s
        with pytest.raises(Refusal, match=EXPIRED):
            await verifier(clock=clock).verify(token)


@pytest.mark.parametrize("claim", ["nbf", "iat"])
async def test_a_token_that_is_for_later_is_not_taken_yet(claim: str) -> None:
    assert await verifier().verify(hs256(**{claim: NOW - 3_600}))
    assert await verifier().verify(hs256(**{claim: NOW + LEEWAY_S}))
    await refused(hs256(**{claim: NOW + LEEWAY_S + 0.5}))


# Whatever comes


@pytest.mark.parametrize(
    "token",
    [
        *("", ".", "..", "...", "a.b.c", "ey.ey.ey", "e30.e30.e30", "W10.W10.", "bnVsbA.e30."),
        "eyJhbGciOiJIUzI1NiJ9.e30.x",
        "WwWw" * 1_000 + ".e30.",
    ],
)
async def test_what_is_no_token_proves_nothing(token: str) -> None:
    await refused(token)


@given(st.text(st.characters(codec="utf-8"), max_size=60), st.integers(0, 300))
async def test_a_token_that_is_cut_up_proves_nothing_and_breaks_nothing(text: str, at: int) -> None:
    token = hs256()
    mangled = token[:at] + text + token[at + 1 :]
    # Some issuers pad what should not be padded (RFC 7515, section 2); it proves the same.
    if mangled.rstrip("=") != token:
        await refused(mangled)


@pytest.mark.parametrize(
    "header",
    [{"kid": 7}, {"kid": ["a"]}, {"kid": None}, {"typ": 7}, {"b64": False}],
)
async def test_headers_of_any_kind_break_nothing(header: dict[str, Any]) -> None:
    token = forged({"alg": "HS256", **header}, CLAIMS, SECRET.encode())
    try:
        await verifier().verify(token)
    except Refusal as refusal:
        assert refusal.message == VALID  # noqa: PT017 -- either will do


async def test_nothing_of_a_token_is_logged_or_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = hs256(sub="s3cr3t\0", aud="wh0")
    with pytest.raises(Refusal) as refusal:
        await verifier().verify(token)
    said = f"{caplog.text} {refusal.value!r}"
    for secret in (token, *token.split("."), "s3cr3t", "wh0"):
        assert secret not in said


# Keys that cannot be had


class NoKeys:
    """An issuer that fails as it is told to."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def key(self, kid: str | None) -> Any:
        raise self.error

    def has(self, name: str) -> bool:
        return False


async def test_a_key_that_nobody_knows_proves_nothing() -> None:
    await refused(hs256(), NoKeys(UnknownKey()))


async def test_an_issuer_that_cannot_be_asked_is_not_the_clients_fault() -> None:
    with pytest.raises(Refusal) as refusal:
        await verifier(NoKeys(KeysUnavailable())).verify(hs256())
    assert refusal.value.code == ErrorCode.UPSTREAM_UNAVAILABLE
    assert refusal.value.message == "The issuer of tokens cannot be reached right now."


# Keys that are configured


def test_the_one_key_stands_for_ever() -> None:
    assert verifier().stands("HS256")
    assert not verifier().stands("RS256")


@pytest.mark.parametrize("secret", [b"", b"x" * 31])
def test_a_secret_that_is_too_short_is_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match=r"^should be at least 32 bytes$"):
        shared_secret(secret)


def test_a_key_that_others_may_know_is_no_secret() -> None:
    for known in (RSA.pem, private_pem(RSA.private), EC.pem):
        with pytest.raises(ValueError, match=r"^should be a secret, and is a key") as error:
            shared_secret(known)
        assert error.value.__cause__ is None


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"secret",
        private_pem(RSA.private),
        b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
        rsa_signer(None, 1_024).pem,
        Signer(None, ec.generate_private_key(ec.SECP384R1())).pem,
        ed25519.Ed25519PrivateKey.generate()
        .public_key()
        .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    ],
    ids=["nothing", "text", "private", "broken", "weak RSA", "P-384", "Ed25519"],
)
def test_a_public_key_that_cannot_be_used_is_refused(pem: bytes) -> None:
    with pytest.raises(ValueError, match=r"^should be "):
        public_key(pem)
