"""Sweeps give the rows one expects, in one order."""

import itertools

import numpy as np
import pandas as pd
import pytest

from balsam_jupyter import Sweep
from balsam_jupyter.codec import encode
from balsam_jupyter.errors import BadInput


def test_grid_has_every_combination_and_the_last_varies_fastest():
    sweep = Sweep.grid(T=[1, 2], P=(0.5, 0.7), name="ar", flag=None)
    assert sweep.names == ("T", "P", "name", "flag")
    assert len(sweep) == 4
    rows = [{"T": t, "P": p, "name": "ar", "flag": None} for t, p in itertools.product([1, 2], [0.5, 0.7])]
    assert list(sweep) == rows == list(sweep)


def test_zip_goes_side_by_side():
    sweep = Sweep.zip(T=[1, 2], P=np.array([0.5, 0.7]))
    assert (len(sweep), list(sweep)) == (2, [{"T": 1, "P": 0.5}, {"T": 2, "P": 0.7}])


@pytest.mark.parametrize(
    "values",
    [
        [1, 2, 3],
        (1, 2, 3),
        range(1, 4),
        np.arange(1, 4),
        pd.Series([1, 2, 3], index=[7, 8, 9]),
        pd.Index([1, 2, 3]),
        {3, 1, 2},
        (n for n in (1, 2, 3)),
        {1: "a", 2: "b", 3: "c"}.keys(),
        [np.int64(1), np.float64(2), 3],
    ],
)
def test_any_iterable_gives_python_scalars(values):
    sweep = Sweep.grid(x=values)
    assert list(sweep) == list(sweep) == [{"x": 1}, {"x": 2}, {"x": 3}]
    assert {type(row["x"]) for row in sweep} <= {int, float}
    assert isinstance(encode(next(iter(sweep))), str)


@pytest.mark.parametrize("value", ["abc", b"abc", 5, 2.5, None, {"a": 1}, np.float64(1), np.array(3), True])
def test_a_single_value_counts_as_one(value):
    assert len(Sweep.grid(x=value)) == len(Sweep.zip(x=value)) == 1
    assert next(iter(Sweep.grid(x=value)))["x"] == value


def test_an_array_of_arrays_gives_arrays():
    rows = list(Sweep.grid(v=np.eye(2)))
    assert [row["v"].tolist() for row in rows] == [[1, 0], [0, 1]]


def test_a_large_grid_is_not_made_before_it_is_asked_for():
    sweep = Sweep.grid(**{name: range(1000) for name in "abcde"})
    assert len(sweep) == 10**15
    assert list(itertools.islice(sweep, 2))[1] == {"a": 0, "b": 0, "c": 0, "d": 0, "e": 1}
    html = sweep._repr_html_()
    assert "… 999,999,999,999,992 more rows …" in html and "<th>999,999,999,999,999</th><td>999</td>" in html


def test_rows_of_a_table():
    frame = pd.DataFrame({"T": [1, 2], "s": ["a", "b"]})
    rows = [{"T": 1, "s": "a"}, {"T": 2, "s": "b"}]
    assert list(Sweep.rows(frame)) == list(Sweep.rows(iter(rows))) == rows
    ragged = Sweep.rows([{"T": np.int64(1)}, {"s": "b"}])
    assert ragged.names == ("T", "s")
    assert list(ragged) == [{"T": 1}, {"s": "b"}]
    assert "<td></td>" in ragged._repr_html_()


def test_a_sweep_is_short_to_look_at():
    assert repr(Sweep.grid(T=range(1500), P=[1])) == "<Sweep of 1,500 rows: grid of T: 1,500 × P: 1>"
    assert repr(Sweep.zip(T=[1])) == "<Sweep of 1 row: zip of T>"
    html = Sweep.grid(name=["<b>", "x" * 500])._repr_html_()
    assert "&lt;b&gt;" in html and "<b>" not in html and "x" * 100 not in html and "more" not in html


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sweep.zip(T=[1, 2], P=[1, 2, 3]), "T has 2, P has 3"),
        (lambda: Sweep.zip(T=[1, 2], P=5), "T has 2, P has 1"),
        (lambda: Sweep.grid(), "empty"),
        (lambda: Sweep.zip(), "empty"),
        (lambda: Sweep.grid(T=[1], P=[]), "P has no values"),
        (lambda: Sweep.zip(T=np.array([])), "T has no values"),
        (lambda: Sweep.rows([]), "empty"),
        (lambda: Sweep.rows(pd.DataFrame()), "empty"),
        (lambda: Sweep.rows([{"a": 1}, 5]), "Row 1 of the sweep is 5"),
        (lambda: Sweep.rows([{1: 1}]), "Row 0"),
        (lambda: Sweep.grid(T=pd.DataFrame({"a": [1]})), "one column"),
        (lambda: Sweep.grid(T={1, "a"}), "no order"),
    ],
)
def test_sweeps_that_cannot_be_right_are_refused(make, message):
    with pytest.raises(BadInput, match=message):
        make()
