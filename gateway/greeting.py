"""The first frame of every connection, where it stands, and the last: when to come back."""

import random

from gateway.house import House
from protocol.cursor import END, Cursor
from protocol.server_frames import Limits, OpenTurn, Ready, Reconnect
from storage.log import Joined

RECONNECT_WITHIN_MS = 5_000


def greet(house: House, session_id: str, joined: Joined, *, created: bool) -> Ready:
    """Say where a connection starts reading, and what is open there."""
    return Ready(
        session_id=session_id,
        created=created,
        resumed=joined.resumed,
        cursor=str(joined.cursor),
        heartbeat_s=house.settings.heartbeat_s,
        limits=Limits(
            max_frame_bytes=house.settings.max_frame_bytes,
            max_message_chars=house.settings.max_message_chars,
            max_new_tokens=house.settings.max_reply_tokens,
        ),
        turn=_open_turn(house, session_id, joined),
    )


def farewell() -> Reconnect:
    """Say that the gateway is about to go away, and when to look for the next one."""
    # Each at a moment of its own: all of them at once would be the next one's first burst.
    return Reconnect(reason="restart", after_ms=random.randint(0, RECONNECT_WITHIN_MS))


def _open_turn(house: House, session_id: str, joined: Joined) -> OpenTurn | None:
    # Memory knows the place in the queue; storage knows a turn that is only just accepted, and one
    # that is over although that was not heard of here.
    live = house.broker.live(session_id)
    if live is not None and Cursor(live.turn, live.attempt, END) > joined.cursor:
        return OpenTurn(turn=live.turn, status=live.status, position=live.position or None)
    if joined.open_turn is None or joined.open_status is None:
        return None
    return OpenTurn(turn=joined.open_turn, status=joined.open_status)
