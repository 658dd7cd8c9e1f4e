// How a cell looks. Forms before colours: filled is RAM, hatched is SSD, an arrow is on its way, a cross is forgotten, a
// frame is reserved, a dot is not written.

import { STATES } from "./cells.js";

/** @typedef {Record<"hot" | "cold" | "ink" | "line" | "paper" | "faint", string>} Palette */

/**
 * The colours that the style sheet says there.
 *
 * @param {Element} element
 * @returns {Palette}
 */
export function paletteOf(element) {
  const style = getComputedStyle(element);
  const colour = (/** @type {string} */ name) => style.getPropertyValue(`--${name}`).trim();
  return {
    hot: colour("hot"),
    cold: colour("cold"),
    ink: colour("ink"),
    line: colour("line-strong"),
    paper: colour("paper"),
    faint: colour("ink-soft"),
  };
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Palette} palette
 * @param {import("./cells.js").Cell} cell
 * @param {number} x
 * @param {number} y
 * @param {number} size
 */
export function drawCell(context, palette, cell, x, y, size) {
  let left = x;
  for (const state of STATES) {
    const width = (size * cell.counts[state]) / cell.numBlocks;
    if (width > 0) drawState(context, palette, state, left, y, width, size);
    left += width;
  }
  if (cell.isShared) drawCorner(context, palette, x, y, size);
  if (cell.isAttended) {
    context.fillStyle = palette.ink;
    context.fillRect(x, y + size + 1.5, size, 1.5);
  }
  if (cell.importance !== null) {
    const height = Math.max(0.5, 5 * Math.sqrt(cell.importance));
    context.fillStyle = palette.ink;
    context.fillRect(x + size / 2 - 1.5, y - 1 - height, 3, height);
  }
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {Palette} palette
 * @param {string} state
 * @param {number} x
 * @param {number} y
 * @param {number} width
 * @param {number} height
 */
export function drawState(context, palette, state, x, y, width, height) {
  switch (state) {
    case "hot":
    case "writing":
      fill(context, palette.hot, x, y, width, height);
      if (state === "writing") arrow(context, palette.paper, x, y, width, height, 1);
      break;
    case "cold":
    case "reading":
      fill(context, palette.cold, x, y, width, height);
      if (state === "reading") arrow(context, palette.paper, x, y, width, height, -1);
      else hatch(context, palette.paper, x, y, width, height);
      break;
    case "evicted":
      frame(context, palette.line, x, y, width, height);
      cross(context, palette.faint, x, y, width, height);
      break;
    case "reserved":
      frame(context, palette.hot, x, y, width, height);
      break;
    default:
      fill(context, palette.line, x + width / 2 - 1, y + height / 2 - 1, 2, 2);
  }
}

/** @type {(context: CanvasRenderingContext2D, colour: string, x: number, y: number, w: number, h: number) => void} */
function fill(context, colour, x, y, w, h) {
  context.fillStyle = colour;
  context.fillRect(x, y, w, h);
}

/** @type {(context: CanvasRenderingContext2D, colour: string, x: number, y: number, w: number, h: number) => void} */
function frame(context, colour, x, y, w, h) {
  context.strokeStyle = colour;
  context.lineWidth = 1;
  context.strokeRect(x + 0.5, y + 0.5, Math.max(0, w - 1), h - 1);
}

/** @type {(context: CanvasRenderingContext2D, colour: string, x: number, y: number, w: number, h: number) => void} */
function hatch(context, colour, x, y, w, h) {
  context.save();
  context.beginPath();
  context.rect(x, y, w, h);
  context.clip();
  context.strokeStyle = colour;
  context.lineWidth = 1;
  context.beginPath();
  for (let offset = -h; offset < w; offset += 4) {
    context.moveTo(x + offset, y + h);
    context.lineTo(x + offset + h, y);
  }
  context.stroke();
  context.restore();
}

/** @type {(context: CanvasRenderingContext2D, colour: string, x: number, y: number, w: number, h: number) => void} */
function cross(context, colour, x, y, w, h) {
  context.strokeStyle = colour;
  context.lineWidth = 1;
  context.beginPath();
  context.moveTo(x + 0.3 * w, y + 0.3 * h);
  context.lineTo(x + 0.7 * w, y + 0.7 * h);
  context.moveTo(x + 0.7 * w, y + 0.3 * h);
  context.lineTo(x + 0.3 * w, y + 0.7 * h);
  context.stroke();
}

/**
 * Points down (1), to SSD, or up (-1), to RAM.
 *
 * @type {(context: CanvasRenderingContext2D, colour: string, x: number, y: number, w: number, h: number, way: 1 | -1)
 *   => void}
 */
function arrow(context, colour, x, y, w, h, way) {
  context.fillStyle = colour;
  context.beginPath();
  context.moveTo(x + w / 2, y + h / 2 + way * 0.3 * h);
  context.lineTo(x + 0.2 * w, y + h / 2 - way * 0.2 * h);
  context.lineTo(x + 0.8 * w, y + h / 2 - way * 0.2 * h);
  context.fill();
}

/** @type {(context: CanvasRenderingContext2D, palette: Palette, x: number, y: number, size: number) => void} */
function drawCorner(context, palette, x, y, size) {
  context.fillStyle = palette.ink;
  context.beginPath();
  context.moveTo(x + size - 4, y);
  context.lineTo(x + size, y);
  context.lineTo(x + size, y + 4);
  context.fill();
}
