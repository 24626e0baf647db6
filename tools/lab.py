"""Drive a real JupyterLab in a real browser: for tests, and for the pictures in the documentation.

    with Lab(folder) as lab, Browser() as browser:
        notebook = browser.open(lab, "quickstart.ipynb")
        notebook.run_all()
        notebook.wait_for(".js-plotly-plot")
        notebook.screenshot("picture.png")

The server, its kernels and its settings live in a temporary directory; nothing of the user's is read.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

READY = """() => {
  const w = window.jupyterapp?.shell?.currentWidget, s = w?.sessionContext;
  return !!(s?.isReady && s.session?.kernel?.connectionStatus === 'connected' && s.session.kernel.status === 'idle');
}"""

CELLS = "window.jupyterapp.shell.currentWidget.content.widgets"


def chromium() -> str | None:
    """Path of the machine's own browser; Playwright is never asked to download one."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


class Lab:
    """One JupyterLab server on a free port of this machine, in a process group of its own."""

    def __init__(self, root: str | Path, env: dict[str, str] | None = None) -> None:
        self.root = Path(root)
        self.state = Path(tempfile.mkdtemp(prefix="lab-"))
        self.token = secrets.token_hex(16)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.log = self.state / "lab.log"
        folders = {
            "JUPYTER_CONFIG_DIR": "config",
            "JUPYTER_DATA_DIR": "data",
            "JUPYTER_RUNTIME_DIR": "runtime",
            "JUPYTERLAB_SETTINGS_DIR": "settings",
            "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
            "IPYTHONDIR": "ipython",
            "BALSAM_JUPYTER_HOME": "balsam",
        }
        self.env = os.environ | {key: str(self.state / name) for key, name in folders.items()} | (env or {})

    def __enter__(self) -> Lab:
        quiet = self.state / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
        quiet.parent.mkdir(parents=True)
        quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
        command = [
            sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1",
            f"--port={self.port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={self.token}",
            f"--ServerApp.root_dir={self.root}", "--LabApp.expose_app_in_browser=True",
        ]  # fmt: skip
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=self.env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        request = urllib.request.Request(self.url + "api/status", headers={"Authorization": f"token {self.token}"})
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(self.log.read_text())
            with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=2) as answer:
                json.load(answer)
                return self
            time.sleep(0.1)
        self.__exit__()
        raise TimeoutError(self.log.read_text())

    def write(self, name: str, *cells: str) -> str:
        """Make a notebook of code cells in the server's folder; returns its name."""
        metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
        made: list[dict[str, Any]] = [
            {"cell_type": "code", "id": f"cell-{number}", "execution_count": None, "metadata": {}, "outputs": [],
             "source": source}
            for number, source in enumerate(cells)
        ]  # fmt: skip
        notebook = {"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
        (self.root / name).write_text(json.dumps(notebook), encoding="utf-8")
        return name

    def __exit__(self, *exc: object) -> None:
        self.process.send_signal(signal.SIGTERM)  # a clean end, which ends the kernels too
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        shutil.rmtree(self.state, ignore_errors=True)


class Browser:
    """The machine's Chromium, headless, under Playwright. `script` runs in every page before its own scripts."""

    def __init__(self, width: int = 1400, height: int = 1000, script: str = "") -> None:
        self.viewport: Any = {"width": width, "height": height}
        self.script = script

    def __enter__(self) -> Browser:
        from playwright.sync_api import sync_playwright

        path = chromium()
        if path is None:
            raise RuntimeError("No Chromium on this machine; on Debian: apt-get install chromium fonts-dejavu-core")
        self._manager = sync_playwright()
        self._playwright = self._manager.__enter__()
        quiet = ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
        self._browser = self._playwright.chromium.launch(executable_path=path, args=quiet)
        return self

    def __exit__(self, *exc: object) -> None:
        self._browser.close()
        self._manager.__exit__(None, None, None)

    def page(self) -> Page:
        """A fresh page."""
        return self._browser.new_page(viewport=self.viewport)

    def open(self, lab: Lab, notebook: str) -> Notebook:
        """Open a notebook of the server alone in a fresh page, and wait until its kernel is idle."""
        page = self.page()
        if self.script:
            page.add_init_script(self.script)
        page.goto(f"{lab.url}doc/tree/{notebook}?token={lab.token}&reset")
        page.wait_for_function(READY, timeout=90_000)
        return Notebook(page, notebook)


class Notebook:
    """A notebook open in JupyterLab. Cells are numbered from 0, markdown cells included."""

    def __init__(self, page: Any, name: str) -> None:
        self.page = page
        self.name = name

    def command(self, name: str) -> None:
        """Run a command of JupyterLab without waiting for its end."""
        self.page.evaluate(f"void window.jupyterapp.commands.execute({name!r})")

    def run_all(self) -> None:
        self.command("notebook:run-all-cells")

    def run(self, cell: int) -> None:
        """Run one cell; come back at once."""
        self.page.evaluate(f"() => {{ window.jupyterapp.shell.currentWidget.content.activeCellIndex = {cell}; }}")
        self.command("notebook:run-cell")

    def interrupt(self) -> None:
        self.command("notebook:interrupt-kernel")

    @staticmethod
    def prompt_of(cell: int) -> str:
        """JavaScript for what stands beside a code cell: a number, ``*`` while it runs or waits, or nothing."""
        return f"({CELLS}[{cell}].prompt ?? '').trim()"

    def prompt(self, cell: int) -> str:
        """What stands beside a code cell now."""
        text: str = self.page.evaluate(f"() => {self.prompt_of(cell)}")
        return text

    def wait_run(self, cell: int, timeout: float = 120) -> None:
        """Wait until a code cell has run."""
        self.wait_until(f"/^\\d+$/.test({self.prompt_of(cell)})", timeout)

    def output(self, cell: int) -> str:
        """The visible text of a code cell's outputs."""
        text: str = self.page.evaluate(f"() => {CELLS}[{cell}].outputArea?.node.innerText ?? ''")
        return text

    def outputs(self, cell: int) -> list[dict[str, Any]]:
        """A code cell's outputs as the notebook file would hold them."""
        found: list[dict[str, Any]] = self.page.evaluate(f"() => {CELLS}[{cell}].model.outputs?.toJSON() ?? []")
        return found

    def wait_for(self, selector: str, timeout: float = 60) -> Any:
        """Wait until something is visible in the page; returns its locator."""
        found = self.page.locator(selector).first
        found.wait_for(state="visible", timeout=timeout * 1000)
        return found

    def wait_until(self, expression: str, timeout: float = 60) -> None:
        """Wait until a JavaScript expression is true."""
        self.page.wait_for_function(f"() => {expression}", timeout=timeout * 1000)

    def find(self, text: str) -> int:
        """The number of the first cell whose source holds `text`."""
        sources: list[str] = self.page.evaluate(f"() => {CELLS}.map(cell => cell.model.sharedModel.getSource())")
        found = [number for number, source in enumerate(sources) if text in source]
        assert found, f"no cell holds {text!r}"
        return found[0]

    def last_code_cell(self) -> int:
        last: int = self.page.evaluate(f"() => {CELLS}.findLastIndex(cell => cell.model.type === 'code')")
        return last

    def scroll(self, cell: int) -> None:
        """Bring a cell to the top of the window (JupyterLab takes cells out of the page that are far from it)."""
        self.page.evaluate(f"() => window.jupyterapp.shell.currentWidget.content.scrollToItem({cell}, 'start')")
        self.wait_until(f"{CELLS}[{cell}].node.isConnected")
        self.page.evaluate(f"() => {CELLS}[{cell}].node.scrollIntoView({{block: 'start'}})")  # that was an estimate

    def save(self) -> None:
        """Save the notebook to its file, and wait until it is there."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.context.save()")

    def reload(self) -> None:
        self.page.reload()
        self.page.wait_for_function(READY, timeout=90_000)

    def restart_kernel(self) -> None:
        """Give the notebook a new kernel, as the menu does but without its question; outputs stay."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
        self.page.wait_for_function(READY, timeout=90_000)

    def theme(self, name: str) -> None:
        """Have JupyterLab in its theme "Light" or "Dark"."""
        light = str(name == "Light").lower()
        self.page.evaluate(
            "name => window.jupyterapp.commands.execute('apputils:change-theme', {theme: name})", f"JupyterLab {name}"
        )
        self.wait_until(f"document.body.dataset.jpThemeLight === '{light}'")

    def close(self) -> None:
        """End the kernel and leave the page."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        self.page.close()

    def screenshot(self, path: str | Path) -> None:
        self.page.screenshot(path=str(path))

    def photograph(self, cell: int, path: str | Path) -> None:
        """A picture of a code cell's outputs."""
        self.page.evaluate_handle(f"() => {CELLS}[{cell}].outputArea.node").as_element().screenshot(path=str(path))
