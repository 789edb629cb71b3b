"""The step by the NumPy references: the same contract as the compiled ``Plan``, for verification and for
installations without a compiler."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import checks
from ..checks import Array
from ..reductions import total
from ..sparse import Entries, check_rows, unique_rows
from ..transforms import REFERENCES, ClipAdaptive, ClipNorm, ClipValue, Noise, the


@dataclass
class Job:
    """The work on one parameter in a step."""

    i: int
    rows: Array | None  # those touched; None: all
    g: Array
    h: Array
    factor: float | Array = 1.0  # of the gradient, or of its units
    noise: Array | None = None

    def parts(self, arrays: Sequence[Array]) -> list[Array]:
        """What of the arrays is touched: themselves, or copies of the rows."""
        return list(arrays) if self.rows is None else [a[self.rows] for a in arrays]

    def put_back(self, arrays: Sequence[Array], parts: Sequence[Array]) -> None:
        """Copies of the rows to where they came from."""
        if self.rows is not None:
            for whole, part in zip(arrays, parts, strict=True):
                whole[self.rows] = part


@dataclass(frozen=True)
class Turn:
    """An average that has a turn in a step: its place among the averages, how it is made, its scalars by itemsize."""

    k: int
    how: Any
    h: Mapping[int, Array]


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
        measure: str | None = None,
    ) -> None:
        rule = next(r for r in self.host.rules if r.span == span)
        self._groups[q] = {"rule": rule, "negate": negate, "couple": couple, "shrink": shrink}

    def set_transforms(self, table: Mapping[str, Any], look: bool, means: Sequence[str], **of_kernels: Any) -> None:
        """What the kernels are told beside, the host's transforms say."""
        self._looks = look
        self._means: list[Any] = [REFERENCES[name] for name in means]

    def set_units(self, i: int, kind: int, count: int) -> None:
        """The host's transforms know the units."""

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
        means: Any = (),
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
                    order = np.argsort(rows)  # sums over all rows take them in ascending order
                    rows, values = rows[order], values[order]
                if layout(self.params[i]) != self._layouts[i]:
                    host._explain_parameter(i)
                p, now = self.params[i], self.steps + 1
                lag = now - self._counters[i] - 1
                table, *_ = host._scalar_table(self._group_of[i], p.itemsize, now, 1, lag, self._borns[i])
                work.append(Job(i, rows, values, table[0]))
            with np.errstate(all="ignore"):
                given = [job.g for job in work]
                for job in work:
                    job.g = self._clamped(job.g)
                if self._looks and not self._look(work, given):
                    return
                self._add_noise(work)
                self._run(work)
            for job in work:
                self._counters[job.i] += 1
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

    def _look(self, work: Sequence[Job], given: Sequence[Array]) -> bool:
        """Show the host the norm of the gradients. False: there is to be no step; else they are scaled as it says."""
        squares, of_each, bad = 0.0, [], -1
        for job, g in zip(work, given, strict=True):
            found = self._squares(job.g)
            squares = squares + found
            of_each.append(found)
            if bad < 0 and not (g is job.g and math.isfinite(found)) and not np.isfinite(g).all():
                bad = job.i
        factor = self.host._look(squares, bad)
        if factor is None:
            return False
        each, units = the(self.host.transforms, ClipNorm), the(self.host.transforms, ClipAdaptive)
        for job, found in zip(work, of_each, strict=True):
            job.factor = factor if each is None else each.factor(math.sqrt(found))
            if units is not None:
                job.factor = units.scale(job.g, job.parts([self.params[job.i]])[0], checks.order(self.params[job.i]))
        return True

    def _clamped(self, g: Array) -> Array:
        """The gradient `g` after clipping by value."""
        clip = the(self.host.transforms, ClipValue)
        return g if clip is None else clip.clipped(g)

    def _add_noise(self, work: Sequence[Job]) -> None:
        """Draw the noise of the step, where there is to be any."""
        noise, now = the(self.host.transforms, Noise), self.steps + 1
        if noise is None:
            return
        sigma = noise.sigma(now)
        for job in work:
            p = self.params[job.i]
            if job.rows is None:
                places = np.arange(p.size).reshape(p.shape, order=checks.order(p))
            else:
                width = math.prod(p.shape[1:])
                places = (job.rows[:, None] * width + np.arange(width)).reshape(job.g.shape)
            drawn = noise.numbers(places, job.i, now)
            job.noise = p.dtype.type(sigma) * drawn.astype(p.dtype)

    def _squares(self, g: Array) -> float:
        """The sum of the squares of a gradient."""
        wide = g.astype(np.float64)
        return total(wide * wide)

    def _run(self, work: Sequence[Job]) -> None:
        """The step on everything, which has been checked."""
        now = self.steps + 1
        if self.host.sparse == "exact":
            for job in work:
                self._fill_up(job)
        averages = self._turns(now)
        self._measure(work, now)
        for job in work:
            self._update(job, averages)

    def _fill_up(self, job: Job) -> None:
        """What exact sparse mode means by a gradient of some rows: a dense one with zeros for the others."""
        if job.rows is not None:
            whole = np.zeros(self.params[job.i].shape, job.g.dtype)
            whole[job.rows] = job.g
            job.rows, job.g = None, whole

    def _turns(self, now: int) -> list[Turn]:
        """The averages that have a turn in step `now`."""
        if not self._means:
            return []
        single, double, turns = self.host._mean_scalars(now)
        return [Turn(k, self._means[k], {4: single[k], 8: double[k]}) for k, turn in enumerate(turns) if turn]

    def _update(self, job: Job, averages: Sequence[Turn]) -> None:
        """The step of one parameter."""
        group = self._groups[self._group_of[job.i]]
        arrays = [self.params[job.i], *self.host._state[job.i].values()]
        n = 1 + len(group["rule"].states)
        parts = job.parts(arrays)
        p, states = parts[0], parts[1:n]
        g = on_its_way(group, p, job)
        if group["shrink"]:
            p *= job.h[1]
        group["rule"].reference(p, g, *states, job.h[2:])
        for turn in averages:
            turn.how(parts[n + turn.k], p, turn.h[p.itemsize])
        job.put_back(arrays, parts)

    def _measure(self, work: Sequence[Job], now: int) -> None:
        """The scalars of rules that hang on sums over their parameters."""
        jobs_of = {
            q: [job for job in work if self._group_of[job.i] == q]
            for q, g in enumerate(self._groups)
            if g["rule"].measure
        }
        jobs_of = {q: jobs for q, jobs in jobs_of.items() if jobs}
        for q, jobs in jobs_of.items():
            for job, h in zip(jobs, self.host._recall(q, [job.i for job in jobs], now), strict=True):
                job.h = h
        for q, jobs in jobs_of.items():
            group, sums = self._groups[q], []
            for job in jobs:
                arrays = [self.params[job.i], *self.host._state[job.i].values()][: 1 + len(group["rule"].states)]
                parts = job.parts(arrays)
                g = on_its_way(group, parts[0], job)
                sums.append([total(x) for x in group["rule"].measure.reference(parts[0], g, *parts[1:], job.h[2:])])
                job.put_back(arrays, parts)
            for job, h in zip(jobs, self.host._derive(q, [job.i for job in jobs], sums), strict=True):
                job.h = h


def on_its_way(group: Mapping[str, Any], p: Array, job: Job) -> Array:
    """The gradient after the block operations on it."""
    g = job.g
    if isinstance(job.factor, np.ndarray) or job.factor != 1.0:
        factor = np.asarray(job.factor).astype(g.dtype)
        g = (-factor if group["negate"] else factor) * g
    elif group["negate"]:
        g = -g
    if job.noise is not None:
        g = g + job.noise
    return g + job.h[0] * p if group["couple"] else g


def layout(a: Array) -> tuple[Any, ...]:
    """What must stay as it was for a parameter to be the same memory."""
    return checks.address(a), a.shape, a.strides, a.dtype.str, a.flags.writeable
