// Search in this conversation.

import { find } from "./api.js";
import { $, make } from "./dom.js";
import { clock, onLanguage, t } from "./i18n.js";

const AROUND = 60; // characters before a hit
const WAIT_MS = 200; // after the last key
const MAX_HITS = 50;
const place = $("#finder");
const input = $("#finder-input");
const list = $("ul", place);
const count = $(".count", place);

export class Finder {
  /** `reveal(hit)` is called when a hit is chosen. */
  constructor(reveal) {
    this.reveal = reveal;
    this.id = null;
    this.asked = 0;
    this.timer = 0;
    input.addEventListener("input", () => {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.search(), WAIT_MS);
    });
    $("form", place).addEventListener("submit", (event) => {
      event.preventDefault();
      clearTimeout(this.timer);
      this.search();
    });
    $("button", place).addEventListener("click", () => this.close());
    place.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || event.isComposing) return;
      event.stopPropagation();
      this.close();
    });
    onLanguage(() => this.search());
  }

  get isOpen() {
    return !place.hidden;
  }

  open(id) {
    this.id = id;
    place.hidden = false;
    input.select();
    input.focus();
  }

  close() {
    place.hidden = true;
    input.value = "";
    this.show([], "");
    $("#search-open").focus();
  }

  async search() {
    const query = input.value.trim();
    const asked = ++this.asked;
    if (!query || !this.id) return this.show([], "");
    try {
      const hits = await this.hits(query, () => asked === this.asked);
      // A newer search may have been quicker.
      if (asked === this.asked) this.show(hits, query);
    } catch {
      if (asked === this.asked) count.textContent = t("searchFailed");
    }
    return undefined;
  }

  /** The newest hits first; a page of them may be short, or empty, and not be the last. */
  async hits(query, isWanted) {
    const hits = [];
    let before;
    do {
      const page = await find(this.id, { q: query, before, limit: MAX_HITS });
      // Only the history itself has a cursor: this gateway does not know `q`.
      const isSearch = page.cursor === null;
      hits.push(...(isSearch ? page.messages : fitting(page.messages, query)).reverse());
      before = isSearch ? page.next_before : null;
    } while (before && hits.length < MAX_HITS && isWanted());
    return hits;
  }

  show(hits, query) {
    if (query) count.textContent = hits.length ? t("found", { count: hits.length }) : t("foundNone");
    else count.textContent = "";
    list.replaceChildren(...hits.map((hit) => this.row(hit, query)));
  }

  row(hit, query) {
    const who = t(hit.role === "user" ? "youSaid" : "modelSaid");
    const button = make("button", { type: "button" });
    button.append(make("b", { textContent: `${who} · ${clock(hit.created_at)}` }), ...excerpt(hit.content, query));
    button.addEventListener("click", () => this.reveal(hit));
    return make("li", {}, button);
  }
}

const folded = (text) => text.normalize("NFC").toLowerCase();
const words = (query) => folded(query).split(/\s+/).filter(Boolean);

function fitting(messages, query) {
  return messages.filter(({ content }) => words(query).every((word) => folded(content).includes(word)));
}

function excerpt(content, query) {
  const text = content.normalize("NFC").replace(/\s+/g, " ");
  const whole = words(query).join(" ");
  const word = folded(text).includes(whole) ? whole : words(query)[0];
  const at = folded(text).indexOf(word);
  if (at < 0) return [text.slice(0, 2 * AROUND)];
  const from = Math.max(0, at - AROUND);
  const end = at + word.length;
  return [
    (from ? "…" : "") + text.slice(from, at),
    make("mark", { textContent: text.slice(at, end) }),
    text.slice(end, end + 2 * AROUND),
  ];
}
