"""Peers that connect and say nothing, more of them than there are files.

`HOSTILE_SOCKETS=10000 python -m pytest tests/hostile/test_silence.py -s` is the long run; `ulimit
-Hn` has to be a little more than that.
"""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from gateway.listening import PeerLimits, raise_open_files
from gateway.logging import MAX_A_MINUTE
from tests.gateway.peers import resident_mb, until
from tests.hostile.attackers import everything, strangers
from tests.hostile.siege import QUICK, besieged, sockets_of

SOCKETS = int(os.environ.get("HOSTILE_SOCKETS", "2000"))
KB_FOR_A_SOCKET = 12.0
HEAD_S = 1.5 + SOCKETS / 2_000
FILES = 300
FEW_FILES = ("sh", "-c", f'ulimit -n {FILES} && exec "$@"', "sh")


@pytest.fixture(autouse=True)
def _files_enough() -> Iterator[None]:
    """The peers of all these are in this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    raise_open_files()
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_a_silent_socket_costs_little_and_is_dropped(tmp_path: Path) -> None:
    limits = QUICK | {"head_s": HEAD_S}
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - PeerLimits().spare_files - 100
    number = min(SOCKETS, most)
    within_mb = 24 + number * KB_FOR_A_SOCKET / 1024
    async with (
        besieged(tmp_path, limits) as siege,
        siege.undisturbed(peers=0, within_mb=within_mb),
    ):
        before_mb, before = resident_mb(siege.pid), sockets_of(siege.pid)
        async with strangers(siege.url, number) as peers:
            await until(lambda: sockets_of(siege.pid) >= before + number)
            kb = (resident_mb(siege.pid) - before_mb) * 1024 / number
            print(f"\n{number} silent sockets: {kb:.1f} KB each")
            assert kb < KB_FOR_A_SOCKET
            with anyio.fail_after(HEAD_S + 10):
                for peer in peers:
                    assert await everything(peer) == b""


async def test_where_files_run_out_who_is_there_goes_on_chatting(tmp_path: Path) -> None:
    async with besieged(tmp_path, QUICK, *FEW_FILES) as siege:
        for _ in range(3):
            async with (
                siege.undisturbed(peers=MAX_A_MINUTE),
                strangers(siege.url, 2 * FILES) as peers,
            ):
                await everything(peers[-1])
