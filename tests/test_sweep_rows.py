"""What is stored of a sweep is what each of its rows would give by itself, byte for byte, however it was made."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balsam_jupyter import ApplicationDefinition, Sweep, codec
from balsam_jupyter.apps import check_parameters
from balsam_jupyter.errors import BadInput
from balsam_jupyter.models import AppRecord, Parameter
from balsam_jupyter.rows import Texts, encoded
from balsam_jupyter.sweep import choice, integers, loguniform, normal, uniform

from .sweeps import NAMES, Rows, designs, plain, values

MODEST = st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from([0.5, 1.0, -0.0, float("nan"), "a", "{0}"])


@st.composite
def apps(draw: st.DrawFn) -> AppRecord:
    """An app of the parameters of `designs`, in any order, with defaults, and one more."""
    names = draw(st.permutations([*NAMES, "{d}"]))
    default = draw(MODEST)
    return AppRecord("App", "python", "v", {name: Parameter(False, default) for name in names})


def one_by_one(app: AppRecord, rows: Rows) -> tuple[list[str | bytes], list[bytes]]:
    """The rules of identity, in words."""
    seen: Counter[bytes] = Counter()
    texts, keys = [], []
    for row in rows:
        full = check_parameters(app, row)
        form = codec.canonical(full)
        texts.append(codec.encode(full))
        keys.append(codec.row_key(app.name, form, seen[form]))
        seen[form] += 1
    return texts, keys


@pytest.mark.parametrize("value", [MODEST, plain, values], ids=["modest", "plain", "values"])
def test_rows_are_stored_as_each_by_itself(value: st.SearchStrategy[Any]) -> None:
    @given(designs(value), apps())
    def holds(design: tuple[Sweep, Rows], app: AppRecord) -> None:
        sweep, rows = design
        expected = one_by_one(app, rows)
        texts, keys = encoded(app, sweep)
        assert (list(texts), keys) == expected == (list(texts), keys)
        assert len(texts) == len(keys)
        texts, keys = encoded(app, iter(rows))
        assert (list(texts), keys) == expected and len(texts) == len(rows)

    holds()


@pytest.mark.parametrize(
    "sweep",
    [
        Sweep.grid(a=range(3), b=[0.5, float("inf")], c=["x", "y\n"]),
        Sweep.zip(a=[1, 2.0, True], b=["x", None, "}"]),
        Sweep.random(20, seed=3, a=uniform(1, 2), b=normal(0, 1), c=choice(["x", 1])) * Sweep.grid(seed=range(2)),
        Sweep.latin_hypercube(20, 3, a=loguniform(1, 2), b=integers(1, 3), c=5).repeat(2),
        Sweep.grid(a=[1]) + Sweep.grid(b=[1]),
        Sweep.grid(a=range(9)).where(lambda row: row["a"] % 2),
    ],
    ids=repr,
)
def test_plain_sweeps_go_column_by_column(sweep: Sweep) -> None:
    app = AppRecord("App", "shell", "v", {name: Parameter(False, 7) for name in NAMES}, "echo {{ a }}")
    texts, keys = encoded(app, sweep)
    assert isinstance(texts, Texts)
    assert (list(texts), keys) == one_by_one(app, list(sweep))


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        (Sweep.grid(a=range(5)), "^Row 0 of the sweep: App App needs a value for b; its parameters: a, b, c.$"),
        (Sweep.grid(a=[1], b=[1], d=[2]), "^Row 0 of the sweep: App App has no parameter 'd'"),
        (Sweep.grid(a=[1], b=[1, 2, "x\0"]), "^Row 2 of the sweep: The value of 'b' holds a NUL character"),
        (Sweep.grid(b=[1, 2, [3]]), "^Row 2 of the sweep: The value of 'b' is a list"),
        (Sweep.zip(b=["x", "y" * 200_000]), "^Row 1 of the sweep: The value of 'b' is longer than"),
        (Sweep.grid(a=[1], b=[1]) + Sweep.grid(a=[2]), "^Row 1 of the sweep: App App needs a value for b"),
        ([{"b": 1}, {"b": object()}], "^Row 1 of the sweep: The value of 'b' is the object"),
        (({"b": 1} if i else 5 for i in range(2)), "^Row 0 of the sweep: a row is a mapping of parameters, not 5.$"),
    ],
)
def test_a_wrong_row_is_named(sweep: Any, message: str) -> None:
    parameters = {"a": Parameter(False, 1), "b": Parameter(), "c": Parameter(False, "x")}
    app = AppRecord("App", "shell", "v", parameters, "echo {{ a }} {{ b }} {{ c }}")
    with pytest.raises(BadInput, match=message):
        encoded(app, sweep)


class Point(ApplicationDefinition):
    def run(self, a, b=2, seed=0):
        return a * b


def test_designs_are_stored_whole_and_none_twice(exctr):
    exctr.register_app(Point)
    sweep = (Sweep.grid(a=range(500)) * Sweep.grid(b=[1.5, 2.5]) + Sweep.grid(a=[1, 1, 7])).repeat(2)
    first = exctr.submit_sweep("Point", sweep, name="all")
    assert (first.new, first.kept) == (len(sweep), 0) == (2006, 0)
    defaults = {"b": 2}
    assert [task.process.parameters for task in first.tasks()] == [{**defaults, **row} for row in sweep]
    again = exctr.submit_sweep("Point", sweep, name="all")
    assert (again.new, again.kept) == (0, len(sweep))
    more = exctr.submit_sweep("Point", list(sweep) + list(Sweep.grid(a=range(1500), b=[9])), name="all")
    assert (more.new, more.kept) == (1500, len(sweep))
    tasks = more.tasks()
    assert [str(task.process.workdir) for task in tasks] == [f"all/{row}" for row in range(len(tasks))]


def test_nothing_is_stored_of_a_sweep_whose_last_row_is_wrong(exctr):
    exctr.register_app(Point)
    with pytest.raises(BadInput, match="Row 5000 of the sweep"):
        exctr.submit_sweep("Point", ({"a": i} if i < 5000 else {} for i in range(5001)), name="all")
    assert exctr.ensembles() == []
