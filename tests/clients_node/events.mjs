// What eventsource-parser makes of bytes that come in pieces.
import { createParser } from "eventsource-parser";
import { serve } from "./jobs.mjs";

await serve(async ({ pieces }) => {
  const events = [];
  let id = "";
  let retry = null;
  const parser = createParser({
    onEvent: (event) => {
      id = event.id ?? id;
      events.push({ event: event.event ?? "message", data: event.data, id });
    },
    onRetry: (milliseconds) => {
      retry = milliseconds;
    },
  });
  const decoder = new TextDecoder();
  for (const piece of pieces) {
    parser.feed(decoder.decode(Buffer.from(piece, "base64"), { stream: true }));
  }
  parser.feed(decoder.decode());
  return { events, retry };
});
