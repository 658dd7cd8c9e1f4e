// Fills and rates: bars against their budgets, and a line of the last minute.

import { h } from "../dom.js";
import { bytes, count, percent } from "../format.js";

const TIER_WORDS = /** @type {Record<string, string>} */ ({ hot: "RAM", cold: "SSD" });
const SECONDS = 60;

/**
 * A tier's fill: what running requests use, and behind it what later ones may use again.
 *
 * @param {any} tier as the server tells it
 */
export function tierGauge(tier) {
  const total = tier.total_bytes || 1;
  const name = TIER_WORDS[tier.name] ?? tier.name;
  const used = h("span", { class: `gauge-part ${tier.name}` });
  const reuse = h("span", { class: `gauge-part ${tier.name} reuse` });
  used.style.width = `${(100 * tier.used_bytes) / total}%`;
  reuse.style.width = `${(100 * tier.reuse_bytes) / total}%`;
  const said = `${bytes(tier.used_bytes)} of ${bytes(tier.total_bytes)} in use`;
  const more = tier.reuse_bytes ? `, ${bytes(tier.reuse_bytes)} kept for reuse` : "";
  const state = tier.state === "on" ? "" : ` · ${tier.state}`;
  const range = { valuemin: "0", valuemax: String(total), valuenow: String(tier.used_bytes), valuetext: said + more };
  const bar = h("div", { class: "gauge-bar", role: "meter", aria: { label: name, ...range } }, used, reuse);
  const share = h("span", { class: "gauge-share" }, percent((tier.used_bytes + tier.reuse_bytes) / total));
  const head = h("div", { class: "gauge-head" }, h("span", { class: "gauge-name" }, name), share);
  return h("div", { class: "gauge", data: { tier: tier.name, used: tier.used_bytes } }, head, bar, h("p", {}, said + more + state));
}

/** The last minute of a rate. */
export class Sparkline {
  constructor() {
    this.canvas = h("canvas", { class: "sparkline", aria: { hidden: "true" } });
    /** @type {{ at: number, value: number }[]} */
    this.points = [];
  }

  /** @param {number} value now */
  add(value) {
    const now = performance.now() / 1000;
    this.points.push({ at: now, value });
    while (this.points.length && this.points[0].at < now - SECONDS) this.points.shift();
    this.draw(now);
  }

  /** @param {number} now seconds */
  draw(now) {
    const scale = window.devicePixelRatio || 1;
    const width = this.canvas.clientWidth || 160;
    const height = this.canvas.clientHeight || 28;
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    const context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    context.scale(scale, scale);
    if (!this.points.some((point) => point.value > 0)) return;
    const largest = Math.max(1, ...this.points.map((point) => point.value));
    context.strokeStyle = getComputedStyle(this.canvas).color;
    context.lineWidth = 1.5;
    context.lineJoin = "round";
    context.beginPath();
    for (const { at, value } of this.points) {
      context.lineTo(width * (1 - (now - at) / SECONDS), height - 1 - (height - 3) * (value / largest));
    }
    context.stroke();
  }
}

/** @param {any} reuse as the server tells it */
export function reuseWords(reuse) {
  if (!reuse.hits) return "No prefix was found again yet.";
  const hits = reuse.hits === 1 ? "1 request began" : `${count(reuse.hits)} requests began`;
  return `${hits} with what was there: ${count(reuse.hit_tokens)} tokens not computed again.`;
}
