"""What a gateway stored, on whichever database, held against what the upstream said."""

import json
from pathlib import Path

from tests.bench import database
from tests.bench.database import Stored
from tests.bench.loads import Load
from tests.bench.many.site import FRAMES, Site
from tests.servers.postgres import sql

_AS_JSON = """
    SELECT json_build_array(q.content, r.content) FROM turns t
    JOIN messages q ON q.message_id = t.user_message_id
    JOIN messages r ON r.message_id = t.reply_message_id
    WHERE t.status = 'complete'
"""


def faults(site: Site, load: Load) -> list[str]:
    """Say what is wrong in the database, and what is still open there."""
    if site.redis is None:
        assert FRAMES.stored is not None
        return database.faults(database.stored_turns(Path(site.database), FRAMES.stored), load)
    found = database.faults(map(_stored, sql(site.database, _AS_JSON)), load)
    [left] = sql(site.database, "SELECT count(*) FROM leases")
    return found if left == "0" else [*found, f"the database has {left} leases of no open turn"]


def _stored(line: str) -> Stored:
    question, reply = json.loads(line)
    return question, reply
