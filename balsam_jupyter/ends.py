"""The ends of an ensemble's rows as they come, and the one thread of a site that tells when to look for more."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import chain, islice
from typing import ClassVar

from .api import Site
from .api_site import before_closing
from .engines.base import Engine
from .models import EnsembleRecord
from .task import BalsamTask, Follower

log = logging.getLogger(__name__)
log.addHandler(logging.NullHandler())  # else the last-resort handler would print from a thread into some cell

_PAGE = 500
_LOOK_S = 0.5
"""How long the thread of a site waits for a change before it looks whether anybody still listens."""
_LONGEST_PAUSE_S = 30.0


class Ends:
    """The tasks of an ensemble that ended in one of `states`: each end once, in their order.

    Those that had ended before come first. A task that is run again is told again when it ends again; one that is
    run again after it was read, and before it is asked for, is left out until then. Safe to use from several threads.
    """

    def __init__(self, site: Site, follower: Follower, record: EnsembleRecord, states: Iterable[str]) -> None:
        self._engine, self._follower = site.engine, follower
        self._states = tuple(states)
        self._query = record.rows(self._states)
        self._lock = threading.RLock()
        # First the cursor, then the rows: what ends in between is read twice, and told once.
        self._cursor = self._engine.events("now").cursor
        self._ids = self._ended()
        self._wanted: list[int] = []
        self._page: deque[BalsamTask] = deque()
        self._told: dict[int, float | None] = {}  # the time of its end tells one end of a row from another

    def peek(self) -> BalsamTask | None:
        """The next task, which stays the next; None if there is none now."""
        with self._lock:
            while self._page or self._read():
                self._follower.poll()
                task = self._page[0]
                if task._row.state in self._states and not task._deleted and not self._was_told(task):
                    return task
                self._page.popleft()
            return None

    def take(self) -> BalsamTask | None:
        """The next task; None if there is none now."""
        with self._lock:
            task = self.peek()
            if task is not None:
                self.done(task)
            return task

    def done(self, task: BalsamTask) -> None:
        """The task that was the next one has been seen to."""
        with self._lock:
            if self._page and self._page[0] is task:
                self._page.popleft()
            self._told[task.id] = task._row.end_time

    def _was_told(self, task: BalsamTask) -> bool:
        return task.id in self._told and self._told[task.id] == task._row.end_time

    def _ended(self) -> Iterator[int]:
        return iter(self._engine.ids(replace(self._query, order="end_time")))

    def _read(self) -> bool:
        """Read the next page of tasks; False if there is none. Costs what has changed, however many rows there are."""
        while not self._page:
            # Forgotten only once they are read: a store that cannot be read now is asked for the same again.
            self._wanted = self._wanted or list(dict.fromkeys(islice(self._ids, _PAGE)))
            if self._wanted:
                self._follower.poll()
                rows = {row.id: row for row in self._engine.jobs(replace(self._query, ids=tuple(self._wanted)))}
                self._page.extend(self._follower.tasks(rows[number] for number in self._wanted if number in rows))
                self._wanted = []
                continue
            changes = self._engine.events(self._cursor)
            self._cursor = changes.cursor
            if changes.reset:
                self._ids = self._ended()
            elif changes.rows:
                ended = (row for row in changes.rows if len(row.path) > 1 and row.path[-1] in self._states)
                self._ids = chain.from_iterable(range(row.first_id, row.last_id + 1) for row in ended)
            else:
                return False
        return True


class Watcher:
    """Waits for changes at one site, in a daemon thread that ends when nobody listens any more."""

    _all: ClassVar[dict[tuple[str, str], Watcher]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, key: tuple[str, str]) -> None:
        self.key = key
        self.engine: Engine
        self.wakes: dict[object, Callable[[], object]] = {}
        self.thread = threading.Thread(target=self.run, name=f"balsam-watcher-{key[1]}", daemon=True)

    def run(self) -> None:
        """Tell all listeners at changes, and once at the beginning: something may have changed just before."""
        cursor, pause = "", _LOOK_S
        patience = threading.Event()
        while True:
            with self._lock:
                if not self.wakes:
                    del self._all[self.key]
                    return
            try:
                if not cursor or self.engine.events(cursor, _LOOK_S, limit=1).rows:
                    cursor = self.engine.events("now").cursor
                    self.tell()
                pause = _LOOK_S
            except Exception as error:
                # Who waits looks, too, and meets the same; who does not is told when the engine answers again.
                log.warning("watching %s: %s", self.key[1], error)
                self.tell()
                patience.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    def tell(self) -> None:
        """Wake all listeners."""
        with self._lock:
            wakes = list(self.wakes.values())
        for wake in wakes:
            try:
                wake()
            except Exception as error:  # its event loop may be closed; the others are told all the same
                log.debug("a listener at %s failed: %s", self.key[1], error)


def _key(engine: Engine) -> tuple[str, str]:
    return engine.kind, engine.site.path or str(engine.site.id)


def watch(engine: Engine, wake: Callable[[], object]) -> Callable[[], None]:
    """Call `wake()` when something changes at the engine's site, until the function that is returned is called.

    It is called in any thread, and sometimes without a change. Whoever reads the site after this returned, and again
    after each call, misses nothing.
    """
    token, key = object(), _key(engine)
    with Watcher._lock:
        watcher = Watcher._all.get(key)
        begins = watcher is None
        if watcher is None:
            watcher = Watcher._all[key] = Watcher(key)
        watcher.engine = engine  # the newest: an older one may have been closed
        watcher.wakes[token] = wake
    if begins:
        watcher.thread.start()

    def stop() -> None:
        with Watcher._lock:
            watcher.wakes.pop(token, None)

    return stop


def poke(engine: Engine) -> None:
    """Wake all who watch this site in this process."""
    watcher = Watcher._all.get(_key(engine))
    if watcher is not None:
        watcher.tell()


def _leave(engine: Engine) -> None:
    """End the thread of a site that is closed; who waits there is woken, and meets what the closed engine says."""
    with Watcher._lock:
        watcher = Watcher._all.get(_key(engine))
        wakes = list(watcher.wakes.values()) if watcher is not None else []
        if watcher is not None:
            watcher.wakes.clear()
    if watcher is not None and watcher.thread is not threading.current_thread():
        watcher.thread.join(_LONGEST_PAUSE_S)
    for wake in wakes:
        with suppress(Exception):  # its event loop may be closed
            wake()


before_closing.append(_leave)


def _begin_anew() -> None:
    """In a forked child: threads are not inherited, and a lock may have been held."""
    Watcher._all, Watcher._lock = {}, threading.Lock()


os.register_at_fork(after_in_child=_begin_anew)
