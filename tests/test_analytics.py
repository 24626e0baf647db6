"""Balsam's reports over real tasks, and the nodes there were in the bins of a picture."""

from __future__ import annotations

import datetime

import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, BatchJob, EventLog, Site, Sweep
from balsam_jupyter.analytics import available, available_nodes, throughput_report, utilization_report
from balsam_jupyter.history import History, Series
from balsam_jupyter.models import Allocation, AllocationRequest
from balsam_jupyter.monitor import snapshot


class Nap(ApplicationDefinition):
    command_template = "sleep {{ s }}"


def test_reports_of_a_sweep(exctr: BalsamExecutor, site: Site) -> None:
    exctr.register_app(Nap)
    assert throughput_report([]) == utilization_report([]) == available_nodes([]) == ([], [])
    batch_job = exctr.submit_allocation("here", 1, 10, job_mode="serial")
    sweep = exctr.submit_sweep("Nap", Sweep.grid(s=[0.2] * 4), "naps").wait()
    ids = [task.id for task in sweep.tasks()]
    events = EventLog.objects.filter(job_id=ids)

    times, numbers = throughput_report(events)
    ends = sorted(event.timestamp for event in events if event.to_state == "JOB_FINISHED")
    assert (times, numbers) == (ends, [1, 2, 3, 4])
    assert throughput_report(events, to_state="RUN_ERROR") == ([], [])

    times, nodes = utilization_report(events)
    assert len(times) == 8 and times == sorted(times)
    assert max(nodes) == 1.0 and nodes[-1] == 0.0  # two tasks at a time, each on half of the node
    assert max(utilization_report(events, node_weighting=False)[1]) == 2.0

    assert exctr.revoke_allocation(batch_job)
    (began, ended), numbers = available_nodes(BatchJob.objects.all())
    assert numbers == [1, 0] and began <= times[0] and times[-1] <= ended
    told = snapshot(site.engine, "naps")
    there = available(told.allocations, told.series)
    assert max(told.series.busy) == 1.0
    assert all(use <= nodes for use, nodes in zip(told.series.busy, there, strict=True))


def test_an_allocation_that_runs_counts_from_its_start_on(exctr: BalsamExecutor) -> None:
    batch_job = exctr.submit_allocation("here", 1, 10, job_mode="serial")
    batch_job.refresh_from_db()
    assert available_nodes([batch_job]) == ([batch_job.start_time], [1])
    assert isinstance(batch_job.start_time, datetime.datetime)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (None, None, [0, 0, 0, 0]),
        (90.0, None, [3, 3, 3, 3]),
        (101.5, None, [0, 3, 3, 3]),
        (101.5, 102.5, [0, 3, 0, 0]),
        (90.0, 95.0, [0, 0, 0, 0]),
        (200.0, None, [0, 0, 0, 0]),
    ],
)
def test_nodes_available_in_bins(start: float | None, end: float | None, expected: list[float]) -> None:
    history = History(width=1.0)
    history.add(100.0, "", "WAITING")
    history.add(103.5, "WAITING", "FINISHED")
    one = Allocation(1, AllocationRequest(3, 10), "running", start_time=start, end_time=end)
    assert available([one], history.series()) == expected
    assert available([one], Series()) == []
