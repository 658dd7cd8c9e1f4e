// Numbers in words that people read. Pure.

const WHOLE = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const UNITS = ["bytes", "KiB", "MiB", "GiB", "TiB"];

/** @param {number} number */
export function count(number) {
  return WHOLE.format(number);
}

/**
 * "1 block", "12 blocks".
 *
 * @param {number} number
 * @param {string} noun
 */
export function counted(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** @param {number} number of bytes */
export function bytes(number) {
  let unit = 0;
  while (number >= 1024 && unit < UNITS.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return `${number >= 100 || Number.isInteger(number) ? count(number) : number.toFixed(1)} ${UNITS[unit]}`;
}

/** @param {number | null | undefined} perSecond */
export function rate(perSecond) {
  if (perSecond === null || perSecond === undefined) return "–";
  return perSecond >= 100 ? count(perSecond) : perSecond.toFixed(1);
}

/** @param {number} share 0..1 */
export function percent(share) {
  return `${(100 * share).toFixed(share < 0.1 && share > 0 ? 1 : 0)} %`;
}
