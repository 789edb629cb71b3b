"""Sparse Adam in four ways beside dense Adam, on word embeddings of a text: lazy, SmartDecay, LazyGlobal and exact.

Skip-gram with negative sampling, two tables of 32 columns, minibatches in NumPy, a rate that warms up and falls like a
cosine. First every rule is fed the gradients of one dense run, so that only the rules differ, and its parameters are
compared with dense Adam in float64: the rows that a model reads, when it reads them, and all rows at the end. Then
every rule trains a model of its own on the same minibatches.

``python bench/embeddings.py TEXT [--out FIGURE] [--steps N] [--rate R] [--threads N] [--quick] [--json FILE]``
(TEXT: plain or gzipped, for instance state-of-the-union.txt.gz; parts begin with a line ``=== name``)
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from common import describe, duration, machine, ratios, spread, table
from scipy import sparse
from tqdm import tqdm

import fastopt

Array = np.ndarray[Any, Any]
Tables = dict[str, Array]
BETA1, BETA2, EPS = 0.9, 0.999, 1e-8
WINDOW, NEGATIVES, COMMON = (
    5,
    5,
    1e-3,
)  # of word2vec: words beside the centre, negatives, share above which words are thinned
MEASURED = 40  # points of a curve


# ------------------------------------------------------------------------------------------------------------ data


@dataclass
class Batch:
    """Centre words, and beside each a word of its context and some words drawn at random."""

    centre: Array  # (b,)
    context: Array  # (b, 1 + NEGATIVES)

    @cached_property
    def rows(self) -> Tables:
        """The rows of each table, in the order of the gradients: they repeat."""
        return {"centre": self.centre, "context": self.context.ravel()}

    @cached_property
    def once(self) -> Tables:
        """The rows of each table, sorted, each once."""
        return {name: np.unique(rows) for name, rows in self.rows.items()}


class Corpus:
    """The pairs of words of a text that stand beside each other, shuffled, and minibatches of them."""

    def __init__(self, path: Path, size: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode()
        parts = [re.findall(r"[a-z']+", part.lower()) for part in re.split(r"^===.*$", text, flags=re.MULTILINE)]
        counts = Counter(word for part in parts for word in part)
        self.words = [word for word, n in counts.most_common() if n >= 5]
        number = {word: i for i, word in enumerate(self.words)}
        self.count = np.array([counts[word] for word in self.words])
        share = self.count / self.count.sum()
        keep = np.minimum(1.0, np.sqrt(COMMON / share))
        tokens = np.array([number[w] for part in parts for w in part if w in number], np.int32)
        of = np.repeat(np.arange(len(parts)), [sum(w in number for w in part) for part in parts])
        kept = rng.random(len(tokens)) < keep[tokens]
        tokens, of = tokens[kept], of[kept]
        reach = rng.integers(1, WINDOW + 1, len(tokens))
        pairs = []
        for d in range(1, WINDOW + 1):
            here, there = np.arange(len(tokens) - d), np.arange(d, len(tokens))
            same = of[here] == of[there]
            for centre, other in ((here, there), (there, here)):
                chosen = same & (reach[centre] >= d)
                pairs.append(np.stack([tokens[centre[chosen]], tokens[other[chosen]]]))
        both = np.concatenate(pairs, axis=1)
        self.pairs = both[:, rng.permutation(both.shape[1])].astype(np.int64)
        weight = self.count**0.75
        self.noise = rng.permutation(
            np.repeat(np.arange(len(weight)), np.ceil(weight / weight.sum() * 4e6).astype(int))
        )
        self.size, self.seed = size, seed
        held = min(10_000, self.pairs.shape[1] // 10)
        self.held_out = self.batch(self.pairs[:, :held], np.random.default_rng(seed + 1))
        self.pairs = self.pairs[:, held:]

    def batch(self, pairs: Array, rng: np.random.Generator) -> Batch:
        drawn = self.noise[rng.integers(0, len(self.noise), (pairs.shape[1], NEGATIVES))]
        return Batch(pairs[0], np.concatenate([pairs[1][:, None], drawn], axis=1))

    def batches(self, steps: int) -> Iterator[Batch]:
        """The same minibatches each time; the pairs begin again when they are used up."""
        rng = np.random.default_rng(self.seed + 2)
        per_pass = self.pairs.shape[1] // self.size
        for step in range(steps):
            at = step % per_pass * self.size
            yield self.batch(self.pairs[:, at : at + self.size], rng)

    def start(self, width: int) -> Tables:
        rng = np.random.default_rng(self.seed + 3)
        shape = len(self.words), width
        return {name: rng.standard_normal(shape, np.float32) * np.float32(0.1) for name in ("centre", "context")}


# ----------------------------------------------------------------------------------------------------------- model


def forward(batch: Batch, read: Callable[[str, Array], Array]) -> tuple[float, Array, Array, Array]:
    """The mean loss over the centres, their vectors, the vectors beside them, and the derivatives by the scores."""
    u = read("centre", batch.rows["centre"])
    v = read("context", batch.rows["context"]).reshape(*batch.context.shape, -1)
    score = np.matmul(v, u[:, :, None])[:, :, 0]
    score[:, 0] *= -1  # each term is log(1 + exp(score)) now
    loss = float(np.logaddexp(0, score).sum(dtype=np.float64) / len(u))
    slope = 1 / (1 + np.exp(-score)) / np.float32(len(u))
    slope[:, 0] *= -1
    return loss, u, v, slope


class Gradients:
    """The gradients of both tables for a minibatch, in the forms that the rules take."""

    def __init__(self, batch: Batch, read: Callable[[str, Array], Array], rows: int) -> None:
        self.batch, self.n = batch, rows
        _, u, v, slope = forward(batch, read)
        self.values = {
            "centre": np.matmul(slope[:, None, :], v)[:, 0, :],
            "context": (slope[:, :, None] * u[:, None, :]).reshape(-1, u.shape[1]),
        }

    @cached_property
    def sparse(self) -> dict[str, Any]:
        return {name: fastopt.SparseGrad(self.batch.rows[name], values) for name, values in self.values.items()}

    @cached_property
    def dense(self) -> Tables:
        """Repeated rows are added in input order, as fastopt adds them: the same bits."""
        whole = {}
        for name, values in self.values.items():
            rows, k = self.batch.rows[name], len(values)
            ones = np.ones(k, np.float32)
            whole[name] = sparse.coo_array((ones, (rows, np.arange(k))), shape=(self.n, k)).tocsr() @ values
        return whole

    @cached_property
    def summed(self) -> Tables:
        """A row for each row that occurs, in the order of `batch.once`."""
        return {name: self.dense[name][rows] for name, rows in self.batch.once.items()}


# ----------------------------------------------------------------------------------------------------------- rules


class Schedule:
    """The rate of each step, from 0: up for a twentieth of the steps, then down like a cosine."""

    def __init__(self, steps: int, rate: float) -> None:
        self.steps, self.rate, self.warm = steps, rate, max(1, steps // 20)

    def __call__(self, step: Any) -> Any:
        return (
            self.rate
            * np.minimum(1.0, (step + 1) / self.warm)
            * (1 + np.cos(np.pi * np.minimum(step / self.steps, 1)))
            / 2
        )


class Rule:
    """Two tables under one rule. `read` is what a model sees, `caught_up` all that is due by now."""

    def read(self, name: str, rows: Array) -> Array:
        raise NotImplementedError

    def step(self, g: Gradients) -> None:
        raise NotImplementedError

    def as_it_stands(self) -> Tables | None:
        """The tables as they lie in memory; None if nobody reads them so."""
        raise NotImplementedError

    def caught_up(self) -> Tables:
        raise NotImplementedError


class Fastopt(Rule):
    """fastopt's Adam: "dense", "lazy" or "exact". Epsilon sits where the other rules have it."""

    def __init__(self, start: Tables, schedule: Schedule, mode: str, dtype: Any = np.float32) -> None:
        self.tables = {name: p.astype(dtype) for name, p in start.items()}
        self.mode, self.dtype = mode, dtype
        self.opt = fastopt.Adam(
            self.tables,
            lr=schedule,
            betas=(BETA1, BETA2),
            eps=EPS,
            eps_form="hat",
            sparse="lazy" if mode == "dense" else mode,
        )

    def read(self, name: str, rows: Array) -> Array:
        return self.tables[name][rows] if self.mode == "dense" else self.opt.read(name, rows)

    def step(self, g: Gradients) -> None:
        if self.mode != "dense":
            self.opt.step(g.sparse)
        elif self.dtype == np.float32:
            self.opt.step(g.dense)
        else:
            self.opt.step({name: a.astype(self.dtype) for name, a in g.dense.items()})

    def as_it_stands(self) -> Tables | None:
        return None if self.mode == "exact" else self.tables

    def caught_up(self) -> Tables:
        self.opt.flush()
        return self.tables


class Peer(Rule):
    """What the two approximations share: first and second moments, and for each row the step of its last gradient."""

    def __init__(self, start: Tables, schedule: Schedule, never: int) -> None:
        self.p = {name: p.copy() for name, p in start.items()}
        self.m = {name: np.zeros_like(p) for name, p in start.items()}
        self.v = {name: np.zeros_like(p) for name, p in start.items()}
        self.last = {name: np.full(len(p), never) for name, p in start.items()}
        self.schedule, self.t = schedule, 0

    def read(self, name: str, rows: Array) -> Array:
        return self.p[name][rows]

    def as_it_stands(self) -> Tables | None:
        return self.p

    def step(self, g: Gradients) -> None:
        self.t += 1
        for name, rows in g.batch.once.items():
            p, m, v = (a[name][rows] for a in (self.p, self.m, self.v))
            last = self.last[name][rows]
            self.update(p, m, v, last, g.summed[name], self.schedule(self.t - 1))
            self.p[name][rows], self.m[name][rows], self.v[name][rows], self.last[name][rows] = p, m, v, self.t

    def update(self, p: Array, m: Array, v: Array, last: Array, g: Array, rate: float) -> None:
        """Step t = self.t of rows that had their last gradient in step `last`; p, m and v are changed in place."""
        raise NotImplementedError


def column(a: Any) -> Array:
    """A value for each row, beside float32 rows."""
    return np.asarray(a, np.float32)[:, None]


class SmartDecay(Peer):
    """Caffe2's SmartDecaySparseAdam (caffe2/sgd/adam_op.h, adam_compute_smart_decay), t from 1, last = 0 at first:

        k = t - last
        catchup = m beta1 (1 - beta1^(k-1)) / (1 - beta1)     the sum of beta1^i m over the k - 1 steps missed
        m <- beta1^k m + (1 - beta1) g
        v <- beta2^k v + (1 - beta2) g^2
        p <- p - rate (m + catchup) / (sqrt(v) + eps)

    So the gap is caught up at the update only, with the rate of now and the second moment of now, the new gradient in
    it; and there is no bias correction. With `corrected` the rate gets that of step t, which Caffe2 does not do.
    """

    def __init__(self, start: Tables, schedule: Schedule, corrected: bool) -> None:
        super().__init__(start, schedule, never=0)
        self.corrected = corrected

    def correct(self, rate: float) -> np.float32:
        if self.corrected:
            rate *= np.sqrt(1 - BETA2**self.t) / (1 - BETA1**self.t)
        return np.float32(rate)

    def update(self, p: Array, m: Array, v: Array, last: Array, g: Array, rate: float) -> None:
        k = self.t - last
        missed = m * column(BETA1 * (1 - BETA1 ** (k - 1.0)) / (1 - BETA1))
        m[...] = m * column(BETA1 ** (1.0 * k)) + np.float32(1 - BETA1) * g
        v[...] = v * column(BETA2 ** (1.0 * k)) + np.float32(1 - BETA2) * g * g
        p -= self.correct(rate) * (m + missed) / (np.sqrt(v) + np.float32(EPS))

    def caught_up(self) -> Tables:
        """The same formula over the steps since the last gradient. Caffe2 has no such call."""
        now, rate = {}, self.correct(self.schedule(self.t - 1))
        for name, p in self.p.items():
            k = 1.0 * (self.t - self.last[name])
            missed = self.m[name] * column(BETA1 * (1 - BETA1**k) / (1 - BETA1))
            now[name] = p - rate * missed / (np.sqrt(self.v[name] * column(BETA2**k)) + np.float32(EPS))
        return now


class LazyGlobal(Peer):
    """HugeCTR's Adam with update type LazyGlobal (src/optimizers/sparse_optimizer.cu, opt_adam_kernel_lazy), t from 1,
    last = 1 at first:

        k = t - last
        p <- p - rate sqrt(1 - beta2^last) / (1 - beta1^last) (1 - beta1^k) / (1 - beta1) m / (sqrt(v) + eps)
        m <- beta1^k m + (1 - beta1) g
        v <- beta2^k v + (1 - beta2) g^2

    So the steps from `last` on, its own included, are taken when the next gradient comes, with the rate of then and the
    second moment and the bias correction of `last`. Until then the row has not moved at all.
    """

    def __init__(self, start: Tables, schedule: Schedule) -> None:
        super().__init__(start, schedule, never=1)

    def move(self, m: Array, v: Array, last: Array, t: int, rate: float) -> Array:
        correction = np.sqrt(1 - BETA2 ** (1.0 * last)) / (1 - BETA1 ** (1.0 * last))
        steps = (1 - BETA1 ** (1.0 * t - last)) / (1 - BETA1)
        return column(rate * correction * steps) * m / (np.sqrt(v) + np.float32(EPS))

    def update(self, p: Array, m: Array, v: Array, last: Array, g: Array, rate: float) -> None:
        k = 1.0 * self.t - last
        p -= self.move(m, v, last, self.t, rate)
        m[...] = m * column(BETA1**k) + np.float32(1 - BETA1) * g
        v[...] = v * column(BETA2**k) + np.float32(1 - BETA2) * g * g

    def caught_up(self) -> Tables:
        """The same formula for the steps that are due, that of now included. HugeCTR has no such call."""
        rate = self.schedule(self.t - 1)
        return {
            name: p - self.move(self.m[name], self.v[name], self.last[name], self.t + 1, rate)
            for name, p in self.p.items()
        }


DENSE, LAZY, EXACT = "dense Adam", "lazy", "exact"
SMART, CORRECTED, GLOBAL = "SmartDecay", "SmartDecay, bias corrected", "LazyGlobal"
COLOURS = {DENSE: "0.3", LAZY: "C1", SMART: "C4", CORRECTED: "C3", GLOBAL: "C2", EXACT: "C0"}


def rules(start: Tables, schedule: Schedule) -> dict[str, Rule]:
    return {
        DENSE: Fastopt(start, schedule, "dense"),
        LAZY: Fastopt(start, schedule, "lazy"),
        SMART: SmartDecay(start, schedule, corrected=False),
        CORRECTED: SmartDecay(start, schedule, corrected=True),
        GLOBAL: LazyGlobal(start, schedule),
        EXACT: Fastopt(start, schedule, "exact"),
    }


# ----------------------------------------------------------------------------------------------------- experiments


class Error:
    """Largest and root mean square difference, over many arrays."""

    def __init__(self) -> None:
        self.most, self.squares, self.n = 0.0, 0.0, 0

    def add(self, a: Array, b: Array) -> None:
        d = np.abs(a - b)
        self.most = max(self.most, float(d.max(initial=0.0)))
        self.squares += float(np.square(d).sum())
        self.n += d.size

    def merge(self, other: Error) -> None:
        self.most = max(self.most, other.most)
        self.squares += other.squares
        self.n += other.n

    @property
    def rms(self) -> float:
        return (self.squares / max(1, self.n)) ** 0.5

    def __str__(self) -> str:
        return f"{self.most:.1e}, {self.rms:.1e}"


def error(a: Tables, b: Tables) -> Error:
    found = Error()
    for name in a:
        found.add(a[name], b[name])
    return found


def same_gradients(corpus: Corpus, steps: int, rate: float, width: int) -> dict[str, Any]:
    """Every rule gets the gradients of the dense run, and its rows are compared with dense Adam in float64."""
    start, schedule = corpus.start(width), Schedule(steps, rate)
    truth, followers = Fastopt(start, schedule, "dense", np.float64), rules(start, schedule)
    model, every = followers[DENSE], max(1, steps // MEASURED)
    curves: dict[str, list[Error]] = {name: [] for name in followers}
    seconds: dict[str, list[float]] = {name: [] for name in (DENSE, LAZY, EXACT)}
    both: dict[str, list[float]] = {LAZY: [], EXACT: []}
    for step, batch in enumerate(tqdm(corpus.batches(steps), "same gradients", steps, mininterval=1)):
        g = Gradients(batch, model.read, len(corpus.words))
        _ = g.sparse, g.summed
        if step % every == 0:
            for curve in curves.values():
                curve.append(Error())
        right = {name: truth.tables[name][rows] for name, rows in batch.once.items()}
        names = list(followers)
        for name in names if step % 2 else names[::-1]:  # lazy before exact, and exact before lazy
            rule = followers[name]
            start_ = time.perf_counter()
            seen = {key: rule.read(key, rows) for key, rows in batch.once.items()}
            middle = time.perf_counter()
            rule.step(g)
            end = time.perf_counter()
            if name in seconds:
                seconds[name].append(end - middle)
            if name in both:
                both[name].append(end - start_)
            for key, a in seen.items():
                curves[name][-1].add(a, right[key])
        truth.step(g)
    result: dict[str, Any] = {"at": [min(steps, (i + 1) * every) for i in range(len(curves[DENSE]))], "rules": {}}
    result["moved"] = error({k: a.astype(np.float64) for k, a in start.items()}, truth.tables).rms
    for name, rule in followers.items():
        read = Error()
        for part in curves[name]:
            read.merge(part)
        stands = rule.as_it_stands()
        result["rules"][name] = {
            "curve": [part.rms for part in curves[name]],
            "read": read,
            "stands": None if stands is None else error(truth.tables, stands),
            "caught up": error(truth.tables, rule.caught_up()),
        }
    result["seconds"], result["both"] = seconds, both
    return result


def own_gradients(corpus: Corpus, steps: int, rate: float, width: int) -> dict[str, Any]:
    """Every rule trains its own model on the same minibatches; the loss of pairs held out, as a model reads them."""
    models, every = rules(corpus.start(width), Schedule(steps, rate)), max(1, steps // MEASURED)
    at: list[int] = []
    losses: dict[str, list[float]] = {name: [] for name in models}
    for step, batch in enumerate(tqdm(corpus.batches(steps), "own gradients", steps, mininterval=1), 1):
        for rule in models.values():
            rule.step(Gradients(batch, rule.read, len(corpus.words)))
        if step % every == 0 or step == steps:
            at.append(step)
            for name, rule in models.items():
                losses[name].append(forward(corpus.held_out, rule.read)[0])
    return {"at": at, "losses": losses}


# ---------------------------------------------------------------------------------------------------------- output


def report(fixed: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Both experiments as tables."""
    lines = [
        "\n## The gradients of one dense run for every rule\n\nLargest and root mean square difference of the "
        "parameters from dense Adam in float64: of the rows that a minibatch reads, over all steps; of all rows at the "
        "end, as they lie in memory; and after `flush()`, or the peer's own formula for the rest of the gap, which the "
        f"peers have no call for. For scale: the parameters moved by {fixed['moved']:.2g} (rms).\n"
    ]
    names = {name: name + (", float32" if name == DENSE else "") for name in fixed["rules"]}
    rows = [
        [
            names[name],
            str(r["read"]),
            "stale by design" if r["stands"] is None else str(r["stands"]),
            str(r["caught up"]),
        ]
        for name, r in fixed["rules"].items()
    ]
    lines.append(table(["rule", "rows as read: max, rms", "at the end, raw", "at the end, caught up"], rows))
    lines.append(
        "\nTime in that run, lazy and exact by turns. Exact catches up when it reads, so its step has less to do:\n"
    )
    rows = []
    for what, seconds in (("step", fixed["seconds"]), ("read and step", fixed["both"])):
        low, middle, high = spread(ratios(seconds[EXACT], seconds[LAZY]))
        medians = {name: statistics.median(s) for name, s in seconds.items()}
        rows.append(
            [
                what,
                duration(medians[DENSE]) if DENSE in medians else "",
                duration(medians[LAZY]),
                duration(medians[EXACT]),
                f"{medians[EXACT] / medians[LAZY]:.3g}",
                f"{middle:.3g} ({low:.3g} to {high:.3g})",
            ]
        )
    lines.append(table(["", DENSE, LAZY, EXACT, "exact / lazy, of medians", "median ratio (quartiles)"], rows))
    lines.append(
        "\n## A model of its own for every rule\n\nLoss of 10 000 pairs held out; dense Adam is the yardstick.\n"
    )
    dense = np.array(own["losses"][DENSE])
    rows = []
    for name, losses in own["losses"].items():
        off = np.array(losses) - dense
        rows.append(
            [
                name,
                f"{losses[-1]:.5f}",
                f"{off[-1]:+.1e}" if name != DENSE else "",
                f"{np.abs(off).max():.1e}" if name != DENSE else "",
                f"{np.abs(off).mean():.1e}" if name != DENSE else "",
            ]
        )
    lines.append(table(["rule", "last loss", "minus dense", "farthest from dense", "mean distance"], rows))
    return "\n".join(lines)


def draw(fixed: Mapping[str, Any], own: Mapping[str, Any], out: Path) -> None:
    """Left the loss minus dense Adam's, right the error of what is read."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    dense = np.array(own["losses"][DENSE])
    for name, losses in own["losses"].items():
        if name != DENSE:
            width = 2.2 if name == EXACT else 1.3
            left.plot(own["at"], np.array(losses) - dense, color=COLOURS[name], label=name, lw=width)
    left.set_yscale("symlog", linthresh=1e-3)
    left.axhline(0, color=COLOURS[DENSE], lw=0.8, zorder=0)
    left.set(title="Own gradients: held-out loss minus that of dense Adam", xlabel="step")
    for name, r in fixed["rules"].items():
        label, style = (name + ", float32", "--") if name == DENSE else (name, "-")
        width, above = (2.2 if name == EXACT else 1.3), (3 if name == DENSE else 2)
        right.semilogy(fixed["at"], r["curve"], style, color=COLOURS[name], label=label, lw=width, zorder=above)
    right.set(title="Same gradients: rms error of the rows read", xlabel="step")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=150)
    print(f"\nFigure: {out}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, metavar="TEXT")
    parser.add_argument("--out", type=Path, default=Path("out/embeddings.png"), metavar="FIGURE")
    parser.add_argument("--steps", type=int, help="minibatches (default 4000; 200 with --quick)")
    parser.add_argument("--batch", type=int, default=1024, help="pairs in a minibatch (default 1024)")
    parser.add_argument("--rate", type=float, default=5e-3, help="the highest rate (default 0.005)")
    parser.add_argument("--width", type=int, default=32, help="columns of the tables (default 32)")
    parser.add_argument("--threads", type=int, default=1, help="threads of fastopt (default 1)")
    parser.add_argument("--quick", action="store_true", help="few steps: shows that it runs, no more")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the curves there, too")
    args = parser.parse_args()
    steps = args.steps or (200 if args.quick else 4000)
    fastopt.set_num_threads(args.threads)
    facts = machine("numpy", "scipy")
    corpus = Corpus(args.text, args.batch)
    facts["data"] = (
        f"{args.text.name}: {len(corpus.words):,} words seen 5 times or more, {corpus.pairs.shape[1]:,} pairs; "
        f"{steps:,} steps of {args.batch} pairs with {NEGATIVES} negatives each, width {args.width}, rate {args.rate:g}"
        f"{', quick: the figures mean nothing' if args.quick else ''}"
    )
    print(describe(facts), flush=True)
    fixed = same_gradients(corpus, steps, args.rate, args.width)
    own = own_gradients(corpus, steps, args.rate, args.width)
    print(report(fixed, own))
    draw(fixed, own, args.out)
    if args.json:
        plain = lambda e: None if e is None else {"max": e.most, "rms": e.rms}  # noqa: E731
        kept = {
            name: {k: plain(r[k]) for k in ("read", "stands", "caught up")} | {"curve": r["curve"]}
            for name, r in fixed["rules"].items()
        }
        whole = {"machine": facts, "moved": fixed["moved"], "at": fixed["at"], "same": kept, "own": own}
        args.json.write_text(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
