// What the forms of the cells mean.

import { h } from "../dom.js";
import { STATES, STATE_WORDS } from "./cells.js";
import { drawCell, paletteOf } from "./cell_drawing.js";

const SIZE = 12;
const FIELD = 20;

/** The list of forms, and how it is drawn anew. */
export class Legend {
  constructor() {
    const items = STATES.map((state) => ({ words: STATE_WORDS[state], cell: cell(state) }));
    items.push({ words: "attended to", cell: { ...cell("hot"), isAttended: true } });
    items.push({ words: "shared by the same beginning", cell: { ...cell("hot"), isShared: true } });
    items.push({ words: "importance (adaptive)", cell: { ...cell("hot"), importance: 1 } });
    this.items = items.map((item) => ({ ...item, canvas: h("canvas", { aria: { hidden: "true" } }) }));
    this.element = h("ul", { class: "legend" }, ...this.items.map(({ words, canvas }) => h("li", {}, canvas, words)));
  }

  /** In the colours of the moment. */
  draw() {
    const scale = window.devicePixelRatio || 1;
    for (const { canvas, cell: shown } of this.items) {
      canvas.width = canvas.height = FIELD * scale;
      const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
      context.scale(scale, scale);
      drawCell(context, paletteOf(canvas), shown, (FIELD - SIZE) / 2, (FIELD - SIZE) / 2 + 1, SIZE);
    }
  }
}

/**
 * @param {string} state
 * @returns {import("./cells.js").Cell}
 */
function cell(state) {
  const counts = Object.fromEntries(STATES.map((each) => [each, each === state ? 1 : 0]));
  return { first: 0, numBlocks: 1, counts, isShared: false, isAttended: false, importance: null };
}
