"""How large things may be: the largest that pass, the smallest that do not, and what is said."""

import json
from typing import Any

import pytest
from httpx_ws import WebSocketDisconnect

from protocol.chat import MAX_MESSAGE_CHARS
from tests.gateway.harness import Gateway, Json, Tab, call_of
from tests.gateway.limited.visitors import (
    ALICE,
    HANDSHAKE,
    KEYS,
    Begin,
    greeted,
    problem,
    silent,
)
from tests.gateway.peers import Peer
from tests.llm.scripted import ScriptedModel

EMOJI = "😀"
"""Outside the plane that `\\uXXXX` reaches, so that JSON escapes it in twelve bytes."""


def padded(size: int, fill: str = "x", **fields: Any) -> str:
    """Write a frame or a body of so many bytes, with a field in it that says nothing."""
    empty = len(json.dumps(fields | {"pad": ""}, ensure_ascii=False).encode())
    times, rest = divmod(size - empty, len(fill.encode()))
    text = json.dumps(fields | {"pad": fill * times + "x" * rest}, ensure_ascii=False)
    assert len(text.encode()) == size
    return text


async def answers(tab: Tab) -> None:
    """See that a socket is open."""
    await tab.send(type="ping")
    await tab.next("pong")


async def post(gateway: Gateway, path: str, text: str) -> tuple[int, Json]:
    """Send a body as it is; return the status and what is said."""
    answer = await gateway.http.post(path, content=text.encode())
    return answer.status_code, answer.json()


# Frames


@pytest.mark.parametrize("fill", ["x", "안", EMOJI])
async def test_a_frame_has_so_many_bytes_and_no_more(served_limited: Begin, fill: str) -> None:
    async with (
        served_limited(max_frame_bytes=4_096) as gateway,
        gateway.tab() as tab,
        gateway.tab(tab.session_id) as other,
    ):
        assert tab.ready["limits"]["max_frame_bytes"] == 4_096
        await tab.say(padded(4_096, fill, type="ping", request_id="r1"))
        assert (await tab.next("pong"))["request_id"] == "r1"
        await tab.say(padded(4_097, fill, type="ping"))
        assert await tab.closed() == 1009
        await answers(other)
        async with gateway.tab(tab.session_id) as again:
            await answers(again)


async def test_a_frame_in_pieces_is_as_large_as_they_are_together(served_limited: Begin) -> None:
    async with served_limited(max_frame_bytes=4_096) as gateway:
        for size, ends in ((4_096, "pong"), (4_097, "close")):
            async with Peer(str(gateway.http.base_url)) as peer:
                await peer.open()
                text = padded(size, type="ping").encode()
                pieces = [text[at : at + 100] for at in range(0, size, 100)]
                for number, piece in enumerate(pieces):
                    opcode = 1 if number == 0 else 0
                    is_last = number == len(pieces) - 1
                    await send_piece(peer, opcode, piece, is_last=is_last)
                answer = await peer.frame()
                assert answer["type"] == ends
                assert answer.get("code", 1009) == 1009


async def send_piece(peer: Peer, opcode: int, piece: bytes, *, is_last: bool) -> None:
    """Send a part of a message, its mask all zeros (RFC 6455, section 5.4)."""
    first = (0x80 if is_last else 0) | opcode
    await peer.send(bytes((first, 0x80 | len(piece), 0, 0, 0, 0)) + piece)


async def test_who_has_not_said_who_it_is_has_smaller_frames_until_it_has(
    served_limited: Begin,
) -> None:
    limits = {"max_unauthenticated_frame_bytes": 512, "max_frame_bytes": 4_096, "api_keys": KEYS}
    async with served_limited(**limits) as gateway:
        async with silent(gateway) as socket:
            await socket.send_text(padded(513, type="auth", token=ALICE))
            with pytest.raises(WebSocketDisconnect) as closed:
                await socket.receive_text()
            assert closed.value.code == 1009
        async with silent(gateway) as socket:
            await socket.send_text(padded(512, type="auth", token=ALICE))
            tab = await greeted(socket)
            await tab.say(padded(4_096, type="ping"))
            await tab.next("pong")
            await tab.say(padded(4_097, type="ping"))
            assert await tab.closed() == 1009


# Messages


@pytest.mark.parametrize("character", ["x", "안", EMOJI])
async def test_the_longest_message_there_may_be_passes_however_it_is_written(
    served_limited: Begin, model: ScriptedModel, character: str
) -> None:
    message = character * MAX_MESSAGE_CHARS
    async with served_limited() as gateway, gateway.tab() as tab:
        escaped = json.dumps({"type": "chat", "message": message})
        assert len(escaped) > 384_000 or character != EMOJI
        await tab.say(escaped)
        await tab.next("accepted")
        call = await call_of(model)
        assert call.messages[-1]["content"] == message
        await call.complete()
        await tab.ends()
        body = json.dumps({"session_id": tab.session_id, "message": message})
        assert (await tab.history(limit=2))["messages"][0]["content"] == message
        model.autoreply(lambda messages: ["네"])
        assert (await post(gateway, "/api/chat", body))[0] == 200


async def test_one_character_more_is_refused_by_its_length(limited: Begin) -> None:
    message = EMOJI * (MAX_MESSAGE_CHARS + 1)
    async with limited() as gateway, gateway.tab() as tab:
        error = await tab.refused(type="chat", message=message, request_id="r1")
        assert error["code"] == "message_too_long"
        assert "32000" in error["message"]
        assert "32001" in error["message"]
        body = {"session_id": tab.session_id, "message": message}
        refused = await gateway.http.post("/api/chat", json=body)
        assert "32000" in problem(refused, 422, "message_too_long")["detail"]


async def test_a_gateway_may_take_shorter_messages_and_says_so(
    limited: Begin, model: ScriptedModel
) -> None:
    model.autoreply(lambda messages: ["네"])
    async with limited(max_message_chars=10) as gateway, gateway.tab() as tab:
        assert tab.ready["limits"]["max_message_chars"] == 10
        error = await tab.refused(type="chat", message=EMOJI * 11, request_id="r1")
        assert (error["code"], error["retryable"]) == ("message_too_long", False)
        assert error["message"] == "message: at most 10 characters are allowed, given 11"
        assert error["request_id"] == "r1"
        for path in ("/api/chat", "/api/chat/stream"):
            asked = {"session_id": tab.session_id, "message": EMOJI * 11}
            refused = await gateway.http.post(path, json=asked)
            assert problem(refused, 422, "message_too_long")["detail"] == error["message"]
        assert (await tab.history())["messages"] == []
        # Refused, it did not use its id up.
        assert (await tab.chat(EMOJI * 10, request_id="r1"))["duplicate"] is False
        await tab.ends()
        asked = {"session_id": tab.session_id, "message": EMOJI * 10}
        assert (await gateway.http.post("/api/chat", json=asked)).status_code == 200
        # An edit is a message; the same question again is none of the caller's.
        edit = {"type": "chat", "message": EMOJI * 11, "replaces": 1}
        assert (await tab.refused(**edit))["code"] == "message_too_long"
        await tab.send(type="regenerate")
        await tab.ends(3)


# Replies


async def test_a_reply_may_be_asked_to_be_so_long_and_no_longer(
    limited: Begin, model: ScriptedModel
) -> None:
    async with limited(max_reply_tokens=600) as gateway, gateway.tab() as tab:
        assert tab.ready["limits"]["max_new_tokens"] == 600
        told = "max_new_tokens: at most 600 are allowed, given 601"
        error = await tab.refused(type="chat", message="안녕", max_new_tokens=601)
        assert (error["code"], error["message"]) == ("bad_frame", told)
        for path in ("/api/chat", "/api/chat/stream"):
            asked = {"session_id": tab.session_id, "message": "안녕", "max_new_tokens": 601}
            refused = await gateway.http.post(path, json=asked)
            assert problem(refused, 422, "bad_frame")["detail"] == told
        for turn, fields, tokens in ((1, {"max_new_tokens": 600}, 600), (2, {}, 512)):
            await tab.chat("안녕", **fields)
            call = await call_of(model)
            assert call.body["max_new_tokens"] == tokens
            await call.complete()
            await tab.ends(turn)
        again = await tab.refused(type="regenerate", max_new_tokens=601)
        assert (again["code"], again["message"]) == ("bad_frame", told)


# Bodies and heads


@pytest.mark.parametrize("path", ["/api/sessions", "/api/chat", "/api/chat/stream"])
async def test_a_body_has_so_many_bytes_and_no_more(limited: Begin, path: str) -> None:
    async with limited(max_body_bytes=4_096) as gateway:
        status, _ = await post(gateway, path, padded(4_096, "안", session_id="?", message="안녕"))
        assert status == (201 if path == "/api/sessions" else 404)
        refused = await gateway.http.post(path, content=padded(4_097, "안", message="안녕"))
        told = problem(refused, 413, "body_too_large")
        assert told["detail"] == "The body is larger than 4096 bytes."
        assert told["retryable"] is False


async def test_a_body_that_does_not_say_how_large_it_is_is_counted_as_it_comes(
    served_limited: Begin,
) -> None:
    async with served_limited(max_body_bytes=4_096) as gateway:
        for size, status in ((4_096, b" 201 "), (4_097, b" 413 ")):
            async with Peer(str(gateway.http.base_url)) as peer:
                await peer.request("POST", "/api/sessions", Transfer_Encoding="chunked")
                body = padded(size).encode()
                for at in range(0, size, 1_000):
                    piece = body[at : at + 1_000]
                    await peer.send(b"%x\r\n%b\r\n" % (len(piece), piece))
                await peer.send(b"0\r\n\r\n")
                assert status in await peer.until(b"\r\n")


def head(size: int, **fields: str) -> bytes:
    """Write the head of a request for a WebSocket, or of one for the health, of so many bytes."""
    path = "/ws" if fields else "/api/health"
    lines = [f"GET {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    begun = "\r\n".join([*lines, "X-Pad: "]).encode()
    return begun + b"x" * (size - len(begun) - 4) + b"\r\n\r\n"


@pytest.mark.parametrize(("fields", "passes"), [({}, b" 200 "), (HANDSHAKE, b" 101 ")])
async def test_a_head_has_so_many_bytes_and_no_more(
    served_limited: Begin, fields: dict[str, str], passes: bytes
) -> None:
    async with served_limited(max_header_bytes=4_096) as gateway:
        for size, status in ((4_096, passes), (4_097, b" 431 "), (4_096, passes)):
            async with Peer(str(gateway.http.base_url)) as peer:
                await peer.send(head(size, **fields))
                assert status in await peer.until(b"\r\n")


# JSON


def metadata(size: int) -> Json:
    """Make up metadata that is so many bytes of JSON."""
    made = {"이름": "안" * ((size - 14) // 3) + "x" * ((size - 14) % 3)}
    assert len(json.dumps(made, ensure_ascii=False).encode()) == size
    return made


async def test_metadata_has_so_many_bytes_however_it_is_written(limited: Begin) -> None:
    async with limited(max_metadata_bytes=100) as gateway:
        given = {"metadata": metadata(100)}
        for text in (json.dumps(given), json.dumps(given, ensure_ascii=False, indent=9)):
            status, session = await post(gateway, "/api/sessions", text)
            assert (status, session["metadata"]) == (201, given["metadata"])
        refused = await gateway.http.post("/api/sessions", json={"metadata": metadata(101)})
        told = problem(refused, 422, "bad_frame")
        assert told["detail"] == "metadata: at most 100 bytes of JSON are allowed, given 101"
        for text in ("{}", '{"metadata": {}}', '{"metadata": null}', ""):
            assert (await post(gateway, "/api/sessions", text))[0] == 201


def nested(depth: int) -> Any:
    """Make up a value inside so many objects and lists."""
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"k": value}
    return value


async def test_json_is_nested_so_deeply_and_no_deeper(limited: Begin, model: ScriptedModel) -> None:
    model.autoreply(lambda messages: ["네"])
    told = "This JSON is nested more than 5 levels deep."
    async with limited(max_json_depth=5) as gateway, gateway.tab() as tab:
        # The frame, or the body, is itself one level.
        await tab.send(type="ping", request_id="r1", more=nested(4))
        assert (await tab.next("pong"))["request_id"] == "r1"
        error = await tab.refused(type="ping", more=nested(5))
        assert (error["code"], error["message"]) == ("bad_json", told)
        for path, body, status in (
            ("/api/sessions", {}, 201),
            ("/api/chat", {"session_id": tab.session_id, "message": "안녕"}, 200),
            (f"/api/sessions/{tab.session_id}/cancel", {}, 409),
        ):
            passes = await gateway.http.post(path, json=body | {"metadata": {"k": nested(3)}})
            assert passes.status_code == status
            refused = await gateway.http.post(path, json=body | {"metadata": {"k": nested(4)}})
            assert problem(refused, 422, "bad_json")["detail"] == told
        await answers(tab)
