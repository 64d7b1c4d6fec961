"""Server-sent events: bytes to events and back, without a socket or a loop.

The format is the one of the HTML standard, section 9.2 ("Server-sent events"), with one
difference: a lone CR does not end a line. Nobody sends it, and allowing it would mean that a CR
at the end of the bytes at hand leaves open whether an event is over.
"""

DEFAULT_MAX_EVENT_BYTES = 8 * 1024 * 1024

_BOM = b"\xef\xbb\xbf"


class EventTooLong(ValueError):
    """A line or an event exceeds `limit` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"an event is longer than {limit} bytes")
        self.limit = limit


class Decoder:
    """Turns a stream of bytes, cut anywhere, into the data of its events.

    >>> decoder = Decoder()
    >>> decoder.feed(b'data: {"a": 1}\\n\\nda'), decoder.feed(b"ta: b\\r\\n\\r\\n")
    ([b'{"a": 1}'], [b'b'])

    Work is linear in the bytes fed, whatever their cuts; at most `max_event_bytes` of an
    unfinished line and as many of an unfinished event are held. An event that the end of the
    stream leaves unfinished does not count, as the standard has it.
    """

    __slots__ = ("_at_start", "_data", "_limit", "_line", "unfinished")

    def __init__(self, *, max_event_bytes: int = DEFAULT_MAX_EVENT_BYTES) -> None:
        self._limit = max_event_bytes
        self._line = bytearray()
        self._data: bytearray | None = None
        self._at_start = True
        self.unfinished = False
        """Whether a line or an event has begun that is not complete."""

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next bytes; return the data of the events they complete.

        Several data lines of an event are joined by LF; comments and all other fields are
        ignored. Raises `EventTooLong` for a line, or for the data of an event, of more than
        `max_event_bytes`; what the same bytes completed before is lost with it, and the decoder
        is of no further use.
        """
        # Not str.splitlines(): it also splits on U+2028, which midm leaves bare in its JSON.
        first, *rest = data.split(b"\n")
        self._hold(first)
        events: list[bytes] = []
        if rest:
            lines = [bytes(self._line), *rest[:-1]]
            self._line.clear()
            events = [event for line in lines if (event := self._take(line)) is not None]
            self._hold(rest[-1])
        self.unfinished = bool(self._line) or self._data is not None
        return events

    def _hold(self, start: bytes) -> None:
        if len(self._line) + len(start) > self._limit:
            raise EventTooLong(self._limit)
        self._line += start

    def _take(self, line: bytes) -> bytes | None:
        """Take a whole line; return the event's data if it was the blank one that ends it."""
        if len(line) > self._limit:
            raise EventTooLong(self._limit)
        line = line.removesuffix(b"\r")
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        if name == b"data":
            self._keep(value.removeprefix(b" "))
        return None

    def _keep(self, value: bytes) -> None:
        if self._data is None:
            self._data = bytearray(value)
        else:
            self._data += b"\n" + value
        if len(self._data) > self._limit:
            raise EventTooLong(self._limit)

    def _dispatch(self) -> bytes | None:
        data, self._data = self._data, None
        return None if data is None else bytes(data)


def encode(data: str, *, id: str | None = None) -> bytes:  # noqa: A002 - the field's own name
    """Write one event: an `id` line if there is one, one `data` line, a blank line, in UTF-8.

    The prefix is exactly `data: `, with the space, and lines end in LF: clients exist that
    understand nothing else. Raises ValueError for a line break in either text: it would be read
    as another field.
    """
    _require_one_line(data)
    if id is None:
        return f"data: {data}\n\n".encode()
    _require_one_line(id)
    return f"id: {id}\ndata: {data}\n\n".encode()


def comment(text: str) -> bytes:
    """Write a comment, which every client ignores: it keeps a silent stream alive.

    Raises ValueError for a line break in the text.
    """
    _require_one_line(text)
    return f": {text}\n\n".encode()


def _require_one_line(text: str) -> None:
    if "\n" in text or "\r" in text:
        raise ValueError("a line break inside a line of an event")
