"""A factorization machine under training: one record for each feature, and the calls of the drivers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import kernels
from ..checks import Array
from ..csr import longest_row
from ..optimizers import tables
from ..optimizers.base import Optimizer
from . import factor_reference, lanes
from .batches import mean_weight
from .factor_reference import Records
from .samples import WORTH, SampleTrainer, zeros

#: Bytes of hot records of which each thread has copies, at most.
MOST_COPIED = 1 << 18
#: Merges are so many times rarer than those of linear models, whose records are short.
MERGE_LESS = 4
#: Numbers to which a record is padded: four of float32 are what the smallest vector registers hold.
ALIGN = 4


def width_of(rank: int) -> int:
    """The numbers that a vector takes: 4, or a multiple of 8."""
    return 4 if rank <= 4 else -(-rank // 8) * 8


def stride_of(rank: int, n_states: int, n_fields: int) -> int:
    """The numbers that a record takes."""
    return -(-(n_fields * width_of(rank) + 1) * (1 + n_states) // ALIGN) * ALIGN


def check_memory(n_models: int, n_features: int, dtype: np.dtype[Any], rank: int, n_states: int, n_fields: int) -> None:
    """Raise if the machine has less memory than so many models need."""
    numbers = stride_of(rank, n_states, n_fields)
    size, limit = n_models * n_features * numbers * dtype.itemsize, lanes.memory()
    if limit is not None and size > limit:
        raise MemoryError(
            f"{n_models} models of {n_features} features, each {numbers} numbers of {dtype}, need {size / 1e9:.3g} GB, and there "
            f"are {limit / 1e9:.3g} GB; hash to fewer features, use a smaller rank, fewer fields, float32, or an optimizer with "
            "less state, such as 'sgd'"
        )


def empty_records(
    n_features: int, dtype: np.dtype[Any], rank: int, n_states: int, fields: Array | None, n_fields: int, bias: bool
) -> Records:
    array = zeros((n_features, stride_of(rank, n_states, n_fields)), dtype)
    bias_record = np.zeros(1 + n_states, dtype) if bias else None
    return Records(array, bias_record, width_of(rank), n_states, fields, n_fields)


def row_scores(r: Records, scale: float, native: bool, rows: tuple[Array, ...], n_threads: int) -> Array:
    """The scores of CSR rows (offsets, indices, data) that have been checked."""
    indptr, indices, data = rows
    out = np.empty(len(indptr) - 1, r.array.dtype)
    if native:
        longest = longest_row(indptr)
        kernels.drivers.factor_scores(
            kernels.table[r.array.dtype.name],
            r.n_states,
            r.array,
            r.bias,
            r.width,
            r.fields,
            r.n_fields,
            indptr,
            indices,
            data,
            out,
            longest,
            scale,
            n_threads,
        )
    else:
        factor_reference.scores(r, indptr, indices, data, scale, out)
    return out


class FactorTrainer(SampleTrainer):
    """Weights, vectors and optimizer state of a factorization machine.

    A `SampleTrainer` but for its records: the scale is that of the weights and of the vectors. `size`: samples of a step; None:
    one after the other. `vectors`: where they start, shape (n_features, n_fields, rank).
    """

    def __init__(
        self,
        size: int | None,
        vectors: Array,
        fields: Array | None,
        dtype: np.dtype[Any],
        optimizer: type[Optimizer],
        options: dict[str, Any],
        loss: str,
        parameter: float,
        l2: float,
        fit_intercept: bool,
        backend: str,
    ) -> None:
        self.dtype, self.loss, self.parameter, self.backend = np.dtype(dtype), loss, parameter, backend
        self.optimizer, self.options = optimizer, options
        self.rule = optimizer.rule_of(options)
        n_features, n_fields, self.rank = vectors.shape
        n_states = len(self.rule.states)
        self.model = empty_records(n_features, self.dtype, self.rank, n_states, fields, n_fields, fit_intercept)
        self.records, self.bias = self.model.array, self.model.bias
        start = [optimizer.start(state, options) for state in self.rule.states]
        still = self._stands_still(start)
        for q, value in enumerate(start):
            if value:
                self.model.part(1 + q)[:, :, : None if still else self.rank] = value
                self.model.weight(1 + q)[:] = value
                if self.bias is not None:
                    self.bias[1 + q] = value
        self.model.part(0)[:, :, : self.rank] = vectors
        self.laws = self.rule.merge or ("sum", *("mean",) * n_states)
        self.place: Array | None = None  # the features by their frequency; the records keep their order
        self.hot: list[float] = []
        self.steps, self.scale = 0, 1.0
        self._weights: tuple[int, Array] | None = None
        self._packed: tuple[tuple[Array, ...], Records] | None = None
        self.slots: Array | None = None
        self.set_size(size)
        self.set_rate(options["lr"], l2)

    def _stands_still(self, start: list[float]) -> bool:
        """Whether 0 stays 0 where gradients are: then what pads a vector has states like others, and else zeros (Yogi)."""
        p, g, *states = (np.full(1, value, self.dtype) for value in (0.0, 0.0, *start))
        h = tables.scalar_table(self.optimizer, self.options, np.arange(1, 3), self.dtype, 0)[0]
        with np.errstate(all="ignore"):  # a rate may be infinite in the dtype
            self.rule.reference(p, g, *states, h[0, 2:])
        return bool(p[0] == 0)

    def _numbers(self) -> list[Sequence[Array]]:
        return []  # vectors begin with values that FTRL's states know nothing of: what is carried over would not fit

    def restore(self, weights: Array, intercept: Array, vectors: Array | None = None) -> None:
        """Set the parameters; the optimizer's state is at its start."""
        self.model.weight(0)[:] = weights
        if vectors is not None:
            self.model.part(0)[:, :, : self.rank] = vectors
        if self.bias is not None:
            self.bias[0] = intercept[0]
        self._weights = None

    def parameters(self) -> tuple[Array, ...]:
        """The weights, the intercept, shape (1,), and the vectors, shape (n_features, n_fields, rank)."""
        return *super().parameters(), self.model.part(0)[:, :, : self.rank] * self.dtype.type(self.scale)

    def _made_weights(self) -> Array:
        return self.model.weight(0) * self.dtype.type(self.scale)

    def _rank(self, indices: Array, n_rows: int) -> None:
        if len(indices) >= max(WORTH, len(self.records) // 8):
            super()._rank(indices, n_rows)
        else:
            self._reorder(np.arange(len(self.records), dtype=np.int32))

    def _reorder(self, place: Array) -> None:
        self.place = place

    def _tiers(self, n: int, n_threads: int) -> list[tuple[int, int]]:
        tiers = super()._tiers(n, n_threads)
        room = MOST_COPIED // (self.records.shape[1] * self.dtype.itemsize)
        return [(end, MERGE_LESS * every) for end, every in tiers if end <= room] or [(0, tiers[0][1])]

    def is_finite(self, indices: Array) -> bool:
        numbers = self.model.weight(0), self.model.part(0)
        if len(indices) < len(self.records):
            numbers = numbers[0][indices], numbers[1][indices]
        return all(np.isfinite(a).all() for a in numbers)

    def set_size(self, size: int | None) -> None:
        """Go on with steps of so many samples; None: one after the other."""
        self.size = size
        if size is not None and self.slots is None:
            self.slots = np.zeros(self.model.array.shape[0] * self.model.n_fields + 1, np.int64)

    def scores(self, rows: tuple[Array, ...], n_threads: int, parameters: tuple[Array, ...] | None = None) -> Array:
        """The scores of CSR rows (offsets, indices, data) that have been checked, by the present parameters or by these."""
        if parameters is None:
            return row_scores(self.model, self.scale, self.backend == "native", rows, n_threads)
        if self._packed is None or self._packed[0] is not parameters:
            weights, intercept, vectors = parameters
            r = self.model
            packed = empty_records(len(weights), self.dtype, self.rank, 0, r.fields, r.n_fields, self.bias is not None)
            packed.weight(0)[:] = weights
            packed.part(0)[:, :, : self.rank] = vectors
            if packed.bias is not None:
                packed.bias[0] = intercept[0]
            self._packed = parameters, packed
        return row_scores(self._packed[1], 1.0, self.backend == "native", rows, n_threads)

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
        """One pass over the rows in `order`; `weights` multiply the derivatives of their samples' losses."""
        total = len(y) if order is None else len(order)
        if order is None and (self.size is not None or n_threads > 1 or self._pieces(0, total) < total):
            order = np.arange(total, dtype=np.int32)
        longest = longest_row(indptr)
        size = self.size or 1
        mean = mean_weight(weights, order, size)
        meet = self._until_drift(total)
        r, done, self._weights = self.model, 0, None
        if n_threads > 1 and self.size is None and self.backend == "native" and self.place is None:
            self._rank(indices, len(y))
        while done < total:
            steps = self._pieces(0, -(-(total - done) // size))
            n = min(steps * size, total - done)
            h, one_row = self._scalars(steps, 1 if self.size is not None else n_threads)
            part = None if order is None else order[done : done + n]
            rows = (indptr, indices, data, y, weights, part)
            if self.backend != "native" and self.size is None:
                self.scale = factor_reference.samples(
                    self.rule.reference, self.loss, self.parameter, r, *rows, n, h, one_row, self.scale, self.shrink
                )
            elif self.backend != "native":
                assert part is not None
                self.scale = factor_reference.batches(
                    self.rule.reference,
                    self.loss,
                    self.parameter,
                    r,
                    *rows[:-1],
                    part,
                    size,
                    mean,
                    h,
                    one_row,
                    self.scale,
                    self.shrink,
                )
            else:
                model = (
                    kernels.table[self.dtype.name],
                    self.rule.span,
                    r.n_states,
                    self.loss,
                    self.parameter,
                    r.array,
                    r.bias,
                    r.width,
                    r.fields,
                    r.n_fields,
                )
                if self.size is None:
                    self.scale = kernels.drivers.factors(
                        *model,
                        *rows,
                        n,
                        longest,
                        h,
                        one_row,
                        self.scale,
                        self.shrink,
                        n_threads,
                        meet,
                        self.laws,
                        self._tiers(min(meet, n), n_threads) if n_threads > 1 else (),
                        self.place,
                    )
                else:
                    self.scale = kernels.drivers.factor_batches(
                        *model, *rows, size, mean, longest, h, one_row, self.scale, self.shrink, self.slots, n_threads
                    )
            self._passed(steps)
            done += n
        self._check_intercept()

    def _fold(self, scale: np.floating[Any]) -> None:
        for numbers in (self.model.part(0), self.model.weight(0)):
            numbers *= scale
