// The failed tasks in groups of errors that differ in numbers, paths and times only.
import { plural, whole } from "./format.js";
import { fill, h, put } from "./dom.js";

export function mountFailures(state, openTask) {
  const list = h("div", { class: "bj-groups" });
  const title = h("h4", { class: "bj-heading" });
  const more = h("div", { class: "bj-hint" });
  const element = h("section", { class: "bj-section bj-failures", "aria-label": "Failures", hidden: true }, title, list, more);
  const open = new Set();
  let shown = null;

  function build() {
    const { total, of, groups } = state.failures;
    const few = of < total ? ` (of the first ${whole(of)})` : "";
    const number = groups.length + state.failures.more;
    put(title, `Failures: ${plural(total, "task")} in ${plural(number, "group")}${few}`);
    fill(list, ...groups.map(group));
    put(more, state.failures.more ? `and ${plural(state.failures.more, "smaller group")}: failures() has them all` : "");
  }

  function group(one) {
    const element = h(
      "details",
      { class: "bj-group", open: open.has(one.shape) },
      h("summary", { class: "bj-summary" }, h("code", { class: "bj-shape" }, one.shape), h("span", { class: "bj-of" }, one.title)),
      h("pre", { class: "bj-excerpt" }, one.log),
      h(
        "div",
        { class: "bj-hint" },
        h("button", { class: "bj-btn", type: "button", onclick: () => openTask(one.example) }, `Open task ${one.example}`),
        "or run it by hand, in a terminal: ", h("code", {}, one.hand),
      ),
    );
    element.addEventListener("toggle", () => (element.open ? open.add(one.shape) : open.delete(one.shape)));
    return element;
  }

  return {
    element,
    paint() {
      element.hidden = !state.now.counts.FAILED || !state.failures?.groups.length;
      if (shown === state.failures || element.hidden) return;
      shown = state.failures;
      build();
    },
  };
}
