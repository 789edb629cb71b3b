"""Muon."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from ..errors import HyperParameterError, ShapeError
from ..passes import Pass, Runner, folded
from ..reductions import SUMMED, block_sums, blocks_of
from .base import Common, Optimizer, Rule
from .tables import Scalars
from .whole import States, WholePlan


def _square_sums(u: Array) -> Array:
    wide = u.astype(np.float64)
    return block_sums(wide * wide)


def _momentum(u: Array, g: Array, b: Array, sums: Array, h: Array) -> None:
    keep, take = h
    u[...] = b[...] = keep * b + take * g
    sums[...] = _square_sums(u)


def _nesterov(u: Array, g: Array, b: Array, sums: Array, h: Array) -> None:
    keep, take = h
    b[...] = keep * b + take * g
    u[...] = take * g + keep * b
    sums[...] = _square_sums(u)


def _muon(p: Array, x: Array, h: Array) -> None:
    keep, step = h
    p[...] = keep * p - step * x


MOMENTUM = Pass("muon_momentum", _momentum)
NESTEROV = Pass("muon_nesterov", _nesterov)
STEP = Pass("muon", _muon)


def muon(run: Runner, p: Array, g: Array, states: States, h: Array) -> None:
    _, keep, rate, keep1, take1, ahead, a, b, c, eps, steps, match = h
    u = np.empty_like(p)
    sums = np.empty((blocks_of(p.size, SUMMED), 1))
    flat = tuple(x.reshape(-1) for x in (u, g, states[0]))
    run(NESTEROV if ahead else MOMENTUM, len(sums), (p.size,), (*flat, sums[:, 0]), np.array([keep1, take1]))
    norm = math.sqrt(folded(run, sums)[0])
    x = orthogonal(u, norm if not norm < eps else float(eps), (a, b, c), int(steps))
    rows, columns = p.shape
    adjusted = 0.2 * math.sqrt(max(rows, columns)) if match else math.sqrt(max(1.0, rows / columns))
    h = np.array([keep, float(rate) * adjusted], p.dtype)
    run(STEP, p.size, (), (p.reshape(-1), x.reshape(-1)), h)


def orthogonal(u: Array, norm: float, coefficients: tuple[Any, Any, Any], steps: int) -> Array:
    """Near the closest matrix to `u` with orthonormal rows or columns, by Newton-Schulz iterations; `u` may be overwritten."""
    a, b, c = coefficients
    tall = len(u) > u.shape[1]
    x = np.ascontiguousarray(u.T) if tall else u
    x /= x.dtype.type(norm)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return np.ascontiguousarray(x.T) if tall else x


def _coefficients(name: str, value: Any) -> tuple[float, ...]:
    """A check for three numbers."""
    if not isinstance(value, (tuple, list)) or len(value) != 3:
        raise HyperParameterError(f"{name} must be three numbers, got {value!r}")
    return tuple(checks.number()(f"{name}[{k}]", x) for k, x in enumerate(value))


def _adjustment(name: str, value: Any) -> str | None:
    return None if value is None else str(checks.one_of("original", "match_rms_adamw")(name, value))


class Muon(Optimizer):
    r"""Muon (Jordan et al. 2024): momentum, made orthogonal, for the matrices of hidden layers.

    .. math::
        b &\leftarrow \mu b + (1-\mu) g, \quad u = \mu b + (1-\mu) g \text{ (Nesterov) or } b \\
        x &= u / \max(\lVert u \rVert_F, \epsilon), \quad \text{ns\_steps times: }
        x \leftarrow a x + (b A + c A^2) x, \; A = x x^T \\
        p &\leftarrow (1 - \eta \lambda) p - \eta s x

    Parameters
    ----------
    params : array, list, dict or list of groups
        Matrices; parameters of other shapes go to another optimizer.
    lr : float or callable, default 1e-3
    weight_decay : float or callable, default 0.1
        Decoupled.
    momentum : float in [0, 1) or callable, default 0.95
    nesterov : bool, default True
    ns_coefficients : three floats, default (3.4445, -4.775, 2.0315)
        a, b and c.
    eps : float, default 1e-7
        At least the smallest normal number of the dtype is used.
    ns_steps : int of at most 99, default 5
    adjust_lr_fn : {None, "original", "match_rms_adamw"}, default None
        The factor s: :math:`\sqrt{\max(1, \text{rows} / \text{columns})}`, also for None, or
        :math:`0.2 \sqrt{\max(\text{rows}, \text{columns})}` (Liu et al. 2025).
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    State: ``momentum_buffer``. PyTorch and the author iterate in bfloat16, here it is the parameter's own dtype. The matrix
    products are those of NumPy's BLAS: its bits, alone in fastopt, depend on the machine and on its threads. Keras adds
    epsilon to the norm and has :math:`b \leftarrow \mu b + g`, the same step but for epsilon; it steps by Adam what is no
    matrix. With a sparse gradient, which PyTorch refuses, the matrix is that of the rows that it lists; there is no exact mode.
    """

    options = {
        "momentum": checks.scheduled(checks.fraction),
        "nesterov": checks.flag,
        "ns_coefficients": _coefficients,
        "eps": checks.non_negative,
        "ns_steps": checks.integer(0, 99),
        "adjust_lr_fn": _adjustment,
    }
    rules = (Rule("muon", ("momentum_buffer",), muon, moved=9),)
    passes = (MOMENTUM, NESTEROV, STEP)
    plan = WholePlan
    for_samples = False
    own_decay = ("coupled", "decoupled")

    presets = {
        "keras": {"lr": 1e-3, "weight_decay": 4e-3, "adjust_lr_fn": "match_rms_adamw"},
        "paper": {"lr": 0.02, "weight_decay": 0.0},
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        *,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        **common: Unpack[Common],
    ) -> None:
        options = dict(
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            ns_coefficients=ns_coefficients,
            eps=eps,
            ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr_fn,
        )
        super().__init__(params, options, **common)

    @classmethod
    def check_shape(cls, label: str, shape: tuple[int, ...]) -> None:
        if len(shape) != 2:
            raise ShapeError(
                f"{label} has shape {shape}, but Muon takes matrices; give other parameters to another optimizer, such as "
                "AdamW, or reshape them"
            )

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        return (
            1.0 - o["lr"] * o["weight_decay"],
            o["lr"],
            o["momentum"],
            1.0 - o["momentum"],
            float(o["nesterov"]),
            *o["ns_coefficients"],
            max(o["eps"], o["tiny"]),
            float(o["ns_steps"]),
            float(o["adjust_lr_fn"] == "match_rms_adamw"),
        )
