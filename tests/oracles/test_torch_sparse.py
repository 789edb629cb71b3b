"""Outside oracle: sparse gradients beside PyTorch's, to the last few bits: bags, repeated rows, SciPy's matrices, lazy steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from test_torch import dtypes, numbers

import fastopt
from fastopt import SparseGrad

#: What two libraries may differ by that round in different places of a step, beside the largest number of the array.
FEW = {np.float32: 4 * 2.0**-23, np.float64: 1e-14}


@pytest.fixture(autouse=True)
def invariants() -> Iterator[None]:
    with torch.sparse.check_sparse_tensor_invariants():  # else torch warns that it does not check
        yield


def assert_few_ulp(mine: np.ndarray, theirs: torch.Tensor | np.ndarray, what: str = "", times: float = 1.0) -> None:
    want = np.asarray(theirs.detach() if isinstance(theirs, torch.Tensor) else theirs)
    assert (mine.dtype, mine.shape) == (want.dtype, want.shape), what
    if want.size:
        difference = float(np.abs(mine.astype(np.float64) - want).max())
        limit = FEW[want.dtype.type] * times * float(np.abs(want).max())
        assert difference <= limit, f"{what}: differs by {difference:.3g}, allowed is {limit:.3g}"


def seen(g: Any, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """The gradient that a step of SGD saw."""
    p = np.zeros(shape, dtype)
    fastopt.SGD(p, lr=1.0).step(g)
    return 0 - p


# ---------------------------------------------------------------------------------------------------------------- bags


@dtypes
@pytest.mark.parametrize("last", [False, True], ids=["offsets", "last offset too"])
@pytest.mark.parametrize("how", ["sum", "mean", "weights"])
@pytest.mark.parametrize("width", [1, 5, 16, 64])
def test_bag(width: int, how: str, last: bool, dtype: type) -> None:
    rng = numbers(width, how, last, dtype)
    for n_rows, n, n_bags in ((30, 200, 25), (1000, 3000, 700), (5, 400, 3), (7, 0, 4), (10, 6, 1)):
        ids = rng.integers(0, n_rows, n)
        offsets = np.sort(rng.integers(0, n + 1, n_bags))
        offsets[0] = 0
        table = torch.tensor(rng.standard_normal((n_rows, width)).astype(dtype), requires_grad=True)
        # All of one sign: their sums, which torch adds up in another order, lose no digits.
        pooled, weights = (np.abs(rng.standard_normal(s)).astype(dtype) for s in ((n_bags, width), n))
        given = np.append(offsets, n) if last else offsets
        out = torch.nn.functional.embedding_bag(
            torch.tensor(ids),
            table,
            torch.tensor(given),
            mode="mean" if how == "mean" else "sum",
            per_sample_weights=torch.tensor(weights) if how == "weights" else None,
            include_last_offset=last,
        )
        out.backward(torch.tensor(pooled))
        options: dict[str, Any] = {"sum": {}, "mean": {"mode": "mean"}, "weights": {"weights": weights}}[how]
        g = SparseGrad.bag(ids, given, pooled, **options)
        most = int(np.bincount(ids, minlength=1).max())
        assert_few_ulp(seen(g, (n_rows, width), dtype), table.grad, f"{n} in {n_bags}", 1 + most / 16)


@pytest.mark.parametrize("how", ["weights with mean", "offset beyond the end", "index beyond the end", "late begin"])
def test_what_torch_refuses_in_a_bag_is_refused(how: str) -> None:
    ids, offsets, weights, mode = np.array([1, 2, 3]), np.array([0, 2]), None, "sum"
    if how == "weights with mean":
        weights, mode = np.ones(3, np.float32), "mean"
    elif how == "offset beyond the end":
        offsets = np.array([0, 4])
    elif how == "index beyond the end":
        ids = np.array([1, 2, 10])
    else:
        offsets = np.array([1, 2])
    with pytest.raises((RuntimeError, ValueError, NotImplementedError)):
        torch.nn.functional.embedding_bag(
            torch.tensor(ids),
            torch.ones(10, 4),
            torch.tensor(offsets),
            mode=mode,
            per_sample_weights=None if weights is None else torch.tensor(weights),
        )
    opt = fastopt.SGD(np.ones((10, 4), np.float32))
    with pytest.raises(fastopt.FastoptError):
        opt.step(SparseGrad.bag(ids, offsets, np.ones((2, 4), np.float32), weights, mode))


# ------------------------------------------------------------------------------------------------------- repeated rows


@dtypes
@pytest.mark.parametrize("kind", ["random", "all equal", "sorted", "reversed", "no two"])
def test_duplicates_are_what_coalesce_makes_of_them(kind: str, dtype: type) -> None:
    """To the bit where the sum does not depend on its order, which torch leaves open: its sort is not stable."""
    rng = numbers(kind, dtype)
    for n, width in ((1, (4,)), (65, (1,)), (1000, (8,)), (1000, ()), (20_000, (17,))):
        n_rows = n // 3 + 2
        ids = rng.integers(0, n_rows, n)
        if kind == "all equal":
            ids[:] = 1
        elif kind == "no two":
            ids = rng.permutation(n)
            n_rows = n
        elif kind != "random":
            ids = np.sort(ids)[:: 1 if kind == "sorted" else -1].copy()
        for whole in (True, False):
            v = (rng.integers(-99, 99, (n, *width)) if whole else rng.random((n, *width))).astype(dtype)
            theirs = torch.sparse_coo_tensor(torch.tensor(ids)[None], torch.tensor(v), (n_rows, *width)).coalesce()
            want = np.zeros((n_rows, *width), dtype)
            want[theirs.indices()[0].numpy()] = theirs.values().numpy()
            got = seen(SparseGrad(ids, v), want.shape, dtype)
            if whole or kind == "no two":
                assert np.array_equal(got, want), (n, width)
            assert_few_ulp(got, want, f"{n} {width}", 1 + int(np.bincount(ids).max()) / 16)


# ------------------------------------------------------------------------------------------------------ SciPy's matrices


@dtypes
@pytest.mark.parametrize("fmt", ["csr", "csc", "coo", "bsr", "lil", "dok"])
def test_scipy_gradient(fmt: str, dtype: type) -> None:
    """A dense step of torch on what the matrix is: Adagrad is the same whether a row stands still or gets zeros."""
    rng = numbers(fmt, dtype)
    for shape in ((30, 8), (200, 1), (50, 50)):
        mine = rng.standard_normal(shape).astype(dtype)
        theirs = torch.tensor(mine)
        opt, reference = fastopt.Adagrad(mine, lr=0.1), torch.optim.Adagrad([theirs], lr=0.1)
        for t in range(10):
            g = sp.random_array(shape, density=0.2, rng=rng, dtype=dtype)
            g = g.tobsr((2, 1)) if fmt == "bsr" else g.asformat(fmt)
            theirs.grad = torch.tensor(g.toarray())
            opt.step(g)
            reference.step()
            assert_few_ulp(mine, theirs, f"{shape}, step {t}")


def test_scipy_duplicates_are_what_torch_makes_of_them() -> None:
    rng = numbers("scipy duplicates")
    for shape in ((20, 6), (50,)):
        coords = tuple(rng.integers(0, k, 400) for k in shape)
        v = rng.integers(-99, 99, 400).astype(np.float32)
        theirs = torch.sparse_coo_tensor(torch.tensor(np.stack(coords)), torch.tensor(v), shape).coalesce()
        got = seen(sp.coo_array((v, coords), shape=shape), shape, np.float32)
        assert np.array_equal(got, theirs.to_dense().numpy())


# ----------------------------------------------------------------------------------------------------------- lazy steps

TABLES = [(40, 16), (60,), (50, 1), (9, 4, 5), (20, 33)]


def lazy_pairs() -> list[Any]:
    adam: dict[str, Any] = {"lr": 0.01}
    return [
        pytest.param("SparseAdam", adam, {"eps_form": "hat"}, id="SparseAdam"),
        pytest.param(
            "SparseAdam", {**adam, "betas": (0.5, 0.9), "eps": 1e-3}, {"eps_form": "hat"}, id="SparseAdam: eps"
        ),
        pytest.param("SparseAdam", {**adam, "maximize": True}, {"eps_form": "hat"}, id="SparseAdam: maximize"),
        pytest.param("SGD", {"lr": 0.1}, {}, id="SGD"),
        pytest.param("SGD", {"lr": 0.1, "maximize": True}, {}, id="SGD: maximize"),
        pytest.param("Adagrad", {"lr": 0.1}, {}, id="Adagrad"),
        pytest.param(
            "Adagrad", {"lr": 0.1, "lr_decay": 0.2, "initial_accumulator_value": 0.3}, {}, id="Adagrad: lr_decay"
        ),
    ]


@dtypes
@pytest.mark.parametrize(("name", "options", "mine_only"), lazy_pairs())
def test_lazy_steps(name: str, options: dict[str, Any], mine_only: dict[str, Any], dtype: type) -> None:
    """Parameters and states of a few steps, repeated rows among them; rows that had no gradient to the bit."""
    rng = numbers(name, options, dtype)
    cls = fastopt.Adam if name == "SparseAdam" else getattr(fastopt, name)
    mine = [rng.standard_normal(shape).astype(dtype) for shape in TABLES]
    theirs = [torch.tensor(p) for p in mine]
    opt, reference = cls(mine, **options, **mine_only), getattr(torch.optim, name)(theirs, **options)
    steps = 12
    for t in range(1, steps + 1):
        grads, before = [], [p.copy() for p in mine]
        for k, (shape, tensor) in enumerate(zip(TABLES, theirs, strict=True)):
            ids = rng.integers(0, shape[0], (1, 5, 0, 40, 15)[(t + k) % 5])
            v = rng.standard_normal((len(ids), *shape[1:])).astype(dtype)
            tensor.grad = torch.sparse_coo_tensor(torch.tensor(ids)[None], torch.tensor(v), shape)
            grads.append(SparseGrad(ids.astype(np.int32) if t % 2 else ids, v))
        opt.step(grads)
        reference.step()
        for k, (p, tensor, old, g) in enumerate(zip(mine, theirs, before, grads, strict=True)):
            what = f"table {k}, step {t}"
            assert_few_ulp(p, tensor, what)
            still = np.setdiff1d(np.arange(len(p)), g.indices)
            assert np.array_equal(p[still], old[still]), what
            state = {key: a for key, a in opt.state_dict()["state"][k].items() if isinstance(a, np.ndarray)}
            other = reference.state_dict()["state"].get(k, {})
            assert state.keys() == {key for key in other if key != "step" and other[key] is not None}, what
            for key, a in state.items():
                assert_few_ulp(a, other[key], f"{key} of {what}")
