"""Requests as they go on the wire, written once for many bodies. Pure."""

import httpx

_PORTS = {"http": 80, "https": 443}
_LENGTHS = frozenset({"content-length", "transfer-encoding"})
_OWN_HEADERS = frozenset({b"connection", *map(str.encode, _LENGTHS)})


class Template:
    """A request that is sent again and again with another body each time, written once.

    The body of `request` is left out. Raises LocalProtocolError for a line break in the head and
    UnsupportedProtocol for an address that is neither http nor https.
    """

    def __init__(self, request: httpx.Request) -> None:
        url = request.url
        if url.scheme not in _PORTS:
            raise httpx.UnsupportedProtocol(f"neither http nor https: {url.scheme!r}")
        self.host = url.host
        self.address = (url.raw_host.decode(), url.port or _PORTS[url.scheme])
        self.encrypted = url.scheme == "https"
        self.connect_s: float | None = request.extensions.get("timeout", {}).get("connect")
        self.has_reply_body = request.method != "HEAD"
        self._head = _head(request)
        # What httpx would send in chunks is at hand as well, so that its length is known.
        self._has_body = not _LENGTHS.isdisjoint(request.headers)

    def message(self, body: bytes, *, traceparent: str = "") -> bytes:
        """Write the request with this body, as a part of a trace if it is one."""
        length = b"Content-Length: %d\r\n" % len(body) if self._has_body else b""
        trace = b"traceparent: %b\r\n" % traceparent.encode("ascii") if traceparent else b""
        return b"%b%b%b\r\n%b" % (self._head, length, trace, body)


def _head(request: httpx.Request) -> bytes:
    """Write the head of a request, but for the length of its body."""
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    for name, value in request.headers.raw:
        if name.lower() not in _OWN_HEADERS:
            lines.append(b"%b: %b" % (name, value))
    lines.append(b"Connection: close")
    if any(b"\r" in line or b"\n" in line for line in lines):
        raise httpx.LocalProtocolError("a line break in the head of the request")
    return b"\r\n".join([*lines, b""])
