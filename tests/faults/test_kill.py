"""Whatever was acknowledged survives `kill -9` of the gateway, at any moment.

`FAULTS_KILLS=200 python -m pytest tests/faults/test_kill.py -s` is the long run; `FAULTS_SEED`
repeats one, as far as processes allow.
"""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from tests.faults.killing import World, kill_often, world
from tests.faults.load import (
    Chat,
    Session,
    by_every_door,
    chat_through,
    check,
    over_a_socket,
    over_an_event_source,
    over_one_stream,
)

KILLS = int(os.environ.get("FAULTS_KILLS", "12"))
KILLS_OF_REPEATS = max(KILLS // 4, 3)
WITHIN_S = 90 + KILLS * 15

TABS = 20
REPEATING_SESSIONS = 4


async def test_what_was_acknowledged_survives_a_kill_at_any_moment(tmp_path: Path) -> None:
    chats: Sequence[Chat] = [over_a_socket] * TABS + [over_one_stream, over_an_event_source] * 2
    async with asyncio.timeout(WITHIN_S), world(tmp_path, "kill") as here:
        sessions, kept = await chat_through(here, chats, kill_often(here, KILLS))
    kept.confirm(here.testimony.promises)
    for session in sessions:
        check(session, kept)
    assert any(turn.attempt > 1 for turn in kept.turns), "nothing was taken up again"


async def test_a_request_that_is_sent_again_and_again_is_one_turn_across_kills(
    tmp_path: Path,
) -> None:
    # However often it is killed, every turn comes to its own end: all replies can be compared.
    stubborn = world(tmp_path, "again", MAX_ATTEMPTS="1000")
    chats: Sequence[Chat] = [by_every_door] * REPEATING_SESSIONS
    async with asyncio.timeout(WITHIN_S), stubborn as here:
        sessions, kept = await chat_through(here, chats, kill_often(here, KILLS_OF_REPEATS))
        async with here.gateway() as program:
            await _send_all_again(here, sessions)
            assert await program.stop() == 0
        assert here.confirm().turns == kept.turns
    assert here.testimony.counts["complete"] > len(kept.turns)
    for session in sessions:
        check(session, kept)


async def _send_all_again(here: World, sessions: list[Session]) -> None:
    """Long after it is over, a request still finds its turn, and the same reply."""
    async with here.http() as http:
        for session in sessions:
            shown = session.logs[0].turns.values()
            for (request_id, question), turn in zip(session.asked.items(), shown, strict=True):
                body = {"session_id": session.session_id, "message": question}
                again = await http.post("/api/chat", json=body | {"request_id": request_id})
                assert again.status_code == 200
                assert again.json()["turn"] == turn.number
                assert again.json()["content"] == turn.text
