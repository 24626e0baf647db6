// The columns of the task table: what they show of a row, and how wide they are.
import { h } from "./dom.js";
import { taskMoment, taskSpan } from "./words.js";

export const taskWord = (state) => (state === "USER_KILLED" ? "KILLED" : state);

export function taskDot(palette, state) {
  const mark = h("i", { class: "bt-dot" });
  mark.style.background = palette[state] ?? "gray";
  return mark;
}

/** Of the tasks of an ensemble each parameter has a column; of a site's (no names), there is one for all. */
export function taskColumns(names, now) {
  const passed = names.length
    ? names.map((name, place) => ({ name, sort: name, text: (row) => row.passed[place] }))
    : [
        { name: "app", number: false, text: (row) => row.app },
        { name: "ensemble", number: false, text: (row) => row.ensemble },
        { name: "parameters", number: false, text: (row) => row.passed, most: 48 },
      ];
  const which = names.length
    ? { text: (row) => String(row.row ?? row.id), title: "Row of the sweep" }
    : { text: (row) => String(row.id), title: "Task" };
  const columns = [
    { name: "#", sort: "id", number: true, least: 6, ...which },
    { name: "state", sort: "state", number: false, text: (row) => taskWord(row.state), least: 14 },
    ...passed,
    { name: "runtime", sort: "runtime", number: true, text: (row) => taskRuntime(row, now), least: 10 },
    { name: "started", sort: "started", number: false, text: (row) => taskMoment(row.started), least: 10 },
    { name: "result", number: false, text: (row) => row.value, most: 40 },
    { name: "error", number: false, text: taskError, least: 24, most: 60, grows: true },
  ];
  for (const column of columns) column.width = Math.max(column.least ?? 0, column.name.length + (column.sort ? 4 : 3));
  return columns;
}

function taskRuntime(row, now) {
  if (row.state === "RUNNING" && row.started) return taskSpan(Math.max(0, Math.floor(now() - row.started)), true);
  return taskSpan(row.runtime);
}

function taskError(row) {
  const code = row.state === "FAILED" && row.code ? (row.code < 0 ? `signal ${-row.code}` : `code ${row.code}`) : "";
  return [code, row.error].filter(Boolean).join(" · ");
}

/** Decide which columns hold numbers, which then stand below each other; returns those just decided. */
export function numberColumns(columns, rows) {
  const texts = (column) => rows.map((row) => (row ? column.text(row) : "")).filter((text) => text !== "");
  return columns.flatMap((column, place) => {
    const found = column.number === undefined ? texts(column) : [];
    if (!found.length) return [];
    column.number = found.every((text) => !Number.isNaN(Number(text)));
    return [place];
  });
}

/** Widen columns to what rows have, within limits; whether any has become wider. */
export function widenColumns(columns, rows) {
  let wider = false;
  for (const column of columns) {
    const longest = Math.min(column.most ?? 26, Math.max(0, ...rows.map((row) => (row ? column.text(row).length + 2 : 0))));
    if (longest > column.width) [column.width, wider] = [longest, true];
  }
  return wider;
}

export const columnsTemplate = (columns) =>
  columns.map(({ width, grows }) => (grows ? `minmax(${width}ch, 1fr)` : `${width}ch`)).join(" ");
