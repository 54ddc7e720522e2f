// One answer's life: from the request to its end, told to the answer on the page.

import { stop, streamAnswer } from "./stream.js";
import { duration } from "./timings.js";

// How long a stopped stream may take to end in order, with its counts, before it is cut.
const STOP_GRACE_MS = 1500;

export const COMPLETE = "Complete.";

const ENDINGS = {
  stop: COMPLETE,
  length: "Complete: the token limit is reached.",
  cancelled: "Stopped.",
  repetition: "Complete: the answer began to repeat itself.",
};

/** Reads one answer. Only one `read` a run. */
export class Run {
  #cut = new AbortController();
  #streamId = null;
  #stopping = false;

  /** `tell` is called with a sentence whenever there is something to say. */
  constructor(answer, request, apiKey, tell) {
    this.answer = answer;
    this.request = request;
    this.apiKey = apiKey;
    this.tell = tell;
  }

  /** Returns how it ended, in a sentence. Throws what `streamAnswer` throws, but for a stop. */
  async read() {
    const { answer, tell } = this;
    let ending = COMPLETE;
    tell("Waiting for the first token…");
    try {
      for await (const event of streamAnswer(this.request, this.apiKey, this.#cut.signal)) {
        if (event.kind === "text") {
          if (answer.timings.firstTokenMs === null) this.#streaming();
          answer.add(event.text, event.tokens);
        } else if (event.kind === "started") {
          this.#streamId = event.streamId;
          answer.who = event.model;
          if (this.#stopping) this.#stopAtService();
        } else if (event.kind === "lost") {
          answer.state = "lost";
          tell("The connection was lost. Coming back…");
        } else if (event.kind === "resumed") {
          this.#resumed(event.gapMs);
        } else {
          answer.timings.finished(event);
          ending = ENDINGS[event.reason] ?? ending;
        }
      }
    } catch (error) {
      if (!this.#stopping) throw error;
      ending = ENDINGS.cancelled;
    } finally {
      await answer.drawAll();
    }
    answer.state = "done";
    return ending;
  }

  /** Ends the answer in order; cuts it if that does not help. */
  stop() {
    if (this.#stopping) return;
    this.#stopping = true;
    this.tell("Stopping…");
    if (this.#streamId !== null) this.#stopAtService();
    setTimeout(() => this.#cut.abort(), STOP_GRACE_MS);
  }

  /** The page goes away: nobody comes back for this answer. */
  leave() {
    this.#stopping = true;
    if (this.#streamId !== null) stop(this.#streamId, this.apiKey).catch(() => {});
    this.#cut.abort();
  }

  #stopAtService() {
    stop(this.#streamId, this.apiKey).catch(() => this.#cut.abort());
  }

  #streaming() {
    this.answer.state = "streaming";
    this.tell("Streaming…");
  }

  #resumed(gapMs) {
    this.answer.state = this.answer.timings.firstTokenMs === null ? "waiting" : "streaming";
    const lost = `The connection was lost for ${duration(gapMs)}.`;
    this.answer.note(`${lost} The answer went on where it was cut off; no text was lost.`);
    this.tell(`${lost} It is back, and nothing was lost.`);
  }
}
