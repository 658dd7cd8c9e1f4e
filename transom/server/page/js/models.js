// The models that the server serves. Owns what was heard of them last.

import { json } from "./api.js";

/** @typedef {any} Model an entry of /v1/models */

/** @type {Model[]} */
let known = [];

/** @returns {Promise<Model[]>} asked anew */
export async function loadModels() {
  known = (await json("/v1/models")).data;
  return known;
}

/** @returns {Model[]} */
export function models() {
  return known;
}

/**
 * @param {string | null} id
 * @returns {Model | null} the named one, else the first
 */
export function modelOf(id) {
  return known.find((model) => model.id === id) ?? known[0] ?? null;
}
