// The list of conversations, and whether it is seen.

import { deleteSession, listSessions } from "./api.js";
import { confirmed } from "./dialogs.js";
import { $, clone, make } from "./dom.js";
import { dayOf, onLanguage, t } from "./i18n.js";
import { tell } from "./notices.js";
import { addSessions, apiKey, forgetSession, noteSession, onSessions, recall, remember, sessions } from "./store.js";
import { linkTo, titleOf } from "./titles.js";
import { whatHappened } from "./turn-state.js";

const app = $("#app");
const list = $("#sessions");
const phone = matchMedia("(max-width: 48rem)");

export class Sidebar {
  /** `on` has `deleted(id)`. */
  constructor(on) {
    this.on = on;
    this.current = null;
    this.deleting = null;
    app.classList.toggle("narrow", recall("sidebar") === "hidden");
    $("#sidebar-open").addEventListener("click", () => this.toggle(true));
    $("#sidebar-close").addEventListener("click", () => this.toggle(false));
    $("#veil").addEventListener("click", () => this.toggle(false));
    $("#sidebar").addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.isDrawer) return;
      event.preventDefault(); // it stops no reply
      this.toggle(false);
    });
    phone.addEventListener("change", () => this.tell());
    this.tell();
    onSessions(() => this.draw());
    onLanguage(() => this.draw());
    this.draw();
  }

  get isDrawer() {
    return phone.matches && app.classList.contains("drawer");
  }

  get isSeen() {
    return phone.matches ? this.isDrawer : !app.classList.contains("narrow");
  }

  toggle(isWanted = !this.isSeen) {
    if (phone.matches) {
      app.classList.toggle("drawer", isWanted);
      $("#veil").hidden = !isWanted;
      $("#main").inert = isWanted;
    } else {
      app.classList.toggle("narrow", !isWanted);
      remember("sidebar", isWanted ? null : "hidden");
    }
    $(isWanted ? "#sidebar-close" : "#sidebar-open").focus();
    this.tell();
  }

  tell() {
    $("#sidebar-open").setAttribute("aria-expanded", String(this.isSeen));
  }

  /** On a phone the list goes away once a choice is made. */
  leave() {
    if (this.isDrawer) this.toggle(false);
  }

  show(current) {
    this.current = current;
    this.draw();
  }

  /** Add what the gateway knows of who has a key; keep what is here if it does not answer. */
  async refresh() {
    if (!apiKey()) return;
    const answer = await listSessions().catch(() => ({ sessions: [] }));
    const known = new Set(sessions().map(({ id }) => id));
    addSessions(answer.sessions.filter(({ session_id: id }) => !known.has(id)).map(entryOf));
  }

  draw() {
    const focused = list.contains(document.activeElement) ? document.activeElement : null;
    if (focused?.tagName === "INPUT") return;
    const id = focused?.closest("li").dataset.id;
    this.drawRows();
    if (id) this.focus(id, focused.className);
  }

  /** Go back to what had the focus in a row; to the link, if that is not seen any more. */
  focus(id, name) {
    const row = [...list.querySelectorAll("li")].find((one) => one.dataset.id === id);
    const wanted = row && [...row.querySelectorAll("a, button")].find((one) => one.className === name);
    (wanted ?? $("#new-chat")).focus({ preventScroll: true });
  }

  drawRows() {
    const known = sessions();
    if (!known.length) return list.replaceChildren(make("p", { className: "none", textContent: t("noSessions") }));
    const days = Map.groupBy ? Map.groupBy(known, ({ at }) => dayOf(at)) : grouped(known);
    const parts = [...days].flatMap(([day, entries]) => [
      make("h2", { textContent: day }),
      make("ul", {}, ...entries.map((entry) => this.row(entry))),
    ]);
    return list.replaceChildren(...parts);
  }

  row(entry) {
    const row = clone("session-row");
    const link = $("a", row);
    row.dataset.id = entry.id;
    link.href = linkTo(entry.id);
    link.title = titleOf(entry);
    $(".name", row).textContent = titleOf(entry);
    if (entry.id === this.current) {
      row.classList.add("current");
      link.setAttribute("aria-current", "page");
    }
    link.addEventListener("click", () => this.leave());
    $(".rename", row).addEventListener("click", () => this.rename(row, entry));
    $(".delete", row).addEventListener("click", () => this.delete(entry));
    return row;
  }

  rename(row, entry) {
    const input = $("input", row);
    const finish = (title) => {
      input.onblur = null;
      const isLeft = document.activeElement !== input;
      input.blur();
      if (title && title !== titleOf(entry)) noteSession(entry.id, { title });
      else this.draw();
      if (!isLeft) this.focus(entry.id, $("a", row).className);
    };
    for (const other of row.children) other.hidden = other !== input;
    input.setAttribute("aria-label", t("rename"));
    input.value = titleOf(entry);
    input.onblur = () => finish(input.value.trim());
    input.onkeydown = (event) => {
      event.stopPropagation();
      if (event.isComposing || event.keyCode === 229) return;
      if (event.key === "Enter") finish(input.value.trim());
      if (event.key === "Escape") finish("");
    };
    input.focus();
    input.select();
  }

  async delete(entry) {
    const more = t("deleteMore", { title: titleOf(entry) });
    if (!(await confirmed(t("deleteTitle"), more, t("delete")))) return;
    this.deleting = entry.id;
    try {
      await deleteSession(entry.id);
    } catch (error) {
      this.deleting = null;
      // One that is gone already is as deleted as it can be.
      if (error.status !== 404) return void tell(whatHappened(error.code ?? "upstream_unavailable"));
    }
    this.on.deleted(entry.id);
    forgetSession(entry.id);
  }
}

function entryOf({ session_id: id, last_accessed: used, metadata }) {
  return { id, title: typeof metadata?.title === "string" ? metadata.title : "", at: Date.parse(used) };
}

function grouped(entries) {
  const days = new Map();
  for (const entry of entries) days.set(dayOf(entry.at), [...(days.get(dayOf(entry.at)) ?? []), entry]);
  return days;
}
