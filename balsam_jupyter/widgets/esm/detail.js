// One task: what it was given, what became of it, and its log as it is written.
import { ansiWriter } from "./ansi.js";
import { taskDot } from "./columns.js";
import { fill, h } from "./dom.js";
import { askFirst, taskMoment, taskSpan } from "./words.js";

const DETAIL_EACH_MS = 1000;
const DETAIL_LINES = 5000;

/** Opens it in an element; returns { id, changed(), look(boolean), close() }. */
export function openDetail(root, link, id, { palette = {}, onclose = () => {}, onchange = () => {} } = {}) {
  let [closed, seen, timer, busy] = [false, true, null, false];
  let [task, log, restless] = [null, { next: -1, attempts: -1 }, false];

  // -- elements -------------------------------------------------------------------------------------------------
  const title = h("b", { class: "bt-title" }, `Task ${id}`);
  const acts = h("span", { class: "bt-acts" });
  const facts = h("div", { class: "bt-facts" });
  const trouble = h("div", { class: "bt-trouble", role: "alert", hidden: true });
  const paper = h("div", { class: "bt-log", role: "log", tabindex: "0", "aria-label": "Log of the task" });
  const writer = ansiWriter(paper, DETAIL_LINES);
  const follow = h("input", { type: "checkbox", checked: true, onchange: () => { if (follow.checked) toEnd(); } });
  const wrap = h("input", { type: "checkbox", checked: true, onchange: () => paper.classList.toggle("bt-unwrapped", !wrap.checked) });
  const course = h("div");
  const note = h("span", { class: "bt-note" });
  const box = h("section", { class: "bt-detail", "aria-label": `Task ${id}`, onkeydown: (event) => {
    if (event.key !== "Escape") return;
    onclose();
    event.stopPropagation();
  } },
    h("div", { class: "bt-detail-head" }, title, acts, h("button", { type: "button", class: "bt-button bt-close", title: "Close (Esc)", "aria-label": "Close", onclick: onclose }, "✕")),
    trouble,
    h("div", { class: "bt-detail-body" }, facts,
      h("div", { class: "bt-log-side" },
        h("div", { class: "bt-log-bar" }, h("b", {}, "Log"), h("label", {}, follow, " follow"), h("label", {}, wrap, " wrap"), note), paper)));
  fill(root, box);
  paper.addEventListener("scroll", () => {
    const atEnd = paper.scrollTop + paper.clientHeight >= paper.scrollHeight - 4;
    if (follow.checked !== atEnd && paper.scrollHeight > paper.clientHeight) follow.checked = atEnd;
  });
  const toEnd = () => { paper.scrollTop = paper.scrollHeight; };

  // -- what is asked --------------------------------------------------------------------------------------------
  async function look() {
    if (busy || closed || !seen || document.hidden) return;
    busy = true;
    try {
      if (!task || restless) {
        restless = false;
        task = await link.ask("tasks.task", { id });
        if (closed) return;
        task.ahead = task.now - Date.now() / 1000; // the kernel's clock
        paint();
      }
      let more = true;
      while (more && !closed) {
        const said = await link.ask("tasks.log", { id, start: log.next, attempts: log.attempts });
        if (closed) return;
        more = said.left > 0;
        write(said);
        if (!task.over) paintCourse();
        if (said.job !== task.job || said.attempts !== task.attempts) restless = true;
      }
      trouble.hidden = true;
    } catch (error) {
      trouble.textContent = error.message;
      trouble.hidden = false;
    } finally {
      busy = false;
      // One that has ended writes no more; whoever sees the store change says so.
      if (!closed && (restless || !task?.over)) timer = setTimeout(look, restless ? 50 : DETAIL_EACH_MS);
    }
  }

  function write(said) {
    if (said.anew) writer.clear();
    [log.next, log.attempts] = [said.next, said.attempts];
    if (said.anew) log.first = said.first;
    if (said.text) {
      writer.write(said.text);
      if (follow.checked) toEnd();
    }
    const parts = [];
    if (log.first > 0) parts.push(`from byte ${log.first.toLocaleString("en")} on`);
    if (writer.dropped) parts.push(`${writer.dropped.toLocaleString("en")} lines before these left out`);
    if (!paper.childElementCount) parts.push(task.scratch ? "gone with the directory of this scratch task" : !task.attempts ? "it has not run" : task.there ? `at site ${task.there}` : "empty");
    if (task.attempts > 1 && !task.scratch) parts.push(`earlier runs: job.out.1${task.attempts > 2 ? ", …" : ""} in its directory`);
    note.textContent = parts.join(" · ");
  }

  // -- painting -------------------------------------------------------------------------------------------------
  function paintCourse() {
    fill(course, detailCourse(task, palette, Date.now() / 1000 + task.ahead));
  }
  function paint() {
    paintCourse();
    const row = task.row === null ? "" : ` · row ${task.row}`;
    fill(title, taskDot(palette, task.state), `Task ${task.id}${row} · ${task.app} · ${task.job}`);
    fill(acts, !task.over
      ? askFirst("Kill…", () => detailKill(task), "Kill it", () => link.ask("tasks.kill", { id }), stir)
      : task.state === "FINISHED" ? null
      : askFirst("Retry…", () => `Run task ${id} again, with the same parameters? Its log stays as job.out.${task.attempts || 1}.`, "Retry", () => link.ask("tasks.retry", { id }), stir));
    fill(facts,
      task.error ? detailPart("Error", h("pre", { class: "bt-error" }, task.error)) : null,
      detailPart("Parameters", task.unreadable ? "They are of a class that this kernel does not have." : detailTable(task.parameters)),
      task.value ? detailPart("Result", h("pre", {}, task.value)) : null,
      detailPart("Command", detailCopy(task.command)),
      task.path ? detailPart("Directory", task.scratch ? h("span", {}, "removed, as it finished well (scratch)") : detailCopy(task.path)) : null,
      detailPart("Course", course),
      detailPart("Also", detailTable({
        ...(task.code === null ? {} : { "return code": task.code < 0 ? `${task.code} (killed by signal ${-task.code})` : String(task.code) }),
        attempts: `${task.attempts}${task.max_retries ? `, up to ${task.max_retries} retries by itself` : ""}`,
        ...(task.allocation ? { allocation: String(task.allocation) } : {}),
        ...(task.resources ? { resources: task.resources } : {}),
        ...(task.parents.length ? { parents: task.parents.join(", ") } : {}),
        ...Object.fromEntries(Object.entries(task.tags).map(([name, word]) => [`tag ${name}`, word])),
      })),
      Object.keys(task.environment).length ? h("details", {}, h("summary", {}, "Environment"), detailTable(task.environment)) : null);
  }
  function stir() {
    restless = true;
    clearTimeout(timer);
    look();
    onchange();
  }

  look();
  return {
    id,
    changed() {
      if (!task?.over) return; // it looks by itself
      restless = true;
      clearTimeout(timer);
      timer = setTimeout(look, DETAIL_EACH_MS);
    },
    look(now) {
      seen = now;
      if (now) { clearTimeout(timer); look(); }
    },
    close() {
      closed = true;
      clearTimeout(timer);
      box.remove();
    },
  };
}

function detailKill(task) {
  return task.state === "RUNNING"
    ? `Kill task ${task.id}? Its processes get SIGTERM, and half a second later SIGKILL.`
    : `Kill task ${task.id} before it has run?`;
}

function detailPart(name, content) {
  return h("div", { class: "bt-part" }, h("div", { class: "bt-part-name" }, name), content);
}

function detailTable(values) {
  const rows = Object.entries(values);
  if (rows.length === 0) return h("span", { class: "bt-note" }, "none");
  return h("table", { class: "bt-values" }, h("tbody", {}, ...rows.map(([name, value]) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, value)))));
}

function detailCopy(text) {
  const button = h("button", { type: "button", class: "bt-button bt-copy", onclick: async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(code); // a page that is not served securely has no clipboard
      button.textContent = "selected";
    }
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  } }, "copy");
  const code = h("code", {}, text);
  return h("div", { class: "bt-copyable" }, code, button);
}

/** The states one after the other; those passed through in an instant share a line. */
function detailCourse(task, palette, now) {
  const groups = [];
  for (const step of task.timeline) {
    const last = groups[groups.length - 1];
    if (last && last.seconds !== null && last.seconds < 0.001 && last.state === step.state && !last.note) {
      last.names.push(step.job);
      [last.seconds, last.note] = [step.seconds, step.note];
    } else groups.push({ names: [step.job], state: step.state, at: step.at, seconds: step.seconds, note: step.note });
  }
  const open = groups[groups.length - 1];
  if (open && !task.over) open.seconds = Math.max(0, now - open.at);
  const longest = Math.max(1e-9, ...groups.map((group) => group.seconds ?? 0));
  const lines = groups.flatMap((group) => {
    const bar = h("i", { class: "bt-bar-of" });
    bar.style.width = `${Math.round((100 * (group.seconds ?? 0)) / longest)}%`;
    bar.style.background = palette[group.state] ?? "gray";
    const name = group.names.length > 2 ? `${group.names[0]} … ${group.names[group.names.length - 1]}` : group.names.join(", ");
    const long = group.seconds !== null && group.seconds >= 0.0005;
    const line = h("tr", { title: group.names.join(" → ") },
      h("td", {}, taskDot(palette, group.state), name), h("td", { class: "bt-number" }, taskMoment(group.at)),
      h("td", { class: "bt-number" }, long ? taskSpan(group.seconds, group === open && !task.over) : ""), h("td", { class: "bt-bars" }, long ? bar : null));
    const told = group.note && !task.error.includes(group.note); // what the error says is not said twice
    return told ? [line, h("tr", {}, h("td", { class: "bt-note", colspan: "4" }, group.note))] : [line];
  });
  return h("table", { class: "bt-course" }, h("tbody", {}, ...lines));
}
