"""Which names are answered: the page of another name is not let in by what its name means."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.hosts import Host, Hosts, host_of, is_local, read_host

LOCAL = Hosts((), host="127.0.0.1")
LISTED = Hosts(("chat.example.org", "*.example.com", "192.0.2.7", "2001:db8::7"), host="0.0.0.0")

OURS = [
    *("localhost", "LocalHost", "localhost.", "localhost:8080", "localhost:", "chat.localhost"),
    *("a.b.localhost:3000", "127.0.0.1", "127.0.0.1:8080", "127.0.0.1.", "127.8.9.1"),
    *("[::1]", "[::1]:8080", "[0:0:0:0:0:0:0:1]"),
]
FOREIGN = [
    *("evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example"),
    *("notlocalhost", "chat.example.org.evil.example", "192.0.2.8", "[2001:db8::8]", "[::]"),
    *("0.0.0.0", "128.0.0.1", "evil-example.com", "example.com", "10.0.0.1"),
]
MALFORMED = [
    *("", ":", ":8080", ".", "..", "localhost..", ".localhost", "a..localhost", " localhost"),
    *("localhost ", "localhost\n", "localhost,localhost", "localhost, evil.example", "localhost:a"),
    *(
        "localhost:80:80",
        "localhost:123456",
        "localhost:65536",
        "localhost:-1",
        "localhost/",
        "::1",
    ),
    *("http://localhost", "user@localhost", "localhost#", "localhost?", "localhost\x00", "[::1"),
    *("::1]", "[localhost]", "[127.0.0.1]", "[::1]x", "[::1]:x", "[::1%eth0]", "[v1.x]", "[]"),
    *("ｌocalhost", "local host", "localhost\\", "localhost%2e", "*.localhost", "*"),
    *("localhost:" + "8" * 5_000, "localhost:٨٠"),
]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2", "LOCALHOST"])
def test_a_local_gateway_answers_to_the_names_of_this_machine(host: str) -> None:
    hosts = Hosts((), host=host)
    assert [name for name in OURS if not hosts.allow(name)] == []
    assert [name for name in FOREIGN if hosts.allow(name)] == []


def test_a_local_gateway_answers_to_listed_names_too() -> None:
    hosts = Hosts(("chat.example.org",), host="127.0.0.1")
    assert hosts.allow("chat.example.org")
    assert hosts.allow("localhost:8080")
    assert not hosts.allow("evil.example")


def test_a_public_gateway_answers_to_any_name_unless_some_are_listed() -> None:
    hosts = Hosts((), host="0.0.0.0")
    for name in (*OURS, *FOREIGN, None):
        assert hosts.allow(name)


@pytest.mark.parametrize(
    "name",
    [
        *("chat.example.org", "CHAT.example.ORG:443", "chat.example.org."),
        *("a.example.com", "a.b.Example.com.:80", "192.0.2.7:80"),
        *("[2001:db8::7]", "[2001:DB8:0::0:7]:80"),
    ],
)
def test_a_public_gateway_answers_to_what_is_listed(name: str) -> None:
    assert LISTED.allow(name)


@pytest.mark.parametrize("name", [*FOREIGN, *OURS, "a.chat.example.org"])
def test_a_public_gateway_with_a_list_answers_to_nothing_else(name: str) -> None:
    assert not LISTED.allow(name)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_star_is_all_names(host: str) -> None:
    hosts = Hosts(("chat.example.org", "*"), host=host)
    for name in (*OURS, *FOREIGN, None):
        assert hosts.allow(name)


@pytest.mark.parametrize("name", [*MALFORMED, None])
def test_no_name_at_all_is_answered_where_a_rule_applies(name: str | None) -> None:
    assert not LOCAL.allow(name)
    assert not LISTED.allow(name)


@pytest.mark.parametrize("entry", ["[2001:db8::7]", "2001:0db8::7", "2001:db8:0:0::7"])
def test_an_address_may_be_listed_as_it_is_written_anywhere(entry: str) -> None:
    assert Hosts((entry,), host="0.0.0.0").allow("[2001:db8::7]:8080")


@pytest.mark.parametrize(
    "entry",
    [
        *("", " ", "chat.example.org:8080", "https://chat.example.org", "a b", "*.", "*.*", "a.*"),
        *("**.example.org", "*example.org", "[::1", "예제.한국", "[::1]:80", "chat.example.org/"),
    ],
)
def test_an_entry_that_is_no_name_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match="no host name"):
        Hosts(("localhost", entry), host="0.0.0.0")


@settings(deadline=None)
@given(st.text(st.characters(max_codepoint=255), max_size=30))
def test_whatever_is_sent_is_answered_by_yes_or_no(text: str) -> None:
    for host in (text, f"localhost{text}", f"{text}localhost", f"[{text}]"):
        if LOCAL.allow(host):
            read = read_host(host)
            assert read is not None
            assert is_local(read.name)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("Chat.Example.org.:8080", Host("chat.example.org", 8080)),
        ("localhost", Host("localhost", None)),
        ("localhost:", Host("localhost", None)),
        ("[0::1]:80", Host("::1", 80)),
    ],
)
def test_a_host_is_read_in_one_way_however_it_is_written(text: str, host: Host) -> None:
    assert read_host(text) == host


def test_the_host_of_a_request_is_the_only_one_it_has() -> None:
    other = (b"accept", b"*/*")
    assert host_of([other, (b"host", b"localhost:80"), other]) == "localhost:80"
    assert host_of([other]) is None
    assert host_of([(b"host", b"localhost"), other, (b"host", b"evil.example")]) is None
    assert host_of([(b"host", b"localhost"), (b"host", b"localhost")]) is None
    assert host_of([(b"host", b"\xff")]) == "\xff"
