"""An allocation whose launcher is a child of the process that asked for it: ``balsam-jupyter launcher``.

While it waits for its turn, the asking process holds the allocation's lock, so that nobody else starts it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ...models import Allocation, AllocationRequest
from . import scheduler
from .doorbell import Listener
from .launcher.prepare import clean_environment
from .sessions import try_lock
from .signals import Stop, stopped_by
from .store import records

if TYPE_CHECKING:
    from .engine import EmbeddedEngine

_STEP_S = 0.2
_TOLD_S = 1.0
_TOLD = {"RUNNING": "started", "JOB_FINISHED": "finished", "FAILED": "failed", "USER_KILLED": "killed"}


def run(engine: EmbeddedEngine, request: AllocationRequest, show: Callable[[str], None]) -> Allocation:
    """Ask for the allocation, wait for its turn and run it to its end."""
    scheduler.reconcile(engine.path, engine.store)
    with engine.store.transaction() as con:
        number = engine.accounts.book(con, request)
        lock = try_lock(scheduler.lock_path(engine.path, number))  # nobody sees it before the commit
    assert lock is not None, "a new allocation's lock belongs to nobody"
    ear = Listener(engine.folder)
    try:
        with stopped_by(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, wake=engine.bell.ring) as stop:
            if _turn(engine, number, ear, stop, show):
                process = _start(engine, number, lock)
                os.close(lock)  # from here on it tells whether the script lives
                lock = -1
                try:
                    _attend(engine, number, process, ear, stop, show)
                finally:
                    process.terminate()  # if nobody reads on what it shows
                    process.wait()
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        with engine.store.transaction() as con:
            records.end_allocation(
                con, number, "submit_failed", f"{scheduler.script_path(engine.path, number)}: {error}"
            )
    finally:
        if lock >= 0:
            os.close(lock)
        ear.close()
    scheduler.reconcile(engine.path, engine.store)
    return records.allocation(engine.store.con, number)


def _turn(engine: EmbeddedEngine, number: int, ear: Listener, stop: Stop, show: Callable[[str], None]) -> bool:
    """Wait until the allocation has its nodes; false if it is not to start any more."""
    told = False
    while True:
        scheduler.reconcile(engine.path, engine.store)
        if stop:
            with engine.store.transaction() as con:
                records.ask_deletion(con, number)
        with engine.store.transaction() as con:
            queue = [one.id for one in records.allocations(con, unended=True) if one.state == "queued"]
            if number not in queue:
                return False
            if queue[0] == number and records.claim_next(con, engine.settings.nodes) == number:
                return True
        scheduler.start_waiting(engine.path, engine.store, engine.settings)
        if not told:
            show(f"allocation {number} is queued: it waits for {request_nodes(engine, number)}")
            told = True
        ear.wait(1.0)
        engine.look_after()


def request_nodes(engine: EmbeddedEngine, number: int) -> str:
    nodes = records.allocation(engine.store.con, number).request.num_nodes
    return "a free node" if nodes == 1 else f"{nodes} free nodes"


def _log(site: Path, number: int) -> Path:
    return site / "log" / f"qlaunch{number}.log"


def _start(engine: EmbeddedEngine, number: int, lock: int) -> subprocess.Popen[bytes]:
    script = scheduler.script_path(engine.path, number)
    script.write_text(scheduler.render(engine.path, engine.store, number))
    script.chmod(0o755)
    with open(_log(engine.path, number), "ab") as log:
        # In a session of its own: Ctrl-C is for this process, which then stops the launcher gracefully.
        process = subprocess.Popen(
            ["bash", str(script)], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=engine.path,
            env=clean_environment() | {scheduler.LOCK_VARIABLE: str(lock)}, pass_fds=[lock], start_new_session=True,
        )  # fmt: skip
    with engine.store.transaction() as con:
        records.set_scheduler_id(con, number, process.pid)
    engine.bell.ring()
    return process


def _attend(
    engine: EmbeddedEngine,
    number: int,
    process: subprocess.Popen[bytes],
    ear: Listener,
    stop: Stop,
    show: Callable[[str], None],
) -> None:
    """Show what the launcher says and what tasks do, until its script has ended."""
    asked = 0
    last, told = records.last_event(engine.store.con), time.monotonic()
    with open(_log(engine.path, number), "rb") as log:
        while process.poll() is None:
            ear.wait(_STEP_S)
            engine.look_after()
            _show_lines(log, show)
            if stop.times > asked:
                asked = stop.times
                show(f"{stop.name}: stopping; running tasks are ended and become ready to run again")
                process.send_signal(signal.SIGTERM)
            if time.monotonic() - told >= _TOLD_S:
                told = time.monotonic()
                last = _show_tasks(engine, last, show)
        _show_tasks(engine, last, show)
        _show_lines(log, show)


def _show_lines(log: BinaryIO, show: Callable[[str], None]) -> None:
    while line := log.readline():
        if not line.endswith(b"\n"):
            log.seek(-len(line), os.SEEK_CUR)  # the rest of it comes later
            return
        show(line.decode(errors="replace").rstrip("\n"))


def _show_tasks(engine: EmbeddedEngine, last: int, show: Callable[[str], None]) -> int:
    """One line for what tasks of the site did since an event; returns the last event."""
    done: Counter[str] = Counter()
    while rows := records.events(engine.store.con, last, 10_000):
        last = rows[-1].seq
        for row in rows:
            for state in row.path[1:]:
                if state in _TOLD:
                    done[_TOLD[state]] += row.last_id - row.first_id + 1
    if done:
        said = ", ".join(f"{done[word]} {word}" for word in _TOLD.values() if done[word])
        show(f"{time.strftime('%F %T')} tasks: {said}")
    return last
