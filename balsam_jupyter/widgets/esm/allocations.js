// The allocations: those that live, and the last that ended; with the time they have left and their price.
import { plural, short, span, whole } from "./format.js";
import { fill, h, put } from "./dom.js";

const SHOWN_ENDED = 3;
export const LIVING = ["pending_submission", "queued", "running", "pending_deletion"];
const ALLOCATION_WORDS = {
  pending_submission: "queued", pending_deletion: "ending", submit_failed: "not submitted",
};

export function nodeHours(hours) {
  return hours > 0 && hours < 0.001 ? "< 0.001" : short(hours);
}

export function mountAllocations(state, actions) {
  const body = h("tbody");
  const more = h("div", { class: "bj-hint" });
  const element = h(
    "section",
    { class: "bj-section bj-allocations", "aria-label": "Allocations" },
    h("h4", { class: "bj-heading" }, "Allocations"),
    h("table", { class: "bj-table" }, body),
    more,
  );
  let shown = null;
  let clocks = [];

  function build() {
    const living = state.allocations.filter((one) => LIVING.includes(one.state));
    const over = state.allocations.filter((one) => !LIVING.includes(one.state));
    const last = over.slice(-SHOWN_ENDED);
    clocks = [];
    fill(body, ...[...living, ...last.reverse()].map(row));
    const hidden = over.length - last.length;
    const none = state.allocations.length === 0;
    put(more, none ? "None yet: %balsam_allocate -n 1 -t 10 asks for one." : hidden ? `and ${whole(hidden)} that ended before` : "");
  }

  function row(one) {
    const living = LIVING.includes(one.state);
    const left = h("td", { class: "bj-left" });
    const price = h("td", { class: "bj-price" });
    const stop = h(
      "button",
      {
        class: "bj-btn bj-quiet", type: "button", disabled: one.state === "pending_deletion",
        "aria-label": `Revoke allocation ${one.id}`,
        onclick: () =>
          actions.confirm(
            one.state === "running"
              ? `End allocation ${one.id} now? Its running tasks are stopped, and run again in another allocation.`
              : `Take allocation ${one.id} out of the queue?`,
            [["Revoke", "revoke", { id: one.id }]],
          ),
      },
      "Revoke…",
    );
    clocks.push(() => {
      put(left, timeOf(one));
      put(price, priceOf(one));
    });
    return h(
      "tr",
      { class: `bj-allocation bj-allocation-${one.state}` },
      h("td", {}, h("i", { class: "bj-mark" }), ` ${one.id}`),
      h("td", {}, ALLOCATION_WORDS[one.state] ?? one.state),
      h("td", {}, `${plural(one.nodes, "node")}, ${one.mode}`),
      left,
      price,
      h("td", { class: "bj-act" }, living ? stop : null),
    );
  }

  function timeOf(one) {
    if (one.start == null) return LIVING.includes(one.state) ? `for ${span(60 * one.minutes)}` : one.why;
    if (one.end != null) return `ran ${span(one.end - one.start)}${one.why ? ` (${one.why})` : ""}`;
    return `${span(one.start + 60 * one.minutes - state.time())} left`;
  }

  function priceOf(one) {
    const asked = (one.nodes * one.minutes) / 60;
    if (one.start == null) return LIVING.includes(one.state) ? `${nodeHours(asked)} node-hours at most` : "";
    const used = (one.nodes * Math.max(0, (one.end ?? state.time()) - one.start)) / 3600;
    return one.end != null ? `${nodeHours(used)} node-hours` : `${nodeHours(used)} of ${nodeHours(asked)} node-hours`;
  }

  return {
    element,
    paint() {
      if (shown !== state.allocations) {
        shown = state.allocations;
        build();
      }
      clocks.forEach((tick) => tick());
    },
  };
}
