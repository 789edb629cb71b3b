"""Linear models side by side: one record for each feature holds the weights and states of all ("lanes"), so that one fetch and
one vector instruction serve several. For eight learning rates or penalties at once, one against the rest, several targets, and
multinomial models."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from inspect import signature
from typing import Any

import numpy as np

from .. import kernels
from ..checks import Array, all_finite
from ..csr import longest_row
from ..errors import NonFiniteError
from ..optimizers import tables
from ..optimizers.base import Optimizer
from . import reference
from .samples import SMALLEST_SCALE, SampleTrainer, at_once, carry, shrinking, zeros

#: Lanes come in groups of so many, those of a vector.
GROUP = 8
#: ``lr="auto"`` trains all rates until a pass or call ends and at least so many samples have been learned, ...
LEAST = 1 << 12
#: ... but no more than so many.
MOST = 1 << 17


def memory() -> int | None:
    """Bytes that this process may use, of the machine or its container; None: unknown."""
    limits = []
    with contextlib.suppress(AttributeError, OSError, ValueError):
        limits.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with contextlib.suppress(OSError, ValueError), open("/sys/fs/cgroup/memory.max") as file:
        limits.append(int(file.read()))
    return min(limits, default=None)


class LaneTrainer:
    """Linear models that are trained on the same samples at once, and what trains them.

    Their weights and states are those of `SampleTrainer`, bit for bit, but for the classes of a multinomial model, whose
    gradients depend on each other. A record holds the weights of all models, then each of their states.

    Parameters
    ----------
    n_models : int
        Padded with idle models to whole groups of 8.
    l2 : float or list of float
        Of all models, or of each.
    rates : list of float, optional
        The learning rate of each model; None: that of the options.
    own : list of dict, optional
        Other options that each model has for itself, if it has no rate for itself.
    groups : int, default 1
        How many such trainers there will be, for the plan of the memory.
    way_out : str
        What else to do where there is too little memory.
    """

    def __init__(
        self,
        n_models: int,
        n_features: int,
        dtype: np.dtype[Any],
        optimizer: type[Optimizer],
        options: dict[str, Any],
        loss: str,
        parameter: float,
        l2: float | list[float],
        fit_intercept: bool,
        backend: str,
        *,
        rates: list[float] | None = None,
        own: list[dict[str, float]] | None = None,
        groups: int = 1,
        way_out: str = "",
    ) -> None:
        self.arguments: tuple[Any, ...] = (
            n_features,
            dtype,
            optimizer,
            options,
            loss,
            parameter,
            0.0,  # l2 is in `shrink`
            fit_intercept,
            backend,
        )
        self.dtype, self.loss, self.parameter, self.backend = np.dtype(dtype), loss, parameter, backend
        self.optimizer, self.options, self.n_models = optimizer, options, n_models
        self.rates, self.own = rates, own
        self.rule = optimizer.rule_of(options)
        self.lanes = -(-n_models // GROUP) * GROUP
        self._begin(n_features, fit_intercept, self._each() or [options], groups, way_out)
        self.steps = 0
        self.scale = np.ones(self.lanes)
        self.sums = np.zeros(self.lanes)  # of the losses of samples before they were learned, by weight
        self.looked = 0.0  # the weights of these samples
        self.fresh = True
        self.place: Array | None = None  # as in `SampleTrainer`
        self.version = 0  # changes with the weights
        self.set_rate(options["lr"], l2)

    def _begin(
        self, n_features: int, fit_intercept: bool, own: list[dict[str, Any]], groups: int, way_out: str
    ) -> None:
        """The records at their start; `own`: options of each model, or one for all."""
        states = self.rule.states
        shape = (n_features, (1 + len(states)) * self.lanes)
        size, limit = groups * shape[0] * shape[1] * self.dtype.itemsize, memory()
        plan = (
            f"{groups * self.n_models} models of {n_features} features, each a weight and {len(states)} numbers of state in {self.dtype}, "
            f"need {size / 1e9:.3g} GB ({n_features} x {1 + len(states)} x {groups * self.lanes} x {self.dtype.itemsize} bytes)"
        )
        way_out += "hash to fewer features, use float32, or an optimizer with less state, such as 'sgd'"
        if limit is not None and size > limit:
            raise MemoryError(f"{plan}, and there are {limit / 1e9:.3g} GB; {way_out}")
        try:
            self._records = zeros(shape, self.dtype)
        except MemoryError as e:
            raise MemoryError(f"{plan}, which cannot be had; {way_out}") from e
        self._bias = np.zeros(shape[1], self.dtype) if fit_intercept else None
        for k, name in enumerate(states, 1):
            values = np.zeros(self.lanes)
            values[: self.n_models] = [self.optimizer.start(name, o) for o in own]
            if values.any():
                self.records[:, k] = values
                if self.bias is not None:
                    self.bias[k] = values

    @property
    def records(self) -> Array:
        """Shape (n_features, 1 + states, lanes)."""
        return self._records.reshape(len(self._records), -1, self.lanes)

    @property
    def bias(self) -> Array | None:
        """Shape (1 + states, lanes)."""
        return None if self._bias is None else self._bias.reshape(-1, self.lanes)

    def _each(self) -> list[dict[str, Any]] | None:
        """The options of each model, where they differ."""
        if self.rates is not None:
            return [{**self.options, "lr": rate} for rate in self.rates]
        return None if self.own is None else [{**self.options, **own} for own in self.own]

    def set_rate(self, lr: Any, l2: float | list[float]) -> None:
        """Train on with this rate, where models have none of their own, and penalty, or penalties of each."""
        penalties = l2 if isinstance(l2, list) else [l2]
        # Of rates and penalties only one is several.
        shrink = [shrinking(rate, p) for rate in self.rates or [lr] for p in penalties]
        if self.rates is None:
            carry(self.optimizer, self._numbers(), self.options, self.options["lr"], lr)
        self.options = {**self.options, "lr": lr}
        self.shrink = np.ones(self.lanes)
        self.shrink[: self.n_models] = shrink

    def _numbers(self, models: slice = slice(None)) -> list[Sequence[Array]]:
        """As `SampleTrainer._numbers`."""
        return [list(np.moveaxis(a, -2, 0)[..., models]) for a in (self.records, self.bias) if a is not None]

    def weights(self, k: int, features: Any = slice(None)) -> Array:
        places = features if self.place is None else self.place[features]
        found: Array = self.records[places, 0, k] * self.dtype.type(self.scale[k])
        return found

    def reorder(self, place: Array) -> None:
        """Move the record of each feature to its place."""
        if not self.fresh:
            records = np.empty_like(self._records)
            records[place] = self._records
            self._records = records
        self.place = place

    def intercept(self, k: int) -> Array:
        return np.zeros(1, self.dtype) if self.bias is None else self.bias[:1, k].copy()

    def restore(self, k: int, weights: Array, intercept: Array) -> None:
        """Set the parameters of a new model; the optimizer's state is at its start."""
        self.records[:, 0, k] = weights
        if self.bias is not None:
            self.bias[0, k] = intercept[0]
        each = self._each()
        lr = self.options["lr"] if each is None else each[k]["lr"]
        carry(self.optimizer, self._numbers(slice(k, k + 1)), self.options, math.inf, lr)
        self.fresh, self.version = False, self.version + 1

    def is_finite(self, k: int, indices: Array) -> bool:
        """Whether the weights of a model are, of which only those of the features in `indices` have moved."""
        w = self.records[:, 0, k]
        if len(indices) < len(w):
            w = w[indices]
        return all_finite(w) and bool(np.isfinite(self.intercept(k)[0]))

    def numbers_of(self, k: int) -> Array:
        """Weights, before scaling, and states of a model, shape (n_features, 1 + states)."""
        found: Array = self.records[:, :, k]
        return found

    def alone(self, k: int, into: SampleTrainer | None = None) -> SampleTrainer:
        """Model k by itself, which trains on as if it always had been."""
        each = self._each()
        options = self.options if each is None else each[k]
        if into is None:
            made: tuple[Any, ...] = (*self.arguments[:3], options, *self.arguments[4:])
            into = SampleTrainer(*made)
        numbers = self.numbers_of(k)
        into.records[:, : numbers.shape[1]] = numbers
        if into.bias is not None and self.bias is not None:
            into.bias[: len(self.bias)] = self.bias[:, k]
        into.options = options
        into.steps, into.scale, into.shrink = self.steps, float(self.scale[k]), float(self.shrink[k])
        into._fresh, into._weights = False, None
        return into

    def train(
        self,
        indptr: Array,
        indices: Array,
        data: Array,
        y: Array,
        order: Array | None,
        n_threads: int = 1,
        weights: Array | None = None,
        look: int | None = None,
    ) -> None:
        """One pass over the rows in `order`, on one thread.

        `y`: the targets, of the data's dtype, shape (n_rows,), or (n_rows, n_models) where each model has its own; or int32, the
        model whose target is 1, where the others' are -1. From sample `look` on, losses before learning are summed in `sums`.
        """
        total = len(y) if order is None else len(order)
        order = np.arange(total, dtype=np.int32) if order is None else order
        longest = longest_row(indptr)
        targets = (None, y) if y.dtype == np.int32 else (y, None)
        if look is not None:
            seen = order[look:]
            self.looked += len(seen) if weights is None else float(weights[seen].sum(dtype=np.float64))
        done, self.fresh, self.version = 0, False, self.version + 1
        while done < total:
            n = self._pieces(done, total)
            h, one_row, rates = self._scalars(n)
            shared: tuple[Any, ...] = (
                len(self.rule.states),
                self.loss,
                self.parameter,
                self.lanes,
                self._records,
                self._bias,
                indptr,
                indices,
                data,
                *targets,
                weights,
                order[done : done + n],
                n,
            )
            rest: tuple[Any, ...] = (
                h,
                one_row,
                rates,
                self.scale,
                self.shrink,
                self.sums,
                n if look is None else max(look - done, 0),
            )
            if self.backend == "native":
                table = kernels.table[self.dtype.name]
                kernels.drivers.abreast(table, self.rule.span, *shared, longest, *rest)
            else:
                reference.abreast(self.rule.reference, *shared, *rest)
            for k in np.flatnonzero(self.scale < SMALLEST_SCALE):
                self.records[:, 0, k] *= self.dtype.type(self.scale[k])
                self.scale[k] = 1.0
            self.steps += n
            done += n

    def _pieces(self, done: int, total: int) -> int:
        """How many samples the next call of the driver takes: until a scale is small, or the scalars settle."""
        scales = set(zip(self.scale.tolist(), self.shrink.tolist(), strict=True))
        return at_once(total - done, scales, tables.settled(self.optimizer, self.options, 0), self.steps)

    def _scalars(self, n: int) -> tuple[Array, bool, Array | None]:
        """The rows of scalars of the next `n` samples; whether one serves all; and the rate of each, where it stands apart."""
        settled = tables.settled(self.optimizer, self.options, 0)
        one_row = settled is not None and self.steps + 1 >= settled
        t = np.arange(self.steps + 1, self.steps + 2 + (0 if one_row else n))

        def of(options: dict[str, Any]) -> Array:
            h = tables.scalar_table(self.optimizer, options, t, self.dtype, 0)[0]
            if len(h) < (1 if one_row else n):  # a schedule that fails at a later sample: let it say so before this one
                tables.scalar_table(self.optimizer, options, t[len(h) :], self.dtype, 0)
            return h

        each = self._each()
        if each is None:
            return of(self.options), one_row, None
        idle = [each[-1]] * (self.lanes - len(each))  # the driver reads scalars of theirs, too
        own = np.stack([of(options) for options in each + idle])
        first, pace = own[0], self.optimizer.pace
        if pace is not None:
            rates = np.ascontiguousarray(own[:, :, tables.SPAN + pace].T)
            own[:, :, tables.SPAN + pace] = 1
            if (own[1:, :, tables.SPAN :] == first[:, tables.SPAN :]).all():
                return first, one_row, rates
        return own, one_row, None


class Lane:
    """One of the models of a `LaneTrainer`, for what a trainer is asked for beside training."""

    def __init__(self, group: LaneTrainer, k: int, start: int = 0) -> None:
        self.group, self.k, self.start = group, k, start  # it is number start + k of all models
        self._weights: tuple[tuple[int, int], Array] | None = None  # see `SampleTrainer.weights`

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.group.dtype

    @property
    def steps(self) -> int:
        return self.group.steps

    @property
    def records(self) -> Array:
        """Shape (n_features, 1 + states): views."""
        return self.group.records[:, :, self.k]

    def parameters(self) -> tuple[Array, ...]:
        """The weights, and the intercept, shape (1,)."""
        when, kept = (self.group.version, self.group.steps), self._weights
        if kept is None or kept[0] != when:
            kept = self._weights = when, self.group.weights(self.k)
            kept[1].flags.writeable = False
        return kept[1], self.intercept()

    def weights_of(self, features: Array) -> Array:
        """As `SampleTrainer.weights_of`."""
        return self.group.weights(self.k, features)

    def intercept(self) -> Array:
        """Shape (1,)."""
        return self.group.intercept(self.k)

    def restore(self, weights: Array, intercept: Array) -> None:
        """As `SampleTrainer.restore`."""
        self.group.restore(self.k, weights, intercept)

    def is_finite(self, indices: Array) -> bool:
        return self.group.is_finite(self.k, indices)

    def alone(self) -> SampleTrainer:
        return self.group.alone(self.k)


#: The middle of the rates that are tried, as a power of two; of others the nearest to the default rate. A rate of Adagrad and its
#: like is about the first step of a weight, whatever the size of the features.
MIDDLE = {"adagrad": -3, "ftrl": -3, "adaptiverevision": -3}
#: Of these by the mean squared length of a row, for a step moves a score by rate times slope times that; with momentum each
#: gradient is followed about ten times.
BY_LENGTH = {"sgd": -2, "asgd": -2, "nag": -5, "momentum": -5}
ROWS = 1024  # of which the mean length is taken


class AutoTrainer:
    """A linear model that finds its learning rate: eight are trained side by side, and the best one goes on alone.

    That is the one with the least mean loss of samples before they were learned, over the second half of each pass or call;
    one that diverged is never it. Rates are powers of two. The rate that is best for one pass is too large for
    several, so it is divided by the number of passes from that of the choice on; by its root where the optimizer's steps become
    smaller by themselves, for they are divided by sums over the past; not at all where the states may hold the rate.
    """

    def __init__(self, name: str, *arguments: Any) -> None:
        optimizer, options = arguments[2:4]
        self.by_length = name in BY_LENGTH
        default = signature(optimizer).parameters["lr"].default
        middle = BY_LENGTH.get(name, MIDDLE.get(name, round(math.log2(default))))
        self.rates = [2.0 ** (middle + k) for k in range(-3, 5)]
        options = {**options, "lr": self.rates[0]}
        arguments = (*arguments[:3], options, *arguments[4:])
        self.lanes: LaneTrainer | None = LaneTrainer(
            GROUP, *arguments, rates=self.rates, way_out="give lr a number instead of 'auto', or "
        )
        self.single = SampleTrainer(*arguments)
        self.dtype, self.losses = self.single.dtype, np.full(GROUP, np.nan)
        states = self.single.laws[1 : 1 + len(self.single.rule.states)]
        if optimizer.pace is not None:
            self.fall = 0.5 if states and set(states) == {"sum"} else 1.0
        else:
            self.fall = 0.0 if optimizer.carry is Optimizer.carry else 1.0
        self.seen = self.passes = 0
        self.chosen: int | None = None
        self.l2 = 0.0
        self._lane: Lane | None = None

    @property
    def records(self) -> Array:
        return self.single.records

    @property
    def steps(self) -> int:
        return self.single.steps if self.lanes is None else self.lanes.steps

    @property
    def lr(self) -> float:
        """The rate chosen, or until then the best so far."""
        return self.rates[self._best()]

    @property
    def options(self) -> dict[str, Any]:
        """Those of the optimizer."""
        return self.single.options

    @options.setter
    def options(self, options: dict[str, Any]) -> None:
        self.single.options = options
        if self.lanes is not None:
            self.lanes.options = options

    def begin(self, l2: float) -> None:
        """Begin passes, or a call, with this penalty."""
        self.passes, self.l2 = 0, l2
        if self.lanes is not None:
            self.lanes.set_rate(self.rates[0], l2)
        else:
            self.single.set_rate(self.lr, l2)

    def _fit_rates(self, indptr: Array, data: Array, order: Array) -> None:
        """Divide the rates by the mean squared length of a row, rounded to a power of two."""
        assert self.lanes is not None
        rows = order[:ROWS].tolist()
        squares = [np.square(data[indptr[r] : indptr[r + 1]], dtype=np.float64).sum() for r in rows]
        mean = math.fsum(squares) / max(len(rows), 1) + (self.single.bias is not None)
        if math.isfinite(mean) and mean > 0:
            part = 2.0 ** -min(max(round(math.log2(mean)), -60), 60)
            self.rates = self.lanes.rates = [part * rate for rate in self.rates]
            self.lanes.set_rate(self.rates[0], self.l2)

    def _best(self) -> int:
        if self.chosen is not None:
            return self.chosen
        losses = np.where(np.isfinite(self.losses), self.losses, np.inf)
        return int(losses.argmin())

    def _look(self, indices: Array) -> None:
        assert self.lanes is not None
        with np.errstate(all="ignore"):
            self.losses = self.lanes.sums[: len(self.rates)] / self.lanes.looked
        for k in np.argsort(self.losses, kind="stable"):  # of those that are finite, only the best is looked at whole
            if not np.isfinite(self.losses[k]) or self.lanes.is_finite(k, indices):
                break
            self.losses[k] = np.nan

    def alone(self) -> SampleTrainer:
        """The model without its search."""
        self.choose()
        if self.lanes is not None:
            self.lanes.alone(self._best(), self.single)
        return self.single

    def choose(self) -> None:
        """End the search, if there is one."""
        if self.lanes is not None and self.lanes.steps:
            self.chosen = self._best()
            self.lanes.alone(self.chosen, self.single)
            self.single.set_rate(self.lr, self.l2)
            self.lanes = self._lane = None

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
        """One pass over the rows in `order`; with all rates on one thread."""
        order = np.arange(len(y), dtype=np.int32) if order is None else order
        if len(order) == 0:
            return
        if self.lanes is not None:
            if self.by_length and self.lanes.steps == 0:
                self._fit_rates(indptr, data, order)
            part, order = order[: MOST - self.seen], order[MOST - self.seen :]
            self.lanes.train(indptr, indices, data, y, part, 1, weights, len(part) // 2)
            self._look(indices)
            self.seen += len(part)
            if not np.isfinite(self.losses).any():
                raise NonFiniteError(
                    f"training diverged with each of the rates {self.rates[0]:.3g} to {self.rates[-1]:.3g} that lr='auto' "
                    "tries; scale the features, or give a smaller lr"
                )
            if self.seen < LEAST:
                return
            self.choose()
            self.passes = 1
            if len(order):
                self.single.train(indptr, indices, data, y, order, n_threads, weights)
            return
        self.passes += 1
        if self.passes > 1:
            self.single.set_rate(self.lr / self.passes**self.fall, self.l2)
        self.single.train(indptr, indices, data, y, order, n_threads, weights)

    def _current(self) -> SampleTrainer | Lane:
        """The model that predicts: while it searches, the best so far."""
        if self.lanes is None:
            return self.single
        if self._lane is None or self._lane.k != self._best():
            self._lane = Lane(self.lanes, self._best())
        return self._lane

    def parameters(self) -> tuple[Array, ...]:
        """The weights, and the intercept, shape (1,)."""
        return self._current().parameters()

    def weights_of(self, features: Array) -> Array:
        """As `SampleTrainer.weights_of`."""
        return self._current().weights_of(features)

    def intercept(self) -> Array:
        """Shape (1,)."""
        return self._current().intercept()

    def restore(self, weights: Array, intercept: Array) -> None:
        """As `SampleTrainer.restore`."""
        assert self.lanes is not None
        for k in range(len(self.rates)):
            self.lanes.restore(k, weights, intercept)

    def is_finite(self, indices: Array) -> bool:
        """Whether the weights are; while it searches, those of the best so far."""
        return self._current().is_finite(indices)

    def renumber(self, indices: Array, n_rows: int, n_threads: int) -> None:
        """As `SampleTrainer.renumber`."""
        self.single.renumber(indices, n_rows, n_threads)
        self._reorder()

    def follow(self, other: AutoTrainer) -> None:
        """As `SampleTrainer.follow`."""
        self.single.follow(other.single)
        self._reorder()

    def _reorder(self) -> None:
        """Give the models of the search the order that the single one has got."""
        if self.lanes is not None and self.lanes.place is None and self.single.place is not None:
            self.lanes.reorder(self.single.place)
