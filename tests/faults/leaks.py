"""What a process holds: tasks and sockets."""

import asyncio
import os
import stat
from contextlib import suppress
from dataclasses import dataclass

import anyio

WITHIN_S = 5.0
_LOOK_EVERY_S = 0.005


@dataclass(frozen=True)
class Held:
    """The tasks and the number of sockets at one moment."""

    tasks: frozenset[asyncio.Task[object]]
    sockets: int

    @classmethod
    def now(cls) -> "Held":
        """Look; a transport that is left open holds its socket."""
        # Not all descriptors: SQLite opens and keeps its files when it first needs them.
        sockets = sum(_is_socket(int(name)) for name in os.listdir("/dev/fd"))
        return cls(frozenset(asyncio.all_tasks()), sockets)

    def more_than(self, before: "Held") -> list[str]:
        """Name what is held now and was not before."""
        more = [repr(task) for task in self.tasks - before.tasks]
        if self.sockets > before.sockets:
            more.append(f"{self.sockets - before.sockets} sockets")
        return more


def _is_socket(descriptor: int) -> bool:
    with suppress(OSError):  # the one that listed the others is closed by now
        return stat.S_ISSOCK(os.fstat(descriptor).st_mode)
    return False


async def nothing_more_is_held_than(before: Held) -> None:
    """Wait until everything that was opened since is closed."""
    more: list[str] = ["not looked yet"]
    with anyio.move_on_after(WITHIN_S):
        # A closed socket is let go of in the next rounds of the loop, on either side of it; no
        # event tells of that, so this looks again and again.
        while more := Held.now().more_than(before):  # noqa: ASYNC110
            await anyio.sleep(_LOOK_EVERY_S)
    assert not more, more
