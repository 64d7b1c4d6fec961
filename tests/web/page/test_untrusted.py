"""Nothing that a model says can do anything but be read."""

from typing import Any

import pytest

from tests.gateway.harness import Gateway, call_of
from tests.llm.scripted import ScriptedModel
from tests.web.page.conftest import Visit

RUN = "globalThis.ran=1"

# What has got through one sanitiser or Markdown reader or another.
HOSTILE = [
    f"<script>{RUN}</script>",
    f"<ScRiPt src=//evil.example/x.js></sCrIpT><img src=x onerror={RUN}>",
    f'<img src="https://evil.example/p.png" onerror="{RUN}" onload="{RUN}">',
    f"<svg onload={RUN}><script>{RUN}</script></svg>",
    f"<svg><animate onbegin={RUN} attributeName=x dur=1s></svg>",
    f'<svg><a xlink:href="javascript:{RUN}"><text>x</text></a></svg>',
    "<math><mtext><table><mglyph><style><!--</style>"
    f"<img title='--&gt;&lt;img src=1 onerror={RUN}&gt;'>",
    f'<form><math><mtext></form><form><mglyph><style></math><img src onerror="{RUN}">',
    f"<noscript><p title='</noscript><img src=x onerror={RUN}>'>",
    f"<template><img src=x onerror={RUN}></template>",
    f"<iframe srcdoc='<script>parent.{RUN}</script>'></iframe>",
    f'<iframe src="javascript:parent.{RUN}"></iframe><object data="javascript:{RUN}"></object>',
    f'<embed src="data:text/html,<script>{RUN}</script>">',
    '<link rel=stylesheet href="https://evil.example/x.css"><base href="https://evil.example/">',
    '<meta http-equiv="refresh" content="0;url=https://evil.example/">',
    "<style>@import url(https://evil.example/x.css);*{display:none}</style>",
    '<p style="position:fixed;inset:0;background:url(https://evil.example/x)">x</p>',
    f"<details open ontoggle={RUN}><summary>x</summary></details>",
    f"<input autofocus onfocus={RUN}><select autofocus onfocus={RUN}>",
    f'<button popovertarget=x onclick={RUN}>x</button><div popover id=x onbeforetoggle="{RUN}">',
    f"<video><source onerror={RUN}></video><audio src=x onerror={RUN}>",
    "<form id=app action=https://evil.example/><input name=attributes><input name=children>",
    "<a id=defaultView></a><a id=body name=body></a><img name=querySelector><img name=location>",
    '<p id="scroller" class="turn skip sr">x</p>',
    f"<x-element is=x onclick={RUN}></x-element>",
    f"[link](javascript:{RUN})",
    f"[link](JaVaScRiPt&colon;{RUN})",
    f"[link](java\nscript:{RUN})",
    f"[link](&#106;avascript:{RUN})",
    f"[link](data:text/html;base64,PHNjcmlwdD4=) [v](vbscript:{RUN}) [f](file:///etc/passwd)",
    f"[link](\x01javascript:{RUN}) [b](blob:https://evil.example/x)",
    f"<javascript:{RUN}>",
    f"[x]: javascript:{RUN}\n\n[x] [y][x]",
    '![x](https://evil.example/p.png "t") ![x](data:image/svg+xml,<svg/onload=1>)',
    f'![x" onerror="{RUN}](x) ![a](x"onerror={RUN})',
    f'[a](https://ok.example/"onmouseover="{RUN}) [b](https://ok.example "onclick={RUN}")',
    f'```"><img/src=x/onerror={RUN}>\ncode\n```',
    f"```html\n</code></pre><img src=x onerror={RUN}>\n```",
    f"`</code><img src=x onerror={RUN}>`",
    f"| <img src=x onerror={RUN}> |\n|--|\n| <svg/onload={RUN}> |",
    f"- [x] <img src=x onerror={RUN}>",
    f"# <img src=x onerror={RUN}>\n\n> <svg onload={RUN}>",
    f"<!--><img src=x onerror={RUN}>-->",
    f"<![CDATA[><img src=x onerror={RUN}>]]>",
    f"<a href='https://ok.example'><b><img src=x onerror={RUN}></b></a>",
    f"<<script>{RUN}//<</script>",
    f"\u2028<img\x0bsrc=x\x0conerror={RUN}>\u202e",
    "<div is=" * 200,
    "**" * 400 + "[" * 400 + "`" * 401,
    "> " * 150 + "deep",
]

# What is in a place that is not among what a reply may be made of.
LOOK = """(place) => {
  const tags = new Set(("A BLOCKQUOTE BR BUTTON CODE DEL DIV EM FIGCAPTION FIGURE H1 H2 H3 H4 H5 H6"
    + " HR LI OL P PRE SPAN STRONG TABLE TBODY TD TH THEAD TR UL svg use").split(" "));
  const attributes = new Set(("align aria-hidden class data-t href rel start tabindex target title"
    + " type").split(" "));
  const odd = [];
  for (const element of place.querySelectorAll("*")) {
    if (!tags.has(element.tagName)) odd.push(element.outerHTML);
    for (const { name, value } of element.attributes) {
      const isIcon = element.tagName === "use" && value[0] === "#";
      const isLink = /^(https?:|mailto:)/.test(value) || isIcon;
      const isOurs = name === "dir" && ["block", "code"].includes(element.className);
      const isKnown = attributes.has(name) || isOurs;
      if (!isKnown || (name === "href" && !isLink)) odd.push(`${name}=${value}`);
      if (name === "class" && /turn|skip|sr\\b|icon/.test(value)) odd.push(`class=${value}`);
    }
    const isSafe = element.rel === "noopener noreferrer" && element.target === "_blank";
    if (element.tagName === "A" && element.href && !isSafe) odd.push("rel");
  }
  return odd;
}"""


async def oddities(reader: Any, way: str) -> list[Any]:
    found: list[Any] = await reader.module(
        f"""async (texts, load) => {{
          const {{ sanitised }} = await load("markdown");
          const {{ Prose }} = await load("prose");
          const look = {LOOK};
          return texts.map((text) => {{
            const place = document.createElement("div");
            document.querySelector("#turns").append(place);
            {way}
            const odd = look(place);
            place.remove();
            return odd.length ? [text, ...odd] : null;
          }}).filter(Boolean);
        }}""",
        HOSTILE,
    )
    return found


WAYS = {
    "a reply": "new Prose(place).show(text, { isDone: true });",
    "a growing reply": """const prose = new Prose(place);
        for (let end = 1; end < text.length; end += 1 + (text.length >> 6))
          prose.show(text.slice(0, end), { isDone: false });""",
    # The last guard alone, as if Markdown let everything through.
    "the sanitiser": "place.append(sanitised(text)); place.append(sanitised(place.innerHTML));",
}


@pytest.mark.parametrize("way", WAYS)
async def test_nothing_comes_through_but_text_and_links(
    served: Gateway, visit: Visit, way: str
) -> None:
    # Chromium holds a document that is only parsed to the policy too, and says so; what gets past
    # the sanitiser into the page would be among the oddities.
    parsed = ("Executing inline event handler", "Applying inline style", "base URI")
    reader = await visit(served, expected=parsed if way == "the sanitiser" else ())
    assert await oddities(reader, WAYS[way]) == []
    assert await reader.page.evaluate("globalThis.ran") is None
    if way == "the sanitiser":
        await reader.page.evaluate("globalThis.violations = []")


async def test_a_hostile_model_is_only_read(
    served: Gateway, visit: Visit, model: ScriptedModel
) -> None:
    reader = await visit(served)
    await reader.ask(HOSTILE[2])
    call = await call_of(model)
    await call.say(*(f"{text}\n\n" for text in HOSTILE), "\n\nthe end")
    await call.complete()
    await reader.sees("the end")
    await reader.is_done()
    assert await reader.page.evaluate(f"({LOOK})(document.querySelector('.reply .prose'))") == []
    assert await reader.question.inner_text() == HOSTILE[2]
    await reader.reload()
    await reader.sees("the end")
    assert await reader.page.evaluate("globalThis.ran") is None
    # The page is whole: nothing was covered, renamed or led elsewhere.
    await reader.ask("still here?")
    call = await call_of(model)
    await call.say("yes")
    await call.complete()
    await reader.sees("yes")


async def test_no_other_string_becomes_markup(served: Gateway, visit: Visit) -> None:
    reader = await visit(served, expected=("This document requires 'TrustedHTML'",))
    said = await reader.page.evaluate(
        """() => {
          try {
            document.createElement("p").innerHTML = "<b>x</b>";
          } catch (error) {
            return error.name;
          }
          return "it did";
        }"""
    )
    assert said == "TypeError"
    await reader.page.evaluate("globalThis.violations = []")  # that one was ours
