"""Whatever happens to a session, in whatever order: every reader folds what is stored.

Each example is a list of steps, run one after the other on a real database file, in one event loop;
`log_world` does them. `LOG_EXAMPLES` asks for more examples than the usual ones, and for other ones
each time.
"""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from protocol.server_frames import MAX_EVENT_CHARS
from storage import sessions
from storage.migrations import migrate
from storage.sqlite_file import open_sqlite
from tests.gateway.log_world import CLIENTS, SESSION, World, check

LIMIT = MAX_EVENT_CHARS

# What may happen

_text = st.text(st.sampled_from("a가 \n😀e\u0301\u2028"), min_size=1, max_size=6)
# Now and then more than fits one event, and more than a reader takes at once.
_times = st.sampled_from([1] * 8 + [LIMIT - 1, LIMIT, LIMIT + 1, 5 * LIMIT])
_KINDS = {
    "advance": st.tuples(
        st.just("advance"), st.sampled_from(["stop", "cancelled", "failed"]), st.booleans()
    ),
    "append": st.tuples(st.just("append"), _text, _times),
    "place": st.tuples(st.just("place"), st.integers(0, 2)),
    "process": st.sampled_from(
        [("checkpoint",), ("checkpoint",), ("crash", True), ("crash", False)]
    ),
    "client": st.tuples(
        st.just("client"),
        st.integers(0, CLIENTS - 1),
        st.sampled_from(
            [
                *("read", "read", "read", "read all", "read all", "begin to read"),
                *("begin to read", "end reading", "give up reading", "receive", "disconnect"),
            ]
        ),
        st.integers(0, 3),
    ),
}
# Not `one_of`, for which an alternative said twice is said once.
_step = st.sampled_from(
    ["advance"] * 3 + ["append"] * 4 + ["place", "process"] + ["client"] * 9
).flatmap(_KINDS.__getitem__)
# A list of lists comes out longer than a list, and shrinks as well.
_steps = st.lists(st.lists(_step, max_size=12), max_size=12).map(
    lambda parts: list(chain.from_iterable(parts))
)

BEGIN, END = ("client", 0, "begin to read", 0), ("client", 0, "end reading", 0)
READ = ("client", 0, "read all", 0)
ADVANCE = ("advance", "stop", False)


@example(
    # A read that finds nothing in storage while a whole turn goes by.
    [BEGIN, ADVANCE, ADVANCE, ("append", "a", 1), ADVANCE, ADVANCE, END, READ]
)
@example(
    # Cut off in the middle of a reply, back in the middle of the next attempt.
    [
        READ,
        ("append", "one ", 1),
        READ,
        ("checkpoint",),
        ("crash", True),
        ("append", "two", 1),
        READ,
    ]
)
@example(
    # Cut off in the middle of a reply that is ended by the next process, which keeps some of it.
    [READ, ("append", "one ", 1), READ, ("checkpoint",), ("crash", False), READ]
)
@example(
    # Behind by a whole turn when the next one has begun.
    [
        READ,
        ("append", "a", 1),
        ADVANCE,
        ADVANCE,
        ("append", "b", 1),
        ADVANCE,
        ADVANCE,
        ("append", "c", 1),
    ]
)
@settings(
    max_examples=int(os.environ.get("LOG_EXAMPLES", "80")),
    derandomize="LOG_EXAMPLES" not in os.environ,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(_steps)
def test_every_reader_folds_what_is_stored(steps: list[tuple[Any, ...]]) -> None:
    async def run() -> None:
        async with _a_session() as world:
            for step in steps:
                await world.run(step)
                world.check_idle()
            await world.settle()
            check(world)

    with asyncio.Runner() as runner:
        runner.run(run())


@asynccontextmanager
async def _a_session() -> AsyncIterator[World]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "chat.db"
        async with open_sqlite(path, readers=1) as database:
            await migrate(database)
            await database.write(sessions.create(SESSION, {}))
            world = World(database, path)
            try:
                yield world
            finally:
                for client in world.clients:
                    await client.disconnect()
