"""What the kernels of the factorization machines compute, in Python and NumPy: the same operations in the same order.

Slow by design; also the backend of installations without compiled kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..checks import Array
from ..scores import DERIVATIVES, dot


class Records(NamedTuple):
    """A record for each feature: for each field a vector and its states, then the weight and its states."""

    array: Array
    bias: Array | None
    width: int
    n_states: int
    fields: Array | None  #: of the features; None: all are of one
    n_fields: int

    def part(self, state: int) -> Array:
        """The vectors (state 0) or one of their states: a view of shape (n_features, n_fields, width)."""
        chunk = self.width * (1 + self.n_states)
        chunks = self.array[:, : self.n_fields * chunk].reshape(len(self.array), self.n_fields, chunk)
        return chunks[:, :, state * self.width : (state + 1) * self.width]

    def weight(self, state: int) -> Array:
        """The weights (state 0) or one of their states: a view of shape (n_features,)."""
        return self.array[:, self.n_fields * self.width * (1 + self.n_states) + state]


class Sample(NamedTuple):
    """A row, its fields as they come in it, and the sums of its vectors."""

    ids: Array
    x: Array
    local: Array  #: the fields of the entries, numbered as they come
    present: Array  #: these fields
    v: Array
    w: Array
    sums: Array
    score: float


def folded(lanes: Array) -> Any:
    return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3])


def interaction(v: Array, x: Array, local: Array) -> tuple[Array, float]:
    """The sums of the vectors v, shape (entries, fields, width), and what pairs of entries add to the score."""
    _, fields, width = v.shape
    sums, squares = np.zeros((fields, fields, width), v.dtype), np.zeros((fields, width), v.dtype)
    for v_i, x_i, a in zip(v, x, local, strict=True):
        t = x_i * v_i
        sums[a] = sums[a] + t
        squares[a] = squares[a] + t[a] * t[a]
    own, cross = np.zeros(4), np.zeros(4)
    wide, wide_squares = sums.astype(np.float64), squares.astype(np.float64)
    for a in range(fields):
        for c in range(0, width, 4):
            s = wide[a, a, c : c + 4]
            own = own + (s * s - wide_squares[a, c : c + 4])
    for a in range(fields):
        for b in range(a + 1, fields):
            for c in range(0, width, 4):
                cross = cross + wide[a, b, c : c + 4] * wide[b, a, c : c + 4]
    return sums, float(0.5 * folded(own) + folded(cross))


def look(r: Records, ids: Array, x: Array, up: Any) -> Sample:
    """A row, and its score."""
    if r.fields is None:
        present, local = np.zeros(1, np.int64), np.zeros(len(ids), np.int64)
    else:
        of = r.fields[ids].tolist()
        order = {f: k for k, f in enumerate(dict.fromkeys(of))}
        present, local = np.array(list(order), np.int64), np.array([order[f] for f in of], np.int64)
    v = up * r.part(0)[ids[:, np.newaxis], present]
    w = up * r.weight(0)[ids]
    if r.bias is not None:
        w = np.append(w, r.bias[0])
    sums, score = interaction(v, x, local)
    return Sample(ids, x, local, present, v, w, sums, dot(w, np.append(x, x.dtype.type(1))[: len(w)]) + score)


def moves(s: Sample, slope: Any) -> Array:
    """The gradient of the vectors."""
    g = (slope * s.x)[:, np.newaxis, np.newaxis] * s.sums[:, s.local].transpose(1, 0, 2)
    j = np.arange(len(s.ids))
    own = s.sums[s.local, s.local] - s.x[:, np.newaxis] * s.v[j, s.local]
    g[j, s.local] = (slope * s.x)[:, np.newaxis] * own
    return g


def samples(
    reference: Callable[..., None],
    loss: str,
    parameter: float,
    r: Records,
    indptr: Array,
    indices: Array,
    data: Array,
    y: Array,
    weights: Array | None,
    order: Sequence[int] | Array | None,
    n: int,
    h: Array,
    one_row: bool,
    scale: float,
    shrink: float,
) -> float:
    """Train on `n` CSR rows one after the other; returns the scale of the weights afterwards.

    See ``kernels.drivers.factors``, whose sequential mode this is.
    """
    real = data.dtype.type
    states = range(1, 1 + r.n_states)
    with np.errstate(all="ignore"):
        for i in range(n):
            row = i if order is None else int(order[i])
            part = slice(int(indptr[row]), int(indptr[row + 1]))
            up, down = real(scale), real(float(np.float64(1.0) / np.float64(scale)))
            s = look(r, indices[part], data[part], up)
            weight = 1.0 if weights is None else float(weights[row])
            slope = real(weight * DERIVATIVES[loss](s.score, float(y[row]), parameter))
            scalars = h[0 if one_row else i][2:]
            at = (s.ids[:, np.newaxis], s.present)
            v, v_states = s.v.copy(), [r.part(q)[at] for q in states]
            reference(v, moves(s, slope), *v_states, scalars)
            for q, new in enumerate([down * v, *v_states]):
                r.part(q)[at] = new
            w, w_states, x = s.w, [r.weight(q)[s.ids] for q in states], s.x
            if r.bias is not None:
                x = np.append(x, real(1))
                w_states = [np.append(old, r.bias[q]) for q, old in zip(states, w_states, strict=True)]
            reference(w, slope * x, *w_states, scalars)
            m = len(s.ids)
            for q, new in enumerate([down * w[:m], *(new[:m] for new in w_states)]):
                r.weight(q)[s.ids] = new
            if r.bias is not None:
                for q, new in enumerate([w, *w_states]):
                    r.bias[q] = new[m]
            scale = scale * shrink
    return scale


def batches(
    reference: Callable[..., None],
    loss: str,
    parameter: float,
    r: Records,
    indptr: Array,
    indices: Array,
    data: Array,
    y: Array,
    weights: Array | None,
    order: Array,
    size: int,
    mean: float,
    h: Array,
    one_row: bool,
    scale: float,
    shrink: float,
) -> float:
    """Train on the CSR rows of `order` in batches of `size`; returns the scale of the weights afterwards.

    See ``kernels.drivers.factor_batches``.
    """
    real = data.dtype.type
    states = range(1, 1 + r.n_states)
    with np.errstate(all="ignore"):
        for k, begin in enumerate(range(0, len(order), size)):
            batch = [int(row) for row in order[begin : begin + size]]
            up, down = real(scale), real(float(np.float64(1.0) / np.float64(scale)))
            by = 1.0 / (float(len(batch)) * mean)
            slopes: list[Any] = []
            vectors: dict[tuple[int, int], Array] = {}
            sums: dict[int, Any] = {}
            for row in batch:
                part = slice(int(indptr[row]), int(indptr[row + 1]))
                s = look(r, indices[part], data[part], up)
                weight = 1.0 if weights is None else float(weights[row])
                slope = real((weight * DERIVATIVES[loss](s.score, float(y[row]), parameter)) * by)
                slopes.append(slope)
                for f, x, g in zip(s.ids.tolist(), s.x, moves(s, slope), strict=True):
                    sums[f] = sums.get(f, real(0)) + slope * x
                    for field, vector in zip(s.present.tolist(), g, strict=True):
                        vectors[f, field] = vectors.get((f, field), real(0)) + vector
            scalars = h[0 if one_row else k][2:]
            if sums:
                ids = np.fromiter(sums, np.int64, len(sums))
                w, w_states = up * r.weight(0)[ids], [r.weight(q)[ids] for q in states]
                reference(w, np.array(list(sums.values()), real), *w_states, scalars)
                for q, new in enumerate([down * w, *w_states]):
                    r.weight(q)[ids] = new
                at = tuple(np.array(list(vectors), np.int64).T)
                v, v_states = up * r.part(0)[at], [r.part(q)[at] for q in states]
                reference(v, np.array(list(vectors.values()), real), *v_states, scalars)
                for q, new in enumerate([down * v, *v_states]):
                    r.part(q)[at] = new
            if r.bias is not None:
                total = slopes[0]
                for slope in slopes[1:]:
                    total = total + slope
                w_states = [r.bias[q : q + 1] for q in states]
                reference(r.bias[:1], np.array([total], real), *w_states, scalars)
            scale = scale * shrink
    return scale


def scores(r: Records, indptr: Array, indices: Array, data: Array, scale: float, out: Array) -> None:
    """The scores of CSR rows. See ``kernels.drivers.factor_scores``."""
    with np.errstate(all="ignore"):
        for i in range(len(out)):
            part = slice(int(indptr[i]), int(indptr[i + 1]))
            out[i] = look(r, indices[part], data[part], data.dtype.type(scale)).score
