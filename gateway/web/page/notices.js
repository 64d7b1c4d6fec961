// What the reader has to know now (a notice above the box), or may like to know (a banner).

import { health } from "./api.js";
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

/** Ask how the gateway is, and say so if its model is simulated, or away. */
export async function refreshHealth() {
  try {
    const { simulated, llm_server_available: isThere } = await health();
    bannerKey = simulated ? "simulated" : isThere ? null : "modelAway";
    draw();
  } catch {
    // The connection tells when the gateway is away.
  }
}

/** Whether the reader is told that there is no model. */
export const isModelAway = () => bannerKey === "modelAway";

function draw() {
  banner.hidden = !bannerKey || recall(`dismissed.${bannerKey}`, "sessionStorage") !== null;
  if (bannerKey) $("p", banner).textContent = t(bannerKey);
}

$("button", banner).addEventListener("click", () => {
  remember(`dismissed.${bannerKey}`, "1", "sessionStorage");
  draw();
});
onLanguage(draw);
