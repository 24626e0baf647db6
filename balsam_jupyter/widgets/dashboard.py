"""The dashboard: one widget for an ensemble or a site, whatever its size."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import traitlets

from ..monitor import Snapshot
from .live import Answer, Live, module, style
from .palette import COLOURS, DARK
from .wire import Wire, allocations_of, whole

WHOLE_S = 2.0
"""A message holds all bins at least this often: a page may have missed one, and cannot ask while a cell runs."""
_PATIENT_S = 60.0


class Dashboard(Live):
    """Draws snapshots on all pages that show it.

    Parameters
    ----------
    title : str
        What it is about.
    first : Snapshot
        What is shown at first.
    answers : mapping
        What the page may ask beside what the dashboard knows itself.
    looked : callable
        Told whether some page shows it where somebody can see it, whenever a page says so.
    """

    _esm = module("dashboard.js")
    _css: ClassVar[str] = style("dashboard.css", "tasks.css")
    start = traitlets.Dict().tag(sync=True)

    def __init__(
        self, title: str, first: Snapshot, answers: Mapping[str, Answer], looked: Callable[[bool], object]
    ) -> None:
        self._told, self._failures = first, None
        self._wire = Wire()
        self._sending = threading.RLock()
        self._looked = looked
        self._pages: dict[str, bool] = {}
        self._heard = time.monotonic()
        self._sent_at = self._whole_at = 0.0
        self._told_of: tuple[Any, ...] = ()
        # Before the widget is opened, so that it comes with it.
        self.start = {"title": title, "palette": {"light": COLOURS, "dark": DARK}, **self._all()}
        super().__init__({**answers, "all": self._all, "look": self._look})

    def draw(self, told: Snapshot, failures: Any, cell_runs: bool = False) -> None:
        """Send what has changed; from any thread.

        `cell_runs`: the kernel hears no page now, so that silence means nothing.
        """
        with self._sending:
            self._told, self._failures = told, failures
            now = time.monotonic()
            told_of = (told.counts, allocations_of(told.allocations), failures, told.error, told.gone)
            if told_of == self._told_of and told.ended == told.total:
                return  # nothing goes on, so that nothing need be said: a kernel nobody uses should look so
            if not told.done and now - self._sent_at < self._pause(now, cell_runs):
                return
            all_of_it = told.done or now - self._whole_at >= WHOLE_S
            self._sent_at, self._told_of = now, told_of
            self._whole_at = now if all_of_it else self._whole_at
            message, buffer = self._wire.next(told, failures, all_of_it)
            self.push("snapshot", message, [buffer])

    def mimebundle(self) -> dict[str, Any]:
        """What shows the widget."""
        shown: Any = self._repr_mimebundle_()
        return dict(shown[0] if isinstance(shown, tuple) else shown)

    def _pause(self, now: float, cell_runs: bool) -> float:
        # A server keeps what is sent to a page that is gone (a closed lid) until somebody comes back, so less and less
        # is sent to pages that say nothing.
        silent = now - self._heard - _PATIENT_S
        return 0.0 if silent < 0 else min(silent / 60, 2.0 if cell_runs else 60.0)

    def _all(self) -> dict[str, Any]:
        with self._sending:
            return whole(self._told, self._failures, self._wire.seq)

    def _look(self, page: str, looking: bool) -> None:
        self._heard = time.monotonic()
        if looking:
            self._pages[page] = True
        else:
            self._pages.pop(page, None)
        self._looked(bool(self._pages))
