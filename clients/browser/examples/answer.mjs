// One answer with fetch and eventsource-parser, in browsers and in Node (20 or later).
// A connection that is lost is resumed, without a lost or doubled token.

import { EventSourceParserStream } from "eventsource-parser/stream";

/** Yields the answer's text, piece by piece. `request`: {prompt, max_tokens, …}. */
export async function* answer(url, request, signal) {
  let lastId;
  for (let failures = 0; failures < 10; failures++) {
    try {
      const response = await fetch(
        url,
        lastId === undefined
          ? { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(request), signal }
          : { headers: { "last-event-id": lastId }, signal },
      );
      if (!response.ok) throw new Error(await response.text());
      if (response.status === 204) return; // nothing is left
      const text = response.body.pipeThrough(new TextDecoderStream());
      for await (const { event, data, id } of text.pipeThrough(new EventSourceParserStream())) {
        if (event === "finished") return;
        if (event === "error") throw new Error(JSON.parse(data).error.message);
        if (event === undefined) yield JSON.parse(data).token;
        lastId = id;
        failures = 0;
      }
    } catch (error) {
      if (!(error instanceof TypeError) || lastId === undefined) throw error; // else: the network
    }
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
  throw new Error("the connection was lost");
}
