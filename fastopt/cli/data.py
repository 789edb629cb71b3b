"""Files of samples: how they are read for training, and again for what a trained model is asked."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import checks
from ..errors import (
    DTypeError,
    FastoptError,
    HyperParameterError,
    NonFiniteError,
    ParseError,
    ShapeError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from ..models.features import ColumnHasher

FORMS = ("svmlight", "vw", "libffm", "csv", "parquet", "cache")
TABLES = ("csv", "parquet")
#: Files that say of which field a feature is.
WITH_FIELDS = (*TABLES, "libffm")
#: Rows that a stream reads at a time.
CHUNK = 65536


@dataclass(frozen=True)
class Reader:
    """What is to be known of a file to read it as the one that was trained on; a model file keeps it."""

    form: str
    label: str | None = None
    above: float | None = None
    texts: bool = False
    zero_based: bool = False
    types: Mapping[str, str] = field(default_factory=dict)  # of columns of CSV that are no texts


class Samples:
    """A file of samples, or standard input."""

    def __init__(self, path: str, reader: Reader, n_features: int | None, hasher: Any = None) -> None:
        self.path, self.reader, self.n_features, self.hasher = path, reader, n_features, hasher
        self.name = "standard input" if path == "-" else path
        _from_a_path(path, reader.form)
        self.wants_fields = False
        self.fields: Any = None  # of the features, where they are wanted

    def pieces(self, rows: int, labels: bool = True) -> Iterator[tuple[Any, Any, Any]]:
        """Features, labels and weights (or None) of so many rows at a time; without `labels` of a table's features alone."""
        from ..models.streams import chunks

        done = 0
        for X, y, *more in chunks(self.path, rows=rows, reader=self.reader.form, **self.options(labels)):
            if X.shape[1] != self.n_features:
                raise ShapeError(f"{self.path} has {X.shape[1]:,} features, expected {self.n_features:,}")
            self.check_values(X, done)
            done += X.shape[0]
            yield X, y, more[0] if self.reader.form == "vw" else None

    def whole(self) -> tuple[Any, Any, Any]:
        """Features, labels and weights (or None) of all rows, each index once a row."""
        from scipy import sparse

        from ..models.estimators import merged
        from ..models.streams import READERS

        form, weights = self.reader.form, None
        if form in TABLES:
            read = list(self.pieces(CHUNK)) or [(sparse.csr_matrix((0, 1)), [], None)]
            X, y = sparse.vstack([piece[0] for piece in read], "csr"), np.concatenate([piece[1] for piece in read])
        elif form == "cache":
            source = READERS[form](self.path)
            X, y = source.X, source.y
        else:
            source = READERS[form](self.path, **self.options())
            try:
                X, y, *more = source.take()
            finally:
                source.close()
            if form == "svmlight":
                self.reader = replace(self.reader, zero_based=self.reader.zero_based or source.starts_at_zero)
            weights = more[0] if form == "vw" else None
            if self.wants_fields and self.fields is None:
                from ..models.factorization import feature_fields

                self.fields = feature_fields(X, more[0])
        if not X.shape[0]:
            raise self.nothing()
        self.n_features = X.shape[1]
        self.check_values(X)
        return merged(X), y, weights

    def nothing(self) -> ShapeError:
        """What is wrong with samples of which there are none."""
        if (label := self.reader.label) is None:
            which = " whose importance is not 0" if self.reader.form == "vw" else ""
            return ShapeError(f"{self.name} has no rows{which}")
        return ShapeError(f"{self.name} has no rows whose {label} is {'given' if self.reader.texts else 'a number'}")

    def check_values(self, X: Any, done: int = 0) -> None:
        """An error that names the row of a value that is not finite, or not in float32; `done` rows came before."""
        from ..models.estimators import is_finite

        if not is_finite(X.data):
            at = int(np.isfinite(X.data).argmin())
            row = done + int(np.searchsorted(X.indptr, at, "right"))
            raise NonFiniteError(f"row {row:,} of {self.name} has the value {X.data[at]} in {X.data.dtype}")

    def options(self, labels: bool = True) -> dict[str, Any]:
        """Those of the reader."""
        r = self.reader
        if r.form in TABLES:
            more: dict[str, Any] = {"label": r.label, "above": r.above, "texts": r.texts} if labels else {"label": None}
            if r.form == "csv" and r.types:
                more["types"] = {name: _type(text) for name, text in r.types.items()}
            return {"hasher": self.hasher, **more}
        if r.form == "cache":
            return {}
        base = "auto" if self.n_features is None and not r.zero_based else r.zero_based
        return {"n_features": self.n_features, **({"zero_based": base} if r.form == "svmlight" else {})}


def form_of(args: argparse.Namespace) -> str:
    """``--format``, or what the ending of the path says."""
    from ..models.streams import form_of

    if args.format is None and args.path == "-":
        raise HyperParameterError(f"standard input needs --format, one of {', '.join(FORMS)}")
    return args.format or form_of(args.path)


def _from_a_path(path: str, form: str) -> None:
    if path == "-" and form in ("parquet", "cache"):
        raise UnsupportedError(f"a {form} file is read from a path, not from standard input")


def to_train(args: argparse.Namespace, classify: bool) -> Samples:
    """The samples that the options of ``fastopt train`` describe."""
    form = form_of(args)
    _from_a_path(args.path, form)
    wants_fields = args.model == "ffm"
    slots: int = 2 ** checks.integer(1, 30)("--bits", args.bits)
    if wants_fields and form not in WITH_FIELDS:
        raise UnsupportedError(
            f"--model ffm needs the field of each feature, which {form} does not say; give it CSV or Parquet, whose columns are "
            "fields, or libffm"
        )
    if form in TABLES:
        hasher, types = _hasher(args, form, slots, wants_fields)
        reader = Reader(form, args.label, args.above, texts=classify and args.above is None, types=types)
        samples = Samples(args.path, reader, slots, hasher)
        samples.fields = samples.hasher.slot_fields if wants_fields else None
        return samples
    if args.label or args.columns or args.cross or args.above is not None or args.numeric or args.categories:
        raise HyperParameterError(
            "--label, --above, --columns, --cross, --numeric and --categories are for CSV and Parquet"
        )
    if form == "vw":
        return Samples(args.path, Reader(form), slots)
    if form == "cache":
        from ..models.cache import read_cache

        return Samples(args.path, Reader(form), read_cache(args.path, verify=False)[0].shape[1])
    features = None if args.features is None else checks.integer(1, 2**31 - 1)("--features", args.features)
    base = bool(args.zero_based)
    fields = None
    if args.stream and wants_fields:
        if args.path == "-":
            raise UnsupportedError(
                "--model ffm reads a libffm file once for the fields before it trains, and standard input can be read once only"
            )
        from ..models.factorization import feature_fields

        fields = feature_fields(args.path, n_features=features)
        features = len(fields)
    elif args.stream and features is None:
        if args.path == "-":
            raise HyperParameterError(f"a stream of {form} from standard input needs --features N, their number")
        from ..models.streams import extent

        features, base = extent(args.path, form, None, base or None)
    samples = Samples(args.path, Reader(form, zero_based=base), features)
    samples.fields, samples.wants_fields = fields, wants_fields
    return samples


def of_model(args: argparse.Namespace, saved: Any) -> Samples:
    """Samples to be read as those that a model was trained on."""
    if saved.model._columns is not None:
        raise UnsupportedError(f"{args.model} has several targets, and rows of files have one label; predict in Python")
    try:
        reader = Reader(**saved.reader)
        if reader.form not in FORMS or (reader.form in TABLES) != (saved.hasher is not None):
            raise TypeError
    except TypeError:
        raise UnsupportedError(
            f"{args.model} was not saved by `fastopt train`: it does not say how samples are read"
        ) from None
    form = args.format or (reader.form if args.path == "-" else form_of(args))
    if (form in TABLES) != (reader.form in TABLES):
        raise HyperParameterError(f"{args.model} was trained on {reader.form}, and {args.path} is {form}; see --format")
    return Samples(args.path, Reader(**{**asdict(reader), "form": form}), saved.model.n_features_in_, saved.hasher)


# -------------------------------------------------------------------------------------------------------------- tables


def empty(path: str, form: str) -> Any:
    """A table without rows, with the columns of a file."""
    from ..checks import need

    try:
        if form == "parquet":
            return need("pyarrow.parquet", "cli").read_schema(path).empty_table()
        with need("pyarrow.csv", "cli").open_csv(path) as reader:
            return _texts(reader.schema.names)
    except (FastoptError, OSError):
        raise
    except ValueError as error:  # pyarrow.ArrowInvalid
        raise ParseError(f"{path} cannot be read as {form}: {error}") from error


def _texts(names: Sequence[str]) -> dict[str, list[str]]:
    """Columns of CSV, all of which are texts, without rows."""
    return {name: [] for name in names}


def _listed(names: str | None) -> list[str]:
    return [name for name in (names or "").split(",") if name]


def _hasher(args: argparse.Namespace, form: str, slots: int, own_slots: bool) -> tuple[ColumnHasher, dict[str, str]]:
    """That of the columns, with what each of them is written down, and the types of columns that CSV would show otherwise."""
    from ..models.columns import column_names
    from ..models.features import ColumnHasher

    if not args.label:
        raise HyperParameterError(f"a {form} file needs --label COLUMN")
    crosses = [tuple(c.split("*")) for c in args.cross]
    columns = None if args.columns is None else _listed(args.columns)
    crossed = [c for cross in crosses for c in cross]
    numeric, categories = _listed(args.numeric), _listed(args.categories)
    if args.label in [*(columns or ()), *crossed, *numeric, *categories]:
        raise HyperParameterError(f"--label {args.label} cannot be a feature as well")
    if args.path == "-":
        if columns is None:
            raise HyperParameterError("a table from standard input needs --columns A,B,...")
        known: Any = _texts([*columns, *crossed])
    else:
        known = empty(args.path, form)
        names = column_names(known)
        for name in (args.label, *(columns or ()), *crossed, *numeric, *categories):
            if name not in names:
                raise ShapeError(f"{args.path} has no column {name!r}; it has {', '.join(names)}")
        if columns is None:
            columns = [c for c in names if c != args.label]
    made = ColumnHasher(slots, columns, crosses, numeric=numeric, categories=categories, own_slots=own_slots)
    try:
        made = made.decide(known)
    except DTypeError as error:
        raise DTypeError(f"{args.path}: {error} (--columns names those to take)") from None
    return made, {} if isinstance(known, dict) else _types(known.schema, made)


def _types(schema: Any, hasher: ColumnHasher) -> dict[str, str]:
    """The types of those columns that a CSV file would show as other texts, for `_type`; it shows numbers as they are."""
    from ..checks import need

    pa = need("pyarrow", "cli")
    found = {}
    for name in hasher.names:
        kind = schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if name in hasher.numeric and not pa.types.is_boolean(kind):
            continue
        if pa.types.is_decimal(kind) or pa.types.is_float16(kind):  # which CSV is not read as; the texts are the same
            kind = pa.float64()
        elif pa.types.is_timestamp(kind) and kind.unit != "ns":  # whatever fraction of a second the file writes
            kind = pa.timestamp("us", kind.tz)
        if "string" not in str(kind) and not pa.types.is_null(kind):
            found[name] = str(kind)
    return found


def _type(text: str) -> Any:
    """A pyarrow type from its text."""
    from ..checks import need

    pa = need("pyarrow", "cli")
    kind, zone, _ = text.partition(", tz=")
    return pa.timestamp(pa.type_for_alias(f"{kind}]").unit, "UTC") if zone else pa.type_for_alias(kind)
