"""Existing Balsam classes work unchanged, beside the real balsam package in an environment of its own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
BALSAM_PYTHON = ROOT / ".venv-balsam" / "bin" / "python"


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if not BALSAM_PYTHON.exists():
        pytest.skip("no environment with balsam; `make test` makes it")
    folder = tmp_path_factory.mktemp("balsam")
    env = os.environ | {"BALSAM_JUPYTER_HOME": str(folder / "home"), "HOME": str(folder)}
    command = [str(BALSAM_PYTHON), str(ROOT / "tests" / "balsam_hello.py"), str(folder)]
    run = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def test_libensembles_hello_app(answers: dict[str, Any]) -> None:
    assert answers["hello"] == ["FINISHED", "Hello, World nobody\n"]


def test_default_environment_and_preamble(answers: dict[str, Any]) -> None:
    assert answers["polite"] == ["FINISHED", "before\nHello, stranger from the class\n"]


def test_hooks_transfers_and_clean_up(answers: dict[str, Any]) -> None:
    assert answers["fixed"] == ["FINISHED", "a deck\n", {"retry_count": 1}]


def test_run_function(answers: dict[str, Any]) -> None:
    assert answers["norm"][0] == "FINISHED"
    assert answers["value"] == 10.0


def test_it_was_the_real_balsam(answers: dict[str, Any]) -> None:
    """Balsam itself imports pydantic (1); we import neither."""
    assert answers["modules"] == ["pydantic"]
    assert answers["revoked"] is True
