// What the server says of its windows, live, as long as somebody looks: one connection for all of the page, made anew
// when it breaks, and none while the page is hidden.

import { ApiError, stream } from "../api.js";

const DELAYS = [1000, 2000, 4000, 10_000];

/**
 * @typedef {{ models: any[], is_admin: boolean, block_size: number }} Windows
 * @typedef {"live" | "waiting" | "off"} Connection
 */

/** @type {Set<(windows: Windows) => void>} */
const watchers = new Set();
/** @type {Set<(connection: Connection) => void>} */
const connectionListeners = new Set();
/** @type {AbortController | null} */
let running = null;
/** @type {Windows | null} */
let last = null;

/**
 * Calls `watcher` with everything that is seen from now on, and at once with what was seen last.
 *
 * @param {(windows: Windows) => void} watcher
 * @returns {() => void} ends it
 */
export function watch(watcher) {
  watchers.add(watcher);
  if (last) watcher(last);
  follow();
  return () => {
    watchers.delete(watcher);
    follow();
  };
}

/** @param {(connection: Connection) => void} listener */
export function onConnection(listener) {
  connectionListeners.add(listener);
}

document.addEventListener("visibilitychange", follow);

function follow() {
  const isWanted = watchers.size > 0 && !document.hidden;
  if (isWanted && !running) {
    running = new AbortController();
    keepWatching(running.signal);
  } else if (!isWanted && running) {
    running.abort();
    running = null;
    last = null;
    tell("off");
  }
}

/** @param {AbortSignal} signal */
async function keepWatching(signal) {
  let failures = 0;
  while (!signal.aborted) {
    let wait = DELAYS[Math.min(failures, DELAYS.length - 1)];
    try {
      for await (const windows of stream("/v1/windows?stream=true", { signal })) {
        failures = 0;
        last = windows;
        tell("live");
        for (const watcher of watchers) watcher(windows);
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ApiError && error.retryAfter) wait = Math.max(wait, 1000 * error.retryAfter);
      if (error instanceof ApiError && error.status === 401) wait = DELAYS[DELAYS.length - 1];
    }
    failures += 1;
    tell("waiting");
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

/** @param {Connection} connection */
function tell(connection) {
  for (const listener of connectionListeners) listener(connection);
}
