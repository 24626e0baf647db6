"""``%balsam_retry``, ``%balsam_kill --rows`` and what ``%balsam_submit`` does with a changed app."""

from __future__ import annotations

from pathlib import Path

import pytest

from balsam_jupyter import BalsamExecutor

from . import test_magics
from .test_magics import Shell, mistake, run

shell = test_magics.shell
Capture = pytest.CaptureFixture[str]
ECHO = "%%balsam_app echoes\necho {{ T }}"


@pytest.fixture
def killed(shell: Shell, exctr: BalsamExecutor) -> Shell:
    """An ensemble of six rows; the first four were killed."""
    run(shell, ECHO)
    run(shell, "_ = %balsam_submit echoes T=range(0, 600, 100) --name scan")
    assert repr(run(shell, "%balsam_kill scan --rows 0 1-3 --now")) == "ensemble 'scan': 4 tasks killed."
    assert exctr.ensemble("scan").counts()["USER_KILLED"] == 4
    return shell


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("scan", "4 tasks will run again."),
        ("scan 0 2-3", "3 tasks will run again."),
        ("scan --where T > 100", "2 tasks will run again."),
        ("scan 0-2 --where [t for t in wanted if t == T]", "1 task will run again."),
        ("scan --where lambda task: task.process.parameters['T'] == 300", "1 task will run again."),
        ("scan --where task.state == 'FAILED'",
         "nothing to retry: no such task has failed or was killed (2 WAITING, 4 USER_KILLED)."),
        ("scan --failed", "nothing to retry: no such task has failed or was killed (2 WAITING, 4 USER_KILLED)."),
        ("scan 4", "nothing to retry: no such task has failed or was killed (2 WAITING, 4 USER_KILLED)."),
    ],
)  # fmt: skip
def test_retry(killed: Shell, line: str, says: str) -> None:
    run(killed, "wanted = [200, 300]")
    assert repr(run(killed, f"%balsam_retry {line}")) == f"ensemble 'scan': {says}"


@pytest.mark.parametrize(
    ("line", "says", "marked"),
    [
        ("retry scn", "Site 'here' has no ensemble 'scn'", "scn"),
        ("retry scan 1 7", "Ensemble 'scan' has no row 7; its rows are 0 to 5.", "7"),
        ("retry scan 1 4-8", "Ensemble 'scan' has no row 6, 7, 8; its rows are 0 to 5.", "4-8"),
        ("retry scan 1,2", "'1,2' is no row: write numbers and ranges of rows, as in 3 7-9.", "1,2"),
        ("retry scan 3-1", "'3-1' is no row", "3-1"),
        ("retry scan --where", "--where needs an expression.", "--where"),
        ("retry scan --where T >", "--where T >: not a Python expression", ""),
        ("retry scan --where P > 1", "--where P > 1: name 'P' is not defined", "P > 1"),
        ("retry scan --where T / 0", "--where T / 0: ZeroDivisionError: division by zero", "T / 0"),
        ("kill scan --rows 9", "Ensemble 'scan' has no row 9", "9"),
        ("kill scan 3 --rows 1", "--rows is for the rows of one ensemble: give its name alone.", "1"),
        ("kill scan 3", "Rows of 'scan', or tasks? %balsam_kill scan --rows 3 ends rows", "3"),
        ("kill 3 --rows 1", "--rows is for the rows of one ensemble: give its name alone.", "1"),
    ],
)
def test_a_mistake_changes_nothing(
    killed: Shell, exctr: BalsamExecutor, capsys: Capture, line: str, says: str, marked: str
) -> None:
    before = exctr.ensemble("scan").counts()
    said, word = mistake(killed, capsys, f"%balsam_{line}")
    assert said.startswith(says) and word == marked
    assert exctr.ensemble("scan").counts() == before


@pytest.mark.usefixtures("allocation")
def test_a_finished_row_is_no_row_to_retry(shell: Shell, capsys: Capture) -> None:
    run(shell, ECHO)
    run(shell, "_ = %balsam_submit echoes T=[1, 2] --name done\n_ = %balsam_wait done --timeout 60")
    said, word = mistake(shell, capsys, "%balsam_retry done 1")
    assert said.startswith("Row 1 of 'done' has finished") and word == "1"
    assert repr(run(shell, "%balsam_kill done --rows 0")) == ("ensemble 'done': nothing to kill: these rows had ended.")


@pytest.mark.usefixtures("allocation")
def test_a_changed_app_asks_for_keep_or_fresh(shell: Shell, tmp_path: Path, capsys: Capture) -> None:
    run(shell, ECHO)
    submit = "%balsam_submit echoes T=[1, 2] --name scan"
    run(shell, f"_ = {submit}\n_ = %balsam_wait scan --timeout 60")
    run(shell, ECHO.replace("echo {{", "echo now {{"))
    said, _ = mistake(shell, capsys, submit)
    assert "--keep" in said and "--fresh" in said
    assert mistake(shell, capsys, f"{submit} --keep --fresh")[1] == "--fresh"
    kept = run(shell, f"e = {submit} --keep\ne")
    assert (kept.new, kept.kept, kept.generation) == (0, 2, 1)
    run(shell, ECHO.replace("echo {{", "echo later {{"))
    fresh = run(shell, f"e = {submit} --fresh\ne")
    assert (fresh.new, fresh.generation) == (2, 2)
