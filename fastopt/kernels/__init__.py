"""The loader: picks the best build of the kernels that this CPU and operating system can run, and imports no other."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from . import threads

#: Instruction sets, best first, and the x86-64 level that each needs.
LEVELS = {"avx512": 4, "avx2": 3, "baseline": 1}

drivers: Any
try:
    drivers = import_module(".drivers", __name__)
except ModuleNotFoundError as missing:
    if missing.name != f"{__name__}.drivers":
        raise
    drivers = None  # installed with FASTOPT_PURE=1


def compiled() -> list[str]:
    """The instruction sets that were compiled, best first."""
    return [isa for isa in LEVELS if drivers is not None and find_spec(f"{__name__}.builds.{isa}_f32") is not None]


def runnable() -> list[str]:
    """Those of `compiled()` that this CPU and operating system can run, best first."""
    return [isa for isa in compiled() if LEVELS[isa] <= drivers.cpu_level()]


def load(isa: str) -> dict[str, dict[str, int]]:
    """The addresses of the spans of one instruction set, by dtype name. The caller has made sure that it can run."""
    return {
        dtype: import_module(f"{__name__}.builds.{isa}_{short}").TABLE
        for dtype, short in (("float32", "f32"), ("float64", "f64"))
    }


def _choose() -> str | None:
    forced = os.environ.get("FASTOPT_ISA")
    if drivers is None:
        if forced:
            raise ImportError(f"FASTOPT_ISA={forced!r}, but fastopt was installed without compiled kernels")
        return None
    can = runnable()
    if not can:
        raise ImportError("fastopt has lost its compiled kernels: no build that this CPU runs is there; reinstall it")
    if not forced:
        return can[0]
    if forced not in LEVELS:
        raise ImportError(f"FASTOPT_ISA={forced!r} is unknown; choose one of {', '.join(LEVELS)}")
    if forced not in compiled():
        raise ImportError(
            f"FASTOPT_ISA={forced!r} was not compiled into this installation, which has {', '.join(compiled())}"
        )
    if forced not in can:
        raise ImportError(f"FASTOPT_ISA={forced!r} cannot run on this CPU, which can run {', '.join(can)}")
    return forced


isa = _choose()
table = load(isa) if isa is not None else {}
count, reason = threads.default()
if drivers is not None:
    drivers.set_threads(count)
