// A strip of time with a line for each change on the screen: how an answer came, at a glance.

const SHORTEST_MS = 1000; // a strip is never shorter, so that the first lines do not leap

/** Draws into an svg element that has a path. */
export class Strip {
  #svg;
  #path;
  #lines = "";

  constructor(svg) {
    this.#svg = svg;
    this.#path = svg.querySelector("path");
  }

  /** A change, so long after the question. */
  mark(ms) {
    this.#lines += `M${ms.toFixed(0)} 0v1`;
    this.#path.setAttribute("d", this.#lines);
    this.#svg.setAttribute("viewBox", `0 0 ${Math.max(SHORTEST_MS, ms).toFixed(0)} 1`);
  }
}
