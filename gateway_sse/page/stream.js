// One answer, from its request to its end, however often the connection is lost on the way.

import { backoffMs, waitForAttempt } from "./backoff.js";
import { Problem } from "./problem.js";
import { EventParser, readEvents } from "./sse.js";

const PATH = "v1/completions/stream";
const RECONNECT_MS = 300; // where the stream does not say
// The service keeps an answer for so long without a reader (its time to live, unless set otherwise).
const KEPT_MS = 30_000;
// The gateway says something every 15 s, so a connection that says nothing for longer is dead.
const SILENCE_MS = 20_000;
// When the network comes back, one that has been silent for this long may be a dead one.
const SUSPECT_MS = 1000;
// An attempt may be sent on a connection that is dead, too; each gets more time than the last.
const RESUME_LIMIT_MS = 1500;
const PASSING = [429, 502, 503, 504];

/**
 * Yields, in order:
 *   {kind: "started", streamId, model}
 *   {kind: "text", text, tokens}      `tokens`: how many there are so far
 *   {kind: "lost"}                    the connection has gone; it is being tried to come back
 *   {kind: "resumed", gapMs}          it is back, and goes on at the next token
 *   {kind: "finished", reason, usage, timings}
 * Throws Problem, AbortError when `signal` aborts, TypeError if the gateway cannot be reached at
 * the beginning. The answer outlives its reader: one who leaves must stop it (`stop`).
 */
export async function* streamAnswer(request, apiKey, signal) {
  const delivery = { on_disconnect: "detach" };
  if (request.max_delay_ms !== undefined) delivery.max_delay_ms = request.max_delay_ms;
  let lastId = null; // where to go on
  let heardAt = null; // when the gateway last said something of this answer
  let reconnectMs = RECONNECT_MS;
  let failures = 0; // in a row

  for (;;) {
    const connection = new Connection(signal);
    try {
      const response =
        lastId === null
          ? await connection.post({ ...request, ...delivery }, apiKey)
          : await connection.resume(lastId, delivery, apiKey, RESUME_LIMIT_MS * (1 + failures));
      if (!response.ok) throw await Problem.of(response);
      if (response.status === 204) return; // all of it was here already

      const parser = new EventParser();
      for await (const { event, data, id } of connection.events(response, parser)) {
        if (data === "[DONE]") return;
        const content = JSON.parse(data);
        if (event === "error") throw new Problem(0, content.error);
        if (event === "started" && lastId === null) {
          yield { kind: "started", streamId: content.stream_id, model: content.model };
        } else if (event === "started") {
          yield { kind: "resumed", gapMs: performance.now() - heardAt };
          failures = 0;
        } else if (event === "message") {
          yield { kind: "text", text: content.token, tokens: tokensAt(id) };
        } else if (event === "finished") {
          yield { kind: "finished", ...content };
          return;
        }
        lastId = id || lastId;
        reconnectMs = parser.retryMs ?? reconnectMs;
      }
      // The stream broke off, or the gateway stops and leaves the rest to another one.
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      if (lastId === null || !passing(error)) throw error;
    } finally {
      connection.close();
      heardAt = connection.heardAt ?? heardAt;
    }
    if (lastId === null) throw new TypeError("the connection broke before the answer began");
    if (performance.now() - heardAt > KEPT_MS) {
      throw new Problem(0, { message: "the connection was lost, and did not come back in time" });
    }
    if (failures === 0) yield { kind: "lost" };
    await waitForAttempt(backoffMs(failures++, reconnectMs), signal);
  }
}

/** Tells whether trying again may help. */
function passing(error) {
  return error instanceof Problem ? PASSING.includes(error.status) : error instanceof TypeError;
}

/** Ends an answer at the service; its stream then gets its end. Also while the page is leaving. */
export function stop(streamId, apiKey) {
  return fetch(`v1/streams/${encodeURIComponent(streamId)}`, {
    method: "DELETE",
    headers: authorization(apiKey),
    keepalive: true,
  });
}

/** One attempt. It ends when its user wants it to, or when it seems dead. */
class Connection {
  /** When the last byte came; null if none did. */
  heardAt = null;
  #dead = new AbortController();
  #signal;
  #watch;
  #online = () => this.#endIfSilentFor(SUSPECT_MS);

  constructor(signal) {
    this.#signal = AbortSignal.any([signal, this.#dead.signal]);
    addEventListener("online", this.#online);
  }

  /** Begins. How long the service lets a request wait is its own affair: there is no limit here. */
  post(body, apiKey) {
    return fetch(PATH, {
      method: "POST",
      headers: { "content-type": "application/json", ...authorization(apiKey) },
      body: JSON.stringify(body),
      signal: this.#signal,
    });
  }

  /** Goes on behind an event. It has `limitMs` to be answered. */
  async resume(lastId, delivery, apiKey, limitMs) {
    const late = setTimeout(() => this.#end(), limitMs);
    try {
      return await fetch(`${PATH}?${new URLSearchParams(delivery)}`, {
        headers: { "last-event-id": lastId, ...authorization(apiKey) },
        cache: "no-store",
        signal: this.#signal,
      });
    } finally {
      clearTimeout(late);
    }
  }

  events(response, parser) {
    const heard = () => (this.heardAt = performance.now());
    heard();
    this.#watch = setInterval(() => this.#endIfSilentFor(SILENCE_MS), 1000);
    return readEvents(response.body, parser, heard);
  }

  close() {
    clearInterval(this.#watch);
    removeEventListener("online", this.#online);
  }

  #endIfSilentFor(ms) {
    if (this.heardAt !== null && performance.now() - this.heardAt > ms) this.#end();
  }

  #end() {
    this.#dead.abort(new TypeError("the connection said nothing for too long"));
  }
}

function tokensAt(id) {
  return Number(id.split(":")[1]);
}

function authorization(apiKey) {
  return apiKey ? { authorization: `Bearer ${apiKey}` } : {};
}
