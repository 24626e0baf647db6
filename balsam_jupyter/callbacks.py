"""Callbacks on finished rows: whom to call, in which thread, and what becomes of their exceptions.

They run in a thread that waits for the ensemble, else on the event loop that ran when they were registered (a
notebook's), when it is idle; never two of an ensemble at once.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar, NamedTuple

from .api import Site
from .api_site import before_closing
from .ends import Ends, poke, watch
from .engines.base import Engine
from .errors import BadInput, ExecutorException
from .models import EnsembleRecord
from .task import BalsamTask, Follower

log = logging.getLogger(__name__)

Function = Callable[[BalsamTask], Any]


class _Callback(NamedTuple):
    function: Function
    ends: Ends
    context: contextvars.Context
    """Of the cell that registered it: what it prints on the idle event loop is that cell's output."""


class Callbacks:
    """Those of one generation of an ensemble, shared by all handles of it in this process. Use `Callbacks.of`."""

    _all: ClassVar[dict[tuple[str, str, str, int], Callbacks]] = {}

    def __init__(self, name: str) -> None:
        self._name = name
        self._callbacks: dict[str, _Callback] = {}
        self._error: tuple[str, Exception] | None = None
        self._running = threading.Lock()
        self._runner = 0
        self._attending = 0
        self._turning = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()  # of the attributes; held for moments only
        self._site: Site
        self._stop: Callable[[], None] | None = None

    @classmethod
    def of(cls, site: Site, record: EnsembleRecord) -> Callbacks:
        """The callbacks of an ensemble."""
        engine = site.engine
        key = (engine.kind, engine.site.path or str(engine.site.id), record.name, record.generation)
        found = cls._all.setdefault(key, cls(record.name))
        found._site = site
        return found

    # -- who is called ------------------------------------------------------------------------------------

    def register(self, function: Function, follower: Follower, record: EnsembleRecord) -> None:
        """Call `function` for each row that has finished and that will; it replaces one of the same name.

        Raises
        ------
        BadInput
            If it is no plain function.
        """
        if not callable(function) or inspect.iscoroutinefunction(function) or isinstance(function, type):
            raise BadInput(f"on_finished() takes a plain function of a task (or None), not {function!r}.")
        try:
            loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        name = _name_of(function)
        callback = _Callback(function, Ends(self._site, follower, record, ["JOB_FINISHED"]), contextvars.copy_context())
        with self._lock:
            self._callbacks[name] = callback
            if self._error is not None and self._error[0] == name:
                self._error = None  # of the function it replaces
            self._loop = loop or self._loop
            if self._loop is not None and self._stop is None:
                self._stop = watch(self._site.engine, self._offer)
        poke(self._site.engine)  # for rows that have finished already

    def clear(self) -> None:
        """Call nobody any more."""
        with self._lock:
            self._callbacks.clear()
            self._error = None
            if self._stop is not None:
                self._stop()
                self._stop = None

    # -- in a thread that waits ---------------------------------------------------------------------------

    @contextmanager
    def attended(self) -> Iterator[None]:
        """While somebody waits, the event loop leaves the callbacks to them."""
        self._attend(1)
        try:
            yield
        finally:
            self._attend(-1)

    @contextmanager
    def unattended(self) -> Iterator[None]:
        """While the code around an iteration goes on: who waits there does not wait now."""
        self._attend(-1)
        try:
            yield
        finally:
            self._attend(1)

    def _attend(self, change: int) -> None:
        with self._lock:
            self._attending += change
        self._offer()

    def due(self) -> bool:
        """Whether a row has finished whose callback has not returned yet."""
        return self._running.locked() or self._waiting()

    def run_next(self, timeout: float | None = None, idle: bool = False) -> bool:
        """Run one callback that is due, in this thread; False if none is, or another one still ran after `timeout` s.

        `idle`: nobody waits, so what it prints belongs to the cell that registered it.

        Raises
        ------
        ExecutorException
            If it is called by a callback.
        """
        if self._runner == threading.get_ident():
            raise ExecutorException(
                f"A callback of {self._name} cannot wait for {self._name}: it would wait for itself. "
                "Let it return; it is called for the rows it added, too."
            )
        if not self._running.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            return False
        self._runner = threading.get_ident()
        try:
            for name, callback in self._registered():
                task = callback.ends.peek()
                if task is not None:
                    context = callback.context if idle else contextvars.copy_context()
                    context.run(self._call, name, callback.function, task)
                    callback.ends.done(task)  # not if it was interrupted: then it is called again
                    return True
            return False
        finally:
            self._runner = 0
            self._running.release()
            poke(self._site.engine)

    def run_due(self, deadline: float | None = None) -> bool:
        """Run all that are due, in this thread, until `deadline` (monotonic seconds); whether there were any."""
        ran = False
        while self.due():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return True
            ran = True
            self.run_next(left)
        return ran

    def raise_kept(self) -> None:
        """Raise the first exception of a callback since the last time."""
        with self._lock:
            kept, self._error = self._error, None
        if kept is not None:
            raise kept[1]

    def _call(self, name: str, function: Function, task: BalsamTask) -> None:
        try:
            function(task)
        except Exception as error:
            note = f"In callback {name} for row {task._row.row} of {self._name} (task {task.id})"
            if hasattr(error, "add_note"):
                error.add_note(note)
            log.warning("%s: %s: %s", note, type(error).__name__, error)
            with self._lock:
                self._error = self._error or (name, error)

    def _registered(self) -> list[tuple[str, _Callback]]:
        with self._lock:
            return list(self._callbacks.items())

    def _waiting(self) -> bool:
        return any(callback.ends.peek() is not None for _, callback in self._registered())

    # -- on the idle event loop ---------------------------------------------------------------------------

    def _offer(self) -> None:
        """Let the event loop run what is due, if nobody else does. Called after changes, in any thread."""
        if self._attending or self._turning or self._loop is None or self._runner:
            return
        try:
            if not self._waiting():
                return
        except Exception as error:  # whatever the engine meets; the next change offers again
            log.debug("callbacks of %s: %s", self._name, error)
            return
        with self._lock:
            if self._turning or self._loop is None:
                return
            self._turning = True
            try:
                # In a context of its own: that of this thread would be the one of some cell.
                self._loop.call_soon_threadsafe(self._turn, context=contextvars.Context())
            except RuntimeError:  # closed: only those who wait run callbacks now
                self._loop, self._turning = None, False

    def _turn(self) -> None:
        """One callback; what else the loop has to do comes before the next."""
        self._turning = False
        if not self._attending:
            self.run_next(0.0, idle=True)  # whose end offers the next one


def _name_of(function: Any) -> str:
    while isinstance(function, partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _leave(engine: Engine) -> None:
    """A site that is closed calls nobody any more."""
    for key, callbacks in list(Callbacks._all.items()):
        if key[:2] == (engine.kind, engine.site.path or str(engine.site.id)):
            callbacks.clear()
            Callbacks._all.pop(key, None)


before_closing.append(_leave)


def _begin_anew() -> None:
    """In a forked child: callbacks are of the process that registered them."""
    Callbacks._all = {}


os.register_at_fork(after_in_child=_begin_anew)
