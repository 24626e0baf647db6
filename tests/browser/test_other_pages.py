"""A view and its picture in VS Code, as far as its elements go: those its notebooks have by its source.

(src/vs/workbench/contrib/notebook/browser/view/renderers/webviewPreloads.ts: a cell's outputs are in no certain order.)
"""

from __future__ import annotations

from pathlib import Path

import pytest
from lab import Browser

from balsam_jupyter import BalsamExecutor, Site
from balsam_jupyter.widgets.dashboard import Dashboard
from balsam_jupyter.widgets.display import Pair
from balsam_jupyter.widgets.forms.form import FormView
from balsam_jupyter.widgets.point import Point
from balsam_jupyter.widgets.watch import View
from tests.test_magics import plain_ipython

OUTPUT = '<div class="output_container" style="position:absolute"><div class="output">{}</div></div>'


def shown(browser: Browser, selector: str, *outputs: str) -> bool:
    """Whether the page shows this element."""
    page = browser.page()
    try:
        page.set_content(f'<div class="cell_container">{"".join(map(OUTPUT.format, outputs))}</div>')
        return page.locator(selector).is_visible()
    finally:
        page.close()


def test_the_picture_of_a_watch_is_hidden_while_it_lives(browser: Browser, site: Site, exctr: BalsamExecutor) -> None:
    picture = View(site)._repr_mimebundle_()["text/html"]
    live = '<div class="cell-output-ipywidget-background"><div class="bj-live">live</div></div>'
    assert shown(browser, ".bj-still", picture)
    assert not shown(browser, ".bj-still", picture, live)
    assert not shown(browser, ".bj-still", live, picture)


def test_what_is_said_of_a_view_that_is_gone_is_hidden_below_its_picture(
    browser: Browser, site: Site, exctr: BalsamExecutor
) -> None:
    picture = View(site)._repr_mimebundle_()["text/html"]
    error = '<div class="no-renderer-error">Could not render content</div>'
    assert not shown(browser, ".no-renderer-error", picture, error)
    assert shown(browser, ".no-renderer-error", error)


@pytest.mark.parametrize(
    ("css", "element"),
    [
        (Dashboard._css, "bj-dash bj-live"),
        (FormView._css, "bjf bj-live"),
        (Point._css, "balsam-plot"),
    ],
)
def test_views_follow_the_theme(browser: Browser, css: str, element: str) -> None:
    """VS Code has white below all widgets, and of JupyterLab's variables those of its light theme."""
    page = browser.page()
    try:
        page.set_content(
            f"""<style>:root {{ --vscode-foreground: rgb(200, 201, 202); --jp-content-font-color1: black;
                --jp-ui-font-color1: black; }}
            .cell-output-ipywidget-background {{ background: white !important; }}</style><style>{css}</style>
            <body data-vscode-theme-kind="vscode-dark"><div class="cell-output-ipywidget-background">
            <div class="{element}">live</div></div>"""
        )
        live = page.locator(f".{element.split()[0]}")
        assert live.evaluate("one => getComputedStyle(one).color") == "rgb(200, 201, 202)"
        ground = live.evaluate("one => getComputedStyle(one.parentElement).backgroundColor")
        assert ground == "rgba(0, 0, 0, 0)"
    finally:
        page.close()


def test_the_picture_of_a_plot_is_hidden_while_it_lives(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ipywidgets
    from IPython.utils.capture import capture_output

    with plain_ipython(tmp_path, monkeypatch):
        widget = ipywidgets.HTML("live")
        with capture_output() as told:
            Pair(widget, widget.close).display({"text/plain": "", "text/html": "<p>picture</p>"})
        picture = told.outputs[0].data["text/html"]
        live = f'<div class="{" ".join(widget._dom_classes)}">live</div>'
        widget.close()
    assert shown(browser, "p", picture)
    assert not shown(browser, "p", picture, live)
    assert not shown(browser, "p", live, picture)
