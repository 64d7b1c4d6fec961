// Parse an AsyncAPI document with the official parser; print what it finds, as JSON.
// It is installed beside a folder of programs on the PATH: `npx --package` puts one there.
const { existsSync, readFileSync } = require("node:fs");
const { createRequire } = require("node:module");
const { delimiter, dirname, join } = require("node:path");

const home = process.env.PATH.split(delimiter)
  .map((folder) => join(dirname(folder), "@asyncapi", "parser", "package.json"))
  .find(existsSync);
const { Parser } = createRequire(home)("@asyncapi/parser");

new Parser().parse(readFileSync(process.argv[2], "utf8")).then(({ document, diagnostics }) => {
  const findings = diagnostics.map(({ severity, code, message, path }) => ({
    severity,
    code,
    message,
    path: path.join("."),
  }));
  const operations = document ? document.operations().all().map((each) => each.id()) : [];
  console.log(JSON.stringify({ findings, operations }));
});
