"""Every wait on the model server ends, and everybody is told why, on every transport."""

import json as json_text
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.faults import faulty as f
from tests.faults.doors import Door, hanging, leading, refusing
from tests.faults.faulty import GOOD, INNER, SAID, Fault, faulty
from tests.faults.leaks import Held, nothing_more_is_held_than
from tests.faults.transports import Ask, Seen, ask_all, ask_json, ask_sse, ask_websocket, leaving
from tests.gateway.harness import Gateway, on_sockets, settings_for
from tests.llm.scripted import Call

CODES = {
    "upstream_unavailable": (502, True),
    "upstream_timeout": (504, True),
    "upstream_stalled": (504, True),
    "turn_timeout": (504, True),
    "upstream_error": (502, False),
}
"""The HTTP status of each code, and whether it is retryable."""

HALF = "".join(SAID)
WHOLE = "".join(GOOD)
LONGEST = "가" * 1_000_000
SOME = "말 "
"""As the text of a row: as much of this, again and again, as there was time for."""

SOON_S = 0.3
FIRST = {"llm_first_token_timeout_s": SOON_S, "llm_reply_timeout_s": SOON_S}
SILENCE = {"llm_silence_timeout_s": SOON_S}
# Longer, for a turn that goes well has to fit in it too, on a machine that is busy with others.
TURN = {"turn_timeout_s": 1.0}


@dataclass(frozen=True)
class Row:
    """One way to go wrong, and what comes of it.

    `fault` is what becomes of a streamed reply, `whole` of one in one piece, where that is another
    thing; None where there is no such way. `calls` are those the server sees of each question.
    """

    name: str
    code: str
    fault: Fault
    whole: Fault | None = None
    text: str = ""
    whole_text: str = ""
    calls: int = 1
    limits: dict[str, float] = field(default_factory=dict)

    async def play(self, call: Call) -> None:
        """Go wrong, in the way that suits the call."""
        streamed = call.path.endswith("/stream")
        await (self.fault if streamed or self.whole is None else self.whole)(call)

    @property
    def transports(self) -> list[Ask]:
        """Who can meet this fault."""
        return [ask_websocket, ask_sse, *([ask_json] if self.whole else [])]


def both(name: str, code: str, fault: Fault, **more: Any) -> Row:
    """A fault that is the same whether a reply is streamed or not."""
    return Row(name, code, fault, fault, **more)


NO_ANSWER = [
    both("reset before a reply", "upstream_unavailable", f.cut, calls=4),
    both("closed before a reply", "upstream_unavailable", f.vanish, calls=4),
    both("not HTTP", "upstream_unavailable", f.not_http, calls=4),
    both("no headers", "upstream_timeout", f.mute, limits=FIRST),
    both("half of the headers", "upstream_timeout", f.half_a_head, limits=FIRST),
    both("headers without a body", "upstream_timeout", f.head_only, limits=FIRST),
]
ANOTHER_ANSWER = [
    both("400", "upstream_error", f.status(400)),
    both("404", "upstream_error", f.status(404)),
    both("422", "upstream_error", f.status(422)),
    both("500", "upstream_error", f.status(500)),
    both("503", "upstream_unavailable", f.status(503), calls=4),
    both("a redirection", "upstream_error", f.status(307)),
    both("a page with 200", "upstream_error", f.status(200)),
    both("JSON of something else", "upstream_error", f.json({"detail": INNER})),
    both("JSON that is no object", "upstream_error", f.json([INNER])),
    both("an empty stream", "upstream_error", f.empty_stream),
]
BEFORE_THE_FIRST_TOKEN = [
    Row("a stall", "upstream_timeout", f.started, f.half_an_answer, limits=FIRST),
    Row("a byte at a time", "upstream_timeout", f.drip, f.drip_an_answer, limits=FIRST),
    Row("comments alone", "upstream_timeout", f.keep_alive, limits=FIRST),
    Row("endless junk", "upstream_timeout", f.junk_for_ever, limits=FIRST),
    Row("endless junk, a patient driver", "turn_timeout", f.junk_for_ever, f.mute, limits=TURN),
    Row("junk and an end", "upstream_error", f.junk_then_end, f.json({"response": 5})),
    Row("an error with a text", "upstream_error", f.error(INNER)),
    Row("an error without a text", "upstream_error", f.error("")),
    Row("an end without complete", "upstream_error", f.end),
    Row("a broken connection", "upstream_unavailable", f.said_nothing_then(f.cut)),
]
IN_THE_MIDDLE = [
    Row("a stall", "upstream_stalled", f.said_then(f.mute), text=HALF, limits=SILENCE),
    Row("a byte at a time", "upstream_stalled", f.said_then(f.drip), text=HALF, limits=SILENCE),
    Row("comments", "upstream_stalled", f.said_then(f.keep_alive), text=HALF, limits=SILENCE),
    Row(
        "endless junk", "upstream_stalled", f.said_then(f.junk_for_ever), text=HALF, limits=SILENCE
    ),
    Row("a stall, a patient driver", "turn_timeout", f.said_then(f.mute), text=HALF, limits=TURN),
    Row(
        "a reset",
        "upstream_unavailable",
        f.said_then(f.cut),
        f.half_an_answer_then(f.cut),
        text=HALF,
    ),
    Row(
        "a closed connection",
        "upstream_unavailable",
        f.said_then(f.vanish),
        f.half_an_answer_then(f.vanish),
        text=HALF,
    ),
    Row("an end without complete", "upstream_error", f.said_then(f.end), text=HALF),
    Row("an error with a text", "upstream_error", f.said_then(f.error(INNER)), text=HALF),
    Row("an error without a text", "upstream_error", f.said_then(f.error("")), text=HALF),
    Row("an error and no end", "upstream_error", f.said_then(f.error_and_no_end), text=HALF),
    Row("an oversize event", "upstream_error", f.said_then(f.oversize_event), text=HALF),
]
TOO_MUCH = [
    Row("an endless reply", "turn_timeout", f.talk_for_ever, text=SOME, limits=TURN),
    Row(
        "a reply that is too long",
        "upstream_error",
        f.talk_too_much,
        f.json({"response": LONGEST + "가"}),
        text=LONGEST,
        whole_text=LONGEST,
    ),
    Row("an oversize event", "upstream_error", f.oversize_event, f.oversize_answer),
]
STAGES = {
    "no answer": NO_ANSWER,
    "another answer": ANOTHER_ANSWER,
    "before the first token": BEFORE_THE_FIRST_TOKEN,
    "in the middle": IN_THE_MIDDLE,
    "too much": TOO_MUCH,
}
ROWS = [
    pytest.param(row, id=f"{stage}: {row.name}") for stage, rows in STAGES.items() for row in rows
]


@pytest.mark.parametrize("row", ROWS)
async def test_a_fault_of_the_model_server_ends_the_turn_and_nothing_else(
    tmp_path: Path, row: Row
) -> None:
    async with faulty(row.play) as model, serving(tmp_path, model.url, row) as gateway:
        sessions = await new_sessions(gateway, row)
        before = await at_rest(gateway)
        for seen in await ask_all(gateway, sessions, "first"):
            check_failure(row, seen, port=model.port)
        assert len(model.calls) == row.calls * len(sessions)
        await nothing_more_is_held_than(before)
        assert not model.open
        check_stored(row, gateway, sessions)

        model.fault = f.well
        await check_mended(gateway, sessions)
        await nothing_more_is_held_than(before)


@pytest.mark.parametrize(
    ("door", "code"),
    [(refusing, "upstream_unavailable"), (hanging, "upstream_timeout")],
    ids=["refused", "connecting hangs"],
)
async def test_a_model_server_that_nobody_reaches_is_found_again(
    tmp_path: Path, door: Callable[[], Door], code: str
) -> None:
    row = both("nobody there", code, f.well, limits={"llm_connect_timeout_s": 1.0})
    async with AsyncExitStack() as stack:
        with door() as port:
            url = f"http://127.0.0.1:{port}"
            gateway = await stack.enter_async_context(serving(tmp_path, url, row))
            sessions = await new_sessions(gateway, row)
            before = await at_rest(gateway)
            for seen in await ask_all(gateway, sessions, "first"):
                check_failure(row, seen, port=port)
            await nothing_more_is_held_than(before)
            check_stored(row, gateway, sessions)
        model = await stack.enter_async_context(faulty(f.well))
        await stack.enter_async_context(leading(port, to=model.port))
        await check_mended(gateway, sessions)


async def test_a_model_server_whose_name_is_unknown_fails_each_turn_and_blocks_none(
    tmp_path: Path,
) -> None:
    row = both("no such name", "upstream_unavailable", f.well)
    async with serving(tmp_path, "http://name.invalid:9977", row) as gateway:
        sessions = await new_sessions(gateway, row)
        before = await at_rest(gateway)
        for seen in await ask_all(gateway, sessions, "first"):
            check_failure(row, seen, port=9977)
        await nothing_more_is_held_than(before)
        check_stored(row, gateway, sessions)
        again = await ask_websocket(gateway, sessions[ask_websocket], {"message": "second"})
        assert (again.end["turn"], again.end["code"]) == (2, "upstream_unavailable")


async def test_junk_before_and_within_a_good_reply_does_no_harm(tmp_path: Path) -> None:
    row = Row("junk", "", f.junk_then_well, limits=FIRST | SILENCE)
    async with faulty(row.play) as model, serving(tmp_path, model.url, row) as gateway:
        sessions = await new_sessions(gateway, row)
        before = await at_rest(gateway)
        for seen in await ask_all(gateway, sessions, "first"):
            assert (seen.end["type"], seen.text) == ("complete", WHOLE)
        await nothing_more_is_held_than(before)
    assert gateway.replies() == [("stop", WHOLE)] * 2


def serving(tmp_path: Path, url: str, row: Row) -> AbstractAsyncContextManager[Gateway]:
    """A gateway as patient as a row wants it, with room for a call of each transport."""
    settings = settings_for(tmp_path / "chat.db", url, llm_max_concurrency=3, **row.limits)
    return on_sockets(settings)


async def new_sessions(gateway: Gateway, row: Row) -> dict[Ask, str]:
    """A session for each transport."""
    async with leaving(gateway) as here:
        return {ask: await here.new_session() for ask in row.transports}


async def at_rest(gateway: Gateway) -> Held:
    """What the gateway holds while nobody asks anything, not even after its health."""
    await gateway.house.probe.model()
    await anyio.wait_all_tasks_blocked()
    return Held.now()


def check_failure(row: Row, seen: Seen, *, port: int) -> None:
    """A client is told what happened, in the words of the catalogue and no others."""
    status, retryable = CODES[row.code]
    assert (seen.end["code"], seen.end["retryable"]) == (row.code, retryable)
    assert seen.end["turn"] == 1
    assert seen.end["message_id"]
    match seen.transport:
        case "websocket":
            assert seen.end["id"] == "1.1.end"
        case "sse":
            assert seen.status == 200
            assert seen.end["message"].startswith("Stream error: ")
        case "json":
            assert (seen.status, seen.end["status"]) == (status, status)
    if seen.transport != "json":
        check_text(row.text, seen.text)
    for secret in (f":{port}", "127.0.0.1", "name.invalid", "http:", "Traceback", "Error:", "gpu"):
        assert secret not in seen.raw


def check_text(expected: str, text: str) -> None:
    """A reply is as long as expected; an endless one is as long as there was time for."""
    if expected == SOME:
        assert text
        assert text == SOME * (len(text) // len(SOME))
    else:
        assert text == expected


def check_stored(row: Row, gateway: Gateway, sessions: dict[Ask, str]) -> None:
    """The text that the client was shown is kept, and why there is no more of it."""
    for ask, session_id in sessions.items():
        [(status, reason, text, ending)] = gateway.rows(
            "SELECT t.status, t.finish_reason, m.content, t.ending FROM turns t"
            " JOIN messages m ON m.message_id = t.reply_message_id WHERE t.session_id = ?",
            session_id,
        )
        assert (status, reason) == ("failed", "error")
        assert json_text.loads(ending)["code"] == row.code
        check_text(row.whole_text if ask is ask_json else row.text, text)


async def check_mended(gateway: Gateway, sessions: dict[Ask, str]) -> None:
    """The session is usable at once: the next message gets a good reply."""
    for seen in await ask_all(gateway, sessions, "second"):
        assert seen.end.get("type", "complete") == "complete", seen
        assert (seen.end["turn"], seen.end["finish_reason"], seen.text) == (2, "stop", WHOLE)
