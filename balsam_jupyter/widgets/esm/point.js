// Below a plot: the task of the point that was clicked, or of a row whose number was typed.

import { fill, h } from "./dom.js";
import { connect } from "./link.js";

/**
 * The plot that stands in the same box; null until it is drawn. plotly makes an empty one first, which should not be
 * resized while it draws the real one: so it is there when it has a title.
 */
function plotBeside(element) {
  const plot = element.closest(".balsam-plot")?.querySelector(".js-plotly-plot");
  return plot?.on && plot._fullLayout && plot.querySelector(".gtitle") ? plot : null;
}

/** A list of names and texts. */
function pointFacts(title, pairs) {
  if (pairs.length === 0) return null;
  const rows = pairs.map(([name, text]) => h("div", {}, h("dt", {}, name), h("dd", {}, text)));
  return h("section", { "aria-label": title }, h("h4", {}, title), h("dl", {}, ...rows));
}

function pointDetail(found) {
  const rest = [
    h("div", { class: "balsam-point-columns" },
      pointFacts("parameters", found.parameters),
      pointFacts("values", found.values),
      pointFacts("task", found.facts)),
    found.error ? h("pre", { class: "balsam-point-error", "aria-label": "error" }, found.error) : null,
    h("h4", {}, "end of the log"),
    h("pre", { tabindex: 0, "aria-label": "end of the log" }, found.log),
  ];
  return rest.filter((each) => each != null);
}

export default () => {
  let link;
  return {
    initialize({ model }) {
      link = connect(model);
    },

    render({ model, el }) {
      let asked = 0;
      const row = h("input", { type: "number", min: 0, "aria-label": "number of a row", class: "balsam-point-row" });
      const ask = h("form", { class: "balsam-point-ask" }, "Click a point to see its task, or type a row: ", row);
      const status = h("span", { class: "balsam-point-status", role: "status" });
      const panel = h("div", { class: "balsam-point-panel", role: "region", "aria-label": "task", hidden: true });
      el.classList.add("balsam-point");
      el.append(ask, panel);

      const close = () => {
        asked += 1;
        panel.hidden = true;
        row.focus({ preventScroll: true });
      };

      /** Shows what is known at once, and the rest when the kernel has answered. */
      const open = async (title, known, what, args) => {
        const mine = (asked += 1);
        const mark = h("span", { class: "balsam-point-state" });
        const bar = h("div", { class: "balsam-point-bar" }, h("strong", {}, title), mark, status,
          h("button", { type: "button", "aria-label": "close", title: "close (Esc)", onclick: close }, "×"));
        const body = h("div", {}, known ? h("pre", {}, known) : null);
        status.textContent = "…";
        fill(panel, bar, body);
        panel.hidden = false;
        try {
          const found = await link.ask(what, args);
          if (mine !== asked) return;
          status.textContent = "";
          bar.firstChild.textContent = found.title;
          fill(mark, h("span", { class: "balsam-point-dot", style: `background:${found.colour}` }), found.state);
          fill(body, ...pointDetail(found));
          const log = body.querySelector("pre:last-child");
          log.scrollTop = log.scrollHeight;
        } catch (error) {
          if (mine === asked) status.textContent = error.message;
        }
      };

      const unwait = link.onWaiting((waiting) => {
        if (waiting) status.textContent = "The kernel is busy: the rest comes when the running cell ends.";
      });
      panel.addEventListener("keydown", (event) => {
        if (event.key === "Escape") close();
        event.stopPropagation(); // the notebook's own keys are not meant here
      });
      ask.addEventListener("keydown", (event) => event.stopPropagation());
      ask.addEventListener("submit", (event) => {
        event.preventDefault();
        if (row.value !== "") open(`Row ${row.value}`, "", "row", { row: Number(row.value) });
      });

      // The plot is another widget's: it may come later than this one, and anew.
      let heard = null;
      const describe = () => {
        heard?.setAttribute("role", "img");
        heard?.setAttribute("aria-label", model.get("told"));
      };
      const clicked = (event) => {
        const point = event.points?.[0];
        if (point?.customdata == null) return;
        const [title, ...known] = String(point.hovertext ?? point.text ?? "").split("<br>");
        open(pointText(title), pointText(known.join("\n")), "task", { task: Number(point.customdata) });
      };
      // plotly measures its box when it draws, which may be before the box has its width; and when the window changes.
      const fit = () => {
        const wide = heard?.clientWidth ?? 0;
        const free = heard && heard.layout?.width == null;
        if (free && wide > 0 && Math.abs(heard._fullLayout.width - wide) > 2) window.dispatchEvent(new Event("resize"));
      };
      const listen = () => {
        const plot = plotBeside(el);
        if (plot && plot !== heard) {
          heard = plot;
          plot.on("plotly_click", clicked);
          describe();
        }
        fit();
      };
      const watcher = new ResizeObserver(fit);
      watcher.observe(el);
      const timer = setInterval(listen, 500);
      model.on("change:told", describe);
      listen();

      return () => {
        clearInterval(timer);
        watcher.disconnect();
        unwait();
        model.off("change:told", describe);
        heard?.removeListener?.("plotly_click", clicked);
      };
    },
  };
};

/** What was escaped for plotly, as it was. */
function pointText(escaped) {
  return escaped.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
}
