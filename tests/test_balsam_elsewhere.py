"""A site whose directory is on another machine, as on any supercomputer: the cells, the terminal, and what they say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from balsam_jupyter import BalsamExecutor, cli
from balsam_jupyter.engines.base import sites
from balsam_jupyter.errors import Unsupported

from .anywhere import opened
from .balsam_service.service import Service
from .balsam_service.site import ServiceSite
from .test_magics import Shell, plain_ipython, run

AWAY = "/projects/tester/far"


@pytest.fixture(scope="module")
def far_site(balsam_service: Service) -> Iterator[ServiceSite]:
    """A site that works, and of which the service says that it is where this machine has no directory."""
    site = ServiceSite(balsam_service, "far")
    site.start()
    with balsam_service.client() as client:
        client.put(f"/sites/{site.id}", json={"path": AWAY}).raise_for_status()
    yield site
    site.stop()
    site.delete()


@pytest.fixture
def exctr(far_site: ServiceSite, tmp_path: Path) -> Iterator[BalsamExecutor]:
    with opened("balsam", tmp_path, far_site) as site:
        assert not site.engine.site.here
        yield BalsamExecutor(site)


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    with plain_ipython(tmp_path, monkeypatch) as made:
        yield made


def terminal(*words: str, code: int = 0) -> Any:
    result = CliRunner().invoke(cli.main, [*words])
    assert result.exit_code == code, result.output
    return result.output


def test_the_cells_run_and_say_where_the_files_are(exctr: BalsamExecutor, shell: Shell) -> None:
    run(shell, "%%balsam_app hello --output 'words=hello (.*)'\necho hello {{ name }}; test {{ name }} != Bob")
    run(shell, "%balsam_allocate -t 10\n%balsam_submit hello name=['Ada','Bob'] --name hellos")
    run(shell, "%balsam_wait hellos --timeout 60")
    table = run(shell, "t = %balsam_results hellos\nt")
    assert table["words"].tolist()[0] == "Ada" and table["state"].tolist() == ["FINISHED", "FAILED"]
    assert table["workdir"].tolist() == [f"{AWAY}/data/hellos/{row}" for row in range(2)]
    finished, failed = exctr.ensemble("hellos").tasks()
    assert "hello Bob" in run(shell, "%balsam_logs hellos")
    assert "its log is at site 'far', not on this machine" in run(shell, f"%balsam_logs {finished.id}")
    for asked in (finished.read_stdout, finished.stdout_exists, lambda: failed.file_exists_in_workdir("job.out")):
        with pytest.raises(Unsupported, match="on its own machine: a transfer slot"):
            asked()


def test_the_terminal_names_it_with_its_engine(exctr: BalsamExecutor, shell: Shell) -> None:
    run(shell, "%%balsam_app greet\necho hello {{ name }}")
    job = terminal("job", "create", "-a", "greet", "-p", "name=Ada", "--site", "balsam:far")
    assert "of greet in " in job
    assert f"balsam:far\t{AWAY}\telsewhere" in terminal("site", "ls")
    assert "--site balsam:far is the one of your Balsam service" in terminal("job", "ls", "--site", "far", code=1)
    assert "greet" in terminal("job", "ls", "--site", "balsam:far")


def test_a_site_that_is_made_by_mistake_is_told(
    exctr: BalsamExecutor, shell: Shell, caplog: pytest.LogCaptureFixture
) -> None:
    assert "engine='balsam'" in repr(exctr.site) and "cores" not in repr(exctr.site)
    made = run(shell, "s = %balsam_site far\ns")
    assert "engine='embedded'" in repr(made)
    assert "Site 'far' is new, on this machine" in caplog.text and "%balsam_site far --engine balsam" in caplog.text
    caplog.clear()
    run(shell, "%balsam_site far")
    assert not caplog.text and "far" in {one.name for one in sites("embedded")}
    made.close()
