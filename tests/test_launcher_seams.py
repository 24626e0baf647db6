"""A launcher that dies while scratch tasks end, and one that takes a task of a kind it has not read about."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, BatchJob, Site
from balsam_jupyter.engines.embedded import EmbeddedEngine, scheduler
from balsam_jupyter.engines.embedded.launcher.pilot import Pilot
from balsam_jupyter.engines.embedded.sessions import Session
from balsam_jupyter.engines.embedded.site import Settings
from balsam_jupyter.engines.embedded.store import Store, records
from balsam_jupyter.models import AllocationRequest, Query

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
    exctr: BalsamExecutor, site: Site, allocation: BatchJob, tmp_path: Path, app: type
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
    assert not [finding for finding in site.engine.check() if finding.fault]
