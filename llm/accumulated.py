"""Cutting out of midm's events the text that each of them repeats. Pure."""

import re

_AFTER_CONTENT = b'", "accumulated": "'
_AFTER_ACCUMULATED = b'", "token_count": '
_UNESCAPED_QUOTE = re.compile(rb'"(?<!\\")')


def without_accumulated(event: bytes) -> bytes:
    r"""Cut the text so far out of a `chunk` event, unread; return any other event as it is.

    >>> without_accumulated(
    ...     b'{"type": "chunk", "content": "b", "accumulated": "ab", "token_count": 2}')
    b'{"type": "chunk", "content": "b", "token_count": 2}'

    Every event repeats the whole reply, so reading it would cost the square of the reply's
    length. The cut is exact: what remains of a JSON object is the same object without one member
    `accumulated`. For inside a JSON string a quote always follows a backslash, and after the end
    of a string no letter can follow. So the quotes of `accumulated` and `token_count` in the
    patterns, which follow a space and precede a letter, can only begin a name; and what lies
    between the two is one string unless a quote in it begins another, which no backslash precedes.
    """
    start = event.find(_AFTER_CONTENT)
    inside = start + len(_AFTER_CONTENT)
    end = event.rfind(_AFTER_ACCUMULATED, inside)
    if start < 0 or end < 0 or _has_unescaped_quote(event, inside, end):
        return event
    return event[: start + 1] + event[end + 1 :]


def _has_unescaped_quote(data: bytes, start: int, end: int) -> bool:
    # Most text has no quote at all, and find() tells so twenty times faster than the pattern.
    return data.find(b'"', start, end) >= 0 and bool(_UNESCAPED_QUOTE.search(data, start, end))
