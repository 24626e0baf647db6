"""Stored values come back exactly, and equal parameters have one identity in every process."""

import datetime
import enum
import json
import math
import subprocess
import sys
import threading
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from balsam_jupyter.codec import canonical, decode, encode, row_key
from balsam_jupyter.errors import BadInput


def same(a, b):
    """Equal in type and value, also inside; NaN equals NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) and same(k, j) for k, j in zip(a, b, strict=True))
    return a == b


text = st.text(st.characters())
scalars = st.none() | st.booleans() | st.integers() | st.floats() | text
keys = text | st.integers() | st.booleans() | st.none() | st.tuples(st.integers())
values = st.recursive(
    scalars | st.binary() | st.dates() | st.complex_numbers(allow_nan=False),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(keys, inner, max_size=4),
)


@given(values)
def test_any_value_comes_back_exactly(value):
    assert same(decode(encode(value)), value)


@given(st.dictionaries(st.text(), scalars))
def test_plain_dicts_are_json(value):
    stored = encode(value)
    if isinstance(stored, bytes):  # only what JSON would merge
        assert any("\ud800" <= c <= "\udfff" for v in (*value, *value.values()) if isinstance(v, str) for c in v)
    else:
        assert same(json.loads(stored), value)


def test_values_json_would_change_are_pickled():
    moment = datetime.datetime(2024, 1, 2, 3)
    for value in ((1, 2), {1: 2}, {"a": (1,)}, Path("x"), moment, b"x", {1, 2}, "\ud83d\ude00"):
        assert isinstance(encode(value), bytes), value
        assert same(decode(encode(value)), value)
    array = np.arange(6.0).reshape(2, 3)
    back = decode(encode({"a": array}))["a"]
    assert back.dtype == array.dtype and (back == array).all()
    assert decode(None) is None and decode(encode(None)) is None


def test_numpy_scalars_become_pythons():
    given = {"a": np.float64(0.1), "b": [np.int64(2), np.bool_(True)], "c": np.str_("x"), "d": np.float32(0.5)}
    stored = encode(given)
    assert isinstance(stored, str)
    assert same(decode(stored), {"a": 0.1, "b": [2, True], "c": "x", "d": 0.5})
    assert same(decode(encode(np.int32(7))), 7)


def test_a_value_that_cannot_be_stored_says_so():
    with pytest.raises(BadInput, match=r"type lock cannot be stored.*plain values"):
        encode(threading.Lock())


def test_huge_cyclic_and_deep_values():
    assert decode(encode(10**5000)) == 10**5000
    loop = []
    loop.append(loop)
    back = decode(encode(loop))
    assert back[0] is back
    with pytest.raises(BadInput, match="'x' contains itself"):
        canonical({"x": loop})


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Number(enum.IntEnum):
    ONE = 1


ONE = [1, 1.0, np.float64(1), np.int8(1), np.float32(1), Decimal(1), Fraction(2, 2), 1 + 0j, np.longdouble(1)]
CLASSES = [
    ONE,
    [True, np.bool_(True)],
    ["1", np.str_("1")],
    [float("nan"), np.nan, np.float32("nan"), Decimal("nan")],
    [float("inf"), np.inf, Decimal("Infinity")],
    [0, -0.0, 0.0],
    [0.5, Fraction(1, 2), Decimal("0.5")],
    [2**53, float(2**53)],
    [2**53 + 1],
    [2**53 + 2, float(2**53 + 2)],
    [1e300, int(1e300)],
    [10**5000],
    [None],
    [[1, 2], (1, 2.0), range(1, 3)],
    [[1, [2]]],
    [[[1], 2]],
    [np.array([1, 2])],
    [np.array([1.0, 2.0])],
    [np.array([[1, 2]])],
    [np.array(["a", None], dtype=object)],
    [{"a": 1, "b": 2}, {"b": 2.0, "a": 1}],
    [{"1": 1}],
    [{1: 1}],
    [{"x", "y", "z"}, frozenset({"z", "y", "x"})],
    [b"1", bytearray(b"1")],
    [Colour.RED],
    [Colour.BLUE],
    [Number.ONE],
    [Path("a/b"), "a/b"],
    [datetime.date(2024, 1, 2), "2024-01-02", np.datetime64("2024-01-02")],
    [datetime.datetime(2024, 1, 2), pd.Timestamp("2024-01-02")],
    [datetime.timedelta(1), pd.Timedelta(days=1)],
    [1j, np.complex128(1j)],
    [math.sin],
    [np.sin],
    ["list"],
    [["list"]],
    ['["list"]'],
    [np.longdouble("0.1")],
    [0.1],
    [np.float32(0.1)],
    [Decimal("0.1")],
]


def test_equal_values_have_one_form_and_others_do_not():
    forms = [{canonical({"x": value}) for value in group} for group in CLASSES]
    assert [len(found) for found in forms] == [1] * len(forms)
    assert len(set().union(*forms)) == len(forms)


def test_order_of_the_parameters_does_not_matter():
    assert canonical({"a": 1, "b": 2}) == canonical({"b": 2, "a": 1})
    assert canonical({"a": 1, "b": 2}) != canonical({"a": 2, "b": 1})


@given(st.dictionaries(st.text(), scalars), st.dictionaries(st.text(), scalars))
def test_forms_are_unambiguous(a, b):
    def meaning(params):
        return {
            k: ("nan",) if isinstance(v, float) and math.isnan(v) else (type(v) is bool, v) for k, v in params.items()
        }

    assert (canonical(a) == canonical(b)) == (meaning(a) == meaning(b))


@given(values)
def test_every_plain_value_has_a_form_and_storing_keeps_it(value):
    assert canonical({"x": decode(encode(value))}) == canonical({"x": value})


@pytest.mark.parametrize("value", [object(), lambda: 1, threading.Lock(), np.ma.array([1], mask=[True]), pd.NA])
def test_values_without_a_form_are_refused_by_parameter(value):
    with pytest.raises(BadInput, match=r"'mesh' has a value of type .* Pass numbers"):
        canonical({"mesh": [value]})


def test_keys_depend_on_app_parameters_and_occurrence():
    form = canonical({"x": 1})
    keys = {row_key(*args) for args in [("a", form, 0), ("a", form, 1), ("b", form, 0), ("a", canonical({"x": 2}), 0)]}
    assert len(keys) == 4 and {len(key) for key in keys} == {16}
    assert row_key("a1", b"", 0) != row_key("a", b"1", 0) != row_key("a", b"", 1)


def test_keys_are_equal_in_every_process():
    code = (
        "import sys; from balsam_jupyter.codec import *\n"
        "form = canonical({'s': {'a', 'b', 'c'}, 'd': {'y': 1, 'x': (2.0, 'é')}, 'n': float('nan')})\n"
        "print(row_key('app', form, 3).hex())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(found) == 1
