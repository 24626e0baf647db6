"""The live picture: a plotly FigureWidget of task states over time, with a progress bar above it."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import time
from datetime import datetime
from html import escape
from types import ModuleType
from typing import Any

from ..monitor import Snapshot
from . import static
from .palette import ANYWHERE, COLOURS, GRID, INK

PERIOD_S = 1.0


def _import_jsonschema() -> None:
    """Import jsonschema without the grammars it compiles for a check that nearly nobody uses.

    plotly's FigureWidget imports nbformat, that jsonschema, and that rfc3987_syntax, whose import takes 2 s (on a
    machine busy with tasks 10 s and more) for the formats "iri" and "iri-reference". A stand-in takes its place
    during the import, and imports the real one when such a format is checked.
    """
    name = "rfc3987_syntax"
    if name in sys.modules or importlib.util.find_spec(name) is None:
        return

    def is_valid_syntax(*arguments: Any) -> Any:
        return importlib.import_module(name).is_valid_syntax(*arguments)

    stand_in = ModuleType(name)
    stand_in.is_valid_syntax = is_valid_syntax  # type: ignore[attr-defined]
    sys.modules[name] = stand_in
    try:
        with contextlib.suppress(ImportError):
            importlib.import_module("jsonschema")
    finally:
        del sys.modules[name]


class Chart:
    """One widget for an ensemble, whatever its size; `draw` sets traits only, so any one thread may call it.

    Parameters
    ----------
    title : str
        What it is about; "" leaves out all but the figure.
    snapshot : Snapshot
        What is shown at first.

    Raises
    ------
    ImportError
        If ipywidgets, plotly or anywidget is missing.
    """

    def __init__(self, title: str, snapshot: Snapshot) -> None:
        _import_jsonschema()
        import ipywidgets
        import plotly.graph_objects as go

        from .growing import Figure

        areas = [
            go.Scatter(
                name=state,
                stackgroup="tasks",
                mode="lines",
                line={"width": 0, "shape": "hv"},
                fillcolor=colour,
                hovertemplate="%{y}",
            )
            for state, colour in ANYWHERE.items()
        ]
        self.figure: Any = Figure(
            data=areas,
            layout={
                "height": 260,
                "autosize": True,
                "margin": {"l": 50, "r": 10, "t": 10, "b": 30},
                # No ground of its own, and inks that are legible on a light and on a dark page.
                "template": "none",
                "paper_bgcolor": "rgba(0,0,0,0)",
                "plot_bgcolor": "rgba(0,0,0,0)",
                "font": {"color": INK, "size": 11},
                "xaxis": {"type": "date", "showgrid": False, "linecolor": INK},
                "yaxis": {"rangemode": "tozero", "gridcolor": GRID, "zerolinecolor": GRID},
                "legend": {"traceorder": "normal", "orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
                "hovermode": "x unified",
                "hoverlabel": {"font": {"color": "#222222"}, "bgcolor": "rgba(255,255,255,0.95)"},
            },
        )
        name: Any = ipywidgets.HTML(f"<b>{escape(title)}</b>", layout={"flex": "0 0 auto"})
        self.bar: Any = ipywidgets.IntProgress(min=0, max=1, layout={"flex": "1 1 auto"})
        self.bar.style.bar_color = COLOURS["FINISHED"]
        self.line: Any = ipywidgets.HTML()  # which breaks long lines; a Label cuts them
        row: Any = ipywidgets.HBox([name, self.bar])
        self.box: Any = ipywidgets.VBox([row, self.line, self.figure] if title else [self.figure])
        self.box.add_class("bj-live")
        self._widgets = [self.box, row, name, self.bar, self.line, self.figure]
        self._drawn_at = -PERIOD_S
        self.draw(snapshot)

    def draw(self, snapshot: Snapshot, failures: Any = None, cell_runs: bool = False) -> None:
        """Show this snapshot; ten times a second would be too much for plotly."""
        if not snapshot.done and time.monotonic() - self._drawn_at < PERIOD_S:
            return
        self._drawn_at = time.monotonic()
        import numpy as np

        self.bar.max = max(snapshot.total, 1)
        self.bar.value = snapshot.ended
        self.line.value = escape(static.progress_line(snapshot))
        series = snapshot.series
        # The bins are equal, so a start and a step stand for all x: only the heights travel, as binary.
        start = datetime.fromtimestamp(series.start).isoformat(sep=" ")
        with self.figure.batch_update():
            for trace in self.figure.data:
                # The last one twice: a step is as long as it is to the next.
                numbers = series.counts[trace.name]
                heights = np.asarray([*numbers, *numbers[-1:]], dtype="int32")
                trace.update(x0=start, dx=1000 * series.width, y=heights)

    def widen(self, width: int) -> None:
        """Make the figure so many pixels wide, where it cannot find out by itself."""
        if self.figure.layout.width != width:
            self.figure.layout.width = width

    def mimebundle(self) -> dict[str, Any]:
        """What shows the widget."""
        return dict(self.box._repr_mimebundle_())

    def close(self) -> None:
        """Take the widgets out of the kernel and the page."""
        for widget in self._widgets:
            parts: list[Any] = [getattr(widget, name, None) for name in ("layout", "style")]
            widget.close()
            for part in parts:
                if hasattr(part, "close"):  # of plotly's figure the layout is no widget
                    part.close()
