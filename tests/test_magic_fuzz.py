"""Whatever is typed behind a magic gives a value or a short error: no traceback, nothing half stored, no shell."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from IPython.core.error import UsageError

from balsam_jupyter import Site, open_site
from balsam_jupyter.magics.every import MAGICS
from balsam_jupyter.models import Query

from . import test_magics
from .test_magics import Shell, run

shell = test_magics.shell

LINES = {
    "balsam_site": ["here", "here --path site", "--path site --engine embedded", "new --engine=embedded"],
    "balsam_app": ["f --param x=1 --param y --output 'a=n (.*)' --env K=V", "g --input in.txt --python", "f"],
    "balsam_apps": ["", "--help"],
    "balsam_ensembles": ["", "-h"],
    "balsam_allocate": ["-t 10 -q local -A local --job-mode serial", "-t3 -p mpi:1:role=a -p serial:2 --tag k=v"],
    "balsam_submit": [
        "both T=[1, 2] P=(0.5, number) --name scan --tag k=v",
        "both T=[x + x for x in names] P='a b' --zip --num-procs 1 --max-retries 2",
        "python T={'k': [1, \"}\"]} P=f'{number} x' --dry-run --wall-time-min 3 --max-node-hours 2",
        "both T=1 P=2 --scratch --name new",
        "python T=number if number else -1 P=np.linspace(0, 1, 3) --name new-{number}",
    ],
    "balsam_status": ["scan", ""],
    "balsam_watch": ["scan"],
    "balsam_wait": ["scan --timeout 0.1", "'scan' --timeout=1e-1"],
    "balsam_results": ["scan"],
    "balsam_form": ["both --sweep", "--allocation", "python"],
    "balsam_cost": ["scan", ""],
    "balsam_failures": ["scan"],
    "balsam_logs": ["scan -n 5", "1", "both_2 --lines 3"],
    "balsam_kill": ["scan 1", "1 2 both_3 --now", "scan --rows 0-1 1"],
    "balsam_retry": ["scan 0 1", "scan --failed", "scan --where T > 1 and task.id != number"],
    "balsam_revoke": ["1", "all", ""],
    "balsam_service": ["start -t 20 --job-mode serial --tag k=v", "status", "stop --revoke"],
}  # fmt: skip
PYTHON = "def f(T, P=1):\n    return T"
CELLS = {
    "balsam_app": ["echo {{ T }} {% for x in P %}{{ x }}{% endfor %}", PYTHON],
    "balsam_submit": [
        "T: [1, 2e-3]\nP:\n  - a\n  - b",
        "- {T: 1, P: NO}\n- {T: 2, P: ~}",
        "T,P\n1,2\n'x',\"y z\"\n",
        "{'T': [1, 2], 'P': names}",
    ],
}
BEYOND = {"balsam_allocate": "\n --nodes 9", "balsam_service": "\n --max-nodes 9"}
"""More than the site has: without it, each right line would start processes.

On a line of its own: the one before may be a comment."""

# Nothing of which a dangerous or an endless expression, or a path outside of the test's folder, could be made.
ALPHABET = " \t\n\0'\"\\()[]{}<>=-+:;,.!?%#@&|^$`0129abTPnx_é数\u0301😀\ud800"
TOKENS = [
    *("both", "python", "scan", "1", "T=", "P=", "[1, 2]", "number", "--name", "--tag", "k=v", "-n", "-t", "--zip"),
    *("--dry-run", "--timeout", "0", "--job-mode", "mpi", "--param", "--input", "--python", "{number}", "{nothing}"),
    *("{", "}", "'", '"', "'''", "-", "--", "--help", "=", "==", "x == 1", "lambda: 0", "\\", "\n", "9" * 30, "nan"),
    *("-1", "None", "(", "$number"),
]

text = st.text(ALPHABET, max_size=30)
tokens = st.lists(st.sampled_from(TOKENS) | st.text(ALPHABET, max_size=3), max_size=8).map(" ".join)


@st.composite
def mutated(draw: st.DrawFn, right: list[str]) -> str:
    """A right line with a few characters dropped, doubled, inserted or swapped for others."""
    line = draw(st.sampled_from(right))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(line)))
        stop = min(len(line), at + draw(st.integers(0, 2)))
        line = line[:at] + draw(st.sampled_from(["", line[at:stop] * 2, *ALPHABET, "--", "''"])) + line[stop:]
    return line


class Witness:
    """What must not change when a magic refuses a line; and that no shell was run meanwhile."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.folder = site, folder

    def stored(self) -> object:
        """All that is stored at the site, and all files of the test outside of the site's log and database."""
        engine = self.site.engine
        files = sorted(str(path) for path in self.folder.rglob("*") if not path.is_relative_to(self.site.path))
        return (
            engine.count(Query()),
            [(one.name, one.generation, engine.count(Query(ensemble=one.name))) for one in engine.ensembles()],
            [(app.name, app.version) for app in engine.apps()],
            [(one.id, one.state) for one in engine.allocations()],
            sorted(os.listdir(Path(self.site.path) / "data")),
            files,
        )


started: list[str] = []
_listening = False


def _listen(event: str, _: Any) -> None:
    if _listening and event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork"):
        started.append(event)


sys.addaudithook(_listen)


def attempt(shell: Shell, witness: Witness, name: str, line: str, cell: str | None) -> None:
    """One line behind a magic: a value that can be shown, or a short error and nothing changed."""
    global _listening
    before = witness.stored()
    started.clear()
    _listening = True
    try:
        if cell is None:
            value = shell.run_line_magic(name, line + BEYOND.get(name, ""))
        else:
            value = shell.run_cell_magic(name, line, cell)
    except UsageError as error:
        *said, last = ["", *str(error).splitlines()]
        if last and not last.strip(" ^"):
            said.pop()
        else:
            said.append(last)
        assert 1 <= len([text for text in said if text]) <= 2, str(error)
        assert witness.stored() == before
    else:
        assert isinstance(repr(value), str)
        if name == "balsam_submit" and hasattr(value, "new"):
            assert len(value) == value.new + value.kept == sum(value.counts().values())
    finally:
        _listening = False
    assert not started


@pytest.fixture
def witness(shell: Shell, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Witness:
    """A site with two apps and an ensemble that has ended, and a notebook with some names, in an empty folder."""
    (tmp_path / "work" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "deep")
    Path("in.txt").write_text("{{ T }}")
    run(shell, "number, names = 3, ['a', 'b']\nimport numpy as np\nx = 1")
    run(shell, "%%balsam_app both\necho {{ T }} {{ P }}")
    run(shell, "%%balsam_app python --python\ndef python(T, P=1):\n    return T")
    run(shell, "_ = %balsam_submit both T=[1, 2] P=1 --name scan\n_ = %balsam_kill scan")
    return Witness(site, tmp_path)


def fuzz(shell: Shell, witness: Witness, name: str, examples: int) -> None:
    """Throw lines, and cells for magics that take one, at a magic."""
    grammar = MAGICS[name].grammar
    site_safe: Callable[[str], bool] = lambda line: name != "balsam_site" or not {*"/~"} & {*line}  # noqa: E731
    lines = st.one_of(mutated(LINES[name]), mutated(LINES[name]), tokens, text).filter(site_safe)
    cells = st.one_of(mutated(CELLS[name]), tokens, text).filter(str.strip) if name in CELLS else st.none()
    if grammar.line and grammar.cell:
        cells = st.none() | cells

    @given(lines, cells)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    def each(line: str, cell: str | None) -> None:
        if name == "balsam_app" and "--python" in line:
            cell = PYTHON  # the user's own code may do whatever it likes
        attempt(shell, witness, name, line, cell)
        if name == "balsam_site":
            opened = open_site("here")
            assert opened.path == witness.site.path

    each()


@pytest.mark.parametrize("name", sorted(MAGICS))
def test_anything_typed_gives_a_value_or_a_short_error(shell: Shell, witness: Witness, name: str) -> None:
    fuzz(shell, witness, name, 40 if name == "balsam_site" else 200)


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted(MAGICS))
def test_anything_typed_for_long(shell: Shell, witness: Witness, name: str) -> None:
    fuzz(shell, witness, name, 300 if name == "balsam_site" else 5000)
