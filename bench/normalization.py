"""Batch normalization beside torch.nn.BatchNorm1d: training, forward and backward, float32, on the same numbers in one process.

The peers take turns in each round, and the ratio is taken round by round. Both make new arrays for what they return, as in
training; fastopt is also timed where it writes into arrays that it is given.

``python bench/normalization.py [--quick] [--rounds N]``
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import torch  # before fastopt, so that its own OpenMP runtime is the one in the process
from common import Call, describe, duration, interleave, machine, openmp_runtimes, ratios, spread, table

import fastopt
from fastopt.strategies import BatchNorm

SHAPES = [(256, 1024), (4096, 64), (64, 64), (100_000, 8)]
HEAD = ["batch", "threads", "pass", "fastopt", "into given arrays", "torch", "torch / fastopt", "quartiles"]


class Problem:
    """The two layers, and a batch with its gradient for each."""

    def __init__(self, shape: tuple[int, int], threads: int) -> None:
        rng = np.random.default_rng(0)
        self.x, self.dy, self.y, self.dx = (rng.standard_normal(shape, np.float32) for _ in range(4))
        self.mine = BatchNorm(shape[1], n_threads=threads)
        self.theirs = torch.nn.BatchNorm1d(shape[1])
        self.t = torch.tensor(self.x, requires_grad=True)
        self.dt = torch.tensor(self.dy)

    def forward(self) -> None:
        self.mine.forward(self.x)

    def forward_into(self) -> None:
        self.mine.forward(self.x, self.y)

    def forward_torch(self) -> None:
        self.theirs(self.t)

    def both(self) -> None:
        self.mine.forward(self.x)
        self.mine.backward(self.dy)

    def both_into(self) -> None:
        self.mine.forward(self.x, self.y)
        self.mine.backward(self.dy, self.dx)

    def both_torch(self) -> None:
        self.t.grad = self.theirs.weight.grad = self.theirs.bias.grad = None
        self.theirs(self.t).backward(self.dt)

    def check(self) -> None:
        """Both did the same work; torch adds up in float32."""
        self.both()
        self.both_torch()
        np.testing.assert_allclose(self.mine.backward(self.dy), self.t.grad.numpy(), rtol=0, atol=1e-3)


def measure(shape: tuple[int, int], threads: int, rounds: int) -> list[list[str]]:
    """The rows of the table for one shape."""
    torch.set_num_threads(threads)
    problem = Problem(shape, threads)
    problem.check()
    rows = []
    for name in ("forward", "both"):
        calls = {who: Call(getattr(problem, name + who)) for who in ("", "_into", "_torch")}
        seconds = interleave(calls, rounds)
        low, middle, high = spread(ratios(seconds["_torch"], seconds[""]))
        times = [duration(statistics.median(s)) for s in seconds.values()]
        what = "forward" if name == "forward" else "forward + backward"
        rows.append([f"{shape}", f"{threads}", what, *times, f"{middle:.2f}", f"{low:.2f} to {high:.2f}"])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds: shows that it runs, no more")
    parser.add_argument("--rounds", type=int)
    args = parser.parse_args()
    rounds = args.rounds or (3 if args.quick else 40)
    print(describe({**machine("numpy", "torch"), "OpenMP": ", ".join(openmp_runtimes())}))
    cores = fastopt.get_num_threads()
    rows = [
        row for threads in sorted({1, min(2, cores)}) for shape in SHAPES for row in measure(shape, threads, rounds)
    ]
    print(f"\n{rounds} rounds, float32, training; medians\n")
    print(table(HEAD, rows))


if __name__ == "__main__":
    main()
