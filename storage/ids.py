"""Names for messages."""

import os
import time


def new_message_id() -> str:
    """Make up an id: a UUID that sorts by time (version 7, RFC 9562).

    Three indexes hold it. What sorts by time is appended to them; a random id changes a page of
    its own in each, which made a commit of thirty turns write half as much again.
    """
    moment = (time.time_ns() // 1_000_000) << 80
    chance = int.from_bytes(os.urandom(10))
    digits = f"{moment | chance & ~_FIXED | _VERSION_7:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


# The bits that a UUID of this version has at certain places, whatever else is in it.
_FIXED = 0xF000_C000 << 48
_VERSION_7 = 0x7000_8000 << 48
