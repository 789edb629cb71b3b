"""The names behind the slots of hashed features, found by looking into the data once more."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from ..checks import Array
from . import lines
from .features import ColumnHasher
from .streams import READERS
from .text import is_ours, open_bytes

Names = dict[int, Counter[str]]


def names_of_columns(
    path: str | os.PathLike[str], reader: str, hasher: ColumnHasher, slots: Iterable[int], **options: Any
) -> Names:
    """Which values of which columns fall into some slots, and in how many rows, of a CSV or Parquet file; options as of `chunks`.

    Several names of a slot are a collision. The name of a number is that of its column.
    """
    wanted, found = _wanted(hasher.n_features, slots)
    source = READERS[reader](path, hasher, **{"label": None, **options})
    fields = [*((name,) for name in hasher.columns), *hasher.crosses]
    done = 0
    try:
        for table in source.read():
            where = partial(source.row, done)
            read = hasher._read(table, where)
            filled, data = hasher._entries(read, where)
            done += len(table)
            hits = wanted[filled] if data is None else wanted[filled] & (data != 0)
            for k, field in enumerate(fields):
                places = np.flatnonzero(hits[:, k])
                codes = np.stack([read[name].codes[places] for name in field] + [filled[places, k]])
                for (*which, slot), rows in zip(*_counted(codes), strict=True):
                    found[slot][_name([(c, read[c], code) for c, code in zip(field, which, strict=True)])] += rows
    finally:
        source.close()
    return found


def _counted(columns: Array) -> tuple[list[list[int]], list[int]]:
    """The distinct columns of a matrix, and how often each comes."""
    found, counts = np.unique(columns, axis=1, return_counts=True)
    return found.T.tolist(), counts.tolist()


def _name(parts: list[tuple[str, Any, int]]) -> str:
    """``a=x`` of a category, ``a`` of a number, ``a*b=x*y`` and ``a=x*b`` of crosses; a part: column, what was read of it, code."""
    if all(column.numbers is None for _, column, _ in parts):
        values = "*".join(column.texts[code] for _, column, code in parts)
        return f"{'*'.join(name for name, _, _ in parts)}={values}"
    return "*".join(
        name if column.numbers is not None else f"{name}={column.texts[code]}" for name, column, code in parts
    )


def names_of_vw(path: str | os.PathLike[str], n_features: int, slots: Iterable[int]) -> Names:
    """Which names (``space^name``) of a Vowpal Wabbit text fall into some slots, and how often they come."""
    wanted, found = _wanted(n_features, slots)
    try:
        murmur = import_module("fastopt.kernels.text").murmur
    except ModuleNotFoundError:
        murmur = lines.murmur
    _, file = open_bytes(path)
    try:
        while block := file.readlines(1 << 20):
            seen: Counter[bytes] = Counter()
            for line in block:
                for part in line.split(b"|")[1:]:
                    words = part.split()
                    prefix = b""
                    if words and not part[:1].isspace():
                        space = words.pop(0).partition(b":")[0]
                        prefix = space + b"^" if space else b""
                    seen.update([prefix + word.partition(b":")[0] for word in words])
            for name, times in seen.items():
                h = murmur(name)
                slot = (2**32 - h if h >> 31 else h) % n_features
                if wanted[slot]:
                    found[slot][name.decode("utf-8", "backslashreplace")] += times
    finally:
        if is_ours(path):
            file.close()
    return found


def names_of_indices(pieces: Iterable[Any], n_features: int, slots: Iterable[int], first: int) -> Names:
    """The indices themselves, counted from `first`, and how often they come in pieces (X, ...) of data."""
    _, found = _wanted(n_features, slots)
    counts = np.zeros(n_features, np.int64)
    for X, *_ in pieces:
        counts += np.bincount(X.indices, minlength=n_features)
    for slot in found:
        found[slot][str(slot + first)] = int(counts[slot])
    return found


def _wanted(n_features: int, slots: Iterable[int]) -> tuple[Array, Names]:
    places = [int(slot) for slot in slots]
    wanted = np.zeros(n_features, bool)
    wanted[places] = True
    return wanted, {slot: Counter() for slot in places}
