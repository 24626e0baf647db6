"""Plots of results: what is drawn of a real ensemble's table, mistakes, samples of many rows, the static picture."""

from __future__ import annotations

import base64
import datetime
import re
import threading
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any
from xml.etree import ElementTree

import plotly.graph_objects as go
import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, BatchJob, Ensemble
from balsam_jupyter.errors import BadInput
from balsam_jupyter.tables import Table
from balsam_jupyter.widgets import figures
from balsam_jupyter.widgets.columns import Axis, label
from balsam_jupyter.widgets.drawing import Drawing, Heatmap, Parallel, Scatter, Series
from balsam_jupyter.widgets.kinds import GRID, POINTS
from balsam_jupyter.widgets.news import News
from balsam_jupyter.widgets.plots import ResultPlot
from balsam_jupyter.widgets.sample import read

SVG = "{http://www.w3.org/2000/svg}"


class Eos(ApplicationDefinition):
    site = "here"

    def run(self, T: float, rho: float, kind: str = "lj") -> Any:
        if rho > 0.8:
            raise ValueError("diverged")
        return {
            "pressure": T * rho if T > 200 else float("nan"),
            "converged": T > 250,
            "trace": [T, rho],
            "file": PurePath("/a/very/long/path/of/some/result", f"{T}.dat"),
            "when": datetime.datetime(2024, 5, 1 + int(T) // 100),
        }


class Echo(ApplicationDefinition):
    site = "here"
    command_template = "echo pressure {{ x }}"
    outputs = {"pressure": r"pressure (\S+)"}


@pytest.fixture(autouse=True)
def apps(exctr: BalsamExecutor) -> None:
    exctr.register_app(Eos)
    exctr.register_app(Echo)


@pytest.fixture
def ens(exctr: BalsamExecutor, allocation: BatchJob) -> Ensemble:
    """30 rows: 10 fail, 4 yield NaN."""
    rows = [
        {"T": T, "rho": rho, "kind": kind}
        for T in (100.0, 200.0, 300.0, 400.0, 500.0)
        for rho in (0.1, 0.5, 0.9)
        for kind in ("lj", "<img src=x onerror=alert(1)>")
    ]
    return exctr.submit_sweep("Eos", rows, name="scan").wait(60)


def drawn(plot: ResultPlot) -> Drawing:
    """The drawing of a plot; both ways of showing it work, and hold no markup that came with the data."""
    drawing = plot._drawing
    figure = go.Figure(list(figures.traces(drawing).values()), figures.layout(drawing))
    assert "<img" not in figure.to_json().replace("&lt;img", "")
    html = plot._repr_mimebundle_()["text/html"]
    picture = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', html)
    assert picture is not None and html.count("<") == 1
    svg = ElementTree.fromstring(base64.b64decode(picture[1]))
    assert not list(svg.iter(f"{SVG}img"))
    assert "".join(svg.itertext()).startswith("scan")
    return drawing


def scatter(plot: ResultPlot) -> Scatter:
    drawing = drawn(plot)
    assert isinstance(drawing, Scatter)
    return drawing


def test_points_are_the_rows_that_have_both(ens: Ensemble) -> None:
    drawing = scatter(ens.plot("T", "pressure", color="rho"))
    (series,) = drawing.series
    assert sorted(zip(series.x, series.y, strict=True)) == sorted(
        (T, T * rho) for T in (300.0, 400.0, 500.0) for rho in (0.1, 0.5) for _ in "ab"
    )
    assert series.shades is not None and set(series.shades) == {0.1, 0.5}
    assert drawing.line == "12 points · 18 rows without pressure"
    rows = {task.id: task._row.row for task in ens.tasks()}
    for task, text in zip(series.tasks, series.texts, strict=True):
        assert text.startswith(f"row {rows[task]}\nT = ")
    assert repr(ens.plot("T", "pressure")) == "scan: pressure over T: 12 points · 18 rows without pressure"


def test_columns_of_every_kind(ens: Ensemble) -> None:
    kinds = {"T": "number", "runtime_s": "number", "kind": "name", "converged": "name", "file": "name", "when": "date"}
    for name, kind in {**kinds, "state": "name", "row": "number"}.items():
        drawing = scatter(ens.plot(name, "T", color=name))
        assert (drawing.x.kind, drawing.y.kind) == (kind, "number"), name
        assert drawing.marks == (20 if name in ("converged", "file", "when") else 30)
    by_state = {series.name: series.colour for series in scatter(ens.plot("T", "rho", color="state")).series}
    assert by_state == {"FINISHED": "#009E73", "FAILED": "#D55E00"}  # as in every other view
    assert scatter(ens.plot("T", "T")).marks == 30
    assert "/a/very/l…e/result/300.0.dat" in scatter(ens.plot("file", "T")).series[0].x


def test_names_have_a_colour_each_and_what_has_none_is_grey(ens: Ensemble) -> None:
    drawing = scatter(ens.plot("T", "rho", color="converged"))
    assert [series.name for series in drawing.series] == ["False", "True", "no converged"]
    assert [len(series.tasks) for series in drawing.series] == [8, 12, 10]
    shaded = scatter(ens.plot("T", "rho", color="pressure"))
    assert [(series.name, len(series.tasks)) for series in shaded.series] == [("no pressure", 18), ("", 12)]


def test_logarithmic_axes(ens: Ensemble) -> None:
    drawing = scatter(ens.plot("T", "pressure", logx=True, logy=True))
    assert drawing.line == "12 points · 18 rows without a positive pressure"
    assert figures.layout(drawing)["xaxis"]["type"] == "log"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda plot: plot("T", "presure"),
            "There is no column 'presure'. Did you mean 'pressure'? 'scan' has: T, rho,",
        ),
        (lambda plot: plot("T", "pressure", color="Kind"), "There is no column 'Kind'. Did you mean 'kind'?"),
        (lambda plot: plot(), "Say what to plot, by the names of columns. 'scan' has: T, rho, kind"),
        (lambda plot: plot("T", 3), "Say what to plot, by the names of columns, not 3."),
        (
            lambda plot: plot("T", "trace"),
            "Column 'trace' holds no numbers, names or dates but: list. Let the app yield",
        ),
        (lambda plot: plot("kind", "T", logx=True), "Column 'kind' holds names; they have no logarithm."),
        (
            lambda plot: plot.heatmap("T", "rho", "kind"),
            "Column 'kind' holds names; a heat map needs a column of numbers",
        ),
        (lambda plot: plot(["T"], "pressure"), "Say what to plot, by the names of columns, not ['T']."),
        (lambda plot: plot("T", "pressure", color=["rho"]), "by the names of columns, not ['rho']."),
        (lambda plot: plot.parallel(5), "columns is a list of names: parallel([5, …])."),
        (lambda plot: plot.parallel("T"), "columns is a list of names: parallel(['T', …])."),
        (lambda plot: plot.parallel(["T", "preßure"]), "There is no column 'preßure'. Did you mean 'pressure'?"),
    ],
)
def test_mistakes_are_told_with_the_cure(ens: Ensemble, make: Callable[[Any], object], told: str) -> None:
    with pytest.raises(BadInput, match=re.escape(told)):
        make(ens.plot)


def test_parallel_axes(ens: Ensemble) -> None:
    drawing = drawn(ens.plot.parallel(color="pressure"))
    assert isinstance(drawing, Parallel)
    assert [scale.name for scale in drawing.scales] == ["T", "rho", "kind", "pressure", "converged", "file", "when"]
    assert len(drawing.rows) == 30 and all(
        0 <= share <= 1 for row in drawing.rows for share in row if share is not None
    )
    chosen = drawn(ens.plot.parallel(["rho", "pressure"], color="kind"))
    assert isinstance(chosen, Parallel) and [scale.name for scale in chosen.scales] == ["rho", "pressure"]
    assert chosen.line == "12 rows · 18 rows without values on two axes"
    assert {series.name for series in chosen.series} == {"lj", label("<img src=x onerror=alert(1)>")}


def test_heat_maps_show_means(ens: Ensemble) -> None:
    drawing = drawn(ens.plot.heatmap("T", "rho", "pressure"))
    assert isinstance(drawing, Heatmap)
    assert (drawing.columns, drawing.lines) == ([300.0, 400.0, 500.0], [0.1, 0.5])
    assert drawing.cells == [[pytest.approx(T * rho) for T in drawing.columns] for rho in drawing.lines]
    assert "means of the rows in each cell" in drawing.line
    assert "the mean of 2 rows; one of them:\nrow " in drawing.texts[0][0]


def test_before_anything_has_run(exctr: BalsamExecutor) -> None:
    """A plot is made first, and grows later: so what a function will yield is taken on trust; a command's is known."""
    ens = exctr.submit_sweep("Eos", [{"T": 300.0, "rho": 0.1}], name="scan")
    for plot in (ens.plot("T", "presure"), ens.plot.parallel(color="x"), ens.plot.heatmap("T", "rho", "z")):
        drawing = drawn(plot)
        assert drawing.empty == "No row has ended yet: points come as tasks end."
        assert drawing.line.endswith("1 row to come")
    echo = exctr.submit_sweep("Echo", {"x": [1, 2]}, name="scan-echo")
    assert echo.plot("x", "pressure")._drawing.empty
    with pytest.raises(BadInput, match="Did you mean 'pressure'"):
        echo.plot("x", "presure")


def test_a_plot_grows_by_appending_and_tells_mistakes_that_show_late(
    exctr: BalsamExecutor, allocation: BatchJob
) -> None:
    ens = exctr.submit_sweep("Eos", [{"T": 300.0, "rho": 0.1}], name="scan").wait(60)
    plot, one = ens.plot("T", "pressure"), ens.plot("rho", "pressure", color="T")
    assert scatter(plot).marks == scatter(one).marks == 1
    before = plot._drawing.series[0].tasks  # type: ignore[attr-defined]
    ens.add([{"T": T, "rho": 0.1} for T in (100.0, 310.0, 250.0)])
    ens.wait(60)
    after = scatter(plot)
    plot._repr_mimebundle_()
    now = scatter(plot)
    assert after.marks in (1, 3) and now.marks == 3
    assert now.series[0].tasks[: len(before)] == before
    waiting = exctr.submit_sweep("Eos", [{"T": 300.0, "rho": 0.2}], name="scan-late").plot("T", "presure")
    exctr.ensemble("scan-late").wait(60)
    waiting._repr_mimebundle_()
    assert "There is no column 'presure'. Did you mean 'pressure'?" in waiting._drawing.empty


def test_the_figure_has_what_the_drawing_has_however_it_grew(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    """Several colours at once, a chunk that fills up, points that go, and nothing sent that has not changed."""
    ens = exctr.submit_sweep("Eos", [{"T": 100.0, "rho": 0.1}], name="scan").wait(60)
    plot = ens.plot("T", "row", color="kind")
    growing = figures.Growing(plot._drawing)

    def is_there() -> bool:
        want = figures.traces(plot._drawing)
        have = [trace for trace in growing.widget.data if trace.visible is not False]
        assert sorted(task for trace in have for task in trace.customdata) == sorted(
            task for trace in want.values() for task in trace["customdata"]
        )
        return all(tuple(trace.hovertext) in {tuple(one["hovertext"]) for one in want.values()} for trace in have)

    assert is_there()
    for more in ([("a", 3), ("b", 2)], [("a", 300), ("c", 1), ("d", 1)], [("lj", 1)]):
        ens.add([{"T": float(T), "rho": 0.1, "kind": kind} for kind, number in more for T in range(number)])
        ens.kill()
        ens.wait(60)
        plot._repr_mimebundle_()
        growing.draw(plot._drawing)
        assert is_there()
    assert {trace.name for trace in growing.widget.data if trace.showlegend} == {"lj", "a", "b", "c", "d"}
    few = Scatter("t", x=Axis("T"), y=Axis("row"), series=[Series("a", x=[1.0], y=[1.0], tasks=[1], texts=["row 1"])])
    for drawing in (few, plot._drawing):
        plot._drawing = drawing
        growing.draw(drawing)
        assert is_there()
    growing.close()


def test_generations_are_apart(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    exctr.submit_sweep("Eos", [{"T": 300.0, "rho": 0.1}], name="scan").wait(60)

    class Eos2(Eos):
        site = "here"

        def run(self, T: float, rho: float, kind: str = "lj") -> Any:
            return {"pressure": 7.0}

    exctr.register_app(Eos2, app_name="Eos")
    second = exctr.submit_sweep("Eos", [{"T": 300.0, "rho": 0.1}], name="scan", if_changed="fresh").wait(60)
    first = exctr.ensemble("scan", generation=1)
    assert scatter(second.plot("T", "pressure")).series[0].y == [7.0]
    assert scatter(first.plot("T", "pressure")).series[0].y == [30.0]
    assert repr(second.plot("T", "pressure")).startswith("scan (generation 2): ")


def test_an_older_generation_is_followed_too(exctr: BalsamExecutor) -> None:
    first = exctr.submit_sweep("Eos", {"T": [1.0, 2.0], "rho": [0.1]}, name="scan")
    first.kill(0)

    class Eos2(Eos):
        site = "here"

        def run(self, T: float, rho: float, kind: str = "lj") -> Any:
            return {"pressure": 7.0}

    exctr.register_app(Eos2, app_name="Eos")
    exctr.submit_sweep("Eos", {"T": [1.0], "rho": [0.1]}, name="scan", if_changed="fresh")
    news = News(first._site.engine, "scan", 1)
    assert news.wait(unended=True)  # the first time at once
    told: list[bool] = []
    waiting = threading.Thread(target=lambda: told.append(news.wait(unended=True)))
    waiting.start()
    first.kill(1)
    waiting.join(30)
    assert told == [True]
    news.close()
    assert not news.wait(unended=False)


def test_many_rows_are_sampled_and_points_stay(exctr: BalsamExecutor) -> None:
    """Ended rows without running them: killed before they began."""
    ens = exctr.submit_sweep("Eos", [{"T": float(T), "rho": 0.1} for T in range(20_000)], name="scan")
    ens.kill(range(4_000))
    plot = ens.plot("T", "rho")
    first = scatter(plot)
    assert first.marks == 4_000 and "random" not in first.line
    ens.kill()
    plot._repr_mimebundle_()
    second = scatter(plot)
    assert POINTS / 2 * 0.9 < second.marks <= POINTS
    assert f"a random {second.marks:,} of the 20,000 rows that have ended" in second.line
    tasks = second.series[0].tasks
    assert set(tasks[:100]) <= set(first.series[0].tasks), "old points are the first to be drawn"
    again = scatter(BalsamExecutor(ens._site).ensemble("scan").plot("T", "rho"))
    assert set(again.series[0].tasks) == set(tasks), "the sample is the same for everybody"
    middle = sum(float(x) for x in second.series[0].x) / second.marks
    assert abs(middle - 10_000) < 600, "and drawn evenly"
    assert len(plot._repr_mimebundle_()["text/html"]) < 250_000


def test_a_sample_is_halved_not_drawn_anew(exctr: BalsamExecutor) -> None:
    ens = exctr.submit_sweep("Eos", [{"T": float(T), "rho": 0.1} for T in range(300)], name="scan")
    seen: dict[int, None] = {}

    def tasks(most: int) -> list[int]:
        def make(table: Table) -> list[int]:
            return read(table, ["T"], most, seen).tasks

        found: list[int] = ens._follower.tables.use(ens._there, make)
        return found

    ens.kill(range(100))
    few = tasks(50)
    ens.kill(range(200))
    more = tasks(50)
    ens.kill()
    most = tasks(50)
    assert 10 <= len(few) <= 50 and 10 <= len(most) <= 50
    for before, after in ((few, more), (more, most)):
        stay = [task for task in before if task in after]
        assert after[: len(stay)] == stay, "in their order, before the new ones"
        assert len(stay) >= len(before) / 8, "one halving after the other takes points out"


def test_heat_maps_of_many_different_numbers_have_bins(exctr: BalsamExecutor) -> None:
    ens = exctr.submit_sweep("Eos", [{"T": float(T), "rho": T / 7} for T in range(1, 501)], name="scan")
    ens.kill()
    drawing = drawn(ens.plot.heatmap("T", "rho", "row"))
    assert isinstance(drawing, Heatmap)
    assert len(drawing.columns) == len(drawing.lines) == GRID
    assert sum(cell is not None for line in drawing.cells for cell in line) >= GRID


def test_plots_in_a_terminal_are_text(ens: Ensemble, tmp_path: Path) -> None:
    assert repr(ens.plot) == "Plots of 'scan': plot(x, y, color), plot.parallel(), plot.heatmap(x, y, z)"
    with pytest.raises(NotImplementedError):  # by which IPython knows to show the text
        ens.plot("T", "pressure")._ipython_display_()
