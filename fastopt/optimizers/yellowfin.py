"""YellowFin."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from ..reductions import left_to_right
from .base import Common, Measure, Optimizer, Rule
from .powers import powers
from .tables import Scalars

TINY = 1e-6  # beside what is divided by, and inside logarithms: the authors' epsilon


def measure(p: Array, g: Array, b: Array, a: Array, h: Array) -> Sequence[Array]:
    a[...] = h[0] * a + h[1] * g
    g, a = g.astype(float), a.astype(float)
    return g * g, a * a


def yellowfin(p: Array, g: Array, b: Array, a: Array, h: Array) -> None:
    rate, keep, rest = h
    b[...] = keep * b + g
    p[...] = rest * p - rate * b


def root_of_momentum(ratio: float) -> float:
    """The x in [0, 1] with ``ratio x = (1 - x)**3``, which makes the noisy quadratic's expected distance smallest."""
    low, high = 0.0, 1.0
    for _ in range(60):
        x = 0.5 * (low + high)
        if ratio * x < (1.0 - x) ** 3:
            low = x
        else:
            high = x
    return 0.5 * (low + high)


class YellowFin(Optimizer):
    r"""YellowFin (Zhang and Mitliagkas 2017): momentum that tunes its rate and its momentum by what it measures.

    With the mean squared norm of the gradients h, its extremes :math:`h_{\min}, h_{\max}` over the last steps, the variance C
    and the distance D to the solution:

    .. math::
        \mu &= \max\left(x^2, \left(\tfrac{\sqrt{h_{\max}/h_{\min}} - 1}{\sqrt{h_{\max}/h_{\min}} + 1}\right)^2\right),
        \quad \frac{D^2 h_{\min}^2}{2C} x = (1-x)^3, \quad \eta = \frac{(1 - \sqrt\mu)^2}{h_{\min}} \\
        b &\leftarrow \mu b + g, \quad p \leftarrow p - \eta b

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1.0
        What the tuned rate is multiplied by.
    beta : float in [0, 1), default 0.999
        Keep factor of all means, each divided by ``1 - beta**t``, and of the smoothed rate and momentum.
    curv_window_width : int, default 20
        Steps over which the extremes are taken.
    weight_decay : float or callable, default 0
        Coupled decay enters the measured gradient; decoupled decay goes by the tuned rate.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    The rate is outside of the buffer, as in the authors' code; the paper has it inside. The extremes are smoothed as
    logarithms. In the first ``10 * curv_window_width`` steps the rate is smaller, in proportion to the step. The
    authors' latest code differs: it starts from a rate and a momentum that the user gives, uses them unsmoothed, and
    clips gradients. One tuner serves a group, over its parameters that have a gradient; with a `SparseGrad` over the
    rows that it lists. There is no exact sparse mode, since the tuner sees all rows. PyTorch and Keras have no
    YellowFin. The authors' epsilon of 1e-6 stands beside what is divided by and under the variance, so that problems with
    gradients far below 1e-3 are tuned otherwise: scale the loss. State: ``momentum_buffer``, ``grad_avg``; each group remembers what it has measured.
    """

    own_decay = ("decoupled",)
    options = {"beta": checks.fraction, "curv_window_width": checks.integer(1, 10**6)}
    rules = (
        Rule("yellowfin", ("momentum_buffer", "grad_avg"), yellowfin, measure=Measure("yellowfin", measure), moved=8),
    )
    memory = {
        "steps": 0,
        "window": (),
        "log_most": 0.0,
        "log_least": 0.0,
        "squares": 0.0,
        "norms": 0.0,
        "distance": 0.0,
        "rate": 0.0,
        "momentum": 0.0,
    }
    for_samples = False

    def __init__(
        self,
        params: Any,
        lr: float = 1.0,
        beta: float = 0.999,
        curv_window_width: int = 20,
        weight_decay: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        options = dict(lr=lr, beta=beta, curv_window_width=curv_window_width, weight_decay=weight_decay)
        super().__init__(params, options, **common)

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        return o["beta"], 1.0 - o["beta"], o["lr"], o["weight_decay"] if o["decoupled_weight_decay"] else 0.0

    @staticmethod
    def derive(
        sums: Array, h: Array, shapes: Sequence[tuple[int, ...]], o: Mapping[str, Any], memory: dict[str, Any]
    ) -> Array:
        beta, width, t = o["beta"], o["curv_window_width"], memory["steps"] + 1
        debias = 1.0 - float(powers(beta, np.array([t]))[0])
        squares, mean_squares = left_to_right(sums[:, 0]), left_to_right(sums[:, 1])
        if not math.isfinite(squares):  # the gradients' infinities and NaN go on to the parameters, not to the tuner
            return np.array([math.nan, memory["momentum"], 1.0])

        def mean(name: str, value: float) -> float:
            memory[name] = beta * memory[name] + (1.0 - beta) * value
            return float(memory[name] / debias)

        window = (*memory["window"], squares)[-width:]
        memory.update(steps=t, window=window)
        most = math.exp(min(mean("log_most", math.log(max(window) + TINY)), 709.0))
        least = math.exp(min(mean("log_least", math.log(min(window) + TINY)), 709.0))
        square = mean("squares", squares)
        variance = max(square - mean_squares / debias / debias, TINY)
        distance = mean("distance", mean("norms", math.sqrt(squares)) / (square + TINY))
        x = root_of_momentum((distance * least) * (distance * least) / (2.0 * variance))
        range_root = math.sqrt(most / least)
        momentum = max(x * x, ((range_root - 1.0) / (range_root + 1.0)) ** 2)  # at most 1
        rate = (1.0 - math.sqrt(momentum)) ** 2 / least * min(1.0, t / (10 * width))
        rate = mean("rate", rate) * float(h[0, 2])
        return np.array([rate, mean("momentum", momentum), 1.0 - rate * float(h[0, 3])])
