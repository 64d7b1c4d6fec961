"""The parts of a running gateway, as every endpoint finds them."""

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from starlette.requests import HTTPConnection

from gateway.brokers.base import Broker
from gateway.entrance import Entrance
from gateway.figures import Figures
from gateway.health import Probe
from gateway.settings import Settings
from gateway.tracing.base import Tracing
from gateway.turns import Turns
from llm.admission import Admission
from protocol.server_frames import ServerFrame
from storage.database import Database


class Listener(Protocol):
    """A connection, as far as the house knows it."""

    def say(self, frame: ServerFrame) -> None:
        """Send a frame that is no answer to anything."""

    def check_rights(self) -> None:
        """Close the connection if whoever has it may not have it any longer."""


@dataclass(frozen=True)
class House:
    """Everything that lives from the start of the process to its end.

    `node` is its name among many; None if it is alone.
    """

    settings: Settings
    node: str | None
    database: Database
    broker: Broker
    admission: Admission
    turns: Turns
    probe: Probe
    entrance: Entrance
    figures: Figures
    tracing: Tracing
    connections: set[Listener] = field(default_factory=set)
    searching: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Who has it looks through texts in a thread."""


def house_of(connection: HTTPConnection) -> House:
    """Find the house that serves a request or a WebSocket."""
    house: House = connection.app.state.house
    return house
