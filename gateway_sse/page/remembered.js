// What the page keeps: choices in this browser, the API key in this tab only.

/** Returns what was kept under a name, or `otherwise`. */
export function recall(name, otherwise, storage = "localStorage") {
  try {
    return window[storage].getItem(`tokenstream.${name}`) ?? otherwise;
  } catch {
    return otherwise; // a browser may forbid it
  }
}

/** Keeps a text under a name; an empty one is forgotten. */
export function remember(name, text, storage = "localStorage") {
  try {
    if (text === "") window[storage].removeItem(`tokenstream.${name}`);
    else window[storage].setItem(`tokenstream.${name}`, text);
  } catch {
    // Then it lasts as long as the page.
  }
}
