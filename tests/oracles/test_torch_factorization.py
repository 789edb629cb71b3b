"""Outside oracle: factorization machines beside torch models of the same form, whose gradients autograd takes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from fastopt.models.factor_trainer import FactorTrainer
from fastopt.optimizers.base import by_name, choose_backend

torch.set_num_threads(1)
Params = list[torch.Tensor]
N, FEATURES, RANK = 30, 12, 5
FIELDS = np.array([0, 0, 1, 2, 2, 2, 3, 3, 1, 0, 4, 4], np.int32)
THEIRS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.02),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.001, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.02),
    "adam": lambda p: torch.optim.Adam(p, lr=0.02),
}
LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "log_loss": lambda z, y: torch.nn.functional.softplus(-y * z),
    "squared_error": lambda z, y: (z - y) ** 2 / 2,
}


def fm(params: Params, x: torch.Tensor) -> torch.Tensor:
    w, b, v = params
    pairs = torch.einsum("i,j,if,jf->ij", x, x, v[:, 0], v[:, 0])
    return b[0] + w @ x + torch.triu(pairs, 1).sum()


def ffm(params: Params, x: torch.Tensor) -> torch.Tensor:
    w, b, v = params
    meets = v[:, FIELDS]  # of i and j: the vector of i for the field of j
    pairs = torch.einsum("i,j,ijf,jif->ij", x, x, meets, meets)
    return b[0] + w @ x + torch.triu(pairs, 1).sum()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [None, 8])
@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("name", list(THEIRS))
@pytest.mark.parametrize("fields", [None, FIELDS], ids=["fm", "ffm"])
def test_training(fields: np.ndarray | None, name: str, loss: str, size: int | None, dtype: type) -> None:
    """Sample by sample, and the mean of batches. Torch's states decay with every sample, ours with those of the feature: so
    each has all features, but for SGD and Adagrad, which stand still without a gradient."""
    rng = np.random.default_rng(3)
    X = rng.standard_normal((N, FEATURES)).astype(dtype)
    if name in ("sgd", "adagrad"):
        X *= rng.random(X.shape) < 0.5
    y = np.where(rng.random(N) < 0.5, -1, 1).astype(dtype)
    n_fields = 1 if fields is None else 5
    start = [rng.standard_normal(s).astype(dtype) * 0.3 for s in (FEATURES, 1, (FEATURES, n_fields, RANK))]
    cls, options = by_name(name)
    theirs = THEIRS[name]([torch.zeros(1)]).param_groups[0]["lr"]
    options = cls.fill_options({**options, "lr": theirs})
    mine = FactorTrainer(
        size, start[2], fields, np.dtype(dtype), cls, options, loss, 0.0, 0.0, True, choose_backend("auto")
    )
    mine.restore(*start)
    used = X != 0
    indptr = np.concatenate([[0], np.cumsum(used.sum(axis=1))])
    for _ in range(2):
        mine.train(indptr, np.nonzero(used)[1].astype(np.int32), X[used], y, None)

    params = [torch.tensor(p, requires_grad=True) for p in start]
    optimizer = THEIRS[name](params)
    score = fm if fields is None else ffm
    for _ in range(2):
        for begin in range(0, N, size or 1):
            part = range(begin, min(begin + (size or 1), N))
            optimizer.zero_grad()
            losses = [LOSSES[loss](score(params, torch.tensor(X[i])), torch.tensor(y[i])) for i in part]
            torch.stack(losses).mean().backward()
            optimizer.step()
    assert not np.allclose(mine.parameters()[2], start[2], atol=1e-3)
    for got, want in zip(mine.parameters(), params, strict=True):
        # Adam divides gradients that nearly vanish by themselves.
        limit = 1e-10 if dtype == np.float64 else 1e-5 if name != "adam" else 1e-3
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=limit, atol=limit)
