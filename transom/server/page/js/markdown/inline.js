// What is inside a line of Markdown: emphasis, code, links. Nodes, never markup. A link leads to http, https or mail,
// or it is text; pictures are links, for nothing is fetched from elsewhere.

import { h } from "../dom.js";

const SAFE_PROTOCOLS = new Set(["http:", "https:", "mailto:"]);
const MAX_DEPTH = 6;

/** What may begin here, tried in this order at each place where one of these characters stands. */
const RULES = [
  { pattern: /\\([\\`*_{}[\]()#+\-.!~|<>])/y, make: ([, character]) => character },
  { pattern: /(`+)([\s\S]+?)(?<!`)\1(?!`)/y, make: ([, , code]) => h("code", {}, code.replace(/^ (.+) $/s, "$1")) },
  { pattern: /!?\[([^[\]]*)\]\(\s*<?([^\s()<>]*(?:\([^\s()]*\)[^\s()<>]*)*)>?(?:\s+"[^"]*")?\s*\)/y, make: link },
  { pattern: /<((?:https?:\/\/|mailto:)[^\s<>]+)>/y, make: ([whole, target]) => link([whole, target, target], MAX_DEPTH) },
  { pattern: /\*\*(?=\S)([\s\S]*?\S)\*\*/y, make: ([, text], depth) => h("strong", {}, ...inline(text, depth)) },
  { pattern: /(?<!\w)__(?=\S)([\s\S]*?\S)__(?!\w)/y, make: ([, text], depth) => h("strong", {}, ...inline(text, depth)) },
  { pattern: /\*(?=[^\s*])([^*]*?[^\s*])\*/y, make: ([, text], depth) => h("em", {}, ...inline(text, depth)) },
  { pattern: /(?<!\w)_(?=[^\s_])([^_]*?[^\s_])_(?!\w)/y, make: ([, text], depth) => h("em", {}, ...inline(text, depth)) },
  { pattern: /~~(?=\S)([\s\S]*?\S)~~/y, make: ([, text], depth) => h("s", {}, ...inline(text, depth)) },
  { pattern: / {2,}\n|\\\n/y, make: () => h("br") },
  { pattern: /https?:\/\/[^\s<>()[\]"'`]*[^\s<>()[\]"'`.,;:!?*_]/y, make: ([target]) => link([target, target, target], MAX_DEPTH) },
];
const BEGINNING = /[\\`[!<*_~ h]/g;

/**
 * @param {string} text
 * @param {number} [depth]
 * @returns {(Node | string)[]}
 */
export function inline(text, depth = 0) {
  if (depth >= MAX_DEPTH) return [text];
  const parts = [];
  let plain = "";
  let at = 0;
  while (at < text.length) {
    BEGINNING.lastIndex = at;
    const next = BEGINNING.exec(text)?.index ?? text.length;
    plain += text.slice(at, next);
    at = next;
    const found = at < text.length ? matchAt(text, at) : null;
    if (found) {
      const made = found.rule.make(found.match, depth + 1);
      if (typeof made === "string") plain += made;
      else {
        if (plain) parts.push(plain);
        plain = "";
        parts.push(made);
      }
      at += found.match[0].length;
    } else if (at < text.length) {
      plain += text[at];
      at += 1;
    }
  }
  if (plain) parts.push(plain);
  return parts;
}

/**
 * @param {string} text
 * @param {number} at
 */
function matchAt(text, at) {
  for (const rule of RULES) {
    rule.pattern.lastIndex = at;
    const match = rule.pattern.exec(text);
    if (match) return { rule, match };
  }
  return null;
}

/**
 * @param {ArrayLike<string>} match whole, text, target
 * @param {number} depth
 * @returns {Node | string}
 */
function link(match, depth) {
  const [whole, text, target] = Array.from(match);
  if (!isSafe(target)) return whole;
  const content = text ? inline(text, depth) : [target];
  return h("a", { href: target, target: "_blank", rel: "noopener noreferrer nofollow" }, ...content);
}

/** @param {string} target */
function isSafe(target) {
  try {
    return SAFE_PROTOCOLS.has(new URL(target).protocol);
  } catch {
    return false;
  }
}
