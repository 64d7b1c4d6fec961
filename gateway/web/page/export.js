// A conversation as a file.

import { CallFailed, exported } from "./api.js";
import { askFormat } from "./dialogs.js";
import { make } from "./dom.js";
import { t } from "./i18n.js";
import { tell } from "./notices.js";
import { whatHappened } from "./turn-state.js";

const ENDS = { markdown: "md", jsonl: "jsonl" };

/** Ask for a format, and let the browser save what the gateway makes of it. */
export async function exportSession(id, title) {
  const format = await askFormat();
  if (!ENDS[format]) return;
  try {
    const answer = await exported(id, format);
    save(await answer.blob(), `${fileName(title)}.${ENDS[format]}`);
  } catch (error) {
    tell(error instanceof CallFailed ? whatHappened(error.code) : t("exportFailed"));
  }
}

function save(blob, download) {
  const href = URL.createObjectURL(blob);
  make("a", { href, download }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10_000);
}

function fileName(title) {
  return title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, 60) || "chat";
}
