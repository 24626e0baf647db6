"""``balsam-jupyter launcher``: an allocation attached to a terminal."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess

import psutil
import pytest

from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.models import Query

from .engine_site import allocate, job, shell_app, submit, wait_until
from .processes import is_running, launchers
from .test_cli import COMMAND, environment, output


def start_launcher(engine: EmbeddedEngine, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "launcher", "-t", "5", *words], cwd=engine.path, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_launcher_in_the_foreground_stops_gracefully(engine: EmbeddedEngine, number: signal.Signals) -> None:
    common = shell_app(engine, "sleep {{ s }}", "s")
    submit(engine, common, [{"s": 0}, {"s": 60}])
    process = start_launcher(engine)
    wait_until(engine, lambda: engine.count(Query()) == {"JOB_FINISHED": 1, "RUNNING": 1})
    os.killpg(process.pid, number)  # as Ctrl-C does: everything in the terminal's foreground gets it
    said = output(process)
    assert process.returncode == 0
    assert "launcher of allocation 1: session 1" in said
    assert f"{number.name}: stopping; running tasks are ended and become ready to run again" in said
    tasks = [line for line in said.splitlines() if " tasks: " in line]
    assert sum(int(number) for line in tasks for number in re.findall(r"(\d+) started", line)) == 2
    assert sum(int(number) for line in tasks for number in re.findall(r"(\d+) finished", line)) == 1
    assert said.endswith("Allocation 1: finished, 1 node, 5 min, serial (it received SIGTERM)\n")
    assert engine.count(Query()) == {"JOB_FINISHED": 1, "RESTART_READY": 1}
    assert not launchers(1, engine.path)


@pytest.mark.parametrize("settings", ["cores_per_node: 2\nidle_time_s: 0.5\n"])
def test_a_launcher_in_the_foreground_ends_when_idle(engine: EmbeddedEngine) -> None:
    process = start_launcher(engine, "--json")
    submit(engine, shell_app(engine, "echo"))
    said = output(process)
    document = json.loads(said[said.index("{\n") :])
    assert document["state"] == "finished" and "nothing to run" in document["status_info"]["reason"]


def test_a_launcher_waits_for_its_turn_and_can_be_called_off(engine: EmbeddedEngine) -> None:
    first = allocate(engine)
    process = start_launcher(engine)
    assert process.stdout is not None
    assert process.stdout.readline() == "allocation 2 is queued: it waits for a free node\n"
    process.send_signal(signal.SIGINT)
    assert "Allocation 2: finished" in output(process)
    assert engine.allocations()[1].status_info == {"reason": "revoked before it started"}
    process = start_launcher(engine)
    assert process.stdout is not None and "it waits for a free node" in process.stdout.readline()
    engine.revoke(first.id)
    wait_until(engine, lambda: engine.allocations()[2].state == "running")
    (pid,) = children(process.pid)
    assert engine.revoke(3)
    assert "(revoked)" in output(process) and not is_running(pid)


def children(pid: int) -> list[int]:
    return [child.pid for child in psutil.Process(pid).children()]


def test_the_terminal_of_a_launcher_is_killed(engine: EmbeddedEngine) -> None:
    """Its launcher goes on, nothing runs twice, and it can be ended as any other."""
    submit(engine, shell_app(engine, "sleep 60"))
    process = start_launcher(engine)
    wait_until(engine, lambda: engine.count(Query()) == {"RUNNING": 1})
    os.killpg(process.pid, signal.SIGKILL)
    output(process)
    assert job(engine, 1).state == "RUNNING" and engine.allocations()[0].state == "running"
    assert engine.revoke(1) and job(engine, 1).attempts == 1


def test_nobody_reads_on_what_a_launcher_shows(engine: EmbeddedEngine) -> None:
    """As in ``balsam-jupyter launcher | head -1``: it stops gracefully."""
    common = shell_app(engine, "sleep {{ s }}", "s")
    process = start_launcher(engine)
    assert process.stdout is not None and process.stdout.readline()
    process.stdout.close()
    submit(engine, common, [{"s": 60}, {"s": 0}])
    assert process.wait(60) == 1
    assert engine.allocations()[0].state == "finished" and not launchers(1, engine.path)
    assert engine.count(Query()) == {"RESTART_READY": 1, "JOB_FINISHED": 1}
