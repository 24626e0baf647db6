"""`pip install balsam-jupyter libensemble` in one fresh environment has pydantic 2, and the engines work in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TESTS = ("test_executor.py", "test_anywhere.py", "test_balsam_truth.py", "test_balsam_polls.py")
SHOW = """
import json, sys
import libensemble, pydantic
from libensemble.executors import Executor
import balsam_jupyter
from balsam_jupyter import BalsamExecutor, open_site
from balsam_jupyter.engines import balsam
print(json.dumps({
    "pydantic": pydantic.VERSION, "libensemble": libensemble.__version__, "file": balsam_jupyter.__file__,
    "balsam": [name for name in sys.modules if name.partition(".")[0] == "balsam"],
}))
"""


def run(*command: str, folder: Path) -> str:
    environment = {name: word for name, word in os.environ.items() if name not in ("PYTHONPATH", "BALSAM_JUPYTER_HOME")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-10_000:]
    print(done.stdout)
    return done.stdout


@pytest.mark.soak
def test_in_one_environment(tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", str(tmp_path / "env"), folder=tmp_path)
    python = str(tmp_path / "env" / "bin" / "python")
    run(python, "-m", "pip", "install", "-qq", str(ROOT), "libensemble>=1.6", folder=tmp_path)
    run(python, "-m", "pip", "check", folder=tmp_path)
    found = json.loads(run(python, "-c", SHOW, folder=tmp_path))
    assert found["pydantic"].startswith("2.")
    assert found["file"].startswith(str(tmp_path / "env")) and found["balsam"] == []
    run(python, "-m", "pip", "install", "-qq", "pytest", "pandas", folder=tmp_path)  # what these tests need
    for name in (
        "tests",
        "conftest.py",
        "pyproject.toml",
    ):  # away from the sources: the installed is tested
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, tmp_path / name)
    if (ROOT / ".venv-balsam-server").exists():
        (tmp_path / ".venv-balsam-server").symlink_to(ROOT / ".venv-balsam-server")
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(f"tests/{name}" for name in TESTS), folder=tmp_path)
    assert json.loads(run(python, "-c", SHOW, folder=tmp_path)) == found
