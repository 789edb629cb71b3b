"""Outside oracle: clipping and averages beside PyTorch's `clip_grad_norm_`, `clip_grad_value_` and `AveragedModel`, around AdamW."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

import fastopt
from fastopt import SparseGrad, clip_global_norm
from fastopt.transforms import clip_norm, clip_value, ema, swa

SHAPES = [(33, 17), (7,), (), (1500,), (5, 3, 2)]
STEPS = 40
TOLERANCE: dict[Any, dict[str, float]] = {
    np.float32: {"rtol": 2e-5, "atol": 2e-6},
    np.float64: {"rtol": 1e-12, "atol": 1e-14},
}

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
backends = pytest.mark.parametrize("backend", ["native", "numpy"])
norms = pytest.mark.parametrize("max_norm", [1.0, 40.0, 1e6])


@pytest.fixture(autouse=True)
def torch_has_its_scalars_in_float64() -> Iterator[None]:
    """AveragedModel derives the weights of a mean in torch's default dtype, whatever the parameters are."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Model(torch.nn.Module):
    """Nothing but parameters."""

    def __init__(self, arrays: list[np.ndarray]) -> None:
        super().__init__()
        self.p = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor(a)) for a in arrays])


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: type, scale: float = 1.0) -> np.ndarray:
    return np.asarray(scale * rng.standard_normal(shape), dtype)


def start(dtype: type) -> tuple[np.random.Generator, list[np.ndarray], Model]:
    rng = np.random.default_rng(8)
    mine = [numbers(rng, s, dtype) for s in SHAPES]
    return rng, mine, Model(mine)


def gradients(rng: np.random.Generator, dtype: type, t: int) -> list[np.ndarray]:
    """Of a length that the bounds cut in some steps only."""
    return [numbers(rng, s, dtype, (1.0, 0.01, 10.0)[t % 3]) for s in SHAPES]


def step(reference: torch.optim.Optimizer, model: Model, grads: list[Any], max_norm: float | None) -> None:
    for p, g in zip(model.p, grads, strict=True):
        p.grad = None if g is None else torch.tensor(g)
    if max_norm is not None:
        clip_grad_norm_(model.parameters(), max_norm)
    reference.step()


def compare(mine: list[np.ndarray], theirs: Any, dtype: type, what: str) -> None:
    for k, (p, q) in enumerate(zip(mine, theirs, strict=True)):
        np.testing.assert_allclose(p, q.detach().numpy(), **TOLERANCE[dtype], err_msg=f"{what}, parameter {k}")


@backends
@dtypes
@norms
@pytest.mark.parametrize("average", ["ema", "swa"])
def test_clipping_and_averages(average, max_norm, dtype, backend):
    rng, mine, model = start(dtype)
    reference = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    function = get_ema_multi_avg_fn(0.9) if average == "ema" else get_swa_multi_avg_fn()
    averaged = AveragedModel(model, multi_avg_fn=function)
    transforms = [clip_global_norm(max_norm), ema(0.9) if average == "ema" else swa()]
    opt = fastopt.AdamW(mine, lr=0.01, weight_decay=0.1, transforms=transforms, backend=backend)
    for t in range(STEPS):
        grads = gradients(rng, dtype, t)
        opt.step(grads)
        step(reference, model, grads, max_norm)
        averaged.update_parameters(model)
        compare(mine, model.p, dtype, f"step {t}")
        compare([opt.averaged(k) for k in range(len(mine))], averaged.module.p, dtype, f"average, step {t}")


@backends
@dtypes
def test_the_mean_of_some_steps(dtype, backend):
    """As whoever trains with PyTorch writes it: from some step on, every third."""
    rng, mine, model = start(dtype)
    reference = torch.optim.AdamW(model.parameters(), lr=0.01)
    averaged = AveragedModel(model)
    opt = fastopt.AdamW(mine, lr=0.01, transforms=[swa(10, 3)], backend=backend)
    for t in range(1, STEPS + 1):
        grads = gradients(rng, dtype, t)
        opt.step(grads)
        step(reference, model, grads, None)
        if t > 10 and (t - 10) % 3 == 0:
            averaged.update_parameters(model)
        want = (
            averaged.module if t >= 13 else model
        )  # until it begins, ours is a copy of the parameters, torch's of the start
        compare([opt.averaged(k) for k in range(len(mine))], want.p, dtype, f"step {t}")


@backends
@dtypes
def test_clipping_leaves_none_out(dtype, backend):
    rng, mine, model = start(dtype)
    reference = torch.optim.AdamW(model.parameters(), lr=0.01, maximize=True)
    opt = fastopt.AdamW(mine, lr=0.01, maximize=True, transforms=[clip_global_norm(5.0)], backend=backend)
    for t in range(STEPS):
        grads: list[Any] = gradients(rng, dtype, t)
        grads[t % len(SHAPES)] = None
        opt.step(grads)
        step(reference, model, grads, 5.0)
        compare(mine, model.p, dtype, f"step {t}")


@backends
@dtypes
@norms
def test_clipping_by_value_and_then_by_the_norm_of_each(max_norm, dtype, backend):
    rng, mine, model = start(dtype)
    reference = torch.optim.AdamW(model.parameters(), lr=0.01)
    opt = fastopt.AdamW(mine, lr=0.01, transforms=[clip_norm(max_norm), clip_value(1.5)], backend=backend)
    for t in range(STEPS):
        grads: list[Any] = gradients(rng, dtype, t)
        grads[t % len(SHAPES)] = None
        opt.step(grads)
        for p, g in zip(model.p, grads, strict=True):
            p.grad = None if g is None else torch.tensor(g)
        clip_grad_value_(model.parameters(), 1.5)
        for p in model.p:
            clip_grad_norm_([p], max_norm)
        reference.step()
        compare(mine, model.p, dtype, f"step {t}")


@backends
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_beside_a_limit(odd, backend):
    mine = [np.zeros(4), np.zeros((2, 3))]
    model = Model(mine)
    reference = torch.optim.SGD(model.parameters(), lr=1.0)
    opt = fastopt.SGD(mine, lr=1.0, transforms=[clip_value(1.5)], backend=backend)
    grads = [np.array([1.0, odd, -2.0, 0.0]), np.ones((2, 3))]
    opt.step(grads)
    for p, g in zip(model.p, grads, strict=True):
        p.grad = torch.tensor(g)
    clip_grad_value_(model.parameters(), 1.5)
    reference.step()
    compare(mine, model.p, np.float64, "")


@backends
@dtypes
def test_clipping_of_sparse_gradients(dtype, backend):
    """Beside torch's dense gradient of an embedding whose rows are looked up repeatedly; Adagrad moves listed rows alone."""
    rng = np.random.default_rng(9)
    mine = [numbers(rng, (60, 5), dtype), numbers(rng, (9,), dtype)]
    model = Model(mine)
    reference = torch.optim.Adagrad(model.parameters(), lr=0.1)
    opt = fastopt.Adagrad(mine, lr=0.1, transforms=[clip_global_norm(2.0)], backend=backend)
    for t in range(STEPS):
        rows, values, g = rng.integers(0, 60, 40), numbers(rng, (40, 5), dtype), numbers(rng, (9,), dtype)
        dense = torch.zeros((60, 5), dtype=torch.tensor(values).dtype)
        dense.index_add_(0, torch.tensor(rows), torch.tensor(values))
        opt.step([SparseGrad(rows, values), g])
        step(reference, model, [dense.numpy(), g], 2.0)
        compare(mine, model.p, dtype, f"step {t}")


@backends
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite(odd, backend):
    """SGD shows the factor: NaN everywhere for a NaN; for an infinity zeros, but where it was."""
    mine = [np.zeros(4), np.zeros((2, 3))]
    model = Model(mine)
    reference = torch.optim.SGD(model.parameters(), lr=1.0)
    opt = fastopt.SGD(mine, lr=1.0, transforms=[clip_global_norm(1.0)], backend=backend)
    grads = [np.array([1.0, odd, -2.0, 0.0]), np.ones((2, 3))]
    opt.step(grads)
    step(reference, model, grads, 1.0)
    compare(mine, model.p, np.float64, "")
