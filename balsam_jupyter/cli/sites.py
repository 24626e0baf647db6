"""``site`` and ``app``."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import REMOTE, Group, Shown, at_any_site, at_site, capped, limit_option, shows, wide_option

if TYPE_CHECKING:
    from ..api import Site
    from ..models import AppRecord, SiteRecord


@click.group(cls=Group)
def site() -> None:
    """Directories where jobs run."""


@site.command("ls")
@wide_option
@limit_option
@shows
def site_ls(limit: int | None) -> Shown:
    """List the sites of this user, and those of a Balsam service that were opened here."""
    from ..engines.base import sites

    found = [*sites("embedded"), *(replace(one, name=REMOTE + one.name) for one in sites("balsam"))]
    shown, left_out = capped(found, limit)
    rows = [[one.id, one.name, one.path, _note(one)] for one in shown]
    listed = [{"id": one.id, "name": one.name, "path": one.path} for one in shown]
    return Shown({"sites": listed, "left_out": left_out}, ("id", "name", "path", "note"), rows, (), left_out)


def _note(record: SiteRecord) -> str:
    if record.name.startswith(REMOTE):
        return "" if record.here else "elsewhere"
    return "" if Path(record.path).is_dir() else "gone"


@site.command("init")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--name", help="Its name; by default the directory's.")
@shows
def site_init(directory: Path, name: str | None) -> Shown:
    """Make DIRECTORY a site, with settings.yml and job-template.sh to edit; an existing one is left as it is."""
    from ..api import open_site

    made = open_site(name, directory.expanduser())
    path = made.path
    document = {"id": made.id, "name": made.name, "path": path}
    made.close()
    return Shown(document, lines=[f"Site {made.name!r} is at {path}; settings.yml there says what it may use."])


@site.command("check")
@at_any_site
@shows
def site_check(site: Site) -> Shown:
    """Look for faults of the store and of the files, and say what to do; exit code 1 if there is one."""
    found = site.engine.check()
    faults = sum(one.fault for one in found)
    lines = [text for one in found for text in (f"{'FAULT' if one.fault else 'note'}: {one.what}", f"  → {one.todo}")]
    lines.append(f"Site {site.name!r}: {faults or 'no'} fault{'' if faults == 1 else 's'}.")
    document = {"site": site.name, "faults": faults, "findings": [one._asdict() for one in found]}
    return Shown(document, lines=lines, code=1 if faults else 0)


@site.command("vacuum")
@at_site
@shows
def site_vacuum(site: Site) -> Shown:
    """Make the store small and remove what ended launchers left. Refused while launchers run."""
    from ..disk import human

    done = site.engine.vacuum()
    lines = [
        f"The store has {human(done.size_after)} (before: {human(done.size_before)}); "
        f"removed from run/: {done.folders} folder{'' if done.folders == 1 else 's'} of closed sessions."
    ]
    if done.jobs:
        lines.append(f"Jobs whose session is no more, and that can run again now: {done.jobs}.")
    return Shown({"site": site.name, **done._asdict()}, lines=lines)


@site.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--format", "kind", type=click.Choice(["csv", "parquet"]), help="By default what FILE ends in.")
@at_any_site
@shows
def site_export(site: Site, file: Path, kind: str | None) -> Shown:
    """Write all jobs to FILE and all events beside it (runs.csv and runs.events.csv), as CSV or Parquet."""
    from ..export import export

    written = export(site.engine, file, kind or "")
    lines = [
        f"{path}: {number:,} {what}" for (path, number), what in zip(written.items(), ("jobs", "events"), strict=True)
    ]
    return Shown({str(path): number for path, number in written.items()}, lines=lines)


@click.group(cls=Group)
def app() -> None:
    """What jobs run."""


@app.command("ls")
@wide_option
@limit_option
@click.option("-v", "--verbose", is_flag=True, help="Everything there is about each.")
@at_any_site
@shows
def app_ls(site: Site, limit: int | None, verbose: bool) -> Shown:
    """List the apps of the site with their parameters."""
    shown, left_out = capped(site.engine.apps(), limit)
    listed = [
        {
            "id": one.id,
            "name": one.name,
            "kind": one.kind,
            "parameters": {name: {k: v for k, v in asdict(p).items() if v != ""} for name, p in one.parameters.items()},
            "command_template": one.command_template,
            "description": one.description,
            "hooks": one.hooks,
            "transfers": one.transfers,
            "cleanup_files": one.cleanup_files,
            "environment_variables": one.environment_variables,
            "outputs": one.outputs,
            "version": one.version,
        }
        for one in shown
    ]
    if verbose:
        return Shown({"apps": listed, "left_out": left_out}, lines=[line for one in shown for line in _whole(one)])
    rows = []
    for one in shown:
        parameters = " ".join(name if p.required else f"[{name}={p.default!r}]" for name, p in one.parameters.items())
        command = one.command_template if one.kind == "shell" else one.description
        first, *more = command.strip().splitlines() or [""]
        rows.append([one.id, one.name, one.kind, parameters, first + (" …" if more else "")])
    columns = ("id", "name", "kind", "parameters", "command")
    lines = [] if rows else ["There are no apps; BalsamExecutor.register_app and %%balsam_app make one."]
    return Shown({"apps": listed, "left_out": left_out}, columns if rows else (), rows, lines, left_out)


def _whole(one: AppRecord) -> list[str]:
    """Everything there is about an app, a line for each thing."""
    lines = [f"{one.name} (app {one.id}, {one.kind}, version {one.version})"]
    lines += [f"  {line}" for line in one.description.strip().splitlines()]
    for name, wants in one.parameters.items():
        default = "" if wants.required else f" = {wants.default!r}"
        lines.append(f"  parameter {name}{default}" + (f": {wants.help}" if wants.help else ""))
    command = one.command_template.strip().splitlines() if one.kind == "shell" else ["run()"]
    lines += ["  command:", *(f"    {line}" for line in command)]
    if one.hooks:
        lines.append(f"  hooks: {', '.join(one.hooks)}")
    for slot, way in one.transfers.items():
        wanted = "required" if way["required"] else "optional"
        lines.append(f"  transfer {slot}: {way['direction']} {way['local_path']} ({wanted})")
    lines += [f"  output {name}: {spec or 'a function'}" for name, spec in one.outputs.items()]
    lines += [f"  environment {name}={value}" for name, value in one.environment_variables.items()]
    if one.cleanup_files:
        lines.append(f"  cleanup: {' '.join(one.cleanup_files)}")
    return [*lines, ""]
