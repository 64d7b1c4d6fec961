"""Sessions come and go, and leave nothing behind."""

import pytest

from protocol.errors import Refusal
from storage import messages, sessions, turns
from storage.claims import Claim
from storage.operations import Operation, StorageError
from storage.times import age_s
from tests.storage.store import SqliteStore, Store

LONG_AGO = "2020-01-01T00:00:00.000000Z"
NOW = "2026-01-01T00:00:00.000000Z"


def use(store: Store, session_id: str, when: str) -> None:
    store.execute(
        "UPDATE sessions SET last_accessed = :at WHERE session_id = :name", at=when, name=session_id
    )


def last_use(store: Store, session_id: str = "s1") -> str:
    [[accessed]] = store.rows(
        "SELECT last_accessed FROM sessions WHERE session_id = :name", name=session_id
    )
    return str(accessed)


def refused(store: Store, operation: Operation[object]) -> str:
    with pytest.raises(Refusal) as caught:
        store.write(operation)
    return caught.value.code


def test_a_session_is_found_as_it_was_created(store: Store) -> None:
    metadata: dict[str, object] = {"user": "지혜", "n": [1, {"a": None}], "emoji": "😀\u2028"}
    created = store.write(sessions.create("s2", metadata))
    assert store.read(sessions.get(Claim("s2"))) == created
    assert created.metadata == metadata
    assert created.created_at == created.last_accessed
    assert 0 <= age_s(created.created_at) < 60


def test_a_session_cannot_be_created_twice(store: Store) -> None:
    with pytest.raises(Exception, match=r"(?i)unique"):
        store.session("s1")


def test_what_is_not_there_is_not_found(store: Store) -> None:
    for operation in (sessions.get, sessions.touch, sessions.remove):
        assert refused(store, operation(Claim("nobody"))) == "session_not_found"


@pytest.mark.parametrize("stored", [None, "", "null", "[1]", "{oops", "5", "[" * 10_000])
def test_metadata_that_makes_no_sense_is_none(store: Store, stored: str | None) -> None:
    store.execute("UPDATE sessions SET metadata = :stored", stored=stored)
    assert store.read(sessions.get(Claim("s1"))).metadata == {}


def test_metadata_can_be_said_whatever_the_original_let_in(store: Store) -> None:
    store.execute("""UPDATE sessions SET metadata = '{"\\ud800": [NaN, "\\udc00"]}'""")
    found = store.read(sessions.get(Claim("s1")))
    assert '"metadata":{"\ufffd":[null,"\ufffd"]}' in found.model_dump_json()


def test_a_use_is_noted(store: Store) -> None:
    for operation in (sessions.touch, sessions.note_use):
        use(store, "s1", LONG_AGO)
        store.write(operation(Claim("s1")))
        assert age_s(last_use(store)) < 60


def test_a_use_of_what_is_not_there_may_be_noted_without_a_refusal(store: Store) -> None:
    store.write(sessions.note_use(Claim("nobody")))


def test_a_removed_session_leaves_no_row_behind(store: Store) -> None:
    store.session("s2")
    store.exchange("kept", session_id="s2")
    for question in ("one", "two"):
        store.exchange(question)
    store.exchange("two, better", replaces=2)
    store.ask("open")
    store.write(sessions.remove(Claim("s1")))
    for table in ("sessions", "messages", "message_order", "turns"):
        owners = store.rows(f"SELECT DISTINCT session_id FROM {table}")
        assert owners == [("s2",)], table


def test_a_turn_whose_session_was_removed_can_neither_go_on_nor_end(store: Store) -> None:
    turn = store.ask()
    store.write(sessions.remove(Claim("s1")))
    store.write(turns.checkpoint(turn, "안녕"))
    assert not store.end(turn)
    assert store.read(turns.lapsed(most=100)) == []
    assert refused(store, messages.page(Claim("s1"), limit=1, before=None, max_bytes=1)) == (
        "session_not_found"
    )


def test_rows_of_a_session_that_is_not_there_cannot_be_stored(store: Store) -> None:
    with pytest.raises(StorageError, match=r"(?i)foreign key"):
        store.execute("INSERT INTO messages (message_id, session_id) VALUES ('m', 'x')")


def test_every_foreign_key_has_an_index_so_that_removing_scans_no_table(
    sqlite: SqliteStore,
) -> None:
    for (table,) in sqlite.rows("SELECT name FROM sqlite_master WHERE type = 'table'"):
        indexes = sqlite.rows(f"PRAGMA index_list('{table}')")
        # A partial index does not help here.
        names = [row[1] for row in indexes if not row[4]]
        first_columns = {sqlite.rows(f"PRAGMA index_info('{name}')")[0][2] for name in names}
        columns = {row[3] for row in sqlite.rows(f"PRAGMA foreign_key_list('{table}')")}
        assert columns <= first_columns, table


def test_sessions_expire_that_nobody_has_used(store: Store) -> None:
    store.session("s2")
    use(store, "s1", LONG_AGO)
    assert store.read(sessions.expired(NOW)) == ["s1"]
    use(store, "s1", NOW)
    assert store.read(sessions.expired(NOW)) == []


def test_a_session_with_an_open_turn_does_not_expire(store: Store) -> None:
    turn = store.ask()
    use(store, "s1", LONG_AGO)
    assert store.read(sessions.expired(NOW)) == []
    store.end(turn)
    assert store.read(sessions.expired(NOW)) == ["s1"]


def test_a_session_that_came_into_use_again_is_not_deleted_as_unused(store: Store) -> None:
    [(used,)] = store.rows("SELECT last_accessed FROM sessions")
    with pytest.raises(Refusal):
        store.write(sessions.remove_unused("s1", since=used))
    store.ask()
    with pytest.raises(Refusal):
        store.write(sessions.remove_unused("s1", since="2999-01-01T00:00:00.000000Z"))
    store.session("s2")
    store.write(sessions.remove_unused("s2", since="2999-01-01T00:00:00.000000Z"))
    assert store.rows("SELECT session_id FROM sessions") == [("s1",)]
