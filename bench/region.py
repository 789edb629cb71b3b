"""What a parallel region costs, and from which size on a second thread pays.

It justifies `serial_below` in fastopt/kernels/drivers.pyx. A step that follows the last one at once finds its threads
spinning; after a pause it must wake them. Training does other work between two steps, so that the truth lies between.

``python bench/region.py [--quick] [--threads N]``
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from common import QUIET, Call, describe, machine, table

import fastopt
from fastopt.kernels import drivers

SIZES = [2**k for k in range(13, 23)]
OPTIMIZERS = ("SGD", "Adam")


def back_to_back(call: Call, rounds: int) -> float:
    """Seconds a step among others of its kind."""
    number = max(1, round(0.002 / call.seconds(2)))
    return min(call.seconds(number) for _ in range(rounds))


def after_pause(call: Call, threads: int) -> float:
    """Seconds of a step whose other threads sleep, but whose arrays the first has just had in its cache."""
    time.sleep(QUIET)
    drivers.force(1, 0)
    call.seconds(1)
    drivers.force(threads, 0)
    return call.seconds(1)


def measure(name: str, n: int, threads: int, rounds: int) -> list[float]:
    """Microseconds a step of one thread and of all, back to back; and of both, after a pause."""
    rng = np.random.default_rng(0)
    p, g = rng.standard_normal((2, n), np.float32)
    opt = getattr(fastopt, name)(p)
    call = Call(opt.step, g)
    at_once: dict[int, list[float]] = {1: [], threads: []}
    paused: dict[int, list[float]] = {1: [], threads: []}
    for _ in range(5):  # in turns
        for k in at_once:
            drivers.force(k, 0)
            at_once[k].append(back_to_back(call, rounds))
            paused[k] += [after_pause(call, k) for _ in range(rounds)]
    return [1e6 * statistics.median(s[k]) for s in (at_once, paused) for k in (1, threads)]


def crossing(rows: list[list[float]], column: int) -> str:
    """The first size from which on one thread takes longer than all."""
    found = None
    for n, row in zip(reversed(SIZES), reversed(rows), strict=True):
        if row[column + 1] >= row[column]:
            break
        found = n
    return "no size here" if found is None else f"{found:,} elements"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds: shows that it runs, no more")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if not drivers.OPENMP:
        raise SystemExit("this build of fastopt is serial")
    rounds = 2 if args.quick else 20
    print(describe(machine("numpy")))
    try:
        report(args.threads, rounds)
    finally:
        drivers.force(0, 0)
        fastopt.set_num_threads(fastopt.kernels.count)


def report(threads: int, rounds: int) -> None:
    a, b, c, d = measure("SGD", 64, threads, rounds)
    print(
        f"\nA region of {threads} threads costs {b - a:.1f} us back to back, and {d - c:.1f} us after a pause of "
        f"{1e3 * QUIET:.0f} ms (a step of SGD on 64 elements, less that of one thread)."
    )
    many = f"{threads} threads"
    head = ["elements", "1 thread", many, "gain", "1 thread after a pause", f"{many} after a pause", "gain"]
    for name in OPTIMIZERS:
        rows = [measure(name, n, threads, rounds) for n in SIZES]
        cells = [
            [f"{n:,}", f"{a:.1f}", f"{b:.1f}", f"{a / b:.2f}", f"{c:.1f}", f"{d:.1f}", f"{c / d:.2f}"]
            for n, (a, b, c, d) in zip(SIZES, rows, strict=True)
        ]
        print(f"\n{name}, float32, microseconds a step\n")
        print(table(head, cells))
        print(f"\n{many} win from {crossing(rows, 0)} on; after a pause from {crossing(rows, 2)} on.")


if __name__ == "__main__":
    main()
