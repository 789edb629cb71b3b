"""``fastopt weights``: the heaviest weights of a saved model, with the names that the data have for them."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from .. import checks
from ..errors import UnsupportedError
from . import data
from .output import Help, as_json, table

MOST = 5  # names of a slot that are listed


def add(commands: Any) -> None:
    """The command and its options."""
    parser = commands.add_parser(
        "weights",
        help="the heaviest weights of a saved model by feature name",
        formatter_class=Help,
    )
    parser.set_defaults(run=run)
    parser.add_argument("model", help="a file of `fastopt train --out`; of factorization machines, the linear part")
    parser.add_argument("path", help="samples, read as in training, in which the names are looked up")
    parser.add_argument("--format", choices=data.FORMS, help="in the place of what the ending says")
    parser.add_argument("--show", type=int, default=20, metavar="N", help="how many")
    parser.add_argument("--json", action="store_true", help="print one JSON object in the place of the table")


def run(args: argparse.Namespace) -> int:
    from ..models.files import load_saved

    checks.integer(1)("--show", args.show)
    if args.path == "-":
        raise UnsupportedError("the names are looked up in a file, not in standard input")
    saved = load_saved(args.model)
    found = heaviest(saved.model, data.of_model(args, saved), args.show)
    print(as_json({"model": args.model, "path": args.path, "weights": found}) if args.json else listed(found))
    return 0


def heaviest(model: Any, samples: data.Samples, count: int) -> list[dict[str, Any]]:
    """The weights that are largest in size, and the names of their slots."""
    weights, places, n = _weights(model)
    size = np.abs(weights)
    top = np.argpartition(size, len(size) - min(count, len(size)))[len(size) - min(count, len(size)) :]
    top = top[size[top] > 0]
    top = top[np.lexsort((top if places is None else places[top], -size[top]))]
    where = top if places is None else places[top]
    names = _names(samples, np.unique(where % n).tolist(), n)
    found = []
    for weight, place in zip(weights[top].tolist(), where.tolist(), strict=True):
        row, slot = divmod(place, n)
        entry: dict[str, Any] = {"weight": weight, "slot": slot}
        if len(getattr(model, "classes_", ())) > 2:
            entry["class"] = str(model.classes_[row])
        counts = names[slot].most_common()
        entry["names"] = [{"name": name, "rows": rows} for name, rows in counts]
        found.append(entry)
    return found


def _weights(model: Any) -> tuple[Any, Any, int]:
    """The weights in one row, class after class, the places of those that are there (None: all), and the number of features."""
    if getattr(model, "layout_", "dense") == "sparse" and model._lists() is not None:
        entries = model._entries()
        rows, n = np.repeat(np.arange(entries.shape[0]), np.diff(entries.indptr)), entries.shape[1]
        return entries.data, rows * n + entries.indices, n
    coef = np.atleast_2d(model.coef_)
    return coef.ravel(), None, coef.shape[1]


def _names(samples: data.Samples, slots: list[int], n: int) -> Any:
    from ..models import naming

    form = samples.reader.form
    if form in data.TABLES:
        options = samples.options(labels=False)
        return naming.names_of_columns(samples.path, form, options.pop("hasher"), slots, **options)
    if form == "vw":
        return naming.names_of_vw(samples.path, n, slots)
    first = int(form == "svmlight" and not samples.reader.zero_based)
    return naming.names_of_indices(samples.pieces(data.CHUNK), n, slots, first)


def listed(found: list[dict[str, Any]]) -> str:
    """The weights as a table; several names in one line share their slot."""
    several = any("class" in entry for entry in found)
    rows = []
    for entry in found:
        names = entry["names"]
        text = ", ".join(f"{name['name']} ({name['rows']:,})" for name in names[:MOST])
        text += f", and {len(names) - MOST} more" if len(names) > MOST else ""
        middle = [entry["class"]] if several else []
        rows.append(
            [f"{entry['weight']:+.4f}", *middle, text or f"slot {entry['slot']}, which no name here falls into"]
        )
    head = ["weight", *(["class"] if several else []), "feature (times it comes); those of one line share a slot"]
    return table(head, rows, left=(0, len(head) - 1))
