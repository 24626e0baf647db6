"""A disk that fills up while tasks run, while they are submitted, and while launchers die."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.engines.embedded.store import work
from balsam_jupyter.errors import SiteError
from balsam_jupyter.models import Query, Resources

from .conftest import LIVE
from .engine_site import allocate, ended, job, python_app, shell_app, submit, wait_until
from .processes import is_running
from .witness import check_transitions, check_witness, ends, integrity, starts_of, witness_app, witness_sweep

SIZE = 16 << 20


def mount(folder: Path) -> str:
    """Put a small disk there; returns why it could not be done, or ""."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True).stderr


class Disk:
    """A small disk with a site on it."""

    def __init__(self, folder: Path) -> None:
        self.ballast = folder / "ballast"
        self.engine = EmbeddedEngine.open("small", str(folder / "site"))

    def fill(self) -> None:
        with open(self.ballast, "ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                with contextlib.suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass

    def make_room(self) -> None:
        self.ballast.unlink()


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    (folder / "site").mkdir()
    (folder / "site" / "settings.yml").write_text("cores_per_node: 2\ngrace_period_s: 1\n")
    disk = Disk(folder)
    try:
        yield disk
    finally:
        disk.ballast.unlink(missing_ok=True)
        for allocation in disk.engine.allocations():
            if allocation.state in LIVE:
                assert disk.engine.revoke(allocation.id, timeout=30)
        disk.engine.close()


def on_a_small_disk(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test on a file system of its own; who may not mount runs it in a name space where one may."""

    @functools.wraps(test)
    def run(home: Path, tmp_path: Path, request: pytest.FixtureRequest, **given: object) -> None:
        folder = tmp_path / "disk"
        folder.mkdir()
        why = mount(folder)
        if not why:
            try:
                with small_disk(folder) as disk:
                    test(disk, tmp_path, **given)
            finally:
                subprocess.run(["umount", "-l", str(folder)], check=True)
            return
        assert "BALSAM_TEST_MAY_MOUNT" not in os.environ, why
        command = [
            "unshare",
            "-rm",
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            request.node.nodeid,
        ]
        environment = {**os.environ, "BALSAM_TEST_MAY_MOUNT": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=request.config.rootpath)
        assert done.returncode == 0, f"{why}\n{done.stdout}\n{done.stderr}"

    del run.__wrapped__  # type: ignore[attr-defined]  # pytest is to see the wrapper's parameters
    return run


@on_a_small_disk
def test_a_disk_that_fills_while_tasks_run_and_while_submitting(disk, tmp_path):
    """Nothing fails, nothing is lost; what cannot be stored is refused with the reason; then all goes on."""
    engine, witness = disk.engine, tmp_path / "witness"
    common = witness_app(engine, witness)
    witness_sweep(engine, witness, 100, 0.05)
    allocate(engine)
    wait_until(engine, lambda: ends(engine) >= 10)
    pid = work.session(engine.store.con, 1)[0]
    disk.fill()
    seen = engine.count(Query())
    with pytest.raises(SiteError, match=r"The disk that holds .* is full; make room and try again. Nothing was stored"):
        submit(engine, common, ({"n": n, "seconds": 0} for n in range(20_000)))
    started = starts_of(witness).total()
    for _ in range(20):
        wait_until(engine, lambda: is_at_rest(witness))
        engine.events("now", 0.1)
    assert starts_of(witness).total() - started <= 2, "a task was begun on a full disk"
    assert sum(engine.count(Query()).values()) == sum(seen.values()) == 100
    assert is_running(pid)
    disk.make_room()
    submit(engine, common, [{"n": n, "seconds": 0} for n in range(100, 120)])
    wait_until(engine, lambda: ends(engine) == 120)
    assert engine.count(Query()) == {"JOB_FINISHED": 120}
    assert set(check_witness(witness, 120).values()) == {1}
    assert {j.attempts for j in engine.jobs(Query())} == {1}
    assert is_running(pid) and integrity(engine) == "ok"
    check_transitions(engine)


@on_a_small_disk
def test_slots_change_places_on_a_full_disk(disk, tmp_path):
    """Jobs of one and of two cores take turns; where a slot's place cannot be written down, it waits."""
    engine, witness = disk.engine, tmp_path / "witness"
    one = witness_app(engine, witness)
    two = replace(one, resources=Resources(threads_per_rank=2))
    for n in range(24):
        submit(engine, one if n % 3 else two, [{"n": n, "seconds": 0.1}])
    allocate(engine)
    wait_until(engine, lambda: ends(engine) >= 2)
    pid = work.session(engine.store.con, 1)[0]
    disk.fill()
    for _ in range(20):
        wait_until(engine, lambda: is_at_rest(witness))
        engine.events("now", 0.1)
    disk.make_room()
    wait_until(engine, lambda: ends(engine) == 24)
    assert engine.count(Query()) == {"JOB_FINISHED": 24}
    assert set(check_witness(witness, 24).values()) == {1} and is_running(pid)


def is_at_rest(witness: Path) -> bool:
    lines = [line.split()[0] for line in witness.read_text().splitlines()]
    return lines.count("start") == lines.count("end")


@on_a_small_disk
def test_a_launcher_that_dies_while_the_disk_is_full(disk, tmp_path):
    """Journals have room for what ended; the next launcher comes when there is room for its session."""
    engine, witness = disk.engine, tmp_path / "witness"
    witness_sweep(engine, witness, 40, 0.3)
    allocate(engine)
    wait_until(engine, lambda: ends(engine) >= 4)
    disk.fill()
    os.kill(work.session(engine.store.con, 1)[0], signal.SIGKILL)
    wait_until(engine, lambda: is_at_rest(witness))
    disk.make_room()
    wait_until(engine, lambda: ends(engine) == 40)
    assert engine.count(Query()) == {"JOB_FINISHED": 40}
    assert set(check_witness(witness, 40).values()) == {1}
    assert {j.attempts for j in engine.jobs(Query())} == {1} and integrity(engine) == "ok"


@on_a_small_disk
def test_python_tasks_wait_for_room(disk, tmp_path):
    engine = disk.engine

    def run(self, n):
        import time

        time.sleep(0.05)
        return "x" * 100 + str(n)

    allocate(engine)
    common = python_app(engine, run)
    submit(engine, common, [{"n": n} for n in range(40)])
    wait_until(engine, lambda: ended(engine) >= 5)
    disk.fill()
    with pytest.raises(SiteError, match="is full"):
        submit(engine, common, ({"n": n} for n in range(20_000)))
    disk.make_room()
    wait_until(engine, lambda: ended(engine) == 40)
    assert engine.count(Query()) == {"JOB_FINISHED": 40}, [j.error for j in engine.jobs(Query())]


@on_a_small_disk
def test_short_python_tasks_on_a_full_disk_whose_launcher_dies(disk, tmp_path):
    """Small and large results: what ended is not run again, and nothing fails."""
    engine, witness = disk.engine, tmp_path / "witness"

    def run(self, path, n):
        import os

        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(fd, f"{n}\n".encode())
        os.close(fd)
        return "x" * (n % 2 * 1500)

    submit(engine, python_app(engine, run), [{"path": str(witness), "n": n} for n in range(3000)])
    allocate(engine)
    wait_until(engine, lambda: ended(engine) >= 100)
    disk.fill()
    os.kill(work.session(engine.store.con, 1)[0], signal.SIGKILL)
    disk.make_room()
    wait_until(engine, lambda: ended(engine) == 3000)
    assert engine.count(Query()) == {"JOB_FINISHED": 3000}
    assert sorted(map(int, witness.read_text().split())) == list(range(3000))
    assert integrity(engine) == "ok"


@on_a_small_disk
def test_a_task_that_fills_its_directory_fails_alone(disk, tmp_path):
    engine, witness = disk.engine, tmp_path / "witness"
    [bad] = submit(engine, shell_app(engine, "dd if=/dev/zero of=big bs=64k; sleep 1; rm big; exit 3"))
    witness_sweep(engine, witness, 20, 0.05)
    allocate(engine)
    wait_until(engine, lambda: ends(engine) == 21)
    assert engine.count(Query()) == {"JOB_FINISHED": 20, "FAILED": 1}
    assert job(engine, bad).return_code == 3
    assert set(starts_of(witness).values()) == {1}
