// What is shown of a message that a search found.

import assert from "node:assert/strict";
import { test } from "node:test";

import { excerptOf } from "../../../gateway/web/page/excerpt.js";

const marked = (message, query) =>
  excerptOf(message, query).map(({ text, isHit }) => (isHit ? `[${text}]` : text)).join("");

test("every word is marked, however it is written", () => {
  assert.equal(marked("İİ 서울 STRASSE", "서울 straße"), "İİ [서울] [STRASSE]");
  assert.equal(marked("한글".normalize("NFD"), "한글"), "[한글]");
  assert.equal(marked("100% _x_ \\ '", "% \\"), "100[%] _x_ [\\] '");
});

test("words within words are marked once, and no letter by half", () => {
  assert.equal(marked("날씨는 날", "날 날씨"), "[날씨]는 [날]");
  assert.equal(marked("Maß", "s"), "Ma[ß]");
});

test("a long message is cut around the first hit", () => {
  const text = marked(`${"a".repeat(500)} x ${"b".repeat(500)}`, "x");
  assert.match(text, /^…a{59} \[x\] b{119}$/);
});

test("what this browser cannot find is shown from its beginning", () => {
  assert.equal(marked("word ".repeat(100), "없음"), "word ".repeat(24));
});

test("a text of nothing but hits takes no time that grows with their square", () => {
  assert.equal(excerptOf("a".repeat(200_000), "a").length, 120 + 1);
});
