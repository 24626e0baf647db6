"""Kills, allocations and submissions on the embedded engine, with real processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from balsam_jupyter.codec import encode
from balsam_jupyter.errors import BadInput, SiteError
from balsam_jupyter.models import EnsembleRecord, JobCommon, JobSpec, Query, Resources

from .engine_site import allocate, ended, finished, job, path_of, python_app, shell_app, submit, wait_until
from .processes import is_running, launchers, marked

BORN = ["CREATED", "READY", "STAGED_IN", "PREPROCESSED"]
RAN = ["RUNNING", "RUN_DONE", "POSTPROCESSED", "STAGED_OUT", "JOB_FINISHED"]


# -- kills -------------------------------------------------------------------------------------------------


def test_kill_takes_the_whole_process_tree_within_a_second(engine, tmp_path):
    mark = f"kill-tree-{os.getpid()}"
    script = tmp_path / f"{mark}.py"
    script.write_text(
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "if len(sys.argv) == 1 and os.fork() == 0:\n"
        "    os.setsid()\n"  # leaves group and session
        "    if os.fork() == 0:\n"
        "        os.execve(sys.executable, [sys.executable, sys.argv[0], 'bare'], {})\n"  # and the mark
        "time.sleep(60)\n"
    )
    allocate(engine)
    [one] = submit(engine, shell_app(engine, f"{sys.executable} {script}"))
    wait_until(engine, lambda: len(marked(mark)) >= 3)
    began = time.monotonic()
    assert engine.update(Query(ids=(one,)), "USER_KILLED", 0.2) == 1
    assert finished(engine, one).state == "USER_KILLED"
    took = time.monotonic() - began
    assert not [pid for pid in marked(mark) if is_running(pid)]
    assert took < 5, took
    assert path_of(engine, one) == [*BORN, "RUNNING", "USER_KILLED"]


def test_a_killed_task_makes_room_for_the_next(engine):
    allocate(engine)
    common = shell_app(engine, "sleep {{ s }}", "s")
    first, second, third = submit(engine, common, [{"s": 100}, {"s": 100}, {"s": 0}])
    wait_until(engine, lambda: engine.count(Query()).get("RUNNING") == 2)
    engine.update(Query(ids=(first,)), "USER_KILLED")
    assert finished(engine, third).state == "JOB_FINISHED"
    assert finished(engine, first).state == "USER_KILLED"
    assert job(engine, second).state == "RUNNING"
    assert engine.update(Query(), "USER_KILLED") == 1
    assert finished(engine, second).state == "USER_KILLED"
    assert engine.update(Query(), "USER_KILLED") == 0, "ended jobs cannot be killed"


def test_kill_without_sigkill_lets_the_task_end_its_own_way(engine):
    allocate(engine)
    [one] = submit(engine, shell_app(engine, "trap 'echo saved; exit 0' TERM; echo up; while :; do sleep 0.05; done"))
    wait_until(engine, lambda: engine.output(one) == "up\n" and job(engine, one).state == "RUNNING")
    engine.update(Query(ids=(one,)), "USER_KILLED", None)
    done = finished(engine, one)
    assert engine.output(one).endswith("saved\n")
    assert done.state == "JOB_FINISHED", "it ended by itself, and well"


def test_kill_before_anything_runs(engine):
    ids = submit(engine, shell_app(engine, "true"), [{}] * 3)
    assert engine.update(Query(ids=tuple(ids[:2])), "USER_KILLED") == 2
    allocate(engine)
    wait_until(engine, lambda: ended(engine) == 3)
    assert [job(engine, i).state for i in ids] == ["USER_KILLED", "USER_KILLED", "JOB_FINISHED"]


def test_killing_a_python_task_spares_its_neighbours(engine):
    def run(self, n):
        import time

        time.sleep(30 if n == 0 else 0.001)
        return n

    allocate(engine)
    ids = submit(engine, python_app(engine, run), [{"n": n} for n in range(30)])
    wait_until(engine, lambda: job(engine, ids[0]).state == "RUNNING")
    engine.update(Query(ids=(ids[0],)), "USER_KILLED")
    wait_until(engine, lambda: ended(engine) == 30)
    assert engine.count(Query()) == {"JOB_FINISHED": 29, "USER_KILLED": 1}


# -- allocations ------------------------------------------------------------------------------------------


def test_wall_time_ends_tasks_gracefully_and_they_run_again(engine):
    [one, stubborn] = submit(
        engine,
        shell_app(engine, "trap '{{ t }}' TERM; while :; do sleep 0.05; done", "t"),
        [{"t": "echo bye; exit 1"}, {"t": ""}],
    )
    first = allocate(engine, minutes=2 / 60)
    wait_until(engine, lambda: engine.allocations()[0].state == "finished")
    assert engine.allocations()[0].status_info == {"reason": "its wall time is over"}
    assert path_of(engine, one) == [*BORN, "RUNNING", "RUN_TIMEOUT", "RESTART_READY"]
    assert job(engine, stubborn).state == "RESTART_READY"
    assert engine.output(one).endswith("bye\n")
    assert not launchers(first.id, engine.path)
    assert engine.usage().node_hours == pytest.approx(3 / 3600, rel=0.6)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_launcher_stops_gracefully(engine, number):
    ids = submit(engine, shell_app(engine, "sleep 100"), [{}] * 4)
    allocation = allocate(engine)
    wait_until(engine, lambda: engine.count(Query()).get("RUNNING") == 2)
    os.kill(launchers(allocation.id, engine.path)[0], number)
    wait_until(engine, lambda: engine.allocations()[0].state == "finished")
    assert [job(engine, i).state for i in ids] == ["RESTART_READY"] * 2 + ["PREPROCESSED"] * 2
    assert number.name in engine.allocations()[0].status_info["reason"]


def test_revocation(engine):
    submit(engine, shell_app(engine, "sleep 100"), [{}] * 3)
    allocation = allocate(engine)
    wait_until(engine, lambda: engine.count(Query()).get("RUNNING") == 2)
    assert engine.revoke(allocation.id) is True
    assert not launchers(allocation.id, engine.path)
    assert engine.count(Query()) == {"RESTART_READY": 2, "PREPROCESSED": 1}
    assert engine.allocations()[0].status_info == {"reason": "revoked"}


def test_allocations_wait_for_nodes_first_come_first_served(engine):
    first, second, third = (allocate(engine) for _ in range(3))
    assert [a.state for a in engine.allocations()] == ["running", "queued", "queued"]
    assert engine.revoke(first.id)
    wait_until(engine, lambda: [a.state for a in engine.allocations()] == ["finished", "running", "queued"])
    assert engine.revoke(third.id)
    assert engine.allocations()[2].status_info == {"reason": "revoked before it started"}
    script = Path(engine.path, "qsubmit", f"qlaunch{second.id}.sh").read_text()
    assert "launcher" in script and f"--allocation {second.id}" in script


@pytest.mark.parametrize("settings", ["nodes: 2\ncores_per_node: 1\nidle_time_s: 0.5\n"])
def test_idle_launchers_end_and_nodes_are_shared(engine):
    allocate(engine)
    allocate(engine)
    assert [a.state for a in engine.allocations()] == ["running", "running"]
    ids = submit(engine, shell_app(engine, "echo $BALSAM_SESSION; sleep 0.3"), [{}] * 6)
    wait_until(engine, lambda: {a.state for a in engine.allocations()} == {"finished"})
    assert engine.count(Query()) == {"JOB_FINISHED": 6}
    assert {job(engine, i).batch_job_id for i in ids} == {1, 2}
    assert all("nothing to run" in a.status_info["reason"] for a in engine.allocations())


def test_filter_tags(engine):
    common = shell_app(engine, "true")
    tagged = JobCommon(common.app_id, tags={"kind": "a", "more": "x"})
    [plain] = submit(engine, common)
    [mine] = submit(engine, tagged)
    allocate(engine, filter_tags={"kind": "a"})
    assert finished(engine, mine).state == "JOB_FINISHED"
    [late] = submit(engine, JobCommon(common.app_id, tags={"kind": "a"}))
    assert finished(engine, late).state == "JOB_FINISHED"
    assert job(engine, plain).state == "PREPROCESSED"


def test_an_app_registered_anew_is_what_later_jobs_run(engine):
    allocate(engine)
    [old] = submit(engine, shell_app(engine, "echo old"))
    finished(engine, old)
    [new] = submit(engine, shell_app(engine, "echo new"))
    finished(engine, new)
    assert (engine.output(old), engine.output(new)) == ("old\n", "new\n")


def test_a_template_that_breaks_while_an_allocation_waits_is_told(engine):
    first, _ = allocate(engine), allocate(engine)
    Path(engine.path, "job-template.sh").write_text("{{ no_such_variable }}")
    with pytest.raises(SiteError, match=r"job-template\.sh cannot be used"):
        allocate(engine)
    assert engine.revoke(first.id)
    wait_until(engine, lambda: engine.allocations()[1].state == "submit_failed")
    assert "no_such_variable" in engine.allocations()[1].status_info["error"]


# -- submission -------------------------------------------------------------------------------------------


def test_a_submission_is_all_or_nothing(engine):
    common = shell_app(engine, "true")

    def rows():
        for n in range(2500):
            yield JobSpec(common, encode({"n": n}), "lone/{id}")
        raise RuntimeError("the generator broke")

    with pytest.raises(RuntimeError, match="broke"):
        engine.submit(rows())
    assert engine.count(Query()) == {} and engine.events("").rows == []


@pytest.mark.parametrize("workdir", ["/abs", "../out", "a/../../b"])
def test_work_directories_outside_are_refused(engine, workdir):
    with pytest.raises(BadInput, match="relative path"):
        engine.submit([JobSpec(shell_app(engine, "true"), "{}", workdir)])


@pytest.mark.parametrize(
    "asked",
    [Resources(num_nodes=2), Resources(ranks_per_node=9), Resources(gpus_per_rank=9), Resources(threads_per_rank=9)],
)
def test_what_cannot_run_is_refused(engine, asked):
    common = shell_app(engine, "true")
    with pytest.raises(BadInput, match="too many"):
        engine.submit([JobSpec(JobCommon(common.app_id, resources=asked), "{}", "x")])
    assert engine.count(Query()) == {}


def test_a_name_held_by_an_unfinished_job_is_refused_and_a_finished_one_gets_a_number(engine):
    common = shell_app(engine, "true")
    first = engine.submit([JobSpec(common, "{}", "lone/x")])
    with pytest.raises(BadInput, match="still works in 'lone/x'"):
        engine.submit([JobSpec(common, "{}", "lone/x")])
    allocate(engine)
    finished(engine, first.ids[0])
    second = engine.submit([JobSpec(common, "{}", "lone/x")])
    assert second.renamed == {second.ids[0]: "lone/x.2"}


def test_a_lone_job_and_a_row_never_share_a_directory(engine):
    common = shell_app(engine, "true")
    engine.submit([JobSpec(common, "{}", "scan/1")])
    rows = JobCommon(common.app_id, ensemble="scan")
    with pytest.raises(BadInput, match="Job 1 works in 'scan/1', which would be a row's"):
        engine.submit([JobSpec(rows, "{}", key=bytes([n])) for n in range(2)], EnsembleRecord("scan", "App"))
    assert engine.ensembles() == [] and engine.count(Query()) == {"PREPROCESSED": 1}
    engine.submit([JobSpec(rows, "{}", key=b"0")], EnsembleRecord("scan", "App"))
    with pytest.raises(BadInput, match="'scan/0' is the directory of row 0 of ensemble 'scan'"):
        engine.submit([JobSpec(common, "{}", "scan/0")])
    engine.submit([JobSpec(common, "{}", "scan/0/analysis")])  # what a hook makes inside its job's directory


def test_rows_are_found_by_their_directory(engine):
    common = shell_app(engine, "true")
    engine.submit([], EnsembleRecord("scan.1", "App"))
    rows = JobCommon(common.app_id, ensemble="scan.1")
    engine.submit(JobSpec(rows, "{}", key=n.to_bytes(16, "big")) for n in range(5002))
    for workdir, row in (("scan.1/7", 7), ("scan.1/4999", 4999), ("scan.1/5000-9999/5001", 5001)):
        [found] = engine.jobs(Query(workdir=workdir))
        assert (found.workdir, found.row) == (workdir, row)
    assert engine.jobs(Query(workdir="scan.1/5001")) == engine.jobs(Query(workdir="no/1")) == []


def test_events_wake_a_waiting_thread(engine):
    cursor = engine.events("now").cursor
    common = shell_app(engine, "true")
    seen = []
    waiter = threading.Thread(target=lambda: seen.append(engine.events(cursor, 30.0)))
    waiter.start()
    submit(engine, common)
    waiter.join(10)
    assert [row.path[-1] for row in seen[0].rows] == ["PREPROCESSED"]
