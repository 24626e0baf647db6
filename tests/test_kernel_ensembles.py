"""Ensembles in real kernels: after a restart, on the event loop, and with callbacks while nothing runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from balsam_jupyter import Site
from balsam_jupyter.models import Query

from . import test_kernel
from .test_kernel import Kernel, Message, Start, wait_for

pytestmark = pytest.mark.kernel
start = test_kernel.start

APP = """%%balsam_app gated
until test -e {{ gate }}.{{ i }}; do sleep 0.02; done
echo {{ i }} >> {{ witness }}
"""
SUBMIT = """import threading, time
from balsam_jupyter import BalsamExecutor
exctr = BalsamExecutor()
rows = lambda *numbers: [{"i": i, "gate": gate, "witness": witness} for i in numbers]
number = lambda task: task.process.parameters["i"]
ens = exctr.submit_sweep("gated", rows(*first), name="scan")
ens.new"""
CALLBACK = """called = []
@ens.on_finished
def follow_up(task):
    print("finished:", number(task))
    if number(task) < 100:
        exctr.submit_sweep("gated", rows(number(task) + 100), name="scan")
    called.append((number(task), threading.current_thread() is threading.main_thread()))
    open(told, "a").write(f"{number(task)}\\n")"""


class Gates:
    """What the tasks of a test wait for, and what they and the callbacks leave."""

    def __init__(self, folder: Path) -> None:
        self.gate, self.witness, self.told = folder / "gate", folder / "witness", folder / "told"

    def open(self, *numbers: int) -> None:
        for number in numbers:
            Path(f"{self.gate}.{number}").touch()

    def cell(self) -> str:
        return f"gate, witness, told = {str(self.gate)!r}, {str(self.witness)!r}, {str(self.told)!r}"

    def ran(self) -> list[int]:
        return sorted(map(int, self.witness.read_text().split()))


@pytest.fixture
def gates(tmp_path: Path) -> Gates:
    return Gates(tmp_path)


def prepared(start: Start, gates: Gates, rows: int = 2) -> Kernel:
    """A kernel that has submitted so many rows; two run at a time."""
    kernel = start()
    for cell in (gates.cell(), APP, f"first = range({rows})\n{SUBMIT}"):
        ran = kernel.run(cell)
        assert ran.reply["status"] == "ok", (ran.reply, ran.streams)
    return kernel


def finished(site: Site, number: int) -> None:
    wait_for(site, "scan", lambda counts: counts.get("FINISHED", 0) >= number)


def test_reattached_by_name_after_a_restart(start: Start, site: Site, gates: Gates) -> None:
    first = prepared(start, gates, 3)
    first.run("_ = %balsam_allocate -t 10")
    gates.open(1)
    finished(site, 1)
    first.kill()
    gates.open(0, 2)
    second = start()
    second.run("from balsam_jupyter import BalsamExecutor\nens = BalsamExecutor().ensemble('scan')")
    assert second.run("ens.wait(60)").text == "<Ensemble 'scan' of gated: 3 rows: 3 finished>"
    assert second.run("ens.to_dataframe()['i'].tolist(), len(BalsamExecutor().ensembles())").text == "([0, 1, 2], 1)"
    assert gates.ran() == [0, 1, 2]


def test_as_completed_after_a_restart(start: Start, site: Site, gates: Gates) -> None:
    first = prepared(start, gates, 3)
    first.run("_ = %balsam_allocate -t 10")
    first.start("came = [number(task) for task in ens.as_completed(60)]")
    gates.open(1)
    finished(site, 1)
    first.kill()
    second = prepared(start, gates, 3)  # "run all" again
    assert second.run("ens.new, ens.kept").text == "(0, 3)"
    second.run("tasks = ens.as_completed(60)\ncame = [number(next(tasks))]")
    gates.open(2)
    second.run("came.append(number(next(tasks)))")
    gates.open(0)
    assert second.run("came + [number(task) for task in tasks]").text == "[1, 2, 0]"
    assert gates.ran() == [0, 1, 2]


def test_callbacks_registered_again_after_a_restart(start: Start, site: Site, gates: Gates) -> None:
    first = prepared(start, gates)
    first.run("_ = %balsam_allocate -t 10")
    first.run(CALLBACK)
    first.start("ens.wait(60)")
    gates.open(0, 100)
    finished(site, 2)  # a row, and one that a callback added
    first.kill()
    gates.open(1, 101)
    second = prepared(start, gates)
    second.run(CALLBACK)
    assert second.run("%balsam_wait scan --timeout 60").text == "<Ensemble 'scan' of gated: 4 rows: 4 finished>"
    assert second.run("sorted(called)").text == "[(0, True), (1, True), (100, True), (101, True)]"
    assert gates.ran() == [0, 1, 100, 101]
    assert {row.attempts for row in site.engine.jobs(Query(ensemble="scan"))} == {1}


def printed(text: str) -> Callable[[Message], bool]:
    return lambda one: one["msg_type"] == "stream" and text in one["content"]["text"]


def test_the_idle_kernel_runs_callbacks(start: Start, gates: Gates) -> None:
    kernel = prepared(start, gates)
    kernel.run("_ = %balsam_allocate -t 10")
    registered = kernel.run(CALLBACK)
    kernel.run("'another cell'")
    gates.open(0, 100)
    told = kernel.until(printed("finished: 100"))
    assert told["parent_header"]["msg_id"] == registered.request  # not in the cell that ran last
    assert kernel.run("called").text == "[(0, True), (100, True)]"
    # An exception while nobody waits is raised by the next wait, in whichever way.
    kernel.run("@ens.on_finished\ndef broken(task):\n    raise RuntimeError('what a pity')")
    gates.open(1, 101)
    failed = kernel.run("%balsam_wait scan --timeout 60")
    assert (failed.reply["status"], failed.reply["ename"]) == ("error", "RuntimeError")
    assert kernel.run("ens.wait(60)").text == "<Ensemble 'scan' of gated: 4 rows: 4 finished>"
    names = "[one.name for one in threading.enumerate() if 'balsam' in one.name]"
    assert "balsam-watcher" in kernel.run(names).text


def test_a_busy_cell_keeps_callbacks_waiting(start: Start, site: Site, gates: Gates) -> None:
    kernel = prepared(start, gates)
    kernel.run("_ = %balsam_allocate -t 10")
    kernel.run(CALLBACK)
    gates.open(0, 100)
    busy = "while not ens.callbacks.due(): ens.counts()\nfor _ in range(1000): ens.counts()\nlist(called)"
    assert kernel.run(busy).text == "[]"
    kernel.until(printed("finished: 100"))
    # Somebody who waits in a thread of a busy kernel runs them there.
    kernel.run(
        "thread = threading.Thread(target=ens.wait)\nthread.start()\n"
        "while not ens.callbacks._attending: time.sleep(0.001)\n"
        "for i in (1, 101): open(f'{gate}.{i}', 'w').close()\n"
        "thread.join(60)"
    )
    assert kernel.run("sorted(called)").text == "[(0, True), (1, False), (100, True), (101, False)]"


def test_await_in_a_cell(start: Start, gates: Gates) -> None:
    kernel = prepared(start, gates)
    kernel.run(CALLBACK)
    kernel.run("_ = %balsam_allocate -t 10")
    ran = kernel.run(
        "import asyncio\n"
        "async def others():\n"
        "    for i in (0, 1, 100, 101):\n"
        "        await asyncio.sleep(0)\n"
        "        open(f'{gate}.{i}', 'w').close()\n"
        "    return i\n"
        "await asyncio.wait_for(asyncio.gather(ens, others()), 60)"
    )
    assert ran.text == "[<Ensemble 'scan' of gated: 4 rows: 4 finished>, 101]"
    assert kernel.run("sorted(called)").text == "[(0, True), (1, True), (100, True), (101, True)]"
    assert kernel.run("sorted([number(task) async for task in ens.as_completed()])").text == "[0, 1, 100, 101]"
    assert kernel.run("await ens").text == "<Ensemble 'scan' of gated: 4 rows: 4 finished>"
