"""Fixtures for a whole test session: a real Balsam service, its site, and a site on a real Slurm."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import slurm
from .run import ENVIRONMENT, Run
from .service import Service
from .site import LOCAL, ServiceSite


@pytest.fixture(scope="session")
def balsam_service() -> Iterator[Service]:
    """A Balsam service with a user, without sites."""
    if not (ENVIRONMENT / "bin" / "uvicorn").exists():
        pytest.skip("no environment with a Balsam server: `make test` makes it where it finds a Python 3.11")
    run = Run()
    try:
        service = Service(run)
        service.start()
        yield service
    finally:
        run.stop()


@pytest.fixture(scope="session")
def balsam_site(balsam_service: Service) -> ServiceSite:
    """A site with the local scheduler, on one node of 64 slots; its queue and its project are called `local`."""
    site = ServiceSite(balsam_service, "local-site", LOCAL)
    site.start()
    return site


@pytest.fixture(scope="session")
def slurm_site(balsam_service: Service) -> ServiceSite:
    """A site on a Slurm of three virtual nodes (`site.slurm`): queues `main` and `short`, project `physics`."""
    if absent := slurm.missing():
        pytest.skip(f"no Slurm here (not installed: {', '.join(absent)}); `make test` installs it where apt-get can")
    cluster = slurm.Slurm(balsam_service.run)
    cluster.start()
    site = ServiceSite(balsam_service, "slurm-site", slurm.KIND, cluster.environment)
    site.slurm = cluster
    site.start()
    return site
