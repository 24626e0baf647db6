"""``job try``: one job's app again, in this terminal."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import BadInput
from .common import Shown, at_site, shows, wants_json
from .jobs import job

if TYPE_CHECKING:
    from ..api import Site


@job.command("try")
@click.argument("what", metavar="ID")
@click.option("--in", "folder", metavar="DIRECTORY", help="Run it there: new or empty; by default a temporary one.")
@at_site
@shows
def job_try(site: Site, what: str, folder: str | None) -> Shown:
    """Run a job's app again here, in a directory of its own; nothing is stored, and it exits as the app does.

    balsam-jupyter job try 17 --in /tmp/look
    """
    from ..verbs import find

    query, words = find(site.engine, what)
    if query.ensemble is not None:
        raise BadInput(f"{words} has many jobs; name one: balsam-jupyter job ls --ensemble {what} shows their ids.")
    (row,) = site.engine.jobs(query)
    where = Path(folder if folder is not None else tempfile.mkdtemp(prefix=f"balsam-try-{row.id}-"))
    output = sys.stderr.fileno() if wants_json() else sys.stdout.fileno()  # one JSON document is all that is on stdout
    code = site.engine.try_job(row.id, where, output, lambda line: click.echo(line, err=True))
    if not wants_json():
        click.echo(f"exit code {code}" if code >= 0 else f"ended by signal {-code}", err=True)
    document = {"id": row.id, "directory": str(where), "return_code": code}
    return Shown(document, code=code if code >= 0 else 128 - code)
