// Vercel's AI SDK. A job: {call, base_url, api_key, retries, model, stream, settings, schema,
// abort_after}; `settings` are the SDK's own.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, Output, streamText } from "ai";
import { serve } from "./jobs.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;

function told(error) {
  const cause = error.lastError ?? error; // what was tried again is wrapped
  return {
    name: error.name ?? "Object",
    cause: cause.name,
    status: cause.statusCode,
    message: cause.message,
    data: cause.data,
  };
}

await serve(async ({ call, base_url, api_key, retries, model, stream, settings, ...job }) => {
  const provider = createOpenAICompatible({
    name: "tokenstream",
    baseURL: base_url,
    apiKey: api_key,
    includeUsage: true,
    supportsStructuredOutputs: true,
  });
  const aborting = new AbortController();
  const options = {
    ...settings,
    model: call === "chat" ? provider.chatModel(model) : provider.completionModel(model),
    maxRetries: retries,
    abortSignal: aborting.signal,
    ...(job.schema && { output: Output.object({ schema: jsonSchema(job.schema) }) }),
  };
  const result = { text: "", pieces: 0, reason: null, usage: null, output: null, error: null };
  try {
    if (!stream) {
      const answer = await generateText(options);
      result.text = answer.text;
      result.reason = answer.finishReason;
      result.usage = answer.usage;
      if (job.schema) result.output = answer.output;
      return result;
    }
    const answer = streamText({ ...options, onError: () => {} });
    for await (const part of answer.fullStream) {
      if (part.type === "text-delta") {
        result.text += part.text;
        result.pieces += 1;
        if (result.pieces === job.abort_after) aborting.abort();
      } else if (part.type === "error") {
        result.error = told(part.error);
      } else if (part.type === "finish") {
        result.reason = part.finishReason;
        result.usage = part.totalUsage;
      }
    }
  } catch (error) {
    result.error = told(error);
  }
  return result;
});
