"""A launcher's work in hand: jobs, and the lines they wait in."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from ....models import Resources
from ..store.work import Work
from .placement import Need

if TYPE_CHECKING:
    from .prepare import App
    from .slot import Channel, Slot

AHEAD_S = 0.06  # a slot is given work for about so long
STOCK_S = 0.15  # and the launcher holds work for about so long
MOST_AHEAD, MOST_STOCK = 1000, 1000  # in jobs, for each slot
FIRST = 500  # jobs fetched at first


class Job:
    """A job this launcher holds."""

    __slots__ = ("app", "channel", "kill_wait", "killing", "line", "over", "slot", "state", "work")

    def __init__(self, work: Work, line: Line) -> None:
        self.work = work
        self.line = line
        self.app: App | None = None
        self.slot: Slot | None = None
        self.channel: Channel | None = None
        self.state = work.state  # as stored
        self.killing = False
        self.kill_wait: float | None = None  # seconds from SIGTERM to SIGKILL; None: never
        self.over: threading.Event | None = None  # for who kills it: it has ended, or was given back

    def is_over(self) -> None:
        if self.over is not None:
            self.over.set()


class Line:
    """Jobs that need the same, in the order of their submission, and the slots that run such jobs now."""

    def __init__(self, shape_id: int, asked: Resources, what: Need, rank: tuple[int, ...], capacity: int) -> None:
        self.shape_id = shape_id
        self.asked = asked
        self.need = what
        self.rank = rank  # its place in the site's order
        self.capacity = capacity  # jobs at a time when nothing else runs
        self.specs: list[int] | None = None  # those to take; None: all of the shape
        self.launch: list[str] | None = None  # the words that start its ranks, once they are known
        self.backlog: deque[Job] = deque()
        self.slots: list[Slot] = []
        self.more = False  # the store may have more of them
        self.flowing = False  # the last check-out brought as many as were wanted
        self.mean_s = 0.0  # of recent runs, an exponential average

    @property
    def turn(self) -> tuple[tuple[int, ...], int]:
        """Sorts the lines: by the site's order, within equals first submitted first."""
        return self.rank, self.backlog[0].work.id if self.backlog else 0

    def ran(self, runtime_s: float, number: int = 1) -> None:
        """So many of its jobs have run, for so long on average."""
        kept = 0.8**number
        self.mean_s = runtime_s if not self.mean_s else kept * self.mean_s + (1 - kept) * runtime_s

    @property
    def depth(self) -> int:
        """How many jobs to hand to a slot."""
        return int(min(MOST_AHEAD, max(1.0, AHEAD_S / self.mean_s))) if self.mean_s else 1

    @property
    def share(self) -> int:
        """How many jobs a slot should have at the most: what is left is shared out evenly."""
        handed = sum(slot.handed for slot in self.slots)
        return min(self.depth, -(-(len(self.backlog) + handed) // self.capacity))

    @property
    def low(self) -> bool:
        """Whether more should be fetched while the slots are still busy with what they have."""
        return bool(self.slots) and len(self.backlog) <= self.stock // 2

    @property
    def stock(self) -> int:
        """How many jobs to hold in all that have not been handed to a slot."""
        return self.capacity * int(min(MOST_STOCK, max(1.0, STOCK_S / self.mean_s if self.mean_s else 1.0)))

    @property
    def wanted(self) -> int:
        """How many jobs to check out now."""
        stock = self.stock
        if not self.more or len(self.backlog) > stock // 2:
            return 0
        if stock > FIRST and not self.flowing:
            return FIRST  # so that work begins while more is fetched
        return stock - len(self.backlog)
