"""``%%balsam_submit``: a sweep in a cell, as YAML, as CSV or as Python."""

from __future__ import annotations

from typing import Any

import pytest

from balsam_jupyter import Site
from balsam_jupyter.magics.bodies import read
from balsam_jupyter.models import Query

from . import test_magics
from .test_magics import HELLO, Shell, mistake, run

shell = test_magics.shell
Capture = pytest.CaptureFixture[str]


def rows(ensemble: Any) -> list[tuple[Any, ...]]:
    return [tuple(task.process.parameters.values()) for task in ensemble.tasks()]


@pytest.mark.parametrize(
    "cell",
    [
        "name: [a, b]\nn: [1, 2]",
        "# the design\n\nname:\n  - a\n  - b\nn: [1, 2]",
        "{'name': names, 'n': range(1, 3)}",
        "dict(\n    name=['a', 'b'],\n    n=(i + 1 for i in range(2)),\n)  # both",
        "name,n\na,1\na,2\nb,1\nb,2\n",
        '"name","n"\n\n"a", 1\n"a", 2\n"b", 1\n"b", 2',
        "- {name: a, n: 1}\n- {name: a, n: 2}\n- {name: b, n: 1}\n- {name: b, n: 2}",
        "[{'name': x, 'n': n} for x in names for n in (1, 2)]",
        "design",
        "table",
    ],
)
def test_all_forms_of_the_same_sweep(shell: Shell, cell: str) -> None:
    run(shell, HELLO)
    run(shell, "names = ['a', 'b']\nimport pandas\nfrom balsam_jupyter import Sweep")
    run(shell, "design = Sweep.grid(name=names, n=[1, 2])\ntable = pandas.DataFrame(list(design))")
    ensemble = run(shell, f"%%balsam_submit hello --name scan --tag k=v\n{cell}")
    assert rows(ensemble) == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]
    assert run(shell, "%balsam_submit hello name=names n=[1, 2] --name scan").kept == 4
    report = run(shell, f"%%balsam_submit hello --dry-run\n{cell}")
    assert repr(report).startswith("Dry run: 4 tasks of app 'hello'; nothing was stored.")


def test_the_line_says_what_is_the_same_for_all_rows(shell: Shell) -> None:
    run(shell, HELLO)
    assert rows(run(shell, "%%balsam_submit hello n=7\nname: [a, b]")) == [("a", 7), ("b", 7)]
    assert rows(run(shell, "%%balsam_submit hello n=8\nname\na\nb")) == [("a", 8), ("b", 8)]
    assert rows(run(shell, "%%balsam_submit hello --zip\nname: [a, b]\nn: [1, 2]")) == [("a", 1), ("b", 2)]


def test_values_of_yaml_are_as_a_scientist_means_them() -> None:
    cell = "a: [1e-3, 1.5, .5, -2, 010]\nb: [NO, no, Y, on, true, 1:30, 2020-01-02, ~, 1_000]\nc: {k: [1, x]}"
    assert read(cell, {}) == {
        "a": [0.001, 1.5, 0.5, -2, 10],
        "b": ["NO", "no", "Y", "on", True, "1:30", "2020-01-02", None, "1_000"],
        "c": {"k": [1, "x"]},
    }


def test_csv_is_that_of_a_sweep() -> None:
    assert list(read("# of the design\na,b\n1,x\n-1,\n", {})) == [{"a": 1, "b": "x"}, {"a": -1}]


@pytest.mark.parametrize(
    ("cell", "says", "marked"),
    [
        ("# nothing\n", "The cell is empty", ""),
        ("name: [a\nn: 1", "Line 3 of the cell is not YAML: expected ',' or ']', but got ':'.", ":"),
        ("name: a\nn: 1\nname: b", "Line 4 of the cell is not YAML: name is there twice.", "n"),
        ("name: ['a', \"x\nn: 1", "Line 2 of the cell is not YAML: found unexpected end of stream.", '"'),
        ("name: *x", "Line 2 of the cell is not YAML: found undefined alias 'x'.", "*"),
        ("name: !!python/name:os.system", "Line 2 of the cell is not YAML: could not determine a constructor", "!"),
        ("name: a\nn: \x07", "Line 3 of the cell is not YAML: special characters are not allowed.", "\ufffd"),
        ("- 1\n- 2", "The cell is YAML, but neither a mapping of names to values nor a list of such mappings.", ""),
        ("name,n\na,1\nb", "the cell, line 4 has 1 cell, but the header has 2.", "b"),
        ("name,name\na,1", "the cell has the column 'name' twice.", ""),
        ("{'name': names}", "{'name': names}: name 'names' is not defined", "{'name': names}"),
        ("{'name': [1,\n  2 3]}", "{'name': [1,…: not a Python expression (invalid syntax. Perhaps", "2 3"),
        ("3", "A sweep is a Sweep, a mapping of lists, a list of mappings or a DataFrame, not 3.", ""),
        ("nmae: a\nn: 1", "Row 0 of the sweep: App hello has no parameter 'nmae'", ""),
        ("{}", "The sweep is empty", ""),
        ("[]", "The sweep is empty", ""),
        ("[3]", "Row 0 of the sweep is 3", ""),
        ("({'n': 1 / 0} for _ in [1])", "The sweep in the cell: ZeroDivisionError: division by zero", ""),
        ("{'name': 'a', 'n': (1 / 0 for _ in [1])}", "The sweep in the cell: ZeroDivisionError", ""),
    ],
)
def test_a_mistake_in_the_cell_is_one_line_and_stores_nothing(
    shell: Shell, site: Site, capsys: Capture, cell: str, says: str, marked: str
) -> None:
    run(shell, HELLO)
    said, word = mistake(shell, capsys, f"%%balsam_submit hello\n{cell}")
    assert said.startswith(says) and word == marked
    assert site.engine.count(Query()) == {} and site.engine.ensembles() == []


def test_a_parameter_in_the_line_and_in_the_cell(shell: Shell, capsys: Capture) -> None:
    run(shell, HELLO)
    assert mistake(shell, capsys, "%%balsam_submit hello n=1\nname: a\nn: 2") == ("n is in the cell, too.", "n=1")
