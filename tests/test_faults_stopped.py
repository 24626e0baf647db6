"""Launchers stopped with SIGSTOP and continued: others take over, and what the stopped one still does is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, Job, open_site
from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.engines.embedded.recovery import Recovery
from balsam_jupyter.engines.embedded.store import work
from balsam_jupyter.errors import SiteError
from balsam_jupyter.models import AllocationRequest, Query

from .engine_site import job, python_app, submit, wait_until
from .processes import is_running, marked, processors, slot_processes
from .witness import (
    check_transitions,
    check_witness,
    ends,
    is_free,
    log_of,
    probe,
    state_of_process,
    witness_sweep,
)


@pytest.fixture
def settings() -> str:
    return "nodes: 2\ncores_per_node: 2\ngrace_period_s: 1\nstopped_after_s: 1\n"


def stop_outside_a_transaction(engine: EmbeddedEngine, allocation: int) -> int:
    """Stop the allocation's launcher at a moment when it does not hold the store; returns its process id."""
    pid = work.session(engine.store.con, latest_session(engine, allocation))[0]
    store = probe(engine)
    while True:
        os.kill(pid, signal.SIGSTOP)
        while state_of_process(pid) != "T":
            os.sched_yield()
        if is_free(store):
            store.close()
            return pid
        os.kill(pid, signal.SIGCONT)


def state_of_session(engine: EmbeddedEngine, session: int) -> str:
    return work.session(engine.store.con, session)[1]


def latest_session(engine: EmbeddedEngine, allocation: int) -> int:
    query = "SELECT coalesce(max(id), 0) FROM session WHERE batch_job_id = ?"
    return int(engine.store.con.execute(query, (allocation,)).fetchone()[0])


@pytest.mark.parametrize("seconds", [0.01, 0.6])
def test_a_stopped_launcher_is_taken_over_and_refused_when_it_goes_on(engine, tmp_path, seconds):
    """One allocation's launcher is stopped, another's finishes the sweep; continued, the first is refused."""
    witness, tasks = tmp_path / "witness", 200 if seconds < 0.1 else 12
    witness_sweep(engine, witness, tasks, seconds)
    first = engine.allocate(AllocationRequest(1, 10, "serial"))
    wait_until(engine, lambda: ends(engine) >= 2)
    pid = stop_outside_a_transaction(engine, first.id)
    second = engine.allocate(AllocationRequest(1, 10, "serial"))
    wait_until(engine, lambda: ends(engine) == tasks)
    assert state_of_process(pid) == "T" and state_of_session(engine, 1) == "fenced"
    before = engine.events("now").cursor
    os.kill(pid, signal.SIGCONT)
    wait_until(engine, lambda: "another process has taken over from this session; leaving" in log_of(engine, first.id))
    wait_until(engine, lambda: state_of_session(engine, 1) == "closed")
    assert engine.events(before).rows == [], "it wrote to the store after it was fenced"
    assert engine.count(Query()) == {"JOB_FINISHED": tasks}
    assert set(check_witness(witness, tasks).values()) == {1}
    check_transitions(engine)
    # Its allocation has not ended: the script starts another launcher, which works like any other.
    assert engine.revoke(second.id, timeout=30)
    witness_sweep(engine, witness, range(1000, 1004), 0.0)
    wait_until(engine, lambda: ends(engine) == tasks + 4)
    assert {j.batch_job_id for j in engine.jobs(Query()) if j.id > tasks} == {first.id}


def fence_and_continue(engine: EmbeddedEngine, allocation: int) -> None:
    wait_until(engine, lambda: state_of_session(engine, latest_session(engine, allocation)) == "open")
    session = latest_session(engine, allocation)
    pid = stop_outside_a_transaction(engine, allocation)
    wait_until(engine, lambda: state_of_session(engine, session) != "open")
    os.kill(pid, signal.SIGCONT)
    wait_until(engine, lambda: state_of_session(engine, session) == "closed")


def test_continued_in_the_middle_of_the_takeover(engine, tmp_path):
    """The stopped launcher goes on at the very moment it is fenced, with jobs in hand and slots to feed."""
    witness, tasks = tmp_path / "witness", 300
    witness_sweep(engine, witness, tasks, 0.02)
    first = engine.allocate(AllocationRequest(1, 10, "serial"))
    engine.allocate(AllocationRequest(1, 10, "serial"))
    for target in (20, 80, 140):
        wait_until(engine, lambda target=target: ends(engine) >= target)
        fence_and_continue(engine, first.id)
    wait_until(engine, lambda: ends(engine) == tasks)
    assert engine.count(Query()) == {"JOB_FINISHED": tasks}
    assert set(check_witness(witness, tasks).values()) == {1}
    check_transitions(engine)


def test_python_tasks_of_a_stopped_launcher(engine, tmp_path):
    """Its warm processes see their tasks through, also one that is inside C code, and take no others."""
    witness = tmp_path / "witness"

    def run(self, path, n):
        import ctypes
        import os

        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"start {n} {os.getpid()}\n".encode())
        ctypes.CDLL(None).usleep(900_000)
        os.write(fd, f"end {n} {os.getpid()}\n".encode())

    submit(engine, python_app(engine, run), [{"path": str(witness), "n": n} for n in range(8)])
    first = engine.allocate(AllocationRequest(1, 10, "serial"))
    wait_until(engine, lambda: ends(engine) >= 2)
    pid = stop_outside_a_transaction(engine, first.id)
    engine.allocate(AllocationRequest(1, 10, "serial"))
    wait_until(engine, lambda: ends(engine) == 8)
    assert engine.count(Query()) == {"JOB_FINISHED": 8}
    assert set(check_witness(witness, 8).values()) == {1}
    assert state_of_process(pid) == "T"


def test_tasks_of_a_stopped_launcher_can_be_killed_and_its_allocation_revoked(engine, tmp_path):
    ids = witness_sweep(engine, tmp_path / "witness", 4, 60)
    first = engine.allocate(AllocationRequest(1, 10, "serial"))
    wait_until(engine, lambda: engine.count(Query()).get("RUNNING") == 2)
    pid = stop_outside_a_transaction(engine, first.id)
    wait_until(engine, lambda: state_of_session(engine, 1) == "fenced")
    assert {job(engine, i).state for i in ids[:2]} == {"RUNNING"}, "a task went with its launcher"
    assert {job(engine, i).state for i in ids[2:]} == {"PREPROCESSED"}
    engine.update(Query(ids=(ids[0],)), "USER_KILLED", 0.2)
    wait_until(engine, lambda: job(engine, ids[0]).state == "USER_KILLED", 10)
    assert engine.revoke(first.id, timeout=30)
    assert not is_running(pid)
    assert job(engine, ids[1]).state == "RESTART_READY"
    assert slot_processes(engine.path, "spawner") == []


def test_one_that_goes_on_in_time_keeps_its_jobs(engine, tmp_path):
    """Stopped again and again for less than the time allowed, with a heartbeat in between."""
    witness_sweep(engine, tmp_path / "witness", 40, 0.1)
    engine.allocate(AllocationRequest(1, 10, "serial"))
    wait_until(engine, lambda: ends(engine) >= 2)
    clock = Clock()
    observer = Recovery(engine.path, engine.store, engine.bell, stopped_after_s=3.0, clock=clock)
    pid = work.session(engine.store.con, 1)[0]
    beat = Path(engine.path, "run", "session-1", "lock")
    for _ in range(3):
        os.kill(pid, signal.SIGSTOP)
        for _ in range(3):
            observer.sweep()
            clock.now += 1.0
        seen = beat.read_bytes()
        os.kill(pid, signal.SIGCONT)
        wait_until(engine, lambda seen=seen: beat.read_bytes() != seen)
    assert state_of_session(engine, 1) == "open"
    wait_until(engine, lambda: ends(engine) == 40)
    assert set(check_witness(tmp_path / "witness", 40).values()) == {1}


class Hooked(ApplicationDefinition):
    site = "here"
    command_template = "true"

    def preprocess(self):
        import subprocess

        subprocess.run(["sleep", self.job.data["seconds"]])
        self.job.state = "PREPROCESSED"


def test_a_stopped_processor_is_ended_and_another_runs_the_hook(engine):
    site = open_site("here")
    BalsamExecutor(site).register_app(Hooked)
    hooked = Job.objects.create(app_id="Hooked", workdir="w", data={"seconds": "313.25"})
    wait_until(engine, lambda: marked("313.25"))
    [first], [sleep] = processors(engine.path), marked("313.25")
    os.kill(first, signal.SIGSTOP)
    wait_until(engine, lambda: set(marked("313.25")) - {sleep})
    assert not is_running(first) and not is_running(sleep), "two hooks of one job never run at a time"
    for pid in marked("313.25"):
        os.kill(pid, signal.SIGTERM)
    wait_until(engine, lambda: job(engine, hooked.id).state == "PREPROCESSED")
    site.close()


HOLDER = """
import fcntl, os, signal, sys
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""


def test_a_process_stopped_while_it_registers_a_site(engine, home, tmp_path):
    """Sites that are known open all the same; a new one is refused, with the reason."""
    lock = home / "sites.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(lock)], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        EmbeddedEngine.open("here").close()
        with pytest.raises(SiteError, match=r"sites\.lock has been locked for .* a process that is stopped"):
            EmbeddedEngine.open("new", str(tmp_path / "new"))
        assert not (tmp_path / "new").exists()
    finally:
        holder.kill()
        holder.communicate()
    EmbeddedEngine.open("new", str(tmp_path / "new")).close()


class Clock:
    """A monotonic clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("settings", ["cores_per_node: 2\ngrace_period_s: 1\nstopped_after_s: 1000\n"])
def test_time_counts_only_while_the_observer_is_awake(engine, tmp_path):
    """The observer's clock jumps by an hour between two looks: nothing is taken over."""
    witness_sweep(engine, tmp_path / "witness", 2, 60)
    first = engine.allocate(AllocationRequest(1, 10, "serial"))
    wait_until(engine, lambda: engine.count(Query()) == {"RUNNING": 2})
    pid = stop_outside_a_transaction(engine, first.id)
    clock = Clock()
    observer = Recovery(engine.path, engine.store, engine.bell, stopped_after_s=30.0, clock=clock)
    for _ in range(10):
        observer.sweep()
        clock.now += 3600.0
    assert state_of_session(engine, 1) == "open"
    for _ in range(30):
        observer.sweep()
        clock.now += 1.0
    assert state_of_session(engine, 1) == "fenced"
    os.kill(pid, signal.SIGCONT)
