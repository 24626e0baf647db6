"""Slips of users, which must be said and not swallowed; and where their code failed."""

from __future__ import annotations

import functools
import json
import linecache
import logging
import math
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, BatchJob, Site
from balsam_jupyter.apps import app_from_record, app_record, app_version, check_parameters
from balsam_jupyter.errors import BadInput

SOON = 60.0


def declared(**body: Any) -> type:
    """A class as its ``class`` statement makes it."""
    if "run" not in body:
        body.setdefault("command_template", "echo {{ a }}")
    return type(ApplicationDefinition)("Slip", (ApplicationDefinition,), {"__qualname__": "Slip", **body})


@pytest.mark.parametrize(
    ("slip", "meant"),
    [
        ("output", "outputs"),
        ("input", "inputs"),
        ("enviroment_variables", "environment_variables"),
        ("environment_variable", "environment_variables"),
        ("parameter", "parameters"),
        ("shell_preambel", "shell_preamble"),
        ("python_exec", "python_exe"),
        ("post_process", "postprocess"),
        ("handle_errors", "handle_error"),
        ("transfer", "transfers"),
    ],
)
def test_a_misspelt_attribute_is_refused(slip: str, meant: str) -> None:
    with pytest.raises(BadInput, match=rf"App Slip has `{slip}`: did you mean `{meant}`\?"):
        declared(**{slip: {}})


def test_a_misspelt_attribute_is_said_before_what_follows_from_it() -> None:
    with pytest.raises(BadInput, match="`comand_template`: did you mean `command_template`"):

        class Echo(ApplicationDefinition):
            comand_template = "echo {{ a }}"

    with pytest.raises(BadInput, match="`runs`: did you mean `run`"):

        class Runs(ApplicationDefinition):
            def runs(self, x: int) -> int:
                return x


def test_a_misspelt_attribute_is_refused_after_the_class_too() -> None:
    app = declared()
    app.output = {"y": "(x)"}  # type: ignore[attr-defined]
    with pytest.raises(BadInput, match="did you mean `outputs`"):
        app_record(app)


def test_other_attributes_are_the_users_own() -> None:
    class Own(ApplicationDefinition):
        size = 3
        title = "x"
        _output = 1
        sites = (0, 1)

        def run(self, x: int) -> int:
            return self.process(x) + len(self.sites)

        def process(self, x: int) -> int:
            return x + self.size

    assert app_record(Own).kind == "python"
    assert app_record(app_from_record(app_record(Own))).version == app_version(Own)


def test_classes_of_balsam_are_taken_as_they_are() -> None:
    base = type("ApplicationDefinition", (), {"__module__": "balsam._api.app"})
    theirs = type("Theirs", (base,), {"site": 1, "command_template": "echo {{ a }}", "output": 1})
    assert app_record(theirs).name == "Theirs"
    stored = app_record(type("Run", (base,), {"site": 1, "output": 1, "run": lambda self, x: x}))
    assert vars(app_from_record(stored))["output"] == 1


class Thing:
    pass


class Named:
    def __str__(self) -> str:
        return "named"


def test_no_address_gets_into_a_command() -> None:
    record = app_record(declared())
    values = (
        Thing(), Thing, json, here, lambda: 1, len, [].append, functools.partial(len),
        (i for i in ()), object(),
    )  # fmt: skip
    for value in values:
        with pytest.raises(BadInput, match=r"The value of 'a' is the .*; give text or a number") as caught:
            check_parameters(record, {"a": value})
        assert " at 0x" not in str(caught.value)
    good = (1, 1.5, None, True, "<x at 0x7f>", Path("a"), Named(), np.float64(2), np.int32(1), 1j, 10**30)
    for value in good:
        assert check_parameters(record, {"a": value})["a"] is value


def test_a_collection_is_no_argument() -> None:
    record = app_record(declared())
    for value in ([1, 2], (1,), [], {1}, np.arange(3)):
        with pytest.raises(
            BadInput, match=r"one argument of the command; give text or a number, or write {% for x in a"
        ):
            check_parameters(record, {"a": value})
    for value in ({"k": 1}, OrderedDict()):
        with pytest.raises(BadInput, match="one argument of the command; give a parameter for each of its entries"):
            check_parameters(record, {"a": value})


def test_a_template_may_take_a_collection_apart() -> None:
    loop = "prog {% for x in a %}{{ x }} {% endfor %}{% for k, v in b.items() %}{{ k }}={{ v }} {% endfor %}"
    record = app_record(declared(command_template=loop))
    assert check_parameters(record, {"a": [1, "b"], "b": {"k": 1}})
    for value, message in ((["x", "\ud800"], "encoded"), ([1, Thing()], "the Thing, which has no text")):
        with pytest.raises(BadInput, match=message):
            check_parameters(record, {"a": value, "b": {}})
    both = app_record(declared(command_template="prog {{ a }} {% for x in a %}{{ x }} {% endfor %}"))
    with pytest.raises(BadInput, match="'a' is a list"):
        check_parameters(both, {"a": [1]})


class NoOut(ApplicationDefinition):
    site = "here"
    command_template = "echo {{ a }}"
    outputs = {"y": r"y = (\S+)", "z": r"^(\d)$"}


def test_a_table_says_why_it_has_nan(
    exctr: BalsamExecutor, allocation: BatchJob, caplog: pytest.LogCaptureFixture
) -> None:
    exctr.register_app(NoOut)
    ens = exctr.submit_sweep("NoOut", [{"a": "y = 1"}, {"a": "1"}, {"a": "2"}], name="noout").wait(SOON)
    extracted = [ens.extract({"z": r"^(.).*$"})]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        table = ens.to_dataframe()
    assert extracted == [{}] and list(table["z"]) == ["y", 1, 2]
    assert table["y"][0] == 1 and math.isnan(table["y"][1]) and math.isnan(table["y"][2])
    assert [one.getMessage() for one in caplog.records] == [
        r"noout: outputs missing in 2 of 3 finished rows, e.g. row 1: y: no match for 'y = (\\S+)' in job.out; "
        "ensemble.extract(outputs=…) reads them again with other outputs."
    ]
    ens.extract({"y": r"(\d)"})
    caplog.clear()
    assert list(ens.to_dataframe()["y"]) == [1, 1, 2]
    assert caplog.records == []


def test_a_row_that_waits_again_shows_nothing_of_the_attempt_before(
    exctr: BalsamExecutor, site: Site, allocation: BatchJob
) -> None:
    class Fails(ApplicationDefinition):
        site = "here"
        command_template = "false {{ a }}"

    exctr.register_app(Fails)
    ens = exctr.submit_sweep("Fails", [{"a": 1}, {"a": 2}], name="again").wait(SOON)
    assert list(ens.to_dataframe()["return_code"]) == [1, 1]
    assert site.engine.revoke(allocation.id, 30.0)
    assert ens.retry() == 2
    table = ens.to_dataframe()
    assert list(table["state"]) == ["WAITING", "WAITING"]
    assert table["return_code"].isna().all() and table["runtime_s"].isna().all()


CELL = """
def helper(x):
    return 1 / x  # in a helper

class Cell(ApplicationDefinition):
    site = "here"
    def run(self, x):
        return helper(x)  # in the cell
"""


def test_a_traceback_shows_the_lines_of_a_cell(exctr: BalsamExecutor, allocation: BatchJob, tmp_path: Path) -> None:
    name = str(tmp_path / "ipykernel_1" / "4237558710.py")
    space = {"__name__": "__main__", "ApplicationDefinition": ApplicationDefinition}
    linecache.cache[name] = (len(CELL), None, CELL.splitlines(keepends=True), name)
    try:
        exec(compile(CELL, name, "exec"), space)
        exctr.register_app(space["Cell"])
    finally:
        del linecache.cache[name]
    task = exctr.submit(app_name="Cell", app_args={"x": 0})
    with pytest.raises(ZeroDivisionError) as caught:
        task.value(SOON)
    for text in (task.read_stdout(), str(caught.value.__cause__)):
        assert "return helper(x)  # in the cell" in text and "return 1 / x  # in a helper" in text


def test_only_cells_travel_as_source() -> None:
    def sources(run: Any) -> Any:
        return pickle.loads(app_record(declared(run=run)).payload or b"")["sources"]

    assert sources(lambda self: functools.partial(here)()) == {}
    cell = "def run(self): return here()\n"
    linecache.cache["<cell 1>"] = (len(cell), None, [cell], "<cell 1>")
    space = {"__name__": "__main__", "here": here}
    exec(compile(cell, "<cell 1>", "exec"), space)
    assert sources(space["run"]) == {"<cell 1>": cell}
    version = app_version(declared(run=space["run"]))
    linecache.cache["<cell 1>"] = (len(cell), None, [f"{cell}# said\n"], "<cell 1>")
    assert app_version(declared(run=space["run"])) == version


def here() -> int:
    return 1
