// Reads server-sent events from a fetch response. EventSource cannot POST.

/**
 * Yields {event, data, id} for each event with data; `event` is "message" if it has no name.
 * Follows the HTML standard's rules for parsing an event stream, but for `retry`.
 */
export async function* readEvents(stream) {
  let buffer = "";
  let fields = { event: "", data: null };
  let id = "";
  for await (const text of chunks(stream.pipeThrough(new TextDecoderStream()))) {
    buffer += text;
    // A "\r" at the very end may be half of "\r\n": it waits for the next chunk.
    const lines = buffer.split(/\r\n|\n|\r(?!$)/);
    buffer = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (fields.data !== null) {
          yield { event: fields.event || "message", data: fields.data, id };
        }
        fields = { event: "", data: null };
        continue;
      }
      const colon = line.indexOf(":");
      const name = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (name === "data") fields.data = fields.data === null ? value : `${fields.data}\n${value}`;
      else if (name === "event") fields.event = value;
      else if (name === "id") id = value;
    }
  }
}

// Not every browser can iterate over a ReadableStream itself.
async function* chunks(stream) {
  const reader = stream.getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
