// What the page says, in English and Korean. English is in the page itself.

import { chosenLanguage, keepLanguage } from "../page/choices.js";

const KOREAN = {
  skip: "콘솔로 건너뛰기",
  console: "콘솔",
  frames: "프레임",
  codes: "코드",
  theme: "밝게 또는 어둡게",
  title: "읽고 바로 써 보는 계약",
  intro:
    "세션은 턴이 덧붙기만 하는 로그이고, 클라이언트는 그 위의 커서입니다. 마지막으로 본 id를 저장해 두었다가 다시 가져오면 그다음부터 빠짐없이, 겹침 없이 이어집니다.",
  files: "도구용:",
  chat: "채팅 페이지",
  "console-says": "이 게이트웨이에 실제로 연결되는 WebSocket입니다. 여기서 보낸 것은 저장되고 응답을 받습니다.",
  session: "세션",
  "session-hint": "비우면 새로 만듭니다",
  after: "이 커서 다음부터",
  "after-hint": "커서, 예: 3.1.57",
  key: "키 또는 토큰",
  "key-hint": "필요한 곳에서만",
  connect: "연결",
  disconnect: "끊기",
  resume: "이어서 받기",
  template: "예시",
  frame: "프레임, 또는 손으로 친 글",
  send: "보내기",
  anyway: "그래도 보내기",
  format: "정돈",
  reply: "사용자가 보는 것",
  nothing: "아직 없습니다.",
  cursor: "커서",
  log: "프레임",
  copy: "복사",
  copied: "복사됨",
  clear: "지우기",
  "to-server": "서버로",
  "from-server": "서버에서",
  "error-codes": "오류 코드",
  "close-codes": "종료 코드",
  "close-says": "4000–4499: 다시 연결합니다. 4500–4999: 다시 연결하지 않습니다.",
  "rest-says": "“Execute”는 이 게이트웨이를 호출합니다. 이벤트 스트림은 끝난 뒤에야 보이므로 콘솔에서 따라가세요.",
  code: "코드",
  meaning: "뜻",
  again: "재시도",
  field: "필드",
  kind: "형",
  required: "필수",
  example: "예시",
  try: "콘솔에서 써 보기",
  yes: "예",
  no: "아니요",
  valid: "스키마에 맞습니다.",
  typed: "손으로 친 글로 보냅니다.",
  idle: "끊김",
  connecting: "연결 중",
  open: "연결됨",
  "all-messages": "메시지",
};

const ENGLISH = {
  anyway: "Send anyway",
  copied: "Copied",
  code: "Code",
  meaning: "Meaning",
  again: "Retryable",
  field: "Field",
  kind: "Type",
  required: "required",
  example: "Example",
  try: "Try in the console",
  yes: "yes",
  no: "no",
  valid: "Valid by the schema.",
  typed: "Goes as text typed by hand.",
  idle: "closed",
  connecting: "connecting",
  open: "open",
};

let korean = chosenLanguage() === "ko";

/** Say a word in the language of the page. */
export const word = (name) => (korean && KOREAN[name]) || ENGLISH[name] || name;

function translate(element, name, read, write) {
  ENGLISH[name] ??= read(element);
  write(element, word(name));
}

/** Say everything in the page in its language. */
export function speak(root = document) {
  for (const each of root.querySelectorAll("[data-word]")) {
    translate(each, each.dataset.word, (e) => e.textContent.trim(), (e, text) => { e.textContent = text; });
  }
  for (const each of root.querySelectorAll("[data-word-label]")) {
    translate(each, each.dataset.wordLabel, (e) => e.ariaLabel, (e, text) => { e.ariaLabel = text; });
  }
  for (const each of root.querySelectorAll("[data-word-hint]")) {
    const name = "placeholder" in each ? "placeholder" : "data-empty";
    translate(each, each.dataset.wordHint, (e) => e.getAttribute(name), (e, text) => e.setAttribute(name, text));
  }
  document.documentElement.lang = korean ? "ko" : "en";
}

/** Change the language. */
export function toggleLanguage() {
  korean = !korean;
  keepLanguage(korean ? "ko" : "en");
  speak();
  return otherLanguage();
}

/** The name of the other language. */
export const otherLanguage = () => (korean ? "English" : "한국어");
