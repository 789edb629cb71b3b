"""Powers from IEEE operations: the bits of the kernels are those of the reference, and the error is what the header says."""

from __future__ import annotations

import decimal
from decimal import Decimal

import numpy as np
import pytest
from conftest import needs_native
from settings import assert_bits, native_builds

import fastopt
from fastopt.elementary import power

EXPONENTS = [0.01, 0.25, 1 / 3, 0.5, 0.75, 0.9, 1.0]
each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])


def numbers(dtype: type, n: int) -> np.ndarray:
    """Positive numbers of all exponents, and what stands at the edges of the method."""
    info = np.finfo(dtype)
    rng = np.random.default_rng(3)
    unsigned = np.dtype(f"u{np.dtype(dtype).itemsize}")
    infinity = int(np.array(np.inf, dtype).view(unsigned))
    anywhere = rng.integers(1, infinity, n, dtype=unsigned).view(dtype)
    exponents = np.ldexp(np.ones(1, dtype), np.arange(info.minexp - info.nmant, info.maxexp)).astype(dtype)
    near = np.array([1.0, 2.0, np.sqrt(0.5), np.sqrt(2.0), info.tiny, info.max], dtype)
    near = np.concatenate([near, np.nextafter(near, 0), np.nextafter(near[:-1], np.inf)])
    return np.concatenate([anywhere, exponents, near, (1 + rng.uniform(-1e-3, 1e-3, n // 10)).astype(dtype)])


@each_dtype
def test_power_to_high_precision(dtype):
    limit = 0.501 if dtype == np.float32 else 0.85
    with decimal.localcontext() as context:
        context.prec, context.Emax, context.Emin = 45, 10**6, -(10**6)
        for exponent in [*EXPONENTS, 1.7, 4.0]:
            a = float(dtype(exponent))
            x = numbers(dtype, 200)[:: 1 if dtype == np.float32 else 7]
            with np.errstate(all="ignore"):
                got = power(x, a)
            for base, value in zip(x.tolist(), got.tolist(), strict=True):
                exact = Decimal(base) ** Decimal(a)
                with np.errstate(all="ignore"):
                    ulp = float(np.spacing(dtype(float(exact))))
                if not np.isfinite(ulp):
                    assert value in (np.inf, np.finfo(dtype).max), (base, a)
                    continue
                error = abs(Decimal(value) - exact) / Decimal(ulp)
                assert error < limit, f"{base!r} ** {a} is {value!r}, {float(error)} ulp off"


@each_dtype
def test_power_of_what_is_no_positive_number(dtype):
    odd = np.array([0.0, np.inf, np.nan, -1.0, -np.inf], dtype)
    for a in EXPONENTS:
        with np.errstate(all="ignore"):
            assert_bits(power(odd, a), np.array([0.0, np.inf, np.nan, np.nan, np.nan], dtype), f"power {a}")


@needs_native
@each_dtype
def test_kernels_give_the_bits_of_the_reference(dtype, use_build):
    """Through Adagrad: gradients too small to change the sum, and as large as they can be then."""
    x = numbers(dtype, 30_000)
    x = np.concatenate([x, np.array([0.0, np.inf, np.nan], dtype)])
    with np.errstate(all="ignore"):
        g = np.exp2(np.floor(np.log2(x.astype(np.float64)) / 2) - 40).astype(dtype)
    for exponent in (0.01, 0.3, 0.75, 0.999):
        ends = {}
        for isa in [*native_builds(), "numpy"]:
            if isa != "numpy":
                use_build(isa)
            p = np.zeros(x.size, dtype)
            backend = "numpy" if isa == "numpy" else "native"
            opt = fastopt.Adagrad(p, lr=1.0, eps=0.0, eps_form="inside", power=exponent, backend=backend)
            state = opt.state_dict()
            state["state"][0]["sum"] = x
            opt.load_state_dict(state)
            opt.step(g)
            ends[isa] = p
        assert np.isfinite(ends["numpy"]).mean() > 0.99
        assert (ends["numpy"] != 0).mean() > 0.4
        for isa, p in ends.items():
            assert_bits(p, ends["numpy"], f"{isa}, power {exponent}")
