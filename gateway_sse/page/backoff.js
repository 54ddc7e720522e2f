// How long to wait before the next attempt to come back.

const FACTOR = 1.6;
const MOST_MS = 3000;

/** Returns the wait before attempt `attempt` (0 is the first), in ms; `random` is in 0 to 1. */
export function backoffMs(attempt, firstMs, random = Math.random()) {
  const full = Math.min(MOST_MS, firstMs * FACTOR ** attempt);
  return full * (0.75 + 0.25 * random); // not all pages that lost one gateway at the same moment
}

/** Waits, but no longer than until the network is back. Throws AbortError when `signal` aborts. */
export function waitForAttempt(ms, signal) {
  return new Promise((resolve, reject) => {
    const done = (settle) => () => {
      clearTimeout(timer);
      removeEventListener("online", back);
      signal.removeEventListener("abort", gone);
      settle();
    };
    const back = done(resolve);
    const gone = done(() => reject(signal.reason));
    const timer = setTimeout(back, ms);
    addEventListener("online", back);
    signal.addEventListener("abort", gone);
    if (signal.aborted) gone();
  });
}
