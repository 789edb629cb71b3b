"""Adagrad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from .base import Catch, Common, Optimizer, Rule
from .tables import SHRINK, Gap, Scalars, eps_places


def adagrad(p: Array, g: Array, a: Array, h: Array) -> None:
    rate, inner, outer = h
    a[...] = a + g * g
    p[...] = p - rate * (g / (np.sqrt(a + inner) + outer))


class Adagrad(Optimizer):
    r"""Adagrad (Duchi, Hazan and Singer 2011).

    .. math::
        a \leftarrow a + g^2, \quad p \leftarrow p - \frac{\eta}{1 + (t-1)\,\mathrm{lr\_decay}} \cdot
        \frac{g}{\sqrt{a} + \epsilon}

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1e-2
    lr_decay : float, default 0
    weight_decay : float, default 0
        Coupled (added to the gradient), unless ``decoupled_weight_decay``.
    initial_accumulator_value : float, default 0
    eps : float, default 1e-10
        At least the smallest normal number of the dtype is used, so that 0/0 cannot arise.
    eps_form : {"outside", "inside"}, default "outside"
        Where epsilon sits: beside the root (PyTorch), or inside, :math:`\sqrt{a + \epsilon}` (Keras, optax).
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    State: ``sum``. PyTorch refuses weight decay with sparse gradients; here touched rows decay.
    """

    options = {
        "lr_decay": checks.non_negative,
        "initial_accumulator_value": checks.non_negative,
        "eps": checks.non_negative,
        "eps_form": checks.one_of("outside", "inside"),
    }
    rules = (Rule("adagrad", ("sum",), adagrad, Catch("decay0", 0, 0)),)

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
        **common: Unpack[Common],
    ) -> None:
        options = dict(
            lr=lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            eps_form=eps_form,
        )
        super().__init__(params, options, **common)

    @staticmethod
    def start(state: str, o: Mapping[str, Any]) -> float:
        return float(o["initial_accumulator_value"])

    @staticmethod
    def rule(o: Mapping[str, Any]) -> str:
        return "adagrad"

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        return o["lr"] / (1.0 + (t - 1) * o["lr_decay"]), *eps_places(o)

    @staticmethod
    def settled(o: Mapping[str, Any], born: int) -> int | None:
        return 1 if o["lr_decay"] == 0 else None

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        return Gap(r[SHRINK])
