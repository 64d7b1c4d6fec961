// What /asyncapi.json and /schema.json say, as something to read.

import { byId, el, prose } from "./dom.js";
import { kind, resolve } from "./validation.js";

/** Show every frame in both directions, and every code. `onTry` gets an example as text. */
export function showReference(schema, asyncapi, onTry) {
  const { ClientFrame, ServerFrame } = schema.$defs;
  byId("client-frames").replaceChildren(...frames(ClientFrame, schema, asyncapi, onTry));
  byId("server-frames").replaceChildren(...frames(ServerFrame, schema, asyncapi, null));
  byId("error-codes").replaceChildren(...errorCodes(asyncapi));
  byId("close-codes").replaceChildren(...closeCodes(asyncapi));
}

function frames(union, schema, asyncapi, onTry) {
  return Object.entries(union.discriminator.mapping).map(([type, $ref]) => {
    const name = $ref.split("/").pop();
    const message = asyncapi.components.messages[name];
    return el("details", { class: "frame", id: `frame-${name}` },
      el("summary", {}, el("code", {}, type), " ", el("span", {}, prose(message.summary))),
      fieldTable(resolve({ $ref }, schema), schema, new Set()),
      ...message.examples.map((example) => exampleOf(example, onTry)));
  });
}

function fieldTable(definition, schema, seen) {
  const required = new Set(definition.required ?? []);
  const rows = Object.entries(definition.properties).flatMap(([name, field]) => [
    el("tr", {},
      el("th", { scope: "row" }, el("code", {}, name),
        required.has(name) ? el("small", { "data-word": "required" }, "required") : null),
      el("td", {}, el("span", { class: "kind" }, kind(field, schema)),
        field.description ? [" — ", ...prose(field.description)] : [])),
    ...inner(field, schema, seen),
  ]);
  return el("div", { class: "wide" }, el("table", {}, el("tbody", {}, rows)));
}

/** Show what an object within a frame is made of, once. */
function inner(field, schema, seen) {
  const refs = [field, field.items ?? {}, ...(field.anyOf ?? [])].filter(({ $ref }) => $ref);
  return refs.flatMap((ref) => {
    const definition = resolve(ref, schema);
    if (!definition.properties || seen.has(ref.$ref)) return [];
    const table = fieldTable(definition, schema, new Set([...seen, ref.$ref]));
    return [el("tr", { class: "inner" }, el("td", { colspan: 2 }, table))];
  });
}

function exampleOf({ name, payload }, onTry) {
  const text = JSON.stringify(payload, null, 2);
  return el("figure", {},
    el("figcaption", {}, name,
      onTry ? el("button", { type: "button", "data-word": "try", onclick: () => onTry(text) }, "Try in the console") : null),
    el("pre", {}, text));
}

function head(...words) {
  return el("thead", {}, el("tr", {}, words.map((name) => el("th", { scope: "col", "data-word": name }))));
}

function errorCodes(asyncapi) {
  const rows = Object.entries(asyncapi["x-error-codes"]).map(([code, { description, retryable }]) =>
    el("tr", {},
      el("th", { scope: "row" }, el("code", {}, code)),
      el("td", {}, prose(description)),
      el("td", { "data-word": retryable ? "yes" : "no", class: retryable ? "yes" : "no" })));
  return [head("code", "meaning", "again"), el("tbody", {}, rows)];
}

function closeCodes(asyncapi) {
  const rows = Object.entries(asyncapi["x-close-codes"]).map(([code, says]) =>
    el("tr", {}, el("th", { scope: "row" }, el("code", {}, code)), el("td", {}, prose(says))));
  return [head("code", "meaning"), el("tbody", {}, rows)];
}
