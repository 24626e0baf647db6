"""What the magics say about what went wrong, and what to do then."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, BatchJob, Job, Site, open_site

from . import test_magics
from .test_magics import HELLO, Shell, mistake, refused, run

shell = test_magics.shell

Until = Callable[[Callable[[], bool]], None]
FAILS = "%%balsam_app fails\nfor i in 1 2 3 4 5 6; do echo line $i; done; exit {{ code }}"


@pytest.mark.usefixtures("allocation")
def test_a_log_is_shown_once_and_no_longer_than_asked(shell: Shell) -> None:
    run(shell, FAILS)
    run(shell, "%balsam_submit fails code=[3] --name f\n%balsam_wait f --timeout 60")
    head, *lines = run(shell, "%balsam_logs f -n 3").splitlines()
    assert head.endswith("(fails, FAILED, return code 3) in f/0:")
    assert lines == ["line 4", "line 5", "line 6"]
    assert run(shell, "%balsam_logs f").splitlines()[1:] == [f"line {i}" for i in range(1, 7)]


@pytest.mark.usefixtures("allocation")
def test_an_error_that_is_not_in_the_log_is_shown(shell: Shell) -> None:
    run(shell, "%%balsam_app nowhere\n/no/such/program {{ x }}")
    run(shell, "%balsam_submit nowhere x=1 --name n\n%balsam_wait n --timeout 60")
    lines = run(shell, "%balsam_logs n").splitlines()
    assert any("/no/such/program" in line for line in lines[1:])
    assert len(run(shell, "%balsam_logs n -n 1").splitlines()) == 2


def test_without_arguments_the_current_site_is_shown(shell: Shell, site: Site) -> None:
    assert run(shell, "s = %balsam_site\ns") is site
    assert run(shell, "s = %balsam_site here\ns") is site


def test_without_any_site_the_default_one_is_opened(shell: Shell, site: Site, home: Path) -> None:
    site.close()
    opened = run(shell, "s = %balsam_site\ns")
    assert opened.name == "default" and Path(opened.path).is_relative_to(home)
    opened.close()


def test_a_class_finds_its_site_where_none_is_open(site: Site) -> None:
    class Named(ApplicationDefinition):
        site = "here"
        command_template = "echo {{ x }}"

    class Default(Named):
        site = "default"

    site.close()
    Named.sync()
    opened = BalsamExecutor().site
    assert opened.name == "here" and [app.name for app in opened.engine.apps()] == ["Named"]
    opened.close()
    Default.sync()
    opened = BalsamExecutor().site
    assert opened.name == "default" and [app.name for app in opened.engine.apps()] == ["Default"]
    opened.close()
    job = Job(Default, "w", {"x": 1})
    job.save()
    assert BalsamExecutor().site.name == "default" and Job.objects.count() == 1
    BalsamExecutor().site.close()
    assert Job.objects.count() == 1 and BatchJob.objects.count() == 0
    BalsamExecutor().site.close()
    assert Job(Named, "w", {"x": 1}, site_name="here").site_id == open_site("here").id


@pytest.mark.usefixtures("allocation")
def test_a_kill_waits_until_the_tasks_have_ended(shell: Shell, site: Site, until: Until) -> None:
    run(shell, "%%balsam_app sleeps\nsleep {{ s }}")
    ensemble = run(shell, "%balsam_submit sleeps s=[0, 600, 601, 602] --name e")
    until(lambda: ensemble.counts()["FINISHED"] == 1 and ensemble.counts()["RUNNING"] == 2)
    assert repr(run(shell, "k = %balsam_kill e\nk")) == "ensemble 'e': 3 tasks killed."
    assert ensemble.counts() == {"WAITING": 0, "RUNNING": 0, "FINISHED": 1, "FAILED": 0, "USER_KILLED": 3}
    assert repr(run(shell, "k = %balsam_kill e\nk")) == "ensemble 'e': nothing to kill: all 4 tasks had ended."


def test_a_wait_says_at_its_start_that_nothing_can_run(
    shell: Shell, exctr: BalsamExecutor, capsys: pytest.CaptureFixture[str]
) -> None:
    run(shell, HELLO)
    run(shell, "%balsam_submit hello name=1 n=[1, 2] --name late")
    capsys.readouterr()
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 1.5)  # as Jupyter's stop button
    assert not shell.run_cell("%balsam_wait late").success
    signal.signal(signal.SIGALRM, before)
    shown = capsys.readouterr()
    assert shown.out.count("Nothing runs: there is no allocation. Ask for one: %balsam_allocate -n 1 -t 10") == 1
    assert "left, until" not in shown.out


@pytest.mark.usefixtures("allocation")
def test_a_wait_says_when_the_allocation_has_ended(
    shell: Shell, exctr: BalsamExecutor, capsys: pytest.CaptureFixture[str], until: Until
) -> None:
    run(shell, "%%balsam_app sleeps\nsleep {{ s }}")
    ensemble = run(shell, "%balsam_submit sleeps s=[0, 600, 601] --name e")
    until(lambda: ensemble.counts()["FINISHED"] == 1 and ensemble.counts()["RUNNING"] == 2)
    run(shell, "%balsam_revoke all")
    until(lambda: ensemble.counts()["WAITING"] == 2)
    capsys.readouterr()
    assert not shell.run_cell("%balsam_wait e --timeout 1.2").success
    shown = capsys.readouterr()
    assert "e was not done after 1.2 s. Nothing runs: allocation 1 has ended" in shown.out + shown.err
    assert "left, until" not in shown.out


@pytest.mark.usefixtures("allocation")
def test_a_wait_in_which_the_allocation_ends_says_so_once(
    shell: Shell, site: Site, capsys: pytest.CaptureFixture[str], until: Until
) -> None:
    run(shell, "%%balsam_app sleeps\nsleep {{ s }}")
    ensemble = run(shell, "%balsam_submit sleeps s=[600, 601] --name e")
    until(lambda: ensemble.counts()["RUNNING"] == 2)

    def revoke_and_stop() -> None:
        site.engine.revoke(1)
        signal.setitimer(signal.ITIMER_REAL, 1.5)

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    capsys.readouterr()
    with ThreadPoolExecutor(1) as other:
        done = other.submit(revoke_and_stop)
        assert not shell.run_cell("%balsam_wait e").success
        done.result()
    signal.signal(signal.SIGALRM, before)
    assert capsys.readouterr().out.count("Nothing runs: allocation 1 has ended") == 1


@pytest.mark.usefixtures("allocation")
def test_failed_rows_come_with_a_pointer(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, FAILS)
    run(shell, "%balsam_submit fails code=[0, 3] --name f")
    capsys.readouterr()
    pointer = "1 failed: %balsam_logs f shows why\n"
    run(shell, "w = %balsam_wait f --timeout 60")
    assert capsys.readouterr().out.endswith(pointer)
    run(shell, "w = %balsam_submit fails code=[0, 3] --name f")
    assert capsys.readouterr().out == pointer
    run(shell, FAILS.replace("exit {{ code }}", "true {{ code }}"))
    assert "2 rows (0–1) ran with version" in refused(shell, capsys, "%balsam_submit fails code=[0, 3] --name f")
    run(shell, "w = %balsam_submit fails code=[0, 3] --name f --keep")
    assert capsys.readouterr().out.endswith(pointer)
    assert repr(run(shell, "r = %balsam_retry f\nr")) == "ensemble 'f': 1 task will run again."
    assert run(shell, "w = %balsam_wait f --timeout 60\nw").counts()["FINISHED"] == 2
    run(shell, FAILS)
    run(shell, "w = %balsam_submit fails code=[3, 4] --name g\nw = %balsam_wait g --timeout 60")
    assert capsys.readouterr().out.endswith("2 failed: %balsam_failures g shows why\n")


@pytest.mark.parametrize(
    ("cell", "says", "marked"),
    [
        ("def f(x):\n    y = (1\n    return x", "SyntaxError in line 3 of the cell: '(' was never closed", "("),
        ("return 1", "SyntaxError in line 2 of the cell: 'return' outside function", "r"),
        ("def f(x):\nreturn x", "IndentationError in line 3 of the cell: expected an indented block", "r"),
    ],
)
@pytest.mark.usefixtures("site")
def test_a_syntax_error_is_the_users_lines_only(
    shell: Shell, capsys: pytest.CaptureFixture[str], cell: str, says: str, marked: str
) -> None:
    said, word = mistake(shell, capsys, f"%%balsam_app f --python\n{cell}")
    assert said.startswith(says) and word == marked


@pytest.mark.parametrize("magic", ["status", "watch", "wait", "results", "logs", "kill"])
@pytest.mark.usefixtures("site")
def test_an_unknown_ensemble_names_those_there_are(
    shell: Shell, capsys: pytest.CaptureFixture[str], magic: str
) -> None:
    run(shell, HELLO)
    run(shell, "%balsam_submit hello name=1 n=1 --name scan\n%balsam_submit hello name=1 n=1 --name other")
    said = refused(shell, capsys, f"%balsam_{magic} scn")
    assert "Its ensembles are other, scan. Did you mean 'scan'?" in said


@pytest.mark.usefixtures("allocation")
def test_an_allocation_that_must_wait_says_for_what(
    shell: Shell, site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    run(shell, "a = %balsam_allocate -t 5")
    assert capsys.readouterr().out == "Allocation 2 is queued, behind allocation 1 (10 min left).\n"
    run(shell, "a = %balsam_allocate -t 5")
    assert capsys.readouterr().out == "Allocation 3 is queued, behind allocation 1 (10 min left), allocation 2.\n"
