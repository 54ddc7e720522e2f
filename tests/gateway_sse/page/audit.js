// Looks for what is wrong for people who read, see or point in another way. Returns sentences.
// WCAG 2.2 (https://www.w3.org/TR/WCAG22): 1.4.3 for text, 1.4.11 for borders, 2.5.8 for sizes.
() => {
  const found = [];
  const wrong = (what, element) => found.push(`${what}: ${element.outerHTML.slice(0, 80)}`);
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });

  function parsed(color) {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  }

  function behind(element) {
    for (; element; element = element.parentElement) {
      const color = parsed(getComputedStyle(element).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255];
  }

  // https://www.w3.org/TR/WCAG22/#dfn-relative-luminance
  function luminance(color) {
    const [r, g, b] = color.map((part) => {
      const value = part / 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  }

  function contrast(color, element) {
    const [low, high] = [luminance(parsed(color)), luminance(behind(element))].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  }

  function check(element) {
    const style = getComputedStyle(element);
    const field = element.matches("input, textarea");
    const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const enough = parseFloat(style.fontSize) >= 24 ? 3 : 4.5;
    if ((text || field) && contrast(style.color, element) < enough) wrong("contrast", element);
    if (element.matches("input:not([type=checkbox], [type=radio])")) {
      if (contrast(style.borderColor, element.parentElement) < 3) wrong("border", element);
    }
    if (field && !element.labels.length) wrong("no label", element);
    if (element.matches("button") && !(element.ariaLabel || element.textContent.trim())) {
      wrong("no name", element);
    }
    if (element.matches("button, input, textarea")) {
      const boxes = [element, ...(element.labels ?? [])].map((e) => e.getBoundingClientRect());
      if (!boxes.some(({ width, height }) => width >= 24 && height >= 24)) wrong("small", element);
    }
    if (element.tabIndex > 0) wrong("order of its own", element);
    for (const name of ["aria-describedby", "aria-controls", "aria-labelledby"]) {
      for (const id of (element.getAttribute(name) ?? "").split(" ").filter(Boolean)) {
        if (!document.getElementById(id)) wrong(`${name} leads nowhere`, element);
      }
    }
  }

  const shown = (element) => element.checkVisibility() && !element.closest(".unseen");
  for (const element of document.body.querySelectorAll("*")) {
    if (shown(element) && !element.matches(":disabled, :disabled *")) check(element);
  }
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  for (const id of new Set(ids)) {
    if (ids.indexOf(id) !== ids.lastIndexOf(id)) found.push(`an id twice: ${id}`);
  }
  const headings = [...document.querySelectorAll("h1, h2, h3")].filter(shown);
  if (headings[0]?.tagName !== "H1") found.push("the first heading is no h1");
  if (!document.documentElement.lang) found.push("no language");
  if (!document.title) found.push("no title");
  if (document.documentElement.scrollWidth > innerWidth) found.push("wider than the window");
  return found;
};
