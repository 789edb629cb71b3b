"""Embeddings: pairs of rows, bit for bit beside the reference; what is drawn and counted; words that share contexts."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import needs_native

import fastopt
from fastopt import kernels
from fastopt.models import pair_reference
from fastopt.models.pair_reference import Pairs, Text
from fastopt.models.pairs import PairTrainer
from fastopt.optimizers.base import ALIASES, by_name

WORDS = 40


def text(rng: np.random.Generator, n: int = 300, window: int = 3, epoch: int = 0) -> Text:
    """Sentences of words of unequal frequency, of which some are left out and some are one word long."""
    words = np.minimum(rng.geometric(0.1, n) - 1, WORDS - 1).astype(np.int32)
    words[rng.random(n) < 0.08] = -1
    keep = np.full(WORDS, 0xFFFFFFFF, np.uint32)
    keep[:6] = 1 << 31
    threshold = rng.integers(0, 1 << 32, WORDS).astype(np.uint32)
    return Text(words, keep, threshold, rng.integers(0, WORDS, WORDS).astype(np.int32), window, epoch, 0x123456789)


def listed(rng: np.random.Generator, n: int = 60) -> Pairs:
    rows, columns = rng.integers(0, WORDS, (2, n)).astype(np.int32)
    return Pairs(rows, columns, rng.standard_normal(n), rng.uniform(0, 1, n), rng.permutation(n).astype(np.int32))


def trainer(
    name: str, dtype: type, backend: str, dim: int, loss: str = "log_loss", targets: int = 4, lr: float = 0.05
) -> PairTrainer:
    cls, options = by_name(name)
    options = cls.fill_options({**options, "lr": lr})
    rng = np.random.default_rng(4)
    u, v = (rng.uniform(-0.5, 0.5, (2, WORDS, dim)) / dim**0.5).astype(dtype)
    fixed = (-1, -1)
    if loss == "squared_error":
        fixed, targets = (dim - 1, dim - 2), 1
        u[:, -1] = v[:, -2] = 1
    return PairTrainer(u, v, cls, options, loss, targets, fixed, backend)


def assert_tables(got: PairTrainer, want: PairTrainer, what: object) -> None:
    for a, b in zip(got.tables, want.tables, strict=True):
        assert (a.view(f"u{a.itemsize}") == b.view(f"u{b.itemsize}")).all(), what


def names() -> list[str]:
    """The optimizers that can train rows."""
    found = []
    for name in [*(k for k, cls in fastopt.Optimizer.known.items() if cls.for_samples), *ALIASES]:
        try:
            trainer(name, np.float32, "numpy", 2)
        except fastopt.UnsupportedError:
            continue
        found.append(name)
    return found


NAMES = names()


def test_what_can_train_rows():
    assert {"sgd", "momentum", "nag", "adagrad", "adam", "adamw", "rmsprop", "adadelta", "lion"} <= set(NAMES)
    with pytest.raises(fastopt.UnsupportedError, match="FTRL moves rows without a gradient"):
        trainer("ftrl", np.float32, "numpy", 2)


# ---------------------------------------------------------------------------------------------------------------- bits


@needs_native
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_pairs_equal_the_reference(name, dtype, use_build, forced, rng):
    """Both losses, one thread pair after pair, and batches by several threads."""
    cases = [("log_loss", text(rng, 60), 7), ("squared_error", listed(rng, 30), 50)]
    for loss, source, dim in cases:
        for size in (0, 11):
            want = trainer(name, dtype, "numpy", dim, loss)
            n = len(source[0])
            losses = want.train(source, 0, n, size)
            for isa in kernels.runnable():
                use_build(isa)
                for threads in (1, 2, 3) if size else (1,):
                    got = trainer(name, dtype, "native", dim, loss)
                    found = got.train(source, 0, n, size, threads)
                    what = f"{isa} {loss} {size} {threads}"
                    assert_tables(got, want, what)
                    assert found[1] == losses[1] and abs(found[0] - losses[0]) < 1e-9 * losses[0], what
                    padding = got.tables[0].reshape(WORDS, -1, got.width)[:, 0, dim:]
                    assert not padding.any(), "padding stays zero"


@needs_native
@pytest.mark.parametrize("dim", [1, 7, 16, 100, 1030])
def test_any_width(dim, use_build, rng):
    source = text(rng, 40)
    for size in (0, 9):
        want = trainer("adam", np.float32, "numpy", dim)
        want.train(source, 0, 40, size)
        for isa in kernels.runnable():
            use_build(isa)
            got = trainer("adam", np.float32, "native", dim)
            got.train(source, 0, 40, size)
            assert_tables(got, want, (isa, size))
