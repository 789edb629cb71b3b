"""Every optimizer beside the streaming limit, and five of them beside torch (eager, compiled) and numba.

The limit is that of the arrays which a step reads and writes: gradient, parameter and states, one pass. Those whose step
needs several passes, or states of other sizes, have a row without a target; so have powers, which are bound by arithmetic.
Torch's functions and numba's loops have the scalars of one step as constants, which spares these peers what makes them anew.

``python bench/catalogue.py [--quick] [--only SUBSTRING] [--rounds N] [--threads N] [--json FILE]``
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import compare
import numba
import numpy as np
import torch
from common import Call, interleave
from compare import Array, Bench, Problem, failure, label, numba_step, torch_compiled_plain, torch_compiled_step

import fastopt
from fastopt.optimizers.tables import SPAN, scalar_table

STEPS = 8  # before anybody is timed: from the sixth on RAdam's rate is rectified
FORMS = ("numba loop without threads", "numba over a list")  # of the loop that compare.py has
WIDTH = 100  # of the matrices of optimizers that look at rows
#: Options with which a step is another span than by default, or reads more; and whether they have the target.
MORE: list[tuple[str, dict[str, Any], bool]] = [
    ("Adam", {"amsgrad": True}, True),
    ("SGD", {"momentum": 0.9}, True),
    ("SGD", {"momentum": 0.9, "nesterov": True}, True),
    ("RMSprop", {"centered": True, "momentum": 0.9}, True),
    ("Adamax", {"eps_form": "outside"}, True),
    ("AdaBelief", {"rectify": False}, True),
    ("FTRL", {"l1": 0.1, "l2": 0.1, "beta": 1.0}, True),
    ("FTRL", {"lr_power": -0.7}, False),
    ("Adagrad", {"power": 0.75}, False),
]


# ----------------------------------------------------------------------------------------------------------- peers
# One step as plain functions. The scalars are those that fastopt's span gets; what torch makes of its options checks them.


def torch_nadam(*h: float) -> Callable[..., None]:
    keep1, take1, keep2, take2, now, ahead, scale, eps = h

    def step(p: torch.Tensor, g: torch.Tensor, m: torch.Tensor, v: torch.Tensor) -> None:
        m.mul_(keep1).add_(g, alpha=take1)
        v.mul_(keep2).addcmul_(g, g, value=take2)
        p.sub_((now * g + ahead * m) / (v.sqrt() * scale + eps))

    return step


def torch_radam(*h: float) -> Callable[..., None]:
    keep1, take1, keep2, take2, rate, eps, _ = h

    def step(p: torch.Tensor, g: torch.Tensor, m: torch.Tensor, v: torch.Tensor) -> None:
        m.mul_(keep1).add_(g, alpha=take1)
        v.mul_(keep2).addcmul_(g, g, value=take2)
        p.addcdiv_(m, v.sqrt().add_(eps), value=-rate)

    return step


def torch_adamax(*h: float) -> Callable[..., None]:
    keep1, take1, keep2, rate, eps = h

    def step(p: torch.Tensor, g: torch.Tensor, m: torch.Tensor, u: torch.Tensor) -> None:
        m.mul_(keep1).add_(g, alpha=take1)
        u.copy_(torch.maximum(keep2 * u, g.abs() + eps))
        p.addcdiv_(m, u, value=-rate)

    return step


def torch_asgd(*h: float) -> Callable[..., None]:
    keep, eta, _ = h

    def step(p: torch.Tensor, g: torch.Tensor, ax: torch.Tensor) -> None:
        p.mul_(keep).sub_(g, alpha=eta)
        ax.copy_(p)

    return step


def torch_rprop(*h: float) -> Callable[..., None]:
    down, up, least, most = h

    def step(p: torch.Tensor, g: torch.Tensor, prev: torch.Tensor, size: torch.Tensor) -> None:
        turn = g * prev
        size.mul_(torch.where(turn > 0, up, torch.where(turn < 0, down, 1.0))).clamp_(least, most)
        prev.copy_(torch.where(turn < 0, 0.0, g))
        p.sub_(prev.sign() * size)

    return step


def numba_nadam(p, g, m, v, keep1, take1, keep2, take2, now, ahead, scale, eps):  # type: ignore[no-untyped-def]
    for i in numba.prange(p.size):
        m[i] = keep1 * m[i] + take1 * g[i]
        v[i] = keep2 * v[i] + take2 * (g[i] * g[i])
        p[i] -= (now * g[i] + ahead * m[i]) / (np.sqrt(v[i]) * scale + eps)


def numba_radam(p, g, m, v, keep1, take1, keep2, take2, rate, eps, rectified):  # type: ignore[no-untyped-def]
    for i in numba.prange(p.size):
        m[i] = keep1 * m[i] + take1 * g[i]
        v[i] = keep2 * v[i] + take2 * (g[i] * g[i])
        p[i] -= rate * (m[i] / (np.sqrt(v[i]) + eps))


def numba_adamax(p, g, m, u, keep1, take1, keep2, rate, eps):  # type: ignore[no-untyped-def]
    for i in numba.prange(p.size):
        m[i] = keep1 * m[i] + take1 * g[i]
        old, new = keep2 * u[i], abs(g[i]) + eps
        u[i] = old if old >= new else new
        p[i] -= rate * (m[i] / u[i])


def numba_asgd(p, g, ax, keep, eta, mu):  # type: ignore[no-untyped-def]
    for i in numba.prange(p.size):
        p[i] = keep * p[i] - eta * g[i]
        ax[i] = p[i]


def numba_rprop(p, g, prev, size, down, up, least, most):  # type: ignore[no-untyped-def]
    zero, one = np.float32(0), np.float32(1)
    for i in numba.prange(p.size):
        turn = g[i] * prev[i]
        s = size[i] * (up if turn > 0 else down if turn < 0 else one)
        s = least if s < least else s
        s = most if s > most else s
        gi = zero if turn < 0 else g[i]
        p[i] -= s if gi > 0 else -s if gi < 0 else zero
        prev[i] = gi
        size[i] = s


PLAIN = {
    "NAdam": (torch_nadam, numba_nadam),
    "RAdam": (torch_radam, numba_radam),
    "Adamax": (torch_adamax, numba_adamax),
    "ASGD": (torch_asgd, numba_asgd),
    "Rprop": (torch_rprop, numba_rprop),
}


def known_to_compare(name: str) -> None:
    """Let the peers of compare.py know the plain functions of this optimizer, with the scalars of the step after STEPS."""
    cls, t = fastopt.Optimizer.known[name.lower()], np.array([STEPS + 1])
    scalars = scalar_table(cls, cls(np.zeros(1, np.float32)).defaults, t, np.dtype(np.float32), 0)[0][0, SPAN:]
    in_torch, in_numba = PLAIN[name]
    compare.PLAIN_TORCH[name] = in_torch(*scalars.tolist())
    compare.PLAIN_NUMBA[name] = in_numba, scalars


class Beside(Problem):
    """A problem of which each peer's step is checked."""

    def torch(self, first: int | None = None, **kind: Any) -> torch.optim.Optimizer:
        """Torch's optimizer, with the scalars that it keeps after STEPS steps."""
        opt = super().torch(first, **kind)
        kept: dict[str, float] = {}
        o = opt.defaults
        if self.name == "NAdam":
            steps = range(1, self.steps + 1)
            kept["mu_product"] = math.prod(o["betas"][0] * (1 - 0.5 * 0.96 ** (t * o["momentum_decay"])) for t in steps)
        if self.name == "ASGD":
            kept["eta"] = o["lr"] / (1 + o["lambd"] * o["lr"] * self.steps) ** o["alpha"]
            kept["mu"] = 1 / max(1, self.steps - o["t0"])
        for state in opt.state.values():
            state.update({k: torch.tensor(x) for k, x in kept.items()})
        return opt

    def written(self) -> list[tuple[Array, ...]]:
        return [(p, *states.values()) for p, states in zip(self.params, self.states, strict=True)]

    def save(self) -> list[list[Array]]:
        return [[a.copy() for a in arrays] for arrays in self.written()]

    def load(self, saved: Sequence[Sequence[Array]]) -> None:
        for arrays, old in zip(self.written(), saved, strict=True):
            for a, b in zip(arrays, old, strict=True):
                a[...] = b

    def checked(self, peers: Mapping[str, Peer]) -> dict[str, str]:
        """Let fastopt and each peer make the next step from the same start; why a peer is not to be timed, or nothing."""
        for g in self.grads:
            g[::3] *= -1  # Rprop waits where the sign changes
        start, why = self.save(), {}
        self.opt.step(self.given)
        want = self.save()
        for name, peer in peers.items():
            self.load(start)
            why[name] = failure(peer.step)
            for got, right in list(zip(self.written(), want, strict=True))[: peer.covers]:
                for a, b in zip(got, right, strict=True):
                    if not why[name] and not np.allclose(a, b, rtol=1e-5, atol=1e-6):
                        why[name] = f"failed: differs from fastopt by up to {np.abs(a - b).max():.2g}"
        return why


@dataclass
class Peer:
    """A step over the first arrays, as many as it `covers` (None: all), timed as so many calls."""

    step: Callable[[], Any]
    covers: int | None = None
    times: int = 1

    def call(self) -> Call:
        return Call(self.step if self.times == 1 else self._again)

    def _again(self) -> None:
        for _ in range(self.times):
            self.step()


def torch_compiled_lists(problem: Problem, each: int) -> Callable[[], None]:
    """``torch.compile`` of a function that takes lists of arrays and makes the step for each of them."""
    one = compare.PLAIN_TORCH[problem.name]

    def several(lists: list[list[torch.Tensor]]) -> None:
        for tensors in lists:
            one(*tensors)

    function = torch.compile(several)
    tensors = [[torch.from_numpy(a) for a in arrays] for arrays in problem.arrays()]
    lists = [tensors[k : k + each] for k in range(0, len(tensors), each)]

    def step() -> None:
        for some in lists:
            function(some)

    return step


def numba_serial(problem: Problem) -> Callable[[], None]:
    """The numba loop without threads, called for each array."""
    function, scalars = compare.PLAIN_NUMBA[problem.name]
    loop = numba.njit(error_model="numpy")(function)
    calls = [(*arrays, *scalars) for arrays in problem.arrays()]

    def step() -> None:
        for arguments in calls:
            loop(*arguments)

    return step


def numba_list(problem: Problem) -> Callable[[], None]:
    """One call of numba for all arrays, which are in a typed list."""
    function, scalars = compare.PLAIN_NUMBA[problem.name]
    loop = numba.njit(error_model="numpy")(function)
    h = tuple(scalars)

    @numba.njit(error_model="numpy")
    def several(lists: Any, h: Any) -> None:
        for arrays in lists:
            loop(*arrays, *h)

    lists = numba.typed.List(problem.arrays())
    return lambda: several(lists, h)


# ------------------------------------------------------------------------------------------------------------ cases


def by_element(cls: type[fastopt.Optimizer], options: Mapping[str, Any]) -> bool:
    """Whether an element's step depends on that element alone, in one pass."""
    o = cls(np.zeros((2, 2), np.float32), **options).param_groups[0]
    return getattr(cls, "plan", None) is None and cls.rule_of(o).measure is None


class Catalogue(Bench):
    """Every optimizer."""

    def add_cases(self) -> None:
        default = [(cls.__name__, {}, True) for cls in fastopt.Optimizer.known.values()]
        for name, options, streams in sorted([*default, *MORE], key=lambda case: (case[0].lower(), str(case[1]))):
            self.cases[f"limit {label(name, options)}"] = partial(self.limit, name, options, streams)
        for name in PLAIN:
            self.cases[f"peers {name}, one large array"] = partial(self.one, name)
        names, counts = (
            (["NAdam"], [self.threads]) if self.quick else (list(PLAIN), [self.threads, 1])
        )  # compilers take long
        for name in names:
            for threads in dict.fromkeys(counts):
                self.cases[f"peers {name}, many arrays, {threads} threads"] = partial(self.several, name, threads)

    def limit(self, name: str, options: Mapping[str, Any], streams: bool) -> None:
        """One array far beyond the caches, beside the streaming limit over all arrays of its size."""
        self.use(self.threads)
        one_pass = by_element(fastopt.Optimizer.known[name.lower()], options)
        problem = Problem(name, options, [self.large], STEPS, None if one_pass else WIDTH)
        p, g = problem.params[0], problem.grads[0]
        states = [a for a in problem.states[0].values() if a.shape == p.shape]
        # Read: the gradient; read and written: the parameter and each state.
        size = (1 + 2 * (1 + len(states))) * g.itemsize
        why = "" if one_pass and streams else ", not one pass" if streams else ", but bound by arithmetic"
        limit = f"streaming limit, {size} bytes an element{why}"
        calls = {"fastopt": problem.step(), limit: Call(self.stream.over(self.threads, g, [p, *states]))}
        seconds = interleave(calls, self.rounds)
        what = "one large array", label(name, options), f"{self.large:,}", self.threads
        self.rows_of(*what, seconds, {limit: None if why else 0.9})
        if not np.isfinite(p).all():
            self.rows[-1]["note"] = "the parameter is no longer finite"

    def one(self, name: str) -> None:
        """One array far beyond the caches, beside torch and numba."""
        self.use(self.threads)
        known_to_compare(name)
        problem = Beside(name, {}, [self.large], STEPS)
        peers = {
            "torch eager": Peer(problem.torch().step),
            "torch eager, foreach": Peer(problem.torch(foreach=True).step),
            **{
                f"torch.compile of {what}": Peer(make(problem))
                for what, make in (("opt.step", torch_compiled_step), ("a function", torch_compiled_plain))
            },
            "numba loop": Peer(numba_step(problem)),
        }
        failed = problem.checked(peers)
        calls = {peer: peers[peer].call() for peer in peers if not failed[peer]}
        seconds = interleave({"fastopt": problem.step(), **calls}, self.rounds)
        self.rows_of_all(("one large array", name, f"{self.large:,}", self.threads), seconds, failed, 1.0)

    def several(self, name: str, threads: int) -> None:
        """Many small arrays. ``torch.compile`` has as many at a time as it compiles in seconds, and they all have a turn,
        or the same ones again."""
        self.use(threads)
        known_to_compare(name)
        problem = Beside(name, {}, [100] * self.many, STEPS)
        each, times = self.compiled, self.many // self.compiled
        peers = {
            "torch eager": Peer(problem.torch().step),
            "torch eager, foreach": Peer(problem.torch(foreach=True).step),
            f"torch.compile of opt.step, {times} x {each} arrays": Peer(
                torch_compiled_step(problem, each), each, times
            ),
            f"torch.compile of a function, {times} x {each} arrays": Peer(torch_compiled_lists(problem, each)),
            "numba loop": Peer(numba_step(problem)),
            FORMS[0]: Peer(numba_serial(problem)),
            FORMS[1]: Peer(numba_list(problem)),
        }
        failed = problem.checked(peers)
        calls = {peer: peers[peer].call() for peer in peers if not failed[peer]}
        seconds = interleave({"list": problem.step(), "grads": problem.own_step(), **calls}, self.rounds)
        for key, how in (("list", "step(list)"), ("grads", "opt.grads")):
            what = f"many arrays, {how}", name, f"{self.many:,} x 100", threads
            beside = {"fastopt": seconds[key], **{peer: seconds[peer] for peer in calls}}
            self.rows_of_all(what, beside, failed, 20, FORMS)


if __name__ == "__main__":
    compare.main(Catalogue, __doc__)
