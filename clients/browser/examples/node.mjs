// node node.mjs "What is gRPC?" [http://127.0.0.1:8080]    after: npm install eventsource-parser@3

import { answer } from "./answer.mjs";

const [prompt = "What is gRPC?", gateway = "http://127.0.0.1:8080"] = process.argv.slice(2);
for await (const text of answer(`${gateway}/v1/completions/stream`, { prompt, temperature: 0 })) {
  process.stdout.write(text);
}
process.stdout.write("\n");
