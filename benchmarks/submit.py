"""10,000 tasks in one call, beside SQLite's own `executemany` of as many bare rows, interleaved.

    python benchmarks/submit.py [--rounds 5] [--tasks 10000] [--quick]

Each round writes a new ensemble into one site, and the same rows into a bare three-column table of a
database beside it, each in one durable transaction (synchronous=FULL).
"""

from __future__ import annotations

import json
import sqlite3
import statistics
from pathlib import Path

from _common import Timer, arguments, scratch, site


def bare(path: Path, tasks: int) -> float:
    rows = [(json.dumps({"alpha": i * 0.001, "beta": i % 17, "name": f"run-{i}"}), 0) for i in range(tasks)]
    con = sqlite3.connect(path, isolation_level=None)
    con.execute("PRAGMA journal_mode=WAL")
    con.execute("PRAGMA synchronous=FULL")
    con.execute("CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, p TEXT, s INTEGER)")
    with Timer() as timer:
        con.execute("BEGIN")
        con.executemany("INSERT INTO t(p, s) VALUES(?, ?)", rows)
        con.execute("COMMIT")
    return timer.seconds


def main() -> None:
    given = arguments(__doc__ or "", rounds=5, tasks=10_000).parse_args()
    rounds, tasks = (1, 500) if given.quick else (given.rounds, given.tasks)
    base = scratch("submit")
    from balsam_jupyter import ApplicationDefinition, BalsamExecutor, Sweep

    class Program(ApplicationDefinition):
        command_template = "program {{ alpha }} {{ beta }} {{ name }}"

    executor = BalsamExecutor(site(base))
    executor.register_app(Program)
    columns = {
        "alpha": [i * 0.001 for i in range(tasks)],
        "beta": [i % 17 for i in range(tasks)],
        "name": [f"run-{i}" for i in range(tasks)],
    }
    print(f"{tasks:,} tasks of 3 parameters in one call, ms (in {base})")
    times: list[tuple[float, float]] = []
    for number in range(rounds):
        theirs = bare(base / "bare.db", tasks)
        with Timer() as timer:
            ensemble = executor.submit_sweep("Program", Sweep.zip(**columns), name=f"round-{number}")
        times.append((theirs, timer.seconds))
        assert ensemble.new == tasks
        print(f"  round {number + 1}: bare rows {1e3 * theirs:6.0f}   submit_sweep {1e3 * timer.seconds:6.0f}")
    ratio = statistics.median(ours / theirs for theirs, ours in times)
    seconds = statistics.median(ours for _, ours in times)
    print(f"  median: submit_sweep {1e3 * seconds:.0f} ms (asked for: under 1,000 for 10,000), {ratio:.1f} × bare rows")


if __name__ == "__main__":
    main()
