// The charts: canvases that are drawn anew, at most once a frame, from the columns of the series.
import { STATES, available, throughput } from "./state.js";
import { clock, short, tickLabel, timeTicks, valueTicks, whole } from "./format.js";
import { h } from "./dom.js";

const RIGHT = 10;

/** The colours of a theme, as the style sheet has them. */
function inks(root) {
  const style = getComputedStyle(root);
  const of = (name) => style.getPropertyValue(`--bj-${name}`).trim();
  return {
    states: STATES.map(of),
    page: of("page"),
    text: of("soft"),
    line: of("line"),
    strong: of("text"),
    font: `11px ${style.fontFamily}`,
  };
}

function brush(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const g = canvas.getContext("2d");
  g.setTransform(ratio, 0, 0, ratio, 0, 0);
  g.clearRect(0, 0, width, height);
  return { g, width, height };
}

/** Room for the numbers of the axis: that of the largest, so that the charts stand in line. */
function gutter(state) {
  const { counts } = state.now;
  return 18 + 6.6 * Math.max(4, whole(STATES.reduce((sum, name) => sum + counts[name], 0)).length);
}

/** Where things are: the time goes from left to right, over all bins. */
function layout(state, width, height, top, bottom) {
  const left = gutter(state);
  return {
    x: (at) => left + ((width - left - RIGHT) * at) / Math.max(1, state.bins),
    y: (share) => height - bottom - (height - top - bottom) * share,
    left,
    right: width - RIGHT,
    top,
    base: height - bottom,
  };
}

function axes(g, place, ink, ticks, most, write) {
  g.font = ink.font;
  g.textBaseline = "middle";
  g.textAlign = "right";
  g.lineWidth = 1;
  for (const value of ticks) {
    const y = Math.round(place.y(value / most)) + 0.5;
    g.strokeStyle = ink.line;
    g.beginPath();
    g.moveTo(place.left, y);
    g.lineTo(place.right, y);
    g.stroke();
    g.fillStyle = ink.text;
    g.fillText(write(value), place.left - 8, Math.max(y, 6));
  }
}

function times(g, place, state, ink) {
  const end = state.start + state.bins * state.width;
  const { ticks, step } = timeTicks(state.start, end, (place.right - place.left) / 90);
  g.font = ink.font;
  g.fillStyle = ink.text;
  g.strokeStyle = ink.line;
  g.textAlign = "center";
  g.textBaseline = "top";
  for (const time of ticks) {
    const x = place.x((time - state.start) / state.width);
    if (x < place.left + 12 || x > place.right - 12) continue;
    g.beginPath();
    g.moveTo(Math.round(x) + 0.5, place.base);
    g.lineTo(Math.round(x) + 0.5, place.base + 4);
    g.stroke();
    g.fillText(tickLabel(time, step), x, place.base + 12);
  }
}

/** The outline of steps, there along the tops and back along the bases. */
function steps(g, place, tops, bases, bins, most) {
  g.beginPath();
  g.moveTo(place.x(0), place.y(bases[0] / most));
  for (let at = 0; at < bins; at += 1) {
    const y = place.y(tops[at] / most);
    g.lineTo(place.x(at), y);
    g.lineTo(place.x(at + 1), y);
  }
  for (let at = bins - 1; at >= 0; at -= 1) {
    const y = place.y(bases[at] / most);
    g.lineTo(place.x(at + 1), y);
    g.lineTo(place.x(at), y);
  }
  g.closePath();
}

function cursor(g, place, ink, at) {
  if (at == null) return;
  const x = Math.round(place.x(at + 0.5)) + 0.5;
  g.strokeStyle = ink.strong;
  g.beginPath();
  g.moveTo(x, place.top);
  g.lineTo(x, place.base);
  g.stroke();
}

function drawStates(root, canvas, state, at) {
  const { g, width, height } = brush(canvas);
  const ink = inks(root);
  const place = layout(state, width, height, 8, 28);
  const { rows, bins } = state;
  const bases = new Float32Array(bins);
  const tops = new Float32Array(bins);
  let most = 1;
  for (let bin = 0; bin < bins; bin += 1) {
    let sum = 0;
    for (let row = 0; row < STATES.length; row += 1) sum += rows[row][bin];
    most = Math.max(most, sum);
  }
  axes(g, place, ink, valueTicks(most).filter(Number.isInteger), most, whole);
  STATES.forEach((_, row) => {
    let some = false;
    for (let bin = 0; bin < bins; bin += 1) {
      tops[bin] = bases[bin] + rows[row][bin];
      some ||= rows[row][bin] > 0;
    }
    if (some) {
      steps(g, place, tops, bases, bins, most);
      g.fillStyle = ink.states[row];
      g.fill();
    }
    bases.set(tops);
  });
  bands(g, place, state, ink);
  times(g, place, state, ink);
  cursor(g, place, ink, at);
}

/** A thin line below the areas for the time of each allocation. */
function bands(g, place, state, ink) {
  const end = state.start + state.bins * state.width;
  g.fillStyle = ink.text;
  for (const one of state.allocations) {
    if (one.start == null) continue;
    const from = Math.max(place.left, place.x((one.start - state.start) / state.width));
    const to = Math.min(place.right, place.x(((one.end ?? end) - state.start) / state.width));
    if (to > from) g.fillRect(from, place.base + 4, Math.max(1, to - from - 1), 3);
  }
}

function drawLine(root, canvas, state, at, draw) {
  const { g, width, height } = brush(canvas);
  const ink = inks(root);
  const place = layout(state, width, height, 8, 22);
  draw(g, place, ink);
  times(g, { ...place, base: place.base - 6 }, state, ink);
  cursor(g, place, ink, at);
}

function drawThroughput(root, canvas, state, at) {
  drawLine(root, canvas, state, at, (g, place, ink) => {
    const rates = throughput(state);
    const most = Math.max(...rates, 1e-9);
    axes(g, place, ink, valueTicks(most, 2), most, (value) => `${short(value)}/s`);
    steps(g, place, rates, new Float32Array(state.bins), state.bins, most);
    g.fillStyle = ink.states[0];
    g.fill();
  });
}

function drawNodes(root, canvas, state, at) {
  drawLine(root, canvas, state, at, (g, place, ink) => {
    const there = available(state);
    const busy = state.rows[STATES.length];
    const most = Math.max(1, ...there, ...busy.subarray(0, state.bins));
    axes(g, place, ink, valueTicks(most, 2).filter(Number.isInteger), most, whole);
    const zero = new Float32Array(state.bins);
    steps(g, place, there, zero, state.bins, most);
    g.fillStyle = ink.states[4];
    g.fill();
    steps(g, place, busy, zero, state.bins, most);
    g.fillStyle = ink.states[3];
    g.fill();
  });
}

/** What the charts show at a bin, in words. */
export function readout(state, at) {
  const time = state.start + (at + 0.5) * state.width;
  const counts = Object.fromEntries(STATES.map((name, row) => [name, state.rows[row][at]]));
  return { time: clock(time, state.width * 60), counts };
}

/** All charts of a dashboard. `onPoint(bin or null)` is told where somebody points. */
export function mountCharts(root, state, onPoint) {
  const canvas = (what) => h("canvas", { class: `bj-canvas bj-canvas-${what}`, tabindex: what === "states" ? 0 : null });
  const states = canvas("states");
  const rate = canvas("throughput");
  const nodes = canvas("nodes");
  const more = h(
    "details",
    { class: "bj-more", ontoggle: () => draw() },
    h("summary", { class: "bj-summary" }, "Throughput and nodes"),
    h("div", { class: "bj-caption" }, "tasks ended per second"),
    rate,
    h("div", { class: "bj-caption" }, "nodes in use, of those that allocations have"),
    nodes,
  );
  states.setAttribute("role", "img");
  rate.setAttribute("role", "img");
  rate.setAttribute("aria-label", "Tasks ended per second over time");
  nodes.setAttribute("role", "img");
  nodes.setAttribute("aria-label", "Nodes in use and nodes of allocations over time");
  let at = null;

  function draw() {
    if (states.clientWidth === 0) return;
    if (at != null && at >= state.bins) at = null;
    drawStates(root, states, state, at);
    if (more.open) {
      drawThroughput(root, rate, state, at);
      drawNodes(root, nodes, state, at);
    }
  }

  function point(bin) {
    const next = bin == null || state.bins === 0 ? null : Math.max(0, Math.min(state.bins - 1, bin));
    if (next === at) return;
    at = next;
    draw();
    onPoint(at);
  }

  for (const one of [states, rate, nodes]) {
    one.addEventListener("pointermove", (event) => {
      const left = gutter(state);
      const share = (event.offsetX - left) / (one.clientWidth - left - RIGHT);
      point(share < 0 || share > 1 ? null : Math.floor(share * state.bins));
    });
    one.addEventListener("pointerleave", () => point(null));
  }
  states.addEventListener("blur", () => point(null));
  states.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -state.bins, End: state.bins }[event.key];
    if (event.key === "Escape") point(null);
    else if (by) point((at ?? state.bins) + by);
    else return;
    event.preventDefault();
    event.stopPropagation(); // the arrows are the notebook's, too
  });

  return { element: h("div", { class: "bj-charts" }, states, more), states, draw };
}
