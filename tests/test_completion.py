"""Waiting for an ensemble: as its tasks end, on an event loop, and with callbacks; on real launchers."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from balsam_jupyter import (
    ApplicationDefinition,
    BalsamExecutor,
    BalsamTask,
    BatchJob,
    Ensemble,
    Site,
    TimeoutExpired,
)
from balsam_jupyter.ends import Ends, poke
from balsam_jupyter.errors import BadInput
from balsam_jupyter.models import TERMINAL

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
def apps(exctr: BalsamExecutor) -> None:
    exctr.register_app(Step)
    exctr.register_app(Gated)


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
    failed = 0
    for task in ens.as_completed(SOON):
        came.append(number(task))
        if task.state == "FAILED" and not failed:
            failed = number(task)
            assert ens.retry() == 2  # the other one, too, before it came
    assert sorted(came) == sorted([failed, -1, -2, 5])


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


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_each_end_comes_once(exctr: BalsamExecutor, data: st.DataObject) -> None:
    """Whatever happens between two looks: what ended and was not run again comes, once."""
    name = f"all-{uuid.uuid4().hex}"
    ens = exctr.submit_sweep("Step", {"i": range(5)}, name=name)
    ends = Ends(ens._site, ens._follower, ens._record, sorted(TERMINAL))
    owed: set[int] = set()
    actions = st.lists(st.sampled_from(["add", "kill", "retry", "take", "all"]), min_size=1, max_size=12)
    for action in [*data.draw(actions), "all"]:
        if action == "add":
            exctr.submit_sweep("Step", {"i": range(len(ens), len(ens) + 3)}, name=name)
        elif action == "kill":
            for task in data.draw(st.lists(st.sampled_from(ens.tasks()), unique_by=lambda task: task.id)):
                owed |= set() if task.finished else {task.id}
                task.cancel()
        elif action == "retry":
            ens.retry()
            owed.clear()
        else:
            while task := ends.take():
                assert task.finished
                owed.remove(task.id)
                if action == "take":
                    break
            assert action == "take" or not owed


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


@pytest.mark.parametrize("steps_later", range(6))
def test_a_cancellation_that_comes_with_a_change_is_heard(exctr: BalsamExecutor, steps_later: int) -> None:
    ens = exctr.submit_sweep("Gated", {"i": [0], "gate": ["none"]}, name="gated")

    async def main() -> None:
        waiting = asyncio.ensure_future(asyncio.wait_for(ens, SOON))
        for _ in range(3):  # until it waits for a change, which then comes in the same moment
            await asyncio.sleep(0.3)
            poke(exctr.site.engine)
        for _ in range(steps_later):
            await asyncio.sleep(0)
        waiting.cancel()
        done, _ = await asyncio.wait([waiting], timeout=5)
        assert done and waiting.cancelled()

    asyncio.run(main())


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
