"""100,000 tasks in one call, and sites of 1,000 and 1,000,000 tasks side by side.

    python benchmarks/scale.py [--rounds 3] [--tasks 2000] [--quick]

First the time and the memory that a submission of 100,000 takes in a fresh process. Then two sites, one with
1,000 and one with 1,000,000 tasks that no launcher takes: in turns, the rate at which a launcher runs other
tasks there, the time from submission to the end of a single one, and the time of the calls that look at the
site; first while those tasks wait, then after they have ended.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from _common import Timer, arguments, launcher, scratch, site

if TYPE_CHECKING:
    from balsam_jupyter import BalsamExecutor

CHUNK = 100_000
LOOKS = 50
RUN = {"run": "now"}  # tasks with this tag are run; the others are there


def rss_mb(field: str = "VmRSS") -> float:
    text = Path("/proc/self/status").read_text()
    return int(text.partition(f"{field}:")[2].split()[0]) / 1024


def open_executor(base: Path, name: str) -> BalsamExecutor:
    from balsam_jupyter import ApplicationDefinition, BalsamExecutor

    class Command(ApplicationDefinition):
        command_template = "/bin/true"

    class Row(ApplicationDefinition):
        command_template = "/bin/echo {{ x }}"

    executor = BalsamExecutor(site(base, name))
    executor.register_app(Command)
    executor.register_app(Row)
    return executor


def submission(base: Path, tasks: int) -> None:
    """In a process of its own: what it costs the one who submits."""
    from balsam_jupyter import Sweep

    executor = open_executor(base, "submission")
    executor.submit_sweep("Row", Sweep.grid(x=range(100)), name="warm-up")
    sweep = Sweep.grid(x=range(tasks))
    before = rss_mb()
    with Timer() as timer:
        ensemble = executor.submit_sweep("Row", sweep, name="all")
    growth, peak = rss_mb() - before, rss_mb("VmHWM") - before
    assert len(ensemble) == tasks
    print(json.dumps({"seconds": timer.seconds, "growth_mb": growth, "peak_mb": peak}))


def median_ms(call: Callable[[], object], times: int = LOOKS) -> float:
    seconds = []
    for _ in range(times):
        with Timer() as timer:
            call()
        seconds.append(timer.seconds)
    return 1e3 * statistics.median(seconds)


def fill(base: Path, name: str, tasks: int) -> None:
    from balsam_jupyter import Sweep

    executor = open_executor(base, name)
    with Timer() as timer:
        for first in range(0, tasks, CHUNK):
            rows = Sweep.grid(x=range(first, min(first + CHUNK, tasks)))
            executor.submit_sweep("Row", rows, name=f"others-{first}")
    print(f"  {tasks:,} tasks put into the site {name!r} in {timer.seconds:.1f} s", flush=True)


def look(base: Path, name: str, label: str, tasks: int) -> dict[str, float]:
    """One turn at a site: a launcher runs tasks there; what the calls take."""
    from balsam_jupyter.models import Query

    executor = open_executor(base, name)
    engine = executor.site.engine
    with launcher(executor, filter_tags=RUN):
        executor.submit(app_name="Command", tags=RUN).wait()
        with Timer() as timer:
            ensemble = executor.submit_sweep("Command", [{}] * tasks, name=label, tags=RUN).wait()
        assert ensemble.counts()["FINISHED"] == tasks
        one = median_ms(lambda: executor.submit(app_name="Command", tags=RUN).wait())
    now = engine.events("now").cursor
    return {
        "tasks/s": tasks / timer.seconds,
        "one task, ms": one,
        "executor.poll(), ms": median_ms(executor.poll),
        "engine.events(), ms": median_ms(lambda: engine.events(now)),
        "counts of an ensemble, ms": median_ms(ensemble.counts),
        "counts of the site, ms": median_ms(lambda: engine.count(Query()), 5),
        "%balsam_status, ms": median_ms(lambda: status(executor), 5),
    }


def status(executor: BalsamExecutor) -> object:
    from balsam_jupyter.status import explain

    return explain(executor.site.engine)


def compare(base: Path, sizes: dict[str, int], label: str, rounds: int, tasks: int) -> None:
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in sizes}
    for number in range(rounds):
        for name in sizes:
            seen[name].append(look(base, name, f"run-{label}-{number}", tasks))
    small, big = seen
    print(f"  {f'others {label}, medians of {rounds}':38}{sizes[small]:12,}{sizes[big]:12,}   ratio")
    for what in seen[small][0]:
        one, two = (statistics.median(turn[what] for turn in seen[name]) for name in (small, big))
        print(f"    {what:36}{one:12.2f}{two:12.2f}{two / one:8.2f}", flush=True)


def end_others(base: Path, name: str) -> None:
    """Kill what waits: it ends without having run, with an event each."""
    from balsam_jupyter.models import Query

    executor = open_executor(base, name)
    with Timer() as timer:
        ended = executor.site.engine.update(Query(app_name="Row"), "USER_KILLED")
    print(f"  {ended:,} waiting tasks of the site {name!r} killed in {timer.seconds:.1f} s", flush=True)


def main() -> None:
    given = arguments(__doc__ or "", rounds=3, tasks=2000).parse_args()
    if given.turn:
        submission(Path(given.turn[1]), given.tasks)
        return
    rounds, tasks, submitted, sizes = given.rounds, given.tasks, 100_000, {"small": 1000, "big": 1_000_000}
    if given.quick:
        rounds, tasks, submitted, sizes = 1, 100, 5000, {"small": 100, "big": 5000}
    base = scratch("scale")
    print(f"{submitted:,} tasks in one call, and sites of {' and '.join(f'{n:,}' for n in sizes.values())} (in {base})")
    command = [sys.executable, __file__, "--tasks", str(submitted), "--turn", "submission", str(base)]
    answer = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, env=os.environ).stdout)
    grown = f"the process grew by {answer['growth_mb']:.1f} MB, at most {answer['peak_mb']:.1f} MB"
    print(f"  {submitted:,} submitted in {answer['seconds']:.2f} s; {grown} (asked for: under 20)", flush=True)
    for name, number in sizes.items():
        fill(base, name, number)
    compare(base, sizes, "wait", rounds, tasks)
    for name in sizes:
        end_others(base, name)
    compare(base, sizes, "ended", rounds, tasks)


if __name__ == "__main__":
    main()
