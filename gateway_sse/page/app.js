// The page: puts its parts together.

import { scrollToEnd } from "./answer.js";
import { Conversation } from "./conversation.js";
import { clearViolations, readFields, refuseKey, showSettings, showViolations } from "./fields.js";
import { inWords, Problem } from "./problem.js";
import { recall, remember } from "./remembered.js";
import { COMPLETE, Run } from "./run.js";
import { watchService } from "./service.js";

const $ = (id) => document.getElementById(id);

const MODES = {
  chat: {
    placeholder: "Say something",
    request: (conversation) => ({ messages: conversation.messages }),
  },
  completion: {
    placeholder: "Begin a text, to be continued",
    request: (_, prompt) => ({ prompt }),
  },
};
const conversations = {};
for (const name of Object.keys(MODES)) conversations[name] = new Conversation($(`${name}-turns`), $("turn"));

let mode = "chat";
let run = null; // the answer that is being read, if any
let model = null; // its name, if known

async function ask(text) {
  if (run) return;
  if (text.trim() === "") return $("prompt").focus();
  const fields = readFields();
  if (fields === null) return;
  const conversation = conversations[mode];
  const buffered = $("buffered").checked;
  const answer = conversation.begin(text, { buffered });
  if (model) answer.who = model;
  const request = { ...MODES[mode].request(conversation, text), ...fields };
  run = new Run(answer, request, $("api-key").value.trim(), tell);
  $("prompt").value = "";
  showState();
  try {
    const ending = await run.read();
    if (ending !== COMPLETE) answer.end(ending); // that says itself
    tell(ending);
    speak(answer.text);
    share(answer);
  } catch (error) {
    fail(conversation, answer, text, error);
  } finally {
    run = null;
    showState();
  }
}

function fail(conversation, answer, text, error) {
  if (!(error instanceof Problem) && !(error instanceof TypeError)) console.error(error);
  answer.state = "failed";
  const again = () => {
    if (run) return;
    conversation.withdraw(answer);
    ask(text);
  };
  answer.fail(inWords(error), error.retryAfterS, again);
  tell("This request failed.");
  if (error instanceof Problem && error.violations.length > 0) {
    // There is nothing to try again before it is mended: the question goes back to where it was.
    conversation.withdraw(answer);
    $("prompt").value ||= text;
    tell("Something in the request is wrong.");
    showViolations(error.violations);
  } else if (error.status === 401) refuseKey(inWords(error));
}

/** Sends back what was seen, if its reader wants that, and if all of it could be seen. */
function share(answer) {
  const seen = answer.timings.perceived;
  if (!$("share").checked || !answer.watched || seen === null) return;
  fetch("v1/perceived", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(seen),
    keepalive: true,
  }).catch(() => {}); // nothing depends on it
}

/** Says what goes on, where it is seen and where screen readers hear of it. */
function tell(text) {
  $("status").textContent = text;
}

/** Reads out an answer, once and as a whole. */
function speak(text) {
  $("spoken").textContent = text;
}

function showState() {
  const [on, off] = run ? [$("stop"), $("send")] : [$("send"), $("stop")];
  const focused = document.activeElement === off;
  on.hidden = false;
  off.hidden = true;
  if (focused) on.focus(); // a button that is hidden loses the keyboard's focus
  const empty = conversations[mode].isEmpty;
  $("welcome").hidden = !empty;
  $("clear").hidden = empty;
  $("clear").disabled = run !== null;
  for (const input of document.querySelectorAll("[name=mode], #examples button")) {
    input.disabled = run !== null;
  }
}

function choose(name) {
  mode = name;
  $(`mode-${name}`).checked = true;
  for (const other of Object.keys(MODES)) conversations[other].shown = other === name;
  $("prompt").placeholder = MODES[name].placeholder;
  remember("mode", name);
  showState();
  scrollToEnd();
}

function toggleTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = document.documentElement.dataset.theme ?? (dark ? "dark" : "light");
  const next = now === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  remember("theme", next);
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask($("prompt").value);
});
$("prompt").addEventListener("keydown", (event) => {
  // Enter that ends the input of, say, a Japanese word is not meant for us.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  ask($("prompt").value);
});
$("ask").addEventListener("input", clearViolations);
$("settings-toggle").addEventListener("click", () => showSettings($("settings").hidden));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.isComposing) run?.stop();
});
$("stop").addEventListener("click", () => run?.stop());
$("clear").addEventListener("click", () => {
  conversations[mode].clear();
  tell("Ready.");
  showState();
  $("prompt").focus();
});
$("examples").addEventListener("click", (event) => {
  const example = event.target.closest("button");
  if (example) ask(example.textContent);
});
$("theme").addEventListener("click", toggleTheme);
$("modes").addEventListener("change", (event) => {
  choose(event.target.value);
  tell("Ready."); // what was said is of the other mode
});
$("share").addEventListener("change", () => remember("share", $("share").checked ? "yes" : ""));
$("delivery").addEventListener("change", () => {
  remember("delivery", $("buffered").checked ? "buffered" : "");
});
$("api-key").addEventListener("change", () => {
  remember("api-key", $("api-key").value.trim(), "sessionStorage");
});
addEventListener("pagehide", () => run?.leave());

$("share").checked = recall("share", "") === "yes";
$("buffered").checked = recall("delivery", "") === "buffered";
$("api-key").value = recall("api-key", "", "sessionStorage");
const named = location.hash.slice(1);
choose([named, recall("mode", "")].find((name) => Object.hasOwn(MODES, name)) ?? "chat");
$("prompt").focus({ preventScroll: true }); // browsers do not autofocus where the address has a #
watchService(
  (ready, name) => {
    $("service").dataset.state = ready ? "ready" : "waiting";
    model = name ?? model;
    $("model").textContent = ready ? (model ?? "ready") : "the service is not ready yet";
  },
  () => $("api-key").value.trim(),
);
