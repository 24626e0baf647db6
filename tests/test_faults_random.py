"""Random operations by three processes at once, while launchers, slot processes and they themselves are killed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.engines.embedded.store import work
from balsam_jupyter.models import AppRecord, Parameter, Query

from .conftest import LIVE
from .engine_site import allocate, python_app, wait_until
from .processes import slot_processes
from .witness import WITNESS, check_transitions, ends, integrity, is_free, probe, state_of_process

OPERATIONS = {
    "submit": 10, "kill": 6, "retry": 5, "delete": 3, "allocate": 5, "revoke": 3, "look": 5, "reopen": 2,
    "kill launcher": 5, "kill slot": 4, "kill process": 2, "stop launcher": 2, "go on": 3,
}  # fmt: skip


@pytest.fixture
def settings() -> str:
    return "nodes: 2\ncores_per_node: 2\ngrace_period_s: 0.3\nstopped_after_s: 1\n"


def python_witness():
    """The witness as a function (inside of another, so that it is pickled by value)."""

    def run(self, path, seconds):
        """The witness, in a warm process."""
        import fcntl
        import os
        import time

        with open(path, "ab", buffering=0) as file, open(f"{path}.locks/{self.job.id}", "w") as mine:
            try:
                fcntl.flock(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.write(f"twice {self.job.id} {os.getpid()}\n".encode())
            file.write(f"start {self.job.id} {os.getpid()}\n".encode())
            time.sleep(seconds)
            file.write(f"end {self.job.id} {os.getpid()}\n".encode())

    return run


class Storm:
    """Three processes that do what the dice say, and what is known of the outcome."""

    def __init__(self, engine: EmbeddedEngine, witness: Path, seed: int) -> None:
        self.engine, self.witness = engine, witness
        self.chance = random.Random(seed)
        script = witness.with_suffix(".py")
        script.write_text(WITNESS)
        Path(f"{witness}.locks").mkdir()
        command = f"{sys.executable} -I -S {script} {witness} $BALSAM_JOB_ID {{{{ seconds }}}}"
        record = AppRecord("Witness", "shell", "1", {"seconds": Parameter()}, command_template=command)
        # A task learns its job's id from the engine: it is known only afterwards.
        self.apps = [
            (engine.register(record), {}),
            (python_app(engine, python_witness()).app_id, {"path": str(witness)}),
        ]
        self.processes: list[subprocess.Popen[str]] = []
        self.busy = [0, 0, 0]  # answers a process still owes
        self.stopped: list[int] = []
        self.killed: Counter[str] = Counter()
        for _ in range(3):
            self.processes.append(self.begin())

    def begin(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.operations", "here"]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, *operation: Any) -> None:
        """Have one of the processes do it; the answer is taken when that process is asked again."""
        number = self.chance.randrange(3)
        self.answer(number)
        pipe = self.processes[number].stdin
        assert pipe is not None
        pipe.write(json.dumps(operation) + "\n")
        pipe.flush()
        self.busy[number] += 1

    def answer(self, number: int) -> None:
        pipe = self.processes[number].stdout
        assert pipe is not None
        while self.busy[number]:
            line = pipe.readline()
            assert line, f"process {number} failed"
            self.busy[number] -= 1

    def step(self) -> None:
        operation = self.chance.choices(list(OPERATIONS), list(OPERATIONS.values()))[0]
        getattr(self, operation.replace(" ", "_"))()
        until = time.monotonic() + self.chance.choice([0, 0.02, 0.2, 0.5])
        cursor = self.engine.events("now").cursor
        while (left := until - time.monotonic()) > 0:
            cursor = self.engine.events(cursor, left).cursor

    def some(self) -> list[int]:
        there = [job.id for job in self.engine.jobs(Query())] or [1]
        return self.chance.sample(there, min(len(there), self.chance.choice([1, 1, 2, 5])))

    def submit(self) -> None:
        tasks = []
        for _ in range(self.chance.randint(1, 12)):
            app, given = self.chance.choice(self.apps)
            tasks.append((app, {**given, "seconds": self.chance.choice([0, 0.02, 0.3])}))
        self.ask("submit", tasks)

    def kill(self) -> None:
        self.ask("update", self.some(), "USER_KILLED", self.chance.choice([0, 0.1, None]))

    def retry(self) -> None:
        self.ask("update", self.some(), "RESTART_READY", 0)

    def delete(self) -> None:
        self.ask("delete", self.some()[:1])

    def allocate(self) -> None:
        if len(self.live()) < 3:
            self.ask("allocate")

    def live(self) -> list[int]:
        return [allocation.id for allocation in self.engine.allocations() if allocation.state in LIVE]

    def revoke(self) -> None:
        if live := self.live():
            self.ask("revoke", self.chance.choice(live))

    def look(self) -> None:
        self.ask("look", self.chance.choice([0, 0.05, 0.2]))

    def reopen(self) -> None:
        self.ask("reopen")

    def launcher(self) -> int | None:
        """The process id of a launcher that lives, as far as one can know."""
        pids = [work.session(self.engine.store.con, s)[0] for s, _ in work.unclosed_sessions(self.engine.store.con)]
        alive = [pid for pid in pids if _is_launcher(pid)]
        return self.chance.choice(alive) if alive else None

    def kill_launcher(self) -> None:
        if pid := self.launcher():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_slot(self) -> None:
        kind = self.chance.choice(["spawner", "spawner", "worker"])
        if pids := slot_processes(self.engine.path, kind):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.chance.choice(pids), signal.SIGKILL)
                self.killed[kind] += 1

    def kill_process(self) -> None:
        number = self.chance.randrange(3)
        self.processes[number].kill()
        self.end(number)
        self.processes[number] = self.begin()
        self.busy[number] = 0

    def stop_launcher(self) -> None:
        """At a moment when it does not hold the store."""
        store = probe(self.engine)
        with contextlib.closing(store), contextlib.suppress(ProcessLookupError, FileNotFoundError):
            while pid := self.launcher():
                os.kill(pid, signal.SIGSTOP)
                while state_of_process(pid) not in "TZX":
                    os.sched_yield()
                if is_free(store):
                    self.stopped.append(pid)
                    return
                os.kill(pid, signal.SIGCONT)

    def go_on(self) -> None:
        while self.stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.stopped.pop(), signal.SIGCONT)

    def end(self, number: int) -> None:
        process = self.processes[number]
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.wait()
        process.stdout.close()

    def calm(self) -> None:
        """Everything asked for is done, and what can run has run."""
        self.go_on()
        for number in range(3):
            self.answer(number)
            self.end(number)
            assert self.processes[number].returncode == 0
        if not self.live():
            allocate(self.engine)
        wait_until(self.engine, self.is_done, 120)

    def is_done(self) -> bool:
        if not self.live():  # the last one was revoked, or its script was stopped
            allocate(self.engine)
        return ends(self.engine) == sum(self.engine.count(Query()).values())

    def check(self) -> dict[str, int]:
        """The store and the witness agree, and no job was lost or run twice."""
        check_transitions(self.engine)
        assert integrity(self.engine) == "ok"
        lines = [line.split()[:2] for line in self.witness.read_text().splitlines()] if self.witness.exists() else []
        assert [line for line in lines if line[0] == "twice"] == []
        seen = Counter((kind, int(job)) for kind, job in lines)
        passed: Counter[tuple[str, int]] = Counter()
        cursor = ""
        while (events := self.engine.events(cursor)).rows:
            cursor = events.cursor
            for row in events.rows:
                told = [state for state in row.path[1:] if state == "RUNNING"]
                told += [state for state in row.path[-1:] if state == "JOB_FINISHED"]
                passed.update((state, job) for state in told for job in range(row.first_id, row.last_id + 1))
        for job in {job for _, job in [*seen, *passed]}:
            starts, finishes = seen["start", job], seen["end", job]
            runs, finished = passed["RUNNING", job], passed["JOB_FINISHED", job]
            assert finished <= 1, f"job {job} ran again after it had finished"
            assert finished <= finishes <= starts <= runs, f"job {job}: {starts=} {finishes=} {runs=} {finished=}"
        for job in self.engine.jobs(Query(states=("FAILED",))):
            assert "launcher died 3 times" in job.error or "was killed by signal 9" in job.error
        return {
            "jobs": len({job for _, job in passed}),
            "runs": sum(n for (s, _), n in passed.items() if s == "RUNNING"),
        }


def _is_launcher(pid: int) -> bool:
    try:
        return b"embedded.launcher" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def storm(engine: EmbeddedEngine, witness: Path, seed: int, steps: int) -> None:
    each = Storm(engine, witness, seed)
    try:
        for _ in range(steps):
            each.step()
        each.calm()
        print(f"seed {seed}: {each.check()}, killed {dict(each.killed)}, {engine.count(Query())}")
    finally:
        each.go_on()
        for number, process in enumerate(each.processes):
            process.kill()
            each.end(number)


@pytest.mark.parametrize("seed", [1, 2])
def test_50_random_operations(engine, tmp_path, seed):
    storm(engine, tmp_path / "witness", seed, 50)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(100, 110))
def test_soak_300_random_operations(engine, tmp_path, seed):
    storm(engine, tmp_path / "witness", seed, 300)
