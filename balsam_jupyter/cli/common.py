"""What the commands share: which site is meant, how a mistake is told, and how a result is shown."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import math
import os
import re
import sqlite3
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import BadInput, BalsamJupyterError, NotFound, listing, nearest

if TYPE_CHECKING:
    from ..api import Site

F = TypeVar("F", bound=Callable[..., Any])
_WIDE = "balsam_jupyter.wide"
MOST = 50
"""Rows a list shows, unless --limit says more."""


class Group(click.Group):
    """Commands whose mistakes are told in a line or two; a misspelt command gets the nearest."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As click does it, with the nearest name in the error."""
        name = args[0] if args else ""
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            ctx.fail(f"There is no command {name!r}: {listing(self.commands)}.{nearest(name, self.commands)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors of the package become click's."""
        try:
            return super().invoke(ctx)
        except BadInput as error:
            raise _Mistake(str(error)) from None
        except BalsamJupyterError as error:
            raise _Told(str(error)) from None
        except sqlite3.DatabaseError as error:
            why = f"The site's database cannot be used: {error}. balsam-jupyter site check says more."
            raise _Told(why) from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
                raise
            with contextlib.suppress(OSError):  # what is left in the buffer would fail again at the end
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise _Told(f"It could not be written: {error.strerror}.") from None


class _Told(click.ClickException):
    def show(self, file: Any = None) -> None:
        click.echo(f"Error: {self.format_message()}", file=file, err=True)


class _Mistake(_Told):
    exit_code = 2


@dataclass
class Shown:
    """What a command has to say: a JSON-able document, and the same for people as a table and lines.

    `code` is the exit code. `left_out` rows were cut off.
    """

    document: Any
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[object]] = ()
    lines: Sequence[str] = ()
    left_out: int = 0
    code: int = 0


def shows(command: Callable[..., Shown | None]) -> Callable[..., None]:
    """Give a command --json, and show what it returns."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
    @click.pass_context
    @functools.wraps(command)
    def wrapped(ctx: click.Context, /, as_json: bool, **options: Any) -> None:
        ctx.obj = as_json
        shown = command(**options)
        if shown is None:
            return
        if as_json:
            click.echo(json.dumps(_strict(shown.document), indent=1, default=str, allow_nan=False))
        else:
            _show(shown)
        ctx.exit(shown.code)

    return wrapped


def _strict(value: Any) -> Any:
    """The same with None for NaN and the infinities, which JSON has not."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _strict(one) for key, one in value.items()}
    return [_strict(one) for one in value] if isinstance(value, list | tuple) else value


def wants_json() -> bool:
    """Whether the command that runs was called with --json."""
    return bool(click.get_current_context().obj)


def _show(shown: Shown) -> None:
    if shown.columns:
        if sys.stdout.isatty():
            from .table import show_table

            show_table(shown.columns, shown.rows, bool(click.get_current_context().meta.get(_WIDE)))
        else:
            _plain_table(shown.columns, shown.rows)
    for line in shown.lines:
        click.echo(line)
    if shown.left_out:
        click.echo(f"… and {shown.left_out:,} more; --limit shows more of them", err=True)


def _plain_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Tabs between the values, nothing cut: for other programs."""
    for row in (columns, *rows):
        click.echo("\t".join(re.sub(r"[\t\n\r]+", " ", str(cell)) for cell in row))


# -- the site ----------------------------------------------------------------------------------------------


def at_site(command: F) -> F:
    """Give a command --site; it gets the open `site`."""
    return _at_site(command, lenient=False)


def at_any_site(command: F) -> F:
    """The same for commands that only look or stop something: a broken settings.yml is no more than a warning."""
    return _at_site(command, lenient=True)


def _at_site(command: F, lenient: bool) -> F:
    @click.option("--site", "where", metavar="NAME|DIRECTORY", help="The site (see balsam-jupyter --help).")
    @functools.wraps(command)
    def wrapped(where: str | None, **options: Any) -> Any:
        site = meant(where, lenient)
        try:
            return command(site=site, **options)
        finally:
            site.close()

    return wrapped  # type: ignore[return-value]


REMOTE = "balsam:"
"""Before the name of a site of a Balsam service."""


def meant(where: str | None, lenient: bool = False) -> Site:
    """The site of --site; without it that of the working directory, of BALSAM_SITE_PATH, or ``default``.

    ``balsam:NAME`` is a site of a Balsam service.

    Raises
    ------
    NotFound
        If there is no such site: none is made by asking for it.
    SiteError
        If its store is missing, or its settings are wrong (`lenient`: then a warning).
    """
    from ..api_site import opened

    if where is not None and where.startswith(REMOTE):
        return opened("balsam", where.removeprefix(REMOTE), None, lenient)
    name, folder = _named(where)
    site = opened("embedded", name, folder, lenient)
    if site.engine.trouble:
        click.echo(f"Warning: {site.engine.trouble} Until then nothing new is launched.", err=True)
    return site


def _named(where: str | None) -> tuple[str | None, str | None]:
    """Name or directory of the site meant."""
    from ..engines.base import registered_site, site_around, sites

    if where is None:
        here = site_around("embedded", Path.cwd())
        where = str(here) if here else os.environ.get("BALSAM_SITE_PATH")
    if not where:
        return "default", None
    if os.sep not in where and not where.startswith((".", "~")):
        try:
            ref: int | str = int(where) if where.isdecimal() else where
            return registered_site("embedded", ref), None
        except NotFound as error:
            if any(where == one.name for one in sites("balsam")):
                raise NotFound(
                    f"There is no site {where!r} on this machine; --site {REMOTE}{where} is the one of "
                    "your Balsam service."
                ) from error
            if not Path(where).is_dir():
                raise
    folder = Path(where).expanduser().resolve()
    if site_around("embedded", folder) != folder:
        raise NotFound(f"There is no site in {folder}; balsam-jupyter site init {folder} makes one.")
    return None, str(folder)


# -- words of the command line -----------------------------------------------------------------------------


def pairs(words: Iterable[str], option: str, form: str = "KEY=VALUE") -> dict[str, str]:
    """``KEY=VALUE`` words as a mapping."""
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise BadInput(f"{option} {word}: write {option} {form}.")
        if key in found:
            raise BadInput(f"{option} {key} is given twice.")
        found[key] = value
    return found


_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS = {"true": True, "false": False, "null": None, "~": None, ".nan": float("nan"), ".inf": float("inf")}


def scalar(name: str, text: str) -> Any:
    """A value as YAML 1.2 reads it: a number, true, false, null, a list or mapping in brackets, else text.

    ``007``, ``12:30`` and ``yes`` are text; quotes make anything text.
    """
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if text[:1] not in ("[", "{", "'", '"'):
        return _WORDS.get(text, text)
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadInput(f"{name}={text}: {str(error).splitlines()[0]}; quote it to have it as text.") from None


def scalars(words: Iterable[str], option: str) -> dict[str, Any]:
    """``NAME=VALUE`` words as a mapping to values."""
    return {name: scalar(name, text) for name, text in pairs(words, option, "NAME=VALUE").items()}


def said(values: Mapping[str, object]) -> str:
    """A mapping in a cell."""
    return " ".join(f"{key}={value}" for key, value in values.items())


def capped(rows: Sequence[Any], limit: int | None) -> tuple[Sequence[Any], int]:
    """The rows to show, and how many are left out."""
    most = MOST if limit is None else limit
    return rows[:most], max(0, len(rows) - most)


limit_option = click.option("--limit", type=click.IntRange(min=1), help=f"Show at most so many (default {MOST}).")
wide_option = click.option(
    "--wide", is_flag=True, expose_value=False, help="Every column in full, however wide the terminal is.",
    callback=lambda ctx, _, value: ctx.meta.__setitem__(_WIDE, value),
)  # fmt: skip
