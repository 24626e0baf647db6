"""Designs of experiments: products, sums, samples, tables, selections, replicates."""

from __future__ import annotations

import datetime
import io
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balsam_jupyter import Sweep
from balsam_jupyter.errors import BadInput, NotFound, Unsupported
from balsam_jupyter.sweep import choice, integers, loguniform, normal, uniform

from .sweeps import Rows, designs, tables

DISTRIBUTIONS = [
    uniform(300, 900),
    uniform(np.float64(-1), np.int64(1)),
    uniform(5, 5),
    loguniform(1e-3, 100),
    normal(-2.5, 0.1),
    integers(-3, 3),
    integers(4, 4),
    choice(["a", "b", 1]),
    choice(np.arange(3)),
]
SAMPLES = [Sweep.random, Sweep.latin_hypercube, Sweep.sobol]
small = st.integers(0, 3)


@given(designs(small))
def test_rows_are_those_of_the_design_in_one_order(design: tuple[Sweep, Rows]) -> None:
    sweep, rows = design
    assert len(sweep) == len(rows)
    assert list(sweep) == rows == list(sweep)
    assert {name for row in rows for name in row} <= set(sweep.names)
    html = sweep._repr_html_()
    assert html.count("<tr>") == 2 + (len(rows) if len(rows) <= 8 else 9)


@given(tables(("a",), small), tables(("b", "c"), small), tables(("d",), small))
def test_laws_of_products_and_sums(one: tuple[Sweep, Rows], two: tuple[Sweep, Rows], three: tuple[Sweep, Rows]) -> None:
    a, b, c = one[0], two[0], three[0]
    assert list((a * b) * c) == list(a * (b * c))
    assert list((a + b) + c) == list(a + (b + c)) == [*a, *b, *c]
    assert list((a + b) * c) == list(a * c + b * c)
    assert len(a * b) == len(a) * len(b) and len(a + b) == len(a) + len(b)
    assert sorted(map(str, a * c)) == sorted(str({**x, **y}) for y in c for x in a)


@given(designs(small), small)
def test_where_is_filter(design: tuple[Sweep, Rows], least: int) -> None:
    sweep, rows = design
    kept = sweep.where(lambda row: sum(row.values()) > least)
    assert list(kept) == [row for row in rows if sum(row.values()) > least] == list(kept)
    assert len(kept) == len(list(kept))


def test_a_product_of_long_sweeps_has_all_rows() -> None:
    sweep = Sweep.grid(a=[1, 2]) * Sweep.grid(b=range(10_001))
    assert [row["b"] for row in sweep] == [*range(10_001)] * 2
    assert "… 19,994 more rows …" in sweep._repr_html_()


def test_a_predicate_is_asked_once_for_each_row_when_rows_are_needed() -> None:
    asked = []
    sweep = Sweep.grid(x=range(3)).where(lambda row: asked.append(row["x"]) or row["x"])
    assert not asked
    assert (len(sweep), list(sweep), asked) == (2, [{"x": 1}, {"x": 2}], [0, 1, 2])
    with pytest.raises(BadInput, match=r"where\(\) fails at row 1, \{'x': 0\}: ZeroDivisionError: division by zero"):
        len(Sweep.grid(x=[1, 0]).where(lambda row: 1 / row["x"]))


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.__name__)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=repr)
def test_samples_follow_their_distribution(sample, distribution) -> None:
    sweep = sample(64, seed=1, x=distribution, fixed="ar", other=uniform(0, 1))
    rows = list(sweep)
    assert len(sweep) == len(rows) == 64 and rows == list(sweep) == list(
        sample(64, 1, x=distribution, fixed="ar", other=uniform(0, 1))
    )
    assert {row["fixed"] for row in rows} == {"ar"}
    found = [row["x"] for row in rows]
    assert {type(value) for value in found} <= {int, float, str}
    if isinstance(distribution, uniform | loguniform | integers):
        assert distribution.low <= min(found) <= max(found) <= distribution.high
    if isinstance(distribution, integers):
        assert set(found) == set(range(distribution.low, distribution.high + 1))
    if isinstance(distribution, choice):
        assert set(found) == set(distribution.values)
    low, middle, high = (distribution.ppf(u) for u in (0.01, 0.5, 0.99))
    assert isinstance(distribution, choice) or low <= middle <= high
    assert repr(distribution).replace("'", "&#x27;") in sweep._repr_html_()
    assert isinstance(distribution, choice) or eval(repr(distribution)) == distribution


@given(st.integers(1, 300), st.integers(0, 2**70))
def test_a_latin_hypercube_has_one_point_in_each_part(n: int, seed: int) -> None:
    rows = list(Sweep.latin_hypercube(n, seed, u=uniform(0, 1), v=uniform(0, 1)))
    for name in "uv":
        assert sorted(int(row[name] * n) for row in rows) == list(range(n))


def test_sobol_points_are_even_and_go_on(caplog) -> None:
    rows = list(Sweep.sobol(64, 3, u=uniform(0, 1), v=uniform(0, 1)))
    boxes = {(int(row["u"] * 8), int(row["v"] * 8)) for row in rows}
    assert len(boxes) == 64  # a (0, 6, 2)-net
    assert not caplog.messages
    longer = Sweep.sobol(100, 3, u=uniform(0, 1), v=uniform(0, 1))
    assert "100 is not a power of 2" in caplog.text and "64 or 128" in caplog.text
    assert list(itertools.islice(longer, 64)) == rows


def test_a_sample_is_the_same_in_every_process_and_each_parameter_by_itself() -> None:
    code = (
        "import json; from balsam_jupyter import Sweep; from balsam_jupyter.sweep import *\n"
        "make = dict(T=uniform(300, 900), n=integers(1, 99), m=choice(['a', 'b']))\n"
        "print(json.dumps([list(Sweep.random(4, seed=7, **make)), list(Sweep.latin_hypercube(4, seed=7, **make))]))"
    )
    root = str(Path(__file__).parents[1])
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": root}, capture_output=True,
            text=True, check=True,
        ).stdout
        for seed in ("0", "1")
    }  # fmt: skip
    assert len(found) == 1
    random, latin = json.loads(found.pop())
    # Numbers of the day this was written: they must never change.
    assert random[0] == RANDOM_0
    assert latin[0] == LATIN_0
    alone = list(Sweep.random(4, seed=7, T=uniform(300, 900)))
    assert [row["T"] for row in alone] == [row["T"] for row in random]
    assert list(Sweep.random(4, seed=8, T=uniform(300, 900))) != alone


RANDOM_0 = {"T": pytest.approx(520.1673700799779, rel=1e-12), "n": 26, "m": "b"}
LATIN_0 = {"T": pytest.approx(871.3295237852137, rel=1e-12), "n": 91, "m": "b"}


def test_distributions_of_scipy_serve_too() -> None:
    stats = pytest.importorskip("scipy.stats")
    rows = list(Sweep.latin_hypercube(50, 1, T=stats.gamma(2)))
    assert all(type(row["T"]) is float and row["T"] > 0 for row in rows)


def test_sobol_without_scipy_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(Unsupported, match=r"pip install 'balsam-jupyter\[designs\]'"):
        Sweep.sobol(8, 1, T=uniform(0, 1))


def test_replicates_have_numbers_and_stay_when_there_are_more() -> None:
    sweep = Sweep.grid(T=[1, 2]).repeat(2)
    assert list(sweep) == [{"T": 1, "seed": 0}, {"T": 1, "seed": 1}, {"T": 2, "seed": 0}, {"T": 2, "seed": 1}]
    more = list(Sweep.grid(T=[1, 2]).repeat(3, seed="replicate"))
    assert all({"T": row["T"], "replicate": row["seed"]} in more for row in sweep)


def test_a_dataframe_leaves_out_what_is_missing() -> None:
    frame = pd.DataFrame(
        {
            "x": [1.5, math.nan],
            "name": ["a", None],
            "n": pd.array([None, 2], "Int64"),
            "when": pd.to_datetime(["2024-01-02", None]),
        },
        index=["p", "q"],
    )
    sweep = Sweep.from_dataframe(frame)
    first, second = sweep
    assert sweep.names == ("x", "name", "n", "when")
    assert first == {"x": 1.5, "name": "a", "when": datetime.datetime(2024, 1, 2)}
    assert math.isnan(second.pop("x")) and second == {"n": 2}
    assert type(second["n"]) is int


CSV = '''\ufeffT, P ,name,id,flag,method,x
300,1e-3,ar,007,TRUE,pbe,
400,2,"a, b",10,false,,-.5

,nan,"say ""x""",1_0,True,lda,+3
'''


@pytest.mark.parametrize("change", [str, lambda text: text.replace("\n", "\r\n")])
def test_a_csv_file_has_typed_columns(tmp_path, change) -> None:
    path = tmp_path / "scan.csv"
    path.write_text(change(CSV), newline="")
    rows = list(Sweep.from_csv(path))
    assert rows[:2] == [
        {"T": 300, "P": 1e-3, "name": "ar", "id": "007", "flag": True, "method": "pbe"},
        {"T": 400, "P": 2.0, "name": "a, b", "id": "10", "flag": False, "x": -0.5},
    ]
    assert math.isnan(rows[2].pop("P"))
    assert rows[2] == {"name": 'say "x"', "id": "1_0", "flag": True, "method": "lda", "x": 3.0}
    assert [{type(row["T"]) for row in rows[:2]}, type(rows[1]["P"])] == [{int}, float]
    typed = list(Sweep.from_csv(str(path), T=float, P=str, flag=bool, method=lambda text: text.upper()))
    assert typed[0] | {"x": 0} == {
        "T": 300.0, "P": "1e-3", "name": "ar", "id": "007", "flag": True, "method": "PBE", "x": 0,
    }  # fmt: skip


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_csv_may_have_other_separators_and_be_open(mark) -> None:
    assert list(Sweep.from_csv(io.StringIO(f"\ufeffa{mark}b\n1{mark}x y\n"))) == [{"a": 1, "b": "x y"}]


@given(st.lists(st.tuples(st.integers(), st.floats(allow_nan=False), st.booleans()), min_size=1))
def test_numbers_of_a_csv_come_back(rows) -> None:
    text = "i,f,b\n" + "".join(f"{i},{f!r},{b}\n" for i, f, b in rows)
    assert [tuple(row.values()) for row in Sweep.from_csv(io.StringIO(text))] == rows


GRID = Sweep.grid(T=[1, 2])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sweep.random(-1, 1, T=uniform(0, 1)), "Sweep.random: n, the number of rows, is a whole.* not -1"),
        (lambda: Sweep.random(seed=1, T=uniform(0, 1)), "takes the number of rows first, and a seed"),
        (lambda: Sweep.sobol(8, T=uniform(0, 1)), "takes the number of rows first, and a seed"),
        (lambda: Sweep.random(2.5, 1, T=uniform(0, 1)), "not 2.5"),
        (lambda: Sweep.sobol(True, 1, T=uniform(0, 1)), "not True"),
        (lambda: Sweep.random(5, "x", T=uniform(0, 1)), "seed is a whole number .* not x"),
        (lambda: Sweep.latin_hypercube(5, -1, T=uniform(0, 1)), "not -1"),
        (lambda: Sweep.random(5, 1), "nothing to draw from"),
        (lambda: Sweep.random(5, 1, T=300), "nothing to draw from"),
        (lambda: Sweep.random(5, 1, T=[1, 2]), r"T has several values: T=choice\(\[…\]\) draws"),
        (lambda: Sweep.random(5, 1, T=uniform), "no distribution: uniform"),
        (lambda: Sweep.grid(T=uniform(0, 1)), r"Sweep.random\(100, seed=1, T=uniform\(0, 1\)\)"),
        (lambda: uniform(2, 1), "low must not be above high"),
        (lambda: uniform("a", 1), "uniform: low is a finite number, not a"),
        (lambda: uniform(0, math.inf), "high is a finite number, not inf"),
        (lambda: loguniform(0, 1), "low must be above 0"),
        (lambda: loguniform(2, 1), "low must not be above high"),
        (lambda: normal(0, 0), "sd must be above 0"),
        (lambda: normal(0, True), "not True"),
        (lambda: integers(1.5, 2), "whole numbers"),
        (lambda: integers(2, 1), "low must not be above high"),
        (lambda: integers(0, 2**60), "too wide"),
        (lambda: choice([]), "no values"),
        (lambda: choice("abc"), "takes a list"),
        (lambda: choice(5), "takes a list"),
        (lambda: GRID * Sweep.grid(T=[1]), "Both factors have the parameter T"),
        (lambda: GRID * 3, r"not by 3; repeat\(3\)"),
        (lambda: GRID + {"T": 1}, r"added to a sweep, not to \{'T': 1\}; Sweep.rows\(\[\{…\}\]\)"),
        (lambda: GRID.where("T > 1"), "takes a function of a row"),
        (lambda: GRID.repeat(0), "at least 1, not 0"),
        (lambda: GRID.repeat("2"), "not '2'"),
        (lambda: GRID.repeat(2, seed="T"), "has a parameter 'T' already"),
        (lambda: GRID.repeat(2, seed=5), "the name of the parameter"),
        (lambda: Sweep.rows({"a": [1]}), "a list of dicts"),
        (lambda: Sweep.from_dataframe([1]), r"takes a DataFrame, not \[1\]"),
        (lambda: Sweep.from_dataframe(pd.DataFrame({1: [1]})), "the column 1; .* names are text"),
        (lambda: Sweep.from_dataframe(pd.DataFrame([[1, 2]], columns=["a", "a"])), "the column 'a' twice"),
        (lambda: Sweep.from_csv(5), "takes the path of a file"),
        (lambda: Sweep.from_csv(io.StringIO("")), "empty: the text has no rows"),
        (lambda: Sweep.from_csv(io.StringIO("a,b\n")), "empty: the text has no rows"),
        (lambda: Sweep.from_csv(io.StringIO("a,\n1,2\n")), "column 2 of the header has no name"),
        (lambda: Sweep.from_csv(io.StringIO("a,a\n1,2\n")), "'a' twice"),
        (lambda: Sweep.from_csv(io.StringIO("a,b\n\n1\n")), "line 3 has 1 cell, but the header has 2"),
        (lambda: Sweep.from_csv(io.StringIO("Temp\n1\n"), temp=int), r"no column 'temp' \(Temp\). Did you mean 'Temp'"),
        (lambda: Sweep.from_csv(io.StringIO("a\n1\nx\n"), a=int), "line 3: a is 'x', which is no int"),
        (lambda: Sweep.from_csv(io.StringIO("a\nyes\n"), a=bool), "line 2: a is 'yes', which is no bool"),
        (lambda: Sweep.from_csv(io.StringIO("a\n1\n"), a=lambda text: [][1]), "is no <lambda> .IndexError"),
    ],
)
def test_designs_that_cannot_be_right_are_refused(make, message) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        make()
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path) -> None:
    (tmp_path / "scan.csv").write_bytes("a\nµ\n".encode("latin-1"))
    with pytest.raises(NotFound, match=r"There is no file .*scam.csv. Did you mean 'scan.csv'\?"):
        Sweep.from_csv(tmp_path / "scam.csv")
    with pytest.raises(BadInput, match="not UTF-8 text"):
        Sweep.from_csv(tmp_path / "scan.csv")
    with pytest.raises(BadInput, match="cannot be read"):
        Sweep.from_csv(tmp_path)


def test_a_preview_says_what_each_parameter_ranges_over() -> None:
    sweep = Sweep.random(10**6, 1, T=uniform(300, 900), gas=choice(["ar", "ne"])) * Sweep.grid(P=[2, 0.5, 1], fixed="x")
    html = sweep._repr_html_()
    assert "Sweep of 3,000,000 rows" in html
    for over in ("uniform(300, 900)", "choice([&#x27;ar&#x27;, &#x27;ne&#x27;])", "0.5 – 2", "<i>x</i>"):
        assert over in html
    assert "… 2,999,992 more rows …" in html and "<th>2,999,999</th>" in html
    html = (Sweep.grid(a=range(9)).where(lambda row: row["a"] > 6) + Sweep.rows([{"s": "<b>"}]))._repr_html_()
    assert "7 – 8" in html and "&lt;b&gt;" in html and "<td></td>" in html
    assert "<i>0 values</i>" in Sweep.grid(a=[1]).where(lambda row: False)._repr_html_()
    html = Sweep.grid(v=[[1], [2]], w=[np.eye(2)] * 2)._repr_html_()
    assert "2 values" in html
