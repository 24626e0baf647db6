"""Plots of results in a real JupyterLab: they grow while no cell runs, tell and open points, and leave pictures."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from lab import CELLS as LAB_CELLS
from lab import Notebook

PLOT, PANEL = ".js-plotly-plot", ".balsam-point-panel"
POINTS = f"(document.querySelector('{PLOT}')?.data ?? []).reduce((sum, trace) => sum + (trace.x?.length ?? 0), 0)"
PICTURE = ".jp-OutputArea img[src^='data:image/svg']"

CELLS = [
    "%load_ext balsam_jupyter\n%balsam_site\nfrom balsam_jupyter import BalsamExecutor, Sweep",
    """%%balsam_app eos --python
def run(T, name, gate):
    import os, time
    print("<b>the log</b> of", T)
    while not os.path.exists(f"{gate}{T}"): time.sleep(0.02)
    return {"pressure": T / 100 + len(name)}""",
    """rows = Sweep.grid(T=[250, 300, 350], name=["lj", "<img src=x onerror='window.harmed = 1'>"], gate=["gate"])
ens = BalsamExecutor().submit_sweep("eos", rows, name="scan")
%balsam_allocate -n 1 -t 10 --job-mode serial""",
    'ens.plot("T", "pressure", color="name")',
    "import threading\nsum('balsam-plot' in one.name for one in threading.enumerate())",
    'open("busy", "w").close()\nimport os, time\nwhile not os.path.exists("free"): time.sleep(0.05)',
]


def click(notebook: Notebook, words: str) -> str:
    """Hover over one point after the other until one tells of these words, and click it; returns what it told."""
    for point in notebook.page.locator(f"{PLOT} .point").all():
        notebook.page.mouse.move(5, 5)
        notebook.wait_until("!document.querySelector('.hoverlayer .hovertext')")
        point.hover(force=True)
        told = notebook.wait_for(".hoverlayer .hovertext").text_content()
        if words in told:
            point.click(force=True)
            return str(told)
    raise AssertionError(f"no point tells of {words}")


def test_a_plot_in_the_browser(open_notebook: Callable[..., Notebook], folder: Path) -> None:
    gate = f"[{str(folder / 'gate')!r}]"
    notebook = open_notebook(*(cell.replace('["gate"]', gate) for cell in CELLS))
    for cell in range(4):
        notebook.run(cell)
    notebook.wait_run(3)
    notebook.scroll(3)
    notebook.wait_for(PLOT)
    notebook.wait_until("document.querySelector('.annotation-text')?.textContent.startsWith('No row has ended yet')")
    assert not notebook.page.locator(PICTURE).first.is_visible(), "the picture is there for saved notebooks only"
    notebook.wait_until(f"document.querySelector('{PLOT}')._fullLayout.width > 1000")  # that of the cell

    # It grows while no cell runs.
    (folder / "gate250").touch()
    notebook.wait_until(f"{POINTS} === 2")

    # What is below the mouse is told, what is clicked is opened, and all of it is text.
    told = click(notebook, "row 1")
    assert "T = 250" in told and "name = <img src=x onerror=" in told
    notebook.wait_for(f"{PANEL} pre:text('<b>the log</b> of 250')")
    text = notebook.page.locator(PANEL).inner_text()
    assert "Row 1" in text and "FINISHED" in text and "pressure" in text and "<img src=x" in text
    notebook.page.keyboard.press("Escape")
    row = notebook.page.get_by_label("number of a row")
    row.fill("0")
    row.press("Enter")
    notebook.wait_until(f"document.querySelector('{PANEL} strong').textContent === 'Row 0'")
    row.fill("17")
    row.press("Enter")
    notebook.wait_for(f"{PANEL} [role=status]:text(\"'scan' has no row 17.\")")
    notebook.page.locator(f"{PANEL} button[aria-label=close]").press("Escape")
    assert not notebook.page.locator(PANEL).is_visible()

    # It grows while a cell runs, too; and a page that is loaded anew shows all of it.
    notebook.run(5)
    notebook.wait_until(f"{notebook.prompt_of(5)} === '*'")
    (folder / "gate300").touch()
    notebook.wait_until(f"{POINTS} === 4")
    (folder / "free").touch()
    notebook.wait_run(5)
    notebook.save()
    notebook.reload()
    notebook.scroll(3)
    notebook.wait_for(PLOT)
    notebook.wait_until(f"{POINTS} === 4")
    (folder / "gate350").touch()
    notebook.wait_until(f"{POINTS} === 6")

    # A cell that is run again has one plot, not two.
    notebook.run(3)
    notebook.run(4)
    notebook.wait_run(4)
    notebook.wait_until(f"document.querySelectorAll('{PLOT}').length === 1 && {POINTS} === 6")
    assert notebook.page.evaluate("() => window.harmed") is None
    notebook.save()

    # Opened without its kernel, the notebook has the picture and nothing else.
    shutil.copy(folder / notebook.name.rpartition("/")[2], folder / "later.ipynb")
    saved = json.loads((folder / "later.ipynb").read_text())
    assert "widgets" not in saved["metadata"] and (folder / "later.ipynb").stat().st_size < 60_000
    later = open_notebook(name="later.ipynb")
    later.scroll(3)
    later.wait_for(PICTURE)
    later.wait_until(f"{LAB_CELLS}[3].outputArea.node.textContent.includes('model not found')")
    assert later.output(3).strip() == "", "JupyterLab says that below the picture, and nobody sees it"
