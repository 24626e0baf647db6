"""Stores of other versions, and a site whose machine was switched off."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from pathlib import Path

import pytest

from balsam_jupyter.codec import decode, encode
from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.engines.embedded.store.schema import _MIGRATIONS, SCHEMA_VERSION
from balsam_jupyter.errors import SiteError
from balsam_jupyter.models import AppRecord, EnsembleRecord, JobCommon, JobSpec, Parameter, Query

from .conftest import LIVE
from .engine_site import allocate, ended, job, path_of, shell_app, submit, wait_until
from .processes import is_running, launchers, marked, slot_processes
from .witness import check_transitions, integrity


def test_the_store_of_a_later_version_is_refused(engine):
    engine.close()
    con = sqlite3.connect(Path(engine.path) / "balsam.db")
    con.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    con.close()
    before = (Path(engine.path) / "balsam.db").read_bytes()
    known = f"schema {SCHEMA_VERSION + 1}, known {SCHEMA_VERSION}"
    with pytest.raises(SiteError, match=rf"newer balsam-jupyter \({known}\); upgrade with: pip install -U"):
        EmbeddedEngine.open("here")
    assert (Path(engine.path) / "balsam.db").read_bytes() == before
    con = sqlite3.connect(Path(engine.path) / "balsam.db")
    con.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    con.close()


@pytest.fixture
def old(home, tmp_path):
    """The site of a version 1 engine that was killed with all its processes while two tasks ran."""
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "settings.yml").write_text("cores_per_node: 2\ngrace_period_s: 1\n")
    con = sqlite3.connect(folder / "balsam.db")
    con.executescript(Path(__file__).with_name("site_v1.sql").read_text())
    assert con.execute("PRAGMA user_version").fetchone()[0] == 1
    con.close()
    opened = EmbeddedEngine.open("old", str(folder))
    yield opened
    for allocation in opened.allocations():
        if allocation.state in LIVE:
            assert opened.revoke(allocation.id, timeout=30)
    opened.close()


def test_the_store_of_the_version_before_is_migrated_and_goes_on(old):
    assert old.store.con.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
    assert integrity(old) == "ok"
    rows = old.jobs(Query(ensemble="study"))
    assert [(decode(j.parameters), j.state, j.tags) for j in rows] == [
        ({"n": 0}, "JOB_FINISHED", {"workflow": "study"}),
        ({"n": 1}, "JOB_FINISHED", {"workflow": "study"}),
        ({"n": 2}, "FAILED", {"workflow": "study"}),
        ({"n": 3}, "JOB_FINISHED", {"workflow": "study"}),
    ]
    assert decode(rows[3].value) == {"x": 3.5} and rows[2].return_code == 1
    [ensemble] = old.ensembles()
    assert ensemble.name == "study" and ensemble.provenance == {"note": "by version 1"}
    # What ran when it was killed has no journal any more: it ended with its launcher.
    lone = old.jobs(Query(app_name="Sleep"))
    assert [j.state for j in lone] == ["USER_KILLED", "RESTART_READY", "RESTART_READY", "RESTART_READY"]
    assert [j.data for j in lone] == [{"why": "old"}] * 4
    assert old.allocations()[0].state == "finished"
    check_transitions(old)
    assert path_of(old, lone[3].id)[-3:] == ["RUNNING", "RUN_TIMEOUT", "RESTART_READY"]
    # Everything goes on: old jobs and new ones run, a row that exists is kept.
    old.register(AppRecord("Sleep", "shell", "2", {"s": Parameter()}, command_template="echo {{ s }}"))
    common = JobCommon(rows[0].app_id, tags={"workflow": "study"}, ensemble="study", app_version="1")
    again = (JobSpec(common, encode({"n": n}), key=n.to_bytes(16, "big")) for n in range(6))
    assert old.submit(again, EnsembleRecord("study", "Hello")).new == 2
    allocate(old)
    wait_until(old, lambda: ended(old) == 10)
    assert old.count(Query()) == {"JOB_FINISHED": 8, "FAILED": 1, "USER_KILLED": 1}
    assert job(old, lone[3].id).attempts == 2
    check_transitions(old)


def test_ensembles_of_older_versions_are_renamed_deleted_and_grow(home, tmp_path):
    """Folders came with version 3: a version 2 store, with a second generation as nobody could make one then."""
    folder = tmp_path / "old"
    folder.mkdir()
    con = sqlite3.connect(folder / "balsam.db")
    con.executescript(Path(__file__).with_name("site_v1.sql").read_text() + _MIGRATIONS[2])
    con.execute(
        """INSERT INTO ensemble(name, generation, app_name, app_version, created, provenance)
           VALUES('study', 2, 'Hello', '1', 0, '{}')"""
    )
    con.execute("PRAGMA user_version=2")
    con.commit()
    con.close()
    engine = EmbeddedEngine.open("old", str(folder))
    assert engine.store.con.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
    assert [(one.generation, one.folder) for one in engine.ensembles()] == [(1, "study"), (2, "study~2")]
    assert engine.versions(Query(ensemble="study", generation=1)) == {"1": [range(4)]}
    engine.rename_ensemble("study", "work")
    rows = engine.jobs(Query(ensemble="work", generation=1))
    assert [row.workdir for row in rows] == [f"study/{n}" for n in range(4)]
    assert {row.tags["workflow"] for row in rows} == {"work"}
    common = JobCommon(rows[0].app_id, ensemble="work", generation=2)
    engine.submit([JobSpec(common, encode({"n": 9}), key=bytes(16))])
    assert engine.jobs(Query(ensemble="work"))[0].workdir == "study~2/0"
    (folder / "data" / "study" / "0").mkdir(parents=True)
    engine.delete_ensemble("work", 1)
    assert [one.folder for one in engine.ensembles()] == ["study~2"] and not (folder / "data" / "study").exists()
    assert integrity(engine) == "ok"
    engine.close()


def test_two_processes_that_migrate_at_once(home, tmp_path):
    """Each opens a version 1 store at the same moment; one migrates, both can read it."""
    folder = tmp_path / "old"
    folder.mkdir()
    con = sqlite3.connect(folder / "balsam.db")
    con.executescript(Path(__file__).with_name("site_v1.sql").read_text())
    con.close()
    read, write = os.pipe()
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(write)
                os.read(read, 1)  # until the parent closes its end
                code = len(EmbeddedEngine.open("old", str(folder)).jobs(Query())) != 8
            finally:
                os._exit(code)
        children.append(child)
    os.close(read)
    os.close(write)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]


def test_a_machine_that_was_switched_off(engine):
    """Nothing is left but the store: journals are gone with the machine's memory."""
    ids = submit(engine, shell_app(engine, "test -e ran && exit 0; touch ran; sleep 311.25"), [{}] * 3)
    allocation = allocate(engine)
    wait_until(engine, lambda: engine.count(Query()).get("RUNNING") == 2)
    victims = [
        allocation.scheduler_id,
        *launchers(allocation.id, engine.path),
        *slot_processes(engine.path, "spawner"),
        *marked("sleep 311.25"),
    ]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(Path(engine.path, "run"))
    Path(engine.path, "run").mkdir()
    wait_until(engine, lambda: engine.count(Query()) == {"RESTART_READY": 2, "PREPROCESSED": 1})
    assert not any(is_running(pid) for pid in victims)
    wait_until(engine, lambda: engine.allocations()[0].state == "finished")
    Path(engine.path, "data", "lone", str(ids[2])).mkdir()
    Path(engine.path, "data", "lone", str(ids[2]), "ran").touch()
    allocate(engine)
    wait_until(engine, lambda: ended(engine) == 3)
    assert engine.count(Query()) == {"JOB_FINISHED": 3}
    assert [job(engine, i).attempts for i in ids] == [2, 2, 1]
    check_transitions(engine)
