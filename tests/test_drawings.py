"""Drawings of results: axes, marks, and the pictures that saved notebooks keep."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from pathlib import PurePath
from typing import Any
from xml.etree import ElementTree

import plotly.graph_objects as go
from hypothesis import given, settings
from hypothesis import strategies as st

from balsam_jupyter.errors import BadInput
from balsam_jupyter.widgets import figures, sketch
from balsam_jupyter.widgets.columns import Axis, axis
from balsam_jupyter.widgets.drawing import (
    Drawing,
    Heatmap,
    Parallel,
    Scale,
    Scatter,
    Series,
    decades,
    shade_of,
    steps,
)
from balsam_jupyter.widgets.kinds import GRID

SVG = "{http://www.w3.org/2000/svg}"
SHADED = {shade_of(at / 24) for at in range(25)}


def test_long_names_that_look_alike_are_apart() -> None:
    one = Axis("file", "name")
    places = [one.place(f"/a/long/path/{at}/that/goes/on/to/the/same.file") for at in (1, 2, 1, 3)]
    assert places == [places[0], f"{places[0]} (2)", places[0], f"{places[0]} (3)"]


cells = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.datetimes(), st.dates(), st.timedeltas(),
    st.decimals(), st.fractions(), st.complex_numbers(), st.lists(st.integers()), st.builds(PurePath, st.just("/x")),
)  # fmt: skip


@given(st.lists(cells), st.booleans())
@settings(max_examples=300, deadline=None)
def test_whatever_cells_there_are_each_has_a_place_or_none(values: list[Any], log: bool) -> None:
    try:
        one = axis("x", Counter(map(type, values)), log)
    except BadInput as error:
        assert "logarithm" in str(error) or "holds no numbers, names or dates" in str(error)
        return
    places = [place for value in values if (place := one.place(value)) is not None]
    assert all(isinstance(place, str) if one.kind == "name" else math.isfinite(float(place)) for place in places)
    if one.kind != "name":
        y = Axis("y")
        points = Series(x=list(places), y=[1.0] * len(places), tasks=[1] * len(places), texts=[""] * len(places))
        drawing = Scatter("t", x=one, y=y, series=[points])
        assert "nan" not in sketch.svg(drawing)
        go.Figure(list(figures.traces(drawing).values()), figures.layout(drawing))


@given(st.floats(-1e300, 1e300), st.floats(-1e300, 1e300))
def test_marks_are_few_and_around_what_is_marked(one: float, two: float) -> None:
    low, high = min(one, two), max(one, two)
    marks = steps(low, high)
    assert 2 <= len(marks) <= 12
    reach = 1e-6 * (marks[-1] - marks[0])
    assert marks[0] <= low + reach and marks[-1] >= high - reach


@given(st.floats(1e-300, 1e300), st.floats(1e-300, 1e300))
def test_marks_of_logarithmic_axes_are_few(one: float, two: float) -> None:
    assert 1 <= len(decades(min(one, two), max(one, two))) <= 12


def test_saved_pictures_are_small_and_leave_out_no_more_than_they_say() -> None:
    """A notebook with several of the largest stays below 200 kB."""
    chance = random.Random(5)
    numbers = [chance.random() for _ in range(2_000)]
    series = Series(x=[*numbers], y=[*reversed(numbers)], shades=numbers, tasks=[1] * 2_000, texts=[""] * 2_000)
    cells: list[list[float | None]] = [[chance.random() for _ in range(GRID)] for _ in range(GRID)]
    places: list[float | str] = [float(at) for at in range(GRID)]
    rows: list[list[float | None]] = [[chance.random() for _ in range(8)] for _ in range(500)]
    lines = Series(y=[*range(500)], shades=numbers[:500], tasks=[1] * 500, texts=[""] * 500)
    axes = {"x": Axis("x"), "y": Axis("y"), "shade": Axis("z")}
    scales = [Scale(name, 0.0, 1.0, [(0.0, "0"), (1.0, "1")]) for name in "abcdefgh"]
    several: list[tuple[Drawing, str, int]] = [
        (Scatter("s", series=[series], **axes), r"(?<=[ML ])[\d.]+ [\d.]+", 2_000),
        (Heatmap("h", columns=places, lines=places, cells=cells, **axes), r"h[\d.]+", GRID * GRID),
        (Parallel("p", scales=scales, shade=Axis("z"), rows=rows, series=[lines]), r"[ML][\d.]+ [\d.]+", 8 * 500),
    ]
    for drawing, mark, number in several:
        root = ElementTree.fromstring(sketch.svg(drawing))
        drawn = [path for path in root.iter(f"{SVG}path") if path.get("marker-mid") or path.get("stroke") in SHADED]
        beginnings = len(drawn) if isinstance(drawing, Scatter) else 0  # its first point is named twice
        assert sum(len(re.findall(mark, str(path.get("d")))) for path in drawn) - beginnings == number
        assert len(sketch.image(drawing)) < 65_000
