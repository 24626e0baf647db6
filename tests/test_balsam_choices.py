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
        assert options["queue"]["known"] == ["main", "short"] and options["queue"]["default"] == ""
        assert options["project"]["known"] == ["physics"] and options["project"]["default"] == "physics"
        answer = form.submit({"options": {"queue": "long"}})
        assert answer["errors"].keys() == {"queue"} and "it has main, short" in answer["errors"]["queue"]
