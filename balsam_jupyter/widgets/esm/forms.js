// The forms: fields that the kernel describes, the code that does the same, the price, and one button.

import { h, fill } from "./dom.js";
import { connect } from "./link.js";

const FORM_PARTS = ["a", "b", "c"];
const FORM_READ_MS = 120; // after the last key
const FORM_PRICE_MS = 500;

/** A label, the control, and below it the help and what is wrong: all told to who cannot see it. */
function formRow(id, { label, type, help, required }, control, focused) {
  const wrong = h("div", { class: "bjf-wrong", id: `${id}-wrong`, role: "alert" });
  const note = h("div", { class: "bjf-help", id: `${id}-help` }, help || "");
  focused.setAttribute("aria-describedby", `${id}-help ${id}-wrong`);
  if (required) focused.setAttribute("aria-required", "true");
  const name = h("label", { for: focused.id, class: "bjf-label" }, label);
  if (required) name.append(h("span", { class: "bjf-star", "aria-hidden": "true" }, " *"));
  const head = h("div", { class: "bjf-head" }, name, type ? h("span", { class: "bjf-type" }, type) : null);
  const row = h("div", { class: "bjf-row" }, head, h("div", { class: "bjf-cell" }, control, help ? note : null, wrong));
  const show = (text) => {
    wrong.textContent = text || "";
    row.classList.toggle("bjf-bad", Boolean(text));
    focused.setAttribute("aria-invalid", text ? "true" : "false");
  };
  return { row, show, focused };
}

/** A control for a text or a choice; `change(value)` after each edit. */
function formInput(id, field, value, change, hint) {
  if (field.kind === "choice") {
    const empty = field.default ? `default: ${field.default}` : field.required ? "choose …" : "";
    const options = [h("option", { value: "" }, empty)];
    field.choices.forEach((word, at) => options.push(h("option", { value: at }, word)));
    const select = h("select", { id, onchange: () => change(select.value) }, ...options);
    select.value = value ?? "";
    return { control: select, focused: select };
  }
  const known = field.known?.length ? `${id}-known` : null;
  const input = h("input", {
    id, type: "text", autocomplete: "off", spellcheck: "false", list: known,
    placeholder: hint ?? (field.default ? `default: ${field.default}` : ""),
    inputmode: field.kind === "whole" || field.kind === "number" ? "text" : null,
    oninput: () => change(input.value),
  });
  input.value = value ?? "";
  if (!known) return { control: input, focused: input };
  const list = h("datalist", { id: known }, ...field.known.map((word) => h("option", { value: word })));
  return { control: h("div", {}, input, list), focused: input };
}

/** Boxes to tick for the values of a choice; the value is their numbers. */
function formBoxes(id, field, value, change) {
  const on = new Set((value ?? "").split(",").filter((one) => one !== ""));
  const boxes = field.choices.map((word, at) => {
    const box = h("input", { type: "checkbox", id: at ? `${id}-${at}` : id, onchange: () => {
      box.checked ? on.add(String(at)) : on.delete(String(at));
      change([...on].sort((one, two) => one - two).join(","));
    } });
    box.checked = on.has(String(at));
    return h("label", { class: "bjf-box" }, box, word);
  });
  return { control: h("div", { class: "bjf-boxes", role: "group" }, ...boxes), focused: boxes[0].firstChild };
}

/** The field of a parameter: how it varies, and the inputs of that way. */
function formParameter(id, field, ways, state, change) {
  const given = (state[field.name] ??= { how: field.required || field.ways.length < 2 ? "value" : "" });
  const box = h("div", { class: "bjf-inputs" });
  const many = field.ways.length > 1;
  const put = (part) => (value) => {
    given[part] = value;
    change();
  };
  const draw = () => {
    const way = ways[given.how];
    if (!way) return fill(box, h("span", { class: "bjf-default" }, field.default));
    fill(box, ...way.inputs.map((label, at) => {
      const part = FORM_PARTS[at];
      const own = `${id}-${part}`;
      const lists = given.how === "list" || given.how === "choice";
      if (field.kind === "choice" && lists) return formBoxes(own, field, given[part], put(part)).control;
      const single = given.how === "value";
      const asked = single ? { ...field, default: many ? "" : field.default } : { kind: "text", required: true };
      const hint = way.inputs.length > 1 ? "" : single && !many ? undefined : label;
      const { control, focused } = formInput(own, asked, given[part], put(part), hint);
      focused.setAttribute("aria-label", single ? field.name : `${field.name}: ${label}`);
      return way.inputs.length < 2 ? control : h("label", { class: "bjf-part" }, h("span", {}, label), control);
    }));
  };
  draw();
  if (!many) {
    const row = formRow(id, field, box, box.querySelector("input, select"));
    return row;
  }
  const empty = field.required ? [] : [h("option", { value: "" }, "default")];
  const how = h("select", { id: `${id}-how`, class: "bjf-how", onchange: () => {
    given.how = how.value;
    draw();
    change();
  } }, ...empty, ...field.ways.map((name) => h("option", { value: name }, ways[name].label)));
  how.value = given.how;
  return formRow(id, field, h("div", { class: "bjf-parameter" }, how, box), how);
}

/** The code, as a magic or as Python, with a button that copies it. */
function formCode(id) {
  const text = h("code", {});
  const pre = h("pre", { class: "bjf-code", tabindex: "0", "aria-label": "The code that does the same" }, text);
  const said = h("span", { class: "bjf-said", role: "status" });
  let found = {};
  let chosen = "magic";
  const kinds = ["magic", "python"].map((kind) =>
    h("button", { type: "button", class: "bjf-kind", onclick: () => {
      chosen = kind;
      draw();
    } }, kind === "magic" ? "Magic" : "Python"));
  const copy = h("button", { type: "button", class: "bjf-copy", onclick: async () => {
    try {
      await navigator.clipboard.writeText(text.textContent);
    } catch { // where a page may not: no https
      const range = document.createRange();
      range.selectNodeContents(text);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      document.execCommand("copy");
    }
    said.textContent = "Copied";
    setTimeout(() => (said.textContent = ""), 1500);
  } }, "Copy");
  function draw() {
    const kind = found[chosen] ? chosen : "python";
    text.textContent = found[kind] ?? "";
    pre.classList.toggle("bjf-none", !text.textContent);
    if (!text.textContent) text.textContent = "The line of code that does the same stands here once the form is filled in.";
    copy.disabled = !found[kind];
    kinds.forEach((button, at) => {
      button.hidden = !found.magic;
      button.setAttribute("aria-pressed", String((at === 0) === (kind === "magic")));
    });
  }
  draw();
  const head = h("div", { class: "bjf-codehead" }, h("span", {}, "The same in a cell"), h("span", { class: "bjf-fill" }),
    said, ...kinds, copy);
  return { element: h("div", { class: "bjf-codebox", id }, head, pre), show: (answer) => {
    found = answer;
    draw();
  } };
}

/** What the kernel says of price and rows. */
function formPrice(answer) {
  const lines = (answer.price ?? []).map(([label, text]) => h("tr", {}, h("th", { scope: "row" }, label), h("td", {}, text)));
  const parts = [h("table", { class: "bjf-price" }, h("tbody", {}, ...lines))];
  if (answer.rows?.length) {
    const head = h("tr", {}, ...answer.columns.map((name) => h("th", { scope: "col" }, name)));
    const body = answer.rows.map((row) => h("tr", {}, ...row.map((cell) => h("td", {}, cell))));
    parts.push(h("div", { class: "bjf-scroll", tabindex: "0", role: "region", "aria-label": "The first rows" },
      h("table", { class: "bjf-rows" }, h("thead", {}, head), h("tbody", {}, ...body))));
  }
  if (answer.more) parts.push(h("div", { class: "bjf-help" }, answer.more));
  return parts;
}

function mountForm(root, link, spec) {
  const id = `bjf${Math.random().toString(36).slice(2)}`; // each form of a page has this module for itself
  const state = { values: { ...spec.state.values }, options: { ...spec.state.options } };
  const rows = {};
  let touched = Object.keys(spec.state).length > 0; // an empty form is not told what it lacks
  let version = 0;
  let asking = false;
  let submitting = false;
  let timer = null;
  let priceTimer = null;

  const code = formCode(`${id}-code`);
  const price = h("div", { class: "bjf-about", "aria-live": "polite" });
  const whole = h("div", { class: "bjf-wrong", role: "alert" });
  const done = h("div", { class: "bjf-done", role: "status" });
  const button = h("button", { type: "button", class: "bjf-submit", onclick: submit }, spec.verb);
  const busy = h("span", { class: "bjf-help", role: "status" });
  const folded = h("details", { class: "bjf-options" }, h("summary", {}, "Options"));

  function change() {
    touched = true;
    version += 1;
    done.textContent = "";
    fit();
    clearTimeout(timer);
    timer = setTimeout(read, FORM_READ_MS);
  }

  function show(errors, all) {
    const left = { ...errors };
    for (const [name, row] of Object.entries(rows)) {
      const empty = row.isEmpty?.();
      row.show(all || !empty ? left[name] : "");
      if (left[name] && folded.contains(row.row)) folded.open = true;
      delete left[name];
    }
    whole.textContent = Object.values(left).join(" ");
  }

  /** Only what the parameters need: drawing, if one is drawn; pairing, if there are two lists. */
  function fit() {
    const hows = spec.fields.map((field) => spec.ways[state.values[field.name].how]);
    const needed = { drawn: hows.some((way) => way?.drawn), lists: hows.filter((way) => way?.many).length > 1 };
    spec.design.forEach((field) => (rows[field.name].row.hidden = !needed[field.needs]));
    design.hidden = !needed.drawn && !needed.lists;
  }

  async function read() {
    if (asking || submitting) return; // one question at a time; the answer asks again if there is more
    asking = true;
    const asked = version;
    clearTimeout(priceTimer);
    try {
      const answer = await link.ask("read", { state });
      if (asked === version) took(answer);
    } catch (error) {
      whole.textContent = error.message;
    } finally {
      asking = false;
      if (asked !== version) read();
    }
  }

  function took(answer) {
    const right = Object.keys(answer.errors).length === 0;
    show(touched ? answer.errors : {}, false);
    code.show(right ? answer : {});
    button.textContent = answer.button ?? spec.verb;
    button.disabled = submitting;
    if (!right) return fill(price);
    priceTimer = setTimeout(estimate, FORM_PRICE_MS);
  }

  async function estimate() {
    const asked = version;
    try {
      const answer = await link.ask("estimate", { state });
      if (asked !== version || submitting) return;
      show(answer.errors, false);
      fill(price, ...(answer.price ? formPrice(answer) : []));
    } catch (error) {
      whole.textContent = error.message;
    }
  }

  async function submit() {
    if (submitting) return;
    submitting = true;
    version += 1; // no answer of before is for what comes now
    const asked = version;
    clearTimeout(timer);
    clearTimeout(priceTimer);
    button.disabled = true;
    button.setAttribute("aria-busy", "true");
    done.textContent = "";
    try {
      const answer = await link.ask("submit", { state });
      show(answer.errors, true);
      done.textContent = answer.said ?? "";
      const first = Object.keys(answer.errors).find((name) => rows[name]);
      if (first) rows[first].focused.focus();
    } catch (error) {
      whole.textContent = error.message;
    } finally {
      submitting = false;
      button.disabled = false;
      button.removeAttribute("aria-busy");
      if (version !== asked) read();
    }
  }

  const option = (field) => {
    const own = `${id}-${field.name}`;
    const { control, focused } = formInput(own, field, state.options[field.name], (value) => {
      state.options[field.name] = value;
      change();
    });
    const row = (rows[field.name] = formRow(own, field, control, focused));
    return row.row;
  };
  const parameters = spec.fields.map((field, at) => {
    const row = (rows[`values.${field.name}`] = formParameter(`${id}-p${at}`, field, spec.ways, state.values, change));
    row.isEmpty = () => FORM_PARTS.every((part) => !state.values[field.name][part]);
    return row.row;
  });
  const design = h("div", { class: "bjf-design", role: "group", "aria-label": "How the values make rows" },
    ...spec.design.map(option));
  const shown = spec.options.filter((field) => !field.rare).map(option);
  folded.append(h("div", { class: "bjf-fields" }, ...spec.options.filter((field) => field.rare).map(option)));
  fill(root,
    h("div", { class: "bjf-title", id: `${id}-title` }, h("b", {}, spec.title),
      h("span", { class: "bjf-type" }, ` at site ${spec.site}`), spec.about ? h("div", { class: "bjf-help" }, spec.about) : null),
    h("div", { class: "bjf-fields" }, ...parameters), design, h("div", { class: "bjf-fields bjf-more" }, ...shown),
    folded, code.element, price,
    h("div", { class: "bjf-foot" }, button, busy, done), whole);
  root.setAttribute("role", "group");
  root.setAttribute("aria-labelledby", `${id}-title`);
  const off = link.onWaiting((waiting) => {
    busy.textContent = waiting ? "The kernel is busy; this waits for the running cell." : "";
  });
  fit();
  read();
  return () => {
    off();
    clearTimeout(timer);
    clearTimeout(priceTimer);
  };
}

export default {
  async render({ model, el }) {
    // JupyterLab's keys (a: a cell above) must not act on who types or chooses here.
    const root = h("div", { class: "bjf bj-live", "data-lm-suppress-shortcuts": "true" });
    el.append(root);
    const link = connect(model);
    fill(root, h("span", { class: "bjf-help" }, "Asking the kernel …"));
    try {
      return mountForm(root, link, await link.ask("open"));
    } catch (error) {
      fill(root, h("span", { class: "bjf-wrong" }, error.message));
    }
  },
};
