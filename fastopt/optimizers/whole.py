"""The step of the optimizers that look at whole rows, columns or matrices: a sequence of passes, each of which exists
compiled and in NumPy (`fastopt.passes`). A rule is written once, and does not know which of the two it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .. import checks, kernels
from ..checks import Array
from ..elementary import normals_of
from ..passes import SUMS, Pass, Runner, sum_of_squares
from ..reductions import SUMMED, blocks_of
from ..transforms import REFERENCES, ClipValue, Noise, the
from .plan import Job, NumpyPlan, Turn
from .tables import COUPLE, SHRINK

# ----------------------------------------------------------------------------------------------- passes that rules share


def _negated(out: Array, g: Array, h: Array) -> None:
    out[...] = -g


def _scaled(out: Array, g: Array, h: Array) -> None:
    out[...] = h[0] * g


def _clamped(out: Array, g: Array, h: Array) -> None:
    out[...] = h[1] * ClipValue(float(h[0])).clipped(g)


def _noised(g: Array, key: Array, places: Array, h: Array) -> None:
    width = SUMMED if g.ndim == 1 else g.shape[1]
    elements = (places[:, None] * width + np.arange(width)).ravel()[: g.size]
    which, step, seed = (int(k) for k in key)
    drawn = normals_of(elements, which, step, seed).astype(g.dtype)
    g[...] = g + (h[0] * drawn).reshape(g.shape)


def _coupled(out: Array, p: Array, h: Array) -> None:
    out[...] = out + h[0] * p


NEGATED = Pass("negated", _negated)
SCALED = Pass("scaled", _scaled)
COUPLED = Pass("coupled", _coupled)
CLAMPED = Pass("clamped", _clamped)
NOISED = Pass("noised", _noised)
#: by the names of `transforms`
AVERAGES = {
    "average": Pass("averaged", REFERENCES["average"]),
    "lookahead": Pass("looked_ahead", REFERENCES["lookahead"]),
}
#: what the kernels have for every rule
SHARED = (*SUMS, NEGATED, SCALED, COUPLED, CLAMPED, NOISED, *AVERAGES.values())


# ---------------------------------------------------------------------------------------------------------------- the plan


class WholePlan(NumpyPlan):
    """The plan of optimizers whose rules are sequences of passes.

    The reference of a rule is ``step(run, p, g, states, h)``: it updates the arrays in place, all of them in C order, `g` not
    written. The first of the scalars `h` is what decoupled decay leaves of a parameter, then come those of the rule. With a
    sparse gradient it gets the rows that are touched, in ascending order, as a parameter of their own; states that do not
    lie along the rows it gets whole. Parameters in Fortran order are copied: the bits do not depend on the layout.
    """

    def __init__(self, host: Any, *arguments: Any) -> None:
        super().__init__(host, *arguments)
        self._n_threads = arguments[5]
        self._runner = Runner(None, 0)

    def set_group(
        self,
        q: int,
        span: str,
        n_states: int,
        negate: bool,
        couple: bool,
        shrink: bool,
        table: Any,
        law: Any,
        measure: Any = None,
    ) -> None:
        super().set_group(q, span, n_states, negate, couple, shrink, table, law, measure)
        if self.host.backend == "native":
            self._runner = Runner(table, self._n_threads)

    def set_transforms(self, table: Any, look: bool, means: Sequence[str], **of_kernels: Any) -> None:
        self._looks, self._means = look, [AVERAGES[name] for name in means]

    def step(self, grads: Any, own: bool) -> None:
        if self._runner.table is None:
            super().step(grads, own)
        else:
            kernels.drivers.in_default_state(lambda: NumpyPlan.step(self, grads, own))

    def _clamped(self, g: Array) -> Array:
        clip = the(self.host.transforms, ClipValue)
        if clip is None:
            return g
        given = np.asarray(g, order="C")
        clipped = np.empty_like(given)
        self._runner(CLAMPED, g.size, (), (clipped, given), np.array([clip.limit, 1.0]).astype(g.dtype))
        return clipped

    def _add_noise(self, work: Sequence[Job]) -> None:
        """It is drawn as each gradient is made."""

    def _noised(self, noise: Noise, job: Job, g: Array) -> Array:
        """The noise of this step added to the gradient, which may be written; elements count by their place in memory."""
        p, now = self.params[job.i], self.steps + 1
        key = np.array([job.i, now - 1, noise.seed], np.uint64)
        h = np.array([noise.sigma(now)]).astype(g.dtype)
        if job.rows is not None:  # in C order
            rows = g.reshape(len(g), -1)
            self._runner(NOISED, len(g), (g.size, rows.shape[1]), (rows, key, job.rows), h)
            return g
        order = checks.order(p)
        flat, places = g.ravel(order=order), np.arange(blocks_of(g.size, SUMMED))
        self._runner(NOISED, len(places), (g.size, SUMMED), (flat, key, places), h)
        return np.asarray(flat.reshape(g.shape, order=order), order="C")

    def _squares(self, g: Array) -> float:
        return sum_of_squares(self._runner, g.ravel(order="K"))

    def _fill_up(self, job: Job) -> None:
        """Rules with an exact mode leave a row without gradient where it is."""

    def _update(self, job: Job, averages: Sequence[Turn]) -> None:
        p, named = self.params[job.i], self.host._state[job.i]
        if not job.g.size:
            return
        group, arrays = self._groups[self._group_of[job.i]], [p, *named.values()]
        n = len(arrays) - len(self._means)  # the averages come last
        if job.rows is None:
            work = [np.asarray(a, order="C") for a in arrays]
        else:
            along = [k == 0 or k >= n or self.host.along_rows(name, p.shape) for k, name in enumerate(["", *named])]
            work = [a[job.rows] if by_row else a for a, by_row in zip(arrays, along, strict=True)]
        mine = work[0]
        g = self._gradient(group, job, mine)
        own = job.h[SHRINK:].copy()
        if not group["shrink"]:
            own[0] = 1
        group["rule"].reference(self._runner, mine, g, work[1:n], own)
        for turn in averages:
            self._runner(turn.how, mine.size, (), (work[n + turn.k], mine), turn.h[mine.itemsize])
        for whole, new in zip(arrays, work, strict=True):
            if new is not whole:
                whole[... if job.rows is None else job.rows] = new

    def _gradient(self, group: Mapping[str, Any], job: Job, p: Array) -> Array:
        """The gradient after the block operations on it, in memory of its own if there are any."""
        given = g = np.asarray(job.g, order="C")
        if isinstance(job.factor, np.ndarray):
            g = (-job.factor if group["negate"] else job.factor) * given
        elif job.factor != 1.0:
            g = np.empty_like(given)
            factor = np.array([-job.factor if group["negate"] else job.factor], g.dtype)
            self._runner(SCALED, g.size, (), (g, given), factor)
        elif group["negate"]:
            g = np.empty_like(given)
            self._runner(NEGATED, g.size, (), (g, given), job.h)
        noise = the(self.host.transforms, Noise)
        if noise is not None:
            g = self._noised(noise, job, g.copy() if g is given else g)
        if group["couple"]:
            g = g.copy() if g is given else g
            self._runner(COUPLED, g.size, (), (g, p), job.h[COUPLE:])
        return g


States = Sequence[Array]
