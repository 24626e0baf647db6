"""10,000 tasks in one call, beside SQLite's own `executemany` of as many bare rows, interleaved.

    python benchmarks/submit.py [ROUNDS] [TASKS]

Each round writes a new ensemble into one site, and the same rows into a bare three-column table of a
database beside it, each in one durable transaction (synchronous=FULL).
"""

from __future__ import annotations

import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path


def bare(path: Path, tasks: int) -> float:
    rows = [(json.dumps({"alpha": i * 0.001, "beta": i % 17, "name": f"run-{i}"}), 0) for i in range(tasks)]
    con = sqlite3.connect(path, isolation_level=None)
    con.execute("PRAGMA journal_mode=WAL")
    con.execute("PRAGMA synchronous=FULL")
    con.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, p TEXT, s INTEGER)")
    start = time.perf_counter()
    con.execute("BEGIN")
    con.executemany("INSERT INTO t(p, s) VALUES(?, ?)", rows)
    con.execute("COMMIT")
    return time.perf_counter() - start


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    tasks = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000
    base = Path(tempfile.mkdtemp(prefix="bench-submit-", dir=os.environ.get("BENCH_DIR")))
    os.environ["BALSAM_JUPYTER_HOME"] = str(base / "home")
    from balsam_jupyter import ApplicationDefinition, BalsamExecutor, Sweep, open_site

    class Program(ApplicationDefinition):
        command_template = "program {{ alpha }} {{ beta }} {{ name }}"

    executor = BalsamExecutor(open_site("bench"))
    executor.register_app(Program)
    columns = {
        "alpha": [i * 0.001 for i in range(tasks)],
        "beta": [i % 17 for i in range(tasks)],
        "name": [f"run-{i}" for i in range(tasks)],
    }
    print(f"{tasks} tasks of 3 parameters in one call, ms")
    times: list[tuple[float, float]] = []
    for number in range(rounds):
        theirs = bare(base / "bare.db", tasks)
        start = time.perf_counter()
        ensemble = executor.submit_sweep("Program", Sweep.zip(**columns), name=f"round-{number}")
        times.append((theirs, time.perf_counter() - start))
        assert ensemble.new == tasks
        print(f"  round {number + 1}: bare rows {1e3 * theirs:6.0f}   submit_sweep {1e3 * times[-1][1]:6.0f}")
    ratio = statistics.median(ours / theirs for theirs, ours in times)
    seconds = statistics.median(ours for _, ours in times)
    print(f"median: submit_sweep {1e3 * seconds:.0f} ms (asked for: under 1,000 for 10,000), {ratio:.1f} × bare rows")


if __name__ == "__main__":
    main()
