"""Queries, managers and fields of Balsam's object API, over any engine."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar, cast, overload

from .errors import BadInput, NotFound, Unsupported, listing, nearest

SHOWN = 20

F = TypeVar("F")
T = TypeVar("T", bound="Model")


class DoesNotExist(NotFound):
    """No object matches."""


class MultipleObjectsReturned(BadInput):
    """More than one object matches where one was asked for."""


class Field(Generic[F]):
    """A field of a model: read from what is stored, written at `save`.

    Mutable values are copied at the first read, so that `save` sees a change made in place.
    """

    def __set_name__(self, owner: type[Model], name: str) -> None:
        self.name = name
        owner._fields = (*owner._fields, name)

    def __get__(self, obj: Model, owner: type[Model] | None = None) -> F:
        if obj is None:  # the class itself is asked, by documentation tools
            return cast(F, self)
        if self.name not in obj._values:
            value = obj._read(self.name)
            if not isinstance(value, dict | list | set):
                return cast(F, value)
            obj._values[self.name] = copy.deepcopy(value)
        return cast(F, obj._values[self.name])

    def __set__(self, obj: Model, value: F) -> None:
        if not obj._may_set(self.name):
            raise AttributeError(f"{type(obj).__name__}.{self.name} is set by the site and cannot be changed.")
        obj._values[self.name] = value


class Model:
    """What `Job`, `BatchJob`, `Site`, `App` and `EventLog` have in common."""

    _fields: tuple[str, ...] = ()
    DoesNotExist = DoesNotExist
    MultipleObjectsReturned = MultipleObjectsReturned

    id: Field[Any] = Field()

    def __init__(self) -> None:
        object.__setattr__(self, "_values", {})
        self._values: dict[str, Any]

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name not in self._fields:
            raise AttributeError(f"{type(self).__name__} has no field {name!r}.{nearest(name, self._fields)}")
        object.__setattr__(self, name, value)

    def _read(self, name: str) -> Any:
        """The stored value of a field; None before there is one."""
        raise NotImplementedError

    def _may_set(self, name: str) -> bool:
        return False

    def _changes(self) -> dict[str, Any]:
        return {name: value for name, value in self._values.items() if value != self._read(name)}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.id is not None and self.id == other.id

    def __hash__(self) -> int:
        return hash((type(self).__name__, self.id))

    def __repr__(self) -> str:
        shown = ((name, getattr(self, name)) for name in self._fields)
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in shown if v not in (None, {}, [], ''))})"

    def display(self) -> None:
        """Print the fields, one a line."""
        for name in self._fields:
            print(f"{name:18} {getattr(self, name)}")


class Query(Generic[T]):
    """The objects that match; fetched when first looked at.

    It is lazy and chains: ``Job.objects.filter(state="FAILED").order_by("-id")[:10]``.
    """

    def __init__(
        self,
        manager: Manager[T],
        filters: Mapping[str, Any] | None = None,
        order: str | None = None,
        start: int = 0,
        stop: int | None = None,
    ) -> None:
        self._manager, self._filters, self._order = manager, dict(filters or {}), order
        self._start, self._stop = start, stop
        self._found: list[T] | None = None

    def all(self) -> Query[T]:
        """The same query, not fetched yet."""
        return Query(self._manager, self._filters, self._order, self._start, self._stop)

    def filter(self, **conditions: Any) -> Query[T]:
        """Only those that match all conditions; a list means any of its values."""
        self._whole("filter")
        conditions = {name: value for name, value in conditions.items() if value is not None}
        self._manager._check(conditions)
        return Query(self._manager, {**self._filters, **conditions}, self._order)

    def order_by(self, field: str | None) -> Query[T]:
        """In the order of a field; a leading ``-`` reverses it."""
        self._whole("order")
        if field is not None:
            self._manager._check({field.removeprefix("-"): None}, "order by", self._manager._orders)
        return Query(self._manager, self._filters, field)

    def get(self, **conditions: Any) -> T:
        """The only one that matches.

        Raises
        ------
        DoesNotExist, MultipleObjectsReturned
            If none or several match.
        """
        query = self.filter(**conditions)
        found = list(query[:2])
        name, asked = self._manager._model().__name__, _words(query._filters)
        if not found:
            raise self._manager._model().DoesNotExist(f"No {name} has {asked}." if asked else f"There is no {name}.")
        if len(found) > 1:
            raise self._manager._model().MultipleObjectsReturned(
                f"{query.count()} {name}s have {asked or 'no condition'}; ask for one, or use filter()."
            )
        return found[0]

    def first(self) -> T | None:
        """The first one, or None."""
        return next(iter(self[:1]), None)

    def count(self) -> int:
        """How many match (without fetching them, where the engine can count)."""
        if self._found is not None or self._start or self._stop is not None:
            return len(self)
        return self._manager._count(self._filters)

    def update(self, **changes: Any) -> int:
        """Change fields of all that match; returns how many were changed."""
        self._whole("update")
        return self._manager._update(self._filters, changes)

    def delete(self) -> int:
        """Remove all that match; returns how many."""
        self._whole("delete")
        return self._manager._delete(self._filters)

    def _whole(self, what: str) -> None:
        if self._start or self._stop is not None:
            raise BadInput(f"Cannot {what} a slice of a query: {what} first, slice after.")

    def _fetch(self) -> list[T]:
        if self._found is None:
            self._found = self._manager._list(self._filters, self._order, self._start, self._stop)
        return self._found

    def __iter__(self) -> Iterator[T]:
        return iter(self._fetch())

    def __len__(self) -> int:
        return len(self._fetch())

    def __bool__(self) -> bool:
        return bool(self._fetch())

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> Query[T] | list[T]: ...
    def __getitem__(self, at: int | slice) -> T | Query[T] | list[T]:
        if self._found is not None:
            return self._found[at]
        if isinstance(at, int):
            return self._fetch()[at] if at < 0 else _only(self[at : at + 1])
        if at.step is not None or (at.start or 0) < 0 or (at.stop or 0) < 0:
            return self._fetch()[at]
        start = self._start + (at.start or 0)
        ends = [end for end in (self._stop, None if at.stop is None else self._start + at.stop) if end is not None]
        return Query(self._manager, self._filters, self._order, start, max(start, min(ends)) if ends else None)

    def __repr__(self) -> str:
        found = list(self[: SHOWN + 1])
        more = ", … and more" if len(found) > SHOWN else ""
        return f"<Query of {self._manager._model().__name__}: [{', '.join(map(repr, found[:SHOWN]))}{more}]>"


def _only(found: Iterable[T]) -> T:
    for one in found:
        return one
    raise IndexError("query index out of range")


def _words(filters: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in filters.items())


class Manager(Generic[T]):
    """``Model.objects``. `rows` lists all objects of the site last opened; the engine filters nothing here."""

    _filters: tuple[str, ...] = ()
    _orders: tuple[str, ...] = ()

    def __init__(self, model: Callable[[], type[T]], rows: Callable[[], list[T]] | None = None) -> None:
        self._model, self._rows = model, rows

    def all(self) -> Query[T]:
        """All objects."""
        return Query(self)

    def filter(self, **conditions: Any) -> Query[T]:
        """Those that match all conditions; a list means any of its values."""
        return self.all().filter(**conditions)

    def order_by(self, field: str | None) -> Query[T]:
        """All objects in the order of a field; a leading ``-`` reverses it."""
        return self.all().order_by(field)

    def get(self, **conditions: Any) -> T:
        """The only one that matches (`DoesNotExist`, `MultipleObjectsReturned`)."""
        return self.all().get(**conditions)

    def first(self) -> T | None:
        """The first object, or None."""
        return self.all().first()

    def count(self) -> int:
        """How many there are."""
        return self.all().count()

    def create(self, **fields: Any) -> T:
        """Make one and save it."""
        raise Unsupported(f"{self._model().__name__} objects are made by the site, not by create().")

    def _check(self, names: Mapping[str, Any], verb: str = "filter by", known: tuple[str, ...] = ()) -> None:
        known = known or self._filters or self._model()._fields
        for name in names:
            if name not in known:
                model = self._model().__name__
                raise BadInput(f"Cannot {verb} {model}.{name}; there is {listing(known, 20)}.{nearest(name, known)}")

    def _list(self, filters: Mapping[str, Any], order: str | None, start: int, stop: int | None) -> list[T]:
        assert self._rows is not None
        found = [one for one in self._rows() if all(matches(getattr(one, k), v) for k, v in filters.items())]
        if order is not None:
            sort_by(found, order)
        return found[start:stop]

    def _count(self, filters: Mapping[str, Any]) -> int:
        return len(self._list(filters, None, 0, None))

    def _update(self, filters: Mapping[str, Any], changes: Mapping[str, Any]) -> int:
        raise Unsupported(f"{self._model().__name__} objects cannot be updated in bulk; set fields and save() each.")

    def _delete(self, filters: Mapping[str, Any]) -> int:
        raise Unsupported(f"{self._model().__name__} objects cannot be deleted.")


def sort_by(found: list[T], order: str) -> None:
    """Sort by a field; a leading ``-`` reverses the whole order, that of equals too. None comes first."""
    name = order.removeprefix("-")
    found.sort(key=lambda one: (getattr(one, name) is not None, getattr(one, name)))
    if order.startswith("-"):
        found.reverse()


def matches(value: Any, wanted: Any) -> bool:
    """Whether a field's value meets a condition: equal, among a list, or a mapping that has all the pairs."""
    if isinstance(wanted, Mapping) or isinstance(value, dict):
        return isinstance(value, dict) and all(value.get(k) == v for k, v in as_tags(wanted).items())
    if isinstance(wanted, list | tuple | set | frozenset | range):
        return value in wanted
    return bool(value == wanted)


def as_tags(wanted: Any) -> dict[str, str]:
    """Tags from a mapping, or from Balsam's ``"key:value"`` text or list of it."""
    if isinstance(wanted, Mapping):
        return dict(wanted)
    pairs = [wanted] if isinstance(wanted, str) else list(wanted)
    for pair in pairs:
        if not isinstance(pair, str) or ":" not in pair:
            raise BadInput(f"Tags are a mapping or 'key:value' text, not {pair!r}.")
    return dict(pair.split(":", 1) for pair in pairs)
