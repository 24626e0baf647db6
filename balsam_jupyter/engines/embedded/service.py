"""The service of a site: ``python -m balsam_jupyter.engines.embedded.service --site DIRECTORY``.

It asks for allocations while work waits that none covers (Balsam's elastic queue), and lets them end by themselves
when they are idle. All it knows is in the store: killed and started again, it goes on as if nothing had happened.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...errors import BalsamJupyterError, OverLimit
from ...models import TERMINAL, Allocation, AllocationRequest, Query, ServiceSettings
from .doorbell import Listener
from .engine import EmbeddedEngine
from .launcher.placement import footprint
from .service_control import LOCK_VARIABLE, ServiceControl
from .signals import stopped_by
from .store import demand, records
from .store.demand import Demand

_LOOK_S = 1.0  # how often it looks after the site, as anyone who waits does
_AGAIN_S = 10.0  # how often it looks at the work if no bell rang
_SHORT_S = 10.0  # an allocation that ended sooner and had run nothing had something wrong
_BACK_OFF_S = (5.0, 600.0)
_TINY = 1e-6


class Service:
    """Decides what to ask for. `say` gets a line for each thing it does, with the reason."""

    def __init__(self, engine: EmbeddedEngine, settings: ServiceSettings, say: Callable[[str], None]) -> None:
        self.engine, self.settings = engine, settings
        self._write = say
        self._said: dict[str, str] = {}
        self._live: dict[int, float] = {}  # allocations it asked for, and since when it knows of them
        self._failures = 0
        self._not_before = 0.0

    def run(self, *signals: signal.Signals) -> None:
        """Until one of the signals; it can be killed at any time."""
        ear = Listener(self.engine.folder)
        told = ", ".join(f"{key}={value}" for key, value in vars(self.settings).items() if value not in ({}, ""))
        self._write(f"the service of site {self.engine.site.name!r} runs: process {os.getpid()}, {told}")
        self.engine.bell.ring()  # whoever started it waits for this
        with stopped_by(*signals, wake=self.engine.bell.ring) as stop:
            news, last = True, -math.inf
            while not stop and self._site_is_there():
                now = time.monotonic()
                if now - last >= (self.settings.period if news else _AGAIN_S) and now >= self._not_before:
                    news, last = False, now
                    self._try(self.decide)
                news |= ear.wait(min(_LOOK_S, max(0.01, last + self.settings.period - now)) if news else _LOOK_S)
                self._try(self.engine.look_after)
        ear.close()
        why = f"it received {stop.name}" if stop else f"{self.engine.path} is gone"
        self._write(f"the service ends: {why}; its allocations go on: {self._names() or 'there are none'}")

    def _site_is_there(self) -> bool:
        return self.engine.store.path.exists()

    def _names(self) -> str:
        return ", ".join(map(str, self._live))

    def _try(self, call: Callable[[], None]) -> None:
        try:
            call()
        except BalsamJupyterError as error:  # the disk is full, the store is locked, the template is broken
            self._not_before = time.monotonic() + _BACK_OFF_S[0]
            self.say(call.__name__, f"{error} Trying again every {_BACK_OFF_S[0]:g} s.")
        else:
            self._said.pop(call.__name__, None)

    def _wait_longer(self, why: str) -> None:
        pause = min(_BACK_OFF_S[1], _BACK_OFF_S[0] * 2**self._failures)
        self._failures += 1
        self._not_before = time.monotonic() + pause
        self._write(f"{why}; next try in {pause:g} s")

    def say(self, topic: str, text: str, changes: str = "") -> None:
        """Write a line, unless the last one on that topic had the same reason."""
        if self._said.get(topic) != (changes or text):
            self._said[topic] = changes or text
            self._write(text)

    # -- one decision -------------------------------------------------------------------------------------

    def decide(self) -> None:
        """Ask for an allocation if there is work that no live one covers, and room for one."""
        asked = self.settings
        live = records.allocations(self.engine.store.con, unended=True)
        self._note_ends(live)
        if time.monotonic() < self._not_before:
            return
        jobs, need, widest = self._uncovered(live)
        if not jobs:
            self._said.pop("wait", None)
            return
        work = f"{jobs:,} {'job waits' if jobs == 1 else 'jobs wait'} ({_worth(need)})"
        ours = [one for one in live if one.request.by_service]
        room = asked.max_nodes - sum(one.request.num_nodes for one in ours)
        least = max(asked.min_nodes, widest)
        queued = sum(one.state == "queued" for one in ours)
        if room < least:
            use = f"{asked.max_nodes - room} of max_nodes={asked.max_nodes} nodes are asked for already"
            self.say("wait", f"asked for nothing more: {use}, and {work}", f"room {room}")
            return
        if queued >= asked.max_queued:
            use = f"{queued} of max_queued={asked.max_queued} allocations are queued"
            self.say("wait", f"asked for nothing more: {use}, and {work}", "queued")
            return
        nodes = min(room, max(least, math.ceil(need - _TINY)))
        request = AllocationRequest(
            nodes, asked.wall_time_min, asked.job_mode, asked.queue, asked.project,
            filter_tags=asked.filter_tags, wf_filter=asked.wf_filter, by_service=True,
        )  # fmt: skip
        try:
            given = self.engine.allocate(request)
        except OverLimit as error:
            self.say("wait", f"asked for nothing more: {error}", "limit")
            return
        self._live[given.id] = time.monotonic()
        self._said.pop("wait", None)
        size = "1 node" if nodes == 1 else f"{nodes} nodes"
        self._write(f"asked for allocation {given.id}: {size}, {asked.wall_time_min:g} min, because {work}")

    def _note_ends(self, live: list[Allocation]) -> None:
        there = {one.id for one in live if one.request.by_service}
        now = time.monotonic()
        for number in [number for number in self._live if number not in there]:
            lived = now - self._live.pop(number)
            ended = records.allocation(self.engine.store.con, number)
            why = "; ".join(ended.status_info.values()) or ended.state
            self._write(f"allocation {number} has ended: {why}")
            if ended.state == "submit_failed" or (lived < _SHORT_S and not self._ran_something(number)):
                self._wait_longer(f"allocation {number} was over before it had run anything")
            else:
                self._failures = 0
        for number in there:
            self._live.setdefault(number, now)

    def _ran_something(self, number: int) -> bool:
        return bool(self.engine.jobs(Query(batch_job_id=number, states=tuple(TERMINAL), limit=1)))

    def _uncovered(self, live: list[Allocation]) -> tuple[int, float, int]:
        """Jobs that no live allocation has nodes for, the nodes' worth of them, and the nodes of the largest."""
        free = {one.id: float(one.request.num_nodes) for one in live if one.state in ("queued", "running")}
        for number, wants, jobs in demand.running(self.engine.store.con):
            if number in free:
                free[number] -= jobs * footprint(wants, self.engine.settings)
        total, need, widest = 0, 0.0, 0
        groups = [group for group in demand.waiting(self.engine.store.con) if self._is_for_us(group)]
        for group in sorted(groups, key=lambda group: -group.resources.num_nodes):
            each, left = footprint(group.resources, self.engine.settings), group.number
            for one in live:
                if left and one.id in free and takes(one.request, group, one.remaining_s):
                    fit = min(left, math.floor(max(0.0, free[one.id]) / each + _TINY))
                    free[one.id] -= fit * each
                    left -= fit
            if left:
                total, need, widest = total + left, need + left * each, max(widest, group.resources.num_nodes)
        return total, need, widest

    def _is_for_us(self, group: Demand) -> bool:
        """Whether an allocation this service may ask for could run these; says why not, where it may surprise."""
        asked, wants = self.settings, group.resources
        largest = AllocationRequest(
            asked.max_nodes, asked.wall_time_min, asked.job_mode,
            filter_tags=asked.filter_tags, wf_filter=asked.wf_filter,
        )  # fmt: skip
        if takes(largest, group):
            return True
        if matches(asked.filter_tags, asked.wf_filter, group.tags):
            if wants.num_nodes > asked.max_nodes:
                why = f"they want {wants.num_nodes} nodes, and max_nodes={asked.max_nodes}"
            elif wants.wall_time_min > asked.wall_time_min:
                why = f"they want {wants.wall_time_min} min, and wall_time_min={asked.wall_time_min:g}"
            else:
                why = "they have several ranks, and job_mode='serial' runs none such"
            self.say(f"not ours: {why}", f"{group.number:,} jobs are left to others: {why}", why)
        return False


def matches(filter_tags: Mapping[str, str], wf_filter: str, tags: Mapping[str, str]) -> bool:
    """Whether jobs with these tags are wanted."""
    return filter_tags.items() <= tags.items() and wf_filter in tags.get("workflow", "")


def takes(request: AllocationRequest, group: Demand, remaining_s: float | None = None) -> bool:
    """Whether an allocation (with so much time left), or one of its partitions, may run jobs of this kind."""
    wants = group.resources
    time_s = request.wall_time_min * 60 if remaining_s is None else remaining_s
    whole = {"job_mode": request.job_mode, "num_nodes": request.num_nodes, "filter_tags": {}}
    parts: tuple[Mapping[str, Any], ...] = request.partitions or (whole,)
    return wants.wall_time_min * 60 <= time_s and any(
        wants.num_nodes <= part["num_nodes"]
        and (part["job_mode"] == "mpi" or wants.num_nodes * wants.ranks_per_node == 1)
        and matches({**request.filter_tags, **part["filter_tags"]}, request.wf_filter, group.tags)
        for part in parts
    )


def _worth(nodes: float) -> str:
    return "1 node's worth" if nodes <= 1 else f"{math.ceil(nodes - _TINY):,} nodes' worth"


def _print(text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk must not end it
        print(time.strftime("%F %T"), text, flush=True)


def main() -> int:
    from .launcher.__main__ import forget_python_path

    parser = argparse.ArgumentParser(prog="service", description=__doc__)
    parser.add_argument("--site", type=Path, required=True)
    path = parser.parse_args().site
    forget_python_path()
    lock = os.environ.pop(LOCK_VARIABLE, "")
    if not lock:
        sys.exit("The service is started by: balsam-jupyter service start")
    os.set_inheritable(int(lock), False)  # held by this process, not by the launchers it starts
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # it outlives the login it came from
    engine = EmbeddedEngine.open(path=str(path))
    control = ServiceControl(engine)
    settings = control.settings()
    control.write(settings, os.getpid())
    Service(engine, settings, _print).run(signal.SIGTERM, signal.SIGINT)
    control.write(settings)
    engine.bell.ring()
    engine.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
