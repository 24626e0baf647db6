"""Every example of the guides for users is run as it stands there, in one kernel each, on a real launcher."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from balsam_jupyter import open_site

from .test_cli_docs import parsed

DOCS = Path(__file__).resolve().parent.parent / "docs"
_NAMES = ("jobs.md", "sweeps.md", "ensembles.md", "adaptive.md", "cost-and-provenance.md", "analytics.md")
GUIDES = {name: (DOCS / name).read_text() for name in _NAMES}
[SETTINGS] = re.findall(r"```yaml\n(.*?)```", GUIDES["jobs.md"], re.DOTALL)
LIVE = ("pending_submission", "queued", "running", "pending_deletion")


def cells(guide: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", GUIDES[guide], re.DOTALL)


def promised(cell: str) -> str:
    """What the cell says it prints: the comment behind each print, which is one line of output."""
    lines = re.findall(r"^ *print\(.*\)(?:  # (.*))?$", re.sub(r"^class .*?(?=^\S)", "", cell, flags=re.M | re.S), re.M)
    assert all(lines), "a print without what it prints"
    return "".join(f"{line}\n" for line in lines)


@pytest.mark.kernel
@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide(guide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BALSAM_JUPYTER_HOME", str(tmp_path / "sites"))
    (tmp_path / "guide").mkdir()
    settings = re.findall(r"```yaml\n(.*?)```", GUIDES[guide], re.DOTALL) or [SETTINGS]
    (tmp_path / "guide" / "settings.yml").write_text(settings[0])
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells(guide)])
    try:
        here = {"metadata": {"path": str(tmp_path)}}
        NotebookClient(notebook, timeout=120, kernel_name="python3", resources=here).execute()
    finally:
        site = open_site("guide", tmp_path / "guide")
        site.service.stop(revoke=True)
        for one in site.engine.allocations():
            assert one.state not in LIVE or site.engine.revoke(one.id, 30.0)
        site.close()
    for cell in notebook.cells:
        streams = {"stdout": "", "stderr": ""}
        for output in cell.outputs:
            if output.output_type == "stream":
                streams[output.name] += output.text
        printed = [line for line in streams["stdout"].splitlines(True) if not line.startswith("Allocation")]
        assert "".join(printed) == promised(cell.source), streams["stderr"]


@pytest.mark.parametrize("guide", GUIDES)
def test_a_guide_prints_something(guide: str) -> None:
    assert sum(len(promised(cell).splitlines()) for cell in cells(guide)) > 5


@pytest.mark.parametrize("line", sorted(set(re.findall(r"`(balsam-jupyter [^`]+)`", "".join(GUIDES.values())))))
def test_a_line_for_the_terminal_is_right(line: str) -> None:
    assert parsed(shlex.split(line.replace("ID", "7"))).callback is not None
