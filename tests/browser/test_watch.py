"""The dashboard in a real browser: live, through reloads and restarts, in both themes, and what its buttons do."""

from __future__ import annotations

import json
from collections.abc import Callable

from lab import Lab, Notebook

# A launcher that has begun, and an ensemble of which every tenth task fails.
SETUP = """
import time
from balsam_jupyter import ApplicationDefinition, BalsamExecutor, Sweep, open_site

class Wave(ApplicationDefinition):
    def run(self, x: int):
        time.sleep(0.05)
        if x % 10 == 7:
            raise ValueError(f"<img src=x onerror='window.harmed=1'> has no state {x}")
        return {"height": x * x}

exctr = BalsamExecutor(open_site("here", "site"))
ensemble = exctr.submit_sweep(Wave, Sweep.grid(x=range(TASKS)), name="waves")
if not exctr.site.engine.allocations():
    exctr.submit_allocation("here", 1, 30, job_mode="serial")
"""
WATCH = "ensemble.watch()"
LIVE = ".bj-live"
STILL = ".bj-still img[src^='data:image/svg']"
ENDED = "parseInt((document.querySelector('.bj-live .bj-done')?.textContent ?? '0').replaceAll(',', ''))"

Open = Callable[..., Notebook]
Photograph = Callable[[Notebook, str], None]


def setup(tasks: int) -> str:
    return SETUP.replace("TASKS", str(tasks))


def ended(notebook: Notebook) -> int:
    number: int = notebook.page.evaluate(f"() => {ENDED}")
    return number


def show(notebook: Notebook, *cells: int) -> None:
    """Run cells one after the other, and bring the last one to the top."""
    for cell in cells:
        notebook.run(cell)
        notebook.wait_run(cell)
    notebook.scroll(cells[-1])


def painted(notebook: Notebook) -> int:
    """How many colours the chart has: the areas are there, and in more than one state."""
    number: int = notebook.page.evaluate(
        """() => {
          const canvas = document.querySelector('.bj-live canvas.bj-canvas-states');
          const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
          const seen = new Map();
          for (let at = 0; at < pixels.length; at += 4) {
            const key = `${pixels[at]},${pixels[at + 1]},${pixels[at + 2]},${pixels[at + 3]}`;
            seen.set(key, (seen.get(key) ?? 0) + 1);
          }
          return [...seen.values()].filter(number => number > 200).length;
        }"""
    )
    return number


def test_dashboard_is_live_through_reload_and_restart(open_notebook: Open, lab: Lab, photograph: Photograph) -> None:
    notebook = open_notebook(setup(2000), WATCH)
    show(notebook, 0, 1)
    notebook.wait_for(f"{LIVE} canvas")
    notebook.wait_until(f"{ENDED} > 0")  # no cell runs by now
    first = ended(notebook)
    notebook.wait_until(f"{ENDED} > {first + 3}")
    notebook.wait_for(f"{LIVE} .bj-failures summary")  # one in ten fails
    assert painted(notebook) > 2
    assert not notebook.page.locator(STILL).is_visible(), "the live view stands in its place"
    photograph(notebook, "watch")

    # A reload of the page: the same widget of the same kernel, which goes on.
    notebook.save()
    notebook.reload()
    notebook.scroll(1)
    notebook.wait_until(f"{ENDED} > {first + 3}")
    before = ended(notebook)
    notebook.wait_until(f"{ENDED} > {before}")

    # A new kernel: what was shown stays or gives way to the static picture; there is no error in its place.
    notebook.restart_kernel()
    notebook.save()
    notebook.reload()
    notebook.scroll(1)
    notebook.wait_for(STILL)
    assert "rror" not in notebook.output(1)

    # The one line brings it back, with what happened meanwhile.
    show(notebook, 0, 1)
    notebook.wait_until(f"{ENDED} > {before}")
    assert not notebook.page.locator(STILL).is_visible()

    # A button says what it will do, and does it then; when all has ended the view says so.
    notebook.page.get_by_role("button", name="Kill…").click()
    question = notebook.wait_for(f"{LIVE} .bj-confirm")
    assert "not ended" in question.inner_text()
    question.get_by_role("button", name="Kill").click()
    notebook.wait_until(f"{ENDED} === 2000")
    notebook.wait_until("document.querySelector('.bj-live .bj-pace').textContent.includes('all ended')")

    # What is saved is the static picture.
    notebook.wait_until(f"JSON.stringify({outputs_of(1)}).includes('2,000/2,000')")
    notebook.save()
    file = lab.root / notebook.name
    saved = json.loads(file.read_text())
    assert file.stat().st_size < 200_000
    assert "widgets" not in saved["metadata"]
    assert any("bj-still" in "".join(output["data"].get("text/html", "")) for output in saved["cells"][1]["outputs"])


def outputs_of(cell: int) -> str:
    return f"window.jupyterapp.shell.currentWidget.content.widgets[{cell}].model.outputs.toJSON()"


def test_text_of_tasks_is_text(open_notebook: Open) -> None:
    notebook = open_notebook(setup(10), "ensemble.wait()", WATCH)
    show(notebook, 0, 1, 2)
    shape = notebook.wait_for(f"{LIVE} .bj-failures")
    assert "<img" in shape.inner_text()
    shape.locator("summary").first.click()
    assert not notebook.page.locator(f"{LIVE} img").count()
    assert notebook.page.evaluate("() => window.harmed") is None


def test_busy_kernel_is_said_and_the_picture_goes_on(open_notebook: Open) -> None:
    notebook = open_notebook(setup(400), WATCH, "ensemble.wait()")
    show(notebook, 0, 1)
    notebook.wait_for(f"{LIVE} canvas")
    notebook.run(2)
    notebook.wait_until(f"{notebook.prompt_of(2)} === '*'")
    first = ended(notebook)
    notebook.page.get_by_role("button", name="Kill…").click()
    notebook.page.locator(f"{LIVE} .bj-confirm").get_by_role("button", name="Kill").click()
    notebook.wait_until("/waits/i.test(document.querySelector('.bj-live').innerText)")
    notebook.wait_until(f"{ENDED} > {first + 3}")
    assert notebook.prompt(2) == "*"
    notebook.interrupt()
    notebook.wait_until(f"{ENDED} === 400")


def test_an_ensemble_that_is_renamed_keeps_its_last_picture(open_notebook: Open) -> None:
    notebook = open_notebook(setup(12), WATCH, "ensemble.rename('lines')")
    show(notebook, 0, 1)
    notebook.wait_for(f"{LIVE} canvas")
    notebook.run(2)
    notebook.wait_until("/any more: it was renamed or deleted/.test(document.querySelector('.bj-live').innerText)")
    assert ended(notebook) == 12


def test_dashboard_of_the_site_is_narrow_and_reached_by_keys(open_notebook: Open, photograph: Photograph) -> None:
    notebook = open_notebook(setup(100), "exctr.dashboard()")
    show(notebook, 0, 1)
    notebook.wait_for(f"{LIVE} canvas")
    notebook.wait_until(f"{ENDED} > 0")

    # At twice the size there is half the room: nothing sticks out.
    notebook.page.set_viewport_size({"width": 700, "height": 500})
    notebook.wait_until("document.querySelector('.bj-live').clientWidth < 700")
    wide = notebook.page.evaluate(
        """() => {
          const right = each => each.getBoundingClientRect().right, root = document.querySelector('.bj-live');
          return [...root.querySelectorAll('*')]
            .filter(each => each.getClientRects().length && !each.closest('.bt-grid, pre'))
            .filter(each => right(each) > right(root) + 1)
            .map(each => each.className);
        }"""
    )
    assert wide == []
    notebook.page.set_viewport_size({"width": 1400, "height": 1000})

    # Whatever can be clicked has a name and can be had by Tab.
    nameless = notebook.page.evaluate(
        """() => [...document.querySelectorAll('.bj-live button, .bj-live [role=progressbar], .bj-live canvas')]
          .filter(each => !(each.textContent || each.getAttribute('aria-label'))).map(each => each.className)"""
    )
    assert nameless == []
    notebook.page.locator(f"{LIVE} button").first.focus()
    reached = set()
    for _ in range(12):
        reached.add(notebook.page.evaluate("() => document.activeElement?.className ?? ''"))
        notebook.page.keyboard.press("Tab")
    assert any("canvas" in name for name in reached), reached
    photograph(notebook, "dashboard")


def test_explore_shows_a_figure_and_hides_it(open_notebook: Open) -> None:
    notebook = open_notebook(setup(10), "ensemble.wait()", WATCH)
    show(notebook, 0, 1, 2)
    button = notebook.page.get_by_role("button", name="Explore")
    figures = notebook.page.locator(f"{LIVE} .js-plotly-plot")

    def is_shown(shown: bool) -> None:
        notebook.wait_until(f"document.querySelectorAll('.bj-live .js-plotly-plot').length === {int(shown)}")
        assert button.get_attribute("aria-expanded") == str(shown).lower()

    button.dblclick()  # the second click comes while the figure is made
    figures.wait_for()
    is_shown(True)
    button.click()
    is_shown(False)
    button.click()
    figures.wait_for()
    is_shown(True)
