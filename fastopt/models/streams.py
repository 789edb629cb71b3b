"""Files of samples as streams of pieces, read and parsed in the background."""

from __future__ import annotations

import inspect
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from .. import checks
from ..checks import Array, need
from ..errors import DTypeError, HyperParameterError, ParseError, ShapeError, did_you_mean
from .cache import read_cache
from .features import ColumnHasher, numbers
from .text import MOST, VW, LibFFM, SVMLight, is_ours, open_bytes

ROWS = 65536


def chunks(path_or_file: Any, *, rows: int = ROWS, reader: str | None = None, **options: Any) -> Iterator[Any]:
    """The samples of a file in pieces of so many rows, in bounded memory; a thread reads and parses ahead.

    Parameters
    ----------
    path_or_file : str, path-like or binary file object
        A path may end in .gz or .bz2 (but not Parquet); "-" is standard input.
    rows : int, default 65536
        Rows of a piece, from 1. The last piece, and pieces of tables from which rows are left out, have fewer.
    reader : {"svmlight", "vw", "libffm", "csv", "parquet", "cache"}, optional
        By default the ending of the path decides: .vw, .ffm, .csv, .parquet, .cache, and svmlight for any other.
    **options
        Those of `read_svmlight` (`zero_based` and `n_features` must be said), `read_vw`, `read_libffm` (`n_features` must be
        said) or `read_cache`. With ``n_features="scan"`` the path is read twice: first for its largest index, and for whether
        indices begin at 0 where `zero_based` is not said. For tables: `hasher`, a `ColumnHasher`; `label`, the name of a
        column of numbers, or None: y is None then; `above`: whether the label is above this number, in the place of the
        label; and ``texts=True``: labels as texts. Rows whose label is no number (an empty text) are left out. Columns of
        Parquet have types. Those of CSV are texts in every piece, whatever they look like; those in `numeric` of the hasher are
        read as numbers, and those in `types`, a mapping from names to pyarrow types, as values of these types: truth values,
        say, of a model that was trained on Parquet.

    Yields
    ------
    tuple
        What the reader of the whole file returns, of these rows: X and y, and the weights of `read_vw`, the fields of
        `read_libffm`, the queries of `read_svmlight`. A piece is no longer used here once it is out.

    Raises
    ------
    HyperParameterError, OSError
        At the call: options that do not fit, a file that cannot be opened.
    ParseError, ShapeError, DTypeError, NonFiniteError
        When the turn of the bad line comes; the pieces before it are out.

    Notes
    -----
    At most three pieces exist at a time: the caller's, one that waits, one in the making. Closing the iterator, or losing it,
    ends the thread.

    Examples
    --------
    >>> import io
    >>> text = io.BytesIO(b"1 |a x y\\n-1 |a z\\n1 |a x\\n")
    >>> [X.shape for X, y, weights in chunks(text, rows=2, reader="vw", n_features=16)]
    [(2, 16), (1, 16)]
    """
    rows = checks.integer(1)("rows", rows)
    name = form_of(path_or_file) if reader is None else checks.one_of(*READERS)("reader", reader)
    kind = READERS[name]
    known = list(inspect.signature(kind).parameters)[1:]
    for option in options:
        if option not in known:
            raise HyperParameterError(f"the reader {name!r} has no option {option!r}.{did_you_mean(option, known)}")
    if isinstance(options.get("n_features"), str) and name in ("svmlight", "libffm"):
        checks.one_of("scan")("n_features", options["n_features"])
        base = options.get("zero_based", "auto")
        if isinstance(base, str):
            checks.one_of("auto")("zero_based", base)
        options["n_features"], base = extent(path_or_file, name, None, None if isinstance(base, str) else base)
        if name == "svmlight":
            options["zero_based"] = base
    source = kind(path_or_file, **options)
    try:
        source.ready_for_pieces()
    except BaseException:
        source.close()
        raise
    return _ahead(source, rows)


def form_of(path_or_file: Any) -> str:
    """The reader for a path, by its ending."""
    if not isinstance(path_or_file, (str, os.PathLike)):
        return "svmlight"
    name = str(os.fspath(path_or_file)).lower()
    ending = os.path.splitext(name.removesuffix(".gz").removesuffix(".bz2"))[1]
    return {".vw": "vw", ".ffm": "libffm", ".csv": "csv", ".parquet": "parquet", ".cache": "cache"}.get(
        ending, "svmlight"
    )


def extent(path: Any, reader: str, n_features: int | None = None, zero_based: bool | None = None) -> tuple[int, bool]:
    """The number of features of an svmlight or libffm file and whether its indices begin at 0, as far as not given.

    Reads the file once, in bounded memory. Indices begin at 0 if there is an index 0, or no entry at all.
    """
    if not is_ours(path):
        raise HyperParameterError(
            "n_features='scan' reads the file twice and needs a path; pass the number of features"
        )
    source = READERS[reader](path)
    lowest, highest, parser = MOST, -1, source.text.parser
    try:
        while (piece := source.text.take(ROWS)) is not None:
            if len(piece["indices"]):
                lowest, highest = min(lowest, parser.lowest), max(highest, parser.highest)
    finally:
        source.close()
    if zero_based is None:
        zero_based = reader == "libffm" or lowest == 0 or highest < 0
    return n_features or max(1, highest + int(zero_based or reader == "libffm")), zero_based


def _ahead(source: Any, rows: int) -> Iterator[Any]:
    """The pieces of `source`, one of which is made while the caller has another."""
    waiting: queue.Queue[Any] = queue.Queue(1)
    over = threading.Event()

    def put(item: Any) -> bool:
        while not over.is_set():
            try:
                waiting.put(item, timeout=0.05)
                return True
            except queue.Full:
                pass
        return False

    def work() -> None:
        try:
            while (piece := source.take(rows)) is not None:
                if not put((piece, None)):
                    return
                del piece
            put((None, None))
        except BaseException as error:
            put((None, error))
        finally:
            source.close()

    # A daemon: one that waits for standard input must not keep the process.
    thread = threading.Thread(target=work, name="fastopt.models.chunks", daemon=True)
    thread.start()
    try:
        while True:
            piece, error = waiting.get()
            if error is not None:
                raise error
            if piece is None:
                return
            yield piece
            del piece
    finally:
        over.set()
        thread.join(1.0)


# -------------------------------------------------------------------------------------------------------------- tables


class _Table:
    """A table as a source of pieces."""

    def __init__(
        self, path_or_file: Any, hasher: Any, label: Any, above: float | None = None, texts: bool = False
    ) -> None:
        if not isinstance(hasher, ColumnHasher):
            raise DTypeError(f"hasher must be a ColumnHasher, got {type(hasher).__name__}")
        if label is not None and not isinstance(label, str):
            raise HyperParameterError(f"label must be the name of a column, or None, got {label!r}")
        self.hasher, self.label, self.rows = hasher, label, 0  # rows that have been given out
        self.above = None if above is None else checks.number()("above", above)
        self.texts = checks.flag("texts", texts)
        if self.texts and above is not None:
            raise HyperParameterError("above compares numbers, so texts must be False")
        if label in hasher.names:
            raise HyperParameterError(f"label {label!r} cannot be a feature as well")
        self.columns = [*hasher.names, *([] if label is None else [label])]
        self.owned, self.source = is_ours(path_or_file), path_or_file
        self.name, self.file = open_bytes(path_or_file)
        self.held: list[Any] = []  # tables that are read and not given out
        self.tables = self.read()

    def open(self) -> Iterator[Any]:
        """Batches of the columns."""
        raise NotImplementedError

    def read(self) -> Iterator[Any]:
        """The batches as tables."""
        pa = need("pyarrow", "cli")
        try:
            for batch in self.open():
                yield pa.Table.from_batches([batch])
        except (KeyError, ValueError) as error:  # pyarrow.ArrowInvalid is a ValueError
            if isinstance(error, ShapeError):
                raise
            what = error.args[0] if isinstance(error, KeyError) else error
            raise ParseError(f"{self.name} cannot be read: {what}") from error

    def ready_for_pieces(self) -> None:
        """All pieces have the same width."""

    def close(self) -> None:
        """Close the file, if it was opened here."""
        if self.owned:
            self.file.close()

    def row(self, first: int, k: int) -> str:
        """Which row the k-th is, where `first` are before."""
        return f"row {first + k + 1:,} of {self.name}"

    def take(self, rows: int) -> Any:
        """The next (X, y)."""
        pa = need("pyarrow", "cli")
        while sum(map(len, self.held)) < rows and (table := next(self.tables, None)) is not None:
            self.held.append(table)
        if not sum(map(len, self.held)):
            return None
        whole = pa.concat_tables(self.held)
        table, rest = whole[:rows], whole[rows:]
        self.held = [rest] if len(rest) else []
        first, places = self.rows, np.arange(len(table))
        self.rows += len(table)
        y = None
        if self.label is not None:
            y = self._texts(table) if self.texts else self._labels(table)
            known = y != "" if self.texts else np.isfinite(y)
            if not known.all():
                table, y, places = table.filter(pa.array(known)), y[known], places[known]
            y = y if self.above is None else y > self.above
        return self.hasher._transform(table, lambda k: self.row(first, int(places[k]))), y

    def _texts(self, table: Any) -> Array:
        try:
            column = table[self.label].cast("string")
        except (ValueError, TypeError, NotImplementedError) as error:
            raise ShapeError(f"{self.name}: column {self.label!r} holds no texts: {error}") from error
        values: Array = np.array(["" if value is None else value for value in column.to_pylist()], np.str_)
        return values

    def _labels(self, table: Any) -> Array:
        column = table[self.label]
        if str(column.type) in ("string", "large_string"):
            return numbers(column.to_numpy())
        try:
            values: Array = column.cast("float64").to_numpy()  # a null is NaN
        except (ValueError, TypeError, NotImplementedError) as error:
            raise ShapeError(f"{self.name}: column {self.label!r} holds no numbers: {error}") from error
        return values


class CSV(_Table):
    """A CSV file as a source of pieces."""

    def __init__(
        self,
        path_or_file: Any,
        hasher: Any,
        label: Any,
        above: float | None = None,
        texts: bool = False,
        types: Mapping[str, Any] | None = None,
    ) -> None:
        for name in types or ():
            if name not in getattr(hasher, "names", ()):
                raise HyperParameterError(f"types has {name!r}, which is no column of the hasher")
        super().__init__(path_or_file, hasher, label, above, texts)
        self.types = dict(types or {})
        self.gate: Any = None  # what pyarrow reads

    def open(self) -> Iterator[Any]:
        pa, csv = need("pyarrow", "cli"), need("pyarrow.csv", "cli")
        types = {**dict.fromkeys(self.columns, pa.string()), **self.types}
        options = csv.ConvertOptions(column_types=types, include_columns=self.columns)
        # pyarrow reads ahead in threads of its own, even after an error; one that is in Python when Python ends aborts the process.
        if self.owned:
            path = os.fsdecode(self.source)
            packed = {".gz": "gzip", ".bz2": "bz2"}.get(os.path.splitext(path)[1])
            self.gate = pa.input_stream(path, compression=packed)
        else:
            self.gate = _Gate(self.file)
        return iter(csv.open_csv(self.gate, convert_options=options))

    def close(self) -> None:
        if isinstance(self.gate, _Gate):
            self.gate.close()
        super().close()


class _Gate:
    """A Python file that pyarrow's threads read until it is closed, from when on it has come to its end."""

    closed = False

    def __init__(self, file: Any) -> None:
        self.file, self.over, self.reading = file, False, threading.Lock()

    def read(self, size: int = -1) -> bytes:
        with self.reading:
            found: bytes = b"" if self.over else self.file.read(size)
            return found

    def close(self) -> None:
        """Wait for a read under way, but no longer than a second: input may never come."""
        self.over = True
        if self.reading.acquire(timeout=1.0):
            self.reading.release()
            time.sleep(0.02)  # while the thread leaves Python


class Parquet(_Table):
    """A Parquet file as a source of pieces."""

    def open(self) -> Iterator[Any]:
        # What is buffered ahead is kept until the end: in the end the whole file.
        file = need("pyarrow.parquet", "cli").ParquetFile(self.file, pre_buffer=False)
        for column in self.columns:
            if column not in file.schema_arrow.names:
                known = file.schema_arrow.names
                raise ShapeError(f"{self.name} has no column {column!r}.{did_you_mean(column, known)}")
        return iter(file.iter_batches(batch_size=ROWS, columns=self.columns))


class Cache:
    """A file of `write_cache` as a source of pieces."""

    def __init__(self, path_or_file: Any, verify: bool = True) -> None:
        self.X, self.y = read_cache(path_or_file, verify=verify)
        self.at = 0

    def ready_for_pieces(self) -> None:
        """All pieces have the same width."""

    def close(self) -> None:
        """The mapping ends with its arrays."""

    def take(self, rows: int) -> Any:
        """The next (X, y)."""
        start, self.at = self.at, min(self.at + rows, len(self.y))
        return None if start == self.at else (self.X[start : self.at], self.y[start : self.at])


READERS: dict[str, Callable[..., Any]] = {
    "svmlight": SVMLight,
    "vw": VW,
    "libffm": LibFFM,
    "csv": CSV,
    "parquet": Parquet,
    "cache": Cache,
}
