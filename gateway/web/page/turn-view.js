// One turn on the page: a question, its reply, what can be done with them, and older versions.

import { copyFrom } from "./copy.js";
import { $, clone, make } from "./dom.js";
import { moment, t, when } from "./i18n.js";
import { Prose } from "./prose.js";
import { lineOf, troubleOf } from "./turn-state.js";

// A question longer than that scrolls in a window of its own.
const LONG_CHARS = 1500;
const LONG_LINES = 20;

export class TurnView {
  /** `act(name, turn)` is called for what the reader wants: edit, regenerate, details, version. */
  constructor(act) {
    this.act = act;
    this.element = clone("turn");
    this.prose = new Prose($(".prose", this.element));
    this.followers = [];
    this.at = null; // which version is shown; null is the newest, whatever comes
    const on = (selector, listener) => $(selector, this.element).addEventListener("click", listener);
    on(".copy-ask", ({ currentTarget }) => copyFrom(currentTarget, this.turn.user.content));
    on(".copy", ({ currentTarget }) => copyFrom(currentTarget, this.turn.reply.content));
    on(".edit", () => this.act("edit", this.turn));
    on(".regenerate", () => this.act("regenerate", this.turn));
    on(".retry", () => this.act("regenerate", this.turn));
    on(".details", () => this.act("details", this.turn));
    on(".older", () => this.showVersion(this.place - 1));
    on(".newer", () => this.showVersion(this.place + 1));
    on(".past .link", () => this.showVersion(this.versions.length - 1));
  }

  get isOld() {
    return this.place < this.versions.length - 1;
  }

  get place() {
    return Math.min(this.at ?? Infinity, this.versions.length - 1);
  }

  get turn() {
    return this.versions[this.place].turn;
  }

  showVersion(place) {
    this.at = place === this.versions.length - 1 ? null : place;
    this.act("version", this.turn);
  }

  /** Show the newest version, or the one that was chosen; `isBusy`: nothing can be asked now. */
  show(versions, { isBusy }) {
    this.versions = versions;
    const { turn, isOld } = this;
    this.element.dataset.turn = turn.turn;
    this.element.classList.toggle("pending", turn.status === "pending");
    this.element.classList.toggle("old", isOld);
    this.showQuestion(turn);
    this.showReply();
    this.showVersions(isOld);
    this.showIf("edit", !isOld && turn.status !== "pending" && turn.user);
    this.showIf("copy-ask", turn.user);
    for (const name of ["edit", "regenerate", "retry"]) $(`.${name}`, this.element).disabled = isBusy;
    this.showFollowers(isBusy);
  }

  /** Show what the reply has grown by, and how it stands. */
  showReply() {
    const { turn, isOld } = this;
    const isOver = !["pending", "queued", "running"].includes(turn.status);
    this.prose.show(turn.reply?.content ?? "", { isDone: isOver });
    $(".reply", this.element).setAttribute("aria-busy", String(!isOver));
    this.showLine(lineOf(turn));
    this.showTrouble(troubleOf(turn), isOld);
    this.showIf("copy", isOver && turn.reply?.content);
    this.showIf("regenerate", isOver && !isOld);
    this.showIf("details", isOver && turn.reply);
    const time = $(".when", this.element);
    const at = isOver && turn.reply?.createdAt;
    time.hidden = !at;
    if (at) Object.assign(time, { textContent: when(at), title: moment(at) });
  }

  showQuestion({ user }) {
    const said = $(".said", this.element);
    const text = user?.content ?? "";
    $(".ask", this.element).hidden = !user;
    if (said.textContent === text) return;
    said.textContent = text;
    const isLong = text.length > LONG_CHARS || text.split("\n").length > LONG_LINES;
    said.classList.toggle("long", isLong);
    said.toggleAttribute("tabindex", isLong);
    if (isLong) said.tabIndex = 0; // so that the keyboard can scroll it
  }

  showLine(line) {
    const place = $(".state", this.element);
    place.hidden = !line;
    // Drawn anew only when it says something else, for its dots move.
    if ((line?.text ?? "") === place.textContent) return;
    const dots = make("span", { className: "bubbles", ariaHidden: "true" }, make("i"), make("i"), make("i"));
    place.replaceChildren(...(line?.isWaiting ? [dots] : []), make("span", { textContent: line?.text ?? "" }));
  }

  showTrouble(trouble, isOld) {
    const place = $(".trouble", this.element);
    place.hidden = !trouble;
    if (!trouble) return;
    place.classList.toggle("calm", trouble.isCalm);
    $(".what", place).textContent = trouble.what;
    $(".next", place).textContent = trouble.next;
    $(".retry", place).hidden = !trouble.canRetry || isOld;
  }

  showVersions(isOld) {
    const count = this.versions.length;
    const at = this.place + 1;
    this.showIf("versions", count > 1);
    $(".which", this.element).textContent = t("whichVersion", { at, count });
    $(".older", this.element).disabled = at === 1;
    $(".newer", this.element).disabled = at === count;
    this.showIf("past", isOld);
    $(".past span", this.element).textContent = t("past");
  }

  showFollowers(isBusy) {
    const wanted = this.versions[this.place].followers;
    const place = $(".followers", this.element);
    place.hidden = wanted.length === 0;
    while (this.followers.length > wanted.length) this.followers.pop().element.remove();
    wanted.forEach((turn, index) => {
      const view = this.followers[index] ?? new TurnView(this.act);
      this.followers[index] = view;
      view.show([{ turn, followers: [] }], { isBusy });
      view.forbid();
      if (!view.element.parentElement) place.append(view.element);
    });
  }

  /** Only to be read: it belongs to a past that cannot be changed. */
  forbid() {
    for (const name of ["edit", "regenerate", "retry", "details"]) this.showIf(name, false);
  }

  showIf(name, isShown) {
    $(`.${name}`, this.element).hidden = !isShown;
  }
}
