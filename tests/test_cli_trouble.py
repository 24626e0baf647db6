"""``balsam-jupyter`` where something is wrong: narrow terminals, full disks, broken settings, lost stores."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from balsam_jupyter import BatchJob, Site
from balsam_jupyter.api_check import allocation_request
from balsam_jupyter.cli.table import fit, shortened
from balsam_jupyter.codec import encode
from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.errors import BadInput
from balsam_jupyter.models import EnsembleRecord, JobCommon, JobSpec, Query

from .command import COMMAND, at_terminal, environment
from .engine_site import allocate, finished, job, python_app, shell_app, submit, wait_until

NARROW = {"TERM": "dumb", "COLUMNS": "80"}


def run(*words: str, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*COMMAND, *words], cwd=cwd, env=environment(), capture_output=True, text=True)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done


# -- tables ------------------------------------------------------------------------------------------------


def test_rows_take_one_line_in_eighty_columns(engine: EmbeddedEngine) -> None:
    app = shell_app(engine, "true", app="whoami")
    tags = {"workflow": "whoami-ecea9e1c", "study": "x" * 100}
    shared = JobCommon(app.app_id, ensemble="whoami-ecea9e1c", tags=tags)
    engine.submit(
        (JobSpec(shared, encode({}), key=bytes(15) + bytes([n])) for n in range(3)),
        EnsembleRecord("whoami-ecea9e1c", "whoami"),
    )
    lines = at_terminal("job", "ls", cwd=engine.path, **NARROW).splitlines()
    rows = [line for line in lines if "PREPROCESSED" in line]
    assert [line.split()[:5] for line in rows] == [
        [str(n + 1), "whoami", "PREPROCESSED", "whoami-ecea9e1c", str(n)] for n in range(3)
    ]
    assert all(len(line.rstrip()) <= 80 for line in lines) and len(lines) == 2 + len(rows) + 1
    assert "no room for tags" in lines[-1] and lines[-1].endswith("--wide")
    wide = at_terminal("job", "ls", "--wide", cwd=engine.path, **NARROW).splitlines()
    assert sum("x" * 100 in line and "whoami-ecea9e1c/" in line for line in wide) == 3
    allocate(engine, filter_tags={"study": "x" * 100}, project="a-project-of-many", queue="local")
    assert sum("running" in line for line in at_terminal("queue", "ls", cwd=engine.path, **NARROW).splitlines()) == 1


def test_which_columns_fit() -> None:
    natural = {"id": 3, "app": 20, "state": 12, "workdir": 60, "tags": 90}
    assert fit(natural, 500) == natural
    assert fit(natural, 100) == {"id": 3, "app": 20, "state": 12, "workdir": 28, "tags": 29}
    assert fit(natural, 60) == {"id": 3, "app": 19, "state": 12, "workdir": 20}
    assert fit(natural, 40) == {"id": 3, "app": 20, "state": 12}
    assert fit(natural, 20) == {"id": 3, "app": 6, "state": 12}
    assert shortened("libe_workflow/hello_12", "workdir", 11) == "libe_…lo_12"
    assert shortened("one two three", "tags", 8) == "one two…"


# -- output ------------------------------------------------------------------------------------------------


def test_json_has_no_nan(engine: EmbeddedEngine) -> None:
    (number,) = submit(engine, python_app(engine, lambda self: [float("nan"), {"x": float("inf")}, 1.5]))
    allocate(engine)
    assert finished(engine, number).state == "JOB_FINISHED"

    def refuse(word: str) -> None:
        raise AssertionError(word)

    document = json.loads(run("job", "ls", "--json", cwd=engine.path).stdout, parse_constant=refuse)
    assert document["jobs"][0]["value"] == [None, {"x": None}, 1.5]


@pytest.mark.parametrize("words", [["job", "ls"], ["job", "ls", "--json"], ["site", "check"]])
def test_a_full_disk_behind_stdout(engine: EmbeddedEngine, words: list[str]) -> None:
    submit(engine, shell_app(engine, "true"))
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*COMMAND, *words], cwd=engine.path, env=environment(), stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr == "Error: It could not be written: No space left on device.\n"


def test_a_reader_that_leaves(engine: EmbeddedEngine) -> None:
    submit(engine, shell_app(engine, "true"), [{}] * 50)
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as gone:
        done = subprocess.run(
            [*COMMAND, "job", "ls"], cwd=engine.path, env=environment(), stdout=gone, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1 and done.stderr == ""


# -- sites -------------------------------------------------------------------------------------------------


def test_broken_settings_keep_nobody_from_looking_and_stopping(engine: EmbeddedEngine) -> None:
    app = shell_app(engine, "sleep 60")
    submit(engine, app, [{}, {}])
    allocate(engine)
    wait_until(engine, lambda: engine.count(Query()).get("RUNNING"))
    sound = (engine.path / "settings.yml").read_text()
    (engine.path / "settings.yml").write_text("nodes: tw")
    listed = run("job", "ls", cwd=engine.path)
    assert "RUNNING" in listed.stdout and "nodes must be a whole number" in listed.stderr
    assert "1 task killed" in run("kill", "1", cwd=engine.path).stdout
    for words in (["queue", "ls"], ["service", "stop"], ["service", "status"], ["job", "logs", "1"]):
        run(*words, cwd=engine.path)
    assert "FAULT" in run("site", "check", cwd=engine.path, code=1).stdout
    for words in (["submit-launch"], ["service", "start"], ["job", "create", "-a", "App"], ["job", "retry", "1"]):
        assert "nodes must be a whole number" in run(*words, cwd=engine.path, code=1).stderr
    assert "has ended" in run("queue", "rm", "all", cwd=engine.path).stdout
    assert job(engine, 2).state == "RESTART_READY"
    (engine.path / "settings.yml").write_text(sound)


def test_a_site_whose_store_is_gone_is_an_error(engine: EmbeddedEngine, tmp_path: Path) -> None:
    store = engine.path / "balsam.db"
    store.rename(tmp_path / "backup.db")
    told = "The store of the site 'here' is missing"
    for words, folder in (
        (["job", "ls"], engine.path / "data"),
        (["site", "check"], engine.path),
        (["job", "ls", "--site", "here"], tmp_path),
        (["job", "ls", "--site", str(engine.path)], tmp_path),
    ):
        assert told in run(*words, cwd=folder, code=1).stderr
    assert not store.exists()
    (tmp_path / "backup.db").rename(store)
    assert "There are no jobs" in run("job", "ls", cwd=engine.path / "data").stdout


# -- words -------------------------------------------------------------------------------------------------


def test_what_does_nothing_says_why(engine: EmbeddedEngine) -> None:
    ends = shell_app(engine, "true", app="Ends")
    fails = shell_app(engine, "exit 3", app="Fails")
    first, second = submit(engine, ends)[0], submit(engine, fails)[0]
    waits = "task 1: nothing to retry: it has not ended (it is PREPROCESSED).\n"
    assert run("job", "retry", "1", cwd=engine.path, code=1).stdout == waits
    unborn = run("job", "logs", "1", cwd=engine.path)
    assert (unborn.stdout, unborn.stderr) == ("", "Job 1 (PREPROCESSED) has no log, for it has not run.\n")
    none = "the jobs chosen: nothing to kill: there are no such tasks.\n"
    assert run("kill", "--state", "RUNNING", cwd=engine.path).stdout == none
    allocate(engine)
    assert [finished(engine, number).state for number in (first, second)] == ["JOB_FINISHED", "FAILED"]
    done = "task 1: nothing to retry: it has finished (JOB_FINISHED).\n"
    assert run("job", "retry", "1", cwd=engine.path, code=1).stdout == done
    assert run("job", "logs", "1", cwd=engine.path).stderr == "Job 1 (JOB_FINISHED) wrote nothing to its log.\n"
    told = run("job", "ls", "--error", cwd=engine.path).stdout
    assert told == "job 2 (Fails) in lone/2:\n  exit code 3, and nothing in its log\n"


def test_ranks_that_fit_on_several_nodes(engine: EmbeddedEngine) -> None:
    engine.close()
    (engine.path / "settings.yml").write_text("nodes: 2\ncores_per_node: 1\n")
    opened = EmbeddedEngine.open("here")
    shell_app(opened, "true")
    opened.close()
    create = ["job", "create", "-a", "App", "--num-procs"]
    spread = "2 ranks are too many: a node of 'here' has 1 cores (cores_per_node in its settings.yml); ask for fewer, "
    assert spread + "or use num_nodes=2 (--num-nodes)." in run(*create, "2", cwd=engine.path, code=2).stderr
    assert run(*create, "3", cwd=engine.path, code=2).stderr.endswith("ask for fewer.\n")
    assert "2 nodes" not in run(*create, "2", "-n", "2", cwd=engine.path).stderr


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("mpi:1", "partitions is a list such as"),
        (5, "partitions is a list such as"),
        ({"num_nodes": 1}, "partitions is a list such as"),
        (["mpi"], "The number of nodes is missing in the partition 'mpi': write MODE:NODES"),
        (["mpi:1:a=b:a=c"], "'a' is given twice"),
    ],
)
def test_partitions_that_are_none(site: Site, given: Any, says: str) -> None:
    with pytest.raises(BadInput, match=re.escape(says)):
        allocation_request(site.engine.site, 1, 10, partitions=given)
    with pytest.raises(BadInput, match=re.escape(says)):
        BatchJob(num_nodes=1, wall_time_min=10, partitions=given).save()


def test_everything_about_an_app(engine: EmbeddedEngine) -> None:
    assert "There are no apps" in run("app", "ls", cwd=engine.path).stdout
    slot = {"required": True, "direction": "in", "local_path": "in.dat", "description": "", "recursive": False}
    shell_app(
        engine, "echo {{ x }}\nsleep 1", "x", hooks=["preprocess"], transfers={"deck": slot}, cleanup_files=["*.tmp"]
    )
    assert "echo {{ x }} …" in run("app", "ls", cwd=engine.path).stdout
    assert run("app", "ls", "-v", cwd=engine.path).stdout.splitlines() == [
        "App (app 1, shell, version 1)", "  parameter x", "  command:", "    echo {{ x }}", "    sleep 1",
        "  hooks: preprocess", "  transfer deck: in in.dat (required)", "  cleanup: *.tmp", "",
    ]  # fmt: skip


def test_a_service_that_runs_is_shown_and_its_end_told(engine: EmbeddedEngine) -> None:
    try:
        first = run("service", "start", "-t", "5", cwd=engine.path).stdout
        assert first.count("min_nodes=") == 1
        assert run("service", "start", cwd=engine.path).stdout == run("service", "status", cwd=engine.path).stdout
        submit(engine, shell_app(engine, "sleep 60"))
        wait_until(engine, lambda: engine.count(Query()).get("RUNNING"))
    finally:
        last = run("service", "stop", "--revoke", cwd=engine.path).stdout
    assert last.endswith("allocation 1 was ended with the service\n  allocations ended: 1\n")
