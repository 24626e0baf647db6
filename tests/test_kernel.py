"""The magics in real kernels: what a notebook's front end sees, and what a kernel's death leaves."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from jupyter_client.manager import KernelManager

from balsam_jupyter import Site
from balsam_jupyter.models import TASK_STATE, Query

pytestmark = pytest.mark.kernel

Message = dict[str, Any]
VIEW = "application/vnd.jupyter.widget-view+json"


class Cell:
    """What came back from one execution."""

    def __init__(self, request: str, reply: dict[str, Any], messages: list[Message]) -> None:
        self.request, self.reply, self.messages = request, reply, messages

    @property
    def text(self) -> str:
        """The value's text; an error of the cell is raised."""
        assert self.reply["status"] == "ok", self.reply
        return "\n".join(data["text/plain"] for data in self.bundles("execute_result"))

    @property
    def streams(self) -> str:
        return "".join(one["content"]["text"] for one in self.messages if one["msg_type"] == "stream")

    def bundles(self, kind: str) -> list[dict[str, Any]]:
        return [one["content"]["data"] for one in self.messages if one["msg_type"] == kind]


class Kernel:
    """A kernel of its own process, spoken to as a front end does."""

    def __init__(self, hash_seed: int = 0) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(env={**os.environ, "PYTHONHASHSEED": str(hash_seed)})
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def start(self, code: str) -> str:
        return str(self.client.execute(code))

    def finish(self, request: str, timeout: float = 60.0) -> Cell:
        messages: list[Message] = []

        def idle(one: Message) -> bool:
            messages.append(one)
            mine = one["parent_header"].get("msg_id") == request
            return mine and one["msg_type"] == "status" and one["content"]["execution_state"] == "idle"

        self.until(idle, timeout)
        reply = self.client.get_shell_msg(timeout=timeout)
        while reply["parent_header"]["msg_id"] != request:
            reply = self.client.get_shell_msg(timeout=timeout)
        return Cell(request, reply["content"], messages)

    def run(self, code: str, timeout: float = 60.0) -> Cell:
        return self.finish(self.start(code), timeout)

    def until(self, wanted: Callable[[Message], bool], timeout: float = 60.0) -> Message:
        """The first message to all front ends that is as wanted."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                one: Message = self.client.get_iopub_msg(timeout=max(0.01, deadline - time.monotonic()))
            except Empty:
                raise AssertionError(f"no such message within {timeout} s") from None
            if wanted(one):
                return one

    def kill(self) -> None:
        os.kill(self.manager.provisioner.pid, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


Start = Callable[..., Kernel]


@pytest.fixture
def start(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts kernels that have the extension loaded and the test's site open."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    started: list[Kernel] = []

    def new(hash_seed: int = 0) -> Kernel:
        started.append(Kernel(hash_seed))
        assert started[-1].run("%load_ext balsam_jupyter\nsite = %balsam_site here").reply["status"] == "ok"
        return started[-1]

    yield new
    for one in started:
        one.close()


def wait_for(site: Site, ensemble: str, wanted: Callable[[dict[str, int]], bool]) -> None:
    """Wait at the store, as another process, for numbers by task state."""
    cursor = site.engine.events("now").cursor
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        counts: dict[str, int] = {}
        for state, number in site.engine.count(Query(ensemble=ensemble)).items():
            counts[TASK_STATE[state]] = counts.get(TASK_STATE[state], 0) + number
        if wanted(counts):
            return
        cursor = site.engine.events(cursor, 1.0).cursor
    raise AssertionError(f"{ensemble} stays at {counts}")


GATED = """%%balsam_app gated --output 'said=row (.*)'
while ! test -e {{ gate }}; do sleep 0.05; done
echo "row {{ i }}"
echo {{ i }} >> {{ witness }}
"""


def test_a_sweep_in_a_notebook(start: Start, site: Site, tmp_path: Path) -> None:
    kernel = start()
    kernel.run(f"gate, witness = {str(tmp_path / 'gate')!r}, {str(tmp_path / 'witness')!r}")
    assert kernel.run(GATED).text == "App at site 'here': gated(gate, i, witness) -> said"
    submitted = kernel.run("%balsam_submit gated i=range(6) gate=gate witness=witness --name scan")
    assert submitted.text == "<Ensemble 'scan' of gated: 6 rows: 6 new>"
    assert "text/html" in submitted.bundles("execute_result")[0]
    watched = kernel.run("view = %balsam_watch scan\nview")
    assert watched.streams == ""
    # First what the notebook keeps, which needs no kernel; below it the live view, which hides the other.
    still, live = [one["content"] for one in watched.messages if one["msg_type"] == "display_data"]
    assert set(still["data"]) == {"text/plain", "text/html"}
    assert still["data"]["text/plain"] == "scan [....................] 0/6 done (6 WAITING) · no allocation runs"
    assert "data:image/svg+xml;base64," in still["data"]["text/html"]
    assert live["data"][VIEW]["model_id"] and live["data"]["text/plain"] == ""
    opened = [one["content"] for one in watched.messages if one["msg_type"] == "comm_open"]
    (dashboard,) = [one for one in opened if "_esm" in one["data"]["state"]]
    first = dashboard["data"]["state"]["start"]
    assert (first["title"], first["counts"]["WAITING"], first["allocations"]) == ("scan", 6, [])

    # While another cell runs, the dashboard goes on, one small message an update.
    kernel.run("_ = %balsam_allocate -n 1 -t 10 -q local -A local --job-mode serial")
    waiting = kernel.start("w = %balsam_wait scan --timeout 60\nw")

    def update(one: Message, running: int) -> bool:
        if one["msg_type"] != "comm_msg" or one["content"]["comm_id"] != dashboard["comm_id"]:
            return False
        told = one["content"]["data"].get("content", {}).get("value") or {}
        return bool(told.get("counts", {}).get("RUNNING") == running)

    message = kernel.until(lambda one: update(one, 2))
    assert len(json.dumps(message["content"])) + sum(map(len, message["buffers"])) < 10_000
    (tmp_path / "gate").touch()
    waited = kernel.finish(waiting)
    assert waited.text == "<Ensemble 'scan' of gated: 6 rows: 6 finished>"

    # When all is done, the copy that the notebook keeps says so; the view stays, to look at the tasks.
    def is_end(one: Message, rows: int = 7) -> bool:
        kept = one["msg_type"] == "update_display_data" and one["content"]["transient"] == still["transient"]
        return kept and f"{rows}/{rows} done" in one["content"]["data"]["text/plain"]

    ends = [one for one in waited.messages if is_end(one, 6)] or [kernel.until(lambda one: is_end(one, 6))]
    saved = ends[0]["content"]["data"]
    assert set(saved) == {"text/plain", "text/html"}
    assert saved["text/plain"] == "scan [####################] 6/6 done (6 FINISHED)"
    assert "data:image/svg+xml;base64," in saved["text/html"]
    kernel.run("import threading\nnames = [one.name for one in threading.enumerate()]")
    assert kernel.run("[name for name in names if 'balsam' in name], view.live").text == "([], False)"
    again, _ = kernel.run("%balsam_watch scan").bundles("display_data")
    assert "6/6 done" in again["text/plain"]

    # Something runs again: the view that had come to its end follows, without being asked to.
    more = kernel.run("_ = %balsam_submit gated i=range(7) gate=gate witness=witness --name scan")
    waited = kernel.run("w = %balsam_wait scan --timeout 60\nw")
    assert waited.text == "<Ensemble 'scan' of gated: 7 rows: 7 finished>"
    seen = [*more.messages, *waited.messages]
    assert any(map(is_end, seen)) or kernel.until(is_end)

    table = kernel.run("df = %balsam_results scan\nlist(df['said'].astype(int)), set(df['state'])")
    assert table.text == "([0, 1, 2, 3, 4, 5, 6], {'FINISHED'})"
    assert "text/html" in kernel.run("%balsam_results scan").bundles("execute_result")[0]
    assert sorted((tmp_path / "witness").read_text().split()) == list("0123456")


def test_the_kernels_death_in_mid_sweep_loses_nothing(start: Start, site: Site, tmp_path: Path) -> None:
    cells = f"gate, witness = {str(tmp_path / 'gate')!r}, {str(tmp_path / 'witness')!r}"
    submit = "e = %balsam_submit gated i=range(8) gate=gate witness=witness --name scan\ne.new"
    first = start()
    first.run(cells)
    first.run(GATED)
    assert first.run(submit).text == "8"
    first.run("%balsam_watch scan")
    first.run("_ = %balsam_allocate -t 10")
    first.start("%balsam_wait scan")
    wait_for(site, "scan", lambda counts: counts.get("RUNNING") == 2)
    first.kill()

    second = start()
    status = second.run("%balsam_status scan").text
    assert "6 WAITING, 2 RUNNING" in status
    assert "Allocation 1: running, 1 node, 10 min, serial" in status
    shown, _ = second.run("%balsam_watch scan").bundles("display_data")
    assert "0/8 done (6 WAITING, 2 RUNNING)" in shown["text/plain"]
    second.run(cells)
    second.run(GATED)
    assert second.run(submit).text == "0"  # "run all" again
    (tmp_path / "gate").touch()
    assert second.run("%balsam_wait scan --timeout 60").text == "<Ensemble 'scan' of gated: 8 rows: 8 finished>"
    assert sorted((tmp_path / "witness").read_text().split()) == list("01234567")
    assert {row.attempts for row in site.engine.jobs(Query(ensemble="scan"))} == {1}


NOTEBOOK = [
    "import numpy as np\nnames = {'b', 'a', 'c'}\noptions = {'x': 1, 'y': {2, 3}}",
    """%%balsam_app model --python
WORDS = frozenset({"alpha", "beta", "gamma"})
import math

def helper(x):
    return math.sqrt(x) if "alpha" in WORDS else None

def model(T: float, name: str, witness: str, options: dict, scale: float = 2.0):
    with open(witness, "a") as file:
        file.write(f"{T} {name}\\n")
    return {"root": helper(T) * scale, "words": sorted(WORDS)}""",
    "%%balsam_app words\necho {{ a }} {{ b }} >> {{ witness }}",
    "options = {'k': 1, 'j': 2}",
    "one = %balsam_submit model T=np.linspace(1, 2, 3) name=sorted(names) witness=witness options=options --name fixed",
    "two = %balsam_submit words a=['x y', 'z'] b='k: 1' witness=witness",
    "a = %balsam_allocate -t 10",
    "%balsam_wait fixed --timeout 60",
    "%balsam_wait {two.name} --timeout 60",
    "print(one.new, two.new, two.name)",
]


def test_the_same_cells_in_three_kernels_run_each_task_once(start: Start, site: Site, tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    said = []
    for seed in (1, 2, 3):
        kernel = start(seed)
        kernel.run(f"witness = {str(witness)!r}")
        for cell in NOTEBOOK:
            ran = kernel.run(cell)
            assert ran.reply["status"] == "ok", (cell, ran.streams, ran.reply)
        said.append(ran.streams.split())
        kernel.run("%balsam_revoke all")
        kernel.close()
        assert len(witness.read_text().splitlines()) == 11
    assert [words[:2] for words in said] == [["9", "2"], ["0", "0"], ["0", "0"]]
    assert len({words[2] for words in said}) == 1 and all(len(words) == 3 for words in said)


def test_errors_are_one_line_and_stop_run_all(start: Start) -> None:
    kernel = start()
    for code, says in (
        ("x = %balsam_results nothing", "Site 'here' has no ensemble 'nothing'."),
        ("%balsam_submit nothing x=1", "Site 'here' has no app 'nothing'"),
        ("%balsam_allocate -n 1 --minuets 3", "%balsam_allocate has no option --minuets. Did you mean '--minutes'?"),
        ("%%balsam_app x --param 1\necho", "--param 1: '1' is not a Python identifier."),
    ):
        cell = kernel.run(code)
        assert (cell.reply["status"], cell.reply["ename"]) == ("error", "UsageError")
        assert cell.streams.startswith(f"UsageError: {says}")
        said, line, caret = cell.streams.rstrip().splitlines()
        assert said and line.strip().startswith("%") and caret.strip(" ").strip("^") == ""
        assert not cell.bundles("error")


def test_every_magic_gives_a_value(start: Start, tmp_path: Path) -> None:
    kernel = start()
    kernel.run(f"gate, witness = {str(tmp_path / 'gate')!r}, {str(tmp_path / 'witness')!r}")
    kernel.run(GATED)
    (tmp_path / "gate").touch()
    kernel.run("_ = %balsam_allocate")
    for line, kind in (
        ("site here", "Site"),
        ("allocate -t 5", "BatchJob"),
        ("submit gated i=1 gate=gate witness=witness --name one", "Ensemble"),
        ("submit gated i=1 gate=gate witness=witness --dry-run", "Report"),
        ("wait one --timeout 60", "Ensemble"),
        ("status", "Report"),
        ("status one", "Status"),
        ("watch one", "LiveView"),
        ("results one", "DataFrame"),
        ("logs one", "Log"),
        ("kill one", "Report"),
        ("revoke all", "Report"),
    ):
        cell = kernel.run(f"x = %balsam_{line}\ntype(x).__name__")
        assert cell.text == repr(kind), (line, cell.streams)


def test_an_interrupt_leaves_the_tasks_running(start: Start, site: Site, tmp_path: Path) -> None:
    kernel = start()
    kernel.run(f"gate, witness = {str(tmp_path / 'gate')!r}, {str(tmp_path / 'witness')!r}")
    kernel.run(GATED)
    kernel.run("%balsam_submit gated i=range(3) gate=gate witness=witness --name scan\n_ = %balsam_allocate -t 10")
    waiting = kernel.start("%balsam_wait scan")
    line = kernel.until(lambda one: "display_data" in one["msg_type"] and "2 RUNNING" in str(one["content"]["data"]))
    assert line["parent_header"]["msg_id"] == waiting
    kernel.manager.interrupt_kernel()
    cell = kernel.finish(waiting)
    assert cell.reply["status"] == "error"
    assert cell.streams.startswith("UsageError: Interrupted; the tasks of 'scan' go on running. %balsam_wait scan")
    assert "1 WAITING, 2 RUNNING" in kernel.run("%balsam_status scan").text
    (tmp_path / "gate").touch()
    assert kernel.run("%balsam_wait scan --timeout 60").text.endswith("3 finished>")
