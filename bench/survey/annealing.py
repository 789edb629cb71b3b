"""Falling rates, warm restarts, growing batches, averages of weights."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastopt
from fastopt.schedules import SGDR, BatchSizeSchedule, Cosine, Exponential, InverseTime, MultiStep, Polynomial
from fastopt.strategies import ResetState

from .harness import (
    ANNEALING,
    HIGHLIGHTS,
    OVERVIEW,
    Check,
    Result,
    Study,
    at_edge,
    below,
    chosen,
    claim,
    same,
    spread,
    wins,
)
from .networks import CLASSES, Network, copied, digits
from .training import Each, Fitted, fit, rates

NOISE = 0.3  # on the pixels, so that there is something to get wrong


def sgd(lr: Any, momentum: float = 0.9, **more: Any) -> Any:
    return lambda params: fastopt.SGD(params, lr=lr, momentum=momentum, **more)


def adam(lr: Any) -> Any:
    return lambda params: fastopt.Adam(params, lr=lr)


@claim(
    "Annealing the rate beats a constant one",
    "Schedules lower the rate during training, by a rule or between epochs, so that it ends nearer a minimum.",
    f"{OVERVIEW}, 3",
    ANNEALING,
)
def annealed_rates(study: Study) -> Result:
    epochs, seeds, grid = study.much(20, 4), study.seeds(10), rates(-2, 0.5)
    steps = epochs * 63
    shapes = {
        "constant": lambda lr: lr,
        "step, a fifth after 1/2 and 3/4": lambda lr: MultiStep(lr, [steps // 2, 3 * steps // 4], 0.2),
        "exponential, to 1 %": lambda lr: Exponential(lr, 0.01, steps),
        "inverse time, to 1/21": lambda lr: InverseTime(lr, 20.0, steps),
        "linear, to 0": lambda lr: Polynomial(lr, steps),
        "cosine, to 0": lambda lr: Cosine(lr, steps),
    }
    tasks = {
        "can": (Network((64, 16, CLASSES)), {"noise": 0.4}),
        "cannot": (Network((64, 8, CLASSES)), {"noise": 0.4, "wrong": 0.3}),
    }
    rows, loss, test = [], {}, {}
    for task, (net, data) in tasks.items():

        def run(lr: Any, seed: int, net: Network = net, data: Any = data) -> Fitted:
            return fit(net, digits(seed, **data), lambda p: fastopt.SGD(p, lr=lr), seed, epochs, 16)

        for name, shape in shapes.items():
            lr, _ = chosen(grid, lambda lr, s, shape=shape, run=run: run(shape(lr), s).loss, study.tuning(3))
            runs = [run(shape(lr), s) for s in seeds]
            loss[task, name], test[task, name] = [r.loss for r in runs], [r.test for r in runs]
            rows.append((task, name, f"{lr:g}{at_edge(grid, lr)}", spread(loss[task, name]), spread(test[task, name])))
    falling = [name for name in shapes if name != "constant"]

    def better(found: dict[Any, Any], task: str) -> list[str]:
        return [name.partition(",")[0] for name in falling if below(found[task, name], found[task, "constant"])]

    return Result(
        f"""1000 digits with Gaussian noise of 0.4 on the pixels (white is 1), SGD, batches of 16, {epochs}
        epochs. Network 64-16-10, which can fit every sample; and 64-8-10 with 30 % of the labels drawn at random,
        which cannot. For each schedule the rate with the least training loss on {len(study.tuning(3))} other
        splits, {grid[0]:g} to {grid[-1]:g}. {len(seeds)} seeds.""",
        ("fit every sample", "schedule", "rate", "training loss", "test loss"),
        rows,
        [
            Check(
                "where the network can fit every sample, the training loss is clearly below the constant "
                "rate's with all five",
                len(better(loss, "can")) == 5,
                f"with {len(better(loss, 'can'))}",
            ),
            Check("where it cannot, too", len(better(loss, "cannot")) == 5, f"with {len(better(loss, 'cannot'))}"),
        ],
        [
            f"The test loss is clearly below the constant rate's with {len(better(test, 'can'))} and "
            f"{len(better(test, 'cannot'))} of the five."
        ],
    )


@claim(
    "Warm restarts take fewer epochs",
    "SGD with warm restarts (SGDR) is about as good as SGD with a step schedule in a half to a quarter of the epochs.",
    HIGHLIGHTS,
    ANNEALING,
)
def warm_restarts(study: Study) -> Result:
    epochs, seeds, grid, first = 60, study.seeds(10), rates(-2.5, 0), 4
    each = 32  # steps of an epoch
    ends = [4, 12, 28, 60]

    def errors(kind: str, lr: float, s: int) -> np.ndarray:
        split, net = digits(s, noise=NOISE), Network((64, 64, CLASSES))
        look = Each(lambda p: 100 - net.accuracy(p, split.X_test, split.y_test))
        val = Each(lambda p: 100 - net.accuracy(p, split.X_val, split.y_val))
        if kind == "step":
            schedule: Any = MultiStep(lr, [int(epochs * x) * each for x in (0.3, 0.6, 0.8)], 0.2)
        else:
            schedule = SGDR(lr, first * each, 2)
        fit(net, split, sgd(schedule, nesterov=True, weight_decay=5e-4), s, epochs, callbacks=[look, val])
        return np.array([look.seen, val.seen])

    picked = {k: chosen(grid, lambda lr, s, k=k: errors(k, lr, s)[1, -1], study.tuning(6))[0] for k in ("step", "SGDR")}
    found = {k: np.array([errors(k, picked[k], s)[0] for s in seeds]) for k in picked}
    with study.picture("test error by epoch") as ax:
        for kind, curve in found.items():
            ax.plot(range(1, epochs + 1), curve.mean(axis=0), label=kind)
        ax.set(xlabel="epoch", ylabel=f"test error, %, mean of {len(seeds)} seeds")
        ax.legend()
    last = found["step"][:, -1]
    soon = [e for e in ends if found["SGDR"][:, e - 1].mean() <= last.mean() + 0.3]
    return Result(
        f"""Network 64-64-10 on 1000 digits with noise of {NOISE}, SGD with Nesterov momentum 0.9, weight decay
        5e-4, batches of 32. Step schedule: {epochs} epochs, a fifth of the rate after 30, 60 and 80 %. SGDR:
        first period {first} epochs, each twice as long as the last. Rates: least validation error after {epochs}
        epochs on {len(study.tuning(6))} other splits. {len(seeds)} seeds.""",
        ("", "rate", *(f"test error, %, after {e}" for e in ends)),
        [(k, f"{picked[k]:g}{at_edge(grid, picked[k])}", *(spread(found[k][:, e - 1]) for e in ends)) for k in found],
        [
            Check(
                "at the end of a period after half of the epochs or fewer, SGDR's mean error is within "
                "0.3 points of the step schedule's last",
                bool(soon) and soon[0] <= epochs / 2,
                f"after {soon[0]}" if soon else "never",
            ),
            Check(
                "after 12 epochs SGDR's error is clearly below the step schedule's",
                below(found["SGDR"][:, 11], found["step"][:, 11]),
            ),
            Check(
                "after 60 epochs SGDR's error is not clearly above the step schedule's",
                not below(last, found["SGDR"][:, -1]),
            ),
        ],
        pictures=study.pictures,
    )


@claim(
    "Annealed SGD with tuned momentum holds its own against Adam",
    "Well tuned, SGD with momentum and a falling rate finds as good a minimum as Adam, or a better one.",
    f"{OVERVIEW}, 4.10, and {HIGHLIGHTS}",
    ANNEALING,
)
def annealed_sgd_against_adam(study: Study) -> Result:
    epochs, seeds = study.much(20, 3), study.seeds(20)
    steps, momenta = epochs * 32, (0.0, 0.5, 0.9, 0.95, 0.98, 0.99)
    ways = {
        "SGD, constant": ([(lr, 0.0) for lr in rates(-1.5, 0.5)], lambda x: sgd(x[0], 0.0)),
        "SGD, momentum tuned, cosine": (
            [(lr, mu) for lr in rates(-2.5, 0) for mu in momenta],
            lambda x: sgd(Cosine(x[0], steps), x[1]),
        ),
        "Adam, constant": ([(lr, 0.0) for lr in rates(-4, -1)], lambda x: adam(x[0])),
        "Adam, cosine": ([(lr, 0.0) for lr in rates(-4, -1)], lambda x: adam(Cosine(x[0], steps))),
    }
    rows, error, test = [], {}, {}
    for name, (grid, make) in ways.items():

        def run(x: Any, s: int, make: Any = make) -> Fitted:
            return fit(Network(), digits(s, noise=NOISE), make(x), s, epochs)

        best, _ = chosen(grid, lambda x, s, run=run: run(x, s).val, study.tuning(4))
        runs = [run(best, s) for s in seeds]
        error[name], test[name] = [r.error for r in runs], [r.test for r in runs]
        rows.append(
            (
                name,
                f"{best[0]:g}",
                f"{best[1]:g}" if "tuned" in name else "",
                spread([r.loss for r in runs]),
                spread(test[name]),
                spread(error[name]),
            )
        )
    ours, theirs, annealed = "SGD, momentum tuned, cosine", "Adam, constant", "Adam, cosine"
    return Result(
        f"""Network 64-32-10 on 1000 digits with noise of {NOISE}, batches of 32, {epochs} epochs; rate (half
        decades) and momentum ({", ".join(f"{mu:g}" for mu in momenta)}) with the least validation loss on {len(study.tuning(4))} other
        splits. {len(seeds)} seeds.""",
        ("", "rate", "momentum", "training loss", "test loss", "test error, %"),
        rows,
        [
            Check(
                "annealed SGD's test error is not clearly above Adam's",
                not below(error[theirs], error[ours]),
                f"below it in {wins(error[ours], error[theirs])}",
            ),
            Check(
                "annealed SGD's test loss is not clearly above Adam's",
                not below(test[theirs], test[ours]),
                f"below it in {wins(test[ours], test[theirs])}",
            ),
            Check("annealed SGD's test error is clearly below Adam's", below(error[ours], error[theirs])),
            *(
                Check(
                    f"with Adam annealed, too, SGD's test {what} is not clearly above",
                    not below(found[annealed], found[ours]),
                    f"below it in {wins(found[ours], found[annealed])}",
                )
                for what, found in (("error", error), ("loss", test))
            ),
        ],
    )


@claim(
    "Adam profits from annealing and restarts",
    "Adam whose rate is halved twice, its state reset each time, is faster and better than "
    "SGD with annealing, and than Adam left alone.",
    HIGHLIGHTS,
    ANNEALING,
)
def adam_with_restarts(study: Study) -> Result:
    epochs, seeds = study.much(18, 3), study.seeds(20)
    at = [epochs // 3 * 32, 2 * (epochs // 3) * 32]
    ways: dict[str, tuple[Any, Any, list[Any]]] = {
        "SGD, halved twice": (rates(-1.5, 0.5), lambda lr: sgd(MultiStep(lr, at, 0.5), 0.0), []),
        "Adam, constant": (rates(-4, -1), adam, []),
        "Adam, halved twice": (rates(-4, -1), lambda lr: adam(MultiStep(lr, at, 0.5)), []),
        "Adam, halved twice, state reset": (rates(-4, -1), lambda lr: adam(MultiStep(lr, at, 0.5)), [ResetState(at)]),
        "Adam, SGDR": (rates(-4, -1), lambda lr: adam(SGDR(lr, at[0])), [ResetState(at)]),
    }
    rows, test, soon = [], {}, {}
    for name, (grid, make, callbacks) in ways.items():

        def run(lr: float, s: int, make: Any = make, callbacks: Any = callbacks) -> Fitted:
            net, split = Network(), digits(s, noise=NOISE)
            look = {"validation": lambda p: {"test": net.loss(p, split.X_test, split.y_test)}}
            return fit(net, split, make(lr), s, epochs, callbacks=callbacks, **look)

        lr, _ = chosen(grid, lambda lr, s, run=run: run(lr, s).val, study.tuning(4))
        runs = [run(lr, s) for s in seeds]
        test[name] = [r.test for r in runs]
        curves = [[epoch["test"] for epoch in r.history.epochs] for r in runs]
        # the first epoch that ends as low as SGD does at last
        soon[name] = [
            next((i for i, loss in enumerate(curve, 1) if loss <= last), epochs + 1)
            for curve, last in zip(curves, test["SGD, halved twice"], strict=True)
        ]
        rows.append(
            (
                name,
                f"{lr:g}{at_edge(grid, lr)}",
                spread([r.loss for r in runs]),
                spread(test[name]),
                spread([r.error for r in runs]),
            )
        )
    ours, early = (found["Adam, halved twice, state reset"] for found in (test, soon))
    return Result(
        f"""Network 64-32-10 on 1000 digits with noise of {NOISE}, batches of 32, {epochs} epochs; halved after a
        third and two thirds. SGDR: a cosine for each third, the state reset. Rates: least validation loss on
        {len(study.tuning(4))} other splits, in half decades. {len(seeds)} seeds.""",
        ("", "rate", "training loss", "test loss", "test error, %"),
        rows,
        [
            Check(
                "with restarts the test loss is clearly below constant Adam's",
                below(ours, test["Adam, constant"]),
                wins(ours, test["Adam, constant"]),
            ),
            Check(
                "clearly below that of SGD, halved twice",
                below(ours, test["SGD, halved twice"]),
                wins(ours, test["SGD, halved twice"]),
            ),
            Check(
                "clearly below that without the resets",
                below(ours, test["Adam, halved twice"]),
                wins(ours, test["Adam, halved twice"]),
            ),
            Check(
                "it first has the test loss that SGD ends with after clearly fewer epochs than SGD",
                below(early, soon["SGD, halved twice"]),
                f"median {np.median(early):g} and {np.median(soon['SGD, halved twice']):g}; never for "
                f"{sum(epoch > epochs for epoch in early)} of {len(seeds)} seeds",
            ),
        ],
    )


@claim(
    "Growing the batch does what lowering the rate does",
    "A batch that grows where the rate would fall gives the same learning curve with fewer updates.",
    HIGHLIGHTS,
    ANNEALING,
)
def batch_growth(study: Study) -> Result:
    seeds, small, third = study.seeds(10), 16, study.much(20, 2)
    epochs = 3 * third
    each = [-(-1000 // size) for size in (small, 5 * small, 25 * small)]  # steps of an epoch
    grid = rates(-3, -1)

    def run(way: str, lr: float, s: int) -> Fitted:
        batch: Any = small
        rate: Any = lr
        if way == "the rate falls":
            rate = MultiStep(lr, [third * each[0], 2 * third * each[0]], 0.2)
        elif way == "the batch grows":
            batch = BatchSizeSchedule(MultiStep(lr, [third * each[0], third * (each[0] + each[1])], 0.2), small)
        split = digits(s, noise=NOISE)
        return fit(Network(), split, sgd(rate), s, epochs, batch)

    lr, _ = chosen(grid, lambda lr, s: run("the rate falls", lr, s).loss, study.tuning(2))
    found = {way: [run(way, lr, s) for s in seeds] for way in ("the rate falls", "the batch grows", "neither")}
    curves = {way: np.array([[e["loss"] for e in r.history.epochs] for r in runs]) for way, runs in found.items()}
    with study.picture("training loss by epoch") as ax:
        for (way, curve), style in zip(curves.items(), ("-", "--", ":"), strict=True):
            ax.plot(range(1, epochs + 1), curve.mean(axis=0), style, label=way)
        ax.set(xlabel="epoch", ylabel="training loss of the epoch", yscale="log")
        ax.legend()
    falls, grows, neither = (np.log(curves[way]) for way in found)
    apart, other = float(np.abs(falls - grows).mean()), float(np.abs(falls - neither).mean())
    test = {way: [r.test for r in runs] for way, runs in found.items()}
    updates = {way: runs[0].history.steps for way, runs in found.items()}
    return Result(
        f"""Network 64-32-10 on 1000 digits with noise of {NOISE}, SGD with momentum 0.9, rate
        {lr:g}{at_edge(grid, lr)}, {epochs} epochs. Batches of {small}, the rate a fifth after each third; or
        batches of {small}, {5 * small}, {25 * small} at the first rate; or neither. Rate: least training loss
        where it falls, 2 other splits. {len(seeds)} seeds.""",
        ("", "updates", "training loss", "test loss", "test error, %"),
        [
            (way, updates[way], spread([r.loss for r in runs]), spread(test[way]), spread([r.error for r in runs]))
            for way, runs in found.items()
        ],
        [
            Check(
                "the learning curves are nearer to each other than a quarter of their distance from that "
                "of a constant rate",
                apart < other / 4,
                f"mean distance of the logarithms {apart:.3f} and {other:.3f}",
            ),
            Check(
                "the test losses are within 5 %, or not clearly different",
                same(test["the batch grows"], test["the rate falls"], 0.05 * float(np.mean(test["the rate falls"]))),
            ),
            Check("it takes less than half of the updates", updates["the batch grows"] < updates["the rate falls"] / 2),
        ],
        pictures=study.pictures,
    )


@claim(
    "Snapshots of one training make a good ensemble",
    "The networks at the ends of the cycles of one training with warm restarts, averaged, "
    "are better than one trained for as long.",
    HIGHLIGHTS,
    ANNEALING,
)
def snapshot_ensembles(study: Study) -> Result:
    seeds, cycles, each = study.seeds(20), 5, study.much(8, 1)
    period, grid = each * 32, rates(-2.5, 0)

    def run(schedule: Any, s: int) -> tuple[Fitted, list[Any]]:
        net = Network()
        keep = Each(copied)
        return fit(net, digits(s, noise=NOISE), sgd(schedule), s, cycles * each, callbacks=[keep]), keep.seen[
            each - 1 :: each
        ]

    def mean_error(fitted: Fitted, kept: list[Any], X: Any, y: Any) -> float:
        total = 0.0
        for params in kept:
            z = fitted.net.scores(params, X)
            e = np.exp(z - z.max(axis=1, keepdims=True))
            total = total + e / e.sum(axis=1, keepdims=True)
        return 100 * float((np.argmax(total, axis=1) != y).mean())

    once, _ = chosen(grid, lambda lr, s: run(Cosine(lr, cycles * period), s)[0].val_error, study.tuning(4))

    def held_back(lr: float, s: int) -> float:
        fitted, kept = run(SGDR(lr, period), s)
        return mean_error(fitted, kept, fitted.split.X_val, fitted.split.y_val)

    again, _ = chosen(grid, held_back, study.tuning(4))
    single = [run(Cosine(once, cycles * period), s)[0].error for s in seeds]
    snapshots = [run(SGDR(again, period), s) for s in seeds]
    last = [f.error for f, _ in snapshots]
    ensemble = [mean_error(f, kept, f.split.X_test, f.split.y_test) for f, kept in snapshots]
    return Result(
        f"""Network 64-32-10 on 1000 digits with noise of {NOISE}, SGD with momentum 0.9, batches of 32,
        {cycles * each} epochs. One cosine; or {cycles} cycles, at whose ends the weights are kept. Rates: least
        validation error, of the ensemble for the cycles, on {len(study.tuning(4))} other splits. {len(seeds)}
        seeds.""",
        ("", "rate", "test error, %"),
        [
            ("one cosine", f"{once:g}", spread(single)),
            (f"{cycles} cycles, the last weights", f"{again:g}", spread(last)),
            (f"{cycles} cycles, mean of the {cycles} networks' probabilities", f"{again:g}", spread(ensemble)),
        ],
        [
            Check(
                "the ensemble's error is clearly below that of one cosine",
                below(ensemble, single),
                wins(ensemble, single),
            ),
            Check("and clearly below that of its last member", below(ensemble, last), wins(ensemble, last)),
        ],
    )


@claim(
    "The average of the weights is better than the last weights",
    "At a constant rate the weights go on to wander about the minimum; their average lies nearer to it.",
    "Polyak and Juditsky 1992; not in the surveys",
    ANNEALING,
)
def averaged_weights(study: Study) -> Result:
    epochs, seeds, grid = study.much(20, 4), study.seeds(10), rates(-2, 0.5)
    steps = epochs * 63
    net, data = Network((64, 8, CLASSES)), {"noise": 0.4, "wrong": 0.3}
    kinds = {
        "the last weights": None,
        "EMA, decay 0.99": fastopt.transforms.ema(0.99),
        "mean of the second half": fastopt.transforms.swa(start=steps // 2),
    }

    def run(kind: str, lr: float, s: int) -> Fitted:
        transforms = [] if kinds[kind] is None else [kinds[kind]]
        found = fit(net, digits(s, **data), lambda p: fastopt.SGD(p, lr=lr, transforms=transforms), s, epochs, 16)
        if transforms:
            found.params = {name: found.optimizer.averaged(name) for name in found.params}
        return found

    lr, _ = chosen(grid, lambda lr, s: run("the last weights", lr, s).loss, study.tuning(3))
    rows, loss, test = [], {}, {}
    for rate in (lr, 10**0.5 * lr):
        for kind in kinds:
            runs = [run(kind, rate, s) for s in seeds]
            loss[kind, rate], test[kind, rate] = [r.loss for r in runs], [r.test for r in runs]
            rows.append((kind, f"{rate:.3g}", spread(loss[kind, rate]), spread(test[kind, rate])))
    last, *means = kinds
    return Result(
        f"""Network 64-8-10 on 1000 digits with noise of 0.4 and 30 % of the labels drawn at random, SGD at a
        constant rate, batches of 16, {epochs} epochs. The rate that gives the last weights the least training
        loss on {len(study.tuning(3))} other splits{at_edge(grid, lr)}, and 3.16 times it. {len(seeds)} seeds.""",
        ("", "rate", "training loss", "test loss"),
        rows,
        [
            Check(
                f"rate {rate:.3g}, {kind}: {what} loss clearly below that of the last weights",
                below(found[kind, rate], found[last, rate]),
            )
            for rate in (lr, 10**0.5 * lr)
            for kind in means
            for what, found in (("training", loss), ("test", test))
        ],
    )
