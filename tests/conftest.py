from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from fastopt import kernels

sys.path.insert(0, os.path.dirname(__file__))

needs_native = pytest.mark.skipif(
    kernels.isa is None, reason="installed with FASTOPT_PURE=1: there are no compiled kernels"
)


@pytest.fixture(autouse=True)
def _same_draws() -> None:
    """Models and checks of scikit-learn that are given no random_state draw from this state: the same in each run."""
    np.random.seed(20261121)  # noqa: NPY002  the generator that check_random_state(None) gives


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261121)


@pytest.fixture
def forced() -> Iterator[object]:
    """Force threads and chunks on arrays of any size; undone after the test."""
    if kernels.drivers is None:
        pytest.skip("installed with FASTOPT_PURE=1: there are no threads to force")
    yield kernels.drivers.force
    kernels.drivers.force(0, 0)
    kernels.drivers.set_threads(kernels.count)


@pytest.fixture
def use_build(monkeypatch: pytest.MonkeyPatch):
    """Let the optimizers made from now on use the build of one instruction set."""

    def use(isa: str) -> None:
        monkeypatch.setattr(kernels, "table", kernels.load(isa))

    return use
