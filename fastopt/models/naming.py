"""The names behind the slots of hashed features, found by looking into the data once more."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from importlib import import_module
from typing import Any

import numpy as np

from ..checks import Array, need
from . import lines
from .features import ColumnHasher
from .streams import READERS
from .text import is_ours, open_bytes

Names = dict[int, Counter[str]]


def names_of_columns(path: str | os.PathLike[str], reader: str, hasher: ColumnHasher, slots: Iterable[int]) -> Names:
    """Which values of which columns fall into some slots, and in how many rows, of a CSV or Parquet file.

    Several names of a slot are a collision.
    """
    pa = need("pyarrow", "cli")
    wanted, found = _wanted(hasher.n_features, slots)
    source = READERS[reader](path, hasher, None)
    fields = [*((name,) for name in hasher.columns), *hasher.crosses]
    try:
        for table in source.read():
            places = hasher.transform(table).indices.reshape(len(table), len(fields))
            hits = wanted[places]
            for k, field in enumerate(fields):
                if not hits[:, k].any():
                    continue
                columns = list(field)
                part = table.select(columns).filter(pa.array(hits[:, k]))
                part = part.group_by(columns).aggregate([([], "count_all")])
                one = (
                    ColumnHasher(hasher.n_features, columns)
                    if len(field) == 1
                    else ColumnHasher(hasher.n_features, (), [field])
                )
                values = zip(*(part[c].to_pylist() for c in columns), strict=True)
                for slot, value, rows in zip(
                    one.transform(part).indices.tolist(), values, part["count_all"].to_pylist(), strict=True
                ):
                    name = "*".join(field) + "=" + "*".join("" if v is None else str(v) for v in value)
                    found[slot][name] += rows
    finally:
        source.close()
    return found


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
