"""Functions that another Python compiled: refused at the site in one line, and told before submission once it is known.

The other Python is pretended (what registers says it is another version); the site, its agent and its Python are real.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, TaskFailed
from balsam_jupyter.engines.balsam import pythons

from .anywhere import opened
from .balsam_service.run import ENVIRONMENT
from .balsam_service.site import ServiceSite

SOON = 60.0
THERE = "3.11"


class Half(ApplicationDefinition):
    def run(self, x: float) -> float:
        return x / 2


class Say(ApplicationDefinition):
    command_template = "echo {{ word }}"
    outputs = {"said": lambda folder: (folder / "job.out").read_text()}


class Plain(ApplicationDefinition):
    command_template = "echo {{ word }}"


@pytest.fixture
def exctr(balsam_site: ServiceSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[BalsamExecutor]:
    monkeypatch.setattr(pythons, "HERE", "3.9")
    with opened("balsam", tmp_path, balsam_site) as site:
        executor = BalsamExecutor(site)
        for app in (Half, Say, Plain):
            executor.register_app(app, app_name=f"{app.__name__}{secrets.token_hex(2)}")
        yield executor


def names(exctr: BalsamExecutor) -> list[str]:
    newest = sorted(exctr.site.engine.apps(), key=lambda app: app.id)[-3:]
    return [app.name for app in newest]


def test_the_site_is_on_this_machine(exctr: BalsamExecutor, caplog: pytest.LogCaptureFixture) -> None:
    half, _, plain = names(exctr)
    assert pythons.at_site(exctr.site.engine) == THERE
    exctr.submit_sweep(plain, {"word": ["a", "b"]}, name=f"{plain}-s").kill()
    assert not caplog.text
    ensemble = exctr.submit_sweep(half, {"x": [1.0, 2.0]}, name=f"{half}-s")
    assert caplog.text.count(f"App {half} has functions that were registered from Python 3.9, and site") == 1
    assert f"has Python {THERE}: its tasks will fail there. Register it from a kernel of Python {THERE}" in caplog.text
    ensemble.kill()


def test_the_site_is_far_away(
    exctr: BalsamExecutor, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    half, say, plain = names(exctr)
    engine = exctr.site.engine
    engine.site = replace(engine.site, here=False)
    exctr.submit_allocation(exctr.site.id, 1, 10, job_mode="mpi")
    tasks = [exctr.submit(app_name=half, app_args={"x": 1.0}), exctr.submit(app_name=say, app_args={"word": "a"})]
    unharmed = exctr.submit(app_name=plain, app_args={"word": "a"})
    assert not caplog.text
    for task in tasks:
        assert task.result(SOON) == "FAILED"
        with pytest.raises((RuntimeError, TaskFailed)) as raised:
            task.value()
        assert f"its functions are code of Python 3.9, and this is Python {THERE}. Register it" in str(raised.value)
    assert unharmed.result(SOON) == "FINISHED"
    exctr.submit(app_name=half, app_args={"x": 2.0}).kill()
    assert f"has Python {THERE}: its tasks will fail there" in caplog.text


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the site's Python is 3.11")
def test_the_same_python_says_nothing(
    balsam_site: ServiceSite, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened("balsam", tmp_path, balsam_site) as site:
        exctr = BalsamExecutor(site)
        exctr.register_app(Half)
        exctr.submit(app_name="Half", app_args={"x": 2.0}).kill()
        assert not caplog.text


def test_where_a_launcher_is_all_that_tells(exctr: BalsamExecutor, tmp_path: Path) -> None:
    folder = tmp_path / "far"
    (folder / "qsubmit").mkdir(parents=True)
    assert pythons._seen(folder) == ""
    script = folder / "qsubmit" / "qlaunch1.sh"
    script.write_text(f"exec {ENVIRONMENT}/bin/python /lib/balsam/cmdline/launcher.py -j mpi -t 10\n")
    assert pythons._seen(folder) == THERE
