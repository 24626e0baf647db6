// The task table: as many rows as there are, of which those in view are in the page.
import { fill, h } from "./dom.js";
import { openDetail } from "./detail.js";
import { askFirst, taskMoment, taskSpan } from "./words.js";

const TASKS_ROW = 26; // pixels
const TASKS_PAGE = 50; // rows that are asked for together
const TASKS_AHEAD = 40; // rows that are there before they come into view
const TASKS_PAGES = 40; // pages that are kept
// Browsers cannot make an element as high as a million rows (Firefox stops at 17.8 million pixels): beyond this the
// scroll bar stands for a share of the table, while wheels and keys still move by pixels.
const TASKS_HIGHEST = 8_000_000;
const TASKS_STATES = ["WAITING", "RUNNING", "FINISHED", "FAILED", "USER_KILLED"];
const TASKS_WORD = { USER_KILLED: "KILLED" };
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
  let [top, lastScroll, heading, at] = [0, 0, 0, -1];
  let [asking, dirty, again, asked] = [false, true, false, 0];
  let [seen, closed, lookTimer, idleTimer, frame] = [false, false, null, null, null];
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
    const chip = h("button", { class: "bt-chip", type: "button", "aria-pressed": "false", title: `Show only ${TASKS_WORD[state] ?? state}`,
      onclick: () => { view.states[view.states.has(state) ? "delete" : "add"](state); anew(); } },
      dot(state), TASKS_WORD[state] ?? state);
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
  const grid = h("div", { class: "bt-grid", role: "grid", tabindex: "0", "aria-label": "Tasks", onscroll: scrolled, onkeydown: keyed, onclick: clicked }, sizer);
  const below = h("div", { class: "bt-below" });
  const box = h("div", { class: "bt-tasks", "data-lm-suppress-shortcuts": "true" },
    h("div", { class: "bt-bar" }, input, h("span", { class: "bt-chips", role: "group", "aria-label": "States" }, ...chips), count, acts), trouble, grid, below);
  root.append(box);

  function dot(state) {
    const mark = h("i", { class: "bt-dot" });
    mark.style.background = palette[state] ?? "gray";
    return mark;
  }

  // -- columns --------------------------------------------------------------------------------------------------
  function layOut(answer) {
    const one = known.columns !== null && answer.columns.join("\n") === known.columns.join("\n");
    if (one && columns.length) return;
    const passed = answer.columns.length
      ? answer.columns.map((name, place) => ({ name, sort: name, text: (row) => row.passed[place] }))
      : [{ name: "app", text: (row) => row.app }, { name: "ensemble", text: (row) => row.ensemble }, { name: "parameters", text: (row) => row.passed, most: 48 }];
    columns = [
      { name: "#", sort: "id", number: true, text: (row) => String(row.row ?? row.id), title: "Row of the sweep" },
      { name: "state", sort: "state", text: (row) => TASKS_WORD[row.state] ?? row.state, least: 14 },
      ...passed,
      { name: "runtime", sort: "runtime", number: true, text: (row) => runtime(row), least: 9 },
      { name: "started", sort: "started", text: (row) => taskMoment(row.started), least: 9 },
      { name: "result", text: (row) => row.value, most: 40 },
      { name: "error", text: (row) => [row.code ? `code ${row.code}` : "", row.error].filter(Boolean).join(" · "), least: 24, most: 60, grows: true },
    ];
    if (!answer.columns.length) Object.assign(columns[0], { text: (row) => String(row.id), title: "Task" });
    for (const column of columns) column.width = Math.max(column.least ?? 0, column.name.length + (column.sort ? 4 : 3));
    for (const row of pool.splice(0)) row.element.remove();
    fill(head, ...columns.map((column) => {
      const cell = h("div", { class: "bt-cell", role: "columnheader", title: column.title }, column.sort
        ? h("button", { type: "button", class: "bt-sort", onclick: () => sortBy(column.sort) }, column.name, h("span", { class: "bt-arrow" }))
        : column.name);
      column.cell = cell;
      if (column.number) cell.classList.add("bt-number");
      return cell;
    }));
    grid.setAttribute("aria-colcount", columns.length);
    showOrder();
  }

  function widen(rows) {
    let wider = false;
    for (const [place, column] of columns.entries()) {
      // Numbers stand below each other, digit by digit.
      if (column.number === undefined && rows.some((row) => row && column.text(row)))
        setNumber(place, rows.every((row) => !row || column.text(row) === "" || !Number.isNaN(Number(column.text(row)))));
      const longest = Math.min(column.most ?? 26, Math.max(0, ...rows.map((row) => (row ? column.text(row).length + 2 : 0))));
      if (longest > column.width) [column.width, wider] = [longest, true];
    }
    if (wider || !pane.style.getPropertyValue("--bt-columns"))
      pane.style.setProperty("--bt-columns", columns.map(({ width, grows }) => (grows ? `minmax(${width}ch, 1fr)` : `${width}ch`)).join(" "));
  }

  function setNumber(place, yes) {
    columns[place].number = yes;
    for (const cell of [columns[place].cell, ...pool.map((slot) => slot.cells[place])]) cell.classList.toggle("bt-number", yes);
  }

  function runtime(row) {
    if (row.state === "RUNNING" && row.started) return taskSpan(Date.now() / 1000 + clock - row.started);
    return row.runtime === null ? "" : taskSpan(row.runtime);
  }

  // -- what is asked --------------------------------------------------------------------------------------------
  function anew() {
    view.line = input.value.trim();
    for (const chip of chips) chip.setAttribute("aria-pressed", view.states.has(chip.state));
    pages = new Map();
    known = { ...known, version: null, total: 0, looked: 0, complete: false };
    [top, at, dirty, lastScroll, heading] = [0, -1, true, 0, 0];
    grid.scrollTop = 0;
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
  const visible = () => {
    const first = Math.min(Math.max(0, Math.floor(top / TASKS_ROW)), Math.max(0, known.total - 1));
    return [first, Math.min(known.total, first + Math.ceil(rowsHeight() / TASKS_ROW) + 1)];
  };
  const rowsHeight = () => Math.max(0, grid.clientHeight - TASKS_ROW);
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
    const next = Math.floor((heading > 0 ? last + TASKS_AHEAD : first - TASKS_AHEAD) / TASKS_PAGE);
    return heading && next >= 0 && next * TASKS_PAGE < known.total && !pages.has(next) ? next : null;
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

  // -- scrolling ------------------------------------------------------------------------------------------------
  const height = () => known.total * TASKS_ROW;
  const furthest = () => Math.max(0, height() - rowsHeight());
  const scrollable = () => Math.max(1, sizer.offsetHeight - grid.clientHeight);
  const scaled = () => height() > TASKS_HIGHEST;

  function scrolled() {
    const scroll = grid.scrollTop;
    const moved = scroll - lastScroll;
    if (scroll === lastScroll) return;
    lastScroll = scroll;
    heading = Math.abs(moved) < grid.clientHeight ? Math.sign(moved) : 0;
    if (!scaled()) top = scroll;
    else if (scroll <= 0) top = 0;
    else if (scroll >= scrollable() - 1) top = furthest();
    else if (Math.abs(moved) < grid.clientHeight) top = Math.min(furthest(), Math.max(0, top + moved));
    else top = Math.round((scroll / scrollable()) * furthest());
    if (scaled()) {
      clearTimeout(idleTimer);
      idleTimer = setTimeout(align, 300);
    }
    paintSoon();
    lookSoon();
  }
  /** Bring the scroll bar to where the rows in view are. */
  function align() {
    const share = scaled() ? (top / Math.max(1, furthest())) * scrollable() : top;
    if (Math.abs(grid.scrollTop - share) >= 1) grid.scrollTop = share;
    lastScroll = grid.scrollTop;
  }
  function lookSoon() {
    clearTimeout(lookTimer);
    lookTimer = setTimeout(look, asking ? 60 : 15);
  }
  function reveal(index) {
    const y = index * TASKS_ROW;
    if (y < top) top = y;
    else if (y + TASKS_ROW > top + rowsHeight()) top = Math.min(furthest(), y + TASKS_ROW - rowsHeight());
    align();
    paintSoon();
    look();
  }

  // -- painting -------------------------------------------------------------------------------------------------
  function paintSoon() {
    frame ??= requestAnimationFrame(() => { frame = null; if (!closed) paint(); });
  }
  function paint() {
    const tall = Math.min(height(), TASKS_HIGHEST) + TASKS_ROW;
    if (sizer.tall !== tall || sizer.complete !== known.complete) {
      [sizer.tall, sizer.complete] = [tall, known.complete];
      // A table that grows and shrinks while it is searched would make the page jump.
      const rows = known.complete ? Math.max(3, Math.min(known.total, 1000)) : Math.max(10, grid.rows ?? 0);
      grid.rows = rows;
      grid.style.height = `min(${(rows + 1) * TASKS_ROW + 14}px, var(--bt-tasks-height, 22em))`;
      sizer.style.height = `${tall}px`;
      grid.setAttribute("aria-rowcount", known.total + 1);
      top = Math.min(top, furthest());
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
      slot.element.style.transform = `translateY(${index * TASKS_ROW - top}px)`;
      paintRow(slot, index, rowAt(index));
    }
    for (const slot of pool) if (!shown.has(slot)) slot.element.hidden = true;
    nothing.hidden = known.total > 0;
    nothing.textContent = known.version === null || !known.complete ? "…" : view.line || view.states.size ? "No task matches." : "No tasks yet.";
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
  function paintCount() {
    const found = known.total.toLocaleString("en");
    const filtered = view.line || view.states.size;
    const parts = [filtered ? `${found} found` : `${found} task${known.total === 1 ? "" : "s"}`];
    if (!known.complete && known.among) parts.push(known.looked < known.among ? `looked at ${Math.floor((100 * known.looked) / known.among)} %` : "sorting…");
    else if (known.looked < known.among) parts.push(`among the first ${known.looked.toLocaleString("en")} tasks`);
    if (known.stale && view.order !== "id") parts.push("order as of a moment ago");
    if (waiting) parts.push("waiting for the running cell");
    const said = parts.join(" · ");
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
      may("WAITING", "RUNNING") ? askFirst("End…", () => `End those of the ${these()} found that have not ended?`, "End them", () => link.ask("tasks.kill", now()), changed) : null);
  }

  // -- keys and clicks ------------------------------------------------------------------------------------------
  function keyed(event) {
    if (event.target !== grid || event.ctrlKey || event.metaKey || event.altKey) return;
    const rows = Math.max(1, Math.floor(rowsHeight() / TASKS_ROW) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: rows, PageUp: -rows, Home: -Infinity, End: Infinity };
    if (event.key in steps) {
      const from = at < 0 ? visible()[0] - (steps[event.key] > 0 ? 1 : 0) : at;
      at = Math.max(0, Math.min(known.total - 1, from + steps[event.key]));
      reveal(at);
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
  const watcher = new IntersectionObserver(([entry]) => {
    seen = entry.isIntersecting;
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
      detail?.close();
      watcher.disconnect();
      document.removeEventListener("visibilitychange", look);
      sizeWatcher.disconnect();
      offWaiting();
      clearInterval(ticker);
      for (const timer of [lookTimer, idleTimer, input.timer, changed.timer]) clearTimeout(timer);
      box.remove();
    },
  };
}
