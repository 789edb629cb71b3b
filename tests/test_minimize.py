"""`fastopt.minimize` beside `scipy.optimize.minimize`: the same interface, results, callbacks and counts."""

from __future__ import annotations

import doctest
import inspect
import pickle
import re
import sys
import warnings
from contextlib import suppress

import numpy as np
import pytest
from scipy import optimize
from scipy.optimize import rosen, rosen_der, rosen_hess

import fastopt
from fastopt import FastoptError
from fastopt.optimizers.base import ALIASES

START = np.array([-1.5, 2.0, 0.5])
TARGET, CURVES = np.array([1.0, -2.0, 0.5, 3.0]), np.array([1.0, 0.5, 0.2, 0.1])
NAMES = sorted(
    {n for n, c in fastopt.Optimizer.known.items() if getattr(fastopt, c.__name__, None) is c} | set(ALIASES)
)


def bowl(x):
    return float((CURVES * (x - TARGET) ** 2).sum() / 2)


def bowl_slope(x):
    return CURVES * (x - TARGET)


def both(x):
    return bowl(x), bowl_slope(x)


class Counted:
    """A function that remembers where it was called."""

    def __init__(self, fun):
        self.fun, self.seen = fun, []

    def __call__(self, x, *args):
        self.seen.append(x)
        return self.fun(x, *args)


def same(a, b):
    assert set(a) == set(b)
    for name in a:
        if name not in ("hess_inv", "lowest_optimization_result"):
            assert np.array_equal(a[name], b[name]), name


# --------------------------------------------------------------------------------------------------- SciPy's methods


@pytest.mark.parametrize(
    "method, given",
    [
        ("L-BFGS-B", {"jac": rosen_der}),
        ("l-bfgs-b", {"bounds": [(0, 2)] * 3}),
        ("Newton-CG", {"jac": rosen_der, "hess": rosen_hess}),
        ("trust-constr", {"jac": rosen_der, "constraints": optimize.LinearConstraint(np.ones(3), 0, 1)}),
        ("BFGS", {"jac": "3-point", "tol": 1e-3, "options": {"maxiter": 20}}),
        (None, {}),
    ],
)
def test_a_method_of_scipy_is_scipys(method, given):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # trust-constr has its own
        ours = fastopt.minimize(rosen, START, method=method, **given)
        theirs = optimize.minimize(rosen, START, method=method, **given)
    ours.pop("execution_time", None), theirs.pop("execution_time", None)
    same(ours, theirs)


def test_the_default_is_l_bfgs_b_and_a_callable_goes_to_scipy():
    same(fastopt.minimize(rosen, START), optimize.minimize(rosen, START, method="L-BFGS-B"))
    given = {}

    def method(fun, x0, **options):
        given.update(options)
        return optimize.OptimizeResult(x=x0)

    assert (fastopt.minimize(rosen, START, method=method, options={"depth": 3}).x == START).all()
    assert given["depth"] == 3 and "hessp" in given


# ------------------------------------------------------------------------------------------------- fastopt's methods


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_lowers_a_quadratic(name):
    options = {"maxiter": 300}
    with suppress(fastopt.UnsupportedError, fastopt.ShapeError):
        result = fastopt.minimize(both, np.zeros(4), jac=True, method=name, options=options)
        assert result.x.shape == (4,) and result.fun < bowl(np.zeros(4))
        return
    # It is one for matrices.
    result = fastopt.minimize(both, np.zeros(4), jac=True, method=name, options={**options, "shape": (2, -1)})
    assert result.x.shape == (4,) and result.fun < bowl(np.zeros(4))


@pytest.mark.parametrize("name, lr", [("sgd", 1.0), ("momentum", 0.1), ("nag", 0.1), ("adam", 0.1), ("adagrad", 1.0)])
def test_minimum(name, lr):
    result = fastopt.minimize(bowl, np.zeros(4), jac=bowl_slope, method=name, tol=1e-7, options={"lr": lr})
    assert result.success and result.status == 0 and 1 < result.nit < 1000
    assert np.abs(result.x - TARGET).max() < 1e-5 and result.fun == bowl(result.x)
    assert np.array_equal(result.jac, bowl_slope(result.x)) and np.abs(result.jac).max() <= 1e-7
    assert result.message == "Optimization terminated successfully."


def test_the_steps_are_the_optimizers():
    x = START.copy()
    opt = fastopt.Adam(x, lr=0.03, betas=(0.8, 0.99))
    points = [START]
    for _ in range(20):
        opt.step(rosen_der(x))
        points.append(x.copy())
    options = {"lr": 0.03, "betas": (0.8, 0.99), "maxiter": 20, "return_all": True}
    result = fastopt.minimize(rosen, START, jac=rosen_der, method=fastopt.Adam, options=options)
    assert np.array_equal(result.allvecs, points) and np.array_equal(result.x, x) and len(result.allvecs) == 21
    assert "allvecs" not in fastopt.minimize(rosen, START, jac=rosen_der, method="adam", options={"maxiter": 2})
    nag = fastopt.minimize(rosen, START, jac=rosen_der, method="NAG", options={"lr": 1e-4, "maxiter": 5})
    sgd = {"lr": 1e-4, "maxiter": 5, "momentum": 0.9, "nesterov": True}
    same(nag, fastopt.minimize(rosen, START, jac=rosen_der, method="sgd", options=sgd))


def test_options_that_every_optimizer_has():
    x = START.copy()
    given = {"preset": "keras", "transforms": [fastopt.clip_global_norm(0.5)], "backend": "numpy"}
    opt = fastopt.Adam(x, **given)
    for _ in range(5):
        opt.step(rosen_der(x))
    result = fastopt.minimize(rosen, START, jac=rosen_der, method="adam", options={**given, "maxiter": 5})
    assert np.array_equal(result.x, x)


def test_the_optimizer_may_see_another_shape():
    flat = fastopt.minimize(both, np.zeros(4), jac=True, method="rmsprop", options={"maxiter": 9})
    for shape in ((2, 2), [4, -1], 4):
        options = {"maxiter": 9, "shape": shape, "return_all": True}
        square = fastopt.minimize(both, np.zeros(4), jac=True, method="rmsprop", options=options)
        assert {a.shape for a in square.pop("allvecs")} == {(4,)}
        same(flat, square)


def test_budget():
    result = fastopt.minimize(both, np.zeros(4), jac=True, method="sgd", options={"maxiter": 7})
    assert (result.success, result.status, result.nit) == (False, 1, 7)
    assert result.message == "Maximum number of iterations has been exceeded."
    assert result.fun == bowl(result.x) < bowl(np.zeros(4))  # the values are those of the last point
    none = fastopt.minimize(both, np.zeros(4), jac=True, method="sgd", options={"maxiter": 0})
    assert (none.status, none.nit, none.nfev) == (1, 0, 1) and not none.x.any()
    assert fastopt.minimize(both, TARGET, jac=True, method="sgd", options={"maxiter": 0, "gtol": 0}).success
    assert fastopt.minimize(both, np.zeros(4), jac=True, method="sgd").nit == 1000
    # gtol is the option, tol its default
    for tol, options, nit in ((10.0, {}, 0), (10.0, {"gtol": 0.0}, 3), (None, {"gtol": 10.0}, 0)):
        options = {"maxiter": 3, **options}
        assert fastopt.minimize(both, np.zeros(4), jac=True, method="sgd", tol=tol, options=options).nit == nit


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_start_stays_and_gives_the_dtype(dtype):
    seen = Counted(lambda x: x.fill(9) or (0.0, np.ones(2)))  # overwrites what it is given
    x0 = np.array([1, 2], dtype)
    x0.flags.writeable = False
    result = fastopt.minimize(seen, x0, jac=True, method="sgd", options={"maxiter": 2, "lr": 0.5})
    assert result.x.dtype == result.jac.dtype == dtype and {x.dtype for x in seen.seen} == {np.dtype(dtype)}
    assert x0.tolist() == [1, 2] and result.x.tolist() == [0, 1]


@pytest.mark.parametrize("x0", [[0, 0, 0, 0], np.zeros(4, np.int8), np.zeros(8)[::2], np.zeros(4, ">f8")])
def test_starts_that_are_converted(x0):
    result = fastopt.minimize(both, x0, jac=True, method="sgd", options={"lr": 1.0})
    assert result.success and result.x.dtype == np.float64 and result.x.dtype.isnative


def test_a_single_number():
    for x0 in (4, 4.0, [4.0]):
        result = fastopt.minimize(
            lambda x: (x - 1) ** 2, x0, jac=lambda x: 2 * (x - 1), method="sgd", options={"lr": 0.1}
        )
        assert result.success and result.x.shape == (1,) and abs(result.x[0] - 1) < 1e-4
    result = fastopt.minimize(lambda x: (x[0], 1.0), 4.0, jac=True, method="sgd", options={"lr": 1.0, "maxiter": 2})
    assert result.x.tolist() == [2]


def test_args():
    def fun(x, a, b=0.0):
        return float(((x - a) ** 2).sum() + b)

    def slope(x, a, b=0.0):
        return 2 * (x - a)

    result = fastopt.minimize(fun, [0.0, 0.0], (3.0, 7.0), "sgd", slope, options={"lr": 0.1})
    assert result.success and abs(result.fun - 7) < 1e-9
    assert fastopt.minimize(fun, [0.0, 0.0], 3.0, "sgd", slope, options={"lr": 0.1}).fun < 1e-9  # one need be no tuple
    result = fastopt.minimize(lambda *a: (fun(*a), slope(*a)), [0.0], (3.0,), "sgd", True, options={"lr": 0.1})
    assert abs(result.x[0] - 3) < 1e-5
    assert abs(fastopt.minimize(fun, [0.0], (3.0,), "sgd", options={"lr": 0.1}).x[0] - 3) < 1e-4


# ------------------------------------------------------------------------------------------------- gradients and counts


@pytest.mark.parametrize("name", ["adam", "momentum"])
def test_calls_are_counted(name):
    fun, jac = Counted(bowl), Counted(bowl_slope)
    result = fastopt.minimize(fun, np.zeros(4), jac=jac, method=name, options={"maxiter": 11})
    assert (result.nfev, result.njev) == (len(fun.seen), len(jac.seen)) == (12, 12)
    pair = Counted(both)
    result = fastopt.minimize(pair, np.zeros(4), jac=True, method=name, options={"maxiter": 11})
    assert (result.nfev, result.njev, len(pair.seen)) == (12, 12, 12)


@pytest.mark.parametrize("jac, each", [(None, 4), (False, 4), ("2-point", 4), ("3-point", 7), ("cs", 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_differences(jac, each, dtype):
    def cubic(x):
        return (x**3).sum()

    fun, x0 = Counted(cubic), np.array([1.0, 2.0, -1.5], dtype)
    result = fastopt.minimize(fun, x0, jac=jac, method="sgd", options={"maxiter": 2, "return_all": True})
    assert result.nfev == len(fun.seen) == 3 * each and result.njev == 3  # the value is among the differences' calls
    there = result.x.astype(np.float64)
    scipys = optimize.minimize(cubic, there, jac=jac, method="BFGS", options={"maxiter": 0})
    assert np.array_equal(result.jac, scipys.jac.astype(dtype)) and result.fun == scipys.fun
    assert np.abs(result.jac - 3 * there**2).max() < (1e-4 if jac in (None, False, "2-point") else 1e-6)


def test_the_gradients_of_a_function_that_fills_one_array():
    buffer = np.zeros(2)

    def fun(x):
        np.multiply(x, 2.0, out=buffer)
        return float(x @ x), buffer

    seen = []

    def callback(intermediate_result):
        seen.append(intermediate_result.jac)

    result = fastopt.minimize(fun, [1.0, 2.0], jac=True, method="sgd", callback=callback, options={"maxiter": 3})
    assert len({tuple(g) for g in seen}) == 3
    assert np.array_equal(result.jac, 2 * result.x) and not np.shares_memory(result.jac, buffer)


# ------------------------------------------------------------------------------------------------------------ callbacks


def test_callback_signatures():
    points, results = [], []

    def plain(xk):
        points.append(xk)

    def informed(*, intermediate_result):
        results.append(intermediate_result)

    options = {"maxiter": 4, "return_all": True}
    for callback in (plain, informed):
        result = fastopt.minimize(both, np.zeros(4), jac=True, method="adam", callback=callback, options=options)
    assert np.array_equal(points, result.allvecs[1:])
    assert [r.nit for r in results] == [1, 2, 3, 4]
    for r, x in zip(results, points, strict=True):
        assert isinstance(r, optimize.OptimizeResult) and np.array_equal(r.x, x)
        assert r.fun == bowl(x) and np.array_equal(r.jac, bowl_slope(x))
    points.clear()
    for callback in (points.append, lambda xk, *rest: points.append(xk)):
        fastopt.minimize(both, np.zeros(4), jac=True, method="adam", callback=callback, options=options)
    assert len(points) == 8 and np.array_equal(points[:4], points[4:])


def test_callbacks_that_overwrite_what_they_are_given_and_one_without_a_signature():
    def spoil(intermediate_result):
        intermediate_result.x.fill(7)
        intermediate_result.jac.fill(7)

    results = [
        fastopt.minimize(both, np.zeros(4), jac=True, method="adam", callback=callback, options={"maxiter": 4})
        for callback in (None, lambda xk: xk.fill(7), spoil, max)
    ]
    for result in results[1:]:
        same(result, results[0])


@pytest.mark.parametrize("method", ["adam", "BFGS"])
@pytest.mark.parametrize("stop_at", [1, 3])
def test_stop_iteration(method, stop_at):
    """Word for word as SciPy's own methods do it."""
    seen = []

    def callback(xk):
        seen.append(xk)
        if len(seen) == stop_at:
            raise StopIteration

    result = fastopt.minimize(rosen, START, jac=rosen_der, method=method, callback=callback)
    assert len(seen) == result.nit == stop_at and np.array_equal(result.x, seen[-1]) and result.fun == rosen(seen[-1])
    assert (result.success, result.status) == (False, 99)
    assert result.message == "`callback` raised `StopIteration`."


@pytest.mark.parametrize("method, options", [("sgd", {"lr": 1.0}), ("BFGS", {})])
def test_stop_iteration_at_the_minimum(method, options):
    def callback(xk):
        if xk[0] == 1:
            raise StopIteration

    def bowl(x):
        return (x[0] - 1) ** 2 / 2, x - 1

    result = fastopt.minimize(bowl, [0.0], jac=True, method=method, callback=callback, options=options)
    assert result.x[0] == 1 and result.jac[0] == 0 and result.nit == 1 and result.status == 99


def test_disp(capsys):
    fastopt.minimize(both, np.zeros(4), jac=True, method="sgd", options={"maxiter": 2})
    assert capsys.readouterr().out == ""
    fastopt.minimize(both, np.zeros(4), jac=True, method="sgd", options={"maxiter": 2, "disp": True})
    said = capsys.readouterr().out
    assert "Maximum number of iterations" in said and "Iterations: 2\n" in said and "Gradient evaluations: 3\n" in said


# ---------------------------------------------------------------------------------------------------------- divergence


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["value", "gradient"])
def test_what_is_not_finite_ends_the_run(bad, where):
    calls = []

    def fun(x):
        calls.append(x)
        late = bad if len(calls) == 3 else 0.0
        return (late, np.ones(2)) if where == "value" else (0.0, np.array([1.0, late]))

    result = fastopt.minimize(fun, [0.0, 0.0], jac=True, method="sgd", options={"lr": 1.0})
    assert (result.success, result.status, result.nit) == (False, 2, 2) and "not finite" in result.message
    assert result.x.tolist() == [-2, -2 if where == "value" else 0]
    assert fastopt.minimize(lambda x: (bad, x), [1.0], jac=True, method="sgd").nit == 0


def test_divergence_does_not_call_the_function_with_what_is_not_finite():
    def fun(x):
        assert np.isfinite(x).all()
        return 0.0, np.full(1, 3e38) * np.sign(x)

    start = np.array([1e38], np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a gradient beyond float32 is not told twice
        assert fastopt.minimize(lambda x: (0.0, np.array([1e300])), start, jac=True, method="sgd").status == 2
    result = fastopt.minimize(fun, start, jac=True, method="sgd", options={"lr": 3.0})
    assert result.status == 2 and result.nit == 1 and np.isinf(result.x[0]) and np.isnan(result.fun)


# -------------------------------------------------------------------------------------------------------- Schedule-Free


@pytest.fixture
def averaging(monkeypatch):
    """SGD made to have two points, as the Schedule-Free optimizers have."""
    calls = []

    def move(sign, name):
        def moved(self):
            calls.append(name)
            self._params[0][...] += sign

        return moved

    monkeypatch.setattr(fastopt.SGD, "eval", move(1, "eval"), raising=False)
    monkeypatch.setattr(fastopt.SGD, "train", move(-1, "train"), raising=False)
    return calls


def test_an_average_is_evaluated_at_the_end(averaging):
    plain, fun = fastopt.minimize(both, np.zeros(4), jac=True, method="adam", options={"maxiter": 3}), Counted(both)
    assert not averaging and plain.nfev == 4
    result = fastopt.minimize(fun, np.zeros(4), jac=True, method="sgd", options={"maxiter": 3, "lr": 0.5})
    assert averaging == ["eval"] and result.nfev == result.njev == len(fun.seen) == 5
    assert np.array_equal(result.x, fun.seen[-1]) and np.array_equal(result.x, fun.seen[-2] + 1)
    assert result.fun == bowl(result.x) and np.array_equal(result.jac, bowl_slope(result.x))


def test_the_average_decides_over_success(averaging):
    """The gradients are small where the steps are, not at the average: on it goes."""
    result = fastopt.minimize(both, np.zeros(4), jac=True, method="sgd", tol=0.5, options={"maxiter": 40, "lr": 0.5})
    assert result.status == 1 and averaging[:3] == ["eval", "train", "eval"] and averaging[-1] == "eval"
    result = fastopt.minimize(both, np.zeros(4), jac=True, method="sgd", tol=1.0, options={"maxiter": 40, "lr": 0.5})
    assert result.status == 0 and np.abs(result.jac).max() <= 1.0


# -------------------------------------------------------------------------------------------------------- SciPy's method


@pytest.mark.parametrize("name", ["adam", "momentum", fastopt.RMSprop])
@pytest.mark.parametrize("jac", [rosen_der, None])
def test_a_method_for_scipy(name, jac):
    options = {"lr": 1e-4, "maxiter": 30}
    ours = fastopt.minimize(rosen, START, jac=jac, method=name, tol=1e-3, options=options)
    theirs = optimize.minimize(rosen, START, jac=jac, method=fastopt.scipy_method(name), tol=1e-3, options=options)
    same(ours, theirs)
    slow = fastopt.scipy_method("momentum", momentum=0.5, lr=1e-4, maxiter=30)  # the name implies 0.9
    plain = fastopt.scipy_method("sgd", momentum=0.5, lr=1e-4, maxiter=30)
    same(*(optimize.minimize(rosen, START, jac=jac, method=method) for method in (slow, plain)))
    early = fastopt.scipy_method(name, lr=1e-4, maxiter=30, gtol=1e-3)
    same(ours, optimize.minimize(rosen, START, jac=jac, method=early))
    assert (
        optimize.minimize(rosen, START, jac=jac, method=early, options={"maxiter": 2}).nit == 2
    )  # the call's go first
    same(ours, optimize.minimize(rosen, START, jac=jac, method=pickle.loads(pickle.dumps(early))))


def test_a_method_for_scipy_with_value_and_gradient_in_one():
    pair = Counted(both)
    method = fastopt.scipy_method("adam", lr=0.1)
    result = optimize.minimize(pair, np.zeros(4), jac=True, method=method, tol=1e-6, callback=lambda xk: None)
    assert result.success and result.nfev == result.njev == len(pair.seen)  # SciPy remembers the last point
    with pytest.raises(fastopt.UnsupportedError, match=r"Adam takes no bounds.*L-BFGS-B"):
        optimize.minimize(both, np.zeros(4), jac=True, method=method, bounds=[(0, 1)] * 4)


def test_a_method_for_what_scipy_builds_on_minimize():
    def wavy(x):
        return float(np.cos(14.5 * x[0] - 0.3) + (x[0] + 0.2) * x[0])

    def slope(x):
        return -14.5 * np.sin(14.5 * x - 0.3) + 2 * x + 0.2

    kwargs = {"method": fastopt.scipy_method("adam", lr=0.02), "jac": slope}
    random = "rng" if "rng" in inspect.signature(optimize.basinhopping).parameters else "seed"
    result = optimize.basinhopping(wavy, [1.0], niter=50, minimizer_kwargs=kwargs, **{random: np.random.default_rng(0)})
    assert result.lowest_optimization_result.success and abs(result.x[0] + 0.195) < 1e-3


# --------------------------------------------------------------------------------------------------------------- errors


def never(*args):
    raise AssertionError("fun was called")


@pytest.mark.parametrize(
    "given, error, text",
    [
        ({"x0": [1.0, np.nan]}, fastopt.NonFiniteError, r"x0\[1\] is not finite"),
        ({"x0": [np.inf]}, fastopt.NonFiniteError, r"x0\[0\]"),
        ({"x0": [1j]}, fastopt.DTypeError, "x0 has dtype complex128"),
        ({"x0": [True]}, fastopt.DTypeError, "dtype bool"),
        ({"x0": ["a"]}, fastopt.DTypeError, "expected real numbers"),
        ({"x0": None}, fastopt.DTypeError, "dtype object"),
        ({"x0": np.zeros(3, np.float16)}, fastopt.DTypeError, "float16.*pass it as float64"),
        ({"x0": np.zeros(3, np.longdouble)}, fastopt.DTypeError, "pass it as float64"),
        ({"x0": np.ma.zeros(3)}, fastopt.DTypeError, "masked"),
        ({"x0": []}, fastopt.ShapeError, "empty"),
        ({"x0": np.zeros((2, 2))}, fastopt.ShapeError, r"\(2, 2\).*ravel"),
        ({"x0": [[1.0], [1.0, 2.0]]}, fastopt.ShapeError, "1-D"),
        ({"fun": 3}, fastopt.DTypeError, "fun must be callable, got int"),
        ({"jac": "4-point"}, fastopt.HyperParameterError, "jac must be.*'3-point'.*'4-point'"),
        ({"jac": np.zeros(2)}, fastopt.HyperParameterError, "jac must be"),
        ({"callback": 3}, fastopt.DTypeError, "callback must be callable"),
        ({"bounds": [(0, 1)] * 2}, fastopt.UnsupportedError, "Adam takes no bounds; use method='L-BFGS-B'"),
        ({"bounds": optimize.Bounds(0, 1)}, fastopt.UnsupportedError, "bounds"),
        ({"constraints": {"type": "eq", "fun": never}}, fastopt.UnsupportedError, "no constraints.*'SLSQP'"),
        ({"constraints": [optimize.LinearConstraint(np.eye(2))]}, fastopt.UnsupportedError, "constraints"),
        ({"tol": -1.0}, fastopt.HyperParameterError, "gtol"),
        ({"options": {"gtol": "tight"}}, fastopt.HyperParameterError, "gtol"),
        ({"options": {"maxiter": 1.5}}, fastopt.HyperParameterError, "maxiter"),
        ({"options": {"maxiter": -1}}, fastopt.HyperParameterError, "maxiter"),
        ({"options": {"maxiters": 1}}, fastopt.UnsupportedError, "no option 'maxiters' here. Did you mean 'maxiter'"),
        ({"options": {"ftol": 1}}, fastopt.UnsupportedError, "no option 'ftol'"),
        ({"options": {"learning_rate": 1}}, fastopt.UnsupportedError, "Did you mean 'lr'"),
        ({"options": {"params": np.zeros(2)}}, fastopt.UnsupportedError, "no option 'params'"),
        ({"options": {"lr": -1.0}}, fastopt.HyperParameterError, "lr must be"),
        ({"options": {"shape": (3, -1)}}, fastopt.ShapeError, r"shape=\(3, -1\) does not fit the 2 elements"),
        ({"options": {"shape": "square"}}, fastopt.ShapeError, "shape='square'"),
        (
            {"method": "adm"},
            fastopt.HyperParameterError,
            "neither a method of SciPy nor an optimizer. Did you mean 'adam'",
        ),
        ({"method": fastopt.SGD(np.zeros(2))}, fastopt.HyperParameterError, "made already.*pass the class SGD"),
    ],
)
def test_errors_come_before_the_function_is_called(given, error, text):
    call = {"fun": never, "x0": [1.0, 2.0], "jac": never, "method": "adam", "options": {}, **given}
    with pytest.raises(error, match=re.compile(text, re.S)):
        fastopt.minimize(**call)


@pytest.mark.parametrize("method", ["L-BFGS-B", 3, fastopt.Optimizer, fastopt.SGD(np.zeros(2))])
def test_what_is_no_method_for_scipy(method):
    with pytest.raises(fastopt.HyperParameterError, match="method"):
        fastopt.scipy_method(method)


@pytest.mark.parametrize(
    "value, slope, error, text",
    [
        (0.0, np.zeros(3), fastopt.ShapeError, r"gradient that jac returned has shape \(3,\), expected \(2,\)"),
        (0.0, np.zeros((1, 2)), fastopt.ShapeError, r"shape \(1, 2\)"),
        (0.0, 1.0, fastopt.ShapeError, r"shape \(1,\)"),
        (0.0, np.zeros(2, complex), fastopt.DTypeError, "dtype complex128"),
        (0.0, None, fastopt.DTypeError, "dtype object"),
        (np.zeros(2), np.zeros(2), fastopt.ShapeError, r"fun must return a real number, got array\(\[0"),
        (1j, np.zeros(2), fastopt.ShapeError, "real number, got 1j;"),
        (np.zeros(1, complex), np.zeros(2), fastopt.ShapeError, r"got array\(\[0"),
        (None, np.zeros(2), fastopt.ShapeError, "got None;"),
    ],
)
def test_what_fun_and_jac_return(value, slope, error, text):
    with pytest.raises(error, match=text):
        fastopt.minimize(lambda x: value, [1.0, 2.0], jac=lambda x: slope, method="adam")
    with pytest.raises(error, match=text.replace("jac returned", "fun returned")):
        fastopt.minimize(lambda x: (value, slope), [1.0, 2.0], jac=True, method="adam")


def test_a_function_that_returns_no_pair_or_one_too_many():
    with pytest.raises(fastopt.ShapeError, match="with jac=True fun must return value and gradient, got float"):
        fastopt.minimize(bowl, np.zeros(4), jac=True, method="adam")
    with pytest.raises(fastopt.ShapeError, match="must return value and gradient, got tuple"):
        fastopt.minimize(lambda x: (*both(x), None), np.zeros(4), jac=True, method="adam")
    with pytest.raises(fastopt.ShapeError, match="with a gradient, pass jac=True"):
        fastopt.minimize(both, np.zeros(4), jac=bowl_slope, method="adam")
    with pytest.raises(ZeroDivisionError):  # its own errors pass through
        fastopt.minimize(lambda x: 1 / 0, np.zeros(4), jac=bowl_slope, method="adam")


@pytest.mark.parametrize("what", ["hess", "hessp"])
def test_what_is_not_used_is_told(what):
    with pytest.warns(RuntimeWarning, match=f"Adam does not use {what}"):
        fastopt.minimize(both, np.zeros(4), jac=True, method="adam", options={"maxiter": 1}, **{what: rosen_hess})


def test_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    for method in ("adam", "BFGS"):
        with pytest.raises(FastoptError, match="needs SciPy: pip install scipy"):
            fastopt.minimize(both, np.zeros(4), jac=True, method=method)


def test_the_interface_is_scipys():
    ours, theirs = (inspect.signature(f).parameters for f in (fastopt.minimize, optimize.minimize))
    assert list(ours) == list(theirs)


def test_the_examples_run():
    assert doctest.testmod(sys.modules["fastopt.minimize"]) == (0, 8)
