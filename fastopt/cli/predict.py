"""``fastopt predict`` and ``fastopt eval``: what a saved model says of samples, and how right it is."""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import nullcontext
from typing import Any

import numpy as np

from .. import checks
from ..errors import UnsupportedError
from . import data
from .output import Help, as_json, progress, table
from .runs import TITLES, measures


def add(commands: Any) -> None:
    """The commands and their options."""
    for name, about, function in (
        ("predict", "the predictions of a saved model, one a line", predict),
        ("eval", "loss and scores of a saved model", evaluate),
    ):
        parser = commands.add_parser(name, help=about, formatter_class=Help)
        parser.set_defaults(run=function)
        parser.add_argument("model", help="a file of `fastopt train --out`")
        parser.add_argument("path", help="samples, read as in training; - is standard input")
        parser.add_argument("--format", choices=data.FORMS, help="in the place of what the ending says")
        parser.add_argument("--chunk", type=int, default=data.CHUNK, metavar="ROWS", help="rows in memory at a time")
        if name == "predict":
            parser.add_argument("--out", metavar="FILE", help="write here, in the place of standard output")
            parser.add_argument(
                "--proba",
                action="store_true",
                help="the probability of the second class; of more than two classes all, in the order of the labels",
            )
        else:
            parser.add_argument("--json", action="store_true", help="print one JSON object in the place of the table")


def _lines(model: Any, X: Any, proba: bool) -> str:
    """A line for each row."""
    if proba:
        p = model.predict_proba(X)
        if p.shape[1] == 2:
            return "".join([f"{value:.9g}\n" for value in p[:, 1].tolist()])
        return "".join([" ".join([f"{value:.9g}" for value in row]) + "\n" for row in p.tolist()])
    found = model.predict(X)
    if not hasattr(model, "classes_"):
        return "".join([f"{value:.9g}\n" for value in found.tolist()])
    texts = [f"{_text(label)}\n" for label in model.classes_.tolist()]
    return "".join([texts[k] for k in np.searchsorted(model.classes_, found).tolist()])


def _text(label: Any) -> str:
    if isinstance(label, float):
        return np.format_float_positional(label, trim="-")
    return str(int(label) if isinstance(label, bool) else label)


def predict(args: argparse.Namespace) -> int:
    from ..checkpoint import replacing
    from ..models.files import load_saved

    checks.integer(1)("--chunk", args.chunk)
    if args.out:
        checks.output_file("--out", args.out)
    saved = load_saved(args.model)
    if args.proba and not hasattr(saved.model, "predict_proba"):
        raise UnsupportedError(f"a model of loss {saved.model.loss!r} has no probabilities; leave --proba out")
    samples = data.of_model(args, saved)
    out: Any = replacing(args.out) if args.out else nullcontext(getattr(sys.stdout, "buffer", None))
    with out as file, progress(None, " rows", unit_scale=True) as bar:
        for X, _, _ in samples.pieces(args.chunk, labels=False):
            if X.shape[0]:
                text = _lines(saved.model, X, args.proba)
                if file is None:
                    sys.stdout.write(text)
                else:
                    file.write(text.encode())
                bar.update(X.shape[0])
    sys.stdout.flush()
    return 0


def evaluate(args: argparse.Namespace) -> int:
    from ..models.files import load_saved
    from ..models.progressive import checked_labels, judge

    checks.integer(1)("--chunk", args.chunk)
    saved = load_saved(args.model)
    model, samples = saved.model, data.of_model(args, saved)
    losses: list[Any] = []
    scores: list[Any] = []
    targets: list[Any] = []
    right: list[Any] = []
    importance: list[Any] = []
    rows = nonzeros = 0
    start = time.perf_counter()
    with progress(None, " rows", unit_scale=True) as bar:
        for X, y, w in samples.pieces(args.chunk):
            if not X.shape[0]:
                continue
            checked_labels(model, y, None, rows)
            found = judge(model, X, y)
            losses.append(found.losses)
            scores.append(found.scores.astype(np.float32) if len(getattr(model, "classes_", ())) <= 2 else found.scores)
            targets.append(y)
            right.append(found.right)
            importance.append(w)
            rows, nonzeros = rows + X.shape[0], nonzeros + X.nnz
            bar.update(X.shape[0])
    seconds = time.perf_counter() - start
    if not rows:
        raise samples.nothing()
    whole = np.concatenate
    w = None if importance[0] is None else whole(importance)
    if w is not None and not w.any():
        raise samples.nothing()
    measured = measures(model, whole(scores), whole(targets), None if right[0] is None else whole(right), w)
    figures = {
        "model": args.model,
        "path": args.path,
        "rows": rows,
        "nonzeros": nonzeros,
        "loss": float(np.average(whole(losses), weights=w)),
        **measured,
        "seconds": seconds,
        "rows_per_second": rows / seconds,
    }
    if args.json:
        print(as_json(figures))
        return 0
    head = ["rows", "loss", *(TITLES[name] for name in measured), "seconds", "rows/s"]
    line = [f"{rows:,}", f"{figures['loss']:.4f}", *(f"{v:.4f}" for v in measured.values())]
    print(table(head, [[*line, f"{seconds:.2f}", f"{rows / seconds:,.0f}"]]))
    return 0
