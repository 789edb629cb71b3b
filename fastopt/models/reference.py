"""What the models' kernels compute, in Python and NumPy: the same operations in the same order, for verification.

Slow by design; also the backend of installations without compiled kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..checks import Array
from ..scores import DERIVATIVES, SUMMED, dot, multinomial


def samples(
    reference: Callable[..., None],
    n_states: int,
    loss: str,
    parameter: float,
    records: Array,
    bias: Array | None,
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

    See ``kernels.drivers.samples``, whose sequential mode this is.
    """
    derivative = DERIVATIVES[loss]
    real = data.dtype.type
    with np.errstate(all="ignore"):
        for i in range(n):
            r = i if order is None else int(order[i])
            part = slice(int(indptr[r]), int(indptr[r + 1]))
            ids, x = indices[part], data[part]
            up, down = real(scale), real(float(np.float64(1.0) / np.float64(scale)))
            p = up * records[ids, 0]
            states: list[Any] = [records[ids, 1 + q] for q in range(n_states)]
            if bias is not None:
                p, x = np.append(p, bias[0]), np.append(x, real(1))
                states = [np.append(s, bias[1 + q]) for q, s in enumerate(states)]
            z = dot(p, x)
            weight = 1.0 if weights is None else float(weights[r])
            g = real(weight * derivative(z, float(y[r]), parameter)) * x
            reference(p, g, *states, h[0 if one_row else i][2:])
            m = len(ids)
            records[ids, 0] = down * p[:m]
            for q, s in enumerate(states):
                records[ids, 1 + q] = s[:m]
            if bias is not None:
                bias[0] = p[m]
                for q, s in enumerate(states):
                    bias[1 + q] = s[m]
            scale = scale * shrink
    return scale


def batches(
    reference: Callable[..., None],
    n_states: int,
    loss: str,
    parameter: float,
    records: Array,
    bias: Array | None,
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
    last: Array | None,
    step: int,
    decay: Any,
) -> float:
    """Train on the CSR rows of `order` in batches of `size`; returns the scale of the weights afterwards.

    See ``kernels.drivers.batches``.
    """
    derivative = DERIVATIVES[loss]
    real = data.dtype.type

    def weight_of(ids: Array, up: Any) -> Array:
        w = records[ids, 0]
        return up * w if last is None else decay.caught(w, step - last[ids])

    with np.errstate(all="ignore"):
        for k, begin in enumerate(range(0, len(order), size)):
            batch = [int(r) for r in order[begin : begin + size]]
            up, down = real(scale), real(float(np.float64(1.0) / np.float64(scale)))
            by = 1.0 / (float(len(batch)) * mean)
            slopes: list[Any] = []
            sums: dict[int, Any] = {}
            for r in batch:
                part = slice(int(indptr[r]), int(indptr[r + 1]))
                ids, x = indices[part], data[part]
                p = weight_of(ids, up)
                if bias is not None:
                    p, x = np.append(p, bias[0]), np.append(x, real(1))
                weight = 1.0 if weights is None else float(weights[r])
                slope = real((weight * derivative(dot(p, x), float(y[r]), parameter)) * by)
                slopes.append(slope)
                for f, v in zip(ids.tolist(), data[part], strict=True):
                    sums[f] = sums.get(f, real(0)) + slope * v
            ids = np.fromiter(sums, np.int64, len(sums))
            p, g = weight_of(ids, up), np.array(list(sums.values()), real)
            states: list[Any] = [records[ids, 1 + q] for q in range(n_states)]
            scalars = h[0 if one_row else k][2:]
            reference(p, g, *states, scalars)
            records[ids, 0] = down * p
            for q, s in enumerate(states):
                records[ids, 1 + q] = s
            if last is not None:
                last[ids] = step
            if bias is not None:
                total = slopes[0]
                for slope in slopes[1:]:
                    total = total + slope
                states = [bias[1 + q : 2 + q] for q in range(n_states)]
                reference(bias[:1], np.array([total], real), *states, scalars)
            scale = scale * shrink
            step += 1
    return scale


def abreast(
    reference: Callable[..., None],
    n_states: int,
    loss: str,
    parameter: float,
    lanes: int,
    records: Array,
    bias: Array | None,
    indptr: Array,
    indices: Array,
    data: Array,
    y: Array | None,
    classes: Array | None,
    weights: Array | None,
    order: Array,
    n: int,
    h: Array,
    one_row: bool,
    rates: Array | None,
    scale: Array,
    shrink: Array,
    sums: Array,
    look: int,
) -> None:
    """Train `lanes` models on the same `n` CSR rows, each as if it were alone; only the classes of one model are not.

    See ``kernels.drivers.abreast``.
    """
    real = data.dtype.type
    with np.errstate(all="ignore"):
        for i in range(n):
            r = int(order[i])
            part = slice(int(indptr[r]), int(indptr[r + 1]))
            ids, x = indices[part], data[part]
            m, weight = len(ids), 1.0 if weights is None else float(weights[r])
            up, down = scale.astype(real), (1.0 / scale).astype(real)
            blocks = records[ids].reshape(m, 1 + n_states, lanes).transpose(1, 2, 0).copy()  # numbers, models, features
            blocks[0] = up[:, np.newaxis] * blocks[0]
            if bias is not None:
                blocks = np.append(blocks, bias.reshape(1 + n_states, lanes, 1), axis=2)
                x = np.append(x, real(1))
            z = [dot(p, x) for p in blocks[0]]
            if loss == "multinomial":
                assert classes is not None
                slopes, found = multinomial(z[: int(parameter)], int(classes[r]))
                slopes += [0.0] * (lanes - len(slopes))
                losses = [found]
            else:
                mine = -1 if classes is None else int(classes[r])
                t = [1.0 if k == mine else -1.0 for k in range(lanes)]
                if y is not None:
                    own = y[r].tolist()  # of each model, or of all
                    t = own + [0.0] * (lanes - len(own)) if y.ndim == 2 else [own] * lanes
                slopes = [DERIVATIVES[loss](z[k], t[k], parameter) for k in range(lanes)]
                losses = [SUMMED[loss](z[k], t[k], parameter) for k in range(lanes)]
            for k in range(lanes):
                p, *states = blocks[:, k]
                scalars = (h[k] if h.ndim == 3 else h)[0 if one_row else i][2:]
                g = real(weight * slopes[k]) * x
                if rates is None:
                    reference(p, g, *states, scalars)
                else:
                    move = np.zeros_like(p)
                    reference(move, g, *states, scalars)
                    p += rates[0 if one_row else i, k] * move
            if i >= look:
                for k, value in enumerate(losses):
                    sums[k] += weight * value
            if bias is not None:
                bias[:] = blocks[:, :, m].ravel()
            blocks = blocks[:, :, :m]
            blocks[0] = down[:, np.newaxis] * blocks[0]
            records[ids] = blocks.transpose(2, 0, 1).reshape(m, records.shape[1])
            scale *= shrink


def classes(
    reference: Callable[..., None],
    loss: str,
    parameter: float,
    lists: dict[int, dict[int, Array]],
    start: Array,
    bias: Array | None,
    n_models: int,
    indptr: Array,
    indices: Array,
    data: Array,
    codes: Array,
    weights: Array | None,
    order: Array,
    n: int,
    h: Array,
    one_row: bool,
    scale: float,
    shrink: float,
    turns: bool,
) -> float:
    """Train models, one against the rest, on `n` CSR rows; returns the scale of the weights afterwards.

    `lists`: of a feature its classes, and of each the weight and states; what is missing is `start`. `bias`: shape
    (1 + states, n_models). See ``kernels.drivers.classes``.
    """
    derivative = DERIVATIVES[loss]
    real = data.dtype.type
    zero = np.zeros(1, data.dtype).tobytes()
    with np.errstate(all="ignore"):
        for i, r in enumerate(order[:n].tolist()):
            part = slice(int(indptr[r]), int(indptr[r + 1]))
            of, x = [lists.setdefault(f, {}) for f in indices[part].tolist()], data[part]
            m, weight = len(of), 1.0 if weights is None else float(weights[r])
            up, down = real(scale), real(float(np.float64(1.0) / np.float64(scale)))
            ones = np.append(x, real(1)) if bias is not None else x
            slopes, kept = [], []
            for k in range(n_models):
                p = np.array([up * mine[k][0] if k in mine else real(0) for mine in of], data.dtype)
                p = p if bias is None else np.append(p, bias[0, k])
                slopes.append(real(weight * derivative(dot(p, ones), 1.0 if codes[r] == k else -1.0, parameter)))
                kept.append(p)
            active = [k for k, slope in enumerate(slopes) if slope.tobytes() != zero]
            if turns:
                for j, mine in enumerate(of):
                    for k, numbers in mine.items():
                        if k not in active:
                            numbers[0] = down * (up * numbers[0] - real(0) * x[j])
            for k in active:
                for mine in of:
                    if k not in mine:
                        mine[k] = start.copy()
                p = kept[k]
                states = np.array([mine[k][1:] for mine in of], data.dtype).reshape(m, len(start) - 1)
                if bias is not None:
                    states = np.append(states, bias[np.newaxis, 1:, k], axis=0)
                own = [s.copy() for s in states.T]
                reference(p, slopes[k] * ones, *own, h[0 if one_row else i][2:])
                for j, mine in enumerate(of):
                    mine[k][:] = [down * p[j], *(s[j] for s in own)]
                if bias is not None:
                    bias[:, k] = [p[m], *(s[m] for s in own)]
            scale = scale * shrink
    return scale


def shuffle(order: Array, seed: int) -> None:
    """Bring `order` into a random order, that of the seed. See ``kernels.drivers.shuffle``."""
    i = np.arange(len(order) - 1, 0, -1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.uint64(0x9E3779B97F4A7C15) * (np.uint64(len(order)) - i)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = (z ^ (z >> np.uint64(31))) >> np.uint64(32)
    at = order.tolist()
    for a, b in zip(i.tolist(), (z * (i + np.uint64(1)) >> np.uint64(32)).tolist(), strict=True):
        at[a], at[b] = at[b], at[a]
    order[:] = at


def row_scores(indptr: Array, indices: Array, data: Array, w: Array, bias: float, out: Array) -> None:
    """The scores of CSR rows. See ``kernels.drivers.row_scores``."""
    for r in range(len(out)):
        part = slice(int(indptr[r]), int(indptr[r + 1]))
        terms = w[indices[part]] * data[part]
        lanes = [w.dtype.type(0)] * 4
        for j, term in enumerate(terms):
            k = j % 4 if j < len(terms) // 4 * 4 else 0
            lanes[k] = lanes[k] + term
        out[r] = ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + w.dtype.type(bias)
