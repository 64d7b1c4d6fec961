"""The examples in the client's manual do what it says."""

import asyncio
import re
import shutil
from pathlib import Path

import pytest
from playwright.async_api import BrowserContext, Route

from gateway.pages import WEB
from protocol.errors import ErrorCode
from tests.gateway.harness import WITHIN_S, Gateway, call_of
from tests.llm.scripted import ScriptedModel

MANUAL = (WEB / "README.md").read_text()
HERE = "http://127.0.0.1:8080"


def example(language: str) -> str:
    """The one code block of the manual that is in a language."""
    [block] = re.findall(rf"```{language}\n(.*?)```", MANUAL, re.DOTALL)
    return str(block)


async def test_the_page_of_the_manual_chats_and_survives_a_reload(
    context: BrowserContext, served: Gateway, model: ScriptedModel
) -> None:
    html = example("html").replace(HERE, str(served.http.base_url))

    async def show(route: Route) -> None:
        await route.fulfill(body=html, content_type="text/html")

    await context.route("http://localhost:9/", show)
    page = await context.new_page()
    await page.goto("http://localhost:9/")
    await page.locator("p", has_text="open").wait_for()
    await page.locator("input").fill("안녕")
    await page.locator("button").click()
    call = await call_of(model)
    await call.say("반가")
    await page.locator("li", has_text="반가").wait_for()
    await page.reload()
    await call.say("워요")
    await call.complete()
    await page.locator("li", has_text="반가워요").wait_for()
    assert await page.locator("li").all_text_contents() == ["안녕", "반가워요"]


async def test_the_program_of_the_manual_runs_in_node(tmp_path: Path, simulated: Gateway) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no Node.js")
    for module in [*WEB.glob("*.js"), WEB / "package.json"]:
        shutil.copy(module, tmp_path)
    (tmp_path / "program.js").write_text(example("js"))
    flags = ["--no-warnings", "--experimental-websocket"]
    program = await asyncio.create_subprocess_exec(
        *(node, *flags, "program.js", str(simulated.http.base_url)),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(WITHIN_S):
        out, err = await program.communicate()
    assert (program.returncode, err) == (0, b"")
    assert simulated.replies() == [("stop", out.decode())]


def test_the_types_name_all_that_is_exported() -> None:
    exported = re.findall(r"^export \{([^}]*)\}", (WEB / "midm-chat.js").read_text(), re.MULTILINE)
    names = {name.strip() for group in exported for name in group.split(",")} | {"ChatClient"}
    types = (WEB / "midm-chat.d.ts").read_text()
    assert {name for name in names if not re.search(rf"^export \w+ {name}\b", types, re.M)} == set()


def test_the_types_have_every_error_code() -> None:
    types = (WEB / "midm-chat.d.ts").read_text()
    listed = types.partition("export type ErrorCode")[2].partition(";")[0]
    assert set(re.findall(r'"(\w+)"', listed)) == set(ErrorCode)
