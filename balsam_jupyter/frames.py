"""What a user gets of a table: a DataFrame of pandas or polars, or a table of Arrow, each their own to change."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .errors import BadInput, ExecutorException, nearest
from .tables import Column, Table

if TYPE_CHECKING:
    import pandas as pd

# Cells of other types may be changed in place, so the user gets copies of them.
_CONSTANT = frozenset(
    {bool, int, float, complex, str, bytes, datetime.datetime, datetime.date, datetime.time, datetime.timedelta}
)
KINDS = ("pandas", "polars", "arrow")


def checked(kind: object) -> str:
    """The kind of table asked for.

    Raises
    ------
    BadInput
        If there is no such kind.
    """
    if kind not in KINDS:
        raise BadInput(
            f"{kind!r} is not a kind of table: use 'pandas', 'polars' or 'arrow'.{nearest(str(kind), KINDS)}"
        )
    return str(kind)


def frame(table: Table, kind: str) -> Any:
    """The table as that kind.

    Raises
    ------
    ExecutorException
        If what it needs is not installed.
    """
    try:
        return {"pandas": to_pandas, "polars": to_polars, "arrow": to_arrow}[kind](table)
    except ModuleNotFoundError as error:
        module, extra = {"pandas": ("pandas", "notebook"), "polars": ("polars", "polars")}.get(
            kind, ("pyarrow", "parquet")
        )
        if (error.name or "").partition(".")[0] != module:
            raise
        raise ExecutorException(
            f"to_dataframe({'' if kind == 'pandas' else repr(kind)}) needs {module}, which is not installed: "
            f"pip install 'balsam-jupyter[{extra}]'."
        ) from None


def to_pandas(table: Table) -> pd.DataFrame:
    """A DataFrame with the index ``row``; its arrays are kept with the columns, and patched where cells changed."""
    import pandas as pd

    columns = table.columns()
    index = pd.Index(_kept(columns.pop("row")), name="row", copy=True)
    series = {name: _own(_kept(one), one) for name, one in columns.items()}
    for name, one in columns.items():
        if one.kind == "text" and series[name].dtype == object:  # pandas would try its own type for texts again
            series[name] = pd.Series(series[name], index=index, dtype=object)
    return pd.DataFrame(series, index=index, copy=True)


def _kept(column: Column) -> Any:
    """The array of a column as it is now."""
    kind, gaps = column.kind, column.gaps
    try:
        if column.built is None or column.built[:2] != (kind, gaps):
            column.built = kind, gaps, _array(kind, gaps, column.cells)
        elif column.changed:
            at = sorted(column.changed)
            column.built[2][at] = _array(kind, gaps, [column.cells[each] for each in at])
    except (OverflowError, UnicodeEncodeError):  # ints of more than 64 bits; halves of characters
        column.built = "object", gaps, _array("object", gaps, column.cells)
    column.changed.clear()
    return column.built[2]


def _array(kind: str, gaps: bool, cells: Sequence[Any]) -> Any:
    import numpy as np
    import pandas as pd

    if kind == "float":
        return np.array(cells, dtype="float64")
    if kind in ("int", "bool"):
        if gaps:
            roomy: Any = {"int": "Int64", "bool": "boolean"}[kind]
            return pd.array(cells, dtype=roomy)
        return np.array(cells, dtype={"int": "int64", "bool": "bool"}[kind])
    text: Any = pd.Series(["text"]).dtype
    if kind == "text" and text.name != "object":  # pandas 3 has a type for it
        return pd.array(cells, dtype=text)
    array = np.empty(len(cells), dtype=object)
    for at, cell in enumerate(cells):  # one by one: a list of equal arrays would be taken for more dimensions
        array[at] = cell
    return array


def _own(array: Any, column: Column) -> Any:
    """The same with copies of cells that can be changed in place."""
    if column.kind != "object" or column.kinds <= _CONSTANT:
        return array
    return _array("object", True, copy.deepcopy(column.cells))


def to_arrow(table: Table) -> Any:
    """A `pyarrow.Table`; what has no one type is there as text."""
    import pyarrow as pa

    types = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "text": pa.string(), "object": None}

    def array(column: Column) -> Any:
        try:
            return pa.array(column.cells, type=types[column.kind])
        except (pa.ArrowException, OverflowError, TypeError, UnicodeEncodeError):
            texts = [None if cell is None else printed(cell) for cell in column.cells]
            return pa.array(texts, type=pa.string())

    def printed(cell: Any) -> str:
        return str(cell).encode("utf-8", "backslashreplace").decode()

    return pa.table({name: array(column) for name, column in table.columns().items()})


def to_polars(table: Table) -> Any:
    """A `polars.DataFrame`; what has no one type is there as objects."""
    import polars as pl

    types = {"int": pl.Int64, "float": pl.Float64, "bool": pl.Boolean, "text": pl.String, "object": None}

    def series(name: str, column: Column) -> Any:
        try:
            return pl.Series(name, column.cells, dtype=types[column.kind])
        except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError):
            return pl.Series(name, copy.deepcopy(column.cells), dtype=pl.Object)

    return pl.DataFrame([series(name, column) for name, column in table.columns().items()])
