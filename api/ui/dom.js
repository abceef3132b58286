// Small helpers around the document.

export const byId = (id) => document.getElementById(id);

/** An element with properties and children: `make("li", {className: "now"}, "text")`. */
export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/** Shows exactly one of two pressed states in a group of buttons. */
export function press(pressed, ...others) {
  pressed.setAttribute("aria-pressed", "true");
  for (const other of others) other.setAttribute("aria-pressed", "false");
}

/** Rows of a definition list; rows without a value are left out. */
export function fillFacts(list, rows) {
  const known = rows.filter(([, value]) => value !== null && value !== undefined);
  list.replaceChildren(...known.flatMap(([term, value]) => [make("dt", {}, term), make("dd", {}, value)]));
}

/** Says something to a screen reader. */
export function announce(text) {
  byId("announcement").textContent = text;
}

export const percent = (share, digits = 0) => `${(share * 100).toFixed(digits)} %`;

/** Seconds in as many digits as matter. */
export function seconds(value) {
  if (value >= 100) return `${Math.round(value)} s`;
  return `${value.toFixed(value >= 10 ? 1 : 2)} s`;
}

export const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
