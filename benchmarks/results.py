"""Tables of 100,000 finished tasks: read at once, and again when ten tasks have changed or none.

    python benchmarks/results.py [--rounds 5] [--tasks 100000] [--quick]

The tasks are run by our launcher. Each round opens the site anew, as a new kernel does, and reads the table; then ten
tasks are run again and the table is read again, and once more without a change. pandas has been imported before.
Every table is checked.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from _common import Timer, arguments, launcher, scratch, site

if TYPE_CHECKING:
    import pandas as pd

CHANGES = 10


def main() -> None:
    given = arguments(__doc__ or "", rounds=5, tasks=100_000).parse_args()
    rounds, tasks = (1, 1000) if given.quick else (given.rounds, given.tasks)
    base = scratch("results")
    from balsam_jupyter import ApplicationDefinition, BalsamExecutor, Sweep
    from balsam_jupyter.models import Query

    class Increment(ApplicationDefinition):
        def run(self, x, y):  # type: ignore[no-untyped-def]
            return {"next": x + 1, "half": y / 2}

    executor = BalsamExecutor(site(base))
    executor.register_app(Increment)
    sweep = Sweep.zip(x=list(range(tasks)), y=[number * 0.1 for number in range(tasks)])
    names = "the first", f"after {CHANGES} changes", "nothing changed"
    times: dict[str, list[float]] = {name: [] for name in names}
    busy: list[float] = []  # seconds of this process: what the first takes on a machine that has nothing else to do
    print(f"to_dataframe() of {tasks:,} finished tasks with 2 parameters and 2 results, ms (in {base})")
    table = pd.DataFrame()
    with launcher(executor):
        executor.submit_sweep("Increment", sweep, name="many").wait()
        for number in range(rounds):
            ensemble = BalsamExecutor(site(base)).ensemble("many")
            for name in names:
                if name == names[1]:
                    ids = tuple(int(table["task"][row]) for row in range(number, tasks, tasks // CHANGES))
                    again = Query(ids=ids, states=("JOB_FINISHED",))
                    assert executor.site.engine.update(again, "RESTART_READY") == CHANGES
                    ensemble.wait()
                began = time.process_time()
                with Timer() as timer:
                    table = ensemble.to_dataframe()
                times[name].append(timer.seconds)
                if name == names[0]:
                    busy.append(time.process_time() - began)
                check(table, tasks)
            print(f"  round {number + 1}: " + "   ".join(f"{name} {1e3 * times[name][-1]:.1f}" for name in names))
    first, changed, same = (1e3 * statistics.median(times[name]) for name in names)
    print(
        f"  median: the first {first:.0f} ms, {1e3 * statistics.median(busy):.0f} of them CPU (asked for: under 2,000 "
        f"for 100,000 tasks), after {CHANGES} changes {changed:.1f} ms (under 50), nothing changed {same:.1f} ms"
    )


def check(table: pd.DataFrame, tasks: int) -> None:
    assert table["x"].tolist() == list(range(tasks)) and (table["state"] == "FINISHED").all()
    assert (table["next"] == table["x"] + 1).all() and (table["half"] == table["y"] / 2).all()
    assert {str(table[name].dtype) for name in ("x", "next", "task")} == {"int64"}


if __name__ == "__main__":
    import pandas as pd

    main()
