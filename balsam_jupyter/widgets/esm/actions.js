// The buttons. Each says first what it will do, and does it when that is confirmed.
import { plural, short, span, whole } from "./format.js";
import { fill, h, put } from "./dom.js";

export function mountActions(state, title, explore) {
  const { link } = state;
  const button = (name, what, onclick) =>
    h("button", { class: "bj-btn", type: "button", title: what, onclick }, name);
  const retry = button("Retry…", "Run failed and killed tasks again", askRetry);
  const kill = button("Kill…", "End all tasks that have not ended", askKill);
  const extend = button("Extend…", "Ask for another allocation like the newest", askExtend);
  const figure = button("Explore", "A figure to zoom and to export, below", async () => {
    figure.disabled = true; // a second click while it is made would hide what is not there yet
    await work(explore(), "The figure is made …");
    figure.disabled = false;
  });
  const toolbar = h("div", { class: "bj-toolbar", role: "toolbar", "aria-label": "Actions" }, retry, kill, extend, figure);
  const box = h("div", { class: "bj-confirm", role: "alertdialog", "aria-live": "assertive", hidden: true });
  const note = h("div", { class: "bj-message", role: "status" });
  const panel = h("div", { class: "bj-panel" }, box, note);
  let before = null; // where the focus was
  let waiting = false;
  let working = 0;
  let said = "";
  let fades = null;

  function tell() {
    put(note, waiting && working ? "Waits for the kernel, which runs a cell. (If it was restarted, run the cell of this view again.)" : said);
  }
  link.onWaiting((now) => {
    waiting = now;
    tell();
  });

  function say(text, lasts = 20_000) {
    said = text;
    clearTimeout(fades);
    fades = setTimeout(() => say("", 0), lasts);
    if (!text) clearTimeout(fades);
    tell();
  }

  async function work(promise, meanwhile) {
    working += 1;
    say(meanwhile, 600_000);
    note.classList.remove("bj-wrong");
    const [text, wrong] = await promise.then((answer) => [answer ?? "", false], (error) => [error.message, true]);
    working -= 1;
    note.classList.toggle("bj-wrong", wrong);
    say(text, wrong ? 60_000 : 20_000);
  }

  function close() {
    box.hidden = true;
    box.replaceChildren();
    before?.focus();
  }

  /** Ask whether to do one of `choices`: [name of the button, what to ask the kernel, its arguments]. */
  function confirm(question, choices) {
    before = document.activeElement;
    const cancel = h("button", { class: "bj-btn", type: "button", onclick: close }, "Cancel");
    const buttons = choices.map(([name, what, args]) =>
      h("button", { class: "bj-btn bj-do", type: "button", onclick: () => {
        close();
        work(link.ask(what, args), `${name} …`).then(() => link.ask("follow", {}, { quiet: true }).catch(() => {}));
      } }, name),
    );
    fill(box, h("span", { class: "bj-question" }, question), ...buttons, cancel);
    box.setAttribute("aria-label", question);
    box.hidden = false;
    cancel.focus();
  }
  box.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    close();
    event.preventDefault();
    event.stopPropagation();
  });

  function askKill() {
    const { WAITING, RUNNING } = state.now.counts;
    const have = WAITING + RUNNING === 1 ? "has" : "have";
    const running = RUNNING ? `, of which ${whole(RUNNING)} ${RUNNING === 1 ? "runs" : "run"}` : "";
    confirm(`End ${plural(WAITING + RUNNING, "task")} of ${title} that ${have} not ended${running}?`, [["Kill", "kill", {}]]);
  }

  function askRetry() {
    const { FAILED, USER_KILLED } = state.now.counts;
    const choices = [];
    if (FAILED) choices.push([USER_KILLED ? "Failed ones" : "Retry", "retry", { killed: false }]);
    if (USER_KILLED) choices.push([FAILED ? "Both" : "Retry", "retry", { killed: true }]);
    const which = [FAILED && `${plural(FAILED, "failed task")}`, USER_KILLED && `${plural(USER_KILLED, "killed task")}`];
    confirm(`Run ${which.filter(Boolean).join(" and ")} of ${title} again, with the app as it is now?`, choices);
  }

  function askExtend() {
    const last = state.allocations.at(-1);
    const price = short((last.nodes * last.minutes) / 60);
    const like = `${plural(last.nodes, "node")} for ${span(60 * last.minutes)}, ${last.mode}: at most ${price} node-hours`;
    confirm(`Ask for another allocation like the newest (${like})?`, [["Extend", "extend", {}]]);
  }

  return {
    toolbar,
    /** Whether the figure is shown. */
    expanded(shown) {
      figure.setAttribute("aria-expanded", shown);
    },
    panel,
    confirm,
    paint() {
      const { counts } = state.now;
      retry.disabled = !(counts.FAILED + counts.USER_KILLED);
      kill.disabled = !(counts.WAITING + counts.RUNNING);
      extend.disabled = state.allocations.length === 0;
    },
  };
}
