"""API keys: made, written down, found, taken away."""

import hashlib
import itertools
import logging
import os
import re
from pathlib import Path

import pytest

from gateway.auth.api_keys import (
    MAX_FILE_BYTES,
    ApiKey,
    KeyRing,
    append_line,
    new_key,
    parse_keys,
)

ALICE, ALICES = new_key("alice")
BOB, BOBS = new_key("bob@example.org")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"# ours\n\n{ALICES.line}\n")
    return path


def replace(file: Path, text: str) -> None:
    """Put another file in its place, in one step."""
    new = file.with_name("new")
    new.write_text(text)
    new.replace(file)


# Keys


def test_a_key_is_made_of_a_mark_an_id_and_a_secret() -> None:
    key, kept = new_key("alice")
    match = re.fullmatch(r"midm_([a-z2-7]{8})_([A-Za-z0-9_-]{43})", key)
    assert match
    assert (kept.name, kept.id) == ("alice", match[1])
    assert kept.line == f"alice:{match[1]}:{hashlib.sha256(key.encode()).hexdigest()}"


def test_no_key_is_made_twice() -> None:
    made = [new_key("a") for _ in range(50)]
    assert len({key for key, _ in made} | {kept.id for _, kept in made}) == 100


@pytest.mark.parametrize("name", ["", "a" * 65, "a:b", "a b", "a,b", "a\n", "앨리스", "#a"])
def test_a_name_with_what_is_not_allowed_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^should be 1 to 64 of the characters"):
        new_key(name)


def test_neither_the_key_nor_its_digest_is_in_a_repr() -> None:
    assert ALICES.digest not in repr(ALICES)
    assert ALICE not in repr(ALICES)


# Lines


def test_lines_are_read_and_comments_and_empty_ones_are_not() -> None:
    lines = ["# a comment", "", "   ", f"  {ALICES.line}\r", BOBS.line]
    assert parse_keys(lines) == {ALICES.id: ALICES, BOBS.id: BOBS}


@pytest.mark.parametrize(
    "line",
    [
        ALICE,
        "alice",
        "alice:abcdefgh",
        f"alice:abcdefgh:{'0' * 63}",
        f"alice:abcdefgh:{'0' * 65}",
        f"alice:abcdefgh:{'A' * 64}",
        f"alice:abcdefg1:{'0' * 64}",
        f"al ice:abcdefgh:{'0' * 64}",
        f"alice:abcdefgh:{'0' * 64}:more",
        f"alice:abcdefgh:{'0' * 64} # mine",
    ],
    ids=itertools.count(),
)
def test_a_line_that_is_none_is_named_by_its_number_and_not_shown(line: str) -> None:
    with pytest.raises(ValueError, match=r"^line 3 should be name:id:digest as `key") as error:
        parse_keys(["# a comment", BOBS.line, line])
    assert line not in str(error.value)
    assert "abcdefg" not in str(error.value)


def test_an_id_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^line 2 should have an id of its own"):
        parse_keys([ALICES.line, ALICES.line])
    with pytest.raises(ValueError, match=r"^line 1 should have an id of its own"):
        parse_keys([ALICES.line], taken={ALICES.id})


# Finding


def test_a_key_is_found_and_no_other_is() -> None:
    ring = KeyRing({ALICES.id: ALICES})
    assert ring.find(ALICE) == ALICES
    other = new_key("alice")[0].rsplit("_", 1)[1].rjust(43, "x")
    for wrong in (BOB, ALICE[:-1], ALICE + "x", ALICE.upper(), "", f"midm_{ALICES.id}_{other}"):
        assert ring.find(wrong) is None
    assert ring.has(ALICES.id)
    assert not ring.has(BOBS.id)


def test_a_secret_may_hold_underscores() -> None:
    key = f"midm_abcdefgh_{'_' * 43}"
    kept = ApiKey("a", "abcdefgh", hashlib.sha256(key.encode()).hexdigest())
    assert KeyRing({kept.id: kept}).find(key) == kept


# The file


def test_keys_are_those_that_are_fixed_and_those_in_the_file(file: Path) -> None:
    ring = KeyRing({BOBS.id: BOBS}, file)
    assert (ring.find(ALICE), ring.find(BOB)) == (ALICES, BOBS)


def test_a_ring_without_a_file_never_changes() -> None:
    assert not KeyRing({ALICES.id: ALICES}).refresh()


def test_a_key_that_was_taken_out_opens_nothing_any_more(file: Path) -> None:
    ring = KeyRing({}, file)
    assert not ring.refresh()
    replace(file, BOBS.line)
    assert ring.refresh()
    assert (ring.find(ALICE), ring.find(BOB)) == (None, BOBS)
    assert not ring.has(ALICES.id)
    assert not ring.refresh()


def test_a_file_of_the_same_size_and_time_in_its_place_is_noticed(file: Path) -> None:
    ring = KeyRing({}, file)
    before = file.stat()
    replace(file, file.read_text().replace(ALICES.id, "abcdefgh"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert ring.refresh()
    assert not ring.has(ALICES.id)


def test_a_line_that_is_appended_is_noticed(file: Path) -> None:
    ring = KeyRing({}, file)
    append_line(file, BOBS)
    assert ring.refresh()
    assert (ring.find(ALICE), ring.find(BOB)) == (ALICES, BOBS)


def test_a_file_that_becomes_bad_changes_nothing_and_is_told_once(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ring = KeyRing({BOBS.id: BOBS}, file)
    caplog.set_level(logging.ERROR)
    for bad in ("alice:secret", BOBS.line):
        caplog.clear()
        replace(file, bad)
        assert not ring.refresh()
        assert not ring.refresh()
        [record] = caplog.records
        assert "the old API keys stay" in record.getMessage()
        assert "secret" not in caplog.text
        assert ring.find(ALICE) == ALICES


def test_a_file_that_goes_away_changes_nothing_until_it_is_back(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ring = KeyRing({}, file)
    file.unlink()
    assert [ring.refresh() for _ in range(3)] == [False] * 3
    assert len(caplog.records) == 1
    assert ring.find(ALICE) == ALICES
    file.write_text(BOBS.line)
    assert ring.refresh()
    assert ring.find(ALICE) is None


@pytest.mark.parametrize("held", [b"\xff\xfe", b"#" * (MAX_FILE_BYTES + 1), b"alice"])
def test_a_gateway_does_not_begin_with_a_file_it_cannot_use(tmp_path: Path, held: bytes) -> None:
    file = tmp_path / "keys"
    file.write_bytes(held)
    with pytest.raises(ValueError, match=r"should be"):
        KeyRing({}, file)


def test_a_gateway_does_not_begin_without_its_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^cannot be read: "):
        KeyRing({}, tmp_path / "none")
    with pytest.raises(ValueError, match=r"^cannot be read: "):
        KeyRing({}, tmp_path)


def test_a_file_may_begin_with_a_byte_order_mark_and_hold_comments_in_any_language(
    tmp_path: Path,
) -> None:
    file = tmp_path / "keys"
    file.write_bytes(f"\ufeff{ALICES.line}\r\n# 열쇠\u2028\r\n".encode())
    assert KeyRing({}, file).find(ALICE) == ALICES


def test_a_file_that_is_made_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    append_line(file, ALICES)
    append_line(file, BOBS)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text() == f"{ALICES.line}\n{BOBS.line}\n"


def test_a_last_line_that_was_left_open_is_closed_first(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(ALICES.line)
    append_line(file, BOBS)
    assert file.read_text() == f"{ALICES.line}\n{BOBS.line}\n"
