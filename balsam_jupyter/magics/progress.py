"""``%balsam_wait``: the wait itself, with a line of text that says how far it is."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..errors import ExecutorException, TimeoutExpired
from ..monitor import SETTLE_S, Tracker
from ..status import explain
from ..widgets import static

if TYPE_CHECKING:
    from ..callbacks import Callbacks
    from ..engines.base import Engine
    from ..ensemble import Ensemble
    from ..monitor import Snapshot

STEP_S = 1.0
AGAIN_S = 60.0
"""How often it is asked why something waits, beside at every change of the allocations."""
_LIVE = ("pending_submission", "queued", "running")


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

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.close()
        print(text, flush=True)

    def close(self) -> None:
        """Leave the last text, and go to the next line."""
        if self._width:
            print()
            self._width = 0


def wait(engine: Engine, name: str, timeout: float | None, shell: Any, callbacks: Callbacks) -> None:
    """Wait for an ensemble in this thread, and run its callbacks; an interrupt leaves its tasks running and says so.

    It says why nothing can run: after a minute, and without a timeout also at the start, and when an allocation has
    ended; and which tasks wait in vain while others run.

    Raises
    ------
    ExecutorException
        If it has not ended after `timeout` seconds (`TimeoutExpired` if it goes on running), or if it is interrupted.
    """
    began = shown = time.monotonic()
    tracker = Tracker(engine, name)
    line = Line(shell)
    judged: set[int] | None = None
    said: set[bool] = set()
    ask_at = began + AGAIN_S
    deadline = None if timeout is None else began + timeout
    try:
        with callbacks.attended():
            while True:
                cursor = tracker.catch_up()
                now = time.monotonic()
                told = tracker.snapshot(engine.allocations())
                live = {one.id for one in told.allocations if one.state in _LIVE}
                if now >= ask_at or (timeout is None and live != judged and _idle(told)):
                    said = said if live == judged else set()
                    judged, ask_at = live, now + AGAIN_S
                    status = explain(engine, name)
                    why = f"Nothing runs: {status.why}" if status.stuck else status.never
                    if why and status.stuck not in said:
                        said.add(status.stuck)
                        line.say(why)
                late = deadline is not None and now >= deadline
                if now - shown >= STEP_S or late or (told.done and line.shown):
                    line.show(static.text(_without_end(told)))
                    shown = now
                if callbacks.run_due(deadline) and not late:
                    continue  # they may have added rows
                if told.done and not callbacks.due():
                    break
                if late:
                    callbacks.raise_kept()
                    raise _too_late(engine, name, timeout or 0.0)
                left = STEP_S if deadline is None else min(STEP_S, deadline - now)
                if engine.events(cursor, left).rows:
                    time.sleep(SETTLE_S)  # a commit every few milliseconds must not cost a core
        callbacks.raise_kept()
    except KeyboardInterrupt:
        raise ExecutorException(
            f"Interrupted; the tasks of {name!r} go on running. "
            f"%balsam_wait {name} waits again, %balsam_watch {name} shows them, %balsam_kill {name} ends them."
        ) from None
    finally:
        line.close()


def point_to_failed(ensemble: Ensemble) -> None:
    """Print how to see why rows failed, if any did; printed, so that it is seen in the middle of a cell, too."""
    if failed := ensemble.counts()["FAILED"]:
        magic = "%balsam_logs" if failed == 1 else "%balsam_failures"
        print(f"{failed:,} failed: {magic} {ensemble.name} shows why")


def _idle(told: Snapshot) -> bool:
    return bool(told.counts["WAITING"]) and not told.counts["RUNNING"]


def _without_end(told: Snapshot) -> Snapshot:
    """The same without an expected end where nothing runs: how it went before says nothing then."""
    runs = told.counts["RUNNING"] or any(one.state == "running" for one in told.allocations)
    return told if runs else replace(told, rate=None, remaining_s=None)


def _too_late(engine: Engine, name: str, timeout: float) -> ExecutorException | TimeoutExpired:
    status = explain(engine, name)
    if not status.why:
        return TimeoutExpired(name, timeout)
    return ExecutorException(f"{name} was not done after {timeout:g} s. Nothing runs: {status.why}")
