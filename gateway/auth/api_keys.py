"""API keys: long-lived secrets, each of them named, of which only digests are kept.

A key is `midm_<id>_<secret>`, so that scanners for leaked secrets can know one when they see it.
Its line, in `API_KEYS` or in the file of them, is `<name>:<id>:<SHA-256 of the whole key, in hex>`.
"""

import base64
import hashlib
import hmac
import logging
import os
import re
import secrets
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger(__name__)

PREFIX = "midm_"
MAX_FILE_BYTES = 4 * 1024 * 1024

NAME_RULE = "should be 1 to 64 of the characters A-Z a-z 0-9 . _ @ -"
LINE_RULE = "should be name:id:digest as `key create` prints it"

_ID_BYTES = 5  # 8 characters in base32
_SECRET_BYTES = 32  # 43 characters in base64url
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,64}")
_LINE = re.compile(rf"({_NAME.pattern}):([a-z2-7]{{8}}):([0-9a-f]{{64}})")
# Split from the left: the secret may hold `_` itself.
_KEY = re.compile(r"midm_([a-z2-7]{8})_[A-Za-z0-9_-]{43}")

_NOBODYS_DIGEST = "0" * 64


@dataclass(frozen=True)
class ApiKey:
    """What is kept of a key."""

    name: str
    id: str
    digest: str = field(repr=False)

    @property
    def line(self) -> str:
        """The key as it is written down."""
        return f"{self.name}:{self.id}:{self.digest}"


def new_key(name: str) -> tuple[str, ApiKey]:
    """Make a key: itself, which is to be shown once, and what to keep of it.

    Raises `ValueError` if the name has characters that are not allowed.
    """
    check_name(name)
    key_id = base64.b32encode(secrets.token_bytes(_ID_BYTES)).decode().lower()
    key = f"{PREFIX}{key_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    return key, ApiKey(name, key_id, _digest(key))


def check_name(name: str) -> None:
    """Raise `ValueError` if a key cannot be called so."""
    if not _NAME.fullmatch(name):
        raise ValueError(NAME_RULE)


def parse_keys(lines: Iterable[str], *, taken: Container[str] = ()) -> dict[str, ApiKey]:
    """Read keys by their ids; empty lines and those that begin with `#` say nothing.

    Raises `ValueError`, which names the line and never shows it, for a line that is none and for
    an id that is there twice, or is `taken`.
    """
    keys: dict[str, ApiKey] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            raise ValueError(f"line {number} {LINE_RULE}; names {NAME_RULE}")
        key = ApiKey(*match.groups())
        if key.id in keys or key.id in taken:
            raise ValueError(f"line {number} should have an id of its own, and it is there already")
        keys[key.id] = key
    return keys


def append_line(path: Path, key: ApiKey) -> None:
    """Add a key to a file, which is made for its owner's eyes alone if it is not there.

    Raises `OSError`.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    with open(descriptor, "r+b", buffering=0) as file:
        # Somebody may have edited it, and left its last line open.
        size = file.seek(0, os.SEEK_END)
        is_open = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        file.write(("\n" * is_open + key.line + "\n").encode())
        os.fsync(descriptor)


class KeyRing:
    """The keys that open the gateway now: those that are fixed, and those in a file."""

    def __init__(self, fixed: Mapping[str, ApiKey], file: Path | None = None) -> None:
        """Read the file for the first time; raises `ValueError` if that cannot be done."""
        self._fixed = dict(fixed)
        self._file = file
        self._seen: _Stamp | None = None
        self._keys = self._fixed
        if file is not None:
            self._seen = _stamp(file)
            self._keys = self._fixed | self._read(file)

    def find(self, key: str) -> ApiKey | None:
        """Look a key up; None if it is none of ours."""
        match = _KEY.fullmatch(key)
        known = self._keys.get(match.group(1)) if match else None
        # Compared even if there is nothing to compare with: how long it takes tells no ids.
        is_same = hmac.compare_digest(_digest(key), known.digest if known else _NOBODYS_DIGEST)
        return known if is_same else None

    def has(self, key_id: str) -> bool:
        """Whether a key with this id still opens."""
        return key_id in self._keys

    def refresh(self) -> bool:
        """Read the file again if it has changed; return whether that was done.

        A file that cannot be used changes nothing, and is logged once.
        """
        if self._file is None or (stamp := _stamp(self._file)) == self._seen:
            return False
        self._seen = stamp
        try:
            self._keys = self._fixed | self._read(self._file)
        except ValueError as error:
            log.error("the old API keys stay: %s %s", self._file, error)
            return False
        log.info("the API keys were read again: there are %d", len(self._keys))
        return True

    def _read(self, file: Path) -> dict[str, ApiKey]:
        return parse_keys(_lines(file), taken=self._fixed)


# The time of its last change too: a file that may be read at last has no other sign of that.
_Stamp = tuple[int, int, int, int]


def _stamp(file: Path) -> _Stamp | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def _lines(file: Path) -> list[str]:
    try:
        with file.open("rb") as opened:
            held = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from None
    if len(held) > MAX_FILE_BYTES:
        raise ValueError(f"should be at most {MAX_FILE_BYTES} bytes")
    try:
        # Some editors begin a file with a byte order mark.
        return held.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise ValueError("should be text in UTF-8") from None


def _digest(key: str) -> str:
    # One round of SHA-256, no bcrypt: whoever has the digest would have to guess 256 random bits.
    return hashlib.sha256(key.encode()).hexdigest()
