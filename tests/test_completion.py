"""Waiting for an ensemble: as its tasks end, on an event loop, and with callbacks; on real launchers."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from balsam_jupyter import (
    ApplicationDefinition,
    BalsamExecutor,
    BalsamTask,
    BatchJob,
    Ensemble,
    Site,
    TimeoutExpired,
)
from balsam_jupyter.callbacks import Callbacks
from balsam_jupyter.errors import BadInput, ExecutorException

SOON = 60.0
Until = Callable[[Callable[[], bool]], None]


class Step(ApplicationDefinition):
    site = "here"

    def run(self, i: int) -> int:
        if i < 0:
            raise ValueError(f"negative {i}")
        return i


class Gated(ApplicationDefinition):
    site = "here"
    command_template = "sh -c 'until test -e $0.$1; do sleep 0.02; done' {{ gate }} {{ i }}"


@pytest.fixture(autouse=True)
def apps(exctr: BalsamExecutor) -> Iterator[None]:
    exctr.register_app(Step)
    exctr.register_app(Gated)
    yield
    for callbacks in Callbacks._all.values():
        callbacks.clear()
    Callbacks._all.clear()


def steps(exctr: BalsamExecutor, numbers: range | list[int], name: str = "steps") -> Ensemble:
    """Add rows to the ensemble `steps`, which it is made with."""
    return exctr.submit_sweep("Step", [{"i": number} for number in numbers], name=name)


def number(task: BalsamTask) -> int:
    assert task.process is not None
    return int(task.process.parameters["i"])


# -- as_completed ---------------------------------------------------------------------------------------------


def test_tasks_come_in_the_order_of_their_end(exctr: BalsamExecutor, allocation: BatchJob, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    ens = exctr.submit_sweep("Gated", {"i": range(2), "gate": [str(gate)]}, name="two")
    came = []
    Path(f"{gate}.1").touch()
    for task in ens.as_completed(SOON):
        came.append(number(task))
        assert task.state == "FINISHED"
        Path(f"{gate}.0").touch()
    assert came == [1, 0]
    again = BalsamExecutor("here").ensemble("two")  # as in a new kernel
    assert [number(task) for task in again.as_completed(0)] == [1, 0]


def test_what_had_ended_comes_before_the_time_is_up(
    exctr: BalsamExecutor, allocation: BatchJob, tmp_path: Path, until: Until
) -> None:
    gate = tmp_path / "gate"
    Path(f"{gate}.0").touch()
    ens = exctr.submit_sweep("Gated", {"i": range(2), "gate": [str(gate)]}, name="half")
    until(lambda: ens.counts()["FINISHED"] == 1)
    tasks = ens.as_completed(timeout=0.05)
    assert number(next(tasks)) == 0
    with pytest.raises(TimeoutExpired, match=r"half \(1 of 2 tasks done\) was not done after 0\.05 s"):
        next(tasks)
    ens.kill()
    assert [task.state for task in ens.as_completed(SOON)] == ["FINISHED", "USER_KILLED"]


def test_rows_added_meanwhile_are_among_them(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    ens = steps(exctr, range(3))
    came = []
    for task in ens.as_completed(SOON):
        came.append(number(task))
        if number(task) == 2:
            steps(exctr, [3])
        if number(task) == 3:  # from another process
            code = "from balsam_jupyter import BalsamExecutor as E; "
            code += "E('here').submit_sweep('Step', [{'i': 4}], name='steps')"
            subprocess.run([sys.executable, "-c", code], check=True)
    assert sorted(came) == [0, 1, 2, 3, 4]


def test_a_task_that_is_retried_comes_again(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    ens = steps(exctr, [-1, -2, 5])
    ens.wait(SOON)
    came: list[int] = []
    for task in ens.as_completed(SOON):
        came.append(number(task))
        if len(came) == 1:
            assert task.state == "FAILED"
            assert ens.retry() == 2  # the other one, too, before it came
    assert sorted(came) == [-2, -1, -1, 5]
    assert came[0] == -1


def test_nothing_is_read_twice_of_many_rows(exctr: BalsamExecutor, site: Site) -> None:
    """More rows than a page; the rows of another ensemble, and ends in one event for many, are told apart."""
    ens, other = steps(exctr, range(1234)), steps(exctr, range(700), "other")
    assert (other.kill(), ens.kill()) == (700, 1234)
    assert [number(task) for task in ens.as_completed(0)] == list(range(1234))
    assert [number(task) for task in other.as_completed(0)] == list(range(700))
    tasks = ens.as_completed(SOON)
    next(tasks)
    ens.retry()  # all but one before they came
    ens.kill()
    assert len(list(tasks)) == 1234


@pytest.mark.parametrize("timeout", ["60", True, float("nan")])
def test_a_timeout_is_a_number(exctr: BalsamExecutor, timeout: object) -> None:
    ens = steps(exctr, [1])
    with pytest.raises(BadInput, match="timeout must be a number of seconds"):
        ens.as_completed(timeout)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="timeout must be a number of seconds"):
        ens.wait(timeout)  # type: ignore[arg-type]


# -- callbacks ------------------------------------------------------------------------------------------------


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


# -- on an event loop -----------------------------------------------------------------------------------------


def test_await_leaves_the_loop_to_others(exctr: BalsamExecutor, allocation: BatchJob, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    ens = exctr.submit_sweep("Gated", {"i": [0], "gate": [str(gate)]}, name="gated")
    threads = []
    ens.on_finished(lambda task: threads.append(threading.current_thread()))

    async def main() -> tuple[Ensemble, int]:
        async def others() -> int:
            for _ in range(50):
                await asyncio.sleep(0)
            Path(f"{gate}.0").touch()
            return 50

        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(ens, 0.2)
        return tuple(await asyncio.wait_for(asyncio.gather(ens, others()), SOON))  # type: ignore[return-value]

    assert asyncio.run(main()) == (ens, 50)
    assert threads == [threading.main_thread()]


def test_async_for(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    ens = steps(exctr, range(3))

    async def main() -> list[int]:
        return [number(task) async for task in ens.as_completed(SOON)]

    assert sorted(asyncio.run(main())) == [0, 1, 2]
    exctr.submit_sweep("Gated", {"i": [0], "gate": ["none"]}, name="never")

    async def late() -> None:
        async for _ in exctr.ensemble("never").as_completed(0.1):
            pass

    with pytest.raises(TimeoutExpired, match="0 of 1 tasks done"):
        asyncio.run(late())


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
