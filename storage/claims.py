"""Whose a session is: every operation that serves a client names both, and asks for both at once.

A session that is not there and one that is somebody else's look the same, because one condition of
one query finds neither.
"""

from dataclasses import dataclass

from sqlalchemy import Text, and_, bindparam, select

from storage.tables import owners, sessions


@dataclass(frozen=True)
class Claim:
    """A session, and who says that it is theirs.

    Owner None stands for whoever has the sessions that belong to nobody by name: those of anonymous
    callers, and those of the original backend. They have no row in `owners`.
    """

    session_id: str
    owner: str | None = None

    @property
    def bound(self) -> dict[str, str | None]:
        """The parameters of `CLAIMED`."""
        return {"of_session": self.session_id, "of_owner": self.owner}


OWNER = select(owners.c.owner).where(owners.c.session_id == sessions.c.session_id).scalar_subquery()
OWNED = OWNER.is_not_distinct_from(bindparam("of_owner", type_=Text))
"""That a session is an owner's."""

CLAIMED = and_(sessions.c.session_id == bindparam("of_session"), OWNED)
"""That a row of `sessions` is the one that a claim names."""
