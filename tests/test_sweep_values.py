"""NumPy scalars, dates, paths and enums arrive as their natural text or value, and keep a row's identity."""

from __future__ import annotations

import datetime
import enum
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from balsam_jupyter import ApplicationDefinition, Sweep
from balsam_jupyter.codec import canonical


class Method(enum.Enum):
    PBE = "pbe"


class Level(enum.IntEnum):
    HIGH = 3


class Basis(str, enum.Enum):
    SMALL = "sto-3g"


NATURAL = [
    (np.float64(0.1), "0.1", "float"),
    (np.float32(0.5), "0.5", "float"),
    (np.int64(7), "7", "int"),
    (np.bool_(True), "True", "bool"),
    (np.str_("α β"), "α β", "str"),
    (np.datetime64("2024-01-02T03:04"), "2024-01-02T03:04", "datetime64"),
    (datetime.date(2024, 1, 2), "2024-01-02", "date"),
    (datetime.datetime(2024, 1, 2, 3, 4), "2024-01-02T03:04:00", "datetime"),
    (datetime.time(3, 4), "03:04:00", "time"),
    (pd.Timestamp("2024-01-02 03:04"), "2024-01-02T03:04:00", "Timestamp"),
    (Path("a b/$HOME"), "a b/$HOME", "PosixPath"),
    (Method.PBE, "pbe", "Method"),
    (Level.HIGH, "3", "Level"),
    (Basis.SMALL, "sto-3g", "Basis"),
]
VALUES = [value for value, _, _ in NATURAL]


class Echo(ApplicationDefinition):
    command_template = "printf '%s' {{ x }}"


class Shelled(ApplicationDefinition):
    command_template = "printf '%s' \"<{{ x }}>\" > seen.txt; cat seen.txt"


class Written(ApplicationDefinition):
    command_template = "cat seen.txt"
    parameters = {"x": {}}
    inputs = {"seen.txt": "{{ x }}"}


class Kind(ApplicationDefinition):
    def run(self, x):
        return {"kind": type(x).__name__, "text": str(x)}


def test_values_arrive_as_natural_text_in_commands_files_and_run(exctr, allocation):
    sweep = Sweep.grid(x=VALUES)
    for app in (Echo, Shelled, Written, Kind):
        exctr.register_app(app)
    echo, shelled, written = (exctr.submit_sweep(app.__name__, sweep) for app in (Echo, Shelled, Written))
    kinds = exctr.submit_sweep("Kind", sweep)
    texts = [text for _, text, _ in NATURAL]
    assert [task.read_stdout() for task in echo.wait(60).tasks()] == texts
    assert [task.read_stdout() for task in shelled.wait(60).tasks()] == [f"<{text}>" for text in texts]
    assert [task.read_stdout() for task in written.wait(60).tasks()] == texts
    assert [task.value()["kind"] for task in kinds.wait(60).tasks()] == [kind for _, _, kind in NATURAL]
    again = exctr.submit_sweep("Echo", sweep)
    assert (again.name, again.new, again.kept) == (echo.name, 0, len(VALUES))


def test_values_of_one_identity_are_one_text():
    from balsam_jupyter.templates import argument

    for value in (datetime.date(2024, 1, 2), datetime.datetime(2024, 1, 2, 3), pd.Timestamp("2024-01-02"), Path("a/b")):
        assert canonical({"x": value}) == canonical({"x": argument(value)})


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_identity_is_the_same_in_another_process(value):
    import cloudpickle

    code = (
        "import sys, pickle; from balsam_jupyter.codec import canonical\n"
        "print(canonical({'x': pickle.loads(bytes.fromhex(sys.argv[1]))}).hex())"
    )
    given = cloudpickle.dumps(value).hex()
    done = subprocess.run(
        [sys.executable, "-c", code, given], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    assert bytes.fromhex(done.stdout) == canonical({"x": value})
    json.loads(canonical({"x": value}))
