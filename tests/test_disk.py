"""What ensembles hold on the disk, and how it is got rid of: cleaning, the trash and the process that empties it."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, Job, open_site
from balsam_jupyter.disk import checked_globs, human, is_kept
from balsam_jupyter.engines.embedded import remover, trash
from balsam_jupyter.errors import BadInput, SiteError, TimeoutExpired
from balsam_jupyter.models import Query

from .processes import is_running, removers

SOON = 60.0


class Writes(ApplicationDefinition):
    command_template = (
        "sh -c 'mkdir -p sub/deep; head -c {{ n }} /dev/zero > dump.{{ n }}; echo {} > a.json; echo {} > sub/b.json; "
        "echo x > sub/deep/x.dat; echo said; exit {{ code }}'"
    )
    outputs = {"said": "(said)"}


def files(folder: Path) -> list[str]:
    return sorted(str(one.relative_to(folder)) for one in folder.rglob("*") if not one.is_dir() or one.is_symlink())


def look_on(site, seconds: float) -> None:
    """Wait for a change of the site, as users do: who waits looks after it."""
    engine = site.engine
    engine.events(engine.events("now").cursor, seconds)


def emptied(site, timeout: float = SOON) -> None:
    """Until nothing is left to remove."""
    deadline = time.monotonic() + timeout
    while trash.has_work(site.engine.path):
        assert time.monotonic() < deadline, list(trash.place(site.engine.path).iterdir())
        look_on(site, 0.05)


def ran(exctr: BalsamExecutor, rows: int = 3, **options):
    exctr.register_app(Writes)
    sweep = [{"n": 1000 * (row + 1), "code": 0} for row in range(rows)]
    return exctr.submit_sweep("Writes", [*sweep, {"n": 5, "code": 1}], name="e", **options).wait(SOON)


def test_what_the_directories_hold(exctr, site, allocation):
    ensemble = ran(exctr)
    found = ensemble.disk()
    folder = site.data_path / "e"
    sizes = [(folder / name).lstat().st_size for name in files(folder)]
    assert (found.files, found.bytes, found.directories) == (len(sizes), sum(sizes), 4 * 3)
    assert {one.pattern: one.files for one in found.patterns} == {
        "dump.*": 4, "a.json": 4, "b.json": 4, "x.dat": 4, "job.out": 4,
    }  # fmt: skip
    assert found.patterns[0].pattern == "dump.*" and found.patterns[0].bytes == 6005
    assert [one.row for one in found.largest] == [2, 1, 0, 3] and found.largest[0].workdir == "e/2"
    assert found.unreadable == 0
    assert re.search(r"kB in 20 files and 12 directories", repr(found)) and "row 2" in repr(found)
    assert "dump.*</td><td>4</td>" in found._repr_html_()


def test_rows_without_directories_hold_nothing(exctr):
    exctr.register_app(Writes)
    ensemble = exctr.submit_sweep("Writes", {"n": [1, 2, 3], "code": [0]}, name="p")
    assert (ensemble.disk().files, ensemble.disk().directories) == (0, 0)
    cleaned = ensemble.clean([]).wait(SOON)
    assert cleaned.directories == 0 and "no finished row has a directory" in repr(cleaned)


def test_cleaning_keeps_logs_what_is_named_and_rows_that_did_not_finish(exctr, site, allocation):
    ensemble = ran(exctr)
    failed = files(site.data_path / "e" / "3")
    cleaned = ensemble.clean(keep=["*.json"])
    assert cleaned.directories == 3 and cleaned.wait(SOON) is cleaned and cleaned.done()
    assert "3 directories of finished rows were cleaned; job.out, job.err, balsam.log, *.json stay" in repr(cleaned)
    for row in range(3):
        assert files(site.data_path / "e" / str(row)) == ["a.json", "job.out", "sub/b.json"]
    assert not (site.data_path / "e" / "0" / "sub" / "deep").exists(), "a directory of which nothing is kept goes whole"
    assert files(site.data_path / "e" / "3") == failed
    ensemble.clean(["sub/"]).wait(SOON)
    assert files(site.data_path / "e" / "0") == ["job.out", "sub/b.json"]
    ensemble.clean([]).wait(SOON)
    assert files(site.data_path / "e" / "0") == ["job.out"]
    assert list(ensemble.to_dataframe()["said"][:3]) == ["said"] * 3
    assert ensemble.retry() == 1, "the others have finished"
    ensemble.wait(SOON)
    assert site.engine.check() == []


@pytest.mark.parametrize(
    ("keep", "match"),
    [
        ("*.json", r"keep is a list of patterns such as \['\*.json'\], not '\*.json'"),
        (None, "keep is a list of patterns"),
        ([""], "keep has '', which is not a pattern"),
        ([3], "keep has 3, which is not a pattern"),
        (["/abs/*"], "a pattern is relative to the work directory"),
        (["../*"], "a pattern is relative to the work directory"),
    ],
)
def test_patterns_that_would_not_keep_what_is_meant(keep, match):
    with pytest.raises(BadInput, match=match):
        checked_globs(keep)


def test_what_patterns_keep():
    assert is_kept("job.out", []) and not is_kept("sub/job.out", []) and not is_kept("job.out.1", [])
    assert is_kept("a.json", ["*.json"]) and is_kept("sub/deep/a.json", ["*.json"]) and not is_kept("a.dat", ["*.json"])
    assert is_kept("r/a", ["r/*"]) and is_kept("r/s/a", ["r/"]) and not is_kept("x/r/a", ["r/*"])
    assert [human(size) for size in (0, 999, 1000, 1_540_000, 999_900, 3 * 10**15)] == [
        "0 bytes", "999 bytes", "1 kB", "1.54 MB", "1 MB", "3,000 TB",
    ]  # fmt: skip


def test_links_are_never_followed(exctr, site, allocation, tmp_path):
    ensemble = ran(exctr, 4)
    outside = tmp_path / "outside"
    (outside / "inner").mkdir(parents=True)
    (outside / "inner" / "precious.dat").touch()
    data = site.data_path / "e"
    (data / "0" / "link").symlink_to(outside)
    (data / "0" / "sub" / "one").symlink_to(outside / "inner" / "precious.dat")
    shutil.rmtree(data / "1")
    (data / "1").symlink_to(outside)
    shutil.rmtree(data / "2" / "sub")
    (data / "2" / "sub").symlink_to(outside / "inner")
    assert ensemble.clean([]).directories == 3
    ensemble.clean([]).wait(SOON)
    assert [files(data / row) for row in "023"] == [["job.out"]] * 3
    site.engine.path.joinpath("data", "x").symlink_to(outside)
    trash.discard(site.engine.path, site.data_path / "e" / "1")
    trash.discard(site.engine.path, site.data_path / "x")
    with pytest.raises(SiteError, match="cannot be removed"):
        (data / "linked").symlink_to(outside)
        trash.discard(site.engine.path, data / "linked" / "inner")
    emptied(site)
    assert files(outside) == ["inner/precious.dat"] and not (data / "1").is_symlink()
    for wrong in (outside, site.data_path, site.data_path / "..", site.data_path / "e" / ".." / ".."):
        with pytest.raises(ValueError, match="data"):
            trash.discard(site.engine.path, wrong)


def test_a_trash_that_is_a_link_is_refused(site, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (site.data_path / "old").mkdir()
    trash.place(site.engine.path).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SiteError, match="must be a directory"):
        trash.discard(site.engine.path, site.data_path / "old")
    assert (site.data_path / "old").exists() and not os.listdir(tmp_path / "elsewhere")


def test_the_directory_of_another_job_inside_stays(exctr, site, allocation):
    ensemble = ran(exctr, 1)
    exctr.register_app(Writes)
    lone = Job.objects.create(app_id="Writes", workdir="e/0/sub/lone", parameters={"n": 1, "code": 0})
    over = Job.objects.create(app_id="Writes", workdir="over", parameters={"n": 1, "code": 0}, scratch=True)
    lone.wait(SOON)
    over.wait(SOON)
    ensemble.clean([]).wait(SOON)
    assert files(site.data_path / "e" / "0") == [
        "job.out", *(f"sub/lone/{name}" for name in files(site.data_path / "e/0/sub/lone"))
    ]  # fmt: skip
    assert "dump.1" in files(site.data_path / "e/0/sub/lone")


def many(folder: Path, number: int) -> None:
    for each in range(number):
        (folder / str(each) / "sub").mkdir(parents=True)
        for name in ("job.out", "sub/x.dat", "keep.json"):
            (folder / str(each) / name).touch()


def test_a_remover_that_is_killed_goes_on(exctr, site, allocation):
    ensemble = ran(exctr, 60)
    bystander = site.data_path / "bystander"
    many(bystander, 3)
    before = files(bystander)
    cleaned = ensemble.clean(["a.json"])
    with pytest.raises(TimeoutExpired):
        cleaned.wait(0)
    deadline = time.monotonic() + SOON
    for turn in range(3):
        many(site.data_path / f"old{turn}", 300)
        trash.discard(site.engine.path, site.data_path / f"old{turn}")
        assert not (site.data_path / f"old{turn}").exists()
        while not (alive := removers(site.engine.path)):
            assert time.monotonic() < deadline
            look_on(site, 0.02)
        look_on(site, random.uniform(0.0, 0.5))
        assert len(alive) == 1
        os.kill(alive[0], signal.SIGKILL)
    cleaned.wait(SOON)
    emptied(site)
    assert files(bystander) == before
    for row in range(60):
        assert files(site.data_path / "e" / str(row)) == ["a.json", "job.out"]


def test_a_remover_ends_by_itself(site):
    many(site.data_path / "old", 5)
    trash.discard(site.engine.path, site.data_path / "old")
    emptied(site)
    deadline = time.monotonic() + SOON
    while any(map(is_running, removers(site.engine.path))):
        assert time.monotonic() < deadline
        look_on(site, 0.1)
    assert (site.engine.path / "log" / "remover.log").read_text() == ""


class Again(ApplicationDefinition):
    command_template = (
        "sh -c 'for name in a b c d; do echo {{ n }} > $name.dat; done; mkdir -p s; echo {{ n }} > s/e.dat'"
    )


def test_rows_that_run_again_while_they_are_cleaned_keep_what_they_write(exctr, site, allocation):
    exctr.register_app(Again)
    ensemble = exctr.submit_sweep("Again", {"n": list(range(400))}, name="again").wait(SOON)
    cleaned = ensemble.clean([])
    rerun = Query(ensemble="again", states=("JOB_FINISHED",))
    assert site.engine.update(rerun, "RESTART_READY") == 400
    ensemble.wait(SOON)
    cleaned.wait(SOON)
    emptied(site)
    for row in range(400):
        folder = site.data_path / "again" / str(row)
        written = {name: (folder / name).read_text() for name in files(folder) if name.endswith(".dat")}
        assert written == dict.fromkeys(("a.dat", "b.dat", "c.dat", "d.dat", "s/e.dat"), f"{row}\n"), row


def test_what_was_moved_out_of_a_row_that_ran_again_goes_back(exctr, site, allocation):
    ran(exctr, 2)
    for job, attempts in ((1, 0), (2, 1)):  # as a remover that was killed leaves it; job 1 has run again since
        hold = trash.place(site.engine.path) / f"hold-{job}-{attempts}"
        (hold / "sub").mkdir(parents=True)
        for name in ("a.json", "new.dat", "sub/new.dat"):
            (hold / name).write_text("moved")
    look_on(site, 1.5)
    emptied(site)
    first, second = site.data_path / "e" / "0", site.data_path / "e" / "1"
    assert (first / "new.dat").read_text() == (first / "sub" / "new.dat").read_text() == "moved"
    assert (first / "a.json").read_text() == "{}\n", "what is there is not overwritten"
    assert not (second / "new.dat").exists()


def test_what_cannot_be_removed_is_put_aside_and_told(site, monkeypatch):
    many(site.data_path / "old", 2)
    with trash.opened(site.engine.path) as place:
        os.rename(site.data_path / "old" / "0", "one", dst_dir_fd=place)
        os.rename(site.data_path / "old" / "1", "two", dst_dir_fd=place)
        real = os.unlink

        def refusing(name, **where):
            if name == "x.dat":
                raise PermissionError(13, "Permission denied", name)
            real(name, **where)

        monkeypatch.setattr(os, "unlink", refusing)
        data = os.open(site.data_path, os.O_RDONLY)
        remover.Remover(site.engine.path, site.engine.store, data, place).collect()
        os.close(data)
    assert not trash.has_work(site.engine.path), "it is not tried for ever"
    assert all(files(site.engine.path / one) == ["x.dat"] for one in trash.stuck(site.engine.path))
    (found,) = (one for one in site.engine.check() if "in the trash" in one.what)
    assert not found.fault and "2 directories in the trash could not be removed: data/.trash/stuck-" in found.what


def test_deep_and_read_only_directories(site):
    deep = site.data_path / "deep"
    deep.mkdir()
    here = os.getcwd()
    try:
        os.chdir(deep)
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
        Path("bottom").touch()
    finally:
        os.chdir(here)
    closed = site.data_path / "closed"
    (closed / "inner").mkdir(parents=True)
    (closed / "inner" / "file").touch()
    (closed / "inner").chmod(0o500)
    closed.chmod(0)
    trash.discard(site.engine.path, deep)
    trash.discard(site.engine.path, closed)
    emptied(site)
    assert trash.stuck(site.engine.path) == []


def test_a_site_that_is_vacuumed_or_moved_with_rubbish_in_it(site, tmp_path):
    path = site.engine.path
    many(site.data_path / "old", 500)
    many(site.data_path / "older", 5)
    trash.discard(path, site.data_path / "old")
    site.engine.vacuum()
    assert site.engine.check() == [] or "older" in site.engine.check()[0].what
    site.close()
    path.rename(tmp_path / "moved")
    moved = open_site("here", tmp_path / "moved")
    trash.discard(moved.engine.path, moved.data_path / "older")
    emptied(moved)
    moved.close()
    (tmp_path / "moved").rename(path)
    open_site("here", path).close()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1), min_size=1, max_size=4))
def test_a_name_keeps_itself(words):
    path = "/".join(words)
    literal = re.sub(r"([*?\[])", r"[\1]", path)
    assert is_kept(path, [literal])
