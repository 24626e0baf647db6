"""One background poller per site, for all views; listeners are plain callables and get aggregates."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from .history import ENDED, History, Ranges, Series, apply, find_ranges
from .models import TASK_STATE, TASK_STATES, Allocation, EventRow, Query

if TYPE_CHECKING:
    from .engines.base import Engine

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


@dataclass(frozen=True)
class Snapshot:
    """An ensemble (name "": a whole site) at one moment: numbers and a picture, never a list of its tasks.

    `counts` are by task state; `rate` is in tasks ended per second and `remaining_s` in seconds (None:
    unknown); `age_s` is how long ago the engine last answered, with the reason in `error` if it does not.
    `generation` is that of the ensemble.
    """

    ensemble: str
    counts: dict[str, int]
    series: Series
    time: float
    allocations: list[Allocation] = field(default_factory=list)
    rate: float | None = None
    remaining_s: float | None = None
    age_s: float = 0.0
    error: str = ""
    generation: int | None = None

    @property
    def total(self) -> int:
        """The number of tasks."""
        return sum(self.counts.values())

    @property
    def ended(self) -> int:
        """The number of tasks that are done: FINISHED, FAILED or USER_KILLED."""
        return sum(self.counts[state] for state in ENDED)

    @property
    def done(self) -> bool:
        """Whether no task is left to run (and the engine said so just now)."""
        return self.ended == self.total and not self.error


Listener = Callable[[Snapshot], object]


class Tracker:
    """Follows one ensemble through an engine's events."""

    def __init__(self, engine: Engine, ensemble: str) -> None:
        self.engine = engine
        self.ensemble = ensemble
        self.history = History()
        self.ranges = Ranges()
        self._seen_id = 0
        self._seq = -1
        self._cursor = ""
        self._lock = threading.RLock()

    def catch_up(self) -> str:
        """Read events up to the present, a page at a time; returns the cursor reached."""
        with self._lock:
            while True:
                page = self.engine.events(self._cursor)
                self._cursor = page.cursor
                if page.reset:
                    self.restart()
                if not page.rows:
                    break
                self.feed(page.rows, page.cursor)
            # What events do not tell (cleared away, or of tasks that were deleted) is counted instead.
            stored = self._stored()
            if stored != self.history.counts() and not self.engine.events(self._cursor).rows:
                self._find()
                self._correct(stored)
            return self._cursor

    def feed(self, rows: list[EventRow], cursor: str) -> bool:
        """Take in events up to `cursor`; those seen already are skipped. Whether any was this ensemble's."""
        with self._lock:
            self._cursor = cursor
            rows = [row for row in rows if row.seq > self._seq]
            if not rows:
                return False
            newest = max((row.last_id for row in rows if row.path[0] == ""), default=0)
            if newest > self._seen_id:
                self._find()
            changed = False
            for row in rows:
                changed |= apply(self.history, row, self.ranges)
            self._seq = rows[-1].seq
            return changed

    def restart(self) -> None:
        """Begin again from the present numbers: the events since the cursor are gone."""
        with self._lock:
            self._find()
            self._correct(self._stored())

    def snapshot(self, allocations: list[Allocation], age_s: float = 0.0, error: str = "") -> Snapshot:
        """The ensemble as far as it was read."""
        now = time.time()
        with self._lock:
            counts = self.history.counts()
            left = counts["WAITING"] + counts["RUNNING"]
            series = self.history.series(now if left else None)
        rate = _rate(series, now) if left else None
        remaining = left / rate if rate else None
        return Snapshot(self.ensemble, counts, series, now, allocations, rate, remaining, age_s, error)

    def _find(self) -> None:
        newest = self.engine.jobs(Query(order="-id", limit=1))
        self._seen_id = newest[0].id if newest else 0
        total = sum(self.engine.count(Query(ensemble=self.ensemble)).values())
        self.ranges = find_ranges(self._id_at, total)

    def _id_at(self, position: int) -> int:
        return self.engine.jobs(Query(ensemble=self.ensemble, order="id", limit=1, offset=position))[0].id

    def _stored(self) -> dict[str, int]:
        counts = dict.fromkeys(TASK_STATES, 0)
        for state, number in self.engine.count(Query(ensemble=self.ensemble)).items():
            counts[TASK_STATE[state]] += number
        return counts

    def _correct(self, stored: dict[str, int]) -> None:
        now = time.time()
        for state, number in self.history.counts().items():
            if stored[state] != number:
                self.history.add(now, "", state, stored[state] - number)


def _rate(series: Series, now: float) -> float | None:
    """Tasks ended per second, over the last quarter of the time in which tasks ran (at least 10 s)."""
    ended = [sum(numbers) for numbers in zip(*(series.counts[state] for state in ENDED), strict=True)]
    begun = [end or running for end, running in zip(ended, series.counts["RUNNING"], strict=True)]
    first = next((at for at, number in enumerate(begun) if number), None)
    if first is None:
        return None
    ran = max(series.width, now - series.start - first * series.width)
    since = now - max(ran / 4, min(ran, 10.0))
    at = int((since - series.start) / series.width)
    before = ended[at - 1] if at > 0 else 0
    span = max(now - (series.start + max(at, 0) * series.width), series.width)
    return float((ended[-1] - before) / span)


def snapshot(engine: Engine, ensemble: str) -> Snapshot:
    """The ensemble as it is now, read once from its engine; no thread is started."""
    tracker = Tracker(engine, ensemble)
    tracker.catch_up()
    return tracker.snapshot(engine.allocations())


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
        self.wait = min(self.wait, self.period)
        self._monitor.wake()

    def close(self) -> None:
        """Stop listening; safe to call twice and from the listener itself."""
        self._monitor.remove(self)


class Monitor:
    """Reads one site's events in a daemon thread and tells the listeners; ends with the last of them.

    Use `Monitor.of(engine)`: there is one monitor per site in a process.
    """

    _all: ClassVar[dict[tuple[str, str], Monitor]] = {}
    _lock = threading.Lock()

    def __init__(self, engine: Engine, key: tuple[str, str]) -> None:
        self._engine = engine
        self._key = key
        self._subscriptions: list[Subscription] = []
        self._trackers: dict[str, Tracker] = {}
        self._admitted: set[str] = set()
        self._cursor = ""
        self._answered = time.monotonic()
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

    @property
    def alive(self) -> bool:
        """Whether the background thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def watch(self, ensemble: str, listener: Listener, period: float = 1.0) -> Subscription:
        """Call `listener(snapshot)` now, at changes (at most once in `period` seconds) and when all is done.

        The first call is made here, in the caller's thread; the later ones in the monitor's. After a
        snapshot that is `done` the listener is taken out. An exception in a listener is logged.
        """
        with self._lock:
            tracker = self._trackers.get(ensemble)
        if tracker is None:
            tracker = Tracker(self._engine, ensemble)
            tracker.catch_up()
        first = tracker.snapshot(self._engine.allocations())
        subscription = Subscription(self, tracker, listener, period)
        _tell(subscription, first)
        if first.done:
            return subscription
        with self._lock:
            subscription.tracker = self._trackers.setdefault(ensemble, tracker)
            self._subscriptions.append(subscription)
            self._all[self._key] = self
            if not self.alive:
                self._thread = threading.Thread(target=self._run, name=f"balsam-monitor-{self._key[1]}", daemon=True)
                self._thread.start()
        self._wake.set()
        return subscription

    def wake(self) -> None:
        """Have the thread look at once who is to be told when."""
        self._wake.set()

    def remove(self, subscription: Subscription) -> None:
        """Take a listener out; the thread ends by itself when none is left."""
        with self._lock:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)
                name = subscription.tracker.ensemble
                if not any(other.tracker.ensemble == name for other in self._subscriptions):
                    self._trackers.pop(name, None)
                    self._admitted.discard(name)
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
                    self._all.pop(self._key, None)
                    return
                trackers = list(self._trackers.values())
                due = min(subscription.due for subscription in self._subscriptions)
            try:
                changed = self._read(trackers, max(0.0, due - time.monotonic()))
                self._answered = time.monotonic()
                self._notify(changed, self._engine.allocations(), "")
            except Exception as error:
                # Whatever the engine meets (a full disk, a lost network), the views go on and say so.
                log.warning("monitor of %s: %s", self._key[1], error)
                self._notify([], [], str(error).partition("\n")[0] or type(error).__name__)
                self._wake.wait(pause)
                pause = min(2 * pause, 30.0)
                continue
            pause = SETTLE_S
            if changed:
                self._wake.wait(SETTLE_S)

    def _read(self, trackers: list[Tracker], timeout: float) -> list[Tracker]:
        changed: list[Tracker] = []
        for tracker in trackers:
            tracker.engine = self._engine
            if tracker.ensemble not in self._admitted:
                # It was read up to some moment in another thread: close the gap to this one's stream.
                reached = tracker.catch_up()
                self._cursor = self._cursor or reached
                self._admitted.add(tracker.ensemble)
                changed.append(tracker)
        page = self._engine.events(self._cursor, 0.0 if changed else min(timeout, 1.0))
        self._cursor = page.cursor
        for tracker in trackers:
            if page.reset:
                tracker.restart()
            if (tracker.feed(page.rows, page.cursor) or page.reset) and tracker not in changed:
                changed.append(tracker)
        return changed

    def _notify(self, changed: list[Tracker], allocations: list[Allocation], error: str) -> None:
        now = time.monotonic()
        with self._lock:
            subscriptions = list(self._subscriptions)
        for subscription in subscriptions:
            tracker = subscription.tracker
            if tracker in changed:
                subscription.changed = True
                subscription.wait = subscription.period
            counts = tracker.history.counts()
            done = not error and not (counts["WAITING"] or counts["RUNNING"])
            if now < subscription.due and not done:
                continue
            if not subscription.changed:
                if not error:
                    tracker.catch_up()
                subscription.wait = min(1.5 * subscription.wait, max(IDLE_S, subscription.period))
            subscription.told_at = now
            subscription.changed = False
            told = tracker.snapshot(allocations, now - self._answered, error)
            _tell(subscription, told)
            if told.done:
                subscription.close()


def _tell(subscription: Subscription, told: Snapshot) -> None:
    try:
        subscription.listener(told)
    except Exception:
        log.exception("a listener of ensemble %r failed", told.ensemble)
