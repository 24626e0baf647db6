"""One ensemble, or a whole site, followed through the events of its engine."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .history import BINS, ENDED, WIDTH, History, Ranges, Running, Series, apply
from .models import TASK_STATE, TASK_STATES, Allocation, EventRow, Query
from .past import runs

if TYPE_CHECKING:
    from .engines.base import Engine

PAGE = 10_000
"""Events that are read at a time."""
_LATELY_S = 60.0  # a rate that was seen in this time counts more than that of a picture whose bins may be hours wide
_ENOUGH = 10  # ended tasks, to tell a rate from what was seen
_PAGES = 3  # whoever is further behind begins again: that costs less than to read all of it


@dataclass(frozen=True)
class Snapshot:
    """An ensemble (name "": a whole site) at one moment: numbers and a picture, never a list of its tasks.

    `counts` are by task state; `rate` is in tasks ended per second and `remaining_s` in seconds (None:
    unknown); `age_s` is how long ago the engine last answered, with the reason in `error` if it does not.
    `generation` is that of the ensemble; `gone` says that none is called so any more: it was renamed or deleted.
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
    gone: bool = False

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
        """Whether no task is left to run (and the engine said so just now); never of a site, which may get more."""
        return bool(self.ensemble) and (self.ended == self.total or self.gone) and not self.error


class Tracker:
    """Follows one ensemble, or with the name "" the whole site, through an engine's events.

    Without a `generation`, it is the newest there is, also when there is a newer one later. The picture begins at the
    time `since` (seconds since the epoch) if there was something before.
    """

    def __init__(
        self, engine: Engine, ensemble: str, generation: int | None = None, since: float | None = None
    ) -> None:
        self.engine = engine
        self.ensemble = ensemble
        self.generation = generation
        self.history = History()
        self.ids = Ranges()
        self.wanted = generation
        self.since = since
        self.begun = False
        self.gone = False
        self._running = Running()
        self._seq = -1
        self._cursor = ""
        self._confirmed = -1
        self._seen: deque[tuple[float, int]] = deque()  # when, and how many had ended by then
        self._lock = threading.RLock()

    def catch_up(self) -> str:
        """Read up to the present; returns the cursor reached."""
        with self._lock:
            if not self.begun:
                self.restart()
            for _ in range(_PAGES):
                page = self.engine.events(self._cursor, limit=PAGE)
                if page.reset:
                    self.restart()
                    break
                self.feed(page.rows, page.cursor)
                if len(page.rows) < PAGE:
                    break
            else:
                self.restart()
            self.finished()
            return self._cursor

    def feed(self, rows: list[EventRow], cursor: str) -> bool:
        """Take in events up to `cursor`; those seen already are skipped. Whether any was about these tasks."""
        with self._lock:
            rows = [row for row in rows if row.seq > self._seq]
            if not rows:
                return False
            born = [row for row in rows if row.path[0] == "" and self.ensemble]
            if born and self.wanted is None and self._newest_generation() != self.generation:
                self.restart()
                return True
            self._cursor, self._seq = cursor, rows[-1].seq
            for row in born:
                for ids in self.engine.timeline.members(self.ensemble, self.generation, row.first_id, row.last_id):
                    self.ids.append(ids.start, ids.stop - 1)
            nodes = self.engine.timeline.nodes(self._beginning(rows))
            changed = False
            for row in rows:
                changed |= apply(self.history, row, self.ids, self._running, nodes)
            return changed

    def restart(self) -> None:
        """Begin (again) with all that was up to now."""
        with self._lock:
            past = self.engine.timeline.past(self.ensemble, self.wanted, BINS, WIDTH, self.since)
            self.gone = bool(self.ensemble) and past.start is None and not self.engine.ensembles(self.ensemble)
            if self.gone and self.begun:  # the last that is known of it stays
                self._cursor, self._seq = past.cursor, past.seq
                return
            history = History(past.width, past.start)
            for step in past.steps:
                history.step(step)
            if self.since is not None and past.start == self.since:
                history.begin()
            # What events do not tell (an engine may clear old ones away) is known by the numbers alone.
            now, stored = time.time(), _by_task_state(past.counts)
            for state, number in history.counts().items():
                if stored[state] != number:
                    history.add(now, "", state, stored[state] - number)
            self.history, self.ids, self._running = history, Ranges(past.ids), Running(past.nodes)
            self.generation = past.generation
            self._cursor, self._seq = past.cursor, past.seq
            self.begun = True

    def finished(self) -> bool:
        """Whether no task is left to run: if events say so, the tasks are counted, lest a view stops too early."""
        with self._lock:
            if self.gone:
                return True
            if not self.ensemble or self._left():
                return False
            if self._confirmed == self._seq:
                return True
            stored = self.engine.count(Query(ensemble=self.ensemble, generation=self.generation))
            if _by_task_state(stored) != self.history.counts():
                if self.engine.events(self._cursor, limit=1).rows:
                    return False
                self.restart()
            self._confirmed = self._seq
            return self.gone or not self._left()

    def snapshot(self, allocations: list[Allocation], age_s: float = 0.0, error: str = "") -> Snapshot:
        """The tasks as far as they were read."""
        now = time.time()
        with self._lock:
            counts, left = self.history.counts(), self._left()
            series = self.history.series(now if left or not self.ensemble else None)
            seen = self._seen_rate(time.monotonic(), sum(series.ended))
        rate = (seen or _rate(series, now)) if left else None
        remaining = left / rate if rate else None
        return Snapshot(
            self.ensemble, counts, series, now, allocations, rate, remaining, age_s, error, self.generation, self.gone
        )

    def _seen_rate(self, now: float, ended: int) -> float | None:
        """Tasks ended per second, as it was seen lately; None where too few ended."""
        seen = self._seen
        if seen and ended < seen[-1][1]:
            seen.clear()  # it began again
        if not seen or now - seen[-1][0] >= 1.0:
            seen.append((now, ended))
        while seen and now - seen[0][0] > _LATELY_S:
            seen.popleft()
        if not seen or ended - seen[0][1] < _ENOUGH or now - seen[0][0] < 1.0:
            return None
        return (ended - seen[0][1]) / (now - seen[0][0])

    def _left(self) -> int:
        counts = self.history.counts()
        return counts["WAITING"] + counts["RUNNING"]

    def _newest_generation(self) -> int | None:
        records = self.engine.ensembles(self.ensemble)
        return records[-1].generation if records else None

    def _beginning(self, rows: Iterable[EventRow]) -> Iterator[int]:
        """The tasks that begin to run."""
        for row in rows:
            if runs(row.path)[0] and self.ids.overlap(row.first_id, row.last_id):
                yield from range(row.first_id, row.last_id + 1)


def snapshot(engine: Engine, ensemble: str, generation: int | None = None, since: float | None = None) -> Snapshot:
    """The ensemble (name "": the whole site) as it is now, read once from its engine; no thread is started."""
    tracker = Tracker(engine, ensemble, generation, since)
    tracker.catch_up()
    return tracker.snapshot(engine.allocations())


def _by_task_state(stored: dict[str, int]) -> dict[str, int]:
    counts = dict.fromkeys(TASK_STATES, 0)
    for state, number in stored.items():
        counts[TASK_STATE[state]] += number
    return counts


def _rate(series: Series, now: float) -> float | None:
    """Tasks ended per second, over the last quarter of the time in which tasks ran (at least 10 s)."""
    running = series.counts["RUNNING"]
    active = [at for at in range(len(series)) if series.ended[at] or running[at] or (at and running[at - 1])]
    if not active:
        return None
    spans = [min(series.width, max(0.0, now - (series.start + at * series.width))) for at in active]
    ran = sum(spans)
    wanted = max(ran / 4, min(ran, 10.0))
    seconds, ended = 0.0, 0
    for at, span in zip(reversed(active), reversed(spans), strict=True):
        if seconds >= wanted:
            break
        seconds += span
        ended += series.ended[at]
    return ended / max(seconds, series.width)
