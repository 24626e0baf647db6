"""Parameters and results as stored text or bytes, and the canonical form that gives a row its identity."""

from __future__ import annotations

import datetime
import json
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from hashlib import blake2b
from json.encoder import encode_basestring_ascii
from numbers import Number
from typing import Any

from .errors import BadInput

_SCALARS = frozenset({str, int, float, bool, type(None)})
_STR = frozenset({str})


def _json_writer(sort_keys: bool) -> Callable[[Any], str]:
    """A compact JSON encoder; the C one made once where it can be, since making it costs more than a small dict."""
    slow = json.JSONEncoder(separators=(",", ":"), check_circular=False, sort_keys=sort_keys)
    try:
        args = (None, slow.default, encode_basestring_ascii, None, ":", ",", sort_keys, False, True)
        fast = json.encoder.c_make_encoder(*args)  # type: ignore[attr-defined]
        trial = {"b": [1.5, None], "a": float("nan")}
        if "".join(fast(trial, 0)) != slow.encode(trial):
            return slow.encode
    except Exception:  # another Python implementation or a later signature
        return slow.encode
    return lambda value: "".join(fast(value, 0))


to_json = _json_writer(sort_keys=False)
"""Compact JSON text of plain values."""
_to_sorted_json = _json_writer(sort_keys=True)


_scan: Callable[[str, int], tuple[Any, int]] = vars(json.JSONDecoder())["scan_once"]


def encode(value: Any) -> str | bytes:
    """JSON text if that gives `value` back exactly, else the bytes of a cloudpickle.

    NumPy scalars become Python scalars, also inside lists and dicts.

    Parameters
    ----------
    value : object
        Anything that can be pickled.

    Returns
    -------
    str or bytes
        What `decode` turns into an equal value of the same type.

    Raises
    ------
    BadInput
        If the value cannot be pickled.
    """
    try:
        if type(value) is not dict or not (_SCALARS.issuperset(map(type, value.values())) and _all_str(value)):
            value, plain = _plain(value)
            if not plain:
                return _pickled(value)
        text = to_json(value)
    except (RecursionError, ValueError):  # deep or cyclic, or an int of more digits than Python prints
        return _pickled(value)
    if "\\ud" in text and _lone_surrogate(value):
        return _pickled(value)  # two of them would come back as one character
    return text


def decode(stored: str | bytes | None) -> Any:
    """The value that `encode` stored; None for None.

    Bytes are unpickled, so they must come from a site of one's own.
    """
    if stored is None:
        return None
    if isinstance(stored, str):
        try:
            value, end = _scan(stored, 0)
        except StopIteration:
            end = -1
        return value if end == len(stored) else json.loads(stored)  # which says what is wrong, or skips white space
    return pickle.loads(stored)


def _lone_surrogate(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


def _all_str(mapping: dict[Any, Any]) -> bool:
    return _STR.issuperset(map(type, mapping))


def _plain(value: Any) -> tuple[Any, bool]:
    """`value` with NumPy scalars turned into Python's, and whether JSON keeps it exactly."""
    kind = type(value)
    if kind in _SCALARS:
        return value, True
    if kind is list:
        pairs = [_plain(item) for item in value]
        return [item for item, _ in pairs], all(plain for _, plain in pairs)
    if kind is dict:
        new = {}
        all_plain = _all_str(value)
        for key, item in value.items():
            new[key], plain = _plain(item)
            all_plain = all_plain and plain
        return new, all_plain
    item = python_scalar(value)
    return item, type(item) in _SCALARS


def python_scalar(value: Any) -> Any:
    """The Python scalar of a NumPy number or string; anything else as it is (NumPy is not imported for this)."""
    if type(value).__module__ != "numpy" or not hasattr(value, "item") or hasattr(value, "__array_finalize__"):
        return value
    item = value.item()
    return item if isinstance(item, (str, int, float, bool, complex)) else value


def _pickled(value: Any) -> bytes:
    import cloudpickle  # about 30 ms, and most values never need it

    try:
        return bytes(cloudpickle.dumps(value))
    except Exception as error:
        raise BadInput(
            f"A value of type {type(value).__name__} cannot be stored: {_first_line(error)}. "
            "Pass or return plain values, arrays, paths, or objects that can be pickled."
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def canonical(params: Mapping[str, Any]) -> bytes:
    """The same bytes for parameters that mean the same, in every process.

    Numbers count by value (1, 1.0 and np.float64(1) are one; True is not 1; NaN equals NaN), arrays by shape,
    type and bytes, paths and dates as text, enums by class and name, mappings sorted, a list and a tuple of equal
    items as one, functions and classes of a module by their name.

    Parameters
    ----------
    params : mapping of str to object
        Parameters of one row.

    Returns
    -------
    bytes
        Unambiguous JSON.

    Raises
    ------
    BadInput
        If a value has no such form; names the parameter.
    """
    plain: dict[str, Any] = {}
    for key, value in params.items():
        kind = type(value)
        if kind is float:
            plain[key] = int(value) if value.is_integer() else value
        elif kind in _SCALARS:
            plain[key] = value
        else:
            plain[key] = _canon_parameter(key, value)
    try:
        return _to_sorted_json(plain).encode("ascii")
    except ValueError:  # an int of more digits than Python prints
        return _to_sorted_json({key: _canon_parameter(key, params[key]) for key in params}).encode("ascii")


def row_key(app_name: str, canonical_bytes: bytes, occurrence: int) -> bytes:
    """The 16 bytes that identify a row of an ensemble.

    Parameters
    ----------
    app_name : str
        Name of the app.
    canonical_bytes : bytes
        From `canonical`.
    occurrence : int
        0 for the first row with these parameters, 1 for the second, …
    """
    name = app_name.encode("utf-8", "surrogatepass")
    return blake2b(b"%d:%b%d:%b" % (len(name), name, occurrence, canonical_bytes), digest_size=16).digest()


def row_keys(app_name: str, forms: Iterable[bytes]) -> Iterator[bytes]:
    """The key of each row of an ensemble, by `row_key`; equal rows are counted.

    Parameters
    ----------
    app_name : str
        Name of the app.
    forms : iterable of bytes
        From `canonical`, one for each row.
    """
    name = app_name.encode("utf-8", "surrogatepass")
    begun = blake2b(b"%d:%b0:" % (len(name), name), digest_size=16)
    seen: dict[bytes, int] = {}
    for form in forms:
        digest = begun.copy()  # half the time of a new one
        digest.update(form)
        key = digest.digest()
        if key in seen:
            seen[key] += 1
            yield row_key(app_name, form, seen[key])
        else:
            seen[key] = 0
            yield key


def scalar_form(value: str | float | bool | None) -> str:
    """What stands for one plain value in `canonical`."""
    return to_json(int(value) if type(value) is float and value.is_integer() else value)


class _NoForm(Exception):
    """Carries the value that has no canonical form."""


def _canon_parameter(name: str, value: Any) -> Any:
    try:
        return _canon(value)
    except _NoForm as error:
        kind = type(error.args[0])
        raise BadInput(
            f"Parameter {name!r} has a value of type {kind.__module__}.{kind.__qualname__}, which cannot identify "
            "a row. Pass numbers, strings, arrays, paths or dates (or lists and dicts of them) and build the object "
            "in the app."
        ) from None
    except RecursionError:
        raise BadInput(f"Parameter {name!r} contains itself or is nested too deeply; pass a flat value.") from None


def _canon(value: Any) -> Any:
    """A JSON value: scalars stand for themselves, everything else is a list that starts with its tag."""
    kind = type(value)
    if kind is float:
        return int(value) if value.is_integer() else value
    if kind is int:
        return value if value.bit_length() < 10_000 else ["int", hex(value)]
    if kind in _SCALARS:
        return value
    if isinstance(value, Enum):
        return ["enum", kind.__qualname__, value.name]
    if isinstance(value, (list, tuple, range)):
        return ["list", *map(_canon, value)]
    if isinstance(value, Mapping):
        return ["map", *sorted(([_canon(k), _canon(v)] for k, v in value.items()), key=_to_sorted_json)]
    if isinstance(value, (set, frozenset)):
        return ["set", *sorted(map(_canon, value), key=_to_sorted_json)]
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return ["timedelta", value.days, value.seconds, value.microseconds, getattr(value, "nanoseconds", 0)]
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", value.hex()]
    return _canon_other(value)


def _canon_other(value: Any) -> Any:
    kind = type(value)
    if kind.__module__.partition(".")[0] == "numpy" and hasattr(value, "dtype"):
        return _canon_numpy(value)
    if isinstance(value, (bool, int, float, str)):  # subclasses
        for base in (bool, int, float, str):
            if isinstance(value, base):
                return _canon(base(value))
    if isinstance(value, Number):
        return _canon_number(value)
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if callable(value) and module and name and module != "__main__" and "<" not in name and "." not in name:
        return ["name", module, name]
    raise _NoForm(value)


def _canon_number(value: Any) -> Any:
    """Complex, Decimal, Fraction and long doubles: as a float where they equal one."""
    if isinstance(value, complex):
        if value.imag == 0:
            return _canon(value.real)
        return ["complex", _canon(value.real), _canon(value.imag)]
    try:
        if value == int(value):
            return _canon(int(value))
        if value == float(value):
            return float(value)
    except (OverflowError, ValueError, TypeError):
        if value != value:
            return float("nan")
        if str(value).lower().lstrip("+-") in ("inf", "infinity"):
            return float(str(value))
    return ["number", type(value).__name__, str(value)]


def _canon_numpy(value: Any) -> Any:
    if hasattr(value, "__array_finalize__") and hasattr(value, "tobytes"):
        if hasattr(value, "mask"):  # what lies under a mask is arbitrary
            raise _NoForm(value)
        if value.dtype.hasobject:  # its bytes would be addresses
            return ["array", list(value.shape), str(value.dtype.descr), _canon(value.tolist())]
        digest = blake2b(value.tobytes(), digest_size=32).hexdigest()
        return ["array", list(value.shape), str(value.dtype.descr), digest]
    item = python_scalar(value)
    if item is not value:
        return _canon(item)
    if value.dtype.kind in "mM":
        return str(value)
    if isinstance(value, Number):
        return _canon_number(value)
    raise _NoForm(value)
