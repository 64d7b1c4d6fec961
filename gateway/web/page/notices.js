// What the reader has to know now (a notice above the box), or may like to know (a banner).

import { $ } from "./dom.js";
import { onLanguage, t } from "./i18n.js";
import { recall, remember } from "./store.js";

const notice = $("#notice");
const banner = $("#banner");

let bannerKey = null;

/** Say something above the box until it is taken back or something else is said. */
export function tell(text, { isCalm = false } = {}) {
  notice.classList.toggle("calm", isCalm);
  notice.textContent = text;
  notice.hidden = false;
}

export function hush() {
  notice.hidden = true;
  notice.textContent = "";
}

/** Show what `/api/health` gives reason to: that the model is simulated, or away. */
export function showHealth(health) {
  if (health.simulated) bannerKey = "simulated";
  else bannerKey = health.llm_server_available ? null : "modelAway";
  draw();
}

function draw() {
  banner.hidden = !bannerKey || recall(`dismissed.${bannerKey}`, "sessionStorage") !== null;
  if (bannerKey) $("p", banner).textContent = t(bannerKey);
}

$("button", banner).addEventListener("click", () => {
  remember(`dismissed.${bannerKey}`, "1", "sessionStorage");
  draw();
});
onLanguage(draw);
