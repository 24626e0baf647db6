"""The executor and its tasks, on real processes."""

from __future__ import annotations

import inspect
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from balsam_jupyter import (
    ApplicationDefinition,
    BalsamExecutor,
    BatchJob,
    EventLog,
    Job,
    Site,
    TaskFailed,
    TimeoutExpired,
)
from balsam_jupyter.errors import BadInput, NotFound
from balsam_jupyter.models import TASK_STATES

SOON = 30.0


class Echo(ApplicationDefinition):
    """Says a word."""

    site = "here"
    command_template = "echo {{ word }}"


class Sleep(ApplicationDefinition):
    site = "here"
    command_template = "sleep {{ seconds }}"


class Script(ApplicationDefinition):
    site = "here"
    command_template = "sh -c {{ text }}"


class Divide(ApplicationDefinition):
    site = "here"

    def run(self, a: float, b: float = 2.0) -> float:
        print("dividing")
        return a / b


def lives(pid: int) -> bool:
    """Whether a process runs (one that nobody has collected yet does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(autouse=True)
def apps(exctr: BalsamExecutor) -> None:
    for app in (Echo, Sleep, Script, Divide):
        exctr.register_app(app)


def test_a_task_from_submission_to_its_log(exctr: BalsamExecutor, site: Site, allocation: BatchJob) -> None:
    before = time.time()
    task = exctr.submit(app_name="Echo", app_args={"word": 'it\'s $HOME; "quoted"'})
    assert (task.state, task.finished, task.success, task.errcode) in [
        ("WAITING", False, False, None),
        ("RUNNING", False, False, None),
    ]
    assert task.result(SOON) == "FINISHED"
    assert task.exception() == 0
    assert task.done() and task.finished and task.success and not task.running() and not task.cancelled()
    assert task.value() is None
    assert task.read_stdout() == 'it\'s $HOME; "quoted"\n' == task.read_stderr()
    assert task.stdout == task.stderr == "job.out" and task.stdout_exists()
    folder = Path(site.path) / "data" / "libe_workflow" / f"Echo_{task.id}"
    assert task.workdir == str(folder) and folder.is_dir()
    assert task.name == f"Echo_{task.id}"
    assert before <= task.submit_time <= time.time()
    assert 0 <= task.runtime <= task.total_time < SOON
    assert isinstance(task.process, Job)
    assert task.process.id == task.id and task.process.state == "JOB_FINISHED"
    assert task.file_exists_in_workdir("job.out") and not task.file_exists_in_workdir("nothing")
    with pytest.raises(ValueError, match="no file 'nothing'"):
        task.read_file_in_workdir("nothing")
    assert "FINISHED" in repr(task)


def test_the_signatures_are_libensembles() -> None:
    def names(function: object) -> list[str]:
        return list(inspect.signature(function).parameters)[1:]  # type: ignore[arg-type]

    assert names(BalsamExecutor.register_app) == ["BalsamApp", "app_name", "calc_type", "desc", "precedent"]
    assert names(BalsamExecutor.submit_allocation) == [
        "site_id", "num_nodes", "wall_time_min", "job_mode", "queue", "project", "optional_params", "filter_tags",
        "partitions", "wf_filter", "max_node_hours",  # the last two are ours
    ]  # fmt: skip
    assert names(BalsamExecutor.revoke_allocation) == ["allocation", "timeout"]
    given = names(BalsamExecutor.submit)
    ours = ["threads_per_rank", "wall_time_min", "max_retries", "parent_ids", "on_parent_failure", "scratch"]
    assert given[15:] == ours
    assert given[:15] == [
        "calc_type", "app_name", "app_args", "num_procs", "num_nodes", "procs_per_node", "max_tasks_per_node",
        "machinefile", "gpus_per_rank", "transfers", "workdir", "dry_run", "wait_on_start", "extra_args", "tags",
    ]  # fmt: skip


def test_value_of_a_python_app(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    task = exctr.submit(app_name="Divide", app_args={"a": 3})
    assert task.value(SOON) == 1.5
    assert task.read_stdout() == "dividing\n"
    failing = exctr.submit(app_name="Divide", app_args={"a": 3, "b": 0})
    with pytest.raises(ZeroDivisionError) as raised:
        failing.value(SOON)
    assert "return a / b" in str(raised.value.__cause__)
    assert failing.state == "FAILED" and not failing.success and failing.errcode


def test_a_command_that_fails_says_how(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    task = exctr.submit(app_name="Script", app_args={"text": "echo before it broke; exit 3"})
    with pytest.raises(TaskFailed, match=r"return code 3[\s\S]*before it broke"):
        task.value(SOON)
    assert (task.state, task.exception()) == ("FAILED", 3)


def test_a_program_that_does_not_exist(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    class Typo(ApplicationDefinition):
        site = "here"
        command_template = "no-such-program {{ x }}"

    exctr.register_app(Typo)
    task = exctr.submit(app_name="Typo", app_args={"x": 1})
    with pytest.raises(TaskFailed, match=r"no-such-program.*not found"):
        task.value(SOON)
    assert task.state == "FAILED" and "not found" in task.read_stdout()


def test_wait_gives_up_and_the_task_goes_on(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    task = exctr.submit(app_name="Sleep", app_args={"seconds": 60}, wait_on_start=True)
    assert task.state == "RUNNING" and task.running()
    with pytest.raises(TimeoutExpired) as raised:
        task.wait(0.2)
    assert raised.value.task == task.name and raised.value.timeout == 0.2
    assert task.running() and 0 < task.runtime < SOON and task.total_time is None


def test_kill_a_running_task(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    task = exctr.submit(app_name="Sleep", app_args={"seconds": 60}, wait_on_start=True)
    start = time.monotonic()
    task.kill()
    assert time.monotonic() - start < 2
    assert (task.state, task.finished, task.success) == ("USER_KILLED", True, False)
    with pytest.raises(TaskFailed, match="was killed"):
        task.value()
    task.kill()  # nothing left to do
    assert exctr.submit(app_name="Echo", app_args={"word": "next"}).result(SOON) == "FINISHED"


def test_kill_takes_a_stubborn_tree(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    text = "trap '' TERM; (trap '' TERM; exec sleep 4321) & echo $! > child; touch up; wait; wait; sleep 4321"
    task = exctr.submit(app_name="Script", app_args={"text": text}, wait_on_start=True)
    while not task.file_exists_in_workdir("up"):
        assert task.running()
    child = int(task.read_file_in_workdir("child"))
    start = time.monotonic()
    task.kill(wait_time=0.1)
    assert time.monotonic() - start < 2 and task.cancelled()
    assert not lives(child)


def test_cancel_a_task_that_waits(exctr: BalsamExecutor) -> None:
    task = exctr.submit(app_name="Sleep", app_args={"seconds": 60})
    task.cancel()
    assert task.cancelled() and task.result() == "USER_KILLED"


def test_one_poll_serves_all_tasks(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    tasks = [exctr.submit(app_name="Echo", app_args={"word": number}) for number in range(20)]
    last = exctr.submit(app_name="Sleep", app_args={"seconds": 0.2})
    last.wait(SOON)
    exctr.poll()
    assert {task.state for task in [*tasks, last]} <= set(TASK_STATES)
    assert all(task.finished for task in tasks)


def test_waits_in_several_threads_do_not_hold_each_other_up(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    slow = exctr.submit(app_name="Sleep", app_args={"seconds": 60}, wait_on_start=True)
    waiter = threading.Thread(target=slow.result)
    waiter.start()
    quick = exctr.submit(app_name="Echo", app_args={"word": "quick"})
    assert quick.result(SOON) == "FINISHED"
    slow.kill()
    waiter.join(SOON)
    assert not waiter.is_alive()


def test_a_wait_is_woken_at_once(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    exctr.submit(app_name="Echo", app_args={"word": "warm"}).wait(SOON)
    start = time.monotonic()
    for number in range(20):
        exctr.submit(app_name="Echo", app_args={"word": number}).wait(SOON)
    assert (time.monotonic() - start) / 20 < 0.2


def test_dry_run(exctr: BalsamExecutor, site: Site, caplog: pytest.LogCaptureFixture) -> None:
    class Env(ApplicationDefinition):
        site = "here"
        command_template = "printenv {{ name }}"
        environment_variables = {"OMP_PROC_BIND": "true"}

    exctr.register_app(Env)
    with caplog.at_level(logging.INFO, "balsam_jupyter"):
        task = exctr.submit(app_name="Env", app_args={"name": "a b"}, dry_run=True, tags={"k": "v"})
    assert task.runline is not None and task.runline.endswith("printenv 'a b'")
    assert task.env["OMP_PROC_BIND"] == "true"
    assert task.runline in caplog.text
    assert task.done() and task.success and task.result() == "FINISHED" and task.value() is None
    assert task.process is None and task.dry_run

    class Lines(ApplicationDefinition):
        site = "here"
        command_template = "for i in 1 2; do\n  echo $i {{ name }}\ndone"

    exctr.register_app(Lines)
    task = exctr.submit(app_name="Lines", app_args={"name": "it's"}, dry_run=True)
    assert task.runline is not None and task.runline.startswith("for i in 1 2; do\n  echo $i 'it")
    assert subprocess.check_output(["bash", "-c", task.runline], text=True) == "1 it's\n2 it's\n"
    assert not task.file_exists_in_workdir("job.out")
    assert Job.objects.count() == 0
    assert not (site.data_path / "libe_workflow").exists()


def test_work_directories(exctr: BalsamExecutor, allocation: BatchJob, caplog: pytest.LogCaptureFixture) -> None:
    one = exctr.submit(app_name="Echo", app_args={"word": 1}, workdir="a/b")
    one.wait(SOON)
    assert one.workdir.endswith("data/libe_workflow/a/b")
    two = exctr.submit(app_name="Echo", app_args={"word": 2}, workdir="a/b")
    assert two.workdir.endswith("data/libe_workflow/a/b.2")
    assert "a/b.2" in caplog.text
    two.wait(SOON)
    assert (one.read_stdout(), two.read_stdout()) == ("1\n", "2\n")
    held = exctr.submit(app_name="Sleep", app_args={"seconds": 60}, workdir="c")
    with pytest.raises(BadInput, match="libe_workflow/c"):
        exctr.submit(app_name="Echo", app_args={"word": 3}, workdir="c")
    held.kill()


def test_apps_by_kind_class_and_first_word(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    exctr.register_app(Echo, app_name="shout", calc_type="sim", desc="Shouts.")
    tasks = [
        exctr.submit(calc_type="sim", app_args={"word": "a"}),
        exctr.submit("gen", "shout", {"word": "b"}),
        exctr.submit(app_name="sleep", app_args={"seconds": 0}),
    ]
    assert [task.result(SOON) for task in tasks] == ["FINISHED"] * 3
    assert tasks[0].name.startswith("shout_")


def test_filter_tags(exctr: BalsamExecutor) -> None:
    other = exctr.submit(app_name="Echo", app_args={"word": "other"}, tags={"system": "CO2"})
    wanted = exctr.submit(app_name="Echo", app_args={"word": "wanted"}, tags={"system": "H2O", "run": 3})
    exctr.submit_allocation(exctr.site.id, 1, 10, "serial", filter_tags={"system": "H2O"})
    assert wanted.result(SOON) == "FINISHED"
    assert other.state == "WAITING" and not other.done()
    assert wanted.process is not None and wanted.process.tags == {"system": "H2O", "run": "3"}


def test_revoke_lets_running_tasks_run_again(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    task = exctr.submit(app_name="Sleep", app_args={"seconds": 60}, wait_on_start=True)
    assert exctr.revoke_allocation(allocation) is True
    assert allocation.state == "finished" and allocation.status_info
    assert not task.running() and task.state == "WAITING"
    assert task.process is not None and task.process.state == "RESTART_READY"
    assert exctr.revoke_allocation(allocation.id) is True  # again: it is gone


@pytest.fixture
def far_east(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process whose time zone is not that of the site's other processes."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "Pacific/Kiritimati")
        time.tzset()
        yield
    time.tzset()


def test_runtime_does_not_depend_on_the_time_zone(exctr: BalsamExecutor, allocation: BatchJob, far_east: None) -> None:
    task = exctr.submit(app_name="Sleep", app_args={"seconds": 0.3}, wait_on_start=True)
    assert task.runtime < SOON
    task.wait(SOON)
    assert 0.3 <= task.runtime < SOON and task.total_time is not None and task.total_time < SOON


def test_another_process_sees_and_uses_what_this_one_did(
    exctr: BalsamExecutor, site: Site, allocation: BatchJob
) -> None:
    task = exctr.submit(app_name="Echo", app_args={"word": "first"})
    task.wait(SOON)
    text = f"""
from balsam_jupyter import BalsamExecutor, Job
exctr = BalsamExecutor("here")
print(Job.objects.get(id={task.id}).state)
print(exctr.submit(app_name="Divide", app_args={{"a": 1, "b": 4}}).value(30))
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("JOB_FINISHED\n0.25\n", "")


def test_a_deleted_task_says_so(exctr: BalsamExecutor, site: Site) -> None:
    task = exctr.submit(app_name="Echo", app_args={"word": "x"})
    told: list[Exception] = []

    def wait() -> None:
        try:
            task.wait(SOON)
        except NotFound as error:
            told.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    assert task.process is not None
    task.process.delete()
    waiter.join(SOON)
    assert "was deleted" in str(told[0])
    with pytest.raises(NotFound, match="was deleted"):
        task.poll()
    with pytest.raises(Job.DoesNotExist):
        Job.objects.get(id=task.id)
    assert EventLog.objects.filter(job_id=task.id).order_by("-timestamp")[0].to_state == ""
