"""Lock-free threads beside one: fits of `LinearClassifier` in turns, on the made-up set of linear.py, or on flights.

``python bench/hogwild.py [--threads N] [--rounds N] [--rank N] [--flights FILE] [--json FILE]``. Seconds of a whole `fit`, order of the
features and merging included, and held-out log loss, with the same rate and the same seeds on both sides. The processors
must be idle: beside the seconds stands how many of them the threads had. FILE of flights: flights-3m.parquet of the npm
package vega-datasets (npm install vega-datasets), fields and crosses as below, tested where the day is divisible by 5.

``--spread``: one thread on 2^24 features spread evenly, with and without prefetch and huge pages.
"""

from __future__ import annotations

import argparse
import json
import mmap
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import describe, machine, table
from linear import L2, features, labels, log_loss
from scipy import sparse

from fastopt import kernels
from fastopt.models import ColumnHasher, FMClassifier, LinearClassifier, samples
from fastopt.optimizers.base import by_name

Array = np.ndarray[Any, Any]
RATES = {
    "made-up": {"sgd": 0.02, "adagrad": 0.1, "adam": 0.0005},
    "flights": {"sgd": 0.03, "adagrad": 0.3, "adam": 0.0003},
}
CROSSES = [("origin", "destination"), ("origin", "hour"), ("destination", "hour"), ("weekday", "hour")]
CROSSES += [("month", "day", "origin"), ("month", "day", "destination"), ("origin", "destination", "hour")]
Data = tuple[sparse.csr_matrix, Array, sparse.csr_matrix, Array]


def made_up() -> Data:
    rng = np.random.default_rng(0)
    X = features(rng, 250_000, 1 << 20, mean=37)
    y = labels(rng, X)
    return X[:200_000], y[:200_000], X[200_000:], y[200_000:]


def flights(path: Path) -> Data:
    from pyarrow import parquet

    read = parquet.read_table(path)
    when = read["date"].to_numpy().astype("datetime64[m]")
    day = when.astype("datetime64[D]")
    month = day.astype("datetime64[M]")
    of_month = (day - month).astype(int) + 1
    columns = {
        "month": month.astype(int) % 12 + 1,
        "day": of_month,
        "weekday": (day.astype(int) + 3) % 7,
        "hour": (when - day).astype(int) // 60,
        "distance": read["distance"].to_numpy(),
    }
    texts = {name: column.astype(str).tolist() for name, column in columns.items()}
    texts |= {name: read[name].to_pylist() for name in ("origin", "destination")}
    X = ColumnHasher(1 << 20, list(texts), CROSSES).transform(texts).astype(np.float32)
    X.data *= np.float32(1 / np.sqrt(len(texts) + len(CROSSES)))
    y, held = (read["delay"].to_numpy() > 15).astype(np.int64), of_month % 5 == 0
    return X[~held], y[~held], X[held], y[held]


def fit(
    data: Data, name: str, rate: float, epochs: int, threads: int, seed: int, rank: int
) -> tuple[float, float, float]:
    """Seconds, processors used, held-out log loss."""
    cls, own = (FMClassifier, {"rank": rank}) if rank else (LinearClassifier, {})
    model = cls(
        **own,
        optimizer=name,
        lr=rate,
        epochs=epochs,
        l2=L2,
        random_state=seed,
        mode="hogwild" if threads > 1 else "sequential",
        n_jobs=threads,
    )
    start, used = time.perf_counter(), time.process_time()
    model.fit(data[0], data[1])
    seconds = time.perf_counter() - start
    return seconds, (time.process_time() - used) / seconds, log_loss(model, data[2], data[3])


def spread(rounds: int) -> None:
    rng = np.random.default_rng(0)
    n, k, size = 60_000, 37, 1 << 24
    indptr, order = np.arange(n + 1, dtype=np.int64) * k, rng.permutation(n).astype(np.int32)
    indices = np.sort(rng.integers(0, size, (n, k)).astype(np.int32), 1).ravel()
    data, y = rng.random(n * k, np.float32), np.where(rng.random(n) < 0.5, -1, 1).astype(np.float32)
    huge = samples.zeros

    def small(shape: tuple[int, int], dtype: np.dtype[Any]) -> Array:
        memory = mmap.mmap(-1, shape[0] * shape[1] * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        return np.ndarray(shape, dtype, memory)

    lines = []
    for name in ("sgd", "adagrad", "adam"):
        speed: dict[tuple[bool, bool], list[float]] = {}
        for _ in range(rounds):
            for pages in (False, True):
                samples.zeros = huge if pages else small
                cls, options = by_name(name)
                options = cls.fill_options({**options, "lr": 0.01})
                model = samples.SampleTrainer(
                    size, np.dtype(np.float32), cls, options, "log_loss", 0, 0, True, backend="native"
                )
                model.train(indptr, indices, data, y, order)  # the first pass is the system's
                for prefetch in (False, True):
                    kernels.drivers.prefetch(prefetch)
                    start = time.perf_counter()
                    model.train(indptr, indices, data, y, order)
                    speed.setdefault((prefetch, pages), []).append(n * k / (time.perf_counter() - start) / 1e6)
        best = {key: max(values) for key, values in speed.items()}
        both = best[True, True] / best[False, False]
        lines.append([name, *(f"{best[key]:.0f}" for key in sorted(best)), f"{both:.2f}"])
    head = ["million non-zeros a second", "neither", "huge pages", "prefetch", "both", "both / neither"]
    print(table(head, lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--flights", type=Path, metavar="FILE")
    parser.add_argument(
        "--rank", type=int, default=0, help="FMClassifier of this rank instead, at a fifth of the rates"
    )
    parser.add_argument("--spread", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE", help="add this run to those in FILE")
    args = parser.parse_args()
    print(describe(machine("numpy", "scipy", "scikit-learn")))
    if args.spread:
        spread(args.rounds)
        return
    data = flights(args.flights) if args.flights else made_up()
    rates = RATES["flights" if args.flights else "made-up"]
    runs: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    for seed in range(args.rounds):
        for name, rate in rates.items():
            for threads in (1, args.threads):
                rate_of = rate / 5 if args.rank else rate
                run = fit(data, name, rate_of, args.epochs, threads, seed, args.rank)
                runs.setdefault((name, threads), []).append(run)
    lines = []
    for name in rates:
        one, many = (
            [statistics.median(column) for column in zip(*runs[name, t], strict=True)] for t in (1, args.threads)
        )
        cells = [f"{1e3 * one[0]:.0f}", f"{1e3 * many[0]:.0f}", f"{many[1]:.2f}", f"{one[0] / many[0]:.2f}"]
        lines.append([name, *cells, f"{one[2]:.4f}", f"{many[2]:.4f}", f"{100 * (many[2] / one[2] - 1):+.2f} %"])
    head = [
        "",
        "ms, one thread",
        f"ms, {args.threads}",
        "processors",
        "ratio",
        "log loss, one",
        "several",
        "difference",
    ]
    print(table(head, lines))
    if args.json:
        with args.json.open("a") as file:
            file.write(json.dumps({f"{name} {threads}": run for (name, threads), run in runs.items()}) + "\n")


if __name__ == "__main__":
    main()
