"""What a worker writes down is what a takeover reads, also if the file is cut off anywhere."""

from __future__ import annotations

import base64
import hashlib
import marshal
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from balsam_jupyter.codec import decode, encode
from balsam_jupyter.engines.embedded.journal import read
from balsam_jupyter.engines.embedded.launcher import slot, spawner
from balsam_jupyter.engines.embedded.launcher.slot import Channel
from balsam_jupyter.engines.embedded.launcher.worker import entry

VALUES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
DOINGS = st.tuples(st.sampled_from(["return", "raise", "exit"]), VALUES | st.lists(VALUES, max_size=3))


def run(self: Any, how: str, value: Any) -> Any:
    if how == "raise":
        raise ValueError(value)
    if how == "exit":
        raise SystemExit(3)
    if how == "hash":
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
    if how == "unhear":
        signal.set_wakeup_fd(value)
        time.sleep(0.01)
    return value


class Driver:
    """A real worker process and the launcher's end of its pipes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = folder / "0.1.worker"
        worker = Path(slot.__file__).with_name("worker.py")
        self.channel = Channel(
            "worker", [sys.executable, "-u", str(worker), str(self.journal), "0"], os.environ, self.journal
        )
        run.__module__ = "__main__"  # pickled by value
        payload = cloudpickle.dumps({"functions": {"run": run}, "attributes": {}, "outputs": {}})
        self.channel.send(("app", 1, ("Echo", payload, [], {})))
        self.channel.send(("call", 0, 1, "{}"))
        self.next = 1

    def work(self, doings: list[tuple[str, Any]]) -> dict[int, tuple[int, float, float, Any]]:
        """Run tasks; what the launcher is told of each: code, start time, runtime, outcome."""
        self.hand(doings)
        told: dict[int, tuple[int, float, float, Any]] = {}
        while len(told) < len(doings):
            for _, ends, _, _, done in self.heard():
                told.update((one, (code, began, runtime, outcome)) for one, code, began, runtime, outcome in ends)
                told.update((one, (0, began, runtime, (value, "", None, ""))) for one, began, runtime, value in done)
        return told

    def hand(self, doings: list[tuple[str, Any]]) -> None:
        tasks = []
        for how, value in doings:
            parameters = encode({"how": how, "value": value})
            tasks.append((self.next, 1, f"{self.folder}/data/{self.next}", 0, parameters, None, [], False))
            self.next += 1
        self.channel.send(("run", tasks))

    def heard(self) -> list[tuple[Any, ...]]:
        select.select([self.channel.outlet], [], [], 30)
        frames, gone = self.channel.receive()
        assert not gone
        return frames


def written(journal: Path) -> bytes:
    """What a journal holds, without the room behind it."""
    return journal.read_bytes().rstrip(b"\0") if journal.exists() else b""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    made = Driver(tmp_path_factory.mktemp("session-1"))
    yield made
    assert made.channel.process.stdin is not None
    made.channel.process.stdin.close()
    assert made.channel.process.wait(30) == 0


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(doings=st.lists(DOINGS, min_size=1, max_size=8), cut=st.floats(0, 1), room=st.integers(0, 100))
def test_ends_are_read_as_they_were_told(
    driver: Driver, tmp_path: Path, doings: list[tuple[str, Any]], cut: float, room: int
) -> None:
    before = len(written(driver.journal))
    first = driver.next
    told = driver.work(doings)
    journal = read(driver.journal)
    assert journal.alive and not journal.orphaned
    assert journal.pid == driver.channel.process.pid
    for (how, value), (one, (code, began, runtime, outcome)) in zip(doings, sorted(told.items()), strict=True):
        found = journal.ends[one, 1]
        assert found[0] == code == {"return": 0, "raise": 1, "exit": 3}[how]
        assert found[1:3] == (began, runtime)
        assert found[3] == outcome
        if how == "return":
            assert decode(found[3][0]) == value
        elif how == "raise":
            assert decode(found[3][2]).args == (value,)
    # A file cut anywhere, also with room behind it, holds a beginning of what happened: starts in order, and an end
    # only behind its start.
    text = written(driver.journal)
    part = tmp_path / "part.worker"
    part.write_bytes(text[: before + int(cut * (len(text) - before))] + bytes(room))
    cut_off = read(part)
    starts = [job for job, _ in cut_off.starts if job >= first]
    assert starts == list(range(first, first + len(starts)))
    ends = [job for job, _ in cut_off.ends if job >= first]
    assert ends == starts[: len(ends)] and len(starts) - len(ends) <= 1
    assert all(cut_off.ends[one, 1] == journal.ends[one, 1] for one in ends)


def test_a_worker_inside_c_code_hears_that_others_have_taken_over(tmp_path: Path) -> None:
    """Also if the task before took away what signals wake, as asyncio does."""
    folder = tmp_path / "session-1"
    folder.mkdir()
    driver = Driver(folder)
    driver.hand([("unhear", -1), ("hash", None), ("return", None)])
    began: dict[int, float] = {}
    while 2 not in began:
        began.update([frame[0] for frame in driver.heard() if frame[0]])
    pid = read(driver.journal).pid
    os.kill(pid, signal.SIGUSR1)
    while not read(driver.journal).orphaned:
        assert time.time() < began[2] + 30
        os.sched_yield()
    os.kill(pid, signal.SIGKILL)
    assert driver.channel.process.wait(30) == -signal.SIGKILL
    assert list(read(driver.journal).starts) == [(1, 1), (2, 1)]


SPAWNED = b"P 5\nS 1 1 1.5 2.5\nE 1 1 0 1.5 0.5\nS 2 1 3.0 4.0\nN 2 1\nS 3 1 5.0 6.0\nE 3 1 126 5.0 0.1 %s\nO\n" % (
    base64.b64encode(marshal.dumps((None, "why", None, "")))
)
WORKED = b"".join(map(entry, [(5,), (1, 1, 1.5, 2.5), (1, 1, 0, 1.5, 0.5, (b"v", "", None, "")), (3, 1, 5.0, 6.0), ()]))


@pytest.mark.parametrize("whole", [SPAWNED, WORKED], ids=["spawner", "worker"])
@pytest.mark.parametrize("lost", [64, 1000])
def test_a_journal_of_which_a_machine_lost_pages_can_be_read(tmp_path: Path, whole: bytes, lost: int) -> None:
    """Zeros for more than an entry anywhere inside: nothing is made up, and nothing keeps others from taking over."""
    path = tmp_path / ("0.1.spawner" if whole is SPAWNED else "0.1.worker")
    path.write_bytes(whole)
    full = read(path)
    assert full.orphaned and set(full.clocks) >= set(full.starts) >= {(1, 1), (3, 1)}
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes(min(lost, len(whole) - at)) + whole[at + lost :])
        found = read(path)
        assert set(found.starts) <= set(found.clocks) <= set(full.clocks), at
        assert set(found.ends) <= set(full.ends), at


def test_entries_of_any_length_are_read_as_they_were_written(tmp_path: Path) -> None:
    """Longer than the room that is taken, and such that their lengths and ends fall on all kinds of boundaries."""
    for number, sizes in enumerate([[226, 240, 255, 256], [4096, 0, 65536 - 37], [3 << 20, 1, 1 << 19], range(300)]):
        path = tmp_path / f"{number}.1.worker"
        record = spawner.Record(str(path), entry((5,)), entry(()))
        for job, size in enumerate(sizes):
            record.write(entry((job, 1, 1.0, 2.0)) + entry((job, 1, 0, 1.0, 2.0, (b"x" * size, "", None, ""))))
        journal = read(path)
        assert journal.alive and [len(journal.ends[job, 1][3][0]) for job in range(len(sizes))] == list(sizes)
        os.close(record.fd)
        os.close(record.unlocked)
        assert not read(path).alive, "the mapping, which lives on, does not hold the lock"
