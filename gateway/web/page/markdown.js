// Markdown to nodes of the document. What the model says is never trusted: raw HTML in it is shown
// as text, and whatever the libraries make of the rest passes the sanitiser last.

import DOMPurify from "../vendor/dompurify/purify.es.mjs";
import hljs from "../vendor/highlight/highlight.min.js";
import { Marked } from "../vendor/marked/marked.esm.js";

const MAX_HIGHLIGHTED = 20_000; // characters of one code block

const TAGS = [
  "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol",
  "p", "pre", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
];
const RULES = {
  ALLOWED_TAGS: TAGS,
  ALLOWED_ATTR: ["align", "class", "href", "start", "title"],
  ADD_URI_SAFE_ATTR: ["align", "start"],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:)/i,
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};
const CLASS = /^(?:hljs(?:-[a-z_-]+)?|language-[\w+#.-]+|[a-z]+_)$/;

const purify = DOMPurify(window);
purify.addHook("uponSanitizeAttribute", (_, attribute) => {
  if (attribute.attrName !== "class") return;
  attribute.attrValue = attribute.attrValue.split(/\s+/).filter((name) => CLASS.test(name)).join(" ");
});
purify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName !== "A" || !node.hasAttribute("href")) return;
  node.setAttribute("target", "_blank");
  node.setAttribute("rel", "noopener noreferrer");
});

/** Nodes that cannot do anything but be read, and links to http, https and mailto. */
export function sanitised(html) {
  return purify.sanitize(html, RULES);
}

const escaped = (text) =>
  text.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);

function highlighted(text, language) {
  if (text.length > MAX_HIGHLIGHTED || !hljs.getLanguage(language)) return escaped(text);
  return hljs.highlight(text, { language, ignoreIllegals: true }).value;
}

const renderer = {
  code({ text, lang = "", open = false }) {
    const language = /^[\w+#.-]*/.exec(lang)[0].toLowerCase();
    // A block that is still being written is coloured while that is cheap.
    const html = open && text.length > 4000 ? escaped(text) : highlighted(text, language);
    return `<pre><code class="language-${language || "plaintext"}">${html}</code></pre>`;
  },
  html({ text }) {
    // Models break lines in table cells so; anything else is meant to be seen.
    return /^<br\s*\/?>$/i.test(text.trim()) ? "<br>" : escaped(text);
  },
  image({ href, text }) {
    // An image of another host would tell it who reads; it is a link instead.
    return `<a href="${escaped(href)}">${escaped(text || href)}</a>`;
  },
  checkbox({ checked }) {
    return checked ? "☑ " : "☐ ";
  },
};

// CommonMark does not close `**이것(this)**은`: after a bracket it wants a space. Korean has none
// there, so a pair on one line is strong whatever stands next to it.
const strongNextToLetters = {
  name: "strong",
  level: "inline",
  start: (text) => text.indexOf("**"),
  tokenizer(text) {
    const match = /^\*\*(?![\s*])((?:[^*`\n]|`[^`\n]*`|\*(?!\*))+?)(?<!\s)\*\*(?!\*)/.exec(text);
    if (!match) return undefined;
    return { type: "strong", raw: match[0], text: match[1], tokens: this.lexer.inlineTokens(match[1]) };
  },
};

const marked = new Marked({ gfm: true, breaks: true, renderer, extensions: [strongNextToLetters] });

// A model may nest quotes or lists more deeply than anybody's stack is: then they are text.
const asText = (raw) => ({ type: "code", raw, text: raw, codeBlockStyle: "indented" });

function orText(read, text) {
  try {
    return read();
  } catch (error) {
    if (error instanceof RangeError) return text();
    throw error;
  }
}

/** Cut a text into its top-level blocks. */
export function blocks(text) {
  return orText(() => marked.lexer(text), () => [asText(text)]);
}

/** The nodes of one block. */
export function nodes(block) {
  return sanitised(orText(() => marked.parser([block]), () => marked.parser([asText(block.raw)])));
}

/** Whether a block is code whose closing fence has not come yet. */
export function isOpenCode(block) {
  if (block.type !== "code" || block.codeBlockStyle === "indented") return false;
  const fence = /^ {0,3}(`{3,}|~{3,})/.exec(block.raw)?.[1];
  return Boolean(fence) && !new RegExp(`\\n {0,3}${fence[0]}{${fence.length},}[ \\t]*\\n*$`).test(block.raw);
}
