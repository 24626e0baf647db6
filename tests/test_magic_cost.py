"""Prices before and after: ``--dry-run``, ``--max-node-hours``, ``%balsam_cost``; and what ``--scratch`` leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from balsam_jupyter import Site
from balsam_jupyter.models import Query

from . import test_magics
from .test_magics import Shell, mistake, run

shell = test_magics.shell
Capture = pytest.CaptureFixture[str]


def test_the_price_of_an_allocation(shell: Shell, site: Site, capsys: Capture) -> None:
    shown = repr(run(shell, "%balsam_allocate -n 1 -t 30 --dry-run"))
    assert shown.startswith("Dry run: 1 node for 30 min, ≈ 0.5 node-hours; nothing was asked for.\nSite 'here': ")
    for line in ("-t 30 --max-node-hours 0.4", "-t 30 --max-node-hours 0.4 --dry-run"):
        said, _ = mistake(shell, capsys, f"%balsam_allocate {line}")
        assert "more than the limit given" in said
    assert mistake(shell, capsys, "%balsam_allocate -n 9 --dry-run")[1] == "9"
    assert mistake(shell, capsys, "%balsam_allocate --max-node-hours 0")[1] == "0"
    assert site.engine.allocations() == []


@pytest.mark.usefixtures("allocation")
def test_the_price_of_a_sweep(shell: Shell, site: Site, capsys: Capture) -> None:
    run(shell, "%%balsam_app naps\nsleep {{ s }}")
    first = repr(run(shell, "%balsam_submit naps s=[0.1, 0.2] --dry-run --wall-time-min 30"))
    assert first.startswith("Dry run: 2 tasks of app 'naps'; nothing was stored.\n") and "node-hours" in first
    line = "%balsam_submit naps s=[0.1, 0.2, 0.3] --wall-time-min 30 --max-node-hours 0.1"
    assert "more than the limit given" in mistake(shell, capsys, line)[0]
    assert site.engine.count(Query()) == {}
    run(shell, "_ = %balsam_submit naps s=[0.1, 0.2, 0.3] --name scan\n_ = %balsam_wait scan --timeout 60")
    again = run(shell, "%balsam_submit naps s=range(10) --dry-run")
    assert "10 tasks" in repr(again) and "expected" in repr(again)
    of_site = repr(run(shell, "%balsam_cost"))
    assert of_site.startswith("Site 'here': ≈ ") and "scan" in of_site
    assert "<td" in run(shell, "c = %balsam_cost scan\nc")._repr_html_()
    assert mistake(shell, capsys, "%balsam_cost scn")[1] == "scn"


@pytest.mark.usefixtures("allocation")
def test_scratch_leaves_no_directory(shell: Shell, site: Site) -> None:
    run(shell, "%%balsam_app hello --output 'n=n (.*)'\necho n {{ x }}")
    run(shell, "_ = %balsam_submit hello x=[1, 2] --name s --scratch\n_ = %balsam_wait s --timeout 60")
    assert list(run(shell, "d = %balsam_results s\nd")["n"].astype(int)) == [1, 2]
    assert not [path for path in (Path(site.path) / "data" / "s").rglob("job.out")]


@pytest.mark.usefixtures("allocation")
def test_failures(shell: Shell) -> None:
    run(shell, "%%balsam_app fails\necho no file {{ x }} >&2; exit 3")
    run(shell, "_ = %balsam_submit fails x=[1, 2] --name f\n_ = %balsam_wait f --timeout 60")
    failures = run(shell, "f = %balsam_failures f\nf")
    assert failures.total == 2 and "no file <n>" in repr(failures)
