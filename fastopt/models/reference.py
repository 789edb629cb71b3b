"""What the models' kernels compute, in Python and NumPy: the same operations in the same order, for verification.

Slow by design; also the backend of installations without compiled kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..checks import Array
from ..scores import DERIVATIVES, dot


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
            g = real(derivative(z, float(y[r]), parameter)) * x
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
