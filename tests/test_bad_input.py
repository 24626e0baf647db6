"""What bad input gets: an error that says what is wrong and what to do, before anything is stored."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, BatchJob, Job, Site, Sweep, open_site
from balsam_jupyter.errors import BadInput, BalsamJupyterError, NotFound, SiteError, Unsupported


class Melt(ApplicationDefinition):
    site = "here"
    command_template = "true {{ temperature }} {{ steps }}"
    parameters = {"temperature": {"required": True}, "steps": {"required": False, "default": 10}}


@pytest.fixture(autouse=True)
def apps(request: pytest.FixtureRequest) -> None:
    if "exctr" in request.fixturenames:
        request.getfixturevalue("exctr").register_app(Melt)


def submit(exctr: BalsamExecutor, **changes: Any) -> Any:
    return exctr.submit(**{"app_name": "Melt", "app_args": {"temperature": 1}, **changes})


def refused(error: type[Exception], match: str) -> Any:
    return pytest.raises(error, match=match)


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"app_args": {"temprature": 1}}, BadInput, "temprature.*temperature, steps.*Did you mean 'temperature'"),
        ({"app_args": {"steps": 1}}, BadInput, "needs a value for temperature"),
        ({"app_args": None}, BadInput, "needs a value for temperature"),
        ({"app_args": "-t 300"}, BadInput, "app_args is a mapping"),
        ({"app_args": {"temperature": "a\0b"}}, BadInput, "NUL|null"),
        ({"app_name": "Melk"}, NotFound, "no app 'Melk'.*Did you mean 'Melt'"),
        ({"app_name": None}, BadInput, "Which app"),
        ({"app_name": None, "calc_type": "gen"}, BadInput, "No default 'gen' app"),
        ({"workdir": "/tmp/x"}, BadInput, "relative, without '..'"),
        ({"workdir": "a/../../b"}, BadInput, "relative, without '..'"),
        ({"workdir": "."}, BadInput, "not the name of a work directory"),
        ({"workdir": "a\0b"}, BadInput, "not the name of a work directory"),
        ({"num_procs": 0}, BadInput, "num_procs must be a whole number of at least 1, not 0"),
        ({"num_procs": 1.0}, BadInput, "num_procs must be a whole number"),
        ({"num_nodes": -1}, BadInput, "num_nodes must be a whole number"),
        ({"num_nodes": True}, BadInput, "num_nodes must be a whole number"),
        ({"num_procs": 3, "num_nodes": 2}, BadInput, "contradict"),
        ({"num_procs": 3, "num_nodes": 1, "procs_per_node": 2}, BadInput, "num_procs=3, num_nodes=1.*contradict"),
        ({"num_procs": 5, "procs_per_node": 2}, BadInput, "contradict"),
        ({"num_nodes": 2}, BadInput, "2 nodes are too many: the site 'here' has 1"),
        ({"num_procs": 400}, BadInput, r"400 ranks are too many: a node of 'here' has \d+ cores"),
        ({"num_procs": np.int64(200), "procs_per_node": 200}, BadInput, "200 ranks are too many"),
        ({"gpus_per_rank": 99}, BadInput, r"99 GPUs on a node are too many: a node of 'here' has \d+"),
        ({"gpus_per_rank": -1}, BadInput, "gpus_per_rank must be a number above 0"),
        ({"max_tasks_per_node": 0}, BadInput, "node_packing_count must be a whole number of at least 1"),
        ({"machinefile": "hosts"}, Unsupported, "machinefile"),
        ({"transfers": {"f": "x:/y"}}, BadInput, "Melt has no transfer slot 'f'"),
        ({"transfers": ["f"]}, BadInput, "transfers must be a mapping"),
        ({"transfers": {"f": 3}}, BadInput, r"transfers\['f'\] must be"),
        ({"max_retries": -1}, BadInput, "max_retries must be a whole number of at least 0, not -1"),
        ({"max_retries": True}, BadInput, "max_retries must be a whole number"),
        ({"parent_ids": {1: 2}}, BadInput, "A parent is a saved job, a task, or the id of one, not {1: 2}"),
        ({"parent_ids": [17]}, NotFound, "no job 17 at this site, so it cannot be a parent"),
        ({"parent_ids": ["Melt_1"]}, BadInput, "A parent is a saved job, a task, or the id of one"),
        ({"on_parent_failure": "ignore"}, BadInput, "on_parent_failure is 'fail' or 'wait'"),
        ({"tags": ["a"]}, BadInput, "tags must be a mapping"),
        ({"tags": {"a": None}}, BadInput, "tags: the value of 'a'"),
        ({"tags": {"a=b": "c"}}, BadInput, "tags: the key 'a=b'"),
        ({"extra_args": 3}, BadInput, "launch_params must be a mapping"),
    ],
)
def test_a_task_that_cannot_be(
    exctr: BalsamExecutor, changes: dict[str, Any], error: type[Exception], match: str
) -> None:
    for dry_run in (False, True):
        with refused(error, match) as raised:
            submit(exctr, **changes, dry_run=dry_run)
        assert len(str(raised.value).splitlines()) <= 2
    assert Job.objects.count() == 0


def test_what_is_right_at_the_edge(exctr: BalsamExecutor) -> None:
    submit(exctr, num_procs=np.int64(1), num_nodes=1, procs_per_node=1, tags={"n": 1}, workdir=Path("a/./b"))
    assert Job.objects.get().workdir == Path("libe_workflow/a/b")


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"num_nodes": 2}, BadInput, r"more than site 'here' has \(1 node"),
        ({"num_nodes": 0}, BadInput, "at least 1"),
        ({"num_nodes": "1"}, BadInput, "at least 1"),
        ({"wall_time_min": 0}, BadInput, "above 0"),
        ({"wall_time_min": -1}, BadInput, "above 0"),
        ({"wall_time_min": float("nan")}, BadInput, "above 0"),
        ({"wall_time_min": float("inf")}, BadInput, "above 0"),
        ({"wall_time_min": "10"}, BadInput, "above 0"),
        ({"job_mode": "serail"}, BadInput, "Did you mean 'serial'"),
        ({"site_id": "hre"}, NotFound, r"no site 'hre'; there is here \(id 1\).*Did you mean 'here'"),
        ({"site_id": 99}, NotFound, r"no site 99; there is here \(id 1\)"),
        ({"queue": ""}, BadInput, "queue must be a name"),
        ({"queue": "debug"}, BadInput, "debug"),
        ({"filter_tags": "a"}, BadInput, "filter_tags must be a mapping"),
        ({"partitions": [{"num_nodes": 2}]}, BadInput, "together"),
        ({"partitions": [{"nodes": 1}]}, BadInput, "A partition is a mapping"),
        ({"partitions": [{"num_nodes": 1, "job_mode": "mp"}]}, BadInput, "Did you mean 'mpi'"),
    ],
)
def test_an_allocation_that_cannot_be(
    exctr: BalsamExecutor, changes: dict[str, Any], error: type[Exception], match: str
) -> None:
    with refused(error, match):
        exctr.submit_allocation(**{"site_id": "here", "num_nodes": 1, "wall_time_min": 1, **changes})
    assert BatchJob.objects.count() == 0
    with refused(NotFound, "no allocation 7"):
        exctr.revoke_allocation(7)


def test_sites_that_are_not_there(exctr: BalsamExecutor, site: Site) -> None:
    with refused(NotFound, "Did you mean 'here'"):
        BalsamExecutor("her")
    with refused(BadInput, "embedded"):
        open_site("x", engine="embeded")
    with refused(BadInput, "empty"):
        open_site("")
    site.close()
    with refused(NotFound, "here"):
        BalsamExecutor("elsewhere")


@pytest.mark.parametrize(
    ("body", "match"),
    [
        ({"command_template": "x {{ a"}, "template|unexpected end"),
        ({"command_template": "x {{ a-b. }}"}, "Bad"),
        ({"command_template": "x {{ 1a }}"}, "Bad"),
        ({"command_template": "x {{ a }}", "run": lambda self: 1}, "both"),
        ({}, "command_template|run"),
    ],
)
def test_apps_that_cannot_be(exctr: BalsamExecutor, body: dict[str, Any], match: str) -> None:
    before = len(exctr.site.engine.apps())
    with refused(BalsamJupyterError, match):
        exctr.register_app(type("Bad", (ApplicationDefinition,), {"site": "here", **body}))
    assert len(exctr.site.engine.apps()) == before


def test_an_app_whose_run_cannot_be_pickled(exctr: BalsamExecutor) -> None:
    guard = threading.Lock()

    class Locked(ApplicationDefinition):
        site = "here"

        def run(self) -> bool:
            with guard:
                return True

    with refused(BadInput, "guard"):
        exctr.register_app(Locked)


def test_registering_what_is_no_app(exctr: BalsamExecutor) -> None:
    for wrong in ("Melt", Melt(None), None):
        with refused(BadInput, "class"):
            exctr.register_app(wrong)  # type: ignore[arg-type]
    with refused(BadInput, "calc_type"):
        exctr.register_app(Melt, calc_type="simulation")
    for name in (" ", "a\0", "\ud800", "n" * 201):
        with refused(BadInput, "app_name"):
            exctr.register_app(Melt, app_name=name)


@pytest.mark.parametrize(
    ("sweep", "match"),
    [
        ([], "empty"),
        ({}, "empty"),
        ({"temperature": []}, "empty"),
        ("temperature=1", "A sweep is"),
        (3, "A sweep is"),
        ([3], "Row 0 of the sweep: a row is a mapping"),
        ({"temprature": [1]}, "Row 0.*Did you mean 'temperature'"),
        ([{"temperature": 1}, {"steps": 1}], "Row 1.*needs a value"),
        ({"temperature": ["ok", "a\0b"]}, "Row 1"),
    ],
)
def test_sweeps_that_cannot_be(exctr: BalsamExecutor, sweep: Any, match: str) -> None:
    with refused(BadInput, match):
        exctr.submit_sweep("Melt", sweep, name="s")
    with refused(BadInput, "[Zz]ip"):
        Sweep.zip(a=[1, 2], b=[1])
    assert exctr.ensembles() == [] and Job.objects.count() == 0


def test_a_sweep_with_resources_that_cannot_be(exctr: BalsamExecutor) -> None:
    with refused(BadInput, "900 ranks are too many"):
        exctr.submit_sweep("Melt", {"temperature": [1]}, num_procs=900)
    with refused(NotFound, "Did you mean 'Melt'"):
        exctr.submit_sweep("melt", {"temperature": [1]})
    assert exctr.ensembles() == []


def test_outputs_that_cannot_be(exctr: BalsamExecutor) -> None:
    ens = exctr.submit_sweep("Melt", {"temperature": [1]})
    for wrong in ({}, {"a": "no group"}, {"a": "(a)(b)"}, {"a": "("}, {"a": "../x.json:a"}, {"a": 3}, {3: "(a)"}):
        with refused(BadInput, "[Oo]utput"):
            ens.extract(wrong)  # type: ignore[arg-type]


UNWRITABLE = ["file/site", "/proc/site", *(["locked/site"] if os.geteuid() else [])]  # root writes anywhere else


@pytest.mark.parametrize("place", UNWRITABLE)
def test_a_site_that_is_not_writable(home: Path, tmp_path: Path, place: str) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    (tmp_path / "file").write_text("not a folder")
    with refused(SiteError, "cannot be written to.*path="):
        open_site("odd", tmp_path / place)


def test_a_database_of_a_newer_program(home: Path, tmp_path: Path) -> None:
    open_site("newer", tmp_path / "newer").close()
    with sqlite3.connect(tmp_path / "newer" / "balsam.db") as database:
        database.execute("PRAGMA user_version = 999")
    with refused(SiteError, "newer.*upgrade"):
        open_site("newer")


def test_kill_with_a_wait_that_cannot_be(exctr: BalsamExecutor) -> None:
    task = submit(exctr)
    for wrong in (-1, float("nan"), True):
        with refused(BadInput, "wait_time"):
            task.kill(wrong)
    task.kill(0)
    assert task.state == "USER_KILLED"


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"tags": [1]}, "tags must be a mapping"),
        ({"data": [1]}, "data must be a mapping"),
        ({"data": {"a": {1, 2}}}, "data must be what JSON can hold"),
        ({"parameters": 5}, "parameters must be a mapping"),
        ({"launch_params": "x"}, "launch_params must be a mapping"),
    ],
)
def test_a_job_with_fields_of_the_wrong_kind(exctr: BalsamExecutor, given: dict[str, Any], match: str) -> None:
    with refused(BadInput, match):
        Job("Melt", "a", **{"parameters": {"temperature": 1}, **given})
    with refused(BadInput, "wait_time must be a number"):
        submit(exctr).kill(wait_time="a")  # type: ignore[arg-type]
