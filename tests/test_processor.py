"""The processor: hooks that hang or are killed, and a processor that dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, BatchJob, Job, Site
from balsam_jupyter.monitor import snapshot
from balsam_jupyter.status import explain

from .one_job import BEFORE, RAN, SOON, path, run
from .processes import is_running, launchers, marked, processors


def seen(site: Site, holds: Callable[[], object]) -> None:
    """Until something of the machine's processes holds, which no change of the store tells of."""
    deadline = time.monotonic() + SOON
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold"
        site.engine.events(site.engine.events("now").cursor, 0.05)


class Hanging(ApplicationDefinition):
    command_template = "true"

    def preprocess(self):
        import subprocess

        if self.job.data:
            subprocess.run(["sleep", self.job.data["seconds"]])


def test_a_hook_that_hangs_holds_no_other_and_can_be_killed(exctr, site, allocation):
    exctr.register_app(Hanging)
    seconds = f"600.{os.getpid()}"
    stuck = Job.objects.create(app_id="Hanging", workdir="stuck", data={"seconds": seconds})
    seen(site, lambda: marked(seconds))
    others = [Job(app_id="Hanging", workdir=f"o{n}") for n in range(20)]
    Job.objects.bulk_create(others)
    assert not Job.objects.wait(others, SOON).not_done and stuck.done() is False
    [sleep] = marked(seconds)
    stuck.state = "USER_KILLED"
    stuck.save()
    stuck.wait(SOON)
    assert stuck.state == "USER_KILLED" and not is_running(sleep)
    assert path(stuck) == ["CREATED", "READY", "USER_KILLED"]


def test_jobs_that_wait_for_a_hook_are_killed_and_deleted(exctr, site):
    exctr.register_app(Hanging)
    seconds = f"601.{os.getpid()}"
    stuck = [Job(app_id="Hanging", workdir=f"s{n}", data={"seconds": seconds}) for n in range(5)]
    Job.objects.bulk_create(stuck)
    seen(site, lambda: len(marked(seconds)) == 2)  # as many as there are cores
    assert Job.objects.filter(id=[job.id for job in stuck]).update(state="USER_KILLED") == 5
    assert not Job.objects.wait(stuck, SOON).not_done
    assert Job.objects.filter(workdir="s4").delete() == 1 and not marked(seconds)


def test_explain_names_the_hooks_that_run(exctr, site, allocation):
    exctr.register_app(Hanging)
    seconds = f"606.{os.getpid()}"
    stuck = Job.objects.create(app_id="Hanging", workdir="stuck", data={"seconds": seconds})
    seen(site, lambda: marked(seconds))
    assert f"running now: preprocess() of job {stuck.id} for " in explain(site.engine).why
    stuck.state = "USER_KILLED"
    stuck.save()
    stuck.wait(SOON)
    seen(site, lambda: not site.engine.hooks())


class Deadly(ApplicationDefinition):
    command_template = "true"

    def preprocess(self):
        if self.job.data:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(600)


def test_a_hook_that_kills_its_processor_fails_its_job_at_the_third_time(exctr, site):
    exctr.register_app(Deadly)
    deadly = Job.objects.create(app_id="Deadly", workdir="deadly", data={"it": "kills"})
    others = [Job.objects.create(app_id="Deadly", workdir=f"w{n}") for n in range(4)]
    deadly.wait(SOON)
    assert deadly.state == "FAILED" and "died 3 times while a hook of this job ran" in deadly._row.error
    seen(site, lambda: all(Job.objects.get(id=job.id).state == "PREPROCESSED" for job in others))


class Forking(ApplicationDefinition):
    command_template = "true"

    def preprocess(self):
        import sys

        self.job.data = {"me": self.job.id, **self.job.data}
        how = self.job.data.get("how")
        if how == "thread":
            import threading

            threading.Thread(target=time.sleep, args=(600,)).start()
        elif how in ("exit", "raise", "return") and os.fork() == 0:
            if how == "exit":
                sys.exit(0)
            if how == "raise":
                raise ValueError("of the child")
        elif how == "leave":
            import subprocess

            subprocess.Popen(["sleep", self.job.data["seconds"]], start_new_session=True)
            if os.fork() == 0:
                time.sleep(600)
            os._exit(7)


@pytest.mark.parametrize("how", ["exit", "raise", "return", "thread"])
def test_what_a_hook_leaves_gives_no_job_the_answer_of_another(exctr, site, how):
    exctr.register_app(Forking)
    jobs = [Job(app_id="Forking", workdir=f"w{n}", data={"how": how if n < 4 else "well"}) for n in range(12)]
    Job.objects.bulk_create(jobs)
    seen(site, lambda: Job.objects.filter(state=["PREPROCESSED", "FAILED"]).count() == 12)
    for job in Job.objects.all():
        assert (job.state, job.data["me"]) == ("PREPROCESSED", job.id)


def test_a_hook_that_dies_and_leaves_children(exctr, site):
    exctr.register_app(Forking)
    seconds = f"605.{os.getpid()}"
    data = {"how": "leave", "seconds": seconds}
    jobs = [Job.objects.create(app_id="Forking", workdir=f"w{n}", data=data) for n in range(3)]
    well = Job.objects.create(app_id="Forking", workdir="well")
    seen(site, lambda: Job.objects.get(id=well.id).state == "PREPROCESSED")
    assert not Job.objects.wait(jobs, SOON).not_done and not marked(seconds)
    for job in jobs:
        assert job.state == "FAILED" and "ended with exit code 7" in job._row.error


def test_a_processor_that_dies_in_mid_hook(exctr, site, allocation):
    exctr.register_app(Hanging)
    seconds = f"602.{os.getpid()}"
    job = Job.objects.create(app_id="Hanging", workdir="w", data={"seconds": seconds})
    seen(site, lambda: marked(seconds))
    [first], [sleep] = processors(site.path), marked(seconds)
    os.kill(first, signal.SIGKILL)
    seen(site, lambda: set(marked(seconds)) - {sleep})
    assert not is_running(sleep), "two hooks of one job never run at a time"
    [second] = processors(site.path)
    assert second != first and job.done() is False
    for pid in marked(seconds):
        os.kill(pid, signal.SIGTERM)  # its hook goes on
    job.wait(SOON)
    assert job.state == "JOB_FINISHED" and path(job) == [*BEFORE, *RAN]


def test_a_processor_that_is_stopped_is_replaced(exctr, site):
    with open(Path(site.path) / "settings.yml", "a") as file:
        file.write("stopped_after_s: 1\n")
    exctr.submit_allocation("here", 1, 10, job_mode="serial")  # its launcher looks after the site
    exctr.register_app(Hanging)
    seconds = f"604.{os.getpid()}"
    job = Job.objects.create(app_id="Hanging", workdir="w", data={"seconds": seconds})
    seen(site, lambda: marked(seconds))
    [first], [sleep] = processors(site.path), marked(seconds)
    os.kill(first, signal.SIGSTOP)
    seen(site, lambda: set(marked(seconds)) - {sleep})
    assert not is_running(first) and not is_running(sleep)
    for pid in marked(seconds):
        os.kill(pid, signal.SIGTERM)
    job.wait(SOON)
    assert path(job) == [*BEFORE, *RAN]


def test_a_processor_that_is_told_to_stop_gives_its_jobs_back(exctr, site):
    exctr.register_app(Hanging)
    seconds = f"603.{os.getpid()}"
    job = Job.objects.create(app_id="Hanging", workdir="w", data={"seconds": seconds})
    seen(site, lambda: marked(seconds))
    [first], [sleep] = processors(site.path), marked(seconds)
    os.kill(first, signal.SIGTERM)
    seen(site, lambda: set(marked(seconds)) - {sleep})
    assert not is_running(first) and not is_running(sleep)
    job.state = "USER_KILLED"
    job.save()
    job.wait(SOON)


def test_there_is_one_processor_and_it_ends(exctr, site, until):
    exctr.register_app(Hanging)
    jobs = [Job.objects.create(app_id="Hanging", workdir=f"w{n}") for n in range(10)]
    until(lambda: all(job.state == "PREPROCESSED" for job in Job.objects.all()))
    assert len(processors(site.path)) == 1 and len(jobs) == 10
    seen(site, lambda: not processors(site.path))
    assert "ending: nothing to do" in (Path(site.path) / "log" / "processor.log").read_text()


def test_apps_without_hooks_start_no_processor(exctr, site, allocation):
    class Plain(ApplicationDefinition):
        command_template = "true"

    assert run(exctr, Plain).state == "JOB_FINISHED"
    assert not processors(site.path) and not (Path(site.path) / "run" / "processor.lock").exists()


class Orphaned(ApplicationDefinition):
    command_template = "sh -c 'sleep 0.7; exit {{ code }}'"

    def postprocess(self):
        self.job.data = {"hook": "postprocess"}

    def handle_error(self):
        self.job.data = {"hook": "handle_error"}


@pytest.mark.parametrize(("code", "hook"), [(0, "postprocess"), (1, "handle_error")])
def test_hooks_after_a_launcher_that_died(exctr, site, allocation, until, code, hook):
    exctr.register_app(Orphaned)
    job = Job.objects.create(app_id="Orphaned", workdir="w", parameters={"code": code})
    until(lambda: Job.objects.get(id=job.id).state == "RUNNING")
    for pid in launchers(allocation.id, site.path):
        os.kill(pid, signal.SIGKILL)
    job.wait(SOON)
    assert job.data == {"hook": hook} and job.state == ("FAILED" if code else "JOB_FINISHED")
    assert path(job) == [*BEFORE, "RUNNING", *(["RUN_ERROR", "FAILED"] if code else RAN[1:])]


class Whole(ApplicationDefinition):
    command_template = "test {{ n }} -lt 2"

    def preprocess(self):
        pass

    def postprocess(self):
        pass


def test_tasks_and_the_monitor_see_the_states(exctr: BalsamExecutor, site: Site, allocation: BatchJob) -> None:
    exctr.register_app(Whole)
    ensemble = exctr.submit_sweep("Whole", [{"n": 0}, {"n": 1}, {"n": 2}], name="e", max_retries=1)
    children = exctr.submit_sweep("Whole", [{"n": 0}], name="c", parent_ids=ensemble.tasks()[:2])
    for each in (ensemble, children):
        each.wait(SOON)
        picture = snapshot(site.engine, each.name)
        assert picture.counts == each.counts()
        assert {state: numbers[-1] for state, numbers in picture.series.counts.items()} == picture.counts
    assert ensemble.counts() == {"WAITING": 0, "RUNNING": 0, "FINISHED": 2, "FAILED": 1, "USER_KILLED": 0}
    assert [task.state for task in (*ensemble.tasks(), *children.tasks())] == [*["FINISHED"] * 2, "FAILED", "FINISHED"]
    history = ensemble.tasks()[2].process
    assert path(history) == [*BEFORE, *["RUNNING", "RUN_ERROR", "RESTART_READY"], "RUNNING", "RUN_ERROR", "FAILED"]
