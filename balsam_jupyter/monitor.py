"""One background poller per site, for all views; listeners are plain callables and get aggregates."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar

from .models import Allocation
from .tracker import PAGE, Snapshot, Tracker, snapshot

if TYPE_CHECKING:
    from .engines.base import Engine

__all__ = ["Monitor", "Snapshot", "Subscription", "Tracker", "snapshot"]

log = logging.getLogger(__name__)
log.addHandler(logging.NullHandler())  # else the last-resort handler would print from our thread into some cell

SETTLE_S = 0.1
"""Least time between two readings while things change: a commit every 50 ms must not cost a core."""
LOOKING_S = 0.1
"""Least time between two notifications of a view that someone looks at."""
AWAY_S = 3.0
"""Least time between two notifications of a view that nobody looks at."""
IDLE_S = 5.0
"""Most time between two notifications while nothing changes."""
_WAIT_S = 1.0  # the longest that an engine is waited for at a time
_ALLOCATIONS_SHARE = 0.02  # of the time goes into reading allocations, however many there were
_MOST_RETRY_S = 30.0

Listener = Callable[[Snapshot], object]


class Subscription:
    """A listener's place in a monitor; `close` takes it out."""

    def __init__(self, monitor: Monitor, tracker: Tracker, listener: Listener, period: float) -> None:
        self.tracker = tracker
        self.listener = listener
        self.period = period
        self.told_at = time.monotonic()
        self.wait = period
        self.changed = False
        self._monitor = monitor

    @property
    def due(self) -> float:
        """When to tell the listener next (monotonic seconds)."""
        return self.told_at + self.wait

    def look(self, looking: bool) -> None:
        """Say whether anyone looks: then changes are told ten times a second, else every few seconds."""
        self.period = LOOKING_S if looking else AWAY_S
        self.wait = self.period
        self._monitor.wake()

    def close(self) -> None:
        """Stop listening; safe to call twice and from the listener itself."""
        self._monitor.remove(self)


class Monitor:
    """Reads one site's events in a daemon thread and tells the listeners; ends with the last of them.

    Use `Monitor.of(engine)`: there is one monitor per site in a process.
    """

    _all: ClassVar[dict[tuple[str, str], Monitor]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, engine: Engine, key: tuple[str, str]) -> None:
        self._engine = engine
        self._key = key
        self._subscriptions: list[Subscription] = []
        self._admitted: list[Tracker] = []
        self._cursor = ""
        self._answered = time.monotonic()
        self._allocations: list[Allocation] = []
        self._allocations_due = 0.0
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def of(cls, engine: Engine) -> Monitor:
        """The monitor of this engine's site; the newest engine object given is the one that is asked."""
        key = (engine.kind, engine.site.path or str(engine.site.id))
        with cls._lock:
            monitor = cls._all.setdefault(key, cls(engine, key))
            monitor._engine = engine
            return monitor

    @classmethod
    def forget_all(cls) -> None:
        """Begin anew in a forked child: the threads, and whoever listens, stayed in the parent."""
        cls._all = {}
        cls._lock = threading.Lock()

    @property
    def alive(self) -> bool:
        """Whether the background thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def watch(
        self,
        ensemble: str,
        listener: Listener,
        period: float = 1.0,
        generation: int | None = None,
        since: float | None = None,
    ) -> Subscription:
        """Call `listener(snapshot)` now, at changes (at most once in `period` seconds) and when all is done.

        The first call is made here, in the caller's thread; the later ones in the monitor's. After a
        snapshot that is `done` the listener is taken out. An exception in a listener is logged.

        Parameters
        ----------
        ensemble : str
            Its name; "" is the whole site, which is never done.
        listener : callable
            Gets a `Snapshot`.
        period : float
            Seconds; `Subscription.look` changes it.
        generation : int, optional
            Of the ensemble; None is its newest, also when there is a newer one later.
        since : float, optional
            When the picture begins, in seconds since the epoch; None is with the first task.
        """
        wanted = ensemble, generation, since
        tracker = self._tracker(wanted) or Tracker(self._engine, *wanted)
        if not tracker.begun or tracker.finished():
            tracker.catch_up()
        first = tracker.snapshot(self._engine.allocations())
        subscription = Subscription(self, tracker, listener, period)
        _tell(subscription, first)
        if first.done:
            return subscription
        with self._lock:
            self._subscriptions.append(subscription)
            self._all[self._key] = self
            if not self.alive:
                self._thread = threading.Thread(target=self._run, name=f"balsam-monitor-{self._key[1]}", daemon=True)
                self._thread.start()
        self._wake.set()
        return subscription

    def _tracker(self, wanted: tuple[str, int | None, float | None]) -> Tracker | None:
        with self._lock:
            trackers = [subscription.tracker for subscription in self._subscriptions]
        return next((one for one in trackers if (one.ensemble, one.wanted, one.since) == wanted), None)

    def wake(self) -> None:
        """Have the thread look at once who is to be told when."""
        self._wake.set()

    def remove(self, subscription: Subscription) -> None:
        """Take a listener out; the thread ends by itself when none is left."""
        with self._lock:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)
        self._wake.set()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread to end (it does once no listener is left); True if it has."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        return not self.alive

    def _run(self) -> None:
        pause = SETTLE_S
        while True:
            self._wake.clear()
            with self._lock:
                if not self._subscriptions:
                    self._thread = None
                    self._cursor = ""
                    self._admitted = []
                    self._all.pop(self._key, None)
                    return
                subscriptions = list(self._subscriptions)
            due = min(subscription.due for subscription in subscriptions)
            try:
                changed = self._read(subscriptions, due - time.monotonic())
                silence = self._engine.silence
                self._answered = time.monotonic() - (silence[0] if silence else 0.0)
                self._notify(changed, silence[1] if silence else "")
            except Exception as error:
                # Whatever the engine meets (a full disk, a lost network), the views go on and say so.
                log.warning("monitor of %s: %s", self._key[1], error)
                self._notify([], str(error).partition("\n")[0] or type(error).__name__)
                self._wake.wait(pause)
                pause = min(2 * pause, _MOST_RETRY_S)
                continue
            pause = SETTLE_S
            if changed:
                self._wake.wait(max(SETTLE_S, self._rest()))

    def _rest(self) -> float:
        """How long nothing need be read: while every view waits for its time to be told of a change."""
        now = time.monotonic()
        with self._lock:
            return min((one.due - now if one.changed else 0.0 for one in self._subscriptions), default=0.0)

    def _read(self, subscriptions: list[Subscription], timeout: float) -> list[Tracker]:
        """Read what is new, waiting for it at most so long; those whose tasks changed."""
        trackers = list({id(one.tracker): one.tracker for one in subscriptions}.values())
        changed: list[Tracker] = []
        for tracker in trackers:
            tracker.engine = self._engine
            if tracker not in self._admitted:
                # It was read up to some moment in another thread: close the gap to this one's stream.
                here = tracker.catch_up()
                self._cursor = self._cursor or here
                changed.append(tracker)
        self._admitted = trackers
        page = self._engine.events(self._cursor, 0.0 if changed else max(0.0, min(timeout, _WAIT_S)), PAGE)
        behind = page.reset or len(page.rows) >= PAGE
        # Who is far behind goes on by pages of its own, or begins again; the stream goes on where the first of them is.
        reached = [tracker.catch_up() for tracker in trackers] if behind else [page.cursor]
        self._cursor = reached[0]
        for tracker in trackers:
            if (behind or tracker.feed(page.rows, page.cursor)) and tracker not in changed:
                changed.append(tracker)
        return changed

    def _read_allocations(self) -> bool:
        """Read the allocations, unless that was done just now; whether any changed."""
        began = time.monotonic()
        if began < self._allocations_due:
            return False
        found = self._engine.allocations()
        now = time.monotonic()
        self._allocations_due = now + min((now - began) / _ALLOCATIONS_SHARE, _WAIT_S)
        changed = [(one.id, one.state) for one in found] != [(one.id, one.state) for one in self._allocations]
        self._allocations = found
        return changed

    def _notify(self, changed: Iterable[Tracker], error: str) -> None:
        others = not error and self._read_allocations()
        now = time.monotonic()
        told: dict[int, Snapshot] = {}
        with self._lock:
            subscriptions = list(self._subscriptions)
        for subscription in subscriptions:
            tracker = subscription.tracker
            if others or any(tracker is one for one in changed):
                subscription.changed = True
                subscription.wait = subscription.period
            done = not error and tracker.finished()
            if now < subscription.due and not done:
                continue
            if not subscription.changed:
                subscription.wait = min(1.5 * subscription.wait, max(IDLE_S, subscription.period))
            snap = told.get(id(tracker))
            if snap is None:
                snap = told[id(tracker)] = tracker.snapshot(self._allocations, now - self._answered, error)
            if snap.done and not done:
                continue  # events say so, and the store does not: more of them are on their way
            subscription.told_at = now
            subscription.changed = False
            _tell(subscription, snap)
            if done:
                subscription.close()


os.register_at_fork(after_in_child=Monitor.forget_all)


def _tell(subscription: Subscription, told: Snapshot) -> None:
    try:
        subscription.listener(told)
    except Exception:
        log.exception("a listener of ensemble %r failed", told.ensemble)
