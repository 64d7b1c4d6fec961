"""A gateway in a process of its own, with limits for its peers that a test can wait for.

`python -m tests.hostile.program '{"head_s": 1}'` takes its settings from the environment, as
always; sent SIGUSR1, it says how much it holds.
"""

import asyncio
import json
import signal
import socket
import sys
from itertools import count

from gateway.listening import PeerLimits
from gateway.logging import set_up_logging
from gateway.server import GatewayServer
from gateway.settings import load_settings


class Watched(GatewayServer):
    """A server that can be asked what it holds."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, to signals too."""
        asked = count(1)
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGUSR1, lambda: self._tell(next(asked))
        )
        await super().startup(sockets)

    def _tell(self, number: int) -> None:
        connections = len(self.server_state.connections)
        tasks = len(asyncio.all_tasks())
        print(f"held {number}: {tasks} tasks, {connections} connections", flush=True)


if __name__ == "__main__":
    set_up_logging(debug=False)
    Watched(load_settings(), PeerLimits(**json.loads(sys.argv[1]))).run()
