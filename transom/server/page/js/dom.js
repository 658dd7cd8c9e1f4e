// Elements built by hand: text is always text here, never markup. Knows nothing of this application.

/**
 * An element with properties and children. `class`, `data`, `aria` and `on` are what they say; everything else is
 * a property when the element has one of that name, else an attribute. Strings among the children become text nodes.
 *
 * @param {string} tag
 * @param {Record<string, any>} [properties]
 * @param {...(Node | string | number | null | undefined | false)} children
 * @returns {any} the element; of the type that the tag has
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name === "class") element.className = value;
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "aria") for (const [key, said] of Object.entries(value)) element.setAttribute(`aria-${key}`, said);
    else if (name === "on") for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/**
 * A small drawing of strokes on a field of 20 x 20.
 *
 * @param {string} path
 * @returns {SVGElement}
 */
export function icon(path) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 20 20");
  svg.setAttribute("aria-hidden", "true");
  const stroke = document.createElementNS("http://www.w3.org/2000/svg", "path");
  stroke.setAttribute("d", path);
  svg.append(stroke);
  return svg;
}

/**
 * The element with this id, which the document has.
 *
 * @param {string} id
 * @returns {any}
 */
export function byId(id) {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`there is no element ${id}`);
  return element;
}

/**
 * Told to whoever listens to the page instead of looking at it.
 *
 * @param {string} text
 */
export function announce(text) {
  byId("announcer").textContent = text;
}
