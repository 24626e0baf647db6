"""Executors at an embedded site and at one of a real Balsam service, for tests of what is alike on both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from balsam_jupyter import BalsamExecutor, Site, open_site

KINDS = ("embedded", "balsam")
LIVE = ("pending_submission", "queued", "running", "pending_deletion")


def client_of(service: Any, patch: pytest.MonkeyPatch) -> None:
    """Sign in to the service of the tests."""
    patch.setenv("BALSAM_CLIENT_PATH", str(service.client_file))


@contextmanager
def opened(kind: str, folder: Path, remote: Any = None) -> Iterator[Site]:
    """A site of that kind; what is known here of a remote one is in `folder` alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BALSAM_JUPYTER_HOME", str(folder / "home"))
        if kind == "balsam":
            client_of(remote.service, patch)
            site = open_site(remote.name, engine="balsam")
        else:
            place = folder / "site"
            place.mkdir()
            (place / "settings.yml").write_text("cores_per_node: 2\ngrace_period_s: 1\n")
            site = open_site("here", place)
        try:
            yield site
        finally:
            for allocation in site.engine.allocations():
                if allocation.state in LIVE:
                    assert site.engine.revoke(allocation.id, 30.0)
            site.close()


@pytest.fixture(scope="module", params=KINDS)
def anywhere(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BalsamExecutor]:
    """An executor at a site of each engine, with a serial allocation that lasts as long as the module's tests."""
    remote = request.getfixturevalue("balsam_site") if request.param == "balsam" else None
    with opened(request.param, tmp_path_factory.mktemp(request.param), remote) as site:
        exctr = BalsamExecutor(site)
        exctr.submit_allocation(site.id, 1, 10, job_mode="mpi" if remote else "serial")
        yield exctr
