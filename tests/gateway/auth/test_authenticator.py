"""Who somebody is, and until when."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from gateway.auth.api_keys import ApiKey, KeyRing, new_key
from gateway.auth.authenticator import Authenticator, Proof
from gateway.auth.credentials import Bearer, Ticket
from gateway.auth.principal import Principal
from gateway.auth.tickets import MAX_TICKETS, MemoryTickets
from protocol.errors import ErrorCode, Refusal
from tests.gateway.auth.signing import NOW, Clock

ALICE, ALICES = new_key("alice")
BOB, BOBS = new_key("bob")
NOBODY = Principal("anonymous", None, "", None)
TOKEN = "ey.token"


@dataclass
class OneToken:
    """Verifies one token, by a key that may be taken back."""

    proof: Proof = field(default_factory=lambda: Proof("alice", key="k1", expires_at=NOW + 60))
    known: set[str] = field(default_factory=lambda: {"k1"})

    async def verify(self, token: str) -> Proof:
        if token != TOKEN:
            raise Refusal(ErrorCode.UNAUTHORIZED, "The token is not valid.")
        return self.proof

    def stands(self, key: str) -> bool:
        return key in self.known


def authenticator(
    *keys: ApiKey,
    tokens: OneToken | None = None,
    ring: KeyRing | None = None,
    clock: Clock | None = None,
    allow_anonymous: bool = False,
    default_owner: str = "",
) -> Authenticator:
    return Authenticator(
        tickets=MemoryTickets(),
        keys=ring or (KeyRing({key.id: key for key in keys}) if keys else None),
        verifier=tokens,
        allow_anonymous=allow_anonymous,
        default_owner=default_owner,
        clock=clock or Clock(),
    )


async def refused(auth: Authenticator, found: Bearer | Ticket | None) -> str:
    with pytest.raises(Refusal) as refusal:
        await auth.identify(found)
    assert refusal.value.code == ErrorCode.UNAUTHORIZED
    return refusal.value.message


# What is required


@pytest.mark.parametrize("allow_anonymous", [True, False])
async def test_where_nothing_is_configured_everybody_is_anonymous(allow_anonymous: bool) -> None:
    auth = authenticator(allow_anonymous=allow_anonymous, default_owner="key:alice")
    assert (auth.configured, auth.required) == (False, False)
    for found in (None, Bearer(ALICE), Bearer("nonsense"), Ticket("nonsense")):
        assert await auth.identify(found) == NOBODY


async def test_with_one_scheme_credentials_are_needed() -> None:
    for auth in (authenticator(ALICES), authenticator(tokens=OneToken())):
        assert (auth.configured, auth.required) == (True, True)
        assert await refused(auth, None) == "Valid credentials are needed."


async def test_who_may_be_anonymous_is_if_nothing_is_offered() -> None:
    auth = authenticator(ALICES, allow_anonymous=True)
    assert (auth.configured, auth.required) == (True, False)
    assert await auth.identify(None) == NOBODY


async def test_a_file_of_keys_that_is_empty_is_a_scheme_too(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.touch()
    assert authenticator(ring=KeyRing({}, file)).required


@pytest.mark.parametrize("allow_anonymous", [True, False])
async def test_bad_credentials_are_refused_even_where_none_are_needed(
    allow_anonymous: bool,
) -> None:
    auth = authenticator(ALICES, tokens=OneToken(), allow_anonymous=allow_anonymous)
    assert await refused(auth, Bearer(BOB)) == "The API key is not valid."
    assert await refused(auth, Bearer("midm_")) == "The API key is not valid."
    assert await refused(auth, Bearer("ey.other")) == "The token is not valid."
    assert "ticket" in await refused(auth, Ticket("x"))


async def test_a_credential_of_the_other_scheme_is_refused() -> None:
    await refused(authenticator(ALICES), Bearer(TOKEN))
    await refused(authenticator(tokens=OneToken()), Bearer(ALICE))


# Who it is


async def test_a_key_says_who_it_is() -> None:
    auth = authenticator(ALICES, BOBS)
    expected = Principal("key:alice", "key:alice", f"key:{ALICES.id}", None)
    assert await auth.identify(Bearer(ALICE)) == expected
    assert (await auth.identify(Bearer(BOB))).name == "key:bob"


async def test_a_token_says_who_it_is_and_until_when() -> None:
    auth = authenticator(tokens=OneToken())
    expected = Principal("jwt:alice", "jwt:alice", "jwt:k1", NOW + 60)
    assert await auth.identify(Bearer(TOKEN)) == expected


async def test_the_default_owner_sees_what_belongs_to_nobody_in_particular() -> None:
    auth = authenticator(ALICES, BOBS, tokens=OneToken(), default_owner="key:alice")
    found = [await auth.identify(Bearer(one)) for one in (ALICE, BOB, TOKEN)]
    assert [one.owner for one in found] == [None, "key:bob", "jwt:alice"]
    assert found[0].name == "key:alice"


@pytest.mark.parametrize(
    ("default_owner", "owner"),
    [("", None), ("anonymous", None), ("key:alice", "anonymous"), ("jwt:alice", "anonymous")],
)
async def test_who_is_anonymous_does_not_see_what_is_somebodys(
    default_owner: str, owner: str | None
) -> None:
    auth = authenticator(ALICES, allow_anonymous=True, default_owner=default_owner)
    assert (await auth.identify(None)).owner == owner


# For how long


async def test_a_token_lapses_when_it_expires() -> None:
    clock = Clock()
    auth = authenticator(tokens=OneToken(), clock=clock)
    alice = await auth.identify(Bearer(TOKEN))
    assert auth.lapse(alice) is None
    clock.now = NOW + 59.9
    assert auth.lapse(alice) is None
    clock.now = NOW + 60
    assert auth.lapse(alice) == "expired"


async def test_a_token_lapses_when_the_issuer_takes_its_key_back() -> None:
    tokens = OneToken()
    auth = authenticator(tokens=tokens)
    alice = await auth.identify(Bearer(TOKEN))
    tokens.known.clear()
    assert auth.lapse(alice) == "revoked"


async def test_a_key_lapses_when_it_is_taken_out_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{ALICES.line}\n{BOBS.line}\n")
    ring = KeyRing({}, file)
    auth = authenticator(ring=ring)
    alice, bob = [await auth.identify(Bearer(key)) for key in (ALICE, BOB)]
    assert (auth.lapse(alice), auth.lapse(bob)) == (None, None)
    file.write_text(f"{BOBS.line}\n")
    ring.refresh()
    assert (auth.lapse(alice), auth.lapse(bob)) == ("revoked", None)
    await refused(auth, Bearer(ALICE))


async def test_who_is_anonymous_never_lapses() -> None:
    auth = authenticator(ALICES, allow_anonymous=True)
    assert auth.lapse(await auth.identify(None)) is None
    assert authenticator().lapse(NOBODY) is None


@pytest.mark.parametrize("credential", ["key:abcdefgh", "jwt:k1", "other:x", "key"])
async def test_who_came_by_a_way_that_is_not_there_lapses(credential: str) -> None:
    somebody = Principal("key:alice", None, credential, None)
    assert authenticator().lapse(somebody) == "revoked"


# Tickets


async def test_a_ticket_stands_for_whom_it_was_issued_once() -> None:
    auth = authenticator(ALICES)
    alice = await auth.identify(Bearer(ALICE))
    ticket = await auth.issue(alice)
    assert await auth.identify(Ticket(ticket)) == alice
    await refused(auth, Ticket(ticket))


async def test_a_ticket_is_no_token_and_a_token_no_ticket() -> None:
    auth = authenticator(ALICES, tokens=OneToken())
    ticket = await auth.issue(await auth.identify(Bearer(ALICE)))
    await refused(auth, Bearer(ticket))
    await refused(auth, Ticket(ALICE))


async def test_a_ticket_of_somebody_who_has_lapsed_is_refused() -> None:
    clock, tokens = Clock(), OneToken()
    auth = authenticator(tokens=tokens, clock=clock)
    alice = await auth.identify(Bearer(TOKEN))
    ticket = await auth.issue(alice)
    clock.now = NOW + 60
    assert "ticket" in await refused(auth, Ticket(ticket))

    clock.now = NOW
    ticket = await auth.issue(replace(alice, credential="jwt:k0"))
    await refused(auth, Ticket(ticket))


async def test_who_is_anonymous_gets_a_ticket_that_pushes_nobody_elses_out() -> None:
    auth = authenticator(ALICES, allow_anonymous=True)
    named = await auth.issue(await auth.identify(Bearer(ALICE)))
    nobody = await auth.identify(None)
    for _ in range(MAX_TICKETS):
        ticket = await auth.issue(nobody)
    assert await auth.identify(Ticket(ticket)) == nobody
    assert (await auth.identify(Ticket(named))).name == "key:alice"


async def test_the_ticket_of_an_anonymous_caller_opens_nothing_where_none_is_let_in() -> None:
    lax, strict = authenticator(ALICES, allow_anonymous=True), authenticator(ALICES)
    ticket = await lax.issue(await lax.identify(None))
    await refused(strict, Ticket(ticket))
