"""Replies are Markdown; they look the same whether they come at once or piece by piece."""

import pytest

from tests.gateway.harness import Gateway
from tests.llm.scripted import ScriptedModel
from tests.web.page.conftest import Visit
from tests.web.page.test_chat import answer

# Shows texts in turn, as they grow, and tells the HTML after each; the last text is the whole one.
SHOW = """async (texts, load) => {
  const { Prose } = await load("prose");
  const place = document.createElement("div");
  document.querySelector("#turns").append(place);
  const prose = new Prose(place);
  const shown = texts.map((text, at) => {
    prose.show(text, { isDone: at === texts.length - 1 });
    return place.innerHTML;
  });
  place.remove();
  return shown;
}"""

KOREAN = """처음부터 [문서][doc]와 [doc].

**연결을 유지하는 방식(connection)**이에요. *기울임*과 `코드`, ~~지움~~.

1. 하나
2. **둘**입니다

   두 번째 문단

```python
# 주석
print("안녕")
```

| 이름 | 값 |
|:--|--:|
| 가 | `1` |
| 나 | 두 줄<br>입니다 |

> 인용

- [x] 끝남
- [ ] 할 일

끝입니다.

[doc]: https://example.org/doc
"""


async def test_markdown_becomes_what_it_means(served: Gateway, visit: Visit) -> None:
    reader = await visit(served)
    [html] = await reader.module(SHOW, [KOREAN])
    for part in (
        "<strong>연결을 유지하는 방식(connection)</strong>이에요",
        "<em>기울임</em>과 <code>코드</code>, <del>지움</del>",
        "<strong>둘</strong>입니다",
        '<span class="hljs-comment"># 주석</span>',
        '<span class="hljs-string">"안녕"</span>',
        '<td align="right">두 줄<br>입니다</td>',
        "☑ 끝남",
        "☐ 할 일",
        '<a href="https://example.org/doc" target="_blank" rel="noopener noreferrer">문서</a>와',
    ):
        assert part in html


async def test_a_reply_that_grew_reads_as_if_it_had_come_at_once(
    served: Gateway, visit: Visit
) -> None:
    reader = await visit(served)
    at_once = (await reader.module(SHOW, [KOREAN]))[-1]
    for step in (1, 7):
        grown = [KOREAN[:end] for end in range(0, len(KOREAN), step)] + [KOREAN]
        assert (await reader.module(SHOW, grown))[-1] == at_once


async def test_code_that_is_being_written_looks_like_code(served: Gateway, visit: Visit) -> None:
    reader = await visit(served)
    pieces = ["Look:\n\n```", "Look:\n\n```py", "Look:\n\n```python\nprint(1", "done"]
    first, second, third, _ = await reader.module(SHOW, pieces)
    for html in (first, second, third):
        assert '<figure class="code" dir="ltr">' in html
        assert "```" not in html
    assert '<span class="hljs-built_in">print</span>(' in third


async def test_a_long_reply_is_not_drawn_again_with_each_piece(
    served: Gateway, visit: Visit
) -> None:
    reader = await visit(served)
    made = await reader.module(
        """async (part, load) => {
          const { Prose } = await load("prose");
          const text = part.repeat(Math.ceil(30_000 / part.length));
          const place = document.createElement("div");
          const prose = new Prose(place);
          let made = 0;
          const observer = new MutationObserver(() => {});
          observer.observe(place, { childList: true });
          let updates = 0;
          let first = null;
          for (let end = 20; end < text.length; end += 20) {
            prose.show(text.slice(0, end), { isDone: false });
            first ??= place.firstChild;
            updates += 1;
            for (const record of observer.takeRecords()) made += record.addedNodes.length;
          }
          const early = place.children[1];
          const settled = prose.settled.chars / text.length;
          prose.show(text, { isDone: true });
          const isSame = place.children[1] === early;
          return { made, updates, settled, isSame, blocks: place.children.length };
        }""",
        "Some **text** and `code`.\n\n- one\n- two\n\n```py\nfor i in range(10):\n    i\n```\n\n",
    )
    assert made["isSame"]
    assert made["blocks"] > 900
    assert made["settled"] > 0.99  # and is not read again either
    # Each piece makes the block anew that it belongs to, and now and then its neighbour.
    assert made["made"] < 2 * made["updates"]


async def test_code_is_copied_as_it_was_written(served: Gateway, visit: Visit) -> None:
    reader = await visit(served, permissions=["clipboard-read", "clipboard-write"])
    await reader.module(
        """async (text, load) => {
          const { Prose } = await load("prose");
          const place = document.createElement("div");
          document.querySelector("#turns").append(place);
          new Prose(place).show(text, { isDone: true });
        }""",
        '```html\n<b title="x">&amp; "fine"</b>\n```',
    )
    await reader.page.locator("#turns .code button").click(force=True)
    await reader.page.locator("#turns .code button.done").wait_for()
    text = await reader.page.evaluate("navigator.clipboard.readText()")
    assert text == '<b title="x">&amp; "fine"</b>'


@pytest.mark.parametrize("sign", ["> ", "- ", "1. "])
async def test_what_is_nested_too_deeply_is_read_as_text(
    served: Gateway, visit: Visit, sign: str
) -> None:
    reader = await visit(served)
    shown = await reader.module(
        """async (text, load) => {
          const { Prose } = await load("prose");
          const place = document.createElement("div");
          const prose = new Prose(place);
          prose.show(text.slice(0, -4), { isDone: false });
          prose.show(text, { isDone: true });
          return place.textContent;
        }""",
        sign * 6000 + "deep",
    )
    assert "deep" in shown


async def test_what_is_written_from_right_to_left_is_read_so(
    served: Gateway, model: ScriptedModel, visit: Visit
) -> None:
    reader = await visit(served)
    await reader.ask("مرحبا")
    await answer(model, "한국어\n\n- مرحبا\n\n```py\n# مرحبا\n```")
    await reader.is_done()
    direction = "all => all.map((one) => getComputedStyle(one).direction)"
    parts = reader.page.locator(".said, .block p, .block ul, .block pre")
    assert await parts.evaluate_all(direction) == ["rtl", "ltr", "rtl", "ltr"]
