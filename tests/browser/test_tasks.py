"""The task table, a task and its log in a real JupyterLab in a real browser, while tasks run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lab import Notebook

HOSTILE = "<img src=x onerror=window.hacked=1>"
# Tasks that write colours, wait to be let go, and then end; number 3 with an error. 500,000 more are only stored.
CELLS = [
    f"""
from pathlib import Path
from balsam_jupyter import ApplicationDefinition, BalsamExecutor, Sweep, open_site
from tests.task_view import TaskView

site = open_site("here", Path("site").absolute())
exctr = BalsamExecutor(site)

class Noisy(ApplicationDefinition):
    command_template = "sh {{{{ script }}}} {{{{ n }}}} {{{{ name }}}}"

exctr.register_app(Noisy)
script = [str(Path("noisy.sh").absolute())]
exctr.submit_sweep("Noisy", Sweep.grid(n=range(20), script=script, name=[{HOSTILE!r}]), name="noisy")
allocation = exctr.submit_allocation("here", 1, 10, job_mode="serial")
noisy = TaskView(site, "noisy")
noisy""",
    """
exctr.submit_sweep("Noisy", Sweep.grid(n=range(500_000), script=["x"], name=["y"]), name="many")
TaskView(site, "many")""",
    "import time; time.sleep(10)",
]
SCRIPT = r"""printf '\033[1;32mbegun\033[0m <b>%s</b> \033[38;5;208morange\033[0m\n' "$1"
until [ -e ../../../../go ]; do printf 'step\n'; sleep 0.2; done
printf 'progress 10%%\rprogress 100%%\n'
[ "$1" != 3 ]
"""


@pytest.fixture
def notebook(open_notebook: Callable[..., Notebook], folder: Path) -> Iterator[Notebook]:
    (folder / "noisy.sh").write_text(SCRIPT)
    yield open_notebook(*CELLS)
    (folder / "go").touch()


def texts(selector: str) -> str:
    return f"[...document.querySelectorAll('{selector}')].filter(one => one.offsetParent).map(one => one.innerText)"


def test_tasks_are_watched_one_is_read_and_killed(notebook: Notebook, folder: Path) -> None:
    page = notebook.page
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    notebook.run(0)
    notebook.wait_for(".bt-row")
    notebook.wait_until(f"{texts('.bt-row')}.some(text => text.includes('RUNNING'))")
    assert page.locator(".bt-count").inner_text() == "20 tasks"

    # A name is text, whatever it says, in the table and in the detail.
    page.locator(".bt-row", has_text="RUNNING").first.click()
    notebook.wait_until(f"{texts('.bt-line')}.length > 3")
    assert HOSTILE in page.locator(".bt-values").first.inner_text()
    assert page.evaluate("[window.hacked, document.querySelectorAll('.bt-tasks img, .bt-tasks b > b').length]") == [
        None,
        0,
    ]

    # The log has colours, is followed while it grows, and knows no markup.
    first = page.locator(".bt-line").first
    assert first.inner_text().startswith("begun <b>")
    assert "bt-a-bold" in first.locator("span").first.get_attribute("class")
    assert first.locator("span").nth(1).evaluate("one => one.style.color") == "rgb(255, 135, 0)"
    before = page.locator(".bt-line").count()
    notebook.wait_until(f"{texts('.bt-line')}.length > {before + 3}")

    # What a button will do is said before it is done.
    page.locator(".bt-detail-head button", has_text="Kill").click()
    assert "SIGTERM" in page.locator(".bt-what").inner_text()
    page.keyboard.press("Escape")
    assert page.locator(".bt-what").count() == 0 and "RUNNING" in page.locator(".bt-title").inner_text()
    page.locator(".bt-detail-head button", has_text="Kill").click()
    page.locator(".bt-sure").click()
    notebook.wait_until("/USER_KILLED/.test(document.querySelector('.bt-title').innerText)")
    notebook.wait_until(f"{texts('.bt-row')}[0].includes('KILLED')")

    # The others end; the table follows without a cell, and the filters with it.
    (folder / "go").touch()
    page.locator(".bt-chip", has_text="FAILED").click()
    notebook.wait_until("document.querySelector('.bt-count').innerText === '1 found'")
    page.locator(".bt-grid").focus()
    page.keyboard.press("/")
    page.keyboard.type("nn=3")
    notebook.wait_until("/There is no parameter 'nn'/.test(document.querySelector('.bt-trouble').innerText)")
    page.locator(".bt-filter").fill("n=3")
    page.keyboard.press("Enter")
    notebook.wait_until(f"{texts('.bt-row')}.length === 1 && {texts('.bt-row')}[0].includes('code 1')")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    notebook.wait_until("/FAILED/.test(document.querySelector('.bt-title').innerText)")
    notebook.wait_until(f"{texts('.bt-line')}.at(-1) === 'progress 100%'")
    page.keyboard.press("Escape")
    notebook.wait_until("!document.querySelector('.bt-detail')")
    assert not errors


def numbers(notebook: Notebook) -> list[int]:
    found: list[int] = notebook.page.evaluate(f"{texts('.bt-row')}.map(text => parseInt(text)).sort((a, b) => a - b)")
    return found


def test_half_a_million_rows_scroll_to_any_place(notebook: Notebook) -> None:
    page = notebook.page
    for cell in (0, 1):
        notebook.run(cell)
    notebook.wait_run(1)
    notebook.scroll(1)
    page.evaluate("() => { window.jupyterapp.shell.currentWidget.content.widgets[0].outputHidden = true }")
    notebook.wait_until(f"/500,000 tasks/.test({texts('.bt-count')}.join())")
    grid = page.locator(".bt-grid").last

    def settled(first: int, last: int) -> str:
        rows = f"{texts('.bt-row')}.map(text => parseInt(text))"
        return f"Math.min(...{rows}) >= {first} && Math.max(...{rows}) <= {last} && {rows}.length > 5"

    # The bar goes anywhere, wheels go by pixels, keys by rows; nobody ever sees an empty table.
    grid.evaluate("grid => { grid.scrollTop = (grid.scrollHeight - grid.clientHeight) / 2 }")
    notebook.wait_until(settled(249_950, 250_050))
    before = numbers(notebook)[0]
    box = grid.bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + 100)
    page.mouse.wheel(0, 260)
    notebook.wait_until(settled(before + 10, before + 30))
    assert numbers(notebook)[0] == before + 10
    grid.focus()
    page.keyboard.press("End")
    notebook.wait_until(settled(499_980, 499_999))
    assert numbers(notebook)[-1] == 499_999
    page.keyboard.press("Home")
    notebook.wait_until(settled(0, 20))
    page.locator(".bt-sort[data-sort='n']").last.click()
    page.locator(".bt-sort[data-sort='n']").last.click()
    notebook.wait_until(f"{texts('.bt-row')}.some(text => parseInt(text) === 499999)")
    assert page.evaluate("document.querySelectorAll('.bt-row').length") < 80

    # While a cell runs, a kernel with subshells answers all the same; with others the table says that it waits.
    page.locator(".bt-sort[data-sort='n']").last.click()
    notebook.wait_until(settled(0, 20))
    notebook.run(2)
    notebook.wait_until(f"{notebook.prompt_of(2)} === '*'")
    grid.evaluate("grid => grid.scrollIntoView()")  # running a cell brings that cell into view
    grid.evaluate("grid => { grid.scrollTop = (grid.scrollHeight - grid.clientHeight) / 4 }")
    waits = f"/waiting for the running cell/.test({texts('.bt-count')}.join())"
    notebook.wait_until(f"({waits} || ({settled(124_950, 125_050)})) && {notebook.prompt_of(2)} === '*'")
    notebook.wait_until(f"!{waits} && {settled(124_950, 125_050)}")
