"""Checking, tidying and exporting a site: each fault is made for real, found, and mended as the check says."""

from __future__ import annotations

import csv
import json
import os
import resource
import signal
import sqlite3
from pathlib import Path

import pyarrow.parquet
import pytest

from balsam_jupyter.codec import encode
from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.errors import BadInput, SiteError
from balsam_jupyter.export import EVENT_COLUMNS, JOB_COLUMNS, as_json, export
from balsam_jupyter.models import EnsembleRecord, Finding, JobCommon, JobSpec, Query

from .engine_site import allocate, ended, job, path_of, shell_app, submit, wait_until
from .isolated import python
from .processes import launchers


def faults(engine: EmbeddedEngine) -> list[str]:
    return [one.what for one in engine.check() if one.fault]


def sql(engine: EmbeddedEngine, statement: str) -> None:
    """What no call of ours does: damage."""
    with sqlite3.connect(engine.path / "balsam.db") as con:
        con.execute(statement)
    con.close()


def ran(engine: EmbeddedEngine, rows: int = 3) -> list[int]:
    """Jobs that an allocation, which has ended since, has run."""
    common = shell_app(engine, "echo {{ x }}", "x", outputs={"y": r"(\d+)"})
    ids = submit(engine, common, [{"x": n} for n in range(rows)])
    allocation = allocate(engine)
    wait_until(engine, lambda: ended(engine) == rows)
    assert engine.revoke(allocation.id)
    return ids


def ensemble(engine: EmbeddedEngine, common: JobCommon, name: str, rows: int) -> list[int]:
    shared = JobCommon(common.app_id, ensemble=name)
    specs = (JobSpec(shared, encode({"x": n}), key=b"%016d" % n) for n in range(rows))
    return list(engine.submit(specs, EnsembleRecord(name, "App")).ids)


def test_a_sound_site_has_no_faults(engine: EmbeddedEngine) -> None:
    assert engine.check() == []
    ran(engine)
    found = engine.check()
    assert found == [
        Finding("run/ holds 1 folder of closed sessions", "remove them: balsam-jupyter site vacuum", fault=False)
    ]


def test_a_site_at_work_has_no_faults(engine: EmbeddedEngine) -> None:
    common = shell_app(engine, "sleep {{ x }}", "x")
    ensemble(engine, common, "scan", 4)
    submit(engine, common, [{"x": 60}])
    allocate(engine)
    wait_until(engine, lambda: engine.count(Query()).get("RUNNING") == 2)
    assert faults(engine) == []


def test_a_damaged_file(engine: EmbeddedEngine) -> None:
    common = shell_app(engine, "echo {{ x }}", "x")
    ensemble(engine, common, "scan", 3000)
    engine.close()
    file = engine.path / "balsam.db"
    damaged = bytearray(file.read_bytes())
    middle = len(damaged) // 2 // 4096 * 4096
    damaged[middle : middle + 8192] = os.urandom(8192)
    file.write_bytes(damaged)
    (found,) = EmbeddedEngine.open("here").check()
    assert found.fault and f"{file} is damaged: " in found.what and "restore it from a backup" in found.todo


def test_jobs_without_what_they_refer_to(engine: EmbeddedEngine) -> None:
    common = shell_app(engine, "echo")
    one, two = submit(engine, common, [{}, {}])
    (three,) = ensemble(engine, common, "scan", 1)
    sql(engine, f"UPDATE job SET spec_id = 99 WHERE id = {one}")
    sql(engine, "DELETE FROM ensemble")
    assert faults(engine) == ["1 job (1) have no spec", "1 job (3) have no ensemble"]
    todo = engine.check()[0].todo
    assert todo == "they cannot run; delete them: balsam-jupyter job rm 1"
    assert engine.delete(Query(ids=(one, three))) == 2
    assert faults(engine) == [] and job(engine, two).state == "PREPROCESSED"
    sql(engine, "DELETE FROM app")
    assert faults(engine) == ["1 job (2) have no app"]


def test_jobs_of_a_session_that_is_no_more_run_again_after_a_vacuum(engine: EmbeddedEngine) -> None:
    ids = ran(engine)
    sql(engine, f"UPDATE job SET state = 'RUNNING', session_id = 1 WHERE id = {ids[0]}")
    sql(engine, f"UPDATE job SET state = 'RUNNING' WHERE id = {ids[1]}")
    sql(engine, f"UPDATE job SET state = 'PREPROCESSED', session_id = 77, kill_wait = 0 WHERE id = {ids[2]}")
    assert faults(engine) == ["3 jobs (1, 2, 3) are held by a session that is no more"]
    assert engine.vacuum().jobs == 3
    assert engine.check() == []
    assert [job(engine, number).state for number in ids] == ["RESTART_READY", "RESTART_READY", "USER_KILLED"]
    assert path_of(engine, ids[0])[-2:] == ["JOB_FINISHED", "RESTART_READY"]
    allocate(engine)
    wait_until(engine, lambda: ended(engine) == 3)


def test_a_launcher_that_stands_still_is_named(engine: EmbeddedEngine) -> None:
    allocation = allocate(engine)
    submit(engine, shell_app(engine, "sleep 60"))
    wait_until(engine, lambda: engine.count(Query()).get("RUNNING") == 1)
    (pid,) = launchers(allocation.id, engine.path)
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(engine, lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "T")
        (found,) = (one for one in engine.check() if one.fault)
        assert found.what == f"session 1 (launcher of allocation 1, process {pid}) is stopped"
        assert f"kill -CONT {pid}" in found.todo
    finally:
        os.kill(pid, signal.SIGCONT)


def test_an_open_session_without_an_owner_is_named(engine: EmbeddedEngine) -> None:
    sql(engine, "INSERT INTO session(batch_job_id, pid) VALUES(5, 1)")
    assert faults(engine) == ["session 1 (launcher of allocation 5, process 1) has died and is not settled"]
    engine.close()
    reopened = EmbeddedEngine.open("here")  # as it says
    assert faults(reopened) == []
    reopened.close()


def test_directories_of_no_job(engine: EmbeddedEngine) -> None:
    ids = ran(engine)
    common = shell_app(engine, "echo {{ x }}", "x")
    row, *_ = ensemble(engine, common, "scan", 3)
    far = "big/5000-9999/5001"
    engine.submit([JobSpec(common, encode({"x": 1}), "a/b/c"), JobSpec(common, encode({"x": 1}), far)])
    data = engine.path / "data"
    for name in (
        "scan/0",
        "scan/2",
        "a/b/c/deep",
        far,
        "stray/deep",
        "a/stray",
        "scan/3",
        "scan/0-4999/7",
        "big/x",
        "scan/.own",
    ):
        (data / name).mkdir(parents=True)
    (data / "notes.txt").touch()
    what = (
        "5 directories in data/ belong to no job: data/a/stray, data/big/x, data/scan/0-4999/7, data/scan/3, data/stray"
    )
    assert faults(engine) == [] and next(one.what for one in engine.check()) == what
    engine.delete(Query(ids=(row, ids[1])))
    found, *_ = engine.check()
    assert found.what.startswith("7 directories") and "… and 2 more" in found.what


def test_files_that_were_not_transferred_whole(engine: EmbeddedEngine) -> None:
    (one, *_) = ran(engine)
    sql(engine, f"UPDATE job SET transfers = '{{}}' WHERE id = {one}")
    workdir = engine.path / "data" / job(engine, one).workdir
    (workdir / "mesh.h5.part").touch()
    assert faults(engine) == [f"1 file of ended jobs were not transferred whole: data/lone/{one}/mesh.h5.part"]


def test_a_template_that_cannot_be_used(engine: EmbeddedEngine) -> None:
    (engine.path / "job-template.sh").write_text("{% if %}")
    assert "job-template.sh cannot be used" in faults(engine)[0]


def test_vacuum_makes_the_store_small(engine: EmbeddedEngine) -> None:
    common = shell_app(engine, "echo {{ x }}", "x")
    ran(engine)
    ensemble(engine, common, "scan", 20_000)
    engine.delete(Query(ensemble="scan"))
    done = engine.vacuum()
    assert done.size_after < done.size_before / 2 and done.folders == 1 and done.jobs == 0
    assert engine.count(Query()) == {"JOB_FINISHED": 3}
    assert not list((engine.path / "run").glob("session-*")) and engine.check() == []
    ensemble(engine, common, "scan", 3)
    allocate(engine)
    wait_until(engine, lambda: ended(engine) == 6)


def test_vacuum_is_refused_while_a_launcher_runs(engine: EmbeddedEngine) -> None:
    allocation = allocate(engine)
    submit(engine, shell_app(engine, "sleep 60"))
    wait_until(engine, lambda: engine.count(Query()).get("RUNNING") == 1)
    with pytest.raises(SiteError, match=r"Allocation 1 runs.*balsam-jupyter queue rm 1"):
        engine.vacuum()
    engine.revoke(allocation.id)
    assert engine.vacuum().folders == 1


# -- export ------------------------------------------------------------------------------------------------


def test_csv(engine: EmbeddedEngine, tmp_path: Path) -> None:
    ran(engine)
    file = tmp_path / "runs.csv"
    assert export(engine, file) == {file: 3, tmp_path / "runs.events.csv": 27}
    with open(file, newline="") as opened:
        jobs = list(csv.DictReader(opened))
    assert list(jobs[0]) == list(JOB_COLUMNS)
    assert [(one["id"], one["app"], one["task_state"], one["return_code"]) for one in jobs] == [
        (str(n), "App", "FINISHED", "0") for n in (1, 2, 3)
    ]
    assert json.loads(jobs[1]["parameters"]) == {"x": 1} and json.loads(jobs[1]["value"]) == {"y": 1}
    assert jobs[0]["start_time"].endswith("+00:00") and float(jobs[0]["runtime_s"]) > 0
    with open(tmp_path / "runs.events.csv", newline="") as opened:
        events = [one for one in csv.DictReader(opened) if one["job_id"] == "2"]
    assert list(events[0]) == list(EVENT_COLUMNS)
    assert [one["to_state"] for one in events] == path_of(engine, 2)
    assert sorted(path.name for path in tmp_path.glob("runs*")) == ["runs.csv", "runs.events.csv"]


def test_what_a_job_waited_for_brought_and_tried_is_exported(engine: EmbeddedEngine, tmp_path: Path) -> None:
    slot = {"required": True, "direction": "in", "local_path": "in.dat", "description": "", "recursive": False}
    common = shell_app(engine, "true", transfers={"deck": slot})
    shared = JobCommon(common.app_id, max_retries=2, on_parent_failure="wait")
    with open(engine.path / "settings.yml", "a") as settings:
        settings.write(f"transfer_locations: {{box: {tmp_path}}}\n")
    (tmp_path / "in.dat").touch()
    brought = {"deck": "box:/in.dat"}
    (parent,) = submit(engine, shell_app(engine, "true", app="Parent"))
    engine.submit([JobSpec(shared, encode({}), "lone/child", parents=(parent,), transfers=brought)])
    export(engine, tmp_path / "runs.csv")
    with open(tmp_path / "runs.csv", newline="") as opened:
        first, child = csv.DictReader(opened)
    assert (first["parent_ids"], first["transfers"], first["max_retries"]) == ("", "", "0")
    assert json.loads(child["parent_ids"]) == [parent] and json.loads(child["transfers"]) == brought
    assert (child["max_retries"], child["on_parent_failure"]) == ("2", "wait")


def test_parquet(engine: EmbeddedEngine, tmp_path: Path) -> None:
    ran(engine)
    export(engine, tmp_path / "runs.parquet")
    jobs = pyarrow.parquet.read_table(tmp_path / "runs.parquet")
    assert jobs.column_names == list(JOB_COLUMNS) and jobs["id"].to_pylist() == [1, 2, 3]
    assert str(jobs.schema.field("start_time").type) == "timestamp[ms, tz=UTC]"
    events = pyarrow.parquet.read_table(tmp_path / "runs.events.parquet").to_pylist()
    assert [one["to_state"] for one in events if one["job_id"] == 3] == path_of(engine, 3)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_an_empty_site(engine: EmbeddedEngine, tmp_path: Path, kind: str) -> None:
    assert list(export(engine, tmp_path / "runs.out", kind).values()) == [0, 0]


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("runs", "", "'runs' does not tell the format: name the file .csv or .parquet"),
        ("runs.parqet", "", "'parqet' is no format"),
        ("runs.csv", "xlsx", "'xlsx' is no format"),
        ("there.csv", "", "there.csv exists; choose another name"),
    ],
)
def test_an_export_that_cannot_be(engine: EmbeddedEngine, tmp_path: Path, name: str, kind: str, says: str) -> None:
    (tmp_path / "there.csv").touch()
    with pytest.raises(BadInput) as told:
        export(engine, tmp_path / name, kind)
    assert says in str(told.value)
    with pytest.raises(SiteError, match="cannot be written \\(No such file"):
        export(engine, tmp_path / "nowhere" / "runs.csv")


def test_parquet_without_pyarrow_says_what_to_install(engine: EmbeddedEngine, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"  # as where it is not installed
        "from pathlib import Path; from balsam_jupyter import open_site; from balsam_jupyter.export import export\n"
        "try:\n    export(open_site('here').engine, Path(sys.argv[1]))\nexcept Exception as error:\n    print(error)"
    )
    assert "pip install 'balsam-jupyter[parquet]'" in python(code, str(tmp_path / "runs.parquet"))
    assert not list(tmp_path.glob("runs*"))


def test_what_json_cannot_hold_is_told() -> None:
    assert as_json(encode({"x": 1})) == '{"x":1}' and as_json(None) is None
    assert as_json(encode({"x": {1, 2}})) == '{"x": "{1, 2}"}'
    assert "cannot be read here" in str(as_json(b"broken"))


def test_many_jobs_need_no_memory(engine: EmbeddedEngine, tmp_path: Path) -> None:
    common = shell_app(engine, "echo {{ x }}", "x")
    ensemble(engine, common, "small", 6_000)
    export(engine, tmp_path / "small.csv")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ensemble(engine, common, "scan", 100_000)
    export(engine, tmp_path / "runs.csv")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 40, f"{grown:.0f} MB"
    with open(tmp_path / "runs.csv") as opened:
        assert sum(1 for _ in opened) == 106_001
