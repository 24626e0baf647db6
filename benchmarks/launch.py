"""Commands with a directory and a log each: our launcher beside `xargs`, interleaved, with the ratio.

    python benchmarks/launch.py [ROUNDS] [TASKS]

Each round starts both on fresh directories (nothing is deleted before or between rounds: on ext4 that
slows the next minutes down for everyone).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SLOTS = 2
XARGS = "seq {n} | xargs -P{p} -I@ sh -c 'mkdir @; cd @; /bin/true >job.out 2>&1; echo $? >rc'"


def xargs(folder: Path, tasks: int) -> float:
    folder.mkdir()
    start = time.perf_counter()
    subprocess.run(XARGS.format(n=tasks, p=SLOTS), shell=True, check=True, cwd=folder)
    return tasks / (time.perf_counter() - start)


class Ours:
    """A site with a warm launcher."""

    def __init__(self, home: Path) -> None:
        os.environ["BALSAM_JUPYTER_HOME"] = str(home)
        from balsam_jupyter.engines.base import open_engine
        from balsam_jupyter.models import AllocationRequest, AppRecord

        site = home / "site"
        site.mkdir(parents=True)
        (site / "settings.yml").write_text(f"cores_per_node: {SLOTS}\n")
        self.engine = open_engine("embedded", "bench", str(site))
        self.app = self.engine.register(AppRecord("T", "shell", "1", {}, command_template="/bin/true"))
        self.engine.allocate(AllocationRequest(1, 60, "serial"))
        self.run(20)

    def run(self, tasks: int) -> float:
        from balsam_jupyter.models import JobCommon, JobSpec, Query

        common = JobCommon(self.app)
        cursor = self.engine.events("now").cursor
        start = time.perf_counter()
        ids = self.engine.submit(JobSpec(common, "{}", "run/T_{id}") for _ in range(tasks)).ids
        done = 0
        while done < tasks:
            seen = self.engine.events(cursor, 10.0)
            cursor = seen.cursor
            done += sum(row.path[-1] in ("JOB_FINISHED", "FAILED") for row in seen.rows)
        rate = tasks / (time.perf_counter() - start)
        assert self.engine.count(Query(ids=tuple(ids))) == {"JOB_FINISHED": tasks}
        return rate


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    tasks = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
    base = Path(tempfile.mkdtemp(prefix="bench-launch-", dir=os.environ.get("BENCH_DIR")))
    ours = Ours(base / "home")
    rates: list[tuple[float, float]] = []
    print(f"{tasks} × /bin/true, each with its own directory and log, {SLOTS} at a time, tasks/s")
    for number in range(rounds):
        theirs = xargs(base / f"xargs{number}", tasks)
        us = ours.run(tasks)
        rates.append((theirs, us))
        print(f"  round {number + 1}: xargs {theirs:7.0f}   balsam-jupyter {us:7.0f}   ratio {us / theirs:.2f}")
    ours.engine.revoke(1)
    theirs, us = (statistics.median(column) for column in zip(*rates, strict=True))
    ratio = statistics.median(us / theirs for theirs, us in rates)
    print(f"median: xargs {theirs:.0f}, balsam-jupyter {us:.0f}, ratio {ratio:.2f} (asked for: 3.0)")


if __name__ == "__main__":
    main()
