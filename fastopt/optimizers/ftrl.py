"""FTRL-Proximal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from ..elementary import power
from ..errors import HyperParameterError
from .base import Catch, Common, Optimizer, Rule
from .tables import SPAN, Gap, Scalars


def follow_leader(p: Array, g: Array, a: Array, z: Array, h: Array, raised: Callable[[Array, Any], Array]) -> None:
    """The step, with the accumulator as it is `raised` to a power."""
    inverse, ridge, l1, shrink, exponent = h
    new = a + g * g
    root = raised(new, exponent)
    z[...] = z + ((g + shrink * p) - (root - raised(a, exponent)) * inverse * p)
    held = np.where(z < -l1, -l1, np.where(z > l1, l1, z))
    p[...] = (held - z) / (root * inverse + ridge)
    a[...] = new


def ftrl(p: Array, g: Array, a: Array, z: Array, h: Array) -> None:
    follow_leader(p, g, a, z, h, lambda x, _: np.sqrt(x))


def ftrl_power(p: Array, g: Array, a: Array, z: Array, h: Array) -> None:
    follow_leader(p, g, a, z, h, power)


class FTRL(Optimizer):
    r"""Follow the regularized leader, proximal (McMahan et al. 2013), in the form of TensorFlow and Keras.

    .. math::
        n' &= n + g^2, \quad z \leftarrow z + g + 2 s\, p - \frac{n'^\kappa - n^\kappa}{\eta}\, p, \quad n \leftarrow n' \\
        p &\leftarrow \frac{\max(-l_1, \min(l_1, z)) - z}{n^\kappa/\eta + \beta/\eta + 2 l_2}

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1e-3
        Above 0.
    lr_power : float in [-1, 0], default -0.5
        :math:`-\kappa`; at -0.5 the root. At 0 the rate stays the same for ever.
    initial_accumulator_value : float, default 0.1
    l1 : float, default 0
        What makes parameters 0.
    l2 : float, default 0
        Counted twice, as in TensorFlow and Keras; the paper's is ``2 * l2``.
    l2_shrinkage : float, default 0
        s: a coupled decay whose gradient does not enter n.
    beta : float, default 0
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    A dense step makes every parameter anew of z and n, also where the gradient is zero. So the first one sets those
    that have no gradient to 0, whatever they were, and a change of the rate acts on all. A lazy sparse step leaves the
    rows that it does not list as they are; ``sparse="exact"`` does what dense steps do. Keras has decoupled weight
    decay beside the rule; where n, l2 and beta are 0 it gives NaN for a zero gradient, and 0 here. The paper has the
    root alone, starts n at 0 and counts `l2` once. PyTorch has no FTRL. State: ``accumulator`` (n), ``linear`` (z).
    """

    options = {
        "lr_power": checks.number(-1.0, 0.0),
        "initial_accumulator_value": checks.non_negative,
        "l1": checks.non_negative,
        "l2": checks.non_negative,
        "l2_shrinkage": checks.non_negative,
        "beta": checks.non_negative,
    }
    own_decay = ("coupled", "decoupled")
    rules = (
        # The parameter is made anew of the states at each step.
        Rule("ftrl", ("accumulator", "linear"), ftrl, Catch("ftrl", 0, 3), merge=("mean", "sum", "sum")),
        Rule(
            "ftrl_power", ("accumulator", "linear"), ftrl_power, Catch("ftrl_power", 0, 4), merge=("mean", "sum", "sum")
        ),
    )
    presets = {"keras": {}, "paper": {"initial_accumulator_value": 0.0}}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        lr_power: float = -0.5,
        initial_accumulator_value: float = 0.1,
        l1: float = 0.0,
        l2: float = 0.0,
        l2_shrinkage: float = 0.0,
        beta: float = 0.0,
        **common: Unpack[Common],
    ) -> None:
        options = dict(
            lr=lr,
            lr_power=lr_power,
            initial_accumulator_value=initial_accumulator_value,
            l1=l1,
            l2=l2,
            l2_shrinkage=l2_shrinkage,
            beta=beta,
        )
        super().__init__(params, options, **common)

    @classmethod
    def check_together(cls, o: Mapping[str, Any]) -> None:
        if o.get("lr") == 0:
            raise HyperParameterError("lr must be above 0, got 0.0: FTRL divides by it")
        if o.get("lr_power") == 0 and o.get("initial_accumulator_value") == 0:
            raise HyperParameterError("lr_power=0 needs initial_accumulator_value above 0: 0**0 has no one value")

    @staticmethod
    def start(state: str, o: Mapping[str, Any]) -> float:
        return float(o["initial_accumulator_value"]) if state == "accumulator" else 0.0

    @staticmethod
    def rule(o: Mapping[str, Any]) -> str:
        return "ftrl" if o["lr_power"] == -0.5 else "ftrl_power"

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        inverse = 1.0 / np.asarray(o["lr"])
        inverse = np.where(inverse < o["tiny"], np.inf, inverse)  # a rate too large is refused as one too small
        ridge = np.maximum(2.0 * o["l2"] + o["beta"] * inverse, o["tiny"])  # 0/0 cannot arise
        return inverse, ridge, o["l1"], 2.0 * o["l2_shrinkage"], -o["lr_power"]

    @staticmethod
    def carry(p: Array, states: Sequence[Array], o: Mapping[str, Any], lr: float) -> None:
        # The paper's sigma, the change of root by rate, of a step that changes the rate alone.
        n, z = states
        root = np.sqrt(n) if o["lr_power"] == -0.5 else power(n, -o["lr_power"])
        z -= p * ((root + n.dtype.type(o["beta"])) * n.dtype.type(1.0 / lr - 1.0 / o["lr"]))

    @classmethod
    def why_not_exact(cls, o: Mapping[str, Any]) -> str:
        if o["l2_shrinkage"] != 0:
            return (
                "l2_shrinkage moves untouched rows at every step, which has no closed form; use l2, l2_shrinkage=0 or "
                "sparse='lazy'"
            )
        return ""

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        # Of the parameter before nothing is left, and of several steps the last one's scalars hold: see kernels/ftrl.pyx.
        lasting = [*r[SPAN : SPAN + 3], *([r[SPAN + 4]] if o["lr_power"] != -0.5 else [])]
        return Gap(np.zeros(len(r[SPAN])), (), [(1.0, scalar) for scalar in lasting])
