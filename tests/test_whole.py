"""Optimizers that look at whole rows, columns or matrices: bits over tiles and threads, formulas, sparse steps, shapes."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
from conftest import needs_native
from settings import BLOCKS, MATRICES, SETTINGS, assert_bits, case_id, native_builds
from test_arguments import each_backend, refused
from test_bits import odd_gradient
from test_state import assert_same

import fastopt
from fastopt import HyperParameterError, ShapeError, SparseGrad, UnsupportedError, kernels, reductions
from fastopt.passes import Runner, sum_of_squares

Array = np.ndarray
WHOLE = {name: cls for name, cls in fastopt.Optimizer.known.items() if cls.plan is not None}
each_whole = pytest.mark.parametrize("name", WHOLE)
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
#: tiles of 64 rows and 1024 columns: below, at and above one, several in both directions, several matrices; rows of up to 128
#: elements, of which SM3 takes many at once, and of more
TILED = [
    (1, 1),
    (63, 5),
    (64, 16),
    (65, 17),
    (130, 100),
    (70, 128),
    (70, 129),
    (1, 3000),
    (300, 3),
    (130, 1030),
    (2, 70, 1025),
    (3, 2, 66, 5),
]


def shapes_for(name: str) -> list[tuple[int, ...]]:
    return [s for s in TILED if name not in MATRICES or len(s) == 2]


def arrays(opt: Any) -> list[Array]:
    """Parameters and states."""
    states = [a for e in opt.state_dict()["state"].values() for k, a in e.items() if k != "step"]
    return [*(p for group in opt.param_groups for p in group["params"]), *states]


# ----------------------------------------------------------------------------------------------------------- reductions


def sum_by_hand(x: list[float]) -> float:
    """The order of a sum along a row, element by element."""
    total = 0.0
    for start in range(0, len(x), 1024):
        lanes = [0.0] * 16
        for j, value in enumerate(x[start : start + 1024]):
            lanes[j % 16] += value
        for half in (8, 4, 2, 1):
            lanes = [lanes[j] + lanes[j + half] for j in range(half)]
        total += lanes[0]
    return total


def test_sums_have_the_order_that_is_promised(rng):
    for n in (0, 1, 15, 16, 17, 1000, 1023, 1024, 1025, 2048, 5000):
        x = rng.standard_normal((3, n)) * 10.0 ** rng.integers(-9, 9, (3, n))
        assert_bits(reductions.row_totals(x), np.array([sum_by_hand(row) for row in x.tolist()]))
        down = [0.0] * 3
        for start in range(0, n, 64):
            for j in range(3):
                part = 0.0
                for value in x[j, start : start + 64].tolist():
                    part += value
                down[j] += part
        assert_bits(reductions.folded_blocks(reductions.stacked_sums(x.T)), np.array(down))
        assert (np.abs(reductions.row_totals(x) - [math.fsum(row) for row in x]) <= 1e-12 * np.abs(x).sum(axis=1)).all()


@needs_native
def test_kernels_and_references_have_the_same_blocks():
    for isa in native_builds():
        for table in kernels.load(isa).values():
            assert (table["SUMMED"], table["STACKED"]) == (reductions.SUMMED, reductions.STACKED)


def test_the_largest_of_numbers_with_nan_is_nan(rng):
    for n in (1, 2, 3, 7, 64, 65):
        x = rng.random((n, 4, 5))
        assert_bits(reductions.largest(x, (0,)), x.max(axis=0))
        assert_bits(reductions.largest(x, (0, 2)), x.max(axis=(0, 2)))
        for k in range(n):
            y = x.copy()
            y[k, 1] = np.nan
            assert_bits(reductions.largest(y, (0,)), y.max(axis=0))
    assert reductions.largest(np.zeros((0, 3)), (0,)).tolist() == [0, 0, 0]


# ------------------------------------------------------------------------------------------------------------------ bits


@needs_native
@each_dtype
@each_whole
def test_every_tiling_and_number_of_threads_gives_the_bits_of_the_reference(name, dtype, forced, use_build, rng):
    start = [rng.standard_normal(s).astype(dtype) for s in shapes_for(name)]
    grads = [
        [odd_gradient(rng, p.ravel(), special=t == 2).reshape(p.shape) for p in start] for t in range(3)
    ]  # the last with NaN
    for setting in SETTINGS[name]:
        want = WHOLE[name]([p.copy() for p in start], **setting, backend="numpy")
        for g in grads:
            want.step(g)
        for k, isa in enumerate(native_builds()):
            use_build(isa)
            for threads, chunk in ((1, 0), (2, 0)) if k else ((1, 0), (2, 0), (5, 2)):
                forced(threads, chunk)
                opt = WHOLE[name]([p.copy() for p in start], **setting, backend="native")
                for g in grads:
                    opt.step(g)
                for a, b in zip(arrays(opt), arrays(want), strict=True):
                    assert_bits(a, b, f"{isa} {threads} {setting} {a.shape}")


MUON = [
    ("muon", {**block, **setting})
    for setting in SETTINGS["muon"]
    for block in BLOCKS
    if "decoupled_weight_decay" not in block
]


@needs_native
@each_dtype
@pytest.mark.parametrize("case", MUON, ids=case_id)
def test_muon_dense_and_rows_equal_its_reference(case, dtype, forced, use_build, rng):
    """Within one process, where the matrix products are the same; all rows, in any order, are the dense step."""
    start = [rng.standard_normal(s).astype(dtype) for s in [(1, 1), (5, 3), (33, 40), (130, 1), (3, 1030), (0, 4)]]
    keys = [("numpy", 1, False), ("numpy", 1, True)]
    keys += [(isa, threads, sparse) for isa in native_builds() for threads in (1, 2) for sparse in (False, True)]
    opts = {}
    for isa, threads, sparse in keys:
        if isa != "numpy":
            use_build(isa)
        backend = "numpy" if isa == "numpy" else "native"
        opts[isa, threads, sparse] = fastopt.Muon([p.copy() for p in start], **case[1], backend=backend)
    for _ in range(3):
        grads = [odd_gradient(rng, p.ravel(), special=False).reshape(p.shape) for p in start]
        order = [rng.permutation(len(p)) for p in start]
        for (isa, threads, sparse), opt in opts.items():
            if isa != "numpy":
                forced(threads, 5)
            opt.step([SparseGrad(o, g[o]) for o, g in zip(order, grads, strict=True)] if sparse else grads)
    want = arrays(opts.pop(keys[0]))
    for key, opt in opts.items():
        for a, b in zip(arrays(opt), want, strict=True):
            assert_bits(a, b, f"{key} {a.shape}")


TRANSFORMS: list[dict[str, Any]] = [
    {"transforms": [fastopt.clip_global_norm(0.5)]},
    {"transforms": [fastopt.clip_global_norm(0.3), fastopt.transforms.ema(0.7)], "maximize": True},
    {"transforms": [fastopt.transforms.lookahead(2, 0.3), fastopt.transforms.swa(1, 2)], "weight_decay": 0.05},
    {"transforms": [fastopt.clip_global_norm(1.0), fastopt.transforms.ema(0.9), fastopt.transforms.swa()]},
]


@needs_native
@each_dtype
@pytest.mark.parametrize("options", TRANSFORMS, ids=lambda o: case_id(("", o)))
@each_whole
def test_transforms_have_the_bits_of_the_reference_and_rows_those_of_dense(name, options, dtype, forced, rng):
    """Finite gradients: one NaN in the norm would make everything NaN, and nothing would be compared."""
    start = [np.array(rng.standard_normal(s), dtype, order=o) for s in shapes_for(name) for o in "CF"]
    runs = [("numpy", 1, False), ("native", 1, False), ("native", 2, False)]
    opts = {run: WHOLE[name]([p.copy(order="K") for p in start], **options, backend=run[0]) for run in runs}
    rows = [p for p in start if p.flags.c_contiguous]
    for run in [("numpy", 1, True), ("native", 2, True), ("native", 1, None)]:  # None: dense, of the same parameters
        opts[run] = WHOLE[name]([p.copy() for p in rows], **options, backend=run[0])
    for _ in range(4):
        grads = [np.array(rng.standard_normal(p.shape), dtype, order="K") for p in start]
        some = [g for g, p in zip(grads, start, strict=True) if p.flags.c_contiguous]
        order = [rng.permutation(len(g)) for g in some]
        for (backend, threads, sparse), opt in opts.items():
            forced(threads if backend == "native" else 0, 3 if threads == 2 else 0)
            given = [SparseGrad(o, g[o]) for o, g in zip(order, some, strict=True)] if sparse else some
            opt.step(grads if sparse is False else given)
    for (backend, threads, sparse), opt in opts.items():
        want = opts["numpy", 1, False] if sparse is False else opts["native", 1, None]
        for a, b in zip(arrays(opt), arrays(want), strict=True):
            assert np.isfinite(a).all()
            assert_bits(a, b, f"{backend} {threads} {sparse} {a.shape}")


@each_backend
@each_whole
def test_transforms_do_what_they_do_by_hand(name, backend, rng):
    p = rng.standard_normal((70, 5))
    q, ema, slow = p.copy(), p.copy(), p.copy()
    transforms = [fastopt.clip_global_norm(0.5), fastopt.transforms.ema(0.8), fastopt.transforms.lookahead(2, 0.3)]
    opt, plain = WHOLE[name](p, transforms=transforms, backend=backend), WHOLE[name](q, backend=backend)
    for t in range(1, 6):
        rows, g = np.array([4, 1, 60]), rng.standard_normal((70, 5)) * 10.0 ** (t - 3)
        some = slice(None) if t != 3 else rows
        factor = min(1.0, 0.5 / (math.sqrt(math.fsum((g[some] ** 2).ravel())) + 1e-6))
        opt.step(SparseGrad(rows, g[rows]) if t == 3 else g)
        plain.step(SparseGrad(rows, factor * g[rows]) if t == 3 else factor * g)
        ema[some] = q[some] if t == 1 else 0.8 * ema[some] + 0.2 * q[some]
        if t % 2 == 0:
            slow[some] = q[some] = slow[some] + 0.3 * (q[some] - slow[some])
        np.testing.assert_allclose(p, q, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(opt.averaged(0, "ema"), ema, rtol=1e-11, atol=1e-13)
        np.testing.assert_allclose(opt.averaged(0, "slow"), slow, rtol=1e-11, atol=1e-13)
    opt.reset_state()
    entry = opt.state_dict()["state"][0]
    assert entry["step"] == 0
    assert not any(a.any() for k, a in entry.items() if k not in ("step", "ema", "slow"))
    np.testing.assert_allclose(opt.averaged(0, "ema"), ema, rtol=1e-11, atol=1e-13)
    fresh = pickle.loads(pickle.dumps(opt))
    fresh.step(g)
    opt.step(g)
    assert_same(fresh, opt)


@each_backend
@each_whole
def test_steps_with_what_is_not_finite_are_skipped_or_refused(name, backend, rng):
    p = rng.standard_normal((40, 7))
    for bad in (np.nan, np.inf):
        for sparse in (False, True):
            g = rng.standard_normal((40, 7))
            g[3, 2] = bad
            given = SparseGrad(np.array([3, 1]), g[[3, 1]]) if sparse else g
            opt = WHOLE[name](p, nonfinite="skip", backend=backend)
            opt.step(np.ones((40, 7)))
            before, state = p.copy(), opt.state_dict()
            opt.step(given)
            assert opt.skipped == 1
            assert_bits(p, before)
            assert opt.state_dict()["step"] == state["step"] == 1
            for k, a in opt.state_dict()["state"][0].items():
                assert np.array_equal(a, state["state"][0][k])
            opt = WHOLE[name](p, nonfinite="raise", backend=backend)
            with refused(fastopt.NonFiniteError, "gradient", opt=opt):
                opt.step(given)
            large = np.full((40, 7), 1e200)  # finite, though its squares are not
            opt.step(large)
            assert opt.state_dict()["step"] == 1
            p[...] = before


@needs_native
@each_dtype
def test_the_norm_of_a_gradient_has_one_order(dtype, rng):
    for n in (0, 1, 17, 1023, 1024, 1025, 5000):
        x = rng.standard_normal(n).astype(dtype)
        wide = x.astype(np.float64)
        want = reductions.total(wide * wide)
        assert sum_of_squares(Runner(None, 0), x) == sum_of_squares(Runner(kernels.table, 1), x) == want
        assert want == sum_by_hand((wide * wide).tolist())


@each_backend
@each_whole
def test_the_layout_of_a_parameter_does_not_matter(name, backend, rng):
    for shape in shapes_for(name)[1:]:
        start = rng.standard_normal(shape)
        one = WHOLE[name](np.array(start, order="C"), backend=backend)
        other = WHOLE[name](np.array(start, order="F"), backend=backend)
        for _ in range(2):
            g = rng.standard_normal(shape)
            one.step(g)
            other.step(np.asfortranarray(g))
        for a, b in zip(arrays(one), arrays(other), strict=True):
            assert_bits(a, b, str(shape))


@each_backend
@each_whole
def test_gradients_are_only_read_and_every_other_memory_is_left_alone(name, backend, rng):
    room = rng.standard_normal((5, 40, 7))
    before, g = room.copy(), rng.standard_normal((40, 7))
    kept = g.copy()
    opt = WHOLE[name](room[2], weight_decay=0.1, maximize=True, backend=backend)
    opt.step(g)
    opt.step(SparseGrad(np.array([3, 1]), g[:2]))
    assert_bits(g, kept)
    assert_bits(np.delete(room, 2, axis=0), np.delete(before, 2, axis=0))
    assert not np.array_equal(room[2], before[2])


# -------------------------------------------------------------------------------------------------------------- formulas


@each_backend
def test_rowwise_adagrad_by_its_formula(backend, rng):
    for shape in [(7, 5), (4, 1500), (3, 2, 4), (6,)]:
        p = rng.standard_normal(shape)
        x, a = p.copy().reshape(len(p), -1), np.full((len(p), 1), 0.25)
        opt = fastopt.RowwiseAdagrad(
            p, lr=0.3, eps=1e-3, initial_accumulator_value=0.25, weight_decay=0.1, backend=backend
        )
        for _ in range(5):
            g = rng.standard_normal(shape)
            opt.step(g)
            g = g.reshape(x.shape) + 0.1 * x
            a = a + (g * g).mean(axis=1, keepdims=True)
            x = x - 0.3 / (np.sqrt(a) + 1e-3) * g
        np.testing.assert_allclose(p.reshape(x.shape), x, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(opt.state_dict()["state"][0]["sum"], a[:, 0], rtol=1e-12)


@each_backend
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sm3_by_its_formula_on_every_number_of_axes(momentum, backend, rng):
    for shape in [(), (6,), (7, 5), (3, 4, 5), (2, 3, 2, 4), (70, 1030)]:
        p = np.array(rng.standard_normal(shape))
        x, m, accumulators = p.copy(), np.zeros(shape), [np.zeros(n) for n in shape] or [np.zeros(())]
        opt = fastopt.SM3(p, lr=0.2, momentum=momentum, eps=1e-3, backend=backend)
        for _ in range(5):
            g = np.array(rng.standard_normal(shape))
            opt.step(g)
            grids = [a.reshape([-1 if k == j else 1 for j in range(len(shape))]) for k, a in enumerate(accumulators)]
            v = np.array(g * g + (np.min(np.broadcast_arrays(*grids, x)[:-1], axis=0) if shape else accumulators[0]))
            u = g / np.sqrt(v + 1e-3)
            m = momentum * m + (1 - momentum) * u if momentum else u
            x = x - 0.2 * m
            axes = range(len(shape))
            accumulators = [v.max(axis=tuple(j for j in axes if j != k)) for k in axes] if shape else [v]
        np.testing.assert_allclose(p, x, rtol=1e-12, atol=1e-13)
        state = opt.state_dict()["state"][0]
        for k, a in enumerate(accumulators):
            np.testing.assert_allclose(state[f"accumulator_{k}"], a, rtol=1e-13)


@each_backend
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adafactor_inside_by_keras_formula(decay, backend, rng):
    """With epsilon added to the squares; PyTorch's form is compared with PyTorch."""
    for shape in [(), (6,), (7, 5), (3, 4, 5), (70, 1030)]:
        p = np.array(rng.standard_normal(shape))
        x, r, c, v = p.copy(), 0.0, 0.0, 0.0
        opt = fastopt.Adafactor(p, preset="keras", lr=0.3, d=1.5, weight_decay=decay, backend=backend)
        assert opt.param_groups[0]["eps"] == (1e-30, 1e-3)
        for t in range(1, 6):
            g = np.array(rng.standard_normal(shape))
            opt.step(g)
            beta, x = 1 - t**-0.8, x * (1 - 0.3 * decay)
            q = g * g + 1e-30
            if len(shape) > 1:
                r = beta * r + (1 - beta) * q.mean(axis=-1, keepdims=True)
                c = beta * c + (1 - beta) * q.mean(axis=-2, keepdims=True)
                v = r / r.mean(axis=-2, keepdims=True) * c
            else:
                v = beta * v + (1 - beta) * q
            u = g / np.sqrt(v)
            rate = max(1e-3, np.sqrt((x * x).mean())) * min(0.3, 1 / np.sqrt(t))
            x = x - rate * u / max(1.0, np.sqrt((u * u).mean()) / 1.5)
        np.testing.assert_allclose(p, x, rtol=1e-11, atol=1e-13)


@each_backend
@pytest.mark.parametrize("nesterov", [False, True])
def test_muon_acts_on_singular_values_alone(nesterov, backend, rng):
    """The direction has the singular vectors of the momentum, and its values went through the polynomial."""
    for shape in [(6, 4), (4, 6), (5, 5), (1, 7), (40, 1)]:
        p = rng.standard_normal(shape)
        x, m = p.copy(), np.zeros(shape)
        opt = fastopt.Muon(p, lr=0.1, momentum=0.8, nesterov=nesterov, adjust_lr_fn="match_rms_adamw", backend=backend)
        for _ in range(4):
            g = rng.standard_normal(shape)
            opt.step(g)
            m = 0.8 * m + 0.2 * g
            left, s, right = np.linalg.svd(0.2 * g + 0.8 * m if nesterov else m, full_matrices=False)
            s = s / np.sqrt((s * s).sum())
            for _ in range(5):
                s = 3.4445 * s - 4.775 * s**3 + 2.0315 * s**5
            x = x * (1 - 0.1 * 0.1) - 0.1 * 0.2 * np.sqrt(max(shape)) * (left * s) @ right
        np.testing.assert_allclose(p, x, rtol=1e-9, atol=1e-10)


# ---------------------------------------------------------------------------------------------------------------- sparse


@each_backend
@each_dtype
@pytest.mark.parametrize("mode", ["lazy", "exact"])
@pytest.mark.parametrize("name", ["rowwiseadagrad", "sm3"])
def test_rows_without_gradients_stand_still_in_a_dense_step_too(name, mode, dtype, backend, rng):
    """So that lazy, exact and dense are the same to the bit."""
    for shape in [(30,), (40, 5), (70, 1030), (9, 3, 4)]:
        p = rng.standard_normal(shape).astype(dtype)
        q = p.copy()
        opt, dense = WHOLE[name](p, backend=backend, sparse=mode), WHOLE[name](q, backend=backend)
        for n in (0, 1, 5, len(p)):
            rows = rng.permutation(len(p))[:n]
            g = np.zeros(shape, dtype)
            g[rows] = rng.standard_normal((n, *shape[1:]))
            opt.step(SparseGrad(rows, g[rows]))
            dense.step(g)
            assert_bits(opt.read(0, np.arange(len(p))), q)
        opt.catch_up(0)
        opt.flush()
        for a, b in zip(arrays(opt), arrays(dense), strict=True):
            assert_bits(a, b, str(shape))


@each_backend
def test_what_has_no_exact_mode_says_so(backend):
    p = np.ones((3, 4))
    for name, options, word in [
        ("adafactor", {}, "lazy"),
        ("muon", {}, "lazy"),
        ("sm3", {"momentum": 0.5}, "lazy"),
        ("sm3", {"weight_decay": 0.1}, "weight_decay=0"),
        ("rowwiseadagrad", {"weight_decay": 0.1, "decoupled_weight_decay": True}, "weight_decay=0"),
    ]:
        with refused(UnsupportedError, word):
            WHOLE[name](p, **options, sparse="exact", backend=backend)
    opt = fastopt.SM3(p, sparse="exact", backend=backend)
    with refused(UnsupportedError, "lazy", opt=opt):
        opt.param_groups[0]["momentum"] = 0.5


# ------------------------------------------------------------------------------------------- shapes, states, non-numbers


def test_the_shapes_of_states():
    def shapes(cls: type, shape: tuple[int, ...], **options: Any) -> dict[str, tuple[int, ...]]:
        state = cls(np.ones(shape), **options).state_dict()["state"][0]
        return {k: a.shape for k, a in state.items() if k != "step"}

    assert shapes(fastopt.RowwiseAdagrad, (3, 4, 5)) == {"sum": (3,)}
    assert shapes(fastopt.RowwiseAdagrad, ()) == {"sum": ()}
    assert shapes(fastopt.SM3, (3, 4, 5)) == {f"accumulator_{k}": (n,) for k, n in enumerate((3, 4, 5))}
    assert shapes(fastopt.SM3, (), momentum=0.5) == {"accumulator_0": (), "momentum_buffer": ()}
    assert shapes(fastopt.Adafactor, (3, 4, 5)) == {"row_var": (3, 4, 1), "col_var": (3, 1, 5)}
    assert shapes(fastopt.Adafactor, (3,)) == {"variance": (3,)}
    assert shapes(fastopt.Muon, (3, 4)) == {"momentum_buffer": (3, 4)}


def test_states_of_wrong_shapes_and_names_are_refused():
    for cls, state, wrong in [
        (fastopt.RowwiseAdagrad, "sum", (3, 4)),
        (fastopt.SM3, "accumulator_1", (3,)),
        (fastopt.Adafactor, "row_var", (3, 4)),
        (fastopt.Adafactor, "col_var", (4,)),
    ]:
        opt = cls(np.ones((3, 4)))
        opt.step(np.ones((3, 4)))
        d = opt.state_dict()
        d["state"][0][state] = np.zeros(wrong)
        with refused(ShapeError, state, str(wrong), opt=opt):
            opt.load_state_dict(d)
        d = opt.state_dict()
        d["state"][0]["other"] = d["state"][0].pop(state)
        with refused(fastopt.StateError, state, opt=opt):
            opt.load_state_dict(d)


def test_muon_refuses_what_is_no_matrix():
    for shape in [(), (3,), (2, 3, 4)]:
        with refused(ShapeError, "'b'", str(shape), "AdamW"):
            fastopt.Muon({"a": np.ones((2, 2)), "b": np.ones(shape)})
        opt = fastopt.Muon({"a": np.ones((2, 2))})
        with refused(ShapeError, "'b'", opt=opt):
            opt.add_param_group({"params": {"b": np.ones(shape)}})
        assert len(opt.param_groups) == 1


def test_options_of_muon_are_checked():
    p = np.ones((3, 2))
    for name, bad in {
        "ns_steps": [-1, 100, 5.0, True, None],
        "ns_coefficients": [None, 1.0, (1.0, 2.0), (1, 2, 3, 4), (1, 2, math.nan), ("1", 2, 3)],
        "adjust_lr_fn": ["Original", 1, True, ""],
        "momentum": [1.0, -0.1, None],
        "eps": [-1.0, None],
        "nesterov": [1, None],
    }.items():
        for value in bad:
            with refused(HyperParameterError, name, watch=p):
                fastopt.Muon(p, **{name: value})
    with pytest.raises(UnsupportedError):
        fastopt.Muon(p, decoupled_weight_decay=True)


@each_backend
@each_whole
def test_models_and_tables_name_the_way_out(name, backend):
    with refused(UnsupportedError, WHOLE[name].__name__, "array"):
        fastopt.Table(4, 3, name, backend=backend)
    models = pytest.importorskip("fastopt.models")
    with refused(UnsupportedError, WHOLE[name].__name__, "another optimizer"):
        models.LinearClassifier(optimizer=name).fit(np.eye(4), np.array([0, 1, 0, 1]))


@each_backend
def test_a_nan_goes_where_the_formula_takes_it(backend, rng):
    g = rng.standard_normal((70, 5))
    g[3, 2] = np.nan
    row, column = np.arange(70)[:, None] == 3, np.arange(5) == 2
    for cls, lost in [
        (fastopt.RowwiseAdagrad, row & (column | True)),
        (fastopt.SM3, row & column),
        (fastopt.Adafactor, np.ones((70, 5), bool)),  # the mean of the rows' moments
        (fastopt.Muon, np.ones((70, 5), bool)),
    ]:
        p = np.ones((70, 5))
        opt = cls(p, backend=backend)
        opt.step(g)
        assert np.array_equal(np.isnan(p), lost), cls
        opt.step(np.ones((70, 5)))
        if cls is fastopt.SM3:  # whose accumulators the whole row and column share
            assert np.array_equal(np.isnan(p), row | column)


@each_backend
@each_whole
def test_lives_of_matrices(name, backend, rng):
    """Groups, schedules, None, copies, saved and loaded states, opt.grads: the way of an optimizer of its own."""

    def schedule(t: int) -> float:
        return 0.3 / (1 + t)

    start = [rng.standard_normal(s) for s in [(6, 4), (3, 70), (5, 5)]]
    opt = WHOLE[name]([{"params": [start[0].copy()], "lr": schedule}, {"params": start[1].copy()}], backend=backend)
    opt.add_param_group({"params": np.asfortranarray(start[2]), "weight_decay": 0.2, "maximize": True})
    alone = [
        WHOLE[name](p.copy(), backend=backend, **o)
        for p, o in zip(start, [{"lr": 0.3}, {}, {"weight_decay": 0.2, "maximize": True}], strict=True)
    ]
    for t in range(6):
        grads: list[Any] = [rng.standard_normal(p.shape) for p in start]
        grads[1] = None if t == 2 else SparseGrad(np.array([2, 0]), grads[1][:2]) if t == 3 else grads[1]
        alone[0].param_groups[0]["lr"] = schedule(t)
        if t == 4:
            for mine, g in zip(opt.grads, grads, strict=True):
                mine[...] = g
            opt.step()
        else:
            opt.step(grads)
        for one, g in zip(alone, grads, strict=True):
            if g is not None:
                one.step(g)
        fresh = copy.deepcopy(opt)
        fresh.load_state_dict(opt.state_dict())
        assert_same(fresh, opt)
        opt = fresh
    for k, one in enumerate(alone):
        mine = opt.state_dict()["state"][k]
        assert_bits(opt.param_groups[k]["params"][0], arrays(one)[0])
        for state, a in one.state_dict()["state"][0].items():
            assert mine[state] == a if state == "step" else np.array_equal(mine[state], a)
    plain = WHOLE[name](start[0], backend=backend)
    plain.step(grads[0])
    assert_same(pickle.loads(pickle.dumps(plain)), plain)
