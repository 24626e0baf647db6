"""Throughput, utilization and available nodes over time, as Balsam's `balsam.analytics` reports them.

What they count is Balsam's (argonne-lcf/balsam, balsam/analytics.py, and its user guide's page on monitoring). Each
report is a pair of lists, times and numbers, to be drawn with steps after each time.

Examples
--------
>>> times, busy = utilization_report(EventLog.objects.filter(job_id=ids))  # doctest: +SKIP
>>> plt.step(times, busy, where="post")  # doctest: +SKIP
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from .history import Series
from .models import Allocation

if TYPE_CHECKING:
    from .api import BatchJob, EventLog

Times = list[datetime.datetime]


def throughput_report(events: Iterable[EventLog], to_state: str = "JOB_FINISHED") -> tuple[Times, list[int]]:
    """How many jobs had reached a state, over time.

    Parameters
    ----------
    events : iterable of EventLog
        ``EventLog.objects.filter(…)``.
    to_state : str
        The job state that counts.

    Returns
    -------
    times, numbers : list of datetime, list of int
        The times at which a job reached it, and how many had by then; of a job that ran twice both ends count.
    """
    times = sorted(event.timestamp for event in events if event.to_state == to_state)
    return times, list(range(1, len(times) + 1))


def utilization_report(events: Iterable[EventLog], node_weighting: bool = True) -> tuple[Times, list[float]]:
    """How many nodes jobs were running on, over time.

    Parameters
    ----------
    events : iterable of EventLog
        ``EventLog.objects.filter(…)``, with the jobs' starts and ends.
    node_weighting : bool
        Each job counts as the nodes it takes: two for one on two nodes, an eighth where eight run on a node; else as
        one. Jobs that were deleted count as one where not all jobs take the same.

    Returns
    -------
    times, nodes : list of datetime, list of float
        The times at which a job began or stopped running, and the nodes in use from then on.
    """
    changes = [
        (event.timestamp, event.job_id, 1 if event.to_state == "RUNNING" else -1)
        for event in events
        if "RUNNING" in (event.to_state, event.from_state)
    ]
    weights = _nodes({job_id for _, job_id, _ in changes}) if node_weighting else {}
    weighted = sorted((time, sign * weights.get(job_id, 1.0)) for time, job_id, sign in changes)
    return [time for time, _ in weighted], list(accumulate(change for _, change in weighted))


def available_nodes(batch_jobs: Iterable[BatchJob]) -> tuple[Times, list[int]]:
    """How many nodes allocations had, over time.

    Those that have not started are left out. Those that run still count from their start on (Balsam leaves them out).

    Parameters
    ----------
    batch_jobs : iterable of BatchJob
        ``BatchJob.objects.filter(…)``.

    Returns
    -------
    times, nodes : list of datetime, list of int
        The times at which one started or ended, and the nodes there were from then on.
    """
    changes: list[tuple[datetime.datetime, int]] = []
    for job in batch_jobs:
        if job.start_time is not None:
            changes.append((job.start_time, job.num_nodes))
            if job.end_time is not None:
                changes.append((job.end_time, -job.num_nodes))
    changes.sort()
    return [time for time, _ in changes], list(accumulate(change for _, change in changes))


def available(allocations: Sequence[Allocation], series: Series) -> list[float]:
    """The nodes that allocations had at the end of each bin of a picture, to be compared with its `busy`."""
    changes = [0.0] * (len(series) + 1)
    for one in allocations:
        if one.start_time is not None:
            changes[_bin(one.start_time, series)] += one.request.num_nodes
            if one.end_time is not None:
                changes[_bin(one.end_time, series)] -= one.request.num_nodes
    return list(accumulate(changes[:-1]))


def _bin(time: float, series: Series) -> int:
    """The bin that a time lies in: the first for what was before it, one past the last for what is after it."""
    return min(len(series), max(0, int((time - series.start) / series.width)))


def _nodes(jobs: set[int]) -> dict[int, float]:
    from .api_site import existing_site

    nodes = existing_site().engine.timeline.nodes(jobs)
    return {job_id: nodes.of.get(job_id, 1.0 if nodes.of else nodes.each) for job_id in jobs}
