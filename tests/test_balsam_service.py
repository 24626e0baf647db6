"""The service that other tests use: it is real, and nothing of it outlives them, whatever they die of."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .balsam_service import sweep
from .balsam_service.run import ROOT, Run, wait_until
from .balsam_service.service import Service
from .balsam_service.site import ServiceSite


def test_it_answers(balsam_service: Service) -> None:
    with balsam_service.client() as client:
        assert client.get("/sites/").json()["count"] >= 0
        client.headers["Authorization"] = f"Bearer {balsam_service.token(-1)}"
        assert client.get("/sites/").status_code == 401


def test_the_local_site(balsam_site: ServiceSite) -> None:
    assert balsam_site.record()["allowed_queues"].keys() == {"local"}


def test_the_site_on_slurm(slurm_site: ServiceSite) -> None:
    assert slurm_site.record()["allowed_projects"] == ["physics"]
    assert len(set(slurm_site.slurm.call("sinfo", "-hN", "-o", "%N").split())) == 3


OWNER = """
import subprocess, sys
from tests.balsam_service.run import Run
from tests.balsam_service.service import Service

run = Run()
Service(run).start()
shell = "trap '' TERM HUP; sleep 1000 & setsid sleep 1001 & wait"  # as stubborn as a job can be
run.start("job", ["bash", "-c", shell], {})
print(run.folder, run.keeper.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def owner(balsam_service: Service) -> subprocess.Popen[str]:
    """A process that has started a service of its own, as pytest does."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", OWNER]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def started(owner: subprocess.Popen[str]) -> tuple[Path, int]:
    assert owner.stdout
    folder, keeper = owner.stdout.readline().split()
    assert len(sweep.marked(Path(folder))) > 8  # Postgres alone has five
    return Path(folder), int(keeper)


def killed(owner: subprocess.Popen[str]) -> None:
    owner.kill()
    owner.communicate(timeout=10)


def test_nothing_outlives_a_killed_pytest(owner: subprocess.Popen[str]) -> None:
    folder, _ = started(owner)
    killed(owner)
    wait_until(lambda: not sweep.lock_of(folder).exists(), "the keeper cleans up")
    assert not folder.exists()
    assert not sweep.marked(folder)


def test_where_the_keeper_died_too_the_next_run_cleans_up(owner: subprocess.Popen[str]) -> None:
    folder, keeper = started(owner)
    os.kill(keeper, signal.SIGKILL)
    killed(owner)
    assert sweep.marked(folder)
    run = Run()
    try:
        assert folder.name in run.swept
        assert not folder.exists()
        assert not sweep.marked(folder)
    finally:
        run.stop()
    assert not run.folder.exists()


def test_a_run_that_goes_on_is_left_alone(balsam_service: Service) -> None:
    run = Run()
    run.stop()
    assert balsam_service.run.folder.name not in run.swept
    assert balsam_service.process.poll() is None
