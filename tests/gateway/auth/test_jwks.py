"""The keys of an issuer, fetched from a real server that is up, down, slow or wrong."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from jwt import PyJWK
from jwt.algorithms import RSAAlgorithm

from gateway.auth.jwks import (
    MAX_BODY_BYTES,
    Jwks,
    JwksTimes,
    KeysUnavailable,
    UnknownKey,
    read_keys,
)
from llm.transport import DirectTransport
from tests.gateway.auth.publishing import Publisher, publishing
from tests.gateway.auth.signing import Clock, ec_signer, rsa_signer
from tests.gateway.nodes.queueing import until

OLD, NEW = rsa_signer("old"), ec_signer("new")
SOON = JwksTimes(refresh_s=600, retry_s=0.005, unknown_s=30, fetch_s=5)
NEVER_AGAIN = JwksTimes(refresh_s=600, retry_s=600, unknown_s=30, fetch_s=5)


@asynccontextmanager
async def kept(
    url: str, *, times: JwksTimes = NEVER_AGAIN, clock: Clock | None = None
) -> AsyncIterator[Jwks]:
    transport = DirectTransport()
    with anyio.fail_after(30):
        async with (
            httpx.AsyncClient(transport=transport, trust_env=False) as client,
            anyio.create_task_group() as tasks,
        ):
            jwks = Jwks(url, client=client, times=times, clock=clock or Clock())
            tasks.start_soon(jwks.run)
            yield jwks
            tasks.cancel_scope.cancel()


@pytest.fixture
async def publisher() -> AsyncIterator[Publisher]:
    async with publishing(OLD) as publisher:
        yield publisher


async def test_whoever_comes_first_waits_for_the_keys(publisher: Publisher) -> None:
    publisher.answers.clear()
    async with kept(publisher.url) as jwks:
        waits = asyncio.create_task(jwks.key("old"))
        await publisher.came.wait()
        assert not jwks.has("old")
        publisher.answers.set()
        key = await waits
        assert (key.key_id, key.algorithm_name) == ("old", "RS256")
        assert jwks.has("old")
    assert publisher.asked == 1


async def test_a_key_that_is_new_is_fetched_and_one_that_was_rotated_out_is_forgotten(
    publisher: Publisher,
) -> None:
    async with kept(publisher.url) as jwks:
        await jwks.key("old")
        publisher.publish(NEW)
        assert (await jwks.key("new")).algorithm_name == "ES256"
        assert not jwks.has("old")
        with pytest.raises(UnknownKey):
            await jwks.key("old")


async def test_keys_that_nobody_publishes_are_asked_for_once_in_a_while(
    publisher: Publisher,
) -> None:
    clock = Clock()
    async with kept(publisher.url, clock=clock) as jwks:
        await jwks.key("old")
        for asked, after_s in [(2, 0), (2, 29.9), (3, 0.1), (3, 29.9), (4, 0.1)]:
            clock.now += after_s
            for kid in ("x", "y", None):
                with pytest.raises(UnknownKey):
                    await jwks.key(kid)
            assert publisher.asked == asked


async def test_many_that_wait_for_a_key_make_one_fetch_and_none_stops_it(
    publisher: Publisher,
) -> None:
    async with kept(publisher.url) as jwks:
        await jwks.key("old")
        publisher.publish(OLD, NEW)
        publisher.answers.clear()
        publisher.came.clear()
        waiting = [asyncio.create_task(jwks.key("new")) for _ in range(50)]
        await publisher.came.wait()
        waiting += [asyncio.create_task(jwks.key("new")) for _ in range(50)]
        await asyncio.sleep(0)  # lets them come
        for given_up in waiting[::2]:
            given_up.cancel()
        await asyncio.wait(waiting[::2])
        publisher.answers.set()
        found = await asyncio.gather(*waiting[1::2])
        assert {key.key_id for key in found} == {"new"}
        assert all(given_up.cancelled() for given_up in waiting[::2])
    assert publisher.asked == 2


async def test_the_keys_are_fetched_again_by_themselves(publisher: Publisher) -> None:
    times = JwksTimes(refresh_s=0.005, retry_s=600, unknown_s=600, fetch_s=5)
    async with kept(publisher.url, times=times) as jwks:
        await jwks.key("old")
        publisher.publish(NEW)
        await until(lambda: jwks.has("new"))
        assert not jwks.has("old")


BAD: dict[str, dict[str, Any]] = {
    "an error": {"status": "500 Internal Server Error"},
    "nothing there": {"status": "404 Not Found"},
    "a redirect": {"status": "302 Found", "headers": "Location: /elsewhere\r\n"},
    "no JSON": {"body": b"<html>"},
    "no UTF-8": {"body": b'{"keys": ["\xff"]}'},
    "no key set": {"body": b'["keys"]'},
    "no list of keys": {"body": b'{"keys": {}}'},
    "too much": {"body": b'{"keys": []}' + b" " * MAX_BODY_BYTES},
    "too deep": {"body": b'{"keys": ' + b"[" * 100_000},
    "compressed": {"headers": "Content-Encoding: gzip\r\n", "body": b"\x1f\x8b\x08"},
}


@pytest.mark.parametrize("how", BAD)
async def test_a_fetch_that_fails_leaves_the_keys_and_the_next_one_makes_up_for_it(
    publisher: Publisher, how: str
) -> None:
    clock = Clock()
    async with kept(publisher.url, clock=clock) as jwks:
        await jwks.key("old")
        well = vars(publisher).copy()
        vars(publisher).update(BAD[how])
        with pytest.raises(KeysUnavailable):
            await jwks.key("new")
        assert publisher.asked == 2
        assert jwks.has("old")
        assert (await jwks.key("old")).key_id == "old"
        vars(publisher).update({name: well[name] for name in ("status", "headers", "body")})
        publisher.publish(NEW)
        clock.now += 30
        assert (await jwks.key("new")).key_id == "new"


async def test_a_fetch_takes_only_so_long(publisher: Publisher) -> None:
    publisher.answers.clear()
    times = JwksTimes(refresh_s=600, retry_s=600, unknown_s=600, fetch_s=0.05)
    async with kept(publisher.url, times=times) as jwks:
        with pytest.raises(KeysUnavailable):
            await jwks.key("old")
    assert publisher.asked == 1


async def test_an_issuer_that_is_not_there_yet_is_asked_again_until_it_is(
    free_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gateway.auth")
    async with kept(f"http://127.0.0.1:{free_port}/jwks.json", times=SOON) as jwks:
        with pytest.raises(KeysUnavailable):
            await jwks.key("old")
        async with publishing(OLD) as publisher:
            jwks._url = publisher.url
            await until(lambda: jwks.has("old"))
            publisher.status = "500 Internal Server Error"
            jwks._under_way.set()
            await until(lambda: publisher.asked >= 5)
            publisher.status = "200 OK"
            asked = publisher.asked
            await until(lambda: publisher.asked > asked)
            await until(lambda: len(caplog.records) == 4)
    told = [record.getMessage() for record in caplog.records]
    assert ["cannot be fetched" in line for line in told] == [True, False, True, False]
    assert "publishes 1 keys" in told[1]


async def test_who_waits_gives_up_where_nobody_fetches(publisher: Publisher) -> None:
    times = JwksTimes(fetch_s=0.005)
    async with httpx.AsyncClient(transport=DirectTransport(), trust_env=False) as client:
        with pytest.raises(KeysUnavailable):
            await Jwks(publisher.url, client=client, times=times).key("old")
    assert publisher.asked == 0


async def test_no_keys_at_all_are_an_answer_too(publisher: Publisher) -> None:
    """An issuer whose keys were stolen takes all of them back."""
    async with kept(publisher.url) as jwks:
        await jwks.key("old")
        publisher.publish()
        with pytest.raises(UnknownKey):
            await jwks.key("new")
        assert not jwks.has("old")


# What is in a key set


def read(*entries: object) -> dict[str | None, PyJWK]:
    return read_keys(json.dumps({"keys": entries}).encode())


def test_a_key_without_an_id_is_for_tokens_without_one() -> None:
    assert set(read(rsa_signer().jwk, OLD.jwk)) == {None, "old"}


def test_of_several_without_an_id_nobody_can_say_which_is_meant() -> None:
    assert set(read(rsa_signer().jwk, ec_signer().jwk, OLD.jwk)) == {"old"}


@pytest.mark.parametrize(
    "fields",
    [{"use": "sig"}, {"alg": "RS256"}, {"key_ops": ["verify"]}, {"x5c": ["a"], "foo": 1}],
)
def test_what_a_key_says_of_itself_may_fit(fields: dict[str, Any]) -> None:
    assert set(read(OLD.jwk | fields)) == {"old"}


@pytest.mark.parametrize(
    "fields",
    [
        {"use": "enc"},
        {"use": None},
        {"alg": "RS512"},
        {"alg": "HS256"},
        {"alg": "none"},
        {"alg": ["RS256"]},
        {"key_ops": ["encrypt"]},
        {"key_ops": 1},
        {"kty": "oct", "k": "AAAA"},
        {"kty": "OKP", "crv": "Ed25519", "x": "AAAA"},
        {"kty": ["RSA"]},
        {"kid": 7},
        {"kid": ["old"]},
        {"n": 7},
        {"n": ""},
        {"n": "!"},
        {"n": "AA"},
        {"e": None},
        {"e": "AA"},
        {"kty": "EC", "crv": "P-384", "x": "AAAA", "y": "AAAA"},
        {"kty": "EC", "crv": "P-256", "x": "AAAA", "y": "AAAA"},
        {"kty": "EC", "crv": "P-256"},
    ],
)
def test_what_cannot_be_used_is_left_out(fields: dict[str, Any]) -> None:
    assert set(read(OLD.jwk | fields, NEW.jwk)) == {"new"}


def test_a_weak_key_is_left_out() -> None:
    assert set(read(rsa_signer("weak", 1_024).jwk, OLD.jwk)) == {"old"}


@pytest.mark.parametrize("entry", [None, 1, "RSA", [], {}])
def test_what_is_no_key_is_left_out(entry: object) -> None:
    assert set(read(entry, OLD.jwk)) == {"old"}


def test_the_private_half_of_a_key_is_not_kept() -> None:
    assert isinstance(OLD.private, RSAPrivateKey)
    private = RSAAlgorithm.to_jwk(OLD.private, as_dict=True)
    private |= {"kid": "old", "key_ops": ["verify"]}
    assert not hasattr(read(private)["old"].key, "private_numbers")
