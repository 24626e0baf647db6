"""Fixtures for a whole test session: a real Balsam service, its site, and a site on a real Slurm."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import slurm
from .proxy import Proxy
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


@pytest.fixture
def bare_site(balsam_service: Service) -> Iterator[ServiceSite]:
    """A site of this test alone, without an agent: its jobs wait until the test says what became of them."""
    site = ServiceSite(balsam_service, f"bare-{secrets.token_hex(4)}")
    yield site
    if balsam_service.process.poll() is not None:  # a test may have killed it
        balsam_service.start_server()
    site.delete()


@pytest.fixture
def proxy(balsam_service: Service) -> Iterator[Proxy]:
    """A proxy before the server, which does no harm until it is told to."""
    found = Proxy(balsam_service.url)
    yield found
    found.close()


@pytest.fixture
def signed_in(
    balsam_service: Service, proxy: Proxy, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The user is signed in, at the address of the proxy; the client file."""
    file = balsam_service.write_client_file(tmp_path / "balsam" / "client.yml", url=proxy.url)
    monkeypatch.setenv("BALSAM_CLIENT_PATH", str(file))
    return file
