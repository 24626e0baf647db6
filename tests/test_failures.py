"""Failures in groups, on real processes; and one of them run again by hand."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, BatchJob, Ensemble, Site
from balsam_jupyter.failures import SHOWN, Failures, shape_of, telling_line
from balsam_jupyter.models import Query

SOON = 60.0


class Node(ApplicationDefinition):
    site = "here"
    command_template = "sh -c 'echo step 1; echo node $1: file /d/$1/x.dat missing >&2; exit $2' x {{ n }} {{ code }}"


class Raises(ApplicationDefinition):
    site = "here"

    def run(self, x: int) -> int:
        if x % 3 == 0:
            raise KeyError(f"run-{x}")
        if x % 3 == 1:
            raise ValueError(f"<b>{x}</b> is negative\nthe second line {x}")
        return x


@pytest.fixture(autouse=True)
def apps(exctr: BalsamExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where what is run by hand finds a directory
    for app in (Node, Raises):
        exctr.register_app(app)


@pytest.fixture
def ens(exctr: BalsamExecutor, allocation: BatchJob) -> Ensemble:
    """Seven rows that failed, of two kinds, and two that did not."""
    rows = [{"x": 1}, {"x": 0}, *({"x": x} for x in range(2, 7)), {"x": 7}, {"x": 10}]
    return exctr.submit_sweep("Raises", rows, name="raises").wait(SOON)


@pytest.mark.parametrize(
    ("line", "shape"),
    [
        ("node 17: file /a/b/3 missing", "node <n>: file <path> missing"),
        ("node 4: file /a/b/9 missing", "node <n>: file <path> missing"),
        ("ValueError: negative width -1.5e-3", "ValueError: negative width <n>"),
        ("KeyError: 'temperature'", "KeyError: 'temperature'"),
        ("KeyError: 'run-17'", "KeyError: '<id>'"),
        ("2026-01-02T12:33:11.5Z lost at 12:33:11", "<time> lost at <time>"),
        ("at 0x7ffabc12 in deadbeef1234", "at <id> in <id>"),
        ("no such file: '/tmp/x y/3'", "no such file: '<path>'"),
        ("Lost atoms: 4000 of 3987 (src/thermo.cpp:494)", "Lost atoms: <n> of <n> (<path>:<n>)"),
        ("I/O error, and/or none", "I/O error, and/or none"),
        ("shapes (3, 4, 5) and (3, 4)", "shapes (<n> …) and (<n> …)"),
        ("https://a.b/c?d=1 refused", "<url> refused"),
        ("job node17 gave nan", "job node<n> gave <n>"),
        ("", ""),
    ],
)  # fmt: skip
def test_shapes(line: str, shape: str) -> None:
    assert shape_of(line) == shape


@given(st.integers(), st.floats(), st.text("abcdef0123456789_.-", min_size=1), st.text())
def test_what_differs_each_time_is_no_part_of_a_shape(number: int, real: float, name: str, text: str) -> None:
    assert shape_of(f"in {number} of {real!r}: /tmp/{name}/{name} lost") == "in <n> of <n>: <path> lost"
    assert len(shape_of(text)) <= 200 and isinstance(shape_of(telling_line(text)), str)


def test_the_line_that_says_most() -> None:
    trace = 'Traceback (most recent call last):\n  File "a.py", line 3, in f\n    g()\nOSError: gone\nsee above\n'
    assert telling_line(trace) == "OSError: gone"
    assert telling_line(f"{trace}\nDuring …:\n\n{trace.replace('OSError', 'RuntimeError')}") == "RuntimeError: gone"
    assert telling_line("step 1\nERROR: Lost atoms\nLast command: run 10\n") == "ERROR: Lost atoms"
    assert telling_line("residual error = 0.1\nthe end") == "the end"
    assert telling_line("exit code 3, and nothing in its log") == "exit code 3, and nothing in its log"
    assert telling_line("") == "(it said nothing)"


def test_groups(ens: Ensemble) -> None:
    failures = ens.failures()
    assert (failures.total, len(failures)) == (7, 2)
    first, second = failures
    assert (first.count, first.shape, first.rows) == (4, "ValueError: <b><n></b> is negative", (0, 4, 7, 8))
    assert (second.count, second.shape, second.rows) == (3, "KeyError: '<id>'", (1, 3, 6))
    assert first is failures[0] and failures[1:] == (second,)
    assert first.example == ens.tasks()[0].id and first.return_code == 1
    assert "the second line 1" in first.log and f"task {first.example} (Raises, FAILED" in first.log
    assert first.run_by_hand == f"balsam-jupyter job try {first.example} --site here" and first.command == ""
    said = repr(failures)
    assert said.startswith("raises: 7 failed tasks in 2 groups\n4 tasks (rows 0, 4, 7, 8; return code 1): ValueError")
    assert f"  $ {first.run_by_hand}" in said
    page = failures._repr_html_()
    assert "<b>1</b>" not in page and "&lt;b&gt;1&lt;/b&gt; is negative" in page
    table = failures.to_dataframe()
    assert table["count"].tolist() == [4, 3] and table["rows"][1] == (1, 3, 6)
    assert list(table.columns) == ["count", "shape", "return_code", "rows", "example", "run_by_hand"]


def test_commands_and_return_codes(exctr: BalsamExecutor, allocation: BatchJob, site: Site) -> None:
    rows = [{"n": 1, "code": 3}, {"n": 22, "code": 3}, {"n": 3, "code": 4}]
    ens = exctr.submit_sweep("Node", rows, name="nodes").wait(SOON)
    three, four = ens.failures()
    assert (three.shape, three.count, three.return_code) == ("node <n>: file <path> missing", 2, 3)
    assert (four.shape, four.count, four.return_code) == (three.shape, 1, 4)
    assert three.command.startswith(f"cd {site.data_path}/nodes/0 && ")
    done = subprocess.run(["sh", "-c", three.command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (3, "step 1\n", "node 1: file /d/1/x.dat missing\n")
    assert f"  $ {three.command}" in repr(three)


def test_none_has_failed(exctr: BalsamExecutor) -> None:
    failures = exctr.submit_sweep("Raises", {"x": [1]}, name="none").failures()
    assert repr(failures) == "none: no task has failed." and "no task has failed" in failures._repr_html_()
    assert len(failures.to_dataframe()) == 0


def test_what_is_left_out_is_said(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    class Many(ApplicationDefinition):
        site = "here"

        def run(self, x: str) -> None:
            raise ValueError(x)

    exctr.register_app(Many)
    words = [chr(ord("a") + at) * 3 for at in range(SHOWN + 2)]
    failures = exctr.submit_sweep("Many", {"x": words}, name="many").wait(SOON).failures()
    assert len(failures) == SHOWN + 2
    assert repr(failures).endswith("… and 2 more groups (2 tasks): failures[10:], failures.to_dataframe()")
    assert "… and 2 more groups" in failures._repr_html_() and "kkk" not in failures._repr_html_()


def test_a_failure_that_never_ran(exctr: BalsamExecutor, site: Site) -> None:
    parent = exctr.submit(app_name="Raises", app_args={"x": 1})
    exctr.submit_sweep("Raises", {"x": [2, 5]}, name="children", parent_ids=[parent])
    site.engine.update(Query(ids=(parent.id,)), "USER_KILLED")
    (group,) = exctr.ensemble("children").failures()
    assert "never ran" in repr(group) and group.shape == "parent job <n> (Raises) ended USER_KILLED"


# -- by hand -----------------------------------------------------------------------------------------------------------


def by_hand(job: int, *options: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "balsam_jupyter.cli", "job", "try", str(job), "--site", "here", *options]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, env={**os.environ, **env}, stdin=subprocess.DEVNULL
    )


def stored(site: Site) -> list[Any]:
    """All that a site has of its jobs."""
    return [*map(vars, site.engine.jobs(Query())), site.engine.events("").rows]


def test_a_command_by_hand(exctr: BalsamExecutor, allocation: BatchJob, site: Site, tmp_path: Path) -> None:
    class Inputs(ApplicationDefinition):
        site = "here"
        command_template = (
            "sh -c 'cat in.txt; pwd; echo \"$WORD $BALSAM_JOB_ID $OMP_NUM_THREADS\" >&2; kill -$1 $$' x {{ s }}"
        )
        environment_variables = {"WORD": "said"}
        inputs = {"in.txt": "T = {{ s }}\n", "sub/more.txt": "plain\n"}

    exctr.register_app(Inputs)
    ens = exctr.submit_sweep("Inputs", {"s": [9]}, name="inputs", threads_per_rank=2).wait(SOON)
    (group,) = ens.failures()
    before = stored(site)
    folder = tmp_path / "new" / "look"
    done = by_hand(group.example, "--in", str(folder))
    assert done.returncode == 128 + 9
    assert done.stdout == f"T = 9\n{folder}\n"
    assert f"said {group.example} 2\n" in done.stderr and "ended by signal 9" in done.stderr
    assert (folder / "sub" / "more.txt").read_text() == "plain\n"
    assert stored(site) == before
    again = by_hand(group.example, "--in", str(folder))
    assert again.returncode == 2 and "is not empty; name a new directory" in again.stderr
    told = by_hand(group.example, "--json")
    document = json.loads(told.stdout)
    assert document["return_code"] == -9 and (Path(document["directory"]) / "in.txt").exists()
    assert "T = 9" in told.stderr


def test_a_python_app_by_hand(ens: Ensemble, exctr: BalsamExecutor) -> None:
    failed, fine = (next(task for task in ens.tasks() if task.state == state) for state in ("FAILED", "FINISHED"))
    done = by_hand(failed.id)
    assert done.returncode == 1 and "exit code 1" in done.stderr
    assert "raise ValueError" in done.stderr and "ValueError: <b>1</b> is negative" in done.stderr
    done = by_hand(fine.id)
    assert done.returncode == 0 and "returned 2" in done.stderr


def test_what_cannot_be_tried(exctr: BalsamExecutor, ens: Ensemble) -> None:
    many = by_hand(0)
    assert many.returncode == 1 and "no ensemble, task or work directory '0'" in many.stderr
    command = [sys.executable, "-m", "balsam_jupyter.cli", "job", "try", "raises", "--site", "here"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "has many jobs; name one" in done.stderr


def test_the_command_of_a_group_runs_as_it_is(ens: Ensemble) -> None:
    words = shlex.split(ens.failures()[1].run_by_hand)
    assert words[0] == "balsam-jupyter"
    done = subprocess.run([sys.executable, "-m", "balsam_jupyter.cli", *words[1:]], capture_output=True, text=True)
    assert done.returncode == 1 and "KeyError: 'run-0'" in done.stderr


def test_an_app_that_changed_says_so(ens: Ensemble, exctr: BalsamExecutor) -> None:
    changed = type("Raises", (ApplicationDefinition,), {"site": "here", "command_template": "echo {{ x }} now"})
    exctr.register_app(changed)
    done = by_hand(ens.tasks()[0].id)
    assert done.returncode == 0 and done.stdout == "1 now\n"
    assert "Raises has changed since this task ran" in done.stderr


def test_those_of_a_site_say_of_which_ensembles(ens: Ensemble, exctr: BalsamExecutor) -> None:
    other = exctr.submit_sweep("Raises", {"x": [0, 1]}, name="other").wait(SOON)
    lone = exctr.submit(app_name="Raises", app_args={"x": 0})
    lone.wait(SOON)
    assert other.counts()["FAILED"] and lone.state == "FAILED"
    told = Failures.among(exctr.site, Query(), "")
    assert told[0].title == "5 tasks (rows 0, 4, 7, 8 of raises, row 1 of other; return code 1)"
    assert told[1].title == f"5 tasks (rows 1, 3, 6 of raises, row 0 of other, task {lone.id}; return code 1)"


def test_failures_are_as_of_when_they_were_asked_for(ens: Ensemble, exctr: BalsamExecutor) -> None:
    failures = ens.failures()
    assert isinstance(failures, Failures)
    ens.retry()
    ens.wait(SOON)
    assert failures.total == 7 and [group.count for group in ens.failures()] == [4, 3]


class Noisy(ApplicationDefinition):
    site = "here"
    command_template = "sh -c 'printf \"$0\"; exit 1' {{ what }}"


def test_what_a_program_says_is_no_command_to_a_terminal(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    """Colours do not make two kinds of one; bytes, markup and lines without an end are shown as they can be."""
    exctr.register_app(Noisy)
    words = [r"\033[31mError: red\033[0m 1", r"\033[1;32mError: red\033[m 2", r"\033]0;title\007Error: red 3"]
    others = [r"\377\000\001\002 <img src=x onerror=alert(1)>", "x" * 3000, ""]
    ens = exctr.submit_sweep("Noisy", {"what": words + others}, name="noisy").wait(SOON)
    found = ens.failures()
    assert [group.count for group in found] == [3, 1, 1, 1] and found[0].shape == "Error: red <n>"
    texts = [repr(found), found._repr_html_(), *ens.to_dataframe()["error"]]
    assert not [text for text in texts if any(ord(sign) < 32 and sign != "\n" for sign in text)]
    assert "<img" not in found._repr_html_() and "&lt;img" in found._repr_html_()
