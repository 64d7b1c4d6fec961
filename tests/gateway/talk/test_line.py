"""When a client comes back, how soon, and to where."""

import pytest

from gateway.talk.line import LAST_RETRY_S, may_come_back, pause_s, socket_url


@pytest.mark.parametrize("code", [1001, 1006, 1012, 1013, 4000, 4001, 4008, 4499])
def test_codes_to_come_back_after(code: int) -> None:
    assert may_come_back(code)


@pytest.mark.parametrize("code", [1002, 1003, 1007, 1009, 4500, 4504, 4999, 3999])
def test_codes_to_stay_away_after(code: int) -> None:
    assert not may_come_back(code)


def test_the_pause_grows_to_a_limit_and_differs_from_client_to_client() -> None:
    assert [pause_s(tries, None, 1.0) for tries in range(4)] == [0.5, 1.0, 2.0, 4.0]
    assert pause_s(10_000, None, 1.0) == LAST_RETRY_S
    assert pause_s(0, None, 0.0) == 0.25


def test_who_is_told_when_to_come_back_comes_then_and_later_grows_patient() -> None:
    assert pause_s(0, 1_234, 0.7) == 1.234
    assert pause_s(1, 1_234, 1.0) == 1.0


@pytest.mark.parametrize(
    ("url", "socket"),
    [
        ("http://127.0.0.1:8080", "ws://127.0.0.1:8080/ws"),
        ("https://chat.example.org/", "wss://chat.example.org/ws"),
        ("https://example.org/chat", "wss://example.org/chat/ws"),
        ("ws://[::1]:8080/ws", "ws://[::1]:8080/ws"),
    ],
)
def test_the_address_of_the_socket_is_made_of_any_address_of_a_gateway(
    url: str, socket: str
) -> None:
    assert socket_url(url) == socket


@pytest.mark.parametrize(
    "url",
    [
        *("", "127.0.0.1:8080", "ftp://a", "http://", "http://a:b", "http://u:p@a", "http://a?b"),
        *("http://a..b", f"http://{'a' * 64}"),
    ],
)
def test_what_is_no_address_is_named(url: str) -> None:
    with pytest.raises(ValueError, match="should be a URL such as http"):
        socket_url(url)


@pytest.mark.parametrize("url", ["http://user:hunter2@a", "http//user:hunter2@a", "hunter2@a"])
def test_a_password_in_an_address_is_not_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="hold no user or password") as error:
        socket_url(url)
    assert "hunter2" not in str(error.value)
