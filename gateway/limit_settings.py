"""The settings of what a caller may ask for; 0 is no limit, where it is allowed."""

from typing import Annotated

from pydantic import BaseModel, Field

from protocol.chat import MAX_MESSAGE_CHARS, MAX_NEW_TOKENS
from protocol.invalid import MAX_DEPTH

Limit = Annotated[int, Field(ge=0, le=10_000_000)]
PeerSeconds = Annotated[float, Field(gt=0, le=3_600, allow_inf_nan=False)]


class LimitSettings(BaseModel):
    """How much, how often and how many at once."""

    max_frame_bytes: Annotated[int, Field(ge=4_096)] = 512 * 1024
    max_unauthenticated_frame_bytes: Annotated[int, Field(ge=512)] = 4_096
    max_body_bytes: Annotated[int, Field(ge=4_096)] = 512 * 1024
    max_header_bytes: Annotated[int, Field(ge=4_096, le=1024 * 1024)] = 64 * 1024
    header_timeout_s: PeerSeconds = 10
    body_timeout_s: PeerSeconds = 30
    auth_timeout_s: PeerSeconds = 5

    max_message_chars: Annotated[int, Field(ge=1, le=MAX_MESSAGE_CHARS)] = MAX_MESSAGE_CHARS
    max_reply_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] = MAX_NEW_TOKENS
    max_metadata_bytes: Annotated[int, Field(ge=2, le=1024 * 1024)] = 16 * 1024
    max_json_depth: Annotated[int, Field(ge=2, le=MAX_DEPTH)] = MAX_DEPTH

    max_sessions: Limit = 1_000
    max_open_turns: Limit = 8
    max_queued_turns: Limit = 4
    max_connections: Limit = 20_000
    max_connections_per_principal: Limit = 100
    max_connections_per_address: Limit = 200
    max_unauthenticated: Limit = 1_000

    handshakes_per_minute: Limit = 240
    sessions_per_minute: Limit = 60
    messages_per_minute: Limit = 60
