"""100,000 tasks in one call, beside SQLite's own `executemany` of as many rows, in turns.

    python benchmarks/submit.py [--rounds 5] [--tasks 100000] [--quick]

Each round submits a grid of three parameters as a new ensemble, stores the same rows (those of a site) with
`executemany` in the indexed tables of a second database of the same schema, and their parameters in a bare table of
three columns; each in one durable transaction (synchronous=FULL). The rows of both references are ready before the
clock starts.
"""

from __future__ import annotations

import sqlite3
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common import Timer, arguments, scratch, site

COLUMNS = (
    "spec_id, shape_id, ensemble_id, row, key, parameters, workdir, state, app_version, submit_time, data, transfers"
)
Rows = list[tuple[Any, ...]]


def stored_rows(path: Path) -> Rows:
    with sqlite3.connect(path) as con:
        return con.execute(f"SELECT {COLUMNS} FROM job ORDER BY id").fetchall()


def indexed(path: Path, rows: Rows) -> Callable[[int], float]:
    from balsam_jupyter.engines.embedded.store.schema import Store

    store = Store(path)
    marks = ", ".join("?" * len(rows[0]))

    def run(number: int) -> float:
        given = [(*row[:2], number, *row[3:]) for row in rows]  # an ensemble of its own
        with Timer() as timer, store.transaction() as con:
            con.executemany(f"INSERT INTO job({COLUMNS}) VALUES({marks})", given)
        return timer.seconds

    return run


def bare(path: Path, rows: Rows) -> Callable[[int], float]:
    con = sqlite3.connect(path, isolation_level=None)
    con.execute("PRAGMA journal_mode=WAL")
    con.execute("PRAGMA synchronous=FULL")
    con.execute("CREATE TABLE t(id INTEGER PRIMARY KEY, p TEXT, s INTEGER)")
    given = [(row[5], 0) for row in rows]

    def run(_: int) -> float:
        with Timer() as timer:
            con.execute("BEGIN")
            con.executemany("INSERT INTO t(p, s) VALUES(?, ?)", given)
            con.execute("COMMIT")
        return timer.seconds

    return run


def main() -> None:
    given = arguments(__doc__ or "", rounds=5, tasks=100_000).parse_args()
    rounds, tasks = (1, 500) if given.quick else (given.rounds, given.tasks)
    tasks -= tasks % 100  # of a grid
    base = scratch("submit")
    from balsam_jupyter import ApplicationDefinition, BalsamExecutor, Sweep

    class Program(ApplicationDefinition):
        command_template = "program {{ alpha }} {{ beta }} {{ name }}"

    executor = BalsamExecutor(site(base))
    executor.register_app(Program)
    alphas, names = [i * 0.001 for i in range(tasks // 100)], [f"run-{i}" for i in range(10)]

    def submit(number: int) -> float:
        with Timer() as timer:
            sweep = Sweep.grid(alpha=alphas, beta=range(10), name=names)
            ensemble = executor.submit_sweep("Program", sweep, name=f"round-{number}")
        assert ensemble.new == len(sweep) == tasks
        return timer.seconds

    submit(0)
    rows = stored_rows(Path(executor.site.path) / "balsam.db")
    runs = {"ours": submit, "own": indexed(base / "own.db", rows), "bare": bare(base / "bare.db", rows)}
    print(f"{tasks:,} tasks of 3 parameters in one call, ms (in {base})")
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(1, rounds + 1):
        for name in list(runs) if number % 2 else reversed(runs):  # nobody is always behind the same one
            times[name].append(runs[name](number))
        ours, own, plain = (1e3 * times[name][-1] for name in ("ours", "own", "bare"))
        print(
            f"  round {number}: submit_sweep {ours:5.0f}   our tables {own:5.0f}   bare table {plain:5.0f}", flush=True
        )
    ours, own, plain = (1e3 * statistics.median(times[name]) for name in ("ours", "own", "bare"))
    print(f"  median: submit_sweep {ours:.0f} ms   our tables {own:.0f} ms   bare table {plain:.0f} ms")
    for name, what, most in (("own", "executemany in our own indexed tables", 1.5), ("bare", "a bare table", 10)):
        ratio = statistics.median(mine / theirs for mine, theirs in zip(times["ours"], times[name], strict=True))
        print(f"  {ratio:.2f} × {what} (asked for: at most {most:g})")


if __name__ == "__main__":
    main()
