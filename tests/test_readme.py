"""What the README shows is run as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
*TOUR, SCRIPT = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


@pytest.mark.kernel
def test_tour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("BALSAM_JUPYTER_HOME", str(tmp_path))
    cells = [
        *TOUR,
        "print(len(table), int(table.y.sum()), *table.state.unique())",
        "%balsam_revoke",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    squares, cubes = sum(x**2 for x in range(20)), sum(x**3 for x in range(20))
    assert notebook.cells[-2].outputs[0].text == f"40 {squares + cubes} FINISHED\n"


def test_tour_is_ten_lines() -> None:
    assert len([line for cell in TOUR for line in cell.splitlines() if line]) <= 10


def test_script(tmp_path: Path) -> None:
    env = os.environ | {"BALSAM_JUPYTER_HOME": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=env, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("FINISHED") == 6 and "hello Grace 3" in run.stdout


def test_links_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"
