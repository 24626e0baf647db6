"""``%balsam_wait``: the wait itself, with a line of text that says how far it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ..errors import ExecutorException, TimeoutExpired
from ..monitor import SETTLE_S, Tracker
from ..widgets import static

if TYPE_CHECKING:
    from ..engines.base import Engine

STEP_S = 1.0


class Line:
    """One line of output that is written over: by a display handle in a kernel, else by a carriage return."""

    def __init__(self, shell: Any) -> None:
        self._in_kernel = getattr(shell, "kernel", None) is not None
        self._handle: Any = None
        self._width = 0
        self.shown = False

    def show(self, text: str) -> None:
        """Replace the line."""
        self.shown = True
        if not self._in_kernel:
            print("\r" + text.ljust(self._width), end="", flush=True)
            self._width = len(text)
            return
        from IPython.display import display

        if self._handle is None:
            self._handle = display({"text/plain": text}, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update({"text/plain": text}, raw=True)

    def close(self) -> None:
        """Leave the last text, and go to the next line."""
        if self._width:
            print()


def wait(engine: Engine, name: str, timeout: float | None, shell: Any) -> None:
    """Wait for an ensemble in this thread; an interrupt leaves its tasks running and says so.

    Raises
    ------
    TimeoutExpired
        If it has not ended after `timeout` seconds.
    """
    began = shown = time.monotonic()
    tracker = Tracker(engine, name)
    line = Line(shell)
    try:
        while True:
            cursor = tracker.catch_up()
            now = time.monotonic()
            told = tracker.snapshot(engine.allocations())
            late = timeout is not None and now - began >= timeout
            if now - shown >= STEP_S or late or (told.done and line.shown):
                line.show(static.text(told))
                shown = now
            if told.done:
                return
            if late:
                raise TimeoutExpired(name, timeout or 0.0)
            left = STEP_S if timeout is None else min(STEP_S, began + timeout - now)
            if engine.events(cursor, left).rows:
                time.sleep(SETTLE_S)  # a commit every few milliseconds must not cost a core
    except KeyboardInterrupt:
        raise ExecutorException(
            f"Interrupted; the tasks of {name!r} go on running. "
            f"%balsam_wait {name} waits again, %balsam_watch {name} shows them, %balsam_kill {name} ends them."
        ) from None
    finally:
        line.close()
