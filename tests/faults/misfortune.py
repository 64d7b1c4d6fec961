"""What befalls nodes under load: some die, some stand still, never the last one that is well."""

import asyncio
from collections.abc import Sequence
from typing import Literal

from tests.faults.killing import HAPPENS_WITHIN_S
from tests.faults.nodes import LEASE_S, Deployment, Node, seen

Kind = Literal["kill", "freeze"]

TOKENS_BETWEEN = (50, 400)


_CUT_OFF = "storage.postgres: a write failed: "


def unexpected(complaints: list[str]) -> list[str]:
    """Leave out what a node says that stood still in the middle of a write.

    PostgreSQL ends a transaction that nothing is heard of (`idle_in_transaction_session_timeout`),
    and the node, once it wakes, is right to say that its write failed.
    """
    return [line for line in complaints if _CUT_OFF not in line]


class Misfortune:
    """Lets kind after kind happen, each while clients are being told something.

    What happens to one node may still go on when the next one's turn has come.
    """

    def __init__(self, here: Deployment) -> None:
        self._here = here
        self._well = set(here.nodes)
        self._changed = asyncio.Event()

    async def strike(self, kinds: Sequence[Kind]) -> None:
        """Let all this happen; return when every node is well again."""
        async with asyncio.TaskGroup() as tasks:
            for kind in kinds:
                async with asyncio.timeout(HAPPENS_WITHIN_S):
                    await self._here.testimony.more(
                        "token", self._here.dice.randint(*TOKENS_BETWEEN)
                    )
                    node = await self._pick()
                tasks.create_task(self._befall(node, kind))

    async def _pick(self) -> Node:
        """Choose a node that is well and runs something, where another one is well, too."""
        while len(self._well) < 2:
            self._changed.clear()
            await self._changed.wait()
        node: Node | None = None

        async def one_runs_something() -> bool:
            nonlocal node
            node = self._here.dice.choice(sorted(self._well, key=lambda node: node.name))
            return bool(await self._here.held_by(node))

        await seen(one_runs_something, within_s=HAPPENS_WITHIN_S)
        assert node is not None
        self._well.discard(node)
        return node

    async def _befall(self, node: Node, kind: Kind) -> None:
        if kind == "kill":
            await self._here.kill(node)
            assert unexpected(node.program.complaints) == []
            await node.start()
        else:
            await self._freeze(node)
        self._well.add(node)
        self._changed.set()

    async def _freeze(self, node: Node) -> None:
        await self._here.freeze(node)
        # Nobody can tell from outside how long a lease lasts; this is what a node has to be gone.
        await asyncio.sleep(LEASE_S)
        await self._here.until_it_holds(node, 0)
        node.thaw()
        await node.until_ready()
