// The head: the name, how far, how fast, until when; a bar and the numbers by state.
import { STATES } from "./state.js";
import { clock, plural, short, span, whole } from "./format.js";
import { h, put } from "./dom.js";

export const WORDS = {
  FINISHED: "finished", FAILED: "failed", USER_KILLED: "killed", RUNNING: "running", WAITING: "waiting",
};

/** `point` shows the numbers of a moment in the place of those of now; a click on a state calls `onState`. */
export function mountHead(title, toolbar, onState) {
  const done = h("span", { class: "bj-done" });
  const pace = h("span", { class: "bj-pace" });
  const parts = STATES.map((state) => h("span", { class: `bj-share bj-is-${state}` }));
  const bar = h(
    "div", { class: "bj-progress", role: "progressbar", "aria-label": "Tasks that have ended", "aria-valuemin": 0 }, ...parts,
  );
  const numbers = Object.fromEntries(STATES.map((state) => [state, h("span", { class: "bj-tally" })]));
  const entries = STATES.map((state) =>
    h("button", { class: "bj-entry", type: "button", title: `Show these tasks below`, onclick: () => onState(state) }, h("i", { class: `bj-swatch bj-is-${state}` }), `${WORDS[state]} `, numbers[state]),
  );
  const when = h("span", { class: "bj-when" });
  const element = h(
    "header",
    { class: "bj-header" },
    h("div", { class: "bj-headline" }, h("h3", { class: "bj-name", title }, title), done, pace),
    bar,
    h("div", { class: "bj-headline" }, h("div", { class: "bj-legend" }, ...entries, when), toolbar),
  );
  let pointed = null;

  function show(counts) {
    entries.forEach((entry, at) => {
      const number = counts[STATES[at]];
      put(numbers[STATES[at]], whole(number));
      entry.classList.toggle("bj-none", number === 0);
    });
  }

  return {
    element,
    point(moment) {
      pointed = moment;
      put(when, moment ? `at ${moment.time}` : "");
      if (moment) show(moment.counts);
      else this.paint(this.last);
    },
    paint(state) {
      this.last = state;
      const { counts } = state.now;
      const { total, ended } = totals(counts);
      const room = `${whole(total).length}ch`; // as much as any will need: nothing jumps
      for (const number of Object.values(numbers)) number.style.minWidth = room;
      put(done, total ? `${whole(ended)} of ${whole(total)} · ${percent(ended, total)}` : "no tasks yet");
      put(pace, paceOf(state));
      parts.forEach((part, at) => {
        const share = total ? `${(100 * counts[STATES[at]]) / total}%` : "0%";
        if (part.style.width !== share) part.style.width = share;
      });
      bar.setAttribute("aria-valuemax", total);
      bar.setAttribute("aria-valuenow", ended);
      if (!pointed) show(counts);
    },
    /** The same in a sentence, for those who hear it. */
    words(state) {
      const { counts } = state.now;
      return STATES.filter((name) => counts[name]).map((name) => `${whole(counts[name])} ${WORDS[name]}`).join(", ");
    },
  };
}

export function totals(counts) {
  const ended = counts.FINISHED + counts.FAILED + counts.USER_KILLED;
  return { ended, total: ended + counts.RUNNING + counts.WAITING };
}

function percent(part, total) {
  return `${Math.floor((100 * part) / total)} %`; // 100 % is all of them
}

function paceOf(state) {
  const { counts, rate, left, done } = state.now;
  const { total, ended } = totals(counts);
  if (total === 0) return "";
  if (done || ended === total) return counts.FAILED ? `all ended, ${whole(counts.FAILED)} failed` : "all ended";
  const said = rate ? [rate >= 1 ? `${short(rate)}/s` : `${short(60 * rate)}/min`] : [];
  if (state.allocations.some((one) => one.state === "running")) {
    if (left != null) said.push(`about ${span(left)} left, until ${clock(state.now.time + left, left)}`);
  } else {
    const queued = state.allocations.filter((one) => one.state === "queued" || one.state === "pending_submission");
    said.push(queued.length ? `${plural(queued.length, "allocation")} queued` : "no allocation runs");
  }
  return said.join(" · ");
}
