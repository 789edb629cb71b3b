"""SciPy's interface of minimization: its own methods, and every optimizer of fastopt beside them."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import checks
from .checks import Array
from .errors import DTypeError, HyperParameterError, NonFiniteError, ShapeError, UnsupportedError, did_you_mean
from .optimizers.base import ALIASES, Optimizer, by_name

if TYPE_CHECKING:
    from scipy.optimize import OptimizeResult

DIFFERENCES = ("2-point", "3-point", "cs")
#: What `OptimizeResult.status` says; the numbers are SciPy's.
MESSAGES = {
    0: "Optimization terminated successfully.",
    1: "Maximum number of iterations has been exceeded.",
    2: "The value or the gradient is not finite; use a smaller lr, or start elsewhere.",
    99: "`callback` raised `StopIteration`.",
}


def minimize(
    fun: Callable[..., Any],
    x0: Any,
    args: Any = (),
    method: Any = "L-BFGS-B",
    jac: Any = None,
    hess: Any = None,
    hessp: Any = None,
    bounds: Any = None,
    constraints: Any = (),
    tol: float | None = None,
    callback: Callable[..., Any] | None = None,
    options: dict[str, Any] | None = None,
) -> OptimizeResult:
    """Minimize a function of one or more variables: `scipy.optimize.minimize`, with the optimizers of fastopt as methods.

    Parameters
    ----------
    fun : callable
        ``fun(x, *args)`` returns the value at `x`, shape (n,); with ``jac=True``, value and gradient.
    x0 : array_like, shape (n,)
        Where to start; it is copied. The optimizers of fastopt keep float32 and float64, and convert integers to float64.
    args : tuple
        Further arguments of `fun`, `jac` and `hess`.
    method : str, class or callable, default "L-BFGS-B"
        A method of SciPy (``"L-BFGS-B"``, ``"Newton-CG"``, ...), which SciPy runs; an optimizer of fastopt by its class
        or its name, a class name in lower case, ``"momentum"`` or ``"nag"``; or a callable, as in SciPy.
    jac : callable, bool, "2-point", "3-point" or "cs", optional
        The gradient ``jac(x, *args)``; True: `fun` returns it, too. Else it is approximated by SciPy's finite differences,
        for the optimizers of fastopt in float64.
    hess, hessp, bounds, constraints
        As in SciPy. The optimizers of fastopt have no use for the first two, and refuse the others.
    tol : float, optional
        As in SciPy; for the optimizers of fastopt, the default of the option ``gtol``.
    callback : callable, optional
        Called after each iteration as ``callback(xk)``, or as ``callback(intermediate_result=OptimizeResult)`` if that is
        what its only parameter is called. It ends the run by raising StopIteration.
    options : dict, optional
        Of SciPy's method, or of the optimizer (``lr``, ``betas``, ...), with these besides:

        maxiter : int, default 1000
        gtol : float, default 1e-5
            The run succeeds where no element of the gradient is larger.
        disp : bool
            Print how it ended.
        return_all : bool
            Keep the points of all iterations in the result's `allvecs`.
        shape : tuple of ints
            The shape that `x` has for the optimizer, which some of them need: ``{"shape": (3, -1)}`` lets Muon see it as
            a matrix. `fun` and the result have shape (n,) all the same.

    Returns
    -------
    scipy.optimize.OptimizeResult
        For the optimizers of fastopt with `x`, `fun`, `jac`, `nit`, `nfev`, `njev`, `status`, `message`, `success`. As in
        SciPy, `x` is the last point and not the best one seen. Status 0 is success; 1, `maxiter` iterations were made;
        2, a value or gradient is not finite; 99, the callback raised StopIteration.

    Raises
    ------
    FastoptError
        If an argument does not fit; `fun` has not been called then.

    Notes
    -----
    An iteration is a step, and value and gradient are taken once before the first and once after each. There is no
    ``ftol`` and no ``xtol``: how small the steps of these optimizers are says what their rate is, not how near a minimum.

    The Schedule-Free optimizers take their gradients, and call `callback`, at other points than those that they
    recommend. The result is the recommended point, and the gradient there decides over success.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> def bowl(x):
    ...     return np.sum((x - 3) ** 2), 2 * (x - 3)
    >>> result = fastopt.minimize(bowl, [0.0, 1.0], jac=True, method="adam", options={"lr": 0.1})
    >>> result.success, result.x.round(3)
    (True, array([3., 3.]))
    """
    options = dict(options or {})
    found = _optimizer(method)
    if found is not None:
        cls, implied = found
        options = {"tol": tol, **implied, **options}
        return _descend(cls, fun, x0, args, jac, hess, hessp, bounds, constraints, callback, **options)
    try:
        return _scipy().minimize(fun, x0, args, method, jac, hess, hessp, bounds, constraints, tol, callback, options)
    except ValueError as error:
        if isinstance(method, str) and str(error) == f"Unknown solver {method}":
            raise HyperParameterError(
                f"method={method!r} is neither a method of SciPy nor an optimizer.{did_you_mean(method, _names())}"
            ) from error
        raise


def scipy_method(method: str | type[Optimizer], **options: Any) -> Callable[..., OptimizeResult]:
    """An optimizer of fastopt as a method that `scipy.optimize.minimize`, and what is built on it, can call.

    Parameters
    ----------
    method : str or class
        As in `fastopt.minimize`.
    **options
        As there, too. Those that SciPy is given for the call go before these.

    Returns
    -------
    callable
        To be passed to SciPy as `method`.

    Notes
    -----
    To a callable method SciPy passes ``jac="3-point"`` and its like on as None, which means forward differences with an
    absolute step; `fastopt.minimize` knows better.

    Examples
    --------
    >>> from scipy.optimize import minimize, rosen, rosen_der
    >>> import fastopt
    >>> adam = fastopt.scipy_method("adam", lr=0.02, maxiter=10_000)
    >>> minimize(rosen, [-1.5, 2.0], jac=rosen_der, method=adam, options={"gtol": 1e-8}).x.round(6)
    array([1., 1.])
    """
    found = _optimizer(method)
    if found is None:
        raise HyperParameterError(
            f"method must be an optimizer's name or class, got {method!r}.{did_you_mean(method, _names())}"
        )
    cls, implied = found
    return partial(_descend, cls, **{**implied, **options})


def _scipy() -> Any:
    """scipy.optimize, on which nothing else of fastopt depends."""
    try:
        from scipy import optimize
    except ModuleNotFoundError as missing:
        raise UnsupportedError("fastopt.minimize needs SciPy: pip install scipy") from missing
    return optimize


def _names() -> list[str]:
    return [*Optimizer.known, *ALIASES]


def _optimizer(method: Any) -> tuple[type[Optimizer], dict[str, Any]] | None:
    """The optimizer of fastopt that `method` means, with the options that it implies; None if it is SciPy's to know."""
    if isinstance(method, str):
        return by_name(method.lower()) if method.lower() in _names() else None  # SciPy ignores case, too
    if isinstance(method, Optimizer):
        raise HyperParameterError(
            f"method is an optimizer made already, which has parameters of its own; pass the class "
            f"{type(method).__name__} and its options in options="
        )
    if isinstance(method, type) and issubclass(method, Optimizer) and method is not Optimizer:
        return method, {}
    return None


# ------------------------------------------------------------------------------------------------------------- descent


def _descend(
    cls: type[Optimizer],
    fun: Callable[..., Any],
    x0: Any,
    args: Any = (),
    jac: Any = None,
    hess: Any = None,
    hessp: Any = None,
    bounds: Any = None,
    constraints: Any = (),
    callback: Callable[..., Any] | None = None,
    *,
    tol: float | None = None,
    maxiter: int = 1000,
    gtol: float | None = None,
    disp: bool = False,
    return_all: bool = False,
    shape: Any = None,
    **options: Any,
) -> OptimizeResult:
    """A method as SciPy calls them: the steps of one optimizer."""
    optimize = _scipy()
    _refuse_limits(cls, bounds, constraints)
    for name, given in (("hess", hess), ("hessp", hessp)):
        if given is not None:
            warnings.warn(f"Method {cls.__name__} does not use {name}.", RuntimeWarning, stacklevel=3)
    maxiter = checks.integer(0)("maxiter", maxiter)
    gtol = checks.non_negative("gtol", next(given for given in (gtol, tol, 1e-5) if given is not None))
    x = _start(x0)
    p = x if shape is None else _shaped(x, shape)
    opt = _make(cls, p, options)
    objective = _Objective(fun, jac, args if isinstance(args, tuple) else (args,))
    report = _reporter(callback)
    points = [x.copy()]

    def visit(point: _Point, nit: int) -> None:
        if return_all:
            points.append(x.copy())
        report(optimize.OptimizeResult(x=x.copy(), fun=point.value, jac=point.gradient.copy(), nit=nit))

    end, nit, status = _walk(opt, x, p.shape, objective, visit, maxiter, gtol)
    result = optimize.OptimizeResult(
        x=x,
        fun=end.value,
        jac=end.gradient,
        nit=nit,
        nfev=objective.nfev,
        njev=objective.njev,
        status=status,
        message=MESSAGES[status],
        success=status == 0,
    )
    if return_all:
        result["allvecs"] = points
    if disp:
        print(
            f"{result.message}\n         Current function value: {end.value:f}\n         Iterations: {nit}\n"
            f"         Function evaluations: {objective.nfev}\n         Gradient evaluations: {objective.njev}"
        )
    return result


def _walk(
    opt: Any,
    x: Array,
    shape: tuple[int, ...],
    objective: _Objective,
    visit: Callable[[_Point, int], None],
    maxiter: int,
    gtol: float,
) -> tuple[_Point, int, int]:
    """Step until one of `MESSAGES` holds: what the function is at the end, the number of steps, and the status."""
    averages = hasattr(opt, "eval")  # Schedule-Free: `x` is then at one point for gradients, at another for the result
    here, nit, stopped = objective(x), 0, False
    while True:
        if stopped or nit == maxiter or not here.finite() or here.slope() <= gtol:
            end = here
            if averages:
                opt.eval()
                end = objective(x)
            reasons = {
                99: stopped,
                2: not (here.finite() and end.finite()),
                0: end.slope() <= gtol,
                1: nit == maxiter,
            }
            for status, holds in reasons.items():
                if holds:
                    return end, nit, status
            opt.train()
        opt.step(here.gradient.reshape(shape))
        nit += 1
        here = objective(x)
        try:
            visit(here, nit)
        except StopIteration:
            stopped = True


def _refuse_limits(cls: type[Optimizer], bounds: Any, constraints: Any) -> None:
    limited = constraints is not None and not (isinstance(constraints, Sequence) and len(constraints) == 0)
    for name, given, way_out in (
        ("bounds", bounds is not None, "'L-BFGS-B' or 'trust-constr'"),
        ("constraints", limited, "'SLSQP' or 'trust-constr'"),
    ):
        if given:
            raise UnsupportedError(
                f"{cls.__name__} takes no {name}; use method={way_out}, or other variables, such as u with x = exp(u)"
            )


def _start(x0: Any) -> Array:
    """A copy of `x0` that an optimizer can update."""
    if isinstance(x0, np.ma.MaskedArray):
        raise DTypeError("x0 is a masked array, whose mask would be lost; pass its .filled(0) or .data")
    try:
        x = np.atleast_1d(np.asarray(x0))
    except ValueError as error:  # lists of unequal lengths
        raise ShapeError(f"x0 must be a 1-D array: {error}") from error
    if x.dtype.kind in "iu":
        x = x.astype(np.float64)
    if x.dtype.newbyteorder("=") not in (np.float32, np.float64):
        raise DTypeError(f"x0 has dtype {x.dtype}, expected real numbers; pass it as float64 or float32")
    if x.ndim != 1:
        raise ShapeError(f"x0 has shape {x.shape}, expected one dimension; pass x0.ravel(), and reshape x in fun")
    if not x.size:
        raise ShapeError("x0 is empty; there is nothing to minimize over")
    if not np.isfinite(x).all():
        raise NonFiniteError(f"x0[{np.flatnonzero(~np.isfinite(x))[0]}] is not finite; start where fun has a value")
    return np.array(x, x.dtype.newbyteorder("="), subok=False)


def _shaped(x: Array, shape: Any) -> Array:
    """`x` as a view of that shape."""
    try:
        return x.reshape(shape)
    except (TypeError, ValueError) as error:
        raise ShapeError(f"shape={shape!r} does not fit the {x.size} elements of x0: {error}") from error


def _make(cls: type[Optimizer], p: Array, options: dict[str, Any]) -> Optimizer:
    """The optimizer of `p`."""
    ours = [k for k, v in inspect.signature(_descend).parameters.items() if v.kind is inspect.Parameter.KEYWORD_ONLY]
    known = [*list(inspect.signature(cls).parameters)[1:], *ours]
    for name in options:
        if name not in known:
            raise UnsupportedError(f"{cls.__name__} has no option {name!r} here.{did_you_mean(name, known)}")
    return cls(p, **options)


class _Point(NamedTuple):
    """What the function is somewhere."""

    value: float
    gradient: Array

    def finite(self) -> bool:
        return bool(np.isfinite(self.value) and np.isfinite(self.gradient).all())

    def slope(self) -> float:
        return float(np.abs(self.gradient).max())


class _Objective:
    """A function with its gradient, that counts its calls."""

    def __init__(self, fun: Callable[..., Any], jac: Any, args: tuple[Any, ...]) -> None:
        if not callable(fun):
            raise DTypeError(f"fun must be callable, got {type(fun).__name__}")
        words = isinstance(jac, str) and jac in DIFFERENCES
        if not (callable(jac) or jac is None or isinstance(jac, bool) or words):
            raise HyperParameterError(
                f"jac must be callable, True, None or one of {', '.join(map(repr, DIFFERENCES))}, got {jac!r}"
            )
        self.fun, self.jac, self.args = fun, jac or None, args
        self.nfev = self.njev = 0

    def __call__(self, x: Array) -> _Point:
        """Value and gradient at `x`."""
        if not np.isfinite(x).all():  # which functions are not made for
            return _Point(np.nan, np.full_like(x, np.nan))
        self.njev += 1
        if self.jac is True:
            pair = self._call(x)
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise ShapeError(f"with jac=True fun must return value and gradient, got {type(pair).__name__}")
            return _Point(_value(pair[0]), _gradient("the gradient that fun returned", pair[1], x))
        if callable(self.jac):
            value = _value(self._call(x))
            return _Point(value, _gradient("the gradient that jac returned", self.jac(x.copy(), *self.args), x))
        # Conjugate gradients that make no step: the one public way to all of SciPy's differences.
        flat = _scipy().minimize(self._call, x.astype(np.float64), method="CG", jac=self.jac, options={"maxiter": 0})
        return _Point(_value(flat.fun), _gradient("the gradient", flat.jac, x))

    def _call(self, x: Array) -> Any:
        self.nfev += 1
        return self.fun(x.copy(), *self.args)  # a copy, which fun may keep or overwrite


def _value(value: Any) -> float:
    try:
        a = np.asarray(value)
    except ValueError:  # a ragged tuple: value and gradient
        a = np.empty(0)
    if a.size != 1 or a.dtype.kind not in "fiub":
        raise ShapeError(f"fun must return a real number, got {value!r:.80}; with a gradient, pass jac=True")
    return float(a.item())


def _gradient(name: str, gradient: Any, x: Array) -> Array:
    g = np.atleast_1d(np.asarray(gradient))
    if g.dtype.kind not in "fiu":
        raise DTypeError(f"{name} has dtype {g.dtype}, expected real numbers")
    if g.shape != x.shape:
        raise ShapeError(f"{name} has shape {g.shape}, expected {x.shape} like x")
    with np.errstate(over="ignore"):  # beyond float32 is infinite, and found as such
        return g.astype(x.dtype)  # a copy: jac may fill the same array again


def _reporter(callback: Callable[..., Any] | None) -> Callable[[OptimizeResult], Any]:
    """`callback` in the way that its signature asks for."""
    if callback is None:
        return lambda result: None
    if not callable(callback):
        raise DTypeError(f"callback must be callable, got {type(callback).__name__}")
    try:
        names = list(inspect.signature(callback).parameters)
    except (TypeError, ValueError):  # written in C
        names = []
    if names == ["intermediate_result"]:
        return lambda result: callback(intermediate_result=result)
    return lambda result: callback(result.x)
