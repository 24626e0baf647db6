"""Where things stand, and why nothing runs when nothing runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from .errors import listing
from .models import RUNNABLE, TASK_STATE, TASK_STATES, Allocation, JobRow, Query

if TYPE_CHECKING:
    from .engines.base import Engine

_LIVE = ("pending_submission", "queued", "running")
_PROCESSED = ("READY", "STAGED_IN", "RUN_ERROR", "RUN_TIMEOUT")
_SHOWN = 6
_SAMPLES = 100
_REASONS = 2
_LATE_S = 120.0
PATIENCE_S = 60.0
"""Tasks that wait beside others that run are not spoken of before."""


@dataclass(frozen=True)
class Status:
    """Tasks by state, allocations, and why nothing runs ("" when something does or nothing waits).

    `stuck` is true where nothing will run until somebody does something about it. `never` tells of tasks that have
    waited for a minute and that none of the allocations can take, while others run or are about to. `notice` is what
    else there is to say of the engine: that it is silent.
    """

    site: str
    ensemble: str | None
    counts: dict[str, int]
    allocations: list[Allocation] = field(default_factory=list)
    why: str = ""
    stuck: bool = False
    notice: str = ""
    never: str = ""

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
        said = [f"Nothing runs: {self.why}"] if self.why else []
        return [*said, *filter(None, (self.never, self.notice))]


def describe(allocation: Allocation) -> str:
    """An allocation in a line."""
    request = allocation.request
    nodes = "1 node" if request.num_nodes == 1 else f"{request.num_nodes} nodes"
    mode = " and ".join(map(_name, request.partitions)) if request.partitions else request.job_mode
    said = f"Allocation {allocation.id}: {allocation.state}, {nodes}, {request.wall_time_min:g} min, {mode}"
    if request.filter_tags or request.wf_filter:
        said += f", only tasks {_wanted(request.filter_tags, request.wf_filter)}"
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
    states = engine.count(Query(ensemble=ensemble))
    counts = task_counts(states)
    allocations = engine.allocations()
    live = [one for one in allocations if one.state in _LIVE]
    shown = live[:_SHOWN] or allocations[-1:]
    why, stuck = "", False
    if counts["WAITING"] and not counts["RUNNING"]:
        why, stuck = _why(engine, ensemble, states, allocations, live)
    never = _never(engine, ensemble, live) if counts["WAITING"] and live and not stuck else ""
    notice = ""
    if (silence := engine.silence) and silence[1] not in why:
        notice = f"What is known is {_time(silence[0])} old: {silence[1]}"
    return Status(engine.site.name, ensemble, counts, shown, why, stuck, notice, never)


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
    engine: Engine,
    ensemble: str | None,
    states: Mapping[str, int],
    allocations: list[Allocation],
    live: list[Allocation],
) -> tuple[str, bool]:
    """Why nothing runs, and whether that stays so."""
    if why := engine.why_waiting():
        return why, engine.silence is None
    kinds = engine.kinds(ensemble)
    family = not kinds and states.get("AWAITING_PARENTS", 0)
    if family and (parents := _ended_parents(engine, ensemble)):
        return parents, True
    if not allocations:
        return f"there is no allocation. {_ask(kinds)}", True
    if not live:
        last = allocations[-1]
        ended = "could not be submitted" if last.state == "submit_failed" else "has ended"
        reason = _reason(last)
        said = f"allocation {last.id} {ended}{f' ({reason})' if reason else ''} and there is no other"
        return f"{said}. {_ask(kinds)}", True
    if not kinds and any(states.get(state) for state in _PROCESSED):
        return f"their hooks and transfers come first{_hooks(engine)}.", False
    if family and not any(states.get(state) for state in RUNNABLE):
        return "its tasks wait for their parents to finish.", False
    fitting = [one for one in live if not kinds or not all(_refusal(kind, one) for kind in kinds)]
    if not fitting:
        return f"{_refusals(kinds, live)}. {_ask(kinds)}", True
    running = [one for one in live if one.state == "running"]
    first = next((one for one in fitting if one.state == "running"), None)
    if first is None:
        queued = fitting[0]
        before = f", behind {_holders(running)}" if running else ""
        return f"allocation {queued.id} is {queued.state.replace('_', ' ')}{before}.", False
    if ensemble is not None and task_counts(engine.count(Query()))["RUNNING"]:
        return f"allocation {first.id} is busy with other tasks; these come after them.", False
    since = time.time() - (first.start_time or time.time())
    late = (f" for {_time(since)}", "; if it does not, log/ of the site says why") if since > _LATE_S else ("", "")
    return f"allocation {first.id} has its nodes{late[0]} and is about to start them{late[1]}.", False


def _never(engine: Engine, ensemble: str | None, live: Sequence[Allocation]) -> str:
    """Why some tasks go on waiting although others run; "" if there are none such, or not for long enough."""
    since = time.time() - PATIENCE_S
    waiting = [kind for kind in engine.kinds(ensemble) if kind.submit_time and kind.submit_time <= since]
    left = [kind for kind in waiting if all(_refusal(kind, one) for one in live)]
    return f"Some tasks wait in vain: {_refusals(left, live)}. {_ask(left)}" if left else ""


def _ask(kinds: Sequence[JobRow]) -> str:
    """How to get an allocation that takes these jobs: those of the widest kind at least, and all if it is in mpi."""
    nodes = max((kind.resources.num_nodes for kind in kinds), default=1)
    minutes = max((kind.resources.wall_time_min for kind in kinds), default=0)
    minutes = 10 if minutes < 10 else minutes + 1  # a job of ten minutes does not fit where some seconds have passed
    several = any(kind.resources.num_nodes * kind.resources.ranks_per_node > 1 for kind in kinds)
    magic = f"%balsam_allocate -n {nodes} -t {minutes}" + (" --job-mode mpi" if several else "")
    call = f"exctr.submit_allocation(site_id, num_nodes={nodes}, wall_time_min={minutes}"
    return f"Ask for one: {magic}, or {call}" + (', job_mode="mpi").' if several else ").")


def _hooks(engine: Engine) -> str:
    """The hooks that run, longest first: one that hangs holds up the others."""
    running = engine.hooks()
    now = time.time()
    named = [f"{run.hook}() of job {run.job_id} for {_time(max(0.0, now - run.since))}" for run in running[:_SHOWN]]
    if not engine.runs_here:
        return "; the site's agent sees to them"
    return f"; running now: {', '.join(named)}" if named else ", and run now"


def _ended_parents(engine: Engine, ensemble: str | None) -> str:
    """What is to be done where tasks wait for parents that failed or were killed; "" where there are none such."""
    children = engine.jobs(Query(ensemble=ensemble, states=("AWAITING_PARENTS",), limit=_SAMPLES))
    ids = tuple(sorted({parent for child in children for parent in child.parent_ids}))
    ended = engine.jobs(Query(ids=ids, states=("FAILED", "USER_KILLED"), limit=_SHOWN)) if ids else []
    if not ended:
        return ""
    named = listing(f"{job.id} ({job.app_name}) is {job.state}" for job in ended)
    numbers = " ".join(str(job.id) for job in ended)
    return f"its tasks wait for their parents, and job {named}. Retry: balsam-jupyter job retry {numbers}"


def _refusals(kinds: Sequence[JobRow], live: Sequence[Allocation]) -> str:
    """Why none of these allocations takes any of these jobs."""
    untagged = [one for one in live if not any(_matches(kind, one, part) for kind in kinds for part in _parts(one))]
    if len(untagged) == len(live):
        wanted = {
            _wanted({**one.request.filter_tags, **part["filter_tags"]}, one.request.wf_filter)
            for one in live
            for part in _parts(one)
        }
        takes = f"allocation {listing(one.id for one in live)} takes only tasks"
        return f"{takes} {listing(sorted(wanted))}; none waits"
    told = [_refusal(kind, one) for one in live for kind in kinds if one not in untagged]
    tag_free = [text for text in told if "takes only tasks" not in text]
    return "; ".join(list(dict.fromkeys(tag_free or told))[:_REASONS])


def _refusal(job: JobRow, allocation: Allocation) -> str:
    """Why an allocation will never run a job; "" if it may."""
    asked, request = job.resources, allocation.request
    left_s = allocation.remaining_s
    if asked.wall_time_min * 60 > (request.wall_time_min * 60 if left_s is None else left_s):
        left = f"{request.wall_time_min:g} min in all" if left_s is None else f"{_time(left_s)} left"
        return f"job {job.id} is expected to take {asked.wall_time_min} min, and allocation {allocation.id} has {left}"
    reasons = []
    for part in _parts(allocation):
        who = f"partition {_name(part)} of allocation {allocation.id}" if request.partitions else ""
        if not (reason := _part_refusal(job, allocation, part, who or f"allocation {allocation.id}")):
            return ""
        reasons.append(reason)
    return ", and ".join(reasons)


def _part_refusal(job: JobRow, allocation: Allocation, part: Mapping[str, Any], who: str) -> str:
    asked, request = job.resources, allocation.request
    if not _matches(job, allocation, part):
        wanted = _wanted({**request.filter_tags, **part["filter_tags"]}, request.wf_filter)
        return f"{who} takes only tasks {wanted}, unlike job {job.id}"
    if part["num_nodes"] < asked.num_nodes:
        return f"job {job.id} needs {asked.num_nodes} nodes at once, more than {who} has"
    ranks = asked.num_nodes * asked.ranks_per_node
    if ranks > 1 and part["job_mode"] == "serial":
        return f"job {job.id} has {ranks} ranks, and {who} is in job mode serial; use mpi"
    return ""


def _matches(job: JobRow, allocation: Allocation, part: Mapping[str, Any]) -> bool:
    wanted = {**allocation.request.filter_tags, **part["filter_tags"]}
    return wanted.items() <= job.tags.items() and allocation.request.wf_filter in job.tags.get("workflow", "")


def _parts(allocation: Allocation) -> tuple[Mapping[str, Any], ...]:
    """The partitions of an allocation, or the whole as the only one."""
    request = allocation.request
    whole = {"num_nodes": request.num_nodes, "job_mode": request.job_mode, "filter_tags": {}}
    return request.partitions or (whole,)


def _name(part: Mapping[str, Any]) -> str:
    """A partition as the command line has it."""
    tags = "".join(f":{key}={value}" for key, value in part["filter_tags"].items())
    return f"{part['job_mode']}:{part['num_nodes']}{tags}"


def _wanted(tags: Mapping[str, str], wf_filter: str) -> str:
    """Which tasks are taken, after the word "tasks"."""
    tagged = f"tagged {_tags(tags)}" if tags else ""
    named = f"with {wf_filter!r} in their tag workflow" if wf_filter else ""
    return " and ".join(text for text in (tagged, named) if text)


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
