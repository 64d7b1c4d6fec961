// As much of JSON Schema as the gateway's own document uses. Pure: no page, no network.

const KINDS = {
  string: (value) => typeof value === "string",
  integer: (value) => Number.isInteger(value),
  number: (value) => typeof value === "number",
  boolean: (value) => typeof value === "boolean",
  array: (value) => Array.isArray(value),
  object: (value) => typeof value === "object" && value !== null && !Array.isArray(value),
  null: (value) => value === null,
};

/** Follow a reference within the document. */
export function resolve(schema, document) {
  if (!schema.$ref) return schema;
  return document.$defs[schema.$ref.split("/").pop()];
}

/** Say in words what a schema takes, such as `integer ≥ 1 or null`. */
export function kind(schema, document) {
  if (schema.$ref) return schema.$ref.split("/").pop();
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((each) => JSON.stringify(each)).join(" | ");
  const several = schema.anyOf ?? schema.oneOf;
  if (several) return several.map((each) => kind(each, document)).join(" | ");
  if (schema.type === "array") return `${kind(schema.items ?? {}, document)}[]`;
  const limits = [
    schema.minimum !== undefined && `≥ ${schema.minimum}`,
    schema.maximum !== undefined && `≤ ${schema.maximum}`,
    schema.maxLength !== undefined && `≤ ${schema.maxLength} characters`,
    schema.format,
  ];
  return [schema.type ?? "anything", ...limits.filter(Boolean)].join(" ");
}

/** Find what is wrong with a frame of a client: an array of sentences, empty if nothing is. */
export function findings(frame, document) {
  if (!KINDS.object(frame)) return ["A frame is a JSON object."];
  const { mapping } = document.$defs.ClientFrame.discriminator;
  if (!Object.hasOwn(mapping, frame.type)) {
    return [`type: should be one of ${Object.keys(mapping).join(", ")}`];
  }
  const schema = resolve({ $ref: mapping[frame.type] }, document);
  const unknown = Object.keys(frame).filter((name) => !Object.hasOwn(schema.properties, name));
  return [...check(frame, schema, "", document), ...unknown.map((name) => `${name}: is not known and will be ignored`)];
}

function check(value, given, path, document) {
  const schema = resolve(given, document);
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) {
    const each = choices.map((choice) => check(value, choice, path, document));
    if (each.some((found) => found.length === 0)) return [];
    const other = choices.findIndex((choice) => choice.type !== "null");
    return each[other === -1 ? 0 : other];
  }
  const at = path || "frame";
  if ("const" in schema && value !== schema.const) return [`${at}: should be ${JSON.stringify(schema.const)}`];
  if (schema.enum && !schema.enum.includes(value)) return [`${at}: should be one of ${schema.enum.join(", ")}`];
  if (schema.type && !KINDS[schema.type](value)) return [`${at}: should be of type ${schema.type}`];
  if (typeof value === "number") return bounds(value, schema, at);
  if (typeof value === "string") return lengths(value, schema, at);
  if (Array.isArray(value)) return value.flatMap((each, n) => check(each, schema.items ?? {}, `${at}.${n}`, document));
  if (KINDS.object(value)) return fields(value, schema, path, document);
  return [];
}

function bounds(value, schema, at) {
  if (value < schema.minimum) return [`${at}: should be at least ${schema.minimum}`];
  if (value > schema.maximum) return [`${at}: should be at most ${schema.maximum}`];
  return [];
}

function lengths(value, schema, at) {
  const length = [...value].length; // code points, as the gateway counts
  if (length < schema.minLength) return [`${at}: should have at least ${schema.minLength} characters`];
  if (length > schema.maxLength) return [`${at}: should have at most ${schema.maxLength} characters, has ${length}`];
  if (schema.pattern && !new RegExp(schema.pattern, "u").test(value)) {
    return [schema.pattern === "\\S" ? `${at}: should hold more than white space` : `${at}: should match ${schema.pattern}`];
  }
  return [];
}

function fields(value, schema, path, document) {
  const named = (name) => (path ? `${path}.${name}` : name);
  const missing = (schema.required ?? []).filter((name) => !Object.hasOwn(value, name));
  const present = Object.entries(schema.properties ?? {}).filter(([name]) => Object.hasOwn(value, name));
  return [
    ...missing.map((name) => `${named(name)}: is missing`),
    ...present.flatMap(([name, field]) => check(value[name], field, named(name), document)),
  ];
}
