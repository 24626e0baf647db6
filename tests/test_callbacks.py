"""Callbacks on finished rows: whom, in which thread, how often, and their exceptions; on real launchers."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from balsam_jupyter import BalsamExecutor, BalsamTask, BatchJob, Site, TimeoutExpired
from balsam_jupyter.callbacks import Callbacks
from balsam_jupyter.errors import BadInput, ExecutorException

from . import test_completion
from .test_completion import SOON, Until, number, steps

apps = test_completion.apps


def test_callbacks_add_rows_and_wait_waits_for_these(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    ens = steps(exctr, [1, -1])
    ens.wait(SOON)
    called: list[tuple[int, str]] = []
    busy = threading.Lock()

    @ens.on_finished
    def double(task: BalsamTask) -> None:
        assert busy.acquire(blocking=False)
        called.append((task.value(), threading.current_thread().name))
        if task.value() < 100:
            steps(exctr, [2 * task.value(), 2 * task.value() + 1])
        busy.release()

    assert called == []  # without an event loop, they run where somebody waits
    waiter = threading.Thread(target=exctr.ensemble("steps").wait, args=(SOON,), name="waiter")
    waiter.start()
    waiter.join(SOON)
    assert sorted(called) == [(i, "waiter") for i in range(1, 200)]
    assert ens.counts()["FAILED"] == 1  # it called nothing
    assert len(called) == 199 and ens.wait(0) is ens


def test_callbacks_run_in_as_completed(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    ens = steps(exctr, [1])
    called = []

    @ens.on_finished
    def up(task: BalsamTask) -> None:
        called.append(task.value())
        if task.value() < 5:
            steps(exctr, [task.value() + 1])

    assert [number(task) for task in ens.as_completed(SOON)] == called == [1, 2, 3, 4, 5]


def test_an_exception_is_raised_by_wait_and_keeps_no_row_back(
    exctr: BalsamExecutor, allocation: BatchJob, caplog: pytest.LogCaptureFixture
) -> None:
    ens = steps(exctr, range(4))
    called = []

    def odd(task: BalsamTask) -> None:
        called.append(task.value())
        if task.value() % 2:
            raise RuntimeError(f"odd {task.value()}")

    ens.on_finished(odd)
    with pytest.raises(RuntimeError, match=r"odd [13]") as raised:
        ens.wait(SOON)
    assert sorted(called) == [0, 1, 2, 3]
    said = [one.message for one in caplog.records if one.levelno == logging.WARNING and "In callback" in one.message]
    assert len(said) == 2 and all("for row" in one and "RuntimeError: odd" in one for one in said)
    if sys.version_info >= (3, 11):
        assert "of steps (task" in raised.value.__notes__[0]
    ens.wait(0)
    steps(exctr, [5, 7])
    ens.on_finished(odd)
    with pytest.raises(RuntimeError):
        list(ens.as_completed(SOON))
    steps(exctr, [9])
    with pytest.raises(RuntimeError, match="odd 9"):
        asyncio.run(asyncio.wait_for(ens, SOON))


def test_a_function_of_the_same_name_replaces(exctr: BalsamExecutor) -> None:
    ens = steps(exctr, range(3))
    called: list[str] = []

    def make(word: str, fails: bool = False) -> Callable[[BalsamTask], None]:
        def callback(task: BalsamTask) -> None:
            called.append(word)
            assert not fails

        return callback

    ens.on_finished(make("old", fails=True))
    with pytest.raises(TimeoutExpired, match=r"steps \(0 of 3 tasks done\) was not done after 0 s"):
        ens.wait(0)
    ens.on_finished(make("new"))
    exctr.submit_allocation("here", 1, 10, job_mode="serial")
    ens.wait(SOON)
    assert called == ["new"] * 3
    ens.on_finished(make("broken", fails=True))
    with pytest.raises(TimeoutExpired, match=r"steps \(callbacks still to run\)"):
        ens.wait(0)
    ens.callbacks.run_next()
    ens.on_finished(partial(make("newest")))  # the error of the one it replaces is forgotten
    ens.wait(SOON)
    assert called == ["new"] * 3 + ["broken"] + ["newest"] * 3


def test_none_removes_all(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    ens = steps(exctr, range(3))
    called: list[int] = []
    assert ens.on_finished(lambda task: called.append(task.id)) is not None
    assert ens.on_finished(None) is None
    ens.wait(SOON)
    assert called == []


async def coroutine(task: BalsamTask) -> None: ...


@pytest.mark.parametrize("wrong", [3, "name", coroutine, int])
def test_a_callback_is_a_function(exctr: BalsamExecutor, wrong: object) -> None:
    with pytest.raises(BadInput, match=r"on_finished\(\) takes a plain function of a task"):
        steps(exctr, [1]).on_finished(wrong)  # type: ignore[type-var]


def test_a_callback_cannot_wait_for_itself(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    ens, other = steps(exctr, [1]), steps(exctr, [2], "other")
    waited = []
    other.on_finished(lambda task: waited.append(task.value()))

    @ens.on_finished
    def wait(task: BalsamTask) -> None:
        other.wait(SOON)
        ens.wait(SOON)

    with pytest.raises(ExecutorException, match="A callback of steps cannot wait for steps"):
        ens.wait(SOON)
    assert waited == [2]


def test_an_interrupted_callback_is_called_again(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    ens = steps(exctr, range(3))
    called: list[int] = []

    @ens.on_finished
    def interrupted(task: BalsamTask) -> None:
        called.append(task.value())
        if len(called) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ens.wait(SOON)
    ens.wait(SOON)
    assert len(called) == 4 and called[1] == called[2] and set(called) == {0, 1, 2}


def test_a_forked_child_has_no_callbacks(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    ens = steps(exctr, [1])
    called: list[int] = []
    ens.on_finished(lambda task: called.append(task.id))
    child = os.fork()
    if child == 0:
        os._exit(len(called) or bool(Callbacks.of(ens._site, ens._record).due()))
    assert os.waitpid(child, 0)[1] == 0
    ens.wait(SOON)
    assert len(called) == 1


def test_the_idle_loop_runs_callbacks_unless_somebody_waits(
    exctr: BalsamExecutor, allocation: BatchJob, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    ens = exctr.submit_sweep("Gated", {"i": [0, 1], "gate": [str(gate)]}, name="idle")
    called: list[tuple[int, threading.Thread]] = []

    async def main() -> None:
        came = asyncio.Event()

        @ens.on_finished
        def callback(task: BalsamTask) -> None:
            called.append((number(task), threading.current_thread()))
            came.set()

        Path(f"{gate}.0").touch()
        await asyncio.wait_for(came.wait(), SOON)
        waiting = asyncio.create_task(asyncio.to_thread(ens.wait, SOON))
        while not ens.callbacks._attending:
            await asyncio.sleep(0)
        Path(f"{gate}.1").touch()
        await asyncio.wait_for(waiting, SOON)

    asyncio.run(main())
    (first, where), (second, elsewhere) = called
    assert (first, second) == (0, 1)
    assert where is threading.main_thread() and elsewhere is not where


def test_the_idle_loop_sees_to_all_and_what_else_it_has_to_do(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    ens = steps(exctr, range(200))

    async def main() -> tuple[list[int], int]:
        called: list[int] = []
        turns, all_called = 0, asyncio.Event()

        @ens.on_finished
        def callback(task: BalsamTask) -> None:
            called.append(task.value())
            if len(called) == 200:
                all_called.set()

        while not all_called.is_set():
            turns += 1
            await asyncio.sleep(0)
        return called, turns

    called, turns = asyncio.run(asyncio.wait_for(main(), SOON))
    assert sorted(called) == list(range(200)) and turns >= 200
    # The loop is closed; who waits goes on.
    steps(exctr, [200])
    ens.wait(SOON)
    assert called[200:] == [200]


def test_a_callback_registered_while_a_thread_waits_runs_there(
    exctr: BalsamExecutor, allocation: BatchJob, tmp_path: Path, until: Until
) -> None:
    gate = tmp_path / "gate"
    Path(f"{gate}.0").touch()
    ens = exctr.submit_sweep("Gated", {"i": [0, 1], "gate": [str(gate)]}, name="late")
    until(lambda: ens.counts()["FINISHED"] == 1)
    waiters = [threading.Thread(target=ens.wait, args=(SOON,), name="waiter") for _ in range(2)]
    for waiter in waiters:
        waiter.start()
    told, called = threading.Event(), []

    def callback(task: BalsamTask) -> None:
        called.append((number(task), threading.current_thread().name))
        told.set()

    ens.on_finished(callback)
    assert told.wait(SOON)
    Path(f"{gate}.1").touch()
    for waiter in waiters:
        waiter.join(SOON)
    assert called == [(0, "waiter"), (1, "waiter")]


def test_a_site_that_is_closed_calls_nobody_and_has_no_thread(exctr: BalsamExecutor, site: Site) -> None:
    ens = steps(exctr, range(3))

    async def main() -> None:
        ens.on_finished(print)
        assert "balsam-watcher" in str(threading.enumerate())
        site.close()
        assert "balsam-watcher" not in str(threading.enumerate())

    asyncio.run(main())
    assert not Callbacks._all
