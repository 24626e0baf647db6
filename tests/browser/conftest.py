"""One JupyterLab and one browser for all tests of this folder; each test opens a notebook of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab import Browser, Lab, Notebook, chromium
from probe import SCRIPT

from balsam_jupyter import open_site
from balsam_jupyter.engines.embedded.site import known_sites
from tests.conftest import LIVE

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "build" / "screenshots"

# Run by every kernel: each folder of notebooks has its own list of sites.
HOME = """
import os
os.environ["BALSAM_JUPYTER_HOME"] = os.path.abspath("home")
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.slow)
            reason = "no Chromium; on Debian: apt-get install chromium"
            item.add_marker(pytest.mark.skipif(chromium() is None, reason=reason))


@pytest.fixture(scope="package")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("lab"), {"PYTHONPATH": str(ROOT)})
    startup = made.state / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "home.py").write_text(HOME)
    with made:
        yield made


# Of the package, not of the session: while Playwright is there, no other test can have an event loop.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with Browser(script=SCRIPT) as started:
        yield started


@pytest.fixture
def folder(lab: Lab, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder for a test's notebook, below the server's. Its sites are its own; no launcher outlives the test."""
    made = lab.root / request.node.name.removeprefix("test_")[:40]
    made.mkdir()
    yield made
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BALSAM_JUPYTER_HOME", str(made / "home"))
        for name in known_sites():
            engine = open_site(name).engine
            for allocation in engine.allocations():
                if allocation.state in LIVE:
                    assert engine.revoke(allocation.id, 30.0)
            engine.close()


@pytest.fixture
def open_notebook(lab: Lab, browser: Browser, folder: Path) -> Iterator[Callable[..., Notebook]]:
    """Open a notebook with these cells, or one that is in the folder by its name."""
    opened: list[Notebook] = []

    def open_it(*cells: str, name: str = "") -> Notebook:
        path = f"{folder.name}/{name or f'notebook-{len(opened)}.ipynb'}"
        opened.append(browser.open(lab, path if name else lab.write(path, *cells)))
        return opened[-1]

    yield open_it
    for notebook in opened:
        notebook.close()


@pytest.fixture
def photograph() -> Callable[[Notebook, str], None]:
    """Keep a picture of the page, in light and in dark theme, in build/screenshots."""

    def take(notebook: Notebook, name: str) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        for theme in ("Dark", "Light"):
            notebook.theme(theme)
            notebook.wait_until(f"document.querySelectorAll('.bj-dark').length {'>' if theme == 'Dark' else '==='} 0")
            notebook.screenshot(PICTURES / f"{name}-{theme.lower()}.png")

    return take
