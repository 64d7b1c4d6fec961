// Light or dark, as on the chat page.

import { keepTheme, onSystemTheme, showTheme } from "../page/choices.js";

function show() {
  const isDark = showTheme() === "dark";
  document.documentElement.classList.toggle("dark-mode", isDark); // Swagger UI's own name
}

/** Change from one to the other, and keep it. */
export function toggleTheme() {
  keepTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  show();
}

onSystemTheme(show);
show();
