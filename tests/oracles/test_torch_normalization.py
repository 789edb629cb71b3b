"""Outside oracle: batch normalization beside PyTorch's BatchNorm1d and torch.nn.functional.batch_norm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fastopt.strategies import BatchNorm

SHAPES = [(2, 1), (3, 5), (64, 16), (65, 129), (256, 1024), (1000, 7), (4096, 64)]
#: Of results of size 1, forward and backward, beside PyTorch's layer of the same dtype.
TOLERANCE: dict[Any, float] = {np.float32: 1e-5, np.float64: 1e-12}
#: PyTorch forms its float32 statistics in float32: of columns around 100 it has lost digits that are kept here.
FAR_FROM_ZERO: dict[Any, float] = {np.float32: 3e-4, np.float64: 1e-12}
#: Beside PyTorch's float64 layer, given the same numbers.
EXACT: dict[Any, float] = {np.float32: 1e-6, np.float64: 1e-12}

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
backends = pytest.mark.parametrize("backend", ["native", "numpy"])
means = pytest.mark.parametrize("mean", [0.0, 100.0])
OPTIONS: list[dict[str, Any]] = [
    {},
    {"momentum": None},
    {"momentum": 0.7, "eps": 1e-2},
    {"affine": False},
    {"track_running_stats": False},
]


def pair(features: int, dtype: type, backend: str, **options: Any) -> tuple[BatchNorm, torch.nn.BatchNorm1d]:
    """The two layers, with the same weight and bias."""
    mine = BatchNorm(features, dtype=dtype, backend=backend, **options)
    theirs = torch.nn.BatchNorm1d(features, dtype=torch.tensor(np.zeros(0, dtype)).dtype, **options)
    rng = np.random.default_rng(2)
    for name, p in mine.params.items():
        p[...] = rng.uniform(0.5, 1.5, features)
        getattr(theirs, name).data[...] = torch.tensor(p)
    return mine, theirs


def close(mine: Any, theirs: torch.Tensor, tolerance: float, what: str) -> None:
    want = theirs.detach().numpy()
    size = max(1.0, float(np.abs(want).max(initial=0)))
    np.testing.assert_allclose(mine, want, rtol=0, atol=tolerance * size, err_msg=what)


@backends
@dtypes
@means
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_training_and_inference(options, mean, dtype, backend):
    rng = np.random.default_rng(1)
    for shape in SHAPES:
        mine, theirs = pair(shape[1], dtype, backend, **options)
        exact = pair(shape[1], np.float64, backend, **options)[1]
        exact.load_state_dict(theirs.state_dict())
        for k, training in enumerate([True, True, False, True]):
            x = (rng.standard_normal(shape) * rng.uniform(0.5, 2.0, shape[1]) + mean).astype(dtype)
            dy = rng.standard_normal(shape).astype(dtype)
            mine.train(training)
            y, dx = mine.forward(x), mine.backward(dy)
            near = (FAR_FROM_ZERO if mean else TOLERANCE)[dtype]
            # In inference the running mean counts, which is kept in float32.
            far = (EXACT if training else FAR_FROM_ZERO)[dtype]
            for peer, kind, scale in [(theirs, dtype, near), (exact, np.float64, far)]:
                peer.train(training)
                peer.zero_grad()
                t = torch.tensor(x.astype(kind), requires_grad=True)
                out = peer(t)
                out.backward(torch.tensor(dy.astype(kind)))
                what = f"{shape}, batch {k}, {kind.__name__}"
                close(y, out, scale, f"y of {what}")
                close(dx, t.grad, scale, f"dx of {what}")
                for name, g in mine.grads.items():
                    close(g, getattr(peer, name).grad, scale, f"gradient of {name} of {what}")
                if mine.track_running_stats:
                    close(mine.running_mean, peer.running_mean, scale, f"running mean of {what}")
                    close(mine.running_var, peer.running_var, scale, f"running variance of {what}")
                    assert mine.num_batches == int(peer.num_batches_tracked)


@backends
@dtypes
def test_the_functional_form(dtype, backend):
    rng = np.random.default_rng(4)
    x = (rng.standard_normal((300, 33)) + 5).astype(dtype)
    mine, theirs = pair(33, dtype, backend, momentum=0.4, eps=1e-3)
    running = torch.zeros(33, dtype=theirs.weight.dtype), torch.ones(33, dtype=theirs.weight.dtype)
    for training in (True, False):
        out = torch.nn.functional.batch_norm(
            torch.tensor(x), *running, theirs.weight, theirs.bias, training=training, momentum=0.4, eps=1e-3
        )
        close(mine.forward(x, training=training), out, TOLERANCE[dtype], f"training={training}")
        close(mine.running_var, running[1], TOLERANCE[dtype], "running variance")


@dtypes
def test_state_dicts_go_both_ways(dtype):
    rng = np.random.default_rng(3)
    mine, theirs = pair(5, dtype, "auto")
    theirs(torch.tensor(rng.standard_normal((9, 5)).astype(dtype)))
    mine.load_state_dict({name: t.numpy() for name, t in theirs.state_dict().items()})
    mine.forward(rng.standard_normal((9, 5)).astype(dtype))
    theirs.load_state_dict({name: torch.tensor(a) for name, a in mine.state_dict().items()})
    for name, t in theirs.state_dict().items():
        assert np.array_equal(t.numpy(), mine.state_dict()[name]), name


def test_one_row_is_refused_as_there():
    with pytest.raises(ValueError):
        torch.nn.BatchNorm1d(3)(torch.ones(1, 3))
    with pytest.raises(ValueError):
        BatchNorm(3).forward(np.ones((1, 3), np.float32))
    for kwargs in ({"track_running_stats": False},):
        with pytest.raises(ValueError):
            torch.nn.BatchNorm1d(3, **kwargs).eval()(torch.ones(1, 3))
        with pytest.raises(ValueError):
            BatchNorm(3, **kwargs).eval().forward(np.ones((1, 3), np.float32))
