"""What the simulator says, and what a directive means: nothing here needs a loop."""

import json
import unicodedata
from dataclasses import fields, replace
from pathlib import Path

import pytest

from llm.simulator import SimulatorSettings, faults, wire
from llm.simulator.faults import BadDirective, Faults, directed, parse_faults, without_directives
from llm.simulator.plan import Ending, plan_reply, stretched
from llm.simulator.request import Message
from llm.simulator.script import improvised, pieces_of

RECORDINGS = Path(__file__).parents[1] / "wire" / "midm"

QUESTIONS = (
    "안녕하세요!",
    "서울 날씨 어때?",
    "Hello",
    "How do I sort a list?",
    "",
    "漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    '{topic} "quoted" \\ and \u2028 odd\nlines',
)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def said(*texts: str) -> str:
    return "".join(improvised([user(text) for text in texts]))


def test_it_answers_in_the_language_of_the_last_question_and_says_that_it_is_simulated() -> None:
    assert said("What is love?", "사랑이 뭐야?").startswith("[모의 응답] ")
    assert said("사랑이 뭐야?", "What is love?").startswith("[simulated] ")


def test_it_greets_who_greets_and_takes_up_the_question() -> None:
    assert said("안녕하세요").startswith(("[모의 응답] 안녕하세요!", "[모의 응답] 반갑습니다!"))
    assert said("hello").startswith(("[simulated] Hello!", "[simulated] Hi there!"))
    assert '"서울 날씨 어때?"' in said("서울 날씨 어때?")


def test_equal_conversations_get_equal_replies_and_other_turns_other_ones() -> None:
    assert said("a", "b") == said("a", "b")
    replies = [
        said("서울 날씨"),
        said("서울 날씨", "서울 날씨"),
        said("부산 날씨"),
        said("서울", "날씨"),
    ]
    assert len(set(replies)) == len(replies)


def test_a_directive_does_not_change_what_is_said() -> None:
    assert said("hello #sim cut_at=3# there") == said("hello  there")


def test_nobody_asked_nothing_said() -> None:
    assert improvised([Message(role="system", content="Be kind.")]) == ()


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_reply_has_30_to_80_pieces(question: str) -> None:
    for variation in range(100):
        assert 30 <= len(improvised([user(question), user(f"{question} {variation}")])) <= 80
        assert 30 <= len(improvised([user(str(variation)), user(question)])) <= 80


def test_now_and_then_there_is_an_emoji_a_newline_a_quote_and_a_code_block() -> None:
    everything = "".join(said(f"{word} {n}") for n in range(40) for word in ("hello", "안녕"))
    assert {"\n", '"', "'", "對"} <= set(everything)
    assert "```python" in everything
    assert any(unicodedata.category(character) == "So" for character in everything)


@pytest.mark.parametrize(
    "name", ["ok_ko", "ok_en", "ok_long", "ok_cjk", "ok_cleanup", "ok_nospace"]
)
def test_text_falls_into_the_pieces_that_midm_released(name: str) -> None:
    recorded = (RECORDINGS / f"stream_{name}.resp").read_bytes().splitlines()
    events = [
        json.loads(line[6:]) for line in recorded if line.startswith(b'data: {"type": "chunk"')
    ]
    pieces = tuple(event["content"] for event in events)
    assert pieces_of("".join(pieces)) == pieces


def test_a_short_reply_is_stretched_by_saying_it_again() -> None:
    assert stretched(["a ", "b."], 5) == ("a ", "b. ", "a ", "b. ", "a ")
    assert stretched(["a ", "b."], 2) == ("a ", "b.")
    assert stretched(["a ", "b."], 0) == stretched([], 3) == ()


def test_directives_are_found_anywhere_and_merged() -> None:
    text = 'one #sim pieces=3 junk=1# two #sim message="out of memory" error_at=2# three'
    wanted = replace(Faults(), pieces=3, junk=True, message="out of memory", error_at=2)
    assert directed(text, Faults()) == wanted
    assert without_directives("one #sim pieces=3# two") == "one  two"


def test_a_directive_without_its_end_ends_with_its_line() -> None:
    assert directed("hello #sim pieces=3\nmore #text", Faults()).pieces == 3
    assert without_directives("hello #sim pieces=3\nmore #text") == "hello \nmore #text"


def test_other_hash_signs_are_just_text() -> None:
    assert directed("#simple and #1 and C#", Faults()) == Faults()


def test_off_undoes_what_the_server_wants_of_every_call() -> None:
    every_call = SimulatorSettings(faults="cut_at=3 pieces=9").every_call()
    assert (every_call.cut_at, every_call.pieces) == (3, 9)
    assert directed("#sim cut_at=off#", every_call) == replace(every_call, cut_at=None)


@pytest.mark.parametrize(
    ("pair", "key"),
    [
        ("nonsense=1", "nonsense"),
        ("pieces", "pieces"),
        ("pieces=-1", "pieces"),
        ("pieces=100001", "pieces"),
        ("cut_at=soon", "cut_at"),
        ("interval_ms=nan", "interval_ms"),
        ("delay_ms=600001", "delay_ms"),
        ("junk=yes", "junk"),
        ("status=200", "status"),
    ],
)
def test_a_pair_that_makes_no_sense_is_refused_by_name(pair: str, key: str) -> None:
    with pytest.raises(BadDirective) as refused:
        parse_faults(f"delay_ms=1 {pair}", Faults())
    assert refused.value.key == key
    assert pair in str(refused.value)


def test_settings_are_checked_where_they_are_made() -> None:
    with pytest.raises(ValueError, match="unknown key"):
        SimulatorSettings(faults="nonsense=1")
    with pytest.raises(ValueError, match="interval_ms"):
        SimulatorSettings(interval_ms=-1)


def test_every_key_is_in_the_table_of_the_documentation() -> None:
    assert faults.__doc__ is not None
    for field in fields(Faults):
        assert f"| `{field.name}`" in faults.__doc__


def test_a_reply_shorter_than_its_fault_meets_it_at_its_end() -> None:
    plan = plan_reply(["a ", "b."], limit=9, faults=replace(Faults(), cut_at=5))
    assert (plan.pieces, plan.ending) == (("a ", "b."), Ending.CUT)


def test_of_two_faults_the_earlier_counts() -> None:
    plan = plan_reply(["a ", "b."], limit=9, faults=replace(Faults(), stall_at=2, error_at=1))
    assert (plan.pieces, plan.ending) == (("a ",), Ending.ERROR)


def test_a_reply_cut_by_the_limit_has_no_end_token() -> None:
    short = plan_reply(["a ", "b "], limit=2, faults=Faults())
    whole = plan_reply(["a ", "b "], limit=3, faults=Faults())
    assert json.loads(short.whole([]))["usage"]["completion_tokens"] == 2
    assert json.loads(whole.whole([]))["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("text", ["안녕 세상", "é", "plain"])
def test_a_split_event_is_the_same_event(text: str) -> None:
    (event,) = wire.chunk_events([text])
    parts = wire.cut_inside_characters(event)
    assert b"".join(parts) == event
    assert len(parts) > 1


def test_a_split_event_is_cut_inside_its_characters() -> None:
    (event,) = wire.chunk_events(["안녕 세상"])
    for part in wire.cut_inside_characters(event):
        with pytest.raises(UnicodeDecodeError):
            part.decode()
