"""What a submission will cost before it is made, and what an ensemble has cost.

Units: node-hours are nodes × hours; a task that shares its node counts with its share of it. Core-hours are cores asked
for × hours. Times are in seconds.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from .accounts import Load, Run, Usage, check_submission, duration, node_hours, number
from .api_check import node_hour_limit, task_resources, text_map
from .errors import BadInput, listing, many, nearest
from .forecast import Forecast, forecast, spans
from .models import TASK_STATE, TASK_STATES, Allocation, AppRecord, EnsembleRecord, Resources

if TYPE_CHECKING:
    from .accounts import Agree
    from .api import Site

_ENOUGH = 3
"""So many finished tasks tell how long others will take."""
_MOST = 200
_SURE = 0.9
_LIVE = ("pending_submission", "queued", "running")


@dataclass(frozen=True)
class Spent:
    """What tasks of one state have used: `tasks` of them, `node_hours`, `core_hours`, and hours of `run_hours`."""

    tasks: int
    node_hours: float
    core_hours: float
    run_hours: float


@dataclass(frozen=True)
class Price:
    """What tasks will cost, as far as it is known.

    Attributes
    ----------
    app_name : str
        Their app.
    tasks : int
        How many are to run.
    node_hours : float or None
        Node-hours they ask for: tasks × expected run time × nodes ÷ tasks that share a node; None if unknown.
    basis : str
        What that is known from.
    expected_s : tuple of float or None
        When they will have ended on the live allocations, in seconds from now: low, middle, high (the 10th, 50th and
        90th percentile; `balsam_jupyter.forecast` says how). None if it cannot be told; `why` says why.
    fits : bool or None
        Whether that is before the allocations end: in nine of ten cases, or in one of ten at most; None between.
    left_s : float or None
        Seconds until the last of these allocations ends.
    why : str
        Why there is no expected time, or what it leaves out.
    used_node_hours : float
        Node-hours used so far: by the site's allocations, or, of an ensemble, by its own tasks.
    usage : Usage
        Of the site.
    spent : mapping of str to Spent
        Of an ensemble, by task state.
    """

    app_name: str
    tasks: int
    node_hours: float | None
    basis: str
    expected_s: tuple[float, float, float] | None
    fits: bool | None
    left_s: float | None
    why: str
    used_node_hours: float
    usage: Usage
    spent: Mapping[str, Spent] = field(default_factory=dict)

    def __repr__(self) -> str:
        what = f"{many(self.tasks, 'task')} of {self.app_name}"
        if self.spent:
            what = f"{what} to run, {node_hours(self.used_node_hours)} used"
        time = f"; {'' if self.expected_s else 'time '}{self._time()}" if self.tasks else ""
        return f"<Price of {what}: {self._asked()}{time}>"

    def __str__(self) -> str:
        return "\n".join(f"{label:<10} {text}" for label, text in self.lines())

    def _repr_html_(self) -> str:
        left = 'style="text-align:left"'
        rows = "".join(
            f"<tr><th {left}>{label}</th><td {left}>{escape(text)}</td></tr>" for label, text in self.lines()
        )
        return f"<table>{rows}</table>"

    def lines(self) -> list[tuple[str, str]]:
        """What it says, as labels and texts."""
        lines = [("tasks", f"{many(self.tasks, 'task')} of {self.app_name}{' to run' if self.spent else ''}")]
        if self.tasks:
            lines += [
                ("asks for", self._asked() + (f", from {self.basis}" if self.basis else "")),
                ("time", self._time()),
            ]
        if self.why and self.expected_s:
            lines.append(("", self.why))
        for state, one in self.spent.items():
            wasted = " (wasted)" if state in ("FAILED", "USER_KILLED") and one.run_hours else ""
            cores = f"{number(one.core_hours)} core-hours"
            lines.append((state.lower(), f"{many(one.tasks, 'task')}, {node_hours(one.node_hours)}, {cores}{wasted}"))
        return [*lines, ("site", str(self.usage))]

    def _asked(self) -> str:
        if not self.tasks:
            return "nothing to run"
        return "node-hours unknown" if self.node_hours is None else node_hours(self.node_hours)

    def _time(self) -> str:
        if self.expected_s is None:
            return f"unknown ({self.why})"
        low, middle, high = map(duration, self.expected_s)
        spread = f"{middle} expected ({low} to {high})"
        fit = {True: "fits", False: "does not fit", None: "may not fit"}[self.fits]
        return f"{spread}, {fit} into the {duration(self.left_s or 0.0)} left"


def price(site: Site, app: AppRecord, rows: int, wants: Resources, tags: Mapping[str, str] | None = None) -> Price:
    """What so many tasks will cost; nothing is stored.

    Parameters
    ----------
    site : Site
        Where they would run.
    app : AppRecord
        Their app.
    rows : int
        How many.
    wants : Resources
        Of each.
    tags : mapping, optional
        Their tags, which decide what allocations take them.
    """
    accounts = site.engine.accounts
    sample, basis = _sample(accounts.runs(app.name, _MOST), app.version, wants)
    usage = accounts.usage()
    asked = _asked(site, rows, wants, sample)
    expected, left, why = _expected(site, sample, rows, wants, tags or {}, accounts.ahead())
    return _price(app.name, rows, asked, basis, expected, left, why, usage.node_hours, usage, {})


def ensemble_cost(site: Site, record: EnsembleRecord) -> Price:
    """What an ensemble's tasks have used, by state, and what those that have not ended are expected to take."""
    accounts = site.engine.accounts
    loads = accounts.loads(record.rows())
    to_run = [load for load in loads if TASK_STATE[load.state] in ("WAITING", "RUNNING")]
    first = max(to_run or loads, key=lambda load: load.number, default=None)
    wants = first.resources if first else Resources()
    rows = sum(load.number for load in to_run)
    sample, basis = _sample(accounts.runs(record.app_name, _MOST), record.app_version, wants)
    parts = [_asked(site, load.number, load.resources, sample) for load in to_run]
    known = [part for part in parts if part is not None]
    asked = sum(known) if len(known) == len(parts) else None
    others = [load for load in accounts.ahead() if load.tags.get("workflow") != record.name]
    tags = first.tags if first else {}
    expected, left, why = _expected(site, sample, rows, wants, tags, others)
    spent = {state: _spent(site, [load for load in loads if TASK_STATE[load.state] == state]) for state in TASK_STATES}
    spent = {state: one for state, one in spent.items() if one.run_hours}
    used = sum(one.node_hours for one in spent.values())
    return _price(record.app_name, rows, asked, basis, expected, left, why, used, accounts.usage(), spent)


def _price(
    name: str, rows: int, asked: float | None, basis: str, expected: Forecast | None, left: float | None, why: str,
    used: float, usage: Usage, spent: Mapping[str, Spent],
) -> Price:  # fmt: skip
    times = None if expected is None else (expected.low, expected.middle, expected.high)
    fits = None
    if expected is not None:
        fits = True if expected.in_time >= _SURE else False if expected.in_time <= 1 - _SURE else None
    return Price(name, rows, asked, basis, times, fits, left, why, used, usage, spent)


def agreement(site: Site, app: AppRecord, wants: Resources, max_node_hours: object) -> Agree:
    """What refuses new rows that would take the site over its limit, or over the one given; None: nothing can."""
    limit = node_hour_limit(max_node_hours)
    usage = site.engine.usage()
    if limit is None and usage.limit is None:
        return None
    sample, _ = _sample(site.engine.accounts.runs(app.name, _MOST), app.version, wants)
    each = _asked(site, 1, wants, sample)
    if each is None:
        return None

    def agree(new: int) -> None:
        check_submission(usage, new * each, new, limit, site.name)

    return agree


_LIBENSEMBLE = ("num_procs", "num_nodes", "procs_per_node", "max_tasks_per_node", "machinefile")
_KNOWN = (*_LIBENSEMBLE, "gpus_per_rank", "threads_per_rank", "wall_time_min", "extra_args", "tags")


def asked_of(given: Mapping[str, Any]) -> tuple[Resources, dict[str, str]]:
    """Resources and tags of a task from the arguments of `BalsamExecutor.price`."""
    for name in given:
        if name not in _KNOWN:
            raise BadInput(f"price() takes no {name!r}; it takes {listing(_KNOWN)}.{nearest(name, _KNOWN)}")
    numbers = (given.get(name) for name in _LIBENSEMBLE)
    others = {name: given[name] for name in ("gpus_per_rank", "threads_per_rank", "wall_time_min") if name in given}
    wants = task_resources(*numbers, launch_params=given.get("extra_args"), **others)
    return wants, text_map("tags", given.get("tags"))


def _sample(runs: Sequence[Run], app_version: str, wants: Resources) -> tuple[list[float], str]:
    """Run times that tell most about the next ones, and words for where they are from."""
    now = [run for run in runs if run.app_version == app_version]
    for some, version in ((now, ""), (runs, " of an older version of it")):
        for chosen, resources in (
            ([run for run in some if run.resources == wants], ""),
            (some, " that asked for other resources"),
        ):
            if len(chosen) >= _ENOUGH:
                times = [run.runtime_s for run in chosen]
                return times, f"its last {len(times)} finished tasks{_except(version, chosen, app_version)}{resources}"
    if runs:
        times = [run.runtime_s for run in now or runs]
        few = "1 finished task" if len(times) == 1 else f"{len(times)} finished tasks"
        return times, f"its only {few}" + ("" if now else " of an older version of it")
    return [], f"wall_time_min={wants.wall_time_min}" if wants.wall_time_min else ""


def _except(version: str, chosen: Sequence[Run], app_version: str) -> str:
    older = sum(run.app_version != app_version for run in chosen)
    return version if older == len(chosen) else f", {older}{version}" if older else ""


def _asked(site: Site, rows: int, wants: Resources, sample: Sequence[float]) -> float | None:
    """Node-hours of so many tasks."""
    if not rows:
        return 0.0
    each = statistics.fmean(sample) if sample else wants.wall_time_min * 60
    return rows * each / 3600 * site.engine.accounts.footprint(wants) if each or sample else None


def _spent(site: Site, loads: Sequence[Load]) -> Spent:
    hours = [load.runtime_s / 3600 for load in loads]
    nodes = [site.engine.accounts.footprint(load.resources) for load in loads]
    return Spent(
        sum(load.number for load in loads),
        sum(map(float.__mul__, hours, nodes)),
        sum(map(float.__mul__, hours, (float(_cores(load.resources)) for load in loads))),
        sum(hours),
    )


def _cores(wants: Resources) -> int:
    return wants.num_nodes * max(1, wants.ranks_per_node * wants.threads_per_rank // wants.threads_per_core)


def _expected(
    site: Site, sample: Sequence[float], rows: int, wants: Resources, tags: Mapping[str, str], ahead: Sequence[Load]
) -> tuple[Forecast | None, float | None, str]:
    """When the tasks will have ended, how long their allocations last, and what is not known about it."""
    if not rows:
        return None, None, ""
    if len(sample) < _ENOUGH:
        return None, None, f"fewer than {_ENOUGH} tasks of the app have finished"
    accounts, record = site.engine.accounts, site.engine.site
    live = [one for one in site.engine.allocations() if one.state in _LIVE]
    when = spans(live, record.nodes, wants, accounts.footprint(wants))
    where = [when[one.id] for one in live if when[one.id].slots and _takes(one, wants, tags)]
    if not where:
        return None, None, "no allocation would run them" if live else "there is no allocation"
    takers = [one for one in live if when[one.id] in where]
    rivals = [load for load in ahead if any(_takes(one, load.resources, load.tags) for one in takers)]
    before, unknown = _before(site, rivals)
    said = f"not counted: {unknown:,} tasks before them of apps of which none has finished yet" if unknown else ""
    found = forecast(sample, rows, before / accounts.footprint(wants), where)
    return found, max(span.end for span in where), said


def _before(site: Site, ahead: Sequence[Load]) -> tuple[float, int]:
    """Node-seconds of what runs and waits already, and how many tasks of it are not counted."""
    accounts = site.engine.accounts
    means: dict[str, float | None] = {}
    total, unknown = 0.0, 0
    for load in ahead:
        if load.app_name not in means:
            times = [run.runtime_s for run in accounts.runs(load.app_name, _MOST)]
            means[load.app_name] = statistics.fmean(times) if times else None
        mean = means[load.app_name]
        each = load.resources.wall_time_min * 60.0 if mean is None else mean
        if mean is None and not each:
            unknown += load.number
        total += max(0.0, load.number * each - load.runtime_s) * accounts.footprint(load.resources)
    return total, unknown


def _takes(allocation: Allocation, wants: Resources, tags: Mapping[str, str]) -> bool:
    """Whether an allocation, or a partition of it, runs such tasks."""
    request = allocation.request
    whole = {"job_mode": request.job_mode, "num_nodes": request.num_nodes, "filter_tags": {}}
    parts: tuple[Mapping[str, Any], ...] = request.partitions or (whole,)
    return request.wf_filter in tags.get("workflow", request.wf_filter) and any(
        wants.num_nodes <= part["num_nodes"]
        and (part["job_mode"] == "mpi" or wants.num_nodes * wants.ranks_per_node == 1)
        and {**request.filter_tags, **part["filter_tags"]}.items() <= dict(tags).items()
        for part in parts
    )
