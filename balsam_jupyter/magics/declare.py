"""The magics with which a notebook begins: the site, and its apps."""

from __future__ import annotations

import logging
from typing import Any

from ..engines.base import signed_in, sites
from ..errors import BadInput
from . import appcell
from .grammar import FLAG, PAIR, argument, option
from .line import Asked
from .magic import magic
from .report import Report, Table
from .session import Session

log = logging.getLogger(__name__)


@magic(
    argument("name", "the site's name; left out with --path too: the current site, else 'default'", default=None,
             completes="site"),
    option("--path", "its directory; left out: where the site of that name is, or a new one", metavar="DIR",
           completes="path"),
    option("--engine", "'embedded' (the default): this machine; 'balsam': a site of your Balsam service",
           completes="engine"),
)  # fmt: skip
def balsam_site(session: Session, asked: Asked) -> Any:
    """Open a site, creating it if need be; the other magics then work on it. No arguments: show the current one.

    Examples::

        %balsam_site melts --path ~/melts
        %balsam_site polaris --engine balsam
    """
    from ..api import open_site

    if asked.name is asked.path is asked.engine is None:
        return session.site
    here = {"default", None, *(one.name for one in sites("embedded"))}
    opened = open_site(asked.name, asked.path, asked.engine or "embedded")
    if asked.engine is asked.path is None and asked.name not in here and signed_in():
        log.warning(
            "Site %r is new, on this machine; the one of that name at your Balsam service is %%balsam_site %s "
            "--engine balsam.", asked.name, asked.name,
        )  # fmt: skip
    return opened


@magic(
    argument("name", "the app's name", completes="app"),
    option("--param", "a parameter of the template", metavar="NAME[=DEFAULT]", many=True),
    option("--output", "a value it yields: a regular expression with one group for its log, or file.json:key",
           kind=PAIR, metavar="NAME=SPEC", many=True),
    option("--input", "files for each task: copied, or filled in with the parameters if they end in .j2",
           metavar="FILE", many=True, greedy=True, completes="path"),
    option("--env", "an environment variable", kind=PAIR, many=True),
    option("--python", "the cell is Python; its last function is the app", kind=FLAG),
    cell="the command, or with `--python` the function",
    line=False,
    fills=False,
)  # fmt: skip
def balsam_app(session: Session, asked: Asked, cell: str) -> Any:
    r"""Make an app of the cell: a command with {{ parameters }}, or with --python a function.

    Examples::

        %%balsam_app hello --output 'words=Hello, (.*)!'
        echo "Hello, {{ name }}!"

        %%balsam_app area --python
        def area(width: float, height: float = 1.0):
            return width * height
    """
    body: dict[str, Any] = {
        "outputs": dict(asked.output),
        "inputs": appcell.input_files(asked.input),
        "environment_variables": dict(asked.env),
    }
    if asked.python:
        if asked.param:
            raise BadInput("--param is for commands; with --python the function's arguments are the parameters.")
        body["run"] = appcell.define(session.shell, cell)
    else:
        body["command_template"] = cell.strip()
        if asked.param:
            body["parameters"] = appcell.parameters(asked.param)
    return appcell.register(session.site, asked.name, body, f"%%balsam_app {asked.line}\n{cell}")


@magic()
def balsam_apps(session: Session, asked: Asked) -> Any:
    """List the apps of the site, with their parameters (and defaults) and what they yield.

    Example::

        %balsam_apps
    """
    site = session.site
    rows = [
        [app.name, {"shell": "command"}.get(app.kind, app.kind), appcell.signature(app), ", ".join(app.outputs)]
        for app in sorted(site.engine.apps(), key=lambda app: app.name)
    ]
    if not rows:
        return Report(f"Site {site.name!r} has no apps yet: make one with %%balsam_app.")
    return Report("", [Table(["app", "kind", "parameters", "yields"], rows)])
