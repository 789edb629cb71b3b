"""Adagrad."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from ..elementary import power
from .base import Catch, Common, Optimizer, Rule
from .tables import SHRINK, Gap, Scalars, eps_places


def divided(p: Array, g: Array, a: Array, h: Array, raised: Callable[[Array, Any], Array]) -> None:
    """The step, divided by the sum of squares as it is `raised` to a power."""
    rate, inner, outer, exponent = h
    a[...] = a + g * g
    p[...] = p - rate * (g / (raised(a + inner, exponent) + outer))


def adagrad(p: Array, g: Array, a: Array, h: Array) -> None:
    divided(p, g, a, h, lambda d, _: np.asarray(np.sqrt(d)))


def adagrad_first_power(p: Array, g: Array, a: Array, h: Array) -> None:
    divided(p, g, a, h, lambda d, _: d)


def adagrad_power(p: Array, g: Array, a: Array, h: Array) -> None:
    divided(p, g, a, h, power)


class Adagrad(Optimizer):
    r"""Adagrad (Duchi, Hazan and Singer 2011).

    .. math::
        a \leftarrow a + g^2, \quad p \leftarrow p - \frac{\eta}{1 + (t-1)\,\mathrm{lr\_decay}} \cdot
        \frac{g}{a^\kappa + \epsilon}

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1e-2
    lr_decay : float, default 0
    weight_decay : float or callable, default 0
        Coupled (added to the gradient), unless ``decoupled_weight_decay``.
    initial_accumulator_value : float, default 0
    eps : float, default 1e-10
        At least the smallest normal number of the dtype is used, so that 0/0 cannot arise.
    eps_form : {"outside", "inside"}, default "outside"
        Where epsilon sits: beside the root (PyTorch), or inside, :math:`(a + \epsilon)^\kappa` (Keras, optax).
    power : float in (0, 1], default 0.5
        :math:`\kappa`: the paper's is the root; 1 divides by the sum of squares itself.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    PyTorch has epsilon outside and the root alone, Keras epsilon inside and a start of 0.1. The paper adds its constant
    beside the root, and has no `lr_decay`; the preset "paper" puts it inside, as surveys do. PyTorch refuses weight
    decay with sparse gradients; here touched rows decay. State: ``sum``.
    """

    options = {
        "lr_decay": checks.non_negative,
        "initial_accumulator_value": checks.non_negative,
        "eps": checks.non_negative,
        "eps_form": checks.one_of("outside", "inside"),
        "power": checks.number(0.0, 1.0, closed_low=False),
    }
    pace = 0
    rules = tuple(
        Rule(reference.__name__, ("sum",), reference, Catch("decay0", 0, 0), merge=("sum", "sum"))
        for reference in (adagrad, adagrad_first_power, adagrad_power)
    )

    presets = {
        "keras": {
            "lr": 1e-3,
            "initial_accumulator_value": 0.1,
            "eps": 1e-7,
            "eps_form": "inside",
            "decoupled_weight_decay": True,
        },
        "paper": {"eps": 1e-8, "eps_form": "inside"},
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        eps_form: str = "outside",
        power: float = 0.5,
        **common: Unpack[Common],
    ) -> None:
        options = dict(
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            eps_form=eps_form,
            power=power,
        )
        super().__init__(params, options, **common)

    @staticmethod
    def start(state: str, o: Mapping[str, Any]) -> float:
        return float(o["initial_accumulator_value"])

    @staticmethod
    def rule(o: Mapping[str, Any]) -> str:
        return {0.5: "adagrad", 1.0: "adagrad_first_power"}.get(o["power"], "adagrad_power")

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        return o["lr"] / (1.0 + (t - 1) * o["lr_decay"]), *eps_places(o), o["power"]

    @staticmethod
    def settled(o: Mapping[str, Any], born: int) -> int | None:
        return 1 if o["lr_decay"] == 0 else None

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        return Gap(r[SHRINK])
