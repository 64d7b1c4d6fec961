"""Where the gateway listens, and what its connections inherit."""

import errno
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from gateway.listening import PeerLimits, is_spare, listening_sockets, raise_open_files
from tests.gateway.peers import Peer, serving, until

LIMITS = PeerLimits(send_buffer_bytes=32_768, unacknowledged_ms=12_345)


@contextmanager
def bound(host: str, port: int = 0) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        yield [stack.enter_context(each) for each in listening_sockets(host, port, LIMITS)]


def test_every_address_of_a_name_is_one_port() -> None:
    found = socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)
    with bound("localhost") as listeners:
        hosts = {listener.getsockname()[0] for listener in listeners}
        assert hosts == {address[0] for *_, address in found}
        assert len({listener.getsockname()[1] for listener in listeners}) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::"])
def test_an_address_is_listened_on(host: str) -> None:
    with bound(host) as [listener]:
        listener.listen()
        to_itself = host.replace("0.0.0.0", "127.0.0.1").replace("::1", "::").replace("::", "::1")
        with socket.create_connection((to_itself, listener.getsockname()[1]), timeout=5):
            pass


def test_any_address_of_ipv6_is_any_of_ipv4_too() -> None:
    with bound("::") as [listener]:
        listener.listen()
        with socket.create_connection(("127.0.0.1", listener.getsockname()[1]), timeout=5):
            pass


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(OSError, match="assign") as raised, bound("192.0.2.1"):
        pass
    assert raised.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_address_that_this_machine_lacks_is_left_out_of_a_name(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0)),
        (family, socket.SOCK_STREAM, 6, "", (host, 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with bound("two.example") as [listener]:
        assert listener.getsockname()[0] == host


def test_a_port_in_use_is_refused_and_nothing_stays_bound() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use") as raised, bound("localhost", port):
            pass
        assert raised.value.errno == errno.EADDRINUSE
        with socket.create_server(("::1", port), family=socket.AF_INET6):
            pass


async def test_connections_inherit_what_ends_them(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, LIMITS) as served,
        Peer(served.url) as http,
        Peer(served.url) as ws,
    ):
        await ws.open()
        await http.send(b"GET")
        await until(lambda: len(served.connections) == 2)
        for connection in served.connections:
            raw = connection.transport.get_extra_info("socket")
            timeout_ms = raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert timeout_ms == LIMITS.unacknowledged_ms
            # Linux doubles it, for its own book-keeping.
            buffer = raw.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
            assert buffer == 2 * LIMITS.send_buffer_bytes


async def test_a_gateway_on_a_name_answers_on_all_its_addresses(tmp_path: Path) -> None:
    async with serving(tmp_path, LIMITS, host="localhost") as served:
        port = served.server.port
        found = socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)
        for host in {str(address[0]) for *_, address in found}:
            async with Peer(f"http://{f'[{host}]' if ':' in host else host}:{port}") as peer:
                await peer.request("GET", "/api/health", Connection="close")
                assert b" 200 " in await peer.rest()


def test_a_peer_that_does_not_read_is_told_so_before_the_kernel_drops_it() -> None:
    limits = PeerLimits()
    assert limits.unacknowledged_ms > 1_000 * (limits.read_s + limits.close_s)


# Open files


@pytest.fixture
def _files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("_files")
def test_as_many_files_as_the_process_may_open_it_can_open() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard // 2, hard))
    assert raise_open_files() == hard
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    assert raise_open_files() == hard


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ((1_024, resource.RLIM_INFINITY), (1 << 20, resource.RLIM_INFINITY), 1 << 20),
        ((1_024, 1 << 30), (1 << 20, 1 << 30), 1 << 20),
        ((1 << 21, 1 << 30), (1 << 21, 1 << 30), 1 << 21),
        ((resource.RLIM_INFINITY,) * 2, (resource.RLIM_INFINITY,) * 2, resource.RLIM_INFINITY),
    ],
)
def test_a_limit_that_is_none_is_not_taken_at_its_word(
    before: tuple[int, int],
    after: tuple[int, int],
    told: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = [before]
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    assert raise_open_files() == told
    assert limits[-1] == after


@pytest.mark.parametrize(
    ("soft", "first_spare"), [(1_024, 896), (256, 192), (resource.RLIM_INFINITY, None)]
)
def test_some_files_are_not_for_peers(
    soft: int, first_spare: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))
    spare = [number for number in range(2_000) if is_spare(number, PeerLimits(spare_files=128))]
    assert spare[:1] == ([] if first_spare is None else [first_spare])
    assert spare == list(range(first_spare or 0, 2_000))[: len(spare)]


async def test_a_connection_for_which_there_is_no_file_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path, LIMITS) as served, Peer(served.url) as first:
        await first.open()
        with monkeypatch.context() as patch:
            patch.setattr(resource, "getrlimit", lambda _: (8, 8))
            async with Peer(served.url) as second:
                assert await second.rest() == b""
        await first.say(1, b"/ping")
        assert await first.frame() == {"type": "pong"}
        async with Peer(served.url) as third:
            await third.open()
    assert caplog.messages.count("a connection was dropped: too many files are open") == 1
