"""Tasks whose directory goes when they finish well."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from balsam_jupyter import ApplicationDefinition, Job
from balsam_jupyter.engines.embedded import trash
from balsam_jupyter.errors import BadInput
from balsam_jupyter.models import Query

from .processes import processors
from .test_disk import emptied, files

SOON = 60.0


class Yields(ApplicationDefinition):
    command_template = "sh -c 'echo value {{ n }}; head -c 10000 /dev/zero > big.dat; exit {{ code }}'"
    outputs = {"value": r"value (\d+)"}


class Flaky(ApplicationDefinition):
    command_template = "sh -c 'echo x >> tries; test $(wc -l < tries) -eq 2'"


class Hooked(ApplicationDefinition):
    command_template = "sh -c 'echo {{ n }} > raw'"
    outputs = {"twice": "done.json:twice"}
    transfers = {"kept": {"direction": "out", "local_path": "done.json", "required": False}}

    def postprocess(self):
        Path("done.json").write_text(json.dumps({"twice": 2 * int(Path("raw").read_text())}))


class Python(ApplicationDefinition):
    def run(self, n: int, write: bool) -> int:
        if write:
            Path("left.dat").write_text("x")
        return n + 1


def test_what_finishes_well_leaves_its_values_only(exctr, site, allocation):
    exctr.register_app(Yields)
    rows = [{"n": n, "code": 0} for n in range(20)]
    ensemble = exctr.submit_sweep("Yields", [*rows, {"n": 99, "code": 1}], name="s", scratch=True).wait(SOON)
    assert ensemble.counts()["FINISHED"] == 20 and ensemble.counts()["FAILED"] == 1
    assert os.listdir(site.data_path / "s") == ["20"], "gone at the latest when it is told"
    assert "big.dat" in files(site.data_path / "s" / "20"), "what failed is kept to look at"
    assert list(ensemble.to_dataframe()["value"][:20]) == list(range(20))
    emptied(site)
    assert ensemble.disk().files == 2 and ensemble.clean([]).directories == 0
    first = ensemble.tasks()[0]
    assert not first.stdout_exists() and first.value() == {"value": 0}
    with pytest.raises(BadInput, match="scratch=True: its directory was removed when it had finished well"):
        first.read_stdout()
    assert "directory was removed" not in ensemble.failed()[0].read_stdout()
    assert set(ensemble.extract()) == set(range(20)) and first.value() == {"value": 0}, "nothing is lost by that"
    assert ensemble.retry() == 1
    ensemble.wait(SOON)
    assert "job.out.1" in files(site.data_path / "s" / "20")
    assert site.engine.check() == []


def test_a_lone_task_that_needs_a_second_try(exctr, site, allocation):
    exctr.register_app(Flaky)
    task = exctr.submit(app_name="Flaky", max_retries=1, scratch=True)
    task.wait(SOON)
    assert task.state == "FINISHED" and not Path(task.workdir).exists()
    job = Job.objects.create(app_id="Flaky", workdir="mine/flaky", max_retries=0, scratch=True)
    job.wait(SOON)
    assert job.state == "FAILED" and job.scratch and (site.data_path / "mine/flaky/tries").exists()
    job.state = "RESTART_READY"
    job.save()
    job.wait(SOON)
    assert job.state == "JOB_FINISHED" and not (site.data_path / "mine/flaky").exists()


def test_hooks_outputs_and_transfers_come_first(exctr, site, allocation, tmp_path):
    (tmp_path / "archive").mkdir()
    with open(site.engine.path / "settings.yml", "a") as settings:
        settings.write(f"transfer_locations: {{archive: {tmp_path / 'archive'}}}\n")
    exctr.register_app(Hooked)
    with_files = {"kept": "archive:/{id}.json"}
    ensemble = exctr.submit_sweep("Hooked", {"n": [1, 2, 3]}, name="t", scratch=True, transfers=with_files).wait(SOON)
    plain = exctr.submit_sweep("Hooked", {"n": [4]}, name="u", scratch=True).wait(SOON)
    assert [task.value() for task in [*ensemble.tasks(), *plain.tasks()]] == [{"twice": n} for n in (2, 4, 6, 8)]
    assert len(os.listdir(tmp_path / "archive")) == 3
    assert os.listdir(site.data_path / "t") == os.listdir(site.data_path / "u") == []


def test_python_tasks(exctr, site, allocation):
    exctr.register_app(Python)
    sweep = [{"n": n, "write": n % 10 == 0} for n in range(50)]
    ensemble = exctr.submit_sweep("Python", sweep, name="p", scratch=True).wait(SOON)
    assert [task.value() for task in ensemble.tasks()] == list(range(1, 51))
    assert [name for name in os.listdir(site.data_path / "p") if not name.startswith(".")] == []


def test_a_processor_that_is_killed_loses_no_value(exctr, site, allocation):
    exctr.register_app(Hooked)
    ensemble = exctr.submit_sweep("Hooked", {"n": list(range(60))}, name="k", scratch=True)
    cursor, killed = site.engine.events("now").cursor, 0
    while killed < 2 and ensemble.counts()["FINISHED"] != 60:
        cursor = site.engine.events(cursor, 1.0).cursor
        if site.engine.count(Query(states=("STAGED_OUT", "POSTPROCESSED", "JOB_FINISHED"))):
            for pid in processors(site.engine.path):
                os.kill(pid, signal.SIGKILL)
                killed += 1
    ensemble.wait(SOON)
    assert [task.value() for task in ensemble.tasks()] == [{"twice": 2 * n} for n in range(60)]
    assert os.listdir(site.data_path / "k") == []


def test_mistakes(exctr):
    exctr.register_app(Yields)
    with pytest.raises(BadInput, match="scratch is True or False, not 'yes'"):
        exctr.submit_sweep("Yields", [{"n": 1, "code": 0}], name="x", scratch="yes")
    with pytest.raises(BadInput, match="scratch is True or False, not 1"):
        Job("Yields", "w", {"n": 1, "code": 0}, scratch=1)
    with pytest.raises(BadInput, match="would be in the site's trash"):
        Job.objects.create(app_id="Yields", workdir=f"{trash.TRASH}/w", parameters={"n": 1, "code": 0})
