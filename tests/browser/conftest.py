"""One JupyterLab and one browser for all tests of this folder; each test opens a notebook of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Browser, Lab, Notebook, chromium
from probe import SCRIPT

PICTURES = Path(__file__).resolve().parents[2] / "build" / "screenshots"

# A site of its own name, a launcher that has begun, and an ensemble of which every tenth task fails.
SETUP = """
import time
from balsam_jupyter import ApplicationDefinition, BalsamExecutor, Sweep, open_site

class Wave(ApplicationDefinition):
    def run(self, x: int, T: int = 300, takes: float = 0.1):
        time.sleep(takes)
        if x % 10 == 7:
            raise ValueError(f"<img src=x onerror='window.harmed=1'> has no state {{x}}")
        return {{"height": x * T, "width": x % 7}}

exctr = BalsamExecutor(open_site({site!r}))
ensemble = exctr.submit_sweep(Wave, Sweep.grid(x=range({tasks}), takes=[{takes}]), name="waves")
if not any(one.state == "running" for one in exctr.site.engine.allocations()):
    exctr.submit_allocation({site!r}, 1, 30, job_mode="serial")
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
    with Lab(tmp_path_factory.mktemp("lab")) as started:
        yield started


# Of the package, not of the session: while Playwright is there, no other test can have an event loop.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with Browser(script=SCRIPT) as started:
        yield started


@pytest.fixture
def open_notebook(lab: Lab, browser: Browser, request: pytest.FixtureRequest) -> Iterator[Callable[..., Notebook]]:
    """Open a notebook of these cells; its first is `SETUP` at a site of the test's own."""
    opened: list[Notebook] = []
    site = "-".join(["at", *request.node.name.split("_")[1:3]])[:30].strip("-")

    def open_it(*cells: str, tasks: int = 40, takes: float = 0.05) -> Notebook:
        setup = SETUP.format(site=site, tasks=tasks, takes=takes)
        opened.append(browser.open(lab, lab.write(f"{site}-{len(opened)}.ipynb", setup, *cells)))
        return opened[-1]

    yield open_it
    for notebook in opened:
        notebook.close()


@pytest.fixture(scope="package", autouse=True)
def no_launcher_stays(lab: Lab) -> Iterator[None]:
    """End the allocations of all sites of the lab."""
    yield
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BALSAM_JUPYTER_HOME", lab.env["BALSAM_JUPYTER_HOME"])
        from balsam_jupyter import open_site
        from balsam_jupyter.engines.embedded.site import known_sites

        for name in known_sites():
            site = open_site(name)
            for allocation in site.engine.allocations():
                if allocation.state in ("pending_submission", "queued", "running", "pending_deletion"):
                    assert site.engine.revoke(allocation.id, 30.0)
            site.close()


@pytest.fixture
def photograph(request: pytest.FixtureRequest) -> Callable[[Notebook, str], None]:
    """Keep a picture of the page, in light and in dark theme, in build/screenshots."""

    def take(notebook: Notebook, name: str, settled: Any = None) -> None:
        PICTURES.mkdir(parents=True, exist_ok=True)
        for theme in ("Dark", "Light"):
            notebook.theme(theme)
            notebook.wait_until(f"document.querySelectorAll('.bj-dark').length {'>' if theme == 'Dark' else '==='} 0")
            notebook.screenshot(PICTURES / f"{name}-{theme.lower()}.png")

    return take
