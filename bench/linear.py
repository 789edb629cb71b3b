"""`LinearClassifier` beside scikit-learn's `SGDClassifier`: `fit` against `fit`, one thread, on sparse float32 rows.

Made-up click-like data: rows of about 37 of 2^20 features, whose frequency falls off like Zipf's law, and labels drawn
from a sparse logistic model. Every side's rate is tuned on a validation split; then the fits take turns, in each
round with another order of the rows.

Beside `fit`: predictions for many rows, one row learned or predicted, and minibatches on one and two threads (minima of
rounds in which the peers take turns).

``python bench/linear.py [--quick] [--rounds N] [--epochs E] [--json FILE]``: FILE collects a line for each run, and the
worst and the range of all its runs are printed.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import Call, describe, duration, interleave, machine, table
from scipy import sparse
from sklearn.linear_model import SGDClassifier

from fastopt.errors import NonFiniteError
from fastopt.models import LinearClassifier

Array = np.ndarray[Any, Any]
L2 = 1e-6
SAME = 0.002  # a log loss no more than this above scikit-learn's counts as the same
PEER = "scikit-learn"
TARGETS = {"sgd": 4.0, "adagrad": 2.5, "adam": None}
START = {PEER: 0.02, "sgd": 0.02, "adagrad": 0.1, "adam": 0.001}  # where the search for the rate begins


# ------------------------------------------------------------------------------------------------------------- data


def features(rng: np.random.Generator, rows: int, columns: int, mean: float) -> sparse.csr_matrix:
    """Each row has features, `mean` on average, that of rank r with a frequency like 1/r^1.1."""
    p = np.arange(1.0, columns + 1) ** -1.1
    p /= p.sum()
    # When a row draws a Poisson number of times, `draws` on average, it has feature i with 1 - exp(-draws p_i).
    low, high = mean, 100 * mean
    for _ in range(60):
        draws = (low + high) / 2
        low, high = (draws, high) if -np.expm1(-draws * p).sum() < mean else (low, draws)
    count = np.maximum(rng.poisson(draws, rows), 1)
    rank = np.searchsorted(np.cumsum(p), rng.random(count.sum())).clip(max=columns - 1)
    column = rng.permutation(columns)[rank]
    key = np.unique(np.repeat(np.arange(rows), count) * columns + column)  # sorted by row and column, each pair once
    row, column = np.divmod(key, columns)
    indptr = np.searchsorted(row, np.arange(rows + 1)).astype(np.int32)
    values = rng.uniform(0.5, 1.5, len(column)).astype(np.float32)
    return sparse.csr_matrix((values, column.astype(np.int32), indptr), shape=(rows, columns))


def labels(rng: np.random.Generator, X: sparse.csr_matrix) -> Array:
    """Drawn from a logistic model with weights on a tenth of the features, about a third of them positive."""
    w = rng.standard_normal(X.shape[1]) * (rng.random(X.shape[1]) < 0.1)
    z = X @ w
    z = 3.0 * z / z.std() - 1.0
    return (rng.random(len(z)) < 1 / (1 + np.exp(-z))).astype(np.int64)


# ------------------------------------------------------------------------------------------------------------ peers


def make(side: str, rate: float, epochs: int, seed: int = 0) -> Any:
    """The estimator of that side."""
    if side == PEER:
        return SGDClassifier(
            loss="log_loss",
            penalty="l2",
            alpha=L2,
            learning_rate="constant",
            eta0=rate,
            max_iter=epochs,
            tol=None,
            shuffle=True,
            fit_intercept=True,
            random_state=seed,
        )
    return LinearClassifier(
        loss="log_loss",
        optimizer=side,
        lr=rate,
        epochs=epochs,
        l2=L2,
        fit_intercept=True,
        shuffle=True,
        mode="sequential",
        n_jobs=1,
        random_state=seed,
    )


def log_loss(model: Any, X: sparse.csr_matrix, y: Array) -> float:
    """Mean log loss; infinite where it is not finite."""
    loss = float(np.logaddexp(0.0, (1 - 2 * y) * np.asarray(model.decision_function(X), np.float64)).mean())
    return loss if math.isfinite(loss) else math.inf


def tune(loss_of: Callable[[float], float], start: float, factor: float = 2.0) -> float:
    """The best rate: up by `factor` while that helps, or else down."""
    best, loss = start, loss_of(start)
    for step in (factor, 1 / factor):
        rate = best * step
        while 1e-6 < rate < 1e3 and (other := loss_of(rate)) < loss:
            best, loss, rate = rate, other, rate * step
        if best != start:
            break
    return best


# ------------------------------------------------------------------------------------------------- other than fit


def others(X: sparse.csr_matrix, y: Array, rate: dict[str, float], rounds: int) -> str:
    """A table of what else takes time, beside the target of each."""
    theirs, ours = (make(side, rate[side], 1).fit(X, y) for side in (PEER, "adagrad"))
    rows = [(X[k : k + 1], y[k : k + 1]) for k in range(50)]

    def each(call: Callable[..., Any], with_label: bool) -> Callable[[], None]:
        def run() -> None:
            for x, label in rows:
                call(x, label) if with_label else call(x)

        return run

    def batches(threads: int) -> Any:
        model = make("adagrad", rate["adagrad"], 1)
        return model.set_params(mode="minibatch", n_jobs=threads)

    found: list[list[str]] = []

    def compare(
        what: str, unit: int, of_them: Callable[[], Any], of_us: Callable[[], Any], target: str, met: Any
    ) -> None:
        seconds = interleave({"them": Call(of_them), "us": Call(of_us)}, rounds)
        them, us = (min(seconds[side]) / unit for side in ("them", "us"))
        found.append([what, duration(them), duration(us), f"{them / us:.2f}", target, verdicts[bool(met(them, us))]])

    verdicts = {True: "met", False: "MISSED"}
    compare("predict", 1, lambda: theirs.predict(X), lambda: ours.predict(X), "at least 1 x", lambda a, b: b <= a)
    compare(
        "one row, partial_fit",
        len(rows),
        each(theirs.partial_fit, True),
        each(ours.partial_fit, True),
        "at most 20 us",
        lambda a, b: b <= 20e-6,
    )
    compare(
        "one row, predict",
        len(rows),
        each(theirs.predict, False),
        each(ours.predict, False),
        "",
        lambda a, b: b <= a,
    )
    one, two = batches(1), batches(2)
    plain = make("adagrad", rate["adagrad"], 1)
    compare(
        "minibatches: 1 thread, 2 threads",
        1,
        lambda: one.fit(X, y),
        lambda: two.fit(X, y),
        "at least 1.5 x",
        lambda a, b: b <= a / 1.5,
    )
    compare("sequential, minibatches", 1, lambda: plain.fit(X, y), lambda: one.fit(X, y), "", lambda a, b: True)
    if (one.coef_ != two.coef_).any():
        raise AssertionError("minibatches on 2 threads have other bits than on 1")
    return table(["", PEER + ", or the first", "fastopt, or the second", "ratio", "target", ""], found)


# ------------------------------------------------------------------------------------------------------------- main


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rows and rounds: shows that it runs, no more")
    parser.add_argument("--rounds", type=int, help="fits of each side (default 9; 2 with --quick)")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", type=Path, help="add this run to the runs in FILE")
    args = parser.parse_args()
    rounds = args.rounds or (2 if args.quick else 9)
    warnings.filterwarnings("ignore", message="overflow")
    rows, columns = (10_000, 1 << 14) if args.quick else (250_000, 1 << 20)
    rng = np.random.default_rng(0)
    X = features(rng, rows, columns, mean=37)
    y = labels(rng, X)
    train, part = rows * 4 // 5, rows * 4 // 5 * 9 // 10  # 20 % held out; a tenth of the rest to tune on
    facts = machine("numpy", "scipy", "scikit-learn")
    facts["data"] = (
        f"{train:,} rows of {X[:train].nnz / train:.1f} of {columns:,} features, {rows - train:,} rows "
        f"held out, {y.mean():.1%} positive; {args.epochs} epochs, {rounds} rounds"
        f"{', quick: the figures mean nothing' if args.quick else ''}"
    )
    print(describe(facts))

    def tried(side: str, rate: float) -> float:
        try:
            loss = log_loss(make(side, rate, args.epochs).fit(X[:part], y[:part]), X[part:train], y[part:train])
        except (NonFiniteError, ValueError):  # diverged
            loss = math.inf
        print(f"  {side:12} rate {rate:<8.3g} validation log loss {loss:.4f}", file=sys.stderr)
        return loss

    rate = {side: tune(lambda r, side=side: tried(side, r), start) for side, start in START.items()}
    A, b = X[:train], y[:train]
    seconds: dict[str, list[float]] = {side: [] for side in START}
    losses: dict[str, list[float]] = {side: [] for side in START}
    for seed in range(rounds):  # the order of the samples moves the log loss by some thousandths
        for side in START:
            model = make(side, rate[side], args.epochs, seed)
            start = time.perf_counter()
            model.fit(A, b)
            seconds[side].append(time.perf_counter() - start)
            losses[side].append(log_loss(model, X[train:], y[train:]))
    run: dict[str, Any] = {"time": time.strftime("%Y-%m-%d %H:%M"), "machine": facts, "sides": {}}
    for side in START:
        median = statistics.median(seconds[side])
        run["sides"][side] = {
            "rate": rate[side],
            "seconds": seconds[side],
            "speed": args.epochs * A.nnz / median,
            "log_loss": statistics.median(losses[side]),
            "ratio": statistics.median(seconds[PEER]) / median,
        }
    constant = float(b.mean())
    floor = -float(np.where(y[train:] == 1, math.log(constant), math.log1p(-constant)).mean())
    print(f"\nHeld-out log loss of a constant: {floor:.4f}. Medians; the ratio is scikit-learn's time by ours.\n")
    print(
        table(
            ["trained by", "rate", "million non-zeros a second", "range", "log loss", "ratio", "target", ""],
            [line(side, run, args.epochs * A.nnz) for side in START],
        )
    )
    print(f"\n{others(A, b, rate, rounds)}")
    if args.json:
        with args.json.open("a") as file:
            file.write(json.dumps(run) + "\n")
        history([json.loads(text) for text in args.json.read_text().splitlines()])


def verdict(side: str, ratio: float, worse: float) -> str:
    target = TARGETS.get(side)
    if target is None:
        return ""
    if worse > SAME:
        return f"MISSED: log loss {worse:.4f} above scikit-learn's"
    return "met" if ratio >= target else "MISSED"


def line(side: str, run: dict[str, Any], work: int) -> list[str]:
    s, target = run["sides"][side], TARGETS.get(side)
    speed = [work / t / 1e6 for t in s["seconds"]]
    return [
        side,
        f"{s['rate']:.3g}",
        f"{s['speed'] / 1e6:.1f}",
        f"{min(speed):.1f} to {max(speed):.1f}",
        f"{s['log_loss']:.4f}",
        "" if side == PEER else f"{s['ratio']:.2f}",
        "" if target is None else f"at least {target:g}",
        verdict(side, s["ratio"], s["log_loss"] - run["sides"][PEER]["log_loss"]),
    ]


def history(runs: list[dict[str, Any]]) -> None:
    """Range of all runs, and the verdict on the worst."""
    lines = []
    for side in START:
        sides = [run["sides"][side] for run in runs]
        speed, ratio = [s["speed"] / 1e6 for s in sides], [s["ratio"] for s in sides]
        worse = max(run["sides"][side]["log_loss"] - run["sides"][PEER]["log_loss"] for run in runs)
        lines.append(
            [
                side,
                f"{min(speed):.1f} to {max(speed):.1f}",
                "" if side == PEER else f"{min(ratio):.2f} to {max(ratio):.2f}",
                verdict(side, min(ratio), worse),
            ]
        )
    print(f"\n{len(runs)} runs, {runs[0]['time']} to {runs[-1]['time']}; the worst decides\n")
    print(table(["trained by", "million non-zeros a second", "ratio", ""], lines))


if __name__ == "__main__":
    main()
