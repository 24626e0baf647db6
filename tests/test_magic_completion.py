"""Tab completion on the magics' lines: in a plain IPython and in a real kernel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter

from balsam_jupyter import Site, open_site
from balsam_jupyter.api_site import current_site
from balsam_jupyter.errors import NotFound
from balsam_jupyter.magics.complete import Completer

from . import test_kernel, test_magics
from .test_magics import HELLO, Shell, run

shell = test_magics.shell
start = test_kernel.start


def completed(shell: Shell, cell: str) -> list[str]:
    """What a notebook offers for the cursor at the end of a cell: the ends of the lines that come of it."""
    with provisionalcompleter():
        found = list(shell.Completer.completions(cell, len(cell)))
    return [cell[one.end :] + cell[: one.start].rpartition("\n")[2].rpartition(" ")[2] + one.text for one in found]


@pytest.fixture
def full(shell: Shell) -> Shell:
    """A site with two apps, ensembles and an allocation."""
    run(shell, HELLO)
    run(shell, "%%balsam_app help_me\necho {{ T }}")
    run(shell, "names = ['a', 'b']\nnumber = 3")
    run(shell, "_ = %balsam_submit hello name=names n=1 --name scan-1")
    run(shell, "_ = %balsam_submit hello name=names n=1 --name scan-2")
    return shell


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("%balsam_submit hel", ["hello", "help_me"]),
        ("x = %balsam_submit hel", ["hello", "help_me"]),
        ("%balsam_submit HELL", ["hello"]),
        ("%balsam_submit hello ", ["name=", "n="]),
        ("%balsam_submit hello n", ["name=", "n="]),
        ("%balsam_submit hello n=1 na", ["name="]),
        ("%balsam_submit hello n=[1, 2] --zip n", ["name="]),
        ("%%balsam_submit help_me ", ["T="]),
        ("%balsam_submit hello --name sc", ["scan-2", "scan-1"]),
        ("%balsam_submit hello --name=sc", ["--name=scan-2", "--name=scan-1"]),
        ("%balsam_submit hello n=1 --na", ["--name"]),
        ("%balsam_submit hello --num-", ["--num-procs", "--num-nodes"]),
        ("%balsam_wait ", ["scan-2", "scan-1"]),
        ("%balsam_wait scan-1 ", ["--timeout", "--help"]),
        ("df = %balsam_results scan-", ["scan-2", "scan-1"]),
        ("a = 1\n%balsam_results scan-", ["scan-2", "scan-1"]),
        ("%balsam_kill scan-1 sc", ["scan-2", "scan-1"]),
        ("%balsam_site he", ["here"]),
        ("%balsam_allocate -j ", ["mpi", "serial"]),
        ("%balsam_allocate -n 1 --job-mode s", ["serial"]),
        ("%balsam_allocate --job-mode=s", ["--job-mode=serial"]),
        ("%balsam_allocate -q ", ["local"]),
        ("%balsam_allocate -p m", ["mpi:"]),
        ("%balsam_service st", ["start", "stop", "status"]),
        ("%balsam_revoke ", ["all"]),
        ("%balsam_submit hello \\\n    name=1 \\\n    n", ["n="]),
        ("a = 1\n%balsam_wait \\\n  sc", ["scan-2", "scan-1"]),
    ],
)
def test_what_is_offered(full: Shell, line: str, offered: list[str]) -> None:
    assert completed(full, line) == offered


def test_paths_are_offered_alone(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "complete.j2").touch()
    (tmp_path / "complex").mkdir()
    offered = [f"{tmp_path}/complete.j2", f"{tmp_path}/complex/"]
    assert completed(shell, f"%balsam_site x --path {tmp_path}/comp") == offered
    assert completed(shell, f"%%balsam_app x --input {tmp_path}/comp") == offered


def test_an_allocation_is_offered_by_its_id(shell: Shell) -> None:
    allocation = run(shell, "a = %balsam_allocate -t 5\na")
    assert completed(shell, "%balsam_revoke ") == [str(allocation.id), "all"]


def test_pythons_names_in_an_expression_are_ipythons_to_tell(full: Shell) -> None:
    assert "n=numb" not in completed(full, "%balsam_submit hello n=numb")
    for line in ("%balsam_submit hello n=[na", "%balsam_submit hello n=max(1, na"):
        assert not [text for text in completed(full, line) if text.endswith("=") and "name=" in text]


def test_it_is_silent_and_opens_no_site(shell: Shell, site: Site, home: Path) -> None:
    completer = Completer(None)  # type: ignore[arg-type]
    assert completer.complete("%balsam_nothing x") == ("", [])
    site.close()
    before = sorted(home.rglob("*"))
    for line in ("%balsam_submit he", "%balsam_wait ", "%balsam_revoke ", "%balsam_submit hello "):
        assert completer.complete(line) == ("", [])
    assert completer.complete("%balsam_site h") == ("h", ["here"])
    assert completer.complete("%balsam_wait x --t") == ("--t", ["--timeout"])
    with pytest.raises(NotFound):
        current_site()
    assert sorted(home.rglob("*")) == before
    open_site("here")


def test_a_key_press_asks_the_store_once(full: Shell, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counted(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any, **kwargs: Any) -> Any:
            asked.append(name)
            return call(*args, **kwargs)

        return counting

    for name in ("apps", "ensembles", "allocations", "jobs", "count", "sites"):
        monkeypatch.setattr(site.engine, name, counted(name, getattr(site.engine, name)))
    for line, calls in (
        ("%balsam_submit he", ["apps"]),
        ("%balsam_submit hello na", ["apps"]),
        ("%balsam_wait sc", ["ensembles"]),
        ("%balsam_logs sc", ["ensembles"]),
        ("%balsam_revoke ", ["allocations"]),
        ("%balsam_allocate --jo", []),
    ):
        asked.clear()
        assert completed(full, line)
        assert asked == calls, line


def test_unloading_ends_it(full: Shell) -> None:
    full.run_line_magic("reload_ext", "balsam_jupyter")
    assert completed(full, "%balsam_wait ") == ["scan-2", "scan-1"]
    full.run_line_magic("unload_ext", "balsam_jupyter")
    assert "scan-2" not in completed(full, "%balsam_wait ")


@pytest.mark.kernel
def test_in_a_kernel(start: test_kernel.Start) -> None:
    kernel = start()
    kernel.run("%%balsam_app hello\necho {{ T }} {{ P }}")
    kernel.run("_ = %balsam_submit hello T=[1, 2] P=1 --name scan-1")
    for code, start_at, offered in (
        ("x = %balsam_submit hello T=[1, 2] ", 34, ["P="]),
        ("%balsam_wait sc", 13, ["scan-1"]),
        ("y = 1\n%balsam_allocate --job-mode s", 34, ["serial"]),
    ):
        reply = kernel.client.complete(code, len(code), reply=True, timeout=60)["content"]
        assert reply["status"] == "ok"
        assert (reply["cursor_start"], reply["matches"]) == (start_at, offered)
