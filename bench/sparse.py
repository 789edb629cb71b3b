"""Sparse steps: beside torch, prefetch, `Table` beside separate arrays, growth, exact beside lazy, duplicates.

The sides of a comparison take turns in each round; a ratio is taken round by round, so that what slows the machine down
for a while slows both. Tables have medians, the ratio of the medians, the median of the ratios with its quartiles, and
the targets that the project has set itself; lost cases stay in them.

``python bench/sparse.py [torch] [prefetch] [table] [growth] [exact] [duplicates] [--quick] [--rounds N] [--json FILE]``
(all sections by default; the first needs torch)
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    import torch  # before fastopt, so that its own OpenMP runtime is the one in the process
except ImportError:
    torch = None

import numpy as np
from common import QUIET, describe, duration, machine, openmp_runtimes, ratios, spread, table

import fastopt

Array = np.ndarray[Any, Any]
Rng = np.random.Generator
HEAD = ["case", "optimizer", "rows x width", "threads", "time", "beside", "it takes", "of medians", "ratio"]
HEAD += ["quartiles", "target", ""]
CALLS = 4  # timed calls in a turn
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


# ---------------------------------------------------------------------------------------------------------- timing


@dataclass
class Side:
    """`prepare(i)` makes everything ready for call i, cheaply and outside of the timing; `run()` is timed."""

    prepare: Callable[[int], None]
    run: Callable[[], Any]


def turns(
    sides: Mapping[str, Side],
    rounds: int,
    pause: float = 0.0,
    before: Callable[[int, int], None] | None = None,
) -> dict[str, list[float]]:
    """Mean seconds a call of each side, in each round: `CALLS` calls in a row, after one that wakes its threads.

    Who is first changes from round to round. All sides make the same calls 0, 1, 2, ..., so that with the same data
    they end in the same place. `before(first, n)` is called once a round, for the calls from `first` on.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    order = list(sides)
    for r in range(rounds):
        first = r * (CALLS + 1)
        if before is not None:
            before(first, CALLS + 1)
        for name in order if r % 2 else order[::-1]:
            side, taken = sides[name], []
            time.sleep(pause)  # so that no idle thread of another runtime spins beside this one's
            gc.collect(0)
            gc.disable()
            for i in range(first, first + CALLS + 1):
                side.prepare(i)
                start = time.perf_counter()
                side.run()
                taken.append(time.perf_counter() - start)
            gc.enable()
            seconds[name].append(statistics.fmean(taken[1:]))
    return seconds


class Ours:
    """A fastopt optimizer or table, as a side that steps through ready-made sparse gradients."""

    def __init__(self, opt: Any, grads: Callable[[int], Any]) -> None:
        self.opt, self.grads, self.now = opt, grads, grads(0)

    def prepare(self, i: int) -> None:
        self.now = self.grads(i)

    def run(self) -> None:
        self.opt.step(self.now)

    def side(self) -> Side:
        return Side(self.prepare, self.run)


# ------------------------------------------------------------------------------------------------------------ data


def cycle(items: Sequence[Any]) -> Callable[[int], Any]:
    """Item i, over and over."""
    return lambda i: items[i % len(items)]


def unique_rows(rng: Rng, rows: int, k: int) -> Array:
    """k of the rows, each at most once, in random order."""
    return rng.choice(rows, k, replace=False)


def repeated_rows(rng: Rng, rows: int, k: int, share: float) -> Array:
    """k rows, of which `share` repeat one that is there already; shuffled."""
    again = int(k * share)
    once = unique_rows(rng, rows, k - again)
    return rng.permutation(np.concatenate([once, rng.choice(once, again)]))


class Zipf:
    """Rows that occur with a frequency like 1/rank."""

    def __init__(self, rng: Rng, rows: int, power: float = 1.0) -> None:
        self.rng, self.name = rng, rng.permutation(rows)
        self.cumulative = np.cumsum(np.arange(1.0, rows + 1) ** -power)

    def draw(self, k: int) -> Array:
        rank = np.searchsorted(self.cumulative, self.rng.random(k) * self.cumulative[-1])
        return self.name[rank]


def normal(rng: Rng, *shape: int) -> Array:
    return rng.standard_normal(shape, np.float32)


def zeros(rows: int, width: int) -> Array:
    """A parameter whose pages are there already."""
    p = np.empty((rows, width), np.float32)
    p.fill(0)
    return p


def settle(opt: Any, grad: Any) -> Any:
    """Take a step and touch every page of state: in a table in use, no step meets a page for the first time."""
    opt.step(grad)
    opt.flush()
    for states in getattr(opt, "_state", []):  # still zeros, where there was no step
        for a in states.values():
            a += 0
    return opt


# ---------------------------------------------------------------------------------------------------------- output


@dataclass
class Sheet:
    """The lines of one section, or of all."""

    rounds: int
    quick: bool
    rows: list[dict[str, Any]]

    def scale(self, n: int) -> int:
        """That many, or a hundredth for a quick look."""
        return max(50, n // 100) if self.quick else n

    def add(
        self,
        case: str,
        optimizer: str,
        size: str,
        threads: int,
        ours: Sequence[float],
        beside: str = "",
        theirs: Sequence[float] = (),
        least: float | None = None,
        most: float | None = None,
        cost: bool = False,
        note: str = "",
        wrong: bool = False,
    ) -> None:
        """A line. The ratio is theirs / ours (how much faster ours is), or with `cost` ours / theirs; the target is a
        lower (`least`) or an upper (`most`) bound for its median. `wrong`: results differ, whatever the time."""
        if self.quick:
            least = most = None
        above, below = (ours, theirs) if cost else (theirs, ours)
        quartiles = spread(ratios(above, below)) if theirs else None
        met = None
        if quartiles is not None and least is not None:
            met = quartiles[1] >= least
        if quartiles is not None and most is not None:
            met = quartiles[1] <= most
        row = {
            "case": case,
            "optimizer": optimizer,
            "size": size,
            "threads": threads,
            "seconds": statistics.median(ours),
            "beside": beside,
            "beside_seconds": statistics.median(theirs) if theirs else None,
            "ratio_of_medians": statistics.median(above) / statistics.median(below) if theirs else None,
            "ratio": quartiles and quartiles[1],
            "quartiles": quartiles,
            "least": least,
            "most": most,
            "met": False if wrong else met,
            "note": note,
        }
        self.rows.append(row)
        print("  " + "  ".join(filter(None, self.cells(row))), file=sys.stderr)

    @staticmethod
    def cells(r: Mapping[str, Any]) -> list[str]:
        target = "" if r["least"] is None else f"at least {r['least']:g}"
        target = target if r["most"] is None else f"at most {r['most']:g}"
        has = r["ratio"] is not None
        return [
            r["case"],
            r["optimizer"],
            r["size"],
            str(r["threads"]),
            duration(r["seconds"]),
            r["beside"],
            duration(r["beside_seconds"]) if has else "",
            f"{r['ratio_of_medians']:.3g}" if has else "",
            f"{r['ratio']:.3g}" if has else "",
            f"{r['quartiles'][0]:.3g} to {r['quartiles'][2]:.3g}" if has else "",
            target,
            "; ".join(filter(None, [{None: "", True: "met", False: "MISSED"}[r["met"]], r["note"]])),
        ]


def shape(rows: int, width: int) -> str:
    return f"{rows:,} x {width}"


# -------------------------------------------------------------------------------------------------------- sections


def against_torch(sheet: Sheet) -> None:
    """The same sparse gradients, a fifth of the entries repeats; torch gets them uncoalesced. Ratio: torch's time by
    ours.

    Eight batches take turns. Making the sparse tensor and giving it to the parameter is not timed; coalescing, which
    torch does within its step, is.
    """
    if torch is None:
        print("  torch is not installed: skipped", file=sys.stderr)
        return
    fastopt.set_num_threads(2)
    torch.set_num_threads(2)
    pairs: list[tuple[str, Any, Callable[[Array], Any], Callable[[Any], Any]]] = [
        (
            "Adam(eps_form='hat')",
            "SparseAdam",
            lambda p: fastopt.Adam(p, eps_form="hat"),
            lambda p: torch.optim.SparseAdam([p]),
        ),
        ("SGD", "SGD", lambda p: fastopt.SGD(p, lr=0.01), lambda p: torch.optim.SGD([p], lr=0.01)),
        ("Adagrad", "Adagrad", lambda p: fastopt.Adagrad(p, lr=0.01), lambda p: torch.optim.Adagrad([p], lr=0.01)),
    ]
    sizes = [(1_000_000, 1, 50_000, 30), (1_000_000, 16, 50_000, 20), (200_000, 64, 20_000, 15)]
    sizes += [(100_000, 128, 20_000, 12)]
    for rows, width, k, target in sizes:
        rows, k = sheet.scale(rows), sheet.scale(k)
        rng = np.random.default_rng(0)
        start = normal(rng, rows, width)
        batches = [(repeated_rows(rng, rows, k, 0.2), normal(rng, k, width)) for _ in range(8)]
        ours = [fastopt.SparseGrad(*batch) for batch in batches]
        for name, peer, make, make_peer in pairs:
            p, q = start.copy(), torch.from_numpy(start.copy()).requires_grad_()
            theirs = [
                torch.sparse_coo_tensor(torch.from_numpy(i)[None], torch.from_numpy(v), (rows, width))
                for i, v in batches
            ]
            opt, their_opt = make(p), make_peer(q)

            def give(i: int, q: Any = q, theirs: Any = theirs) -> None:
                q.grad = theirs[i % len(theirs)]

            sides = {
                "fastopt": Ours(opt, cycle(ours)).side(),
                "torch": Side(give, their_opt.step),
            }
            seconds = turns(sides, sheet.rounds, QUIET)
            end = q.detach().numpy()
            far = float(np.abs(p - end).max())
            same = np.allclose(p, end, rtol=1e-5, atol=1e-6)
            sheet.add(
                f"{k:,} entries",
                name,
                shape(rows, width),
                2,
                seconds["fastopt"],
                f"torch {peer}",
                seconds["torch"],
                least=target if peer == "SparseAdam" else None,
                note=f"{'same' if same else 'ANOTHER'} trajectory ({far:.1g})",
                wrong=not same,
            )


ELEMENTS = 30_000_000
TOUCHED = 100_000
POOL = 24  # batches of rows: when one comes round again, the others have swept it out of the caches
STEPPERS: dict[str, Callable[..., Any]] = {"Adam": fastopt.Adam, "SGD": fastopt.SGD, "Adagrad": fastopt.Adagrad}


def pool(sheet: Sheet, rows: int, width: int, duplicates: str) -> list[Any]:
    """Sparse gradients of random rows, each row once a gradient."""
    rng = np.random.default_rng(1)
    k = min(sheet.scale(TOUCHED), rows // 2)
    values = [normal(rng, k, width) for _ in range(2)]
    return [fastopt.SparseGrad(unique_rows(rng, rows, k), values[i % 2], duplicates) for i in range(POOL)]


def prefetching(sheet: Sheet) -> None:
    """100 000 random rows of a table of 30 million elements, with and without prefetch. Ratio: without by with.

    One optimizer does both, on the same memory. "sum" looks for repeated rows and sums them, "none" is told that there
    are none and verifies it: closer to the loop alone.
    """
    fastopt.set_num_threads(1)
    prefetch = fastopt.kernels.drivers.prefetch
    for width, target in ((8, 2.0), (16, 1.8), (32, 1.6), (1, None)):
        rows = sheet.scale(ELEMENTS) // width
        for name, make in STEPPERS.items():
            opt = settle(make(zeros(rows, width)), pool(sheet, rows, width, "sum")[0])
            for duplicates in ("none", "sum") if name == "Adam" else ("none",):
                grads = pool(sheet, rows, width, duplicates)

                def turn(on: bool, grads: Any = grads, opt: Any = opt) -> Side:
                    ours = Ours(opt, lambda i: grads[(2 * i + on) % POOL])

                    def prepare(i: int) -> None:
                        prefetch(on)
                        ours.prepare(i)

                    return Side(prepare, ours.run)

                try:
                    seconds = turns({"with": turn(True), "without": turn(False)}, sheet.rounds)
                finally:
                    prefetch(True)
                sheet.add(
                    f"prefetch, duplicates={duplicates!r}",
                    name,
                    shape(rows, width),
                    1,
                    seconds["with"],
                    "without prefetch",
                    seconds["without"],
                    least=target if (name, duplicates) == ("Adam", "none") else None,
                )


def tables(sheet: Sheet) -> None:
    """100 000 random rows of 30 million elements: parameter and state side by side in a `Table`, or in arrays of their
    own. Ratio: the separate arrays' time by the table's."""
    fastopt.set_num_threads(1)
    for width, target in ((1, 1.5), (8, 1.2), (16, None), (32, None)):
        rows = sheet.scale(ELEMENTS) // width
        for name, make in STEPPERS.items():
            if name == "SGD":  # has no state
                continue
            for duplicates in ("none", "sum") if name == "Adam" else ("none",):
                grads = pool(sheet, rows, width, duplicates)
                beside, p = fastopt.Table(rows, width, make), zeros(rows, width)
                beside.param[...] = 0  # and with it the pages of the states, which lie between
                beside.step(grads[0])
                opt = settle(make(p), grads[0])
                sides = {
                    "table": Ours(beside, cycle(grads)).side(),
                    "arrays": Ours(opt, cycle(grads)).side(),
                }
                seconds = turns(sides, sheet.rounds)
                same = np.array_equal(p, np.asarray(beside.param).reshape(p.shape))
                sheet.add(
                    f"Table, duplicates={duplicates!r}",
                    name,
                    shape(rows, width),
                    1,
                    seconds["table"],
                    "separate arrays",
                    seconds["arrays"],
                    least=target if (name, duplicates) == ("Adam", "none") else None,
                    note="same bits" if same else "OTHER bits",
                    wrong=not same,
                )
                del beside, opt, p, sides


def growth(sheet: Sheet) -> None:
    """10 000 entries in ever larger tables; the sizes take turns. Ratio: the time by that for 10^6 elements."""
    fastopt.set_num_threads(1)
    k = sheet.scale(10_000)
    for width in (1, 16):
        for name, options in (("Adam", {}), ("Adam", {"sparse": "exact"}), ("SGD", {})):
            sides = {}
            for power in (5, 6, 7, 8):
                rows = sheet.scale(10**power) // width
                rng = np.random.default_rng(power)
                values = normal(rng, min(k, rows), width)
                grads = [fastopt.SparseGrad(rng.integers(0, rows, len(values)), values) for _ in range(4 * POOL)]
                opt = settle(STEPPERS[name](zeros(rows, width), **options), grads[0])
                sides[power] = Ours(opt, cycle(grads)).side()
            seconds = turns({str(power): side for power, side in sides.items()}, sheet.rounds)
            for power in sides:
                sheet.add(
                    f"{k:,} entries",
                    name + (" exact" if options else ""),
                    shape(sheet.scale(10**power) // width, width),
                    1,
                    seconds[str(power)],
                    "10^6 elements" if power != 6 else "",
                    seconds["6"] if power != 6 else (),
                    most=3.0 if (power, width, name) == (8, 1, "Adam") and not options else None,
                    cost=True,
                )
            del sides


def warm_and_cosine(step: Any) -> Any:
    """A rate: up for 100 steps, then down over 2000."""
    return 1e-3 * np.minimum(1.0, (step + 1) / 100) * (0.6 + 0.4 * np.cos(np.pi * np.minimum(step / 2000, 1.0)))


class Fresh:
    """Gradients with new rows for each call, drawn from a Zipf distribution, and the gaps between a row's touches."""

    def __init__(self, rows: int, width: int, k: int) -> None:
        rng = np.random.default_rng(2)
        self.zipf, self.k = Zipf(rng, rows), k
        self.values = [normal(rng, k, width) for _ in range(2)]
        self.last = np.full(rows, -1)
        self.drawn = 0
        self.ready: dict[int, Any] = {}
        self.gaps: list[Array] = []
        self.unique: list[int] = []

    def make(self, first: int, n: int) -> None:
        """Make those of the calls from `first` on, and forget those before."""
        self.ready = {}
        for i in range(first, first + n):
            rows = self.zipf.draw(self.k)
            once = np.unique(rows)
            before = self.last[once]
            self.gaps.append((self.drawn - before - 1)[before >= 0])
            self.unique.append(len(once))
            self.last[once] = self.drawn
            self.drawn += 1
            self.ready[i] = fastopt.SparseGrad(rows, self.values[i % 2])

    def take(self, i: int) -> Any:
        return self.ready[i]

    def describe(self) -> str:
        low, middle, high = np.percentile(np.concatenate(self.gaps), [25, 50, 75])
        longest = max(int(g.max()) for g in self.gaps if len(g))
        return f"{statistics.median(self.unique):,.0f} rows, gaps {low:.0f}, {middle:.0f}, {high:.0f}, up to {longest}"


def exact(sheet: Sheet) -> None:
    """Adam's exact mode beside its lazy mode: the same rows, of a Zipf distribution, under one schedule. Ratio: exact
    by lazy. Every step draws new rows, and the first 150 are not timed, so that gaps are short and long.

    "read, step": the rows are read before they are stepped, as training does; then the read catches up.
    """
    sizes = ((1_000_000, 16, 50_000), (1_000_000, 1, 50_000), (200_000, 64, 20_000))
    for rows, width, k in sizes:
        rows, k = sheet.scale(rows), sheet.scale(k)
        for threads in (1, 2):
            fastopt.set_num_threads(threads)
            for reading in (False, True):
                fresh = Fresh(rows, width, k)
                fresh.make(0, 1)
                opts = {
                    mode: fastopt.Adam(zeros(rows, width), lr=warm_and_cosine, sparse=mode)
                    for mode in ("exact", "lazy")
                }
                ours = {mode: Ours(opt, fresh.take) for mode, opt in opts.items()}
                run = {mode: read_and_step(side) if reading else side.run for mode, side in ours.items()}
                for i in range(10 if sheet.quick else 150):
                    fresh.make(i, 1)
                    for mode, side in ours.items():
                        side.prepare(i)
                        run[mode]()
                fresh.gaps, fresh.unique = [], []
                sides = {mode: Side(side.prepare, run[mode]) for mode, side in ours.items()}
                seconds = turns(sides, sheet.rounds, before=fresh.make)
                sheet.add(
                    f"{k:,} entries" + (", read, step" if reading else ""),
                    "Adam exact",
                    shape(rows, width),
                    threads,
                    seconds["exact"],
                    "lazy",
                    seconds["lazy"],
                    most=None if reading else 2.0,
                    cost=True,
                    note=fresh.describe(),
                )


def read_and_step(ours: Ours) -> Callable[[], None]:
    """What training does: read the rows of the batch, then step them."""

    def run() -> None:
        ours.opt.read(0, ours.now.indices)
        ours.run()

    return run


def duplicates(sheet: Sheet) -> None:
    """200 000 entries in a table of 1 000 000 x 8 whose rows repeat in several ways; the ways take turns. Ratio: the
    time by that for unique sorted rows."""
    rows, width, k = sheet.scale(1_000_000), 8, sheet.scale(200_000)
    rng = np.random.default_rng(3)
    zipf = Zipf(rng, rows)
    ways: dict[str, Callable[[], Array]] = {
        "unique, sorted": lambda: np.sort(unique_rows(rng, rows, k)),
        "unique, sorted, 'none'": lambda: np.sort(unique_rows(rng, rows, k)),
        "unique, shuffled": lambda: unique_rows(rng, rows, k),
        "unique, shuffled, 'none'": lambda: unique_rows(rng, rows, k),
        "20 % repeat, shuffled": lambda: repeated_rows(rng, rows, k, 0.2),
        "Zipf": lambda: zipf.draw(k),
        "all equal": lambda: np.full(k, rows // 2),
    }
    values = [normal(rng, k, width) for _ in range(2)]
    for threads in (1, 2):
        fastopt.set_num_threads(threads)
        opt = fastopt.Adam(zeros(rows, width))  # all on the same memory
        sides, unique = {}, {}
        for way, draw in ways.items():
            kind = "none" if way.endswith("'none'") else "sum"
            grads = [fastopt.SparseGrad(draw(), values[i % 2], kind) for i in range(8)]
            unique[way] = statistics.median(len(np.unique(g.indices)) for g in grads)
            sides[way] = Ours(opt, cycle(grads)).side()
        seconds = turns(sides, sheet.rounds)
        first = next(iter(ways))
        for way in ways:
            sheet.add(
                way,
                "Adam",
                shape(rows, width),
                threads,
                seconds[way],
                first if way != first else "",
                seconds[first] if way != first else (),
                cost=True,
                note=f"{unique[way]:,.0f} rows; {duration(statistics.median(seconds[way]) / k)} an entry",
            )


SECTIONS = {
    "torch": against_torch,
    "prefetch": prefetching,
    "table": tables,
    "growth": growth,
    "exact": exact,
    "duplicates": duplicates,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="small tables and few rounds: shows that it runs, no more")
    parser.add_argument("--rounds", type=int, help="rounds of each case (default 41; 3 with --quick)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the rows there, too")
    args = parser.parse_args()
    for name in args.sections:
        if name not in SECTIONS:
            parser.error(f"there is no section {name!r}; they are {', '.join(SECTIONS)}")
    rounds = args.rounds or (3 if args.quick else 41)
    facts = machine("numpy", "torch")
    facts["OpenMP"] = ", ".join(openmp_runtimes())
    facts["huge pages"] = THP.read_text().strip() if THP.exists() else "unknown"
    facts["rounds"] = f"{rounds} of {CALLS} timed calls{', quick: the figures mean nothing' if args.quick else ''}"
    print(describe(facts))
    print("\nMedians. Ratios round by round; the first ratio is that of the medians.", flush=True)
    rows: list[dict[str, Any]] = []
    for name in args.sections or SECTIONS:
        sheet = Sheet(rounds, args.quick, [])
        print(name, file=sys.stderr)
        SECTIONS[name](sheet)
        doc = " ".join((SECTIONS[name].__doc__ or "").split())
        print(f"\n## {name}\n\n{doc}\n\n{table(HEAD, [sheet.cells(r) for r in sheet.rows])}", flush=True)
        rows += [{"section": name, **r} for r in sheet.rows]
    met = [r["met"] for r in rows if r["met"] is not None]
    print(f"\n{sum(met)} of {len(met)} targets met.")
    if args.json:
        args.json.write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
