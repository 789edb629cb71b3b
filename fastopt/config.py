"""Threads and the report on this installation."""

from __future__ import annotations

import platform
import sys
from typing import Any

import numpy as np

from . import checks, kernels
from .version import __version__

_threads, _reason = kernels.count, kernels.reason


def set_num_threads(n: int) -> None:
    """Set the number of threads for steps large enough to gain from them, from 1 to 1024.

    Before the first call it is FASTOPT_NUM_THREADS, else OMP_NUM_THREADS, else the CPUs that affinity and container
    quota allow. Results do not depend on it, except in ``mode="hogwild"`` of the models.
    """
    global _threads, _reason
    n = checks.integer(1, kernels.threads.LIMIT)("n", n)
    if kernels.drivers is not None:
        kernels.drivers.set_threads(n)
    _threads, _reason = n, "set_num_threads"


def get_num_threads() -> int:
    """The number of threads that large steps use: 1 in a build without OpenMP, and in a child after fork."""
    if kernels.drivers is None or not kernels.drivers.OPENMP or kernels.drivers.is_fork_child():
        return 1
    return _threads


def show_config(mode: str = "stdout") -> dict[str, Any] | None:
    """Tell what this installation is and uses: build, instruction set, OpenMP, threads.

    Parameters
    ----------
    mode : {"stdout", "dicts"}
        Print it, or return it.
    """
    checks.one_of("stdout", "dicts")("mode", mode)
    openmp = kernels.drivers is not None and bool(kernels.drivers.OPENMP)
    config = {
        "fastopt": __version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
        "machine": platform.machine(),
        "backend": "native" if kernels.isa else "numpy (installed without compiled kernels)",
        "instruction set": kernels.isa,
        "instruction sets that this CPU runs": kernels.runnable(),
        "instruction sets compiled": kernels.compiled(),
        "OpenMP": f"yes ({kernels.drivers.OPENMP})" if openmp else "no: this build is serial",
        "threads": get_num_threads(),
        "threads set by": _reason if openmp else "no OpenMP",
    }
    if mode == "dicts":
        return config
    width = max(map(len, config))
    print("\n".join(f"{k:<{width}}  {', '.join(v) if isinstance(v, list) else v}" for k, v in config.items()))
    return None
