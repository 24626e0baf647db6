"""Where the rows of ensembles have their directories: computed, not stored."""

from __future__ import annotations

import re

FOLDER_SIZE = 5000


def row_workdir(ensemble: str, generation: int, row: int) -> str:
    """Directory of an ensemble's row below ``data/``: at most 5,000 rows (and folders of rows) in a folder."""
    top = ensemble if generation == 1 else f"{ensemble}~{generation}"  # no ensemble can have such a name
    if row < FOLDER_SIZE:
        return f"{top}/{row}"
    first = row - row % FOLDER_SIZE
    return f"{top}/{first}-{first + FOLDER_SIZE - 1}/{row}"


def row_of(workdir: str) -> tuple[str, int, int] | None:
    """Ensemble, generation and row whose directory has this name, whether or not there is such an ensemble."""
    top, _, rest = workdir.partition("/")
    found = re.fullmatch(r"(.+?)(?:~(\d+))?", top)
    row = rest.rpartition("/")[2]
    if found and row.isdecimal():
        name, generation = found[1], int(found[2] or 1)
        if row_workdir(name, generation, int(row)) == workdir:
            return name, generation, int(row)
    return None
