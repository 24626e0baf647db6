"""Forms in a real JupyterLab: filled in, submitted, and the line they show pasted into a cell."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lab import CELLS, Notebook

SOURCES = [
    """%load_ext balsam_jupyter
from typing import Literal
from balsam_jupyter import ApplicationDefinition, BalsamExecutor, open_site
open_site("here", "site")

class melt(ApplicationDefinition):
    "Melts <b>argon</b>."
    parameters = {"T": {"help": "in <i>kelvin</i>"}}

    def run(self, T: float, method: Literal["nve", "<nvt>"] = "nve", note: str = ""):
        return T

exctr = BalsamExecutor()
exctr.register_app(melt)""",
    "form = exctr.sweep_form('melt')\nform",
    "%balsam_form --allocation",
    "pass",
    "form.result",
    "import time; time.sleep(3)",
]


@pytest.fixture
def notebook(open_notebook: Callable[..., Notebook]) -> Notebook:
    return open_notebook(*SOURCES)


def form(notebook: Notebook, title: str) -> Any:
    return notebook.page.locator(".bjf", has_text=title)


def code(title: str) -> str:
    """JavaScript for the code that a form shows, once it is the answer to what was typed last."""
    return f"""([...document.querySelectorAll('.bjf')].find((one) => one.innerText.includes('{title}'))
      ?.querySelector('.bjf-code')?.innerText ?? '')"""


def paste(notebook: Notebook, cell: int, text: str) -> None:
    notebook.page.evaluate("([cell, text]) => " + CELLS + "[cell].model.sharedModel.setSource(text)", [cell, text])


def test_a_form_is_filled_in_and_submitted_and_its_line_keeps_the_rows(notebook: Notebook, folder: Path) -> None:
    page = notebook.page
    for cell in (0, 1, 2):
        notebook.run(cell)
    notebook.wait_run(2)

    # A sweep: what is wrong stands by its field; the button says how many tasks there are.
    notebook.scroll(1)
    sweep = form(notebook, "Sweep of melt")
    sweep.get_by_label("T", exact=True).fill("hot")
    notebook.wait_until("document.querySelector('[aria-invalid=true]') !== null")
    assert "A number, not 'hot'." in sweep.inner_text()
    assert sweep.get_by_label("T *").get_attribute("aria-invalid") == "true"
    assert sweep.locator("b").count() == 1 and sweep.locator("i").count() == 0, "text is text"
    sweep.get_by_label("T *").select_option("range")
    for label, value in (("from", "300"), ("to", "500"), ("step", "100")):
        sweep.get_by_label(f"T: {label}", exact=True).fill(value)
    sweep.get_by_label("method", exact=True).select_option("list")
    for name in ("nve", "<nvt>"):
        sweep.get_by_label(name, exact=True).check()
    sweep.get_by_label("note", exact=True).select_option("value")
    sweep.get_by_label("note", exact=True).nth(1).fill('it\'s "quoted" $HOME {x} <img src=x onerror=alert(1)>')
    sweep.get_by_label("Ensemble").fill("scan")
    button = sweep.get_by_role("button", name="Submit 6 tasks")
    button.wait_for()
    notebook.wait_until(f"{code('Sweep of melt')}.includes('--name scan')")
    line = sweep.locator(".bjf-code").inner_text()
    assert line.startswith("%%balsam_submit melt --name scan\n{\n    'T': range(300, 501, 100),\n"), line

    # Without a mouse: the button has the focus, and a second press while the first is on its way is none.
    button.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    notebook.wait_until("document.querySelector('.bjf-done')?.innerText.includes('6 new rows')")
    notebook.run(4)
    notebook.wait_run(4)
    assert "6 rows: 6 new" in notebook.output(4) or "6 tasks" in notebook.output(4), notebook.output(4)

    # The line it shows, pasted into a cell, keeps the rows; so does the Python.
    for text in (line, None):
        if text is None:
            notebook.scroll(1)
            sweep.get_by_role("button", name="Python").click()
            text = sweep.locator(".bjf-code").inner_text()
            assert "BalsamExecutor('here').submit_sweep(" in text
        paste(notebook, 3, text)
        before = notebook.prompt(3)
        notebook.run(3)
        notebook.wait_until(f"{notebook.prompt_of(3)} !== {before!r} && /^\\d+$/.test({notebook.prompt_of(3)})")
        assert not [one for one in notebook.outputs(3) if one["output_type"] == "error"], notebook.outputs(3)
        paste(notebook, 4, "(_.new, _.kept)")
        notebook.run(4)
        notebook.wait_until(f"({CELLS}[4].outputArea?.node.innerText ?? '').includes('(0, 6)')")

    # An allocation: the price before the click, and one click is one allocation.
    notebook.scroll(2)
    allocation = form(notebook, "Allocation")
    allocation.get_by_label("Minutes").fill("30")
    notebook.wait_until(
        "[...document.querySelectorAll('.bjf')].some((one) => one.innerText.includes('≈ 0.5 node-hours'))"
    )
    assert allocation.locator(".bjf-code").inner_text() == "%balsam_allocate -n 1 -t 30 -j serial"
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    allocation.get_by_role("button", name="Copy").click()
    allocation.get_by_text("Copied").wait_for()
    assert page.evaluate("() => navigator.clipboard.readText()") == "%balsam_allocate -n 1 -t 30 -j serial"
    allocation.get_by_role("button", name="Ask for 1 node, 30 min").dblclick()
    notebook.wait_until(
        "[...document.querySelectorAll('.bjf-done')].some((one) => one.innerText.includes('Allocation 1'))"
    )
    paste(notebook, 4, "print(len(exctr.site.engine.allocations()), 'asked for')\n_ = %balsam_revoke all")
    notebook.run(4)
    notebook.wait_until(f"({CELLS}[4].outputArea?.node.innerText ?? '').includes('1 asked for')")

    # Subshells answer while a cell runs.
    notebook.run(5)
    notebook.scroll(2)
    allocation.get_by_label("Minutes").fill("40")
    notebook.wait_until(f"{code('Allocation')}.includes('-t 40') && {notebook.prompt_of(5)} === '*'")

    # The page again: what was typed is there. The file: the code that was submitted, without markup of the user's.
    notebook.save()
    notebook.reload()
    notebook.scroll(1)
    notebook.wait_until("document.querySelector('.bjf input')?.value === '300'")
    saved = json.loads((folder / "notebook-0.ipynb").read_text())
    copy = "".join(text for output in saved["cells"][1]["outputs"] for text in output["data"].get("text/html", []))
    assert "%%balsam_submit melt --name scan" in copy and "6 new rows" in copy and "<img" not in copy

    # A new kernel: the copy instead of an error.
    kernel = "window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
    page.evaluate(f"() => {kernel}.restart()")
    notebook.reload()
    notebook.scroll(1)
    notebook.wait_until("document.body.innerText.includes('Run this cell again to open the form.')")
    assert "model not found" not in page.locator("body").inner_text()

    # Where the front end or the kernel has no subshells, the form says what it waits for.
    page.evaluate(f"() => {{ {kernel}.commsOverSubshells = 'disabled'; }}")
    for cell in (0, 2):
        notebook.run(cell)
    notebook.wait_run(2)
    notebook.scroll(2)
    allocation.get_by_role("button", name="Ask for 1 node, 10 min").wait_for()
    notebook.run(5)
    allocation.get_by_label("Minutes").fill("50")
    allocation.get_by_text("The kernel is busy").wait_for()
    notebook.wait_until(f"{code('Allocation')}.includes('-t 50')")
