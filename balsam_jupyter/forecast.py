"""How long tasks will take on the allocations there are, with its spread.

Method: tasks start in order, each in the slot that is free first (list scheduling: Graham, SIAM J. Appl. Math. 17,
416, 1969), with run times drawn from those of finished tasks. Each of some hundred trials draws first the sample
itself anew, with replacement, then the tasks from it (the bootstrap: Efron, Ann. Statist. 7, 1, 1979), so the spread
has both the chance of the tasks and how little a small sample knows. Low, middle and high are the 10th, 50th and 90th
percentile. Of many tasks only the last are drawn one by one: before them only the sum counts, which is normal. What
is left out: the time it takes to start a task, and that what is quick to finish is seen first while others still run.
"""

from __future__ import annotations

import heapq
import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .models import Allocation, Resources

_TRIALS = 200
_STEPS = 200_000  # tasks drawn one by one in all trials together
_LOW, _HIGH = 0.1, 0.9


class Span(NamedTuple):
    """When an allocation can run tasks: from `start` to `end`, in seconds from now, so many at a time on its nodes."""

    start: float
    end: float
    slots: int
    nodes: int


@dataclass(frozen=True)
class Forecast:
    """When all tasks will have ended, in seconds from now; in which share of the trials before their allocations."""

    low: float
    middle: float
    high: float
    in_time: float


def spans(live: Sequence[Allocation], nodes: int, wants: Resources, footprint: float) -> dict[int, Span]:
    """When each live allocation runs, by its id; one that waits gets its nodes when those before it have ended.

    Parameters
    ----------
    live : sequence of Allocation
        Those that wait or run, oldest first.
    nodes : int
        Of the site.
    wants : Resources
        Of one task.
    footprint : float
        Nodes that one task takes.
    """
    found: dict[int, Span] = {}
    for one in live:
        request = one.request
        start, length = 0.0, request.wall_time_min * 60
        if one.state == "running":
            length = one.remaining_s or 0.0
        else:
            before = sorted((span.end, span.nodes) for span in found.values())
            free = nodes - sum(taken for _, taken in before)
            while free < request.num_nodes and before:
                start, given = before.pop(0)
                free += given
        apart = wants.num_nodes > 1
        each = request.num_nodes // wants.num_nodes if apart else request.num_nodes * int(1 / footprint + 1e-6)
        found[one.id] = Span(start, start + length, each, request.num_nodes)
    return found


def forecast(sample: Sequence[float], tasks: int, ahead: float, where: Sequence[Span]) -> Forecast:
    """When so many tasks will have ended.

    Parameters
    ----------
    sample : sequence of float
        Run times of finished tasks, in seconds.
    tasks : int
        How many are to run.
    ahead : float
        What runs before them, in slot-seconds.
    where : sequence of Span
        Where they run; one slot at least.
    """
    chance = random.Random(0)  # the same question has the same answer
    slots = sorted((span.start, span.end) for span in where for _ in range(span.slots))
    one_by_one = min(tasks, max(100, 2 * len(slots)), _STEPS // 50)
    trials = max(20, min(_TRIALS, _STEPS // (one_by_one + len(slots))))
    ends, in_time = [], 0
    for _ in range(trials):
        times = chance.choices(sample, k=len(sample))
        many = tasks - one_by_one
        before = ahead + many * statistics.fmean(times)
        before += math.sqrt(many) * statistics.pstdev(times) * chance.gauss(0, 1)
        level = _level(slots, max(0.0, before))
        free = [(max(start, level), end) for start, end in slots]
        heapq.heapify(free)
        last, late = 0.0, False
        for runtime in chance.choices(times, k=one_by_one):
            start, end = free[0]
            done = start + runtime
            heapq.heapreplace(free, (done, end))
            last, late = max(last, done), late or done > end
        ends.append(last)
        in_time += not late
    ends.sort()
    low, middle, high = (ends[round(share * (trials - 1))] for share in (_LOW, 0.5, _HIGH))
    return Forecast(low, middle, high, in_time / trials)


def _level(slots: Sequence[tuple[float, float]], work: float) -> float:
    """Until when slots (earliest first) are busy with so many seconds of work, shared out evenly."""
    level, open_ = slots[0][0], 0
    for start, _ in slots:
        if open_ and (start - level) * open_ >= work:
            break
        work -= (start - level) * open_
        level, open_ = start, open_ + 1
    return level + work / open_
