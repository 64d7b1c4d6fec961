"""Sessions, as a caller begins one: by asking for it, or by connecting without one."""

from gateway.caller import Caller
from gateway.house import House
from protocol.rest import Session
from storage import sessions


async def begin_session(
    house: House, caller: Caller, session_id: str, *, metadata: dict[str, object] | None = None
) -> Session:
    """Begin a session of the caller's, by an id that is new.

    Raises `Refusal` (`rate_limited`) and `StorageError`. Cancelling stops the waiting; it may have
    begun.
    """
    await house.entrance.open_session(caller)
    # Anonymous callers have one name together, and so one count: nobody is to use up that of all.
    most = None if caller.principal.anonymous else house.settings.max_sessions or None
    owner = caller.principal.owner
    begun = sessions.create(session_id, metadata or {}, owner=owner, most=most)
    session = await house.database.write(begun)
    house.figures.sessions += 1
    return session
