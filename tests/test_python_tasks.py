"""Python tasks share a worker's stage until they leave something: users must not see a difference."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from balsam_jupyter.codec import decode, encode
from balsam_jupyter.models import EnsembleRecord, JobCommon, JobSpec, Query

from .engine_site import allocate, ended, finished, job, path_of, python_app, wait_until
from .engine_site import submit as submit_lone
from .processes import launchers, slot_processes

RAN = ["RUNNING", "RUN_DONE", "POSTPROCESSED", "STAGED_OUT", "JOB_FINISHED"]


@pytest.fixture
def settings() -> str:
    return "cores_per_node: 1\ngrace_period_s: 1\n"  # one slot: tasks follow each other in the same process


def submit(engine, common, rows):
    """Rows of an ensemble: lone jobs have their directories from the beginning."""
    record = EnsembleRecord(f"e{len(engine.ensembles())}", "Py", 1, "1", 0.0, {})
    common = replace(common, ensemble=record.name)
    specs = (JobSpec(common, encode(row), key=number.to_bytes(16, "big")) for number, row in enumerate(rows))
    return list(engine.submit(specs, record).ids)


def folder(engine, job_id):
    return Path(engine.path, "data", job(engine, job_id).workdir)


def stages(engine):
    return [path.name for path in Path(engine.path, "data").rglob(".stage-*")]


def act(self, do):
    import os
    import subprocess
    import sys
    from pathlib import Path

    before = os.listdir()
    seen = None
    if do == "file":
        Path("left.txt").write_text("mine")
    elif do == "below":
        Path("sub/deep").mkdir(parents=True)
    elif do == "removed":
        Path("gone").write_text("")
        Path("gone").unlink()
    elif do == "print":
        print("hello")
    elif do == "stderr":
        print("oops", file=sys.stderr)
    elif do == "descriptor":
        os.write(1, b"raw")
    elif do == "reopened":
        with open("/dev/stdout", "w") as stream:
            stream.write("by path")
    elif do == "workdir":
        seen = str(self.job.workdir)
    elif do == "getcwd":
        seen = os.getcwd()
    elif do == "cwd":
        seen = str(Path.cwd())
    elif do == "abspath":
        seen = os.path.abspath("x").removesuffix("/x")
    elif do == "subprocess":
        seen = subprocess.run(["pwd", "-P"], capture_output=True, text=True, check=True).stdout.strip()
    elif do == "system":
        os.system("pwd -P >where; echo from the shell")
    elif do == "fork":
        child = os.fork()
        if child == 0:
            os.write(1, b"from the child\n")
            os._exit(0)
        os.waitpid(child, 0)
    elif do == "mark":
        child = subprocess.run(["printenv", "BALSAM_JOB_ID"], capture_output=True, text=True, check=True)
        seen = [os.environ["BALSAM_JOB_ID"], child.stdout.strip()]
    elif do == "chmod":
        os.chmod(".", 0o500)
    elif do == "elsewhere":
        os.chdir("/tmp")
    return before, seen


act.__module__ = "__main__"  # pickled by value

LOGS = {
    "print": "hello\n",
    "stderr": "oops\n",
    "descriptor": "raw",
    "reopened": "by path",
    "system": "from the shell\n",
    "fork": "from the child\n",
}
FILES = {"file": {"left.txt"}, "below": {"sub"}, "system": {"where"}}
PLACES = ("workdir", "getcwd", "cwd", "abspath", "subprocess")
MADE = [*LOGS, *FILES, *PLACES, "mark", "removed", "chmod"]


def test_what_a_task_leaves_is_in_its_directory_and_nothing_is_in_the_next_ones(engine):
    acts = [each for do in dict.fromkeys(MADE) for each in (do, "nothing", "elsewhere")]
    common = python_app(engine, act)
    [first] = submit(engine, common, [{"do": "nothing"}])  # the first one takes long: it imports
    allocate(engine)
    finished(engine, first)
    ids = submit(engine, common, [{"do": do} for do in acts])
    wait_until(engine, lambda: ended(engine) == len(ids) + 1)
    for do, one in zip(acts, ids, strict=True):
        row, place = job(engine, one), folder(engine, one)
        assert row.state == "JOB_FINISHED", (do, row.error)
        before, seen = decode(row.value)
        assert before == ["job.out"], do  # as ever: its log, and nothing of others
        assert engine.output(one) == LOGS.get(do, ""), do
        if do in PLACES:
            assert seen == str(place), do
        if do == "mark":
            assert seen == [str(one)] * 2
        if do in MADE:
            assert {entry.name for entry in place.iterdir()} == {"job.out", *FILES.get(do, ())}, do
    where = ids[acts.index("system")]
    assert engine.read_file(where, "where").decode().strip() == str(folder(engine, where))
    assert any(not folder(engine, one).exists() for do, one in zip(acts, ids, strict=True) if do == "nothing")
    assert path_of(engine, ids[-1])[-5:] == RAN


CALLS = {}  # filled where it is used: a worker keeps it from task to task


def change(self, do, number):
    seen = CALLS["state"]()  # looks in ways that raise no audit event
    if do:
        CALLS[do]()
    return seen


change.__module__ = "__main__"


def changes():
    """What quick tasks do to their process, and how to see it."""
    import io

    def state():
        streams = sys.stdin.closed, type(sys.stdout) is io.TextIOWrapper, sys.stdout.closed
        files = [os.readlink(f"/proc/self/fd/{fd}").rpartition("/")[2] for fd in (0, 1, 2)]
        handler = signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
        place = os.readlink("/proc/self/cwd") != "/"
        return place, files, streams[1:], handler, signal.getitimer(signal.ITIMER_REAL)[0] == 0, "MINE" in os.environ

    return {
        "state": state,
        "chdir": lambda: os.chdir("/"),
        "dup2": lambda: os.dup2(0, 1),
        "close": lambda: os.close(0),
        "closerange": lambda: os.closerange(0, 3),
        "stdin": lambda: sys.stdin.close(),
        "stdout": lambda: setattr(sys, "stdout", io.StringIO()),
        "alarm": lambda: signal.alarm(60),
        "itimer": lambda: signal.setitimer(signal.ITIMER_REAL, 60),
        "signal": lambda: signal.signal(signal.SIGALRM, signal.SIG_IGN),
        "environ": lambda: os.environ.update(MINE="1"),
    }


changes.__module__ = "__main__"


def test_what_a_quick_task_does_to_its_process_is_undone(engine):
    """Tasks of microseconds are not looked after one by one: what they do has to tell of itself."""
    made = changes()
    CALLS.update(made)
    common = python_app(engine, change)
    acts = [each for do in made if do != "state" for each in (do, "")] * 3
    ids = submit(engine, common, [{"do": do, "number": number} for number, do in enumerate(acts)])
    allocate(engine)
    wait_until(engine, lambda: ended(engine) == len(ids))
    rows = [job(engine, one) for one in ids]
    assert {(row.state, row.error) for row in rows} == {("JOB_FINISHED", "")}
    clean = (True, ["null", "job.out", "job.out"], (True, False), True, True, False)
    assert [decode(row.value) for row in rows] == [clean] * len(rows), acts
    assert min(row.runtime_s for row in rows) < 0.0001  # else nothing is tested: such tasks are looked after


def test_no_stage_is_left_when_work_is_over(engine):
    allocation = allocate(engine)
    ids = submit(engine, python_app(engine, lambda self, n: n), [{"n": n} for n in range(50)])
    wait_until(engine, lambda: ended(engine) == len(ids))
    assert engine.revoke(allocation.id, timeout=30)
    assert stages(engine) == []


def test_a_directory_that_is_there_is_where_the_task_runs(engine):
    def run(self, n):
        from pathlib import Path

        return Path("given").read_text() if Path("given").exists() else None

    common = python_app(engine, run)
    ids = submit(engine, common, [{"n": n} for n in range(150)])  # more than the worker asks for one by one
    for one in ids[::7]:
        folder(engine, one).mkdir(parents=True)
        (folder(engine, one) / "given").write_text(f"for {one}")
    allocate(engine)
    wait_until(engine, lambda: ended(engine) == len(ids))
    values = {one: decode(job(engine, one).value) for one in ids}
    assert values == {one: f"for {one}" if one in ids[::7] else None for one in ids}


def test_a_rerun_keeps_the_log_and_what_is_beside_the_directory_can_be_read(engine):
    def run(self, n):
        from pathlib import Path

        print("run", len(list(Path().glob("job.out.*"))))
        return Path("../shared.dat").read_text()

    [one] = submit(engine, python_app(engine, run), [{"n": 1}])
    folder(engine, one).parent.mkdir(parents=True)
    (folder(engine, one).parent / "shared.dat").write_text("common")
    allocate(engine)
    assert decode(finished(engine, one).value) == "common"
    assert engine.update(Query(ids=(one,), states=("JOB_FINISHED",)), "RESTART_READY") == 1
    wait_until(engine, lambda: job(engine, one).state == "JOB_FINISHED" and job(engine, one).attempts == 2)
    assert engine.output(one) == "run 1\n" and engine.read_file(one, "job.out.1") == b"run 0\n"


def test_the_log_of_a_task_that_runs_can_be_followed(engine, tmp_path):
    def run(self, flag):
        import time
        from pathlib import Path

        print("up")
        while not Path(flag).exists():
            time.sleep(0.001)

    [one] = submit(engine, python_app(engine, run), [{"flag": str(tmp_path / "flag")}])
    allocate(engine)
    wait_until(engine, lambda: job(engine, one).state == "RUNNING" and engine.output(one) == "up\n")
    (tmp_path / "flag").touch()
    assert finished(engine, one).state == "JOB_FINISHED"


def test_input_files_and_outputs(engine):
    def run(self, n):
        from pathlib import Path

        print("E =", Path("in.txt").read_text())

    common = python_app(engine, run, inputs={"in.txt": {"template": "{{ n }}5"}}, outputs={"E": r"E = (\S+)"})
    ids = submit(engine, common, [{"n": n} for n in (1, 2)])
    allocate(engine)
    assert [decode(finished(engine, one).value) for one in ids] == [{"E": 15}, {"E": 25}]


@pytest.mark.parametrize("settings", ["cores_per_node: 1\nsplit_stderr: true\n"])
def test_stderr_in_a_file_of_its_own(engine):
    ids = submit(engine, python_app(engine, act), [{"do": do} for do in ("nothing", "stderr", "print")])
    allocate(engine)
    wait_until(engine, lambda: ended(engine) == 3)
    assert engine.read_file(ids[1], "job.err") == b"oops\n" and engine.output(ids[1]) == ""
    assert engine.read_file(ids[2], "job.err") == b"" and engine.output(ids[2]) == "hello\n"


# -- processes that die ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["exit", "kill"])
def test_what_a_task_wrote_before_its_process_died_is_kept(engine, how):
    def run(self, n, how):
        import os
        import signal
        from pathlib import Path

        if n == 20:
            print("last words")
            Path("left.txt").write_text("mine")
            if how == "exit":
                os._exit(4)
            os.kill(os.getpid(), signal.SIGKILL)

    allocate(engine)
    ids = submit(engine, python_app(engine, run), [{"n": n, "how": how} for n in range(40)])
    wait_until(engine, lambda: ended(engine) == 40)
    bad = [one for one in ids if job(engine, one).state != "JOB_FINISHED"]
    assert bad == [ids[20]]
    assert engine.output(bad[0]) == "last words\n" and engine.read_file(bad[0], "left.txt") == b"mine"


def test_what_a_task_wrote_is_kept_when_the_launcher_died_with_it(engine, tmp_path):
    def run(self, pids):
        import os
        import signal
        from pathlib import Path

        if not pids:
            return
        print("last words")
        Path("left.txt").write_text("mine")
        for pid in (*pids, os.getpid()):
            os.kill(pid, signal.SIGKILL)

    allocation = allocate(engine)
    common = python_app(engine, run)
    [first] = submit(engine, common, [{"pids": []}])
    finished(engine, first)
    pids = [allocation.scheduler_id, *launchers(allocation.id, engine.path)]
    [one] = submit(engine, common, [{"pids": pids}])
    wait_until(engine, lambda: job(engine, one).state == "RESTART_READY")
    assert engine.output(one) == "last words\n" and engine.read_file(one, "left.txt") == b"mine"
    assert stages(engine) == []


def test_a_worker_killed_in_the_middle_of_a_batch(engine, tmp_path):
    """Ends that were reached are kept, the task in flight fails, the rest run once."""

    def run(self, n, witness):
        import os

        fd = os.open(witness, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, b"%d\n" % n)
        os.close(fd)
        return n

    witness = tmp_path / "witness"
    allocate(engine)
    common = python_app(engine, run)
    warm = submit(engine, common, [{"n": -n - 1, "witness": str(witness)} for n in range(200)])
    wait_until(engine, lambda: ended(engine) == 200)
    ids = submit(engine, common, [{"n": n, "witness": str(witness)} for n in range(3000)])
    while witness.read_bytes().count(b"\n") < 700:
        pass
    for pid in slot_processes(engine.path, "worker"):
        os.kill(pid, signal.SIGKILL)
    wait_until(engine, lambda: ended(engine) == len(warm) + len(ids))
    rows = engine.jobs(Query(ids=tuple(ids)))
    failed = [n for n, row in enumerate(rows) if row.state != "JOB_FINISHED"]
    assert len(failed) <= 1 and all("signal 9" in rows[n].error for n in failed)
    assert [decode(row.value) for row in rows if row.state == "JOB_FINISHED"] == [
        n for n in range(3000) if n not in failed
    ]
    runs = [int(line) for line in witness.read_text().split() if int(line) >= 0]
    assert len(runs) == len(set(runs)) and set(range(3000)) - set(runs) <= set(failed)
    assert all(row.attempts == 1 for row in rows)


# -- many at a time --------------------------------------------------------------------------------------


def test_batches_larger_than_a_pipe(engine):
    allocate(engine)
    common = python_app(engine, lambda self, text: len(text))
    ids = submit(engine, common, [{"text": "x" * 5000}] * 200)
    wait_until(engine, lambda: ended(engine) == 200)
    ids += submit(engine, common, [{"text": "y" * 5000}] * 1500)
    wait_until(engine, lambda: ended(engine) == 1700)
    assert engine.count(Query()) == {"JOB_FINISHED": 1700}


def test_neighbours_share_an_event_and_each_has_its_times(engine):
    common = JobCommon(python_app(engine, lambda self, n: n).app_id, ensemble="many")
    specs = [JobSpec(common, encode({"n": n}), "", b"%016d" % n) for n in range(2000)]
    allocate(engine)
    [warm] = submit(engine, JobCommon(common.app_id), [{"n": 0}])
    finished(engine, warm)
    ids = list(engine.submit(specs, EnsembleRecord("many", "Py", 1, "1", 0.0, {})).ids)
    wait_until(engine, lambda: engine.count(Query(ensemble="many")) == {"JOB_FINISHED": 2000})
    ends = [row for row in engine.events("").rows if row.path[-1] == "JOB_FINISHED" and row.last_id >= ids[0]]
    assert len(ends) < 1000 and sum(row.last_id - row.first_id + 1 for row in ends) == 2000
    rows = {row.id: row for row in engine.jobs(Query(ensemble="many"))}
    for event in ends:
        assert list(event.path) in (["PREPROCESSED", *RAN], RAN)
        for one in range(event.first_id, event.last_id + 1):
            began, over = event.when(one)
            assert (began, over) == (rows[one].start_time, rows[one].end_time)
            assert event.time <= began <= over <= event.end_time


def test_a_lone_job_has_its_directory_and_log_although_it_says_nothing(engine):
    allocate(engine)
    common = python_app(engine, lambda self, n: n)
    for one in submit_lone(engine, common, [{"n": n} for n in range(20)]):
        finished(engine, one)
        assert [entry.name for entry in folder(engine, one).iterdir()] == ["job.out"]
