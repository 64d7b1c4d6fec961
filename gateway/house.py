"""The parts of a running gateway, as every endpoint finds them."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection

from gateway.brokers.base import Broker
from gateway.health import Probe
from gateway.origins import Origins
from gateway.settings import Settings
from gateway.turns import Turns
from llm.queue import Admission
from storage.database import Database

if TYPE_CHECKING:
    from gateway.websocket import Connection


@dataclass(frozen=True)
class House:
    """Everything that lives from the start of the process to its end."""

    settings: Settings
    database: Database
    broker: Broker
    admission: Admission
    turns: Turns
    probe: Probe
    origins: Origins
    connections: "set[Connection]" = field(default_factory=set)


def house_of(connection: HTTPConnection) -> House:
    """Find the house that serves a request or a WebSocket."""
    house: House = connection.app.state.house
    return house
