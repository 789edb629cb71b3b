"""Text files of samples as CSR matrices: svmlight, libffm, Vowpal Wabbit; in one piece, or as a stream of pieces."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

import numpy as np

from .. import checks
from ..checks import Array, need
from ..errors import DTypeError, HyperParameterError, ParseError
from . import lines

BLOCK = 1 << 20  # bytes read at a time: they stay in the second-level cache until they are parsed
MOST = lines.MOST

#: The parser: compiled, or in Python where the package was installed without its kernels.
Parser: Any
try:
    Parser = import_module("fastopt.kernels.text").Parser
except ModuleNotFoundError as missing:
    if missing.name != "fastopt.kernels.text":
        raise
    Parser = lines.Parser

_EXPECTED = {
    lines.LABEL: "the label, a number",
    lines.INDEX: "an index from {least} to {most}",
    lines.FIELD: "the number of a field, from 0 to 2147483647",
    lines.COLON: "a colon after the number",
    lines.VALUE: "the value, a number",
    lines.RISING: "an index above the one before, as indices rise within a row",
    lines.QUERY: "qid: and an integer of 64 bits",
    lines.NAME: "the name of a feature",
    lines.BAR: "a bar (|), after at most three numbers and a tag",
    lines.SCALE: "the scale of the namespace, a number",
    lines.WEIGHT: "the importance, a finite number from 0",
    lines.BASE: "the initial prediction, of which only 0 is supported",
}


# ------------------------------------------------------------------------------------------------------------- sources


def open_bytes(path_or_file: Any) -> tuple[str, Any]:
    """The name of a source, and a file of its bytes: of a path (unpacked if it ends in .gz or .bz2), "-", or a file."""
    if isinstance(path_or_file, (str, os.PathLike)):
        name = os.fspath(path_or_file)
        if name == "-":
            # Unbuffered: it gives what a pipe has, and a thread that waits for more does not hold a lock which Python needs to end.
            return "standard input", getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
        openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open}
        return str(name), openers.get(os.path.splitext(name)[1], open)(name, "rb")
    if hasattr(path_or_file, "read"):
        return str(getattr(path_or_file, "name", "the file")), path_or_file
    raise DTypeError(f"path_or_file must be a path or a file, got {type(path_or_file).__name__}")


def is_ours(path_or_file: Any) -> bool:
    """Whether `open_bytes` opened a file that is to be closed again."""
    return isinstance(path_or_file, (str, os.PathLike)) and os.fspath(path_or_file) != "-"


class Text:
    """A text under parsing: bytes come in blocks, rows go out in pieces."""

    def __init__(
        self,
        path_or_file: Any,
        form: int,
        dtype: Any = "float32",
        least: int = 0,
        most: int = MOST,
        slots: int = 0,
        signs: bool = False,
        constant: bool = False,
    ) -> None:
        self.dtype = checks.float_dtype("dtype", dtype)
        self.form, self.limits = form, {"least": least, "most": most}
        self.parser = Parser(form, least, most, slots, signs, constant)
        self.name, self.file = open_bytes(path_or_file)
        self.owned = is_ours(path_or_file)
        self.buffer, self.start, self.stop = bytearray(BLOCK + 1), 0, 0
        self.read, self.ended = 0, False
        self.size = 0  # of the file in bytes, where that is known
        with suppress(OSError, TypeError, ValueError):
            if self.owned and isinstance(self.file, io.BufferedReader):
                self.size = os.fstat(self.file.fileno()).st_size
        self.arrays: dict[str, Array] = {}

    def close(self) -> None:
        """Close the file, if it was opened here."""
        if self.owned:
            self.file.close()

    def take(self, rows: int | None = None) -> dict[str, Array] | None:
        """The next rows: at most so many, or all; None where there are none and rows were counted."""
        parser = self.parser
        parser.restart()
        self.arrays = {}
        self._rows(min(rows or 1024, 16384))  # a stream may be asked for more rows than there are
        self._entries(8 * len(self.arrays["labels"]))
        while True:
            start = self.start
            status = parser.parse(self.buffer, start, self.stop, **self.arrays)
            self.start += parser.at
            if status == lines.DONE:
                if not self._fill():
                    break
            elif status == lines.ROWS_FULL:
                if parser.rows == rows:
                    break
                room = self._more(parser.rows)
                self._rows(min(room, rows) if rows else room)
            elif status == lines.ENTRIES_FULL:
                self._entries(self._more(len(self.arrays["indices"])))
            else:
                raise self._error(start)
        if rows and not parser.rows:
            return None
        n, k = parser.rows, parser.entries
        ends = {"indptr": n + 1, "indices": k, "data": k, "fields": k}
        done, self.arrays = self.arrays, {}
        return {name: _cut(a, ends.get(name, n)) for name, a in done.items()}

    def _rows(self, room: int) -> None:
        """Have room for so many rows."""
        self._grow("indptr", room + 1, self.parser.rows + 1, np.int64)[0] = 0
        self._grow("labels", room, self.parser.rows, np.float64)
        if self.form == lines.VW:
            self._grow("weights", room, self.parser.rows, np.float64)
        if self.form == lines.SVMLIGHT:
            self._grow("queries", room, self.parser.rows, np.int64)

    def _entries(self, room: int) -> None:
        """Have room for so many entries."""
        self._grow("indices", room, self.parser.entries, np.int32)
        self._grow("data", room, self.parser.entries, self.dtype)
        if self.form == lines.LIBFFM:
            self._grow("fields", room, self.parser.entries, np.int32)

    def _grow(self, name: str, room: int, used: int, dtype: Any) -> Array:
        a = np.empty(room, dtype)
        if name in self.arrays:
            a[:used] = self.arrays[name][:used]
        self.arrays[name] = a
        return a

    def _more(self, room: int) -> int:
        """How much room to have next: twice as much, or what the whole file should need."""
        parsed = self.read - (self.stop - self.start)
        return max(2 * room, int(1.1 * room * self.size / parsed) if parsed >= BLOCK // 2 else 0)

    def _fill(self) -> bool:
        """Read on behind what is left; False at the end of the file."""
        if self.ended:
            return False
        rest = self.stop - self.start
        self.buffer[:rest] = self.buffer[self.start : self.stop]
        self.start, self.stop = 0, rest
        if 2 * rest >= len(self.buffer):  # a long line
            self.buffer.extend(bytes(len(self.buffer)))
        try:
            got = self._read_into(rest)
        except (EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ParseError(f"{self.name} cannot be unpacked: {error}") from error
        self.read += got
        self.stop += got
        if not got:
            self.ended = True
            if not rest:
                return False
            self.buffer[rest : rest + 1] = b"\n"  # the last line may lack it
            self.stop += 1
        return True

    def _read_into(self, start: int) -> int:
        """Read as many bytes as there are and as fit into the buffer, but for its last; how many."""
        if self.owned:
            with memoryview(self.buffer) as whole:
                return int(self.file.readinto(whole[start:-1]))
        block = self.file.read(len(self.buffer) - 1 - start)  # of a file of others, which may have no more than this
        if not isinstance(block, (bytes, bytearray, memoryview)):
            raise DTypeError(f"{self.name} gives {type(block).__name__}, not bytes; open it in binary mode ('rb')")
        self.buffer[start : start + len(block)] = block
        return len(block)

    def _error(self, start: int) -> ParseError:
        first, last, expected = self.parser.wrong
        there = bytes(self.buffer[start + first : start + min(last, first + 40)])
        what = repr(there.decode("utf-8", "backslashreplace")) if there else "nothing"
        line, column = self.parser.lines + 1, first - self.parser.at + 1
        error = ParseError(
            f"{self.name}, line {line}, column {column}: {what}, but expected {_EXPECTED[expected].format(**self.limits)}"
        )
        error.line, error.column = line, column
        return error


def _cut(a: Array, n: int) -> Array:
    """The first n of `a`, in memory of their size if much of that of `a` would be idle."""
    return a[:n] if 8 * n >= 7 * len(a) else a[:n].copy()


def _matrix(piece: dict[str, Array], n_features: int) -> Any:
    csr_matrix = need("scipy.sparse", "models").csr_matrix
    indptr = piece["indptr"]
    if indptr[-1] <= MOST:  # SciPy wants one type for both
        indptr = indptr.astype(np.int32)
    return csr_matrix((piece["data"], piece["indices"], indptr), shape=(len(piece["labels"]), n_features))


def _width(n_features: Any) -> int | None:
    return None if n_features is None else checks.integer(1, MOST)("n_features", n_features)


# ------------------------------------------------------------------------------------------------------------ svmlight


class _Source:
    """What a reader was asked for, as a source of pieces: `take` gives the next."""

    text: Text
    n_features: int | None = None

    def close(self) -> None:
        """Close the file, if it was opened here."""
        self.text.close()

    def ready_for_pieces(self) -> None:
        """Raise where pieces would differ in their width or meaning."""
        if self.n_features is None:
            raise HyperParameterError("a stream needs n_features: its pieces must have the same width")


class SVMLight(_Source):
    """As `read_svmlight`."""

    def __init__(
        self,
        path_or_file: Any,
        n_features: int | None = None,
        zero_based: bool | str = "auto",
        dtype: Any = "float32",
        query_id: bool = False,
    ) -> None:
        self.n_features = _width(n_features)
        if not isinstance(zero_based, (bool, np.bool_)) and zero_based != "auto":
            raise HyperParameterError(f"zero_based must be True, False or 'auto', got {zero_based!r}")
        self.zero_based = zero_based
        self.starts_at_zero = zero_based is True
        self.query_id = checks.flag("query_id", query_id)
        least = int(zero_based is not True and zero_based != "auto")
        most = MOST if self.n_features is None else self.n_features
        self.text = Text(path_or_file, lines.SVMLIGHT, dtype, least, most - (bool(zero_based) and zero_based != "auto"))

    def take(self, rows: int | None = None) -> Any:
        """The next (X, y), or (X, y, queries)."""
        piece = self.text.take(rows)
        if piece is None:
            return None
        parser, name = self.text.parser, self.text.name
        some = len(piece["indices"]) > 0
        base = int(parser.lowest > 0 and some) if self.zero_based == "auto" else int(not self.zero_based)
        self.starts_at_zero = not base
        width = parser.highest - base + 1 if some else 1
        if width > (self.n_features or MOST):
            raise ParseError(
                f"{name} has the indices 0 and {parser.highest}: more than {self.n_features or MOST} features"
            )
        if self.query_id and parser.queries[1]:
            raise ParseError(f"{name} has {parser.queries[1]} rows without qid, of {len(piece['labels'])}")
        if base:
            np.subtract(piece["indices"], 1, out=piece["indices"])
        found = _matrix(piece, self.n_features or width), piece["labels"]
        return (*found, piece["queries"]) if self.query_id else found

    def ready_for_pieces(self) -> None:
        if self.zero_based == "auto":
            raise HyperParameterError(
                "zero_based='auto' looks at the whole file; a stream needs zero_based=False (indices from 1) or True"
            )
        super().ready_for_pieces()


def read_svmlight(
    path_or_file: Any,
    *,
    n_features: int | None = None,
    zero_based: bool | str = "auto",
    dtype: Any = "float32",
    query_id: bool = False,
) -> Any:
    """Read a file in svmlight (libsvm) format: ``label index:value index:value ... # comment``.

    Parameters
    ----------
    path_or_file : str, path-like or binary file object
        A path may end in .gz or .bz2; "-" is standard input. A file object is read to its end.
    n_features : int, optional
        Width of the matrix; by default the largest index of the file decides.
    zero_based : bool or "auto", default "auto"
        Whether the first feature has the index 0 (True) or 1 (False). "auto": 0, if the file has an index 0 or no entries.
    dtype : {"float32", "float64"}, default "float32"
        Of the values. They are read as float64 and rounded.
    query_id : bool, default False
        Whether to return the queries (``qid:7`` behind the label) as well; else they are skipped.

    Returns
    -------
    X : scipy.sparse.csr_matrix, shape (rows, n_features)
        With int32 indices, which rise within a row.
    y : ndarray of float64, shape (rows,)
        The labels as they stand in the file.
    queries : ndarray of int64, shape (rows,)
        Only with `query_id`.

    Raises
    ------
    ParseError
        If a line is bad: the message names file, line and column, what stands there and what was expected. Nothing is
        returned then.

    Notes
    -----
    The results are those of ``sklearn.datasets.load_svmlight_file``, to the bit. Differences: lists of labels are not read
    (``multilabel``); with `query_id` every row needs its ``qid:``; an index is written in digits alone (Python's ``1_0`` is none).

    Examples
    --------
    >>> import io
    >>> X, y = read_svmlight(io.BytesIO(b"1 1:0.5 3:2 # a comment\\n-1 2:1e-3\\n"))
    >>> X.shape, y.tolist()
    ((2, 3), [1.0, -1.0])
    """
    return _whole(SVMLight, path_or_file, n_features, zero_based, dtype, query_id)


# -------------------------------------------------------------------------------------------------------------- libffm


class LibFFM(_Source):
    """As `read_libffm`."""

    def __init__(self, path_or_file: Any, n_features: int | None = None, dtype: Any = "float32") -> None:
        self.n_features = _width(n_features)
        self.text = Text(path_or_file, lines.LIBFFM, dtype, 0, (self.n_features or MOST) - 1)

    def take(self, rows: int | None = None) -> Any:
        """The next (X, y, fields)."""
        piece = self.text.take(rows)
        if piece is None:
            return None
        width = self.n_features or (self.text.parser.highest + 1)
        return _matrix(piece, width), piece["labels"], piece["fields"]


def read_libffm(
    path_or_file: Any, *, n_features: int | None = None, dtype: Any = "float32"
) -> tuple[Any, Array, Array]:
    """Read a file in libffm format: ``label field:index:value field:index:value ...``.

    Parameters
    ----------
    path_or_file, n_features, dtype
        As for `read_svmlight`. Fields and indices are numbered from 0.

    Returns
    -------
    X : scipy.sparse.csr_matrix, shape (rows, n_features)
        Entries are in the order of the file; an index may come twice in a row, with different fields.
    y : ndarray of float64, shape (rows,)
    fields : ndarray of int32, shape (entries,)
        The field of each entry of ``X.data``. What reorders or sums the entries of X (``sort_indices``,
        ``sum_duplicates``) breaks the correspondence.

    Raises
    ------
    ParseError
        As `read_svmlight`.

    Examples
    --------
    >>> import io
    >>> X, y, fields = read_libffm(io.BytesIO(b"1 0:3:1 1:7:0.5\\n"))
    >>> X.indices.tolist(), fields.tolist()
    ([3, 7], [0, 1])
    """
    return _whole(LibFFM, path_or_file, n_features, dtype)


# ------------------------------------------------------------------------------------------------------ Vowpal Wabbit


class VW(_Source):
    """As `read_vw`."""

    def __init__(
        self,
        path_or_file: Any,
        n_features: int = 2**20,
        dtype: Any = "float32",
        alternate_sign: bool = False,
        constant: bool = False,
    ) -> None:
        self.n_features = self.slots = checks.integer(1, MOST)("n_features", n_features)
        signs, constant = checks.flag("alternate_sign", alternate_sign), checks.flag("constant", constant)
        self.text = Text(path_or_file, lines.VW, dtype, slots=self.slots, signs=signs, constant=constant)

    def take(self, rows: int | None = None) -> Any:
        """The next (X, y, weights)."""
        piece = self.text.take(rows)
        return None if piece is None else (_matrix(piece, self.slots), piece["labels"], piece["weights"])


def read_vw(
    path_or_file: Any,
    *,
    n_features: int = 2**20,
    dtype: Any = "float32",
    alternate_sign: bool = False,
    constant: bool = False,
) -> tuple[Any, Array, Array]:
    """Read a file in Vowpal Wabbit's text format, and hash the names of its features.

    A line is ``label importance 'tag |space:scale name:value name ... |space name ...``. Importance, tag, spaces and scales may be
    missing, and so may the label; a feature without value has the value 1.

    Parameters
    ----------
    path_or_file, dtype
        As for `read_svmlight`.
    n_features : int, default 2**20
        Width of the matrix, from 1 to 2**31 - 1. A power of two is faster.
    alternate_sign : bool, default False
        Whether the sign of the hash multiplies the value, as scikit-learn's ``FeatureHasher`` does by default.
    constant : bool, default False
        Whether every row gets a feature named ``Constant`` of value 1, as its last entry. Models with an intercept need none.

    Returns
    -------
    X : scipy.sparse.csr_matrix, shape (rows, n_features)
        Entries are in the order of the line; those of value 0 are left out. Two features of a row may meet in one slot:
        both entries are kept, and `sum_duplicates` adds them.
    y : ndarray of float64, shape (rows,)
        NaN where a line has no label.
    weights : ndarray of float64, shape (rows,)
        The importance; 1 where a line has none.

    Raises
    ------
    ParseError
        As `read_svmlight`. An initial prediction (a third number before the bar) other than 0 is not supported.

    Notes
    -----
    The hash is 32-bit MurmurHash3, seed 0, of the bytes ``space^name``, or of ``name`` alone where the space has no name; the slot
    is ``abs(hash) % n_features`` of the signed hash, where ``FeatureHasher`` puts it. Vowpal Wabbit's own slots are others: it
    seeds the hash of a name with that of its space, and takes names made of digits as numbers. A value times the scale of its
    space is computed in float64 and rounded. Tags are skipped; features without a name, and labels that are not one
    number, are errors.

    Examples
    --------
    >>> import io
    >>> X, y, weights = read_vw(io.BytesIO(b"1 2.0 'x |user age:0.5 tall |page sports\\n-1 |user age:2\\n"))
    >>> X.shape, X.nnz, y.tolist(), weights.tolist()
    ((2, 1048576), 4, [1.0, -1.0], [2.0, 1.0])
    """
    return _whole(VW, path_or_file, n_features, dtype, alternate_sign, constant)


def _whole(kind: Callable[..., Any], *args: Any) -> Any:
    source = kind(*args)
    try:
        return source.take()
    finally:
        source.close()
