// Small words for the document.

import { translate } from "./i18n.js";

/** The one element that fits; throws if there is none, for that is a mistake of the page. */
export function $(selector, root = document) {
  const found = root.querySelector(selector);
  if (!found) throw new Error(`nothing fits ${selector}`);
  return found;
}

/** An element with properties and children; strings become text, never markup. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS("http://www.w3.org/2000/svg", "use"));
  return changeIcon(svg, name);
}

export function changeIcon(svg, name) {
  svg.firstElementChild.setAttribute("href", `#i-${name}`);
  return svg;
}

/** A copy of what a template holds, in the reader's language. */
export function clone(id) {
  const element = $(`#${id}`).content.firstElementChild.cloneNode(true);
  translate(element);
  return element;
}

/** Name a button for those who see it and those who hear it. */
export function label(button, text) {
  button.title = text;
  button.setAttribute("aria-label", text);
}
