"""The tutorials, run twice from the first cell to the last, each time in a new kernel: the second time no task runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from balsam_jupyter import BalsamExecutor, EventLog, Site, open_site
from balsam_jupyter.models import Query

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


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("02-sweeps-and-results.ipynb", {"pilot": 4, "diffusion": 48, "diffusion-test": 10}),
        ("03-adaptive.ipynb", {"cliff": 200, "cliff-test": 200}),
    ],
)
def test_all_cells_again_run_no_task(name: str, least: dict[str, int], home: Path, tmp_path: Path) -> None:
    run_all_cells(name, tmp_path)
    site = open_site()
    try:
        first = runs(site)
        ensembles = {ensemble.name: ensemble.counts() for ensemble in BalsamExecutor(site).ensembles()}
        assert set(first) == set(ensembles) == set(least)
        assert all(first[ensemble] >= number for ensemble, number in least.items())

        run_all_cells(name, tmp_path)
        assert runs(site) == first
        assert {ensemble.name: ensemble.counts() for ensemble in BalsamExecutor(site).ensembles()} == ensembles
    finally:
        site.close()
