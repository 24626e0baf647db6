"""What a dashboard sends to its pages: all of a snapshot once, then what has changed; its size is the picture's."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from ..models import TASK_STATES, Allocation
from ..monitor import Snapshot
from .palette import COLOURS

ALLOCATIONS = 30
"""So many of the newest allocations are sent, and all that have not ended."""
_LIVE = ("pending_submission", "queued", "running", "pending_deletion")

Rows = list[Sequence[float]]
Message = dict[str, Any]


class Wire:
    """Remembers what the pages were sent last, and makes the next message from a snapshot.

    A message has a number `seq`, and holds for a page that has seen the one before it or, if `whole`, for any. The
    series travels beside it as float32: for each state in the order of `COLOURS`, then for the nodes in use, the bins
    from `from` to the end. Allocations and failures are in a message only if they differ from what was sent last.
    """

    def __init__(self) -> None:
        self.seq = 0
        self._grid: tuple[float, float] = (0.0, 0.0)
        self._bins: list[tuple[float, ...]] = []
        self._sent: dict[str, Any] = {}

    def next(self, told: Snapshot, failures: Any, whole: bool) -> tuple[Message, bytes]:
        """The next message and its buffer."""
        self.seq += 1
        series = told.series
        bins = list(zip(*rows_of(told), strict=True))
        grid = (series.start, series.width)
        first = 0
        if not whole and grid == self._grid:
            pairs = enumerate(zip(self._bins, bins, strict=False))
            first = next((at for at, (old, new) in pairs if old != new), min(len(self._bins), len(bins)))
        self._grid, self._bins = grid, bins
        message = {
            "seq": self.seq,
            "whole": whole,
            **numbers_of(told),
            "series": {"start": series.start, "width": series.width, "from": first, "bins": len(bins)},
        }
        parts = {"allocations": allocations_of(told.allocations), "failures": failures}
        if told.error:  # the engine says nothing, also of allocations
            del parts["allocations"]
        for name, part in parts.items():
            if whole or self._sent.get(name) != part:
                message[name] = self._sent[name] = part
        buffer = array("f", [value for row in zip(*bins[first:], strict=True) for value in row])
        return message, buffer.tobytes()


def whole(told: Snapshot, failures: Any, seq: int) -> Message:
    """All there is to show, as one value for JSON: what a page begins with."""
    series = told.series
    return {
        "seq": seq,
        "whole": True,
        **numbers_of(told),
        "series": {"start": series.start, "width": series.width, "from": 0, "bins": len(series)},
        "rows": [list(row) for row in rows_of(told)],
        "allocations": allocations_of(told.allocations),
        "failures": failures,
    }


def rows_of(told: Snapshot) -> Rows:
    """The rows of the series: one for each state, then the nodes in use."""
    series = told.series
    return [*(series.counts[state] for state in COLOURS), series.busy]


def numbers_of(told: Snapshot) -> Message:
    """The few numbers that change nearly always."""
    return {
        "counts": {state: told.counts[state] for state in TASK_STATES},
        "rate": told.rate,
        "left": told.remaining_s,
        "time": told.time,
        "age": told.age_s,
        "error": told.error,
        "done": told.done,
        "gone": told.gone,
    }


def lives(allocations: Sequence[Allocation]) -> list[tuple[int, str]]:
    """How far each allocation is: what changes when one begins, ends or is asked for."""
    return [(one.id, one.state) for one in allocations]


def allocations_of(allocations: Sequence[Allocation]) -> list[Message]:
    """Allocations as the page shows them, the newest last."""
    shown = [one for one in allocations[:-ALLOCATIONS] if one.state in _LIVE] + list(allocations[-ALLOCATIONS:])
    return [
        {
            "id": one.id,
            "state": one.state,
            "nodes": one.request.num_nodes,
            "minutes": one.request.wall_time_min,
            "mode": "partitions" if one.request.partitions else one.request.job_mode,
            "start": one.start_time,
            "end": one.end_time,
            "why": "" if one.state in _LIVE else " ".join(one.status_info.values()),
        }
        for one in shown
    ]
