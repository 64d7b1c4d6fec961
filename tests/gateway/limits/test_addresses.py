"""Whom a request is counted for, whatever is said on its way."""

from ipaddress import ip_address

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.limits.addresses import MAX_HEADER_CHARS, MAX_HOPS, Proxies, address_of

CLIENT = "198.51.100.7"
PROXIES = Proxies(["127.0.0.1", "10.0.0.0/8", "fd00::/8"])
NONE = Proxies([])


def of(peer: str | None, *lines: str, proxies: Proxies = PROXIES) -> str | None:
    return address_of(peer, lines, proxies=proxies)


# The peer


def test_without_proxies_it_is_the_peer_and_nobody_else_is_believed() -> None:
    assert of(CLIENT, "203.0.113.9", proxies=NONE) == CLIENT
    assert of(CLIENT, "203.0.113.9") == CLIENT


def test_an_ipv6_address_counts_as_the_network_of_its_customer() -> None:
    networks = {of(f"2001:db8:1:2:{n}::{n}", proxies=NONE) for n in range(1, 5)}
    assert networks == {"2001:db8:1:2::/64"}
    assert of("2001:db8:1:3::1", proxies=NONE) == "2001:db8:1:3::/64"
    assert of("fe80::1%eth0", proxies=NONE) == "fe80::/64"


def test_ipv4_mapped_into_ipv6_is_ipv4() -> None:
    assert of(f"::ffff:{CLIENT}", proxies=NONE) == CLIENT
    assert of("::ffff:10.1.2.3", f"::FFFF:{CLIENT}") == CLIENT
    assert of("10.1.2.3", CLIENT, proxies=Proxies(["::ffff:10.0.0.0/104"])) == CLIENT


@pytest.mark.parametrize(
    "peer", [None, "", "127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", "testclient"]
)
def test_this_machine_is_nobody_to_be_limited(peer: str | None) -> None:
    assert of(peer, proxies=NONE) is None


def test_behind_an_unlisted_proxy_of_this_machine_nobody_is_limited() -> None:
    assert of("127.0.0.1", CLIENT, proxies=NONE) is None
    assert of("127.0.0.1", CLIENT) == CLIENT


# What proxies say


def test_it_is_the_first_from_the_right_who_is_no_proxy() -> None:
    assert of("10.0.0.1", f"203.0.113.9, {CLIENT},10.3.3.3 ,\tfd00::7") == CLIENT


def test_several_lines_are_one_list() -> None:
    assert of("10.0.0.1", "203.0.113.9", CLIENT, "10.3.3.3, 10.3.3.4") == CLIENT


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (f"{CLIENT}:5678", CLIENT),
        ("[2001:db8::7]", "2001:db8::/64"),
        ("[2001:db8::7]:443", "2001:db8::/64"),
        (f"[::ffff:{CLIENT}]:443", CLIENT),
        ("[::1]:80", None),
        (f"{CLIENT}, , ,", CLIENT),
    ],
)
def test_ports_and_empty_elements_say_nothing(said: str, expected: str | None) -> None:
    assert of("10.0.0.1", said) == expected


@pytest.mark.parametrize(
    "said",
    [
        *("unknown", "_hidden", "1.2.3", "1.2.3.4.5", "01.2.3.4", "1.2.3.4:", "1.2.3.4:port"),
        *("1.2.3.4:123456", "[::1", "::1]", "[::1]80", "[::1]:", "1.2.3.4 5.6.7.8", "١.2.3.4"),
        *('"1.2.3.4"', "for=1.2.3.4", "1.2.3.4\xa0", "1.2.3.0/24", "-1", "16909060"),
    ],
)
def test_who_says_what_cannot_be_read_is_counted_instead(said: str) -> None:
    assert of("10.0.0.1", f"{CLIENT}, {said}, 10.3.3.3") == "10.3.3.3"
    assert of("10.0.0.1", CLIENT, said) == "10.0.0.1"


def test_a_proxy_that_says_nothing_is_counted_itself() -> None:
    assert of("10.0.0.1") == of("10.0.0.1", "") == "10.0.0.1"
    assert of("10.0.0.1", "10.0.0.2, 10.0.0.3") == "10.0.0.2"


def test_a_long_way_is_followed_so_far_and_no_further() -> None:
    way = ", ".join(["10.0.0.2"] * (MAX_HOPS - 1))
    assert of("10.0.0.1", f"{CLIENT}, {way}") == CLIENT
    assert of("10.0.0.1", f"{CLIENT}, 10.0.0.9, {way}") == "10.0.0.9"
    wide = " " * MAX_HEADER_CHARS
    assert of("10.0.0.1", f"{CLIENT}, 10.0.0.9{wide}, 10.0.0.2") == "10.0.0.2"


def test_what_is_cut_off_is_not_read_as_another_address() -> None:
    rest = ",10.0.0.2".ljust(MAX_HEADER_CHARS - len("1.2.3.4"))
    assert of("10.0.0.1", f"1.2.3.4{rest}") == "1.2.3.4"
    assert of("10.0.0.1", f"21.2.3.4{rest}") == "10.0.0.2"


@pytest.mark.parametrize("entry", ["", "proxy.example", "10.0.0.1/8", "10.0.0.0/33", "*", "::1/x"])
def test_a_proxy_that_is_no_address_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match="no address or network") as raised:
        Proxies(["10.0.0.7", entry])
    assert str(raised.value).startswith(repr(entry))


# Whatever a client sends

_trusted = st.sampled_from(["127.0.0.1", "10.0.0.1", "10.255.7.7", "fd00::1", "::ffff:10.0.0.5"])
_clients = st.ip_addresses().map(str).filter(lambda text: ip_address(text) not in PROXIES)
_sent = st.one_of(
    st.text(st.characters(max_codepoint=255), max_size=40),
    st.text("0123456789abcdef:.,[]% \t\"'", max_size=40),
    _trusted,
    st.lists(st.one_of(_trusted, _clients), max_size=4).map(", ".join),
    st.integers(0, 3_000).map(lambda times: "10.0.0.1," * times),
)


@st.composite
def _journeys(draw: st.DrawFn) -> tuple[str, list[str], str]:
    """Draw a client, what it sends and what its proxies append, and who connects to the gateway."""
    client = draw(_clients)
    lines = draw(st.lists(_sent, max_size=4))
    peer = client
    for proxy in draw(st.lists(_trusted, max_size=5)):
        lines = appended(lines, as_said(draw, peer), in_place=draw(st.booleans()))
        peer = proxy
    return client, lines, peer


def as_said(draw: st.DrawFn, address: str) -> str:
    """Write an address as one proxy or another does."""
    inner = f"[{address}]" if ":" in address else address
    return draw(st.sampled_from([address, inner, f"{inner}:{draw(st.integers(0, 65_535))}"]))


def appended(lines: list[str], said: str, *, in_place: bool) -> list[str]:
    if lines and in_place:
        return [*lines[:-1], f"{lines[-1]}, {said}"]
    return [*lines, said]


@example((CLIENT, ["127.0.0.1"], CLIENT))
@example((CLIENT, [f"203.0.113.9, {CLIENT}"], "127.0.0.1"))
@settings(deadline=None, max_examples=300)
@given(_journeys())
def test_a_client_never_chooses_its_address(journey: tuple[str, list[str], str]) -> None:
    client, lines, peer = journey
    assert address_of(peer, lines, proxies=PROXIES) == address_of(client, (), proxies=NONE)


@pytest.mark.parametrize(
    "said", ["", ",", ",,,", " , ", ":", "[]", "[]:1", "%", "::%", "\x00", "1.2.3.4\n"]
)
def test_nonsense_is_no_error(said: str) -> None:
    assert of("10.0.0.1", said) == "10.0.0.1"
