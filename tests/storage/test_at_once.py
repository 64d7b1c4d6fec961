"""What several nodes do to the same sessions at once fits together; nobody waits in a circle."""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from protocol.errors import Refusal
from storage import leases, sessions, turns
from storage.claims import Claim
from storage.leases import StopAsked
from storage.migrations import migrate
from storage.operations import Operation
from storage.postgres import PostgresDatabase, open_postgres
from storage.turns import NewTurn, StoredTurn
from tests.servers.postgres import sql
from tests.storage.notes import WITHIN_S
from tests.storage.store import turn_end

CLIENTS = 16
STEPS = 80


@dataclass
class Shared:
    """What the clients of all nodes know."""

    sessions: list[str] = field(default_factory=lambda: [f"s{number}" for number in range(4)])
    turns: list[StoredTurn] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)


class Client:
    """Does things to sessions at random, on one of the nodes."""

    def __init__(self, database: PostgresDatabase, node: str, name: str, shared: Shared) -> None:
        self._database = database
        self._node = node
        self._name = name
        self._shared = shared
        self._random = random.Random(name)
        self._number = 0

    async def run(self) -> None:
        for _ in range(STEPS):
            name, operation = self._step()
            try:
                found = await self._database.write(operation)
            except (Refusal, StopAsked):
                continue
            self._shared.done[name] += found not in (None, False)
            if isinstance(found, StoredTurn):
                self._shared.turns.append(found)
            elif name == "remove":
                self._shared.sessions.append(found)

    def _step(self) -> tuple[str, Operation[Any]]:
        session_id = self._random.choice(self._shared.sessions[-4:])
        if not self._shared.turns or self._random.random() < 0.3:
            return "accept", turns.accept(self._new(session_id))
        turn = self._random.choice(self._shared.turns[-6:])
        steps: dict[str, Operation[Any]] = {
            "end": turns.end(turn, turn_end(turn, "네.")),
            "end as cancelled": turns.end(turn, turn_end(turn, "네.", status="cancelled")),
            "checkpoint": turns.checkpoint(turn, "네"),
            "leave": turns.leave(turn, "네"),
            "take up": turns.take_up(turn, node=self._node),
            "leave and take up": self._take_over(turn),
            "renew": leases.renew(self._node),
            "stop": leases.ask_to_stop(session_id, None, why="cancelled"),
            "use": sessions.note_use(Claim(session_id)),
            "remove": self._replace(session_id),
        }
        often = [1 if name == "remove" else 6 for name in steps]
        [name] = self._random.choices(list(steps), often)
        return name, steps[name]

    def _take_over(self, turn: StoredTurn) -> Operation[StoredTurn | None]:
        yield from sessions.hold(turn.session_id)
        yield from turns.leave(turn, "네")
        return (yield from turns.take_up(turn, node=self._node))

    def _replace(self, session_id: str) -> Operation[str]:
        yield from sessions.remove(Claim(session_id))
        self._number += 1
        new = f"s-{self._name}-{self._number}"
        yield from sessions.create(new, {})
        return new

    def _new(self, session_id: str) -> NewTurn:
        self._number += 1
        name = f"{self._name}-{self._number}"
        return NewTurn(
            claim=Claim(session_id),
            message="안녕",
            replaces=None,
            request_id=name,
            fingerprint="안녕",
            generation={},
            status="running",
            user_message_id=f"q-{name}",
            reply_message_id=f"r-{name}",
            node=self._node,
        )


def _begin_anew(session_id: str) -> Operation[object]:
    yield from sessions.remove(Claim(session_id))
    yield from sessions.create(session_id, {})
    return True


async def test_nodes_that_meet_in_a_session_do_not_wait_for_each_other_in_a_circle(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    shared = Shared()
    async with open_postgres(postgres_url) as one, open_postgres(postgres_url) as two:
        await migrate(one)
        for session_id in shared.sessions:
            await one.write(sessions.create(session_id, {}))
        nodes = ((one, "one"), (two, "two"))
        clients = [Client(*nodes[each % 2], f"c{each}", shared) for each in range(CLIENTS)]
        with anyio.fail_after(3 * WITHIN_S):
            await asyncio.gather(*(client.run() for client in clients))
    assert caplog.records == [], "nothing failed"
    needed = ("accept", "end", "end as cancelled", "leave and take up", "renew", "stop", "remove")
    assert min(shared.done[step] for step in needed) > 0, shared.done
    several = "SELECT session_id FROM turns WHERE ended_at IS NULL GROUP BY 1 HAVING count(*) > 1"
    assert sql(postgres_url, several) == []
    lost = "SELECT 1 FROM leases l JOIN turns t USING (session_id, turn) WHERE ended_at IS NOT NULL"
    assert sql(postgres_url, lost) == []
