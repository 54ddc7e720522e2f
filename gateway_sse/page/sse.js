// Server-sent events from a fetch response, by the HTML standard's rules (EventSource cannot POST).
// https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation

/** Takes an event stream's text in pieces of any size and gives back the events that they end. */
export class EventParser {
  #line = ""; // the beginning of a line whose end has not come
  #afterCr = false; // the last piece ended with "\r": a "\n" that follows belongs to it
  #name = "";
  #data = null;
  #id = "";

  /** How long to wait before coming back, in ms, if the stream said so. */
  retryMs = null;

  /** Returns [{event, data, id}]; `event` is "message" where none is named. */
  feed(text) {
    if (this.#afterCr && text.startsWith("\n")) text = text.slice(1);
    else if (text === "") return [];
    this.#afterCr = text.endsWith("\r");
    const lines = text.split(/\r\n|\n|\r/);
    lines[0] = this.#line + lines[0];
    this.#line = lines.pop();
    const events = [];
    for (const line of lines) {
      if (line !== "") this.#field(line);
      else if (this.#data === null) this.#name = "";
      else {
        events.push({ event: this.#name || "message", data: this.#data, id: this.#id });
        this.#name = "";
        this.#data = null;
      }
    }
    return events;
  }

  #field(line) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(line[colon + 1] === " " ? colon + 2 : colon + 1);
    if (name === "data") this.#data = this.#data === null ? value : `${this.#data}\n${value}`;
    else if (name === "event") this.#name = value;
    else if (name === "id" && !value.includes("\0")) this.#id = value;
    else if (name === "retry" && /^[0-9]+$/.test(value)) this.retryMs = Number(value);
  }
}

/**
 * Yields a body's events as they come. Throws what reading throws; ends where the body ends, and an
 * event that it cut off is dropped. `onBytes` is called for all that comes, comments too.
 */
export async function* readEvents(body, parser = new EventParser(), onBytes = () => {}) {
  const reader = body.getReader();
  const decoder = new TextDecoder(); // leaves out a byte order mark; holds halves of characters
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      onBytes();
      yield* parser.feed(decoder.decode(value, { stream: true }));
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
