"""What the embedded engine's launcher does with real tasks."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from balsam_jupyter.codec import decode
from balsam_jupyter.models import Query

from .engine_site import allocate, ended, finished, job, path_of, python_app, shell_app, submit, wait_until

BORN = ["CREATED", "READY", "STAGED_IN", "PREPROCESSED"]
RAN = ["RUNNING", "RUN_DONE", "POSTPROCESSED", "STAGED_OUT", "JOB_FINISHED"]


def test_states_log_and_directory_of_a_command(engine):
    allocate(engine)
    [one] = submit(engine, shell_app(engine, "echo hello {{ who }}; pwd; echo oops >&2", "who"), [{"who": "you & me"}])
    done = finished(engine, one)
    workdir = Path(engine.path, "data", "lone", str(one))
    assert done.state == "JOB_FINISHED" and done.return_code == 0 and done.runtime_s > 0
    assert engine.output(one) == f"hello you & me\n{workdir}\noops\n"
    assert path_of(engine, one) == BORN + RAN
    assert engine.output(one, 1) == "oops"


@pytest.mark.parametrize("settings", ["split_stderr: true\n"])
def test_stderr_in_a_file_of_its_own(engine):
    allocate(engine)
    [one] = submit(engine, shell_app(engine, "echo out; echo err >&2; exit 3"))
    done = finished(engine, one)
    assert (done.state, done.return_code, done.error) == ("FAILED", 3, "err")
    assert engine.output(one) == "out\n" and engine.read_file(one, "job.err") == b"err\n"


def test_a_program_that_does_not_exist(engine):
    allocate(engine)
    [one] = submit(engine, shell_app(engine, "no-such-program {{ x }}", "x"), [{"x": 1}])
    done = finished(engine, one)
    assert (done.state, done.return_code) == ("FAILED", 127)
    assert "no-such-program" in engine.output(one) and "not found" in done.error
    assert path_of(engine, one) == [*BORN, "RUNNING", "RUN_ERROR", "FAILED"]


def test_a_rerun_keeps_the_old_log(engine):
    allocate(engine)
    [one] = submit(engine, shell_app(engine, "date +%N; [ -e job.out.1 ]"))
    assert finished(engine, one).state == "FAILED"
    first = engine.output(one)
    assert engine.update(Query(ids=(one,)), "RESTART_READY") == 1
    assert finished(engine, one).state == "JOB_FINISHED"
    assert engine.read_file(one, "job.out.1").decode() == first != engine.output(one)
    assert job(engine, one).attempts == 2


def test_environment_of_a_task(engine, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    monkeypatch.setenv("MINE", "kept")
    monkeypatch.setenv("PYTHONPATH", "/users/own")
    allocate(engine)
    [one] = submit(engine, shell_app(engine, "env", environment_variables={"COLOUR": "a b\nc"}))
    finished(engine, one)
    log = engine.output(one)
    assert "MPLBACKEND" not in log and "JPY_" not in log
    assert "PYTHONPATH=/users/own\n" in log
    assert "MINE=kept\n" in log and "COLOUR=a b\nc\n" in log and f"BALSAM_JOB_ID={one}\n" in log


def test_input_files(engine, tmp_path):
    (tmp_path / "table.dat").write_bytes(b"\x00\x01")
    inputs = {
        "in.melt": {"template": "temperature {{ T }}\n"},
        "sub/fixed.txt": {"text": "as it is {{ T }}\n"},
        "table.dat": {"path": str(tmp_path / "table.dat")},
    }
    allocate(engine)
    [one] = submit(
        engine, shell_app(engine, "cat in.melt sub/fixed.txt; wc -c table.dat", "T", inputs=inputs), [{"T": 1.5}]
    )
    finished(engine, one)
    assert engine.output(one) == "temperature 1.5\nas it is {{ T }}\n2 table.dat\n"


def test_outputs_are_there_when_the_job_is_finished(engine):
    allocate(engine)
    common = shell_app(
        engine,
        'echo P = {{ p }}; echo \'{"a": {"b": 2}}\' >r.json',
        "p",
        outputs={"p": r"P = (\S+)", "b": "r.json:a.b", "no": r"(Q)"},
    )
    [one] = submit(engine, common, [{"p": 4.25}])
    done = finished(engine, one)
    value = decode(done.value)
    assert value["p"] == 4.25 and value["b"] == 2 and value["no"] != value["no"]
    assert "no: no match" in done.error
    assert path_of(engine, one) == BORN + RAN


def test_preamble_and_shell(engine):
    allocate(engine)
    [one] = submit(
        engine,
        shell_app(engine, 'echo "$A {{ x }}"', "x", preamble=["export A='from the preamble'"]),
        [{"x": "$(id) \"'"}],
    )
    finished(engine, one)
    assert engine.output(one) == "from the preamble $(id) \"'\n"


# -- Python apps -----------------------------------------------------------------------------------------


def test_python_app_returns_its_value_and_prints_to_its_log(engine):
    def run(self, x, y=1):
        print("x is", x)
        return {"sum": x + y, "where": self.job.workdir.name, "id": self.job.id}

    allocate(engine)
    [one] = submit(engine, python_app(engine, run), [{"x": 2}])
    done = finished(engine, one)
    assert decode(done.value) == {"sum": 3, "where": str(one), "id": one}
    assert engine.output(one) == "x is 2\n"


def test_python_app_that_raises(engine):
    def run(self, x):
        raise KeyError(f"no such thing {x}")

    allocate(engine)
    [one] = submit(engine, python_app(engine, run), [{"x": 5}])
    done = finished(engine, one)
    assert done.state == "FAILED" and done.return_code == 1
    error = decode(done.exception)
    assert isinstance(error, KeyError) and error.args == ("no such thing 5",)
    assert "no such thing 5" in done.error and "worker.py" not in done.error
    assert "Traceback" in engine.output(one)


def test_python_app_that_takes_its_process_along_fails_alone(engine):
    def run(self, n):

        if n == 3:
            os._exit(0)
        if n == 5:
            os.kill(os.getpid(), signal.SIGSEGV)
        if n == 7:
            raise SystemExit("no more")
        return n

    allocate(engine)
    jobs = submit(engine, python_app(engine, run), [{"n": n} for n in range(40)])
    wait_until(engine, lambda: ended(engine) == 40)
    states = [job(engine, i).state for i in jobs]
    assert [n for n, state in enumerate(states) if state != "JOB_FINISHED"] == [3, 5, 7]
    assert "ended its process" in job(engine, jobs[3]).error
    assert "signal 11" in job(engine, jobs[5]).error
    assert "no more" in job(engine, jobs[7]).error
    assert all(job(engine, i).attempts == 1 for i in jobs)


def test_long_python_tasks_do_not_hold_up_those_behind_them(engine):
    def run(self, seconds):

        time.sleep(seconds)

    allocate(engine)
    common = python_app(engine, run)
    submit(engine, common, [{"seconds": 0.001}] * 60)  # short ones first: the launcher hands over many at a time
    wait_until(engine, lambda: ended(engine) == 60)
    long = submit(engine, common, [{"seconds": 20}])
    rest = submit(engine, common, [{"seconds": 0.001}] * 60)
    wait_until(engine, lambda: engine.count(Query(ids=tuple(rest))) == {"JOB_FINISHED": 60}, 15)
    assert job(engine, long[0]).state == "RUNNING"
    assert engine.update(Query(ids=tuple(long)), "USER_KILLED") == 1
    assert finished(engine, long[0]).state == "USER_KILLED"
