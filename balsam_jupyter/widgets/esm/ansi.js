// What a program wrote for a terminal, as elements: colours become classes, all else is text.
import { h } from "./dom.js";

const ANSI_TOKEN = new RegExp(
  [
    "\\x1b\\[([0-?]*)[ -/]*([@-~])", // a control sequence; those that end with "m" are colours
    "\\x1b[\\]PX^_][^\\x07\\x1b]*(?:\\x07|\\x1b\\\\)", // titles, links and the like
    "\\x1b[ -/]*[0-OQ-WYZ\\\\`-~]",
    "\\n",
    "\\r+(?!\\n)",
    "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f]",
  ].join("|"),
  "g",
);
const ANSI_OPEN = /(?:\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]{0,2000}\x1b?|[ -/]*)|\r)$/; // the rest is still to come
const ANSI_FLAGS = { 1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "inverse", 9: "struck" };
const ANSI_LEVELS = [0, 95, 135, 175, 215, 255];

/** A colour of the 256: a class for the first 16, else a CSS colour. */
function ansiColour(number) {
  if (number < 16) return number;
  if (number >= 232) return `rgb(${Array(3).fill(8 + 10 * (number - 232))})`;
  const at = number - 16;
  return `rgb(${[Math.floor(at / 36), Math.floor(at / 6) % 6, at % 6].map((level) => ANSI_LEVELS[level])})`;
}

function ansiApply(style, codes) {
  const numbers = codes.split(/[;:]/).map((code) => Number(code) || 0);
  for (let at = 0; at < numbers.length; at += 1) {
    const code = numbers[at];
    if (code === 0) for (const name of Object.keys(style)) delete style[name];
    else if (ANSI_FLAGS[code]) style[ANSI_FLAGS[code]] = true;
    else if (code === 22) delete style.bold, delete style.dim;
    else if (code > 22 && code < 30) delete style[ANSI_FLAGS[code - 20]];
    else if (code === 39) delete style.fg;
    else if (code === 49) delete style.bg;
    else if (code === 38 || code === 48) {
      const side = code === 38 ? "fg" : "bg";
      if (numbers[at + 1] === 5) style[side] = ansiColour(Math.min(255, numbers[(at += 2)] || 0));
      else if (numbers[at + 1] === 2) style[side] = `rgb(${numbers.slice(at + 2, (at += 4) + 1).map((part) => Math.min(255, part))})`;
    } else if (code >= 30 && code < 38) style.fg = code - 30;
    else if (code >= 40 && code < 48) style.bg = code - 40;
    else if (code >= 90 && code < 98) style.fg = code - 82;
    else if (code >= 100 && code < 108) style.bg = code - 92;
  }
}

function ansiSpan(style, text) {
  const names = Object.keys(style);
  if (names.length === 0) return document.createTextNode(text);
  const span = h("span", {}, text);
  for (const name of names) {
    const value = style[name];
    if (value === true) span.classList.add(`bt-a-${name}`);
    else if (typeof value === "number") span.classList.add(`bt-a-${name}${value}`);
    else span.style[name === "fg" ? "color" : "backgroundColor"] = value;
  }
  return span;
}

/**
 * Writes into an element, a line to a div, and keeps at most so many lines.
 *   write(text): it may end anywhere, in the middle of a colour too.
 *   clear()
 *   dropped: how many lines were let go of.
 */
export function ansiWriter(target, most = 5000) {
  let style = {};
  let pending = "";
  let line = null;
  let over = false; // a carriage return came: what follows is written over the line
  const writer = {
    dropped: 0,
    clear() {
      target.replaceChildren();
      [style, pending, line, over, writer.dropped] = [{}, "", null, false, 0];
    },
    write(text) {
      text = pending + text;
      pending = ANSI_OPEN.exec(text)?.[0] ?? "";
      text = text.slice(0, text.length - pending.length);
      const lines = [];
      const put = (part) => {
        if (!part) return;
        if (!line) lines.push((line = h("div", { class: "bt-line" })));
        if (over) line.replaceChildren();
        over = false;
        line.append(ansiSpan(style, part));
      };
      let reached = 0;
      for (const token of text.matchAll(ANSI_TOKEN)) {
        put(text.slice(reached, token.index));
        reached = token.index + token[0].length;
        if (token[0] === "\n") {
          if (!line) lines.push(h("div", { class: "bt-line" }));
          [line, over] = [null, false];
        } else if (token[0][0] === "\r") over = true;
        else if (token[2] === "m") ansiApply(style, token[1]);
      }
      put(text.slice(reached));
      if (lines.length > most) writer.dropped += lines.splice(0, lines.length - most).length;
      target.append(...lines);
      while (target.childElementCount > most) {
        target.firstElementChild.remove();
        writer.dropped += 1;
      }
    },
  };
  return writer;
}
