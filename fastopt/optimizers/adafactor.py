"""Adafactor."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from ..errors import HyperParameterError
from ..passes import Pass, Runner, folded, row_sums, sum_of_squares
from ..reductions import STACKED, SUMMED, block_sums, blocks_of, stacked_sums
from .base import Common, Optimizer, Rule
from .tables import Scalars
from .whole import States, WholePlan


def _squares(g: Array, row: Array, column: Array) -> None:
    wide = g.astype(np.float64)
    wide = wide * wide
    row[...] = np.moveaxis(block_sums(wide), -1, 0).reshape(row.shape)
    column[...] = np.moveaxis(stacked_sums(wide), -2, 0).reshape(column.shape)


def _direction(g: Array, v: Array, least: Any) -> Array:
    return g / np.sqrt(np.where(v < least, least, v))


def _norm(g: Array, row: Array, column: Array, sums: Array, h: Array) -> None:
    wide = _direction(g, row[..., np.newaxis] * column[:, np.newaxis], h[0]).astype(np.float64)
    sums[...] = np.moveaxis(block_sums(wide * wide), -1, 0).reshape(sums.shape)


def _adafactor(p: Array, g: Array, row: Array, column: Array, h: Array) -> None:
    keep, step, least = h
    p[...] = keep * p - step * _direction(g, row[..., np.newaxis] * column[:, np.newaxis], least)


def _moment(g: Array, v: Array, sums: Array, h: Array) -> None:
    keep, take, added, least = h
    v[...] = keep * v + take * (g * g + added)
    wide = _direction(g, v, least).astype(np.float64)
    sums[...] = block_sums(wide * wide)


def _vector(p: Array, g: Array, v: Array, h: Array) -> None:
    keep, step, least = h
    p[...] = keep * p - step * _direction(g, v, least)


SQUARES = Pass("adafactor_squares", _squares)
NORM = Pass("adafactor_norm", _norm)
STEP = Pass("adafactor", _adafactor)
MOMENT = Pass("adafactor_moment", _moment)
VECTOR = Pass("adafactor_vector", _vector)


def adafactor(run: Runner, p: Array, g: Array, states: States, h: Array) -> None:
    _, keep, beta, take, rate, scale, least_rms, d, added, least_mean, least = h
    rms = math.sqrt(sum_of_squares(run, p) / p.size) * float(scale)
    rate = (rms if rms > least_rms else float(least_rms)) * float(rate)

    def bounded(squares: float) -> Array:
        """What a step reads, for an update with this sum of squares."""
        excess = math.sqrt(squares / p.size) / float(d)
        return np.array([keep, rate / (excess if excess > 1 else 1.0), least], p.dtype)

    if p.ndim < 2:
        p, g, v = p.reshape(-1), g.reshape(-1), states[0].reshape(-1)
        blocks = np.empty((blocks_of(p.size, SUMMED), 1))
        run(MOMENT, len(blocks), (p.size,), (g, v, blocks[:, 0]), np.array([beta, take, added, least]))
        run(VECTOR, p.size, (), (p, g, v), bounded(float(folded(run, blocks)[0])))
        return
    rows, columns = p.shape[-2:]
    count = p.size // (rows * columns)
    p, g = p.reshape(count, rows, columns), g.reshape(count, rows, columns)
    row, column = states[0].reshape(count, rows), states[1].reshape(count, columns)
    along, down = blocks_of(columns, SUMMED), blocks_of(rows, STACKED)
    row_sum, column_sum = np.empty((along, count * rows)), np.empty((down, count * columns))
    run(SQUARES, count * along * down, (count, rows, columns), (g, row_sum, column_sum))
    for state, sums, n in ((row, row_sum, columns), (column, column_sum, rows)):
        mean = folded(run, sums) / n + float(added)
        state[...] = beta * state + take * mean.astype(p.dtype).reshape(state.shape)
    mean = (row_sums(run, row) / rows).astype(p.dtype)
    factor = row / np.where(mean < least_mean, least_mean, mean)[:, np.newaxis]
    sums = np.empty((along, count * rows))
    run(NORM, sums.size, (count, rows, columns), (g, factor, column, sums), np.array([least]))
    squares = float(row_sums(run, folded(run, sums).reshape(1, -1))[0])
    run(STEP, sums.size, (rows, columns), (p, g, factor, column), bounded(squares))


def _epsilons(name: str, value: Any) -> tuple[float | None, float]:
    """A check for a pair of numbers, the first of which may be None."""
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise HyperParameterError(f"{name} must be a pair of numbers, of which the first may be None, got {value!r}")
    first, second = value
    return (
        None if first is None else checks.non_negative(f"{name}[0]", first),
        checks.non_negative(f"{name}[1]", second),
    )


class Adafactor(Optimizer):
    r"""Adafactor (Shazeer and Stern 2018): a second moment of one number a row and one a column, steps relative to the
    parameter's size, and updates of bounded size.

    .. math::
        \beta &= 1 - t^\tau, \quad \alpha = \max(\epsilon_2, \mathrm{rms}(p)) \min(\eta, 1/\sqrt{t}) \\
        r &\leftarrow \beta r + (1-\beta) \mathrm{mean}_j\, g_{ij}^2, \quad
        c \leftarrow \beta c + (1-\beta) \mathrm{mean}_i\, g_{ij}^2, \quad
        v = r c^T / \max(\mathrm{mean}\, r, \epsilon_1) \\
        u &= g / \sqrt{\max(v, \epsilon_1^2)}, \quad
        p \leftarrow (1 - \eta \lambda) p - \alpha\, u / \max(1, \mathrm{rms}(u) / d)

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1e-2
        The largest relative step, and the rate of weight decay.
    beta2_decay : float of at most 0, default -0.8
        The exponent :math:`\tau`.
    eps : pair of floats, default (None, 1e-3)
        :math:`\epsilon_1`, where None is the distance from 1 to the next number of the dtype, and :math:`\epsilon_2`. The
        smallest normal number of the dtype is the least that anything is divided by.
    d : float above 0, default 1.0
        PyTorch takes no less than 1, Keras does.
    weight_decay : float or callable, default 0
        Decoupled.
    eps_form : {"outside", "inside"}, default "outside"
        Where :math:`\epsilon_1` sits: as above (PyTorch), or added to :math:`g^2` (the paper, Keras), and nothing else; with
        "inside", the rms of p is taken after the decay, as in Keras.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    State: ``row_var`` and ``col_var``; of a parameter of fewer than two dimensions ``variance``, the second moment itself. The
    last two dimensions are factored, any before them make a number of matrices. Keras's ``relative_step`` changes nothing
    there. PyTorch forms the means in the dtype, here they are formed in float64, and r is divided by its mean before it
    meets c, so that less overflows. With a sparse gradient, which PyTorch refuses, means and sizes are those of the rows that
    it lists; the statistics of the columns, which all rows share, have no exact mode.
    """

    options = {
        "beta2_decay": checks.number(high=0.0),
        "eps": _epsilons,
        "d": checks.number(0.0, closed_low=False),
        "eps_form": checks.one_of("outside", "inside"),
    }
    # Of a vector: "variance"; see state_shapes.
    rules = (Rule("adafactor", ("row_var", "col_var"), adafactor, moved=6),)
    passes = (SQUARES, NORM, STEP, MOMENT, VECTOR)
    plan = WholePlan
    for_samples = False
    own_decay = ("coupled", "decoupled")

    presets = {
        "keras": {"lr": 1e-3, "eps": (1e-30, 1e-3), "eps_form": "inside"},
        "paper": {"eps": (1e-30, 1e-3), "eps_form": "inside"},
    }

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        eps_form: str = "outside",
        **common: Unpack[Common],
    ) -> None:
        options = dict(lr=lr, beta2_decay=beta2_decay, eps=eps, d=d, weight_decay=weight_decay, eps_form=eps_form)
        super().__init__(params, options, **common)

    @classmethod
    def state_shapes(cls, shape: tuple[int, ...], o: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        if len(shape) < 2:
            return {"variance": shape}
        return {"row_var": (*shape[:-1], 1), "col_var": (*shape[:-2], 1, shape[-1])}

    @classmethod
    def along_rows(cls, state: str, shape: tuple[int, ...]) -> bool:
        return state != "col_var" or len(shape) > 2

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        take = np.array([float(k) ** o["beta2_decay"] for k in t.tolist()])  # not NumPy's power, which varies
        root = 1.0 / np.sqrt(t)
        keep = 1.0 - o["lr"] * o["weight_decay"]
        eps1 = o["ulp"] if o["eps"][0] is None else o["eps"][0]
        inside = o["eps_form"] == "inside"
        return (
            keep,
            1.0 - take,
            take,
            np.where(o["lr"] < root, o["lr"], root),
            keep if inside else 1.0,
            o["eps"][1],
            max(o["d"], o["tiny"]),
            eps1 if inside else 0.0,
            o["tiny"] if inside else max(eps1, o["tiny"]),
            o["tiny"] if inside else max(eps1 * eps1, o["tiny"]),
        )

    @staticmethod
    def settled(o: Mapping[str, Any], born: int) -> int | None:
        return None
