"""What the survey says about batches and minima, normalization, noise, order of data, early stopping."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastopt
from fastopt.strategies import Curriculum, EarlyStopping, Pace

from .harness import (
    GENERALIZATION,
    HIGHLIGHTS,
    OVERVIEW,
    STRATEGIES,
    Check,
    Result,
    Study,
    at_edge,
    below,
    chosen,
    claim,
    spread,
    wins,
)
from .networks import CLASSES, Array, Network, copied, digits, flat
from .training import Each, Fitted, fit, rates

# --------------------------------------------------------------------------------------------------------- sharpness


class Landscape:
    """The training loss around some weights, in float64."""

    def __init__(self, net: Network, params: dict[str, Array], X: Array, y: Array) -> None:
        self.net, self.X, self.y = net, X.astype(np.float64), y
        self.at = {name: array.astype(np.float64) for name, array in params.items()}
        self.vector = flat(self.at)

    def moved(self, vector: Array) -> dict[str, Array]:
        found, at = {}, 0
        for name, array in self.at.items():
            found[name] = vector[at : at + array.size].reshape(array.shape)
            at += array.size
        return found

    def both(self, vector: Array) -> tuple[float, Array]:
        loss, grads = self.net.loss_and_grad(self.moved(vector), self.X, self.y)
        return loss, flat(grads)

    def curvature(self, rounds: int = 40) -> float:
        """The largest eigenvalue of the second derivatives, by power iteration on differences of gradients."""
        v, found = np.random.default_rng(0).standard_normal(len(self.vector)), 0.0
        step = 1e-4 * max(1.0, float(np.linalg.norm(self.vector)))
        for _ in range(rounds):
            v /= np.linalg.norm(v)
            Hv = (self.both(self.vector + step * v)[1] - self.both(self.vector - step * v)[1]) / (2 * step)
            found, v = float(v @ Hv), Hv
        return found

    def sharpness(self, size: float = 1e-2, rounds: int = 100) -> float:
        """By how much the loss can rise, in percent of 1 + loss, if no weight w moves by more than `size` (|w| + 1).

        Found by ascent along the signs of the gradient. Ten rounds are too few, 400 find no more than 100.
        """
        box = size * (np.abs(self.vector) + 1)
        start, best, x = self.both(self.vector)[0], 0.0, self.vector.copy()
        for _ in range(rounds):
            loss, g = self.both(x)
            best = max(best, loss)
            x = np.clip(x + box * np.sign(g) / 4, self.vector - box, self.vector + box)
        return 100 * (max(best, self.both(x)[0]) - start) / (1 + start)


@claim(
    "Large batches find sharper minima and generalize worse",
    "Training with large batches ends in minima at which the loss rises steeply around, and "
    "these do worse on new data.",
    HIGHLIGHTS,
    GENERALIZATION,
)
def sharp_minima(study: Study) -> Result:
    target, seeds, lr = 0.01, study.seeds(10), 0.1
    ways = ((10, lr), (100, lr), (1000, lr), (100, 10 * lr), (1000, 10 * lr))
    rows, found = [], {}
    for size, rate in ways:
        kept = []
        for s in seeds:
            net, split = Network(), digits(s, noise=0.3)
            stop = Each(
                lambda p, net=net, split=split: net.loss(p, split.X, split.y), until=lambda loss: loss <= target
            )
            run = fit(
                net,
                split,
                lambda p, rate=rate: fastopt.SGD(p, lr=rate),
                s,
                study.much(6000, 300),
                size,
                callbacks=[stop],
            )
            around = Landscape(net, run.params, split.X, split.y)
            kept.append((run.loss, around.curvature(), around.sharpness(), run.test, run.error, len(stop.seen)))
        found[size, rate] = np.array(kept).T
        rows.append((size, f"{rate:g}", *(spread(column) for column in found[size, rate])))
    few, many, fast = found[10, lr], found[1000, lr], found[1000, 10 * lr]
    return Result(
        f"""Network 64-32-10 on 1000 digits with noise of 0.3, SGD until the training loss is at most {target}, so
        that all are compared at the same loss. Largest curvature: largest eigenvalue of the second derivatives of
        the training loss. Sharpness (Keskar et al. 2016): by how much it can rise, in %, if no weight w moves by
        more than 0.01 (abs(w) + 1), by 100 steps of ascent. {len(seeds)} seeds.""",
        ("batch", "rate", "training loss", "largest curvature", "sharpness, %", "test loss", "test error, %", "epochs"),
        rows,
        [
            Check(
                "same rate: the curvature is clearly larger with the full batch than with batches of 10",
                below(few[1], many[1]),
                wins(few[1], many[1]),
            ),
            Check("same rate: the sharpness is clearly larger", below(few[2], many[2]), wins(few[2], many[2])),
            Check("same rate: the test loss is clearly larger", below(few[3], many[3]), wins(few[3], many[3])),
            Check("same rate: the test error is clearly larger", below(few[4], many[4]), wins(few[4], many[4])),
            *(
                Check(
                    f"the full batch at ten times the rate, too, has clearly more {what} than batches of 10",
                    below(few[i], fast[i]),
                    wins(few[i], fast[i]),
                )
                for i, what in ((1, "curvature"), (2, "sharpness"))
            ),
        ],
    )


@claim(
    "Sharp minima can generalize",
    "Sharpness is no property of the function that a network computes: the same function can "
    "be had with much sharper minima.",
    HIGHLIGHTS,
    GENERALIZATION,
)
def sharp_minima_can_generalize(study: Study) -> Result:
    factor, rows, more, same = 10.0, [], [], []
    for s in study.seeds(3):
        net, split = Network(), digits(s)
        run = fit(net, split, lambda p: fastopt.SGD(p, lr=0.3), s, study.much(20, 3))
        other = copied(run.params)
        for name in ("w0", "b0"):
            other[name] *= np.float32(factor)
        other["w1"] /= np.float32(factor)
        a, b = (Landscape(net, p, split.X, split.y).curvature() for p in (run.params, other))
        agree = float(
            (net.scores(run.params, split.X_test).argmax(1) == net.scores(other, split.X_test).argmax(1)).mean()
        )
        more.append(b / a)
        same.append(agree)
        rows.append((s, f"{a:.3g}", f"{b:.3g}", f"{100 * agree:.1f}"))
    return Result(
        f"""Network 64-32-10 (ReLU) trained on digits; then the first layer times {factor:g} and the second
        divided by it (Dinh et al. 2017), which leaves the function as it is.""",
        ("seed", "largest curvature", f"times {factor:g} / {factor:g}", "same predictions on test samples, %"),
        rows,
        [
            Check("the predictions are the same", min(same) == 1.0),
            Check("the curvature is at least 10 times as large", min(more) >= 10, f"{min(more):.0f} times at least"),
        ],
    )


@claim(
    "Networks fit random labels",
    "The capacity of networks is large enough to learn labels that mean nothing by heart, "
    "about as easily as true ones.",
    HIGHLIGHTS,
    GENERALIZATION,
)
def random_labels(study: Study) -> Result:
    epochs, seeds, n = study.much(300, 30), study.seeds(5), 500
    rows, found = [], {}
    for kind in ("true labels", "random labels", "random labels, random pixels"):
        kept = []
        for s in seeds:
            net, split = Network((64, 128, CLASSES)), digits(s, train=n)
            rng = np.random.default_rng([s, 5])
            if kind != "true labels":
                split = split._replace(y=rng.integers(CLASSES, size=n))
            if "pixels" in kind:
                split = split._replace(X=rng.standard_normal(split.X.shape).astype(np.float32) * split.X.std())
            look = Each(
                lambda p, net=net, split=split: net.accuracy(p, split.X, split.y), until=lambda share: share == 100
            )
            run = fit(net, split, lambda p: fastopt.SGD(p, lr=0.1, momentum=0.9), s, epochs, callbacks=[look])
            kept.append((look.seen[-1], len(look.seen), run.error))
        found[kind] = np.array(kept).T
        rows.append((kind, *(spread(column) for column in found[kind])))
    true, wrong, noise = found.values()
    return Result(
        f"""Network 64-128-10 ({64 * 128 + 128 + 128 * 10 + 10} weights) on {n} digits, SGD with rate 0.1 and
        momentum 0.9, batches of 32, until every sample is right, {epochs} epochs at most. {len(seeds)} seeds.""",
        ("", "right on training samples, %", "epochs", "test error, %"),
        rows,
        [
            Check("random labels are all learned", bool((wrong[0] == 100).all())),
            Check("with random pixels, too", bool((noise[0] == 100).all())),
            Check(
                "that teaches nothing: the test error is that of guessing, 80 to 95 %",
                80 <= wrong[2].mean() <= 95,
                f"{wrong[2].mean():.0f} %",
            ),
            Check(
                "it takes at most 10 times the epochs of true labels",
                wrong[1].mean() <= 10 * true[1].mean(),
                f"{wrong[1].mean() / true[1].mean():.1f} times",
            ),
        ],
    )


# ----------------------------------------------------------------------------------------- normalization, noise, order


@claim(
    "Batch normalization bears larger rates and bad starts",
    "With batch normalization much higher rates can be used, and the start matters less.",
    f"{OVERVIEW}, 6.2",
    STRATEGIES,
)
def batch_normalization(study: Study) -> Result:
    epochs, seeds, grid, limit = study.much(10, 3), study.seeds(5), rates(-3, 2), 10.0
    sizes = (64, 32, 32, 32, 32, CLASSES)

    def error(norm: bool, lr: float, s: int, scale: float = 1.0) -> float:
        return fit(
            Network(sizes, norm=norm),
            digits(s),
            lambda p: fastopt.SGD(p, lr=lr),
            s,
            epochs,
            scale=scale,
            drop_last=True,
        ).error

    by_rate = {norm: np.array([[error(norm, lr, s) for s in seeds] for lr in grid]) for norm in (False, True)}
    best = {norm: grid[int(by_rate[norm].mean(axis=1).argmin())] for norm in by_rate}
    largest = {
        norm: max(lr for lr, row in zip(grid, by_rate[norm], strict=True) if row.mean() <= limit) for norm in by_rate
    }
    scales = (0.1, 0.3, 1.0, 3.0, 10.0)
    by_scale = {
        norm: np.array([[error(norm, best[norm], s, scale) for s in seeds] for scale in scales]) for norm in by_rate
    }
    own = {
        (norm, scale): chosen(grid, lambda lr, s, norm=norm, scale=scale: error(norm, lr, s, scale), study.tuning(2))[0]
        for norm in by_rate
        for scale in scales
    }
    tuned = {
        norm: np.array([[error(norm, own[norm, scale], s, scale) for s in seeds] for scale in scales])
        for norm in by_rate
    }
    fine, helped = (
        {norm: int((found[norm].mean(axis=1) <= limit).sum()) for norm in found} for found in (by_scale, tuned)
    )
    with study.picture("test error by rate, and by the scale of the start", columns=2, wide=8.0) as (left, right):
        for norm in by_rate:
            label = "batch normalization" if norm else "without"
            left.plot(grid, by_rate[norm].mean(axis=1), marker="o", label=label)
            right.plot(scales, by_scale[norm].mean(axis=1), marker="o", label=label)
        left.set(xscale="log", xlabel="rate", ylabel="test error, %")
        right.set(xscale="log", xlabel="deviation of the first weights / He's")
        left.figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    rows = [(f"rate {lr:g}", spread(by_rate[False][i]), spread(by_rate[True][i])) for i, lr in enumerate(grid)]
    rows += [
        (f"best rate, start times {scale:g}", spread(by_scale[False][i]), spread(by_scale[True][i]))
        for i, scale in enumerate(scales)
    ]
    rows += [
        (
            f"a rate of its own, start times {scale:g}",
            *(f"{spread(tuned[norm][i])} ({own[norm, scale]:g})" for norm in (False, True)),
        )
        for i, scale in enumerate(scales)
    ]
    i, j = grid.index(best[False]), grid.index(best[True])
    return Result(
        f"""Network 64-32-32-32-32-10 on 1000 digits, SGD, batches of 32 (the last, smaller one left out),
        {epochs} epochs; test error in %. Then with the first weights multiplied: at the best rate of each, which is
        that of these runs, {best[False]:g} and {best[True]:g}; and at a rate for each start (in brackets), chosen on
        {len(study.tuning(2))} other splits. Usable: a mean error of at most {limit:g} %. {len(seeds)} seeds.""",
        ("", "without", "batch normalization"),
        rows,
        [
            Check(
                "the largest usable rate is at least 3 times as large with it",
                largest[True] >= 3 * largest[False],
                f"{largest[True]:g} and {largest[False]:g}",
            ),
            Check(
                "more of the starts are usable with it",
                fine[True] > fine[False],
                f"{fine[True]} and {fine[False]} of {len(scales)}",
            ),
            Check(
                "where the rate is chosen for each start, too",
                helped[True] > helped[False],
                f"{helped[True]} and {helped[False]} of {len(scales)}",
            ),
            Check("at the best rate of each its error is clearly lower", below(by_rate[True][j], by_rate[False][i])),
        ],
        pictures=study.pictures,
    )


@claim(
    "Noise on the gradient helps deep networks, above all from bad starts",
    "Normal noise whose variance falls with the steps makes training more robust to a poor "
    "initialization and helps deep networks.",
    f"{OVERVIEW}, 6.4",
    STRATEGIES,
)
def gradient_noise(study: Study) -> Result:
    epochs, seeds, depth, gamma = study.much(30, 3), study.seeds(10), 10, 0.55
    net = Network((64, *[32] * depth, CLASSES))
    starts = {"zeros": 0.0, "a third of He's": 1 / 3, "He's": 1.0}
    etas, grid = (1e-4, 1e-3, 0.01, 0.1, 1.0), rates(-2, 0)

    def run(eta: float, lr: float, scale: float, s: int) -> Fitted:
        transforms = [fastopt.transforms.noise(eta, gamma, seed=s)] if eta else []
        return fit(net, digits(s), lambda p: fastopt.SGD(p, lr=lr, transforms=transforms), s, epochs, scale=scale)

    rows, error = [], {}
    for start, scale in starts.items():
        for noisy in (False, True):
            pairs = [(eta, lr) for eta in (etas if noisy else (0.0,)) for lr in grid]
            (eta, lr), _ = chosen(pairs, lambda x, s, scale=scale: run(*x, scale, s).val_error, study.tuning(2))
            runs = [run(eta, lr, scale, s) for s in seeds]
            error[start, noisy] = [r.error for r in runs]
            rows.append(
                (
                    start,
                    f"{eta:g}" if noisy else "none",
                    f"{lr:g}",
                    spread([r.loss for r in runs]),
                    spread(error[start, noisy]),
                )
            )
    return Result(
        f"""Network with {depth} hidden layers of 32 (ReLU) on 1000 digits, SGD, batches of 32, {epochs} epochs.
        Noise of variance eta / (1 + t)^{gamma} on the gradient; eta ({", ".join(f"{e:g}" for e in etas)}) and
        rate ({grid[0]:g} to {grid[-1]:g}) with the least validation error on {len(study.tuning(2))} other splits.
        {len(seeds)} seeds.""",
        ("first weights", "eta", "rate", "training loss", "test error, %"),
        rows,
        [
            Check(
                f"first weights {start}: the test error is clearly lower with noise",
                below(error[start, True], error[start, False]),
                wins(error[start, True], error[start, False]),
            )
            for start in starts
        ],
    )


class Levels:
    """Digits with pixel noise of five levels, which are their difficulty."""

    deviations = (0.0, 0.2, 0.4, 0.6, 0.8)

    def __init__(self, seed: int) -> None:
        clean, rng = digits(seed), np.random.default_rng([seed, 6])

        def noisy(X: Array) -> tuple[Array, Array]:
            level = rng.integers(len(self.deviations), size=len(X))
            deviation = 2 * np.array(self.deviations, np.float32)[level]  # the pixels are in units of half of white
            return X + deviation[:, None] * rng.standard_normal(X.shape, np.float32), level

        X, self.level = noisy(clean.X)
        self.split = clean._replace(X=X, X_val=noisy(clean.X_val)[0], X_test=noisy(clean.X_test)[0])


@claim(
    "A mixed curriculum beats one sorted by difficulty",
    """Showing easy samples first can help. Where difficulties follow each other in order it works worse than a
    mix of sorted and random difficulties.""",
    f"{OVERVIEW}, 6.1",
    STRATEGIES,
)
def mixed_curriculum(study: Study) -> Result:
    epochs, seeds = study.much(20, 5), study.seeds(20)
    steady = Pace("linear", 1 / len(Levels.deviations), epochs)
    ways: dict[str, Any] = {
        "shuffled": lambda level, s: "shuffled",
        "sorted: one level after the other": lambda level, s: Curriculum(level, "combined", steady, mix=0.0, seed=s),
        "sorted within every epoch": lambda level, s: Curriculum(level, "sorted", seed=s),
        "mixed": lambda level, s: Curriculum(level, "mixed", seed=s),
        "combined": lambda level, s: Curriculum(level, "combined", steady, seed=s),
        "paced: ever more of the samples": lambda level, s: Curriculum(
            level, "paced", Pace("linear", 0.2, epochs // 2), seed=s
        ),
    }
    grid, rows, error, test = rates(-2.5, -0.5), [], {}, {}
    for name, order in ways.items():

        def run(lr: float, s: int, order: Any = order) -> Fitted:
            data = Levels(s)
            return fit(Network(), data.split, lambda p: fastopt.SGD(p, lr=lr), s, epochs, order=order(data.level, s))

        lr, _ = chosen(grid, lambda lr, s, run=run: run(lr, s).val, study.tuning(4))
        runs = [run(lr, s) for s in seeds]
        error[name], test[name] = [r.error for r in runs], [r.test for r in runs]
        rows.append((name, f"{lr:g}{at_edge(grid, lr)}", spread(test[name]), spread(error[name])))
    shuffled, after, within, mixed, combined, paced = (test[name] for name in ways)
    return Result(
        f"""Network 64-32-10 on 1000 digits, each with pixel noise of
        {", ".join(f"{d:g}" for d in Levels.deviations)}, drawn at random: its difficulty. Test samples are of all
        levels, too. SGD, batches of 32, {epochs} epochs; combined: half of the samples from the level reached,
        half from all. Rates: least validation loss on {len(study.tuning(4))} other splits. {len(seeds)} seeds.""",
        ("order", "rate", "test loss", "test error, %"),
        rows,
        [
            Check(
                "mixed: the test loss is clearly below that of one level after the other",
                below(mixed, after),
                wins(mixed, after),
            ),
            Check(
                "combined: clearly below that of one level after the other",
                below(combined, after),
                wins(combined, after),
            ),
            Check("mixed: clearly below that of sorting within every epoch", below(mixed, within), wins(mixed, within)),
            Check("paced: clearly below that of shuffled samples", below(paced, shuffled), wins(paced, shuffled)),
        ],
    )


@claim(
    "Samples should be shuffled after every epoch",
    "Samples in a meaningful order, such as by class, bias the descent; it is usual to shuffle them after every epoch.",
    f"{OVERVIEW}, 6.1",
    STRATEGIES,
)
def shuffling(study: Study) -> Result:
    epochs, seeds, grid = study.much(20, 3), study.seeds(10), rates(-2, 0.5)
    rows, loss, error = [], {}, {}
    for way in ("by class, fixed", "random, fixed", "shuffled every epoch"):

        def run(lr: float, s: int, way: str = way) -> Fitted:
            split = digits(s, noise=0.3)
            if way.startswith("by class"):
                order = np.argsort(split.y, kind="stable")
                split = split._replace(X=split.X[order], y=split.y[order])
            how = "shuffled" if way.startswith("shuffled") else "sequential"
            return fit(Network(), split, lambda p: fastopt.SGD(p, lr=lr), s, epochs, order=how)

        lr, _ = chosen(grid, lambda lr, s, run=run: run(lr, s).loss, study.tuning(2))
        runs = [run(lr, s) for s in seeds]
        loss[way], error[way] = [r.loss for r in runs], [r.error for r in runs]
        rows.append((way, f"{lr:g}{at_edge(grid, lr)}", spread(loss[way]), spread(error[way])))
    by_class, fixed, shuffled = loss.values()
    return Result(
        f"""Network 64-32-10 on 1000 digits with noise of 0.3, SGD, batches of 32, {epochs} epochs; the rate with
        the least training loss on 2 other splits, in half decades. {len(seeds)} seeds.""",
        ("order", "rate", "training loss", "test error, %"),
        rows,
        [
            Check(
                "the training loss is clearly lower shuffled than by class",
                below(shuffled, by_class),
                wins(shuffled, by_class),
            ),
            Check(
                "the test error is clearly lower shuffled than by class",
                below(error["shuffled every epoch"], error["by class, fixed"]),
            ),
            Check(
                "the training loss is clearly lower shuffled every epoch than in one random order",
                below(shuffled, fixed),
                wins(shuffled, fixed),
            ),
        ],
    )


@claim(
    "Early stopping is a free lunch",
    "Stopping when the loss on validation samples has not improved for a while costs nothing "
    "and saves time and generalization.",
    f"{OVERVIEW}, 6.3",
    STRATEGIES,
)
def early_stopping(study: Study) -> Result:
    epochs, seeds, patience = study.much(200, 30), study.seeds(10), 10
    rows, checks = [], []
    for title, data in (("true labels", {"noise": 0.3}), ("20 % of the labels random", {"noise": 0.3, "wrong": 0.2})):
        full, stopped = [], []
        for s in seeds:
            for kept, stopping in ((full, None), (stopped, EarlyStopping(patience, monitor="val"))):
                net, split = Network((64, 128, CLASSES)), digits(s, train=500, **data)
                kept.append(
                    fit(
                        net,
                        split,
                        lambda p: fastopt.Adam(p, lr=1e-3),
                        s,
                        epochs,
                        early_stopping=stopping,
                        validation=lambda p, net=net, split=split: {"val": net.loss(p, split.X_val, split.y_val)},
                    )
                )
        used = [len(r.history.epochs) for r in stopped]
        for name, runs in ((f"{epochs} epochs", full), ("early stopping", stopped)):
            rows.append(
                (
                    title,
                    name,
                    spread([len(r.history.epochs) for r in runs], ".0f"),
                    spread([r.test for r in runs]),
                    spread([r.error for r in runs]),
                )
            )
        a, b = ([r.test for r in runs] for runs in (stopped, full))
        c, d = ([r.error for r in runs] for runs in (stopped, full))
        checks += [
            Check(f"{title}: the test loss is clearly lower", below(a, b), wins(a, b)),
            Check(f"{title}: the test error is not clearly higher", not below(d, c), f"lower in {wins(c, d)}"),
            Check(
                f"{title}: it takes less than half of the epochs", np.mean(used) < epochs / 2, f"{np.mean(used):.0f}"
            ),
        ]
    return Result(
        f"""Network 64-128-10 on 500 digits with noise of 0.3, Adam with rate 0.001, batches of 32, {epochs}
        epochs, or until the loss on 297 validation samples has not improved for more than {patience} epochs; the
        weights are then those of the best epoch. {len(seeds)} seeds.""",
        ("labels", "", "epochs", "test loss", "test error, %"),
        rows,
        checks,
    )
