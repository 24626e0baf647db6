"""`make refresh`: run the notebooks in JupyterLab; save their outputs, and the quickstart's picture for the README.

usage: python tools/refresh.py [NOTEBOOK …]
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from lab import Browser, Lab, Notebook

ROOT = Path(__file__).resolve().parent.parent
# The picture is taken in mid-sweep, with the live figure of the cell that holds the text.
PICTURES = {"01-quickstart.ipynb": ("%balsam_watch eos", ROOT / "docs" / "quickstart.png")}
PROGRESS = "document.querySelector('.widget-hprogress .progress-bar')"


def run(notebook: Path) -> dict[str, Any]:
    """Run every cell in a site of its own; return the saved notebook, with the paths that users would see."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(notebook, folder))
        with Lab(folder) as lab, Browser(width=1280, height=860) as browser:
            page = browser.open(lab, notebook.name)
            page.run_all()
            if notebook.name in PICTURES:
                photograph(page, *PICTURES[notebook.name])
            page.wait_run(page.last_code_cell(), timeout=300)
            page.save()
        text = copy.read_text().replace(lab.env["BALSAM_JUPYTER_HOME"], "~/.local/share/balsam-jupyter")
        saved: dict[str, Any] = json.loads(text.replace(sys.prefix, "~/balsam-jupyter/.venv"))
        return saved


def photograph(page: Notebook, cell_text: str, picture: Path, percent: int = 40) -> None:
    """Photograph the live figure of a cell once `percent` of its tasks have ended."""
    cell = page.find(cell_text)
    page.wait_run(cell)
    page.scroll(cell)
    page.wait_for(".js-plotly-plot")
    page.wait_until(f"parseFloat({PROGRESS}?.style.width) >= {percent}")
    page.scroll(max(cell - 3, 0))  # once more: what is above has its final height only now
    page.screenshot(picture)


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
    for notebook in [Path(name) for name in sys.argv[1:]] or sorted((ROOT / "notebooks").glob("*.ipynb")):
        saved = run(notebook)
        tidy(saved)
        notebook.write_text(json.dumps(saved, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{notebook.name}: {notebook.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
