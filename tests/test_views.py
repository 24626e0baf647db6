"""The static view, and the views' pieces that need no kernel."""

from __future__ import annotations

import base64
import re
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from balsam_jupyter import Site
from balsam_jupyter.history import History
from balsam_jupyter.models import TASK_STATES, Allocation, AllocationRequest
from balsam_jupyter.monitor import Snapshot
from balsam_jupyter.widgets import static
from balsam_jupyter.widgets.palette import ANYWHERE, COLOURS, DARK


def made(name: str = "scan", error: str = "", left: int = 3) -> Snapshot:
    history = History(width=1.0)
    history.add(1000.0, "", "WAITING", 10)
    for task in range(10 - left):
        history.add(1000.0 + 2 * task, "WAITING", "RUNNING")
        history.add(1002.0 + 2 * task, "RUNNING", "FAILED" if task == 4 else "FINISHED")
    return Snapshot(name, history.counts(), history.series(), 1016.0, [], 0.5, 2.0 * left, 7.0 if error else 0.0, error)


def tops_of(path: str, bins: int) -> list[float]:
    """The numbers of tasks that an area reaches in the middle of each bin."""
    axis, wide, high = static.HEIGHT - 22, static.WIDTH - 72, static.HEIGHT - 30
    tops: list[float] = []
    y = 0.0
    for pen, number in re.findall(r"([VH])([\d.]+)", path):
        if pen == "V":
            y = 10 * (axis - float(number)) / high
        while pen == "H" and len(tops) < bins and 60 + wide * (len(tops) + 0.5) / bins < float(number):
            tops.append(y)
    return tops


def test_every_task_state_has_a_colour_and_no_two_share_one() -> None:
    assert set(COLOURS) == set(TASK_STATES)
    for palette in (COLOURS, DARK, ANYWHERE):
        assert list(palette) == list(COLOURS)
        assert len(set(palette.values())) == len(COLOURS)


def test_the_picture_is_well_formed_and_its_areas_are_the_states_that_occur() -> None:
    root = ElementTree.fromstring(static.svg(made().series))
    titles = [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["WAITING", "RUNNING", "FAILED", "FINISHED"]  # each covers the lower part of those before
    paths = [path for path in root.iter("{http://www.w3.org/2000/svg}path") if path.find("*") is not None]
    assert [path.get("fill") for path in paths] == [ANYWHERE[state] for state in titles if state]
    tops = [tops_of(str(path.get("d")), len(made().series)) for path in paths]
    expected = [0] * len(made().series)
    for state, found in zip(reversed(titles), reversed(tops), strict=True):
        expected = [low + number for low, number in zip(expected, made().series.counts[str(state)], strict=True)]
        assert found == [pytest.approx(number, abs=0.01) for number in expected]
    ElementTree.fromstring(static.svg(History().series()))  # nothing to draw is no error


def test_names_and_messages_are_escaped() -> None:
    html = static.html(made("<script>x</script>", error="a <b> & c"))
    assert "<script>" not in html
    assert "a &lt;b&gt; &amp; c" in html
    picture = re.search(r"base64,([A-Za-z0-9+/=]+)", html)
    assert picture and base64.b64decode(picture[1]).startswith(b"<svg")


def test_the_line_says_how_far_how_fast_and_when() -> None:
    running = Allocation(1, AllocationRequest(1, 10), "running")
    line = static.progress_line(replace(made(), allocations=[running]))
    assert line.startswith("7/10 done (3 WAITING, 6 FINISHED, 1 FAILED) · 30/min · about 6 s left, until ")
    line = static.progress_line(made())  # where nothing runs, no end is in sight
    assert line == "7/10 done (3 WAITING, 6 FINISHED, 1 FAILED) · 30/min · no allocation runs"
    silent = Snapshot("s", made().counts, made().series, 0.0, [running], age_s=125, error="the disk is full")
    assert static.progress_line(silent).endswith("no answer for 2 min 05 s: the disk is full")
    assert not silent.done
    assert static.text(made(left=0)).startswith("scan [####################] 10/10 done (9 FINISHED, 1 FAILED)")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (250, "4 min 10 s"), (7500, "2 h 05 min"), (100_000, "1 d 3 h")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert static.duration(seconds) == shown


def test_the_first_figure_does_not_wait_for_grammars_and_leaves_the_checks_whole() -> None:
    code = """
import sys
from balsam_jupyter.widgets.chart import Chart, _import_jsonschema
_import_jsonschema()
import plotly.graph_objects
plotly.graph_objects.FigureWidget
assert "lark" not in sys.modules, "the grammars were compiled"
import jsonschema
check = jsonschema.FormatChecker(["iri"]).conforms
print(check("http://example.org/ä", "iri"), check("no iri", "iri"), "lark" in sys.modules)
"""
    pytest.importorskip("rfc3987_syntax")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout == "True False True\n", ran.stderr


def test_without_jupyter_a_view_is_text(site: Site) -> None:
    script = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("IPython", "ipywidgets", "anywidget", "plotly", "traitlets"):
            raise ImportError(name)

sys.meta_path.insert(0, Absent())
from balsam_jupyter import BalsamExecutor, open_site
print(BalsamExecutor(open_site({site.name!r})).dashboard())
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout == "site here [####################] 0/0 done (no tasks)\n"
