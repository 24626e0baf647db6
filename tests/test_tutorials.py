"""The tutorials, run twice from the first cell to the last, each time in a new kernel: the second time no task runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from balsam_jupyter import BalsamExecutor, EventLog, Site, open_site
from balsam_jupyter.models import Query
from tests.conftest import LIVE

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"

pytestmark = pytest.mark.slow


def run_all_cells(name: str, folder: Path) -> None:
    notebook = nbformat.read(NOTEBOOKS / name, as_version=4)
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=300, resources=resources, store_widget_state=False).execute()


def runs(site: Site) -> Counter[str]:
    """How often a task of each ensemble has begun to run."""
    ensembles = {job.id: job.ensemble for job in site.engine.jobs(Query())}
    return Counter(ensembles[event.job_id] for event in EventLog.objects.filter(to_state="RUNNING"))


def states() -> dict[str, dict[str, int]]:
    return {ensemble.name: ensemble.counts() for ensemble in BalsamExecutor().ensembles()}


@pytest.fixture
def default(home: Path) -> Iterator[Site]:
    """The site where notebooks run; a notebook that breaks off leaves no launcher."""
    opened = open_site()
    yield opened
    for allocation in opened.engine.allocations():
        if allocation.state in LIVE:
            opened.engine.revoke(allocation.id, 30.0)
    opened.close()


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        pytest.param(
            "02-sweeps-and-results.ipynb",
            {"diffusion-pilot": 4, "diffusion": 48, "diffusion-test": 10},
            marks=pytest.mark.soak,  # a minute of two cores; all tutorials run once in `make notebooks`
        ),
        ("03-adaptive.ipynb", {"cliff": 200, "cliff-test": 200}),
        ("04-watching.ipynb", {"magnet": 62}),
    ],
)
def test_all_cells_again_run_no_task(name: str, rows: dict[str, int], default: Site, tmp_path: Path) -> None:
    """`rows`: how many each ensemble has, at least."""
    run_all_cells(name, tmp_path)
    first, counts = runs(default), states()
    assert set(first) == set(counts) == set(rows)
    assert all(first[ensemble] >= least for ensemble, least in rows.items())

    run_all_cells(name, tmp_path)
    assert runs(default) == first
    assert states() == counts
