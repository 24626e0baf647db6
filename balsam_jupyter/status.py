"""Where things stand, and why nothing runs when nothing runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

from .errors import listing
from .models import RUNNABLE, TASK_STATE, TASK_STATES, Allocation, JobRow, Query

if TYPE_CHECKING:
    from .engines.base import Engine

_LIVE = ("pending_submission", "queued", "running")
_WAITING = tuple(state for state, task in TASK_STATE.items() if task == "WAITING")
_PROCESSED = ("READY", "STAGED_IN", "RUN_ERROR", "RUN_TIMEOUT")
_SHOWN = 6
ASK = "Ask for one: %balsam_allocate -n 1 -t 10, or exctr.submit_allocation(site_id, num_nodes=1, wall_time_min=10)."


@dataclass(frozen=True)
class Status:
    """Tasks by state, allocations, and why nothing runs ("" when something does or nothing waits).

    `stuck` is true where nothing will run until somebody asks for an allocation.
    """

    site: str
    ensemble: str | None
    counts: dict[str, int]
    allocations: list[Allocation] = field(default_factory=list)
    why: str = ""
    stuck: bool = False

    def __repr__(self) -> str:
        return "\n".join([f"{self._head()}: {self._tasks()}", *map(describe, self.allocations), *self._why()])

    def _repr_html_(self) -> str:
        cells = "".join(f"<th>{state}</th>" for state in self.counts)
        numbers = "".join(f"<td>{number:,}</td>" for number in self.counts.values())
        lines = "".join(f"<div>{escape(line)}</div>" for line in map(describe, self.allocations))
        why = "".join(f"<div><b>{escape(line)}</b></div>" for line in self._why())
        head = f"<div><b>{escape(self._head())}</b></div>"
        return f"<div>{head}<table><tr>{cells}</tr><tr>{numbers}</tr></table>{lines}{why}</div>"

    def _head(self) -> str:
        return f"Site {self.site!r}" if self.ensemble is None else f"{self.ensemble} at site {self.site!r}"

    def _tasks(self) -> str:
        shown = [f"{number:,} {state}" for state, number in self.counts.items() if number]
        return ", ".join(shown) or "no tasks"

    def _why(self) -> list[str]:
        return [f"Nothing runs: {self.why}"] if self.why else []


def describe(allocation: Allocation) -> str:
    """An allocation in a line."""
    request = allocation.request
    nodes = "1 node" if request.num_nodes == 1 else f"{request.num_nodes} nodes"
    said = f"Allocation {allocation.id}: {allocation.state}, {nodes}, {request.wall_time_min:g} min, {request.job_mode}"
    if request.filter_tags:
        said += f", only tasks tagged {_tags(request.filter_tags)}"
    if allocation.state == "running" and allocation.remaining_s is not None:
        said += f", {_time(allocation.remaining_s)} left"
    if allocation.state not in _LIVE and allocation.status_info:
        said += f" ({_reason(allocation)})"
    return said


def explain(engine: Engine, ensemble: str | None = None) -> Status:
    """Tasks by state, allocations with the time they have left, and why nothing runs.

    Parameters
    ----------
    engine : Engine
        Of the site (``site.engine``).
    ensemble : str, optional
        Count only the tasks of this ensemble.
    """
    counts = task_counts(engine.count(Query(ensemble=ensemble)))
    allocations = engine.allocations()
    live = [one for one in allocations if one.state in _LIVE]
    shown = live[:_SHOWN] or allocations[-1:]
    why, stuck = "", False
    if counts["WAITING"] and not counts["RUNNING"]:
        why, stuck = _why(engine, ensemble, allocations, live)
    return Status(engine.site.name, ensemble, counts, shown, why, stuck)


def queued_behind(engine: Engine, allocation_id: int) -> str:
    """What a queued allocation waits for, as in ``allocation 1 (9 min left)``; "" if its nodes are free."""
    live = [one for one in engine.allocations() if one.state in (*_LIVE, "pending_deletion")]
    mine = next((one for one in live if one.id == allocation_id), None)
    before = [one for one in live if one.id < allocation_id]
    if mine is None or mine.state not in ("queued", "pending_submission"):
        return ""
    taken = sum(one.request.num_nodes for one in before)
    return _holders(before) if taken + mine.request.num_nodes > engine.site.nodes else ""


def task_counts(counts: Mapping[str, int]) -> dict[str, int]:
    """Numbers by task state (all five, in their order) from numbers by job state."""
    tasks = dict.fromkeys(TASK_STATES, 0)
    for state, number in counts.items():
        tasks[TASK_STATE[state]] += number
    return tasks


def _why(
    engine: Engine, ensemble: str | None, allocations: list[Allocation], live: list[Allocation]
) -> tuple[str, bool]:
    """Why nothing runs, and whether that stays so."""
    if not allocations:
        return f"there is no allocation. {ASK}", True
    if not live:
        last = allocations[-1]
        ended = "could not be submitted" if last.state == "submit_failed" else "has ended"
        reason = _reason(last)
        return f"allocation {last.id} {ended}{f' ({reason})' if reason else ''} and there is no other. {ASK}", True
    fitting = [one for one in live if _may_run(engine, ensemble, one)]
    if not fitting:
        wanted = listing(sorted({_tags(tags) for one in live for tags in _filters(one)}))
        return f"allocation {listing(one.id for one in live)} takes only tasks tagged {wanted}; none waits. {ASK}", True
    sample = next(iter(engine.jobs(Query(ensemble=ensemble, states=tuple(RUNNABLE), limit=1))), None)
    if sample is None and engine.count(Query(ensemble=ensemble, states=("AWAITING_PARENTS",))):
        return "its tasks wait for their parents to finish.", False
    if sample is None and engine.count(Query(ensemble=ensemble, states=_PROCESSED)):
        return "their hooks and transfers come first, and run now.", False
    reasons = [_cannot(sample, one) for one in fitting] if sample is not None else []
    if reasons and all(reasons):
        return f"{reasons[0]}. {ASK}", True
    running = [one for one in live if one.state == "running"]
    first = next((one for one in fitting if one.state == "running"), None)
    if first is None:
        queued = fitting[0]
        before = f", behind {_holders(running)}" if running else ""
        return f"allocation {queued.id} is {queued.state.replace('_', ' ')}{before}.", False
    if ensemble is not None and task_counts(engine.count(Query()))["RUNNING"]:
        return f"allocation {first.id} is busy with other tasks; these come after them.", False
    return f"allocation {first.id} runs and is about to start them.", False


def _may_run(engine: Engine, ensemble: str | None, allocation: Allocation) -> bool:
    """Whether some waiting task has the tags an allocation wants."""
    return any(
        not tags or engine.count(Query(ensemble=ensemble, states=_WAITING, tags=tags)) for tags in _filters(allocation)
    )


def _cannot(job: JobRow, allocation: Allocation) -> str:
    """Why an allocation will never run a job, for what the job needs; "" if it may."""
    asked, request = job.resources, allocation.request
    parts = request.partitions or ({"num_nodes": request.num_nodes, "job_mode": request.job_mode},)
    if allocation.remaining_s is not None and asked.wall_time_min * 60 > allocation.remaining_s:
        left = f"allocation {allocation.id} has {_time(allocation.remaining_s)} left"
        return f"job {job.id} is expected to take {asked.wall_time_min} min, and {left}"
    enough = [part for part in parts if part["num_nodes"] >= asked.num_nodes]
    if not enough:
        return f"job {job.id} needs {asked.num_nodes} nodes at once, more than allocation {allocation.id} has"
    ranks = asked.num_nodes * asked.ranks_per_node
    if ranks > 1 and all(part["job_mode"] == "serial" for part in enough):
        return f"job {job.id} has {ranks} ranks, and allocation {allocation.id} is in job mode serial; use mpi"
    return ""


def _filters(allocation: Allocation) -> list[Mapping[str, str]]:
    """The tags wanted by each part of an allocation."""
    request = allocation.request
    parts = request.partitions or ({"filter_tags": {}},)
    return [{**request.filter_tags, **part.get("filter_tags", {})} for part in parts]


def _holders(running: list[Allocation]) -> str:
    return listing(
        f"allocation {one.id}" + ("" if one.remaining_s is None else f" ({_time(one.remaining_s)} left)")
        for one in running
    )


def _reason(allocation: Allocation) -> str:
    return "; ".join(str(text).strip() for text in allocation.status_info.values() if str(text).strip())


def _tags(tags: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in tags.items())


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
