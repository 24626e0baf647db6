"""Files that a Balsam site brings and takes away: the real service and agent; Globus alone is a stand-in.

(`balsam_service/inside/site_classes.py`: an endpoint is a directory.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor
from balsam_jupyter.api import EventLog
from balsam_jupyter.engines.balsam.engine import BalsamEngine
from balsam_jupyter.errors import BadInput
from balsam_jupyter.models import Query

from .anywhere import client_of, opened
from .balsam_service.service import Service
from .balsam_service.site import LOCAL, ServiceSite

SOON = 60.0


class Sim(ApplicationDefinition):
    """Doubles what it is given; of a number below 0 it makes nothing."""

    command_template = (
        "sh -c 'read n < in/number; mkdir -p out; rm -f out/twice; [ $n -lt 0 ] || expr $n + $n > out/twice'"
    )
    transfers = {
        "deck": {"direction": "in", "local_path": "in", "recursive": True},
        "result": {"direction": "out", "local_path": "out/twice"},
        "log": {"direction": "out", "local_path": "job.out", "required": False},
    }


@pytest.fixture(scope="module")
def remote(balsam_service: Service) -> Iterator[ServiceSite]:
    """A site with the locations `laptop` and `archive`."""
    site = ServiceSite(balsam_service, "moving-site", replace(LOCAL, endpoints=("laptop", "archive")))
    site.start()
    yield site
    site.stop()


@pytest.fixture(scope="module")
def exctr(remote: ServiceSite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BalsamExecutor]:
    with opened("balsam", tmp_path_factory.mktemp("moving"), remote) as site:
        exctr = BalsamExecutor(site)
        exctr.register_app(Sim)
        exctr.submit_allocation(site.id, 1, 10, job_mode="mpi")
        yield exctr


def deck(remote: ServiceSite, name: str, number: int) -> str:
    """An input on the laptop."""
    folder = remote.endpoints["laptop"] / "decks" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "number").write_text(f"{number}\n")
    return f"laptop:/decks/{name}"


def states(task_id: int) -> list[str]:
    return [event.to_state for event in EventLog.objects.filter(job_id=task_id)]


def why(exctr: BalsamExecutor, task: Any) -> str:
    [row] = exctr.site.engine.jobs(Query(ids=(task.id,)))
    return row.error


def test_in_and_out(exctr: BalsamExecutor, remote: ServiceSite) -> None:
    files = {"deck": deck(remote, "one", 21), "result": "archive:/first/twice", "log": "laptop:/first.log"}
    task = exctr.submit(app_name="Sim", transfers=files)
    task.wait(SOON)
    assert task.state == "FINISHED", remote.logs()
    assert (remote.endpoints["archive"] / "first" / "twice").read_text() == "42\n"
    assert (remote.endpoints["laptop"] / "first.log").exists()
    assert task.process.transfers == files


def test_each_row_of_an_ensemble_has_its_files(exctr: BalsamExecutor, remote: ServiceSite) -> None:
    files = {"deck": deck(remote, "two", 4), "result": "archive:/rows/{id}"}
    ensemble = exctr.submit_sweep("Sim", [{}, {}], name="rows", transfers=files)
    assert ensemble.wait(SOON).counts()["FINISHED"] == 2, remote.logs()
    folder = remote.endpoints["archive"] / "rows"
    places = [PurePosixPath(task.process.transfers["result"]).name for task in ensemble.tasks()]
    assert sorted(places) == sorted(one.name for one in folder.iterdir()) and len(set(places)) == 2
    assert {one.read_text() for one in folder.iterdir()} == {"8\n"}


def test_what_cannot_be_brought_fails_the_task_and_can_be_retried(exctr: BalsamExecutor, remote: ServiceSite) -> None:
    files = {"deck": "laptop:/decks/late", "result": "archive:/late/twice"}
    late = exctr.submit_sweep("Sim", [{}], name="late", transfers=files)
    assert late.wait(SOON).counts()["FAILED"] == 1, remote.logs()
    [failed] = late.tasks()
    assert "READY" in states(failed.id) and "RUNNING" not in states(failed.id)
    assert re.search(r"Stage in of 'deck' \(laptop:/decks/late\): .*No such file", why(exctr, failed))
    deck(remote, "late", 5)
    late.retry()
    assert late.wait(SOON).counts()["FINISHED"] == 1, remote.logs()
    assert (remote.endpoints["archive"] / "late" / "twice").read_text() == "10\n"


def test_what_was_not_made_fails_the_task_and_a_run_again_is_taken_again(
    exctr: BalsamExecutor, remote: ServiceSite
) -> None:
    files = {"deck": deck(remote, "empty", -1), "result": "archive:/empty/twice"}
    ensemble = exctr.submit_sweep("Sim", [{}], name="empty", transfers=files)
    assert ensemble.wait(SOON).counts()["FAILED"] == 1, remote.logs()
    [task] = ensemble.tasks()
    assert task.state == "FAILED" and "RUN_DONE" in states(task.id)
    assert "Stage out of 'result' (archive:/empty/twice): " in why(exctr, task)
    (remote.workdir(task.process.workdir) / "in" / "number").write_text("3\n")
    ensemble.retry()
    assert ensemble.wait(SOON).counts()["FINISHED"] == 1, remote.logs()
    taken = remote.endpoints["archive"] / "empty" / "twice"
    assert taken.read_text() == "6\n"
    taken.unlink()
    exctr.site.engine.update(Query(ensemble="empty", states=("JOB_FINISHED",)), state="RESTART_READY")
    assert ensemble.wait(SOON).counts()["FINISHED"] == 1
    assert taken.read_text() == "6\n", remote.logs()


def test_another_machine_knows_them(
    exctr: BalsamExecutor, remote: ServiceSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"deck": deck(remote, "far", 1), "result": "archive:/far/{id}"}
    query = Query(ensemble="far")
    monkeypatch.setenv("BALSAM_JUPYTER_HOME", str(tmp_path / "before"))
    client_of(remote.service, monkeypatch)
    watching = BalsamEngine.open(remote.name)
    ensemble = exctr.submit_sweep("Sim", [{}], name="far", transfers=files)
    [row] = exctr.site.engine.jobs(query)
    assert row.transfers == {**files, "result": "archive:/far/0"}
    assert ensemble.wait(SOON).counts()["FINISHED"] == 1
    watching.changes.look(now=True)
    assert [one.transfers for one in watching.jobs(query)] == [row.transfers]
    watching.close()
    monkeypatch.setenv("BALSAM_JUPYTER_HOME", str(tmp_path / "after"))
    after = BalsamEngine.open(remote.name)
    assert [one.transfers for one in after.jobs(query)] == [row.transfers]
    after.close()


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({"result": "archive:/x"}, "App Sim needs a place for its transfer slots deck"),
        ({"dekc": "laptop:/x", "result": "archive:/x"}, "no transfer slot 'dekc'.*Did you mean 'deck'"),
        ({"deck": "labtop:/x", "result": "archive:/x"}, "no transfer location 'labtop'.*Did you mean 'laptop'"),
        ({"deck": "laptop:x", "result": "archive:/x"}, "write location:/absolute/path, not 'laptop:x'"),
    ],
)
def test_what_cannot_be_is_refused(exctr: BalsamExecutor, remote: ServiceSite, files: Any, match: str) -> None:
    stored = len(remote.jobs())
    with pytest.raises(BadInput, match=match):
        exctr.submit_sweep("Sim", [{}], transfers=files)
    assert len(remote.jobs()) == stored
