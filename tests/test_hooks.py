"""Balsam's hooks, run by a real processor beside real launchers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, Job, Site
from balsam_jupyter.api import EventLog
from balsam_jupyter.errors import TaskFailed

from .one_job import BEFORE, RAN, SOON, path, run


def error(job: Job) -> str:
    with pytest.raises(TaskFailed) as raised:
        job.result(SOON)
    return str(raised.value)


def log(site: Site, job: Job) -> str:
    return (job.resolve_workdir(site.data_path) / "balsam.log").read_text()


# -- the examples of Balsam's documentation ----------------------------------------------------------------------------


def generate_input(coordinates):
    """Any function of the notebook's: it travels along."""
    Path("deck.in").write_text(" ".join(map(str, coordinates)))
    return all(value >= 0 for value in coordinates)


class Simulation(ApplicationDefinition):
    command_template = "cat deck.in"

    def preprocess(self):
        success = generate_input(self.job.data["input_coords"])
        if success:
            self.job.state = "PREPROCESSED"
        else:
            self.job.state = "FAILED"
            self.job.state_data = {"error": "Preproc got bad coordinates"}


def test_preprocess_makes_the_input_or_fails_the_job(exctr, site, allocation):
    exctr.register_app(Simulation)
    good = Job.objects.create(app_id="Simulation", workdir="good", data={"input_coords": [1, 2]})
    bad = Job.objects.create(app_id="Simulation", workdir="bad", data={"input_coords": [1, -2]})
    good.wait(SOON)
    bad.wait(SOON)
    assert (site.data_path / "good" / "job.out").read_text() == "1 2"
    assert path(good) == [*BEFORE, *RAN]
    assert path(bad) == ["CREATED", "READY", "STAGED_IN", "FAILED"]
    assert "Preproc got bad coordinates" in error(bad)
    assert EventLog.objects.filter(job_id=bad.id, to_state="FAILED")[0].data == {"error": "Preproc got bad coordinates"}


class Converging(ApplicationDefinition):
    command_template = "sh -c 'echo x >> steps; wc -l < steps'"
    outputs = {"steps": r"^(\d+)$", "summary": "summary.json:converged"}

    def postprocess(self):
        import json
        import logging

        steps = int(Path("job.out").read_text())
        logging.getLogger(__name__).info("after %d steps", steps)
        self.job.data["seen"] = [*self.job.data.get("seen", []), steps]  # in place, too
        Path("summary.json").write_text(json.dumps({"converged": steps >= 3}))
        self.job.state = "POSTPROCESSED" if steps >= 3 else "RESTART_READY"


def test_postprocess_runs_the_job_again_until_it_is_content(exctr, site, allocation):
    job = run(exctr, Converging)
    assert job.state == "JOB_FINISHED" and job.data == {"seen": [1, 2, 3]}
    assert path(job) == [*BEFORE, *["RUNNING", "RUN_DONE", "RESTART_READY"] * 2, *RAN]
    assert job.result() == {"steps": 3, "summary": True}, "outputs are read after postprocess"
    assert "after 3 steps" in log(site, job) and "#BALSAM postprocess of job" in log(site, job)


class Retrying(ApplicationDefinition):
    command_template = "sh -c 'test -e fixed.3'"

    def fix_inputs(self):
        Path(f"fixed.{self.job.data.get('retry_count', 0)}").touch()

    def handle_error(self):
        dat = self.job.data
        retry_count = dat.get("retry_count", 0)

        if retry_count <= dat.get("most", 3):
            self.fix_inputs()
            self.job.state = "RESTART_READY"
            self.job.data = {**dat, "retry_count": retry_count + 1}
        else:
            self.job.state = "FAILED"
            self.job.state_data = {"reason": "Exceeded maximum retries"}


def test_handle_error_retries_up_to_a_limit(exctr, allocation):
    exctr.register_app(Retrying)
    fixed = Job.objects.create(app_id="Retrying", workdir="fixed")
    hopeless = Job.objects.create(app_id="Retrying", workdir="hopeless", data={"most": 1})
    fixed.wait(SOON)
    hopeless.wait(SOON)
    again = ["RUNNING", "RUN_ERROR", "RESTART_READY"]
    assert path(fixed) == [*BEFORE, *again * 4, *RAN] and fixed.data["retry_count"] == 4
    assert path(hopeless) == [*BEFORE, *again * 2, "RUNNING", "RUN_ERROR", "FAILED"]
    assert "Exceeded maximum retries" in error(hopeless) and "return code 1" in error(hopeless)


class Slow(ApplicationDefinition):
    command_template = "sleep {{ seconds }}"

    def handle_timeout(self):
        self.job.state = "FAILED"
        self.job.state_data = {"reason": "Job Timed out"}
        Job.objects.create(app_id=self.job.app_id, workdir="faster", parameters={"seconds": 0}, tags=self.job.tags)


def test_handle_timeout_makes_a_faster_job(exctr, site, allocation, until):
    exctr.register_app(Slow)
    slow = exctr.submit(app_name="Slow", app_args={"seconds": 60}, tags={"kind": "sleep"})
    until(lambda: Job.objects.get(id=slow.id).state == "RUNNING")
    assert exctr.revoke_allocation(allocation)
    slow.wait(SOON)
    assert path(slow.process) == [*BEFORE, "RUNNING", "RUN_TIMEOUT", "FAILED"]
    assert "Job Timed out" in error(slow.process)
    again = exctr.submit_allocation("here", 1, 10, job_mode="serial")
    faster = Job.objects.get(workdir="faster")
    faster.wait(SOON)
    assert (faster.state, faster.tags, faster.batch_job_id) == ("JOB_FINISHED", {"kind": "sleep"}, again.id)


class Summed(ApplicationDefinition):
    def run(self, numbers):
        return sum(numbers)

    def postprocess(self):
        parents = [one.resolve_workdir("x") for one in self.job.parent_query()]
        self.job.data = {"sum": self.job.result(), "parents": [str(one) for one in parents]}
        if self.job.tags.get("leader"):
            child = Job(app_id="Summed", workdir="last", parameters={"numbers": [7]}, parent_ids=[self.job.id])
            child.save()


def test_a_hook_continues_the_workflow(exctr, allocation):
    job = run(exctr, Summed, {"numbers": [1, 2]}, tags={"leader": "yes"})
    assert job.data == {"sum": 3, "parents": []} and job.result() == 3
    last = Job.objects.get(workdir="last")
    last.wait(SOON)
    assert last.parent_ids == {job.id}
    assert last.data == {"sum": 7, "parents": ["x/libe_workflow/Summed_1"]}


class Adapting(ApplicationDefinition):
    command_template = "test {{ tries }} -ge 2"

    def handle_error(self):
        self.job.parameters["tries"] += 1
        self.job.wall_time_min = 7
        self.job.state = "RESTART_READY"


def test_a_hook_changes_the_next_run(exctr, allocation):
    job = run(exctr, Adapting, {"tries": 0})
    assert (job.state, job.parameters, job.wall_time_min) == ("JOB_FINISHED", {"tries": 2}, 7)


class Arrays(ApplicationDefinition):
    outputs = {"half": "half.json:x"}

    def run(self, values, scale=1):
        return {"sum": float(values.sum()) * scale}

    def postprocess(self):
        if self.job.parameters["scale"] == 1:
            self.job.parameters["scale"] = 10
            self.job.state = "RESTART_READY"
        Path("half.json").write_text('{"x": %s}' % (self.job.result()["sum"] / 2))


def test_values_of_python_apps_with_hooks(exctr, allocation):
    job = run(exctr, Arrays, {"values": np.arange(4)})
    assert job.result() == {"sum": 60.0, "half": 30.0} and job.parameters["scale"] == 10
    assert path(job) == [*BEFORE, "RUNNING", "RUN_DONE", "RESTART_READY", *RAN]


def test_a_child_with_hooks_of_its_own(exctr, allocation, tmp_path):
    (tmp_path / "it").touch()
    exctr.register_app(Careful)
    parent = Job.objects.create(app_id="Careful", workdir="p", data={"needs": str(tmp_path / "it")})
    child = Job.objects.create(app_id="Careful", workdir="c", data={"needs": "../p/job.out"}, parent_ids=[parent.id])
    child.wait(SOON)
    assert path(child) == ["CREATED", "AWAITING_PARENTS", *BEFORE[1:], *RAN]


class Undecided(ApplicationDefinition):
    command_template = "false"

    def handle_error(self):
        self.job.data["asked"] = self.job.data.get("asked", 0) + 1


def test_a_hook_that_decides_nothing_leaves_it_to_max_retries(exctr, allocation):
    job = run(exctr, Undecided, max_retries=2)
    assert (job.state, job.data) == ("FAILED", {"asked": 3})
    assert path(job) == [*BEFORE, *["RUNNING", "RUN_ERROR", "RESTART_READY"] * 2, "RUNNING", "RUN_ERROR", "FAILED"]


class Clumsy(ApplicationDefinition):
    command_template = "sh -c 'echo no convergence; exit 3'"

    def handle_error(self):
        if self.job.data["how"] == "raises":
            raise ZeroDivisionError("of the handler")
        self.job.state = "RUNNING"


@pytest.mark.parametrize(("how", "said"), [("raises", "of the handler"), ("state", "set the state 'RUNNING'")])
def test_a_handler_that_goes_wrong_keeps_why_the_run_failed(exctr, allocation, how, said):
    exctr.register_app(Clumsy)
    job = Job.objects.create(app_id="Clumsy", workdir="w", data={"how": how}, max_retries=2)
    job.wait(SOON)
    assert path(job) == [*BEFORE, "RUNNING", "RUN_ERROR", "FAILED"]
    text = error(job)
    assert text.index("no convergence") < text.index(said)
    [event] = EventLog.objects.filter(job_id=job.id, to_state="FAILED")
    assert said in event.data["error"]


# -- hooks that go wrong -----------------------------------------------------------------------------------------------


class Wrong(ApplicationDefinition):
    command_template = "true"

    def postprocess(self):
        how = self.job.data["how"]
        if how == "raises":
            raise ZeroDivisionError("of the hook's own")
        if how == "dies":
            os._exit(5)
        if how == "state":
            self.job.state = "RUNNING"
        if how == "field":
            self.job.stat = "POSTPROCESSED"
        if how == "data":
            self.job.data["self"] = self
        if how == "nodes":
            self.job.num_nodes = 9
        if how == "parameters":
            self.job.parameters = {"x": 1}
            self.job.state = "RESTART_READY"
        print(how)


@pytest.mark.parametrize(
    ("how", "match"),
    [
        ("raises", r"line \d+, in postprocess\n    raise ZeroDivisionError\(.of the hook's own.\)"),
        ("dies", r"the process of postprocess\(\) ended with exit code 5 before it returned"),
        ("state", r"postprocess\(\) set the state 'RUNNING'; it can be POSTPROCESSED, RESTART_READY, FAILED"),
        ("field", "a job has no field 'stat'"),
        ("data", "job.data must be a dict of what JSON can hold"),
        ("nodes", "9 nodes are too many: the site 'here' has 1"),
        ("parameters", "App Wrong has no parameter 'x'"),
    ],
)
def test_a_hook_that_goes_wrong_fails_its_job(exctr, site, allocation, how, match):
    exctr.register_app(Wrong)
    jobs = [Job(app_id="Wrong", workdir=f"w{n}", data={"how": how if n == 1 else "well"}) for n in range(3)]
    Job.objects.bulk_create(jobs)
    Job.objects.wait(jobs, SOON)
    assert [job.state for job in jobs] == ["JOB_FINISHED", "FAILED", "JOB_FINISHED"]
    with pytest.raises(TaskFailed, match=match):
        jobs[1].result()
    [event] = EventLog.objects.filter(job_id=jobs[1].id, to_state="FAILED")
    assert event.from_state == "RUN_DONE" and event.data["error"] in str(Job.objects.get(id=jobs[1].id)._row.error)
    assert "well" in log(site, jobs[0])
    assert "checked_edits" not in error(jobs[1]), "the user is shown no frames of ours"


# -- retries by hand ---------------------------------------------------------------------------------------------------


class Careful(ApplicationDefinition):
    command_template = "true"

    def preprocess(self):
        assert Path(self.job.data["needs"]).exists(), "not there"


def test_a_job_whose_preprocess_failed_is_prepared_again(exctr, tmp_path, allocation):
    exctr.register_app(Careful)
    job = Job.objects.create(app_id="Careful", workdir="w", data={"needs": str(tmp_path / "it")})
    job.wait(SOON)
    assert job.state == "FAILED" and "not there" in error(job)
    (tmp_path / "it").touch()
    job.state = "RESTART_READY"
    job.save()
    job.wait(SOON)
    assert path(job) == ["CREATED", "READY", "STAGED_IN", "FAILED", "READY", "STAGED_IN", "PREPROCESSED", *RAN]


class Preambled(ApplicationDefinition):
    command_template = "echo $FOO $BAR | tr a-z A-Z"

    def shell_preamble(self):  # as in Balsam's documentation: it looks at the job
        return [f"export FOO={self.job.data['env_vars']['foo']}", f"export BAR={(self.job.parameters and 1) or 'none'}"]


def test_a_shell_preamble_sees_its_job(exctr: BalsamExecutor, site: Site, allocation: object) -> None:
    exctr.register_app(Preambled)
    first, second, bad = (
        Job.objects.create(app_id="Preambled", workdir=f"pre/{n}", data=data)
        for n, data in enumerate([{"env_vars": {"foo": "one"}}, {"env_vars": {"foo": "two"}}, {}])
    )
    for job, said in ((first, "ONE NONE"), (second, "TWO NONE")):
        job.wait(SOON)
        assert path(job) == BEFORE + RAN
        assert (job.resolve_workdir(site.data_path) / "job.out").read_text().strip() == said
    bad.wait(SOON)
    assert "KeyError: 'env_vars'" in error(bad)
    again = site.app("Preambled")
    assert again.hooks == ["shell_preamble"] and Job.objects.get(id=1).app.shell_preamble is not None


class PreambledAfter(ApplicationDefinition):
    command_template = "echo $FOO"

    def preprocess(self):
        self.job.data = {"foo": "from preprocess"}

    def shell_preamble(self):
        return f'export FOO="{self.job.data["foo"]}"'


def test_a_shell_preamble_sees_what_preprocess_left(exctr: BalsamExecutor, site: Site, allocation: object) -> None:
    job = run(exctr, PreambledAfter)
    assert (job.resolve_workdir(site.data_path) / "job.out").read_text().strip() == "from preprocess"
