// What one answer took, as its reader saw it. All times are in ms, from one clock that only goes on.

// Over less, the time is that of the delivery and says nothing of the decoding.
const SHORTEST_MS = 100;

/** Notes when tokens arrive and when they are drawn; no clock of its own. */
export class Timings {
  #askedAt;
  #firstAt = null;
  #firstTokens = 0;
  #lastAt = null;
  #drawnAt = null;
  #service = null;

  tokens = 0;
  firstVisibleMs = null;
  lastVisibleMs = null;
  longestGapMs = null;

  constructor(askedAt) {
    this.#askedAt = askedAt;
  }

  /** A piece of text came; there are `tokens` now. */
  arrived(now, tokens) {
    this.tokens = tokens;
    this.#lastAt = now;
    if (this.#firstAt === null) {
      this.#firstAt = now;
      this.#firstTokens = tokens;
    }
  }

  /** The text on the screen changed. */
  drawn(now) {
    this.lastVisibleMs = now - this.#askedAt;
    if (this.#drawnAt === null) this.firstVisibleMs = this.lastVisibleMs;
    else this.longestGapMs = Math.max(this.longestGapMs ?? 0, now - this.#drawnAt);
    this.#drawnAt = now;
  }

  /** The service told its own counts: `finished` has them. */
  finished({ usage, timings }) {
    this.tokens = usage.completion_tokens;
    this.#service = timings;
  }

  get firstTokenMs() {
    return this.#firstAt === null ? null : this.#firstAt - this.#askedAt;
  }

  /** After the first arrival; null while there is too little to tell. */
  get tokensPerSecond() {
    const later = this.tokens - this.#firstTokens;
    const tookMs = this.#lastAt - this.#firstAt;
    if (later > 0 && tookMs > SHORTEST_MS) return (later * 1000) / tookMs;
    const { time_to_first_token_ms: first, total_ms: total } = this.#service ?? {};
    return this.tokens > 1 && total > first ? ((this.tokens - 1) * 1000) / (total - first) : null;
  }

  /** What the gateway takes as /v1/perceived; null if nothing was seen. */
  get perceived() {
    if (this.firstVisibleMs === null) return null;
    return {
      first_token_ms: this.firstVisibleMs,
      last_token_ms: this.lastVisibleMs,
      longest_gap_ms: this.longestGapMs ?? 0,
    };
  }
}

/** Returns a time for people: "85 ms", "1.24 s", "–" for none. */
export function duration(ms) {
  if (ms === null) return "–";
  return ms < 999.5 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`;
}
