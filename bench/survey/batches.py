"""Batch, mini-batch and stochastic descent; rates that are too small or too large."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

import fastopt

from .harness import BATCHES, OVERVIEW, Check, Result, Study, at_edge, below, chosen, claim, spread
from .networks import CLASSES, Array, Network, digits, flat
from .training import Each, finite, fit, rates, train

SIZES = (1, 16, 50, 256, 1000)  # the last: all samples


@claim(
    "Larger batches make updates less noisy",
    "The updates of stochastic descent have a high variance. Mini-batches lower it, the full batch has none.",
    f"{OVERVIEW}, 2.2 and 2.3",
    BATCHES,
)
def variance_of_updates(study: Study) -> Result:
    draws, seeds = study.much(400, 100), study.seeds(5)
    found = np.zeros((len(seeds), len(SIZES)))
    for i, seed in enumerate(seeds):
        split, net = digits(seed), Network()
        params, rng = net.start(seed), np.random.default_rng([seed, 3])
        whole = flat(net.loss_and_grad(params, split.X, split.y)[1])
        for j, size in enumerate(SIZES):
            total = 0.0
            for _ in range(draws if size < 1000 else 3):
                batch = rng.choice(1000, size, replace=False)
                total += float(
                    ((flat(net.loss_and_grad(params, split.X[batch], split.y[batch])[1]) - whole) ** 2).sum()
                )
            found[i, j] = total / (draws if size < 1000 else 3) / (whole @ whole)
    theory = [found[:, 0].mean() / size * (1000 - size) / 999 for size in SIZES]
    off = max(abs(found[:, j].mean() / theory[j] - 1) for j in range(1, 4))
    falls = all(below(found[:, j + 1], found[:, j]) for j in range(4))
    return Result(
        f"""Network 64-32-10 (ReLU) on 1000 digits, at its start. Mean squared distance of the gradient of a
        random batch from that of all samples, in units of the squared length of the latter; {draws} batches of
        each size, {len(seeds)} seeds.""",
        ("batch", "variance", "variance of one sample / batch, drawn without replacement"),
        [(size, spread(found[:, j]), f"{theory[j]:.3g}") for j, size in enumerate(SIZES)],
        [
            Check("it is clearly smaller for each larger batch", falls),
            Check("16, 50 and 256: it is within 15 % of what sampling theory says", off < 0.15, f"off by {off:.1%}"),
            Check("the full batch has next to none", found[:, -1].max() < 1e-9, f"{found[:, -1].max():.1g}"),
        ],
    )


@claim(
    "Stochastic descent makes the objective fluctuate",
    "Because its updates vary so much, the objective goes up and down under stochastic "
    "descent, and less so with larger batches.",
    f"{OVERVIEW}, 2.2, Figure 1",
    BATCHES,
)
def objective_fluctuates(study: Study) -> Result:
    lr, steps, seeds = 0.1, study.much(300, 60), study.seeds(5)
    paths = np.zeros((len(seeds), len(SIZES), steps))
    for i, seed in enumerate(seeds):
        split, net = digits(seed), Network()
        for j, size in enumerate(SIZES):
            losses = Each(lambda p, net=net, split=split: net.loss(p, split.X, split.y), "step")
            fit(net, split, lambda p: fastopt.SGD(p, lr=lr), seed, steps, size, max_steps=steps, callbacks=[losses])
            paths[i, j] = losses.seen
    up = 100 * (np.diff(paths, axis=2) > 0).mean(axis=2)
    with study.picture("training loss after each update, and its changes", columns=2, wide=9.0) as (left, right):
        for j, size in enumerate(SIZES):
            look = {"label": "all" if size == 1000 else f"{size}", "linewidth": 1, "color": f"C{j}"}
            left.plot(paths[0, j], **look)
            if size in (1, 16, 1000):
                right.plot(np.diff(paths[0, j]), **look)
        left.set(xlabel="update", ylabel="training loss, all samples", yscale="log")
        right.set(xlabel="update", ylabel="its change by the update")
        right.set_yscale("symlog", linthresh=1e-3)
        right.axhline(0, color="0.6", linestyle=":")
        left.legend(title="batch")
    return Result(
        f"""Network 64-32-10 on 1000 digits, SGD with rate {lr} for all batches, {steps} updates; the loss over
        all training samples after each. {len(seeds)} seeds.""",
        ("batch", "updates after which the loss is higher, %", "loss at the end"),
        [(size, spread(up[:, j]), spread(paths[:, j, -1])) for j, size in enumerate(SIZES)],
        [
            Check("with batches of 1 the loss rises after a quarter of the updates or more", up[:, 0].mean() >= 25),
            Check(
                "the share falls with larger batches, to 0 at last",
                bool((np.diff(up.mean(axis=0)) <= 0).all()) and below(up[:, 1], up[:, 0]),
            ),
            Check("with the full batch it never rises", up[:, -1].max() == 0),
        ],
        pictures=study.pictures,
    )


class Ridge:
    """Softmax regression with an L2 penalty: convex, so that the distance from the minimum can be told."""

    decay = 1e-2

    def __init__(self, seed: int) -> None:
        split = digits(seed)
        self.X, self.y = split.X.astype(np.float64), split.y
        self.net = Network((64, CLASSES))
        self.least = fastopt.minimize(
            self._vector,
            np.zeros(650),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-9},
        ).fun

    def _vector(self, x: Array) -> tuple[float, Array]:
        params = {"w0": x[:640].reshape(64, CLASSES), "b0": x[640:]}
        loss, grads = self.net.loss_and_grad(params, self.X, self.y)
        return loss + self.decay / 2 * float(x @ x), flat(grads) + self.decay * x

    def gap(self, params: dict[str, Array]) -> float:
        return finite(self._vector(flat(params))[0] - self.least)

    def smoothness(self) -> float:
        """A bound of the curvature, whose inverse is the rate at which batch descent is known to converge."""
        X = np.column_stack((self.X, np.ones(len(self.X))))
        return float(np.linalg.eigvalsh(X.T @ X / len(X))[-1]) / 2 + self.decay

    def run(self, lr: Any, size: int, seed: int, epochs: int) -> list[float]:
        """The distance from the minimum after each epoch, from weights of 0."""
        params = {"w0": np.zeros((64, CLASSES)), "b0": np.zeros(CLASSES)}
        optimizer = fastopt.SGD(params, lr=lr, weight_decay=self.decay)
        history = train(
            self.net.loss_and_grad,
            params,
            (self.X, self.y),
            optimizer,
            epochs=epochs,
            batch_size=size,
            seed=seed,
            validation=lambda p: {"gap": self.gap(p)},
        )
        return [record["gap"] for record in history.epochs]


@claim(
    "Stochastic descent overshoots, unless the rate falls",
    """Full-batch descent converges to the minimum of a convex objective. Stochastic descent keeps overshooting at
    a constant rate; with a slowly falling rate it converges as batch descent does.""",
    f"{OVERVIEW}, 2.1 and 2.2",
    BATCHES,
)
def annealing_converges(study: Study) -> Result:
    epochs, many, seeds = study.much(40, 10), study.much(1000, 200), study.seeds(3)
    long, full, constant, annealed = [], [], [], []
    grid = rates(-2.5, 0)

    def falling(lr: float) -> Any:
        return lambda t: lr / (1 + lr * Ridge.decay * t)  # the rate of Bottou for strongly convex objectives

    tuning = Ridge(study.tuning(1)[0])
    batch_lr = float(f"{1 / tuning.smoothness():.2g}")
    constant_lr, _ = chosen(grid, lambda lr, s: tuning.run(lr, 1, s, epochs)[-1], study.tuning(1))
    annealed_lr, _ = chosen(grid, lambda lr, s: tuning.run(falling(lr), 1, s, epochs)[-1], study.tuning(1))
    for seed in seeds:
        problem = Ridge(seed)
        long.append(problem.run(batch_lr, 1000, seed, many)[-1])
        full.append(problem.run(batch_lr, 1000, seed, epochs))
        constant.append(problem.run(constant_lr, 1, seed, epochs))
        annealed.append(problem.run(falling(annealed_lr), 1, seed, epochs))
    runs = {
        f"full batch, rate {batch_lr:g}": np.array(full),
        f"one sample, constant rate {constant_lr:g}": np.array(constant),
        f"one sample, rate falling from {annealed_lr:g}": np.array(annealed),
    }
    with study.picture("distance from the minimum by epoch") as ax:
        for name, gaps in runs.items():
            ax.plot(range(1, epochs + 1), gaps[0], label=name)
        ax.set(xlabel="epoch", ylabel="objective - minimum", yscale="log")
        ax.legend()
    full, constant, annealed = runs.values()
    tail = max(epochs // 5, 1)
    middle, end = constant[:, epochs // 2 - tail // 2 :][:, :tail].mean(axis=1), constant[:, -tail:].mean(axis=1)
    return Result(
        f"""Softmax regression with weight decay {Ridge.decay:g} on 1000 digits, float64; the minimum by L-BFGS.
        {epochs} epochs, so that full-batch descent makes {epochs} updates and the others {1000 * epochs}. Rates:
        for the full batch 1 / the bound of the curvature; else the best of {grid[0]:g} to {grid[-1]:g}, on
        another split. The falling rate is lr / (1 + lr · decay · t). {len(seeds)} seeds.""",
        ("", "objective - minimum, half way", "at the end"),
        [
            *((name, spread(g[:, epochs // 2]), spread(g[:, -1])) for name, g in runs.items()),
            (f"full batch, {many} epochs", "", spread(long)),
        ],
        [
            Check("full-batch descent lowers the objective in every epoch", bool((np.diff(full, axis=1) < 0).all())),
            Check(
                f"it converges: after {many} epochs it is nearer the minimum than any other here",
                max(long) < min(constant.min(), annealed.min()),
                f"to {max(long):.1g}",
            ),
            Check(
                f"at the constant rate it has stalled: the mean over the last {tail} epochs is at least "
                "half of that in the middle",
                bool((end > middle / 2).all()),
                f"{end.mean():.2g} and {middle.mean():.2g}",
            ),
            Check("annealed, it ends at less than a tenth of that", bool((annealed[:, -1] < end / 10).all())),
            Check(
                "annealed, it is as near the minimum as full-batch descent after as many epochs",
                bool((annealed[:, -1] <= full[:, -1]).all()),
            ),
        ],
        pictures=study.pictures,
    )


def gradients_needed(
    split: Any, X: Array, y: Array, lr: float, size: int, seed: int, target: float, most: int
) -> float:
    """How many gradients of single samples until the loss over `X` is at most `target`."""
    net = Network()
    params = net.start(seed)
    stop = Each(lambda p: net.loss(p, split.X, split.y), "step", lambda loss: loss <= target)
    history = train(
        net.loss_and_grad,
        params,
        (X, y),
        fastopt.SGD(params, lr=lr),
        epochs=most // len(X),
        batch_size=size,
        seed=seed,
        callbacks=[stop],
    )
    whole, rest = divmod(history.steps, math.ceil(len(X) / size))  # the last batch of an epoch may be smaller
    return float(whole * len(X) + rest * size) if history.stopped == "callback" else math.inf


@claim(
    "Full batches compute much that is redundant",
    """On data with similar samples a full batch computes the same gradients again before each update; stochastic
    descent does not, and is therefore faster.""",
    f"{OVERVIEW}, 2.1 and 2.2",
    BATCHES,
)
def redundant_gradients(study: Study) -> Result:
    target, most, seeds, copies = 0.2, study.much(40_000, 20_000), study.seeds(10), 5
    sizes, grid = (1, 16, 50, 200), rates(-2, 1, 4)
    needed: dict[tuple[int, int], list[float]] = {}
    picked = {}
    for size in sizes:

        def score(lr: float, seed: int, size: int = size) -> float:
            split = digits(seed, train=200)
            return gradients_needed(split, split.X, split.y, lr, size, seed, target, most // 4)

        picked[size], _ = chosen(grid, score, study.tuning(4))
    for seed in seeds:
        split = digits(seed, train=200)
        for times in (1, copies):
            X, y = np.tile(split.X, (times, 1)), np.tile(split.y, times)
            for size in sizes:
                batch = size if size < 200 else len(X)
                needed.setdefault((size, times), []).append(
                    gradients_needed(split, X, y, picked[size], batch, seed, target, most)
                )
    once, repeated = ({s: np.array(needed[s, times]) for s in sizes} for times in (1, copies))
    ratio = {s: repeated[s].mean() / once[s].mean() for s in sizes}
    return Result(
        f"""Network 64-32-10 on 200 digits, and on the same with every sample {copies} times. Gradients of single
        samples until the loss over all 200 is {target}; rate for each batch the best of {grid[0]:g} to
        {grid[-1]:g}, 4 to a decade, on {len(study.tuning(4))} other splits of 200. {len(seeds)} seeds.""",
        ("batch", "rate", "gradients, 200 samples", f"gradients, each {copies} times", "ratio"),
        [
            (
                "all" if s == 200 else s,
                f"{picked[s]:g}{at_edge(grid, picked[s])}",
                spread(once[s], ".0f"),
                spread(repeated[s], ".0f"),
                f"{ratio[s]:.2f}",
            )
            for s in sizes
        ],
        [
            Check(
                f"the full batch needs about {copies} times the gradients when every sample is there {copies} times",
                0.8 * copies < ratio[200] < 1.2 * copies,
                f"{ratio[200]:.2f}",
            ),
            Check(
                "stochastic descent (1, 16, 50) needs at most 1.3 times as many", max(ratio[s] for s in sizes[:3]) < 1.3
            ),
            Check(
                "with all samples different, too, batches of 16 need at most a third of the gradients of "
                "the full batch",
                once[16].mean() < once[200].mean() / 3,
                f"{once[16].mean():.0f} and {once[200].mean():.0f}",
            ),
        ],
    )


@claim(
    "Mini-batches use the machine better",
    "Matrix products make the gradient of a mini-batch cheap; usual sizes are 50 to 256.",
    f"{OVERVIEW}, 2.3",
    BATCHES,
)
def batches_are_cheaper(study: Study) -> Result:
    split, net = digits(0), Network((64, 128, CLASSES))
    params = net.start(0)
    optimizer = fastopt.SGD(params, lr=1e-4)
    cost = []
    for size in SIZES:
        X, y, times = split.X[:size], split.y[:size], []
        for _ in range(study.much(200, 30)):
            start = time.perf_counter()
            optimizer.step(net.loss_and_grad(params, X, y)[1])
            times.append(time.perf_counter() - start)
        cost.append(1e6 * float(np.median(times)) / size)
    return Result(
        """Network 64-128-10 in NumPy, one thread: median time of gradient and SGD step together, divided by the
        batch. This is the one figure on the page that depends on the machine.""",
        ("batch", "µs a sample"),
        [(size, f"{us:.3g}") for size, us in zip(SIZES, cost, strict=True)],
        [
            Check(
                "a sample in a batch of 50 costs at most a fifth of a single one",
                cost[2] < cost[0] / 5,
                f"{cost[2] / cost[0]:.2f}",
            ),
            Check(
                "from 50 to 256 there is less to gain than from 1 to 50",
                cost[2] / cost[3] < cost[0] / cost[2],
                f"{cost[2] / cost[3]:.1f} times and {cost[0] / cost[2]:.1f} times",
            ),
        ],
    )


@claim(
    "There is a best rate: smaller is slow, larger does not converge",
    "A rate that is too small makes convergence painfully slow; one that is too large lets "
    "the loss fluctuate or diverge.",
    f"{OVERVIEW}, 3",
    BATCHES,
)
def best_rate(study: Study) -> Result:
    epochs, seeds, grid = study.much(10, 3), study.seeds(5), rates(-4, 1)
    runs = {
        lr: [fit(Network(), digits(s), lambda p, lr=lr: fastopt.SGD(p, lr=lr), s, epochs) for s in seeds] for lr in grid
    }
    loss = {lr: np.array([run.loss for run in runs[lr]]) for lr in grid}
    best = min(grid, key=lambda lr: loss[lr].mean())
    with study.picture("training loss by rate") as ax:
        shown = [lr for lr in grid if np.isfinite(loss[lr]).all()]
        ax.plot(shown, [loss[lr].mean() for lr in shown], marker="o", label="mean")
        ax.fill_between(
            shown, *([f(loss[lr]) for lr in shown] for f in (np.min, np.max)), alpha=0.3, label="least to greatest"
        )
        ax.axhline(math.log(CLASSES), color="0.6", linestyle=":", label="guessing")
        ax.set(xscale="log", yscale="log", xlabel="rate", ylabel=f"training loss after {epochs} epochs")
        ax.legend()
    return Result(
        f"""Network 64-32-10 on 1000 digits, SGD, batches of 32, {epochs} epochs, rates from {grid[0]:g} to
        {grid[-1]:g}, {len(seeds)} seeds.""",
        ("rate", "training loss", "test error, %"),
        [(f"{lr:g}", spread(loss[lr]), spread([run.error for run in runs[lr]])) for lr in grid],
        [
            Check("the best rate is inside the grid", best not in (grid[0], grid[-1]), f"{best:g}"),
            Check(
                "a hundredth of it leaves at least 10 times the loss",
                loss[grid[max(grid.index(best) - 4, 0)]].mean() > 10 * loss[best].mean(),
            ),
            Check(
                "the largest rate is no better than guessing, or diverges",
                not loss[grid[-1]].mean() < 0.9 * math.log(CLASSES),
                spread(loss[grid[-1]]),
            ),
        ],
        pictures=study.pictures,
    )
