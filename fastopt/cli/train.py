"""``fastopt train``: from a file of samples, or a stream of them, to a model."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import numpy as np

from .. import checks
from ..errors import HyperParameterError, NonFiniteError, ShapeError, StateError, UnsupportedError
from ..optimizers.base import ALIASES, Optimizer
from ..scores import VALUES
from . import data, weights
from .output import STILL, Help, as_json, draw, progress, table
from .runs import MODELS, TITLES, Result, Split, estimator, fit


def add(commands: Any) -> None:
    """The command and its options."""
    parser = commands.add_parser(
        "train",
        help="train a model on a file of samples",
        formatter_class=Help,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "path",
        help=".csv, .parquet (hashed columns), .vw, .ffm, .cache (of write_cache), or svmlight (any other ending); of text also .gz "
        "or .bz2; - is standard input, with --format",
    )
    parser.add_argument("--format", choices=data.FORMS, help="in the place of what the ending says")
    group = parser.add_argument_group("CSV and Parquet")
    group.add_argument("--label", metavar="COLUMN", help="the column to predict; rows without it are left out")
    group.add_argument(
        "--above",
        type=float,
        metavar="X",
        help="predict whether the label is above X; rows whose label is not a number are left out",
    )
    group.add_argument("--columns", metavar="A,B,...", help="columns to train on (default: all but the label)")
    group.add_argument(
        "--numeric",
        metavar="A,B,...",
        help="columns that are numbers (default: of Parquet those of floats and decimals, of CSV none)",
    )
    group.add_argument("--categories", metavar="A,B,...", help="Parquet: columns of floats that are categories")
    group.add_argument("--cross", action="append", default=[], metavar="A*B", help="a cross of columns; repeat")
    group = parser.add_argument_group("features and labels")
    group.add_argument("--bits", type=int, default=20, help="CSV, Parquet, VW: 2**bits feature slots")
    group.add_argument(
        "--features", type=int, metavar="N", help="svmlight, libffm: their number (default: the file says)"
    )
    group.add_argument(
        "--zero-based",
        action="store_true",
        help="svmlight: indices begin at 0 (default: the file says; 1 in a stream from standard input)",
    )
    group.add_argument(
        "--classes",
        metavar="A,B,...",
        help="the labels of a classifier; needed where there are more than two, or where a stream does not show them at once; 'all': those of the file",
    )
    group = parser.add_argument_group("model")
    group.add_argument(
        "--model",
        default="linear",
        choices=list(MODELS),
        help="fm: factorization machine; ffm: field-aware, of .csv, .parquet (a column is a field) and .ffm",
    )
    group.add_argument(
        "--multi-class", default="ovr", choices=["ovr", "multinomial"], help="linear, more than two classes"
    )
    group.add_argument("--rank", type=int, default=8, help="of factorization machines")
    group.add_argument("--loss", default="log_loss", choices=list(VALUES))
    group.add_argument(
        "--optimizer",
        default="adagrad",
        metavar="NAME[,NAME...]",
        help="one or several, or 'all'; a wrong name lists them",
    )
    group.add_argument(
        "--lr",
        type=rate,
        nargs="+",
        default=[0.1],
        metavar="RATE",
        help="learning rate; several: one for each pass, the last for the rest; auto: the best of eight (default: 0.1)",
    )
    group.add_argument("--epochs", type=int, help="passes (default: 3; 1 with --stream)")
    group.add_argument("--l1", type=float, default=0.0, help="penalty l1 |w|_1")
    group.add_argument("--l2", type=float, default=0.0, help="penalty l2/2 |w|^2")
    group.add_argument("--mode", default="sequential", choices=["sequential", "minibatch", "hogwild"])
    group.add_argument("--batch-size", type=int, default=256, help="samples of a step of --mode minibatch")
    group.add_argument("--jobs", type=int, default=1, help="threads of --mode minibatch and hogwild; -1: all")
    group.add_argument("--seed", type=int, default=0, help="of the rows held out and the order of the others")
    group = parser.add_argument_group("how")
    group.add_argument(
        "--hold-out",
        type=float,
        metavar="PART",
        help="part of the rows that is held out (default: 0.2; none with --stream)",
    )
    group.add_argument(
        "--stream",
        action="store_true",
        help="in bounded memory: pieces are predicted, then learned, while the next are read; Ctrl-C ends it with the model saved",
    )
    group.add_argument("--chunk", type=int, default=data.CHUNK, metavar="ROWS", help="rows of a piece of --stream")
    group = parser.add_argument_group("output")
    group.add_argument("--out", metavar="FILE.npz", help="save the (best) model here")
    group.add_argument(
        "--plot", metavar="FILE.png", help="draw the held-out loss after each pass, or the progressive loss"
    )
    group.add_argument(
        "--show",
        type=int,
        metavar="N",
        help="the N heaviest weights by feature name, found by one more pass over the file",
    )
    group.add_argument("--json", action="store_true", help="print one JSON object in the place of the tables")


def rate(text: str) -> Any:
    """A number or "auto"; argparse names the function in its error."""
    return text if text == "auto" else float(text)


def run(args: argparse.Namespace) -> int:
    from ..models.estimators import CLASSIFIER_LOSSES

    args.epochs = checks.integer(1)("--epochs", (1 if args.stream else 3) if args.epochs is None else args.epochs)
    checks.integer(0, 2**31 - 1)("--seed", args.seed)
    checks.integer(1)("--chunk", args.chunk)
    if args.hold_out is not None:
        checks.number(0.0, 1.0, closed_low=False, closed_high=False)("--hold-out", args.hold_out)
    if args.out:
        checks.output_file("--out", args.out)
    if args.plot:
        checks.output_file("--plot", args.plot, *STILL)
        checks.need("matplotlib", "plot")
    if args.show is not None:
        checks.integer(1)("--show", args.show)
        if args.path == "-":
            raise HyperParameterError("--show looks into the file once more, which standard input does not allow")
    names = (
        sorted({*(k for k, cls in Optimizer.known.items() if cls.for_samples), *ALIASES})
        if args.optimizer == "all"
        else list(dict.fromkeys(name for name in map(str.strip, args.optimizer.split(",")) if name))
    )
    if not names:
        raise HyperParameterError("--optimizer names no optimizer")
    if args.lr != ["auto"] and "auto" in args.lr:
        raise HyperParameterError("--lr is auto, or numbers")
    if args.lr == ["auto"] and args.model != "linear":
        raise UnsupportedError("--lr auto is for --model linear; give a number")
    for name in names:  # before the file is read
        for lr in args.lr:
            _model(args, name, lr)._check_parameters()
    if args.stream:
        if len(names) > 1:
            raise HyperParameterError("--stream trains one --optimizer")
        if args.hold_out is not None:
            raise HyperParameterError("--stream holds no rows out: each row is predicted before it is learned")
        if args.epochs > 1 and args.path == "-":
            raise HyperParameterError("standard input can be read once: --epochs must be 1")
    classify = args.loss in CLASSIFIER_LOSSES
    if args.classes is not None and not classify:
        raise HyperParameterError(f"--classes are those of a classifier, and --loss {args.loss} is a regression")
    samples = data.to_train(args, classify)
    _classes(args, samples.reader.texts)
    return (_stream if args.stream else _whole)(args, samples, names)


def _model(args: argparse.Namespace, optimizer: str, rate: Any, fields: Any = None) -> Any:
    from ..models.estimators import CLASSIFIER_LOSSES

    return estimator(
        args.model,
        args.loss in CLASSIFIER_LOSSES,
        loss=args.loss,
        optimizer=optimizer,
        lr=rate,
        l1=args.l1,
        l2=args.l2,
        mode=args.mode,
        batch_size=args.batch_size,
        n_jobs=args.jobs,
        rank=args.rank,
        multi_class=args.multi_class,
        fields=fields,
        random_state=args.seed,
    )


def _classes(args: argparse.Namespace, texts: bool) -> Any:
    """Those of ``--classes``; None where there are none, or they are those of the file."""
    if args.classes is None or args.classes == "all":
        return None
    names = args.classes.split(",")
    try:
        found: Any = np.unique(names if texts else np.array(names, np.float64))
    except ValueError:
        raise HyperParameterError(f"--classes {args.classes}: the labels of this file are numbers") from None
    if len(found) < 2:
        raise HyperParameterError(f"--classes {args.classes}: a classifier needs two or more")
    return found


def _labels(args: argparse.Namespace, samples: data.Samples, y: Any) -> Any:
    """The classes of all labels, or an error that says which are wrong."""
    if y.dtype.kind == "f" and not (known := np.isfinite(y)).all():
        raise ShapeError(
            f"{samples.name} has {int((~known).sum())} rows without a label; the first is row {int(known.argmin()) + 1}"
        )
    from ..models.estimators import CLASSIFIER_LOSSES

    if args.loss not in CLASSIFIER_LOSSES:
        return None
    found, given = np.unique(y), _classes(args, samples.reader.texts)
    if given is not None:
        others = found[~np.isin(found, given)]
        if len(others):
            raise StateError(f"{samples.name} has the label {others[0]}, which is not among --classes {args.classes}")
        return given
    if len(found) != 2 and (args.classes != "all" or len(found) < 2):
        what = f"--label {args.label}" if args.label else samples.name
        way = "; try --above, or --classes all" if len(found) > 2 else ""
        raise ShapeError(f"{what} has {len(found)} distinct values, a classifier of two classes needs 2{way}")
    return found


# --------------------------------------------------------------------------------------------------- the whole in memory


def _whole(args: argparse.Namespace, samples: data.Samples, names: list[str]) -> int:
    from ..models.classes import LOSSES

    start = time.perf_counter()
    X, y, w = samples.whole()
    read = time.perf_counter() - start
    classes = _labels(args, samples, y)
    part = 0.2 if args.hold_out is None else args.hold_out
    held = np.random.default_rng(args.seed).random(X.shape[0]) < part
    if held.all() or not held.any():
        raise ShapeError(f"{X.shape[0]} rows are too few to hold out {part:g} of them")
    if w is not None and not (w[held].any() and w[~held].any()):
        raise ShapeError(f"of {X.shape[0]} rows too few have an importance that is not 0 to hold out {part:g} of them")
    split = Split(X[~held], y[~held], X[held], y[held], *((None, None) if w is None else (w[~held], w[held])))
    if not args.json:
        print(
            f"{samples.name}: {X.shape[0]:,} rows, {X.nnz:,} non-zeros, {X.shape[1]:,} features, read in {read:.2f} s; "
            f"{int(held.sum()):,} rows held out"
        )
        if classes is not None and len(classes) > 2:
            size = len(classes) * X.shape[1] * X.dtype.itemsize
            most = "at most " if args.model == "linear" and args.loss in LOSSES else ""  # lists hold fewer
            print(f"{len(classes)} classes: {most}{size / 1e6:,.0f} MB of weights, and the optimizer's state")
    results = []
    with progress(len(names) * args.epochs) as bar:
        for name in names:
            bar.set_description(name)
            try:
                model = _model(args, name, args.lr[0], samples.fields)
                results.append(fit(name, model, args.lr, args.epochs, split, args.seed, bar.update, classes))
            except NonFiniteError as error:
                bar.write(f"{name}: {error}", file=sys.stderr)
    if not results:
        raise NonFiniteError("every optimizer diverged; use a smaller --lr")
    best = min(results, key=lambda r: r.losses[-1])
    figures = {
        "path": args.path,
        "rows": X.shape[0],
        "nonzeros": X.nnz,
        "features": X.shape[1],
        "held_out": int(held.sum()),
        "read_seconds": read,
        "models": [r.figures() for r in results],
        "best": best.name,
    }
    if not args.json:
        score = TITLES[next(iter(best.scores))]
        print(
            table(["optimizer", "held-out loss", score, "seconds", "million non-zeros/s"], [r.row() for r in results])
        )
    _finish(args, samples, results, best, figures)
    return 0


def _finish(
    args: argparse.Namespace, samples: data.Samples, results: list[Result], best: Result, figures: dict[str, Any]
) -> None:
    """Draw, save, show the weights, print the figures."""
    from ..models.files import save_model

    if args.out:
        save_model(args.out, best.model, samples.hasher, vars(samples.reader))
    if args.plot:
        draw(results, args.plot, f"{args.loss} on {samples.name}")
    found = weights.heaviest(best.model, samples, args.show) if args.show else []
    if not args.json:
        for r in results:
            if (lr := r.rate()) is not None:
                chosen = ", ".join(f"{rate:.3g}" for rate in np.atleast_1d(lr))
                print(f"{r.name} chose the rate {chosen}")
    if args.json:
        print(as_json({**figures, **({"weights": found} if args.show else {}), "out": args.out, "plot": args.plot}))
        return
    if args.plot:
        print(f"loss curves drawn in {args.plot}")
    if args.out:
        print(f"{best.name} saved in {args.out}")
    if args.show:
        print(weights.listed(found))


# ------------------------------------------------------------------------------------------------------------ a stream


def _stream(args: argparse.Namespace, samples: data.Samples, names: list[str]) -> int:
    from ..models.progressive import Progress, fit_stream

    if args.classes == "all":
        raise HyperParameterError("--classes all: a stream does not know its labels beforehand; name them")
    classes = np.array([False, True]) if args.above is not None else _classes(args, samples.reader.texts)
    model = _model(args, names[0], args.lr[0], samples.fields)
    result = Result(names[0], model)
    passes: list[Progress] = []
    interrupted = False
    with progress(None, " rows", unit_scale=True) as bar:

        def tick(now: Progress) -> None:
            bar.update(result.rows + now.rows - bar.n)
            bar.set_postfix(loss=f"{now.loss:.4f}", refresh=False)
            passes[-1] = now
            if len(passes) == 1:  # later passes predict what has been learned
                result.at.append(now.rows)
                result.losses.append(now.loss)

        for epoch in range(args.epochs):
            model.set_params(lr=args.lr[min(epoch, len(args.lr) - 1)], random_state=args.seed + epoch)
            passes.append(Progress())
            try:
                passes[-1] = fit_stream(model, samples.pieces(args.chunk), classes=classes, callback=tick)
            except KeyboardInterrupt:
                interrupted = True
            result.rows += passes[-1].rows
            result.nonzeros += passes[-1].nonzeros
            result.seconds += passes[-1].seconds
            if interrupted:
                break
    if not result.rows:
        if interrupted:
            return 130
        raise samples.nothing()
    if interrupted:
        print(
            f"fastopt: interrupted after {result.rows:,} rows; "
            + (f"the model so far is saved in {args.out}" if args.out else "nothing is saved without --out"),
            file=sys.stderr,
        )
    figures = {
        "path": args.path,
        "features": samples.n_features,
        "interrupted": interrupted,
        "read_seconds": sum(p.waited for p in passes),  # as far as training waited for it
        "passes": [{"rows": p.rows, "loss": p.loss, "seconds": p.seconds, "waited": p.waited} for p in passes],
        "models": [result.figures()],
        "best": result.name,
    }
    if not args.json:
        head = ["pass", "rows", "loss before learning", "seconds", "of these waiting for rows", "rows/s"]
        rows = [
            [
                f"{result.name}, {k}",
                f"{p.rows:,}",
                f"{p.loss:.4f}",
                f"{p.seconds:.2f}",
                f"{p.waited:.2f}",
                f"{p.rows / p.seconds if p.seconds else 0:,.0f}",
            ]
            for k, p in enumerate(passes, 1)
        ]
        print(table(head, rows))
    if interrupted:
        args.show = None
    _finish(args, samples, [result], result, figures)
    return 130 if interrupted else 0
