"""Time of a step of every optimizer that is exported (pytest-benchmark)."""

from __future__ import annotations

import numpy as np
import pytest

import fastopt

NAMES = sorted(fastopt.Optimizer.known)
ROWS, WIDTH = 100_000, 16


def short(group: str) -> pytest.MarkDecorator:
    """A group of the table, and little time for each of its lines."""
    return pytest.mark.benchmark(group=group, max_time=0.2, min_time=1e-4, min_rounds=5, disable_gc=True, warmup=False)


def dense(benchmark, name: str, n: int) -> None:
    rng = np.random.default_rng(0)
    cls = fastopt.Optimizer.known[name]
    p, g = rng.standard_normal((2, n) if cls.plan is None else (2, 10, n // 10), np.float32)
    opt = cls(p)
    opt.step(g)
    benchmark(opt.step, g)
    assert np.isfinite(p).all()


@short("100 elements")
@pytest.mark.parametrize("name", NAMES)
def test_small(benchmark, name):
    dense(benchmark, name, 100)


@short("100 000 elements")
@pytest.mark.parametrize("name", NAMES)
def test_middle(benchmark, name):
    dense(benchmark, name, 100_000)


@short("1 000 000 elements")
@pytest.mark.parametrize("name", NAMES)
def test_large(benchmark, name):
    dense(benchmark, name, 1_000_000)


@short(f"1 % of the rows of a ({ROWS}, {WIDTH}) table")
@pytest.mark.parametrize("name", NAMES)
def test_sparse(benchmark, name):
    rng = np.random.default_rng(0)
    p = rng.standard_normal((ROWS, WIDTH), np.float32)
    rows = rng.choice(ROWS, ROWS // 100, replace=False)
    g = fastopt.SparseGrad(rows, rng.standard_normal((len(rows), WIDTH), np.float32))
    opt = fastopt.Optimizer.known[name](p)
    opt.step(g)
    benchmark(opt.step, g)
    assert np.isfinite(p).all()
