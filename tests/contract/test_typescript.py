"""The TypeScript types hold what a gateway says and nothing else: the compiler is asked."""

import json
import re
from pathlib import Path

import pytest

from protocol.about import VERSION
from protocol.errors import CloseCode, ErrorCode
from protocol.examples import EXAMPLES, payload
from protocol.schema import CLIENT_FRAMES
from protocol.typescript import typescript
from tests.contract import node
from tests.contract.recording import Recording

IMPORT = (
    "import type { ChatReply, ChatRequest, ClientFrame, CloseCode, ErrorCode, ErrorFrame, Health,"
    ' Messages, Problem, ServerFrame, Session, StartFrame } from "./types";\n'
)
TSC = ("tsc", "--strict", "--noEmit", "--target", "es2022", "--noUnusedLocals")

FORBIDDEN = {
    "an unknown type": 'const x: ClientFrame = { type: "shout" };',
    "a frame of the server's": 'const x: ClientFrame = { type: "token", turn: 1 } as const;',
    "no message": 'const x: ClientFrame = { type: "chat" };',
    "a number for a message": 'const x: ClientFrame = { type: "chat", message: 1 };',
    "a field nobody knows": 'const x: ClientFrame = { type: "ping", request: "1" };',
    "a text for a turn": 'const x: ClientFrame = { type: "cancel", turn: "1" };',
    "a code nobody knows": 'const x: ErrorCode = "bad_luck";',
    "a close code nobody knows": "const x: CloseCode = 4501;",
    "a content of any frame": "const x = (f: ServerFrame) => f.content;",
    "an id that may be missing": "const x = (e: ErrorFrame): string => e.id;",
    "a reply without its role": 'const x: ChatReply = { message_id: "m" } as const;',
    "a session to chat in": 'const x: ChatRequest = { message: "hi" };',
    "a case that is left out": (
        "const x = (f: ClientFrame): number => { switch (f.type) { case 'chat': return 1; } };"
    ),
}


def compiled(source: str, directory: Path) -> list[str]:
    """Compile a module beside the types; return what the compiler complains of."""
    (directory / "types.ts").write_text(typescript())
    (directory / "uses.ts").write_text(IMPORT.replace("\n", "") + "\n" + source)
    ended = node.run(node.TYPESCRIPT, *TSC, "uses.ts", directory=directory)
    found = re.findall(r"error (TS\d+): .*", ended.stdout)
    assert bool(found) == bool(ended.returncode), ended.stdout + ended.stderr
    return [line for line in ended.stdout.splitlines() if "error TS" in line]


def literal(values: object) -> str:
    # Checked as they are written, so that a field nobody knows is an error too.
    return json.dumps(values, ensure_ascii=False).replace("\u2028", "\\u2028")


FOLD = """
export function shown(frames: ServerFrame[]): string {
  let text = "";
  for (const frame of frames) {
    switch (frame.type) {
      case "start": text = ""; break;
      case "token": text += frame.content; break;
      case "error": if (frame.turn !== undefined) return frame.code; break;
      default: break;
    }
  }
  return text;
}
export type Used = [ChatReply, ChatRequest, CloseCode, ErrorCode, ErrorFrame, Health, Messages,
  Problem, Session, StartFrame];
"""


@node.needs_node
def test_everything_that_was_said_is_of_the_types(recording: Recording, tmp_path: Path) -> None:
    said = {
        "Session": recording.bodies["Session"],
        "ChatReply": recording.bodies["ChatReply"],
        "Messages": recording.bodies["Messages"],
        "Problem": recording.bodies["Problem"],
        "Health": recording.bodies["Health"],
        "ServerFrame": recording.frames,
        "ClientFrame": [frame for frame in recording.sent if frame["type"] != "nonsense"],
    }
    examples = [payload(each) for m in CLIENT_FRAMES for each in EXAMPLES[m].values()]
    said["ClientFrame"] += json.loads(json.dumps(examples))
    source = FOLD + "".join(
        f"export const said{name}: {name}[] = {literal(values)};\n" for name, values in said.items()
    )
    assert compiled(source, tmp_path) == []


@node.needs_node
def test_what_is_not_of_the_types_does_not_compile(tmp_path: Path) -> None:
    lines = [
        line.replace("const x", f"export const x{n}") for n, line in enumerate(FORBIDDEN.values())
    ]
    complaints = compiled("\n".join([*lines, FOLD]), tmp_path)
    wrong = {int(match[1]) - 2 for c in complaints if (match := re.match(r"uses\.ts\((\d+),", c))}
    names = list(FORBIDDEN)
    assert {names[n] for n in wrong} == set(names)


@pytest.mark.parametrize("code", [*ErrorCode, *CloseCode])
def test_every_code_is_a_literal_with_its_meaning(code: ErrorCode | CloseCode) -> None:
    written = f'"{code}"' if isinstance(code, ErrorCode) else str(int(code))
    assert re.search(rf"/\*\* .+ \*/\n  \| {written}[;\n]", typescript())


def test_the_types_are_the_same_each_time_and_say_of_which_version_they_are() -> None:
    assert typescript() == typescript()
    assert VERSION in typescript().splitlines()[0]
