"""Plots of columns that no axis was made for: each is drawn in every way, or refused with a reason."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, BatchJob, Ensemble
from balsam_jupyter.errors import BadInput
from balsam_jupyter.widgets.plots import Plots, ResultPlot

from .test_plots import drawn

ODD: dict[str, Callable[[int], Any]] = {
    "huge": lambda n: 1.7e308 * (-1) ** n,
    "tiny": lambda n: 5e-324 * n,
    "endless": lambda n: float("inf") if n % 2 else -float("inf"),
    "long": lambda n: 10**400 + n,
    "nan": lambda n: float("nan"),
    "half": lambda n: "half a character: \ud800",
    "\ud800": lambda n: n,
    "<img src=x>": lambda n: f"<img src=x>{n}",
    "mixed": lambda n: n if n % 2 else f"text {n}",
    "first": lambda n: datetime.datetime.min,
    "last": lambda n: datetime.datetime.max,
    "never": lambda n: datetime.timedelta.max,
    "arrays": lambda n: [n],
    "complex": lambda n: complex(n, 1),
    "class": lambda n: n,
    "plot": lambda n: n,
    "": lambda n: n,
    "x" * 400: lambda n: "y" * 4000 + str(n),
}


@pytest.fixture
def odd(exctr: BalsamExecutor, allocation: BatchJob) -> Ensemble:
    """Four rows that yield all of these."""

    class Odd(ApplicationDefinition):
        def run(self, n: int) -> Any:
            return {name: make(n) for name, make in ODD.items()}

    exctr.register_app(Odd)
    return exctr.submit_sweep("Odd", {"n": range(4)}, name="scan").wait(60)


WAYS: list[Callable[[Plots, str], ResultPlot]] = [
    lambda plot, name: plot("n", name),
    lambda plot, name: plot(name, "n", logx=True),
    lambda plot, name: plot("n", "n", color=name),
    lambda plot, name: plot.parallel(["n", name], color=name),
    lambda plot, name: plot.heatmap("n", name, "n"),
    lambda plot, name: plot.heatmap("n", "n", name),
]


def test_odd_columns_are_drawn_or_refused(odd: Ensemble) -> None:
    assert odd.counts()["FINISHED"] == 4
    for name in ODD:
        for way in WAYS:
            try:
                plot = way(odd.plot, name)
            except BadInput as error:
                assert len(str(error)) < 1000
            else:
                drawn(plot)
                repr(plot).encode()
    drawn(odd.plot.parallel())
