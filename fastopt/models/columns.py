"""Columns of a table as categories or as numbers: what each type counts as, and the text of each value."""

from __future__ import annotations

import datetime
import decimal
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checks import Array, need
from ..errors import DTypeError, ParseError, ShapeError

Codes = npt.NDArray[np.intp]
#: Says which row the k-th is, from 0: "row 5 of t.csv".
Where = Callable[[int], str]

TEXT, WHOLE, NUMBER, TRUTH, DATE, TIMESTAMP, TIME = (
    "text",
    "whole numbers",
    "numbers",
    "truth values",
    "dates",
    "timestamps",
    "times",
)
#: Kinds that a column may hold beside each other.
TOGETHER = ({TEXT, WHOLE}, {WHOLE, NUMBER})
EXPECTED = "expected texts, numbers, truth values, dates or timestamps"
WAY_OUT = "leave it out of columns, or turn it into texts or numbers first"
#: Texts, in lower case, that stand for a missing number.
MISSING = ("", "na", "n/a", "nan", "null", "none")

_ARROW_TEXTS = ("string", "large_string", "string_view")


def column_names(table: Any) -> list[Any]:
    """The names of a mapping, of a pyarrow.Table or of a DataFrame."""
    if isinstance(table, Mapping):
        return list(table)
    for attribute in ("column_names", "columns"):  # pyarrow, then DataFrames
        if hasattr(table, attribute):
            return list(getattr(table, attribute))
    raise DTypeError(
        f"table must be a mapping from names to columns, a pyarrow.Table or a DataFrame, got {type(table).__name__}"
    )


def read_column(name: str, column: Any) -> Column:
    """A column as it lies in a table; `name` is for errors."""
    if hasattr(column, "dictionary_encode"):
        return ArrowColumn(name, column)
    if isinstance(column, (list, tuple)):
        return ListColumn(name, list(column))
    if hasattr(column, "to_list"):  # a Series, whose missing integers an array would turn into floats
        floats = str(getattr(column, "dtype", "")).lower().startswith("float")
        return ListColumn(name, column.to_list(), {NUMBER} if floats else set())
    if isinstance(column, np.ma.MaskedArray):
        raise DTypeError(f"{name} is a masked array, whose mask would be lost; pass .astype(object).filled(None)")
    if isinstance(column, (str, bytes)) or not hasattr(column, "__array__"):
        raise DTypeError(
            f"{name} must be a list, a NumPy array, a pyarrow array or a Series, got {type(column).__name__}"
        )
    a = np.asarray(column)
    if a.ndim != 1:
        raise ShapeError(f"{name} must have one dimension, got shape {a.shape}")
    if a.dtype.kind in "OUTiu":
        return ListColumn(name, a.tolist())
    if a.dtype.kind not in "fbM":
        raise DTypeError(f"{name} has dtype {a.dtype}, {EXPECTED}; {WAY_OUT}")
    return ArrayColumn(name, a)


class Column:
    """One column."""

    name: str
    kinds: set[str]  # what it holds; empty where all is missing

    def is_number(self) -> bool:
        """Whether it counts as a number where nobody says what it is."""
        if len(self.kinds) > 1 and NUMBER in self.kinds:
            raise DTypeError(
                f"{self.name} holds float beside int; say in numeric or categories what it is (--numeric, --categories)"
            )
        return self.kinds == {NUMBER}

    def categories(self) -> tuple[list[str], Codes]:
        """The texts of the distinct values, and for every row the number of its value; a missing value is the empty text."""
        raise NotImplementedError

    def check_number(self) -> None:
        """Raise if it cannot count as a number."""
        if wrong := self.kinds & {DATE, TIMESTAMP, TIME}:
            raise DTypeError(f"{self.name} holds {wrong.pop()}, which are no numbers; take it out of numeric")

    def numbers(self, where: Where) -> Array:
        """The numbers in float64, NaN where one is missing; infinities are left for the caller to refuse."""
        raise NotImplementedError

    def _all_numbers(self, values: list[Any], row: Callable[[int], str]) -> Array:
        """Each value as a number; `row` says in which row the k-th stands."""
        made = list(map(_number, values))
        if None in made:
            k = made.index(None)
            raise ParseError(f"{row(k)}: {self.name} holds {values[k]!r:.80}, expected a number")
        return np.array(made, np.float64)


class ListColumn(Column):
    """Python's values, or NumPy's scalars."""

    def __init__(self, name: str, values: list[Any], kinds: set[str] | None = None) -> None:
        self.name = name
        numbers: defaultdict[Any, int] = defaultdict(count().__next__)
        try:
            self.codes = np.fromiter(map(numbers.__getitem__, values), np.intp, len(values))
        except TypeError:
            types = {type(v).__name__ for v in values} - {"str", "NoneType"}
            raise DTypeError(f"{name} holds {', '.join(sorted(types))}, {EXPECTED}; {WAY_OUT}") from None
        self.values = list(numbers)
        # 1, 1.0 and True are one key: where there are other keys than texts, look at every row.
        if set(map(type, numbers)) <= {str, type(None)}:
            self.kinds = kinds or ({TEXT} if set(map(type, numbers)) & {str} else set())
            return
        found: dict[str, str] = {}  # by kind, the type that shows it
        for kind in sorted(set(map(type, values)), key=lambda kind: kind.__name__):
            if issubclass(kind, (float, np.floating)) and all(v != v for v in values if type(v) is kind):
                continue
            if (what := _kind_of(kind)) is None:
                raise DTypeError(f"{name} holds {kind.__name__}, {EXPECTED}; {WAY_OUT}")
            if what:
                found.setdefault(what, kind.__name__)
        if len(found) > 1 and not any(set(found) <= allowed for allowed in TOGETHER):
            raise DTypeError(f"{name} holds {' beside '.join(found.values())}; {WAY_OUT}")
        self.kinds = set(found) or kinds or set()

    def categories(self) -> tuple[list[str], Codes]:
        return [text_of(v) for v in self.values], self.codes

    def numbers(self, where: Where) -> Array:
        found: Array = self._all_numbers(self.values, lambda k: where(int(np.argmax(self.codes == k))))[self.codes]
        return found


class ArrayColumn(Column):
    """A NumPy array of floats, truth values or dates."""

    def __init__(self, name: str, values: Array) -> None:
        self.name, self.values = name, values
        dates = values.dtype.kind == "M" and np.datetime_data(values.dtype)[0] in ("Y", "M", "W", "D")
        self.kinds = {{"f": NUMBER, "b": TRUTH, "M": DATE if dates else TIMESTAMP}[values.dtype.kind]}

    def categories(self) -> tuple[list[str], Codes]:
        values, codes = np.unique(self.values, return_inverse=True)
        texts = _date_texts(values) if values.dtype.kind == "M" else [text_of(v) for v in values]
        return texts, codes.astype(np.intp, copy=False)

    def numbers(self, where: Where) -> Array:
        return self.values.astype(np.float64)


class ArrowColumn(Column):
    """A pyarrow array or chunked array."""

    def __init__(self, name: str, column: Any) -> None:
        pa = need("pyarrow", "cli")
        self.name, self.column = name, column
        self.type = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        tests = {
            WHOLE: pa.types.is_integer,
            NUMBER: lambda t: pa.types.is_floating(t) or pa.types.is_decimal(t),
            TRUTH: pa.types.is_boolean,
            DATE: pa.types.is_date,
            TIMESTAMP: pa.types.is_timestamp,
            TIME: pa.types.is_time,
            TEXT: lambda t: str(t) in _ARROW_TEXTS,
        }
        self.kinds = {kind for kind, test in tests.items() if test(self.type)}
        if not self.kinds and not pa.types.is_null(self.type):
            raise DTypeError(f"{name} has type {self.type}, {EXPECTED}; {WAY_OUT}")

    def categories(self) -> tuple[list[str], Codes]:
        pa = need("pyarrow", "cli")
        if not len(self.column):  # pyarrow cannot combine no chunks of some types
            return [""], np.empty(0, np.intp)
        column = self.column.dictionary_encode()
        if isinstance(column, pa.ChunkedArray):
            column = column.cast(pa.dictionary(pa.int32(), self.type)).combine_chunks()
        texts = self._texts(column.dictionary)
        codes = column.indices.cast(pa.int64()).fill_null(len(texts))
        return [*texts, ""], codes.to_numpy(zero_copy_only=False).astype(np.intp, copy=False)

    def _texts(self, values: Any) -> list[str]:
        pa = need("pyarrow", "cli")
        (kind,) = self.kinds or {TEXT}
        if kind == TIMESTAMP:
            whole = values.view(pa.int64()).fill_null(np.iinfo(np.int64).min)  # which is NaT
            return _date_texts(whole.to_numpy().view(f"M8[{self.type.unit}]"), "Z" if self.type.tz else "")
        if kind in (DATE, TIME):
            return ["" if v is None else _trimmed(v) for v in values.cast(pa.string()).to_pylist()]
        if pa.types.is_floating(self.type):  # each in its own precision
            return [text_of(v) for v in values.to_numpy(zero_copy_only=False)]
        return [text_of(v) for v in values.to_pylist()]

    def numbers(self, where: Where) -> Array:
        pa = need("pyarrow", "cli")
        column = self.column
        if pa.types.is_dictionary(column.type):
            column = column.cast(self.type)  # older versions of pyarrow cast it to nothing else
        if pa.types.is_decimal(self.type):
            column = column.cast(pa.string())  # which is read exactly
        if self.kinds == {TEXT}:
            return self._parsed(column.cast(pa.large_string()), where)
        found: Array = column.cast(pa.float64(), safe=False).to_numpy(**_copying(column))
        return found

    def _parsed(self, column: Any, where: Where) -> Array:
        pa = need("pyarrow", "cli")
        compute = need("pyarrow.compute", "cli")
        try:
            found: Array = column.cast(pa.float64()).to_numpy(**_copying(column))
            return found
        except pa.ArrowInvalid:
            pass
        missing = compute.is_in(compute.utf8_lower(column), value_set=pa.array(MISSING, pa.large_string()))
        column = compute.if_else(missing, pa.scalar(None, pa.large_string()), column)
        try:
            found = column.cast(pa.float64()).to_numpy(**_copying(column))
            return found
        except pa.ArrowInvalid:  # Python finds it, or can read it
            return self._all_numbers(column.to_pylist(), where)


def _copying(column: Any) -> dict[str, bool]:
    """The argument that arrays need, and chunked arrays have not always had."""
    return {} if hasattr(column, "chunks") else {"zero_copy_only": False}


def _kind_of(kind: type) -> str | None:
    """What values of a type are; "" for a missing value, None for what a column cannot hold."""
    if kind is type(None) or kind.__name__ in ("NAType", "NaTType"):
        return ""
    for types, what in (
        ((bool, np.bool_), TRUTH),
        ((str,), TEXT),
        ((int, np.integer), WHOLE),
        ((float, np.floating, decimal.Decimal), NUMBER),
        ((datetime.datetime,), TIMESTAMP),
        ((datetime.date,), DATE),
        ((datetime.time,), TIME),
    ):
        if issubclass(kind, types):
            return what
    return None


def is_missing(value: Any) -> bool:
    """None, NaN, or pandas' NA and NaT, which cannot be imported here."""
    if isinstance(value, (float, np.floating)):
        return bool(value != value)
    if isinstance(value, decimal.Decimal):
        return value.is_nan()
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def _number(value: Any) -> float | None:
    """A value as a number, NaN for a missing one; None where it is no number."""
    if is_missing(value):
        return np.nan
    if isinstance(value, str):
        value = value.strip()
        if value.lower() in MISSING:
            return np.nan
        if "_" in value:
            return None
    try:
        return float(value)
    except ValueError:
        return None
    except OverflowError:
        return np.inf


def text_of(value: Any) -> str:
    """The text by which a value is hashed: that of equal numbers is one, whatever their type."""
    if isinstance(value, str):
        return value
    if is_missing(value):
        return ""
    if isinstance(value, (float, np.floating)):
        if float(value).is_integer():
            return str(int(value))
        return np.format_float_positional(value, trim="-")
    if isinstance(value, decimal.Decimal):
        return _trimmed(f"{value:f}") if value else "0"
    if isinstance(value, datetime.datetime):
        zone = value.tzinfo is not None
        if zone:
            value = value.astimezone(datetime.UTC).replace(tzinfo=None)
        return _trimmed(value.isoformat()) + ("Z" if zone else "")
    if isinstance(value, datetime.time):
        return _trimmed(value.isoformat()) if value.tzinfo is None else value.isoformat()
    return value.isoformat() if isinstance(value, datetime.date) else str(value)


def _date_texts(values: Array, end: str = "") -> list[str]:
    """ISO 8601 of dates and times, without zeros at the end of a second's fraction."""
    unit = np.datetime_data(values.dtype)[0]
    if unit in ("Y", "M", "W"):
        values = values.astype("M8[D]")
    elif unit in ("h", "m", "generic"):
        values = values.astype("M8[s]")
    return ["" if text == "NaT" else _trimmed(text) + end for text in np.datetime_as_string(values).tolist()]


def _trimmed(text: str) -> str:
    return re.sub(r"\.?0+$", "", text) if "." in text else text
