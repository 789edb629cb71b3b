"""What `transforms` cost: clipping, decay and an average in the pass of AdamW, beside the streaming limit and beside what one
writes around torch's AdamW; and each transform alone.

The limit is the time in which this memory streams what a step must move: gradient, parameter, two states and the average are
measured, and scaled up by the pass that the norm needs over the gradient. Torch's gradients are fastopt's; its average has
memory of its own.

``python bench/transforms.py [--quick] [--only SUBSTRING] [--rounds N] [--threads N] [--json FILE]``
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import compare
import numpy as np
import torch
from common import Call, interleave
from compare import Bench, Problem
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import fastopt
from fastopt import transforms

DECAY, BETA, MAX_NORM = 0.01, 0.999, 1.0
TOGETHER = [fastopt.clip_global_norm(MAX_NORM), transforms.ema(BETA)]
WIDTH = 100  # of the matrices whose rows are clipped
#: Each alone: what it is, its arguments, and how many arrays it reads or writes beside AdamW's seven. None: it computes.
ALONE: list[tuple[str, Any, int | None]] = [
    ("nothing", [], 0),
    ("clip_value", [transforms.clip_value(1.0)], 0),
    ("clip_norm", [transforms.clip_norm(1.0)], 1),
    ("clip_global_norm", [fastopt.clip_global_norm(1.0)], 1),
    ("clip_adaptive", [transforms.clip_adaptive()], 2 + 1),  # its units, and whether the gradient is finite
    ("clip_adaptive, axis=-1", [transforms.clip_adaptive(axis=-1)], 2 + 1),
    ("noise", [transforms.noise()], None),
    ("ema", [transforms.ema()], 2),
]


class Model(torch.nn.Module):
    """Nothing but parameters."""

    def __init__(self, params: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.p = torch.nn.ParameterList(params)


def of_torch(problem: Problem) -> Callable[[], None]:
    """Clip, step, average, on the arrays of the problem; the average is torch's own."""
    opt = problem.torch(fused=True)
    params = opt.param_groups[0]["params"]
    model = Model(params)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(BETA))

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(params, MAX_NORM)
        opt.step()
        averaged.update_parameters(model)

    return step


class Transformed(Problem):
    """A problem whose optimizer has transforms, and of which torch's has the states that it knows."""

    def torch(self, first: int | None = None, **kind: Any) -> torch.optim.Optimizer:
        given, states = self.options, self.states
        self.options = {k: v for k, v in given.items() if k != "transforms"}
        self.states = [{k: a for k, a in s.items() if k not in ("ema", "swa", "slow")} for s in states]
        try:
            return super().torch(first, **kind)
        finally:
            self.options, self.states = given, states


class Transforms(Bench):
    """Together and alone."""

    def add_cases(self) -> None:
        self.cases["together, one large array"] = self.large_together
        self.cases["together, many arrays"] = self.many_together
        for name, given, more in ALONE:
            self.cases[f"alone {name}"] = partial(self.alone, name, given, more)

    def limit_of(self, problem: Problem, more: int) -> tuple[str, Call, float]:
        """The streaming limit over the arrays that AdamW itself moves, and what to multiply its time by for so many more."""
        p, g, *states = problem.arrays()[0]
        moved = 1 + 2 * (1 + len(states))
        name = f"streaming limit, {(moved + more) * g.itemsize} bytes an element"
        flat = [a.reshape(-1) for a in (p, *states)]
        return name, Call(self.stream.over(self.threads, g.reshape(-1), flat)), (moved + more) / moved

    def large_together(self) -> None:
        """One array far beyond the caches."""
        self.use(self.threads)
        problem = Transformed("AdamW", {"weight_decay": DECAY, "transforms": TOGETHER}, [self.large], 2)
        name, limit, factor = self.limit_of(problem, 1)
        theirs = "torch clip_grad_norm_ + AdamW(fused) + AveragedModel"
        seconds = interleave({"fastopt": problem.step(), name: limit, theirs: Call(of_torch(problem))}, self.rounds)
        seconds[name] = [s * factor for s in seconds[name]]
        what = "one large array", "AdamW + clip + decay + EMA", f"{self.large:,}", self.threads
        self.rows_of(*what, seconds, {name: 0.8, theirs: 1.25})

    def many_together(self) -> None:
        """Many small arrays."""
        for threads in dict.fromkeys((1, self.threads)):
            self.use(threads)
            problem = Transformed("AdamW", {"weight_decay": DECAY, "transforms": TOGETHER}, [100] * self.many, 2)
            theirs = "torch clip_grad_norm_ + AdamW(fused) + AveragedModel"
            calls = {"list": problem.step(), "grads": problem.own_step(), theirs: Call(of_torch(problem))}
            seconds = interleave(calls, self.rounds)
            for key, how in (("list", "step(list)"), ("grads", "opt.grads")):
                what = f"many arrays, {how}", "AdamW + clip + decay + EMA", f"{self.many:,} x 100", threads
                self.rows_of(*what, {"fastopt": seconds[key], theirs: seconds[theirs]}, {theirs: 50})

    def alone(self, name: str, given: Any, more: int | None) -> None:
        """One transform in AdamW's step, on one large matrix, beside the limit for what the two move together."""
        self.use(self.threads)
        problem = Problem("AdamW", {"transforms": given}, [self.large], 2, WIDTH)
        averages = 2 * sum(isinstance(t, transforms.Mean) for t in given)  # are among the states
        limit_name, limit, factor = self.limit_of(problem, (more or 0) - averages)
        seconds = interleave({"fastopt": problem.step(), limit_name: limit}, self.rounds)
        seconds[limit_name] = [s * factor for s in seconds[limit_name]]
        self.rows_of(
            "one large matrix", f"AdamW + {name}", f"{self.large:,}", self.threads, seconds, {limit_name: None}
        )
        if more is None:
            self.rows[-1]["note"] = "bound by arithmetic"
        if not np.isfinite(problem.params[0]).all():
            self.rows[-1]["note"] = "the parameter is no longer finite"


if __name__ == "__main__":
    compare.main(Transforms, __doc__)
