"""What ``kernels/pairs.pxi`` computes, in Python and NumPy: the same operations in the same order, for verification.

Slow by design; also the backend of installations without compiled kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..checks import Array
from ..elementary import philox
from ..scores import DERIVATIVES, VALUES, dot

Example = tuple[int, list[int], int, list[float], float]


class Text(NamedTuple):
    """Where pairs are drawn from: words (int32, negative between sentences), and for each of them what is kept and the alias
    table of the negatives (Walker 1977); the reach of a window; the pass; the seed."""

    words: Array
    keep: Array
    threshold: Array
    other: Array
    window: int
    epoch: int
    seed: int


class Pairs(NamedTuple):
    """A list of pairs: rows of both tables (int32), targets and weights (float64), the order in which they come (int32)."""

    rows: Array
    columns: Array
    y: Array
    weights: Array
    order: Array


Source = Text | Pairs


def _words(m: Text, place: int, number: int) -> list[int]:
    """Four random words of 32 bits: those of a place of the text in this pass."""
    key = (m.seed & 0xFFFFFFFF, m.seed >> 32)
    drawn = philox((place & 0xFFFFFFFF, place >> 32, m.epoch, number), key)
    return [int(w) for w in drawn]


def _kept(m: Text, place: int) -> tuple[bool, int]:
    """Whether the word at a place is kept, and how far its window reaches."""
    drawn = _words(m, place, 0)
    return drawn[0] <= int(m.keep[m.words[place]]), 1 + (drawn[1] * m.window >> 32)


def examples(source: Source, k: int, begin: int, end: int) -> Iterator[Example]:
    """The pairs of the places `begin` to `end`: row of u, rows of v, place from `begin`, targets, weight."""
    if isinstance(source, Pairs):
        for at, e in enumerate(source.order[begin:end].tolist()):
            yield int(source.rows[e]), [int(source.columns[e])], at, [float(source.y[e])], float(source.weights[e])
        return
    m = source
    for c in range(begin, end):
        if m.words[c] < 0:
            continue
        kept, reach = _kept(m, c)
        if not kept:
            continue
        before: list[int] = []
        p = c - 1
        while p >= 0 and m.words[p] >= 0 and len(before) < reach:
            if _kept(m, p)[0]:
                before.append(int(m.words[p]))
            p -= 1
        after: list[int] = []
        p = c + 1
        while p < len(m.words) and m.words[p] >= 0 and len(after) < reach:
            if _kept(m, p)[0]:
                after.append(int(m.words[p]))
            p += 1
        neighbours = [
            *((-1 - i, word) for i, word in enumerate(before)),
            *((1 + i, word) for i, word in enumerate(after)),
        ]
        blocks = (k + 2) // 4
        for offset, word in sorted(neighbours):
            v = [word]
            drawn = [w for b in range(blocks) for w in _words(m, c, 1 + (offset + m.window) * blocks + b)]
            for w in drawn[: k - 1]:
                scaled = w * len(m.keep)
                slot = scaled >> 32
                slot = slot if scaled & 0xFFFFFFFF <= int(m.threshold[slot]) else int(m.other[slot])
                if slot != word:
                    v.append(slot)
            yield int(m.words[c]), v, c - begin, [1.0] + [-1.0] * (len(v) - 1), 1.0


def pairs(
    reference: Callable[..., None],
    n_states: int,
    loss: str,
    u: Array,
    v: Array,
    width: int,
    fixed: tuple[int, int],
    source: Source,
    k: int,
    begin: int,
    end: int,
    size: int,
    h: Array,
    one_row: bool,
) -> tuple[float, int]:
    """Train two tables on the pairs of the places `begin` to `end`; returns the sum of the losses and the number of examples.

    See ``kernels.drivers.pairs``, whose mode of one thread, and of batches, this is.
    """
    real, derivative, value = u.dtype.type, DERIVATIVES[loss], VALUES[loss]
    total, count = 0.0, 0

    def slopes(i: int, js: list[int], y: list[float], w: float) -> list[Any]:
        nonlocal total, count
        z = [dot(u[i, :width], v[j, :width]) for j in js]
        total, count = total + w * float(sum(value(np.array(z), np.array(y), 0.0))), count + 1
        return [real(w * derivative(a, b, 0.0)) for a, b in zip(z, y, strict=True)]

    def update(table: int, row: Array, g: Array, scalars: Array) -> None:
        if fixed[table] >= 0:
            g[fixed[table]] = 0
        parts = row.reshape(-1, width)
        reference(parts[0], g, *parts[1 : 1 + n_states], scalars[2:])
        if fixed[table] >= 0:
            row[fixed[table]] = 1

    with np.errstate(all="ignore"):
        if size == 0:
            for i, js, at, y, w in examples(source, k, begin, end):
                d = slopes(i, js, y, w)
                gu = np.zeros(width, real)
                for j, slope in zip(js, d, strict=True):
                    gu = gu + slope * v[j, :width]
                gv = [slope * u[i, :width] for slope in d]
                for j, g in zip(js, gv, strict=True):
                    update(1, v[j], g, h[0 if one_row else at])
                update(0, u[i], gu, h[0 if one_row else at])
            return total, count
        for step in range(math.ceil((end - begin) / size)):
            start = begin + step * size
            sums: list[dict[int, Array]] = [{}, {}]
            for i, js, _, y, w in examples(source, k, start, min(start + size, end)):
                for j, slope in zip(js, slopes(i, js, y, w), strict=True):
                    for into, row, add in ((sums[0], i, v[j]), (sums[1], j, u[i])):
                        into[row] = into.get(row, np.zeros(width, real)) + slope * add[:width]
            for table, into in enumerate(sums):
                for row, g in into.items():
                    update(table, (u, v)[table][row], g, h[0 if one_row else step])
    return total, count
