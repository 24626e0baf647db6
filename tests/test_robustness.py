"""Odd tasks and odd sites: each is the end of one task at the most, never of the launcher or its neighbours."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import cloudpickle
import pytest

from balsam_jupyter.codec import decode
from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.errors import BadInput, SiteError
from balsam_jupyter.models import Query

from .engine_site import allocate, ended, finished, job, python_app, shell_app, submit, wait_until
from .processes import is_running, launchers, slot_processes


@pytest.fixture
def settings() -> str:
    return "cores_per_node: 1\ngrace_period_s: 1\n"  # one slot: tasks follow each other in the same processes


@pytest.mark.parametrize("spelling", ["link", "dots", "moved"])
def test_takeover_however_the_path_is_spelt(engine, tmp_path, spelling):
    """The run whose spawner died is ended before the next begins, though the site is opened by another path."""
    witness = tmp_path / "witness"
    [one] = submit(engine, shell_app(engine, f"echo start >>{witness}; sleep 30; echo end >>{witness}"))
    allocation = allocate(engine)
    wait_until(engine, lambda: job(engine, one).state == "RUNNING")
    sleeper = [
        p for p in os.listdir("/proc") if p.isdigit() and b"BALSAM_JOB_ID" in _environ(p) and _session(p, engine)
    ]
    for pid in [
        allocation.scheduler_id,
        *launchers(allocation.id, engine.path),
        *slot_processes(engine.path, "spawner"),
    ]:
        os.kill(pid, signal.SIGKILL)
    path = Path(engine.path)
    if spelling == "link":
        other = tmp_path / "link"
        other.symlink_to(path)
    elif spelling == "dots":
        other = path / ".." / path.name
    else:
        other = path.rename(tmp_path / "moved")
    again = EmbeddedEngine.open("again" if spelling == "moved" else None, str(other))
    wait_until(again, lambda: job(again, one).state == "RESTART_READY")
    assert sleeper and not any(is_running(int(pid)) for pid in sleeper)
    again.close()
    if spelling == "moved":
        other.rename(path)


def _environ(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def _session(pid: str, engine: EmbeddedEngine) -> bool:
    return os.path.realpath(f"/proc/{pid}/cwd").startswith(str(engine.path))


def test_error_texts_that_cannot_be_stored_as_they_are(engine):
    def run(self, n):
        if n == 0:
            raise ValueError("bad \ud800")
        if n == 1:
            sys.exit(10**30)
        if n == 2:
            raise RuntimeError("x" * 10_000_000)

    run.__globals__["sys"] = sys
    allocate(engine)
    ids = submit(engine, python_app(engine, run), [{"n": n} for n in range(4)])
    wait_until(engine, lambda: ended(engine) == 4)
    errors = [job(engine, i).error for i in ids]
    assert "bad \\ud800" in errors[0] and len(errors[2]) < 25_000 and errors[3] == ""
    assert EmbeddedEngine.open("here").count(Query()) == engine.count(Query())


def test_what_cannot_be_written_is_refused_at_registration(engine):
    for fields in ({"environment_variables": {"A": "\ud800"}}, {"inputs": {"a": {"text": "\ud800"}}}):
        with pytest.raises(BadInput, match="cannot be written"):
            shell_app(engine, "true", **fields)
    assert engine.apps() == []


def test_wall_time_ends_outputs_that_hang(engine, tmp_path):
    allocation = allocate(engine)
    [first] = submit(engine, shell_app(engine, "true", app="First"))
    finished(engine, first)  # the launcher has been idle once
    common = shell_app(engine, f"echo {'a' * 40}b", outputs={"x": r"^(a+)+$"})
    [one] = submit(engine, common)
    wait_until(engine, lambda: job(engine, one).state == "RUN_DONE")
    assert engine.revoke(allocation.id, timeout=15)
    assert job(engine, one).state == "JOB_FINISHED"


def test_a_task_that_cannot_start_leaves_its_neighbours_log_alone(engine):
    allocate(engine)
    [mine] = submit(engine, shell_app(engine, "echo mine"))
    finished(engine, mine)
    Path(engine.path, "data", "lone", str(mine + 1)).write_text("a file where the directory has to be")
    [bad] = submit(engine, shell_app(engine, "echo bad"))
    assert "could not be started" in finished(engine, bad).error
    assert engine.output(mine) == "mine\n"


def test_a_python_task_leaves_nothing_to_the_next(engine):
    def run(self, do):
        import os
        import signal
        import sys
        import threading
        import time

        seen = (os.environ.get("LEFT"), [thread.name for thread in threading.enumerate() if thread.name == "ghost"])
        print("hello", do)
        if do == "stdout":
            sys.stdout.close()
        elif do == "fd":
            os.close(1)
        elif do == "environ":
            os.environ["LEFT"] = "1"
        elif do == "clear":
            os.environ.clear()
        elif do == "alarm":
            signal.setitimer(signal.ITIMER_REAL, 0.05)
        elif do == "term":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        elif do == "thread":
            threading.Thread(
                target=lambda: [time.sleep(0.01) or print("GHOST") for _ in range(500)], name="ghost", daemon=True
            ).start()
        elif do == "wait":
            time.sleep(0.2)
        return seen

    allocate(engine)
    acts = ["stdout", "fd", "environ", "clear", "alarm", "term", "thread", "wait", "end"]
    ids = submit(engine, python_app(engine, run), [{"do": do} for do in acts])
    wait_until(engine, lambda: ended(engine) == len(acts))
    assert [job(engine, i).state for i in ids] == ["JOB_FINISHED"] * len(acts), [job(engine, i).error for i in ids]
    assert [decode(job(engine, i).value) for i in ids] == [(None, [])] * len(acts)
    assert engine.output(ids[7]) == "hello wait\n"


def test_a_python_that_does_not_start(engine):
    allocate(engine)
    common = python_app(engine, lambda self: 1, python_exe="/bin/false")
    ids = submit(engine, common, [{}] * 3)
    good = submit(engine, shell_app(engine, "true"))
    wait_until(engine, lambda: ended(engine) == 4, 20)
    assert [job(engine, i).state for i in (*ids, *good)] == ["FAILED"] * 3 + ["JOB_FINISHED"]
    assert "Python does not start (exit code 1" in job(engine, ids[0]).error


@pytest.mark.parametrize(("times", "state"), [(2, "JOB_FINISHED"), (100, "FAILED")])
def test_a_python_that_is_killed_while_it_starts_is_started_again(engine, tmp_path, times, state):
    slow = tmp_path / "slow-python"
    killed = f"[ $(ls {tmp_path} | grep -c killed) -ge {times} ] || {{ touch {tmp_path}/killed.$$; kill -9 $$; }}"
    slow.write_text(f'#!/bin/sh\n{killed}\nexec {sys.executable} "$@"\n')
    slow.chmod(0o755)
    allocate(engine)
    (job_id,) = submit(engine, python_app(engine, lambda self: 1, python_exe=str(slow)))
    found = finished(engine, job_id)
    assert found.state == state and ("exit code -9" in found.error) == (state == "FAILED")


def test_a_crash_is_noticed_though_a_forked_child_lives(engine):
    def run(self):
        import os
        import time

        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
        os._exit(4)

    allocate(engine)
    [one] = submit(engine, python_app(engine, run))
    assert finished(engine, one, timeout=10).return_code == 4


def test_a_gentle_kill_can_be_followed_by_a_strict_one(engine):
    allocate(engine)
    [one] = submit(engine, shell_app(engine, "trap '' TERM; echo up; while :; do sleep 0.1; done"))
    wait_until(engine, lambda: engine.output(one) == "up\n" and job(engine, one).state == "RUNNING")
    engine.update(Query(ids=(one,)), "USER_KILLED", None)
    engine.update(Query(ids=(one,)), "USER_KILLED", 0.1)
    assert finished(engine, one, timeout=10).state == "USER_KILLED"


def test_a_log_that_is_a_fifo(engine):
    allocate(engine)
    [one] = submit(engine, shell_app(engine, "rm job.out; mkfifo job.out; exit 1"))
    assert finished(engine, one, timeout=10).state == "FAILED"
    assert engine.output(one) == ""


def test_one_bad_output_is_one_nan(engine):
    class Silent(Exception):
        def __str__(self):
            raise RuntimeError

    def stop(workdir):
        raise SystemExit(3)

    def silent(workdir):
        raise Silent

    def lock(workdir):
        import threading

        return threading.Lock()

    bad = {"stop": stop, "silent": silent, "lock": lock}
    payload = cloudpickle.dumps({"functions": {}, "attributes": {}, "outputs": bad})
    allocate(engine)
    outputs = {**dict.fromkeys(bad), "v": r"v=(\d+)"}
    [one] = submit(engine, shell_app(engine, "echo v=7", outputs=outputs, payload=payload))
    done = finished(engine, one)
    value = decode(done.value)
    assert value["v"] == 7 and all(value[name] != value[name] for name in bad)
    assert [line.partition(":")[0] for line in done.error.splitlines()] == ["stop", "silent", "lock"]


def test_a_kill_ends_the_reading_of_outputs(engine):
    allocate(engine)
    [one] = submit(engine, shell_app(engine, f"echo {'a' * 40}b", outputs={"x": r"^(a+)+$"}))
    wait_until(engine, lambda: job(engine, one).state == "RUN_DONE")
    engine.update(Query(ids=(one,)), "USER_KILLED")
    done = finished(engine, one, timeout=10)
    assert done.state == "JOB_FINISHED" and "read the outputs" in done.error


def test_a_site_deleted_while_it_is_open(engine, tmp_path):
    common = shell_app(engine, "true")
    aside = Path(engine.path, "balsam.db").rename(tmp_path / "aside.db")
    with pytest.raises(SiteError, match="deleted or replaced"):
        submit(engine, common)
    aside.rename(Path(engine.path, "balsam.db"))
    submit(engine, common)


def test_a_site_that_was_moved_is_not_begun_anew_unasked(home, tmp_path):
    EmbeddedEngine.open("gone", str(tmp_path / "old")).close()
    (tmp_path / "old").rename(tmp_path / "new")
    with pytest.raises(SiteError, match=r"was at .*old, which is gone: give its new place"):
        EmbeddedEngine.open("gone")
    EmbeddedEngine.open("gone", str(tmp_path / "new")).close()
    again = EmbeddedEngine.open("gone")
    assert again.path == tmp_path / "new"
    again.close()


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("settings.yml", b"\xff\xfe", "cannot be read"),
        ("settings.yml", b"idle_time_s: .nan", "idle_time_s must be a number"),
        ("settings.yml", b"mpi_launcher: [a]", "mpi_launcher must be text"),
        ("settings.yml", b"worker_launch: numactl", "worker_launch must hold {{ worker }}, not 'numactl'"),
        (
            "settings.yml",
            b"worker_launch: '{{ x }} {{ worker }}'",
            "worker_launch knows only {{ node }} and {{ worker }}",
        ),
        ("settings.yml", b"worker_launch: '{{ worker }}'\nserial_via_mpi: true", "exclude each other"),
        ("settings.yml", b"node: 2", "Did you mean 'nodes'"),
        ("job-template.sh", b"{{ no_such_variable }}", "no_such_variable"),
        ("job-template.sh", b"\xff\xfe", r"job-template\.sh cannot be used"),
    ],
)
def test_files_of_the_site_with_mistakes(engine, file, content, message):
    Path(engine.path, file).write_bytes(content)
    with pytest.raises(SiteError, match=message):
        allocate(engine)
    assert engine.allocations() == []


def test_a_script_that_ends_at_once_says_so(engine):
    Path(engine.path, "job-template.sh").write_text("echo module: command not found; exit 3\n")
    allocate(engine)
    deadline = time.monotonic() + 20
    wait_until(engine, lambda: engine.allocations()[0].state == "finished" or time.monotonic() > deadline)
    assert "module: command not found" in engine.allocations()[0].status_info["reason"]
