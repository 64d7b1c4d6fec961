// Elements, made without HTML in strings: nothing that was received can become markup.

/** Find an element of the page by its id. */
export const byId = (id) => document.getElementById(id);

/** Make an element: properties, then children; `class` and `data-…` as attributes. */
export function el(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

/** Split text at backquotes, so that what stands between them is shown as code. */
export function prose(text) {
  return (text ?? "").split("`").map((part, n) => (n % 2 ? el("code", {}, part) : part));
}
