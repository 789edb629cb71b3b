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


def after_pause(call: Call, rounds: int) -> float:
    """Seconds of a step whose threads sleep, but whose arrays one thread has just had in its cache."""
    seconds = []
    for _ in range(rounds):
        time.sleep(QUIET)
        drivers.force(1, 0)
        call.seconds(1)
        drivers.force(THREADS, 0)
        seconds.append(call.seconds(1))
    return statistics.median(seconds)


def measure(name: str, n: int, rounds: int) -> list[float]:
    """Microseconds of one thread, of all threads back to back, and of all threads after a pause."""
    rng = np.random.default_rng(0)
    p, g = rng.standard_normal((2, n), np.float32)
    opt = getattr(fastopt, name)(p)
    call = Call(opt.step, g)
    one, many = [], []
    for _ in range(5):  # in turns
        drivers.force(1, 0)
        one.append(back_to_back(call, rounds))
        drivers.force(THREADS, 0)
        many.append(back_to_back(call, rounds))
    return [1e6 * s for s in (statistics.median(one), statistics.median(many), after_pause(call, 5 * rounds))]


def crossing(rows: list[list[float]], column: int) -> str:
    """The first size from which on that column stays below that of one thread."""
    found = None
    for n, row in zip(reversed(SIZES), reversed(rows), strict=True):
        if row[column] >= row[0]:
            break
        found = n
    return "none measured" if found is None else f"{found:,}"


def main() -> None:
    global THREADS
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds: shows that it runs, no more")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    THREADS = args.threads
    if not drivers.OPENMP:
        raise SystemExit("this build of fastopt is serial")
    rounds = 2 if args.quick else 20
    print(describe(machine("numpy")))
    try:
        report(rounds)
    finally:
        drivers.force(0, 0)
        fastopt.set_num_threads(fastopt.kernels.count)


def report(rounds: int) -> None:
    tiny = measure("SGD", 64, rounds)
    print(f"\nA region of {THREADS} threads costs {tiny[1] - tiny[0]:.1f} us at once, and {tiny[2] - tiny[0]:.1f} us "
          f"after a pause of {1e3 * QUIET:.0f} ms (a step of SGD on 64 elements, less that of one thread).")
    head = ["elements", "1 thread", f"{THREADS} threads", "after a pause", "gain", "gain after a pause"]
    for name in OPTIMIZERS:
        rows = [measure(name, n, rounds) for n in SIZES]
        cells = [[f"{n:,}", *(f"{us:.1f}" for us in row), f"{row[0] / row[1]:.2f}", f"{row[0] / row[2]:.2f}"]
                 for n, row in zip(SIZES, rows, strict=True)]
        print(f"\n{name}, float32, microseconds a step\n")
        print(table(head, cells))
        print(f"\n{THREADS} threads win from {crossing(rows, 1)} elements on; after a pause from {crossing(rows, 2)}.")


if __name__ == "__main__":
    main()
