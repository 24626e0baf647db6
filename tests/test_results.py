"""Tables of ensembles: their types and names, the caller's own copies, and what is read again; on real stores."""

from __future__ import annotations

import copy
import datetime
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, BatchJob, Ensemble, Site, codec, open_site, tables
from balsam_jupyter.errors import BadInput, ExecutorException
from balsam_jupyter.models import Query
from balsam_jupyter.tables import ERROR_LENGTH, last_lines

SOON = 60.0


class Yields(ApplicationDefinition):
    site = "here"

    def run(self, x: Any, y: Any = 0) -> Any:
        if x == "fail":
            raise ValueError(f"no {y}")
        return {"twice": 2 * x, "y": y} if isinstance(x, int) else x


class Takes(ApplicationDefinition):
    site = "here"

    def run(self, x: Any) -> None:
        pass


@pytest.fixture(autouse=True)
def apps(exctr: BalsamExecutor) -> None:
    for app in (Yields, Takes):
        exctr.register_app(app)


def fresh(site: Site, name: str) -> pd.DataFrame:
    """The table as somebody sees it who has never read it."""
    frame: pd.DataFrame = BalsamExecutor(site).ensemble(name).to_dataframe()
    return frame


def same(ens: Ensemble) -> pd.DataFrame:
    """The table of a handle that has read it before, which has to be what a new one reads."""
    table = ens.to_dataframe()
    pd.testing.assert_frame_equal(table, fresh(ens._site, ens.name))
    return table


def test_columns_have_types(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    rows: list[dict[str, Any]] = [
        {"x": 1, "y": True},
        {"x": 2, "y": False},
        {"x": "fail", "y": True},
        {"x": 3, "y": True},
    ]
    table = exctr.submit_sweep("Yields", rows, name="types").wait(SOON).to_dataframe()
    assert {name: str(table[name].dtype) for name in table} == {
        "x": "object", "param_y": "bool", "state": str(pd.Series(["a"]).dtype), "return_code": "Int64",
        "runtime_s": "float64", "twice": "Int64", "y": "boolean", "error": str(pd.Series(["a"]).dtype),
        "workdir": str(pd.Series(["a"]).dtype), "task": "int64",
    }  # fmt: skip
    assert table["twice"].tolist() == [2, 4, pd.NA, 6] and table["y"].tolist() == [True, False, pd.NA, True]
    assert table["error"].isna().tolist() == [True, True, False, True]
    assert table["error"][2].endswith("ValueError: no True") and len(table["error"][2].splitlines()) == 3
    assert [Path(one).name for one in table["workdir"]] == ["0", "1", "2", "3"]
    assert (Path(table["workdir"][2]) / "job.out").read_text().endswith("ValueError: no True\n\n")


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, 2], "int64"),
        ([1, 2.5], "float64"),
        ([True, False], "bool"),
        ([True, 2], "object"),
        ([2**70, 1], "object"),
        ([2**70, 0.5], "float64"),
        ([1, "a"], "object"),
        ([[1, 2], [3, 4]], "object"),
        ([np.arange(3), np.arange(3)], "object"),
        ([datetime.datetime(2026, 1, 2), datetime.datetime(2026, 1, 3)], "datetime64"),
        ([float("nan"), 1], "float64"),
    ],
)
def test_parameters_keep_their_types(exctr: BalsamExecutor, values: list[Any], dtype: str) -> None:
    ens = exctr.submit_sweep("Takes", [{"x": value} for value in values], name="any")
    column = same(ens)["x"]
    assert str(column.dtype).startswith(dtype)
    for found, value in zip(column, values, strict=True):
        np.testing.assert_equal(found, value)


def test_prefixes_lose_nothing(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    names = ("state", "param_state", "param_param_state", "row", "a", "value_task")

    class Clash(ApplicationDefinition):
        site = "here"

        def run(
            self, state: int, param_state: int, param_param_state: int, row: int, a: int, value_task: int
        ) -> dict[str, int]:
            return {"task": 10, "value_task": 11, "a": 12, "param_a": 13, "error": 14}

    exctr.register_app(Clash)
    table = exctr.submit_sweep("Clash", [dict(zip(names, range(6), strict=True))], name="clash").wait(SOON)
    found = table.to_dataframe().iloc[0].to_dict()
    assert {name: found[name] for name in found if isinstance(found[name], int | np.integer)} == {
        "param_param_param_state": 0, "param_state": 1, "param_param_state": 2, "param_row": 3, "param_param_a": 4,
        "param_value_task": 5, "return_code": 0, "value_value_task": 10, "value_task": 11, "a": 12, "param_a": 13,
        "value_error": 14, "task": found["task"],
    }  # fmt: skip


def test_partial_results_and_later_ones(exctr: BalsamExecutor, site: Site) -> None:
    ens = exctr.submit_sweep("Yields", [{"x": 1}, {"x": 2}], name="partial")
    before = ens.to_dataframe()
    assert list(before.columns) == ["x", "y", "state", "return_code", "runtime_s", "error", "workdir", "task"]
    assert before["return_code"].isna().all() and str(before["return_code"].dtype) == "Int64"
    allocation = exctr.submit_allocation("here", 1, 10, "serial")
    ens.wait(SOON)
    assert same(ens)["twice"].tolist() == [2, 4]
    more = exctr.submit_sweep("Yields", [{"x": "fail"}, {"x": "text"}], name="partial").wait(SOON)
    assert same(more)["value"].tolist()[3] == "text"
    assert exctr.revoke_allocation(allocation)
    assert ens.retry() == 1
    assert same(ens)["error"].isna().all()


def test_only_what_changed_is_read(exctr: BalsamExecutor, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ens = exctr.submit_sweep("Takes", {"x": list(range(50))}, name="read")
    ids = ens.to_dataframe()["task"].tolist()
    read: list[int] = []
    jobs = site.engine.jobs

    def counted(query: Query) -> Any:
        rows = jobs(query)
        read.extend(row.id for row in rows)
        return rows

    monkeypatch.setattr(site.engine, "jobs", counted)
    ens.to_dataframe()
    assert read == []
    site.engine.update(Query(ids=(ids[3], ids[7])), "USER_KILLED")
    exctr.submit_sweep("Takes", {"x": [1]}, name="another")
    assert exctr.ensemble("read").to_dataframe()["state"].tolist().count("USER_KILLED") == 2
    assert sorted(read) == [ids[3], ids[7]]
    read.clear()
    exctr.submit_sweep("Takes", {"x": [*range(50), 99]}, name="read")
    assert ens.to_dataframe()["x"].tolist() == [*range(50), 99]
    assert len(read) == 1


def test_the_table_is_the_callers(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    rows = [{"x": [1, {"deep": 2}]}, {"x": np.arange(3)}, {"x": {"a": [1]}}]
    ens = exctr.submit_sweep("Yields", rows, name="own").wait(SOON)
    table, again = ens.to_dataframe(), ens.to_dataframe()
    before = copy.deepcopy(again)
    for name in ("state", "return_code", "runtime_s", "task", "workdir", "y"):
        table.loc[0, name] = table.loc[1, name] if name == "workdir" else 3 if name != "state" else "x"
    table["x"][0][1]["deep"] = 3
    table["x"][1][:] = 7
    table["value"][0].append(1)
    del table["a"]
    table.index.name = "other"
    pd.testing.assert_frame_equal(again, before)
    pd.testing.assert_frame_equal(ens.to_dataframe(), before)


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["submit", "kill", "retry", "delete", "value", "parameters"]),
        st.lists(st.integers(0, 30), max_size=4),
        st.sampled_from([1, 2.5, None, True, "text", 2**70, {"a": 1}, {"b": 2, "a": "x"}, {"a": None, "state": 1}]),
    ),
    max_size=6,
)


@settings(max_examples=40, deadline=None)
@given(changes=CHANGES)
def test_read_in_steps_or_at_once_it_is_the_same(tmp_path_factory: pytest.TempPathFactory, changes: Any) -> None:
    folder = tmp_path_factory.mktemp("property")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BALSAM_JUPYTER_HOME", str(folder / "home"))
        mine, theirs = open_site("steps", folder / "site"), open_site("steps", folder / "site")
        try:
            exctr = BalsamExecutor(theirs)
            exctr.register_app(Takes)
            exctr.submit_sweep("Takes", {"x": [0, 1, 2]}, name="steps")
            ens = BalsamExecutor(mine).ensemble("steps")
            same(ens)
            for kind, which, value in changes:
                present = [row.id for row in theirs.engine.jobs(Query(ensemble="steps"))]
                ids = [present[number % len(present)] for number in which] if present else []
                change(exctr, theirs, kind, ids, which, value)
                same(ens)
        finally:
            mine.close()
            theirs.close()


def change(exctr: BalsamExecutor, site: Site, kind: str, ids: list[int], which: list[int], value: Any) -> None:
    engine, query = site.engine, Query(ids=tuple(ids))
    if kind == "submit" and which:
        exctr.submit_sweep("Takes", [{"x": value if number % 2 else number} for number in which], name="steps")
    elif kind in ("kill", "retry"):
        engine.update(query, {"kill": "USER_KILLED", "retry": "RESTART_READY"}[kind])
    elif kind == "delete":
        engine.delete(query)
    elif kind == "value":
        engine.set_values([(number, codec.encode(value)) for number in ids])
    elif kind == "parameters":
        engine.edit(ids, {"parameters": codec.encode({"x": value})})


def test_extract_in_another_kernel_is_seen(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    class Says(ApplicationDefinition):
        site = "here"
        command_template = "echo v = {{ x }}"
        outputs = {"missing": r"w = (\S+)"}

    exctr.register_app(Says)
    ens = exctr.submit_sweep("Says", {"x": [1, 2]}, name="says").wait(SOON)
    table = ens.to_dataframe()
    assert table["missing"].isna().all() and table["error"][0].startswith("missing: no match")
    code = (
        "from balsam_jupyter import BalsamExecutor\nBalsamExecutor('here').ensemble('says').extract({'v': r'= (.*)'})"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    assert same(ens)["v"].tolist() == [1, 2]
    (row,) = ens._site.engine.jobs(Query(ids=(int(table["task"][0]),)))
    states = [event.path for event in ens._site.engine.history([row.id])]
    assert states[-1] == ("JOB_FINISHED",)  # no transition: nothing else in a history speaks of it
    assert all(not event.steps(row.id) for event in ens._site.engine.history([row.id]) if len(event.path) == 1)


def test_a_value_of_a_class_that_comes_later(
    exctr: BalsamExecutor, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    ens = exctr.submit_sweep("Takes", {"x": [1, 2]}, name="later")
    (tmp_path / "kept_for_later.py").write_text("class Point:\n    x = 3\n")
    job = int(ens.to_dataframe()["task"][1])
    site.engine.set_values([(job, b"ckept_for_later\nPoint\n.")])
    assert "value" not in ens.to_dataframe() and "cannot be read in this kernel" in caplog.text
    monkeypatch.syspath_prepend(tmp_path)
    assert ens.to_dataframe()["value"][1].x == 3


def test_arrow_and_polars(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    rows: list[dict[str, Any]] = [{"x": 1, "y": 1.5}, {"x": "fail", "y": 2.5}, {"x": 3, "y": None}]
    ens = exctr.submit_sweep("Yields", rows, name="kinds").wait(SOON)
    table = ens.to_dataframe("arrow")
    assert isinstance(table, pa.Table) and table.column_names[:3] == ["row", "x", "param_y"]
    assert table.schema.field("twice").type == pa.int64() and table["twice"].to_pylist() == [2, None, 6]
    assert table["x"].to_pylist() == ["1", "fail", "3"]  # mixed: as text
    frame = ens.to_dataframe("polars")
    assert isinstance(frame, pl.DataFrame) and frame.columns == table.column_names
    assert frame.schema["twice"] == pl.Int64 and frame["param_y"].to_list() == [1.5, 2.5, None]
    assert frame["x"].to_list() == [1, "fail", 3] and frame["state"].to_list() == ["FINISHED", "FAILED", "FINISHED"]
    arrays = exctr.submit_sweep("Takes", [{"x": [1, 2]}, {"x": [3]}], name="lists")
    assert (
        arrays.to_dataframe("arrow")["x"].to_pylist() == arrays.to_dataframe("polars")["x"].to_list() == [[1, 2], [3]]
    )


def test_halves_of_characters_cost_nobody_the_table(exctr: BalsamExecutor) -> None:
    ens = exctr.submit_sweep("Takes", [{"x": "whole"}, {"x": "half \ud800"}], name="halves")
    assert ens.to_dataframe()["x"].to_list() == ["whole", "half \ud800"]
    assert ens.to_dataframe("arrow")["x"].to_pylist() == ["whole", "half \\ud800"]
    assert len(ens.to_dataframe("polars")) == 2


@pytest.mark.parametrize(
    ("kind", "module", "extra"),
    [("pandas", "pandas", "notebook"), ("polars", "polars", "polars"), ("arrow", "pyarrow", "parquet")],
)
def test_what_is_not_installed_is_named(
    exctr: BalsamExecutor, monkeypatch: pytest.MonkeyPatch, kind: str, module: str, extra: str
) -> None:
    ens = exctr.submit_sweep("Takes", {"x": [1]}, name="lacks")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ExecutorException, match=rf"{module}, which is not .*: pip install 'balsam-jupyter\[{extra}\]'"):
        ens.to_dataframe(kind)


def test_a_kind_that_there_is_not(exctr: BalsamExecutor) -> None:
    with pytest.raises(BadInput, match=r"'panda' is not a kind of table.*Did you mean 'pandas'"):
        exctr.submit_sweep("Takes", {"x": [1]}, name="lacks").to_dataframe("panda")


def test_threads_share_a_table(exctr: BalsamExecutor, site: Site) -> None:
    ens = exctr.submit_sweep("Takes", {"x": list(range(300))}, name="threads")
    ids = [task.id for task in ens.tasks()]
    wrong: list[object] = []

    def read() -> None:
        for _ in range(10):
            table = ens.to_dataframe()
            if table["x"].tolist() != list(range(300)):
                wrong.append(table)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for number in ids[:100]:
        site.engine.update(Query(ids=(number,)), "USER_KILLED")
    for thread in threads:
        thread.join()
    assert not wrong and same(ens)["state"].tolist().count("USER_KILLED") == 100


def test_tables_are_kept_within_bounds(exctr: BalsamExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_MOST_ROWS", 10)
    handles = [exctr.submit_sweep("Takes", {"x": list(range(size))}, name=f"n{size}") for size in (4, 5, 6)]
    for ens in [*handles, *handles]:
        assert len(ens.to_dataframe()) == len(ens)
        assert sum(map(len, exctr._follower.tables._kept.values())) <= 10
    assert [name for name, _ in exctr._follower.tables._kept] == ["n6"]


def test_the_end_of_an_error() -> None:
    assert last_lines("") is None and last_lines("\n \n") is None
    assert last_lines("a\n\nb\nc\n\nd\n") == "b\nc\nd"
    long = last_lines("x" * 3000 + "end")
    assert long is not None and len(long) == ERROR_LENGTH and long.startswith("…x") and long.endswith("xend")
