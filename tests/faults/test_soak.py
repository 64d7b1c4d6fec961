"""Nothing leaks: after many turns and many visitors the gateway holds what it held before.

`FAULTS_SOAK=10000 python -m pytest tests/faults/test_soak.py -s` is the long run: so many turns,
and so many connections.
"""

import asyncio
import gc
import os
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx

from gateway.listening import PeerLimits
from tests.faults.resident import Resident
from tests.gateway.peers import CLOSE, Peer, Served, serving, until
from tests.llm.scripted import ScriptedModel
from tests.whole.processes import gateway

TIMES = int(os.environ.get("FAULTS_SOAK", "200"))
AT_ONCE = 20
MB_OF_NOISE = 6.0
"""What an allocator keeps or gives back as it likes."""

REPLY = ["안녕", "하세요. "] * 20

Visit = Callable[[str, str], Awaitable[None]]


async def turn(url: str, session_id: str) -> None:
    """Ask a question in a session of one's own, and read the reply."""
    async with Peer(url, room=1 << 16) as peer:
        await peer.open(**({"session_id": session_id} if session_id else {}))
        await peer.say(1, b'{"type": "chat", "message": "hi"}')
        while (await peer.frame())["type"] != "complete":
            pass
        await peer.say(CLOSE, (1000).to_bytes(2, "big"))
        await peer.rest()


async def polite(url: str, session_id: str) -> None:
    """Come, look, and leave as one should."""
    async with Peer(url) as peer:
        await peer.open(session_id=session_id)
        await peer.say(CLOSE, (1000).to_bytes(2, "big"))
        await peer.rest()


async def rude(url: str, session_id: str) -> None:
    """Come and vanish."""
    async with Peer(url) as peer:
        await peer.open(session_id=session_id)


async def reading_events(url: str, session_id: str) -> None:
    """Open an event stream and vanish."""
    async with Peer(url) as peer:
        await peer.request("GET", f"/api/sessions/{session_id}/events")
        await peer.until(b"ready")


async def half_a_request(url: str, session_id: str) -> None:
    """Begin to ask and vanish."""
    async with Peer(url) as peer:
        await peer.send(
            b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
        )


async def not_welcome(url: str, session_id: str) -> None:
    """Ask for a session that does not exist."""
    async with Peer(url) as peer:
        assert (await peer.open(session_id="nobody's"))["type"] == "error"


VISITS: tuple[Visit, ...] = (polite, rude, reading_events, half_a_request, not_welcome)


async def many(times: int, url: str, session_id: str) -> None:
    """Have so many turns, and as many visits of all kinds, some at once."""
    room = anyio.CapacityLimiter(AT_ONCE)

    async def one(number: int) -> None:
        async with room:
            await turn(url, "")
            await VISITS[number % len(VISITS)](url, session_id)

    async with anyio.create_task_group() as tasks:
        for number in range(times):
            tasks.start_soon(one, number)


def of_this_process(served: Served) -> dict[str, Any]:
    """What is held here, where gateway, model server and visitors share one process."""
    house = served.server.app.state.house
    gc.collect()
    return {
        "tasks": sorted(str(task.get_coro()).split()[2] for task in asyncio.all_tasks()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "channels": len(house.broker._channels),
        "connections": len(house.connections),
        "protocols": len(served.server.server_state.connections),
        "requests": len(served.server.server_state.tasks),
        "turns": house.turns.running,
        "calls": house.admission.calls,
        "waiting": house.admission.waiting,
        "of the driver": len(house.turns._ports.driver._upstream._transport._exchanges),
    }


async def test_tasks_sockets_channels_and_threads_are_given_back(tmp_path: Path) -> None:
    async with serving(tmp_path, PeerLimits(), llm_max_concurrency=64) as served:
        served.model.autoreply(lambda _: REPLY)
        async with Peer(served.url) as first:
            session_id = (await first.open())["session_id"]
        await many(TIMES // 10, served.url, session_id)
        await served.all_gone()
        await until(lambda: not served.server.server_state.tasks)
        before = of_this_process(served)
        await many(TIMES, served.url, session_id)
        await served.all_gone()
        await until(lambda: of_this_process(served) == before)


async def test_memory_descriptors_and_threads_of_the_process_stay_what_they_were(
    tmp_path: Path,
) -> None:
    async with ScriptedModel() as model:
        model.autoreply(lambda _: REPLY)
        settings = {"LLM_SERVER_URL": model.url, "LLM_MAX_CONCURRENCY": "64"}
        async with gateway(tmp_path, **settings) as program:
            async with Peer(program.url) as first:
                session_id = (await first.open())["session_id"]
            looks = []
            for _ in range(11):
                await many(TIMES // 10, program.url, session_id)
                await nobody_is_connected(program.url)
                looks.append(Resident.of(program.pid))
            print(f"{TIMES} turns and visits: {looks[0]} after a tenth, {looks[-1]} at the end")
            print([look.mb for look in looks])
            assert await program.stop() == 0
    # Somebody may still be hanging up.
    assert looks[-1].descriptors <= looks[0].descriptors + 2
    assert looks[-1].threads == looks[0].threads
    assert looks[-1].mb - looks[0].mb < MB_OF_NOISE
    assert program.complaints == []


async def nobody_is_connected(url: str) -> None:
    """Wait until the gateway has noticed that everybody left."""
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        with anyio.fail_after(10):
            while True:
                health = (await http.get("/api/health")).json()
                if not health["connections"] and not health["running_turns"]:
                    return
                await anyio.sleep(0.02)
