// Search in this conversation.

import { find } from "./api.js";
import { $, make } from "./dom.js";
import { excerptOf } from "./excerpt.js";
import { number, onLanguage, t, when } from "./i18n.js";

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
    void this.search();
    $("#search-open").focus();
  }

  async search() {
    const query = input.value.trim();
    clearTimeout(this.timer);
    const asked = ++this.asked;
    const isWanted = () => asked === this.asked; // a newer search may have been quicker
    list.ariaBusy = String(Boolean(query));
    if (!query) return this.show({ hits: [], query });
    try {
      const found = await this.hits(query, isWanted);
      if (isWanted()) this.show({ ...found, query });
    } catch {
      if (isWanted()) this.show({ hits: [], query, hasFailed: true });
    }
    return undefined;
  }

  /** The newest hits first; a page of them may be short, or empty, and not be the last. */
  async hits(query, isWanted) {
    const hits = [];
    let before;
    do {
      const page = await find(this.id, { q: query, before, limit: MAX_HITS });
      hits.push(...page.messages.reverse());
      before = page.next_before;
    } while (before && hits.length < MAX_HITS && isWanted());
    return { hits, isMore: Boolean(before) };
  }

  show({ hits, query, isMore = false, hasFailed = false }) {
    const found = hits.length ? (isMore ? "foundMore" : "found") : "foundNone";
    count.textContent = query && t(hasFailed ? "searchFailed" : found, { count: number(hits.length) });
    list.replaceChildren(...hits.map((hit) => this.row(hit, query)));
    list.ariaBusy = "false";
  }

  row(hit, query) {
    const who = t(hit.role === "user" ? "youSaid" : "modelSaid");
    const parts = excerptOf(hit.content, query).map(({ text, isHit }) => (
      isHit ? make("mark", { textContent: text }) : text
    ));
    const button = make("button", { type: "button" });
    button.append(make("b", { textContent: `${who} · ${when(hit.created_at)}` }), make("span", { dir: "auto" }, ...parts));
    button.addEventListener("click", () => this.reveal(hit));
    return make("li", {}, button);
  }
}
