"""The link to Redis on a real server: what is asked, what is heard, and what goes wrong."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from gateway.nodes.link import (
    BrokerAway,
    Call,
    Link,
    LinkTimes,
    Script,
    ScriptFailed,
    open_link,
)
from tests.servers.redis import RedisServer, redis_server

ECHO = Script("echo", "return ARGV[1]")
FAIL = Script("fail", "return redis.call('INCR', KEYS[1], 'too', 'many')")
TELL = Script("tell", "return redis.call('PUBLISH', KEYS[1], ARGV[1])")
PUT = Script("put", "return redis.call('SET', KEYS[1], ARGV[1], 'EX', 60)")
ADD = Script("add", "return redis.call('XADD', KEYS[1], '*', 'text', ARGV[1])")
FLUSH = Script("flush", "return redis.call('SCRIPT', 'FLUSH')")
SLEEP = Script("sleep", "local n = 0; for i = 1, tonumber(ARGV[1]) do n = n + i end; return n")
QUICK = LinkTimes(connect_s=0.5, answer_s=0.4, first_retry_s=0.02, last_retry_s=0.1)


@asynccontextmanager
async def linked(url: str, prefix: str = "test", times: LinkTimes = QUICK) -> AsyncIterator[Link]:
    with anyio.fail_after(30):
        async with open_link(url, prefix=prefix, node="n1", times=times) as link:
            yield link


@pytest.fixture
async def link(redis_url: str, redis_prefix: str) -> AsyncIterator[Link]:
    async with linked(redis_url, redis_prefix, LinkTimes()) as link:
        yield link


class Ear:
    """Keeps what it hears; `until` waits for a message."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.stood = 0
        self._news = asyncio.Event()

    def hear(self, message: str) -> None:
        self.heard.append(message)
        self._news.set()

    def stand(self) -> None:
        self.stood += 1
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        with anyio.fail_after(10):
            while not condition():
                await self._news.wait()
                self._news.clear()


async def regained(link: Link) -> Awaitable[object]:
    """Something to wait for until the link is made again."""
    back = asyncio.Event()
    link.when_up(back.set)
    return back.wait()


def is_up(link: Link) -> bool:
    """Ask anew; mypy takes what was asserted once for a lasting truth."""
    return link.up


async def away(ask: Callable[[], Awaitable[object]]) -> None:
    """Ask until it fails as it is to fail."""
    while True:
        try:
            await ask()
        except BrokerAway:
            return


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nobody announces."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 -- there is no event for it
            await asyncio.sleep(0.005)


# Asking


async def test_a_script_is_loaded_when_it_is_first_run(link: Link) -> None:
    assert link.up
    assert await link.run(ECHO, [], ["안녕 😀"]) == "안녕 😀"
    assert await link.run(ECHO, [], [7]) == "7"
    assert await link.run(ECHO, [], [0.5]) == "0.5"


async def test_scripts_that_somebody_flushed_are_loaded_again(link: Link) -> None:
    await link.run(ECHO, [], ["once"])
    await link._connected().ask(("SCRIPT", "FLUSH"))
    assert await link.run(ECHO, [], ["more"]) == "more"
    await link._connected().ask(("SCRIPT", "FLUSH"))
    calls = [Call(ECHO, [], [str(n)]) for n in range(3)]
    assert await link.run_all(calls) == ["0", "1", "2"]


async def test_calls_go_in_one_go_and_a_failure_stays_in_its_place(link: Link) -> None:
    key = link.key("k")
    one, failed, three = await link.run_all(
        [Call(ECHO, [], ["one"]), Call(FAIL, [key]), Call(ECHO, [], ["three"])]
    )
    assert (one, three) == ("one", "three")
    assert isinstance(failed, ScriptFailed)
    with pytest.raises(ScriptFailed):
        await link.run(FAIL, [key], [])
    assert await link.run_all([]) == []


async def test_strings_are_read_in_one_go(link: Link) -> None:
    keys = [link.key(name) for name in ("a", "b", "c")]
    await link.run(PUT, [keys[0]], ["x"])
    await link.run(PUT, [keys[2]], ["z"])
    assert await link.get_all(keys) == ["x", None, "z"]
    assert await link.get_all([]) == []


async def test_a_stream_is_read_in_parts(link: Link) -> None:
    key = link.key("stream")
    await link.run_all([Call(ADD, [key], [str(n)]) for n in range(600)])
    some = await link.entries(key, "")
    assert [fields for _, fields in some] == [{"text": str(n)} for n in range(512)]
    rest = await link.entries(key, some[-1][0])
    assert [fields["text"] for _, fields in rest] == [str(n) for n in range(512, 600)]
    assert await link.entries(key, rest[-1][0]) == []
    assert await link.entries(link.key("nothing"), "") == []


async def test_what_is_no_stream_is_no_news_of_redis_but_of_the_broker(link: Link) -> None:
    await link.run(PUT, [link.key("k")], ["x"])
    with pytest.raises(BrokerAway):
        await link.entries(link.key("k"), "")


async def test_giving_up_waiting_leaves_the_connection_in_step(link: Link) -> None:
    """Hundreds of those who ask are cancelled at random; nobody gets another's answer."""
    dice = random.Random(7)
    right = 0

    async def ask(name: str) -> None:
        nonlocal right
        calls = [Call(ECHO, [], [f"{name}-{n}"]) for n in range(dice.randrange(1, 4))]
        assert await link.run_all(calls) == [call.args[0] for call in calls]
        right += 1

    async with asyncio.TaskGroup() as tasks:
        for n in range(900):
            task = tasks.create_task(ask(str(n)))
            if n % 3:
                asyncio.get_running_loop().call_later(dice.random() * 0.002, task.cancel)
            if n % 10 == 0:
                await asyncio.sleep(dice.random() * 0.002)
    assert 300 <= right < 900, "some were cancelled in time, and nobody else was"
    assert await link.run(ECHO, [], ["still in step"]) == "still in step"
    assert link.times_connected == 1, "on the very same connection"


async def test_too_many_questions_are_refused(link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.nodes.asking.MAX_WAITING", 3)
    answers = await asyncio.gather(
        *(link.run(ECHO, [], [str(n)]) for n in range(5)), return_exceptions=True
    )
    assert answers[:3] == ["0", "1", "2"]
    assert [type(answer) for answer in answers[3:]] == [BrokerAway, BrokerAway]


# Hearing


async def test_what_is_published_is_heard_once_the_subscription_stands(link: Link) -> None:
    ear, other = Ear(), Ear()
    channel = link.key("news")
    link.subscribe(channel, ear.hear, ear.stand)
    link.subscribe(link.key("other"), other.hear)
    await ear.until(lambda: ear.stood == 1)
    assert await link.run(TELL, [channel], ["hello"]) == 1
    await ear.until(lambda: ear.heard == ["hello"])
    assert other.heard == []


async def test_what_is_unsubscribed_is_not_heard(link: Link) -> None:
    ear = Ear()
    link.subscribe(link.key("a"), ear.hear, ear.stand)
    link.subscribe(link.key("b"), ear.hear, ear.stand)
    await ear.until(lambda: ear.stood == 2)
    link.unsubscribe(link.key("a"))
    link.unsubscribe(link.key("a"))
    while await link.run(TELL, [link.key("a")], ["gone"]):
        pass
    await link.run(TELL, [link.key("b")], ["here"])
    await ear.until(lambda: "here" in ear.heard)
    assert set(ear.heard) <= {"here"}


async def test_subscribing_again_stands_again(link: Link) -> None:
    ear = Ear()
    for times in range(1, 4):
        link.subscribe(link.key("a"), ear.hear, ear.stand)
        await ear.until(lambda times=times: ear.stood == times)  # type: ignore[misc]
    link.unsubscribe(link.key("a"))
    link.subscribe(link.key("a"), ear.hear, ear.stand)
    await ear.until(lambda: ear.stood == 4)
    assert await link.run(TELL, [link.key("a")], ["x"]) == 1


async def test_a_listener_that_breaks_disturbs_nobody(
    link: Link, caplog: pytest.LogCaptureFixture
) -> None:
    ear = Ear()

    def break_down(_: str) -> None:
        raise ValueError("broken")

    link.subscribe(link.key("a"), break_down, ear.stand)
    link.subscribe(link.key("b"), ear.hear, ear.stand)
    await ear.until(lambda: ear.stood == 2)
    await link.run(TELL, [link.key("a")], ["x"])
    await link.run(TELL, [link.key("b")], ["y"])
    await ear.until(lambda: ear.heard == ["y"])
    assert "could not be dealt with" in caplog.text
    assert link.times_connected == 1


async def test_ten_thousand_channels_stand_again_after_a_restart(own_redis: RedisServer) -> None:
    ear = Ear()
    async with linked(own_redis.url, times=LinkTimes(first_retry_s=0.02)) as link:
        for n in range(10_000):
            link.subscribe(link.key(str(n)), ear.hear, ear.stand)
        await ear.until(lambda: ear.stood == 10_000)
        back = await regained(link)
        own_redis.restart()
        await back
        assert ear.stood == 20_000, "before the link says that it is up"
        assert await link.run(TELL, [link.key("9999")], ["x"]) == 1


# What goes wrong


async def test_a_server_that_is_killed_is_away_and_comes_back(own_redis: RedisServer) -> None:
    ear = Ear()
    async with linked(own_redis.url) as link:
        link.subscribe(link.key("a"), ear.hear, ear.stand)
        await ear.until(lambda: ear.stood == 1)
        own_redis.kill()
        await away(lambda: link.run(ECHO, [], ["x"]))
        assert is_up(link) is False
        with pytest.raises(BrokerAway):
            await link.get_all(["a"])
        # Named while nobody can be told: all the same.
        link.subscribe(link.key("b"), ear.hear, ear.stand)
        back = await regained(link)
        own_redis.start()
        await back
        assert is_up(link)
        assert link.times_connected == 2
        assert ear.stood == 3
        assert await link.run(ECHO, [], ["x"]) == "x", "scripts are loaded anew"
        assert await link.run(TELL, [link.key("b")], ["x"]) == 1


async def test_a_server_that_freezes_is_noticed_and_found_again(own_redis: RedisServer) -> None:
    async with linked(own_redis.url) as link:
        assert link.up
        back = await regained(link)
        own_redis.pause()
        began = asyncio.get_running_loop().time()
        with pytest.raises(BrokerAway):
            await link.run(ECHO, [], ["x"])
        took = asyncio.get_running_loop().time() - began
        assert QUICK.answer_s <= took < QUICK.answer_s * 2
        assert is_up(link) is False
        own_redis.resume()
        await back
        assert await link.run(ECHO, [], ["x"]) == "x"


async def test_commands_alone_may_be_left_unanswered(own_redis: RedisServer) -> None:
    async with linked(own_redis.url) as link:
        back = await regained(link)
        await link._connected().ask(("CLIENT", "PAUSE", 1_500, "WRITE"))
        with pytest.raises(BrokerAway):
            await link.run(PUT, [link.key("k")], ["x"])
        await back
        assert link.times_connected == 2


async def test_an_idle_link_notices_too_that_the_server_froze(own_redis: RedisServer) -> None:
    async with linked(own_redis.url) as link:
        back = await regained(link)
        own_redis.pause()
        await until(lambda: not link.up)
        own_redis.resume()
        await back


async def test_a_process_that_stood_still_does_not_blame_the_server(own_redis: RedisServer) -> None:
    async with linked(own_redis.url) as link:
        answer = asyncio.ensure_future(link.run(ECHO, [], ["x"]))
        await asyncio.sleep(0)
        until = asyncio.get_running_loop().time() + QUICK.answer_s * 2
        while asyncio.get_running_loop().time() < until:
            pass
        assert await answer == "x"
        assert link.times_connected == 1


async def test_a_server_that_is_away_at_first_is_waited_for(own_redis: RedisServer) -> None:
    own_redis.kill()
    async with linked(own_redis.url) as link:
        assert is_up(link) is False
        with pytest.raises(BrokerAway):
            await link.run(ECHO, [], ["x"])
        back = await regained(link)
        own_redis.start()
        await back
        assert await link.run(ECHO, [], ["x"]) == "x"


@pytest.mark.parametrize("state", ["there", "frozen", "killed"])
async def test_closing_takes_no_time_whatever_the_server_does(
    own_redis: RedisServer, state: str
) -> None:
    async with linked(own_redis.url) as link:
        waiting = asyncio.ensure_future(link.run(SLEEP, [], [30_000_000]))
        await asyncio.sleep(0)
        if state == "frozen":
            own_redis.pause()
        elif state == "killed":
            own_redis.kill()
        closing = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - closing < 0.5
    with pytest.raises(BrokerAway):
        await waiting
    with pytest.raises(BrokerAway):
        await link.run(ECHO, [], ["x"])


async def test_what_is_asked_of_a_frozen_server_is_not_held_back(own_redis: RedisServer) -> None:
    """More than the system takes: whoever writes is stuck, and yet everybody gets an answer."""
    async with linked(own_redis.url) as link:
        own_redis.pause()
        text = "x" * 1_000_000
        answers = await asyncio.gather(
            *(link.run(ECHO, [], [text]) for _ in range(30)), return_exceptions=True
        )
        assert {type(answer) for answer in answers} == {BrokerAway}
        own_redis.resume()


async def test_passwords_are_used_and_never_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with redis_server(password="hunter2/#") as server:
        url = server.url.replace("hunter2/#", "hunter2%2F%23")
        async with linked(url) as link:
            assert await link.run(ECHO, [], ["x"]) == "x"
            server.kill()
            await away(lambda: link.run(ECHO, [], ["x"]))
        server.start()
        async with linked(url.replace("hunter2", "hunter3")) as link:
            with pytest.raises(BrokerAway) as refused:
                await link.run(ECHO, [], ["x"])
    assert "Redis is away: AuthenticationError" in caplog.text
    assert "hunter" not in caplog.text + str(refused.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1", "redis://:hunter2/x@127.0.0.1", "redis://h:x"])
async def test_what_is_no_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="not a URL of Redis") as refused:
        async with linked(url):
            pass
    told: Any = refused.value
    assert "hunter2" not in str(told)
    assert told.__suppress_context__


@pytest.mark.parametrize("turns_of_the_loop", range(0, 40, 4))
async def test_a_link_closes_although_redis_goes_in_the_same_moment(
    own_redis: RedisServer, redis_prefix: str, turns_of_the_loop: int
) -> None:
    with anyio.fail_after(10):
        async with open_link(own_redis.url, prefix=redis_prefix, node="north"):
            own_redis.kill()
            for _ in range(turns_of_the_loop):
                await anyio.lowlevel.checkpoint()
