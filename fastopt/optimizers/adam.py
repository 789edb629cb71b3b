"""Adam, AMSGrad and AdamW."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from .base import ALL, Catch, Common, Optimizer, Rule
from .powers import powers
from .tables import SHRINK, SPAN, Gap, Scalars


def adam(p: Array, g: Array, m: Array, v: Array, h: Array) -> None:
    keep1, take1, keep2, take2, step, scale, eps = h
    m[...] = keep1 * m + take1 * g
    v[...] = keep2 * v + take2 * (g * g)
    p[...] = p - step * (m / (np.sqrt(v) * scale + eps))


def adam_amsgrad(p: Array, g: Array, m: Array, v: Array, w: Array, h: Array) -> None:
    keep1, take1, keep2, take2, step, scale, eps = h
    m[...] = keep1 * m + take1 * g
    v[...] = keep2 * v + take2 * (g * g)
    w[...] = np.where(w >= v, w, v)
    p[...] = p - step * (m / (np.sqrt(w) * scale + eps))


def power_below(beta: float, bits: int) -> int:
    """The first step t from which beta**t is below 2**-bits, so that 1 - beta**t is exactly 1."""
    return 1 if beta == 0 else max(1, math.ceil(bits / -math.log2(beta)))


def outlive(o: Mapping[str, Any], ways: str = "") -> str:
    """Why these betas have no exact sparse mode, with Adam's root; empty where they have one. `ways`: what else to do."""
    beta1, beta2 = o["betas"]
    if beta1 < math.sqrt(beta2):
        return ""
    return (
        f"betas={o['betas']} have beta1 >= sqrt(beta2), with which the steps of a row without gradients grow instead of "
        f"fading; use a smaller beta1, a larger beta2{ways} or sparse='lazy'"
    )


def fade_of(o: Mapping[str, Any]) -> float:
    """How fast the moves of a row without gradients fade with Adam's root."""
    return float(o["betas"][0] / math.sqrt(o["betas"][1]))


def adam_gap(
    keep: Array, decays: tuple[Any, Any], root: Any, step: Any, eps: Any, fade: float, series: int, back: Any = 0.0
) -> Gap:
    """The gap of ``p <- p - step m / (norm + eps)``, where m and norm are multiplied by ``decays[0]`` and `root`."""
    # See kernels/adam.pyx: the moves are a / (norm + y), with a and y as below and powers of the decays for later steps.
    a, y = step * decays[0] / root, eps / root
    return Gap(keep, decays, [(decays[0] / root ** (j + 1), a * y**j) for j in range(series)], back, fade=fade)


class Adam(Optimizer):
    r"""Adam (Kingma and Ba 2014, algorithm 1), with AMSGrad (Reddi, Kale and Kumar 2018) as an option.

    .. math::
        m &\leftarrow \beta_1 m + (1-\beta_1) g, \quad v \leftarrow \beta_2 v + (1-\beta_2) g^2 \\
        p &\leftarrow p - \frac{\eta}{1-\beta_1^t} \cdot \frac{m}{\sqrt{v}/\sqrt{1-\beta_2^t} + \epsilon}

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1e-3
    betas : pair of floats in [0, 1), default (0.9, 0.999)
    eps : float, default 1e-8
        At least the smallest normal number of the dtype is used, so that 0/0 cannot arise.
    weight_decay : float or callable, default 0
        Coupled (added to the gradient), unless ``decoupled_weight_decay``.
    amsgrad : bool, default False
        Divide by the root of the largest v so far. As in PyTorch, the maximum is over v before bias correction.
    eps_form : {"outside", "hat"}, default "outside"
        Where epsilon sits: as above (PyTorch, the paper's algorithm 1), or beside the uncorrected root,
        :math:`\eta \sqrt{1-\beta_2^t}/(1-\beta_1^t) \cdot m/(\sqrt{v}+\hat\epsilon)` (Keras, PyTorch's SparseAdam).
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    PyTorch forms the first moment as ``m + (1 - beta1) * (g - m)``; here it is ``beta1 * m + (1 - beta1) * g``. The two
    differ by rounding. Keras has the other epsilon, and decoupled decay. The paper's AMSGrad has no bias corrections;
    here, as in PyTorch and Keras, it has. PyTorch's SparseAdam is ``sparse="lazy"`` with ``eps_form="hat"``. State:
    ``exp_avg``, ``exp_avg_sq``, with ``amsgrad`` ``max_exp_avg_sq``.
    """

    options = {
        "betas": checks.pair(checks.fraction),
        "eps": checks.non_negative,
        "amsgrad": checks.flag,
        "eps_form": checks.one_of("outside", "hat"),
    }
    pace = 4
    rules = (
        Rule("adam", ("exp_avg", "exp_avg_sq"), adam, Catch("adam", 2, ALL)),
        Rule(
            "adam_amsgrad",
            ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
            adam_amsgrad,
            Catch("adam_amsgrad", 2, ALL),
            merge=("sum", "mean", "mean", "max"),
        ),
    )

    presets = {
        "keras": {"lr": 1e-3, "eps": 1e-7, "eps_form": "hat", "decoupled_weight_decay": True},
        "paper": {},
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        eps_form: str = "outside",
        **common: Unpack[Common],
    ) -> None:
        options = dict(
            lr=lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            eps_form=eps_form,
        )
        super().__init__(params, options, **common)

    @staticmethod
    def rule(o: Mapping[str, Any]) -> str:
        return "adam_amsgrad" if o["amsgrad"] else "adam"

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        beta1, beta2 = o["betas"]
        bc1, bc2 = 1.0 - powers(beta1, t), 1.0 - powers(beta2, t)
        eps = max(o["eps"], o["tiny"])
        if o["eps_form"] == "hat":
            step, scale = o["lr"] * np.sqrt(bc2) / bc1, np.ones(t.shape)
        else:
            step, scale = o["lr"] / bc1, 1.0 / np.sqrt(bc2)
        return beta1, 1.0 - beta1, beta2, 1.0 - beta2, step, scale, eps

    @staticmethod
    def settled(o: Mapping[str, Any], born: int) -> int | None:
        return max(power_below(beta, 54) for beta in o["betas"])

    @classmethod
    def why_not_exact(cls, o: Mapping[str, Any]) -> str:
        why = "" if o["amsgrad"] else outlive(o, ", amsgrad=True")
        return why or super().why_not_exact(o)

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        beta1, beta2, step, scale, eps = r[SPAN], r[SPAN + 2], h[SPAN + 4], h[SPAN + 5], h[SPAN + 6]
        root, fade = (1.0, o["betas"][0]) if o["amsgrad"] else (np.sqrt(beta2), fade_of(o))
        return adam_gap(r[SHRINK], (beta1, beta2), root, step / scale, eps / scale, fade, series)


class AdamW(Adam):
    r"""Adam with decoupled weight decay (Loshchilov and Hutter 2017), with AMSGrad as an option.

    .. math::
        m &\leftarrow \beta_1 m + (1-\beta_1) g, \quad v \leftarrow \beta_2 v + (1-\beta_2) g^2 \\
        p &\leftarrow (1 - \eta \lambda) p - \frac{\eta}{1-\beta_1^t} \cdot
        \frac{m}{\sqrt{v}/\sqrt{1-\beta_2^t} + \epsilon}

    Parameters
    ----------
    weight_decay : float or callable, default 1e-2
        :math:`\lambda`: ``p *= 1 - lr * weight_decay`` before each update.
    params, lr, betas, eps, amsgrad, eps_form, **common
        As in `Adam`; the decay is always decoupled.

    Notes
    -----
    As in PyTorch and Keras the decay is multiplied by the rate; the paper multiplies it by the schedule's factor alone.
    Keras has the epsilon of its Adam. State: ``exp_avg``, ``exp_avg_sq``, with ``amsgrad`` ``max_exp_avg_sq``.
    """

    fixed = {"decoupled_weight_decay": True}
    presets = {"keras": {"lr": 1e-3, "eps": 1e-7, "eps_form": "hat", "weight_decay": 4e-3}}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        eps_form: str = "outside",
        **common: Unpack[Common],
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            eps_form=eps_form,
            **common,
        )
