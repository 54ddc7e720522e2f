// The official client. A job: {call, base_url, api_key, retries, body, abort_after}.
import OpenAI from "openai";
import { serve } from "./jobs.mjs";

const calls = {
  chat: (client, body) => client.chat.completions.create(body),
  completion: (client, body) => client.completions.create(body),
  models: (client) => client.models.list(),
  model: (client, body) => client.models.retrieve(body.model),
};

await serve(async ({ call, base_url, api_key, retries, body, abort_after }) => {
  const client = new OpenAI({
    baseURL: base_url,
    apiKey: api_key,
    maxRetries: retries,
    logLevel: "off",
  });
  const result = { answer: null, chunks: [], error: null };
  try {
    const answer = await calls[call](client, body);
    if (!body?.stream) {
      result.answer = answer;
      return result;
    }
    for await (const chunk of answer) {
      result.chunks.push(chunk);
      if (result.chunks.length === abort_after) answer.controller.abort();
    }
  } catch (error) {
    const { status, message, code, param, type } = error;
    result.error = { name: error.constructor.name, status, message, code, param, type };
  }
  return result;
});
