"""Powers, logarithms, circles and random numbers from IEEE operations: the bits of the kernels are those of the reference, and the error is what the header says."""

from __future__ import annotations

import decimal
from decimal import Decimal

import numpy as np
import pytest
from conftest import needs_native
from settings import assert_bits, native_builds

import fastopt
from fastopt import kernels
from fastopt.elementary import circle, log, normals_of, philox, power
from fastopt.optimizers.whole import NOISED
from fastopt.passes import Runner

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


# ------------------------------------------------------------------------------------------- random numbers of a counter


@pytest.mark.parametrize(
    "counter, key, want",
    [
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, want):
    """Those of Random123, its authors' library."""
    assert tuple(int(w) for w in philox(counter, key)) == want


def ulps(got: np.ndarray, exact: list[Decimal]) -> float:
    """The largest error of float64 numbers, in units in the last place of the exact ones."""
    return max(
        float(abs(Decimal(g) - e) / Decimal(float(np.spacing(abs(float(e))))))
        for g, e in zip(got.tolist(), exact, strict=True)
    )


def test_log_to_high_precision(rng):
    words = rng.integers(0, 2**32, 1500).astype(np.float64)
    x = np.concatenate([(words + 0.5) / 2**32, numbers(np.float64, 1000)])
    x = x[(x >= np.finfo(float).tiny) & np.isfinite(x)]
    x = np.concatenate([x, [0.5 / 2**32, 1 - 0.5 / 2**32, 1.0]])
    with decimal.localcontext() as context:
        context.prec = 40
        assert ulps(log(x), [Decimal(v).ln() for v in x.tolist()]) < 1.7


def test_sine_and_cosine_to_high_precision(rng):
    half_pi = Decimal("1.57079632679489661923132169163975144209858469968755291")
    x = np.concatenate([rng.uniform(-0.5, 0.5, 1500), 2.0 ** -np.arange(1, 32), [-0.5, (0.5 - 2**29) / 2**30]])
    sines, cosines = [], []
    with decimal.localcontext() as context:
        context.prec = 40
        for v in x.tolist():
            term, total = Decimal(1), [Decimal(0), Decimal(0)]
            for k in range(1, 40):  # the series of both
                total[k % 2] += term * (1, 1, -1, -1)[(k - 1) % 4]
                term *= half_pi * Decimal(v) / k
            cosines.append(total[1])
            sines.append(total[0])
        sine, cosine = circle(x)
        assert ulps(sine, sines) < 1.5
        assert ulps(cosine, cosines) < 1.5


def test_normals_are_those_of_the_words():
    """By the method written with NumPy's functions."""
    elements = np.array([0, 1, 15, 16, 31, 32, 47, 48, 63, 64, 100, 5000, 2**36 + 17])
    got = normals_of(elements, 3, 2**33 + 5, 2**40 + 9)
    for e, value in zip(elements.tolist(), got.tolist(), strict=True):
        counter, lane = e // 64 * 16 + e % 16, e // 16 % 4
        words = philox((counter % 2**32, counter // 2**32 + 3 * 256, 5, 2), (9, 2**8))
        first, second = (int(w) for w in (words[:2] if lane < 2 else words[2:]))
        angle = np.pi / 2 * ((second % 2**30 + 0.5) / 2**30 - 0.5)
        point = [np.cos(angle), np.sin(angle)][:: -1 if second >> 30 & 1 else 1]
        radius = np.sqrt(-2 * np.log((first + 0.5) / 2**32)) * (-1 if second >> 31 else 1)
        assert value == pytest.approx(radius * point[lane % 2], rel=1e-14)


@needs_native
@each_dtype
@pytest.mark.parametrize("width", [1, 3, 16, 700])
@pytest.mark.parametrize("which, step, seed", [(0, 2**33 + 5, 9), (3, 5, 2**40 + 9), (2**24 - 1, 2**40, 2**64 - 1)])
def test_kernels_draw_the_numbers_of_the_reference(which, step, seed, width, dtype):
    """Also where counters pass a word of 32 bits, for which no array in a test is large enough."""
    places = np.concatenate([np.arange(40), 2**34 // width + np.arange(-20, 20), 2**40 // width + np.arange(3)])
    key, h = np.array([which, step, seed], np.uint64), np.array([0.5], dtype)
    want = np.ones((len(places), width), dtype)
    NOISED.reference(want, key, places, h)
    for isa in native_builds():
        g = np.ones_like(want)
        Runner(kernels.load(isa), 1)(NOISED, len(places), (g.size, width), (g, key, places), h)
        assert_bits(g, want, isa)
