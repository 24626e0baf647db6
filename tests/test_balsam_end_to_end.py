"""The cells of the quickstart and some more, at real Balsam sites: nothing differs but the line that opens the site."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, Site, Sweep, open_site
from balsam_jupyter.models import Query

from .balsam_service.run import ROOT, wait_until
from .balsam_service.service import Service
from .balsam_service.site import ServiceSite
from .conftest import LIVE
from .test_kernel import Cell, Kernel

pytestmark = pytest.mark.slow

OPEN = "site = %balsam_site {} --engine balsam"
APP = """
%%balsam_app greet
echo hello {{ name }} {{ number }}
"""


@pytest.fixture
def user(balsam_service: Service, home: Path, monkeypatch: pytest.MonkeyPatch) -> Service:
    """The user is signed in."""
    monkeypatch.setenv("BALSAM_CLIENT_PATH", str(balsam_service.client_file))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return balsam_service


@pytest.fixture
def kernel(user: Service) -> Iterator[Kernel]:
    found = Kernel()
    yield found
    found.close()


@pytest.fixture
def at(user: Service) -> Iterator[Callable[[ServiceSite], Site]]:
    """Open a remote site; its allocations end with the test."""
    opened: list[Site] = []

    def open_there(remote: ServiceSite) -> Site:
        opened.append(open_site(remote.name, engine="balsam"))
        return opened[-1]

    yield open_there
    for site in opened:
        for allocation in site.engine.allocations():
            if allocation.state in LIVE:
                assert site.engine.revoke(allocation.id, 60.0)
        site.close()


def said(cell: Cell) -> str:
    return cell.text + cell.streams


@pytest.mark.parametrize("mode", ["mpi", "serial"])
def test_cells_with_200_tasks(
    kernel: Kernel, balsam_site: ServiceSite, at: Callable[[ServiceSite], Site], mode: str
) -> None:
    at(balsam_site)
    for cell in (
        "%load_ext balsam_jupyter",
        OPEN.format(balsam_site.name),
        APP.strip(),
        f"allocation = %balsam_allocate -n 1 -t 10 --job-mode {mode} --tag workflow=hellos-{mode}",
        f"%balsam_submit greet name=['Ada', 'Grace'] number=range(100) --name hellos-{mode}",
    ):
        assert kernel.run(cell).reply["status"] == "ok"
    assert "200 finished" in kernel.run(f"%balsam_wait hellos-{mode}", timeout=180).text
    kernel.run(f"table = %balsam_results hellos-{mode}")
    assert kernel.run("len(table), set(table.state), table.number.nunique()").text == "(200, {'FINISHED'}, 100)"
    assert "hello Grace 99" in said(kernel.run(f"%balsam_logs hellos-{mode}/199"))
    assert (
        "200 finished"
        in kernel.run(f"%balsam_submit greet name=['Ada', 'Grace'] number=range(100) --name hellos-{mode}").text
    )
    assert "ended" in said(kernel.run("%balsam_revoke"))
    jobs = balsam_site.jobs(tags=f"workflow:hellos-{mode}")
    assert [job["state"] for job in jobs] == ["JOB_FINISHED"] * 200


@pytest.mark.soak
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="a Python app needs the Python of its site, which is 3.11")
def test_the_quickstart(kernel: Kernel, balsam_site: ServiceSite, at: Callable[[ServiceSite], Site]) -> None:
    """All its cells; only `%balsam_site` names another site."""
    at(balsam_site)
    notebook = nbformat.read(ROOT / "notebooks" / "01-quickstart.ipynb", as_version=4)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    (number,) = (index for index, cell in enumerate(cells) if cell.startswith("site = %balsam_site\n"))
    cells[number] = cells[number].replace("site = %balsam_site", OPEN.format(balsam_site.name))
    for cell in cells:
        ran = kernel.run(cell, timeout=300)
        assert ran.reply["status"] == "ok", (cell, ran.reply, ran.streams)
    for name, rows in (("eos", 24), ("methane", 28)):
        states = [job["state"] for job in balsam_site.jobs(tags=f"workflow:{name}")]
        assert states == ["JOB_FINISHED"] * rows


def sleeper(site: Site) -> BalsamExecutor:
    class Nap(ApplicationDefinition):
        site = "default"
        command_template = "sleep {{ seconds }}"

    exctr = BalsamExecutor(site)
    exctr.register_app(Nap, app_name="nap")
    return exctr


def test_50_tasks_on_slurm(slurm_site: ServiceSite, at: Callable[[ServiceSite], Site]) -> None:
    exctr = sleeper(at(slurm_site))
    ens = exctr.submit_sweep("nap", Sweep.zip(seconds=[0.01 + number / 1000 for number in range(50)]), name="naps")
    allocation = exctr.submit_allocation(exctr.site.id, 2, 10, job_mode="mpi", queue="main", project="physics")
    wait_until(slurm_site.slurm.queue, "our allocation is in the queue of Slurm")
    ((number, _, nodes, script),) = slurm_site.slurm.queue()
    assert (nodes, script) == ("2", f"qlaunch{allocation.id:05d}.sh")
    ens.wait(timeout=180)
    assert ens.counts()["FINISHED"] == 50
    (seen,) = [one for one in exctr.site.engine.allocations() if one.id == allocation.id]
    assert str(seen.scheduler_id) == number
    assert exctr.revoke_allocation(allocation, timeout=60)
    assert slurm_site.slurm.queue() == []


def test_what_a_revoked_allocation_ran_is_ready_again(
    slurm_site: ServiceSite, at: Callable[[ServiceSite], Site]
) -> None:
    exctr = sleeper(at(slurm_site))
    ens = exctr.submit_sweep("nap", Sweep.zip(seconds=[600.0, 601.0, 602.0, 603.0]), name="long-naps")
    rows = Query(ensemble="long-naps")
    engine = exctr.site.engine
    allocation = exctr.submit_allocation(exctr.site.id, 1, 10, job_mode="mpi", queue="main", project="physics")
    wait_until(lambda: engine.count(rows) == {"RUNNING": 4}, "all four sleep", timeout=60)
    assert len(slurm_site.slurm.queue()) == 1
    assert exctr.revoke_allocation(allocation, timeout=60)
    assert slurm_site.slurm.queue() == []

    def instead() -> object:
        return engine.count(rows), [(job["state"], job["last_update"]) for job in slurm_site.jobs()[-4:]]

    wait_until(lambda: engine.count(rows) == {"RESTART_READY": 4}, "they are ready to run again", instead=instead)
    assert ens.kill() == 4
    assert ens.counts()["USER_KILLED"] == 4
