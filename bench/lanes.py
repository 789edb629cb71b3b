"""``lr="auto"`` beside fits at one rate and a grid of eight; classes, targets and penalties side by side beside one by one.

The data of bench/linear.py, sparse float32 rows. Fits take turns; the least of several times counts. Where the package vowpalwabbit is there, its
default pass over text is the other side of the held-out loss.

``python bench/lanes.py [--quick] [--rounds N] [--epochs E]``
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import describe, machine, table
from linear import L2, features, labels, log_loss
from text import BITS, vowpal, vowpalwabbit, write

from fastopt.errors import NonFiniteError
from fastopt.models import LinearClassifier, LinearRegressor

OPTIMIZERS = ("sgd", "adagrad", "adam", "ftrl")
MOST = 1.3  # times one rate
WORSE = 1.002  # times the held-out loss of the best of the grid
GRID = [0.0, *(10.0**-k for k in range(9, 2, -1))]  # eight penalties


def default_pass(X: Any, y: Any, T: Any, c: Any) -> float:
    """Held-out log loss of Vowpal Wabbit's default pass."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, "train", X, y)
        write(folder, "held", T, c)
        vowpal(folder / "train.vw", f"-f {folder / 'model'}")
        vowpal(folder / "held.vw", f"-t -i {folder / 'model'} -p {folder / 'scores'} --link identity")
        z = np.loadtxt(folder / "scores", usecols=0)
    return float(np.logaddexp(0.0, (1 - 2 * c) * z).mean())


def fit(lr: Any, optimizer: str, epochs: int, seed: int, X: Any, y: Any) -> tuple[Any, float]:
    # FTRL's own l2 counts against the sum of the losses.
    model = LinearClassifier(
        optimizer=optimizer, lr=lr, epochs=epochs, l2=0 if optimizer == "ftrl" else L2, random_state=seed
    )
    start = time.thread_time()
    try:
        model.fit(X, y)
    except NonFiniteError:
        model = None
    return model, time.thread_time() - start


def seconds_of(model: Any, X: Any, y: Any) -> float:
    start = time.thread_time()
    model.fit(X, y)
    return time.thread_time() - start


def eight_at_once(rng: np.random.Generator, rounds: int, X: Any, y: Any) -> None:
    """Eight penalties, chosen on held-out rows, and eight targets, beside as many fits one after the other."""
    part = slice(len(y) // 10, None)  # as many rows as fit learns from where it holds some out
    targets = (X @ rng.standard_normal((X.shape[1], 8)).astype(np.float32)).astype(np.float32)
    targets /= targets.std()
    lines = []
    for optimizer in OPTIMIZERS:
        options: dict[str, Any] = {"optimizer": optimizer, "lr": 0.005 if optimizer == "adam" else 0.05, "epochs": 3}
        taken: dict[str, list[float]] = {"grid": [], "fits": [], "targets": [], "each": []}
        for seed in range(rounds):
            options["random_state"] = seed
            grid = LinearClassifier(l2=GRID, **options)
            taken["grid"].append(seconds_of(grid, X, y))
            taken["fits"].append(sum(seconds_of(LinearClassifier(l2=l2, **options), X[part], y[part]) for l2 in GRID))
            taken["targets"].append(seconds_of(LinearRegressor(**options), X, targets))
            taken["each"].append(sum(seconds_of(LinearRegressor(**options), X, t) for t in targets.T))
            print(f"  {optimizer} eight at once, round {seed}", file=sys.stderr)
        best = {k: min(times) for k, times in taken.items()}
        lines.append(
            [
                optimizer,
                f"{best['fits']:.2f}",
                f"{best['grid']:.2f}",
                f"{best['fits'] / best['grid']:.1f} x",
                f"{grid.l2_:.0e}",
                f"{best['each']:.2f}",
                f"{best['targets']:.2f}",
                f"{best['each'] / best['targets']:.1f} x",
            ]
        )
    print("\nEight models at once, three passes: seconds of eight fits, and of one of all\n")
    print(table(["", "eight l2", "at once", "", "chosen", "eight targets", "at once", ""], lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rows and rounds: shows that it runs, no more")
    parser.add_argument("--rounds", type=int, help="fits of each side (default 9; 2 with --quick)")
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    rounds = args.rounds or (2 if args.quick else 9)
    rows, bits = (10_000, 14) if args.quick else (250_000, BITS)
    rng = np.random.default_rng(0)
    X = features(rng, rows, 1 << bits, mean=37)
    y = labels(rng, X)
    train = rows * 4 // 5
    A, b, T, c = X[:train], y[:train], X[train:], y[train:]
    facts = machine("numpy", "scipy", "scikit-learn")
    facts["data"] = (
        f"{train:,} rows of {A.nnz / train:.1f} of {1 << bits:,} features; {args.epochs} epochs, {rounds} rounds"
    )
    facts["load"] = f"{os.getloadavg()[0]:.1f}; seconds are those of the thread"
    print(describe(facts))
    lines = []
    for optimizer in OPTIMIZERS:
        seconds: dict[str, list[float]] = {"one": [], "auto": []}
        losses, grid = [], []
        for seed in range(rounds):
            model, taken = fit("auto", optimizer, args.epochs, seed, A, b)
            seconds["auto"].append(taken)
            losses.append(log_loss(model, T, c))
            seconds["one"].append(fit(model.lr_, optimizer, args.epochs, seed, A, b)[1])
            if seed < 3:  # the grid: the order of the samples moves the loss by some thousandths
                fits = [fit(rate, optimizer, args.epochs, seed, A, b)[0] for rate in model.rates_]
                grid.append([np.inf if m is None else log_loss(m, T, c) for m in fits])
            print(f"  {optimizer} round {seed}", file=sys.stderr)
        best = float(np.mean(grid, axis=0).min())
        ratio = min(seconds["auto"]) / min(seconds["one"])
        loss = float(np.mean(losses[: len(grid)]))
        good = "met" if ratio <= MOST and loss <= best * WORSE else "MISSED"
        lines.append(
            [
                optimizer,
                f"{model.lr_:.3g}",
                f"{min(seconds['one']):.3f}",
                f"{ratio:.2f}",
                f"{loss:.4f}",
                f"{best:.4f}",
                good,
            ]
        )
    print("\nThe grid's loss is that of its best rate, chosen on the held-out rows.\n")
    print(table(["", "rate", "seconds of one", "auto by one", "log loss", "of the grid", ""], lines))
    if vowpalwabbit is not None:
        print(f"\nVowpal Wabbit's default pass: log loss {default_pass(A, b, T, c):.4f}")

    print("\nClasses side by side, one pass: seconds by those of as many binary fits\n")
    lines = []
    for n in (3, 8, 32):
        codes = (rng.random(train) * n).astype(int)
        taken: dict[str, list[float]] = {"ovr": [], "multinomial": []}
        single = []
        for seed in range(2 if args.quick else 5):
            single.append(n * fit(0.1, "adagrad", 1, seed, A, codes == 0)[1])
            for kind, times in taken.items():
                model = LinearClassifier(lr=0.1, epochs=1, random_state=seed, multi_class=kind)
                start = time.thread_time()
                model.fit(A, codes)
                times.append(time.thread_time() - start)
        lines.append([str(n), *(f"{min(times) / min(single):.2f}" for times in taken.values())])
    print(table(["classes", "one against the rest", "multinomial"], lines))
    eight_at_once(rng, 2 if args.quick else min(rounds, 5), A, b)


if __name__ == "__main__":
    main()
