// Reads jobs, one JSON object a line, and prints what became of each, in the same order.
import { createInterface } from "node:readline";

export async function serve(run) {
  for await (const line of createInterface({ input: process.stdin })) {
    console.log(JSON.stringify(await run(JSON.parse(line))));
  }
}
