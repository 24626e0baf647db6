"""Every command in the documentation of the terminal can be parsed, and every command is documented."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from balsam_jupyter import cli

DOCS = (Path(__file__).resolve().parent.parent / "docs" / "cli.md").read_text()
LINES = [line for block in re.findall(r"```console\n(.*?)```", DOCS, re.DOTALL) for line in block.splitlines()]


def parsed(words: list[str]) -> click.Command:
    """The command of a line, whose options have been parsed."""
    context = click.Context(cli.main, info_name=words[0])
    command: click.Command = cli.main
    rest = words[1:]
    while isinstance(command, click.Group):
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command = found
    command.make_context(name, list(rest), context)
    return command


def leaves(group: click.Group) -> list[click.Command]:
    found: list[click.Command] = []
    for command in group.commands.values():
        found += leaves(command) if isinstance(command, click.Group) else [command]
    return found


@pytest.mark.parametrize("line", LINES)
def test_a_documented_line_is_right(line: str) -> None:
    assert parsed(shlex.split(line, comments=True)).callback is not None


def test_every_command_has_help_and_options_with_help() -> None:
    for command in leaves(cli.main):
        assert command.help, command.name
        names = {name for parameter in command.params for name in parameter.opts}
        assert "--json" in names, command.name
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.hidden or parameter.help, parameter.opts
