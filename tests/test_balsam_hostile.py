"""Functions of users that would end a site's agent, or come back as what nobody can read."""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cloudpickle
import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor
from balsam_jupyter.ensemble import Ensemble

from .anywhere import opened
from .balsam_service.site import ServiceSite

SOON = 30.0
cloudpickle.register_pickle_by_value(sys.modules[__name__])  # as what is declared in a cell


@dataclass
class Point:
    x: int
    also: Any = None


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class Returns(ApplicationDefinition):
    def run(self, what: str) -> Any:
        if what == "large error":
            raise ValueError("x" * 2_000_000)
        if what == "large":
            return "x" * 3_000_000
        if what == "lambda":
            return lambda: 42
        if what == "error":
            return ValueError("as a value")
        return Point(3, [Point(4)]) if what == "point" else what


class Exits(ApplicationDefinition):
    command_template = "echo {{ number }}"

    def preprocess(self) -> None:
        sys.exit(3)


class Mute(ApplicationDefinition):
    command_template = "echo {{ number }}"

    def postprocess(self) -> None:
        raise NoText


class Nul(ApplicationDefinition):
    command_template = "false {{ number }}"

    def handle_error(self) -> None:
        raise ValueError("half \0 a \ud800 text")


class Nonsense(ApplicationDefinition):
    command_template = "echo {{ number }}"

    def preprocess(self) -> None:
        self.job.state = "NONSENSE"


class Data(ApplicationDefinition):
    command_template = "echo {{ number }}"

    def preprocess(self) -> None:
        self.job.data = {"point": Point(1), "set": {1}}
        self.job.state = "PREPROCESSED"


class Outputs(ApplicationDefinition):
    command_template = "echo T = 5 {{ number }}"
    outputs = {
        "pairs": lambda folder: {(1, 2): 3},
        "nul": lambda folder: "\0",
        "half": lambda folder: "\ud800",
        "fails": lambda folder: 1 / 0,
        "says": lambda folder: int("no \0 number"),
        "T": r"T = (\d+)",
    }


@pytest.fixture(scope="module")
def exctr(balsam_site: ServiceSite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BalsamExecutor]:
    with opened("balsam", tmp_path_factory.mktemp("hostile"), balsam_site) as site:
        executor = BalsamExecutor(site)
        executor.submit_allocation(site.id, 1, 10, job_mode="mpi")
        yield executor


def ran(exctr: BalsamExecutor, app: type, rows: list[dict[str, Any]]) -> Ensemble:
    exctr.register_app(app)
    return exctr.submit_sweep(app.__name__, rows, name=f"e{secrets.token_hex(4)}").wait(SOON)


def test_values(exctr: BalsamExecutor) -> None:
    kinds = ["large", "large error", "lambda", "error", "point", "text"]
    tasks = dict(zip(kinds, ran(exctr, Returns, [{"what": one} for one in kinds]).tasks(), strict=True))
    with pytest.raises(ValueError, match=r"takes 3,000,\d{3} bytes as a pickle, .* write it to a file"):
        tasks["large"].value()
    with pytest.raises(RuntimeError, match="ValueError: xxx") as raised:
        tasks["large error"].value()
    assert len(str(raised.value)) < 2000
    assert tasks["lambda"].value()() == 42
    assert repr(tasks["error"].value()) == "ValueError('as a value')"
    assert tasks["point"].value() == Point(3, [Point(4)])
    assert tasks["text"].value() == "text"


@pytest.mark.parametrize(
    ("app", "why"),
    [
        (Exits, r"Exits\.preprocess .*sys\.exit\(3\) was called"),
        (Mute, r"Mute\.postprocess .*NoText"),
        (Nul, r"Nul\.handle_error .*ValueError: half  a \? text"),
        (Nonsense, r"Nonsense\.preprocess .*'NONSENSE' is no state of a job"),
    ],
)
def test_hooks(exctr: BalsamExecutor, app: type, why: str) -> None:
    ensemble = ran(exctr, app, [{"number": 1}])
    assert ensemble.counts()["FAILED"] == 1
    assert len(ensemble.failures()) == 1
    error = ensemble.to_dataframe()["error"][0]
    assert re.search(why, error), error


def test_data_that_json_cannot_hold(exctr: BalsamExecutor) -> None:
    (task,) = ran(exctr, Data, [{"number": 1}]).tasks()
    assert task.state == "FINISHED"
    assert task.process.data == {"point": "Point(x=1, also=None)", "set": "{1}"}


def test_outputs(exctr: BalsamExecutor) -> None:
    table = ran(exctr, Outputs, [{"number": 1}]).to_dataframe()
    assert table["state"][0] == "FINISHED"
    assert (table["T"][0], table["nul"][0], table["half"][0], table["pairs"][0]) == (5, "\0", "\ud800", "{(1, 2): 3}")
    assert "ZeroDivisionError" in table["error"][0]
