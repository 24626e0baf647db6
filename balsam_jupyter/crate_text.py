"""The texts in an exported ensemble: what runs it, what explains it, what describes it to programs."""

from __future__ import annotations

import datetime
import mimetypes
import pprint
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from . import __version__
from .appscript import Script
from .models import TASK_STATE, AppRecord, EnsembleRecord, JobRow
from .provenance import Provenance
from .results import words

_CRATE = "https://w3id.org/ro/crate/1.1"
_PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
_ABOUT = {
    "app.py": "The app, and what runs all rows again",
    "rows.csv": "The parameters of each row",
    "results.csv": "Parameters, state and results of each row",
    "provenance.json": "Who submitted the rows, when, and with what",
    "README.md": "What this is and how to run it again",
    "values.pickle": "Values that app.py uses and that have no text",
}

_MAIN = '''{head}

_HERE = _pathlib.Path(__file__).resolve().parent
{values}

{app}


_NAME = {name!r}
_COLUMNS = {readers}
# How many rows, one after another, were submitted with which arguments.
_SUBMISSIONS = {submissions}


def _rows():
    """The rows of rows.csv."""
    import csv

    with open(_HERE / "rows.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    return [{{name: _COLUMNS[name](cell) for name, cell in row.items() if cell}} for row in table]


def _main():
    """Submit all rows to a site, wait for them and print what each gave, a line of JSON for each."""
    import argparse
    import json

    from balsam_jupyter import BalsamExecutor, open_site

    parser = argparse.ArgumentParser(description="Run all rows again, and print what each gives as a line of JSON.")
    parser.add_argument("--site", default=_HERE / "site", help="directory of the site; made if it is new")
    parser.add_argument("--minutes", type=float, default=60, help="wall time of the allocation")
    parser.add_argument("--nodes", type=int, default={nodes}, help="nodes of the allocation")
    asked = parser.parse_args()
    site = open_site(path=asked.site)
    exctr = BalsamExecutor(site)
    exctr.register_app({cls}, app_name={app_name!r})
    waiting = _rows()
    for number, wants in _SUBMISSIONS:
        submitted, waiting = waiting[:number], waiting[number:]
        ensemble = exctr.submit_sweep({app_name!r}, submitted, _NAME, **wants)
    allocation = exctr.submit_allocation(site.id, asked.nodes, asked.minutes, job_mode={mode!r})
    try:
        ensemble.wait()
    finally:
        exctr.revoke_allocation(allocation)
    for number, task in enumerate(ensemble.tasks()):
        value = task.value() if task.state == "FINISHED" else None
        print(json.dumps({{"row": number, "state": task.state, "value": value}}, default=str))


if __name__ == "__main__":
    _main()
'''

_VALUE = '''


def _value(cell):
    """A value of rows.csv: JSON, or a pickle where JSON cannot hold it."""
    import base64
    import json
    import pickle

    plain = json.loads(cell)
    pickled = isinstance(plain, dict) and set(plain) == {"repr", "pickle"}
    return pickle.loads(base64.b64decode(plain["pickle"])) if pickled else plain'''

_VALUES = """
with open(_HERE / "values.pickle", "rb") as _values:
    globals().update(_pickle.load(_values))
"""


def main_text(
    script: Script,
    app: AppRecord,
    record: EnsembleRecord,
    readers: Mapping[str, str],
    submissions: Sequence[tuple[int, dict[str, Any]]],
) -> str:
    """The text of ``app.py``."""
    several = any(wants.get("num_nodes", 1) * wants.get("procs_per_node", 1) > 1 for _, wants in submissions)
    shown = "{" + ", ".join(f"{name!r}: {reader}" for name, reader in readers.items()) + "}"
    head = [
        '"""'
        + re.sub(r'["\\\\]', "", f"The ensemble {record.name} of {app.name}. To run it again: python app.py")
        + '"""',
        "",
        "from __future__ import annotations",
        "",
        "import pathlib as _pathlib",
        *(["import pickle as _pickle"] if script.values else []),
        *script.imports(),
    ]
    return _MAIN.format(
        head="\n".join(head),
        values=_VALUES if script.values else "",
        app=script.text() + (_VALUE if "_value" in readers.values() else ""),
        name=record.name,
        readers=shown,
        submissions=pprint.pformat(list(submissions), width=110, sort_dicts=False),
        nodes=max(wants.get("num_nodes", 1) for _, wants in submissions),
        cls=script.class_name,
        app_name=app.name,
        mode="mpi" if several else "serial",
    )


def readme(record: EnsembleRecord, app: AppRecord, rows: Sequence[JobRow], known: Provenance, script: Script) -> str:
    """The text of ``README.md``."""
    counts = words(Counter(TASK_STATE[row.state] for row in rows))
    versions = sorted({row.app_version for row in rows})
    last: dict[str, Any] = known["submissions"][-1] if known["submissions"] else {"python": "", "packages": {}}
    packages = "\n".join(f"- {name} {version}" for name, version in last["packages"].items())
    lines = [
        f"# {record.name}",
        "",
        f"{_row_count(rows)} of the app {app.name}: {counts}. {app.description}".rstrip(),
        "",
        "## Run it again",
        "",
        f"    pip install 'balsam-jupyter=={__version__}'  # and what app.py imports; versions are below",
        "    python app.py",
        "",
        "It makes a site in the folder `site`, runs all rows of `rows.csv` there and prints what each gave; "
        "`python app.py --help` shows how to choose another site, more nodes or minutes.",
        "",
        "## What is here",
        "",
        *(f"- `{name}`: {about}" for name, about in _ABOUT.items() if name != "values.pickle" or script.values),
        "",
        f"## Versions of the last submission\n\n- Python {last['python']}\n{packages}",
        "",
    ]
    notes = []
    if versions != [app.version]:
        notes.append(
            f"`app.py` is version {app.version[:8]} of the app; rows were submitted with "
            f"{', '.join(version[:8] for version in versions)}, as written in `provenance.json`."
        )
    if any(row.parent_ids for row in rows):
        notes.append("Rows had parents among other jobs, which are not here.")
    if app.transfers:
        notes.append("The app copies files from and to transfer locations, which the site's settings must name.")
    if script.values:
        notes.append("`values.pickle` holds what has no text; load it only if you trust who made it.")
    if notes:
        lines += ["## To know", "", *(f"- {note}" for note in notes), ""]
    return "\n".join(lines)


def _row_count(rows: Sequence[JobRow]) -> str:
    return "1 row" if len(rows) == 1 else f"{len(rows):,} rows"


def metadata(
    record: EnsembleRecord, app: AppRecord, rows: Sequence[JobRow], known: Provenance, files: Sequence[str]
) -> dict[str, Any]:
    """The content of ``ro-crate-metadata.json``."""
    people = sorted({one["user"] for one in known["submissions"]})
    agents = [{"@id": f"#user-{quote(name)}"} for name in people]
    starts = [row.start_time for row in rows if row.start_time is not None]
    ends = [row.end_time for row in rows if row.end_time is not None]
    finished = all(row.state == "JOB_FINISHED" for row in rows)
    action: dict[str, Any] = {
        "@id": "#run",
        "@type": "CreateAction",
        "name": f"Run of {record.name}",
        "description": f"{_row_count(rows)}: {words(Counter(TASK_STATE[row.state] for row in rows))}",
        "instrument": {"@id": "app.py"},
        "object": [{"@id": "rows.csv"}],
        "result": [{"@id": "results.csv"}],
        "actionStatus": {"@id": f"http://schema.org/{'Completed' if finished else 'Failed'}ActionStatus"},
    }
    if agents:
        action["agent"] = agents
    if starts:
        action["startTime"] = _iso(min(starts))
    if ends:
        action["endTime"] = _iso(max(ends))
    python = known["submissions"][-1]["python"] if known["submissions"] else ""
    return {
        "@context": f"{_CRATE}/context",
        "@graph": [
            {
                "@id": "ro-crate-metadata.json",
                "@type": "CreativeWork",
                "conformsTo": {"@id": _CRATE},
                "about": {"@id": "./"},
            },
            {
                "@id": "./",
                "@type": "Dataset",
                "name": record.name,
                "description": app.description or f"An ensemble of runs of {app.name}",
                "datePublished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                "license": "Not stated: ask who made it",
                "conformsTo": {"@id": _PROFILE},
                "hasPart": [{"@id": quote(name)} for name in files],
                "mentions": [{"@id": "#run"}],
                **({"author": agents} if agents else {}),
            },
            {"@id": _PROFILE, "@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"},
            *(_file(name, app) for name in files),
            action,
            *({"@id": f"#user-{quote(name)}", "@type": "Person", "name": name} for name in people),
            {
                "@id": "#python",
                "@type": "ComputerLanguage",
                "name": "Python",
                "url": {"@id": "https://www.python.org/"},
                **({"version": python} if python else {}),
            },
            {
                "@id": "#balsam-jupyter",
                "@type": "SoftwareApplication",
                "name": "balsam-jupyter",
                "url": "https://pypi.org/project/balsam-jupyter/",
                "version": __version__,
            },
        ],
    }


def _file(name: str, app: AppRecord) -> dict[str, Any]:
    entity: dict[str, Any] = {"@id": quote(name), "@type": "File", "name": _ABOUT.get(name, name)}
    if kind := "text/markdown" if name.endswith(".md") else mimetypes.guess_type(name)[0]:
        entity["encodingFormat"] = kind
    if name == "app.py":
        entity |= {
            "@type": ["File", "SoftwareSourceCode"],
            "name": app.name,
            "description": _ABOUT[name],
            "version": app.version,
            "programmingLanguage": {"@id": "#python"},
            "softwareRequirements": {"@id": "#balsam-jupyter"},
        }
    return entity


def _iso(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc).isoformat(timespec="seconds")
