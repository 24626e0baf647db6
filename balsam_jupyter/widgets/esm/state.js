// What the kernel has told, put together: the numbers of the last snapshot and the columns of the series.

export const STATES = ["FINISHED", "FAILED", "USER_KILLED", "RUNNING", "WAITING"]; // as stacked, from below
const ROWS = STATES.length + 1; // and the nodes in use
const MOST_BINS = 300;

/** Follows the link of a model; its listeners are told that something has changed. */
export function follow(link, first) {
  const rows = Array.from({ length: ROWS }, () => new Float32Array(MOST_BINS));
  const listeners = new Set();
  const state = {
    link,
    now: null, // the last snapshot
    rows,
    bins: 0,
    start: 0,
    width: 1,
    allocations: [],
    failures: null,
    heardAt: performance.now(), // by the page's own clock
    onChange(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    /** The kernel's clock now, in seconds since the epoch. */
    time() {
      return state.now.time + (performance.now() - state.heardAt) / 1000;
    },
    /** Whether nothing is left to run, so that no news are no wonder. */
    quiet() {
      return !(state.now.counts.WAITING + state.now.counts.RUNNING);
    },
    /** Ask for everything: a page that was reloaded, or missed something. */
    refresh() {
      return link.ask("all", {}, { quiet: true }).then((told) => take(told));
    },
  };

  function take(told, buffers) {
    if (!told.whole && told.seq !== state.now.seq + 1) return void state.refresh();
    if (told.whole && state.now && told.seq < state.now.seq) return; // an old answer
    const { start, width, from, bins } = told.series;
    if (told.rows) {
      told.rows.forEach((row, at) => rows[at].set(row));
    } else if (bins > from) {
      const view = buffers[0];
      const values = new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
      rows.forEach((row, at) => row.set(values.subarray(at * (bins - from), (at + 1) * (bins - from)), from));
    }
    Object.assign(state, { now: told, start, width, bins, heardAt: performance.now() });
    if (told.allocations) state.allocations = told.allocations;
    if (told.failures) state.failures = told.failures;
    for (const listener of listeners) listener();
  }

  take(first);
  link.on("snapshot", take);
  return state;
}

/** How many tasks ended in each bin, per second. */
export function throughput(state) {
  const found = new Float32Array(state.bins);
  let before = 0;
  for (let at = 0; at < state.bins; at += 1) {
    const ended = state.rows[0][at] + state.rows[1][at] + state.rows[2][at];
    found[at] = Math.max(0, ended - before) / state.width; // what is run again had ended before
    before = ended;
  }
  return found;
}

/** How many nodes allocations had in each bin, on average. */
export function available(state) {
  const found = new Float32Array(state.bins);
  for (const one of state.allocations) {
    if (one.start == null) continue;
    const first = (one.start - state.start) / state.width;
    const last = ((one.end ?? state.start + state.bins * state.width) - state.start) / state.width;
    for (let at = Math.max(0, Math.floor(first)); at < Math.min(state.bins, last); at += 1) {
      found[at] += one.nodes * (Math.min(at + 1, last) - Math.max(at, first));
    }
  }
  return found;
}
