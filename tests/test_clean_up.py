"""Files that are removed when a job has finished."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from balsam_jupyter import ApplicationDefinition, Job
from balsam_jupyter.engines.embedded.transfers import clean_up
from balsam_jupyter.errors import BadInput

SOON = 60.0


class Messy(ApplicationDefinition):
    command_template = "sh -c 'touch a.tmp b.h5 keep.dat; mkdir sub; touch sub/c.h5; exit {{ code }}'"
    cleanup_files = ["*.tmp", "**/*.h5", "*.out"]


def test_files_of_a_finished_job_are_cleaned_up(exctr, site, allocation):
    exctr.register_app(Messy)
    done, failed = (exctr.submit(app_name="Messy", app_args={"code": code}, workdir=f"w{code}") for code in (0, 1))
    done.wait(SOON)
    failed.wait(SOON)

    def left(task):
        return sorted(str(one.relative_to(task.workdir)) for one in Path(task.workdir).rglob("*") if one.is_file())

    assert done.state == "FINISHED" and left(done) == ["job.out", "keep.dat"]
    assert failed.state == "FAILED" and "a.tmp" in left(failed), "what failed is kept to look at"


def test_clean_up_stays_below_the_work_directory(tmp_path):
    workdir, outside = tmp_path / "w", tmp_path / "outside"
    for folder in (workdir, outside):
        folder.mkdir()
        (folder / "a.tmp").touch()
    (workdir / "job.out").touch()
    (workdir / "link").symlink_to(outside)
    (workdir / "one.tmp").symlink_to(outside / "a.tmp")
    clean_up(workdir, ["*/*.tmp", "*.tmp", "*.out"])
    assert (outside / "a.tmp").exists() and sorted(os.listdir(workdir)) == ["job.out", "link"]
    clean_up(workdir, ["job.out"])
    assert os.listdir(workdir) == ["link"]


class Sweeping(ApplicationDefinition):
    command_template = "sh -c 'mkdir -p own; touch own/mine top.dat'"
    cleanup_files = ["*", "**/*"]


class Keeping(ApplicationDefinition):
    command_template = "sh -c 'mkdir sub; touch sub/a result.dat'"


def test_nothing_is_removed_from_the_directory_of_another_job(exctr, site, allocation):
    exctr.register_app(Sweeping)
    exctr.register_app(Keeping)
    ensemble = exctr.submit_sweep("Keeping", [{}, {}], name="top")
    deep = exctr.submit_sweep("Keeping", [{}], name="e")
    lone = [Job.objects.create(app_id="Keeping", workdir=name) for name in ("top/child/deep", "e/0/below", "top.x")]
    ensemble.wait(SOON)
    deep.wait(SOON)
    assert not Job.objects.wait(lone, SOON).not_done
    for workdir in ("top", "e"):
        job = Job.objects.create(app_id="Sweeping", workdir=workdir)
        job.wait(SOON)
        assert job.state == "JOB_FINISHED"
        folder = site.data_path / workdir
        assert not (folder / "top.dat").exists() and not (folder / "own" / "mine").exists()
    for kept in ("top/0", "top/1", "top/child/deep", "top.x", "e/0", "e/0/below"):
        assert (site.data_path / kept / "result.dat").exists() and (site.data_path / kept / "sub" / "a").exists(), kept


@pytest.mark.parametrize(
    ("glob", "match"),
    [("**", r"write '\*\*/\*'"), ("sub/", r"write 'sub/\*'"), ("~/*", "must be a glob"), (" * ", "must be a glob")],
)
def test_globs_that_would_remove_nothing(exctr, glob, match):
    app = type("Odd", (ApplicationDefinition,), {"command_template": "true", "cleanup_files": [glob]})
    with pytest.raises(BadInput, match=match):
        exctr.register_app(app)
