"""The verbs of an ensemble: retry, kill, missing, fill, add, tag, rename, delete."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, BalsamTask, BatchJob, Ensemble, Job, Site, Sweep
from balsam_jupyter.errors import BadInput, NotFound
from balsam_jupyter.models import Query

SOON = 60.0
Until = Callable[[Callable[[], bool]], None]


class Exit(ApplicationDefinition):
    """Ends with a code; from 100 on it takes a minute."""

    site = "here"
    command_template = "sh -c 'test -e mended && exit 0; test $0 -lt 100 || sleep 60; exit $0' {{ code }}"


class Note(ApplicationDefinition):
    site = "here"
    command_template = "echo {{ a }} {{ b }}"
    parameters = {"b": {"required": False, "default": 1}}


@pytest.fixture(autouse=True)
def apps(exctr: BalsamExecutor) -> None:
    exctr.register_app(Exit)
    exctr.register_app(Note)


@pytest.fixture
def ended(exctr: BalsamExecutor, allocation: BatchJob) -> Ensemble:
    """Rows 0, 1 finished; 2, 3 failed with 7; 4 failed with 9; 5 killed."""
    ens = exctr.submit_sweep("Exit", Sweep.rows([{"code": n} for n in (0, 0, 7, 7, 9)]), name="codes").wait(SOON)
    assert exctr.revoke_allocation(allocation)
    assert ens.add([{"code": 5}]) == 1 and ens.kill(rows=5) == 1
    return ens


def states(ens: Ensemble) -> str:
    """One letter a row: its task's state."""
    return "".join(task.state[0] for task in ens.tasks())


@pytest.mark.parametrize(
    ("asked", "after"),
    [
        ({}, "FFWWWW"),
        ({"failed": True}, "FFWWWU"),
        ({"rows": 5}, "FFFFFW"),
        ({"rows": 5, "failed": True}, "FFFFFU"),
        ({"rows": np.int64(2)}, "FFWFFU"),
        ({"rows": range(3, 6)}, "FFFWWW"),
        ({"rows": np.array([4, 2])}, "FFWFWU"),
        ({"rows": {2}}, "FFWFFU"),
        ({"rows": []}, "FFFFFU"),
        ({"where": lambda task: task.errcode == 7}, "FFWWFU"),
        ({"where": lambda task: task.errcode == 7, "rows": [3, 4]}, "FFFWFU"),
        ({"where": lambda task: True, "failed": True}, "FFWWWU"),
    ],
)
def test_what_is_retried(ended: Ensemble, asked: dict[str, Any], after: str) -> None:
    assert states(ended) == "FFFFFU"  # FINISHED and FAILED share their letter: the first two finished
    assert ended.retry(**asked) == after.count("W")
    assert states(ended) == after
    assert ended.counts()["FINISHED"] == 2


def boom(task: BalsamTask) -> bool:
    return {7: True}[task.errcode or 0]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"rows": [2, 6, 9]}, r"has no row 6, 9; its rows are 0 to 5"),
        ({"rows": -1}, r"has no row -1"),
        ({"rows": [0, 1, 2]}, r"Rows 0, 1 of 'codes' have finished.*--fresh \(if_changed='fresh'\)"),
        ({"rows": 1}, r"Row 1 of 'codes' has finished"),
        ({"rows": "2"}, r"rows= are numbers of rows.*not '2'"),
        ({"rows": [2, 3.0]}, r"not 3\.0"),
        ({"rows": True}, r"not True"),
        ({"rows": [True, False]}, r"not True"),
        ({"where": "failed"}, r"where= is a function of a task"),
        ({"where": boom}, r"where= raised KeyError for row 4: 9"),
    ],
)
def test_a_retry_that_cannot_be(ended: Ensemble, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        ended.retry(**asked)
    assert states(ended) == "FFFFFU"


def test_rows_that_are_killed(exctr: BalsamExecutor, allocation: BatchJob, until: Until) -> None:
    ens = exctr.submit_sweep("Exit", {"code": [100, 101, 102, 103]}, name="long")
    until(lambda: ens.counts()["RUNNING"] == 2)
    assert ens.kill(rows=[0, 3], wait_time=0) == 2
    until(lambda: ens.counts()["USER_KILLED"] == 2)
    assert {task._row.row for task in ens.tasks("USER_KILLED")} == {0, 3}
    for wrong in (-1, "1", float("nan"), True):
        with pytest.raises(BadInput, match="wait_time must be"):
            ens.kill(wait_time=wrong)
    with pytest.raises(BadInput, match="has no row 4"):
        ens.kill(rows=4)
    assert ens.kill() == 2
    ens.wait(SOON)
    assert ens.kill() == 0


def test_what_is_missing_and_filled(exctr: BalsamExecutor, site: Site, ended: Ensemble) -> None:
    assert ended.missing() == [{"code": 7}, {"code": 7}, {"code": 9}, {"code": 5}]
    rows = [{"code": code} for code in (7, 7, 7, 0, 12)]
    assert ended.missing(rows) == [*ended.missing(), {"code": 7}, {"code": 12}]
    with pytest.raises(BadInput, match="Row 1 of the sweep"):
        ended.fill([{"code": 1}, {"cod": 2}])
    assert states(ended) == "FFFFFU"
    for task in ended.tasks():
        Path(task.workdir, "mended").parent.mkdir(parents=True, exist_ok=True)
        Path(task.workdir, "mended").touch()
    assert ended.fill(rows) == 6
    exctr.submit_allocation("here", 1, 10, "serial")
    assert ended.wait(SOON).counts()["FINISHED"] == 6
    assert ended.missing(rows) == [{"code": 7}, {"code": 12}]  # these failed now
    assert ended.fill() == 2


def test_added_rows_are_like_those_before(exctr: BalsamExecutor, site: Site) -> None:
    parents = [exctr.submit(app_name="Note", app_args={"a": n}) for n in (1, 2)]
    ens = exctr.submit_sweep(
        "Note", {"a": [1]}, name="more", tags={"study": "eos"}, threads_per_rank=2, wall_time_min=3, max_retries=2,
        parent_ids=parents, on_parent_failure="wait",
    )  # fmt: skip
    assert parents[0].process is not None
    parents[0].process.delete()
    assert ens.add(pd.DataFrame({"a": [1, 2], "b": [1, 5]})) == 1
    first, second = site.engine.jobs(Query(ensemble="more", order="row"))
    assert second.resources == first.resources and second.resources.threads_per_rank == 2
    assert second.tags == first.tags == {"workflow": "more", "study": "eos"}
    assert (second.max_retries, second.on_parent_failure, second.parent_ids) == (2, "wait", (parents[1].id,))
    assert ens.missing() == [{"a": 1, "b": 1}] and second.row == 1  # without its parent it cannot finish
    with pytest.raises(BadInput, match="The sweep is empty"):
        ens.add([])


def test_tags_are_merged_into_all_tasks(exctr: BalsamExecutor, site: Site, until: Until) -> None:
    exctr.submit_sweep("Exit", {"code": [100]}, name="tagged", tags={"kind": "a", "old": "1"})
    exctr.submit_allocation("here", 1, 10, "serial")
    ens = exctr.submit_sweep("Exit", {"code": [0]}, name="tagged", tags={"kind": "b"})
    until(lambda: ens.counts()["FINISHED"] == 1 and ens.counts()["RUNNING"] == 1)
    assert ens.tag(kind="c", size=3, old=None) == 2
    assert [job.tags for job in Job.objects.all()] == [{"workflow": "tagged", "kind": "c", "size": "3"}] * 2
    assert Job.objects.filter(tags={"kind": "c"}).count() == 2 and not Job.objects.filter(tags={"old": "1"}).count()
    assert ens.kill() == 1 and ens.wait(SOON).counts()["USER_KILLED"] == 1  # a running one went on under its tags
    for wrong, says in (({}, "Which tags"), ({"workflow": "x"}, "rename"), ({"a": [1]}, "must be text"),
                        ({"a=b": None}, "without '='")):  # fmt: skip
        with pytest.raises(BadInput, match=says):
            ens.tag(**wrong)


def test_tags_choose_the_allocation_of_what_waits(exctr: BalsamExecutor, site: Site) -> None:
    exctr.submit_allocation("here", 1, 10, "serial", filter_tags={"kind": "b"})
    ens = exctr.submit_sweep("Exit", {"code": [0, 1]}, name="tagged", tags={"kind": "a"})
    assert ens.tag(kind="b") == 2
    assert ens.wait(SOON).counts()["FINISHED"] == 1


def test_swapped_tags(exctr: BalsamExecutor, site: Site) -> None:
    """Where one set of tags becomes another that is there already, each task still gets its own."""
    exctr.submit_sweep("Note", {"a": [1]}, name="s", tags={"x": "1"})
    exctr.submit_sweep("Note", {"a": [2]}, name="s", tags={"x": "1", "y": "1"})
    ens = exctr.submit_sweep("Note", {"a": [3]}, name="s", tags={"x": "2", "y": "1"})
    assert site.engine.tag(Query(ensemble="s"), {"y": "1"}) == 3
    assert [job.tags["x"] + job.tags["y"] for job in Job.objects.all()] == ["11", "11", "21"]
    assert ens.tag(x="2") == 3 and {job.tags["x"] for job in Job.objects.all()} == {"2"}


def test_a_new_name(exctr: BalsamExecutor, site: Site, ended: Ensemble, until: Until) -> None:
    exctr.submit_sweep("Note", {"a": [1]}, name="other", tags={"workflow": "mine"})
    for wrong, says in (("other", "already"), ("codes", "already"), ("a/b", "name of an ensemble"),
                        ("libe_workflow", "is taken"), (3, "name of an ensemble")):  # fmt: skip
        with pytest.raises(BadInput, match=says):
            ended.rename(wrong)
    ended.retry()
    exctr.submit_allocation("here", 1, 10, "serial")
    assert ended.rename("exits") is ended and ended.name == "exits"
    ended.wait(SOON)
    assert exctr.ensemble("exits").counts() == ended.counts()
    assert {job.tags["workflow"] for job in Job.objects.filter(tags={"workflow": "exits"})} == {"exits"}
    assert Job.objects.filter(tags={"workflow": "exits"}).count() == 6
    assert ended.tasks()[2].workdir.endswith("data/codes/2") and Path(ended.tasks()[2].workdir, "job.out.1").exists()
    with pytest.raises(NotFound, match="no ensemble 'codes'"):
        exctr.ensemble("codes")
    # Its old name is free, and a new ensemble of that name has directories of its own.
    again = exctr.submit_sweep("Exit", {"code": [0]}, name="codes").wait(SOON)
    assert again.tasks()[0].workdir.endswith("data/codes~2/0")
    # Whoever tagged tasks otherwise keeps that; another handle learns that the name is gone.
    stale = exctr.ensemble("other")
    exctr.ensemble("other").rename("else")
    assert Job.objects.filter(tags={"workflow": "mine"}).count() == 1
    for call in (stale.counts, stale.wait, lambda: len(stale), lambda: stale.rename("x")):
        with pytest.raises(NotFound, match="no ensemble 'other'"):
            call()
    assert "deleted or renamed" in repr(stale)


def test_a_name_is_that_of_all_generations(exctr: BalsamExecutor, site: Site, ended: Ensemble) -> None:
    class Exit(ApplicationDefinition):
        site = "here"
        command_template = "sh -c 'exit $0' {{ code }}"

    exctr.register_app(Exit)
    new = exctr.submit_sweep("Exit", {"code": [0]}, name="codes", if_changed="fresh")
    new.rename("exits")
    assert len(exctr.ensemble("exits", generation=1)) == 6 and len(exctr.ensemble("exits")) == 1
    assert Job.objects.filter(tags={"workflow": "exits"}).count() == 7
    with pytest.raises(BadInput, match="has a task that runs or waits"):
        new.delete()
    new.kill()
    new.delete()
    assert exctr.ensemble("exits").generation == 1  # the one before is the newest again


def test_what_is_deleted_is_gone(exctr: BalsamExecutor, site: Site, ended: Ensemble, until: Until) -> None:
    other = exctr.submit_sweep("Note", {"a": [1]}, name="other")
    tasks = ended.tasks()
    ended.retry(rows=[2, 3])
    with pytest.raises(BadInput, match=r"'codes' has 2 tasks that run or wait to run; end that first with its kill\("):
        ended.delete()
    assert len(ended) == 6
    ended.kill()
    folder = site.data_path / "codes"
    assert folder.is_dir()
    ended.delete()
    assert not folder.exists() and [one.name for one in exctr.ensembles()] == ["other"]
    assert Job.objects.count() == 1 and len(other) == 1
    with pytest.raises(NotFound, match="no ensemble 'codes'"):
        ended.counts()
    assert repr(ended) == "<Ensemble 'codes' of Exit: 0 rows: it was deleted or renamed>"
    assert "deleted or renamed" in ended._repr_html_()
    with pytest.raises(NotFound, match="deleted"):
        tasks[0].poll()
    with pytest.raises(NotFound, match="any more"):
        ended.delete()
    again = exctr.submit_sweep("Exit", {"code": [0]}, name="codes")
    assert (again.new, again.generation) == (1, 1)


def test_a_lone_jobs_directory_is_not_deleted_with_an_ensemble(
    exctr: BalsamExecutor, site: Site, ended: Ensemble
) -> None:
    lone = Job.objects.create(app_id="Note", workdir="codes/mine", parameters={"a": 1})
    with pytest.raises(BadInput, match=rf"Job {lone.id} works in 'codes/mine', inside the directory of 'codes'"):
        ended.delete()
    assert len(ended) == 6
    lone.delete()
    ended.delete()


def test_wait_time_and_rows_reach_the_terminal_by_name(exctr: BalsamExecutor, ended: Ensemble) -> None:
    """By its name the newest generation is meant, of whatever looks it up."""
    from balsam_jupyter import explain
    from balsam_jupyter.verbs import find, kill, retry

    class Exit(ApplicationDefinition):
        site = "here"
        command_template = "sh -c 'exit $0' {{ code }}"

    exctr.register_app(Exit)
    exctr.submit_sweep("Exit", {"code": [0, 1]}, name="codes", if_changed="fresh")
    engine = exctr.site.engine
    query, words = find(engine, "codes")
    assert explain(engine, "codes").counts["WAITING"] == 2
    assert kill(engine, query, words) == "ensemble 'codes': 2 tasks killed."
    assert retry(engine, query, words) == (2, "ensemble 'codes': 2 jobs will run again.")
    assert states(exctr.ensemble("codes", generation=1)) == "FFFFFU"


def test_tags_that_change_while_tasks_start(exctr: BalsamExecutor, allocation: BatchJob) -> None:
    """A launcher may take a task whose tags are newer than all it has read."""

    class Seen(ApplicationDefinition):
        site = "here"

        def run(self, x: int) -> dict[str, str]:
            time.sleep(0.005)
            return dict(self.job.tags)

    exctr.register_app(Seen)
    ens = exctr.submit_sweep("Seen", Sweep.grid(x=range(500)), name="seen", tags={"turn": "0"})
    turn = 0
    while turn < 60 and ens.counts()["WAITING"]:
        turn += 1
        assert ens.tag(turn=str(turn)) == 500
    assert turn > 1 and ens.wait(SOON).counts()["FINISHED"] == 500
    seen = [int(turn) for turn in ens.to_dataframe()["turn"]]
    assert 0 <= min(seen) <= max(seen) <= turn
