"""The magics in a plain IPython, over a real site; what needs a kernel is in test_kernel.py."""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell

from balsam_jupyter import BalsamExecutor, Site, open_site
from balsam_jupyter.magics.expressions import is_dimension
from balsam_jupyter.magics.report import Log, Report, Table
from balsam_jupyter.models import Query


def test_what_makes_a_dimension() -> None:
    for some in ([1, 2], (1,), range(2), np.linspace(0, 1, 3), (number for number in (1, 2))):
        assert is_dimension(some)
    for fixed in (1, 2.5, "text", b"bytes", None, {"a": 1}, np.float64(3), np.array(3)):
        assert not is_dimension(fixed)


def test_tables_are_cut_and_escaped() -> None:
    table = Table(["<n>", "square"], [[at, f"<{at * at}>"] for at in range(30)])
    assert table.text().splitlines()[0].split() == ["<n>", "square"]
    assert table.text().splitlines()[-1] == "… and 10 more"
    assert "<n>" not in table.html() and "&lt;361&gt;" in table.html() and "and 10 more" in table.html()
    report = Report("a & b", [table], ["<line>"])
    assert repr(report).splitlines()[0] == "a & b"
    assert "&lt;line&gt;" in report._repr_html_() and "a &amp; b" in report._repr_html_()


def test_a_log_shows_as_it_is() -> None:
    log = Log("one\n<two>")
    assert repr(log) == "one\n<two>"
    assert log._repr_html_() == "<pre>one\n&lt;two&gt;</pre>"


Shell = Any

HELLO = """%%balsam_app hello --output 'word=Hello, (.*)!' --output 'n=out.json:n' --env GREETING=Hello
echo "$GREETING, {{ name }}!"
echo '{"n": '{{ n }}'}' > out.json"""


@contextmanager
def plain_ipython(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """A plain IPython with the magics."""
    patch.setenv("IPYTHONDIR", str(folder / "ipython"))
    InteractiveShell.clear_instance()
    made = InteractiveShell.instance()
    made.run_line_magic("load_ext", "balsam_jupyter")
    yield made
    made.history_manager.end_session()
    atexit.unregister(made.atexit_operations)  # else each of them collects garbage at the end: minutes for hundreds
    InteractiveShell.clear_instance()


@pytest.fixture
def shell(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shell]:
    """A plain IPython with the magics, on the site of the test."""
    with plain_ipython(tmp_path, monkeypatch) as made:
        yield made


def run(shell: Shell, code: str) -> Any:
    """The value of a cell's last line."""
    result = shell.run_cell(code)
    result.raise_error()
    return result.result


def mistake(shell: Shell, capsys: pytest.CaptureFixture[str], code: str) -> tuple[str, str]:
    """What a cell that fails prints, one or two lines and no traceback, and the word above the caret ("" for none)."""
    capsys.readouterr()
    result = shell.run_cell(code)
    assert not result.success
    captured = capsys.readouterr()
    shown = captured.out + captured.err
    assert "Traceback" not in shown
    assert shown.startswith("UsageError: ")
    *said, line, caret = ["", *shown.removeprefix("UsageError: ").rstrip().splitlines()]
    if not caret.endswith("^"):
        said, line, caret = [*said, line, caret], "", ""
    assert len(said) <= 3
    return "\n".join(said[1:]), line[caret.find("^") : len(caret)]


def refused(shell: Shell, capsys: pytest.CaptureFixture[str], code: str) -> str:
    """What a cell that fails prints: one or two lines, without the line that has the caret."""
    return mistake(shell, capsys, code)[0]


def test_from_app_to_table(shell: Shell, site: Site) -> None:
    assert repr(run(shell, HELLO)) == "App at site 'here': hello(name, n) -> word, n"
    run(shell, "names = ['a b', '$HOME; \"x\"']; k = 3")
    ensemble = run(shell, "x = %balsam_submit hello name=names n=range(k - 1) --name scan --tag kind=test\nx")
    assert len(ensemble) == 4
    assert "there is no allocation" in repr(run(shell, "%balsam_status scan"))
    allocation = run(shell, "a = %balsam_allocate -n 1 -t 5 -q local -A local --job-mode serial\na")
    assert allocation.job_mode == "serial" and allocation.wall_time_min == 5
    assert run(shell, "w = %balsam_wait scan --timeout 60\nw").name == "scan"
    table = run(shell, "df = %balsam_results scan\ndf")
    assert list(table["word"]) == ["a b", "a b", '$HOME; "x"', '$HOME; "x"']
    assert list(table["state"]) == ["FINISHED"] * 4
    assert all(task.process.tags == {"workflow": "scan", "kind": "test"} for task in ensemble.tasks())
    assert run(shell, "s = %balsam_status\ns")._repr_html_().count("<td") > 7
    assert repr(run(shell, "r = %balsam_revoke all\nr")) == f"Allocation {allocation.id} ended."
    assert repr(run(shell, "%balsam_revoke")) == "No allocation is queued or running; nothing to revoke."


def test_the_same_cell_again_adds_only_what_is_new(shell: Shell) -> None:
    run(shell, HELLO)
    assert run(shell, "%balsam_submit hello name=['a', 'b'] n=1 --name scan").new == 2
    again = run(shell, "%balsam_submit hello name=['a', 'b', 'c'] n=1 --name scan")
    assert (again.new, again.kept) == (1, 2)


def test_a_dry_run_shows_and_stores_nothing(shell: Shell, site: Site) -> None:
    run(shell, HELLO)
    report = run(shell, "d = %balsam_submit hello name=[f'<{i}>' for i in range(30)] n=0 --dry-run\nd")
    shown = repr(report)
    assert shown.startswith("Dry run: 30 tasks of app 'hello'; nothing was stored.\n<Price of 30 tasks of hello: ")
    assert "\nname    n\n'<0>'   0\n" in shown
    assert "… and 10 more" in shown and "… and 27 more" in shown and shown.count("out.json") == 3
    assert "&lt;0&gt;" in report._repr_html_() and "<0>" not in report._repr_html_()
    assert site.engine.count(Query()) == {} and site.engine.ensembles() == []


def test_zip_pairs_and_fixed_values_go_along(shell: Shell) -> None:
    run(shell, HELLO)
    ensemble = run(shell, "%balsam_submit hello name=(c for c in 'ab') n=[1, 2] --zip --name pairs")
    assert [task.process.parameters for task in ensemble.tasks()] == [{"name": "a", "n": 1}, {"name": "b", "n": 2}]
    ensemble = run(shell, "%balsam_submit hello name='ab' n=[1, 2] --zip --name fixed")
    assert [task.process.parameters["name"] for task in ensemble.tasks()] == ["ab", "ab"]


@pytest.mark.usefixtures("allocation")
def test_a_python_app_takes_what_the_notebook_has(shell: Shell) -> None:
    cell = """%%balsam_app circle --python
import math

FACTOR = 10

def area(radius):
    return math.pi * radius**2

def circle(radius: float, *, scale: float = FACTOR):
    "The area of a circle."
    return {"area": round(area(radius) * scale, 3), "type": type(radius).__name__}"""
    assert repr(run(shell, cell)) == "App at site 'here': circle(radius, scale=10)"
    assert run(shell, "circle(1.0, scale=1)") == {"area": 3.142, "type": "float"}  # it is a function here, too
    run(shell, "import numpy as np")
    run(shell, "%balsam_submit circle radius=np.linspace(1, 2, 2) --name c\n%balsam_wait c --timeout 60")
    table = run(shell, "%balsam_results c")
    assert list(table["area"]) == [31.416, 125.664]
    assert list(table["type"]) == ["float", "float"]


@pytest.mark.usefixtures("allocation")
def test_a_python_app_with_self_and_one_that_fails(shell: Shell) -> None:
    run(shell, "%%balsam_app where --python\ndef where(self, x: int):\n    return [self.job.id, 1 // x]")
    run(shell, "%balsam_submit where x=[1, 0] --name w\n%balsam_wait w --timeout 60")
    table = run(shell, "%balsam_results w")
    assert list(table["state"]) == ["FINISHED", "FAILED"]
    log = run(shell, "t = %balsam_logs w\nt")
    assert "ZeroDivisionError" in log and repr(log) == str(log)
    assert "FAILED" in log.splitlines()[0]
    task = table["task"].iloc[0]
    assert run(shell, f"%balsam_logs {task}").splitlines()[0].startswith(f"task {task} (where, JOB_FINISHED")
    assert run(shell, f"%balsam_logs where_{task}") == run(shell, f"%balsam_logs {task}")


def test_the_version_of_a_cell_follows_its_functions_not_its_place(shell: Shell, site: Site) -> None:
    cell = "%%balsam_app f --python\ndef g(x):\n    return x + {}\ndef f(x):\n    return g(x)"
    versions = []
    for number in (1, 2, 1):
        run(shell, cell.format(number))
        versions.append(site.app("f").version)
    assert versions[0] == versions[2] != versions[1]
    assert site.app("f").source.startswith("%%balsam_app f --python\ndef g(x):")


@pytest.mark.usefixtures("allocation")
def test_input_files_and_defaults(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "plain.txt").write_text("{{ T }}\n")
    (tmp_path / "in.melt.j2").write_text("temperature {{ T }}\n")
    files = f"--input {tmp_path}/plain.txt {tmp_path}/in.melt.j2"
    shown = run(shell, f"%%balsam_app melt --param T=300 {files}\ncat plain.txt in.melt")
    assert repr(shown).startswith("App at site 'here': melt(T=300)")
    run(shell, "%balsam_submit melt --name m\n%balsam_wait m --timeout 60")
    log = run(shell, "%balsam_logs melt_1")
    assert log.splitlines()[1:] == ["{{ T }}", "temperature 300"]


def test_kill(shell: Shell, exctr: BalsamExecutor) -> None:
    run(shell, "%balsam_app sleep_for\nsleep {{ s }}".replace("%balsam", "%%balsam"))
    ensemble = run(shell, "%balsam_submit sleep_for s=[600, 601, 602] --name s")
    first = ensemble.tasks()[0].id
    assert repr(run(shell, f"%balsam_kill {first}")) == f"task {first}: 1 task killed."
    assert repr(run(shell, f"%balsam_kill {first}")) == f"task {first}: nothing to kill: it had ended."
    assert repr(run(shell, "k = %balsam_kill s\nk")) == "ensemble 's': 2 tasks killed."
    assert ensemble.counts()["USER_KILLED"] == 3
    assert repr(run(shell, "k = %balsam_kill s\nk")) == "ensemble 's': nothing to kill: all 3 tasks had ended."


@pytest.mark.parametrize(
    ("code", "says", "marked"),
    [
        ("%balsam_submit", "Give APP: %balsam_submit APP [name=expression …]", ""),
        ("%balsam_submit hello nmae=1 n=2",
         "Row 0 of the sweep: App hello has no parameter 'nmae'; its parameters: name, n. Did you mean 'name'?",
         "nmae=1"),
        ("%balsam_submit hello nmae=1 n=2 --dry-run", "Row 0 of the sweep: App hello has no parameter", "nmae=1"),
        ("%balsam_submit hello name=1 2", "name=1 2: not a Python expression", "2"),
        ("%balsam_submit hello name=x n=1", "name=x: name 'x' is not defined. Text needs quotes: name='x'.", "x"),
        ("%balsam_submit hello name=[1 n=1", "The bracket [ is never closed.", "["),
        ("%balsam_submit hello stray", "stray: write name=expression for each parameter of hello.", "stray"),
        ("%balsam_submit hello name=[1, 2] n=[1] --zip", "Sweep.zip needs as many values", "--zip"),
        ("%balsam_submit hello name=1 n=1 --zip", "--zip pairs lists, and no value here is a list.", "--zip"),
        ("%balsam_submit hello name=[] n=1", "The sweep is empty: name has no values.", "name=[]"),
        ("%balsam_submit hello name=[1] n={1, 'a'}", "The values of 'n' are a set, which has no order", "n={1, 'a'}"),
        ("%balsam_submit hello name=(1/0 for _ in 'a') n=1", "name=(1/0 for _ in 'a'): ZeroDiv", "(1/0 for _ in 'a')"),
        ("%balsam_submit hello name=1 n=1 --tag k", "--tag k: write --tag name=value.", "k"),
        ("%balsam_submit hello name=1 n=1 --name 'a/b'", "The name of an ensemble is", "'a/b'"),
        ("%balsam_submit hello name=1 n=1 --num-nodes 0", "num_nodes must be a whole number", "0"),
        ("%balsam_submit hello name=1 n=1 --max-retries -1", "max_retries must be a whole number", "-1"),
        ("%balsam_submit helo name=1", "Site 'here' has no app 'helo'; it has hello. Did you mean 'hello'?", "helo"),
        ("x = %balsam_status nothing", "Site 'here' has no ensemble 'nothing'.", "nothing"),
        ("%balsam_watch nothing", "Site 'here' has no ensemble 'nothing'.", "nothing"),
        ("%balsam_wait nothing", "Site 'here' has no ensemble 'nothing'.", "nothing"),
        ("%balsam_wait a b", "'b' is one word too many: %balsam_wait NAME [--timeout S]", "b"),
        ("%balsam_wait a --timeuot 3", "%balsam_wait has no option --timeuot. Did you mean '--timeout'?", "--timeuot"),
        ("%balsam_wait a --timeout soon", "--timeout takes a number, not 'soon'.", "soon"),
        ("%balsam_results nothing", "Site 'here' has no ensemble 'nothing'.", "nothing"),
        ("%balsam_logs 99", "Site 'here' has no ensemble, task or work directory '99'", "99"),
        ("%balsam_kill nothing", "Site 'here' has no ensemble, task or work directory 'nothing'", "nothing"),
        ("%balsam_revoke 7", "There is no allocation 7", "7"),
        ("%balsam_logs 1 -n 0", "-n 0: show at least 1 line.", "0"),
        ("%balsam_allocate -n x", "--nodes takes a whole number, not 'x'.", "x"),
        ("%balsam_allocate -n 9", "num_nodes=9 is more than site 'here' has (1 node", "9"),
        ("%balsam_allocate -t 0", "wall_time_min", "0"),
        ("%balsam_allocate --job-mode fast", "job_mode", "fast"),
        ("%balsam_allocate -p mpi:1 -p sreial:1", "job_mode is 'mpi' or 'serial', not 'sreial'", "sreial:1"),
        ("%balsam_allocate -q debug", "Unknown queue 'debug'", "debug"),
        ("%balsam_service stat", "VERB is start, stop, status, not 'stat'. Did you mean 'start'?", "stat"),
        ("%balsam_site --engine slurm", "Unknown engine 'slurm'", "slurm"),
        ("%%balsam_app x --param 1a\necho", "--param 1a: '1a' is not a Python identifier.", "1a"),
        ("%%balsam_app x --input nowhere.txt\necho", "--input nowhere.txt: there is no file", "nowhere.txt"),
        ("%%balsam_app x --output y\necho", "--output y: write --output name=value.", "y"),
        ("%%balsam_app x --output 'y=(a'\necho", "Output 'y' of app x", "'y=(a'"),
        ("%%balsam_app x --param z\necho {{ y }}", "Parameter 'z' of app x is not used", "z"),
        ("%%balsam_app x\necho {{ y", "App x: ", ""),
        ("%%balsam_app x --python\ny = 1", "The cell defines no function", "--python"),
        ("%%balsam_app x --python\ndef x(y, x):\n    pass", "x() has a parameter of its own name", ""),
        ("%%balsam_app x --python\ndef x(*a):\n    pass", "x(*a): an app's parameters have names; write them out.", ""),
        ("%%balsam_app x 'y\necho", "The quote ' is never closed.", "'"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_with_the_word_marked_and_stores_nothing(
    shell: Shell, site: Site, capsys: pytest.CaptureFixture[str], code: str, says: str, marked: str
) -> None:
    run(shell, HELLO)
    said, word = mistake(shell, capsys, code)
    assert said.startswith(says) and word == marked
    assert site.engine.count(Query()) == {}
    assert site.engine.ensembles() == [] and site.engine.allocations() == []
    assert [app.name for app in site.engine.apps()] == ["hello"]


def test_errors_of_the_users_own_code_keep_their_traceback(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    result = shell.run_cell("%%balsam_app f --python\nimport not_there\ndef f():\n    pass")
    assert isinstance(result.error_in_exec, ModuleNotFoundError)
    shown = capsys.readouterr().out
    assert "import not_there" in shown


@pytest.mark.usefixtures("site")
def test_a_wait_that_is_too_short_says_so_in_a_line(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    run(shell, HELLO)
    run(shell, "%balsam_submit hello name=1 n=[1, 2] --name late")
    capsys.readouterr()
    result = shell.run_cell("%balsam_wait late --timeout 0.2")
    assert not result.success
    shown = capsys.readouterr()
    assert "late [....................] 0/2 done (2 WAITING) · no allocation runs" in shown.out
    assert shown.err == "" or "UsageError" in shown.err
    why = "Nothing runs: there is no allocation. Ask for one: %balsam_allocate -n 1 -t 10"
    assert f"UsageError: late was not done after 0.2 s. {why}" in shown.out + shown.err


NAMES = ("site", "allocate", "submit", "status", "watch", "wait", "results", "logs", "kill", "revoke", "apps",
         "ensembles", "service")  # fmt: skip


@pytest.mark.parametrize("name", [f"%balsam_{name}" for name in NAMES] + ["%%balsam_app"])
def test_help_has_an_example(shell: Shell, capsys: pytest.CaptureFixture[str], name: str) -> None:
    run(shell, f"{name}?")
    shown = capsys.readouterr().out
    assert f"    {name}" in shown or f"= {name} " in shown
    assert "Example" in shown


def test_without_a_kernel_the_view_is_text(shell: Shell) -> None:
    run(shell, HELLO)
    run(shell, "%balsam_submit hello name=1 n=[1, 2] --name seen")
    view = run(shell, "v = %balsam_watch seen\nv")
    assert repr(view) == "seen [....................] 0/2 done (2 WAITING) · no allocation runs"
    data, _ = shell.display_formatter.format(view)
    assert set(data) == {"text/plain", "text/html"}
    assert "data:image/svg+xml;base64," in data["text/html"]


def test_the_magics_follow_the_site_opened_last(shell: Shell, site: Site, tmp_path: Path) -> None:
    run(shell, HELLO)
    other = run(shell, f"s = %balsam_site other --path {tmp_path}/other\ns")
    try:
        assert (other.name, other.path) == ("other", str(tmp_path / "other"))
        assert "no app 'hello'" in str(shell.run_cell("%balsam_submit hello name=1 n=1").error_in_exec)
        open_site("here")
        assert run(shell, "%balsam_submit hello name=1 n=1 --name back").new == 1
    finally:
        other.close()


def test_unloading_takes_the_magics_away(shell: Shell) -> None:
    shell.run_line_magic("unload_ext", "balsam_jupyter")
    assert not any(name.startswith("balsam_") for magics in shell.magics_manager.magics.values() for name in magics)
    shell.run_line_magic("load_ext", "balsam_jupyter")
    assert shell.find_magic("balsam_submit") is not None
