"""A partition of an allocation: its nodes, its job mode, the jobs it takes, and the slots it feeds with them."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ....models import Resources
from ..sessions import is_full
from ..store import work
from .lines import Job, Line
from .mpi import flavour, launch_line
from .nodes import NodeWorkers
from .placement import ORDERS, Nodes, Place, need
from .slot import Slot, Start, local

if TYPE_CHECKING:
    from .pilot import Pilot


class Partition:
    """Decides which jobs are checked out, where each runs, and which come first."""

    def __init__(
        self, pilot: Pilot, job_mode: str, nodes: Nodes, filter_tags: Mapping[str, str], wf_filter: str
    ) -> None:
        self.pilot = pilot
        self.job_mode = job_mode
        self.nodes = nodes
        self.filter_tags = dict(filter_tags)
        self.wf_filter = wf_filter
        self.lines: dict[int, Line] = {}
        self.spec_ids: dict[int, list[int]] = {}  # by shape, the specs whose tags match; kept where there is a filter
        self.slots: list[Slot] = []
        self.workers = self._workers() if job_mode == "serial" else None

    def _workers(self) -> NodeWorkers:
        """In job mode serial: a worker on every node, which starts the slot processes there."""
        settings, count = self.pilot.settings, len(self.nodes.nodes)
        mpi: list[str] = []
        if settings.serial_via_mpi:
            path = settings.mpi_launcher
            mpi = launch_line(flavour(path), path, nodes=count, ranks_per_node=1)
        return NodeWorkers(count, self.pilot.environment, settings.worker_launch, mpi)

    # -- which jobs ---------------------------------------------------------------------------------------

    @property
    def filters(self) -> bool:
        return bool(self.filter_tags or self.wf_filter)

    def learn_shape(self, shape_id: int, asked: Resources) -> None:
        """A new kind of jobs: make a line for it, if such jobs can run here."""
        settings = self.pilot.settings
        what = need(asked, settings)
        capacity = self.nodes.capacity(what)
        several = what.nodes * what.ranks > 1
        if capacity and not (several and (self.job_mode == "serial" or not settings.mpi_launcher)):
            self.lines[shape_id] = Line(shape_id, asked, what, ORDERS[settings.sort_by](what), capacity)

    def learn_spec(self, spec_id: int, shape_id: int, tags: Mapping[str, str]) -> None:
        if self.filters and self.filter_tags.items() <= tags.items() and self.wf_filter in tags.get("workflow", ""):
            self.spec_ids.setdefault(shape_id, []).append(spec_id)

    def look(self, con: sqlite3.Connection, shapes: list[int], remaining_s: float) -> None:
        """Note which lines have jobs in the store that can end before the allocation does."""
        for line in self.lines.values():
            line.more = False
        ready = set(work.ready_specs(con)) if self.filters and shapes else None
        for line in (self.lines[shape_id] for shape_id in shapes if shape_id in self.lines):
            if line.need.minutes * 60 > remaining_s:
                continue
            if ready is not None:
                line.specs = [spec for spec in self.spec_ids.get(line.shape_id, ()) if spec in ready]
                line.more = bool(line.specs)
            else:
                line.more = True

    def wishes(self) -> list[tuple[Line, int]]:
        """Lines and how many jobs to check out for each, first things first.

        A line whose jobs can neither start nor follow one of their kind gets none, but for the first such: its
        job is held so that nodes are kept free for it.
        """
        wishes, held = [], False
        for line in sorted(self.lines.values(), key=lambda line: line.rank):
            wanted = line.wanted
            if line.slots or (wanted and self.nodes.fits(line.need)):
                if wanted:
                    wishes.append((line, wanted))
            elif line.backlog or (wanted and not held):
                held = True
                if not line.backlog:
                    wishes.append((line, 1))
        return wishes

    @property
    def hungry(self) -> bool:
        """Whether something idles, or soon will, that jobs in the store could use."""
        return any(
            line.more and (line.low or (not line.backlog and self.nodes.fits(line.need)))
            for line in self.lines.values()
        )

    # -- where and when -----------------------------------------------------------------------------------

    def feed(self) -> None:
        """Hand what waits to slots: what comes first in the site's order takes what is idle first."""
        waiting = [line for line in self.lines.values() if line.backlog]
        for slot in self.slots:
            if slot.line is not None and not slot.handed and not (slot.line.backlog and len(waiting) == 1):
                self.vacate(slot)
        if not waiting:
            return
        self.nodes.reserve_none()
        waiting.sort(key=lambda line: line.turn)
        for number, line in enumerate(waiting):
            for slot in sorted(line.slots, key=lambda slot: len(slot.spawner.jobs)):
                if line.backlog and not self.nodes.reserved(slot.place):
                    self.pilot.handing.fill(slot, line)
            while line.backlog and self.occupy(line):
                pass
            if line.backlog and number + 1 < len(waiting):
                self.make_way(line, waiting[number + 1 :])

    def occupy(self, line: Line) -> bool:
        """Give the line one more slot and fill it; False if nothing suitable is idle."""
        place = self.nodes.place(line.need)
        if place is None:
            return False
        slot = self.idle_slot(place)
        try:
            slot.occupy(line, place)
        except OSError as error:
            if not is_full(error):
                raise
            self.nodes.release(place)
            return False
        line.slots.append(slot)
        self.pilot.handing.fill(slot, line)
        return True

    def idle_slot(self, place: Place) -> Slot:
        """A slot of the place's (first) node that runs nothing, rather one that had the same cores before."""
        idle = [slot for slot in self.slots if slot.line is None and slot.node == place.nodes[0]]
        if idle:
            return max(idle, key=lambda slot: (slot.place.cores == place.cores, slot.spawner.ready))
        slot = self.pilot.new_slot(place.nodes[0], self._starter(place.nodes[0]))
        self.slots.append(slot)
        return slot

    def _starter(self, node: int) -> Start:
        if self.workers is None:
            return local
        number = [one.number for one in self.nodes.nodes].index(node)
        return functools.partial(self.workers.start, number)

    def vacate(self, slot: Slot) -> None:
        """Give back what an idle slot has."""
        assert slot.line is not None
        slot.line.slots.remove(slot)
        slot.line = None
        self.nodes.release(slot.place)

    def make_way(self, line: Line, later: list[Line]) -> None:
        """Let the nodes run dry on which only jobs that come later are in the way of this line's."""
        in_the_way = [slot for slot in self.slots if slot.line in later]
        for slot in in_the_way:
            self.nodes.release(slot.place)
        self.nodes.reserve(line.need, len(line.backlog))
        for slot in in_the_way:
            self.nodes.take(slot.place)

    # -- bookkeeping --------------------------------------------------------------------------------------

    def drop_backlog(self) -> list[Job]:
        """Empty the lines; the jobs that waited in them."""
        dropped = [job for line in self.lines.values() for job in line.backlog]
        for line in self.lines.values():
            line.backlog.clear()
        return dropped
