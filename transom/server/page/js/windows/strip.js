// A context window, drawn: rows of cells from the first token to the last possible one. Every state has a form of its
// own beside its colour, and the same is told in words for whoever does not see it.

import { h } from "../dom.js";
import { count, counted } from "../format.js";
import { BLOCK_SIZE, STATES, STATE_WORDS, cellsOf, countStates } from "./cells.js";
import { drawCell, paletteOf } from "./cell_drawing.js";

const SMALL = 10;
const LARGE = 14;
const FEW_CELLS = 160;
const GAP = 2;
const IMPORTANCE = 6;
const ATTENTION = 3;
const ROW_GAP = 4;
const MAX_CELLS = 1024;

/** @typedef {import("./cells.js").Layer} Layer @typedef {import("./cells.js").Cell} Cell */

/** The drawing of one kind of layers of one request. */
export class Strip {
  constructor() {
    this.canvas = h("canvas", { class: "strip-canvas", role: "img" });
    this.hint = h("div", { class: "strip-hint", hidden: true });
    this.runs = h("tbody");
    this.element = h("div", { class: "strip" }, h("div", { class: "strip-frame" }, this.canvas, this.hint), this.#table());
    /** @type {Cell[]} */
    this.cells = [];
    this.columns = 1;
    this.size = SMALL;
    this.top = 0;
    this.pitch = SMALL;
    /** @type {{ layer: Layer, contextWindow: number, numTokens: number } | null} */
    this.shown = null;
    this.canvas.addEventListener("pointermove", (/** @type {PointerEvent} */ event) => this.#point(event));
    this.canvas.addEventListener("pointerleave", () => (this.hint.hidden = true));
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  /**
   * @param {Layer} layer
   * @param {number} contextWindow
   * @param {number} numTokens
   */
  show(layer, contextWindow, numTokens) {
    this.shown = { layer, contextWindow, numTokens };
    const counts = countStates(layer);
    for (const state of STATES) this.element.dataset[state] = String(counts[state]);
    this.canvas.setAttribute("aria-label", spoken(layer, contextWindow, numTokens));
    this.runs.replaceChildren(...rowsOf(layer));
    this.draw();
  }

  /** What is shown, at the size that there is room for and in the colours of the moment. */
  draw() {
    const width = Math.floor(this.element.clientWidth);
    if (!this.shown || width < LARGE) return;
    const { layer, contextWindow, numTokens } = this.shown;
    this.cells = cellsOf(layer, contextWindow, numTokens, width < 480 ? MAX_CELLS / 2 : MAX_CELLS);
    this.size = this.cells.length > FEW_CELLS ? SMALL : LARGE;
    this.columns = Math.floor((width + GAP) / (this.size + GAP));
    this.top = layer.importance ? IMPORTANCE : 0;
    this.pitch = this.top + this.size + ATTENTION + ROW_GAP;
    const context = sized(this.canvas, width, Math.ceil(this.cells.length / this.columns) * this.pitch);
    const palette = paletteOf(this.canvas);
    this.cells.forEach((cell, index) => {
      const x = (index % this.columns) * (this.size + GAP);
      const y = Math.floor(index / this.columns) * this.pitch + this.top;
      drawCell(context, palette, cell, x, y, this.size);
    });
  }

  /** @param {PointerEvent} event */
  #point(event) {
    const column = Math.floor(event.offsetX / (this.size + GAP));
    const row = Math.floor(event.offsetY / this.pitch);
    const cell = column < this.columns ? this.cells[row * this.columns + column] : undefined;
    this.hint.hidden = cell === undefined;
    if (!cell) return;
    this.hint.textContent = described(cell);
    const left = Math.min(event.offsetX, Math.max(0, this.canvas.clientWidth - this.hint.offsetWidth));
    this.hint.style.left = `${left}px`;
    this.hint.style.top = `${(row + 1) * this.pitch}px`;
  }

  #table() {
    const head = h("tr", {}, ...["Blocks", "Tokens", "Where"].map((text) => h("th", { scope: "col" }, text)));
    const table = h("table", { class: "runs" }, h("thead", {}, head), this.runs);
    return h("details", { class: "runs-frame" }, h("summary", {}, "Blocks in words"), table);
  }
}

/**
 * A canvas with as many dots as the screen has there.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {number} width
 * @param {number} height
 */
function sized(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  canvas.width = Math.round(width * scale);
  canvas.height = Math.round(height * scale);
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.scale(scale, scale);
  return context;
}

/** @param {Cell} cell */
function described(cell) {
  const last = cell.first + cell.numBlocks - 1;
  const blocks = cell.numBlocks === 1 ? `Block ${count(cell.first)}` : `Blocks ${count(cell.first)}–${count(last)}`;
  const tokens = `tokens ${count(cell.first * BLOCK_SIZE)}–${count((last + 1) * BLOCK_SIZE - 1)}`;
  const present = STATES.filter((state) => cell.counts[state]);
  const where = present.map((state) => (present.length > 1 ? `${cell.counts[state]} ` : "") + STATE_WORDS[state]);
  const more = [cell.isShared && "shared", cell.isAttended && "attended to"].filter(Boolean);
  if (cell.importance !== null) more.push(`importance ${(100 * cell.importance).toFixed(0)} %`);
  return [blocks, tokens, where.join(", "), ...more].join(" · ");
}

/**
 * @param {Layer} layer
 * @param {number} contextWindow
 * @param {number} numTokens
 */
function spoken(layer, contextWindow, numTokens) {
  const counts = countStates(layer);
  const parts = STATES.filter((state) => counts[state]).map((state) => `${counts[state]} ${STATE_WORDS[state]}`);
  const total = Math.ceil(contextWindow / BLOCK_SIZE);
  return `Context window of ${counted(total, "block")}: ${parts.join(", ") || "nothing is written"}. ${attention(layer, numTokens)}`;
}

/**
 * @param {Layer} layer
 * @param {number} numTokens
 */
export function attention(layer, numTokens) {
  if (layer.first_recent <= layer.keep_first) return "Attention sees all of it.";
  const recent = `the last ${count(numTokens - layer.first_recent)} tokens`;
  return layer.keep_first
    ? `Attention sees the first ${count(layer.keep_first)} and ${recent}.`
    : `Attention sees ${recent}.`;
}

/** @param {Layer} layer */
function rowsOf(layer) {
  let at = 0;
  return layer.blocks.map(([state, length]) => {
    const blocks = length === 1 ? count(at) : `${count(at)}–${count(at + length - 1)}`;
    const tokens = `${count(at * BLOCK_SIZE)}–${count((at + length) * BLOCK_SIZE - 1)}`;
    at += length;
    return h("tr", {}, h("td", {}, blocks), h("td", {}, tokens), h("td", {}, STATE_WORDS[state]));
  });
}
