"""What a user installs: the wheel, its extras, and the set-up script behind `make`."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETUP = ROOT / "tools" / "setup.sh"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "-w", str(folder), str(ROOT)]
    subprocess.run(command, check=True)
    return next(folder.glob("*.whl"))


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert wheel.name.startswith("balsam_jupyter-")
    assert {name.split("/")[0].split("-")[0] for name in names} == {"balsam_jupyter"}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "balsam_jupyter").rglob("*.py")}
    assert sources <= set(names)
    assert "balsam_jupyter/py.typed" in names


def test_wheel_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Name"] == "balsam-jupyter"
    assert metadata["Requires-Python"] == ">=3.10"
    extras = {"notebook", "parquet", "polars", "designs", "tutorials", "balsam", "bench", "test", "dev"}
    assert set(metadata.get_all("Provides-Extra", [])) == extras
    core = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert len(core) <= 7, core


def test_wheel_has_the_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt"))
        assert "balsam-jupyter = balsam_jupyter.cli:main" in archive.read(name).decode().splitlines()


def test_installed_wheel_runs_without_jupyter(wheel: Path, tmp_path: Path) -> None:
    """The wheel alone, beside the core dependencies only: a job runs from an empty folder."""
    target = tmp_path / "site-packages"
    command = [sys.executable, "-m", "pip", "install", "-qq", "--target", str(target), str(wheel)]
    subprocess.run(command, check=True)
    script = tmp_path / "run.py"
    script.write_text(
        "from balsam_jupyter import ApplicationDefinition, BalsamExecutor, open_site\n"
        "class Hello(ApplicationDefinition):\n"
        "    site = 'default'\n"
        "    command_template = 'echo hello {{ name }}'\n"
        "site = open_site()\n"
        "exctr = BalsamExecutor()\n"
        "exctr.register_app(Hello, app_name='hello')\n"
        "allocation = exctr.submit_allocation(site.id, num_nodes=1, wall_time_min=5, job_mode='serial')\n"
        "task = exctr.submit(app_name='hello', app_args={'name': 'Ada'})\n"
        "task.wait(60)\n"
        "print(task.state, task.read_stdout().strip())\n"
        "assert exctr.revoke_allocation(allocation)\n"
    )
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(target), "BALSAM_JUPYTER_HOME": str(tmp_path / "home")}
    # -S leaves the test environment's own packages out; only the target folder and the standard library are seen.
    run = subprocess.run([sys.executable, "-S", str(script)], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "FINISHED hello Ada"


@pytest.fixture
def bare_path(tmp_path: Path) -> str:
    """A PATH with a Python and the plainest tools: no browser, no apt-get."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("bash", "dirname", "id"):
        (folder / tool).symlink_to(shutil.which(tool) or tool)
    (folder / "python3").symlink_to(sys.executable)
    return str(folder)


def run_setup(path: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    bash = shutil.which("bash") or "bash"
    command = [bash, str(SETUP), *arguments]
    return subprocess.run(command, env={"PATH": path, **env}, capture_output=True, text=True)


def test_setup_says_what_it_leaves_out(bare_path: str) -> None:
    run = run_setup(bare_path, "--browser", sys.prefix, "pip")
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("\n") == 1
    assert "LEFT OUT: the browser tests: no Chromium" in run.stderr


def test_setup_left_out_part_is_an_error_in_ci(bare_path: str) -> None:
    run = run_setup(bare_path, "--browser", sys.prefix, "pip", CI="true")
    assert run.returncode == 1
    assert "no Chromium" in run.stderr


def test_setup_names_the_references_it_leaves_out(bare_path: str) -> None:
    run = run_setup(bare_path, "--bench", sys.prefix, "pip")
    assert run.returncode == 0, run.stderr
    assert "LEFT OUT: GNU parallel in the benchmarks" in run.stderr
    assert "LEFT OUT: the C loop in the benchmarks" in run.stderr


def test_setup_without_a_usable_python(bare_path: str, tmp_path: Path) -> None:
    run = run_setup(bare_path, str(tmp_path / "venv"), "pip", PYTHON="/nowhere/python")
    assert run.returncode == 1
    assert "no Python 3.10 or newer at /nowhere/python; name one: make PYTHON=" in run.stderr


def test_setup_makes_an_environment(bare_path: str, tmp_path: Path) -> None:
    run = run_setup(bare_path, str(tmp_path / "venv"), "pip")
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "venv" / "bin" / "python").exists()
    assert "pip install pip" in run.stdout


def test_makefile_targets_exist() -> None:
    for target in ("demo", "lab", "test", "bench", "soak"):
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.kernel
def test_kernel_is_the_one_meant() -> None:
    """`make ipykernel6` lays an older ipykernel over the environment; this says that kernels really are that one."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import ipykernel; ipykernel.__version__")])
    NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    version = notebook.cells[0].outputs[0].data["text/plain"].strip("'")
    assert version.startswith(os.environ.get("BALSAM_TEST_IPYKERNEL", "")), version
