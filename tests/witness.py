"""Tasks that write down what happens to them, so that a lost or a doubled run is seen."""

from __future__ import annotations

import sqlite3
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from balsam_jupyter.codec import encode
from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.models import TERMINAL, AppRecord, JobCommon, JobSpec, Parameter, Query

# Writes its start and its end to the witness in one short append each. A second run of a task beside the first one
# finds the task's lock held, and says so.
WITNESS = """
import fcntl, os, sys, time
path, number, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def write(kind):
    os.write(fd, f"{kind} {number} {os.getpid()}\\n".encode())
os.makedirs(path + ".locks", exist_ok=True)
mine = os.open(f"{path}.locks/{number}", os.O_RDWR | os.O_CREAT)
try:
    fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    write("twice")
write("start")
time.sleep(seconds)
write("end")
"""


def witness_app(engine: EmbeddedEngine, witness: Path) -> JobCommon:
    """An app `Witness` with the parameters n, the task's name in the witness, and seconds."""
    script = witness.with_suffix(".py")
    script.write_text(WITNESS)
    command = f"{sys.executable} -I -S {script} {witness} {{{{ n }}}} {{{{ seconds }}}}"
    app = AppRecord("Witness", "shell", "1", {"n": Parameter(), "seconds": Parameter()}, command_template=command)
    return JobCommon(engine.register(app))


def witness_sweep(engine: EmbeddedEngine, witness: Path, tasks: Iterable[int] | int, seconds: float) -> list[int]:
    """Submit tasks (their numbers, or how many) of so many seconds each; returns their job ids."""
    common = witness_app(engine, witness)
    numbers = range(tasks) if isinstance(tasks, int) else tasks
    specs = (JobSpec(common, encode({"n": n, "seconds": seconds}), "w/{id}") for n in numbers)
    return list(engine.submit(specs).ids)


def ends(engine: EmbeddedEngine) -> int:
    return sum(number for state, number in engine.count(Query()).items() if state in TERMINAL)


def starts_of(witness: Path) -> Counter[str]:
    """How often each task started; no two runs of one were there at a time."""
    lines = [line.split() for line in witness.read_text().splitlines()]
    assert [line for line in lines if line[0] == "twice"] == []
    return Counter(number for kind, number, _ in lines if kind == "start")


def check_witness(witness: Path, tasks: int) -> Counter[str]:
    """Every task ended, its last run last; no two runs of one overlapped. Returns the starts of each."""
    running: dict[str, str] = {}
    finished = set()
    for line in witness.read_text().splitlines():
        kind, number, pid = line.split()
        if kind == "start":
            running[number] = pid
        elif kind == "end":
            assert running.pop(number) == pid, f"an earlier run of task {number} was still there"
            finished.add(number)
    assert len(finished) == tasks and not running
    return starts_of(witness)


def probe(engine: EmbeddedEngine) -> sqlite3.Connection:
    """A connection that waits for nobody."""
    return sqlite3.connect(Path(engine.path) / "balsam.db", timeout=0, isolation_level=None)


def is_free(con: sqlite3.Connection) -> bool:
    """Whether nobody is writing to the store."""
    try:
        con.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        return False
    con.execute("ROLLBACK")
    return True


def state_of_process(pid: int) -> str:
    """The letter of the process's state in /proc."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


def integrity(engine: EmbeddedEngine) -> str:
    con = sqlite3.connect(Path(engine.path) / "balsam.db")
    try:
        return str(con.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        con.close()


def log_of(engine: EmbeddedEngine, allocation: int) -> str:
    return (Path(engine.path) / "log" / f"qlaunch{allocation}.log").read_text(errors="replace")


def check_transitions(engine: EmbeddedEngine) -> None:
    """Each event of a job begins in the state the one before it ended in, and no step is impossible."""
    now: dict[int, str] = {}
    cursor = ""
    while (events := engine.events(cursor)).rows:
        cursor = events.cursor
        for row in events.rows:
            for job in range(row.first_id, row.last_id + 1):
                assert now.get(job, "") == row.path[0], f"job {job}: {row.path} after {now.get(job)}"
                now[job] = row.path[-1]
            for step in zip(row.path, row.path[1:], strict=False):
                assert step[1] in NEXT[step[0]], f"{step[0]} > {step[1]} is impossible"
    stored = {job.id: job.state for job in engine.jobs(Query())}
    assert {job: state for job, state in now.items() if state} == stored


_ENDED = {"RESTART_READY", ""}
NEXT = {
    "": {"CREATED"},
    "CREATED": {"READY", "AWAITING_PARENTS"},
    "READY": {"STAGED_IN"},
    "STAGED_IN": {"PREPROCESSED"},
    "PREPROCESSED": {"RUNNING", "USER_KILLED", ""},
    "RESTART_READY": {"RUNNING", "USER_KILLED", ""},
    "RUNNING": {"RUN_DONE", "RUN_ERROR", "RUN_TIMEOUT", "USER_KILLED"},
    "RUN_DONE": {"POSTPROCESSED"},
    "POSTPROCESSED": {"STAGED_OUT"},
    "STAGED_OUT": {"JOB_FINISHED"},
    "RUN_ERROR": {"FAILED"},
    "RUN_TIMEOUT": {"RESTART_READY"},
    "JOB_FINISHED": _ENDED,
    "FAILED": _ENDED,
    "USER_KILLED": _ENDED,
}
"""What may follow a state of a job without hooks; "" is not there."""
