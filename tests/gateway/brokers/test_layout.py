"""The scripts, one by one: what they refuse, and what they leave in Redis."""

from collections.abc import AsyncIterator

import pytest

from gateway.brokers.layout import DELETED, MISSING, NOT_HEARD, Layout, News
from gateway.nodes.link import Call, Link, open_link
from protocol.cursor import END, Cursor
from tests.gateway.brokers.nodes import LINK

S = "a-session"


@pytest.fixture
async def link(redis_url: str, redis_prefix: str) -> AsyncIterator[Link]:
    async with open_link(redis_url, prefix=redis_prefix, node="n1", times=LINK) as link:
        yield link


@pytest.fixture
def layout(link: Link) -> Layout:
    return Layout(link.prefix, link.node, ttl_ms=20_000)


async def put(link: Link, layout: Layout, head: str) -> None:
    await link._connected().ask(("SET", layout.head(S), head, "PX", 20_000))


async def found(link: Link, layout: Layout) -> tuple[str | None, list[dict[str, str]]]:
    """The head and the entries of the stream."""
    [head] = await link.get_all([layout.head(S)])
    return head, [fields for _, fields in await link.entries(layout.turn(S), "")]


async def ran(link: Link, call: Call) -> object:
    [answer] = await link.run_all([call])
    return answer


@pytest.mark.parametrize("head", [None, "6.1.end", "6.2.7", "7.1.5", "7.2.0", "7.2.9", "nonsense"])
async def test_an_attempt_begins_over_what_is_older_or_its_own(
    link: Link, layout: Layout, head: str | None
) -> None:
    if head is not None:
        await put(link, layout, head)
    entries = [("begin", "{}"), ("place", "1 "), ("notice", "{}"), ("text", "one")]
    assert await ran(link, layout.begin(S, Cursor(7, 2, 3), entries)) == 0  # type: ignore[arg-type]
    kept = [{"begin": "{}"}, {"place": "1 "}, {"text": "one"}]
    assert await found(link, layout) == ("7.2.3", kept)


@pytest.mark.parametrize("head", ["7.2.end", "7.3.0", "8.1.0", "8.1.end", "10.1.0", DELETED])
async def test_an_attempt_does_not_begin_where_it_is_over_or_outdated(
    link: Link, layout: Layout, head: str
) -> None:
    await put(link, layout, head)
    assert await ran(link, layout.begin(S, Cursor(7, 2, 0), [("begin", "{}")])) == head
    assert await found(link, layout) == (head, [])


@pytest.mark.parametrize("head", ["7.2.2", "7.2.4", "7.2.end", "7.1.3", "7.3.0", DELETED, None])
async def test_text_is_added_only_where_it_fits(
    link: Link, layout: Layout, head: str | None
) -> None:
    await ran(link, layout.begin(S, Cursor(7, 2, 3), [("begin", "{}")]))
    await link._connected().ask(("DEL", layout.head(S)))
    if head is not None:
        await put(link, layout, head)
    since, upto = Cursor(7, 2, 3), Cursor(7, 2, 5)
    call = layout.go_on(S, [("text", "xx")], since=since, upto=upto)
    assert await ran(link, call) == (head or MISSING)
    assert await found(link, layout) == (head, [{"begin": "{}"}])
    await put(link, layout, "7.2.3")
    assert await ran(link, call) == 0
    assert await found(link, layout) == ("7.2.5", [{"begin": "{}"}, {"text": "xx"}])


async def test_nothing_is_added_to_a_stream_that_is_gone(link: Link, layout: Layout) -> None:
    await put(link, layout, "7.2.3")
    since, upto = Cursor(7, 2, 3), Cursor(7, 2, 5)
    call = layout.go_on(S, [("text", "xx")], since=since, upto=upto)
    assert await ran(link, call) == MISSING
    assert await found(link, layout) == ("7.2.3", [])


async def test_refreshing_says_nothing(link: Link, layout: Layout) -> None:
    await ran(link, layout.begin(S, Cursor(7, 2, 3), [("begin", "{}")]))
    since = Cursor(7, 2, 3)
    assert await ran(link, layout.go_on(S, [], since=since, upto=since)) == NOT_HEARD
    assert await found(link, layout) == ("7.2.3", [{"begin": "{}"}])


@pytest.mark.parametrize("head", [None, "7.2.9", "7.2.end", "7.1.3", "6.1.0"])
async def test_an_end_is_noted_and_the_stream_is_gone(
    link: Link, layout: Layout, head: str | None
) -> None:
    await ran(link, layout.begin(S, Cursor(5, 1, 0), [("begin", "{}")]))
    if head is not None:
        await put(link, layout, head)
    assert await ran(link, layout.end(S, 7, 2, [("text", "xx"), ("end", "9 {}")])) == 0
    assert await found(link, layout) == ("7.2.end", [])


@pytest.mark.parametrize("head", ["7.3.0", "8.1.end", DELETED])
async def test_the_end_of_what_is_outdated_is_refused(
    link: Link, layout: Layout, head: str
) -> None:
    await ran(link, layout.begin(S, Cursor(5, 1, 0), [("begin", "{}")]))
    await put(link, layout, head)
    assert await ran(link, layout.end(S, 7, 2, [("end", "9 {}")])) == head
    assert await found(link, layout) == (head, [{"begin": "{}"}])


async def test_what_is_deleted_stays_deleted(link: Link, layout: Layout) -> None:
    await ran(link, layout.begin(S, Cursor(7, 2, 0), [("begin", "{}")]))
    await ran(link, layout.drop(S))
    assert await found(link, layout) == (DELETED, [])
    await ran(link, layout.begin(S, Cursor(9, 1, 0), [("begin", "{}")]))
    assert await found(link, layout) == (DELETED, [])


def test_news_are_read_as_the_scripts_write_them() -> None:
    assert News.parse('n1 7.2 text {"a b": 1}') == News("n1", 7, 2, "text", '{"a b": 1}')
    assert News.parse("n1 0.0 look ") == News("n1", 0, 0, "look", "")
    for nonsense in ("", "n1 7.2 text", "n1 7 text {}", "n1 x.y text {}"):
        with pytest.raises(ValueError, match=r"unpack|invalid literal"):
            News.parse(nonsense)


@pytest.mark.parametrize("node", ["", "two words"])
def test_a_node_is_named_by_one_word(node: str) -> None:
    with pytest.raises(ValueError, match="one word"):
        Layout("p", node, ttl_ms=1)


def test_a_session_s_keys_lie_together() -> None:
    layout = Layout("p", "n1", ttl_ms=1)
    names = (layout.head(S), layout.turn(S), layout.news(S))
    assert names == ("p:head:{a-session}", "p:turn:{a-session}", "p:news:{a-session}")
    assert str(Cursor(7, 2, END)) == "7.2.end"
