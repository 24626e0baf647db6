// The dashboard of an ensemble or a site. It is told snapshots, and paints at most once a frame, while it can be seen.
import { GONE, connect } from "./link.js";
import { STATES, follow } from "./state.js";
import { followTheme } from "./theme.js";
import { mountCharts, readout } from "./chart.js";
import { mountHead } from "./head.js";
import { LIVING, mountAllocations } from "./allocations.js";
import { mountFailures } from "./failures.js";
import { mountActions } from "./actions.js";
import { mountTasks } from "./tasks.js";
import { clock, span } from "./format.js";
import { h, put } from "./dom.js";

const BEAT_MS = 15_000; // so often a page says that it is still there
const SILENCE_MS = 15_000;

export default () => {
  let state = null;
  return {
    initialize({ model }) {
      state = follow(connect(model), model.get("start"));
    },
    render({ model, el }) {
      return mountDashboard(el, model, state);
    },
  };
};

function mountDashboard(el, model, state) {
  const { link } = state;
  const { title, palette } = model.get("start");
  const root = h("section", {
    class: "bj-dash bj-live", "aria-label": `Dashboard: ${title}`, "data-lm-suppress-shortcuts": "true",
  });
  const ends = [];
  let counted = ""; // what the table has been told of
  let at = null; // where somebody points in the charts

  const actions = mountActions(state, title, () => explore());
  const head = mountHead(title, actions.toolbar, (name) => table.show([name], ""));
  const charts = mountCharts(root, state, (bin) => {
    at = bin;
    head.point(bin == null ? null : readout(state, bin));
  });
  const allocations = mountAllocations(state, actions);
  const failures = mountFailures(state, (task) => table.open(task));
  const old = h("div", { class: "bj-message bj-old", role: "status" });
  const explored = h("div", { class: "bj-explored" });
  const place = h("div", { class: "bj-place" });
  root.append(
    head.element, actions.panel, old, charts.element, explored, allocations.element, failures.element, place,
  );
  el.append(root);
  const table = mountTasks(place, link, {
    palette: Object.fromEntries(STATES.map((name) => [name, `var(--bj-${name})`])),
  });
  ends.push(() => table.close());
  ends.push(followTheme(root, (dark) => {
    root.classList.toggle("bj-dark", dark);
    for (const [name, colour] of Object.entries(dark ? palette.dark : palette.light)) {
      root.style.setProperty(`--bj-${name}`, colour);
    }
    charts.draw();
  }));

  // -- painting: once a frame, and not at all where nobody can see it
  let visible = true;
  let due = false;
  function paint() {
    due = false;
    if (!visible) return;
    head.paint(state);
    actions.paint(state);
    allocations.paint();
    failures.paint();
    charts.draw();
    const counts = JSON.stringify(state.now.counts);
    if (counts !== counted) table.changed();
    counted = counts;
    if (at == null) charts.states.setAttribute("aria-label", `Tasks by state over time. Now: ${head.words(state)}`);
    age();
  }
  function soon() {
    if (!due && visible) {
      due = true;
      requestAnimationFrame(paint);
    }
  }
  ends.push(state.onChange(soon));
  const resized = new ResizeObserver(soon);
  resized.observe(root);
  ends.push(() => resized.disconnect());

  // -- how old the news are
  function age() {
    const silent = performance.now() - state.heardAt;
    const since = clock(Date.now() / 1000 - silent / 1000, 60);
    let said = "";
    if (link.gone()) {
      said = GONE;
    } else if (state.now.gone) {
      said = `No ensemble is called ${title} any more: it was renamed or deleted.`;
    } else if (state.now.error) {
      said = `The site has not answered for ${span(state.now.age)}: ${state.now.error}. It is asked again.`;
    } else if (!state.quiet() && silent > SILENCE_MS) {
      said = `No news since ${since}. If the kernel was restarted, run this cell again.`;
    }
    put(old, said);
    root.classList.toggle("bj-silent", said !== "");
  }
  const clockwork = setInterval(() => {
    if (!visible) return;
    age();
    allocations.paint();
  }, 1000);
  ends.push(() => clearInterval(clockwork));

  // -- whether anyone looks
  const page = crypto.randomUUID?.() ?? String(Math.random());
  let inView = true;
  let asked = false;
  let told = null;
  function look(looking) {
    if (asked && looking) return; // the last one is not answered yet: a cell runs
    asked = told = looking;
    link.ask("look", { page, looking }, { quiet: true }).then(() => (asked = false), () => (asked = false));
  }
  function seen() {
    visible = inView && !document.hidden;
    if (visible !== told) look(visible);
    if (visible) soon();
  }
  const observer = new IntersectionObserver((entries) => {
    inView = entries.at(-1).isIntersecting;
    seen();
  });
  observer.observe(root);
  document.addEventListener("visibilitychange", seen);
  // Also after the last task: an allocation that goes on costs something until it ends.
  const goesOn = () => !state.quiet() || state.allocations.some((one) => LIVING.includes(one.state));
  const beat = setInterval(() => visible && goesOn() && look(true), BEAT_MS);
  const leave = () => link.ask("look", { page, looking: false }, { quiet: true }).catch(() => {});
  window.addEventListener("pagehide", leave);
  ends.push(() => {
    observer.disconnect();
    document.removeEventListener("visibilitychange", seen);
    window.removeEventListener("pagehide", leave);
    clearInterval(beat);
    leave();
  });

  /** Show or hide a plotly figure of the same, to zoom and to export. */
  let figureView = null;
  async function explore() {
    if (figureView) {
      figureView.remove();
      figureView = null;
      return actions.expanded(false);
    }
    // Its width is set: within another widget plotly is never told that it has one.
    const figure = await model.widget_manager.get_model(await link.ask("explore", { width: root.clientWidth }));
    figureView = await model.widget_manager.create_view(figure);
    explored.replaceChildren(figureView.el);
    figureView.trigger("displayed");
    actions.expanded(true);
  }
  ends.push(() => figureView?.remove());
  let fits = null;
  const refit = new ResizeObserver(() => {
    clearTimeout(fits);
    fits = setTimeout(() => {
      if (explored.firstChild) link.ask("explore", { width: root.clientWidth }, { quiet: true }).catch(() => {});
    }, 500);
  });
  refit.observe(root);
  ends.push(() => refit.disconnect());

  state.refresh().catch(() => {});
  paint();
  ends.push(hideCopy(el));
  return () => ends.forEach((end) => end());
}

/** Where no style sheet hides the static copy above (that is JupyterLab's way), hide it while this is alive. */
function hideCopy(el) {
  for (let up = el; up && !up.closest(".jp-OutputArea"); up = up.parentElement) {
    const before = up.previousElementSibling;
    if (before?.querySelector?.(".bj-still")) {
      before.hidden = true;
      return () => (before.hidden = false);
    }
  }
  return () => {};
}
