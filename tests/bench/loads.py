"""What is measured: each load, as data."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["stream", "turn", "churn", "idle"]

GATEWAY, DIRECT, RELAY, OBVIOUS = "gateway", "direct", "relay", "obvious"
EVERYBODY = (GATEWAY, DIRECT, RELAY, OBVIOUS)
WEBSOCKETS = (GATEWAY, OBVIOUS)
"""Who keeps connections that ask for nothing; the others have one for each call."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """Some clients, and what each of them does.

    Each of `clients` takes `turns` turns of `tokens` tokens, one after the other; a token leaves
    the upstream every `interval_us` microseconds, or as fast as it can be sent with 0. `tabs` are
    further connections that only listen, for each client. `churn_per_s` connections a second come,
    are greeted and go again for `churn_s` seconds meanwhile. With `hold_s` the clients ask for
    nothing and are kept for so many seconds. What has not arrived `within_s` seconds is lost.
    `contenders` are those that can do it in a sensible time.
    """

    name: str
    says: str
    kind: Kind = "stream"
    clients: int = 1
    turns: int = 1
    tokens: int = 256
    interval_us: int = 20_000
    tabs: int = 0
    churn_per_s: int = 0
    churn_s: int = 0
    hold_s: float = 0
    within_s: int = 90
    contenders: tuple[str, ...] = EVERYBODY

    @property
    def files(self) -> int:
        """How many sockets a contender has open at most."""
        upstream = self.clients if self.turns else 0
        return self.clients * (1 + self.tabs) + self.churn_per_s + upstream


def _streams(count: int, contenders: tuple[str, ...] = EVERYBODY) -> Load:
    says = f"{count} {'stream' if count == 1 else 'streams'}, one token every 20 ms"
    return Load(name=f"streams-{count}", says=says, clients=count, contenders=contenders)


def _idle(count: int, contenders: tuple[str, ...]) -> Load:
    says = f"{count:,} connections that ask for nothing"
    return Load(
        name=f"idle-{count}",
        says=says,
        kind="idle",
        clients=count,
        turns=0,
        hold_s=25,  # everybody is pinged once in this time
        contenders=contenders,
    )


LOADS = (
    _streams(1),
    _streams(50),
    _streams(200),
    _streams(500),
    # The obvious gateway would take a minute for these, and most of it waiting in line.
    _streams(1000, (GATEWAY, DIRECT, RELAY)),
    Load(
        name="flood-50",
        says="50 streams as fast as possible",
        clients=50,
        turns=4,
        interval_us=0,
    ),
    Load(
        name="tabs-100",
        says="one session watched by 100 tabs, one token every 20 ms",
        tabs=99,
        contenders=(GATEWAY,),
    ),
    Load(
        name="first-token",
        says="one client, 60 turns of one token, one after the other",
        kind="turn",
        turns=60,
        tokens=1,
        interval_us=1_000,
    ),
    Load(
        name="turns-1",
        says="50 clients, turns of one token, one after the other",
        kind="turn",
        clients=50,
        turns=20,
        tokens=1,
        interval_us=1_000,
    ),
    Load(
        name="turns-5",
        says="100 clients, turns of 5 tokens, as fast as possible",
        kind="turn",
        clients=100,
        turns=20,
        tokens=5,
        interval_us=0,
        # A hundred writers at once are too many for the obvious gateway: its database locks.
        contenders=(GATEWAY, DIRECT, RELAY),
    ),
    Load(
        name="churn-200",
        says="200 connections a second come and go beside 50 streams",
        kind="churn",
        clients=50,
        churn_per_s=200,
        churn_s=5,
        contenders=WEBSOCKETS,
    ),
    _idle(5_000, WEBSOCKETS),
    _idle(10_000, (GATEWAY,)),
)

_QUICK = (GATEWAY, DIRECT, OBVIOUS)

QUICK_LOADS = (
    Load(
        name="quick-streams-50",
        says="50 streams, one token every 20 ms, 128 tokens",
        clients=50,
        tokens=128,
        within_s=30,
        contenders=_QUICK,
    ),
    Load(
        name="quick-flood-50",
        says="50 streams as fast as possible",
        clients=50,
        tokens=256,
        turns=2,
        interval_us=0,
        within_s=30,
        contenders=_QUICK,
    ),
    Load(
        name="quick-turns-1",
        says="20 clients, turns of one token, one after the other",
        kind="turn",
        clients=20,
        turns=10,
        tokens=1,
        interval_us=1_000,
        within_s=30,
        contenders=_QUICK,
    ),
)
