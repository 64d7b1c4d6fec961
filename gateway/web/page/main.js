// The page: what is in view, and who tells whom.

import { say, sayFinished, sayStarted } from "./announcer.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { Connection } from "./connection.js";
import { detailsOf } from "./details.js";
import { askKey, showDetails, showHelp } from "./dialogs.js";
import { $ } from "./dom.js";
import { exportSession } from "./export.js";
import { Finder } from "./finder.js";
import { drawHead, startLanguage } from "./head.js";
import { onLanguage, showLanguage, t } from "./i18n.js";
import { startKeys } from "./keys.js";
import { hush, isModelAway, refreshHealth, tell } from "./notices.js";
import { Older } from "./older.js";
import { startScrolling, toEnd } from "./scroller.js";
import { Sidebar } from "./sidebar.js";
import { apiKey, draft, forgetSession, NEW, onSessions, saveDraft, takeUnsent } from "./store.js";
import { startTheme } from "./theme.js";
import { idOf, linkTo, nameSession } from "./titles.js";
import { Transcript } from "./transcript.js";
import { whatHappened, whatNext } from "./turn-state.js";
import { hideGone, showGone, startWelcome } from "./welcome.js";

let chat = null;

const transcript = new Transcript((act, turn) => ({ edit, regenerate, details })[act](turn));
const composer = new Composer({
  send,
  stop: () => chat?.stop(),
  editLast,
  draft: (text) => saveDraft(chat?.id ?? NEW, text),
  busy: (what) => tell(t(what === "writing" ? "busy" : "hintSending"), { isCalm: true }),
});
const sidebar = new Sidebar({ deleted: (id) => chat?.id === id && newChat() });
const older = new Older(() => chat, transcript);
const finder = new Finder((hit) => void older.reveal(hit));
const connection = new Connection(reconnect);

// What is in view

function show(next) {
  chat?.leave();
  chat = next;
  hush();
  if (finder.isOpen) finder.close();
  hideGone();
  $("#older").hidden = !chat?.id;
  transcript.open(chat);
  sidebar.show(chat?.id ?? null);
  connection.show(chat);
  composer.open(draft(chat?.id ?? NEW));
  if (!chat) composer.giveBack(takeUnsent());
  composer.waitFor(null);
  composer.limit(Infinity);
  drawFrame();
  if (chat) listen(chat);
  toEnd();
}

function listen(one) {
  const on = (type, listener) => one.addEventListener(type, ({ detail }) => one === chat && listener(detail));
  on("turns", turnsChanged);
  on("text", () => transcript.drawOpen());
  on("state", stateChanged);
  on("known", becameKnown);
  on("opened", refreshHealth);
  on("queued", () => say(t("say.queued")));
  on("started", started);
  on("ended", ended);
  on("refused", refused);
  on("failed", ({ code }) => tell(`${whatHappened(code)} ${whatNext(code)}`, { isCalm: code === "nothing_to_cancel" }));
  on("gone", gone);
  on("locked", () => askForKey(t(apiKey() ? "keyBad" : "keyNeeded")));
}

async function route() {
  const id = idOf(location.hash);
  if (id === (chat?.id ?? "")) return;
  if (!id) return void show(null);
  show(new Chat(id));
  const opened = chat;
  await opened.open();
  if (opened === chat && opened.client) settleIn();
}

function settleIn() {
  nameSession(chat.id, firstWords());
  toEnd();
  older.fillWindow();
}

function firstWords() {
  return (!chat.nextBefore && chat.conversation.turns[0]?.user?.content) || "";
}

function drawFrame() {
  drawHead(chat?.id ?? null, { isThere: chat?.waits !== "gone" });
  $("#welcome").hidden = chat !== null;
}

// What the chat says

function turnsChanged() {
  if (!chat.older) $("#older").hidden = true;
  transcript.draw();
  composer.waitFor(chat.waits);
}

function stateChanged() {
  connection.show(chat);
  composer.limit(chat.client?.limits?.max_message_chars ?? Infinity);
}

function becameKnown() {
  nameSession(chat.id, chat.pending.first, { at: Date.now() });
  saveDraft(chat.id, draft(NEW));
  saveDraft(NEW, null);
  history.replaceState(null, "", linkTo(chat.id));
  sidebar.show(chat.id);
  drawFrame();
}

function started({ user_message: message }) {
  nameSession(chat.id, message.content, { at: Date.now() });
  hush();
  sayStarted();
}

function ended({ turn, finish_reason: reason, code }) {
  if (code || isModelAway()) refreshHealth();
  const prose = document.querySelector(`[data-turn="${turn}"] > .reply .prose`);
  if (prose) sayFinished(prose, { wasStopped: reason === "cancelled" });
}

function refused({ message, code }) {
  composer.giveBack(message);
  tell(`${whatHappened(code)} ${whatNext(code)}`);
}

function gone() {
  const { id } = chat;
  if (sidebar.deleting === id) return;
  showGone(() => {
    forgetSession(id);
    newChat();
  });
  $("#older").hidden = true;
  if (finder.isOpen) finder.close();
  drawFrame();
  hush();
  toEnd();
}

async function askForKey(why) {
  composer.giveBack(chat?.takeBack() ?? "");
  if (!(await askKey(why))) return;
  const id = chat?.id;
  show(null);
  if (id) route();
  sidebar.refresh();
}

// What the reader wants

function send(text, replaces) {
  hush();
  transcript.showNewest();
  if (!chat) {
    show(new Chat(null));
    chat.connect();
  }
  chat.send(text, replaces);
  toEnd();
}

function edit({ turn, user }) {
  composer.edit(turn, user.content);
}

function editLast() {
  const last = chat && chat.conversation.visible.at(-1);
  if (!last?.user || chat.waits) return false;
  edit(last);
  return true;
}

function regenerate({ turn }) {
  hush();
  chat.regenerate(turn);
}

function details(turn) {
  showDetails(detailsOf(turn, chat.client?.cursor));
}

function newChat() {
  sidebar.leave();
  if (location.hash) location.hash = "";
  else if (chat) show(null);
  composer.focus();
}

function reconnect() {
  hush();
  chat.retryNow();
}

// The rest of the page

function choose(idea) {
  composer.fill(idea);
  composer.changed();
  composer.focus();
}

function drawLanguage() {
  transcript.draw();
  drawFrame();
}

$("#new-chat").addEventListener("click", newChat);
$("#help").addEventListener("click", showHelp);
$("#key").addEventListener("click", () => askForKey(""));
$("#search-open").addEventListener("click", () => finder.open(chat.id));
$("#export").addEventListener("click", () => exportSession(chat.id, $("#title").textContent));
addEventListener("hashchange", route);
onSessions(drawFrame);
onLanguage(drawLanguage);

startKeys({
  newChat,
  sidebar: () => sidebar.toggle(),
  search: () => !$("#search-open").hidden && finder.open(chat.id),
  stop: () => chat?.waits === "writing" && chat.stop(),
  box: () => composer.focus(),
  help: () => void showHelp(),
});
startScrolling(() => void older.load());
startTheme();
startWelcome(choose);
startLanguage();
showLanguage();
refreshHealth();
sidebar.refresh();
show(null);
route();
if (matchMedia("(hover: hover)").matches) composer.focus();
