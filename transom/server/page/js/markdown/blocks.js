// Markdown as elements: paragraphs, headings, lists, quotations, tables, code. Text goes in and nodes come out, never
// markup, so nothing that a model writes can become anything but what is made here. What is not understood stays text.

import { h } from "../dom.js";
import { inline } from "./inline.js";
import { codeBlock } from "./code.js";

const FENCE = /^( {0,3})(`{3,}|~{3,})\s*([^`\s]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
const TABLE_BORDER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
const MAX_DEPTH = 8;

/**
 * @param {string} text
 * @param {number} [depth] of quotations and lists around it; what is deeper than eight stays text
 * @returns {DocumentFragment}
 */
export function markdown(text, depth = 0) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const fragment = document.createDocumentFragment();
  let at = 0;
  while (at < lines.length) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const [node, next] = block(lines, at, depth);
    fragment.append(node);
    at = next;
  }
  return fragment;
}

/**
 * The block that begins at line `at`, and the line behind it.
 *
 * @param {string[]} lines
 * @param {number} at
 * @param {number} depth
 * @returns {[Node, number]}
 */
function block(lines, at, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return fenced(lines, at, fence);
  const heading = HEADING.exec(line);
  // The page has headings of its own above these: a model's first level is the page's third.
  if (heading) return [h(`h${Math.min(6, heading[1].length + 2)}`, {}, ...inline(heading[2])), at + 1];
  if (RULE.test(line)) return [h("hr"), at + 1];
  if (depth < MAX_DEPTH && QUOTE.test(line)) return quotation(lines, at, depth);
  if (depth < MAX_DEPTH && ITEM.test(line)) return list(lines, at, depth);
  if (line.includes("|") && TABLE_BORDER.test(lines[at + 1] ?? "")) return table(lines, at);
  return paragraph(lines, at);
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @param {RegExpExecArray} fence
 * @returns {[Node, number]} up to the closing fence or, while the text is still coming, to its end
 */
function fenced(lines, at, [, indent, mark, language]) {
  const closing = new RegExp(`^ {0,3}${mark[0] === "~" ? "~" : "`"}{${mark.length},}\\s*$`);
  let end = at + 1;
  while (end < lines.length && !closing.test(lines[end])) end += 1;
  const code = lines.slice(at + 1, end).map((line) => (line.startsWith(indent) ? line.slice(indent.length) : line));
  return [codeBlock(code.join("\n"), language), end + 1];
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @param {number} depth
 * @returns {[Node, number]}
 */
function quotation(lines, at, depth) {
  let end = at;
  while (end < lines.length && lines[end].trim() && (QUOTE.test(lines[end]) || !beginsBlock(lines[end]))) end += 1;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return [h("blockquote", {}, markdown(inner.join("\n"), depth + 1)), end];
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @param {number} depth
 * @returns {[Node, number]}
 */
function list(lines, at, depth) {
  const first = /** @type {RegExpExecArray} */ (ITEM.exec(lines[at]));
  const isOrdered = /\d/.test(first[2]);
  const indent = first[1].length;
  const items = [];
  while (at < lines.length) {
    const item = ITEM.exec(lines[at]);
    if (!item || item[1].length !== indent || /\d/.test(item[2]) !== isOrdered || RULE.test(lines[at])) break;
    const inner = [item[3]];
    at += 1;
    while (at < lines.length && belongsToItem(lines, at, indent)) {
      inner.push(lines[at].replace(new RegExp(`^\\s{0,${indent + item[2].length + 1}}`), ""));
      at += 1;
    }
    items.push(h("li", {}, itemContent(inner, depth)));
    while (at < lines.length && !lines[at].trim() && ITEM.test(lines[at + 1] ?? "")) at += 1;
  }
  const start = isOrdered ? Number.parseInt(first[2], 10) : 1;
  return [h(isOrdered ? "ol" : "ul", isOrdered && start !== 1 ? { start } : {}, ...items), at];
}

/**
 * Whether a line goes on with the item above it: it is indented, or it is text right behind text.
 *
 * @param {string[]} lines
 * @param {number} at
 * @param {number} indent
 */
function belongsToItem(lines, at, indent) {
  const line = lines[at];
  const isIndented = line.length - line.trimStart().length > indent + 1;
  if (!line.trim()) return /^\s+\S/.test(lines[at + 1] ?? "") && indentOf(lines[at + 1]) > indent + 1;
  return isIndented || (lines[at - 1].trim() !== "" && !beginsBlock(line));
}

/** @param {string} line */
function indentOf(line) {
  return line.length - line.trimStart().length;
}

/**
 * A single paragraph needs no element of its own.
 *
 * @param {string[]} lines
 * @param {number} depth
 */
function itemContent(lines, depth) {
  const content = markdown(lines.join("\n"), depth + 1);
  const first = content.firstElementChild;
  if (first?.tagName === "P") first.replaceWith(...first.childNodes);
  return content;
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @returns {[Node, number]}
 */
function table(lines, at) {
  const head = h("tr", {}, ...cellsOf(lines[at]).map((cell) => h("th", { scope: "col" }, ...inline(cell))));
  const rows = [];
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) {
    rows.push(h("tr", {}, ...cellsOf(lines[end]).map((cell) => h("td", {}, ...inline(cell)))));
    end += 1;
  }
  const element = h("table", {}, h("thead", {}, head), h("tbody", {}, ...rows));
  return [h("div", { class: "table-frame", tabIndex: 0, role: "group", aria: { label: "Table" } }, element), end];
}

/** @param {string} line */
function cellsOf(line) {
  return line
    .trim()
    .replace(/^\||\|$/g, "")
    .split(/(?<!\\)\|/)
    .map((cell) => cell.trim().replace(/\\\|/g, "|"));
}

/**
 * @param {string[]} lines
 * @param {number} at
 * @returns {[Node, number]}
 */
function paragraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && !beginsBlock(lines[end])) end += 1;
  const text = lines.slice(at, end).map((line) => line.trimStart()).join("\n");
  return [h("p", {}, ...inline(text)), end];
}

/** @param {string} line */
function beginsBlock(line) {
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || ITEM.test(line);
}
