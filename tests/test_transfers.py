"""Files staged in and out, and files cleaned up, by a real processor."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from balsam_jupyter import ApplicationDefinition, Job, Site
from balsam_jupyter.api import EventLog
from balsam_jupyter.engines.embedded.site import Settings
from balsam_jupyter.engines.embedded.transfers import Stopped, TransferError, copy
from balsam_jupyter.errors import BadInput, SiteError, TaskFailed

from .conftest import SETTINGS
from .processes import processors

SOON = 60.0
RAN = ["RUNNING", "RUN_DONE", "POSTPROCESSED", "STAGED_OUT", "JOB_FINISHED"]


@pytest.fixture
def box(site: Site, tmp_path: Path) -> Path:
    """The directory of the location ``box``."""
    folder = tmp_path / "box"
    folder.mkdir()
    (tmp_path / "other").mkdir()
    locations = f"transfer_locations: {{box: {folder}, archive: {tmp_path}/other}}\n"
    (Path(site.path) / "settings.yml").write_text(SETTINGS + locations)
    return folder


class Sim(ApplicationDefinition):
    """The slots of Balsam's documentation."""

    command_template = "cat input.nw"
    transfers = {
        "input_file": {
            "required": True,
            "direction": "in",
            "local_path": "input.nw",
            "description": "Input Deck",
            "recursive": False,
        },
        "result": {
            "required": True,
            "direction": "out",
            "local_path": "job.out",
            "description": "Calculation stdout",
            "recursive": False,
        },
    }


def path(job: Job) -> list[str]:
    return [event.to_state for event in EventLog.objects.filter(job_id=job.id)]


def test_in_and_out(exctr, box, allocation):
    exctr.register_app(Sim)
    (box / "deck").mkdir()
    (box / "deck" / "input.dat").write_text("geometry\n")
    files = {"input_file": "box:/deck/input.dat", "result": "archive:/new/folder/output.json"}
    job = Job.objects.create(workdir="ensemble/1", app_id="Sim", transfers=files)
    assert job.transfers == files and Job.objects.get(id=job.id).transfers == files
    job.wait(SOON)
    assert job.state == "JOB_FINISHED"
    assert (box.parent / "other" / "new" / "folder" / "output.json").read_text() == "geometry\n"
    assert path(job) == ["CREATED", "READY", "STAGED_IN", "PREPROCESSED", *RAN]
    task = exctr.submit(app_name="Sim", transfers={"input_file": "box:deck/input.dat", "result": "archive:second"})
    task.wait(SOON)
    assert (box.parent / "other" / "second").read_text() == "geometry\n"
    with pytest.raises(BadInput, match=r"all 2 rows would write to archive:/new/folder/output.json; put {id}"):
        exctr.submit_sweep("Sim", [{}, {}], name="e", transfers=files)
    ensemble = exctr.submit_sweep("Sim", [{}, {}], name="e", transfers=files | {"result": "archive:/e/{id}.json"})
    assert ensemble.wait(SOON).counts()["FINISHED"] == 2
    names = sorted(one.name for one in (box.parent / "other" / "e").iterdir())
    assert names == [f"{one.id}.json" for one in ensemble.tasks()]


class Tree(ApplicationDefinition):
    command_template = "sh -c 'mkdir -p out/deep; cp data/a/b out/deep/b; ln -s b out/deep/link; cp named.txt out'"
    transfers = {
        "data": {"direction": "in", "local_path": "data", "recursive": True},
        "keep": {"direction": "in", "local_path": "."},
        "all": {"direction": "out", "local_path": "out", "recursive": True, "required": False},
    }


def test_directories_and_kept_names(exctr, site, box, allocation):
    exctr.register_app(Tree)
    (box / "tree" / "a").mkdir(parents=True)
    (box / "tree" / "a" / "b").write_bytes(b"\x00b")
    (box / "named.txt").write_text("kept")
    (box / "named.txt").chmod(0o755)
    files = {"data": "box:/tree", "keep": "box:/named.txt", "all": "archive:/result"}
    job = Job.objects.create(workdir="w", app_id="Tree", transfers=files)
    job.wait(SOON)
    assert job.state == "JOB_FINISHED"
    there = box.parent / "other" / "result"
    assert (there / "deep" / "b").read_bytes() == b"\x00b" and os.readlink(there / "deep" / "link") == "b"
    assert (site.data_path / "w" / "named.txt").stat().st_mode & 0o777 == 0o755
    assert not list(site.data_path.rglob("*.part"))
    quiet = Job.objects.create(workdir="q", app_id="Tree", transfers={"data": "box:/tree", "keep": "box:/named.txt"})
    quiet.wait(SOON)
    assert quiet.state == "JOB_FINISHED", "an optional slot may stay empty"


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({"result": "box:/x"}, "App Sim needs its transfer slot input_file filled"),
        ({}, "App Sim needs its transfer slot input_file, result filled"),
        ({"inputfile": "box:/x"}, "no transfer slot 'inputfile'; its slots: input_file, result. Did you mean 'input_f"),
        (
            {"input_file": "bax:/x", "result": "box:/y"},
            "no location 'bax'; the site has box, archive. Did you mean 'box'",
        ),
        ({"input_file": "box:/a/../../x", "result": "box:/y"}, r"may not have '\.\.'"),
        ({"input_file": "/plain/path", "result": "box:/y"}, "\"location:/path\", not '/plain/path'"),
        ({"input_file": "box:/", "result": "box:/y"}, '"location:/path"'),
        ({"input_file": "box:/folder", "result": "box:/y"}, "folder is a directory; name a file, or make the slot"),
        ({"input_file": "box:/" + "n" * 300, "result": "box:/y"}, "a name of 300 bytes; a file's name has 255"),
        ({"input_file": "box:/x", "result": "box:/" + "n" * 300}, "a name of 300 bytes"),
        ({"input_file": "box:/x", "result": "box:/\ud800"}, "a character that no path can have"),
        ({"input_file": "archive:/x", "result": "box:/y"}, "the directory of 'archive', .*other, is not there"),
    ],
)
def test_transfers_that_cannot_be(exctr, box, files, match):
    exctr.register_app(Sim)
    (box / "folder").mkdir()
    if "archive" in str(files):
        (box.parent / "other").rmdir()
    with pytest.raises(BadInput, match=match):
        Job.objects.create(workdir="w", app_id="Sim", transfers=files)
    with pytest.raises(BadInput, match=match):
        exctr.submit_sweep("Sim", [{}], transfers=files)
    for dry_run in (False, True):
        with pytest.raises(BadInput, match=match):
            exctr.submit(app_name="Sim", transfers=files, dry_run=dry_run)
    assert Job.objects.count() == 0 and exctr.ensembles() == []


def test_without_locations_the_message_says_how_to_add_one(exctr, site):
    exctr.register_app(Sim)
    with pytest.raises(BadInput, match=r"no location 'box'; the site has \(none\)\. Add `transfer_locations:"):
        exctr.submit(app_name="Sim", transfers={"input_file": "box:/x", "result": "box:/y"})


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("transfer_locations: [a]", "must be lines 'name: directory'"),
        ("transfer_locations: {a: relative/path}", "'a' must be an absolute directory, not 'relative/path'"),
        ("transfer_locations: {a: 'globus://9d6d'}", "copies between directories of this machine"),
        ("transfer_locations: {'a:b': /tmp}", "cannot name a transfer location"),
        ("transfer_locations: {a: 3}", "must be an absolute directory, not 3"),
    ],
)
def test_settings_that_cannot_be(tmp_path, text, match):
    (tmp_path / "settings.yml").write_text(text)
    with pytest.raises(SiteError, match=match):
        Settings.read(tmp_path / "settings.yml")


def test_what_is_missing_fails_the_job_and_can_be_retried(exctr, box, allocation):
    exctr.register_app(Sim)
    files = {"input_file": "box:/late.dat", "result": "box:/result"}
    job = Job.objects.create(workdir="w", app_id="Sim", transfers=files)
    job.wait(SOON)
    assert path(job) == ["CREATED", "READY", "FAILED"]
    with pytest.raises(TaskFailed, match=r"Stage in of 'input_file' \(box:/late.dat\): there is nothing at .*late.dat"):
        job.result()
    (box / "late.dat").write_text("now")
    job.state = "RESTART_READY"
    job.save()
    job.wait(SOON)
    assert path(job)[3:] == ["READY", "STAGED_IN", "PREPROCESSED", *RAN] and (box / "result").read_text() == "now"


class Pairs(ApplicationDefinition):
    command_template = "touch a b"
    transfers = {
        "one": {"direction": "in", "local_path": "x", "required": False},
        "two": {"direction": "in", "local_path": "x", "required": False},
        "here": {"direction": "in", "local_path": ".", "required": False},
        "too": {"direction": "in", "local_path": "./", "required": False},
        "a": {"direction": "out", "local_path": "a", "required": False},
        "b": {"direction": "out", "local_path": "b", "required": False},
    }


@pytest.mark.parametrize(
    ("files", "written"),
    [
        ({"one": "box:/1", "two": "box:/2"}, "'one'.*'two'.* both write x of the work directory"),
        ({"here": "box:/d/1", "too": "box:/e/1"}, "'here'.*'too'.* both write 1 of the work directory"),
        ({"one": "box:/1", "here": "box:/x"}, "'one'.*'here'.* both write x of the work directory"),
        ({"a": "box:/same", "b": "box://same"}, "'a'.*'b'.* both write .*/box/same;"),
        ({"a": "box:/new/", "b": "box:/new/a"}, "'a'.*'b'.* both write .*/box/new/a;"),
    ],
)
def test_two_slots_never_write_one_file(exctr, box, files, written):
    exctr.register_app(Pairs)
    with pytest.raises(BadInput, match=written):
        exctr.submit(app_name="Pairs", transfers=files)
    assert Job.objects.count() == 0


def test_a_slash_at_the_end_means_a_directory(exctr, box, allocation):
    exctr.register_app(Pairs)
    task = exctr.submit(app_name="Pairs", transfers={"a": "box:/new/", "b": "box:/new/"})
    task.wait(SOON)
    assert task.state == "FINISHED" and sorted(os.listdir(box / "new")) == ["a", "b"]


class Within(ApplicationDefinition):
    command_template = "true"
    transfers = {
        "source": {"direction": "in", "local_path": "copy", "recursive": True, "required": False},
        "all": {"direction": "out", "local_path": ".", "recursive": True, "required": False},
    }


@pytest.mark.parametrize("files", [{"source": "site:/data"}, {"all": "site:/data/w/below"}, {"all": "site:/data/w"}])
def test_a_directory_is_not_copied_into_itself(exctr, site, allocation, files):
    exctr.register_app(Within)
    (Path(site.path) / "settings.yml").write_text(SETTINGS + f"transfer_locations: {{site: {site.path}}}\n")
    job = Job.objects.create(workdir="w", app_id="Within", transfers=files)
    job.wait(SOON)
    with pytest.raises(TaskFailed, match=r"lies inside .*, so it would be copied into itself"):
        job.result()
    assert not [one for one in (site.data_path / "w").iterdir() if one.is_dir()]


def test_a_transfer_waits_while_the_settings_are_broken(exctr, site, box, until):
    exctr.register_app(Head)
    for name in ("large", "first"):
        (box / name).write_text("begin")
    first = Job.objects.create(workdir="v", app_id="Head", transfers={"large": "box:/first"})
    until(lambda: Job.objects.get(id=first.id).state == "PREPROCESSED")  # the processor has begun
    settings = Path(site.path) / "settings.yml"
    whole = settings.read_text()
    [processor] = processors(site.path)
    os.kill(processor, signal.SIGSTOP)
    job = Job.objects.create(workdir="w", app_id="Head", transfers={"large": "box:/large"})
    settings.write_text("nodes: [half")
    os.kill(processor, signal.SIGCONT)
    log = Path(site.path) / "log" / "processor.log"
    waited(site, lambda: f"job {job.id} waits" in log.read_text())
    settings.write_text(whole)
    until(lambda: path(job)[-1] == "PREPROCESSED")


class NoResult(ApplicationDefinition):
    command_template = "true"
    transfers = {"result": {"direction": "out", "local_path": "energies.csv"}}


def test_a_task_that_leaves_no_result(exctr, box, allocation):
    exctr.register_app(NoResult)
    job = Job.objects.create(workdir="w", app_id="NoResult", transfers={"result": "box:/e.csv"})
    job.wait(SOON)
    with pytest.raises(TaskFailed, match=r"Stage out of 'result' \(box:/e.csv\): the task left no .*energies.csv"):
        job.result()
    assert path(job)[-3:] == ["RUN_DONE", "POSTPROCESSED", "FAILED"] and not (box / "e.csv").exists()


# -- one copy ----------------------------------------------------------------------------------------------------------


def big(path: Path, megabytes: int) -> bytes:
    content = os.urandom(1 << 20) * megabytes
    path.write_bytes(content)
    return content


def stopped_copy(source: Path, target: Path, chunks: int) -> Path:
    """Stop a copy after so many chunks; what it left."""
    asked = iter([False] * chunks + [True])
    with pytest.raises(Stopped):
        copy(source, target, lambda: next(asked))
    assert not target.exists()
    [part] = target.parent.glob(".*.part")
    return part


def test_a_copy_goes_on_where_it_stopped(tmp_path):
    source, target = tmp_path / "source", tmp_path / "t" / "target"
    target.parent.mkdir()
    content = big(source, 12)
    part = stopped_copy(source, target, 1)
    assert 0 < part.stat().st_size < len(content)
    with open(part, "r+b") as file:  # a trace by which to know that this part is kept
        file.write(b"kept")
    copy(source, target, lambda: False)
    assert target.read_bytes() == b"kept" + content[4:]
    assert target.stat().st_mtime_ns == source.stat().st_mtime_ns and os.listdir(target.parent) == ["target"]


def test_a_copy_of_a_source_that_changed_begins_anew(tmp_path):
    source, target = tmp_path / "source", tmp_path / "t" / "target"
    target.parent.mkdir()
    big(source, 12)
    stopped_copy(source, target, 2)
    content = big(source, 8)
    copy(source, target, lambda: False)
    assert target.read_bytes() == content and os.listdir(target.parent) == ["target"]
    content = big(source, 1)
    copy(source, target, lambda: False)  # and over a target that is there
    assert target.read_bytes() == content


def test_a_source_that_changes_while_it_is_copied(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    big(source, 8)

    def grow() -> bool:
        with open(source, "ab") as file:
            file.write(b"more")
        return False

    with pytest.raises(TransferError, match="changed while it was copied"):
        copy(source, target, grow)
    assert not target.exists()


def test_what_is_no_file_is_refused_and_blocks_nobody(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TransferError, match="neither a file nor a directory"):
        copy(tmp_path / "pipe", tmp_path / "target", lambda: False)


def test_a_processor_that_dies_in_mid_copy(exctr, site, box, allocation):
    """The source is sparse: it costs nothing to have, but a while to copy."""
    exctr.register_app(Head)
    with open(box / "large", "wb") as file:
        file.truncate(300 << 20)
        file.seek(0)
        file.write(b"begin")
    job = Job.objects.create(workdir="w", app_id="Head", transfers={"large": "box:/large"})
    folder = site.data_path / "w"
    part = waited(site, lambda: [one for one in folder.glob(".*.part") if one.stat().st_size > 0])[0]
    [pid] = processors(site.path)
    os.kill(pid, signal.SIGKILL)
    assert part.exists() and not (folder / "large").exists()
    copied, inode = part.stat().st_size, part.stat().st_ino
    assert 0 < copied < 300 << 20
    job.wait(SOON)
    assert job.state == "JOB_FINISHED" and (folder / "job.out").read_text() == "begin"
    assert (folder / "large").stat().st_ino == inode, "the same file went on"
    assert (folder / "large").stat().st_size == 300 << 20


class Head(ApplicationDefinition):
    command_template = "head -c 5 large"
    transfers = {"large": {"direction": "in", "local_path": "."}}


def waited(site: Site, holds):
    """What it gives, once that is something."""
    deadline = time.monotonic() + SOON
    while not (found := holds()):
        assert time.monotonic() < deadline
    return found


def test_a_copy_is_killed(exctr, site, box):
    exctr.register_app(Head)
    with open(box / "large", "wb") as file:
        file.truncate(600 << 20)
    job = Job.objects.create(workdir="w", app_id="Head", transfers={"large": "box:/large"})
    waited(site, lambda: list((site.data_path / "w").glob(".*.part")))
    job.state = "USER_KILLED"
    job.save()
    job.wait(SOON)
    assert job.state == "USER_KILLED" and path(job) == ["CREATED", "READY", "USER_KILLED"]
