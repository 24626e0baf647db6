"""Where the magics take names from, and which site they mean when things have moved."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from balsam_jupyter import Site

from . import test_magics
from .test_magics import HELLO, Shell, mistake, refused, run

shell = test_magics.shell
Capture = pytest.CaptureFixture[str]


def parameters(shell: Shell, name: str) -> list[tuple[object, ...]]:
    return [tuple(task.process.parameters.values()) for task in run(shell, f"w = %balsam_ensembles\n{name}").tasks()]


def test_in_a_function_its_names_come_first(shell: Shell, capsys: Capture) -> None:
    run(shell, HELLO)
    run(shell, "i, k = 0, 5")
    run(
        shell,
        "def submit(i):\n    e = %balsam_submit hello name='a' n=[i + j for j in (0, k)] --name f-{i}\n    return e",
    )
    run(shell, "e = submit(7)")
    assert run(shell, "e.name") == "f-7" and parameters(shell, "e") == [("a", 7), ("a", 12)]
    run(shell, "for i in (1, 2):\n    e = %balsam_submit hello name='a' n=i --name loop-{i}")
    assert run(shell, "e.name") == "loop-2" and parameters(shell, "e") == [("a", 2)]
    run(shell, "_ = %balsam_kill f-7")
    run(shell, "def again(least):\n    r = %balsam_retry f-7 --where n >= least\n    return r")
    assert repr(run(shell, "again(12)")) == "ensemble 'f-7': 1 task will run again."
    assert "name 'least' is not defined" in refused(shell, capsys, "%balsam_kill f-7\n%balsam_retry f-7 --where least")


def test_a_site_whose_directory_is_gone_shows_nothing_old(
    shell: Shell, site: Site, tmp_path: Path, capsys: Capture
) -> None:
    run(shell, HELLO)
    run(shell, f"_ = %balsam_site other --path {tmp_path}/other")
    shutil.rmtree(tmp_path / "other")
    for magic in ("status", "apps", "ensembles", "cost", "site"):
        assert f"{tmp_path}/other, is gone" in refused(shell, capsys, f"%balsam_{magic}")
    run(shell, "_ = %balsam_site here")
    assert "hello" in repr(run(shell, "%balsam_apps"))


def test_settings_that_are_broken_say_in_which_line(shell: Shell, site: Site, capsys: Capture) -> None:
    run(shell, HELLO)
    settings = Path(site.path, "settings.yml")
    right = settings.read_text()
    settings.write_text("nodes: 1\ncores_per_node: [\n")
    said = refused(shell, capsys, "%balsam_submit hello name=1 n=1")
    assert "settings.yml is not valid YAML in line 3: expected the node content" in said
    settings.write_text(right)


def test_the_caret_is_under_what_the_message_is_about(shell: Shell, site: Site, capsys: Capture) -> None:
    run(shell, HELLO)
    assert mistake(shell, capsys, "%balsam_submit hlelo n=1 --tag here=1 --name here")[1] == "hlelo"
    assert mistake(shell, capsys, "%balsam_status here")[1] == "here"
    assert mistake(shell, capsys, "%balsam_wait x --timeout -1")[1] == "-1"
    run(shell, "_ = %balsam_submit hello name=1 n=1 --name late")
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 1.5)
    assert not shell.run_cell("%balsam_wait late").success
    shown = "".join(capsys.readouterr())
    assert "Interrupted; the tasks of 'late' go on running." in shown and "^" not in shown
    signal.signal(signal.SIGALRM, before)
