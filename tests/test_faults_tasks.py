"""Tasks that do not behave: killed, they are gone as a whole; not killed, they hurt nobody but themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from balsam_jupyter.codec import decode
from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.engines.embedded.recovery import Recovery
from balsam_jupyter.engines.embedded.store import work
from balsam_jupyter.models import AppRecord, JobCommon, Query

from .engine_site import allocate, ended, finished, job, python_app, shell_app, submit, wait_until
from .processes import is_running, launchers, marked, slot_processes
from .witness import check_transitions, check_witness, ends, integrity, witness_sweep

# Forks twice, leads a session of its own, clears its environment and sleeps; its parent stays for a while.
LEAVER = """
import os, sys, time
read, write = os.pipe()
os.set_inheritable(write, True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve("/bin/sh", ["sh", "-c", f"echo >&{write}; exec {write}>&-; sleep {sys.argv[1]}; :"], {})
    os._exit(0)
os.wait()
os.read(read, 1)
print("left", flush=True)
time.sleep(float(sys.argv[2]))
"""


def leaver(engine: EmbeddedEngine, tmp_path: Path) -> JobCommon:
    """An app that leaves a process behind for so many seconds, and stays for so many."""
    script = tmp_path / "leaver.py"
    script.write_text(LEAVER)
    return shell_app(engine, f"{sys.executable} -I -S {script} {{{{ behind }}}} {{{{ stay }}}}", "behind", "stay")


def test_a_killed_task_is_gone_with_what_left_it(engine, tmp_path):
    """Double fork, own session, no environment: only who adopted it knows whose it is."""
    allocate(engine)
    [one] = submit(engine, leaver(engine, tmp_path), [{"behind": 301.25, "stay": 300}])
    wait_until(engine, lambda: engine.output(one) == "left\n" and job(engine, one).state == "RUNNING")
    assert marked("sleep 301.25")
    engine.update(Query(ids=(one,)), "USER_KILLED", 0)
    assert finished(engine, one).state == "USER_KILLED"
    assert not marked("sleep 301.25"), "what left the task outlived it"


def test_a_kill_spares_what_an_earlier_task_left_and_its_neighbour(engine, tmp_path):
    """What a task left behind on purpose is not the next task's; nor is the task in the other slot."""
    app = leaver(engine, tmp_path)
    sleeper = shell_app(engine, "echo up; sleep {{ seconds }}", "seconds", app="Sleep")
    allocate(engine)
    left = submit(engine, app, [{"behind": 302.25, "stay": 0}] * 2)
    wait_until(engine, lambda: ended(engine) == 2)
    assert [job(engine, i).state for i in left] == ["JOB_FINISHED"] * 2
    behind = marked("sleep 302.25")
    two = submit(engine, sleeper, [{"seconds": 303}, {"seconds": 304}])
    wait_until(engine, lambda: all(engine.output(i) == "up\n" and job(engine, i).state == "RUNNING" for i in two))
    engine.update(Query(ids=(two[0],)), "USER_KILLED", 0)
    assert finished(engine, two[0]).state == "USER_KILLED"
    assert job(engine, two[1]).state == "RUNNING"
    assert behind and marked("sleep 302.25") == behind
    assert engine.revoke(engine.allocations()[0].id, 30)
    assert not marked("sleep 302.25"), "the allocation has ended, and with it what its tasks left"


def test_a_leaver_of_a_launcher_that_died_is_killed_with_its_task(engine, tmp_path):
    allocation = allocate(engine)
    [one] = submit(engine, leaver(engine, tmp_path), [{"behind": 305.25, "stay": 300}])
    wait_until(engine, lambda: engine.output(one) == "left\n" and job(engine, one).state == "RUNNING")
    for pid in (allocation.scheduler_id, *launchers(allocation.id, engine.path)):
        os.kill(pid, signal.SIGKILL)
    engine.update(Query(ids=(one,)), "USER_KILLED", 0)
    assert finished(engine, one).state == "USER_KILLED"
    assert not marked("sleep 305.25")


def test_a_task_that_ignores_sigterm(engine):
    allocate(engine)
    [one] = submit(engine, shell_app(engine, "trap '' TERM INT HUP; echo up; while :; do sleep 306.25; done"))
    wait_until(engine, lambda: engine.output(one) == "up\n" and job(engine, one).state == "RUNNING")
    engine.update(Query(ids=(one,)), "USER_KILLED", 0.2)
    assert finished(engine, one).state == "USER_KILLED"
    assert not marked("sleep 306.25")


def test_200_megabytes_on_stdout(engine):
    allocate(engine)
    noisy, quiet = submit(
        engine,
        shell_app(engine, "head -c {{ n }} /dev/zero | tr '\\0' '\\n'; echo end", "n"),
        [{"n": 200_000_000}, {"n": 0}],
    )
    wait_until(engine, lambda: ended(engine) == 2)
    assert engine.count(Query()) == {"JOB_FINISHED": 2}
    assert Path(engine.path, "data", "lone", str(noisy), "job.out").stat().st_size == 200_000_004
    assert engine.output(noisy, 1) == "end" and engine.output(quiet) == "end\n"
    [pid] = [work.session(engine.store.con, 1)[0]]
    peak = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 150_000, "the launcher read the log into its memory"


def test_a_task_that_closes_its_stdin(engine):
    def run(self):
        import os

        os.close(0)
        return "closed"

    allocate(engine)
    [one] = submit(engine, shell_app(engine, "exec 0<&-; sleep 0.1; echo closed"))
    [two, three] = submit(engine, python_app(engine, run), [{}, {}])
    assert finished(engine, one).state == "JOB_FINISHED" and engine.output(one) == "closed\n"
    for each in (two, three):
        assert decode(finished(engine, each).value) == "closed"


def test_kills_of_tasks_that_are_dead_already(engine, tmp_path):
    """A kill that meets a task at its end: it finished or was killed, and the next one runs."""
    ids = witness_sweep(engine, tmp_path / "witness", 60, 0.0)
    allocate(engine)
    for each in ids:
        wait_until(engine, lambda each=each: job(engine, each).state != "PREPROCESSED")
        engine.update(Query(ids=(each,)), "USER_KILLED", 0)
    wait_until(engine, lambda: ended(engine) == 60)
    assert set(engine.count(Query())) <= {"JOB_FINISHED", "USER_KILLED"}
    [last] = submit(engine, shell_app(engine, "true"))
    assert finished(engine, last).state == "JOB_FINISHED"
    check_transitions(engine)


def test_a_task_killed_by_someone_else_is_an_error(engine):
    allocate(engine)
    [one, two] = submit(engine, shell_app(engine, "sleep {{ s }}", "s"), [{"s": "307.25"}, {"s": "0"}])
    wait_until(engine, lambda: job(engine, one).state == "RUNNING" and marked("307.25"))
    for pid in marked("307.25"):
        os.kill(pid, signal.SIGKILL)
    assert finished(engine, one).state == "FAILED" and job(engine, one).return_code == -signal.SIGKILL
    assert finished(engine, two).state == "JOB_FINISHED"


@pytest.mark.parametrize("settings", ["cores_per_node: 1\ngrace_period_s: 1\n"])
def test_a_warm_process_killed_fails_its_task_alone(engine, tmp_path):
    def run(self, n):
        import time

        time.sleep(300 if n == 1 else 0)
        return n

    allocate(engine)
    ids = submit(engine, python_app(engine, run), [{"n": n} for n in range(4)])
    wait_until(engine, lambda: job(engine, ids[1]).state == "RUNNING")
    [worker] = slot_processes(engine.path, "worker")
    os.kill(worker, signal.SIGKILL)
    wait_until(engine, lambda: ended(engine) == 4)
    assert [job(engine, i).state for i in ids] == ["JOB_FINISHED", "FAILED", "JOB_FINISHED", "JOB_FINISHED"]
    assert "killed by signal 9" in job(engine, ids[1]).error and not is_running(worker)


def test_a_task_whose_launchers_die_fails_after_three(engine, tmp_path):
    """It ends every launcher that has begun work; the rest of the sweep finishes, a long task beside it too."""
    witness = tmp_path / "witness"
    [long] = witness_sweep(engine, witness, 1, 8)
    allocate(engine)
    wait_until(engine, lambda: job(engine, long).state == "RUNNING")  # of two, the one that began last is blamed
    script = tmp_path / "killer.py"
    script.write_text(KILLER)
    [bad] = submit(engine, shell_app(engine, f"{sys.executable} {script} {engine.path}", app="Killer"))
    witness_sweep(engine, witness, range(1, 21), 0.05)
    wait_until(engine, lambda: ends(engine) == 22, 90)
    assert engine.count(Query()) == {"JOB_FINISHED": 21, "FAILED": 1}
    assert job(engine, bad).state == "FAILED" and "launcher died 3 times" in job(engine, bad).error
    assert set(check_witness(witness, 21).values()) == {1}
    check_transitions(engine)


def test_old_launchers_that_die_blame_nobody(engine):
    """A long task may see many launchers die over the days: only those that die young count, from the second on."""
    allocation = allocate(engine)
    [one] = submit(engine, shell_app(engine, "sleep 309.25"))
    wait_until(engine, lambda: job(engine, one).state == "RUNNING")
    for young in (False, False, True, False, False):
        with engine.store.transaction() as con:
            work.count_death(con, allocation.id, young)
        assert work.doomed(engine.store.con, 1) == set()
    with engine.store.transaction() as con:
        work.count_death(con, allocation.id, True)
    assert work.doomed(engine.store.con, 1) == {one}


# Kills each launcher of the site once the launcher has a session.
KILLER = """
import os, signal, sqlite3, sys, time
con = sqlite3.connect(sys.argv[1] + "/balsam.db")
killed = set()
while True:
    for (pid,) in con.execute("SELECT pid FROM session WHERE state = 'open'").fetchall():
        if pid not in killed:
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
    time.sleep(0.02)
"""

SUBMITTER = """
import sys
from balsam_jupyter.codec import encode
from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.models import EnsembleRecord, JobCommon, JobSpec

engine = EmbeddedEngine.open("here")
common = JobCommon(int(sys.argv[1]), ensemble="big")

def rows():
    for n in range(100_000):
        if n == int(sys.argv[2]):
            print("now", flush=True)
        yield JobSpec(common, encode({"n": n}), key=n.to_bytes(4, "big"))
    if n < int(sys.argv[2]):
        print("now", flush=True)

engine.submit(rows(), EnsembleRecord("big", "Nothing"))
print("done", flush=True)
"""


@pytest.mark.parametrize("at", [1, 40_000, 99_999, 1_000_000])
def test_a_kernel_killed_while_it_submits_100000_tasks(engine, at):
    """All or nothing, and the same cell again completes it."""
    app = engine.register(AppRecord("Nothing", "shell", "1", {}, command_template="true"))
    command = [sys.executable, "-c", SUBMITTER, str(app)]
    process = subprocess.Popen([*command, str(at)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "now\n"
    process.kill()
    process.wait()
    process.stdout.close()
    there = sum(engine.count(Query()).values())
    assert there in (0, 100_000) and len(engine.ensembles()) == there // 100_000
    assert integrity(engine) == "ok"
    subprocess.run([*command, "0"], stdout=subprocess.DEVNULL, check=True)
    assert engine.count(Query(ensemble="big")) == {"PREPROCESSED": 100_000}
    check_transitions(engine)


def test_a_stopped_slot_process_keeps_neither_its_task_nor_the_allocation(engine):
    """It cannot tell of its task's end: after a kill, and at the end of the allocation, it is ended itself."""
    allocation = allocate(engine)
    one, two = submit(engine, shell_app(engine, "sleep 308.25"), [{}] * 2)
    wait_until(engine, lambda: engine.count(Query()) == {"RUNNING": 2})
    for spawner in slot_processes(engine.path, "spawner"):
        os.kill(spawner, signal.SIGSTOP)
    engine.update(Query(ids=(one,)), "USER_KILLED", 0)
    assert finished(engine, one).state == "USER_KILLED"
    assert engine.revoke(allocation.id, 30)
    assert job(engine, two).state == "RESTART_READY" and not marked("sleep 308.25")


def test_a_task_that_a_stop_ended_runs_again_whoever_reads_of_it(engine):
    """Its launcher was killed while it stopped, or another process reads the end before the one that asked for it."""
    [one] = submit(engine, shell_app(engine, "sleep 60"))
    allocation = allocate(engine)
    wait_until(engine, lambda: job(engine, one).state == "RUNNING")
    for pid in (allocation.scheduler_id, *launchers(allocation.id, engine.path)):
        os.kill(pid, signal.SIGKILL)
    stop = Recovery(engine.path, engine.store, engine.bell)
    wait_until(engine, lambda: stop.sweep(allocation.id, stopping=True))  # it has seen that the launcher is dead
    wait_until(engine, lambda: job(engine, one).state != "RUNNING")
    assert job(engine, one).state == "RESTART_READY", job(engine, one).error
