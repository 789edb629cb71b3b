"""Rprop."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from ..errors import ConcurrentStepError, HyperParameterError
from .base import NOW, Catch, Common, Optimizer, Rule
from .signsgd import sign
from .tables import SHRINK, Gap, Scalars, value_at


def rprop(p: Array, g: Array, prev: Array, size: Array, h: Array) -> None:
    down, up, least, most = h
    turn = g * prev
    s = size * np.where(turn > 0, up, np.where(turn < 0, down, h.dtype.type(1)))
    s = np.where(s < least, least, s)
    size[...] = np.where(s > most, most, s)
    prev[...] = np.where(turn < 0, h.dtype.type(0), g)
    p[...] = p - sign(prev) * size


class Rprop(Optimizer):
    r"""Resilient propagation (Riedmiller and Braun 1993): steps from the signs of gradients alone, for full batches.

    .. math::
        s \leftarrow \begin{cases}
            \min(\eta_+ s,\, s_{\max}) & g\, g_{\mathrm{prev}} > 0 \\
            \max(\eta_- s,\, s_{\min}) & g\, g_{\mathrm{prev}} < 0, \text{ and then } g \leftarrow 0 \\
            s & \text{otherwise}
        \end{cases} \quad
        p \leftarrow p - \operatorname{sign}(g)\, s, \quad g_{\mathrm{prev}} \leftarrow g

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1e-2
        The first step size of every element, within `step_sizes`. Later values of a schedule have no effect.
    etas : pair of floats, default (0.5, 1.2)
        Factors of the step size where the sign has changed, in (0, 1), and where it has not, above 1.
    step_sizes : pair of floats, default (1e-6, 50)
        Least and most step size.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    This is PyTorch's rule, the variant iRprop- (Igel and Huesken 2000): an element whose sign changes waits a step; the
    paper has it go back where it was. As in PyTorch there is no weight decay, and a product of gradients that
    underflows to 0 counts as no change. A NaN gradient makes the parameter NaN, where PyTorch lets it wait. Keras has
    no Rprop. `reset_state` returns to the first rate of a schedule. State: ``prev``, ``step_size``.
    """

    options = {
        "etas": checks.pair(checks.number(0.0, closed_low=False)),
        "step_sizes": checks.pair(checks.non_negative),
    }
    # A gap leaves step sizes as they are, which holds for one pair of bounds: the first step with new ones is `step`'s affair.
    rules = (Rule("rprop", ("prev", "step_size"), rprop, Catch("decay2", 2, 0, ("step_sizes",))),)
    _unbounded: Sequence[int] = ()  # exact mode: parameters with rows whose step sizes have not met their bounds yet

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        **common: Unpack[Common],
    ) -> None:
        super().__init__(params, dict(lr=lr, etas=etas, step_sizes=step_sizes), **common)

    def _build(self, counters: list[int], borns: list[int], steps: int) -> None:
        super()._build(counters, borns, steps)
        self._unbounded = range(len(counters)) if self.sparse == "exact" else ()

    def step(self, grads: Any = NOW) -> None:
        if not self._unbounded:
            super().step(grads)
            return
        before = self._clocks()[0]
        super().step(grads)
        # What a dense step would have done to the rows that this one did not touch; where another thread is at work already, the
        # next step does it.
        with contextlib.suppress(ConcurrentStepError), self._quiet() as plan:
            moved = [i for i in self._unbounded if plan.counters()[i] != before[i]]
            for i in moved:
                least, most = self.param_groups[self._group_of[i]]["step_sizes"]
                np.clip(size := self._state[i]["step_size"], least, most, out=size)
            self._unbounded = [i for i in self._unbounded if i not in moved]

    step.__doc__ = Optimizer.step.__doc__

    @classmethod
    def check_together(cls, o: Mapping[str, Any]) -> None:
        if "etas" in o and not o["etas"][0] < 1 < o["etas"][1]:
            raise HyperParameterError(f"etas must be below 1 and above 1, got {o['etas']}")
        if "step_sizes" in o and o["step_sizes"][0] > o["step_sizes"][1]:
            raise HyperParameterError(f"step_sizes must be the least and the most, got {o['step_sizes']}")

    @staticmethod
    def start(state: str, o: Mapping[str, Any]) -> float:
        if state == "prev":
            return 0.0
        lr = value_at("lr", o["lr"], 0) if callable(o["lr"]) else o["lr"]
        return float(min(max(lr, o["step_sizes"][0]), o["step_sizes"][1]))

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        return *o["etas"], *o["step_sizes"]

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        return Gap(r[SHRINK], (0.0, 1.0))
