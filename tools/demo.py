"""`make demo`: run the quickstart notebook without a browser, then read what it left from this process."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "notebooks" / "01-quickstart.ipynb"
FOLDER = ROOT / "build" / "demo"


def run_notebook(page: Path) -> None:
    """Run every cell in a new kernel and write the result as one HTML file."""
    import nbformat
    from nbclient import NotebookClient
    from nbconvert import HTMLExporter

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    print(f"Running {NOTEBOOK.relative_to(ROOT)} ({cells} cells, about a minute) …", flush=True)
    client = NotebookClient(
        notebook,
        timeout=300,
        resources={"metadata": {"path": str(FOLDER)}},
        extra_arguments=["--log-level=ERROR"],
        store_widget_state=False,  # the page holds pictures and tables only, and opens without a server
    )
    client.execute()
    draw_watches(notebook)
    page.write_text(HTMLExporter().from_notebook_node(notebook)[0], encoding="utf-8")


def draw_watches(notebook: Any) -> None:
    """Put the last picture where a live figure was: nbclient drops what a cell shows after it has run."""
    from nbformat.v4 import new_output

    from balsam_jupyter import open_site
    from balsam_jupyter.widgets.watch import View

    for cell in notebook.cells:
        if cell.source.startswith("%balsam_watch "):
            view = View(open_site(), cell.source.split()[1])
            cell.outputs = [new_output("display_data", view._repr_mimebundle_())]


def show_ensembles() -> None:
    """The tables and states, from the store: this process never saw the notebook's kernel."""
    import pandas as pd

    from balsam_jupyter import BalsamExecutor, open_site

    site = open_site()
    exctr = BalsamExecutor(site)
    for ensemble in exctr.ensembles():
        counts = {state: number for state, number in ensemble.counts().items() if number}
        print(f"\n{ensemble.name}: " + ", ".join(f"{number} {state}" for state, number in counts.items()))
        with pd.option_context("display.width", 120, "display.max_columns", 12, "display.max_rows", 12):
            print(ensemble.to_dataframe())


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    os.environ["BALSAM_JUPYTER_HOME"] = str(FOLDER / "home")  # a site of the demo's own, new each time
    page = FOLDER / "quickstart.html"
    start = time.monotonic()
    run_notebook(page)
    show_ensembles()
    print("(In the last one a task fails on purpose: the notebook shows how its log tells why.)")
    print(
        f"\nDone in {time.monotonic() - start:.0f} s. Open {page.relative_to(ROOT)} in a browser to see the notebook,"
    )
    print("or start JupyterLab on the notebooks: make lab")


if __name__ == "__main__":
    main()
