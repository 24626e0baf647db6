"""Waiting for an ensemble: blocking, as an iteration over what ends, and without blocking an event loop."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from numbers import Real

from .api import Site
from .api_jobs import EVENTS_WAIT_S
from .callbacks import Callbacks
from .ends import Ends, watch
from .errors import BadInput, TimeoutExpired
from .models import TERMINAL, UNENDED, EnsembleRecord, Query
from .selection import record_of
from .status import explain
from .task import BalsamTask, Follower

log = logging.getLogger(__name__)

_QUICK_S = 0.3
"""Work that ends sooner is not asked why it waits."""

_AGAIN_S = 60.0
"""After so long it is asked again."""


@dataclass(frozen=True)
class _Run:
    """To do next: run a callback, or wait so many seconds for the end of one that runs elsewhere."""

    seconds: float


@dataclass(frozen=True)
class _Pause:
    """To do next: wait for a change, so many seconds at most; and log a warning, if there is one."""

    seconds: float
    warning: str = ""


class Waiting:
    """One wait for all tasks of an ensemble and for its callbacks.

    `steps` decides, and reads; `block` and `unblocked` do what it says, each in its own way.

    Raises
    ------
    BadInput
        If `timeout` is not a number of seconds.
    """

    def __init__(
        self, site: Site, follower: Follower, record: EnsembleRecord, timeout: float | None, each: bool = False
    ) -> None:
        number = isinstance(timeout, Real) and not isinstance(timeout, bool) and not math.isnan(timeout)
        if timeout is not None and not number:
            raise BadInput(f"timeout must be a number of seconds, or None, not {timeout!r}.")
        self._site, self._follower, self._record, self._each = site, follower, record, each
        self._timeout = math.inf if timeout is None else timeout
        self._deadline = time.monotonic() + self._timeout
        self._callbacks = Callbacks.of(site, record)
        self._said: set[bool] = set()

    def steps(self) -> Iterator[BalsamTask | _Run | _Pause]:
        """What to do next: give a task that has ended (if `each`), run a callback, or wait for a change."""
        ends = Ends(self._site, self._follower, self._record, sorted(TERMINAL)) if self._each else None
        all_had_ended = asked = False
        ask_at = time.monotonic() + _QUICK_S
        while True:
            now = time.monotonic()
            left = self._deadline - now
            due = self._callbacks.due()
            if due and left > 0:
                yield _Run(left)
            task = ends.take() if ends is not None else None
            if task is not None:
                yield task
            if task is not None or (due and left > 0):
                all_had_ended = False
            elif all_had_ended and not due:
                record_of(self._site, self._record.name, self._record.generation)  # an error if it is gone by now
                return  # nothing came of them since
            else:
                all_had_ended = not self._site.engine.jobs(self._unended())
                if all_had_ended and not due:
                    continue
                if now >= ask_at or (left <= 0 and not asked):
                    asked, warning = True, self._why_stuck()
                    ask_at = now + _AGAIN_S
                    yield _Pause(max(0.0, min(left, ask_at - now, EVENTS_WAIT_S)), warning)
                elif left <= 0:
                    self._give_up()
                else:
                    yield _Pause(min(left, ask_at - now, EVENTS_WAIT_S))

    def _unended(self) -> Query:
        """A row that has not ended; by its state, which is how the rows of an ensemble are indexed."""
        return self._record.rows(UNENDED, order="state", limit=1)

    def _give_up(self) -> None:
        self._callbacks.raise_kept()
        counts = self._site.engine.count(self._record.rows())
        total, done = sum(counts.values()), sum(number for state, number in counts.items() if state in TERMINAL)
        what = "callbacks still to run" if done == total else f"{done} of {total} tasks done"
        raise TimeoutExpired(f"{self._record.name} ({what})", self._timeout)

    def _why_stuck(self) -> str:
        """Why all of it waits, or some of it does in vain; each once."""
        status = explain(self._site.engine, self._record.name)
        why = f" waits: {status.why}" if status.stuck else f": {status.never}" if status.never else ""
        if not why or status.stuck in self._said:
            return ""
        self._said.add(status.stuck)
        return f"{self._record.name}{why}"

    def block(self) -> Iterator[BalsamTask]:
        """The tasks as they end; waits, and runs callbacks, in the thread that iterates."""
        changed = threading.Event()
        stop = None
        with self._callbacks.attended():
            try:
                for step in self.steps():
                    if isinstance(step, _Run):
                        self._callbacks.run_next(min(step.seconds, EVENTS_WAIT_S))
                        continue
                    if isinstance(step, BalsamTask):
                        with self._callbacks.unattended():
                            yield step
                        continue
                    _warn(step)
                    if stop is None:  # what has ended needs no thread
                        stop = watch(self._site.engine, changed.set)
                    else:
                        changed.wait(step.seconds)
                        changed.clear()
            finally:
                if stop is not None:
                    stop()
        self._callbacks.raise_kept()

    async def unblocked(self) -> AsyncIterator[BalsamTask]:
        """The same on an event loop: callbacks run on it, and it reads and waits elsewhere."""
        loop, changed = asyncio.get_running_loop(), asyncio.Event()
        stop = watch(self._site.engine, lambda: loop.call_soon_threadsafe(changed.set))
        with self._callbacks.attended():
            try:
                steps = self.steps()
                while (step := await asyncio.to_thread(next, steps, None)) is not None:
                    if isinstance(step, BalsamTask):
                        with self._callbacks.unattended():
                            yield step
                        continue
                    if isinstance(step, _Pause):
                        _warn(step)
                    elif self._callbacks.run_next(0.0):
                        continue
                    # Not asyncio.wait_for, which before Python 3.12 drops a cancellation that comes with the change.
                    late = loop.call_later(min(step.seconds, EVENTS_WAIT_S), changed.set)
                    try:
                        await changed.wait()
                    finally:
                        late.cancel()
                    changed.clear()
            finally:
                stop()
        self._callbacks.raise_kept()


def _warn(pause: _Pause) -> None:
    if pause.warning:
        log.warning(pause.warning)


class AsCompleted(Iterator[BalsamTask]):
    """The tasks of an ensemble as they end, for ``for`` and for ``async for``."""

    def __init__(self, waiting: Waiting) -> None:
        self._waiting = waiting
        self._tasks = waiting.block()

    def __next__(self) -> BalsamTask:
        return next(self._tasks)

    def __aiter__(self) -> AsyncIterator[BalsamTask]:
        return self._waiting.unblocked()
