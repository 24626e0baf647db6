"""Where the rows of ensembles have their directories: computed from the ensemble's folder, not stored."""

from __future__ import annotations

FOLDER_SIZE = 5000
TRASH = ".trash"
"""In ``data/``, for what is to be removed; no job works there."""


def row_workdir(folder: str, row: int) -> str:
    """Directory of a row below ``data/``: at most 5,000 rows (and folders of rows) in a folder."""
    if row < FOLDER_SIZE:
        return f"{folder}/{row}"
    first = row - row % FOLDER_SIZE
    return f"{folder}/{first}-{first + FOLDER_SIZE - 1}/{row}"


def row_of(workdir: str) -> tuple[str, int] | None:
    """Folder of the ensemble and row whose directory has this name, whether or not there is such an ensemble."""
    folder, _, rest = workdir.partition("/")
    row = rest.rpartition("/")[2]
    if row.isdecimal() and row_workdir(folder, int(row)) == workdir:
        return folder, int(row)
    return None
