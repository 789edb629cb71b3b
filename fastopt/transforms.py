"""What may be done to gradients on their way to the rule, and to parameters after it, in the same pass over memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from . import checks
from .checks import Array
from .errors import DTypeError, UnsupportedError

__all__ = ["clip_global_norm", "ema", "lookahead", "swa"]

MOST_MEANS = 2  # averages that one pass carries


@dataclass(frozen=True)
class ClipGlobalNorm:
    """See `clip_global_norm`."""

    max_norm: float

    def factor(self, norm: float) -> float:
        """What the gradients are multiplied by."""
        found = self.max_norm / (norm + 1e-6)
        return 1.0 if found > 1.0 else found  # NaN stays


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


Transform = ClipGlobalNorm | Mean


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
    if isinstance(given, (ClipGlobalNorm, Mean)):
        given = (given,)
    if not isinstance(given, (list, tuple)):
        raise DTypeError(
            f"transforms must be a list of transforms, such as [fastopt.clip_global_norm(1.0)], got {given!r:.80}"
        )
    for one in given:
        if not isinstance(one, (ClipGlobalNorm, Mean)):
            raise DTypeError(f"transforms has {one!r:.80}, which is none; fastopt.transforms has them")
    if len(clips(given)) > 1:
        raise UnsupportedError("transforms has more than one clip_global_norm; pass the smaller one alone")
    names = [m.state for m in means(given)]
    if len(names) > MOST_MEANS or len(set(names)) < len(names):
        raise UnsupportedError(f"transforms has the averages {names}; at most {MOST_MEANS}, each once, can be kept")
    return tuple(given)


def clips(transforms: Sequence[Transform]) -> list[ClipGlobalNorm]:
    """Those of `transforms` that clip."""
    return [t for t in transforms if isinstance(t, ClipGlobalNorm)]


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
    """What the gradients are multiplied by, for the sum of their squares."""
    return clips(transforms)[0].factor(math.sqrt(squares)) if clips(transforms) else 1.0
