"""Printing what a command was asked for, to whatever stdout is."""

import os
import sys

from gateway.server import CannotStart


def put(text: str) -> None:
    """Print a text and a line end; raises `CannotStart` if it cannot be written."""
    put_bytes(f"{text}\n".encode(sys.stdout.encoding, errors="replace"))


def put_bytes(data: bytes) -> None:
    """Write bytes to stdout; raises `CannotStart` if they cannot be written."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        # Python would write what is left as it exits, and complain.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        raise CannotStart(f"stdout: cannot be written: {error.strerror}") from None
