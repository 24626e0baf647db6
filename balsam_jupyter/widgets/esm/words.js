// How times read, and a button that asks before it does something.
import { fill, h } from "./dom.js";

/** 0.0123 → "12 ms", 75 → "1 min 15 s"; `coarse`: without parts of a second. */
export function taskSpan(seconds, coarse = false) {
  if (seconds === null || seconds === undefined) return "";
  if (coarse && seconds < 60) return `${Math.floor(seconds)} s`;
  if (0 < seconds && seconds < 0.0005) return "< 1 ms";
  if (seconds < 0.9995) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 59.95) return `${seconds.toFixed(seconds < 9.995 ? 2 : 1)} s`;
  const whole = Math.round(seconds);
  const two = (number) => String(number).padStart(2, "0");
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${two(Math.floor(whole / 60) % 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor(whole / 3600) % 24} h`;
}

/** A time of day; with the date where it is not today's. */
export function taskMoment(seconds) {
  if (seconds === null || seconds === undefined) return "";
  const when = new Date(seconds * 1000);
  const time = when.toLocaleTimeString("en-GB");
  if (when.toDateString() === new Date().toDateString()) return time;
  return `${when.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${time.slice(0, 5)}`;
}

/**
 * A button that says in its place what it will do, and does it when that is confirmed.
 *   what(): the question; act(): does it, and comes to the text that says what was done; then().
 */
export function askFirst(label, what, yes, act, then = () => {}) {
  const place = h("span", { class: "bt-ask" });
  const button = h("button", { type: "button", class: "bt-button", onclick: confirm }, label);
  function rest(said = "") {
    fill(place, button, said ? h("span", { class: "bt-said", role: "status" }, said) : null);
  }
  function confirm() {
    const back = () => { rest(); button.focus(); };
    const no = h("button", { type: "button", class: "bt-button", onclick: back }, "No");
    const go = h("button", {
      type: "button", class: "bt-button bt-sure",
      onclick: async () => {
        fill(place, h("span", { class: "bt-said", role: "status" }, "…"));
        try { rest(await act()); } catch (error) { rest(error.message); }
        then();
      },
    }, yes);
    fill(place, h("span", { class: "bt-what", role: "alert" }, what()), go, no);
    place.onkeydown = (event) => { if (event.key === "Escape") { back(); event.stopPropagation(); } };
    no.focus();
  }
  rest();
  return place;
}
