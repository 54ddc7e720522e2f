// Which model answers, and whether it can.

const POLL_MS = 3000;
const READY_POLL_MS = 15_000;

/** Calls `show(ready, name)` now and whenever it may have changed; `name` is null if not known. */
export async function watchService(show, apiKey) {
  for (;;) {
    let ready = false;
    if (!document.hidden) {
      ready = await isReady();
      show(ready, ready ? await modelName(apiKey()) : null);
    }
    await new Promise((resolve) => setTimeout(resolve, ready ? READY_POLL_MS : POLL_MS));
  }
}

async function isReady() {
  try {
    return (await fetch("readyz?upstream=1", { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}

/** The list of models is OpenAI's ("data"), or our own ("models"), or there is none. */
async function modelName(apiKey) {
  try {
    const headers = apiKey ? { authorization: `Bearer ${apiKey}` } : {};
    const response = await fetch("v1/models", { headers });
    const { data, models } = response.ok ? await response.json() : {};
    return (data ?? models ?? [])[0]?.id ?? null;
  } catch {
    return null;
  }
}
