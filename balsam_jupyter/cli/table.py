"""A table on a terminal: one line a row, with the columns there is room for."""

from __future__ import annotations

from collections.abc import Sequence

import click

_DROPPED = ("project", "queue", "tags", "workdir", "code")
"""Columns that are left out where there is no room, the first of these first."""
_CUT_IN_THE_MIDDLE = ("workdir", "path", "app", "ensemble", "name")
_CUT_AT_THE_END = ("tags", "note", "command", "parameters", "for")
_GAP = 2
_ROOM = 16  # characters a column that is cut has at least, while others can be left out
_LITTLE = 6
_COLOURS = {
    "JOB_FINISHED": "green", "RUNNING": "cyan", "running": "cyan", "FAILED": "red", "submit_failed": "red",
    "USER_KILLED": "yellow", "RUN_TIMEOUT": "yellow", "RUN_ERROR": "yellow",
}  # fmt: skip


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]], wide: bool) -> None:
    """Print it; `wide` is in full, whatever the terminal's width."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console, ConsoleDimensions
    from rich.table import Table
    from rich.text import Text

    cells = [[" ".join(str(cell).split()) for cell in row] for row in rows]
    told = [at for at in range(len(columns)) if any(row[at] for row in cells)]  # an empty column only takes room
    natural = {columns[at]: max(len(columns[at]), *(len(row[at]) for row in cells)) for at in told}
    console = Console(highlight=False)
    widths = natural if wide else fit(natural, console.width)
    console.size = ConsoleDimensions(max(console.width, _total(widths)), console.height)  # also of a dumb terminal
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, _GAP - 1, 0, 0), header_style="bold")
    for name, width in widths.items():
        table.add_column(name, no_wrap=True, width=width)
    shown = [at for at in told if columns[at] in widths]
    for row in cells:
        words = (shortened(row[at], columns[at], widths[columns[at]]) for at in shown)
        table.add_row(*(Text(word, style=_COLOURS.get(word, "")) for word in words))
    console.print(table)
    if left_out := [name for name in natural if name not in widths]:
        click.echo(f"no room for {', '.join(left_out)}: --wide", err=True)


def fit(natural: dict[str, int], room: int) -> dict[str, int]:
    """The columns that have room in so many characters, with their widths; `natural` is what each would take."""
    kept = dict(natural)
    for dropped in (None, *_DROPPED):
        kept.pop(dropped, None)  # type: ignore[arg-type]
        widths = _squeezed(kept, room, _ROOM)
        if _total(widths) <= room:
            return widths
    return _squeezed(kept, room, _LITTLE)


def _squeezed(natural: dict[str, int], room: int, least: int) -> dict[str, int]:
    """The widths with those columns cut that can be, the widest first, until all fit or none has more than `least`."""
    widths = dict(natural)
    soft = [name for name in widths if name in (*_CUT_IN_THE_MIDDLE, *_CUT_AT_THE_END)]
    for _ in range(_total(widths) - room):
        longest = max(soft, key=widths.__getitem__, default="")
        if not longest or widths[longest] <= least:
            break
        widths[longest] -= 1
    return widths


def _total(widths: dict[str, int]) -> int:
    return sum(widths.values()) + _GAP * (len(widths) - 1)


def shortened(text: str, column: str, width: int) -> str:
    """The text in so many characters, with an ellipsis for what is missing."""
    if len(text) <= width:
        return text
    if column not in _CUT_IN_THE_MIDDLE:
        return text[: width - 1] + "…"
    end = width // 2
    return text[: width - 1 - end] + "…" + text[len(text) - end :]
