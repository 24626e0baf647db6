"""What a plot reads of an ensemble's table: the columns, and the cells of a sample of the rows that have ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..history import ENDED
from ..tables import Table
from .columns import shown

_SHOWN = 12  # parameters and values beside a point
_RANGE = 1 << 32


@dataclass
class Sample:
    """Rows that have ended, in the order in which this plot first saw them.

    Attributes
    ----------
    parameters, values : list of str
        Names of the columns that were given, and of those that the app yields.
    types : dict of str to Counter
        How many cells of each type the columns have, those of rows left out included.
    total, ended : int
        Numbers of rows: in the ensemble, and that have ended.
    finished : bool
        Whether any row has finished well, so that all columns are known.
    tasks, rows : list of int
        Task and number of each row of the sample.
    cells : dict of str to list
        The sample's cells by column.
    """

    parameters: list[str]
    values: list[str]
    types: dict[str, Counter[type]]
    total: int
    ended: int
    finished: bool
    tasks: list[int]
    rows: list[int]
    cells: dict[str, list[Any]]

    @property
    def names(self) -> list[str]:
        """The columns that can be plotted."""
        return [*self.parameters, "state", "return_code", "runtime_s", *self.values, "row", "task"]

    def texts(self) -> list[str]:
        """What is said beside each point: its row, what was given, what it yields, a line each."""
        told = [name for name in (*self.parameters, *self.values) if name in self.cells][:_SHOWN]
        columns = [(name, self.cells[name]) for name in told]
        states = self.cells["state"]
        texts = []
        for at, row in enumerate(self.rows):
            state = "" if states[at] == "FINISHED" else f" · {states[at]}"
            lines = [f"{name} = {shown(cells[at], 40)}" for name, cells in columns if cells[at] is not None]
            texts.append("\n".join([f"row {row}{state}", *lines]))
        return texts


def read(table: Table, wanted: Iterable[str], most: int, seen: dict[int, None]) -> Sample:
    """A sample of at most `most` rows; `seen`, which is brought up to date, has the tasks of the last one in order.

    With more rows than that, those whose hashed id is below 1/2, 1/4, … of the range are taken: as good as drawn, the
    same in each kernel, and a point that is shown stays until the sample is halved the next time.
    """
    columns = table.columns()
    names = list(columns)
    own = names.index("state")
    states, ids = columns["state"].cells, columns["task"].cells
    ended = [at for at, state in enumerate(states) if state in ENDED]
    chosen = _thinned(ended, ids, most) if len(ended) > most else ended

    position = {ids[at]: at for at in chosen}
    for task in [task for task in seen if task not in position]:
        del seen[task]
    seen.update(dict.fromkeys(position))
    order = [position[task] for task in seen]

    parameters, values = names[1:own], names[own + 3 : -3]
    asked = (name for name in wanted if isinstance(name, str))
    picked = {*asked, "state", *parameters[:_SHOWN], *values[:_SHOWN]} & {*names}
    return Sample(
        parameters=parameters,
        values=values,
        types={name: Counter(column.types) for name, column in columns.items()},
        total=len(states),
        ended=len(ended),
        finished=any(states[at] == "FINISHED" for at in chosen),
        tasks=[ids[at] for at in order],
        rows=[columns["row"].cells[at] for at in order],
        cells={name: [columns[name].cells[at] for at in order] for name in picked},
    )


def _thinned(positions: list[int], ids: list[int], most: int) -> list[int]:
    at = np.array(positions)
    mixed = np.array(ids, dtype=np.uint64)[at]
    for factor in (0x7FEB352D, 0x846CA68B):  # the mixer "lowbias32": any two ids land independently
        mixed ^= mixed >> np.uint64(16)
        mixed = mixed * np.uint64(factor) & np.uint64(_RANGE - 1)
    mixed ^= mixed >> np.uint64(16)
    below = _RANGE
    while len(at) > most:
        below //= 2
        keep = mixed < below
        at, mixed = at[keep], mixed[keep]
    found: list[int] = at.tolist()
    return found
