"""fastopt beside the streaming limit, torch (fused, eager, compiled) and numba, on the same arrays in one process.

The peers take turns in each round, and a ratio is taken round by round. The table has the medians, the quartiles of the
ratio, and the targets that the project has set itself; lost cases stay in it.

``python bench/compare.py [--quick] [--only SUBSTRING] [--rounds N] [--threads N] [--json FILE]``
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Compiling is timed, so nothing may come from a cache. Both must be set before torch is imported.
_cache = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
os.environ["TORCHINDUCTOR_CACHE_DIR"] = _cache.name
os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"

import numba  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402  (before fastopt, so that its own OpenMP runtime is the one in the process)
from common import Call, describe, duration, interleave, machine, openmp_runtimes, ratios, spread, table  # noqa: E402
from stream import Stream  # noqa: E402

import fastopt  # noqa: E402

Array = np.ndarray[Any, Any]
HEAD = ["case", "optimizer", "elements", "threads", "fastopt", "beside", "it takes", "ratio", "quartiles", "target", ""]


# ----------------------------------------------------------------------------------------------------------- peers


def aligned(n: int, fill: Callable[[int], Array] | None = None) -> Array:
    """A float32 array on a cache line of its own, as torch would allocate it."""
    room = np.empty(n + 16, np.float32)
    first = -room.__array_interface__["data"][0] % 64 // 4
    a = room[first : first + n]
    a[...] = 0 if fill is None else fill(n)
    return a


class Problem:
    """Parameters and gradients, a fastopt optimizer over them, and peers over the same memory, states included."""

    def __init__(
        self, name: str, options: Mapping[str, Any], sizes: Sequence[int], steps: int = 1, width: int | None = None
    ) -> None:
        """Arrays of these sizes, as matrices of that `width` if there is one, after so many steps."""
        rng = np.random.default_rng(0)
        normal = lambda n: rng.standard_normal(n, np.float32)  # noqa: E731
        self.name, self.options, self.steps = name, dict(options), steps
        shape = (-1,) if width is None else (-1, width)
        self.params = [aligned(n, normal).reshape(shape) for n in sizes]
        self.grads = [aligned(n, normal).reshape(shape) for n in sizes]
        one = len(sizes) == 1
        self.given: Any = self.grads[0] if one else self.grads
        self.opt = getattr(fastopt, name)(self.params[0] if one else self.params, **options)
        for _ in range(steps):  # so that no peer starts from zeros
            self.opt.step(self.given)
        self.states: list[dict[str, Array]] = self.opt._state

    def arrays(self) -> list[tuple[Array, ...]]:
        """Parameter, gradient and states, for each parameter."""
        return [(p, g, *s.values()) for p, g, s in zip(self.params, self.grads, self.states, strict=True)]

    def step(self) -> Call:
        return Call(self.opt.step, self.given)

    def own_step(self) -> Call:
        """The step by the gradient arrays that the optimizer owns."""
        own = self.opt.grads
        for mine, g in zip([own] if isinstance(own, np.ndarray) else own, self.grads, strict=True):
            mine[...] = g
        return Call(self.opt.step)

    def limit(self, stream: Stream, threads: int) -> Call:
        """The streaming limit over the arrays of the step."""
        return Call(stream.over(threads, self.grads[0], [self.params[0], *self.states[0].values()]))

    def torch(self, first: int | None = None, **kind: Any) -> torch.optim.Optimizer:
        """Torch's optimizer of the same name and options; its parameters, gradients and states are these arrays, or the
        `first` few of them."""
        made = []
        for p, g in zip(self.params[:first], self.grads[:first], strict=True):
            made.append(torch.from_numpy(p).requires_grad_())
            made[-1].grad = torch.from_numpy(g)
        opt: torch.optim.Optimizer = getattr(torch.optim, self.name)(made, **self.options, **kind)
        for p, states in zip(made, self.states[:first], strict=True):
            opt.state[p] = {name: torch.from_numpy(a) for name, a in states.items()}
            if self.name != "SGD":
                opt.state[p]["step"] = torch.tensor(float(self.steps))
        return opt


# The same two steps as plain functions, for the compilers. Rates and constants are the defaults of torch and fastopt.


def torch_rmsprop(p: torch.Tensor, g: torch.Tensor, v: torch.Tensor) -> None:
    v.mul_(0.99).addcmul_(g, g, value=0.01)
    p.addcdiv_(g, v.sqrt().add_(1e-8), value=-0.01)


def torch_adadelta(p: torch.Tensor, g: torch.Tensor, v: torch.Tensor, u: torch.Tensor) -> None:
    v.mul_(0.9).addcmul_(g, g, value=0.1)
    d = u.add(1e-6).sqrt_().div_(v.add(1e-6).sqrt_()).mul_(g)
    u.mul_(0.9).addcmul_(d, d, value=0.1)
    p.sub_(d)


def numba_rmsprop(p: Array, g: Array, v: Array, lr: float, keep: float, take: float, eps: float) -> None:
    for i in numba.prange(p.size):
        v[i] = keep * v[i] + take * (g[i] * g[i])
        p[i] -= lr * (g[i] / (np.sqrt(v[i]) + eps))


def numba_adadelta(p: Array, g: Array, v: Array, u: Array, lr: float, keep: float, take: float, eps: float) -> None:
    for i in numba.prange(p.size):
        v[i] = keep * v[i] + take * (g[i] * g[i])
        d = np.sqrt(u[i] + eps) / np.sqrt(v[i] + eps) * g[i]
        u[i] = keep * u[i] + take * (d * d)
        p[i] -= lr * d


PLAIN_TORCH = {"RMSprop": torch_rmsprop, "Adadelta": torch_adadelta}
# float32 scalars keep the loop in float32; the error model of NumPy lets a loop with a division vectorize.
PLAIN_NUMBA = {
    "RMSprop": (numba_rmsprop, np.float32([0.01, 0.99, 0.01, 1e-8])),
    "Adadelta": (numba_adadelta, np.float32([1.0, 0.9, 0.1, 1e-6])),
}


def numba_step(problem: Problem) -> Callable[[], None]:
    """The numba loop over each array of the problem. Compiled at its first call."""
    function, scalars = PLAIN_NUMBA[problem.name]
    loop = numba.njit(parallel=True, fastmath=False, error_model="numpy")(function)
    calls = [(*arrays, *scalars) for arrays in problem.arrays()]

    def step() -> None:
        for arguments in calls:
            loop(*arguments)

    return step


def torch_compiled_step(problem: Problem, first: int | None = None) -> Callable[[], None]:
    """``torch.compile`` of the optimizer's step over all arrays, or the `first` few of them."""
    torch._dynamo.reset()
    opt = problem.torch(first)
    return torch.compile(lambda: opt.step())


def torch_compiled_plain(problem: Problem) -> Callable[[], None]:
    """``torch.compile`` of the step written out as a function of tensors."""
    torch._dynamo.reset()
    function = torch.compile(PLAIN_TORCH[problem.name])
    tensors = [[torch.from_numpy(a) for a in arrays] for arrays in problem.arrays()]

    def step() -> None:
        for arguments in tensors:
            function(*arguments)

    return step


COMPILED = {
    "torch.compile of opt.step": torch_compiled_step,
    "torch.compile of a function": torch_compiled_plain,
    "numba loop": numba_step,
}


def failure(step: Callable[[], None]) -> str:
    """Call it; why it failed, or nothing."""
    try:
        step()
    except Exception as problem:  # a compiler that fails is a result, too
        return f"failed: {type(problem).__name__}: {(str(problem).strip().splitlines() or [''])[0]:.80}"
    return ""


def first_call(step: Callable[[], None]) -> tuple[float | None, str]:
    """Seconds that the first call takes beyond the second; or None, and why it failed."""
    start = time.perf_counter()
    why = failure(step)
    if why:
        return None, why
    first = time.perf_counter() - start
    start = time.perf_counter()
    step()
    return first - (time.perf_counter() - start), ""


# ------------------------------------------------------------------------------------------------------------ cases


class Bench:
    """The cases, and the rows that they have given so far."""

    def __init__(self, quick: bool, rounds: int, threads: int) -> None:
        self.quick, self.rounds, self.threads, self.stream = quick, rounds, threads, Stream()
        self.large, self.middle = (300_000, 20_000) if quick else (30_000_000, 100_000)
        self.many, self.compiled = (60, 3) if quick else (1000, 100)
        self.rows: list[dict[str, Any]] = []
        self.cases: dict[str, Callable[[], None]] = {}
        self.add_cases()

    def add_cases(self) -> None:
        for name, options, target in (
            ("Adam", {}, 0.95),
            ("AdamW", {}, 0.9),
            ("Adam", {"amsgrad": True}, 0.9),
            ("SGD", {}, 0.9),
            ("SGD", {"momentum": 0.9}, 0.9),
            ("Adagrad", {}, 0.9),
            ("Adadelta", {}, 0.9),
            ("RMSprop", {}, 0.9),
            ("RMSprop", {"centered": True, "momentum": 0.9}, 0.9),
        ):
            self.cases[f"large {label(name, options)}"] = lambda a=(name, options, target): self.large_array(*a)
        self.cases["middle Adam"] = self.middle_array
        self.cases["small Adam"] = self.small_array
        self.cases["many Adam"] = self.many_arrays
        for name in ("RMSprop", "Adadelta"):
            self.cases[f"compilers {name}"] = lambda name=name: self.compilers(name)
        for name in ("RMSprop", "Adadelta"):
            self.cases[f"first {name}"] = lambda name=name: self.first(name)

    def use(self, threads: int) -> None:
        """Let everybody use that many threads."""
        fastopt.set_num_threads(threads)
        torch.set_num_threads(threads)
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))

    def row(
        self,
        case: str,
        optimizer: str,
        elements: str,
        threads: int,
        ours: float,
        beside: str = "",
        theirs: float | None = None,
        ratio: Sequence[float] = (),
        target: float | None = None,
        note: str = "",
    ) -> None:
        """One line. `ratio` has that of each round, above 1 where fastopt is faster, and the target is a lower bound
        for its median; without ratios the target is an upper bound for `ours`, in seconds."""
        quartiles = spread(ratio) if ratio else None
        met = None
        if target is not None:
            met = ours <= target if quartiles is None else quartiles[1] >= target
        self.rows.append(
            {
                "case": case,
                "optimizer": optimizer,
                "elements": elements,
                "threads": threads,
                "fastopt_seconds": ours,
                "beside": beside,
                "seconds": theirs,
                "ratio": quartiles and quartiles[1],
                "quartiles": quartiles,
                "target": target,
                "met": met,
                "note": note,
            }
        )
        print("  " + "  ".join(filter(None, line(self.rows[-1])[4:])), file=sys.stderr)

    def rows_of(
        self,
        case: str,
        optimizer: str,
        elements: str,
        threads: int,
        seconds: Mapping[str, Sequence[float]],
        targets: Mapping[str, float | None],
    ) -> None:
        """A row for each peer."""
        for peer, target in targets.items():
            if peer in seconds:
                self.row(
                    case,
                    optimizer,
                    elements,
                    threads,
                    statistics.median(seconds["fastopt"]),
                    peer,
                    statistics.median(seconds[peer]),
                    ratios(seconds[peer], seconds["fastopt"]),
                    target,
                )

    def rows_of_all(
        self,
        what: tuple[str, str, str, int],
        seconds: Mapping[str, Sequence[float]],
        failed: Mapping[str, str],
        target: float | None,
        besides: Sequence[str] = (),
    ) -> None:
        """A row for each peer, for each that failed, and for the best, which has the target; where one of those in `besides`
        is the best, the best of the others has a row, too."""
        peers = [peer for peer in seconds if peer != "fastopt"]
        self.rows_of(*what, seconds, dict.fromkeys(peers))
        for peer, why in failed.items():
            if why:
                self.row(*what, statistics.median(seconds["fastopt"]), peer, note=why)
        order = sorted(peers, key=lambda peer: statistics.median(seconds[peer]))
        ends = {f"the best of these ({order[0]})": (order[0], target)}
        if order[0] in besides:
            other = next(peer for peer in order if peer not in besides)
            ends[f"the best without {' and '.join(besides)} ({other})"] = other, None
        for last, (peer, aim) in ends.items():
            self.rows_of(*what, {"fastopt": seconds["fastopt"], last: seconds[peer]}, {last: aim})

    def large_array(self, name: str, options: Mapping[str, Any], target: float) -> None:
        """One array far beyond the caches: beside the streaming limit, and torch's fused kernel where there is one."""
        self.use(self.threads)
        problem = Problem(name, options, [self.large])
        calls = {"fastopt": problem.step(), "streaming limit": problem.limit(self.stream, self.threads)}
        if name in ("Adam", "AdamW", "SGD", "Adagrad"):
            calls["torch fused"] = Call(problem.torch(fused=True).step)
        seconds = interleave(calls, self.rounds)
        fused = 1.0 if name == "Adam" and not options else None
        self.rows_of(
            "one large array",
            label(name, options),
            f"{self.large:,}",
            self.threads,
            seconds,
            {"streaming limit": target, "torch fused": fused},
        )

    def middle_array(self) -> None:
        self.use(1)
        problem = Problem("Adam", {}, [self.middle])
        calls = {"fastopt": problem.step(), "torch fused": Call(problem.torch(fused=True).step)}
        seconds = interleave(calls, self.rounds)
        self.rows_of("one array in the caches", "Adam", f"{self.middle:,}", 1, seconds, {"torch fused": 3.5})

    def small_array(self) -> None:
        for threads in (1, self.threads):
            self.use(threads)
            problem = Problem("Adam", {}, [100])
            calls = {"fastopt": problem.step(), "torch fused": Call(problem.torch(fused=True).step)}
            seconds = interleave(calls, self.rounds)
            self.row("one small array", "Adam", "100", threads, statistics.median(seconds["fastopt"]), target=2e-6)
            self.rows_of("one small array", "Adam", "100", threads, seconds, {"torch fused": 50})

    def many_arrays(self) -> None:
        for threads in (1, self.threads):
            self.use(threads)
            problem = Problem("Adam", {}, [100] * self.many)
            fused = Call(problem.torch(fused=True).step)
            calls = {"list": problem.step(), "grads": problem.own_step(), "torch fused": fused}
            seconds = interleave(calls, self.rounds)
            for key, how, target in (("list", "step(list)", 60), ("grads", "opt.grads", 100)):
                self.rows_of(
                    f"many arrays, {how}",
                    "Adam",
                    f"{self.many:,} x 100",
                    threads,
                    {"fastopt": seconds[key], "torch fused": seconds["torch fused"]},
                    {"torch fused": target},
                )

    def compilers(self, name: str) -> None:
        """One large array, beside what compiles the same step and beside torch's default."""
        self.use(self.threads)
        problem = Problem(name, {}, [self.large])
        calls = {"fastopt": problem.step(), "torch eager": Call(problem.torch().step)}
        failed = {}
        for peer, make in COMPILED.items():
            step = make(problem)
            _, failed[peer] = first_call(step)
            if not failed[peer]:
                calls[peer] = Call(step)
        seconds = interleave(calls, self.rounds)
        self.rows_of_all(("one large array", name, f"{self.large:,}", self.threads), seconds, failed, 1.0)

    def first(self, name: str) -> None:
        """What the first step costs beyond the second: ours in a fresh process each time; and what compiling costs."""
        self.use(self.threads)
        for count in (1, self.compiled):
            elements = f"{self.large:,}" if count == 1 else f"{count} x {self.large // count:,}"
            extra, make = [], []
            for _ in range(max(3, self.rounds // 4)):
                done = subprocess.run(
                    [sys.executable, "-c", FIRST_STEP, name, str(self.large // count), str(count), str(self.threads)],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                made, first, second = map(float, done.stdout.split())
                extra.append(first - second)
                make.append(made)
            low, middle, high = spread(extra)
            note = (
                f"quartiles {duration(low)} to {duration(high)}; making the optimizer and its states takes "
                f"{duration(statistics.median(make))}"
            )
            self.row("first step minus second", name, elements, self.threads, middle, target=1e-3, note=note)
            problem = Problem(name, {}, [self.large // count] * count)
            for peer, compile_step in COMPILED.items():
                warm_up(peer)
                taken, why = first_call(compile_step(problem))
                self.row("first step minus second", name, elements, self.threads, middle, peer, taken, note=why)
            del problem


# Makes one optimizer in a process of its own, and prints the seconds that this, the first and the second step took.
FIRST_STEP = """
import sys, time
import numpy as np, fastopt
name, n, count, threads = sys.argv[1], *map(int, sys.argv[2:])
fastopt.set_num_threads(threads)
rng = np.random.default_rng(0)
params, grads = ([rng.standard_normal(n, np.float32) for _ in range(count)] for _ in range(2))
now = time.perf_counter
a = now(); opt = getattr(fastopt, name)(params); b = now(); opt.step(grads); c = now(); opt.step(grads); d = now()
print(b - a, c - b, d - c)
"""


def warm_up(peer: str, done: set[str] = set()) -> None:  # noqa: B006
    """Compile something trivial once, so that a compiler's imports are not counted as its work."""
    kind = peer.split()[0]
    if kind not in done:
        done.add(kind)
        a = np.ones(1 << 16, np.float32)
        if kind == "numba":
            first_call(lambda: numba.njit(parallel=True)(trivial)(a))
        else:
            first_call(lambda: torch.compile(lambda x: x.mul_(1.5))(torch.from_numpy(a)))


def trivial(a: Array) -> None:
    for i in numba.prange(a.size):
        a[i] *= np.float32(1.5)


def label(name: str, options: Mapping[str, Any]) -> str:
    """The optimizer with its options, as one writes it."""
    return name + (f"({', '.join(f'{k}={v}' for k, v in options.items())})" if options else "")


# ----------------------------------------------------------------------------------------------------------- output


def line(r: Mapping[str, Any]) -> list[str]:
    """A row as the cells of the table."""
    ratio, quartiles, target = "", "", ""
    if r["target"] is not None:
        target = f"at most {duration(r['target'])}" if r["ratio"] is None else f"at least {r['target']:g}"
    if r["ratio"] is not None:
        low, middle, high = r["quartiles"]
        ratio, quartiles = f"{middle:.3g}", f"{low:.3g} to {high:.3g}"
    theirs = "" if r["seconds"] is None else duration(r["seconds"])
    verdict = "; ".join(filter(None, [{None: "", True: "met", False: "MISSED"}[r["met"]], r["note"]]))
    return [
        r["case"],
        r["optimizer"],
        r["elements"],
        str(r["threads"]),
        duration(r["fastopt_seconds"]),
        r["beside"],
        theirs,
        ratio,
        quartiles,
        target,
        verdict,
    ]


def main(kind: type[Bench] = Bench, about: str = __doc__) -> None:
    """The command line over the cases of a class."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small arrays and few rounds: shows that it runs, no more")
    parser.add_argument("--only", default="", metavar="SUBSTRING", help="cases whose name has this in it")
    parser.add_argument("--rounds", type=int, help="rounds of each case (default 101; 5 with --quick)")
    parser.add_argument("--threads", type=int, default=2, help="threads of everybody (default 2)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the rows there, too")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    args = parser.parse_args()
    bench = kind(args.quick, args.rounds or (5 if args.quick else 101), args.threads)
    if args.list:
        print("\n".join(bench.cases))
        return
    chosen = {name: case for name, case in bench.cases.items() if args.only.lower() in name.lower()}
    if not chosen:
        parser.error(f"no case has {args.only!r} in its name; they are: {'; '.join(bench.cases)}")
    warnings.filterwarnings("ignore", module="torch")
    facts = machine("numpy", "torch", "numba")
    for name, case in chosen.items():
        print(name, file=sys.stderr)
        case()
    facts["OpenMP"] = ", ".join(openmp_runtimes())
    facts["rounds"] = f"{bench.rounds}{', quick: the figures mean nothing' if args.quick else ''}"
    met = [r["met"] for r in bench.rows if r["met"] is not None]
    print(describe(facts))
    print(
        "\nMedians. The ratio is the other's time by fastopt's, round by round: above 1 fastopt is faster. Beside "
        "the streaming limit 1 is the most that can be.\n"
    )
    print(table(HEAD, [line(r) for r in bench.rows]))
    print(f"\n{sum(met)} of {len(met)} targets met.")
    if args.json:
        args.json.write_text(json.dumps({"machine": facts, "rows": bench.rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
