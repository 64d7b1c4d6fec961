"""The fold vectors are run on clients in JavaScript, by Node.js."""

import shutil
import subprocess
from pathlib import Path

import pytest

from gateway.pages import WEB
from tests.conformance.test_fold import CASES

HERE = Path(__file__).parent
CLIENTS = (HERE / "client.mjs", WEB / "conversation.js")

pytestmark = pytest.mark.skipif(not shutil.which("node"), reason="Node.js is not installed")


def fold(client: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["node", HERE / "fold.mjs", client], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_client_shows_what_a_user_should_see(client: Path) -> None:
    ended = fold(client)
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout
    assert f"{len(CASES)} of {len(CASES)} hold" in ended.stdout


def test_a_client_that_is_wrong_is_found_out(tmp_path: Path) -> None:
    wrong = tmp_path / "client.mjs"
    right = CLIENTS[0].read_text()
    wrong.write_text(right.replace("reply.content + frame.content", "reply.content + frame.id"))
    ended = fold(wrong)
    assert (ended.returncode, ended.stderr) == (1, "")
    assert "BROKEN replies.json: a reply is the text of its tokens" in ended.stdout
