"""What jobs did over time, summed up: the values in which an engine tells of many events at once."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from .models import JOB_STATES

_UP_TO_RUNNING = frozenset(JOB_STATES[: JOB_STATES.index("RUNNING") + 1])


class Step(NamedTuple):
    """`number` jobs went from one job state ("" if new) to another ("" if deleted) at about `time`.

    Each of them takes `nodes` nodes while it runs.
    """

    left: str
    reached: str
    time: float
    number: int
    nodes: float


class Nodes(NamedTuple):
    """What jobs take of a site's nodes while they run: `each`, but for those in `of`, by id."""

    each: float = 1.0
    of: Mapping[int, float] = {}


class Past(NamedTuple):
    """All that events up to a cursor did to the jobs of a site or an ensemble, summed up in bins of time.

    Bin `i` covers `width` seconds from ``start + i * width``; a step's time lies within its bin. `start` is the time of
    the first event, None where there is none; `seq` numbers the last.
    """

    cursor: str
    seq: int
    start: float | None
    width: float
    steps: list[Step]
    ids: list[range]
    """The jobs it is about, ascending; a site's are all there can be."""
    counts: dict[str, int]
    """How many of them there are, by job state."""
    nodes: Nodes
    """What they take; where not all take the same, `of` holds those that run now."""
    generation: int | None = None


@lru_cache(maxsize=1000)
def steps(path: tuple[str, ...]) -> tuple[tuple[str, str, bool], ...]:
    """The steps of an event's path: the state left, the state reached, and whether that was at the event's end time."""
    return tuple((left, reached, reached not in _UP_TO_RUNNING) for left, reached in pairwise(path))


@lru_cache(maxsize=1000)
def runs(path: tuple[str, ...]) -> tuple[bool, bool]:
    """Whether a job begins to run on this path, and whether it stops."""
    return "RUNNING" in path[1:], "RUNNING" in path[:-1]
