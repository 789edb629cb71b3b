"""What may be done to gradients on their way to the rule, and to parameters after it, in the same pass over memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np

from . import checks
from .checks import Array
from .elementary import normals_of
from .errors import DTypeError, HyperParameterError, UnsupportedError
from .reductions import folded_blocks, row_totals, total

__all__ = [
    "clip_adaptive",
    "clip_global_norm",
    "clip_norm",
    "clip_value",
    "ema",
    "lookahead",
    "noise",
    "polyak",
    "swa",
]

T = TypeVar("T")
MOST_MEANS = 2  # averages that one pass carries


#: how the units of `ClipAdaptive` lie in memory: each a run of elements, each every so-manieth element, the parameter is one
BY_ROWS, BY_COLUMNS, ONE_UNIT = 1, 2, 3


@dataclass(frozen=True)
class ClipNorm:
    """See `clip_norm`."""

    max_norm: float

    def factor(self, norm: float) -> float:
        """What the gradients are multiplied by."""
        found = self.max_norm / (norm + 1e-6)
        return 1.0 if found > 1.0 else found  # NaN stays


@dataclass(frozen=True)
class ClipGlobalNorm(ClipNorm):
    """See `clip_global_norm`."""


@dataclass(frozen=True)
class ClipValue:
    """See `clip_value`."""

    limit: float

    def clipped(self, g: Array) -> Array:
        """`g` within the limit, as a new array."""
        limit = g.dtype.type(self.limit)
        g = np.where(g > limit, limit, g)
        return np.where(g < -limit, -limit, g)


@dataclass(frozen=True)
class ClipAdaptive:
    """See `clip_adaptive`."""

    clipping: float
    eps: float
    axis: int

    def units(self, shape: tuple[int, ...], order: str) -> tuple[int, int]:
        """How the units of a parameter lie in memory, and how many there are."""
        if len(shape) < 2:
            return ONE_UNIT, 1
        return BY_ROWS if (order == "C") == (self.axis == 0) else BY_COLUMNS, shape[self.axis]

    def factors(self, squares: Any, weights: Any) -> Any:
        """What units are multiplied by, for the sums of squares of gradient and parameter."""
        norm, least = np.sqrt(squares), np.sqrt(weights)
        most = self.clipping * np.where(least < self.eps, self.eps, least)
        return np.where(norm > most, most / np.where(norm > 1e-6, norm, 1e-6), 1.0)

    def scale(self, g: Array, p: Array, order: str) -> Any:
        """What the gradient (of some rows) of a parameter is multiplied by: a number, or an array that broadcasts."""
        wide, weights = g.astype(np.float64), p.astype(np.float64)
        wide, weights = wide * wide, weights * weights
        kind, count = self.units(g.shape, order)
        if kind == ONE_UNIT:
            return float(self.factors(total(wide), total(weights)))
        turned = order == "F"
        if turned:
            wide, weights = wide.T, weights.T
        if kind == BY_ROWS:
            found = self.factors(*(row_totals(x.reshape(count, -1 if x.size else 0)) for x in (wide, weights)))
            found = found.reshape(-1, *[1] * (g.ndim - 1))
        else:
            found = self.factors(*(folded_blocks(x.reshape(-1 if x.size else 0, count)) for x in (wide, weights)))
            found = found.reshape(*[1] * (g.ndim - 1), -1)
        return (found.T if turned else found).astype(g.dtype)


@dataclass(frozen=True)
class Noise:
    """See `noise`."""

    eta: float
    gamma: float
    seed: int

    def sigma(self, step: int) -> float:
        """The standard deviation in the optimizer's step (counted from 1)."""
        return math.sqrt(self.eta * float(step) ** -self.gamma)

    def numbers(self, elements: Array, which: int, step: int) -> Array:
        """Normal variates for elements of parameter `which`, given by their places in memory, in the step counted from 1."""
        return normals_of(elements, which, step - 1, self.seed)


@dataclass(frozen=True)
class Mean:
    """An average of each parameter, kept beside the states of the rule."""

    state: ClassVar[str]
    kernel: ClassVar[str]

    def scalars(self, step: int) -> tuple[float, float] | None:
        """The kernel's two scalars for the optimizer's step (counted from 1); None: not in this step."""
        raise UnsupportedError("an average needs its scalars")


@dataclass(frozen=True)
class Ema(Mean):
    """See `ema`."""

    decay: float
    state = "ema"
    kernel = "average"

    def scalars(self, step: int) -> tuple[float, float] | None:
        return (0.0, 1.0) if step == 1 else (self.decay, 1.0 - self.decay)


@dataclass(frozen=True)
class Swa(Mean):
    """See `swa`."""

    start: int
    every: int
    state = "swa"
    kernel = "average"

    def scalars(self, step: int) -> tuple[float, float] | None:
        n, rest = divmod(step - self.start, self.every)
        if (
            n < 1
        ):  # nothing to average yet: what is not touched in the first step that is averaged enters it as it stands
            return 0.0, 1.0
        return None if rest else ((n - 1) / n, 1.0 / n)


@dataclass(frozen=True)
class Lookahead(Mean):
    """See `lookahead`."""

    k: int
    alpha: float
    state = "slow"
    kernel = "lookahead"

    def scalars(self, step: int) -> tuple[float, float] | None:
        return None if step % self.k else (self.alpha, 0.0)


Transform = ClipValue | ClipNorm | ClipAdaptive | Noise | Mean
#: each of these kinds, of which `ClipGlobalNorm` is one, may be there once
KINDS: tuple[tuple[str, type[Any] | tuple[type[Any], ...]], ...] = (
    ("clip_value", ClipValue),
    ("clip_norm, clip_global_norm and clip_adaptive", (ClipNorm, ClipAdaptive)),
    ("noise", Noise),
)


def clip_global_norm(max_norm: float) -> ClipGlobalNorm:
    """Scale all gradients of a step so that their common 2-norm is at most `max_norm`.

    Parameters
    ----------
    max_norm : float
        Above 0.

    Notes
    -----
    The factor is PyTorch's, ``min(1, max_norm / (norm + 1e-6))`` (Pascanu, Mikolov and Bengio 2013), of all groups together,
    derived and summed in float64 in an order that depends on the data alone. Entries of a sparse gradient that repeat are
    summed first. A norm that is NaN makes all gradients NaN; see `nonfinite`. Keras's has no 1e-6. A
    norm beyond float64 (gradients above 1e154) is infinite, and the factor 0.
    """
    return ClipGlobalNorm(checks.number(0.0, closed_low=False)("max_norm", max_norm))


def clip_norm(max_norm: float) -> ClipNorm:
    """Scale the gradient of each parameter so that its own 2-norm is at most `max_norm`.

    Parameters
    ----------
    max_norm : float
        Above 0.

    Notes
    -----
    Keras calls it ``clipnorm``. The factor is that of `clip_global_norm`, ``min(1, max_norm / (norm + 1e-6))``, as
    ``torch.nn.utils.clip_grad_norm_`` gives for one parameter; Keras has no 1e-6. The norm of a sparse gradient is that of its
    rows, repeated ones summed first. A NaN makes all of that parameter's gradient NaN; see `nonfinite`.
    """
    return ClipNorm(checks.number(0.0, closed_low=False)("max_norm", max_norm))


def clip_value(limit: float) -> ClipValue:
    """Clip each element of the gradient into ``[-limit, limit]``.

    Parameters
    ----------
    limit : float
        Above 0. Rounded to the dtype of each parameter.

    Notes
    -----
    As ``torch.nn.utils.clip_grad_value_`` and Keras's ``clipvalue``. NaN stays NaN; an infinity becomes the limit, and is
    still one for `nonfinite`. It comes before `clip_norm`, `clip_global_norm` and `clip_adaptive`, whose norms are of what it
    leaves. Entries of a sparse gradient that repeat are summed first.
    """
    return ClipValue(checks.number(0.0, closed_low=False)("limit", limit))


def clip_adaptive(clipping: float = 0.01, eps: float = 1e-3, *, axis: int = 0) -> ClipAdaptive:
    """Adaptive gradient clipping (Brock, De, Smith and Simonyan 2021): the norm of a unit's gradient is at most `clipping`
    times the norm of its weights.

    Parameters
    ----------
    clipping : float, default 0.01
        Above 0.
    eps : float, default 1e-3
        Above 0. What the norm of the weights counts for at least.
    axis : {0, -1}, default 0
        The axis that numbers the units: 0 for weights of shape (out, in) or (out, in, height, width), as in PyTorch; -1 for
        (in, out), where a layer computes ``x @ W``, as in Keras.

    Notes
    -----
    ``g *= clipping * max(|w|, eps) / max(|g|, 1e-6)`` where ``|g| > clipping * max(|w|, eps)``, with 2-norms over a unit,
    summed in float64 in an order that the data alone determine. A parameter of less than two dimensions is one unit. The
    authors leave the last layer out: give it an optimizer of its own. Of a `SparseGrad`, the rows that it lists are all there
    is, in the norms of the weights, too. A norm that is NaN clips nothing. There is none with ``sparse="exact"``, where weights
    wait to be caught up.
    """
    if isinstance(axis, bool) or axis not in (0, -1):
        raise HyperParameterError(f"axis must be 0 or -1, got {axis!r}; move the units' axis to the front of the array")
    return ClipAdaptive(
        checks.number(0.0, closed_low=False)("clipping", clipping),
        checks.number(0.0, closed_low=False)("eps", eps),
        int(axis),
    )


def noise(eta: float = 0.01, gamma: float = 0.55, seed: int = 0) -> Noise:
    """Add normal noise of variance ``eta / (1 + t)**gamma`` to each element of the gradient in step t, counted from 0
    (Neelakantan et al. 2015).

    Parameters
    ----------
    eta : float, default 0.01
        Above 0. The paper tries 0.01, 0.3 and 1.
    gamma : float, default 0.55
        At least 0.
    seed : int from 0 to 2**64 - 1, default 0

    Notes
    -----
    t is the optimizer's count of completed steps, which schedules see: loaded from a state dict, it goes on with the same
    noise. It comes after the sign of `maximize` and after clipping, before weight decay.

    The noise is a pure function of the seed, t, the number of the parameter in the optimizer, and the element: Philox4x32-10
    (Salmon et al. 2011), and Box and Muller's method in float64, each from 32-bit words. So no thread, chunk or build changes a
    bit of it, and a row that a `SparseGrad` lists gets what it would have got in a dense step; rows that are not listed get none,
    and ``sparse="exact"`` has no noise. An element is counted by its place in memory: a parameter in Fortran order gets other
    noise than its copy in C order. optax draws its own numbers.
    """
    return Noise(
        checks.number(0.0, closed_low=False)("eta", eta),
        checks.non_negative("gamma", gamma),
        checks.integer(0, 2**64 - 1)("seed", seed),
    )


def ema(decay: float = 0.999) -> Ema:
    """Exponential moving average of the parameters, ``ema <- decay * ema + (1 - decay) * p`` after each step.

    Parameters
    ----------
    decay : float in [0, 1), default 0.999

    Notes
    -----
    After the first step it is a copy of the parameters, as in PyTorch's ``AveragedModel`` and in Keras, whose default is 0.99.
    A parameter without a gradient, and with a `SparseGrad` a row that is not listed, keeps its average.
    """
    return Ema(checks.fraction("decay", decay))


def swa(start: int = 0, every: int = 1) -> Swa:
    """Stochastic weight averaging (Izmailov et al. 2018): the mean of the parameters after every `every`-th step.

    Parameters
    ----------
    start : int, default 0
        So many steps pass before the average begins; until then it is a copy of the parameters.
    every : int, default 1

    Notes
    -----
    A parameter without a gradient, and with a `SparseGrad` a row that is not listed, keeps its average.
    """
    return Swa(checks.integer(0)("start", start), checks.integer(1)("every", every))


def polyak(start: int = 0) -> Swa:
    """Polyak-Ruppert averaging (Polyak and Juditsky 1992): the mean of the parameters after every step beyond `start`.

    Parameters
    ----------
    start : int, default 0

    Notes
    -----
    Another name for ``swa(start)``; `Optimizer.averaged` has it as "swa". The optimizer `ASGD` has such an average of its own.
    """
    return swa(start)


def lookahead(k: int = 5, alpha: float = 0.5) -> Lookahead:
    """Lookahead (Zhang, Lucas, Hinton and Ba 2019): every `k` steps the slow weights go `alpha` of the way to the parameters,
    which begin anew from there.

    Parameters
    ----------
    k : int, default 5
    alpha : float in [0, 1], default 0.5

    Notes
    -----
    The states of the rule are kept. With a `SparseGrad`, only the rows listed in that very step are brought together.
    """
    return Lookahead(checks.integer(1)("k", k), checks.number(0.0, 1.0)("alpha", alpha))


def check(given: Any) -> tuple[Transform, ...]:
    """`given` as a tuple of transforms that go together, or an error."""
    known = ClipValue, ClipNorm, ClipAdaptive, Noise, Mean
    if isinstance(given, known):
        given = (given,)
    if not isinstance(given, (list, tuple)):
        raise DTypeError(
            f"transforms must be a list of transforms, such as [fastopt.clip_global_norm(1.0)], got {given!r:.80}"
        )
    for one in given:
        if not isinstance(one, known):
            raise DTypeError(f"transforms has {one!r:.80}, which is none; fastopt.transforms has them")
    for what, kind in KINDS:
        if len(found := [t for t in given if isinstance(t, kind)]) > 1:
            raise UnsupportedError(f"transforms has {found!r:.160}; of {what}, pass one alone")
    names = [m.state for m in means(given)]
    if len(names) > MOST_MEANS or len(set(names)) < len(names):
        raise UnsupportedError(f"transforms has the averages {names}; at most {MOST_MEANS}, each once, can be kept")
    return tuple(given)


def the(transforms: Sequence[Transform], kind: type[T]) -> T | None:
    """The one among `transforms` that is of this very kind."""
    return next((t for t in transforms if type(t) is kind), None)


def needs_norms(transforms: Sequence[Transform]) -> bool:
    """Whether the norms of the gradients have to be known before a step."""
    return any(isinstance(t, (ClipNorm, ClipAdaptive)) for t in transforms)


def of_kernels(transforms: Sequence[Transform]) -> dict[str, Any]:
    """What the compiled plan is told of `transforms` beside the averages."""
    value, norm = the(transforms, ClipValue), the(transforms, ClipNorm)
    units, noise = the(transforms, ClipAdaptive), the(transforms, Noise)
    return {
        "limit": value and value.limit,
        "max_norm": norm and norm.max_norm,
        "units": units and (units.clipping, units.eps),
        "seed": noise and noise.seed,
    }


def why_not_exact(transforms: Sequence[Transform]) -> str:
    """Why `transforms` have no exact sparse mode, and what to do instead; empty where they have one."""
    if found := means(transforms):
        return (
            f"has no {found[0].state}: an average of rows that are caught up later is no one's; use sparse='lazy', or "
            "average what `read` returns"
        )
    if the(transforms, Noise):
        return "has no noise, which would move every row in every step; use sparse='lazy', where listed rows get it"
    if the(transforms, ClipAdaptive):
        return "has no clip_adaptive: it needs weights that are caught up later; use clip_norm, or sparse='lazy'"
    return ""


def means(transforms: Sequence[Transform]) -> list[Mean]:
    """Those of `transforms` that average, in their order."""
    return [t for t in transforms if isinstance(t, Mean)]


# ------------------------------------------------------------------------------------------------- NumPy references


def average(m: Array, p: Array, h: Array) -> None:
    """Reference of ``mean_average``."""
    m[...] = h[0] * m + h[1] * p


def look_ahead(m: Array, p: Array, h: Array) -> None:
    """Reference of ``mean_lookahead``."""
    m[...] = m + h[0] * (p - m)
    p[...] = m


REFERENCES: dict[str, Callable[[Array, Array, Array], None]] = {"average": average, "lookahead": look_ahead}


def norm_factor(transforms: Sequence[Transform], squares: float) -> float:
    """What all gradients are multiplied by, for the sum of their squares."""
    clip = the(transforms, ClipGlobalNorm)
    return 1.0 if clip is None else clip.factor(math.sqrt(squares))
