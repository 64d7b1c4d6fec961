"""An authenticator, as settings make it."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import jwt
import pytest

from gateway.auth import opening
from gateway.auth.api_keys import new_key
from gateway.auth.authenticator import Authenticator
from gateway.auth.credentials import Bearer
from gateway.auth.opening import check_combination, open_authenticator
from gateway.auth.tickets import MemoryTickets
from protocol.errors import ErrorCode, Refusal
from tests.gateway.auth.publishing import publishing
from tests.gateway.auth.signing import (
    AUDIENCE,
    ISSUER,
    NOW,
    SECRET,
    Clock,
    ec_signer,
    hs256,
    rsa_signer,
)
from tests.gateway.nodes.queueing import until

ROOT = Path(__file__).parents[3]
ALICE, ALICES = new_key("alice")
BOB, BOBS = new_key("bob")
JWT = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}
NOTHING: dict[str, Any] = {
    "api_keys": (),
    "api_keys_file": None,
    "jwt_issuer": "",
    "jwt_audience": "",
    "jwt_secret": "",
    "jwt_public_key_file": None,
    "jwt_jwks_url": "",
    "allow_anonymous": False,
    "default_owner": "",
}


@asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[Authenticator]:
    """Open it and run its chores."""
    settings = NOTHING | {"tickets": MemoryTickets(), "clock": Clock()} | settings
    with anyio.fail_after(30):
        async with open_authenticator(**settings) as (auth, chores):
            running = [asyncio.create_task(chore()) for chore in chores]
            try:
                yield auth
            finally:
                for chore in running:
                    chore.cancel()
                ended = await asyncio.gather(*running, return_exceptions=True)
                assert all(isinstance(one, asyncio.CancelledError) for one in ended)


async def name(auth: Authenticator, token: str) -> str:
    return (await auth.identify(Bearer(token))).name


async def test_without_settings_nothing_is_configured() -> None:
    async with opened() as auth:
        assert not auth.configured


async def test_keys_come_from_the_settings(tmp_path: Path) -> None:
    async with opened(api_keys=[ALICES.line]) as auth:
        assert await name(auth, ALICE) == "key:alice"


async def test_a_key_is_taken_back_while_the_gateway_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "KEYS_EVERY_S", 0.005)
    file = tmp_path / "keys"
    file.write_text(BOBS.line)
    async with opened(api_keys=[ALICES.line], api_keys_file=file) as auth:
        alice, bob = [await auth.identify(Bearer(key)) for key in (ALICE, BOB)]
        file.write_text("")
        await until(lambda: auth.lapse(bob) == "revoked")
        assert auth.lapse(alice) is None


async def test_tokens_are_verified_with_a_secret() -> None:
    async with opened(**JWT, jwt_secret=SECRET) as auth:
        assert await name(auth, hs256()) == "jwt:alice"


async def test_a_secret_may_be_any_bytes() -> None:
    secret = b"\xff" * 32
    async with opened(**JWT, jwt_secret=secret.decode(errors="surrogateescape")) as auth:
        token = jwt.encode(JWT_CLAIMS, secret, "HS256")
        assert await name(auth, token) == "jwt:alice"


JWT_CLAIMS = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "exp": NOW + 60}


@pytest.mark.parametrize("signer", [rsa_signer(), ec_signer()], ids=["RS256", "ES256"])
async def test_tokens_are_verified_with_a_public_key(signer: Any, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(signer.pem)
    async with opened(**JWT, jwt_public_key_file=file) as auth:
        assert await name(auth, signer.token()) == "jwt:alice"


async def test_tokens_are_verified_with_the_keys_that_the_issuer_publishes() -> None:
    old, new = rsa_signer("old"), ec_signer("new")
    async with publishing(old) as publisher, opened(**JWT, jwt_jwks_url=publisher.url) as auth:
        alice = await auth.identify(Bearer(old.token()))
        assert (alice.name, alice.credential) == ("jwt:alice", "jwt:old")
        publisher.publish(new)
        assert await name(auth, new.token()) == "jwt:alice"
        assert auth.lapse(alice) == "revoked"
        with pytest.raises(Refusal) as refusal:
            await auth.identify(Bearer(old.token()))
        assert refusal.value.code == ErrorCode.UNAUTHORIZED


async def test_a_published_key_without_an_id_is_for_tokens_without_one() -> None:
    nameless = ec_signer()
    async with publishing(nameless) as publisher, opened(**JWT, jwt_jwks_url=publisher.url) as auth:
        alice = await auth.identify(Bearer(nameless.token()))
        assert (alice.credential, auth.lapse(alice)) == ("jwt:ES256", None)


async def test_a_token_cannot_borrow_the_id_of_anothers_key() -> None:
    ours, theirs = rsa_signer("ours"), rsa_signer("theirs")
    async with publishing(ours) as publisher, opened(**JWT, jwt_jwks_url=publisher.url) as auth:
        with pytest.raises(Refusal):
            await auth.identify(Bearer(theirs.token({"kid": "ours", "jwk": theirs.jwk})))


async def test_an_issuer_that_is_away_keeps_nobody_from_opening(free_port: int) -> None:
    url = f"http://127.0.0.1:{free_port}/jwks.json"
    async with opened(**JWT, jwt_jwks_url=url, api_keys=[ALICES.line]) as auth:
        with pytest.raises(Refusal) as refusal:
            await auth.identify(Bearer(rsa_signer("old").token()))
        assert refusal.value.code == ErrorCode.UPSTREAM_UNAVAILABLE
        assert await name(auth, ALICE) == "key:alice"


URL = "https://id.example.org/jwks.json"

BAD: list[tuple[str, dict[str, Any]]] = [
    ("api_keys", {"api_keys": ["s3cr3t"]}),
    ("api_keys", {"api_keys": [ALICES.line, ALICES.line]}),
    ("api_keys_file", {"api_keys_file": Path("/nowhere/s3cr3t")}),
    ("jwt_issuer", {"jwt_secret": SECRET}),
    ("jwt_issuer", {"jwt_secret": SECRET, "jwt_audience": AUDIENCE}),
    ("jwt_audience", {"jwt_jwks_url": URL, "jwt_issuer": ISSUER}),
    ("jwt_issuer", JWT),
    ("jwt_audience", {"jwt_audience": AUDIENCE}),
    ("jwt_secret", {**JWT, "jwt_secret": "s3cr3t"}),
    ("jwt_secret", {**JWT, "jwt_secret": SECRET, "jwt_jwks_url": URL}),
    ("jwt_secret", {**JWT, "jwt_secret": SECRET, "jwt_public_key_file": Path("key.pem")}),
    ("jwt_public_key_file", {**JWT, "jwt_public_key_file": Path("a"), "jwt_jwks_url": URL}),
    ("jwt_public_key_file", {**JWT, "jwt_public_key_file": Path("/nowhere/key.pem")}),
    ("jwt_public_key_file", {**JWT, "jwt_public_key_file": Path(__file__)}),
    ("jwt_jwks_url", {**JWT, "jwt_jwks_url": "s3cr3t"}),
    ("jwt_jwks_url", {**JWT, "jwt_jwks_url": "file:///s3cr3t"}),
    ("jwt_jwks_url", {**JWT, "jwt_jwks_url": "https://"}),
    ("jwt_jwks_url", {**JWT, "jwt_jwks_url": "https://[s3cr3t"}),
    ("jwt_jwks_url", {**JWT, "jwt_jwks_url": "https://a:s3cr3t/"}),
    ("default_owner", {"default_owner": "s3cr3t"}),
]


@pytest.mark.parametrize(("setting", "settings"), BAD)
async def test_settings_that_do_not_go_together_are_refused_by_name(
    setting: str, settings: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=rf"^{setting}: [a-z]") as error:
        async with opened(**settings):
            pass
    said = str(error.value)
    assert "s3cr3t" not in said
    assert SECRET not in said
    assert len(said.splitlines()) == 1
    assert error.value.__cause__ is None


def test_what_can_be_told_without_a_file_is_told_without_opening() -> None:
    settings = {key: NOTHING[key] for key in NOTHING if key.startswith(("jwt", "default"))}
    check_combination(**settings)
    check_combination(**settings | JWT | {"jwt_jwks_url": URL, "default_owner": "key:alice"})
    with pytest.raises(ValueError, match=r"^jwt_audience: "):
        check_combination(**settings | {"jwt_secret": SECRET, "jwt_issuer": ISSUER})


def test_who_has_no_tokens_needs_nothing_that_verifies_them() -> None:
    loaded = "import sys, gateway.auth.opening; print(*sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not {"jwt", "cryptography", "gateway.auth.tokens"} & set(ended.stdout.split())
