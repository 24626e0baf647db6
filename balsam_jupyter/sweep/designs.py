"""Sweep: rows of parameters, by the designs of experiments that scientists use."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from ..errors import BadInput, listing
from . import columns, points
from .distributions import sampled
from .preview import as_html
from .reading import of_csv
from .shapes import Chain, Change, Grid, Product, Selection, Shape, Table, Tuple


class Sweep:
    """Rows of parameters, made when they are iterated over.

    `Sweep.grid`, `.zip` and `.rows` take the values; `.random`, `.latin_hypercube` and `.sobol` draw them from
    distributions; `.from_dataframe` and `.from_csv` read tables. ``a * b`` is every row of one sweep with every row of
    another, ``a + b`` the rows of both; `where` drops rows and `repeat` makes replicates.

    Iterating gives a dict for each row, in the same order every time; NumPy scalars become Python scalars.

    Attributes
    ----------
    names : tuple of str
        The parameters.
    """

    names: tuple[str, ...]

    def __init__(self, shape: Shape, label: str) -> None:
        self._shape, self._label = shape, label
        self.names = shape.names

    @classmethod
    def grid(cls, /, **values: Any) -> Sweep:
        """Every combination of the values; the last parameter varies fastest.

        Parameters
        ----------
        **values
            For each parameter its values: a list, range, array, Series or any other iterable. A single number, text
            or mapping is one value.

        Raises
        ------
        BadInput
            If there is no row.

        Examples
        --------
        >>> list(Sweep.grid(T=[1, 2], P=0.5))
        [{'T': 1, 'P': 0.5}, {'T': 2, 'P': 0.5}]
        """
        found = columns.columns(values, "grid")
        sizes = " × ".join(f"{name}: {len(column):,}" for name, column in found.items())
        return cls(Grid(found), f"grid of {sizes}")

    @classmethod
    def zip(cls, /, **values: Any) -> Sweep:
        """The first values of all parameters together, then the second ones, and so on.

        Parameters
        ----------
        **values
            As for `grid`; all of one length.

        Raises
        ------
        BadInput
            If the lengths differ, or there is no row.

        Examples
        --------
        >>> list(Sweep.zip(T=[1, 2], P=[0.5, 0.7]))
        [{'T': 1, 'P': 0.5}, {'T': 2, 'P': 0.7}]
        """
        found = columns.columns(values, "zip")
        lengths = {name: len(column) for name, column in found.items()}
        if len(set(lengths.values())) > 1:
            shown = listing(f"{name} has {length:,}" for name, length in lengths.items())
            raise BadInput(f"Sweep.zip needs as many values for each parameter: {shown}. Sweep.grid takes any lengths.")
        return cls(Table(found), f"zip of {', '.join(found)}")

    @classmethod
    def rows(cls, table: Any) -> Sweep:
        """The rows of a table: an iterable of mappings, or a DataFrame (see `from_dataframe`).

        Parameters
        ----------
        table : iterable of mapping, or pandas.DataFrame
            A row may leave out a parameter that has a default.

        Raises
        ------
        BadInput
            If there is no row, or one is not a mapping with names.
        """
        if hasattr(table, "columns"):
            return cls.from_dataframe(table)
        if isinstance(table, Mapping | str | bytes) or not hasattr(table, "__iter__"):
            raise BadInput(f"Sweep.rows takes a list of dicts, one for each row, not {columns.short(table)}.")
        return cls._of_table(columns.of_rows(table), "table")

    @classmethod
    def from_dataframe(cls, frame: Any) -> Sweep:
        """The rows of a DataFrame; its columns are the parameters and its index does not count.

        Parameters
        ----------
        frame : pandas.DataFrame
            Or one of another library with `columns`, such as polars'. A missing cell leaves the parameter out of that
            row, but NaN in a column of numbers is a number.

        Raises
        ------
        BadInput
            If there is no row, or a column's name is not text or there twice.
        """
        return cls._of_table(columns.of_dataframe(frame), "table")

    @classmethod
    def from_csv(cls, path: str | os.PathLike[str] | TextIO, /, **types: Callable[[str], Any]) -> Sweep:
        """The rows of a CSV file with a header of names, separated by commas, semicolons or tabs.

        A column whose cells are all whole numbers is of int; of numbers, float; of ``true`` and ``false`` (in any
        case), bool; any other is text. Numbers with leading zeros (``007``) are text. An empty cell leaves the
        parameter out of that row. White space around cells and blank lines do not count.

        Parameters
        ----------
        path : path or text file
            UTF-8.
        **types
            For a column its type, or any function of a cell's text, instead of the one found: ``run=str``.

        Raises
        ------
        BadInput, NotFound
            If there is no such file or no row, or a cell is not of its type; names the line.
        """
        return cls._of_table(of_csv(path, types), "table")

    @classmethod
    def _of_table(cls, found: Mapping[str, Any], label: str) -> Sweep:
        return cls(Table(found, columns.have_gaps(found)), f"{label} of {', '.join(found)}")

    @classmethod
    def random(cls, n: int | None = None, /, seed: int | None = None, **values: Any) -> Sweep:
        """Rows drawn at random, each parameter from its distribution and independently of the others.

        The standard library draws them: the same seed gives the same rows in every process and with every version of
        Python, and a parameter's values stay when another parameter is added.

        Parameters
        ----------
        n : int
            The number of rows; it comes first and has no name, so that a parameter may be called so.
        seed : int
            Another one gives other rows.
        **values
            A distribution (`uniform`, `loguniform`, `normal`, `integers`, `choice`, or any object with a function
            `ppf`, such as a frozen one of scipy.stats), or one fixed value. At least one is a distribution.

        Raises
        ------
        BadInput
            If `n`, `seed` or a value is none of these.

        Examples
        --------
        >>> from balsam_jupyter.sweep import choice, uniform
        >>> sweep = Sweep.random(1000, seed=1, T=uniform(300, 900), method=choice(["pbe", "lda"]), P=1.0)
        >>> len(sweep)
        1000
        """
        return cls(Table(sampled("random", n, seed, values, points.random)), f"random sample of {', '.join(values)}")

    @classmethod
    def latin_hypercube(cls, n: int | None = None, /, seed: int | None = None, **values: Any) -> Sweep:
        """Rows that cover each parameter evenly: of `n` equally probable parts of its range each is hit once.

        Drawn by the standard library, so that what `random` says about seeds holds here, too.

        Parameters
        ----------
        n, seed, **values
            As for `random`.
        """
        made = sampled("latin_hypercube", n, seed, values, points.latin_hypercube)
        return cls(Table(made), f"Latin hypercube of {', '.join(values)}")

    @classmethod
    def sobol(cls, n: int | None = None, /, seed: int | None = None, **values: Any) -> Sweep:
        """Rows of a scrambled Sobol' sequence, which covers all parameters together evenly (scipy.stats.qmc).

        The first rows of a longer one are those of a shorter one with the same seed and parameters.

        Parameters
        ----------
        n, seed, **values
            As for `random`. Best is an `n` that is a power of 2; another is taken with a warning.

        Raises
        ------
        Unsupported
            If scipy is not installed: ``pip install 'balsam-jupyter[designs]'``.
        """
        return cls(Table(sampled("sobol", n, seed, values, points.sobol)), f"Sobol' sequence of {', '.join(values)}")

    def where(self, predicate: Callable[[dict[str, Any]], object]) -> Sweep:
        """The rows for which `predicate` is true.

        Parameters
        ----------
        predicate : callable
            A function of a row, which is a dict of its parameters. It is asked once for each row, when rows are needed.

        Raises
        ------
        BadInput
            If it is no function; when rows are needed, if it fails: names the row.

        Examples
        --------
        >>> list(Sweep.grid(i=[1, 2], j=[1, 2]).where(lambda row: row["i"] < row["j"]))
        [{'i': 1, 'j': 2}]
        """
        if not callable(predicate):
            raise BadInput(f"where() takes a function of a row: where(lambda row: row['T'] > 300), not {predicate!r}.")
        return Sweep(Selection(self._shape, predicate), f"{self._label}, where {_called(predicate)}")

    def repeat(self, n: int, seed: str = "seed") -> Sweep:
        """Each row `n` times, with a parameter that is 0, 1, … `n` - 1.

        The same numbers for every row, so that rows can be compared seed by seed; and with a larger `n` later, the
        rows there are stay what they are.

        Parameters
        ----------
        n : int
            How often.
        seed : str
            The app's parameter that takes the number.

        Raises
        ------
        BadInput
            If `n` is not a whole number of at least 1, or the sweep has a parameter of that name.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise BadInput(f"repeat() takes a whole number of at least 1, not {n!r}.")
        if not isinstance(seed, str):
            raise BadInput(f"seed is the name of the parameter that tells replicates apart, not {seed!r}.")
        if seed in self.names:
            raise BadInput(f"The sweep has a parameter {seed!r} already; name another: repeat({n}, seed='replicate').")
        return Sweep(Product(self._shape, Table({seed: range(n)})), f"{self._label}, each {n:,} times")

    def __mul__(self, other: object) -> Sweep:
        if not isinstance(other, Sweep):
            raise BadInput(f"A sweep is multiplied by a sweep, not by {other!r}; repeat(3) makes replicates.")
        both = [name for name in self.names if name in other.names]
        if both:
            raise BadInput(f"Both factors have the parameter {listing(both)}; each parameter can come from one only.")
        return Sweep(Product(self._shape, other._shape), f"({self._label}) × ({other._label})")

    def __add__(self, other: object) -> Sweep:
        if not isinstance(other, Sweep):
            raise BadInput(
                f"A sweep is added to a sweep, not to {columns.short(other)}; Sweep.rows([{{…}}]) makes one."
            )
        return Sweep(Chain([self._shape, other._shape]), f"{self._label} + {other._label}")

    def __len__(self) -> int:
        return self._shape.size()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._shape.dicts()

    def columns(self) -> Iterator[tuple[str, Any]]:
        """The columns its rows are made of; for those who encode values once instead of row by row."""
        return self._shape.columns()

    def tuples(self, change: Change) -> Iterator[Tuple]:
        """Its rows in the order of `names`, of values changed by `change`, which is called with each column.

        A value that a row leaves out is `columns.MISSING` before the change.
        """
        return self._shape.tuples(change)

    def __repr__(self) -> str:
        size = self._shape.size()
        return f"<Sweep of {size:,} {'row' if size == 1 else 'rows'}: {self._label}>"

    def _repr_html_(self) -> str:
        """What each parameter ranges over, the first rows and the last ones."""
        return as_html(self._shape, repr(self)[1:-1])


def _called(predicate: Callable[..., object]) -> str:
    name = getattr(predicate, "__name__", "")
    return name if name.isidentifier() else "a condition holds"
