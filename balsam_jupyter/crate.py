"""An ensemble as a folder another person can run again, described as an RO-Crate.

The description follows RO-Crate 1.1 (https://w3id.org/ro/crate/1.1) and its profile Process Run Crate 0.5
(https://w3id.org/ro/wfrun/process/0.5).
"""

from __future__ import annotations

import base64
import csv
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import codec
from .appscript import Clash, Script
from .crate_text import main_text, metadata, readme
from .errors import BadInput, SiteError
from .models import TASK_STATE, AppRecord, EnsembleRecord, JobRow, Resources
from .provenance import Provenance
from .results import ensemble_rows
from .usercode import pickled_whole

if TYPE_CHECKING:
    from .api import Site

_FIXED = ("row", "state", "return_code", "runtime_s", "error")


def export(site: Site, record: EnsembleRecord, path: str | os.PathLike[str]) -> Path:
    """Write an ensemble to a new folder, whole or not at all.

    Parameters
    ----------
    site : Site
        Of the ensemble.
    record : EnsembleRecord
        The ensemble.
    path : path
        The folder; it must not exist, or be empty.

    Returns
    -------
    Path
        The folder, absolute.

    Raises
    ------
    BadInput
        If there is something at `path`, or the ensemble has no rows.
    SiteError
        If it cannot be written.
    """
    folder = Path(path).expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInput(f"{folder} exists and is not an empty folder; choose another path.")
    rows = ensemble_rows(site, record)
    if not rows:
        raise BadInput(f"Ensemble {record.name!r} has no rows; there is nothing to export.")
    app = site.app(record.app_name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            _write(part, record, app, rows)
            part.chmod(0o777 & ~_umask())
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise SiteError(f"{folder} cannot be written ({error.strerror or error}).") from None
    return folder


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write(folder: Path, record: EnsembleRecord, app: AppRecord, rows: Sequence[JobRow]) -> None:
    parameters = [codec.decode(row.parameters) for row in rows]
    readers = _write_rows(folder / "rows.csv", parameters)
    _write_results(folder / "results.csv", rows, parameters)
    script = _script(app)
    for name, file in script.input_files.items():
        (folder / "inputs" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / "inputs" / name)
    for name, module in script.modules.items():
        if module.is_dir():
            shutil.copytree(module, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copyfile(module, folder / module.name)
    if script.values:
        (folder / "values.pickle").write_bytes(pickled_whole(script.values))
    text = main_text(script, app, record, readers, _submissions(rows))
    (folder / "app.py").write_text(text, encoding="utf-8")
    known = Provenance(record)
    (folder / "provenance.json").write_text(json.dumps(dict(known), indent=1, default=str), encoding="utf-8")
    (folder / "README.md").write_text(readme(record, app, rows, known, script), encoding="utf-8")
    files = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    crate = metadata(record, app, rows, known, files)
    (folder / "ro-crate-metadata.json").write_text(json.dumps(crate, indent=1), encoding="utf-8")


def _script(app: AppRecord) -> Script:
    try:
        script = Script(app)
        compile(script.text(), "app.py", "exec", dont_inherit=True)
    except (Clash, SyntaxError):  # what is reached cannot stand in one file
        script = Script(app, as_values=True)
    return script


# -- tables ----------------------------------------------------------------------------------------------------


def _write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Write the parameters; how to read each column again: ``int``, ``float``, ``str`` or ``_value``."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    readers = {name: _reader([row[name] for row in rows if name in row]) for name in columns}
    with open(file, "w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_written(row[name], readers[name]) if name in row else "" for name in columns])
    return readers


def _reader(values: Iterable[Any]) -> str:
    kinds = {type(value) for value in values}
    if kinds <= {int}:
        return "int"
    if kinds <= {float}:
        return "float"
    if kinds <= {str} and all(value and "\0" not in value and "\r" not in value for value in values):
        return "str"
    return "_value"


def _written(value: Any, reader: str) -> str:
    if reader == "str":
        return str(value)
    if reader != "_value":
        return repr(value)
    stored = codec.encode(value)
    if isinstance(stored, str):
        return stored
    return json.dumps({"repr": repr(value)[:200], "pickle": base64.b64encode(stored).decode()})


def _write_results(file: Path, rows: Sequence[JobRow], parameters: Sequence[Mapping[str, Any]]) -> None:
    """Parameters, state and what each task yielded; what CSV cannot hold is JSON text."""
    values: list[Mapping[str, Any]] = []
    for row in rows:
        value = codec.decode(row.value)
        values.append(value if isinstance(value, Mapping) else {} if value is None else {"value": value})
    yielded = list(dict.fromkeys(str(name) for value in values for name in value))
    given = list(dict.fromkeys(name for row in parameters for name in row))
    taken = {*_FIXED, *yielded}
    titles = ["row", *(f"param_{name}" if name in taken else name for name in given), *_FIXED[1:]]
    titles += [f"value_{name}" if name in _FIXED else name for name in yielded]
    with open(file, "w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(titles)
        for row, asked, value in zip(rows, parameters, values, strict=True):
            state = TASK_STATE[row.state]
            own = [state, row.return_code, row.runtime_s, row.error.strip()]
            cells = [row.row, *(asked.get(name) for name in given), *own, *(value.get(name) for name in yielded)]
            writer.writerow(map(_cell, cells))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    plain = value.tolist() if hasattr(value, "tolist") else value
    return json.dumps(plain, default=str)


def _submissions(rows: Sequence[JobRow]) -> list[tuple[int, dict[str, Any]]]:
    """How many rows in a row were submitted with which arguments of `submit_sweep`."""
    found: list[tuple[int, dict[str, Any]]] = []
    for row in rows:
        wants = _arguments(row)
        if found and found[-1][1] == wants:
            found[-1] = (found[-1][0] + 1, wants)
        else:
            found.append((1, wants))
    return found


_NAMES = {
    "num_nodes": "num_nodes", "ranks_per_node": "procs_per_node", "threads_per_rank": "threads_per_rank",
    "gpus_per_rank": "gpus_per_rank", "node_packing_count": "max_tasks_per_node", "wall_time_min": "wall_time_min",
    "launch_params": "extra_args",
}  # fmt: skip


def _arguments(row: JobRow) -> dict[str, Any]:
    usual = Resources()
    given = {
        ours: getattr(row.resources, name)
        for name, ours in _NAMES.items()
        if getattr(row.resources, name) != getattr(usual, name)
    }
    others = {
        "tags": {key: word for key, word in row.tags.items() if key != "workflow"},
        "transfers": dict(row.transfers),
        "max_retries": row.max_retries,
    }
    return given | {name: value for name, value in others.items() if value}
