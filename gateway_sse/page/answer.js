// One answer on the page: its text, drawn at most once in an animation frame, and what it took.

import { countDown } from "./countdown.js";
import { Strip } from "./strip.js";
import { duration, Timings } from "./timings.js";

const LONGEST_FRAME_MS = 250;

/** See above. Its element is a copy of the template, and has its state as data-state. */
export class Answer {
  #pending = "";
  #frame = null;
  #text = document.createTextNode("");
  #strip;
  #figures;
  #buffered;

  /** `buffered`: nothing is shown before everything is there. */
  constructor(element, { buffered }) {
    this.element = element;
    this.timings = new Timings(performance.now());
    /** Whether its reader could see all of it come. */
    this.watched = !buffered && !document.hidden;
    this.#buffered = buffered;
    this.#strip = new Strip(element.querySelector(".strip"));
    this.#figures = element.querySelectorAll("[data-figure]");
    element.querySelector(".answer-text").append(this.#text);
    this.state = "waiting";
  }

  set state(state) {
    this.element.dataset.state = state;
  }

  set who(name) {
    this.element.querySelector(".who").textContent = name;
  }

  /** All that is there, drawn or not. */
  get text() {
    return this.#text.data + this.#pending;
  }

  add(text, tokens) {
    this.timings.arrived(performance.now(), tokens);
    this.#pending += text;
    if (document.hidden) this.watched = false;
    if (!this.#buffered) this.#drawSoon();
  }

  /** Shows the rest at the next frame, or at once where there are no frames: in a hidden tab. */
  async drawAll() {
    this.#buffered = false;
    if (this.#pending === "") return this.#drawFigures();
    if (document.hidden) {
      this.watched = false;
      return this.#draw();
    }
    this.#drawSoon();
    await new Promise((resolve) => {
      this.#onDrawn = resolve;
      setTimeout(() => this.#draw(), LONGEST_FRAME_MS); // the tab may be hidden by now
    });
  }

  #onDrawn = () => {};

  #drawSoon() {
    this.#frame ??= requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = null;
    const follow = atTheEnd();
    if (this.#pending !== "") {
      this.#text.appendData(this.#pending);
      this.#pending = "";
      this.timings.drawn(performance.now());
      this.#strip.mark(this.timings.lastVisibleMs);
    }
    this.#drawFigures();
    if (follow) scrollToEnd();
    this.#onDrawn();
  }

  #drawFigures() {
    const { timings } = this;
    const rate = timings.tokensPerSecond;
    const shown = {
      "first-token": duration(timings.firstTokenMs),
      "first-visible": duration(timings.firstVisibleMs),
      "longest-gap": duration(timings.longestGapMs),
      "last-visible": duration(timings.lastVisibleMs),
      rate: rate === null ? "–" : `${rate.toFixed(rate < 100 ? 1 : 0)}/s`,
      tokens: timings.tokens || "–",
    };
    for (const figure of this.#figures) figure.textContent = shown[figure.dataset.figure];
  }

  /** Says below the text what happened to it. */
  note(text) {
    const note = document.createElement("li");
    note.textContent = text;
    this.#keepingTheEnd(() => this.element.querySelector(".notes").append(note));
  }

  /** Says how it ended. */
  end(text) {
    this.element.querySelector(".ending").textContent = text;
  }

  /** Says what went wrong, and offers to ask again, from `waitS` seconds on. */
  fail(text, waitS, again) {
    const box = this.element.querySelector(".problem");
    const button = box.querySelector("button");
    this.#keepingTheEnd(() => {
      box.hidden = false;
      box.querySelector("p").textContent = text;
    });
    countDown(waitS ?? 0, (left) => {
      button.disabled = left > 0;
      button.textContent = left > 0 ? `Try again in ${left} s` : "Try again";
    });
    button.addEventListener("click", again, { once: true });
  }

  #keepingTheEnd(change) {
    const follow = atTheEnd();
    change();
    if (follow) scrollToEnd();
  }
}

/** Tells whether the end of the page is in view: only then it is kept there. */
export function atTheEnd() {
  const page = document.documentElement;
  return page.scrollHeight - window.innerHeight - window.scrollY < 64;
}

export function scrollToEnd() {
  window.scrollTo(0, document.documentElement.scrollHeight);
}
