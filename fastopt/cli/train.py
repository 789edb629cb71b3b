"""``fastopt train``: a file of samples, one or several optimizers, a model."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np

from .. import checks
from ..errors import HyperParameterError, NonFiniteError, ShapeError, UnsupportedError
from ..optimizers.base import ALIASES, Optimizer
from ..scores import VALUES
from .output import STILL, draw, progress, table
from .runs import Split, fit


def add(commands: Any) -> None:
    """The command and its options."""
    train = commands.add_parser(
        "train",
        help="train a linear model on a file of samples",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    train.set_defaults(run=run)
    train.add_argument(
        "path",
        help=".csv (hashed categories), .vw, .ffm, .cache (of write_cache), or svmlight (any other ending); of text also .gz or .bz2",
    )
    train.add_argument("--label", metavar="COLUMN", help="CSV: the column to predict")
    train.add_argument(
        "--above",
        type=float,
        metavar="X",
        help="CSV: predict whether the label is above X; rows whose label is not a number are left out",
    )
    train.add_argument("--columns", metavar="A,B,...", help="CSV: columns to hash (default: all but the label)")
    train.add_argument("--cross", action="append", default=[], metavar="A*B", help="CSV: a cross of columns; repeat")
    train.add_argument("--bits", type=int, default=20, help="CSV, VW: 2**bits feature slots")
    train.add_argument("--hold-out", type=float, default=0.2, metavar="PART", help="part of the rows that is held out")
    train.add_argument("--optimizer", default="adagrad", metavar="NAME[,NAME...]", help="one or several, or 'all'")
    train.add_argument(
        "--lr",
        type=float,
        nargs="+",
        default=[0.1],
        metavar="RATE",
        help="learning rate; several: one for each pass, the last for the rest",
    )
    train.add_argument("--epochs", type=int, default=3)
    train.add_argument("--l1", type=float, default=0.0)
    train.add_argument("--l2", type=float, default=0.0)
    train.add_argument("--loss", default="log_loss", choices=list(VALUES))
    train.add_argument("--mode", default="sequential", choices=["sequential", "minibatch", "hogwild"])
    train.add_argument("--batch-size", type=int, default=256, help="samples of a step of --mode minibatch")
    train.add_argument("--jobs", type=int, default=1, help="threads of --mode minibatch and hogwild")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--out", metavar="FILE.npz", help="save the (best) model here")
    train.add_argument("--plot", metavar="FILE.png", help="draw the held-out loss after each pass")


def run(args: argparse.Namespace) -> int:
    from ..models.files import save_model
    from ..models.linear import CLASSIFIER_LOSSES, LinearClassifier, LinearRegressor

    checks.integer(1)("--epochs", args.epochs)
    checks.number(0.0, 1.0, closed_low=False, closed_high=False)("--hold-out", args.hold_out)
    checks.integer(0)("--seed", args.seed)
    if args.out:
        checks.output_file("--out", args.out)
    if args.plot:
        checks.output_file("--plot", args.plot, *STILL)
    classify = args.loss in CLASSIFIER_LOSSES
    names = (
        sorted({*(k for k, cls in Optimizer.known.items() if cls.for_samples), *ALIASES})
        if args.optimizer == "all"
        else args.optimizer.split(",")
    )
    start = time.perf_counter()
    X, y, hasher = _read(args, classify)
    read = time.perf_counter() - start
    held = np.random.default_rng(args.seed).random(X.shape[0]) < args.hold_out
    if held.all() or not held.any():
        raise ShapeError(f"{X.shape[0]} rows are too few to hold out {args.hold_out:g} of them")
    data = Split(X[~held], y[~held], X[held], y[held])
    print(
        f"{args.path}: {X.shape[0]:,} rows, {X.nnz:,} non-zeros, {X.shape[1]:,} features, read in {read:.2f} s; "
        f"{int(held.sum()):,} rows held out"
    )
    cls: Any = LinearClassifier if classify else LinearRegressor
    results = []
    with progress(len(names) * args.epochs) as bar:
        for name in names:
            model = cls(
                args.loss,
                optimizer=name,
                lr=args.lr[0],
                l1=args.l1,
                l2=args.l2,
                mode=args.mode,
                batch_size=args.batch_size,
                n_jobs=args.jobs,
            )
            bar.set_description(name)
            try:
                results.append(fit(name, model, args.lr, args.epochs, data, args.seed, bar.update))
            except NonFiniteError as error:
                bar.write(f"{name}: {error}", file=sys.stderr)
    if not results:
        raise NonFiniteError("every optimizer diverged; use a smaller --lr")
    score = "AUC" if classify else "R^2"
    print(table(["optimizer", "held-out loss", score, "seconds", "million non-zeros/s"], [r.row() for r in results]))
    if args.plot:
        draw(results, args.plot, f"{args.loss} on {args.path}")
        print(f"loss curves drawn in {args.plot}")
    if args.out:
        best = min(results, key=lambda r: r.losses[-1])
        save_model(args.out, best.model, hasher)
        print(f"{best.name} saved in {args.out}")
    return 0


def _read_samples(args: argparse.Namespace, form: str) -> tuple[Any, Any]:
    """Features and targets of a file that has both."""
    from ..models.cache import read_cache
    from ..models.linear import merged
    from ..models.text import read_libffm, read_svmlight, read_vw

    if form == "cache":
        return read_cache(args.path)
    if form == "parquet":
        raise UnsupportedError(f"{args.path}: Parquet is read by fastopt.models.chunks")
    if form == "vw":
        X, y, weights = read_vw(args.path, n_features=2 ** checks.integer(1, 30)("--bits", args.bits))
        if np.isnan(y).any():
            raise ShapeError(f"{args.path} has {int(np.isnan(y).sum())} rows without a label")
        if (weights != 1).any():
            raise UnsupportedError(
                f"{args.path} has importances other than 1, with which `fastopt train` does not train"
            )
        return merged(X), y
    if form == "libffm":
        X, y, _ = read_libffm(args.path)
        return merged(X), y
    X, y = read_svmlight(args.path)
    return X, y


def _read(args: argparse.Namespace, classify: bool) -> tuple[Any, Any, Any]:
    """Features, targets and, for CSV, the hasher."""
    from ..models.features import ColumnHasher, numbers, read_csv
    from ..models.linear import merged
    from ..models.streams import form_of

    form = form_of(args.path)
    if form != "csv":
        if args.label or args.columns or args.cross or args.above is not None:
            raise HyperParameterError("--label, --above, --columns and --cross are for .csv files")
        return *_read_samples(args, form), None
    if not args.label:
        raise HyperParameterError("a .csv file needs --label COLUMN")
    crosses = [tuple(c.split("*")) for c in args.cross]
    columns = None
    if args.label in [*(args.columns or "").split(","), *(c for cross in crosses for c in cross)]:
        raise HyperParameterError(f"--label {args.label} cannot be a feature as well")
    if args.columns is not None:
        columns = [c for c in args.columns.split(",") if c]
        names = dict.fromkeys([*columns, *(c for cross in crosses for c in cross), args.label])
        table = read_csv(args.path, list(names))
    else:
        table = read_csv(args.path)
        columns = [c for c in table.column_names if c != args.label]
    if args.label not in table.column_names:
        raise ShapeError(f"{args.path} has no column {args.label!r}; it has {', '.join(table.column_names)}")
    label = table[args.label].to_numpy()
    if args.above is not None or not classify:
        number = numbers(label)
        known = np.isfinite(number)
        table = table.filter(known)
        y: Any = number[known] > args.above if args.above is not None else number[known]
    else:
        y = label.astype(str)
    if classify and len(np.unique(y)) != 2:
        raise ShapeError(
            f"--label {args.label} has {len(np.unique(y))} distinct values, a classifier needs 2; try --above"
        )
    hasher = ColumnHasher(2 ** checks.integer(1, 30)("--bits", args.bits), columns, crosses)
    return merged(hasher.transform(table)), np.asarray(y), hasher
