"""Predictions of many classes beside scikit-learn's ``X @ coef_.T`` and argmax, and class by class; in turns, the best of several.

Rows, features and classes as of names of places (``bench/geonames.py``), made up: features of Zipf-like frequency, weights
where training would put some. ``python bench/predict.py [--rows 250000] [--bits 20] [--classes 246] [--rounds 5]``
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from common import describe, duration, machine, table
from scipy import sparse
from sklearn.linear_model import SGDClassifier

from fastopt.models import LinearClassifier

ENTRIES = 25  # of a row


def rows(n: int, bits: int, rng: np.random.Generator) -> sparse.csr_matrix:
    """Float32 rows whose features have the frequencies of a Zipf law, spread over all of them."""
    ranks = np.exp(rng.random(n * ENTRIES) * np.log(2.0**bits)).astype(np.int64)
    features = (ranks * 0x9E3779B1 % (1 << bits)).astype(np.int32).reshape(n, ENTRIES)
    features.sort(axis=1)
    data = np.full(n * ENTRIES, ENTRIES**-0.5, np.float32)
    return sparse.csr_matrix((data, features.ravel(), np.arange(0, n * ENTRIES + 1, ENTRIES, np.int32)), (n, 1 << bits))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=250_000)
    parser.add_argument("--bits", type=int, default=20, help="2**bits features")
    parser.add_argument("--classes", type=int, default=246)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    X, few = rows(args.rows, args.bits, rng), rows(20_000, args.bits, rng)
    y = rng.integers(args.classes, size=few.shape[0])
    y[: args.classes] = np.arange(args.classes)
    model = LinearClassifier("hinge", optimizer="sgd", epochs=1, random_state=0).fit(few, y)
    apart = LinearClassifier("hinge", optimizer="sgd", epochs=1, random_state=0, average=True).fit(few, y)
    peer = SGDClassifier()
    peer.classes_, peer.coef_, peer.intercept_ = model.classes_, model.coef_, model.intercept_

    def one_by_one() -> Any:
        return np.stack([model._score(m, X) for m in model._models], axis=1).argmax(axis=1)

    sides: dict[str, Callable[[], Any]] = {
        "fastopt": lambda: model.set_params(n_jobs=1).predict(X),
        "fastopt, 2 threads": lambda: model.set_params(n_jobs=2).predict(X),
        "fastopt, weights of each class apart": lambda: apart.predict(X),
        "fastopt, class by class": one_by_one,
        "scikit-learn": lambda: peer.predict(X),
    }
    best = dict.fromkeys(sides, np.inf)
    found = {}
    for _ in range(args.rounds):
        for name, run in sides.items():
            start = time.perf_counter()
            found[name] = run()
            best[name] = min(best[name], time.perf_counter() - start)
    for name, labels in found.items():  # scikit-learn rounds otherwise, which decides where classes are level
        assert (labels == found["fastopt"]).mean() >= (0.98 if name == "scikit-learn" else 1), name
    facts = machine("numpy", "scipy", "scikit-learn")
    facts["data"] = f"{X.shape[0]:,} rows, {X.nnz:,} non-zeros of 2^{args.bits} features, {args.classes} classes"
    print(describe(facts), "\n")
    sums = X.nnz * args.classes
    print(
        table(
            ["", "predict", "products a second"],
            [[k, duration(v), f"{sums / v / 1e9:.2f} x 10^9"] for k, v in best.items()],
        )
    )


if __name__ == "__main__":
    main()
