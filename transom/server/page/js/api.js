// The server, as this page uses it. Owns the API key, for as long as the tab lives, and what its errors are called.

import { events } from "./sse.js";

const KEY = "transom.key";

/** What the server refused, in its own words. */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {number} status 0: it could not be reached
   * @param {string | null} code
   * @param {number | null} retryAfter seconds
   */
  constructor(message, status, code = null, retryAfter = null) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/** @returns {string} "" without one */
export function apiKey() {
  return sessionStorage.getItem(KEY) ?? "";
}

/** @param {string} key "" forgets it */
export function setApiKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** @type {() => Promise<boolean>} asks for a key; false: there will be none */
let askForKey = async () => false;

/** @param {() => Promise<boolean>} ask */
export function onKeyWanted(ask) {
  askForKey = ask;
}

/**
 * An answer of the server that is no refusal. Where a key is wanted, the reader is asked for one, and then the server
 * again.
 *
 * @param {string} path
 * @param {{ body?: unknown, signal?: AbortSignal, mayAsk?: boolean }} [options]
 * @returns {Promise<Response>}
 */
async function ask(path, { body, signal, mayAsk = true } = {}) {
  const headers = new Headers();
  if (apiKey()) headers.set("authorization", `Bearer ${apiKey()}`);
  if (body !== undefined) headers.set("content-type", "application/json");
  const method = body === undefined ? "GET" : "POST";
  let response;
  try {
    response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ApiError("The server cannot be reached. Is it running?", 0);
  }
  if (response.ok) return response;
  if (response.status === 401 && mayAsk && (await askForKey())) return ask(path, { body, signal, mayAsk });
  throw await refusal(response);
}

/**
 * @param {Response} response
 * @returns {Promise<ApiError>}
 */
async function refusal(response) {
  const retryAfter = Number(response.headers.get("retry-after")) || null;
  const error = (await response.json().catch(() => ({}))).error ?? {};
  return new ApiError(error.message ?? `The server answered ${response.status}.`, response.status, error.code, retryAfter);
}

/**
 * @param {string} path
 * @param {{ body?: unknown, signal?: AbortSignal, mayAsk?: boolean }} [options]
 * @returns {Promise<any>}
 */
export async function json(path, options) {
  return (await ask(path, options)).json();
}

/**
 * The payloads of an event stream. Ends without an error only where the server said that all of it was told.
 *
 * @param {string} path
 * @param {{ body?: unknown, signal?: AbortSignal, mayAsk?: boolean }} [options]
 * @returns {AsyncGenerator<any>}
 */
export async function* stream(path, options) {
  const response = await ask(path, options);
  if (response.body === null) throw new ApiError("The server sent no stream.", 0);
  let isWhole = false;
  try {
    for await (const data of events(response.body)) {
      isWhole ||= data === "[DONE]";
      if (isWhole) continue; // nothing comes behind it but the end of the connection
      const payload = JSON.parse(data);
      if (payload.error) throw new ApiError(payload.error.message, response.status, payload.error.code);
      yield payload;
    }
  } catch (error) {
    if (error instanceof ApiError || options?.signal?.aborted) throw error;
    throw new ApiError("The connection to the server was lost.", 0);
  }
  if (!isWhole) throw new ApiError("The connection ended before the answer did.", 0);
}
