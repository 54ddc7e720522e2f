// What went wrong, as the gateway says it.

/** A request that was refused, or an answer that came to no good end. */
export class Problem extends Error {
  /** `status` is HTTP's, or 0; `error` is the gateway's: code, reason, message and so on. */
  constructor(status, error = {}) {
    super(error.message || `the gateway answered ${status}`);
    this.name = "Problem";
    this.status = status;
    this.reason = error.reason ?? "";
    this.code = error.code ?? "";
    this.violations = error.field_violations ?? [];
    this.retryAfterS = error.retry_after_s ?? null;
  }

  /** Reads a response that is no stream. */
  static async of(response) {
    const body = await response.json().catch(() => null);
    const problem = new Problem(response.status, body?.error);
    // Something in between may have answered, which knows only the header.
    const header = Number(response.headers.get("retry-after"));
    if (problem.retryAfterS === null && header > 0) problem.retryAfterS = header;
    return problem;
  }
}

const NO_KEY = "This service wants an API key, and takes none or not this one.";

/** Returns one sentence for people. */
export function inWords(problem) {
  if (!(problem instanceof Problem)) {
    return navigator.onLine
      ? "The gateway cannot be reached."
      : "This device is offline, so the gateway cannot be reached.";
  }
  const said = sentence(problem.message);
  return problem.status === 401 ? `${NO_KEY} ${said}` : said;
}

/** Returns words with a capital and a full stop. */
export function sentence(text) {
  return stopped(text.charAt(0).toUpperCase() + text.slice(1));
}

/** Returns words with a full stop, unless they have an end already. */
export function stopped(text) {
  return /[.!?…]$/.test(text) ? text : `${text}.`;
}
