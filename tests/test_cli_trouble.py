"""``balsam-jupyter`` where something is wrong: narrow terminals, full disks, broken settings, lost stores."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from balsam_jupyter.cli.table import fit, shortened
from balsam_jupyter.codec import encode
from balsam_jupyter.engines.embedded import EmbeddedEngine
from balsam_jupyter.models import EnsembleRecord, JobCommon, JobSpec, Query

from .engine_site import allocate, finished, job, python_app, shell_app, submit, wait_until

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-m", "balsam_jupyter.cli"]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def at_terminal(*words: str, cwd: Path, width: int = 80) -> list[str]:
    """The lines a command shows in a terminal of that width."""
    mine, theirs = pty.openpty()
    env = environment(TERM="dumb", COLUMNS=str(width))
    process = subprocess.Popen([*COMMAND, *words], cwd=cwd, env=env, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while piece := os.read(mine, 4096):
            shown += piece
    except OSError:  # Linux says so when the other end is closed
        pass
    os.close(mine)
    assert process.wait() == 0
    return shown.decode().splitlines()


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
    lines = at_terminal("job", "ls", cwd=engine.path)
    rows = [line for line in lines if "PREPROCESSED" in line]
    assert [line.split()[:5] for line in rows] == [
        [str(n + 1), "whoami", "PREPROCESSED", "whoami-ecea9e1c", str(n)] for n in range(3)
    ]
    assert all(len(line.rstrip()) <= 80 for line in lines) and len(lines) == 2 + len(rows) + 1
    assert "no room for tags" in lines[-1] and lines[-1].endswith("--wide")
    wide = at_terminal("job", "ls", "--wide", cwd=engine.path)
    assert sum("x" * 100 in line and "whoami-ecea9e1c/" in line for line in wide) == 3
    allocate(engine, filter_tags={"study": "x" * 100}, project="a-project-of-many", queue="local")
    assert sum("running" in line for line in at_terminal("queue", "ls", cwd=engine.path)) == 1


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
