"""Drawings as plotly figures that grow: only the traces that changed are sent to the page."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from html import escape
from typing import Any

from ..failures import printable
from .columns import Axis
from .drawing import SHADES, Drawing, Heatmap, Parallel, Scatter, Series, along, shade_of

CHUNK = 250
"""Points of a trace: new points are in the last one, the others need not be sent again."""
_BINS = 24  # shades of lines, of which each trace has one
_LINE_CHUNK = 50
_EDGE = "rgba(128,128,128,0.55)"
_GRID = "rgba(128,128,128,0.22)"
_SCALE = [[at / (len(SHADES) - 1), colour] for at, colour in enumerate(SHADES)]
_BELOW = {"orientation": "h", "x": 0, "y": -0.16, "yanchor": "top"}  # of the legend, where a colour bar has its place

Traces = dict[tuple[str, int], dict[str, Any]]
"""Plotly's traces by series and number of the chunk."""


def text(plain: str) -> str:
    """Plain text for plotly, which takes some tags for markup."""
    return escape(printable(plain), quote=False).replace("\n", "<br>")


def traces(drawing: Drawing) -> Traces:
    """The traces of a drawing."""
    if isinstance(drawing, Scatter):
        return _points(drawing)
    if isinstance(drawing, Parallel):
        return _lines(drawing)
    assert isinstance(drawing, Heatmap)
    return {("cells", 0): _cells(drawing)} if drawing.columns else {}


def layout(drawing: Drawing) -> dict[str, Any]:
    """The layout of a drawing."""
    found: dict[str, Any] = {
        "template": "none",
        "autosize": True,
        "height": 420,
        "margin": {"l": 70, "r": 24, "t": 58, "b": 52},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "#767676", "size": 12},
        "title": {
            "text": f'{text(drawing.title)}<br><span style="font-size:12px">{text(drawing.line) or " "}</span>',
            "font": {"size": 15},
            **{"x": 0.0, "xref": "paper", "xanchor": "left", "y": 0.965, "yref": "container", "yanchor": "top"},
        },
        "hovermode": "closest",
        "hoverdistance": 12,
        "hoverlabel": {"align": "left", "namelength": 0},
        "uirevision": "kept",  # what the user has zoomed to stays as points come
        "legend": {"itemsizing": "constant", "tracegroupgap": 0, "title": {"text": ""}},
        "annotations": [],
        "shapes": [],
    }
    if drawing.empty:
        place = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper", "showarrow": False}
        found["annotations"] = [{"text": text("\n".join(drawing.said)), "font": {"size": 14}, **place}]
    if isinstance(drawing, Parallel):
        return found | _parallel(drawing, found)
    assert isinstance(drawing, Scatter | Heatmap)
    bare = {"showticklabels": False, "showgrid": False, "ticks": ""} if drawing.empty else {}
    found["xaxis"], found["yaxis"] = {**_axis(drawing.x), **bare}, {**_axis(drawing.y), **bare}
    if isinstance(drawing, Heatmap):
        for axis, places in (("xaxis", drawing.columns), ("yaxis", drawing.lines)):
            found[axis]["showgrid"] = False
            if drawing.columns and len(places) <= 12 and getattr(drawing, axis[0]).kind == "number":
                found[axis]["tickvals"] = places
    if drawing.shade and drawing.shade.kind != "name":
        found["coloraxis"] = _bar(drawing.shade)
        found["legend"] |= _BELOW
    elif drawing.shade:
        found["legend"]["title"]["text"] = text(drawing.shade.name)
    return found


def _axis(one: Axis) -> dict[str, Any]:
    kinds = {"number": "log" if one.log else "linear", "date": "date", "name": "category"}
    found = {
        "title": {"text": text(one.name), "standoff": 8},
        "type": kinds[one.kind],
        "gridcolor": _GRID,
        "linecolor": _EDGE,
        "showline": True,
        "zeroline": False,
        "automargin": True,
        "ticks": "outside",
        "tickcolor": _EDGE,
        "ticklen": 4,
        "nticks": 8,
    }
    if one.kind == "name":
        found["categoryorder"] = "category ascending"
    elif one.log:
        found |= {"exponentformat": "power", "dtick": None}
    return found


def _bar(one: Axis) -> dict[str, Any]:
    bar = {"title": {"text": text(one.name), "side": "right"}, "thickness": 12, "outlinewidth": 0, "ticks": "outside"}
    return {"colorscale": _SCALE, "colorbar": bar}


def _places(places: Sequence[Any], one: Axis) -> Any:
    if one.kind == "name":
        return [text(place) for place in places]
    if one.kind == "date":
        return [datetime.datetime.fromtimestamp(place, datetime.timezone.utc).isoformat()[:26] for place in places]
    return list(places)


def _chunks(series: Series, size: int) -> list[slice]:
    return [slice(at, at + size) for at in range(0, len(series.tasks), size)]


def _entry(series: Series, first: bool) -> dict[str, Any]:
    """What a trace is in the legend: its first chunk stands there for all."""
    return {"name": text(series.name), "legendgroup": series.name or "all", "showlegend": first and bool(series.name)}


def _points(drawing: Scatter) -> Traces:
    found: Traces = {}
    for series in drawing.series:
        for number, part in enumerate(_chunks(series, CHUNK)):
            marker: dict[str, Any] = {"size": 8, "opacity": 0.9, "line": {"width": 0.75, "color": _EDGE}}
            if series.shades is not None:
                marker |= {"color": series.shades[part], "coloraxis": "coloraxis"}
            else:
                marker["color"] = series.colour
            found[series.name, number] = {
                "type": "scatter",
                "mode": "markers",
                "x": _places(series.x[part], drawing.x),
                "y": _places(series.y[part], drawing.y),
                "customdata": series.tasks[part],
                "hovertext": [text(each) for each in series.texts[part]],
                "hovertemplate": "%{hovertext}<extra></extra>",
                "marker": marker,
                **_entry(series, number == 0),
            }
    return found


def _lines(drawing: Parallel) -> Traces:
    found: Traces = {}
    if drawing.rows and drawing.shade and drawing.shade.kind != "name":  # a colour bar needs something that it measures
        marker = {"color": [drawing.limits[0]], "coloraxis": "coloraxis"}
        found["\0bar", 0] = {"type": "scatter", "x": [None], "y": [None], "mode": "markers", "marker": marker}
        found["\0bar", 0] |= {"showlegend": False, "hoverinfo": "skip"}
    for series in _by_shade(drawing):
        for number, part in enumerate(_chunks(series, _LINE_CHUNK)):
            x, y, tasks, texts = [], [], [], []
            for at, task, told in zip(series.y[part], series.tasks[part], series.texts[part], strict=True):
                for axis, share in enumerate(drawing.rows[int(at)]):
                    x.append(axis if share is not None else None)
                    y.append(share)
                    tasks.append(task)
                    texts.append(text(told))
                for several in (x, y):
                    several.append(None)  # which ends the line
                tasks.append(task)
                texts.append("")
            found[series.name, number] = {
                "type": "scatter",
                "mode": "lines+markers",
                "connectgaps": False,
                "x": x,
                "y": y,
                "customdata": tasks,
                "hovertext": texts,
                "hovertemplate": "%{hovertext}<extra></extra>",
                "line": {"width": 1.25, "color": series.colour},
                "opacity": 0.75,
                "marker": {"size": 6, "color": series.colour},
                **_entry(series, number == 0 and series.name[:1] != "\0"),
            }
    return found


def _by_shade(drawing: Parallel) -> list[Series]:
    """The series with one colour each: a line cannot be shaded within a trace."""
    found: list[Series] = []
    low, high = drawing.limits
    for series in drawing.series:
        if series.shades is None:
            found.append(series)
            continue
        bins: dict[int, Series] = {}
        for at, number in enumerate(series.shades):
            of = min(int(along(number, low, high) * _BINS), _BINS - 1)
            one = bins.setdefault(of, Series(f"\0{of}", shade_of((of + 0.5) / _BINS)))
            one.y.append(series.y[at])
            one.tasks.append(series.tasks[at])
            one.texts.append(series.texts[at])
        found += bins.values()
    return found


def _parallel(drawing: Parallel, found: dict[str, Any]) -> dict[str, Any]:
    number = len(drawing.scales)
    marks = [
        {
            "x": at, "y": (tick - scale.low) / (scale.high - scale.low), "text": text(said), "showarrow": False,
            "xanchor": "right", "xshift": -6, "font": {"size": 10},
        }
        for at, scale in enumerate(drawing.scales)
        for tick, said in scale.ticks
    ]  # fmt: skip
    upright = {"type": "line", "y0": 0, "y1": 1, "line": {"color": _EDGE, "width": 1.5}, "layer": "below"}
    hidden = {"showgrid": False, "zeroline": False, "showline": False, "ticks": ""}
    names = [text(scale.name) for scale in drawing.scales]
    more: dict[str, Any] = {
        "annotations": [*found["annotations"], *([] if drawing.empty else marks)],
        "shapes": [{"x0": at, "x1": at, **upright} for at in range(number)],
        "xaxis": {**hidden, "tickvals": list(range(number)), "ticktext": names, "range": [-0.35, number - 0.75]},
        "yaxis": {**hidden, "showticklabels": False, "range": [-0.05, 1.05]},
        "margin": {**found["margin"], "l": 30},
    }
    if drawing.shade and drawing.shade.kind != "name":
        low, high = drawing.limits
        more["legend"] = {**found["legend"], **_BELOW}
        more["coloraxis"] = {**_bar(drawing.shade), "cmin": low, "cmax": high if high > low else low + 1}
    elif drawing.shade:
        more["legend"] = {**found["legend"], "title": {"text": text(drawing.shade.name)}}
    return more


def _cells(drawing: Heatmap) -> dict[str, Any]:
    return {
        "type": "heatmap",
        "x": _places(drawing.columns, drawing.x),
        "y": _places(drawing.lines, drawing.y),
        "z": drawing.cells,
        "customdata": drawing.tasks,
        "hovertext": [[text(each) for each in line] for line in drawing.texts],
        "hovertemplate": "%{hovertext}<extra></extra>",
        "hoverongaps": False,
        "coloraxis": "coloraxis",
        "xgap": 1,
        "ygap": 1,
    }


class Growing:
    """A FigureWidget that is brought up to date by what changed; from one thread at a time.

    Raises
    ------
    ImportError
        If ipywidgets, plotly or anywidget is missing.
    """

    def __init__(self, drawing: Drawing) -> None:
        from .chart import _import_jsonschema

        _import_jsonschema()
        from .growing import Figure

        self.widget: Any = Figure()
        self._sent: Traces = {}
        self._layout: dict[str, Any] = {}
        self._at: dict[tuple[str, int], int] = {}
        self.draw(drawing)

    def draw(self, drawing: Drawing) -> None:
        """Show this drawing."""
        wanted, layout_wanted = traces(drawing), layout(drawing)
        new = [key for key in wanted if key not in self._at]
        with self.widget.batch_update():
            for key, at in self._at.items():
                trace = wanted.get(key, {"visible": False})
                before = self._sent.get(key)
                if trace != before:
                    known = before or {}
                    changes = {name: new for name, new in trace.items() if name != "type" and known.get(name) != new}
                    self.widget.data[at].update({"visible": True, **changes} if "x" not in known else changes)
            changed = {name: value for name, value in layout_wanted.items() if self._layout.get(name) != value}
            if changed:
                self.widget.update_layout(changed, overwrite=True)
        if new:
            first = len(self._at)
            self._at.update((key, first + number) for number, key in enumerate(new))
            self.widget.add_traces([wanted[key] for key in new])
        self._sent = {key: wanted.get(key, {"visible": False}) for key in self._at}
        self._layout = layout_wanted

    def close(self) -> None:
        """Take it out of the kernel and the page."""
        self.widget.close()
