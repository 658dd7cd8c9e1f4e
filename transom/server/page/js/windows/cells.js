// From the runs of a window to the cells that are drawn: each stands for one block, or for as many as it must. Pure.

export const BLOCK_SIZE = 64;

/** What a block may be, in the order in which a cell of several is filled. */
export const STATES = ["hot", "writing", "reading", "cold", "evicted", "reserved", "unwritten"];

/** @type {Record<string, string>} */
export const STATE_WORDS = {
  hot: "in RAM",
  writing: "in RAM, being written to SSD",
  reading: "on SSD, being read back",
  cold: "on SSD",
  evicted: "forgotten",
  reserved: "reserved",
  unwritten: "not written yet",
};

/**
 * @typedef {{ kind: string, num_layers: number, blocks: [string, number][], shared: [number, number][],
 *   keep_first: number, first_recent: number, importance: { blocks_per_cell: number, shares: number[] } | null }} Layer
 * @typedef {{ first: number, numBlocks: number, counts: Record<string, number>, isShared: boolean,
 *   isAttended: boolean, importance: number | null }} Cell `importance`: 0..1, of the most attended cell
 */

/**
 * Blocks by state, over the whole window.
 *
 * @param {Layer} layer
 * @returns {Record<string, number>}
 */
export function countStates(layer) {
  const counts = Object.fromEntries(STATES.map((state) => [state, 0]));
  for (const [state, length] of layer.blocks) counts[state] += length;
  return counts;
}

/**
 * @param {Layer} layer
 * @param {number} contextWindow in tokens
 * @param {number} numTokens computed ones: nothing behind them is attended to
 * @param {number} maxCells
 * @returns {Cell[]}
 */
export function cellsOf(layer, contextWindow, numTokens, maxCells) {
  const numBlocks = Math.ceil(contextWindow / BLOCK_SIZE);
  const perCell = Math.ceil(numBlocks / maxCells);
  const cells = Array.from({ length: Math.ceil(numBlocks / perCell) }, (_, index) =>
    emptyCell(index * perCell, Math.min(perCell, numBlocks - index * perCell)),
  );
  forEachPart(statesToTheEnd(layer, numBlocks), perCell, (cell, state, length) => {
    cells[cell].counts[state] += length;
  });
  for (const [first, length] of layer.shared) {
    for (let cell = Math.floor(first / perCell); cell <= Math.floor((first + length - 1) / perCell); cell += 1) {
      if (cell < cells.length) cells[cell].isShared = true;
    }
  }
  for (const cell of cells) cell.isAttended = isAttended(cell, layer, numTokens);
  if (layer.importance) addImportance(cells, layer.importance);
  return cells;
}

/**
 * @param {number} first
 * @param {number} numBlocks
 * @returns {Cell}
 */
function emptyCell(first, numBlocks) {
  const counts = Object.fromEntries(STATES.map((state) => [state, 0]));
  return { first, numBlocks, counts, isShared: false, isAttended: false, importance: null };
}

/**
 * @param {Layer} layer
 * @param {number} numBlocks
 * @returns {[string, number][]}
 */
function statesToTheEnd(layer, numBlocks) {
  const written = layer.blocks.reduce((sum, [, length]) => sum + length, 0);
  return written < numBlocks ? [...layer.blocks, ["unwritten", numBlocks - written]] : layer.blocks;
}

/**
 * Each run, cut at the borders of cells.
 *
 * @param {[string, number][]} runs
 * @param {number} perCell
 * @param {(cell: number, state: string, length: number) => void} use
 */
function forEachPart(runs, perCell, use) {
  let at = 0;
  for (const [state, total] of runs) {
    let left = total;
    while (left > 0) {
      const length = Math.min(left, perCell - (at % perCell));
      use(Math.floor(at / perCell), state, length);
      at += length;
      left -= length;
    }
  }
}

/**
 * @param {Cell} cell
 * @param {Layer} layer
 * @param {number} numTokens
 */
function isAttended(cell, layer, numTokens) {
  const first = cell.first * BLOCK_SIZE;
  const end = Math.min(first + cell.numBlocks * BLOCK_SIZE, numTokens);
  return first < numTokens && (first < layer.keep_first || end > layer.first_recent);
}

/**
 * @param {Cell[]} cells
 * @param {{ blocks_per_cell: number, shares: number[] }} importance
 */
function addImportance(cells, { blocks_per_cell: perShare, shares }) {
  const largest = Math.max(...shares, Number.MIN_VALUE);
  for (const cell of cells) {
    const first = Math.floor(cell.first / perShare);
    const end = Math.floor((cell.first + cell.numBlocks - 1) / perShare) + 1;
    const covered = shares.slice(first, end);
    cell.importance = covered.length ? Math.max(...covered) / largest : null;
  }
}
