"""The queues and projects of a Balsam site where one chooses among them: tab completion, and the form."""

from __future__ import annotations

from pathlib import Path

import pytest

from balsam_jupyter import BalsamExecutor
from balsam_jupyter.magics.complete import Completer
from balsam_jupyter.widgets.forms.models import AllocationModel

from .anywhere import opened
from .balsam_service.site import ServiceSite


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("%balsam_allocate --queue ", ["main", "short"]),
        ("%balsam_allocate -n 2 -q sh", ["short"]),
        ("%balsam_allocate --project=", ["physics"]),
        ("%balsam_allocate -A ph", ["physics"]),
    ],
)
def test_completion(slurm_site: ServiceSite, tmp_path: Path, line: str, offered: list[str]) -> None:
    with opened("balsam", tmp_path, slurm_site):
        assert Completer(None).complete(line)[1] == offered  # type: ignore[arg-type]


def test_the_form(slurm_site: ServiceSite, tmp_path: Path) -> None:
    with opened("balsam", tmp_path, slurm_site) as site:
        form = AllocationModel(BalsamExecutor(site))
        options = {one["name"]: one for one in form.open()["options"]}
        assert options["queue"]["choices"] == ["main", "short"] and options["queue"]["default"] == "choose one"
        assert options["project"]["known"] == ["physics"] and options["project"]["default"] == "physics"
        for given, field, said in (
            ({}, "queue", "Which queue"),
            ({"queue": "1", "wall_time_min": "100000"}, "wall_time_min", "queue 'short' has"),
            ({"queue": "0", "num_nodes": "9"}, "num_nodes", "nodes"),
            ({"queue": "0", "project": "art"}, "project", "there is physics"),
        ):
            errors = form.read({"options": given})["errors"]
            assert errors.keys() == {field} and said in errors[field], errors
        answer = form.read({"options": {"queue": "1", "wall_time_min": "1"}})
        assert not answer["errors"] and "-q short" in answer["magic"]
        assert "BalsamExecutor(open_site('slurm-site', engine='balsam')).submit_allocation" in answer["python"]
