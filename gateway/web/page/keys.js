// Keys that work wherever the reader is.

/** `on` has `newChat`, `sidebar`, `search`, `stop`, `box` and `help`. */
export function startKeys(on) {
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.keyCode === 229 || event.defaultPrevented) return;
    if (document.querySelector("dialog[open]")) return;
    const act = on[nameOf(event)];
    if (!act) return;
    if (act() !== false) event.preventDefault();
  });
}

function nameOf(event) {
  const isTyping = event.target.closest?.("input, textarea");
  const key = event.key.toLowerCase();
  if ((event.ctrlKey || event.metaKey) && !event.altKey) {
    if (event.shiftKey) return key === "f" ? "search" : "";
    return { k: "newChat", b: "sidebar" }[key] ?? "";
  }
  if (key === "escape") return "stop";
  if (isTyping || event.altKey) return "";
  return { "?": "help", "/": "box" }[key] ?? "";
}
