"""From a table of categories to a CSR matrix, by hashing: whole columns at a time, every distinct value once."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import checks
from ..checks import Array, need
from ..errors import DTypeError, HyperParameterError, ShapeError, did_you_mean

Words = npt.NDArray[np.uint32]
Codes = npt.NDArray[np.intp]

# Rows hashed together: the scratch of some 30 fields stays in the second-level cache.
CHUNK = 16384


class ColumnHasher:
    """Turns columns of categories, and crosses of them, into a CSR matrix with one non-zero per field and row.

    Parameters
    ----------
    n_features : int
        Width of the matrix, from 1 to 2**31 - 1. A power of two is a little faster.
    columns : sequence of str
        Names of the columns that are fields by themselves.
    crosses : sequence of tuples of str
        Each cross is a field with one value for every combination of values of two or more different columns; these
        need not be listed in `columns`.

    Notes
    -----
    The hash of a value is 32-bit MurmurHash3, seed 0, of the UTF-8 text ``name=value``, and its slot is
    ``abs(hash) % n_features`` (of the signed hash; 2**31 for -2**31), which is where scikit-learn's
    ``FeatureHasher(alternate_sign=False)`` puts it. The hash of a cross is MurmurHash3 of the hashes of its columns, in
    its order, four little-endian bytes each, seeded with the unseeded hash of its name ``a*b``.

    Integers count as their decimal text, so that 7 and ``"7"`` are one value. A missing value (null, None, NaN in an
    array of objects) counts as the empty text: it hashes as ``name=``.

    Two fields of one row may meet in one slot. Both entries are kept, and indices are not sorted; whoever needs that
    calls ``sum_duplicates`` on the result.

    Examples
    --------
    >>> hasher = ColumnHasher(2**20, ["carrier", "hour"], [("carrier", "hour")])
    >>> hasher.fields
    ('carrier', 'hour', 'carrier*hour')
    >>> X = hasher.transform({"carrier": ["UA", "AA", None], "hour": np.array([5, 17, 5])})
    >>> X.shape, X.nnz
    ((3, 1048576), 9)
    """

    def __init__(
        self, n_features: int = 2**20, columns: Sequence[str] = (), crosses: Sequence[Sequence[str]] = ()
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

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields, in the order of a row's entries: columns, then crosses (``a*b``)."""
        return self.columns + tuple("*".join(cross) for cross in self.crosses)

    def __repr__(self) -> str:
        return f"ColumnHasher(n_features={self.n_features}, columns={self.columns!r}, crosses={self.crosses!r})"

    def transform(self, table: Any) -> Any:
        """Hash a table.

        Parameters
        ----------
        table : mapping, pyarrow.Table or DataFrame
            Gives a column for a name: a pyarrow array or chunked array, a one-dimensional NumPy array, a Series, or a
            list, of strings or integers. Columns that no field names are not looked at.

        Returns
        -------
        scipy.sparse.csr_matrix, shape (rows, n_features)
            float32; each row has one entry per field, in the order of `fields`, of 1 / sqrt(number of fields).
        """
        csr_matrix = need("scipy.sparse", "models").csr_matrix
        hashes, codes = self._encode(table)
        rows, n_fields = len(next(iter(codes.values()))), len(self.fields)
        data = np.full(rows * n_fields, 1 / np.sqrt(n_fields), np.float32)
        ends = n_fields * np.arange(rows + 1)  # scipy narrows them to int32 where they fit
        slots = self._slots(hashes, codes, rows)
        return csr_matrix((data, slots.reshape(-1), ends), shape=(rows, self.n_features))

    def _encode(self, table: Any) -> tuple[dict[str, Words], dict[str, Codes]]:
        """Of each column that a field needs: the hashes of its distinct values, and which of them each row has."""
        known = _column_names(table)
        hashes, codes = {}, {}
        for name in dict.fromkeys(self.columns + sum(self.crosses, ())):
            if name not in known:
                raise ShapeError(f"table has no column {name!r}.{did_you_mean(name, map(str, known))}")
            try:
                column = table[name]
            except KeyError as error:
                raise ShapeError(f"table cannot give the column {name!r}: {error}") from error
            values, codes[name] = _encode(f"column {name!r}", column)
            hashes[name] = _hash_values(name, values)
            first = next(iter(codes))
            if len(codes[name]) != len(codes[first]):
                raise ShapeError(
                    f"column {name!r} has {len(codes[name])} rows, but column {first!r} has {len(codes[first])}"
                )
        return hashes, codes

    def _slots(self, hashes: dict[str, Words], codes: dict[str, Codes], rows: int) -> npt.NDArray[np.int32]:
        """The slot of every row and field."""
        singles = {name: _to_slots(hashes[name].copy(), self.n_features) for name in self.columns}
        crossed = {name: _scramble(hashes[name]) for name in dict.fromkeys(sum(self.crosses, ()))}
        murmur = _murmur()
        seeds = [murmur("*".join(cross)) for cross in self.crosses]
        n_fields, most = len(self.fields), min(rows, CHUNK)

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
                _to_slots(_finish(out, 4 * len(cross), shifted[:n]), self.n_features)
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


def _column_names(table: Any) -> list[Any]:
    if isinstance(table, Mapping):
        return list(table)
    for attribute in ("column_names", "columns"):  # pyarrow, then DataFrames
        if hasattr(table, attribute):
            return list(getattr(table, attribute))
    raise DTypeError(
        f"table must be a mapping from names to columns, a pyarrow.Table or a DataFrame, got {type(table).__name__}"
    )


def _encode(name: str, column: Any) -> tuple[list[Any], Codes]:
    """The distinct values of a column, and for every row the number of its value."""
    if hasattr(column, "dictionary_encode"):
        return _encode_arrow(name, column)
    if isinstance(column, (list, tuple)):
        return _encode_list(name, list(column))
    if hasattr(column, "to_list"):  # a Series, whose missing integers an array would turn into floats
        return _encode_list(name, column.to_list())
    if isinstance(column, np.ma.MaskedArray):
        raise DTypeError(f"{name} is a masked array, whose mask would be lost; pass .astype(object).filled(None)")
    if isinstance(column, (str, bytes)) or not hasattr(column, "__array__"):
        raise DTypeError(
            f"{name} must be a list, a NumPy array, a pyarrow array or a Series, got {type(column).__name__}"
        )
    a = np.asarray(column)
    if a.ndim != 1:
        raise ShapeError(f"{name} must have one dimension, got shape {a.shape}")
    if a.dtype.kind not in "OUTiu":
        raise DTypeError(f"{name} has dtype {a.dtype}, expected strings or integers; {_WAY_OUT}")
    return _encode_list(name, a.tolist())


def _encode_list(name: str, column: list[Any]) -> tuple[list[Any], Codes]:
    numbers: defaultdict[Any, int] = defaultdict(count().__next__)
    try:
        codes = np.fromiter(map(numbers.__getitem__, column), np.intp, len(column))
    except TypeError as error:
        raise DTypeError(f"{name} must hold strings or integers: {error}") from error
    # 1, 1.0 and True are one key: where there are other keys than texts, look at every row.
    if set(map(type, numbers)) - {str, type(None)}:
        for kind in set(map(type, column)):
            if issubclass(kind, (float, np.floating)):
                fits = all(_is_null(v) for v in column if type(v) is kind)
            else:
                fits = issubclass(kind, (str, int, np.integer, type(None))) or kind.__name__ == "NAType"
            if not fits or kind is bool:
                raise DTypeError(f"{name} holds {kind.__name__}, expected strings or integers; {_WAY_OUT}")
    return list(numbers), codes


def _encode_arrow(name: str, column: Any) -> tuple[list[Any], Codes]:
    pa = need("pyarrow", "cli")
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not pa.types.is_integer(kind) and str(kind) not in ("string", "large_string", "string_view", "null"):
        raise DTypeError(
            f"{name} has type {kind}, expected strings or integers; leave it out, or pass .cast(pyarrow.string())"
        )
    column = column.dictionary_encode()
    if isinstance(column, pa.ChunkedArray):
        column = column.cast(pa.dictionary(pa.int32(), kind)).combine_chunks()
    values = column.dictionary.to_pylist()
    codes = column.indices.cast(pa.int64()).fill_null(len(values))
    return [*values, None], codes.to_numpy(zero_copy_only=False).astype(np.intp, copy=False)


_WAY_OUT = "turn it into text or whole numbers first"


def _is_null(value: Any) -> bool:
    """None, NaN, or pandas.NA, which cannot be imported here and has no truth value."""
    if isinstance(value, (float, np.floating)):
        return bool(value != value)
    return value is None or type(value).__name__ == "NAType"


def _hash_values(name: str, values: list[Any]) -> Words:
    murmur = _murmur()
    try:
        return np.array([murmur(f"{name}={'' if _is_null(v) else v}") for v in values], np.uint32)
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
