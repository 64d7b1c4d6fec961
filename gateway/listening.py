"""Where connections come in, and how long the gateway waits for whoever is at their other end."""

import errno
import resource
import socket
from contextlib import ExitStack
from dataclasses import dataclass

MAX_OPEN_FILES = 1 << 20
"""More than Linux lets a process have unless told to; some systems say that there is no limit."""


@dataclass(frozen=True)
class PeerLimits:
    """What a peer may ask of our patience and our memory; `..._s` are seconds."""

    head_s: float = 10.0
    """How long it may take to send the head of a request."""

    body_s: float = 30.0
    """How long it may take to send the body after that."""

    max_head_bytes: int = 64 * 1024
    """How long a head may be, or what comes between two pieces of a body.

    A head that begins behind another request, in one read with it, may be twice as long.
    """

    max_target_bytes: int = 8_000
    """How long the path and query may be; RFC 9112, section 3, asks for no less."""

    max_header_lines: int = 100
    """How many lines a head may have, with those that may follow a body."""

    max_pipelined: int = 16
    """How many requests may wait for the answers to those before them."""

    max_fragments: int = 10_000
    """In how many frames a message may come: empty ones never add up to its largest size."""

    frames_at_once: int = 200
    """How many frames may come together before it is made to wait."""

    frames_per_s: int = 2_000
    """How fast they may come; each costs us more than it costs whoever sends it."""

    flood_s: float = 5.0
    """For how long it may be made to wait; after that it is a flood, and the peer is dropped."""

    read_s: float = 60.0
    """How long it may leave its socket full before it is dropped; it can resume by cursor."""

    close_s: float = 2.0
    """How long it may take to read what is left once its connection is being closed."""

    ping_every_s: float = 26.0
    """How often a WebSocket is pinged, at least.

    A little longer than the usual `HEARTBEAT_S`: a ping goes with a heartbeat, in one write.
    """

    pong_s: float = 14.0
    """How long a peer whose socket is not full may take to answer."""

    max_unread_bytes: int = 1024 * 1024
    """So much written and not read, and the peer is dropped: it floods us with pings."""

    spare_files: int = 128
    """How many of the files that the process may open are not for peers.

    The database and the model server need some even while every other one is a peer's.
    """

    send_buffer_bytes: int = 128 * 1024
    """What the kernel keeps of a peer that does not read; it doubles this."""

    unacknowledged_ms: int = 80_000
    """After so long without a word from the peer's kernel the connection is lost (RFC 5482).

    To Linux a peer that does not read is one of those; so this is longer than `read_s`.
    """


def raise_open_files() -> int:
    """Let the process open as many files as it may, each connection being one; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def is_spare(descriptor: int, limits: PeerLimits) -> bool:
    """Whether a connection has one of the files that are not for peers.

    A new file gets the lowest number that is free (POSIX), so a high one says how many are open.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return False
    return descriptor >= soft - min(limits.spare_files, soft // 4)


def listening_sockets(host: str, port: int, limits: PeerLimits) -> list[socket.socket]:
    """Bind every address of a host, all to one port; raises OSError.

    What these sockets accept ends when its peer is gone.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = dict.fromkeys((family, address[:2]) for family, _, _, _, address in found)
    listeners: list[socket.socket] = []
    with ExitStack() as bound:
        for family, (name, _) in addresses:
            # Port 0 is any port, but `localhost` is to be one port on both its addresses.
            at = (name, listeners[0].getsockname()[1] if listeners else port)
            try:
                listeners.append(bound.enter_context(_bound(family, at, limits)))
            except OSError as error:
                # A name may stand for an address of a kind that this machine does not use.
                if error.errno != errno.EADDRNOTAVAIL or len(addresses) == 1:
                    raise
        bound.pop_all()
    if not listeners:
        raise OSError(errno.EADDRNOTAVAIL, "cannot assign requested address")
    return listeners


def _bound(
    family: socket.AddressFamily, address: tuple[str | int, int], limits: PeerLimits
) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        for level, option, value in _options(limits):
            listener.setsockopt(level, option, value)
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def _options(limits: PeerLimits) -> list[tuple[int, int, int]]:
    """What connections inherit from the socket that accepts them."""
    options = [
        (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),
        (socket.SOL_SOCKET, socket.SO_SNDBUF, limits.send_buffer_bytes),
        # uvloop sets it, but asyncio does not on what such a socket accepts: a second write would
        # wait until the first is acknowledged, which a peer that has nothing to say puts off 40 ms.
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    ]
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux alone has it
        options.append((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limits.unacknowledged_ms))
    return options
