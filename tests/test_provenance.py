"""Who submitted what, when and with what: kept with the ensemble, and read again elsewhere."""

from __future__ import annotations

import getpass
import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, __version__, open_site
from balsam_jupyter import provenance as module
from balsam_jupyter.models import JobCommon


class Echo(ApplicationDefinition):
    """Says something."""

    command_template = "echo {{ word }}"


class Sum(ApplicationDefinition):
    def run(self, a, b=1):
        import yaml

        return yaml.safe_load(str(a)) + b


def test_what_is_kept(exctr: BalsamExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPY_SESSION_NAME", "/data/me/study.ipynb")
    monkeypatch.setenv("MY_TOKEN", "s3cret-value")
    exctr.register_app(Sum)
    ensemble = exctr.submit_sweep("Sum", {"a": [1, 2]}, "scan", threads_per_rank=2, tags={"who": "me"}, max_retries=1)
    known = ensemble.provenance()
    [one] = known["submissions"]
    assert (one["user"], one["host"]) == (getpass.getuser(), socket.gethostname())
    assert (one["new"], one["kept"], one["notebook"]) == (2, 0, "/data/me/study.ipynb")
    assert one["python"] == platform.python_version() and one["directory"] == os.getcwd()
    assert one["packages"]["balsam_jupyter"] == __version__ and "yaml" in one["packages"]
    assert one["resources"] == {"threads_per_rank": 2} and one["tags"] == {"who": "me"} and one["max_retries"] == 1
    assert one["time"].endswith("+00:00")
    assert known["sources"][known["app_version"]].startswith("class Sum(ApplicationDefinition):")
    assert len(one["git"]["revision"]) == 40 and isinstance(one["git"]["dirty"], bool)
    text = json.dumps(dict(known))
    assert json.loads(text) == dict(known) and "s3cret" not in text
    assert "2 new, 0 kept" in repr(known) and "| class Sum" in repr(known) and "study.ipynb" in repr(known)
    assert "<table>" in known._repr_html_() and "class Sum" in known._repr_html_()


def test_every_submission_is_kept_and_running_all_again_adds_one(exctr: BalsamExecutor) -> None:
    exctr.register_app(Echo)
    exctr.submit_sweep("Echo", {"word": ["a"]}, "scan")
    exctr.submit_sweep("Echo", {"word": ["a", "b", "c"]}, "scan")
    for _ in range(3):
        exctr.submit_sweep("Echo", {"word": ["a", "b"]}, "scan")
    exctr.site.close()
    again = BalsamExecutor(open_site("here")).ensemble("scan").provenance()
    assert [(one["new"], one["kept"]) for one in again["submissions"]] == [(1, 0), (2, 1), (0, 2)]
    record = exctr.site.engine.ensembles()[0]
    assert len(record.provenance["environments"]) == 1  # what is the same is stored once


def test_the_first_and_the_latest_are_kept(exctr: BalsamExecutor) -> None:
    exctr.register_app(Echo)
    exctr.submit_sweep("Echo", {"word": ["a"]}, "scan")
    app, [record] = exctr.site.app("Echo"), exctr.site.engine.ensembles()
    for number in range(2, 70):
        record = module.noted(record, app, JobCommon(app.id), number, 0)
    kept = module.Provenance(record)["submissions"]
    assert len(kept) == 50 and [one["new"] for one in kept] == [1, *range(21, 70)]
    assert len(json.dumps(record.provenance)) < 50_000


def test_a_submission_never_fails_for_it(
    exctr: BalsamExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No git, no name of the user, a folder that is gone: it is submitted all the same."""
    exctr.register_app(Echo)
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", "")
    (folder / ".git").mkdir()
    assert module.git_revision(folder) is None
    (folder / ".git").rmdir()
    folder.rmdir()
    [one] = exctr.submit_sweep("Echo", {"word": ["a"]}, "scan").provenance()["submissions"]
    assert one["git"] is None and one["new"] == 1


def test_git(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True)

    assert module.git_revision(tmp_path) is None
    git("init", "-q", "-b", "study")
    assert module.git_revision(tmp_path) is None  # nothing was committed yet
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "a")
    module._git_known.clear()
    known = module.git_revision(tmp_path)
    assert known and known["branch"] == "study" and not known["dirty"]
    (tmp_path / "a").write_text("2")
    assert module.git_revision(tmp_path) is known  # asked at most twice a minute
    module._git_known.clear()
    changed = module.git_revision(tmp_path)
    assert changed and changed["dirty"] and changed["revision"] == known["revision"]
    below = tmp_path / "below"
    below.mkdir()
    assert module.git_revision(below) == changed


def test_a_repository_runs_no_program(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    with open(tmp_path / ".git" / "config", "a") as config:
        config.write(f"[core]\n\tfsmonitor = touch {tmp_path}/ran; false\n")
    module.git_revision(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_packages_of_a_source() -> None:
    found = module.packages("import os, numpy.linalg\nfrom yaml import safe_load\nimport no_such_package_anywhere\n")
    assert {"numpy", "yaml"} <= set(found) and not {"os", "no_such_package_anywhere"} & set(found)
    assert module.packages("%%balsam_app X\n{{ not python").keys() >= {"balsam_jupyter"}
    assert not any(name in sys.stdlib_module_names for name in found)
