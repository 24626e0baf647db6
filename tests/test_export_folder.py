"""An ensemble as a folder: what is in it runs again in a new process, at a new site, with the same results."""

from __future__ import annotations

import csv
import json
import linecache
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor
from balsam_jupyter.errors import BadInput, SiteError

PACKAGE = Path(__file__).resolve().parent.parent


def run(script: Path, *words: str, **env: str) -> list[str]:
    """Run a script elsewhere, with a list of sites of its own; the lines it prints."""
    home = {"BALSAM_JUPYTER_HOME": str(script.parent / ".sites"), "PYTHONPATH": str(PACKAGE), **env}
    done = subprocess.run(
        [sys.executable, str(script), *words],
        cwd=script.parent, env={**os.environ, **home}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def again(folder: Path) -> list[dict[str, Any]]:
    """What the exported app.py prints."""
    return [json.loads(line) for line in run(folder / "app.py", "--minutes", "5") if line.startswith("{")]


def table(file: Path) -> list[dict[str, str]]:
    with open(file, newline="") as opened:
        return list(csv.DictReader(opened))


class Greet(ApplicationDefinition):
    """Greets somebody, "kindly"."""

    command_template = "cat words.txt data/in.txt && echo {{ who }} {{ times }} $TONE"
    parameters = {"times": {"required": False, "default": 2, "help": "how often"}}
    environment_variables = {"TONE": "soft"}
    outputs = {"times": r"(\d+) soft", "length": lambda folder: len((folder / "job.out").read_text())}


def test_a_command(exctr: BalsamExecutor, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("from a file\n")
    Greet.inputs = {"words.txt": "hello {{ who }}\n", "data/in.txt": tmp_path / "in.txt"}
    exctr.register_app(Greet, app_name="say hello")
    ensemble = exctr.submit_sweep(
        "say hello", {"who": ["you", "7", 'a,b "c"\nd'], "times": [1, 3]}, "greetings", tags={"kind": "test"}
    )
    exctr.submit_sweep("say hello", [{"who": "late"}], "greetings", wall_time_min=1, max_retries=1)
    exctr.submit_allocation("here", 1, 5, job_mode="serial")
    ensemble.wait(60)
    folder = ensemble.export(tmp_path / "out" / "folder")
    (tmp_path / "in.txt").unlink()
    assert sorted(one.name for one in folder.iterdir()) == [
        "README.md", "app.py", "inputs", "provenance.json", "results.csv", "ro-crate-metadata.json", "rows.csv",
    ]  # fmt: skip
    assert not list(folder.parent.glob(".folder-*"))
    results = table(folder / "results.csv")
    assert [one["state"] for one in results] == ["FINISHED"] * 7 and results[2]["who"] == "7"
    assert [one["param_times"] for one in results] == ["1", "3", "1", "3", "1", "3", "2"]
    printed = again(folder)
    assert [one["value"]["length"] for one in printed] == [int(one["length"]) for one in results]
    assert [one["value"]["times"] for one in printed] == [int(one["times"]) for one in results]
    readme = (folder / "README.md").read_text()
    assert "python app.py" in readme and "7 rows of the app say hello: 7 finished" in readme


SCRIPT = '''
import datetime
import functools
import math
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import scipy.optimize
import helper
from helper import shift

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, open_site

FACTOR = 2.5
TABLE = np.arange(4.0)
WHERE = Path("nowhere")
Pair = namedtuple("Pair", "a b")
NAME = "a name that the file has, too"


def times(f):
    @functools.wraps(f)
    def inner(x):
        return FACTOR * f(x)
    return inner


class Model:
    """A class of the user's."""

    power = 2

    def __init__(self, x):
        self.x = x

    def energy(self):
        return self.x ** self.power + offset(self.x)


@times
def offset(x):
    """What is added.

    In more than one line.
    """
    text = """a
  b"""
    return math.sqrt(abs(x)) + len(text) + OTHER


OTHER = -3
area = lambda x: x * TABLE.sum()


class Study(ApplicationDefinition):
    def run(self, x: float, when: datetime.date, scale: int = OTHER, label="é"):
        """Compute."""
        # a comment
        root = scipy.optimize.brentq(lambda y: y - x, -100, 100)
        print(WHERE, NAME)
        return {"energy": Model(x).energy() + shift(self.more(), scale) + helper.twice(x), "area": area(root),
                "label": label, "year": when.year, "sum": self.total(1, 2)}

    def more(self):
        return self.base * len("""a
    b""")

    @staticmethod
    def total(a, b):
        return a + b

    base = 4


if __name__ == "__main__":
    site = open_site("first", Path("first"))
    exctr = BalsamExecutor(site)
    exctr.register_app(Study)
    days = [datetime.date(2026, 1, 1), datetime.date(2027, 1, 1)]
    ensemble = exctr.submit_sweep("Study", {"x": [1.0, 4.0], "when": days, "label": ["a", ""]}, "study")
    allocation = exctr.submit_allocation(site.id, 1, 5, job_mode="serial")
    ensemble.wait(60)
    exctr.revoke_allocation(allocation)
    ensemble.export(sys.argv[1])
    for task in ensemble.tasks():
        print(task.state, task.value())
'''

HELPER = """
STEP = 10
NAME = "another"


def shift(x, by):
    return x + by * STEP


def twice(x):
    return 2 * x
"""


def test_a_python_app_of_main(tmp_path: Path) -> None:
    """Its helpers, constants, classes and modules come along; the folder works where none of these is."""
    (tmp_path / "one").mkdir()
    script = tmp_path / "one" / "study.py"
    script.write_text(SCRIPT)
    (tmp_path / "one" / "helper.py").write_text(HELPER)
    first = run(script, str(tmp_path / "folder"))
    for each in (tmp_path / "one").glob("*.py"):
        each.unlink()
    folder = tmp_path / "folder"
    text = (folder / "app.py").read_text()
    assert "# a comment" in text and "@times\ndef offset(x):" in text and "FACTOR = 2.5" in text
    assert "    def more(self):" in text and "class Model:" in text
    printed = [f"{one['state']} {one['value']}" for one in again(folder)]
    assert printed == first[-8:] and len(printed) == 8
    results = table(folder / "results.csv")
    assert {one["value_label"] if "value_label" in one else one["label"] for one in results} == {"a", ""}
    assert results[0]["energy"] and results[0]["when"] == '"2026-01-01"'


def test_what_has_no_source_comes_as_values(exctr: BalsamExecutor, tmp_path: Path) -> None:
    space: dict[str, Any] = {"__name__": "__main__", "K": 3}
    exec("def helper(x):\n    return K * x\ndef run(self, x):\n    return helper(x) + 1\n", space)
    exctr.register_app(type("Made", (ApplicationDefinition,), {"run": space["run"], "__module__": "__main__"}))
    ensemble = exctr.submit_sweep("Made", {"x": [1, 2]}, "made")
    folder = ensemble.export(tmp_path / "folder")
    assert (folder / "values.pickle").exists() and "load it only if you trust" in (folder / "README.md").read_text()
    assert [one["value"] for one in again(folder)] == [4, 7]
    assert [one["state"] for one in table(folder / "results.csv")] == ["WAITING"] * 2


def test_cells_of_another_kernel_and_names_that_clash(
    exctr: BalsamExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The texts of cells travel with the app; what cannot stand in one file comes as values."""
    cell, file = "def near(x):  # of a cell\n    return x + K\n\ndef run(self, x):\n    return near(x)\n", "/cells/1.py"
    linecache.cache[file] = (len(cell), None, cell.splitlines(True), file)
    space: dict[str, Any] = {"__name__": "__main__", "K": 3}
    exec(compile(cell, file, "exec"), space)
    exctr.register_app(type("Cell", (ApplicationDefinition,), {"run": space["run"], "__module__": "__main__"}))
    del linecache.cache[file]
    folder = exctr.submit_sweep("Cell", {"x": [1, 2]}, "cell").export(tmp_path / "cell")
    assert "def near(x):  # of a cell" in (folder / "app.py").read_text()
    assert not (folder / "values.pickle").exists()
    assert [one["value"] for one in again(folder)] == [4, 5]

    for name, step in (("one", 1), ("two", 10)):
        (tmp_path / f"mod_{name}.py").write_text(f"STEP = {step}\n\ndef {name}(x):\n    return x + STEP\n")
    monkeypatch.syspath_prepend(tmp_path)
    body = "from mod_one import one\nfrom mod_two import two\ndef run(self, x):\n    return one(x) * two(x)\n"
    linecache.cache["/cells/2.py"] = (len(body), None, body.splitlines(True), "/cells/2.py")
    exec(compile(body, "/cells/2.py", "exec"), space)
    exctr.register_app(type("Clashing", (ApplicationDefinition,), {"run": space["run"], "__module__": "__main__"}))
    folder = exctr.submit_sweep("Clashing", {"x": [1, 2]}, "clashing").export(tmp_path / "clashing")
    for name in ("one", "two"):
        (tmp_path / f"mod_{name}.py").unlink()
    assert (folder / "values.pickle").exists()
    assert [one["value"] for one in again(folder)] == [22, 36]


def test_where_it_may_go(exctr: BalsamExecutor, tmp_path: Path) -> None:
    exctr.register_app(type("Made", (ApplicationDefinition,), {"command_template": "echo {{ x }}"}))
    ensemble = exctr.submit_sweep("Made", {"x": [1]}, "made")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "file").touch()
    for name in ("full", "file"):
        with pytest.raises(BadInput, match="is not an empty folder; choose another path"):
            ensemble.export(tmp_path / name)
    assert (tmp_path / "full" / "mine").exists()
    with pytest.raises(SiteError, match="cannot be written"):
        ensemble.export(tmp_path / "file" / "below")
    (tmp_path / "empty").mkdir()
    assert ensemble.export(tmp_path / "empty") == tmp_path / "empty"
    assert (tmp_path / "empty" / "app.py").exists()


def test_the_description_is_an_ro_crate(exctr: BalsamExecutor, tmp_path: Path) -> None:
    """What RO-Crate 1.1 and Process Run Crate 0.5 ask for."""
    exctr.register_app(type("Made", (ApplicationDefinition,), {"command_template": "echo {{ x }}"}))
    exctr.submit_allocation("here", 1, 5, job_mode="serial")
    folder = exctr.submit_sweep("Made", {"x": [1]}, "made").wait(30).export(tmp_path / "folder")
    crate = json.loads((folder / "ro-crate-metadata.json").read_text())
    assert crate["@context"] == "https://w3id.org/ro/crate/1.1/context"
    entities = {one["@id"]: one for one in crate["@graph"]}
    assert len(entities) == len(crate["@graph"]), "an @id twice"
    about = entities["ro-crate-metadata.json"]
    assert about["@type"] == "CreativeWork" and about["conformsTo"]["@id"] == "https://w3id.org/ro/crate/1.1"
    root = entities[about["about"]["@id"]]
    assert root["@id"] == "./" and root["@type"] == "Dataset"
    assert all(root[key] for key in ("name", "description", "datePublished", "license"))
    parts = {one["@id"] for one in root["hasPart"]}
    there = {one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file()}
    assert parts == there - {"ro-crate-metadata.json"}
    assert all("File" in entities[one]["@type"] for one in parts)
    assert entities[root["conformsTo"]["@id"]]["@type"] == "CreativeWork"
    [run_] = [entities[one["@id"]] for one in root["mentions"]]
    assert run_["@type"] == "CreateAction" and entities[run_["instrument"]["@id"]]["programmingLanguage"]
    assert {one["@id"] for one in run_["object"] + run_["result"]} == {"rows.csv", "results.csv"}
    assert run_["startTime"] <= run_["endTime"] and run_["actionStatus"]["@id"].endswith("CompletedActionStatus")

    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            return {value["@id"]} if set(value) == {"@id"} else {x for one in value.values() for x in references(one)}
        return {x for one in value for x in references(one)} if isinstance(value, list) else set()

    outside = {one for one in references(list(entities.values())) if one not in entities}
    assert all(one.startswith(("http://", "https://")) for one in outside)
