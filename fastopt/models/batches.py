"""Linear models trained batch by batch, and the exact lazy l1 penalty."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import kernels
from ..checks import Array
from ..csr import longest_row
from ..errors import HyperParameterError, UnsupportedError
from . import reference
from .samples import SampleTrainer

#: Powers that a level of the table of decays has; three levels reach REACH**3 steps.
REACH = 1024
#: Steps after which all weights are caught up, long before a feature falls behind by more than the table reaches.
FAR = 1 << 28


class Decay:
    """What ``k`` steps ``w <- soft(w, l1) * keep`` make of a weight, from tables that kernel and reference share."""

    def __init__(self, keep: float, l1: float) -> None:
        self.keep, self.l1 = keep, l1
        powers, sums = [], []
        factor, part = keep, keep  # the power and the sum of one step of this level
        for _ in range(3):
            d, s = np.empty(REACH), np.empty(REACH)
            d[0], s[0] = 1.0, 0.0
            for k in range(1, REACH):
                d[k], s[k] = d[k - 1] * factor, s[k - 1] + d[k - 1] * part
            powers.append(d)
            sums.append(s)
            factor, part = d[-1] * factor, s[-1] + d[-1] * part
        self.table = np.stack([*powers, *sums])

    def caught(self, w: Array, k: Array) -> Array:
        """Weights after k steps each, as in the kernel."""
        low, mid, high = k % REACH, k // REACH % REACH, k // REACH**2
        (d0, d1, d2), (s0, s1, s2) = self.table[:3], self.table[3:]
        d = d0[low] * (d1[mid] * d2[high])
        s = s0[low] + d0[low] * (s1[mid] + d1[mid] * s2[high])
        m = d * np.abs(w.astype(np.float64)) - self.l1 * s
        found: Array = np.where(m <= 0.0, 0.0, np.where(w < 0, -m, m)).astype(w.dtype)
        return found


def mean_weight(weights: Array | None, order: Array | None, size: int) -> float:
    """Of the samples in `order`, by which the gradients of batches are divided; 1 for batches of one."""
    if weights is None or size == 1 or order is None or not len(order):
        return 1.0
    return float(weights[order].mean(dtype=np.float64))


def check_lasso(lr: Any, l1: float) -> None:
    if callable(lr) and l1 != 0:
        raise UnsupportedError(f"lr={lr!r} follows a schedule, which l1 does not; use l1=0, or a number for lr")
    if l1 != 0 and not np.isfinite(lr * l1):
        raise HyperParameterError(f"lr * l1 = {lr * l1} is too large")


class BatchTrainer(SampleTrainer):
    """A linear model under training, a step for each batch.

    The gradient of a batch is the mean of its samples', so that a rate suits any size of batch; each of its features has its
    gradients summed in the order of the samples. The l2 penalty is that of `SampleTrainer`, once a batch. With `l1` each step
    is ``w <- soft(w, lr * l1) / (1 + lr * l2)`` for every feature. A feature keeps the number of steps whose penalty its
    weight has had, and is caught up by a closed form when a sample has it, or when weights are read.
    """

    def __init__(self, size: int, l1: float, *of_a_trainer: Any) -> None:
        self.size, self.l1 = size, l1
        self.last: Array | None = None
        self.decay: Decay | None = None
        self.settled = 0
        super().__init__(*of_a_trainer)

    def set_rate(self, lr: Any, l2: float, l1: float | None = None, size: int | None = None) -> None:
        """As `SampleTrainer.set_rate`; the penalty due until now is paid at the rate until now."""
        l1 = self.l1 if l1 is None else l1
        check_lasso(lr, l1)
        super().set_rate(lr, l2)
        self.l1, self.size = l1, self.size if size is None else size
        if l1 == 0 and self.last is None:
            return
        if self.decay is None or (self.decay.keep, self.decay.l1) != (self.shrink, lr * l1):
            self.settle()
            self.decay = Decay(self.shrink, lr * l1)

    def settle(self) -> None:
        """Bring all weights up to date."""
        if self.last is None or self.decay is None:
            self.records[:, 0] *= self.dtype.type(self.scale)
            self.scale = 1.0
            self.last = np.empty(len(self.records), np.int64)
        else:
            self.records[:, 0] = self.decay.caught(self.records[:, 0], self.steps - self.last)
        self.last[:] = self.settled = self.steps

    def _made_weights(self) -> Array:
        if self.last is None or self.decay is None:
            return super()._made_weights()
        return self.decay.caught(self.records[:, 0], self.steps - self.last)

    def weights_of(self, features: Array) -> Array:
        if self.last is None or self.decay is None or self._kept_weights() is not None:
            return super().weights_of(features)
        return self.decay.caught(self.records[features, 0], self.steps - self.last[features])

    def train(
        self,
        indptr: Array,
        indices: Array,
        data: Array,
        y: Array,
        order: Array | None,
        n_threads: int = 1,
        weights: Array | None = None,
    ) -> None:
        """One pass over the rows in `order`, the same bits for any number of threads."""
        order = np.arange(len(y), dtype=np.int32) if order is None else order
        longest = longest_row(indptr)
        mean = mean_weight(weights, order, self.size)
        done, self._weights = 0, None
        while done < len(order):
            steps = min(self._pieces(0, -(-(len(order) - done) // self.size)), FAR)
            h, one_row = self._scalars(steps, 1)
            part = order[done : done + steps * self.size]
            lasso = self.last is not None and self.decay is not None
            shared = (
                len(self.rule.states),
                self.loss,
                self.parameter,
                self.records,
                self.bias,
                indptr,
                indices,
                data,
                y,
                weights,
                part,
                self.size,
                mean,
                h,
                one_row,
                self.scale,
                1.0 if lasso else self.shrink,
                self.last,
                self.steps,
            )
            if self.backend == "native":
                n_states, loss, parameter, records, bias, *rows, h, one_row, scale, shrink, last, step = shared
                self.scale = kernels.drivers.batches(
                    kernels.table[self.name],
                    self.rule.span,
                    n_states,
                    loss,
                    parameter,
                    records,
                    bias,
                    records.shape[1],
                    *rows,
                    longest,
                    h,
                    one_row,
                    scale,
                    shrink,
                    last,
                    step,
                    self.decay.table if self.decay is not None else None,
                    self.decay.l1 if self.decay is not None else 0.0,
                    n_threads,
                )
            else:
                self.scale = reference.batches(self.rule.reference, *shared, self.decay)
            self._passed(steps)
            done += len(part)
            if self.steps - self.settled > FAR:
                self.settle()
        self._check_intercept()
