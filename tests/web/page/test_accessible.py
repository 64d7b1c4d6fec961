"""What axe-core finds of use to say about the page, in its main states: nothing."""

from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import expect

from tests.gateway.harness import Gateway, call_of
from tests.llm.scripted import ScriptedModel
from tests.web.page.conftest import Visit
from tests.web.page.reader import Reader

REPLY = """# Title

Some **text**, `code` and [a link](https://example.org).

```python
def f(x: int) -> str:  # a comment
    return "s" * 2
```

| a | b |
|---|--:|
| c | d |

> quoted

- [x] done
"""


async def violations(reader: Reader) -> list[str]:
    # Half seen is half readable: what appears or goes has to be done with that.
    await reader.until(
        "document.getAnimations().every((one) => one.playState !== 'running' ||"
        " one.effect.getComputedTiming().iterations === Infinity)"
    )
    found = await Axe().run(reader.page)
    return [
        f"{one['id']}: {node['html'][:200]} {node['failureSummary']}"
        for one in found.response["violations"]
        for node in one["nodes"]
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"color_scheme": "light"},
        {"color_scheme": "dark", "locale": "ko-KR", "viewport": {"width": 360, "height": 700}},
    ],
    ids=["a light screen", "a dark phone"],
)
async def test_nothing_stands_in_anybodys_way(
    served: Gateway, model: ScriptedModel, visit: Visit, options: dict[str, Any]
) -> None:
    reader = await visit(served, **options)
    assert await violations(reader) == []
    await reader.ask("a question")
    call = await call_of(model)
    await call.say(REPLY)
    await reader.sees("quoted")
    assert await violations(reader) == []
    await call.error("no")
    await reader.is_done()
    await expect(reader.button("trouble")).to_be_visible()
    await reader.page.locator("#search-open").click()
    await reader.page.locator("#finder-input").fill("text")
    await expect(reader.page.locator("#finder mark")).to_have_count(1)
    assert await violations(reader) == []
    await reader.page.keyboard.press("Escape")
    if "viewport" in options:
        await reader.page.locator("#sidebar-open").click()
        await expect(reader.page.locator("#sidebar")).to_be_visible()
        assert await violations(reader) == []
        await reader.page.keyboard.press("Escape")
        return
    for opener in ("#help", "#key", "#export", ".turn .details"):
        await reader.page.locator(opener).click()
        assert await violations(reader) == []
        await reader.page.keyboard.press("Escape")
