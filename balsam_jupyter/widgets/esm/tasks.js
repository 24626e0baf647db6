// The task table: as many rows as there are, of which those in view are in the page.
import { fill, h } from "./dom.js";
import { openDetail } from "./detail.js";
import { columnsTemplate, numberColumns, taskColumns, taskDot, taskWord, widenColumns } from "./columns.js";
import { rowScroll } from "./scroll.js";
import { askFirst } from "./words.js";

const TASKS_ROW = 26; // pixels
const TASKS_PAGE = 50; // rows that are asked for together
const TASKS_AHEAD = 40; // rows that are there before they come into view
const TASKS_PAGES = 40; // pages that are kept
const TASKS_STATES = ["WAITING", "RUNNING", "FINISHED", "FAILED", "USER_KILLED"];
const TASKS_EACH_MS = 1000; // least time between two looks at what has changed

/**
 * Mount the task table, and the detail of the task that is opened, into an element.
 *   link: from link.js; the kernel has the answers of widgets/tasks.py.
 *   palette: task state → CSS colour.
 * Returns { changed(): something has changed in the store, show(states, line): filter, open(id), close() }.
 */
export function mountTasks(root, link, { palette = {} } = {}) {
  const view = { order: "id", descending: false, states: new Set(), line: "" };
  let pages = new Map();
  let known = { total: 0, looked: 0, among: 0, complete: true, version: null, stale: 0, columns: null, names: [] };
  let clock = 0; // what the kernel's clock is ahead of ours, in seconds
  let at = -1; // the row that keys move
  let [asking, dirty, again, asked] = [false, true, false, 0];
  let [seen, closed, lookTimer, frame] = [false, false, null, null];
  let columns = [];
  const pool = [];

  // -- elements -------------------------------------------------------------------------------------------------
  const input = h("input", {
    class: "bt-filter", type: "search", spellcheck: "false", autocomplete: "off", placeholder: "Filter, e.g. T>300 lost atoms",
    "aria-label": "Filter tasks", title: 'NAME=VALUE, != < <= > >= compare a parameter, or task, row, runtime, code, attempts, allocation;\nstate=FAILED; tag.NAME=VALUE; anything else is text in the parameters, the error or the directory.\nQuotes keep words together. Press / to come here.',
    oninput: () => { clearTimeout(input.timer); input.timer = setTimeout(filter, 250); },
    onkeydown: (event) => {
      if (event.key === "Enter") filter();
      else if (event.key === "Escape" && input.value) { input.value = ""; filter(); event.stopPropagation(); }
      else if (event.key === "ArrowDown" || event.key === "Escape") { grid.focus(); event.preventDefault(); event.stopPropagation(); }
    },
  });
  const chips = TASKS_STATES.map((state) => {
    const chip = h("button", { class: "bt-chip", type: "button", "aria-pressed": "false", title: `Show only ${taskWord(state)}`,
      onclick: () => { view.states[view.states.has(state) ? "delete" : "add"](state); anew(); } },
      taskDot(palette, state), taskWord(state));
    chip.state = state;
    return chip;
  });
  const count = h("span", { class: "bt-count", role: "status", "aria-live": "polite" });
  const acts = h("span", { class: "bt-acts" });
  const trouble = h("div", { class: "bt-trouble", role: "alert", hidden: true });
  const head = h("div", { class: "bt-head", role: "row" });
  const layer = h("div", { class: "bt-layer", role: "rowgroup" });
  const nothing = h("div", { class: "bt-nothing", hidden: true });
  const pane = h("div", { class: "bt-pane" }, head, layer, nothing);
  const sizer = h("div", { class: "bt-sizer" }, pane);
  const grid = h("div", { class: "bt-grid", role: "grid", tabindex: "0", "aria-label": "Tasks", onkeydown: keyed, onclick: clicked }, sizer);
  const below = h("div", { class: "bt-below" });
  const box = h("div", { class: "bt-tasks", "data-lm-suppress-shortcuts": "true" },
    h("div", { class: "bt-bar" }, input, h("span", { class: "bt-chips", role: "group", "aria-label": "States" }, ...chips), count, acts), trouble, grid, below);
  root.append(box);
  const scroll = rowScroll(grid, sizer, TASKS_ROW, () => known.total, () => { paintSoon(); lookSoon(); });

  const dot = (state) => taskDot(palette, state);

  // -- columns --------------------------------------------------------------------------------------------------
  function layOut(answer) {
    if (columns.length && answer.columns.join("\n") === known.columns?.join("\n")) return;
    columns = taskColumns(answer.columns, () => Date.now() / 1000 + clock);
    for (const slot of pool.splice(0)) slot.element.remove();
    fill(head, ...columns.map((column) => {
      column.cell = h("div", { class: `bt-cell${column.number ? " bt-number" : ""}`, role: "columnheader", title: column.title }, column.sort
        ? h("button", { type: "button", class: "bt-sort", "data-sort": column.sort, onclick: () => sortBy(column.sort) }, column.name, h("span", { class: "bt-arrow" }))
        : column.name);
      return column.cell;
    }));
    grid.setAttribute("aria-colcount", columns.length);
    showOrder();
  }
  function widen(rows) {
    for (const place of numberColumns(columns, rows))
      for (const cell of [columns[place].cell, ...pool.map((slot) => slot.cells[place])]) cell.classList.toggle("bt-number", columns[place].number);
    if (widenColumns(columns, rows) || !pane.style.getPropertyValue("--bt-columns")) pane.style.setProperty("--bt-columns", columnsTemplate(columns));
  }

  // -- what is asked --------------------------------------------------------------------------------------------
  function anew() {
    view.line = input.value.trim();
    for (const chip of chips) chip.setAttribute("aria-pressed", view.states.has(chip.state));
    pages = new Map();
    known = { ...known, version: null, total: 0, looked: 0, complete: false };
    [at, dirty] = [-1, true];
    scroll.reset();
    fill(acts);
    showOrder();
    paintSoon();
    look();
  }
  function filter() {
    clearTimeout(input.timer);
    if (input.value.trim() !== view.line) anew();
  }
  function sortBy(name) {
    if (view.order !== name) [view.order, view.descending] = [name, false];
    else if (!view.descending) view.descending = true;
    else [view.order, view.descending] = ["id", false];
    anew();
  }
  function showOrder() {
    for (const { cell, sort } of columns) {
      const on = sort && sort === view.order && (sort !== "id" || view.descending);
      if (on) cell.setAttribute("aria-sort", view.descending ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
      const arrow = cell.querySelector(".bt-arrow");
      if (arrow) arrow.textContent = on ? (view.descending ? "▾" : "▴") : "";
    }
  }

  const question = () => ({ line: view.line, states: [...view.states], order: view.order, descending: view.descending });
  const visible = () => scroll.visible();
  const rowAt = (index) => pages.get(Math.floor(index / TASKS_PAGE))?.rows[index % TASKS_PAGE];

  /** The page that is most wanted: one in view that is not there or may have changed, else the next in our way. */
  function wanted() {
    const [first, last] = visible();
    const [from, to] = [Math.floor(first / TASKS_PAGE), Math.floor(Math.max(first, last - 1) / TASKS_PAGE)];
    let old = null;
    for (let page = from; page <= to; page += 1) {
      const there = pages.get(page);
      if (!there) return page;
      if (there.old) old ??= page;
    }
    if (old !== null || !known.complete) return old;
    const next = Math.floor((scroll.heading > 0 ? last + TASKS_AHEAD : first - TASKS_AHEAD) / TASKS_PAGE);
    return scroll.heading && next >= 0 && next * TASKS_PAGE < known.total && !pages.has(next) ? next : null;
  }

  async function look() {
    if (asking) { again = true; return; }
    if (!seen || closed || document.hidden) return;
    if (dirty) {
      for (const page of pages.values()) page.old = true;
      dirty = false;
    }
    const page = wanted() ?? (known.complete ? null : Math.floor(visible()[0] / TASKS_PAGE));
    if (page === null) return;
    const sent = JSON.stringify(question());
    [asking, again, asked] = [true, false, Date.now()];
    try {
      const answer = await link.ask("tasks.page", { ...question(), start: page * TASKS_PAGE, number: TASKS_PAGE });
      if (sent === JSON.stringify(question())) take(answer, page);
      else again = true;
    } catch (error) {
      if (sent === JSON.stringify(question())) {
        say(error.message);
        known.complete = true;
        paintSoon();
        if (!again) { asking = false; return; }
      }
    }
    asking = false;
    look();
  }

  function take(answer, page) {
    say("");
    clock = answer.now - Date.now() / 1000;
    layOut(answer);
    if (answer.version !== known.version) {
      // What stood at a place may no longer do: keep it on show until its page has come anew.
      for (const kept of pages.values()) kept.old = true;
    }
    known = answer;
    pages.delete(page);
    if (answer.start === page * TASKS_PAGE) pages.set(page, { rows: answer.rows, old: false });
    while (pages.size > TASKS_PAGES) pages.delete(pages.keys().next().value);
    if (answer.rows.length < TASKS_PAGE) for (const kept of [...pages.keys()]) if (kept > page) pages.delete(kept);
    widen(answer.rows);
    paintSoon();
  }

  function say(text) {
    trouble.textContent = text;
    trouble.hidden = !text;
    input.setAttribute("aria-invalid", text !== "");
  }

  function lookSoon() {
    clearTimeout(lookTimer);
    lookTimer = setTimeout(look, asking ? 60 : 15);
  }

  // -- painting -------------------------------------------------------------------------------------------------
  function paintSoon() {
    frame ??= requestAnimationFrame(() => { frame = null; if (!closed) paint(); });
  }
  function paint() {
    const tall = scroll.height() + TASKS_ROW;
    if (sizer.tall !== tall || sizer.complete !== known.complete) {
      [sizer.tall, sizer.complete] = [tall, known.complete];
      // A table that grows and shrinks while it is searched would make the page jump.
      const rows = known.complete ? Math.max(3, Math.min(known.total, 1000)) : Math.max(10, grid.rows ?? 0);
      grid.rows = rows;
      grid.style.height = `min(${(rows + 1) * TASKS_ROW + 14}px, var(--bt-tasks-height, 22em))`;
      sizer.style.height = `${tall}px`;
      grid.setAttribute("aria-rowcount", known.total + 1);
      scroll.keepWithin();
    }
    pane.style.height = `${grid.clientHeight}px`;
    const [first, last] = visible();
    const needed = Math.max(0, last - first);
    while (pool.length < needed) pool.push(newRow(pool.length));
    const shown = new Set();
    for (let index = first; index < last; index += 1) {
      const slot = pool[index % pool.length];
      shown.add(slot);
      slot.element.hidden = false;
      slot.element.style.transform = `translateY(${index * TASKS_ROW - scroll.top}px)`;
      paintRow(slot, index, rowAt(index));
    }
    for (const slot of pool) if (!shown.has(slot)) slot.element.hidden = true;
    nothing.hidden = known.total > 0;
    nothing.textContent = wrong() ? "" : known.version === null || !known.complete ? "…" : view.line || view.states.size ? "No task matches." : "No tasks yet.";
    if (at >= 0) grid.setAttribute("aria-activedescendant", `${id}-${at}`);
    paintCount();
  }
  const id = `bt-row-${Math.random().toString(36).slice(2, 8)}`;
  function newRow() {
    const cells = columns.map((column) => h("div", { class: `bt-cell${column.number ? " bt-number" : ""}`, role: "gridcell" }));
    const element = h("div", { class: "bt-row", role: "row" }, ...cells);
    layer.append(element);
    return { element, cells };
  }
  function paintRow(slot, index, row) {
    const { element, cells } = slot;
    element.classList.toggle("bt-at", index === at);
    element.classList.toggle("bt-open", !!row && detail?.id === row.id);
    if (element.index !== index) {
      element.index = index;
      element.id = `${id}-${index}`;
      element.setAttribute("aria-rowindex", index + 2);
      element.classList.toggle("bt-odd", index % 2 === 1);
    }
    element.setAttribute("aria-selected", index === at);
    element.classList.toggle("bt-wait", row === undefined);
    columns.forEach((column, place) => {
      const cell = cells[place];
      const text = row ? column.text(row) : row === null && place === 1 ? "(deleted)" : "";
      if (cell.text === text && cell.state === row?.state) return;
      [cell.text, cell.state] = [text, row?.state];
      if (column.name === "state" && row) fill(cell, dot(row.state), text);
      else cell.textContent = text;
      cell.title = text.length > column.width - 2 ? text : "";
    });
  }
  const wrong = () => !trouble.hidden && !known.total; // nothing was looked for, so that nothing is said to be found
  function paintCount() {
    const found = known.total.toLocaleString("en");
    const filtered = view.line || view.states.size;
    const parts = [filtered ? `${found} found` : `${found} task${known.total === 1 ? "" : "s"}`];
    if (!known.complete && known.among) parts.push(known.looked < known.among ? `looked at ${Math.floor((100 * known.looked) / known.among)} %` : "sorting…");
    else if (known.looked < known.among) parts.push(`among the first ${known.looked.toLocaleString("en")} tasks`);
    if (known.stale && view.order !== "id") parts.push("order as of a moment ago");
    if (waiting) parts.push("waiting for the running cell");
    const said = wrong() ? "" : parts.join(" · ");
    if (count.textContent !== said) count.textContent = said;
    if (filtered && known.complete && known.total && !acts.childElementCount) offerActs();
  }

  // -- what can be done with all that was found -----------------------------------------------------------------
  function offerActs() {
    const these = () => `${known.total.toLocaleString("en")} task${known.total === 1 ? "" : "s"}`;
    const now = () => ({ line: view.line, states: [...view.states] });
    const may = (...some) => view.states.size === 0 || some.some((state) => view.states.has(state));
    fill(acts,
      may("FAILED", "USER_KILLED") ? askFirst("Retry…", () => `Run again those of the ${these()} found that failed or were killed?`, "Retry", () => link.ask("tasks.retry", now()), changed) : null,
      may("WAITING", "RUNNING") ? askFirst("Kill…", () => `Kill those of the ${these()} found that have not ended?`, "Kill them", () => link.ask("tasks.kill", now()), changed) : null);
  }

  // -- keys and clicks ------------------------------------------------------------------------------------------
  function keyed(event) {
    if (event.target !== grid || event.ctrlKey || event.metaKey || event.altKey) return;
    const rows = Math.max(1, Math.floor(scroll.rowsHeight() / TASKS_ROW) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: rows, PageUp: -rows, Home: -Infinity, End: Infinity };
    if (event.key in steps) {
      const from = at < 0 ? visible()[0] - (steps[event.key] > 0 ? 1 : 0) : at;
      at = Math.max(0, Math.min(known.total - 1, from + steps[event.key]));
      scroll.reveal(at);
      paintSoon();
      look();
    } else if (event.key === "Enter" && at >= 0 && rowAt(at)) open(rowAt(at).id);
    else if (event.key === "Escape" && detail) shut();
    else if (event.key === "/") { input.focus(); input.select(); }
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
  function clicked(event) {
    const element = event.target.closest(".bt-row");
    if (!element) return;
    at = element.index;
    paintSoon();
    if (rowAt(at) && !String(getSelection())) open(rowAt(at).id);
  }

  let detail = null;
  function open(taskId) {
    detail?.close();
    detail = openDetail(below, link, taskId, { palette, onclose: shut, onchange: changed });
    paintSoon();
  }
  function shut() {
    const inside = below.contains(document.activeElement);
    detail?.close();
    detail = null;
    if (inside) grid.focus();
    paintSoon();
  }

  // -- following ------------------------------------------------------------------------------------------------
  function changed() {
    dirty = true;
    detail?.changed();
    if (seen && !changed.timer) changed.timer = setTimeout(() => { changed.timer = null; look(); }, Math.max(0, asked + TASKS_EACH_MS - Date.now()));
  }
  let waiting = false;
  const offWaiting = link.onWaiting((now) => { waiting = now; paintSoon(); });
  const watcher = new IntersectionObserver((entries) => {
    seen = entries.at(-1).isIntersecting; // several changes may come together, the last one last
    detail?.look(seen);
    if (seen) { paintSoon(); look(); }
  });
  watcher.observe(box);
  document.addEventListener("visibilitychange", look);
  const sizeWatcher = new ResizeObserver(() => { paintSoon(); lookSoon(); });
  sizeWatcher.observe(grid);
  // Running tasks get older without the kernel's help.
  const ticker = setInterval(() => {
    if (!seen || document.hidden) return;
    const [first, last] = visible();
    for (let index = first; index < last; index += 1) if (rowAt(index)?.state === "RUNNING") { paintSoon(); return; }
  }, 1000);

  return {
    changed,
    show(states = [], line = "") {
      view.states = new Set(states);
      input.value = line;
      anew();
    },
    open,
    close() {
      closed = true;
      scroll.close();
      detail?.close();
      watcher.disconnect();
      document.removeEventListener("visibilitychange", look);
      sizeWatcher.disconnect();
      offWaiting();
      clearInterval(ticker);
      for (const timer of [lookTimer, input.timer, changed.timer]) clearTimeout(timer);
      box.remove();
    },
  };
}
