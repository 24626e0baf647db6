"""What ``%balsam_watch`` returns: a live view in a notebook, text and a picture elsewhere."""

from __future__ import annotations

import contextvars
import threading
from typing import TYPE_CHECKING, Any

from ..monitor import Monitor, Snapshot, Subscription, snapshot
from . import static
from .chart import Chart

if TYPE_CHECKING:
    from ..engines.base import Engine


def watch(engine: Engine, ensemble: str) -> View:
    """A view of an ensemble: live where a notebook can show widgets, else as it is when it is shown."""
    return LiveView(engine, ensemble) if _in_kernel() else View(engine, ensemble)


def _in_kernel() -> bool:
    from IPython.core.getipython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


class View:
    """An ensemble as text or as HTML, read anew from the store whenever it is shown."""

    def __init__(self, engine: Engine, ensemble: str) -> None:
        self._engine = engine
        self.ensemble = ensemble

    @property
    def snapshot(self) -> Snapshot:
        """The numbers and the picture, now."""
        return snapshot(self._engine, self.ensemble)

    def __repr__(self) -> str:
        return static.text(self.snapshot)

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        return static.bundle(self.snapshot)


class LiveView(View):
    """A view that follows its ensemble in the background, from when it is first shown until all is done.

    At the end the widgets are replaced by a static picture, so that the saved notebook shows it anywhere.
    """

    def __init__(self, engine: Engine, ensemble: str) -> None:
        super().__init__(engine, ensemble)
        # Held while the view is built, so that the monitor's thread draws only on a finished one.
        self._lock = threading.RLock()
        self._last: Snapshot | None = None
        self._chart: Chart | None = None
        self._subscription: Subscription | None = None
        self._handles: list[tuple[Any, contextvars.Context]] = []

    @property
    def live(self) -> bool:
        """Whether the view is shown and still follows its ensemble."""
        return self._subscription is not None

    def close(self) -> None:
        """Stop following and leave the static picture; the tasks go on."""
        with self._lock:
            if self._subscription is not None:
                self._subscription.close()
                self._finish(self.snapshot)

    def _ipython_display_(self, **_: object) -> None:
        from IPython.display import display

        with self._lock:
            if self._subscription is None:
                self._subscription = Monitor.of(self._engine).watch(self.ensemble, self._follow)
            assert self._last is not None
            if self._last.done:
                self._finish(self._last)
                shown: dict[str, Any] = static.bundle(self._last)
            else:
                try:
                    self._chart = self._chart or Chart(self._last)
                except ImportError as error:
                    self._subscription.close()
                    self._subscription = None
                    raise NotImplementedError from error  # IPython then shows the MIME bundle
                shown = self._chart.bundle(self._last)
            handle = display(shown, raw=True, display_id=True)  # type: ignore[no-untyped-call]
            if self._chart is not None:
                self._handles.append((handle, contextvars.copy_context()))

    def _follow(self, told: Snapshot) -> None:
        with self._lock:
            self._last = told
            if self._chart is None:
                return
            if told.done:
                self._finish(told)
            else:
                self._chart.draw(told)

    def _finish(self, last: Snapshot) -> None:
        # Each update runs in the context of the cell that showed the view: from a bare thread it would be
        # taken for output of whichever cell ran last.
        for handle, context in self._handles:
            context.run(handle.update, static.bundle(last), raw=True)
        self._handles.clear()
        self._subscription = None
        if self._chart is not None:
            self._chart.close()
            self._chart = None
