"""The first picture of a site with a million tasks, and what following it costs from there on.

    python benchmarks/timeline.py [--tasks 1000000] [--quick]

Sites are filled by the store's own submission, check-out and commits. Each holds one large ensemble and one of a
tenth of the tasks, and all have ended: as commands do, with an event for each (or for its start and its end, if it
ran for long), as Python tasks do, with events that many share, and as tasks of three different sizes in turn.
Beside it, the same picture made from the events one by one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from _common import ROOT, Timer, arguments, scratch

if TYPE_CHECKING:
    from balsam_jupyter.engines.embedded import EmbeddedEngine

assert ROOT
from tests.played import ALONE, TWO, WHOLE, Player  # noqa: E402 - ROOT is on the path now

KINDS = ("commands", "long commands", "Python tasks", "long commands of three sizes")
SOME = 1000


def fill(folder: Path, kind: str, tasks: int) -> EmbeddedEngine:
    from balsam_jupyter.engines.embedded import EmbeddedEngine

    folder.mkdir(parents=True)
    (folder / "settings.yml").write_text("cores_per_node: 2\nnodes: 4\n")
    engine = EmbeddedEngine.open(folder.name, str(folder))
    engine.store.con.execute("PRAGMA synchronous=OFF")
    player = Player(engine)
    sizes = (ALONE, WHOLE, TWO) if "sizes" in kind else (ALONE,)
    player.submit("large", (sizes[number % len(sizes)] for number in range(tasks * 9 // 10)))
    player.submit("small", (sizes[number % len(sizes)] for number in range(tasks // 10)))
    while True:
        player.check_out(SOME)
        if not player.waiting:
            break
        if "long" in kind:
            player.start(len(player.waiting), step=0.001)
            player.end(len(player.running) * 97 // 100, "finished", runtime=20.0)
            player.end(len(player.running), "error", runtime=20.0)
        elif kind == "commands":
            player.end(len(player.waiting) // 30, "error", runtime=0.2, started=False)
            player.end(len(player.waiting), "finished", runtime=0.2, started=False)
            player.clock += 0.5
        else:
            player.finish(len(player.waiting), runtime=0.005)
    player.close()
    engine.store.con.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return engine


def timed(call: Callable[[], object]) -> str:
    cpu = time.process_time()
    with Timer() as timer:
        call()
    return f"{timer.seconds:6.2f} s ({time.process_time() - cpu:5.2f} s CPU)"


def replay(engine: EmbeddedEngine) -> None:
    from balsam_jupyter.history import WIDTH, History, Ranges, apply

    history, everything, cursor = History(WIDTH), Ranges([range(1, 1 << 62)]), ""
    while (page := engine.events(cursor)).rows:
        for row in page.rows:
            apply(history, row, everything)
        cursor = page.cursor


def main() -> None:
    given = arguments(__doc__ or "", rounds=1, tasks=1_000_000).parse_args()
    tasks = 3000 if given.quick else given.tasks
    base = scratch("timeline")
    os.environ["BALSAM_JUPYTER_HOME"] = str(base / "home")
    from balsam_jupyter.monitor import Tracker, snapshot

    for number, kind in enumerate(KINDS):
        engine = fill(base / f"site{number}", kind, tasks)
        events = int(engine.events("now").cursor)
        print(f"{tasks:,} {kind}, {events:,} events (in {engine.path})", flush=True)
        for name in ("", "large", "small"):
            made = timed(partial(snapshot, engine, name))
            print(f"  first picture of {name or 'the whole site':15} {made}   (asked for: under 2 s)", flush=True)
        if number < len(KINDS) - 1:
            print(f"  from the events one by one       {timed(partial(replay, engine))}", flush=True)
        player, tracker = Player(engine), Tracker(engine, "")
        tracker.catch_up()
        player.submit("small", [ALONE] * 500)
        player.check_out(500)
        player.start(500)
        print(f"  500 changes more                 {timed(tracker.catch_up)}", flush=True)
        player.close()
        engine.close()


if __name__ == "__main__":
    main()
