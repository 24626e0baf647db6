"""What the benchmarks share: fresh sites, races of interleaved rounds, tables of medians and ratios.

A race runs each turn (one engine, one round) in a process of its own: engines are started and warmed up
before they are timed, and none of them idles beside another one's turn. A reference that is not installed,
or that fails, is in the table with the reason.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # this very copy, whatever is installed

if TYPE_CHECKING:
    from balsam_jupyter import BalsamExecutor, Site

OURS = "balsam-jupyter"
SLOTS = 2
TURN_S = 300.0  # what takes longer is reported as failed
SLOW_ROUNDS = 3  # engines that take many seconds a round are in the first rounds only

Run = Callable[[int], float]
"""Runs so many tasks, checks what they came to, and returns the seconds they took."""


class Missing(Exception):
    """A reference is not there; says what to install."""


@dataclass(frozen=True)
class Racer:
    """One engine of a race. `start` makes it ready and yields what runs tasks in a fresh folder."""

    name: str
    start: Callable[[Path], AbstractContextManager[Run]]
    slow: bool = False


def scratch(name: str) -> Path:
    """A directory for a benchmark. It stays: deleting many directories slows the next minutes down on ext4."""
    base = Path(tempfile.mkdtemp(prefix=f"bench-{name}-", dir=os.environ.get("BENCH_DIR")))
    os.environ["BALSAM_JUPYTER_HOME"] = str(base / "home")
    return base


def site(base: Path, name: str = "bench") -> Site:
    """The site of that name below `base`, with as many cores as there are slots."""
    from balsam_jupyter import open_site

    os.environ["BALSAM_JUPYTER_HOME"] = str(base / "home")
    folder = base / name
    if not folder.exists():
        folder.mkdir(parents=True)
        (folder / "settings.yml").write_text(f"cores_per_node: {SLOTS}\n")
    return open_site(name, folder)


@contextlib.contextmanager
def launcher(executor: BalsamExecutor, **options: Any) -> Iterator[None]:
    """A serial allocation at the executor's site."""
    allocation = executor.submit_allocation(executor.site.name, 1, 60, job_mode="serial", **options)
    try:
        yield
    finally:
        assert executor.revoke_allocation(allocation)


def arguments(description: str, rounds: int, tasks: int) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--tasks", type=int, default=tasks)
    parser.add_argument("--quick", action="store_true", help="few tasks, one round, for smoke tests")
    parser.add_argument("--only", help="engines to run, separated by commas")
    parser.add_argument("--turn", nargs=2, metavar=("ENGINE", "FOLDER"), help=argparse.SUPPRESS)
    return parser


def race(
    script: str, title: str, racers: Sequence[Racer], rounds: int, tasks: int, quick: tuple[int, str], warm: int = 100
) -> None:
    """Run every engine in every round, then print medians and what ours is of each; the whole `main` of a script.

    Parameters
    ----------
    script, title : str
        ``__file__``, and a line about what is run.
    rounds, tasks : int
        By default.
    quick : (int, str)
        Tasks and engines of ``--quick``.
    warm : int
        Tasks that each engine runs before it is timed.
    """
    given = arguments(title, rounds, tasks).parse_args()
    if given.turn:
        _turn(racers, given.turn[0], Path(given.turn[1]), given.tasks, warm)
        return
    rounds, tasks, only = given.rounds, given.tasks, given.only
    if given.quick:
        rounds, tasks, only = 1, quick[0], only or quick[1]
    chosen = [racer for racer in racers if only is None or racer.name in only.split(",")]
    base = scratch(Path(script).stem)
    print(f"{title}: {tasks:,} tasks, {SLOTS} at a time, tasks/s (in {base})", flush=True)
    seconds: dict[str, dict[int, float]] = {racer.name: {} for racer in chosen}
    reasons: dict[str, str] = {}
    for number in range(rounds):
        said = []
        for racer in chosen if number % 2 == 0 else reversed(chosen):  # nobody is always behind the same one
            if racer.name in reasons or (racer.slow and number >= SLOW_ROUNDS):
                continue
            answer = _take_turn(script, racer.name, base, number, tasks)
            if "seconds" in answer:
                seconds[racer.name][number] = answer["seconds"]
                said.append(f"{racer.name} {tasks / answer['seconds']:.0f}")
            else:
                reasons[racer.name] = answer["missing"]
        print(f"  round {number + 1}: " + ", ".join(said), flush=True)
    table(seconds, reasons, tasks)
    if OURS in reasons:
        sys.exit(1)


def _take_turn(script: str, name: str, base: Path, number: int, tasks: int) -> dict[str, Any]:
    log = base / f"{name.replace(' ', '-').replace('/', '-')}-{number}.log"
    command = [sys.executable, script, "--tasks", str(tasks), "--turn", name, str(base)]
    with open(log, "wb") as file:
        try:
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=file, timeout=TURN_S, cwd=base, check=False)
        except subprocess.TimeoutExpired:
            return {"missing": f"not done after {TURN_S:g} s; see {log}"}
    for line in reversed(done.stdout.decode(errors="replace").splitlines()):
        with contextlib.suppress(ValueError):
            answer = json.loads(line)
            if isinstance(answer, dict):
                return answer
    return {"missing": f"failed (exit code {done.returncode}); see {log}"}


def _turn(racers: Sequence[Racer], name: str, base: Path, tasks: int, warm: int) -> None:
    """One engine's part of a round, in a process of its own; says on stdout how long it took."""
    racer = next(racer for racer in racers if racer.name == name)
    # Some references start programs that pip put beside this Python.
    os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", os.defpath)])
    try:
        with racer.start(base) as run:
            run(min(warm, tasks - 1))
            seconds = run(tasks)
        print(json.dumps({"seconds": seconds}))
    except (ImportError, Missing) as error:
        print(json.dumps({"missing": f"not installed: {error}"}))


def table(seconds: Mapping[str, Mapping[int, float]], reasons: Mapping[str, str], tasks: int) -> None:
    """Medians in tasks/s, and the median over rounds of what our rate is of theirs in the same round."""
    ours = seconds.get(OURS, {})
    print(f"  {'':32} {'tasks/s':>9}  {OURS} is")
    for name, times in seconds.items():
        if name in reasons:
            print(f"  {name:32} {'-':>9}  MISSING: {reasons[name]}")
            continue
        ratios = [theirs / ours[number] for number, theirs in times.items() if number in ours]
        compared = "" if name == OURS or not ratios else f"{statistics.median(ratios):.2f} × that"
        print(f"  {name:32} {tasks / statistics.median(times.values()):9.0f}  {compared}")


def fresh(base: Path, name: str) -> Path:
    """A new directory below `base`."""
    base.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=base))


class Timer:
    """``with Timer() as timer: …`` then `timer.seconds`."""

    def __enter__(self) -> Timer:
        self.start = time.perf_counter()
        self.seconds = 0.0
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self.start
