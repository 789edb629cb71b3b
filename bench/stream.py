"""The streaming limit (stream.c), built with the flags of the fastopt build in use.

``python bench/stream.py`` prints the limit of this machine, in GB/s, for each number of arrays.
"""

from __future__ import annotations

import ctypes
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import compiler, setup_constants

import fastopt

MOST = 5  # arrays that it can write


class Stream:
    """Reads g, and reads and writes some other arrays with one multiply-add an element: a = a * c + g * d."""

    def __init__(self, isa: str | None = None) -> None:
        self.isa = isa or fastopt.kernels.isa or "baseline"
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "stream.so"
            known = setup_constants()
            flags = [*known["FLAGS"], *known["ISA_FLAGS"][self.isa], "-fPIC", "-shared", "-fopenmp"]
            source = Path(__file__).with_name("stream.c")
            subprocess.run([*compiler(), *flags, "-o", str(target), str(source)], check=True)
            library = ctypes.CDLL(str(target))
        self._run = {np.dtype(np.float32): library.stream_float, np.dtype(np.float64): library.stream_double}
        for run in self._run.values():
            run.argtypes = [
                ctypes.c_int,
                ctypes.c_ssize_t,
                ctypes.c_int,
                ctypes.c_void_p,
                ctypes.c_void_p,
                ctypes.c_double,
                ctypes.c_double,
            ]
            run.restype = None

    def over(
        self,
        threads: int,
        g: np.ndarray[Any, Any],
        arrays: Sequence[np.ndarray[Any, Any]],
        c: float = 1.0,
        d: float = 0.0,
    ) -> Any:
        """A function without arguments that streams over these arrays; c = 1 and d = 0 leave finite numbers alone."""
        if not 1 <= len(arrays) <= MOST:
            raise ValueError(f"between 1 and {MOST} arrays can be written, got {len(arrays)}")
        for a in (g, *arrays):
            if a.dtype != g.dtype or a.size != g.size or not a.flags.c_contiguous:
                raise ValueError("the arrays must be contiguous, of one size and one dtype")
        run, n, k = self._run[g.dtype], g.size, len(arrays)
        source = g.ctypes.data
        targets = (ctypes.c_void_p * k)(*[a.ctypes.data for a in arrays])

        def stream(keep: Any = (g, arrays)) -> None:  # `keep`: the addresses live as long as the function
            run(threads, n, k, source, targets, c, d)

        return stream


def main() -> None:
    stream, n, threads = Stream(), 30_000_000, fastopt.get_num_threads()
    print(f"{stream.isa} build, {threads} threads, {n:,} elements; median of 21")
    for dtype in (np.float32, np.float64):
        g = np.ones(n, dtype)
        arrays = [np.ones(n, dtype) for _ in range(MOST)]
        for k in range(1, MOST + 1):
            run = stream.over(threads, g, arrays[:k])
            seconds = []
            for _ in range(22):
                start = time.perf_counter()
                run()
                seconds.append(time.perf_counter() - start)
            median = statistics.median(seconds[1:])
            speed = (1 + 2 * k) * g.nbytes / median / 1e9
            print(f"{np.dtype(dtype).name}  {k} written  {median * 1e3:7.2f} ms  {speed:6.1f} GB/s")


if __name__ == "__main__":
    main()
