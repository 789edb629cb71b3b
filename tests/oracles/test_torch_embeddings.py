"""The gradients of skip-gram with negative sampling and of GloVe are those of torch's autograd."""

from __future__ import annotations

import numpy as np
import pytest

from fastopt.models import pair_reference
from fastopt.models.pair_reference import Pairs, Source, Text
from fastopt.models.pairs import PairTrainer
from fastopt.optimizers.base import by_name, choose_backend

torch = pytest.importorskip("torch")

N, DIM, K = 30, 12, 6


def steps(source: Source, u: np.ndarray, v: np.ndarray, loss: str, fixed: tuple[int, int], name: str, size: int):
    cls, options = by_name(name)
    options = cls.fill_options({**options, "lr": 0.1})
    targets = K if loss == "log_loss" else 1
    made = PairTrainer(u, v, cls, options, loss, targets, fixed, choose_backend("auto"))
    total, _ = made.train(source, 0, len(source[0]), size)
    return made, total


@pytest.mark.parametrize(("name", "make"), [("sgd", torch.optim.SGD), ("adagrad", torch.optim.Adagrad)])
def test_skip_gram(name, make):
    """Batch by batch; torch's Adagrad leaves rows without a gradient alone, too."""
    rng = np.random.default_rng(0)
    u, v = rng.standard_normal((2, N, DIM)) / 4
    words = rng.integers(0, N, 120).astype(np.int32)
    keep = np.full(N, 0xFFFFFFFF, np.uint32)
    source = Text(words, keep, keep // 2, rng.integers(0, N, N).astype(np.int32), 3, 0, 11)
    made, total = steps(source, u, v, "log_loss", (-1, -1), name, 40)
    a, b = (torch.tensor(x, requires_grad=True) for x in (u, v))
    optimizer, want = make([a, b], lr=0.1), 0.0
    for begin in (0, 40, 80):
        loss = torch.zeros((), dtype=torch.float64)
        for i, js, _, y, _ in pair_reference.examples(source, K, begin, begin + 40):
            loss = loss - torch.nn.functional.logsigmoid(torch.tensor(y, dtype=torch.float64) * (b[js] @ a[i])).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        want += loss.item()
    np.testing.assert_allclose(total, want, rtol=1e-12)
    np.testing.assert_allclose(made.rows(0), a.detach().numpy(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(made.rows(1), b.detach().numpy(), rtol=0, atol=1e-12)


def test_glove():
    """Word by word, with biases as parameters of their own."""
    rng = np.random.default_rng(1)
    u, v = rng.standard_normal((2, N, DIM + 2)) / 4
    u[:, -1] = v[:, -2] = 1
    rows, columns = rng.integers(0, N, (2, 80)).astype(np.int32)
    source = Pairs(rows, columns, rng.standard_normal(80), rng.uniform(0, 1, 80), np.arange(80, dtype=np.int32))
    made, total = steps(source, u, v, "squared_error", (DIM + 1, DIM), "sgd", 0)
    parts = (u[:, :DIM], v[:, :DIM], u[:, DIM], v[:, -1])
    a, b, c, d = (torch.tensor(x.copy(), requires_grad=True) for x in parts)
    optimizer, want = torch.optim.SGD([a, b, c, d], lr=0.1), 0.0
    for i, j, y, w in zip(rows, columns, source.y, source.weights, strict=True):
        loss = 0.5 * w * (a[i] @ b[j] + c[i] + d[j] - y) ** 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        want += loss.item()
    np.testing.assert_allclose(total, want, rtol=1e-12)
    for got, expected in zip((made.rows(0), made.rows(1)), ((a, c, 1), (b, 1, d)), strict=True):
        columns = [np.ones(N) if isinstance(x, int) else x.detach().numpy() for x in expected]
        np.testing.assert_allclose(got, np.column_stack(columns), rtol=0, atol=1e-12)
