"""Python functions (`return x + 1`): our durable launcher beside pools and workflow engines.

    python benchmarks/python_tasks.py [--rounds 5] [--tasks 5000] [--quick] [--only ENGINE,…]

Each engine runs 4,000 tasks before it is timed, so that none is timed while it starts or grows its memory and files.
Timed from the submit call until every result is in hand; ours also from the moment the submission is stored until
the last task is seen to be finished, which is what the launcher does. Ours is checked afterwards: every value, and
the states every task went through, read back by the public API.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from _common import OURS, SLOTS, Racer, Run, Timer, launcher, race, site
from _references import dask_map, gathered, ipyparallel_map, parsl_workers

if TYPE_CHECKING:
    from balsam_jupyter import BalsamExecutor

WHOLE = f"{OURS} with submission"
WAY = [
    *("CREATED", "READY", "STAGED_IN", "PREPROCESSED"),
    *("RUNNING", "RUN_DONE", "POSTPROCESSED", "STAGED_OUT", "JOB_FINISHED"),
]


def increment(x: int) -> int:
    return x + 1


def timed(results: Callable[[range], Iterable[int]]) -> Run:
    """Times a function from arguments to results, and checks the results."""

    def run(tasks: int) -> float:
        with Timer() as timer:
            found = list(results(range(tasks)))
        assert found == list(range(1, tasks + 1))
        return timer.seconds

    return run


@contextlib.contextmanager
def ours(base: Path, whole: bool = True) -> Iterator[Run]:
    from balsam_jupyter import ApplicationDefinition, BalsamExecutor, Sweep

    class Increment(ApplicationDefinition):
        def run(self, x):  # type: ignore[no-untyped-def]
            return x + 1

    executor = BalsamExecutor(site(base))
    executor.register_app(Increment)
    turn = os.getpid()

    def run(tasks: int) -> float:
        sweep = Sweep.zip(x=list(range(tasks)))
        began = time.perf_counter()
        ensemble = executor.submit_sweep("Increment", sweep, name=f"turn-{turn}-{tasks}")
        stored = time.perf_counter()
        ensemble.wait()
        finished = time.perf_counter()
        values = [task.value() for task in ensemble.tasks()]
        in_hand = time.perf_counter()
        assert values == list(range(1, tasks + 1))
        check_transitions(executor, {task.id for task in ensemble.tasks()})
        return in_hand - began if whole else finished - stored

    with launcher(executor):
        yield run


def check_transitions(executor: BalsamExecutor, ids: set[int]) -> None:
    """Every task has its whole way in the log of events, and went it once."""
    from balsam_jupyter import EventLog

    seen: dict[int, list[str]] = {number: [] for number in ids}
    for event in EventLog.objects.all().order_by("id"):
        if event.job_id in seen:
            seen[event.job_id].append(event.to_state)
    wrong = {number: way for number, way in seen.items() if way != WAY}
    assert not wrong, f"{len(wrong)} of {len(seen)}, such as {list(wrong.items())[:3]}"


@contextlib.contextmanager
def pool(base: Path) -> Iterator[Run]:
    with ProcessPoolExecutor(SLOTS) as executor:
        yield timed(lambda xs: gathered([executor.submit(increment, x) for x in xs]))


@contextlib.contextmanager
def pool_map(base: Path) -> Iterator[Run]:
    with ProcessPoolExecutor(SLOTS) as executor:
        yield timed(lambda xs: executor.map(increment, xs, chunksize=1))


@contextlib.contextmanager
def parsl(base: Path) -> Iterator[Run]:
    with parsl_workers(base):
        from parsl import python_app

        app = python_app(increment)
        yield timed(lambda xs: gathered([app(x) for x in xs]))


@contextlib.contextmanager
def dask(base: Path) -> Iterator[Run]:
    with dask_map(base) as mapped:
        yield timed(lambda xs: mapped(increment, xs))


@contextlib.contextmanager
def ipyparallel(base: Path) -> Iterator[Run]:
    with ipyparallel_map(base) as mapped:
        yield timed(lambda xs: mapped(increment, xs))


RACERS = [
    Racer(OURS, functools.partial(ours, whole=False)),
    Racer(WHOLE, ours),
    Racer("ProcessPoolExecutor submit", pool),
    Racer("ProcessPoolExecutor map", pool_map),
    Racer("Parsl HighThroughputExecutor", parsl, slow=True),
    Racer("Dask distributed", dask, slow=True),
    Racer("ipyparallel", ipyparallel, slow=True),
]

if __name__ == "__main__":
    few = f"{OURS},{WHOLE},ProcessPoolExecutor submit,ProcessPoolExecutor map"
    race(__file__, "Python functions, x + 1", RACERS, rounds=5, tasks=5000, quick=(300, few), warm=4000)
