"""Balsam's object API on the embedded engine."""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from balsam_jupyter import (
    App,
    ApplicationDefinition,
    BalsamExecutor,
    BatchJob,
    EventLog,
    Job,
    Site,
    TaskFailed,
    TimeoutExpired,
    current_site,
    open_site,
)
from balsam_jupyter.errors import BadInput, ExecutorException, NotFound

SOON = 60.0
Until = Callable[[Callable[[], bool]], None]


class Echo(ApplicationDefinition):
    """Says a word."""

    site = "here"
    command_template = "echo {{ word }}"
    parameters = {"word": {"required": False, "default": "nothing", "help": "what to say"}}


class Sleep(ApplicationDefinition):
    site = "here"
    command_template = "sleep {{ seconds }}"


class Root(ApplicationDefinition):
    site = "here"

    def run(self, x: float) -> dict[str, Any]:
        if x < 0:
            raise ValueError("negative")
        return {"root": x**0.5, "tags": self.job.tags, "n": self.job.data.get("n")}


def test_a_job_from_its_making_to_its_result(site: Site, allocation: BatchJob) -> None:
    job = Job(app_id=Root, workdir="roots/1", parameters={"x": 4}, tags={"kind": "root"}, data={"n": 7})
    assert (job.id, job.state, job.num_nodes, job.workdir) == (None, None, 1, Path("roots/1"))
    assert Job.objects.count() == 0
    with pytest.raises(Job.NoResult):
        job.result_nowait()
    job.save()
    assert job.id is not None and job.site_id == site.id and job.app.__name__ == "Root"
    assert job.result(SOON) == {"root": 2.0, "tags": {"kind": "root"}, "n": 7}
    assert job.done() and job.state == "JOB_FINISHED" and job.return_code == 0
    assert job.batch_job_id == allocation.id
    assert job.resolve_workdir(site.data_path) == site.data_path / "roots" / "1"
    assert (job.resolve_workdir(site.data_path) / "job.out").exists()
    assert job.get_parameters() == {"x": 4}
    with pytest.raises(AttributeError, match="workdir"):
        job.workdir = Path("elsewhere")
    with pytest.raises(AttributeError, match="Did you mean 'tags'"):
        job.tag = {}
    assert "roots/1" in repr(job) and "JOB_FINISHED" in repr(job)


def test_results_that_are_none_or_errors(allocation: BatchJob) -> None:
    echo = Job.objects.create(app_id=Echo, workdir="e")
    with pytest.raises(Job.NoResult, match="outputs"):
        echo.result(SOON)
    bad = Job.objects.create(app_id=Root, workdir="r", parameters={"x": -1})
    with pytest.raises(ValueError, match="negative") as raised:
        bad.result(SOON)
    assert "in run" in str(raised.value.__cause__)
    sleep = Job.objects.create(app_id=Sleep, workdir="s", parameters={"seconds": 60})
    with pytest.raises(TimeoutError):
        sleep.result(0.1)
    sleep.state = "USER_KILLED"
    sleep.save()
    with pytest.raises(TaskFailed, match="killed"):
        sleep.result(SOON)


def test_queries(site: Site) -> None:
    jobs = Job.objects.bulk_create(
        [
            Job(Echo, f"w/{number}", {"word": f"{number}"}, {"parity": "odd" if number % 2 else "even"})
            for number in range(10)
        ]
    )
    ids = [job.id for job in jobs]
    assert len(set(ids)) == 10
    every = Job.objects.all()
    assert every.count() == len(every) == 10 and bool(every) and every[3] == jobs[3] and jobs[3] in every
    assert [job.id for job in Job.objects.filter(tags={"parity": "odd"})] == ids[1::2]
    assert Job.objects.filter(tags="parity:even").count() == 5
    assert Job.objects.filter(id=ids[:3], tags=["parity:even"]).count() == 2
    assert Job.objects.filter(id=[]).count() == 0
    assert Job.objects.filter(state="PREPROCESSED").count() == 10
    assert Job.objects.filter(state=["RUNNING", "FAILED"]).count() == 0
    assert Job.objects.filter(state__ne="PREPROCESSED").count() == 0
    assert Job.objects.filter(app_name="Echo", app_id=jobs[0].app_id).count() == 10
    assert Job.objects.filter(app_id=999).count() == 0
    assert Job.objects.filter(site_id=site.id).count() == 10 and Job.objects.filter(site_id=site.id + 1).count() == 0
    assert Job.objects.get(workdir="w/4").id == ids[4]
    assert [job.id for job in Job.objects.order_by("-id")[:2]] == ids[:-3:-1]
    assert [job.id for job in Job.objects.all()[2:6][1:3]] == ids[3:5]
    assert [job.id for job in Job.objects.all()[::4]] == ids[::4]
    assert Job.objects.all()[-1].id == ids[-1]
    first = Job.objects.first()
    assert first is not None and first.id == ids[0] and Job.objects.filter(state="FAILED").first() is None
    with pytest.raises(IndexError):
        Job.objects.filter(state="FAILED")[0]
    with pytest.raises(Job.DoesNotExist, match="workdir='nowhere'"):
        Job.objects.get(workdir="nowhere")
    with pytest.raises(Job.MultipleObjectsReturned, match="10 Jobs"):
        Job.objects.get(app_name="Echo")
    with pytest.raises(BadInput, match="Did you mean 'state'"):
        Job.objects.filter(stat="FAILED")
    with pytest.raises(BadInput, match="not a job state"):
        Job.objects.filter(state="FINISHD").count()
    with pytest.raises(BadInput, match="order by"):
        Job.objects.order_by("colour")
    with pytest.raises(BadInput, match="slice"):
        Job.objects.all()[:3].filter(state="FAILED")
    assert "…" not in repr(Job.objects.all()) and repr(Job.objects.all()).startswith("<Query of Job: [Job(")


def test_a_bulk_of_jobs_is_all_or_nothing(site: Site) -> None:
    with pytest.raises(BadInput, match="wrod"):
        Job.objects.bulk_create([Job(Echo, "a", {"word": 1}), Job(Echo, "b", {"wrod": 1})])
    with pytest.raises(BadInput, match=r"\.\."):
        Job.objects.bulk_create([Job(Echo, "a"), Job(Echo, "../b")])
    with pytest.raises(BadInput, match="still works in 'a'"):
        Job.objects.bulk_create([Job(Echo, "a"), Job(Echo, "a")])
    assert Job.objects.count() == 0
    with pytest.raises(BadInput, match="unsaved"):
        Job.objects.bulk_create([Job.objects.create(app_id=Echo, workdir="c")])


def test_changes_are_saved(site: Site) -> None:
    job = Job.objects.create(app_id=Echo, workdir="x", tags={"a": "1"})
    job.tags["b"] = "2"  # in place
    job.set_parameters({"word": "new"})
    job.data = {"note": [1, 2]}
    job.wall_time_min = 5
    job.save()
    again = Job.objects.get(id=job.id)
    assert (again.tags, again.parameters) == ({"a": "1", "b": "2"}, {"word": "new"})
    assert (again.data, again.wall_time_min) == ({"note": [1, 2]}, 5)
    again.tags = {}
    again.refresh_from_db()
    assert again.tags == {"a": "1", "b": "2"}
    with pytest.raises(BadInput, match="no parameter"):
        job.set_parameters({"wrd": 1})
        job.save()
    job.refresh_from_db()
    job.state = "JOB_FINISHED"
    with pytest.raises(BadInput, match="USER_KILLED"):
        job.save()
    assert Job.objects.filter(id=job.id).update(tags={"c": "3"}) == 1
    job.refresh_from_db()
    assert job.tags == {"c": "3"}


def test_kill_and_restart(allocation: BatchJob) -> None:
    job = Job.objects.create(app_id=Sleep, workdir="s", parameters={"seconds": 60})
    job.state = "RESTART_READY"
    with pytest.raises(ExecutorException, match="has not ended"):
        job.save()
    assert Job.objects.filter(id=job.id).update(state="USER_KILLED") == 1
    job.wait(SOON)
    assert job.state == "USER_KILLED"
    job.set_parameters({"seconds": 0})
    job.state = "RESTART_READY"
    job.save()
    job.wait(SOON)
    assert job.state == "JOB_FINISHED" and job.parameters == {"seconds": 0}
    assert Job.objects.filter(id=job.id).update(state="USER_KILLED") == 0


def test_delete(allocation: BatchJob, until: Until) -> None:
    job = Job.objects.create(app_id=Sleep, workdir="s", parameters={"seconds": 60})
    until(lambda: Job.objects.filter(state="RUNNING").count() == 1)
    with pytest.raises(ExecutorException, match="kill it"):
        job.delete()
    assert Job.objects.all().delete() == 0
    Job.objects.filter(id=job.id).update(state="USER_KILLED")
    job.wait(SOON)
    job.delete()
    assert Job.objects.count() == 0


def test_wait_and_as_completed(allocation: BatchJob) -> None:
    slow = Job.objects.create(app_id=Sleep, workdir="slow", parameters={"seconds": 60})
    quick = [Job.objects.create(app_id=Echo, workdir=f"q{number}") for number in range(3)]
    result = Job.objects.wait([slow, *quick], return_when="FIRST_COMPLETED", timeout=SOON)
    assert result.done and slow in result.not_done
    assert {job.id for job in Job.objects.as_completed(quick, timeout=SOON)} == {job.id for job in quick}
    result = Job.objects.wait([slow, *quick], timeout=0.1)
    assert result.done == quick and result.not_done == [slow]
    seen = []
    with pytest.raises(TimeoutExpired, match="1 of 4 jobs"):
        for job in Job.objects.as_completed([slow, *quick], timeout=0.1):
            seen.append(job)
    assert len(seen) == 3


def test_events_are_single_transitions(allocation: BatchJob) -> None:
    jobs = Job.objects.bulk_create([Job(Echo, f"w{number}") for number in range(3)])
    Job.objects.wait(jobs, SOON)
    events = list(EventLog.objects.filter(job_id=jobs[1].id))
    assert {event.job_id for event in events} == {jobs[1].id}
    assert events[0].from_state == "" and events[0].to_state == "CREATED"
    assert events[-1].to_state == "JOB_FINISHED"
    assert [event.to_state for event in events[:-1]] == [event.from_state for event in events[1:]]
    times = [event.timestamp for event in events]
    assert times == sorted(times) and times[0].tzinfo is not None
    now = datetime.datetime.now(datetime.timezone.utc)
    assert abs((now - times[-1]).total_seconds()) < SOON
    started = EventLog.objects.filter(to_state="RUNNING", job_id=[job.id for job in jobs])
    assert started.count() == 3
    assert EventLog.objects.filter(to_state="RUNNING", timestamp_after=now).count() == 0
    assert EventLog.objects.order_by("-timestamp")[0].to_state == "JOB_FINISHED"
    with pytest.raises(BadInput):
        EventLog.objects.filter(job=3)


def test_batch_jobs(site: Site) -> None:
    job = BatchJob(num_nodes=1, wall_time_min=5, job_mode="serial", site_id=site.id, project="local", queue="local")
    job.save()
    assert job.id is not None and job.state in ("queued", "running")
    assert BatchJob.objects.get(id=job.id) == job
    second = BatchJob.objects.create(num_nodes=1, wall_time_min=0.5, filter_tags={"a": "b"})
    assert BatchJob.objects.filter(state=["queued", "running"]).count() == 2
    assert BatchJob.objects.filter(filter_tags={"a": "b"}).first() == second
    assert second.state == "queued" and second.wall_time_min == 0.5
    second.state = "pending_deletion"
    second.save()
    assert second.state == "finished"
    with pytest.raises(AttributeError, match="num_nodes"):
        job.num_nodes = 2
    job.state = "running" if job.state == "queued" else "queued"
    with pytest.raises(BadInput, match="pending_deletion"):
        job.save()
    job.refresh_from_db()
    assert job.revoke(30) and job.state == "finished" and job.end_time is not None


def test_apps_and_definitions(site: Site, allocation: BatchJob) -> None:
    number = Echo.sync()
    app = App.objects.get(name="Echo")
    assert app.id == number and app.site_id == site.id and app.description == "Says a word."
    assert app.parameters["word"] == {"required": False, "default": "nothing", "help": "what to say"}
    assert App.objects.filter(site_id=site.id).count() == 1
    job = Echo.submit("one", word="hi", tags={"a": "b"})
    assert job.tags == {"a": "b"} and job.parameters == {"word": "hi"}
    unsaved = Root.submit("two", x=9, save=False)
    assert unsaved.id is None and Job.objects.count() == 1
    unsaved.save()
    assert unsaved.result(SOON)["root"] == 3.0
    assert set(ApplicationDefinition.load_by_site("here")) == {"Echo", "Root"}
    again: Any = ApplicationDefinition.load_by_name("Echo")
    assert again.command_template == Echo.command_template
    assert again.submit("three", word="x").app_id == number
    with pytest.raises(NotFound, match="Did you mean 'Echo'"):
        ApplicationDefinition.load_by_name("Ecko")


def test_sites(site: Site, tmp_path: Path) -> None:
    assert current_site() is site and open_site("here") is site
    assert Site.objects.get(name="here") is site
    other = open_site("there", tmp_path / "there")
    assert current_site() is other and {one.name for one in Site.objects.all()} == {"here", "there"}
    assert BalsamExecutor().site is other and BalsamExecutor("here").site is site
    assert (other.name, other.path) == ("there", str(tmp_path / "there")) and other.id != site.id
    other.close()
    with pytest.raises(NotFound, match="open_site"):
        current_site()
    assert BalsamExecutor(site.id).site.name == "here"


def test_without_a_name_the_site_is_the_default_one(home: Path) -> None:
    site = BalsamExecutor().site
    assert site.name == "default" and Path(site.path).is_relative_to(home) and current_site() is site
    site.close()


def test_a_job_of_another_kernel(site: Site, allocation: BatchJob) -> None:
    job = Job.objects.create(app_id=Root, workdir="r", parameters={"x": 16})
    text = f"""
from balsam_jupyter import Job, open_site
open_site("here")
print(Job.objects.get(id={job.id}).result(60)["root"])
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "4.0\n"


def test_a_job_that_cannot_be_is_refused(site: Site) -> None:
    Job.objects.create(app_id=Echo, workdir="p")
    for wrong, error in (
        ({"parent_ids": {99}}, NotFound), ({"transfers": {"f": "x:/y"}}, BadInput), ({"gpus_per_rank": 1}, BadInput),
        ({"num_nodes": 2}, BadInput), ({"threads_per_rank": 99}, BadInput),
    ):  # fmt: skip
        with pytest.raises(error):
            Job.objects.create(app_id=Echo, workdir="c", **wrong)
    assert Job.objects.count() == 1
