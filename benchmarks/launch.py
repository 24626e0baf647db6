"""Commands with a directory and a log each: our durable launcher beside a C loop and what else runs commands.

    python benchmarks/launch.py [--rounds 5] [--tasks 2000] [--quick] [--only ENGINE,…]

Each turn writes into fresh directories, and nothing is deleted: on ext4 that slows everyone down for minutes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from _common import OURS, SLOTS, Missing, Racer, Run, Timer, fresh, launcher, race, site
from _references import dask_map, gathered, ipyparallel_map, parsl_workers

XARGS = "seq {n} | xargs -P{p} -I@ sh -c 'mkdir @; cd @; /bin/true >job.out 2>&1; echo $? >rc'"
PARALLEL = "seq {n} | parallel --will-cite -j{p} --joblog joblog --results results /bin/true {{}}"


def command(folder: str) -> int:
    """/bin/true in a new directory, for engines that run Python; self-contained, so that each can ship it."""
    import os
    import subprocess

    os.mkdir(folder)
    with open(f"{folder}/job.out", "wb") as log:
        return subprocess.run(["/bin/true"], cwd=folder, stdout=log, stderr=subprocess.STDOUT).returncode


def timed(base: Path, name: str, codes: Callable[[list[str]], Iterable[int]]) -> Run:
    """Times a function from directories (that do not exist yet) to return codes."""

    def run(tasks: int) -> float:
        folder = fresh(base, name)
        with Timer() as timer:
            found = list(codes([f"{folder}/{number}" for number in range(tasks)]))
        assert found == [0] * tasks
        return timer.seconds

    return run


def shell(base: Path, name: str, line: str, left: str) -> Run:
    """Times a shell line that runs tasks, and counts the logs it left."""

    def run(tasks: int) -> float:
        folder = fresh(base, name)
        with Timer() as timer:
            subprocess.run(line.format(n=tasks, p=SLOTS), shell=True, check=True, cwd=folder)
        assert sum(1 for _ in folder.glob(left)) == tasks
        return timer.seconds

    return run


@contextlib.contextmanager
def ours(base: Path) -> Iterator[Run]:
    from balsam_jupyter import ApplicationDefinition, BalsamExecutor

    class Command(ApplicationDefinition):
        command_template = "/bin/true"

    executor = BalsamExecutor(site(base))
    executor.register_app(Command)
    turn = os.getpid()

    def run(tasks: int) -> float:
        with Timer() as timer:
            ensemble = executor.submit_sweep("Command", [{}] * tasks, name=f"turn-{turn}-{tasks}").wait()
        assert ensemble.counts()["FINISHED"] == tasks
        assert sum(1 for _ in (base / "bench" / "data" / ensemble.name).rglob("job.out")) == tasks
        return timer.seconds

    with launcher(executor):
        yield run


@contextlib.contextmanager
def c_loop(base: Path) -> Iterator[Run]:
    compiler = shutil.which("cc")
    if compiler is None:
        raise Missing("a C compiler (Debian: apt-get install gcc libc6-dev)")
    program = base / "c_loop"
    if not program.exists():
        source = Path(__file__).with_name("c_loop.c")
        subprocess.run([compiler, "-O2", "-o", str(program), str(source)], check=True)
    yield shell(base, "c_loop", f"{program} {{n}} {{p}} .", "*/job.out")


@contextlib.contextmanager
def xargs(base: Path) -> Iterator[Run]:
    yield shell(base, "xargs", XARGS, "*/job.out")


@contextlib.contextmanager
def gnu_parallel(base: Path) -> Iterator[Run]:
    if shutil.which("parallel") is None:
        raise Missing("GNU parallel (Debian: apt-get install parallel)")
    yield shell(base, "parallel", PARALLEL, "results/1/*/stdout")


@contextlib.contextmanager
def pool(base: Path) -> Iterator[Run]:
    with ProcessPoolExecutor(SLOTS) as executor:
        yield timed(base, "pool", lambda folders: executor.map(command, folders))


@contextlib.contextmanager
def joblib(base: Path) -> Iterator[Run]:
    import joblib

    with joblib.Parallel(n_jobs=SLOTS) as parallel:
        yield timed(base, "joblib", lambda folders: parallel(joblib.delayed(command)(folder) for folder in folders))


@contextlib.contextmanager
def parsl(base: Path) -> Iterator[Run]:
    with parsl_workers(base):
        from parsl import bash_app

        def true(stdout: str, stderr: str) -> str:
            return "/bin/true"

        app = bash_app(true)

        def codes(folders: list[str]) -> list[int]:
            return gathered([app(stdout=f"{folder}/job.out", stderr=f"{folder}/job.err") for folder in folders])

        yield timed(base, "parsl-tasks", codes)


@contextlib.contextmanager
def dask(base: Path) -> Iterator[Run]:
    with dask_map(base) as mapped:
        yield timed(base, "dask-tasks", lambda folders: mapped(command, folders))


@contextlib.contextmanager
def ipyparallel(base: Path) -> Iterator[Run]:
    with ipyparallel_map(base) as mapped:
        yield timed(base, "ipyparallel", lambda folders: mapped(command, folders))


@contextlib.contextmanager
def hyperqueue(base: Path) -> Iterator[Run]:
    from hyperqueue import Job, LocalCluster
    from hyperqueue.cluster import WorkerConfig

    def run(tasks: int) -> float:
        folder = fresh(base, "hq")
        began = time.time()
        job = Job()
        for number in range(tasks):
            job.program(["/bin/true"], cwd=f"{folder}/{number}", stdout=f"{folder}/{number}/job.out")
        client.wait_for_jobs([client.submit(job)])
        # Its wait looks once a second; when the last task began is known better from its log.
        logs = [log.stat().st_ctime for log in folder.glob("*/job.out")]
        assert len(logs) == tasks
        return max(logs) - began

    with LocalCluster(str(fresh(base, "hq-server")), WorkerConfig(cores=SLOTS)) as cluster:
        client = cluster.client()
        yield run


RACERS = [
    Racer("C loop", c_loop),
    Racer(OURS, ours),
    Racer("joblib", joblib),
    Racer("ProcessPoolExecutor", pool),
    Racer("xargs", xargs),
    Racer("Dask distributed", dask, slow=True),
    Racer("Parsl bash_app", parsl, slow=True),
    Racer("ipyparallel", ipyparallel, slow=True),
    Racer("HyperQueue", hyperqueue, slow=True),
    Racer("GNU parallel", gnu_parallel, slow=True),
]

if __name__ == "__main__":
    title = "Commands (/bin/true), a directory and a log each"
    race(__file__, title, RACERS, rounds=5, tasks=2000, quick=(200, f"{OURS},ProcessPoolExecutor"))
