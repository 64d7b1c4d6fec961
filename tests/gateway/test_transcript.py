"""What is said in a session keeps within its own place in a transcript."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from gateway.transcript import MARKDOWN, json_lines, markdown
from protocol.server_frames import StoredMessage

AT = "2026-01-31T09:30:00.000000Z"
UNRULY = [
    "# a heading",
    "a heading\n---",
    "---",
    "```python\n# code\n\nprint(1)\n```",
    "```\nnever closed",
    "~~~\n> never closed",
    "<!-- never closed",
    "<script>never closed",
    "- a\n\n  - b\n\n1. c",
    "| a |\n|---|\n| b |",
    "\n\n# far down",
    "\r# after\r\n# line ends\n",
    "> quoted\n\nnot quoted",
    "\ttabs\n\n    spaces",
    " ",
]


def message(content: str, **fields: Any) -> StoredMessage:
    given = {
        "message_id": "m1",
        "session_id": "s1",
        "role": "user",
        "content": content,
        "created_at": AT,
        "token_usage": None,
        "turn": 1,
        "finish_reason": None,
    }
    return StoredMessage.model_validate({**given, **fields})


def outline(text: str) -> list[str]:
    """Name what a document consists of, as CommonMark reads it."""
    return [
        f"{token.type.removesuffix('_open')} {token.tag}"
        for token in MarkdownIt("commonmark").parse(text)
        if token.level == 0 and token.nesting >= 0
    ]


def code_in(text: str) -> list[str]:
    return [t.content for t in MarkdownIt("commonmark").parse(text) if t.type == "fence"]


@pytest.mark.parametrize("content", UNRULY)
def test_no_message_reaches_beyond_its_quote(content: str) -> None:
    written = MARKDOWN.heading("s1") + markdown([message(content), message("다음")])
    heading, quote = "heading h2", "blockquote blockquote"
    assert outline(written) == ["heading h1", heading, quote, heading, quote]


@given(st.text() | st.text("#->`~ \n\r\t<![]:*_1.a"))
def test_whatever_is_said_there_are_as_many_headings_as_messages(content: str) -> None:
    written = markdown([message(content), message("다음")])
    assert outline(written).count("heading h2") == 2
    assert set(outline(written)) <= {"heading h2", "blockquote blockquote"}


def test_code_is_what_it_was() -> None:
    code = "# 주석\n\n\tif a > b:\n        print('`')  \n"
    assert code_in(markdown([message(f"이렇게:\n\n```python\n{code}```\n")])) == [code]


def test_a_transcript_says_who_said_what_and_when() -> None:
    reply = message("맑아요", role="assistant", finish_reason="stop")
    assert MARKDOWN.heading("s1") + markdown([message("날씨는?\n\n서울"), reply]) == (
        "# Session s1\n"
        f"\n## User, {AT} (turn 1)\n\n> 날씨는?\n>\n> 서울\n"
        f"\n## Assistant, {AT} (turn 1)\n\n> 맑아요\n"
    )


@pytest.mark.parametrize("reason", ["length", "cancelled", "error", "interrupted"])
def test_a_reply_that_did_not_end_by_itself_says_so(reason: str) -> None:
    [title, *_] = markdown([message("", role="assistant", finish_reason=reason)]).split("\n")[1:]
    assert title == f"## Assistant, {AT} (turn 1, {reason})"


def test_what_is_replaced_says_by_what() -> None:
    assert "(turn 1, replaced by turn 3)" in markdown([message("a", replaced_by=3)])


def test_what_belongs_to_no_turn_names_none() -> None:
    assert f"## System, {AT}\n" in markdown([message("a", role="system", turn=None)])


def test_the_name_of_a_session_stays_on_its_line() -> None:
    assert MARKDOWN.heading("a\n# b") == "# Session a\\n# b\n"


def test_each_line_is_a_message_whatever_is_in_it() -> None:
    contents = ["a\nb\r\nc", "\u2028\u2029\x85", '"\\', "👋🏽"]
    lines = json_lines([message(content) for content in contents]).split("\n")
    assert lines.pop() == ""
    assert [json.loads(line)["content"] for line in lines] == contents
