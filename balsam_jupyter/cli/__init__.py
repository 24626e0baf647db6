"""``balsam-jupyter …``: the same verbs on a terminal."""

from __future__ import annotations

import click

from .. import __version__
from . import byhand  # noqa: F401 (adds a command to `job`)
from .common import Group
from .jobs import job, kill
from .login import login
from .queue import launcher, queue, submit_launch
from .service import service
from .sites import app, site


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="balsam-jupyter")
def main() -> None:
    """Sites, apps, jobs and allocations of balsam-jupyter on a terminal.

    Every command takes --site NAME, --site DIRECTORY or, for a site of a Balsam service, --site balsam:NAME; without
    it, it is for the site whose directory you are in, else for the one BALSAM_SITE_PATH names, else for the site
    'default'. With --json, a command prints one JSON document. The exit code is 0, 1 (it could not be done, or a
    check found faults) or 2 (a mistake on the command line).
    """


for command in (site, app, submit_launch, launcher, queue, job, kill, service, login):
    main.add_command(command)
