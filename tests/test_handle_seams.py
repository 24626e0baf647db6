"""A handle whose ensemble was renamed or deleted elsewhere, and rows that were changed one by one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, BatchJob, Ensemble, Job, Site
from balsam_jupyter.errors import BadInput, NotFound

SOON = 60.0
Until = Callable[[Callable[[], bool]], None]


class Waits(ApplicationDefinition):
    """Runs until there is a file of the name it is given."""

    site = "here"
    command_template = "sh -c 'until test -e $0; do sleep 0.02; done' {{ flag }}"


class Note(ApplicationDefinition):
    site = "here"
    command_template = "echo {{ a }}"
    outputs = {"a_too": r"(\d+)"}


@pytest.fixture(autouse=True)
def apps(exctr: BalsamExecutor) -> None:
    exctr.register_app(Waits)
    exctr.register_app(Note)


@pytest.mark.parametrize("verb", ["rename", "delete"])
def test_no_verb_does_nothing_to_what_is_gone(exctr: BalsamExecutor, tmp_path: Path, verb: str) -> None:
    stale = exctr.submit_sweep("Note", {"a": [1, 2]}, name="one")
    assert len(stale.to_dataframe()) == 2
    other = exctr.ensemble("one")
    other.kill()
    other.rename("other") if verb == "rename" else other.delete()
    calls: list[Callable[[], Any]] = [
        stale.kill, stale.retry, stale.missing, stale.fill, stale.tasks, stale.failed, stale.failures,
        stale.to_dataframe, stale.extract, stale.disk, stale.cost, stale.provenance, stale.counts, stale.wait,
        stale.as_completed, lambda: stale.tag(a="1"), lambda: stale.clean([]), lambda: stale.add([{"a": 3}]),
        lambda: stale.on_finished(print), lambda: stale.export(tmp_path / "there"), lambda: stale.kill(rows=0),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(NotFound, match="no ensemble 'one'"):
            call()
    assert not (tmp_path / "there").exists()
    again = exctr.submit_sweep("Note", {"a": [7]}, name="one")
    assert list(stale.to_dataframe()["a"]) == list(again.to_dataframe()["a"]) == [7], "a handle goes by the name"


@pytest.mark.parametrize("waiting", ["wait", "as_completed"])
def test_what_goes_while_somebody_waits_has_not_ended(
    exctr: BalsamExecutor, allocation: BatchJob, until: Until, tmp_path: Path, waiting: str
) -> None:
    ens = exctr.submit_sweep("Waits", {"flag": [str(tmp_path / "flag")]}, name="long")
    until(lambda: ens.counts()["RUNNING"] == 1)
    came: list[object] = []

    def wait() -> None:
        try:
            came.append(ens.wait(SOON) if waiting == "wait" else list(ens.as_completed(SOON)))
        except NotFound as error:
            came.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    other = exctr.ensemble("long").rename("renamed")
    thread.join(SOON)
    assert len(came) == 1 and isinstance(came[0], NotFound), "it said that all had ended"
    assert other.counts()["RUNNING"] == 1
    (tmp_path / "flag").touch()
    assert other.wait(SOON).counts()["FINISHED"] == 1


def test_a_row_is_found_by_the_parameters_it_has_now(exctr: BalsamExecutor) -> None:
    ens = exctr.submit_sweep("Note", {"a": [1, 2, 3]}, name="edited")

    def set_a(row: int, a: int) -> None:
        job = Job.objects.get(id=ens.tasks()[row].id)
        job.parameters = {"a": a}
        job.save()

    assert ens.to_dataframe()["a"].tolist() == [1, 2, 3]
    set_a(2, 30)
    assert ens.to_dataframe()["a"].tolist() == [1, 2, 30]
    assert ens.missing({"a": [1, 2, 3, 30]}) == [{"a": 3}]
    assert ens.fill({"a": [1, 2, 3, 30]}) == 1 and len(ens) == 4
    set_a(0, 2)  # as row 1, which stays the one that a sweep means
    assert exctr.submit_sweep("Note", {"a": [1, 2, 3, 30]}, name="edited").new == 1
    assert ens.to_dataframe()["a"].tolist() == [2, 2, 30, 3, 1]


def test_a_row_that_is_deleted_alone_can_come_again(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    ens = exctr.submit_sweep("Note", {"a": [1, 2, 3]}, name="holes").wait(SOON)
    assert ens.to_dataframe()["a_too"].tolist() == [1, 2, 3]
    Job.objects.get(id=ens.tasks()[1].id).delete()
    assert ens.to_dataframe()["a_too"].tolist() == [1, 3]
    assert ens.fill({"a": [1, 2, 3]}) == 1
    assert ens.wait(SOON).to_dataframe()["a_too"].to_dict() == {0: 1, 2: 3, 3: 2}


def test_a_name_is_text(exctr: BalsamExecutor) -> None:
    exctr.submit_sweep("Note", {"a": [1]}, name="5")
    for wrong in (5, None, b"5"):
        with pytest.raises(BadInput, match="The name of an ensemble is text"):
            exctr.ensemble(wrong)  # type: ignore[arg-type]
    assert isinstance(exctr.ensemble("5"), Ensemble)


@pytest.mark.parametrize("verb", ["rename", "delete"])
def test_a_submission_brings_back_no_name_that_goes_meanwhile(
    exctr: BalsamExecutor, site: Site, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Its rows are stored in one step, and what is noted about it in another one."""
    exctr.submit_sweep("Note", {"a": [1]}, name="one").kill()
    engine = site.engine
    submit = engine.submit

    def submit_and_lose(*given: Any) -> Any:
        submitted = submit(*given)
        other = exctr.ensemble("one")
        other.kill()
        other.rename("other") if verb == "rename" else other.delete()
        return submitted

    monkeypatch.setattr(engine, "submit", submit_and_lose)
    with pytest.raises(NotFound, match="no ensemble 'one'"):
        exctr.submit_sweep("Note", {"a": [1, 2]}, name="one")
    assert [(one.name, len(one)) for one in exctr.ensembles()] == ([("other", 2)] if verb == "rename" else [])
