"""Functions of two variables to be descended, and what the optimizers do on them. Only NumPy is needed here."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import checks
from ..checks import Array
from ..errors import HyperParameterError, NonFiniteError, ShapeError, UnsupportedError, did_you_mean
from ..optimizers.base import Optimizer, by_name

Pair = tuple[float, float]
#: A path is given up when it is so many widths of the domain away: the rest of it is NaN.
FAR = 100
#: What counts as being at a minimum.
NEAR = 0.1


@dataclass(frozen=True)
class Surface:
    """A function of two variables, and what is needed to descend and to draw it.

    Parameters
    ----------
    name : str
    value : callable
        ``value(x, y)``, for two numbers and for two arrays of one shape.
    gradient : callable
        ``gradient(x, y)``: the two partial derivatives, each in the shape of the value.
    domain : pair of pairs of floats
        What is drawn: the least and the greatest x, and those of y.
    start : pair of floats
        Where paths begin.
    slope : float
        The default rate of what moves in proportion to the gradient: see `RATES`.
    stride : float
        A length of the plane, from which the other default rates come: see `RATES`.
    steps : int
        After so many steps most optimizers have shown what they do.
    minima : tuple of pairs of floats, default ()
        The lowest points. None: a saddle, which paths have to leave.
    exit : float, default 0.0
        A path has left the saddle when the value is below this. Unused where there are minima.
    levels : {"even", "log"}, default "even"
        How the heights of the contours are spaced.
    solid : bool, default False
        Whether it is best seen in three dimensions.
    """

    name: str
    value: Callable[[Any, Any], Any]
    gradient: Callable[[Any, Any], tuple[Any, Any]]
    domain: tuple[Pair, Pair]
    start: Pair
    slope: float
    stride: float
    steps: int
    minima: tuple[Pair, ...] = ()
    exit: float = 0.0
    levels: str = "even"
    solid: bool = False

    def __post_init__(self) -> None:
        number, length = checks.number(), checks.non_negative
        point = checks.pair(number)
        for name in ("value", "gradient"):
            if not callable(getattr(self, name)):
                raise HyperParameterError(f"{name} must be a callable of x and y, got {getattr(self, name)!r}")
        sides = checks.several(point, 2, "a pair of pairs of numbers")("domain", self.domain)
        if not all(low < high for low, high in sides):
            raise HyperParameterError(
                f"domain must be the least and the greatest x, and those of y, got {self.domain!r}"
            )
        point("start", self.start)
        length("slope", self.slope), length("stride", self.stride), checks.integer(0)("steps", self.steps)
        for k, minimum in enumerate(self.minima):
            point(f"minima[{k}]", minimum)
        number("exit", self.exit), checks.one_of("even", "log")("levels", self.levels), checks.flag("solid", self.solid)

    @property
    def width(self) -> float:
        """The longer side of the domain."""
        return max(high - low for low, high in self.domain)

    def inside(self, points: Any) -> Array:
        """Which of the points, shape (..., 2), are in the domain, as bools of shape (...)."""
        low, high = np.array(self.domain).T
        return np.asarray(((points >= low) & (points <= high)).all(axis=-1))

    def there(self, points: Any, within: float = NEAR) -> Array:
        """Which of the points, shape (..., 2), are at most `within` from a minimum, or have left the saddle."""
        points = np.asarray(points, np.float64)
        if not self.minima:
            return np.asarray(self.value(points[..., 0], points[..., 1]) < self.exit)
        away = np.linalg.norm(points[..., None, :] - np.array(self.minima), axis=-1)
        return np.asarray((away <= within).any(axis=-1))

    def arrival(self, path: Any, within: float = NEAR) -> tuple[int | None, int | None]:
        """The first step at which a path is `there`, and the first from which on it stays there; None: never.

        What is NaN is not there; but a path that has left the saddle before it was given up stays away.
        """
        path = as_path("path", path)
        known = np.isfinite(path).all(axis=1)
        there = self.there(np.where(known[:, None], path, 0.0), within) & known
        if not self.minima:
            there = there[: np.flatnonzero(known)[-1] + 1] if known.any() else there
        at, away = np.flatnonzero(there), np.flatnonzero(~there)
        if not len(at):
            return None, None
        stays = int(away[-1]) + 1 if len(away) else 0
        return int(at[0]), stays if there[-1] else None


# ------------------------------------------------------------------------------------------------------------ surfaces


def _beale(x: Any, y: Any) -> Any:
    p, q, r = 1.5 - x + x * y, 2.25 - x + x * y * y, 2.625 - x + x * y**3
    return p * p + q * q + r * r


def _beale_gradient(x: Any, y: Any) -> tuple[Any, Any]:
    p, q, r = 1.5 - x + x * y, 2.25 - x + x * y * y, 2.625 - x + x * y**3
    return 2 * (p * (y - 1) + q * (y * y - 1) + r * (y**3 - 1)), 2 * x * (p + 2 * q * y + 3 * r * y * y)


def _rosenbrock(x: Any, y: Any) -> Any:
    c = y - x * x
    return 100 * c * c + (1 - x) ** 2


def _rosenbrock_gradient(x: Any, y: Any) -> tuple[Any, Any]:
    c = y - x * x
    return -400 * x * c - 2 * (1 - x), 200 * c


def _himmelblau(x: Any, y: Any) -> Any:
    p, q = x * x + y - 11, x + y * y - 7
    return p * p + q * q


def _himmelblau_gradient(x: Any, y: Any) -> tuple[Any, Any]:
    p, q = x * x + y - 11, x + y * y - 7
    return 4 * x * p + 2 * q, 2 * p + 4 * y * q


def _waves(x: Any, y: Any) -> Any:
    return x * x + y * y + 2 - np.cos(4 * x) - np.cos(4 * y)


def _waves_gradient(x: Any, y: Any) -> tuple[Any, Any]:
    return 2 * x + 4 * np.sin(4 * x), 2 * y + 4 * np.sin(4 * y)


#: The surfaces by name. The ravine of "valley" lies along an axis, which favours optimizers that scale each axis by itself.
SURFACES: dict[str, Surface] = {
    surface.name: surface
    for surface in (
        Surface(
            "beale",
            _beale,
            _beale_gradient,
            domain=((0.5, 4.5), (-1.25, 1.25)),
            start=(1.0, -1.0),
            slope=0.01,
            stride=0.3,
            steps=180,
            minima=((3.0, 0.5),),
            levels="log",
        ),
        Surface(
            "rosenbrock",
            _rosenbrock,
            _rosenbrock_gradient,
            domain=((-1.75, 1.75), (-0.5, 2.0)),
            start=(-1.2, 1.0),
            slope=0.001,
            stride=0.15,
            steps=600,
            minima=((1.0, 1.0),),
            levels="log",
        ),
        Surface(
            "saddle",
            lambda x, y: x * x - y * y,
            lambda x, y: (2 * x, -2 * y),
            domain=((-1.25, 1.25), (-1.5, 1.5)),
            start=(1.0, 1e-3),  # just off the ridge: on it, no gradient would ever lead away
            slope=0.01,
            stride=0.1,
            steps=100,
            exit=-1.0,
            solid=True,
        ),
        Surface(
            "valley",
            lambda x, y: 0.02 * x * x + y * y,
            lambda x, y: (0.04 * x, 2 * y),
            domain=((-5.0, 1.5), (-1.5, 1.5)),
            start=(-4.0, 1.0),
            slope=0.1,
            stride=0.5,
            steps=120,
            minima=((0.0, 0.0),),
            levels="log",
        ),
        Surface(
            "himmelblau",
            _himmelblau,
            _himmelblau_gradient,
            domain=((-5.0, 5.0), (-5.0, 5.0)),
            start=(0.0, -1.0),
            slope=0.003,
            stride=0.5,
            steps=100,
            minima=(
                (3.0, 2.0),
                (3.584428340330492, -1.848126526964404),
                (-2.805118086952745, 3.131312518250573),
                (-3.779310253377747, -3.283185991286170),
            ),
            levels="log",
        ),
        Surface(
            "waves",
            _waves,
            _waves_gradient,
            domain=((-4.0, 4.0), (-4.0, 4.0)),
            start=(3.0, 2.4),
            slope=0.02,
            stride=0.5,
            steps=150,
            minima=((0.0, 0.0),),
        ),
    )
}

# --------------------------------------------------------------------------------------------------------------- rates

#: The default rate of each optimizer: a unit of the surface, and a factor that is the same on all surfaces, so that no optimizer
#: is tuned to a picture by itself. What moves in proportion to the gradient shares one rate, the surface's `slope`, that
#: momentum bears. What divides by the size of past gradients moves by lengths, and so has multiples of its `stride`.
#: With these factors all of them cover about the same distance early on: Adagrad's first step is as long as its rate, and
#: later ones are shorter; RMSprop's first is 10 rates long, for it has no bias correction; Adadelta's is 0.003 rates,
#: and later ones are longer; Adam's stay as long as the rate.
RATES: dict[str, tuple[str, float]] = {
    "sgd": ("slope", 1.0),
    "momentum": ("slope", 1.0),
    "nag": ("slope", 1.0),
    "adagrad": ("stride", 1.2),
    "adadelta": ("stride", 60.0),
    "rmsprop": ("stride", 0.07),
    "adam": ("stride", 0.2),
    # Those that find the rate themselves.
    "cocob": ("", 1.0),
    "prodigy": ("", 1.0),
    "yellowfin": ("", 1.0),
}
OTHERS = "adam"  # what is not in the table has its rate


def default_rate(surface: Surface | str, optimizer: str) -> float:
    """The rate at which `trace` runs an optimizer on a surface, if it is given none.

    Parameters
    ----------
    surface : Surface or str
        A surface, or the name of one of `SURFACES`.
    optimizer : str
        A name: a class name in lower case, ``"momentum"`` or ``"nag"``.

    Returns
    -------
    float
        Of the table `RATES`; that of Adam for optimizers that are not in it.
    """
    by_name(optimizer)
    unit, factor = RATES.get(optimizer, RATES[OTHERS])
    rate = factor * float(getattr(surface_of(surface), unit)) if unit else factor
    return float(f"{rate:.6g}")  # without the rounding of the product, which would be printed


def surface_of(surface: Surface | str) -> Surface:
    """The surface, or that of `SURFACES` with this name."""
    if isinstance(surface, Surface):
        return surface
    if not isinstance(surface, str) or surface not in SURFACES:
        raise HyperParameterError(f"there is no surface {surface!r}.{did_you_mean(surface, SURFACES)}")
    return SURFACES[surface]


# --------------------------------------------------------------------------------------------------------------- paths


def trace(
    surface: Surface | str,
    optimizer: Any,
    *,
    lr: Any = None,
    start: Any = None,
    steps: int | None = None,
    noise: float = 0.0,
    seed: int = 0,
    **options: Any,
) -> Array:
    """The path of an optimizer on a surface.

    Parameters
    ----------
    surface : Surface or str
        A surface, or the name of one of `SURFACES`.
    optimizer : str, class or callable
        A name (a class name in lower case, ``"momentum"`` or ``"nag"``), a class, or a callable that makes an optimizer of
        its parameter, a float64 array of shape (2,).
    lr : float or callable, optional
        The rate, or a schedule. Default: `default_rate`. A callable `optimizer` sets its rate itself.
    start : pair of floats, optional
        At most 100 widths of the domain away. Default: the surface's.
    steps : int, optional
        Default: the surface's.
    noise : float, default 0.0
        Standard deviation of normal noise that is added to both partial derivatives at each step.
    seed : int, default 0
        Of the noise.
    **options
        Further options of the optimizer, such as ``betas=(0.9, 0.99)``.

    Returns
    -------
    ndarray of float64, shape (steps + 1, 2)
        The start, and the point after each step. From where the path is 100 widths of the domain away, NaN.

    Raises
    ------
    FastoptError
        If an argument does not fit.

    Notes
    -----
    The points are those at which the optimizer takes its gradients; Schedule-Free optimizers recommend others.

    Examples
    --------
    >>> from fastopt import viz
    >>> path = viz.trace("saddle", "adagrad")
    >>> viz.SURFACES["saddle"].arrival(path)[0]  # steps until it has left
    14
    """
    surface = surface_of(surface)
    steps = surface.steps if steps is None else checks.integer(0)("steps", steps)
    noise = checks.non_negative("noise", noise)
    rng = np.random.default_rng(checks.integer(0)("seed", seed))
    x = np.array(checks.pair(checks.number())("start", surface.start if start is None else _plain(start)))
    middle = np.array(surface.domain).mean(axis=1)

    def far() -> bool:
        return not np.abs(x - middle).max() <= FAR * surface.width  # NaN is far

    if far():
        raise HyperParameterError(f"start must be at most {FAR} widths of the domain away, got {tuple(x.tolist())}")
    opt = _make(surface, optimizer, x, lr, options)
    path = np.full((steps + 1, 2), np.nan)
    for k in range(steps + 1):
        if far():
            break
        path[k] = x
        if k < steps:
            g = np.array(surface.gradient(*x.tolist()), np.float64)
            opt.step(g + noise * rng.standard_normal(2) if noise else g)
    return path


def _make(surface: Surface, optimizer: Any, x: Array, lr: Any, options: dict[str, Any]) -> Any:
    if isinstance(optimizer, type) and issubclass(optimizer, Optimizer):
        optimizer = optimizer.__name__.lower()
    if isinstance(optimizer, str):
        cls, implied = by_name(optimizer)
        rate = default_rate(surface, optimizer) if lr is None else lr
        return cls(x, **(implied | options | {"lr": rate}))
    if not callable(optimizer) or isinstance(optimizer, Optimizer):
        raise HyperParameterError(
            f"optimizer must be a name, a class, or a callable that makes an optimizer of an array, got {optimizer!r}"
        )
    if lr is not None or options:
        given = ", ".join([*(["lr"] if lr is not None else []), *options])
        raise UnsupportedError(f"a callable optimizer sets its options itself; drop {given}, or pass a name or class")
    made = optimizer(x)
    if not callable(getattr(made, "step", None)):
        raise HyperParameterError(f"the callable optimizer must return an optimizer, got {type(made).__name__}")
    return made


def _plain(values: Any) -> Any:
    """An array as a list, which the checks of pairs take."""
    return values.tolist() if isinstance(values, np.ndarray) else values


def as_path(name: str, path: Any) -> Array:
    """`path` as float64 of shape (steps + 1, 2)."""
    path = checks.real_array(name, path)
    if path.ndim != 2 or path.shape[1] != 2 or not len(path):
        raise ShapeError(f"{name} must have shape (steps + 1, 2), as trace returns it, got {path.shape}")
    return path


# --------------------------------------------------------------------------------------------------------------- grids

#: What stands for "beta" in an optimizer: the first of these that it has.
BETAS = ("betas", "momentum", "rho", "alpha", "beta")


def rate_beta_grid(
    problem: Any,
    optimizer: str,
    rates: Sequence[float],
    betas: Sequence[float],
    *,
    option: str | None = None,
    start: Any = None,
    steps: int = 100,
    **options: Any,
) -> Array:
    """The loss that an optimizer reaches with every rate and every beta, to be drawn by `plot_heatmap`.

    Parameters
    ----------
    problem : Surface, str or callable
        A surface, the name of one of `SURFACES`, or ``problem(x)``, which returns loss and gradient at `x`.
    optimizer : str
        A name: a class name in lower case, ``"momentum"`` or ``"nag"``.
    rates, betas : sequences of floats
    option : str, optional
        The option that takes beta. Default: the first that the optimizer has of `betas` (its first), `momentum`, `rho`,
        `alpha` and `beta`.
    start : array_like, optional
        The parameters to begin with, of any shape; needed by a callable `problem`. They are copied, as float64.
    steps : int, default 100
    **options
        Further options of the optimizer, but neither `lr` nor `option`.

    Returns
    -------
    ndarray of float64, shape (len(betas), len(rates))
        The loss after the last step; infinite where the run diverged.

    Raises
    ------
    FastoptError
        If an argument does not fit.
    """
    steps = checks.integer(0)("steps", steps)
    if callable(problem) and not isinstance(problem, Surface):
        if start is None:
            raise HyperParameterError("start is needed: a callable problem does not say where to begin")
        fun, begin = problem, checks.real_array("start", start)
    else:
        surface = surface_of(problem)
        begin = checks.real_array("start", surface.start if start is None else start)
        if begin.shape != (2,):
            raise ShapeError(f"start must be a point of the surface, shape (2,), got {begin.shape}")

        def fun(x: Array) -> tuple[Any, Any]:
            at = x.tolist()
            return surface.value(*at), surface.gradient(*at)

    cls, implied = by_name(optimizer)
    known = inspect.signature(cls).parameters
    option = next((n for n in BETAS if n in known), "beta") if option is None else option
    if option not in known:
        raise UnsupportedError(f"{cls.__name__} has no option {option!r}.{did_you_mean(option, known)}")
    if taken := sorted({"lr", option} & {*options, *(["lr"] if option == "lr" else [])}):
        raise UnsupportedError(f"the grid itself sets lr, to the rates, and option, to the betas; drop {taken[0]}")
    rates, betas = (checks.real_array(n, v).ravel().tolist() for n, v in (("rates", rates), ("betas", betas)))
    found = np.full((len(betas), len(rates)), np.inf)
    with np.errstate(all="ignore"):
        for row, beta in enumerate(betas):
            value = (beta, *known[option].default[1:]) if option == "betas" else beta
            for column, rate in enumerate(rates):
                x = begin.copy()
                opt = cls(x, **(implied | options | {option: value, "lr": rate}))
                found[row, column] = _descend(fun, opt, x, steps)
    return found


def _descend(fun: Callable[[Array], tuple[Any, Any]], opt: Any, x: Array, steps: int) -> float:
    try:
        for _ in range(steps):
            g = np.array(fun(x)[1], np.float64)  # a copy: it may be `x` itself
            if not np.isfinite(g).all():
                return float("inf")
            opt.step(g)
        loss = float(fun(x)[0])
    except (OverflowError, NonFiniteError):  # of Python's numbers, which raise where NumPy's are infinite
        return float("inf")
    return loss if np.isfinite(loss) else float("inf")
