"""What a request offers: found in one place, in one order, and never shown."""

import pytest

from gateway.auth.credentials import (
    MAX_TOKEN_CHARS,
    Bearer,
    Ticket,
    bearer,
    credentials_of,
)
from protocol.errors import ErrorCode, Refusal


def found(
    authorization: str | None = None, *subprotocols: str, ticket: str | None = None
) -> Bearer | Ticket | None:
    return credentials_of(authorization=authorization, subprotocols=subprotocols, ticket=ticket)


def refused(
    authorization: str | None = None, *subprotocols: str, ticket: str | None = None
) -> Refusal:
    with pytest.raises(Refusal) as refusal:
        found(authorization, *subprotocols, ticket=ticket)
    assert refusal.value.code == ErrorCode.UNAUTHORIZED
    return refusal.value


def test_who_offers_nothing_has_nothing() -> None:
    assert found() is None
    assert found(None, "midm.chat.v1", "bearer") is None


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_the_header_holds_a_token(scheme: str) -> None:
    assert found(f"{scheme} a.b-c_d~e+f/g==") == Bearer("a.b-c_d~e+f/g==")
    assert found(f"{scheme}   a ") == Bearer("a")


def test_a_subprotocol_holds_a_token() -> None:
    assert found(None, "midm.chat.v1", "bearer.ey.x.y") == Bearer("ey.x.y")
    assert found(None, "bearer.bearer.x") == Bearer("bearer.x")


def test_the_query_holds_a_ticket() -> None:
    assert found(ticket="aZ_-9") == Ticket("aZ_-9")


def test_the_header_comes_before_the_subprotocol_and_that_before_the_ticket() -> None:
    assert found("Bearer one", "bearer.two", ticket="three") == Bearer("one")
    assert found(None, "bearer.two", ticket="three") == Bearer("two")


def test_what_comes_first_and_is_malformed_is_not_made_up_for_by_the_others() -> None:
    assert "Authorization" in refused("Basic x", "bearer.two", ticket="three").message
    assert "Protocol" in refused(None, "bearer.", ticket="three").message


@pytest.mark.parametrize(
    "authorization",
    [
        *("", "Bearer", "Bearer ", "Bearer  ", "Basic dXNlcg==", "token", "Bearertoken"),
        *("Bearer a b", "Bearer a,b", "Bearer =a", "Bearer ü", "Bearer a\tb", "Bearer\ta"),
        *("Bearer a\n", "Bearer a\0", " Bearer a", "Bearer a=b", "Bearer ①"),
    ],
)
def test_a_header_that_is_no_bearer_and_token_is_refused(authorization: str) -> None:
    assert refused(authorization).message == "Authorization: should be Bearer and a token"


@pytest.mark.parametrize("token", ["", "a/b", "a==", "a b", "ü", "a\n", 'a"'])
def test_a_subprotocol_with_what_no_subprotocol_may_hold_is_refused(token: str) -> None:
    assert "Sec-WebSocket-Protocol" in refused(None, f"bearer.{token}").message


def test_two_subprotocols_with_tokens_are_refused() -> None:
    refused(None, "bearer.one", "bearer.two")


@pytest.mark.parametrize("ticket", ["", "a.b", "a b", "a=", "ü", "a\n"])
def test_what_cannot_be_a_ticket_is_refused(ticket: str) -> None:
    assert "ticket" in refused(ticket=ticket).message


def test_a_token_is_as_long_as_is_reasonable_and_no_longer() -> None:
    longest = "x" * MAX_TOKEN_CHARS
    assert found(f"Bearer {longest}") == Bearer(longest)
    assert found(None, f"bearer.{longest}") == Bearer(longest)
    assert bearer(longest) == Bearer(longest)
    refused(f"Bearer {longest}x")
    refused(None, f"bearer.{longest}x")
    refused(ticket=f"{longest}x")


@pytest.mark.parametrize("token", ["", "a b", "ü", "x" * (MAX_TOKEN_CHARS + 1)])
def test_the_token_of_a_frame_is_held_to_the_same(token: str) -> None:
    with pytest.raises(Refusal):
        bearer(token)


def test_neither_errors_nor_reprs_hold_what_is_secret() -> None:
    refusals = (
        refused("Bearer s3cr3t!"),
        refused("Basic s3cr3t"),
        refused(None, "bearer.s3cr3t/"),
        refused(ticket="s3cr3t!"),
    )
    for refusal in refusals:
        assert "s3cr3t" not in f"{refusal!r} {refusal} {refusal.message}"
        assert refusal.__cause__ is None
    assert "s3cr3t" not in repr((Bearer("s3cr3t"), Ticket("s3cr3t")))
