"""Task states of one ensemble over time, in a fixed number of bins, from an engine's events."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field

from .models import JOB_STATES, TASK_STATE, TASK_STATES, EventRow

BINS = 300
"""Most bins a picture has, however long the run and however many the tasks."""

_UP_TO_RUNNING = frozenset(JOB_STATES[: JOB_STATES.index("RUNNING") + 1])
ENDED = ("FINISHED", "FAILED", "USER_KILLED")


@dataclass(frozen=True)
class Series:
    """Numbers of tasks by task state at the ends of equal bins.

    Bin `i` covers `width` seconds from ``start + i * width`` (seconds since the epoch).
    """

    start: float = 0.0
    width: float = 1.0
    counts: dict[str, list[int]] = field(default_factory=lambda: {state: [] for state in TASK_STATES})

    def __len__(self) -> int:
        return len(self.counts["WAITING"])

    @property
    def end(self) -> float:
        """The end of the last bin, in seconds since the epoch."""
        return self.start + len(self) * self.width


class History:
    """A histogram of state changes: memory is that of the picture, not of the run.

    A bin holds how much each state's number changed in it, so changes may come in any order of time.
    When all bins are used, neighbours are merged and the width doubles.
    """

    def __init__(self, width: float = 0.05) -> None:
        self.start: float | None = None
        self.last = 0.0
        self.width = width
        self._deltas: dict[str, list[int]] = {state: [] for state in TASK_STATES}
        self._totals = dict.fromkeys(TASK_STATES, 0)

    def add(self, time: float, left: str, reached: str, number: int = 1) -> None:
        """Note that `number` tasks went from one task state ("" if new) to another ("" if deleted) at `time`."""
        if self.start is None:
            self.start = time
        self.last = max(self.last, time)
        at = self._bin(time)
        for state, change in ((left, -number), (reached, number)):
            if state:
                self._deltas[state][at] += change
                self._totals[state] += change

    def counts(self) -> dict[str, int]:
        """Numbers by task state, now."""
        return dict(self._totals)

    def series(self, until: float | None = None) -> Series:
        """The picture, up to the last change or to the time `until` if that is later."""
        if self.start is None:
            return Series()
        self._bin(max(self.last, until or 0.0))
        counts: dict[str, list[int]] = {}
        for state, deltas in self._deltas.items():
            number = 0
            counts[state] = []
            for change in deltas:
                number += change
                counts[state].append(number)
        return Series(self.start, self.width, counts)

    def _bin(self, time: float) -> int:
        assert self.start is not None
        # A clock set back must not lose a change: what would lie before the start goes to the first bin.
        at = max(0, int((time - self.start) / self.width))
        while at >= BINS:
            self.width *= 2
            for state, deltas in self._deltas.items():
                pairs = zip(deltas[::2], [*deltas[1::2], 0], strict=False)
                self._deltas[state] = [one + two for one, two in pairs]
            at = int((time - self.start) / self.width)
        missing = at + 1 - len(self._deltas["WAITING"])
        if missing > 0:
            for deltas in self._deltas.values():
                deltas.extend([0] * missing)
        return at


class Ranges:
    """A set of ids kept as sorted, disjoint, inclusive ranges."""

    def __init__(self) -> None:
        self._first: list[int] = []
        self._last: list[int] = []

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


def find_ranges(id_at: Callable[[int], int], total: int) -> Ranges:
    """The ranges formed by `total` increasing ids, asking `id_at(position)` for few of them.

    A sweep is stored in one step, so its ids are one range or a few: each is found by halving.
    """
    ranges = Ranges()

    def split(low: int, low_id: int, high: int, high_id: int) -> None:
        if high_id - low_id == high - low:
            ranges.append(low_id, high_id)
            return
        if high - low == 1:
            ranges.append(low_id, low_id)
            ranges.append(high_id, high_id)
            return
        middle = (low + high) // 2
        middle_id = id_at(middle)
        split(low, low_id, middle, middle_id)
        # The middle is in the left half already; the right half starts one further.
        after = middle + 1
        split(after, high_id if after == high else id_at(after), high, high_id)

    if total > 0:
        split(0, id_at(0), total - 1, id_at(total - 1))
    return ranges


def apply(history: History, event: EventRow, ranges: Ranges) -> bool:
    """Add to `history` what `event` did to the tasks whose ids are in `ranges`; False if it did nothing to them."""
    number = ranges.overlap(event.first_id, event.last_id)
    if number and event.times:
        for job_id in range(event.first_id, event.last_id + 1):
            if ranges.overlap(job_id, job_id):
                _pass(history, event.path, *event.when(job_id), 1)
    elif number:
        _pass(history, event.path, event.time, event.end_time, number)
    return number > 0


def _pass(history: History, path: tuple[str, ...], began: float, ended: float, number: int) -> None:
    state = TASK_STATE.get(path[0], "")
    for job_state in path[1:]:
        time = began if job_state in _UP_TO_RUNNING else ended
        reached = TASK_STATE.get(job_state, "")
        if reached != state:
            history.add(time, state, reached, number)
        state = reached
