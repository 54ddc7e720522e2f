// The page: asks, shows the answer while it comes, and what it took.

import { readEvents } from "./sse.js";

const $ = (id) => document.getElementById(id);

// How long a cancelled stream may take to end in order, with its counts, before it is cut.
const STOP_GRACE_MS = 1500;
const READY_POLL_MS = 3000;

const ENDINGS = {
  stop: "Finished: the answer is complete.",
  length: "Finished: the token limit is reached.",
  cancelled: "Stopped.",
  repetition: "Finished: the answer began to repeat itself.",
};

let current = null; // the answer that is being read, if any

/** One answer: its figures, and its text, which is drawn once in an animation frame. */
class Answer {
  constructor() {
    this.controller = new AbortController();
    this.asked = performance.now();
    this.streamId = null;
    this.firstAt = null;
    this.firstTokens = 0;
    this.lastAt = null;
    this.tokens = 0;
    this.finished = null;
    this.stopping = false;
    this.pending = "";
    this.frame = null;
    this.text = document.createTextNode("");
    $("answer").replaceChildren(this.text);
  }

  add(text, tokens) {
    this.lastAt = performance.now();
    this.tokens = tokens;
    if (this.firstAt === null) {
      this.firstAt = this.lastAt;
      this.firstTokens = tokens;
      show("streaming", "Streaming…");
    }
    this.pending += text;
    this.frame ??= requestAnimationFrame(() => this.draw());
  }

  draw() {
    cancelAnimationFrame(this.frame); // the end draws at once: hidden tabs have no frames
    this.frame = null;
    const follow = atTheEnd();
    this.text.appendData(this.pending);
    this.pending = "";
    if (this.firstAt !== null) {
      $("ttft").textContent = Math.round(this.firstAt - this.asked);
      $("tokens").textContent = this.tokens;
      const seconds = (this.lastAt - this.firstAt) / 1000;
      const later = this.tokens - this.firstTokens;
      // Over less, the time is that of the delivery and says nothing of the decoding.
      if (later > 0 && seconds > 0.1) $("rate").textContent = (later / seconds).toFixed(1);
    }
    if (follow) window.scrollTo(0, document.documentElement.scrollHeight);
  }
}

async function ask() {
  const prompt = $("prompt").value;
  if (current || prompt.trim() === "" || !$("ask").reportValidity()) return;
  current = new Answer();
  problem(null);
  for (const id of ["ttft", "rate", "tokens"]) $(id).textContent = "–";
  show("waiting", "Waiting for the first token…");
  try {
    show("done", await read(current, prompt));
  } catch (error) {
    if (error.name === "AbortError") show("done", "Stopped.");
    else {
      show("done", "Failed.");
      problem(error instanceof Told ? error.message : "The connection to the gateway was lost.");
    }
  } finally {
    current.draw();
    current = null;
    buttons();
  }
}

/** Reads one answer to its end and returns how it ended. */
async function read(answer, prompt) {
  const body = { prompt, temperature: Number($("temperature").value) };
  if ($("max-tokens").value !== "") body.max_tokens = Number($("max-tokens").value);
  const response = await fetch("v1/completions/stream", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal: answer.controller.signal,
  });
  if (!response.ok) throw new Told(await response.json().catch(() => null));
  for await (const { event, data, id } of readEvents(response.body)) {
    if (data === "[DONE]") break;
    const content = JSON.parse(data);
    if (event === "message") answer.add(content.token, Number(id.slice(id.lastIndexOf(":") + 1)));
    else if (event === "started") answer.streamId = content.stream_id;
    else if (event === "finished") answer.finished = content;
    else if (event === "error") throw new Told(content);
  }
  if (!answer.finished) throw new Error("the stream broke off");
  answer.tokens = answer.finished.usage.completion_tokens;
  $("tokens").textContent = answer.tokens;
  const { time_to_first_token_ms: first, total_ms: total } = answer.finished.timings;
  if (answer.tokens > 1 && total > first) {
    $("rate").textContent = (((answer.tokens - 1) * 1000) / (total - first)).toFixed(1);
  }
  return ENDINGS[answer.finished.reason] ?? "Finished.";
}

/** What the gateway told to be wrong, in words for the page. */
class Told extends Error {
  constructor(body) {
    const { message, retry_after_s: wait } = body?.error ?? {};
    let text = message ? `${message[0].toUpperCase()}${message.slice(1)}.` : "The request failed.";
    if (wait) text += ` Try again in ${Math.ceil(wait)} s.`;
    super(text);
  }
}

/** Cancels by name, so that the stream ends in order; cuts it if that does not help. */
function stop() {
  const answer = current;
  if (!answer || answer.stopping) return;
  answer.stopping = true;
  const cut = () => answer.controller.abort();
  if (answer.streamId === null) return cut();
  setTimeout(cut, STOP_GRACE_MS);
  fetch(`v1/streams/${encodeURIComponent(answer.streamId)}`, { method: "DELETE" }).catch(cut);
}

function show(state, text) {
  $("answer").dataset.state = state;
  $("answer").setAttribute("aria-busy", state === "waiting" || state === "streaming");
  $("status").textContent = text;
  buttons();
}

function buttons() {
  const [off, on] = current ? ["send", "stop"] : ["stop", "send"];
  $(on).disabled = false;
  // A button that is disabled loses the keyboard's focus; the other one takes it over.
  if (document.activeElement === $(off)) $(on).focus();
  $(off).disabled = true;
}

function problem(text) {
  $("problem").hidden = text === null;
  $("problem").textContent = text ?? "";
}

function atTheEnd() {
  const page = document.documentElement;
  return page.scrollHeight - window.innerHeight - window.scrollY < 48;
}

/** Shows in the header which model answers, or asks again until one does. */
async function watchService() {
  let models = null;
  try {
    if ((await fetch("readyz")).ok) models = (await (await fetch("v1/models")).json()).models;
  } catch {
    // Said below, like every other reason why there is none.
  }
  $("service").dataset.state = models ? "ready" : "waiting";
  $("model").textContent = models
    ? models.map((model) => model.id).join(", ")
    : "the service is not ready yet";
  setTimeout(watchService, models ? READY_POLL_MS * 5 : READY_POLL_MS);
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
$("prompt").addEventListener("keydown", (event) => {
  // Enter that ends the input of, say, a Japanese word is not meant for us.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  ask();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.isComposing) stop();
});
$("stop").addEventListener("click", stop);
$("temperature").addEventListener("input", (event) => {
  $("temperature-value").textContent = Number(event.target.value).toFixed(1);
});
$("examples").addEventListener("click", (event) => {
  const example = event.target.closest("button");
  if (!example || current) return;
  $("prompt").value = example.textContent;
  ask();
});
watchService();
