"""From a table of categories to a CSR matrix, by hashing: whole columns at a time, every distinct value once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .. import checks
from ..checks import Array, need
from ..errors import (
    DTypeError,
    HyperParameterError,
    NonFiniteError,
    ShapeError,
    UnsupportedError,
    did_you_mean,
)
from .columns import Codes, Where, column_names, read_column

Words = npt.NDArray[np.uint32]

# Rows hashed together: the scratch of some 30 fields stays in the second-level cache.
CHUNK = 16384


class Read(NamedTuple):
    """A column, read."""

    texts: list[str]  #: of the distinct values of categories, "" for a missing one; of a number none
    codes: Codes  #: of each row the place of its text
    numbers: Array | None  #: of a number, in float64; NaN where it is missing
    hashes: Words  #: of the texts with their name, or of the number's name alone


class ColumnHasher:
    """Turns columns of categories and numbers, and crosses of them, into a CSR matrix by hashing.

    Parameters
    ----------
    n_features : int
        Width of the matrix, from 1 to 2**31 - 1. A power of two is a little faster.
    columns : sequence of str
        Names of the columns that are fields by themselves.
    crosses : sequence of tuples of str
        Each cross is a field with one value for every combination of values of two or more different columns; these
        need not be listed in `columns`.
    numeric : sequence of str
        Columns that are numbers: whole numbers, truth values (1 and 0) and texts, such as those of a CSV file, as well.
    categories : sequence of str
        Columns that are categories: floats and decimals as well.
    own_slots : bool, default False
        Whether each field has ``n_features // len(fields)`` slots of its own, one range after the other. Then the field of
        each slot is known (`slot_fields`), which field-aware factorization machines (`FFMClassifier`) need.

    Notes
    -----
    Columns that are neither in `numeric` nor in `categories` are what their type says: floats and decimals are numbers,
    and texts, whole numbers, truth values, dates, timestamps, times and dictionaries of these are categories. Lists, structures,
    durations and bytes are errors. Of a Python list the values decide; where one may hold nothing but missing values, name its
    column. `decide` writes down what the types say.

    A *number* is the feature ``name``, and its value the number, rounded to float32; 0 and missing values (null, None,
    NaN; of texts also empty ones, NA, N/A, null, none) are left out, so that both count as 0, as in scikit-learn's
    ``FeatureHasher``. An infinity, and what float32 cannot hold, is an error that names the row. Numbers are not scaled: they
    should be of order one, or the optimizer one that does not mind.

    A *category* is the feature ``name=value``, with the value 1 / sqrt(number of fields). Its text is that of the value: ``True`` or
    ``False``; whole numbers in decimal, so that 7, 7.0 and ``"7"`` are one value; of other numbers the shortest decimal that gives
    them back in their precision; ISO 8601 of dates (``2013-01-31``), times and timestamps (``2013-01-31T05:00:00``, with
    a fraction without zeros at its end; those with a time zone in UTC, with ``Z``). A missing value counts as the empty text:
    it hashes as ``name=``.

    The hash is 32-bit MurmurHash3, seed 0, of this UTF-8 text, and its slot is ``abs(hash) % n_features`` (of the signed hash;
    2**31 for -2**31), which is where ``FeatureHasher(alternate_sign=False)`` puts it; with `own_slots` it is taken modulo the
    slots of the field. The hash of a cross is MurmurHash3 of the hashes of its columns, in its order, four little-endian
    bytes each, seeded with the unseeded hash of its name ``a*b``. A cross that has numbers has their product for value, so that
    ``a*b`` of a category a and a number b is the number b for each value of a; it is left out where the product is 0 or missing.

    Two fields of one row may meet in one slot. Both entries are kept, and indices are not sorted; whoever needs that
    calls ``sum_duplicates`` on the result.

    Examples
    --------
    >>> hasher = ColumnHasher(2**20, ["carrier", "hour", "miles"], [("carrier", "hour")])
    >>> hasher.fields
    ('carrier', 'hour', 'miles', 'carrier*hour')
    >>> X = hasher.transform({"carrier": ["UA", "AA", None], "hour": np.array([5, 17, 5]), "miles": [0.5, None, 1.25]})
    >>> X.shape, X.nnz
    ((3, 1048576), 11)
    """

    def __init__(
        self,
        n_features: int = 2**20,
        columns: Sequence[str] = (),
        crosses: Sequence[Sequence[str]] = (),
        *,
        numeric: Sequence[str] = (),
        categories: Sequence[str] = (),
        own_slots: bool = False,
    ) -> None:
        self.n_features: int = checks.integer(1, 2**31 - 1)("n_features", n_features)
        self.columns = _names("columns", columns)
        if isinstance(crosses, str) or not isinstance(crosses, Sequence):
            raise HyperParameterError(f"crosses must be a list of tuples of column names, got {crosses!r}")
        self.crosses = tuple(_names(f"crosses[{i}]", cross) for i, cross in enumerate(crosses))
        for i, cross in enumerate(self.crosses):
            if len(cross) < 2:
                raise HyperParameterError(f"crosses[{i}] must name at least two columns, got {cross!r}")
        if not self.fields:
            raise HyperParameterError("columns and crosses are both empty; name at least one column")
        twice = [f for i, f in enumerate(self.fields) if f in self.fields[:i]]
        if twice:
            raise HyperParameterError(f"columns and crosses name the field {twice[0]!r} twice")
        self.numeric, self.categories = _names("numeric", numeric), _names("categories", categories)
        for option in ("numeric", "categories"):
            for name in getattr(self, option):
                if name not in self.names:
                    raise HyperParameterError(
                        f"{option} has {name!r}, which is neither in columns nor in a cross.{did_you_mean(name, self.names)}"
                    )
        if both := set(self.numeric) & set(self.categories):
            raise HyperParameterError(f"numeric and categories both have {min(both)!r}")
        self.own_slots = checks.flag("own_slots", own_slots)
        if self.own_slots and n_features < len(self.fields):
            raise HyperParameterError(f"n_features={n_features} are fewer than the {len(self.fields)} fields")

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields, in the order of a row's entries: columns, then crosses (``a*b``)."""
        return self.columns + tuple("*".join(cross) for cross in self.crosses)

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that fields need, each once."""
        return tuple(dict.fromkeys(self.columns + sum(self.crosses, ())))

    @property
    def slot_fields(self) -> npt.NDArray[np.int32]:
        """The field of each slot, as `FFMClassifier` takes them, shape (n_features,); needs `own_slots`. 0 for slots of none."""
        if not self.own_slots:
            raise UnsupportedError("fields share their slots; pass own_slots=True to ColumnHasher")
        found = np.arange(self.n_features, dtype=np.int32) // np.int32(self._width)
        found[len(self.fields) * self._width :] = 0
        return found

    @property
    def _width(self) -> int:
        """The slots of a field."""
        return self.n_features // len(self.fields) if self.own_slots else self.n_features

    def options(self) -> dict[str, Any]:
        """The arguments that make this hasher once more; JSON has a form for them."""
        found: dict[str, Any] = {"n_features": self.n_features, "columns": self.columns, "crosses": self.crosses}
        for name in ("numeric", "categories", "own_slots"):
            if getattr(self, name):
                found[name] = getattr(self, name)
        return found

    def __repr__(self) -> str:
        return f"ColumnHasher({', '.join(f'{name}={value!r}' for name, value in self.options().items())})"

    def decide(self, table: Any) -> ColumnHasher:
        """This hasher with every column in `numeric` or `categories`, as the types of a table say where these do not.

        Parameters
        ----------
        table : mapping, pyarrow.Table or DataFrame
            As for `transform`; of pyarrow it may be empty, such as ``schema.empty_table()``.

        Returns
        -------
        ColumnHasher
            It takes columns of other types as those of this table: texts of a CSV file as the numbers of a Parquet file, for one.
        """
        numeric = [name for name, column in self._columns(table) if self._is_number(name, column)]
        others = [name for name in self.names if name not in numeric]
        return ColumnHasher(**{**self.options(), "numeric": numeric, "categories": others})

    def transform(self, table: Any) -> Any:
        """Hash a table.

        Parameters
        ----------
        table : mapping, pyarrow.Table or DataFrame
            Gives a column for a name: a pyarrow array or chunked array, a one-dimensional NumPy array, a Series, or a
            list. Columns that no field names are not looked at.

        Returns
        -------
        scipy.sparse.csr_matrix, shape (rows, n_features)
            float32; the entries of a row are in the order of `fields`: one for each category, and for each number that is there.

        Raises
        ------
        ShapeError
            If a column is missing, or columns are of different lengths.
        DTypeError
            If a column holds what is neither a category nor a number.
        ParseError
            If a text in a column of `numeric` is no number.
        NonFiniteError
            If a number is infinite, or float32 cannot hold it.
        """
        return self._transform(table, lambda k: f"row {k + 1:,} of the table")

    def _transform(self, table: Any, where: Where) -> Any:
        csr_matrix = need("scipy.sparse", "models").csr_matrix
        slots, data = self._entries(self._read(table, where), where)
        rows, n_fields = slots.shape
        if data is None:
            data = np.full(rows * n_fields, 1 / np.sqrt(n_fields), np.float32)
            ends = n_fields * np.arange(rows + 1)  # scipy narrows them to int32 where they fit
        else:
            there = data != 0
            ends = np.concatenate([[0], np.cumsum(np.count_nonzero(there, axis=1))])
            slots, data = slots[there], data[there]
        return csr_matrix((data, slots.reshape(-1), ends), shape=(rows, self.n_features))

    def _columns(self, table: Any) -> Any:
        """Name and column of each that a field needs."""
        known = column_names(table)
        for name in self.names:
            if name not in known:
                raise ShapeError(f"table has no column {name!r}.{did_you_mean(name, map(str, known))}")
            try:
                column = table[name]
            except KeyError as error:
                raise ShapeError(f"table cannot give the column {name!r}: {error}") from error
            yield name, read_column(f"column {name!r}", column)

    def _is_number(self, name: str, column: Any) -> bool:
        if name in self.numeric:
            column.check_number()
            return True
        return name not in self.categories and bool(column.is_number())

    def _read(self, table: Any, where: Where) -> dict[str, Read]:
        """The columns that fields need."""
        found: dict[str, Read] = {}
        for name, column in self._columns(table):
            if self._is_number(name, column):
                numbers = column.numbers(where)
                found[name] = Read([], np.zeros(len(numbers), np.intp), numbers, _hash_texts(name, [name]))
            else:
                texts, codes = column.categories()
                found[name] = Read(texts, codes, None, _hash_texts(name, [f"{name}={text}" for text in texts]))
            first = next(iter(found))
            rows = len(found[name].codes)
            if rows != len(found[first].codes):
                raise ShapeError(f"column {name!r} has {rows} rows, but column {first!r} has {len(found[first].codes)}")
        return found

    def _entries(
        self, read: dict[str, Read], where: Where
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32] | None]:
        """The slot of every row and field, and the value, 0 where there is no entry; no values where there is no number."""
        rows = len(next(iter(read.values())).codes)
        slots = self._slots({k: r.hashes for k, r in read.items()}, {k: r.codes for k, r in read.items()}, rows)
        if all(r.numbers is None for r in read.values()):
            return slots, None
        parts = [*((name,) for name in self.columns), *self.crosses]
        data = np.full(slots.shape, 1 / np.sqrt(len(parts)), np.float32)
        for k, part in enumerate(parts):
            factors = [numbers for name in part if (numbers := read[name].numbers) is not None]
            if not factors:
                continue
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                product = factors[0]
                for factor in factors[1:]:
                    product = product * factor
                data[:, k] = product
            if (wrong := np.isinf(data[:, k])).any():
                at = int(wrong.argmax())
                why = "is" if np.isinf(product[at]) else "is too large for float32:"
                raise NonFiniteError(f"{where(at)}: the number of {'*'.join(part)!r} {why} {product[at]}")
        data[np.isnan(data)] = 0
        return slots, data

    def _slots(self, hashes: dict[str, Words], codes: dict[str, Codes], rows: int) -> npt.NDArray[np.int32]:
        """The slot of every row and field."""
        singles = {name: _to_slots(hashes[name].copy(), self._width) for name in self.columns}
        crossed = {name: _scramble(hashes[name]) for name in dict.fromkeys(sum(self.crosses, ()))}
        murmur = _murmur()
        seeds = [murmur("*".join(cross)) for cross in self.crosses]
        n_fields, most = len(self.fields), min(rows, CHUNK)
        begins = self._width * np.arange(n_fields, dtype=np.uint32)[:, np.newaxis]

        # Field by field within a chunk of rows, where both the scratch and its transposed copy stay in the cache.
        slots = np.empty((rows, n_fields), np.int32)
        scratch = np.empty((n_fields, most), np.uint32)
        words = {name: np.empty(most, np.uint32) for name in crossed}
        shifted = np.empty(most, np.uint32)
        for start in range(0, rows, CHUNK):
            n = min(CHUNK, rows - start)
            here = {name: code[start : start + n] for name, code in codes.items()}
            block = scratch[:, :n]
            for out, name in zip(block, self.columns, strict=False):
                singles[name].take(here[name], out=out, mode="clip")
            for name, table in crossed.items():
                table.take(here[name], out=words[name][:n], mode="clip")
            for out, cross, seed in zip(block[len(self.columns) :], self.crosses, seeds, strict=True):
                out.fill(seed)
                for name in cross:
                    _absorb(out, words[name][:n], shifted[:n])
                _to_slots(_finish(out, 4 * len(cross), shifted[:n]), self._width)
            if self.own_slots:
                block += begins
            slots[start : start + n] = block.T.view(np.int32)
        return slots


# --------------------------------------------------------------------------------- MurmurHash3, 32 bits, word by word


def _murmur() -> Callable[[str], int]:
    """MurmurHash3 of a text, as an unsigned number."""
    function = need("sklearn.utils", "models").murmurhash3_32
    return lambda text: function(text, 0, True)


def _rotate(h: Words, bits: int, spare: Words) -> None:
    np.right_shift(h, np.uint32(32 - bits), out=spare)
    np.left_shift(h, np.uint32(bits), out=h)
    np.bitwise_or(h, spare, out=h)


def _scramble(words: Words) -> Words:
    """What MurmurHash3 makes of each four bytes before it looks at the hash so far."""
    words = words * np.uint32(0xCC9E2D51)
    _rotate(words, 15, np.empty_like(words))
    words *= np.uint32(0x1B873593)
    return words


def _absorb(h: Words, scrambled: Words, spare: Words) -> None:
    np.bitwise_xor(h, scrambled, out=h)
    _rotate(h, 13, spare)
    np.multiply(h, np.uint32(5), out=h)
    np.add(h, np.uint32(0xE6546B64), out=h)


def _finish(h: Words, n_bytes: int, spare: Words) -> Words:
    np.bitwise_xor(h, np.uint32(n_bytes), out=h)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, None)):
        np.right_shift(h, np.uint32(shift), out=spare)
        np.bitwise_xor(h, spare, out=h)
        if factor is not None:
            np.multiply(h, np.uint32(factor), out=h)
    return h


def _to_slots(h: Words, n_features: int) -> Words:
    """``abs(h) % n_features`` of the hashes as signed numbers, in place."""
    signed = h.view(np.int32)
    np.absolute(signed, out=signed)  # leaves -2**31, whose bits are 2**31
    if n_features & (n_features - 1):
        return np.remainder(h, np.uint32(n_features), out=h)
    return np.bitwise_and(h, np.uint32(n_features - 1), out=h)


# ------------------------------------------------------------------------------------------------------------ columns


def _names(name: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(v, str) for v in value):
        raise HyperParameterError(f"{name} must be a list of column names, got {value!r}")
    if len(set(value)) < len(value):
        raise HyperParameterError(f"{name} names a column twice: {value!r}")
    return tuple(value)


def _hash_texts(name: str, texts: list[str]) -> Words:
    murmur = _murmur()
    try:
        return np.array([murmur(text) for text in texts], np.uint32)
    except UnicodeEncodeError as error:
        raise DTypeError(f"column {name!r} holds a text that UTF-8 cannot express: {error}") from error


# -------------------------------------------------------------------------------------------------------------- files


def read_csv(path_or_file: Any, columns: Sequence[str] | None = None) -> Any:
    """Read a CSV file with a header, as text.

    Parameters
    ----------
    path_or_file : str, path-like or file object
        A path may end in .gz, .bz2 or the like. A file object is read to its end.
    columns : sequence of str, optional
        The columns to read, in this order; all by default.

    Returns
    -------
    pyarrow.Table
        Every column a column of strings, as they stand in the file: nothing is taken for a number or for missing.
    """
    pa, csv = need("pyarrow", "cli"), need("pyarrow.csv", "cli")
    if columns is not None:
        columns = _names("columns", columns)
        if not columns:
            raise HyperParameterError("columns is empty; name the columns to read, or pass None for all")
    if isinstance(path_or_file, (str, os.PathLike)):
        source, data = os.fspath(path_or_file), None
    elif hasattr(path_or_file, "read"):
        source, data = getattr(path_or_file, "name", "the file"), path_or_file.read()
        data = data.encode() if isinstance(data, str) else data
    else:
        raise DTypeError(f"path_or_file must be a path or a file, got {type(path_or_file).__name__}")

    def opened() -> Any:
        return source if data is None else pa.BufferReader(data)

    try:
        if columns is None:
            with csv.open_csv(opened()) as reader:
                names = reader.schema.names
        else:
            names = columns
        options = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), include_columns=columns)
        return csv.read_csv(opened(), convert_options=options)
    except KeyError as error:
        raise ShapeError(f"{source}: {error.args[0]}") from error
    except ValueError as error:  # pyarrow.ArrowInvalid
        raise ShapeError(f"{source} cannot be read as CSV: {error}") from error


def numbers(texts: Any) -> Array:
    """Texts as numbers, NaN where they are none."""

    def number(text: Any) -> float:
        try:
            return float(text)
        except (TypeError, ValueError):
            return float("nan")

    values, place = np.unique(texts.astype(str), return_inverse=True)
    return np.array([number(v) for v in values], np.float64)[place]
