// A reply on the page, cheap to write on: what stands above the last two blocks is settled and is
// neither read nor drawn again until the end.

import { copyFrom } from "./copy.js";
import { icon, make } from "./dom.js";
import { t } from "./i18n.js";
import { blocks, isOpenCode, nodes } from "./markdown.js";

export class Prose {
  constructor(element) {
    this.element = element;
    this.clear();
  }

  clear() {
    this.element.replaceChildren();
    this.text = "";
    this.isDone = true;
    this.drawn = []; // [{raw, isOpen, node}]
    this.settled = { blocks: 0, chars: 0 };
  }

  /** Show a text, which mostly begins with the text before. */
  show(given, { isDone }) {
    const text = given.replace(/\r\n?/g, "\n"); // as the reader of Markdown would
    if (text === this.text && isDone === this.isDone) return;
    if (!text.startsWith(this.text)) this.clear();
    // At the end all of it is read in one go, as links may be defined below their use.
    if (isDone) this.settled = { blocks: 0, chars: 0 };
    this.text = text;
    this.isDone = isDone;
    this.element.classList.toggle("writing", !isDone);
    const rest = text.slice(this.settled.chars);
    const read = blocks(rest);
    const shown = read.filter((block) => block.type !== "space" && block.type !== "def");
    this.draw(shown, { isDone, hasLinks: isDone && read.some(({ type }) => type === "def") });
    if (!isDone) this.settle(read, shown, rest);
  }

  draw(read, { isDone, hasLinks }) {
    const offset = this.settled.blocks;
    read.forEach((block, place) => {
      const isOpen = !isDone && place === read.length - 1 && isOpenCode(block);
      const html = Object.assign(block, { open: isOpen });
      const before = this.drawn[offset + place];
      // What may refer to a link that is known only now is drawn again, though it reads the same.
      const mayRefer = hasLinks && block.raw.includes("[");
      if (before?.raw === block.raw && before.isOpen === isOpen && !mayRefer) return;
      const node = make("div", { className: "block", dir: "auto" }, decorated(nodes(html)));
      if (before) before.node.replaceWith(node);
      else this.element.append(node);
      this.drawn[offset + place] = { raw: block.raw, isOpen, node };
    });
    for (const { node } of this.drawn.splice(offset + read.length)) node.remove();
  }

  settle(read, shown, rest) {
    const sum = read.reduce((chars, block) => chars + block.raw.length, 0);
    if (sum !== rest.length) return; // the reader changed it (tabs, line ends): no place to go on from
    const keep = shown.at(-2);
    if (!keep) return;
    for (const block of read) {
      if (block === keep) return;
      this.settled.chars += block.raw.length;
      if (shown.includes(block)) this.settled.blocks += 1;
    }
  }
}

function decorated(fragment) {
  for (const table of fragment.querySelectorAll("table")) {
    const frame = make("div", { className: "table", tabIndex: 0 });
    table.replaceWith(frame);
    frame.append(table);
  }
  for (const pre of fragment.querySelectorAll("pre")) {
    const figure = make("figure", { className: "code", dir: "ltr" });
    pre.replaceWith(figure);
    pre.tabIndex = 0; // so that the keyboard can scroll it
    figure.append(caption(pre), pre);
  }
  return fragment;
}

function caption(pre) {
  const code = pre.querySelector("code");
  const language = code?.className.replace("language-", "") ?? "";
  const button = make("button", { type: "button" }, icon("copy"), make("span", { textContent: t("copyCode") }));
  button.lastChild.dataset.t = "copyCode";
  button.addEventListener("click", () => copyFrom(button, pre.textContent));
  return make("figcaption", {}, make("span", { textContent: language === "plaintext" ? "" : language }), button);
}
