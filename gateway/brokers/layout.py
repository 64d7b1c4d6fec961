"""What lies in Redis of a session's running turn, and the scripts that change it.

Each change is one script: it looks whether the change still fits, makes it, and publishes it. Texts
and cursors are the very ones of the wire contract: an entry `begin` holds a `start` event, `text` a
`token` event, `end` the length of the reply and the terminal event.

    P:head:{session}   the newest cursor, `7.1.57`, `7.1.end`, or `deleted`
    P:turn:{session}   a stream, the running turn's entries
    P:news:{session}   a channel: `<node> <turn>.<attempt> <kind> <body>` for every change
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from gateway.nodes.asking import Call, Script
from protocol.cursor import END, Cursor

Kind = Literal["begin", "text", "place", "notice", "end", "look", "drop"]
Entry = tuple[Kind, str]

DELETED = "deleted"
MISSING = ""
"""What a script answers where there is no head, or no stream to go on with."""

NOT_HEARD = -1
"""What a script answers that had nothing to publish."""

_SHARED = """
local node, channel, ttl, upto = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local function place(cursor)
  local turn, attempt, offset = string.match(cursor, '^(%d+)%.(%d+)%.(%w+)$')
  return tonumber(turn or 0), tonumber(attempt or 0), offset
end

-- Whether the head says that the attempt which `upto` belongs to is none of the newest.
local function outdated(head)
  local turn, attempt = place(upto)
  local its_turn, its_attempt = place(head)
  return its_turn > turn or (its_turn == turn and its_attempt > attempt)
end

local function say(first, kept)
  local turn, attempt = place(upto)
  local opening = node .. ' ' .. string.format('%d.%d', turn, attempt) .. ' '
  local heard = -1
  for at = first, #ARGV, 2 do
    local kind, body = ARGV[at], ARGV[at + 1]
    if kept and kind ~= 'notice' then
      redis.call('XADD', KEYS[2], '*', kind, body)
    end
    heard = redis.call('PUBLISH', channel, opening .. kind .. ' ' .. body)
  end
  return heard
end
"""

_BEGIN = Script(
    "begin",
    _SHARED
    + """
local head = redis.call('GET', KEYS[1])
if head then
  local turn, attempt, offset = place(head)
  if head == 'deleted' or outdated(head) then return head end
  local its_turn, its_attempt = place(upto)
  if turn == its_turn and attempt == its_attempt and offset == 'end' then return head end
end
redis.call('DEL', KEYS[2])
local heard = say(5, true)
redis.call('SET', KEYS[1], upto, 'PX', ttl)
redis.call('PEXPIRE', KEYS[2], ttl)
return heard
""",
)

_GO_ON = Script(
    "go on",
    _SHARED
    + """
local head = redis.call('GET', KEYS[1])
if head ~= ARGV[5] then return head or '' end
if redis.call('EXISTS', KEYS[2]) == 0 then return '' end
local heard = say(6, true)
redis.call('SET', KEYS[1], upto, 'PX', ttl)
redis.call('PEXPIRE', KEYS[2], ttl)
return heard
""",
)

_END = Script(
    "end",
    _SHARED
    + """
local head = redis.call('GET', KEYS[1])
if head and (head == 'deleted' or outdated(head)) then return head end
redis.call('DEL', KEYS[2])
local heard = say(5, false)
redis.call('SET', KEYS[1], upto, 'PX', ttl)
return heard
""",
)

_DROP = Script(
    "drop",
    """
redis.call('SET', KEYS[1], 'deleted', 'PX', ARGV[3])
redis.call('DEL', KEYS[2])
return redis.call('PUBLISH', ARGV[2], ARGV[1] .. ' 0.0 drop ')
""",
)

_LOOK = Script("look", "return redis.call('PUBLISH', ARGV[2], ARGV[1] .. ' 0.0 look ')")


class News(NamedTuple):
    """What another node has published."""

    node: str
    turn: int
    attempt: int
    kind: str
    body: str

    @classmethod
    def parse(cls, message: str) -> "News":
        """Read a message; raises `ValueError` if it is none of ours."""
        node, at, kind, body = message.split(" ", 3)
        turn, attempt = at.split(".")
        return cls(node, int(turn), int(attempt), kind, body)


@dataclass(frozen=True)
class Layout:
    """Names and calls of one deployment, as one node uses them; `ttl_ms` is how long all lasts."""

    prefix: str
    node: str
    ttl_ms: int

    def __post_init__(self) -> None:
        if not self.node or " " in self.node:
            raise ValueError("a node's name is one word")

    def head(self, session_id: str) -> str:
        """Where the newest cursor of a session lies."""
        return f"{self.prefix}:head:{{{session_id}}}"

    def turn(self, session_id: str) -> str:
        """Where the stream of a session's running turn lies."""
        return f"{self.prefix}:turn:{{{session_id}}}"

    def news(self, session_id: str) -> str:
        """On which channel a session's changes are published."""
        return f"{self.prefix}:news:{{{session_id}}}"

    def begin(self, session_id: str, upto: Cursor, entries: Sequence[Entry]) -> Call:
        """Let a turn be the session's open one, with all that is known of it in `entries`.

        Answered by how many heard of it, or by the head if that is of a newer turn or attempt.
        """
        return self._call(_BEGIN, session_id, str(upto), _flat(entries))

    def go_on(
        self, session_id: str, entries: Sequence[Entry], *, since: Cursor, upto: Cursor
    ) -> Call:
        """Add entries, if the head is at `since`; with none of them, let all last longer.

        Answered by how many heard of it, or by the head, `MISSING` if there is none.
        """
        return self._call(_GO_ON, session_id, str(upto), [str(since), *_flat(entries)])

    def end(self, session_id: str, turn: int, attempt: int, entries: Sequence[Entry]) -> Call:
        """Let a turn be over; answered like `begin`."""
        return self._call(_END, session_id, str(Cursor(turn, attempt, END)), _flat(entries))

    def drop(self, session_id: str) -> Call:
        """Say that a session is deleted."""
        return self._call(_DROP, session_id)

    def look(self, session_id: str) -> Call:
        """Ring the node that runs the session's turn."""
        return self._call(_LOOK, session_id)

    def _call(
        self, script: Script, session_id: str, upto: str = "", rest: Sequence[str] = ()
    ) -> Call:
        keys = (self.head(session_id), self.turn(session_id))
        return Call(script, keys, (self.node, self.news(session_id), self.ttl_ms, upto, *rest))


def _flat(entries: Sequence[Entry]) -> list[str]:
    return [part for entry in entries for part in entry]
