"""The step by the NumPy references: the same contract as the compiled ``Plan``, for verification and for
installations without a compiler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import checks
from ..checks import Array
from ..sparse import Entries, check_rows, unique_rows


class NumpyPlan:
    """What ``kernels.drivers.Plan`` does, one array operation at a time."""

    def __init__(
        self,
        host: Any,
        ndarray: type,
        params: Sequence[Array],
        names: Any,
        single: bool,
        n_groups: int,
        n_threads: int,
        steps: int,
    ) -> None:
        self.host, self.params, self.single, self.steps = host, params, single, steps
        self.busy = False
        self._groups: list[dict[str, Any]] = [{} for _ in range(n_groups)]
        self._group_of = [0] * len(params)
        self._counters = [0] * len(params)
        self._borns = [0] * len(params)
        self._layouts: list[Any] = [None] * len(params)

    def set_group(
        self,
        q: int,
        span: str,
        n_states: int,
        negate: bool,
        couple: bool,
        shrink: bool,
        table: Mapping[str, Any],
        law: Any,
    ) -> None:
        reference = next(r.reference for r in self.host.rules if r.span == span)
        self._groups[q] = {"reference": reference, "negate": negate, "couple": couple, "shrink": shrink}

    def set_param(
        self,
        i: int,
        group: int,
        address: int,
        itemsize: int,
        shape: Any,
        strides: Any,
        states: Any,
        counter: int,
        born: int,
        record: int = 0,
        last: int = 0,
    ) -> None:
        self._group_of[i], self._counters[i], self._borns[i] = group, counter, born
        self._layouts[i] = layout(self.params[i])

    def set_taken(self, ranges: Any) -> None:
        """Overlap is looked for by the host."""

    def set_own(self, addresses: Any) -> None:
        """The host knows its gradients."""

    def forget_scalars(self) -> None:
        """Nothing is remembered."""

    def counters(self) -> list[int]:
        return list(self._counters)

    def borns(self) -> list[int]:
        return list(self._borns)

    def hold(self, on: bool) -> None:
        if on and self.busy:
            self.host._explain_busy()
        self.busy = on

    def step(self, grads: Any, own: bool) -> None:
        host = self.host
        if self.busy:
            host._explain_busy()
        self.busy = True
        try:
            items = host._own if own else (grads,) if self.single else host._explain_structure(grads)
            work = []
            for i, g in enumerate(items):
                if g is None:
                    continue
                rows, values = None, host._convert_gradient(i, g)
                if isinstance(values, Entries):
                    rows, values = unique_rows(f"gradient of {host._labels[i]}", values, self.params[i])
                if layout(self.params[i]) != self._layouts[i]:
                    host._explain_parameter(i)
                p, now = self.params[i], self.steps + 1
                lag = now - self._counters[i] - 1
                table, *_ = host._scalar_table(self._group_of[i], p.itemsize, now, 1, lag, self._borns[i])
                work.append((i, rows, values, table[0]))
            with np.errstate(all="ignore"):
                for i, rows, values, h in work:
                    self._update(i, rows, values, h)
            for i, *_ in work:
                self._counters[i] += 1
            self.steps += 1
        finally:
            self.busy = False

    def catch_up(self, i: int, rows: Array | None = None) -> None:
        """All rows are up to date at all times."""
        self._check(i, rows)

    def read(self, i: int, rows: Array, out: Array) -> None:
        """Rows of parameter i into the array `out`."""
        rows = rows.copy()
        self._check(i, rows)
        out[...] = self.params[i][rows].reshape(out.shape)

    def _check(self, i: int, rows: Array | None) -> None:
        if layout(self.params[i]) != self._layouts[i]:
            self.host._explain_parameter(i)
        if rows is not None:
            check_rows("rows", rows, self.params[i])

    def _update(self, i: int, rows: Array | None, g: Array, h: Array) -> None:
        group = self._groups[self._group_of[i]]
        p, states = self.params[i], list(self.host._state[i].values())
        if (
            rows is not None and self.host.sparse == "exact"
        ):  # the definition: a dense step with zeros for the other rows
            whole_g = np.zeros(p.shape, p.dtype)
            whole_g[rows] = g
            rows, g = None, whole_g
        if rows is None:
            update(group, p, g, states, h)
        else:
            part = [a[rows] for a in (p, *states)]
            update(group, part[0], g, part[1:], h)
            for whole, new in zip((p, *states), part, strict=True):
                whole[rows] = new


def update(group: Mapping[str, Any], p: Array, g: Array, states: Sequence[Array], h: Array) -> None:
    """Block operations, in their order, then the reference of the span."""
    if group["negate"]:
        g = -g
    if group["couple"]:
        g = g + h[0] * p
    if group["shrink"]:
        p *= h[1]
    group["reference"](p, g, *states, h[2:])


def layout(a: Array) -> tuple[Any, ...]:
    """What must stay as it was for a parameter to be the same memory."""
    return checks.address(a), a.shape, a.strides, a.dtype.str, a.flags.writeable
