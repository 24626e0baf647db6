"""`make refresh`: run the notebooks in JupyterLab; save their outputs, and the pictures for README and docs.

usage: python tools/refresh.py [NOTEBOOK …]
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from lab import Browser, Lab, Notebook

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# Pictures of cells, by a text in their source: of the whole window in mid-sweep, or of the output when all has run.
WINDOWS = {
    "01-quickstart.ipynb": {"%balsam_watch eos": DOCS / "quickstart.png"},
    "04-watching.ipynb": {"%balsam_watch magnet": DOCS / "watch.png"},
}
OUTPUTS = {
    "04-watching.ipynb": {
        "scan.plot(x=": DOCS / "plot.png",
        "scan.plot.heatmap": DOCS / "heatmap.png",
    },
}
LIVE = ".bj-live canvas"
WIDGET = "application/vnd.jupyter.widget-view+json"
PROGRESS = "parseFloat(document.querySelector('.bj-live .bj-done')?.textContent.split('·')[1])"


def run(notebook: Path) -> dict[str, Any]:
    """Run every cell in a site of its own; return the saved notebook, with the paths that users would see."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(notebook, folder))
        with Lab(folder) as lab, Browser(width=1280, height=860) as browser:
            page = browser.open(lab, notebook.name)
            first, last = 0, page.last_code_cell()
            for text, picture in WINDOWS.get(notebook.name, {}).items():
                for cell in range(first, page.find(text) + 1):
                    page.run(cell)
                photograph(page, text, picture)  # before the next cells keep the kernel busy
                first = page.find(text) + 1
            for cell in range(first, last + 1):
                page.run(cell)
            page.wait_run(last, timeout=300)
            page.save()
            for text, picture in OUTPUTS.get(notebook.name, {}).items():
                page.scroll(page.find(text))
                page.photograph(page.find(text), picture)
        text = copy.read_text().replace(lab.env["BALSAM_JUPYTER_HOME"], "~/.local/share/balsam-jupyter")
        text = re.sub(r"/tmp/ipykernel_\d+/\d+\.py", "ipykernel/cell.py", text)  # the files that tracebacks name
        saved: dict[str, Any] = json.loads(text.replace(sys.prefix, "~/balsam-jupyter/.venv"))
        return saved


def photograph(page: Notebook, cell_text: str, picture: Path, percent: int = 40) -> None:
    """Photograph the window with the live view of a cell once `percent` of its tasks have ended."""
    cell = page.find(cell_text)
    page.wait_run(cell)
    page.scroll(cell)
    page.wait_for(LIVE)
    page.wait_until(f"{PROGRESS} >= {percent}")
    page.scroll(max(cell - 2, 0))  # once more: what is above has its final height only now
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
        if "outputs" in cell:  # of a view the copy stays; what is live ended with its kernel
            cell["outputs"] = [one for one in cell["outputs"] if WIDGET not in one.get("data", {})]


def main() -> None:
    for notebook in [Path(name) for name in sys.argv[1:]] or sorted((ROOT / "notebooks").glob("*.ipynb")):
        saved = run(notebook)
        tidy(saved)
        notebook.write_text(json.dumps(saved, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{notebook.name}: {notebook.stat().st_size / 1000:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
