"""``service``: what asks for allocations by itself."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from .common import Group, Shown, at_any_site, at_site, pairs, shows, wants_json

if TYPE_CHECKING:
    from ..api import Site
    from ..service import ServiceReport

F = TypeVar("F", bound=Callable[..., Any])

_SETTINGS = (
    click.option("--min-nodes", type=int, default=1, show_default=True, help="Nodes of an allocation, at least."),
    click.option("-n", "--max-nodes", type=int, help="Nodes of all it asks for together (default: all of the site)."),
    click.option(
        "-t", "--wall-time-min", "--minutes", type=float, default=60, show_default=True, help="Minutes of each."
    ),
    click.option("-j", "--job-mode", default="mpi", show_default=True, help="'mpi' or 'serial'."),
    click.option("-q", "--queue", default="local", show_default=True, help="The scheduler's queue."),
    click.option("-A", "--project", default="local", show_default=True, help="The account that is charged."),
    click.option("--max-queued", type=int, default=1, show_default=True, help="How many may wait for nodes."),
    click.option("-tag", "--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Only for jobs with this tag."),
    click.option("--wf-filter", default="", metavar="TEXT", help="Only for jobs whose tag 'workflow' has this in it."),
    click.option("--period", type=float, default=1.0, show_default=True, help="Seconds between two, at least."),
)


def set_up(command: F) -> F:
    """Give a command the settings of the service."""
    for option in reversed(_SETTINGS):
        command = option(command)
    return command


@click.group(cls=Group)
def service() -> None:
    """A process that asks for allocations while work waits, and outlives your login.

    There is one for a site. Its allocations end by themselves when they have nothing to run. What it does and why is
    in the site's log/service.log.
    """


@service.command("start")
@set_up
@click.option("--replace", is_flag=True, help="Stop one that runs with other settings.")
@at_site
@shows
def start(site: Site, replace: bool, tags: tuple[str, ...], **settings: Any) -> Shown:
    """Start it; nothing happens if it runs already with these settings, or if none are given."""
    context = click.get_current_context()
    given = [name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if set(given) <= {"where", "as_json"} and (now := site.service.status()).running:
        return _shown(now)
    return _shown(site.service.start(**settings, filter_tags=pairs(tags, "--tag"), replace=replace))


@service.command("stop")
@click.option("--revoke", is_flag=True, help="End its allocations, too.")
@at_any_site
@shows
def stop(site: Site, revoke: bool) -> Shown:
    """Stop it; its allocations go on."""
    before = site.service.status().status.allocations if revoke else ()
    site.service.stop(revoke)
    now = site.service.status()
    ended = [str(number) for number in before if number not in now.status.allocations]
    shown = _shown(now)
    lines = [*shown.lines, f"  allocations ended: {', '.join(ended)}"] if ended else shown.lines
    return Shown(shown.document, lines=lines)


@service.command("status")
@at_any_site
@shows
def status(site: Site) -> Shown:
    """Say whether it runs, since when, with which settings, and what it did last."""
    return _shown(site.service.status())


@service.command("run")
@set_up
@at_site
@shows
def run(site: Site, tags: tuple[str, ...], **settings: Any) -> Shown:
    """Be the service in the foreground, until Ctrl-C."""
    from ..service import service_settings

    def show(line: str) -> None:
        click.echo(line, err=wants_json())

    asked = service_settings(site.engine.site, **settings, filter_tags=pairs(tags, "--tag"))
    site.engine.service.run(asked, show)
    return Shown(site.service.status().document())


def _shown(report: ServiceReport) -> Shown:
    lines = report.lines()
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        lines = [part for line in lines for part in textwrap.wrap(line, width, subsequent_indent="      ")]
    return Shown(report.document(), lines=lines)
