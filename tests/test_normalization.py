"""Batch normalization: bits of kernels and reference, accuracy, gradients, running statistics, arguments, state."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from conftest import needs_native
from settings import assert_bits, native_builds
from test_arguments import BACKENDS, each_backend, frozen, refused
from test_bits import odd_gradient, offset_array

import fastopt
from fastopt import (
    DTypeError,
    HyperParameterError,
    LayoutError,
    OverlapError,
    ReadOnlyError,
    ShapeError,
    StateError,
    kernels,
)
from fastopt.strategies import BatchNorm
from fastopt.strategies.normalization import MERGE, STATISTICS

Array = np.ndarray
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
#: blocks of 64 rows and tiles of 1024 columns; groups of 4 rows; rows of up to 128 columns, of which many are taken at once
SHAPES = [
    (2, 1),
    (5000, 1),
    (3, 2),
    (63, 3),
    (64, 128),
    (65, 129),
    (1000, 7),
    (129, 64),
    (258, 256),
    (67, 1025),
    (2, 2100),
]


def layer(features: int, seed: int = 3, **options: Any) -> BatchNorm:
    """A layer with weight, bias and running statistics that are not those of the start."""
    bn, rng = BatchNorm(features, **options), np.random.default_rng(seed)
    bn.load_state_dict(
        {
            name: a if name == "num_batches_tracked" else rng.uniform(0.3, 2.0, a.shape).astype(a.dtype)
            for name, a in bn.state_dict().items()
        }
    )
    return bn


def batch(rng: np.random.Generator, shape: tuple[int, int], dtype: type, mean: float = 0.0) -> Array:
    return (rng.standard_normal(shape) + mean).astype(dtype)


def everything(bn: BatchNorm) -> dict[str, Array]:
    """What the layer keeps, the gradients of the last batch included."""
    return {**bn.state_dict(), **{f"gradient of {name}": a.copy() for name, a in bn.grads.items()}}


@contextmanager
def unchanged(bn: BatchNorm, error: Any, *words: str, watch: Any = ()) -> Iterator[None]:
    """`refused`, and the layer is what it was."""
    before = frozen(everything(bn).values())
    with refused(error, *words, watch=watch):
        yield
    assert frozen(everything(bn).values()) == before


# ------------------------------------------------------------------------------------------------------------------ bits


@needs_native
@each_dtype
@pytest.mark.parametrize("odd", [False, True], ids=["numbers", "odd"])
def test_every_build_and_number_of_threads_gives_the_bits_of_the_reference(odd, dtype, forced, use_build, rng):
    for shape in SHAPES:
        x, dy = batch(rng, shape, dtype, 100.0), batch(rng, shape, dtype)
        if odd:
            x, dy = (odd_gradient(rng, a.ravel(), special=True).reshape(shape) for a in (x, dy))
        for options in ({}, {"momentum": None, "eps": 0.0}, {"affine": False}, {"track_running_stats": False}):
            results: dict[Any, list[Array]] = {}

            def life(key: Any, **how: Any) -> None:
                bn = layer(shape[1], dtype=dtype, **options, **how)  # noqa: B023
                seen = results.setdefault(key, [])  # noqa: B023
                for training in (True, False, True):
                    seen += [bn.forward(x, training=training), bn.backward(dy), *everything(bn).values()]  # noqa: B023

            life("reference", backend="numpy")
            for isa in native_builds():
                use_build(isa)
                for threads, chunk in ((1, 0), (2, 0), (3, 1)):
                    forced(threads, chunk)
                    life((isa, threads), backend="native")
            want = results.pop("reference")
            for key, got in results.items():
                for k, (a, b) in enumerate(zip(got, want, strict=True)):
                    assert_bits(np.asarray(a, dtype), np.asarray(b, dtype), f"{shape} {options} {key} {k}")


@needs_native
@each_dtype
def test_where_arrays_lie_does_not_matter(dtype, rng):
    for shape in [(70, 3), (70, 130)]:
        x, dy = (offset_array(rng, math.prod(shape), dtype, 0).reshape(shape) for _ in range(2))
        want = layer(shape[1], dtype=dtype)
        y, dx = want.forward(x), want.backward(dy)
        for byte in range(0, 64, 8):
            a, b, out, back = (offset_array(rng, math.prod(shape), dtype, byte).reshape(shape) for _ in range(4))
            a[...], b[...] = x, dy
            bn = layer(shape[1], dtype=dtype)
            assert_bits(bn.forward(a, out), y)
            assert_bits(bn.backward(b, back), dx)


@needs_native
def test_large_batches_are_shared_by_threads(rng):
    x = batch(rng, (4096, 64), np.float32)
    for threads in (1, 2):
        bn = BatchNorm(64, n_threads=threads)
        bn.forward(x)
        assert kernels.drivers.last_team() == (threads if kernels.drivers.OPENMP else 1)


@each_backend
def test_statistics_have_the_order_that_is_promised(backend, rng):
    """Blocks of 64 rows, from top to bottom; squares around the mean of the block; blocks from top to bottom."""
    for rows in (1, 2, 63, 64, 65, 200):
        x = rng.standard_normal((rows, 3)) * 10.0 ** rng.integers(-6, 6, (rows, 3))
        bn = BatchNorm(3, dtype="float64", backend=backend)
        want = np.empty((2, 3))
        for j in range(3):
            found = []
            for start in range(0, rows, 64):
                block, total, squares = x[start : start + 64, j].tolist(), 0.0, 0.0
                for value in block:
                    total += value
                for value in block:
                    squares += (value - total / len(block)) * (value - total / len(block))
                found.append((len(block), total, squares))
            mean = 0.0
            for _, total, _ in found:
                mean += total
            mean, spread = mean / rows, 0.0
            for count, total, squares in found:
                spread += squares + count * ((total / count - mean) * (total / count - mean))
            want[:, j] = mean, spread / rows
        assert_bits(bn._moments(x), want, str(rows))
    assert (STATISTICS.name, MERGE.name) == ("batchnorm_statistics", "batchnorm_merge")


@each_backend
def test_what_is_not_finite_passes_without_a_warning(backend):
    x = np.array([[np.inf, 1e38], [1.0, -3e38], [np.nan, 3e38]], np.float32)
    bn = BatchNorm(2, backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bn.forward(x)
        bn.backward(x)
    assert np.isnan(bn.running_mean[0]) and np.isinf(bn.running_var[1])


# -------------------------------------------------------------------------------------------------------------- accuracy


def normalized(x: Array, weight: Array, bias: Array, eps: float = 1e-5) -> tuple[Array, Array, Array]:
    """By the formula, in the longest type: result, mean, unbiased variance."""
    long = x.astype(np.longdouble)
    mean = long.sum(axis=0) / len(x)
    squares = ((long - mean) ** 2).sum(axis=0)
    y = (long - mean) / np.sqrt(squares / len(x) + eps) * weight + bias
    return y, mean, squares / (len(x) - 1)


@each_backend
@each_dtype
@pytest.mark.parametrize("mean", [0.0, 100.0, 1e4])
def test_columns_far_from_zero_lose_nothing(mean, dtype, backend, rng):
    for shape in [(2, 3), (256, 100), (4096, 64)]:
        x = batch(rng, shape, dtype, mean)
        bn = layer(shape[1], dtype=dtype, backend=backend, momentum=1.0)
        y, mu, var = normalized(x, bn.params["weight"], bn.params["bias"])
        got = bn.forward(x)
        ulp = np.finfo(dtype).eps
        close = 1e-13 * (1 + mean) if dtype == np.float64 else 1e-6
        np.testing.assert_allclose(got, y.astype(np.float64), rtol=0, atol=close * max(1.0, float(abs(y).max())))
        np.testing.assert_allclose(bn.running_mean, mu.astype(np.float64), rtol=2 * ulp, atol=1e-16 + 2 * ulp * mean)
        np.testing.assert_allclose(bn.running_var, var.astype(np.float64), rtol=max(4 * ulp, 1e-13 + 1e-15 * mean))


@each_backend
def test_an_outlier_in_the_first_row_costs_no_digits(backend, rng):
    """A variance of values that are shifted by the first row would lose them here."""
    x = rng.standard_normal((10_000, 2))
    x[0] += 1e9
    bn = BatchNorm(2, dtype="float64", backend=backend, momentum=1.0)
    bn.forward(x)
    np.testing.assert_allclose(bn.running_var, normalized(x, 1, 0)[2].astype(np.float64), rtol=1e-13)


@each_backend
@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_gradients_by_finite_differences(training, backend, rng):
    for shape in [(2, 3), (7, 5), (70, 2)]:
        x, upstream = batch(rng, shape, np.float64, 3.0), rng.standard_normal(shape)
        bn = layer(shape[1], dtype="float64", backend=backend)
        bn.forward(x, training=training)
        dx = bn.backward(upstream)
        grads = {name: g.copy() for name, g in bn.grads.items()}

        def slope(a: Array) -> Array:
            """Of the loss sum(upstream * forward(x)), by each element of `a`, which is changed and restored."""
            found = np.empty_like(a)
            for k in np.ndindex(a.shape):
                kept, sides = a[k], []
                for step in (1e-5, -1e-5):
                    a[k] = kept + step
                    probe = copy.deepcopy(bn)  # noqa: B023
                    sides.append(float((upstream * probe.forward(x, training=training)).sum()))  # noqa: B023
                a[k] = kept
                found[k] = (sides[0] - sides[1]) / 2e-5
            return found

        bn = layer(shape[1], dtype="float64", backend=backend)  # whose running statistics no batch has changed
        if not training:
            np.testing.assert_allclose(dx, upstream * bn.params["weight"] / np.sqrt(bn.running_var + 1e-5), rtol=1e-12)
        np.testing.assert_allclose(dx, slope(x), rtol=1e-5, atol=1e-8)
        for name, p in bn.params.items():
            np.testing.assert_allclose(grads[name], slope(p), rtol=1e-5, atol=1e-8)


# ----------------------------------------------------------------------------------------------------- modes, statistics


@each_backend
def test_running_statistics(backend, rng):
    x = [batch(rng, (n, 3), np.float64, 5.0) for n in (4, 9, 70)]
    means, variances = [a.mean(axis=0) for a in x], [a.var(axis=0, ddof=1) for a in x]
    moving, mean = (BatchNorm(3, momentum=m, dtype="float64", backend=backend) for m in (0.3, None))
    want_mean, want_var = np.zeros(3), np.ones(3)
    for k, a in enumerate(x):
        for bn in (moving, mean):
            y = bn.forward(a)
            bn.forward(a + 1, training=False)  # leaves them as they are
            np.testing.assert_allclose(y, (a - means[k]) / np.sqrt(a.var(axis=0) + 1e-5), rtol=1e-10, atol=1e-12)
        want_mean = 0.7 * want_mean + 0.3 * means[k]
        want_var = 0.7 * want_var + 0.3 * variances[k]
        np.testing.assert_allclose(moving.running_mean, want_mean, rtol=1e-13)
        np.testing.assert_allclose(moving.running_var, want_var, rtol=1e-13)
        np.testing.assert_allclose(mean.running_mean, np.mean(means[: k + 1], axis=0), rtol=1e-13)
        np.testing.assert_allclose(mean.running_var, np.mean(variances[: k + 1], axis=0), rtol=1e-13)
    assert moving.num_batches == mean.num_batches == 3
    y = moving.eval().forward(x[0])
    np.testing.assert_allclose(y, (x[0] - want_mean) / np.sqrt(want_var + 1e-5), rtol=1e-12)
    assert not moving.training and moving.train() is moving and moving.training


@each_backend
def test_without_running_statistics_inference_takes_the_batch(backend, rng):
    x, dy = (batch(rng, (9, 3), np.float32) for _ in range(2))
    bn = BatchNorm(3, track_running_stats=False, backend=backend)
    assert bn.running_mean is bn.running_var is None and set(bn.state_dict()) == {"weight", "bias"}
    y, dx = bn.forward(x), bn.backward(dy)
    assert_bits(bn.eval().forward(x), y)
    assert_bits(bn.backward(dy), dx)
    assert bn.num_batches == 0
    with unchanged(bn, ShapeError, "x has 1 row,"):
        bn.forward(x[:1])


@each_backend
def test_without_affine_it_is_as_with_one_and_zero(backend, rng):
    x, dy = (batch(rng, (9, 3), np.float32) for _ in range(2))
    plain, affine = BatchNorm(3, affine=False, backend=backend), BatchNorm(3, backend=backend)
    assert plain.params == plain.grads == {}
    assert_bits(plain.forward(x), affine.forward(x))
    assert_bits(plain.backward(dy), affine.backward(dy))


@each_backend
def test_an_empty_batch_and_one_row_pass_in_inference(backend, rng):
    bn = layer(3, backend=backend).eval()
    for rows in (0, 1):
        x = batch(rng, (rows, 3), np.float32)
        assert bn.forward(x).shape == bn.backward(x).shape == (rows, 3)
        if not rows:
            assert not any(g.any() for g in bn.grads.values())


@each_backend
def test_backward_belongs_to_the_last_forward_and_its_weight(backend, rng):
    x, dy = (batch(rng, (9, 3), np.float32) for _ in range(2))
    bn = layer(3, backend=backend)
    bn.forward(x)
    dx = bn.backward(dy)
    grads = {name: g.copy() for name, g in bn.grads.items()}
    bn.params["weight"][...] = 7
    bn.eval()
    assert_bits(bn.backward(dy), dx)
    for name, g in bn.grads.items():  # overwritten, not added to
        assert_bits(g, grads[name])
    bn.forward(x)
    assert not np.array_equal(bn.backward(dy), dx)


@each_backend
def test_optimizers_step_its_parameters(backend, rng):
    x, target = batch(rng, (50, 4), np.float32), np.full((50, 4), 3.0, np.float32)
    bn = BatchNorm(4, backend=backend)
    opt = fastopt.SGD(bn.params, lr=0.4, backend=backend)
    for _ in range(60):
        error = bn.forward(x) - target
        bn.backward(error / len(x))
        opt.step(bn.grads)
    np.testing.assert_allclose(bn.params["bias"], 3, rtol=1e-4)
    np.testing.assert_allclose(bn.params["weight"], 0, atol=1e-4)


# ------------------------------------------------------------------------------------------------------ arguments, state


@each_backend
def test_layouts_that_are_copied(backend, rng):
    x, dy = (batch(rng, (70, 6), np.float32) for _ in range(2))
    want = layer(3, backend=backend)
    y, dx = want.forward(x[:, ::2].copy()), want.backward(dy[:, ::2].copy())
    room = np.zeros(70 * 3 * 4 + 1, np.uint8)
    odd = room[1:].view(np.float32).reshape(70, 3)  # not aligned
    odd[...] = x[:, ::2]
    for a, b in [
        (x[:, ::2], dy[:, ::2]),
        (np.asfortranarray(x[:, ::2]), np.asfortranarray(dy[:, ::2])),
        (odd, dy[:, ::2]),
    ]:
        bn = layer(3, backend=backend)
        out, back = np.empty((2, 70, 3), np.float32)
        kept = a.copy()
        assert bn.forward(a, out) is out and bn.backward(b, out=back) is back
        assert_bits(out, y)
        assert_bits(back, dx)
        assert_bits(a.copy(), kept)
        assert bn._saved.x.flags.c_contiguous and bn._saved.x.flags.aligned  # not all machines forgive


def test_options_are_checked():
    for name, bad in {
        "features": [0, -1, 2.0, None, True, "3"],
        "eps": [-1e-5, math.nan, math.inf, None],
        "momentum": [-0.1, 1.1, math.nan, "0.1", True],
        "affine": [1, None],
        "track_running_stats": [0, None],
        "n_threads": [0, 1.0, 2000],
        "backend": ["torch", None],
    }.items():
        for value in bad:
            with refused(HyperParameterError, name):
                BatchNorm(**{"features": 3, name: value})
    for value in (np.float16, int, "single!", None, np.dtype(">f4")):
        with refused(DTypeError, "dtype"):
            BatchNorm(3, dtype=value)


Call = Callable[[BatchNorm, Array], Any]
READ_ONLY = np.zeros((4, 3), np.float32)
READ_ONLY.flags.writeable = False
BAD_CALLS: list[tuple[type, list[str], Call]] = [
    (DTypeError, ["x", "float64", "float32"], lambda bn, x: bn.forward(x.astype(np.float64))),
    (DTypeError, ["x", "list"], lambda bn, x: bn.forward(x.tolist())),
    (DTypeError, ["x", "masked"], lambda bn, x: bn.forward(np.ma.array(x))),
    (ShapeError, ["x", "(3,)", "(batch, 3)"], lambda bn, x: bn.forward(x[0])),
    (ShapeError, ["x", "(4, 2)", "(batch, 3)"], lambda bn, x: bn.forward(x[:, :2])),
    (ShapeError, ["x", "(4, 3, 3)", "reshape(-1, 3)"], lambda bn, x: bn.forward(np.zeros((4, 3, 3), np.float32))),
    (ShapeError, ["x has 1 row,", "at least 2"], lambda bn, x: bn.forward(x[:1])),
    (ShapeError, ["x has 0 rows,", "at least 2"], lambda bn, x: bn.forward(x[:0])),
    (HyperParameterError, ["training"], lambda bn, x: bn.forward(x, training=1)),
    (HyperParameterError, ["mode"], lambda bn, x: bn.train(None)),
    (OverlapError, ["out", "x"], lambda bn, x: bn.forward(x, out=x)),
    (OverlapError, ["out", "x"], lambda bn, x: bn.eval().forward(x, x)),
    (OverlapError, ["out"], lambda bn, x: bn.forward(x, np.broadcast_to(x[0], x.shape))),
    (ShapeError, ["out", "(3, 3)", "(4, 3)"], lambda bn, x: bn.forward(x, np.zeros((3, 3), np.float32))),
    (DTypeError, ["out", "float64"], lambda bn, x: bn.forward(x, np.zeros((4, 3)))),
    (LayoutError, ["out", "C order"], lambda bn, x: bn.forward(x, np.zeros((3, 4), np.float32).T)),
    (LayoutError, ["out", "contiguous"], lambda bn, x: bn.forward(x, np.zeros((4, 6), np.float32)[:, ::2])),
    (ReadOnlyError, ["out"], lambda bn, x: bn.forward(x, READ_ONLY)),
    (ShapeError, ["dy", "(3, 3)", "(4, 3)"], lambda bn, x: bn.backward(x[:3])),
    (ShapeError, ["dy", "(12,)", "(batch, 3)"], lambda bn, x: bn.backward(x.ravel())),
    (DTypeError, ["dy", "float64"], lambda bn, x: bn.backward(x.astype(np.float64))),
    (OverlapError, ["out", "dy"], lambda bn, x: bn.backward(x, x)),
    (StateError, ["backward", "forward"], lambda bn, x: copy.deepcopy(bn).backward(x)),
]


@each_backend
@pytest.mark.parametrize("error, words, call", BAD_CALLS, ids=range(len(BAD_CALLS)))
def test_bad_calls_name_what_is_wrong_and_change_nothing(error, words, call, backend, rng):
    bn, x = layer(3, backend=backend), batch(rng, (4, 3), np.float32)
    first, dy = x + 1, x + 2
    bn.forward(first)
    bn.backward(dy)
    with unchanged(bn, error, *words, watch=[x, first]):
        call(bn, x)
    bn.train()
    kept = {name: g.copy() for name, g in bn.grads.items()}
    bn.backward(dy)  # what belongs to the last good batch is still there
    for name, g in bn.grads.items():
        assert_bits(g, kept[name])


@each_backend
def test_the_gradient_may_not_be_written_over_the_batch(backend, rng):
    x = batch(rng, (4, 3), np.float32)
    bn = BatchNorm(3, backend=backend)
    bn.forward(x)
    with unchanged(bn, OverlapError, "out", "x", watch=x):
        bn.backward(x + 1, out=x)
    for own in (bn.params["weight"].base, bn.running_var.base, bn.grads["bias"].base):
        with unchanged(bn, OverlapError, "out", "this layer", watch=x):
            bn.forward(x[:2], out=own)
    room = np.zeros((8, 3), np.float32)
    bn.forward(room[:4] + x, out=room[4:])
    with unchanged(bn, OverlapError, "out", "dy", watch=room):
        bn.backward(room[4:], out=room[3:7])
    bn.backward(room[4:], out=room[:4])  # neighbours may touch


@each_dtype
@pytest.mark.parametrize("backend", BACKENDS)
def test_lives_go_on_after_state_dicts_copies_and_pickles(backend, dtype, rng):
    x, dy = (batch(rng, (9, 3), dtype) for _ in range(2))
    for options in ({}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}):
        bn = layer(3, dtype=dtype, backend=backend, n_threads=1, **options)
        for _ in range(3):
            bn.forward(x)
            loaded = BatchNorm(3, dtype=dtype, backend=backend, **options)
            arrays = [*loaded.params.values()]
            loaded.load_state_dict(bn.state_dict())
            assert all(
                a is not b and np.shares_memory(a, b) for a, b in zip(arrays, loaded.params.values(), strict=True)
            )
            others = [loaded, copy.deepcopy(bn), pickle.loads(pickle.dumps(bn))]
            want = [bn.forward(x), bn.backward(dy), *everything(bn).values()]
            for other in others:
                assert (other.backend, other.training) == (bn.backend, bn.training)
                assert other is loaded or other.n_threads == other._run.n_threads == 1
                got = [other.forward(x), other.backward(dy), *everything(other).values()]
                for a, b in zip(got, want, strict=True):
                    assert_bits(np.asarray(a, dtype), np.asarray(b, dtype))
        state = bn.state_dict()
        bn.forward(x)
        state_after = bn.state_dict()
        assert not options.get("track_running_stats", True) or frozen(state) != frozen(state_after)


def test_state_dicts_have_the_names_of_torch_and_are_checked():
    bn = layer(3)
    good = bn.state_dict()
    assert set(good) == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    swapped = {**good, "weight": bn.params["bias"], "bias": bn.params["weight"]}
    want = {name: np.copy(a) for name, a in swapped.items()}
    bn.load_state_dict(swapped)  # the layer's own arrays
    for name, a in bn.params.items():
        assert_bits(a, want[name])
    bn.load_state_dict(good)
    bn.load_state_dict({**good, "num_batches_tracked": np.array(7)})
    assert bn.num_batches == 7
    for error, words, bad in [
        (StateError, ["list"], []),
        (StateError, ["weight"], {k: v for k, v in good.items() if k != "weight"}),
        (StateError, ["weight"], {**good, "other": 1}),
        (ShapeError, ["bias", "(4,)", "(3,)"], {**good, "bias": np.zeros(4, np.float32)}),
        (DTypeError, ["running_var", "float64"], {**good, "running_var": np.ones(3)}),
        (HyperParameterError, ["num_batches_tracked"], {**good, "num_batches_tracked": -1}),
        (HyperParameterError, ["num_batches_tracked"], {**good, "num_batches_tracked": 1.5}),
    ]:
        with unchanged(bn, error, *words):
            bn.load_state_dict(bad)
    assert "BatchNorm(3, eps=1e-05" in repr(bn)
