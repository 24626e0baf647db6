"""The quickstart notebook in a real JupyterLab in a real browser, from the first cell to the reloaded page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import CELLS, Notebook

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "01-quickstart.ipynb"
LIVE = ".bj-live"
PICTURE = ".jp-OutputArea img[src^='data:image/svg']"
# How many tasks the live view shows in each state: "finished 12".
SHOWN = f"""Object.fromEntries([...document.querySelectorAll('{LIVE} .bj-legend .bj-entry')]
  .map(entry => entry.textContent.trim().split(/\\s+/)).map(([state, number]) => [state, parseInt(number)]))"""


@pytest.fixture
def notebook(open_notebook: Callable[..., Notebook], folder: Path) -> Notebook:
    shutil.copy(NOTEBOOK, folder)
    return open_notebook(name=NOTEBOOK.name)


def test_quickstart_is_live_and_then_lasts(notebook: Notebook, folder: Path) -> None:
    allocate, watch, wait = (notebook.find(f"%balsam_{what}") for what in ("allocate -n", "watch eos", "wait eos"))
    last = notebook.last_code_cell()

    # First without an allocation: the figure comes up with every task waiting.
    for cell in range(watch + 1):
        if cell != allocate:
            notebook.run(cell)
    notebook.wait_run(watch)
    notebook.scroll(watch)
    notebook.wait_for(LIVE)
    notebook.wait_until(f"({SHOWN}).waiting === 24")

    # Then tasks run, and the figure follows while another cell is busy.
    notebook.run(allocate)
    for cell in range(watch + 1, last + 1):
        notebook.run(cell)
    notebook.scroll(watch)
    notebook.wait_until(f"({SHOWN}).finished > 2 && {notebook.prompt_of(wait)} === '*'")
    during = notebook.page.evaluate(f"() => ({SHOWN})")
    assert sum(during.values()) == 24, "every task is in the picture, in one state"

    # All cells run without an error, and beside the live view there is a picture that needs no kernel.
    notebook.wait_run(last, timeout=300)
    notebook.scroll(watch)
    notebook.wait_until(f"({SHOWN}).finished === 24")
    copy = f"JSON.stringify({CELLS}[{watch}].model.outputs.toJSON())"
    notebook.wait_until(f"{copy}.includes('24/24 done')")
    notebook.save()
    saved = json.loads((folder / NOTEBOOK.name).read_text())
    outputs = [output for cell in saved["cells"] for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert "widgets" not in saved["metadata"]

    # That picture, out of the file alone, is what a new kernel and a page of its own show.
    assert not notebook.page.locator(PICTURE).first.is_visible()
    notebook.restart_kernel()
    notebook.reload()
    notebook.scroll(watch)
    notebook.wait_for(PICTURE)
    assert "rror" not in notebook.output(watch)
