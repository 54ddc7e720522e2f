// The form's fields: what they say, and what is wrong with them.

import { sentence, stopped } from "./problem.js";

// The API's names of what the form has; all others are in the field for other fields.
const IDS = {
  prompt: "prompt",
  messages: "prompt",
  chat: "prompt",
  max_tokens: "max-tokens",
  temperature: "temperature",
  max_delay_ms: "max-delay",
};
const NUMBERS = ["max_tokens", "temperature", "max_delay_ms"];

/** Returns the request's fields, but for the prompt; null if one cannot be read, and says so there. */
export function readFields() {
  clearViolations();
  const request = {};
  const wrong = [];
  for (const name of NUMBERS) {
    const input = inputOf(name);
    if (input.validity.badInput) wrong.push({ field: name, description: "must be a number" });
    else if (input.value !== "") request[name] = Number(input.value);
  }
  const other = inputOf("other").value.trim();
  try {
    if (other !== "") Object.assign(request, object(other));
  } catch {
    const description = 'other fields must be JSON, such as {"top_p": 0.9, "seed": 1}';
    wrong.push({ field: "other", description });
  }
  showViolations(wrong);
  return wrong.length > 0 ? null : request;
}

/** Shows each violation at its field and goes to the first. */
export function showViolations(violations) {
  let first = null;
  for (const { field, description } of violations) {
    const input = inputOf(field);
    const known = IDS[field.split(/[.[]/)[0]] !== undefined || field === "other";
    const said = known ? sentence(description) : aboutField(field, description);
    const error = document.getElementById(`${input.id}-error`);
    error.textContent = error.textContent ? `${error.textContent} ${said}` : said;
    error.hidden = false;
    input.setAttribute("aria-invalid", "true");
    first ??= input;
  }
  if (first?.closest("#settings")) showSettings(true);
  first?.focus();
}

/** Shows what is wrong with the API key. */
export function refuseKey(text) {
  const error = document.getElementById("api-key-error");
  const input = document.getElementById("api-key");
  showSettings(true);
  error.textContent = text;
  error.hidden = false;
  input.setAttribute("aria-invalid", "true");
  input.focus();
}

export function showSettings(shown) {
  document.getElementById("settings").hidden = !shown;
  document.getElementById("settings-toggle").setAttribute("aria-expanded", shown);
}

export function clearViolations() {
  for (const error of document.querySelectorAll(".field-error")) {
    error.hidden = true;
    error.textContent = "";
  }
  for (const input of document.querySelectorAll("[aria-invalid]")) {
    input.removeAttribute("aria-invalid");
  }
}

/** Reads a JSON object; throws for all that is none. */
function object(text) {
  const value = JSON.parse(text);
  if (value === null || typeof value !== "object" || Array.isArray(value)) throw new TypeError();
  return value;
}

/** Returns a sentence about a field that has no input of its own, so that it has to be named. */
function aboutField(field, description) {
  if (field === "") return sentence(description); // about the request as a whole
  const said = description.replace(/^unknown field/, "is unknown");
  const goesOn = /^(must|is|has|contains|stays) /.test(said);
  return stopped(`The field “${field}” ${goesOn ? said : `is wrong: ${said}`}`);
}

function inputOf(field) {
  return document.getElementById(IDS[field.split(/[.[]/)[0]] ?? "other");
}
