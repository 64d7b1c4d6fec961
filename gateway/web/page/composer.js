// The box that messages are written in.

import { $ } from "./dom.js";
import { number, onLanguage, t } from "./i18n.js";

const box = $("#box");
const send = $("#send");
const stop = $("#stop");
const editing = $("#editing");
const touch = matchMedia("(hover: none) and (pointer: coarse)");

export class Composer {
  /** `on` has `send(text, replaces)`, `stop()`, `draft(text)`, `editLast()`, `busy()`. */
  constructor(on) {
    this.on = on;
    this.waits = null; // "sending" or "writing": what has to end before the next message
    this.isComposing = false;
    this.most = Infinity;
    this.edited = null; // {turn, kept}: the turn that is asked again, and what was in the box before
    box.addEventListener("compositionstart", () => (this.isComposing = true));
    box.addEventListener("compositionend", () => (this.isComposing = false));
    box.addEventListener("input", () => this.changed());
    box.addEventListener("keydown", (event) => this.pressed(event));
    $("#composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    stop.addEventListener("click", () => this.on.stop());
    $(".skip").addEventListener("click", (event) => {
      event.preventDefault(); // the address says which conversation is in view
      this.focus();
    });
    $("button", editing).addEventListener("click", () => this.stopEditing());
    onLanguage(() => this.draw());
    this.draw();
  }

  get text() {
    return box.value;
  }

  /** Put a text into the box, the cursor behind it. */
  fill(text) {
    box.value = text;
    box.setSelectionRange(text.length, text.length);
    this.draw();
  }

  /** Give back what could not be sent, before what was typed since. */
  giveBack(text) {
    if (!text) return;
    this.fill(box.value.trim() ? `${text}\n\n${box.value}` : text);
    this.on.draft(box.value);
  }

  waitFor(what) {
    if (what === this.waits) return;
    this.waits = what;
    this.draw();
  }

  limit(chars) {
    this.most = chars;
    this.draw();
  }

  edit(turn, text) {
    this.edited = { turn, kept: this.edited?.kept ?? box.value };
    this.fill(text);
    box.focus();
  }

  /** Leave the question as it was. */
  stopEditing() {
    const { kept } = this.edited;
    this.edited = null;
    this.fill(kept);
    box.focus();
  }

  /** Another conversation: its draft, and nothing that is edited. */
  open(draft) {
    this.edited = null;
    this.fill(draft);
  }

  focus() {
    box.focus({ preventScroll: true });
  }

  changed() {
    if (!this.edited) this.on.draft(box.value);
    this.draw();
  }

  pressed(event) {
    // An input method owns the keys while it composes. Safari ends the composition before the
    // Enter that ended it arrives, and tells only by 229.
    if (event.isComposing || this.isComposing || event.keyCode === 229) return;
    if (event.key === "Enter" && !event.shiftKey && !event.altKey && (!touch.matches || event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      this.submit();
    } else if (event.key === "Escape" && this.edited) {
      event.preventDefault();
      event.stopPropagation();
      this.stopEditing();
    } else if (event.key === "ArrowUp" && box.value === "" && !event.shiftKey) {
      if (this.on.editLast()) event.preventDefault();
    }
  }

  submit() {
    if (this.isComposing) {
      // By the button, in the middle of a syllable: leaving the box completes it.
      box.addEventListener("compositionend", () => setTimeout(() => this.submit()), { once: true });
      box.blur();
      box.focus();
      return;
    }
    if (this.waits) return void this.on.busy(this.waits);
    if (!this.isSendable) return;
    const text = box.value;
    const edited = this.edited;
    this.edited = null;
    this.fill(edited?.kept ?? "");
    this.on.draft(box.value);
    this.on.send(text, edited?.turn);
  }

  get chars() {
    // Code points, as the gateway counts.
    return box.value.length < this.most ? box.value.length : [...box.value].length;
  }

  get isSendable() {
    return box.value.trim() !== "" && this.chars <= this.most;
  }

  draw() {
    const { chars, most } = this;
    const counter = $("#counter");
    counter.hidden = chars < most * 0.9;
    counter.classList.toggle("over", chars > most);
    if (!counter.hidden) counter.textContent = t("counter", { count: number(chars), most: number(most) });
    send.hidden = this.waits === "writing";
    send.disabled = this.waits !== null || !this.isSendable;
    stop.hidden = this.waits !== "writing";
    editing.hidden = !this.edited;
    $("#hint").textContent = t({ writing: "hintRunning", sending: "hintSending" }[this.waits] ?? "hint");
    if (!CSS.supports("field-sizing", "content")) {
      box.style.height = "auto";
      box.style.height = `${box.scrollHeight}px`;
    }
  }
}
