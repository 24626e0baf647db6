"""Task states of one ensemble over time, in a fixed number of bins, from an engine's events."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate, zip_longest

from .models import TASK_STATE, TASK_STATES, EventRow
from .past import Nodes, Step, runs, steps

BINS = 300
"""Most bins a picture has, however long the run and however many the tasks."""
WIDTH = 0.05
"""Seconds of a bin at first; it doubles whenever all bins are used."""

ENDED = ("FINISHED", "FAILED", "USER_KILLED")
ONE = Nodes()
"""Every task takes a node."""


@dataclass(frozen=True)
class Series:
    """Numbers of tasks by task state at the ends of equal bins.

    Bin `i` covers `width` seconds from ``start + i * width`` (seconds since the epoch). `busy` are the nodes in use at
    the end of each bin (a task that shares a node counts as its share), `ended` how many tasks ended within each.
    """

    start: float = 0.0
    width: float = 1.0
    counts: dict[str, list[int]] = field(default_factory=lambda: {state: [] for state in TASK_STATES})
    busy: list[float] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.counts["WAITING"])

    @property
    def end(self) -> float:
        """The end of the last bin, in seconds since the epoch."""
        return self.start + len(self) * self.width


class History:
    """A histogram of state changes: memory is that of the picture, not of the run.

    A bin holds how much each number changed in it, so changes may come in any order of time. When all bins are used,
    neighbours are merged and the width doubles.
    """

    def __init__(self, width: float = WIDTH, start: float | None = None) -> None:
        self.start = start
        self.width = width
        self._bins = 0
        self._ended: list[int] = []
        self._deltas: dict[str, list[int]] = {state: [] for state in TASK_STATES}
        self._totals = dict.fromkeys(TASK_STATES, 0)
        # Tasks that run, by the nodes each takes: whole numbers add up exactly, however many come and go.
        self._running: dict[float, list[int]] = {}

    def add(self, time: float, left: str, reached: str, number: int = 1) -> None:
        """Note that `number` tasks went from one task state ("" if new) to another ("" if deleted) at `time`."""
        at = self._bin(time)
        for state, change in ((left, -number), (reached, number)):
            if state:
                self._deltas[state][at] += change
                self._totals[state] += change
        if reached in ENDED and left and left not in ENDED:
            self._ended[at] += number

    def use(self, time: float, nodes: float, number: int = 1) -> None:
        """Note that `number` tasks began (negative: stopped) to take `nodes` nodes each at `time`."""
        at = self._bin(time)
        if nodes not in self._running:
            self._running[nodes] = [0] * self._bins
        self._running[nodes][at] += number

    def step(self, step: Step) -> None:
        """Note that jobs went from one job state to another."""
        left, reached, time, number, nodes = step
        before, after = TASK_STATE.get(left, ""), TASK_STATE.get(reached, "")
        if before != after:
            self.add(time, before, after, number)
        if reached == "RUNNING":
            self.use(time, nodes, number)
        elif left == "RUNNING":
            self.use(time, nodes, -number)

    def begin(self) -> None:
        """Take what was noted so far for what was before: it counts, but it is not what ended in the first bin."""
        self._ended[:1] = [0] * len(self._ended[:1])

    def counts(self) -> dict[str, int]:
        """Numbers by task state, now."""
        return dict(self._totals)

    def series(self, until: float | None = None) -> Series:
        """The picture, up to the last change or to the time `until` if that is later."""
        if self.start is None:
            return Series()
        if until is not None:
            self._bin(until)
        counts = {state: list(accumulate(deltas)) for state, deltas in self._deltas.items()}
        busy = [0.0] * self._bins
        for nodes, deltas in sorted(self._running.items()):
            busy = [use + nodes * number for use, number in zip(busy, accumulate(deltas), strict=True)]
        return Series(self.start, self.width, counts, busy, self._ended[:])

    def _bin(self, time: float) -> int:
        if self.start is None:
            self.start = time
        # A clock set back must not lose a change: what would lie before the start goes to the first bin.
        at = max(0, int((time - self.start) / self.width))
        if at < self._bins:
            return at
        rows = [*self._deltas.values(), *self._running.values(), self._ended]
        while at >= BINS:
            self.width *= 2
            for row in rows:
                row[:] = map(sum, zip_longest(row[::2], row[1::2], fillvalue=0))
            self._bins = len(self._ended)
            at = int((time - self.start) / self.width)
        missing = at + 1 - self._bins
        if missing > 0:
            for row in rows:
                row.extend([0] * missing)
            self._bins += missing
        return at


class Ranges:
    """A set of ids kept as sorted, disjoint, inclusive ranges."""

    def __init__(self, ids: Iterable[range] = ()) -> None:
        self._first: list[int] = []
        self._last: list[int] = []
        for some in ids:
            self.append(some.start, some.stop - 1)

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in zip(self._first, self._last, strict=True))

    def append(self, first: int, last: int) -> None:
        """Add a range that lies after all others."""
        if self._last and first == self._last[-1] + 1:
            self._last[-1] = last
        else:
            self._first.append(first)
            self._last.append(last)

    def overlap(self, first: int, last: int) -> int:
        """How many ids from `first` to `last` are in the set."""
        if first == last:
            at = bisect_right(self._first, first) - 1
            return int(at >= 0 and first <= self._last[at])
        found = 0
        at = max(0, bisect_right(self._first, first) - 1)
        while at < len(self._first) and self._first[at] <= last:
            found += max(0, min(last, self._last[at]) - max(first, self._first[at]) + 1)
            at += 1
        return found


class Running:
    """What each job that runs takes of the site's nodes, kept from its start to its end so that both agree.

    Only those are kept that take something else than `each`.
    """

    def __init__(self, nodes: Nodes = ONE) -> None:
        self.each = nodes.each
        self._others = {job_id: share for job_id, share in nodes.of.items() if share != nodes.each}

    def passes(self, job_id: int, path: tuple[str, ...], nodes: Nodes) -> float:
        """What a job takes that passes along `path`: as `nodes` has it if it begins to run, else as at its start."""
        begins, stops = runs(path)
        if not begins:
            return self._others.pop(job_id, self.each) if stops else self.each
        share = nodes.of.get(job_id, nodes.each)
        if not stops and share != self.each:
            self._others[job_id] = share
        return share


def apply(history: History, event: EventRow, ids: Ranges, running: Running | None = None, nodes: Nodes = ONE) -> bool:
    """Add to `history` what `event` did to the tasks in `ids`; False if it did nothing to them.

    `nodes` has what those take that begin to run; `running` what those took that stop.
    """
    number = ids.overlap(event.first_id, event.last_id)
    if not number:
        return False
    running = running or Running(nodes)
    if not event.times and not any(runs(event.path)):
        _go(history, event, (event.time, event.end_time), number, running.each)
        return True
    for job_id in range(event.first_id, event.last_id + 1):
        if ids.overlap(job_id, job_id):
            _go(history, event, event.when(job_id), 1, running.passes(job_id, event.path, nodes))
    return True


def _go(history: History, event: EventRow, times: tuple[float, float], number: int, nodes: float) -> None:
    for left, reached, at_end in steps(event.path):
        history.step(Step(left, reached, times[at_end], number, nodes))
