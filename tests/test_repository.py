"""The house rules that a program can check: rooms, file sizes, nothing of the author's machine."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "balsam_jupyter"
SOURCES = sorted(PACKAGE.rglob("*.py"))

JUPYTER = ("IPython", "ipykernel", "ipywidgets", "anywidget", "jupyter_client", "jupyter_server", "plotly", "traitlets")
ABOVE_THE_LINE = ("magics", "widgets", "server")
# What engines/ may use of the rest of the package.
ENGINE_ROOM = ("engines", "templates", "codec", "outputs", "shelltext", "models", "accounts", "past", "disk", "errors")


def imports(path: Path, late: bool = True) -> set[str]:
    """Absolute names of all modules a file imports; without `late` only those it imports when it is imported."""
    package = [*path.relative_to(ROOT).with_suffix("").parts[:-1]]
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree) if late else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms_used(path: Path, late: bool = True) -> set[str]:
    parts = (name.split(".") for name in imports(path, late) if name.startswith("balsam_jupyter."))
    return {part[1] for part in parts if (PACKAGE / part[1]).is_dir() or (PACKAGE / f"{part[1]}.py").exists()}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms(path: Path) -> None:
    here = room(path)
    if here in ABOVE_THE_LINE or here == "__init__":
        return
    jupyter = {name for name in imports(path) if name.split(".")[0] in JUPYTER}
    assert not jupyter, f"{here} is below the line and imports {jupyter}"
    assert not rooms_used(path) & set(ABOVE_THE_LINE)
    if here == "engines":
        assert rooms_used(path) <= set(ENGINE_ROOM)


def test_rooms_import_only_from_rooms_below() -> None:
    """The rows of the table in docs/architecture.md, from top to bottom, name every room."""
    table = (ROOT / "docs" / "architecture.md").read_text().split("| room |")[1].split("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines()[1:]]
    rows = [[name.removesuffix(".py").rstrip("/") for name in re.findall(r"`([^`]+)`", cell)] for cell in cells]
    level = {
        room(path): number
        for path in SOURCES
        for number, names in enumerate(rows)
        if any(fnmatch(room(path), name) for name in names)
    }
    assert {room(path) for path in SOURCES} - {*level} == {"__init__"}
    named = {name for names in rows for name in names}
    assert not [name for name in named if not any(fnmatch(room(path), name) for path in SOURCES)]
    upwards = {
        (room(path), used)
        for path in SOURCES
        if room(path) != "__init__"
        for used in rooms_used(path)
        if level[used] < level[room(path)]
    }
    assert upwards == {("apps", "api")}


def test_no_import_circle_between_rooms() -> None:
    uses: dict[str, set[str]] = {}
    for path in SOURCES:
        if room(path) != "__init__":
            uses.setdefault(room(path), set()).update(rooms_used(path, late=False) - {room(path)})

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        for below in uses.get(name, ()):
            visit(below, (*trail, name))

    for name in uses:
        visit(name, ())


def test_never_imports_balsam() -> None:
    assert not [path for path in SOURCES if {name.split(".")[0] for name in imports(path)} & {"balsam", "libensemble"}]


def test_files_are_short() -> None:
    folders = [PACKAGE, ROOT / "tests", ROOT / "tools", ROOT / "benchmarks"]
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in folders
        for path in folder.rglob("*.py")
        if (lines := len(path.read_text().splitlines())) >= 400
    }
    assert not long


def committed() -> list[Path]:
    """What git has, or would add; where this is no checkout, everything but what `make` makes."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if run.returncode == 0:
        return [path for name in run.stdout.splitlines() if (path := ROOT / name).is_file()]
    made = re.compile(r"\.venv|\.git$|\..*_cache|\.hypothesis|build$|dist$|__pycache__")
    folders = [path for path in ROOT.iterdir() if not made.match(path.name)]
    below = [path for folder in folders if folder.is_dir() for path in folder.rglob("*")]
    return [path for path in folders + below if path.is_file() and "__pycache__" not in path.parts]


def test_nothing_of_a_machine() -> None:
    """No home, scratch or work folder of whoever wrote it, and no package registry but by its name."""
    pattern = re.compile(
        rb"/(?:home|Users|work|root)/\w|\.pyenv|(?:index|find|extra-index)-(?:url|links)|pypi\.org/simple"
    )
    here = Path(__file__).resolve()
    found = {
        str(path.relative_to(ROOT)): sorted(set(pattern.findall(path.read_bytes())))
        for path in committed()
        if path != here and pattern.search(path.read_bytes())
    }
    assert not found


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_notebook_is_light_and_whole(path: Path) -> None:
    notebook = json.loads(path.read_text())
    assert path.stat().st_size < 200_000  # dashboards and all
    assert "widgets" not in notebook["metadata"]
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "not run from top to bottom"
    assert not [output for cell in code for output in cell["outputs"] if output["output_type"] == "error"]


def test_core_imports_no_jupyter_and_is_quick() -> None:
    code = "import sys, balsam_jupyter; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    heavy = {*JUPYTER, "pandas", "numpy", "jinja2", "httpx", "cloudpickle"}
    assert not heavy & set(loaded.split())


def test_public_names() -> None:
    import balsam_jupyter

    assert 5 < len(balsam_jupyter.__all__) <= 20
    assert all(getattr(balsam_jupyter, name) is not None for name in balsam_jupyter.__all__)
