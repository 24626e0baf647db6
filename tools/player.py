"""A launcher that runs nothing: it checks tasks out of a site's store and commits starts and ends, at a given pace.

For benchmarks and tests of what watches a site. `prepare` makes a site whose allocations start a player in the place
of the launcher, so an allocation, its lock and its session are real, and every change goes through the store's own
check-out and commits. Each commit is noted in ``commits.csv`` of the site: when (seconds since the epoch), how many
tasks had ended by then.
"""

from __future__ import annotations

import argparse
import random
import shlex
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # this very copy, whatever is installed

from balsam_jupyter.codec import encode  # noqa: E402
from balsam_jupyter.engines.embedded.doorbell import Bell, Listener, runtime_folder  # noqa: E402
from balsam_jupyter.engines.embedded.sessions import Session  # noqa: E402
from balsam_jupyter.engines.embedded.store import Store, jobs, records, work  # noqa: E402
from balsam_jupyter.models import TERMINAL, Query  # noqa: E402

if TYPE_CHECKING:
    from balsam_jupyter import BalsamExecutor, Ensemble

RUN_S = 0.1  # for which a task is RUNNING
ERRORS = (
    "ValueError: the pressure is not finite",
    "exit code 139 (SIGSEGV)",
    "FileNotFoundError: potential.eam",
)


@dataclass(frozen=True)
class Pace:
    """How a player goes on.

    `rate` changes of a task's state a second (a start is one, an end another). A task in `failing` fails. `ends_s`:
    over how many seconds the tasks end for good (0: as soon as they can); before its turn a task runs into its time
    limit and waits again, so that few tasks change as often as many.
    """

    rate: float = 500.0
    failing: float = 0.01
    ends_s: float = 0.0
    group_s: float = 0.05


def prepare(folder: Path, pace: Pace) -> None:
    """Make the directory of a site whose allocations start a player."""
    folder.mkdir(parents=True)
    (folder / "settings.yml").write_text("cores_per_node: 2\nnodes: 4\n")
    options = [f"--{name.replace('_', '-')}={value}" for name, value in vars(pace).items()]
    command = [sys.executable, __file__, str(folder), *options]
    (folder / "job-template.sh").write_text(
        f"#!/bin/bash\nexec {shlex.join(command)} --allocation={{{{ batch_job_id }}}}\n"
    )


def fill(executor: BalsamExecutor, name: str, tasks: int, ended: int) -> Ensemble:
    """An ensemble of so many tasks (a multiple of four); the first have ended already, with an event for each end."""
    from balsam_jupyter import ApplicationDefinition, Sweep

    class Move(ApplicationDefinition):
        command_template = "/bin/echo {{ x }} {{ T }}"

    executor.register_app(Move)
    sweep = Sweep.grid(x=range(tasks // 4), T=[280, 290, 300, 310])
    ensemble = executor.submit_sweep("Move", sweep, name=name)
    engine = executor.site.engine
    player = Player(Path(engine.site.path), None, Pace())
    while player.ended < ended:
        player.step(min(1000, ended - player.ended), at_once=True)
    player.close()
    return ensemble


class Player:
    """Plays the launcher of an allocation (None: of none)."""

    def __init__(self, site: Path, allocation: int | None, pace: Pace) -> None:
        self.site, self.allocation, self.pace = site, allocation, pace
        self.store = Store(site / "balsam.db")
        self.session = Session(site, self.store, allocation)
        self.bell = Bell(runtime_folder(site))
        self.waiting: deque[work.Work] = deque()
        self.running: deque[tuple[work.Work, float]] = deque()
        self.ended = 0
        self.random = random.Random(0)  # the same tasks fail every time

    def step(self, number: int, may_end: int | None = None, at_once: bool = False) -> None:
        """One commit: start `number` tasks, end up to as many, and fetch the next; `may_end` of them for good."""
        now = time.time()
        starting = [self.waiting.popleft() for _ in range(min(number, len(self.waiting)))]
        self.running.extend((each, now) for each in starting)
        ending: list[tuple[work.Work, float]] = []
        while self.running and len(ending) < number and (at_once or self.running[0][1] <= now - RUN_S):
            ending.append(self.running.popleft())
        ends = [self.end(each, when, now, may_end is None or at < may_end) for at, (each, when) in enumerate(ending)]
        with self.store.transaction() as con:
            work.require_open(con, self.session.id)
            work.commit_starts(con, self.session.id, [(each.id, each.state, now) for each in starting])
            work.commit_ends(con, self.session.id, ends)
            for shape in work.ready_shapes(con):
                if len(self.waiting) < number:
                    self.waiting += work.check_out(
                        con, self.session.id, self.allocation or 0, shape, None, 2 * number - len(self.waiting)
                    )
        self.ended += sum(end.outcome != "timeout" for end in ends)
        if starting or ends:
            self.bell.ring()

    def end(self, job: work.Work, start: float, now: float, last: bool) -> work.End:
        fails = last and self.random.random() < self.pace.failing
        outcome = "timeout" if not last else "error" if fails else "finished"
        value = None if outcome != "finished" else encode({"energy": self.random.gauss(0.0, 1.0)})
        error = self.random.choice(ERRORS) if fails else ""
        return work.End(job.id, outcome, "RUNNING", start, now - start, int(fails), value, error)

    def play(self) -> None:
        """Go on until the allocation is revoked."""
        found = jobs.count(self.store.con, Query())
        self.ended = sum(number for state, number in found.items() if state in TERMINAL)
        first, left = self.ended, sum(found.values()) - self.ended
        ear = Listener(self.bell.folder)
        began, played = time.monotonic(), 0
        with open(self.site / "commits.csv", "w", buffering=1) as log:
            while records.allocation(self.store.con, self.allocation or 0).state != "pending_deletion":
                elapsed = time.monotonic() - began
                number = int(elapsed * self.pace.rate / 2) - played
                played += number
                before = self.ended
                may_end = int(left * elapsed / self.pace.ends_s) - (before - first) if self.pace.ends_s else None
                self.step(number, may_end)
                if self.ended > before:
                    log.write(f"{time.time()},{self.ended}\n")
                self.session.beat(self.store)
                next_at = began + (int(elapsed / self.pace.group_s) + 1) * self.pace.group_s
                while (pause := next_at - time.monotonic()) > 0:
                    ear.wait(pause)
        ear.close()
        self.close()

    def close(self) -> None:
        """Give back what was checked out, as a launcher that leaves does."""
        with self.store.transaction() as con:
            work.commit_ends(con, self.session.id, [self.end(each, when, when, False) for each, when in self.running])
            work.release(con, self.session.id, [each.id for each in self.waiting])
        self.session.close(self.store)
        self.bell.ring()
        self.bell.close()
        self.store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=Path)
    parser.add_argument("--allocation", type=int, required=True)
    for name, default in vars(Pace()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=default)
    given = parser.parse_args()
    Player(given.site, given.allocation, Pace(given.rate, given.failing, given.ends_s, given.group_s)).play()


if __name__ == "__main__":
    main()
