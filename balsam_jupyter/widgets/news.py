"""Waiting, in a thread of one's own, until tasks of an ensemble have ended or came."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from ..monitor import Monitor, Snapshot, Subscription

if TYPE_CHECKING:
    from ..engines.base import Engine

log = logging.getLogger(__name__)
log.addHandler(logging.NullHandler())  # nothing may print from our thread into some cell

IDLE_S = 2.0
"""How long it may take to notice `close`."""


class News:
    """A listener of the site's monitor while tasks are to end; later it waits for anything that happens at the site."""

    def __init__(self, engine: Engine, ensemble: str, generation: int) -> None:
        self._engine, self._ensemble, self._generation = engine, ensemble, generation
        self._cursor = engine.events("now").cursor
        self._subscription: Subscription | None = None
        self._done = False
        self._ended = -1
        self._event = threading.Event()
        self.closed = threading.Event()

    def wait(self, unended: bool) -> bool:
        """Block until something may have changed; False after `close`. `unended`: whether there are tasks to end."""
        while not self.closed.is_set():
            try:
                if self._subscription is not None and not self._done:
                    if self._event.wait(IDLE_S):
                        self._event.clear()
                        return not self.closed.is_set()
                elif unended:
                    self._done = False
                    monitor = Monitor.of(self._engine)
                    self._subscription = monitor.watch(self._ensemble, self._told, generation=self._generation)
                    unended = False
                else:
                    self._subscription = None
                    page = self._engine.events(self._cursor, IDLE_S)
                    self._cursor = page.cursor
                    if page.rows or page.reset:
                        return not self.closed.is_set()
            except Exception as error:  # whatever the engine meets, the picture stands until it answers again
                log.warning("news of %s: %s", self._ensemble, error)
                self.closed.wait(IDLE_S)
        return False

    def close(self) -> None:
        """Wait no longer."""
        self.closed.set()
        self._event.set()
        if self._subscription is not None:
            self._subscription.close()

    def _told(self, snapshot: Snapshot) -> None:
        self._done = snapshot.done
        if snapshot.ended != self._ended or snapshot.done:
            self._ended = snapshot.ended
            self._event.set()
