/** What a client has around it: timers, and what the browser tells of the network. */

// A timer for longer is due at once.
const LONGEST_MS = 2 ** 31 - 1;

/** Timers with names: setting one again puts the earlier one off. */
export class Timers {
  #timers = new Map(); // name -> { timer, dueAt }

  set(name, afterMs, act) {
    this.clear(name);
    const fire = () => {
      this.#timers.delete(name);
      act();
    };
    const timer = setTimeout(fire, Math.min(afterMs, LONGEST_MS));
    this.#timers.set(name, { timer, dueAt: Date.now() + afterMs });
  }

  /** Say in how many milliseconds a timer is due; null if it is not set. */
  leftMs(name) {
    const set = this.#timers.get(name);
    return set ? Math.max(0, set.dueAt - Date.now()) : null;
  }

  clear(...names) {
    for (const name of names) {
      clearTimeout(this.#timers.get(name)?.timer);
      this.#timers.delete(name);
    }
  }

  clearAll() {
    this.clear(...this.#timers.keys());
  }
}

/** Whether the browser knows that there is no network. */
export function isOffline() {
  return globalThis.navigator?.onLine === false;
}

/** Call `wake` when things may have become better, `doubt` when they may be worse. */
export function listen({ wake, doubt, signal }) {
  const { document } = globalThis; // workers and Node.js have none
  globalThis.addEventListener?.("online", wake, { signal });
  globalThis.addEventListener?.("offline", doubt, { signal });
  const look = () => document.visibilityState === "visible" && wake();
  document?.addEventListener("visibilitychange", look, { signal });
}
