// Numbers, times and spans as people read them, in the language of the page.

const GROUPED = new Intl.NumberFormat("en");

export const whole = (number) => GROUPED.format(number);

export const plural = (number, word) => `${whole(number)} ${word}${number === 1 ? "" : "s"}`;

/** Three digits at most: 0.031, 4.2, 1,240 */
export function short(number) {
  if (number >= 99.5) return whole(Math.round(number));
  return String(Number(number.toPrecision(number < 1 ? 2 : 3)));
}

/** In at most two units: 3 s, 4 min 10 s, 2 h 05 min, 3 d 4 h */
export function span(seconds) {
  const s = Math.max(0, Math.round(seconds));
  const two = (n) => String(n).padStart(2, "0");
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${two(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${two(Math.floor((s % 3600) / 60))} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** A time of day; with seconds, or with the weekday, where the scale asks for it. */
export function clock(time, scale) {
  const date = new Date(1000 * time);
  const options = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  if (scale < 3600) options.second = "2-digit";
  if (scale > 43200) options.weekday = "short";
  return date.toLocaleTimeString("en-GB", options);
}

const NICE_SECONDS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

/** Times between two, at most so many, at round times of the day; and the step between them. */
export function timeTicks(start, end, most) {
  const least = (end - start) / Math.max(1, most);
  const step = NICE_SECONDS.find((one) => one >= least) ?? 86400 * Math.ceil(least / 86400);
  const zone = new Date(1000 * start).getTimezoneOffset() * 60;
  const ticks = [];
  for (let t = Math.ceil((start - zone) / step) * step + zone; t <= end; t += step) ticks.push(t);
  return { ticks, step };
}

/** How a tick of such a step is written. */
export function tickLabel(time, step) {
  const date = new Date(1000 * time);
  if (step >= 86400) return date.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
  const options = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  if (step < 60) options.second = "2-digit";
  return date.toLocaleTimeString("en-GB", options);
}

/** Round values from 0 up to the most, a few. */
export function valueTicks(most, few = 4) {
  if (!(most > 0)) return [0];
  const raw = most / few;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= raw);
  const ticks = [];
  for (let v = 0; v <= most * 1.0001; v += step) ticks.push(v);
  return ticks;
}
