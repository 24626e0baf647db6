"""`make refresh`: run the quickstart in JupyterLab; save its outputs, and its picture for the README.

usage: python tools/refresh.py [NOTEBOOK [CELL_TEXT [PICTURE]]]

The picture is taken in mid-sweep, with the live figure of the cell that holds CELL_TEXT.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from lab import Browser, Lab

ROOT = Path(__file__).resolve().parent.parent
DEFAULTS = ["notebooks/01-quickstart.ipynb", "%balsam_watch eos", "docs/quickstart.png"]
PROGRESS = "document.querySelector('.widget-hprogress .progress-bar')"


def run(notebook: Path, cell_text: str, picture: Path, percent: int = 40) -> dict[str, Any]:
    """Run every cell; photograph the live figure once `percent` of its tasks have ended; return the saved notebook."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(notebook, folder))
        with Lab(folder) as lab, Browser(width=1280, height=860) as browser:
            page = browser.open(lab, notebook.name)
            page.run_all()
            cell = page.find(cell_text)
            page.wait_run(cell)
            page.scroll(cell)
            page.wait_for(".js-plotly-plot")
            page.wait_until(f"parseFloat({PROGRESS}?.style.width) >= {percent}")
            page.scroll(max(cell - 3, 0))  # once more: what is above has its final height only now
            page.screenshot(picture)
            page.wait_run(page.last_code_cell())
            page.save()
        saved: dict[str, Any] = json.loads(copy.read_text())
        return saved


def tidy(notebook: dict[str, Any]) -> None:
    """Leave only what the next run would write too: no widget state, no times, no version of this machine's Python."""
    notebook["metadata"] = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook["cells"]:
        cell["metadata"] = {key: value for key, value in cell["metadata"].items() if key == "tags"}
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                raise SystemExit(f"{output['ename']}: {output['evalue']}")


def main() -> None:
    given = sys.argv[1:]
    notebook, text, picture = given + DEFAULTS[len(given) :]
    saved = run(ROOT / notebook, text, ROOT / picture)
    tidy(saved)
    (ROOT / notebook).write_text(json.dumps(saved, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for path in (notebook, picture):
        print(f"{path}: {(ROOT / path).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
