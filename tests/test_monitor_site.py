"""The monitor of a whole site, of generations, of views that are looked at or not; and what must not disturb it."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.models import AllocationRequest, Query
from balsam_jupyter.monitor import AWAY_S, Monitor, Snapshot, Tracker, snapshot
from balsam_jupyter.tracker import PAGE

from .played import ALONE, TWO, Player

ROOT = Path(__file__).resolve().parent.parent
Told = queue.Queue[Snapshot]


@pytest.fixture
def settings() -> str:
    return "cores_per_node: 2\nnodes: 4\n"


def until(told: Told, wanted: Callable[[Snapshot], bool], timeout: float = 60.0) -> Snapshot:
    """The first snapshot that is as wanted."""
    deadline = time.monotonic() + timeout
    while not wanted(snap := told.get(timeout=max(0.01, deadline - time.monotonic()))):
        pass
    return snap


def test_a_whole_site_is_followed_and_never_done(engine: EmbeddedEngine) -> None:
    told: Told = queue.Queue()
    subscription = Monitor.of(engine).watch("", told.put, period=0.05)
    assert told.get_nowait().total == 0
    player = Player(engine)
    player.submit("a", [ALONE] * 3)
    player.submit("", [TWO] * 2)
    assert until(told, lambda snap: snap.total == 5).generation is None
    player.check_out(5)
    player.start(5)
    busy = until(told, lambda snap: snap.counts["RUNNING"] == 5)
    assert busy.series.busy[-1] == 3 * 0.5 + 2 * 2
    player.end(4, "finished")
    player.end(1, "error")
    ended = until(told, lambda snap: snap.ended == 5)
    assert not ended.done and sum(ended.series.ended) == 5 and ended.series.busy[-1] == 0
    player.submit("b", [ALONE])
    assert until(told, lambda snap: snap.total == 6).counts["WAITING"] == 1
    assert snapshot(engine, "").counts == {"WAITING": 1, "RUNNING": 0, "FINISHED": 4, "FAILED": 1, "USER_KILLED": 0}
    subscription.close()
    assert Monitor.of(engine).join(10)
    player.close()


def test_one_generation_or_the_newest(engine: EmbeddedEngine) -> None:
    player = Player(engine)
    player.submit("a", [ALONE] * 3)
    first: Told = queue.Queue()
    newest: Told = queue.Queue()
    monitor = Monitor.of(engine)
    monitor.watch("a", first.put, period=0.05, generation=1)
    monitor.watch("a", newest.put, period=0.05)
    assert first.get_nowait().generation == newest.get_nowait().generation == 1
    player.submit("a", [ALONE] * 5, generation=2)  # what had not ended of the first is killed
    last = until(first, lambda snap: snap.done)
    assert (last.generation, last.counts["USER_KILLED"]) == (1, 3)
    assert until(newest, lambda snap: snap.generation == 2).counts["WAITING"] == 5
    engine.update(Query(ensemble="a"), "USER_KILLED")
    assert until(newest, lambda snap: snap.done).counts["USER_KILLED"] == 5
    assert monitor.join(10)
    player.close()


def test_a_view_that_nobody_looks_at_is_told_seldom(engine: EmbeddedEngine) -> None:
    player = Player(engine)
    player.submit("a", [ALONE] * 400)
    player.check_out(400)
    told: Told = queue.Queue()
    subscription = Monitor.of(engine).watch("a", told.put)
    counts = {}
    for looking in (False, True):
        subscription.look(looking)
        began = time.monotonic()
        while not told.empty():
            told.get_nowait()
        while time.monotonic() < began + AWAY_S / 2:
            player.start(1)
            player.end(1, "finished")
            time.sleep(0.02)
        counts[looking] = told.qsize()
    assert counts[False] <= 2 < counts[True]
    subscription.close()
    player.close()


def test_an_allocation_that_begins_is_told_though_no_task_changes(engine: EmbeddedEngine) -> None:
    player = Player(engine)
    player.submit("a", [ALONE])
    player.check_out(1)  # so that its launcher has nothing to do
    told: Told = queue.Queue()
    subscription = Monitor.of(engine).watch("a", told.put, period=0.05)
    engine.allocate(AllocationRequest(1, 5, "serial"))
    assert until(told, lambda snap: [one.state for one in snap.allocations] == ["running"], timeout=4.0).total == 1
    subscription.close()
    player.close()


@pytest.mark.parametrize("asked", [[ALONE], [ALONE, TWO]], ids=["equal", "mixed"])
def test_no_poll_grows_with_the_number_of_tasks(engine: EmbeddedEngine, asked: list[object]) -> None:
    player = Player(engine)
    player.submit("b", [ALONE])
    work: list[int] = []
    for tasks in (100, 20_000):
        player.submit("a", asked * (tasks // len(asked)))  # type: ignore[arg-type]
        player.check_out(50)
        trackers = [Tracker(engine, name) for name in ("", "a")]
        for one in trackers:
            one.catch_up()
        instructions = 0

        def count() -> None:
            nonlocal instructions
            instructions += 100

        player.start(10)
        player.end(10, "finished")
        player.submit("b", [ALONE])
        engine.store.con.set_progress_handler(count, 100)  # of SQLite's virtual machine
        assert [one.catch_up() for one in trackers]
        engine.store.con.set_progress_handler(None, 0)
        work.append(instructions)
    assert work[1] < 1.5 * work[0] < 20_000
    player.close()


def test_who_is_far_behind_begins_again(engine: EmbeddedEngine) -> None:
    player = Player(engine)
    tasks = 3 * PAGE + 1000
    player.submit("a", [ALONE] * tasks)
    tracker = Tracker(engine, "a")
    tracker.catch_up()
    before = tracker.history
    engine.update(Query(ensemble="a"), "USER_KILLED")  # an event each
    tracker.catch_up()
    assert tracker.history is not before
    assert tracker.history.counts()["USER_KILLED"] == tasks and tracker.finished()
    player.close()


def test_a_site_may_be_closed_while_others_read(engine: EmbeddedEngine) -> None:
    player = Player(engine)
    player.submit("a", [ALONE] * 300)
    stop = threading.Event()
    failed: list[Exception] = []

    def read() -> None:
        while not stop.is_set():
            try:
                assert len(engine.jobs(Query())) == 300
                snapshot(engine, "a")
            except Exception as error:
                failed.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(100):
        engine.store.close()
        time.sleep(0.002)
    stop.set()
    for reader in readers:
        reader.join()
    assert not failed
    player.close()


FORK = """
import os, sys, threading, time
from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.monitor import Monitor
engine = EmbeddedEngine.open("here", sys.argv[1])
told = []
monitor = Monitor.of(engine)
monitor.watch("", told.append, period=0.05)
child = os.fork()
if child == 0:
    assert not monitor.alive and Monitor.of(engine) is not monitor
    seen = []
    other = Monitor.of(engine).watch("", seen.append, period=0.05)
    assert seen and Monitor.of(engine).alive
    other.close()
    assert Monitor.of(engine).join(10)
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
number = len(told)
while len(told) < number + 2:
    time.sleep(0.01)
assert monitor.alive
print("the parent goes on")
"""


def test_a_fork_has_no_monitor_and_may_have_its_own(engine: EmbeddedEngine) -> None:
    command = [sys.executable, "-c", FORK, str(engine.path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    # It ends at once, too, with the view open, and says nothing.
    assert (done.returncode, done.stdout, done.stderr) == (0, "the parent goes on\n", "")


def test_an_error_of_the_engine_goes_by(engine: EmbeddedEngine) -> None:
    player = Player(engine)
    player.submit("a", [ALONE])
    told: Told = queue.Queue()
    subscription = Monitor.of(engine).watch("", told.put, period=0.05)
    with player.store.transaction() as con:  # a table that is gone, as in a file that is being restored
        con.execute("ALTER TABLE event RENAME TO lost")
    silent = until(told, lambda snap: snap.age_s > 0.2)
    assert "no such table" in silent.error and silent.total == 1
    with player.store.transaction() as con:
        con.execute("ALTER TABLE lost RENAME TO event")
    assert until(told, lambda snap: not snap.error).age_s < 1
    subscription.close()
    player.close()


def test_a_site_that_was_removed_is_told(engine: EmbeddedEngine) -> None:
    told: Told = queue.Queue()
    subscription = Monitor.of(engine).watch("", told.put, period=0.05)
    subprocess.run(["rm", "-rf", engine.path], check=True)  # which does not mind that files go by themselves meanwhile
    silent = until(told, lambda snap: bool(snap.error))
    assert silent.error.endswith("balsam.db was deleted or replaced while open; open the site again.")
    subscription.close()
    assert Monitor.of(engine).join(30)
    engine.path.mkdir()


def test_a_view_left_open_does_not_grow(engine: EmbeddedEngine) -> None:
    player = Player(engine)
    player.submit("a", [ALONE, TWO] * 50)
    trackers = [Tracker(engine, name) for name in ("", "a")]

    def hours(rounds: int) -> int:
        for _ in range(rounds):
            player.submit("b", [ALONE])
            player.check_out(60)
            player.start(30)
            player.end(30, "timeout", runtime=60.0)  # they wait again
            for one in trackers:
                one.catch_up()
                one.snapshot([])
        return tracemalloc.get_traced_memory()[0]

    hours(50)  # all bins are in use
    tracemalloc.start()
    first = hours(20)
    last = hours(200)
    tracemalloc.stop()
    assert last - first < 100_000  # bytes; a day has gone by at the site
    player.close()
