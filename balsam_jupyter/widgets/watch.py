"""What ``%balsam_watch`` returns: a live dashboard in a notebook, text and a picture elsewhere."""

from __future__ import annotations

import contextvars
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from ..api import Site
from ..models import Query
from ..monitor import Monitor, Snapshot, Subscription, snapshot
from . import cells, static
from .groups import Groups
from .wire import lives

if TYPE_CHECKING:
    from .chart import Chart

STILL_S = 30.0
"""How often the static copy in the notebook is made anew."""
PERIOD_S = 0.1
VIEW = "application/vnd.jupyter.widget-view+json"


def watch(site: Site, name: str = "", generation: int | None = None, *, plotly: bool = False) -> View:
    """A view of an ensemble, or of a whole site; live where a notebook can show widgets.

    Parameters
    ----------
    site : Site
        Where it is.
    name : str
        The ensemble; "" is all tasks of the site.
    generation : int, optional
        Of the ensemble; by default the newest.
    plotly : bool
        Only the tasks' states over time, as a plotly figure.
    """
    if cells.in_kernel():
        return LiveView(site, name, generation, plotly)
    return View(site, name, generation)


class View:
    """An ensemble or a site as text or as HTML, read anew from the store whenever it is shown."""

    def __init__(self, site: Site, name: str = "", generation: int | None = None) -> None:
        self._site, self._engine = site, site.engine
        self.ensemble, self.generation = name, generation
        self._query = Query(ensemble=name or None, generation=generation if name else None)

    @property
    def title(self) -> str:
        """What it is a view of."""
        if not self.ensemble:
            return f"site {self._site.name}"
        newest = max((one.generation for one in self._engine.ensembles(self.ensemble)), default=self.generation)
        older = self.generation not in (None, newest)
        return f"{self.ensemble} (generation {self.generation})" if older else self.ensemble

    @property
    def snapshot(self) -> Snapshot:
        """The numbers and the picture, now."""
        return snapshot(self._engine, self.ensemble, self.generation)

    def _bundle(self, told: Snapshot) -> dict[str, str]:
        groups = Groups(self._site, self._query, lambda: None)
        groups.look(told.counts["FAILED"], wait=True)
        return static.bundle(told, self.title, groups.shown)

    def __repr__(self) -> str:
        return static.text(self.snapshot, self.title)

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        return self._bundle(self.snapshot)


class Picture(Protocol):
    """A widget that draws snapshots."""

    def draw(self, told: Snapshot, failures: Any, cell_runs: bool) -> None:
        """Show this snapshot; called by one thread at a time, which may set traits and send messages only."""

    def mimebundle(self) -> dict[str, Any]:
        """What shows the widget."""

    def close(self) -> None:
        """Take it out of the kernel and the page."""


class Place:
    """Where a view is shown: a static copy, which the notebook keeps, and below it the live view."""

    def __init__(self, still: dict[str, Any], live: dict[str, Any]) -> None:
        from IPython.display import display

        self._still = display(still, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        # Without text of its own, so that what cannot show it shows the copy alone.
        self._live = display({**live, "text/plain": ""}, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        self._context = contextvars.copy_context()
        self.cell = cells.cell()

    def update(self, still: dict[str, Any]) -> None:
        """Replace the copy."""
        # In the context of the cell that showed the view: from a bare thread it would be taken for output of whichever
        # cell ran last.
        self._context.run(self._still.update, still, raw=True)

    def end(self) -> None:
        """Take the live view away."""
        self._context.run(self._live.update, {"text/plain": ""}, raw=True)


class LiveView(View):
    """A view that follows its tasks in the background, from when it is first shown until it is closed.

    A static copy beside it, made anew now and then and when all tasks have ended, is what a saved notebook shows.
    """

    def __init__(self, site: Site, name: str = "", generation: int | None = None, plotly: bool = False) -> None:
        super().__init__(site, name, generation)
        self._plotly = plotly
        # Held while the view is built, so that the monitor's thread draws only on a finished one.
        self._lock = threading.RLock()
        self._last: Snapshot | None = None
        self._cursor = ""
        self._title = ""
        self._picture: Picture | None = None
        self._explored: Chart | None = None
        self._subscription: Subscription | None = None
        self._places: list[Place] = []
        self._copied_at = 0.0
        self._groups = Groups(site, self._query, self._grouped)

    @property
    def live(self) -> bool:
        """Whether the view is shown and follows tasks that have not ended."""
        return self._subscription is not None

    def close(self) -> None:
        """Stop following and leave the static copy; the tasks go on."""
        with self._lock:
            if self._subscription is not None:
                self._subscription.close()
                self._subscription = None
            if self._picture is None:
                return
            self._take(self.snapshot, wait=True)
            self._copy()
            self.forget()

    def forget(self) -> None:
        """As `close`, but what was shown is left as it is: the page has taken it away."""
        with self._lock:
            if self._subscription is not None:
                self._subscription.close()
                self._subscription = None
            for picture in (self._picture, self._explored):
                if picture is not None:
                    picture.close()
            self._picture = self._explored = None
            for place in self._places:
                place.end()
            self._places.clear()

    def follow(self) -> None:
        """Look whether anything has changed since all tasks had ended, and if so, follow again."""
        with self._lock:
            ended = self._subscription is None and self._picture is not None
            if ended and self._changed():
                self._subscribe()

    def _changed(self) -> bool:
        if self._engine.events("now").cursor != self._cursor:
            return True
        # An allocation may go on after the last task, and cost something until it ends: of that there are no events.
        assert self._last is not None
        return lives(self._engine.allocations()) != lives(self._last.allocations)

    def _ipython_display_(self, **_: object) -> None:
        with self._lock:
            try:
                self._show()
            except BaseException:  # an interrupt, too: what no cell shows follows nothing
                if not self._places:
                    self.forget()
                raise

    def _show(self) -> None:
        if self._subscription is None:
            self._subscribe()
        assert self._last is not None
        self._title = self.title
        if self._last.done:  # the copy that is shown now is the last one
            self._groups.look(self._last.counts["FAILED"], wait=True)
        still = static.bundle(self._last, self._title, self._groups.shown)
        try:
            self._picture = self._picture or self._drawn(self._last)
        except ImportError as error:
            raise NotImplementedError from error  # IPython then shows the MIME bundle
        self._places.append(Place(still, self._picture.mimebundle()))
        self._copied_at = time.monotonic()
        cells.shown(self, self._places[-1].cell)

    def _drawn(self, first: Snapshot) -> Picture:
        if self._plotly:
            from .chart import Chart

            return Chart(self._title, first)
        from . import tasks
        from .actions import actions
        from .dashboard import Dashboard

        words = self.ensemble or f"site {self._site.name!r}"
        answers = tasks.answers(self._site, self.ensemble, self.generation)
        answers |= actions(self._site, self._query, words)
        answers |= {"follow": self.follow, "explore": self._explore}
        return Dashboard(self._title, first, answers, self._looked)

    def _explore(self, width: int) -> str:
        """Make a plotly figure that follows too, so many pixels wide; the id of its model, for the page to show it."""
        from .chart import Chart

        with self._lock:
            assert self._last is not None
            if self._explored is None:
                self._explored = Chart("", self._last)
            self._explored.widen(width)
            return str(self._explored.mimebundle()[VIEW]["model_id"])

    def _subscribe(self) -> None:
        self._cursor = self._engine.events("now").cursor
        monitor = Monitor.of(self._engine)
        subscription = monitor.watch(self.ensemble, self._follow, PERIOD_S, self.generation)
        assert self._last is not None
        self._subscription = None if self._last.done else subscription

    def _looked(self, looking: bool) -> None:
        with self._lock:
            if self._subscription is not None:
                self._subscription.look(looking)
            elif looking:
                self.follow()

    def _follow(self, told: Snapshot) -> None:
        with self._lock:
            self._take(told)
            if told.done:
                self._subscription = None
            self._draw()
            if self._places and (told.done or time.monotonic() - self._copied_at > STILL_S):
                self._copy()

    def _take(self, told: Snapshot, wait: bool = False) -> None:
        """Show this snapshot from now on; of an ensemble of which nothing is known any more, the last there was."""
        if told.gone and not told.total and self._last is not None:
            self._last = replace(self._last, gone=True)
        else:
            self._last = told
            self._groups.look(told.counts["FAILED"], wait=wait)

    def _grouped(self) -> None:
        with self._lock:
            self._draw()
            if self._last is not None and self._last.done:
                self._copy()

    def _draw(self) -> None:
        for picture in (self._picture, self._explored):
            if picture is not None and self._last is not None:
                picture.draw(self._last, self._groups.shown, cells.running())

    def _copy(self) -> None:
        assert self._last is not None
        self._copied_at = time.monotonic()
        still = static.bundle(self._last, self._title, self._groups.shown)
        for place in self._places:
            place.update(still)
