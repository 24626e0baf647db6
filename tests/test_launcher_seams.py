"""A launcher that dies while scratch tasks end, and one that takes a task of a kind it has not read about."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, BatchJob, Site
from balsam_jupyter.codec import decode
from balsam_jupyter.engines.embedded import EmbeddedEngine, scheduler
from balsam_jupyter.engines.embedded.launcher.pilot import Pilot
from balsam_jupyter.engines.embedded.sessions import Session
from balsam_jupyter.engines.embedded.site import Settings
from balsam_jupyter.engines.embedded.store import Store, records
from balsam_jupyter.models import AllocationRequest, Query

from .engine_site import python_app, submit
from .processes import launchers

SOON = 120.0
Until = Callable[[Callable[[], bool]], None]


class Shell(ApplicationDefinition):
    site = "here"
    command_template = "sh -c 'echo $0 >> {{ ran }}; echo value $0; echo x > big.dat; test $(($0 % 10)) -ne 9' {{ n }}"
    outputs = {"value": r"value (\d+)"}


class Python(ApplicationDefinition):
    site = "here"

    def run(self, n: int, ran: str) -> dict[str, int]:
        with open(ran, "a") as file:
            file.write(f"{n}\n")
        if n % 2:
            Path("big.dat").write_text("x")
        if n % 10 == 9:
            raise ValueError(n)
        return {"value": n}


@pytest.mark.parametrize("app", [Shell, Python])
def test_a_launcher_that_is_killed_while_scratch_tasks_end(
    exctr: BalsamExecutor, site: Site, allocation: BatchJob, tmp_path: Path, until: Until, app: type
) -> None:
    """Each runs once and has its value; directories of those that finished go, those of the others stay."""
    exctr.register_app(app)
    ran = tmp_path / "ran"
    ens = exctr.submit_sweep(app.__name__, {"n": range(400), "ran": [str(ran)]}, name="s", scratch=True)
    cursor, killed = site.engine.events("now").cursor, 0
    while killed < 3 and not ens.counts()["FINISHED"] >= 300:
        cursor = site.engine.events(cursor, 1.0).cursor
        if ens.counts()["FINISHED"] >= 50 * killed:
            for pid in launchers(allocation.id, site.engine.path):
                os.kill(pid, signal.SIGKILL)
                killed += 1
    ens.wait(SOON)
    assert killed and (ens.counts()["FINISHED"], ens.counts()["FAILED"]) == (360, 40)
    assert sorted(map(int, ran.read_text().split())) == list(range(400)), "one ran twice, or not at all"
    table = ens.to_dataframe()
    good = table[table["state"] == "FINISHED"]
    assert good["value"].tolist() == good["n"].tolist()
    failed = {str(row.row) for row in site.engine.jobs(Query(ensemble="s", states=("FAILED",)))}
    left = {name for name in os.listdir(site.data_path / "s")}
    assert left <= failed if app is Python else left == failed
    assert (site.data_path / "s" / "9" / "big.dat").exists()
    until(lambda: not [finding for finding in site.engine.check() if finding.fault])  # the last one is settled


@pytest.mark.parametrize("settings", ["cores_per_node: 2\ngrace_period_s: 1\nidle_time_s: 0.1\n"])
def test_a_task_of_a_kind_that_came_after_the_launchers_last_look(
    engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is submitted between the look and the check-out of one commit: each runs, with the tags it has."""
    locks: list[int] = []

    def launch_nothing(_site: Path, _store: Store, _allocation: int, lock: int) -> int:
        locks.append(os.dup(lock))  # the allocation lives as long as this is open
        return os.getpid()

    def run(self, n):  # type: ignore[no-untyped-def]
        return [n, dict(self.job.tags)]

    monkeypatch.setattr(scheduler, "_launch", launch_nothing)
    allocation = engine.allocate(AllocationRequest(1, 10, "serial"))
    common = python_app(engine, run)
    submit(engine, replace(common, tags={"turn": "early"}), [{"n": 1}])
    store = Store(engine.path / "balsam.db")
    session = Session(engine.path, store, allocation.id)
    pilot = Pilot(engine.path, store, Settings.read(engine.path / "settings.yml"), session, allocation)
    look_around, commit, late, unknown = pilot.look_around, pilot.commit, [], set()

    def look_and_be_late() -> None:
        look_around()
        if not late and any(line.more for partition in pilot.partitions for line in partition.lines.values()):
            late.extend(submit(engine, replace(common, tags={"turn": "late"}), [{"n": 2}]))

    def commit_and_see() -> None:
        commit()
        unknown.update({each.work.spec_id for each in pilot.jobs.values()} - pilot.tags.keys())

    monkeypatch.setattr(pilot, "look_around", look_and_be_late)
    monkeypatch.setattr(pilot, "commit", commit_and_see)
    try:
        assert "nothing to run" in pilot.run()
    finally:
        pilot.close()
        session.close(store)
        with store.transaction() as con:
            records.end_allocation(con, allocation.id, "finished", "")
        store.close()
        for lock in locks:
            os.close(lock)
    assert not unknown, "it was held, and could have been handed on, without its tags"
    rows = engine.jobs(Query())
    assert [row.state for row in rows] == ["JOB_FINISHED"] * 2, [row.error for row in rows]
    assert [decode(row.value) for row in rows] == [[1, {"turn": "early"}], [2, {"turn": "late"}]]
