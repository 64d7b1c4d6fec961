"""What a client has to know to lose nothing and to do nothing twice."""

from typing import Any

from gateway.talk.dialogue import MAX_WAITING, Dialogue
from gateway.talk.shown import Began, Ended, Refused, Said, Shown, Told, Void

Json = dict[str, Any]


def ready(**fields: Any) -> Json:
    first = {"type": "ready", "session_id": "s", "created": True, "resumed": False, "turn": None}
    return {**first, "cursor": "0.0.end", **fields}


def start(turn: int = 1, attempt: int = 1, **fields: Any) -> Json:
    asked = {"message_id": "q", "content": "안녕", "created_at": "2026-11-27T12:00:00Z"}
    begins = {"type": "start", "id": f"{turn}.{attempt}.0", "turn": turn, "attempt": attempt}
    return {**begins, "message_id": "m", "user_message": asked, **fields}


def token(content: str, place: str = "1.1.2") -> Json:
    return {"type": "token", "id": place, "turn": 1, "content": content, "token_count": 1}


def complete(reason: str = "stop") -> Json:
    return {"type": "complete", "id": "1.1.end", "turn": 1, "finish_reason": reason}


def accepted(frame: Json, **fields: Any) -> Json:
    said = {"type": "accepted", "turn": 1, "duplicate": False, "status": "running"}
    return {**said, "request_id": frame["request_id"], **fields}


def asked(message: str = "안녕") -> tuple[Dialogue, Json]:
    """A dialogue that has sent a question."""
    dialogue = Dialogue()
    dialogue.ask({"type": "chat", "message": message})
    dialogue.hear(ready())
    [frame] = dialogue.due()
    return dialogue, frame


def hear_all(dialogue: Dialogue, *frames: Json) -> list[Shown]:
    return [shown for frame in frames for shown in dialogue.hear(frame)]


def test_nothing_is_sent_before_the_session_is_known() -> None:
    dialogue = Dialogue()
    dialogue.ask({"type": "chat", "message": "안녕"})
    assert dialogue.due() == []
    dialogue.hear(ready())
    assert [frame["message"] for frame in dialogue.due()] == ["안녕"]
    assert dialogue.due() == []


def test_what_was_not_accepted_is_sent_again_with_the_same_id() -> None:
    dialogue, frame = asked()
    dialogue.lost()
    assert dialogue.due() == []
    assert dialogue.query == {"session_id": "s", "after": "0.0.end"}
    dialogue.hear(ready(created=False, resumed=True))
    assert dialogue.due() == [frame]


def test_what_was_accepted_is_not_sent_again() -> None:
    dialogue, frame = asked()
    dialogue.hear(accepted(frame))
    dialogue.lost()
    dialogue.hear(ready(created=False, resumed=True, turn={"turn": 1, "status": "running"}))
    assert dialogue.due() == []


def test_the_next_connection_goes_on_from_the_last_event() -> None:
    dialogue, frame = asked()
    hear_all(dialogue, accepted(frame), start(), token("안녕", "1.1.2"))
    dialogue.lost()
    assert dialogue.query == {"session_id": "s", "after": "1.1.2"}


def test_a_question_waits_until_no_reply_is_open() -> None:
    dialogue, frame = asked()
    dialogue.ask({"type": "chat", "message": "둘"})
    hear_all(dialogue, accepted(frame), start(), token("하"))
    assert dialogue.due() == []
    dialogue.hear(complete())
    assert [frame["message"] for frame in dialogue.due()] == ["둘"]


def test_so_many_questions_wait_and_no_more() -> None:
    dialogue = Dialogue()
    took = [dialogue.ask({"type": "chat", "message": "하나"}) for _ in range(MAX_WAITING + 1)]
    assert took == [True] * MAX_WAITING + [False]


def test_a_reply_is_shown_as_it_comes() -> None:
    dialogue, frame = asked()
    shown = hear_all(dialogue, accepted(frame), start(), token("안"), token("녕"), complete())
    assert shown == [Began("안녕"), Said("안"), Said("녕"), Ended(ours=True, well=True)]


def test_a_reply_that_is_run_again_is_not_shown_twice() -> None:
    dialogue, frame = asked()
    hear_all(dialogue, accepted(frame), start(), token("하나 둘"))
    again = [start(attempt=2), token("하나"), token(" 둘 셋"), complete()]
    shown = [what for what in hear_all(dialogue, *again) if not isinstance(what, Told)]
    assert shown == [Said(" 셋"), Ended(ours=True, well=True)]


def test_a_reply_that_comes_out_differently_is_said_to_be_void() -> None:
    dialogue, frame = asked()
    hear_all(dialogue, accepted(frame), start(), token("하나 둘"))
    shown = hear_all(dialogue, start(attempt=2), token("하나"), token(" 넷"), complete())
    assert shown[1:] == [Void(), Said("하나 넷"), Ended(ours=True, well=True)]


def test_a_reply_that_is_shorter_the_second_time_is_void_too() -> None:
    dialogue, frame = asked()
    hear_all(dialogue, accepted(frame), start(), token("하나 둘"))
    shown = hear_all(dialogue, start(attempt=2), token("하나"), complete())
    assert shown[1:] == [Void(), Said("하나"), Ended(ours=True, well=True)]


def test_cancelling_names_the_turn_and_is_said_again_after_a_drop() -> None:
    dialogue, frame = asked()
    hear_all(dialogue, accepted(frame), start())
    assert dialogue.cancel()
    assert dialogue.due() == [{"type": "cancel", "turn": 1}]
    dialogue.lost()
    dialogue.hear(ready(created=False, resumed=True, turn={"turn": 1, "status": "running"}))
    assert dialogue.due() == [{"type": "cancel", "turn": 1}]


def test_what_is_cancelled_before_it_was_accepted_is_stopped_once_it_is() -> None:
    dialogue, frame = asked()
    assert dialogue.cancel()
    assert dialogue.due() == []
    dialogue.hear(accepted(frame))
    assert dialogue.due() == [{"type": "cancel", "turn": 1}]


def test_what_is_cancelled_before_it_was_sent_is_not_sent() -> None:
    dialogue = Dialogue()
    dialogue.ask({"type": "chat", "message": "안녕"})
    assert dialogue.cancel()
    dialogue.hear(ready())
    assert dialogue.due() == []
    assert not dialogue.cancel()


def test_a_refusal_is_told_and_the_question_given_up() -> None:
    dialogue, frame = asked()
    refusal = {"type": "error", "code": "rate_limited", "message": "Slow down.", "retryable": True}
    assert dialogue.hear({**refusal, "request_id": frame["request_id"]}) == [Refused("Slow down.")]
    dialogue.lost()
    dialogue.hear(ready())
    assert dialogue.due() == []


def test_who_restarts_is_asked_again_when_it_is_back() -> None:
    dialogue, frame = asked()
    away = {"type": "error", "code": "shutting_down", "message": "…", "retryable": True}
    assert dialogue.hear({**away, "request_id": frame["request_id"]}) == []
    assert dialogue.due() == []
    dialogue.lost()
    dialogue.hear(ready(created=False, resumed=True))
    assert dialogue.due() == [frame]


def test_the_last_turn_is_asked_again_by_its_number() -> None:
    dialogue, frame = asked()
    hear_all(dialogue, accepted(frame), start(), complete())
    dialogue.ask({"type": "regenerate"})
    [again] = dialogue.due()
    assert again["turn"] == 1


def test_a_reply_that_ended_while_the_way_back_was_lost_is_taken_from_the_history() -> None:
    dialogue, frame = asked()
    hear_all(dialogue, accepted(frame), start(), token("하나"))
    dialogue.lost()
    dialogue.hear(ready(created=False, resumed=False, cursor="1.1.end"))
    [look_up] = dialogue.due()
    kept = {"role": "assistant", "turn": 1, "content": "하나 둘", "finish_reason": "stop"}
    page = {"type": "history", "request_id": look_up["request_id"], "messages": [kept]}
    assert dialogue.hear(page) == [Said(" 둘"), Ended(ours=True, well=True)]
