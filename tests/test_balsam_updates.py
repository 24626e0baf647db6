"""An app that is updated at a Balsam site: what runs, and what is done around a run, is the app as it is then."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from balsam_jupyter import ApplicationDefinition, BalsamExecutor, Ensemble

from .anywhere import opened
from .balsam_service.site import ServiceSite

SOON = 60.0


@pytest.fixture
def exctr(balsam_site: ServiceSite, tmp_path: Path) -> Iterator[BalsamExecutor]:
    with opened("balsam", tmp_path, balsam_site) as site:
        yield BalsamExecutor(site)


def deck(word: str, limit: int) -> type[ApplicationDefinition]:
    class Deck(ApplicationDefinition):
        command_template = f"sh -c 'cat deck; echo command {word}; test {{{{ x }}}} -lt {limit}'"
        inputs = {"deck": f"deck {word}\n"}
        outputs = {f"{what}_{word}": f"{what} (.*)" for what in ("deck", "command")}

    return Deck


def test_files_outputs_and_command_are_those_of_now(exctr: BalsamExecutor, caplog: pytest.LogCaptureFixture) -> None:
    app = f"deck{secrets.token_hex(3)}"
    exctr.register_app(deck("one", 2), app_name=app)
    allocation = exctr.submit_allocation(exctr.site.id, 1, 10, filter_tags={"workflow": f"{app}-a"})
    first = exctr.submit_sweep(app, {"x": [1, 2]}, name=f"{app}-a").wait(SOON)
    assert first.counts()["FAILED"] == 1 and first.tasks()[0].value() == {"deck_one": "one", "command_one": "one"}

    exctr.register_app(deck("two", 3), app_name=app)
    assert f"%balsam_revoke {allocation.id}, then %balsam_allocate" in caplog.text
    exctr.revoke_allocation(allocation)
    exctr.submit_allocation(exctr.site.id, 1, 10, filter_tags={"workflow": f"{app}-b"})
    second = exctr.submit_sweep(app, {"x": [1]}, name=f"{app}-b").wait(SOON)
    assert values(second) == [{"deck_two": "two", "command_two": "two"}]
    exctr.submit_allocation(exctr.site.id, 1, 10, filter_tags={"workflow": f"{app}-a"})
    assert first.retry() == 1
    assert values(first.wait(SOON)) == [{"deck_one": "one", "command_one": "one"}, values(second)[0]]


def values(ensemble: Ensemble) -> list[object]:
    return [task.value() for task in ensemble.tasks()]
