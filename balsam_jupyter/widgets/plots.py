"""``ens.plot``: plots of results, which grow as results arrive."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import BadInput, NotFound
from ..failures import printable
from . import sketch
from .columns import check
from .display import Pair, in_kernel
from .drawing import Drawing, Scatter
from .figures import Growing
from .kinds import HeatmapKind, Kind, ParallelKind, ScatterKind
from .news import News
from .sample import Sample, read

if TYPE_CHECKING:
    from ..ensemble import Ensemble

log = logging.getLogger(__name__)
log.addHandler(logging.NullHandler())  # nothing may print from our thread into some cell

PERIOD_S = 1.0
"""Least time between two pictures."""
_SHARE = 20  # a picture that took a second to make is followed by so many seconds of rest
_MARKS_A_SECOND = 300  # nor does it draw more than this, or a page that draws 3,000 would be busy with nothing else
_SAVED_S = 30.0  # between two pictures for the saved notebook


class Plots:
    """Plots of an ensemble's results: ``plot(x, y, color)``, ``plot.parallel()``, ``plot.heatmap(x, y, z)``.

    Each can be shown at once, without results: its points come as tasks end. A point tells its task when the mouse is
    over it, and shows it below the plot on a click.
    """

    def __init__(self, ensemble: Ensemble) -> None:
        self._ensemble = ensemble

    def __call__(
        self, x: str = "", y: str = "", color: str | None = None, *, logx: bool = False, logy: bool = False
    ) -> ResultPlot:
        """A point for each row that has ended and has both.

        Parameters
        ----------
        x, y : str
            Columns of `Ensemble.to_dataframe`: numbers, dates, or names (texts, paths, booleans).
        color : str, optional
            A column that colours the points: along a scale (numbers, dates), or a colour for each name.
        logx, logy : bool
            Logarithmic axes.

        Raises
        ------
        BadInput
            If there is no such column (names the nearest), or it holds arrays.
        """
        return ResultPlot(self._ensemble, ScatterKind(x, y, color, logx, logy))

    def parallel(self, columns: Sequence[str] | None = None, color: str | None = None) -> ResultPlot:
        """A vertical axis for each column, and a line for each row that has ended.

        Parameters
        ----------
        columns : list of str, optional
            By default the parameters that vary and what the app yields.
        color : str, optional
            A column that colours the lines.
        """
        if columns is not None and (isinstance(columns, str) or not isinstance(columns, Iterable)):
            raise BadInput(f"columns is a list of names: parallel([{columns!r}, …]).")
        return ResultPlot(self._ensemble, ParallelKind(None if columns is None else list(columns), color))

    def heatmap(self, x: str = "", y: str = "", z: str = "") -> ResultPlot:
        """The numbers of column `z` over two others: the mean, where a cell has several rows."""
        return ResultPlot(self._ensemble, HeatmapKind(x, y, z))

    def __repr__(self) -> str:
        return f"Plots of {self._ensemble.name!r}: plot(x, y, color), plot.parallel(), plot.heatmap(x, y, z)"


class ResultPlot:
    """A plot that follows its ensemble in the background from when it is first shown.

    In a notebook it is a widget, and a picture where there is no kernel; in a terminal it is text.
    """

    def __init__(self, ensemble: Ensemble, kind: Kind) -> None:
        self._ensemble, self._kind = ensemble, kind
        self._seen: dict[int, None] = {}
        self._lock = threading.RLock()  # one drawing at a time
        self._news: News | None = None
        self._pair: Pair | None = None
        self._figure: Growing | None = None
        self._point: Any = None
        self._thread: threading.Thread | None = None
        self._drawing = self._read(strict=True)

    # -- what it shows ------------------------------------------------------------------------------------

    @property
    def _title(self) -> str:
        generation = self._ensemble.generation
        return self._ensemble.name + (f" (generation {generation})" if generation > 1 else "")

    def _read(self, strict: bool = False) -> Drawing:
        """The drawing of what there is now; a mistake that shows only later is told in it."""
        ensemble = self._ensemble
        tables, record = ensemble._follower.tables, ensemble._there
        sample: Sample = tables.use(
            record, lambda table: read(table, self._kind.names, self._kind.most, self._seen), warn=False
        )
        app = ensemble._site.app(ensemble.app_name)
        known = sample.names if sample.finished else list(dict.fromkeys([*sample.names, *app.outputs]))
        whole = sample.finished or app.kind == "shell"
        try:
            for name in self._kind.names:
                check(ensemble.name, name, known, whole)
                if name not in sample.cells:  # no row has finished, so nobody knows what there will be
                    sample.cells[name], sample.types[name] = [None] * len(sample.tasks), Counter()
            drawing = self._kind.draw(self._title, sample)
        except BadInput as error:
            if strict:
                raise
            drawing = Scatter(self._title, [], str(error))
        drawing.unended = sample.ended < sample.total
        return drawing

    def __repr__(self) -> str:
        drawing = self._drawing
        return printable(f"{drawing.title}: {self._kind}: {drawing.line or drawing.empty}")

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        with self._lock:
            if self._pair is None:
                self._drawing = self._read()
            return self._bundle()

    def _bundle(self) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": sketch.image(self._drawing)}

    @property
    def figure(self) -> Any:
        """The plotly figure, the one that is shown if it is: ``plot.figure.update_yaxes(range=[0, 1])``.

        Raises
        ------
        ImportError
            If ipywidgets, plotly or anywidget is missing.
        """
        with self._lock:
            return self._growing().widget

    @property
    def live(self) -> bool:
        """Whether it is shown and follows its ensemble."""
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        """Stop following and leave the picture; the tasks go on."""
        with self._lock:
            if self._news is not None:
                self._news.close()
            if self._pair is not None and not self._pair.closed:
                self._pair.update(self._bundle())
                self._pair.close()
            for widget in (self._figure, self._point):
                if widget is not None:
                    widget.close()
            self._pair = self._news = self._figure = self._point = self._thread = None

    # -- in a notebook ------------------------------------------------------------------------------------

    def _growing(self) -> Growing:
        if self._figure is None:
            self._figure = Growing(self._drawing)
        return self._figure

    def _ipython_display_(self, **_: object) -> None:
        if not in_kernel():
            raise NotImplementedError  # IPython then shows the MIME bundle
        with self._lock:
            if self._pair is None:
                try:
                    import ipywidgets

                    from .point import Point

                    figure = self._growing()
                except ImportError as error:
                    raise NotImplementedError from error
                self._drawing = self._read()
                figure.draw(self._drawing)
                self._point = Point(self._ensemble._site, self._ensemble._there)
                self._point.told = repr(self)
                box: Any = ipywidgets.VBox([figure.widget, self._point])
                box.add_class("balsam-plot")
                self._pair = Pair(box, self.close)
            self._pair.display(self._bundle())
            if not self.live:
                ensemble = self._ensemble
                self._news = News(ensemble._site.engine, ensemble.name, ensemble.generation)
                self._thread = threading.Thread(target=self._follow, args=(self._news,), daemon=True)
                self._thread.name = f"balsam-plot-{self._ensemble.name}"
                self._thread.start()

    def _follow(self, news: News) -> None:
        saved, unended = time.monotonic(), True
        while news.wait(unended):
            began = time.monotonic()
            with self._lock:
                if news.closed.is_set():
                    return
                try:
                    drawing = self._read()
                    unended = drawing.unended
                    save = not unended or began > saved + _SAVED_S
                    saved = began if save else saved
                    self._show(drawing, save)
                except NotFound as error:  # renamed or deleted: there is nothing to follow
                    self._drawing.notes = [str(error)]
                    self._show(self._drawing, save=True)
                    return
                except Exception:  # a full disk, a lost network: it is tried again, and printed into nobody's cell
                    log.exception("plot of %s", self._ensemble.name)
            marks = self._drawing.marks
            news.closed.wait(max(PERIOD_S, _SHARE * (time.monotonic() - began), marks / _MARKS_A_SECOND))

    def _show(self, drawing: Drawing, save: bool) -> None:
        self._drawing = drawing
        if self._pair is None or self._figure is None:
            return
        self._figure.draw(drawing)
        self._point.told = repr(self)
        if save:
            self._pair.update(self._bundle())
