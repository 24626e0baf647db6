"""Jobs that no allocation can ever take are told, with the reason, wherever one waits for them or asks."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, TimeoutExpired, completion, status
from balsam_jupyter.magics import progress
from balsam_jupyter.status import explain

from .anywhere import opened
from .balsam_service.site import ServiceSite
from .test_magics import plain_ipython

SOON = 60.0
CASES = {
    "tags": ({}, {"filter_tags": {"workflow": "other"}}, r"allocation \d+ takes only tasks tagged workflow=other"),
    "wall time": ({"wall_time_min": 20}, {}, r"job \d+ is expected to take 20 min, and allocation \d+ has \d+ min"),
    "ranks": ({"num_procs": 2}, {}, r"job \d+ has 2 ranks, and allocation \d+ is in job mode serial; use mpi"),
}


class Nap(ApplicationDefinition):
    command_template = "sleep {{ seconds }}"


@pytest.fixture
def exctr(balsam_site: ServiceSite, tmp_path: Path) -> Iterator[BalsamExecutor]:
    with opened("balsam", tmp_path, balsam_site) as site:
        executor = BalsamExecutor(site)
        executor.register_app(Nap)
        yield executor


@pytest.fixture
def sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute is a second."""
    monkeypatch.setattr(completion, "_AGAIN_S", 1.0)
    monkeypatch.setattr(progress, "AGAIN_S", 1.0)
    monkeypatch.setattr(status, "PATIENCE_S", 1.0)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with plain_ipython(tmp_path, monkeypatch) as made:
        yield made


def said(shell: Any, capsys: pytest.CaptureFixture[str], code: str) -> str:
    """What a cell prints, shows and complains of."""
    capsys.readouterr()
    result = shell.run_cell(code)
    shown = capsys.readouterr()
    return f"{shown.out}{shown.err}{result.result!r}"


@pytest.mark.usefixtures("sooner")
@pytest.mark.parametrize("case", CASES)
def test_what_no_allocation_takes(
    exctr: BalsamExecutor, shell: Any, case: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    options, asked, why = CASES[case]
    name = f"nap-{secrets.token_hex(3)}"
    exctr.submit_allocation(exctr.site.id, 1, 10, job_mode="serial", **asked)
    naps = exctr.submit_sweep("Nap", {"seconds": [1, 2]}, name=name, **options)
    assert naps.tasks()[0]._wait(lambda: re.search(why, explain(exctr.site.engine, name).why), SOON)
    with pytest.raises(TimeoutExpired):
        naps.wait(3)
    assert re.search(f"{name} waits: {why}.*Ask for one", caplog.text)
    assert caplog.text.count(f"{name} waits") == 1
    assert re.search(f"Nothing runs: {why}.*Ask for one", said(shell, capsys, f"%balsam_wait {name} --timeout 4"))
    assert re.search(f"Nothing runs: {why}.*Ask for one", said(shell, capsys, f"%balsam_status {name}"))
    naps.kill()


@pytest.mark.usefixtures("sooner")
def test_beside_others_that_run(
    exctr: BalsamExecutor, shell: Any, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"nap-{secrets.token_hex(3)}"
    tags = {"filter_tags": {"workflow": name}}
    exctr.submit_allocation(exctr.site.id, 1, 10, job_mode="serial", **tags)
    naps = exctr.submit_sweep("Nap", {"seconds": [600]}, name=name)
    assert naps.tasks()[0]._wait(lambda: naps.counts()["RUNNING"], SOON)
    long = exctr.submit(app_name="Nap", app_args={"seconds": 1}, wall_time_min=20, tags={"workflow": name})
    why = rf"Some tasks wait in vain: job {long.id} is expected to take 20 min, and allocation \d+ has"
    engine = exctr.site.engine
    assert long._wait(lambda: re.search(why, explain(engine).never), SOON)
    assert re.search(f"{why}.*Ask for one: %balsam_allocate -n 1 -t 21", said(shell, capsys, "%balsam_status"))
    assert not explain(engine, name).never and not explain(engine).stuck
    naps.add([{"seconds": 601}])
    with pytest.raises(TimeoutExpired):
        naps.wait(3)
    assert "wait in vain" not in caplog.text
    assert long.kill() is None
    assert naps.kill(force="revoke") == 2


@pytest.mark.usefixtures("sooner")
def test_too_few_nodes(slurm_site: ServiceSite, tmp_path: Path, shell: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with opened("balsam", tmp_path, slurm_site) as site:
        exctr = BalsamExecutor(site)
        exctr.register_app(Nap)
        name = f"nap-{secrets.token_hex(3)}"
        exctr.submit_allocation(site.id, 1, 5, job_mode="mpi", queue="main", filter_tags={"workflow": name})
        wide = exctr.submit_sweep("Nap", {"seconds": [1]}, name=name, num_nodes=2)
        why = r"job \d+ needs 2 nodes at once, more than allocation \d+ has"
        assert wide.tasks()[0]._wait(lambda: re.search(why, explain(site.engine, name).why), SOON)
        assert re.search(
            f"Nothing runs: {why}. Ask for one: %balsam_allocate -n 2 -t 10 --job-mode mpi",
            said(shell, capsys, f"%balsam_wait {name} --timeout 4"),
        )
        wide.kill()
