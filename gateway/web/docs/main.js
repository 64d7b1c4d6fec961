// The page: load the documents, show them, begin the console and the REST part.

import { beginConsole, compose, retell } from "./console.js";
import { byId } from "./dom.js";
import { showReference } from "./reference.js";
import { toggleTheme } from "./theme.js";
import { otherLanguage, speak, toggleLanguage } from "./words.js";

async function load(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

function showRest() {
  // A classic script, which is there before any module runs.
  globalThis.SwaggerUIBundle({
    url: "/openapi.json",
    dom_id: "#swagger",
    presets: [globalThis.SwaggerUIBundle.presets.apis],
    validatorUrl: null, // it would ask another host
    docExpansion: "list",
    defaultModelsExpandDepth: 0,
    tryItOutEnabled: true,
    displayRequestDuration: true,
    persistAuthorization: false,
  });
}

function tryInConsole(text) {
  compose(text);
  byId("console").scrollIntoView();
  byId("frame").focus({ preventScroll: true });
}

async function begin() {
  byId("theme").addEventListener("click", toggleTheme);
  byId("language").textContent = otherLanguage();
  byId("language").addEventListener("click", () => {
    byId("language").textContent = toggleLanguage();
    retell();
  });
  speak();
  showRest();
  const [schema, asyncapi] = await Promise.all([load("/schema.json"), load("/asyncapi.json")]);
  byId("version").textContent = asyncapi.info.version;
  showReference(schema, asyncapi, tryInConsole);
  speak();
  beginConsole(schema, asyncapi);
  document.documentElement.dataset.begun = "";
}

begin().catch((error) => {
  byId("trouble").textContent = error.message;
  byId("trouble").hidden = false;
});
