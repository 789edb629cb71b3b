"""Methods with a rate for each parameter: Adagrad, Adadelta, RMSprop, Adam and its variants."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy import sparse
from scipy.special import expit

import fastopt
from fastopt.models import LinearClassifier
from fastopt.strategies import Callback

from .harness import (
    ADAPTIVE,
    HIGHLIGHTS,
    OVERVIEW,
    PARALLEL,
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
from .networks import Array, Network, digits
from .training import Fitted, Make, finite, fit, rates, train

TUNED: dict[str, tuple[Callable[[Any, float], Any], list[float]]] = {
    "SGD": (lambda p, lr: fastopt.SGD(p, lr=lr), rates(-2, 0.5)),
    "momentum": (lambda p, lr: fastopt.SGD(p, lr=lr, momentum=0.9), rates(-3, -0.5)),
    "NAG": (lambda p, lr: fastopt.SGD(p, lr=lr, momentum=0.9, nesterov=True), rates(-3, -0.5)),
    "Adagrad": (lambda p, lr: fastopt.Adagrad(p, lr=lr), rates(-2.5, 1)),
    "Adadelta": (lambda p, lr: fastopt.Adadelta(p, lr=lr), rates(-1, 2)),
    "RMSprop": (lambda p, lr: fastopt.RMSprop(p, lr=lr, alpha=0.9), rates(-4, -1.5)),
    "Adam": (lambda p, lr: fastopt.Adam(p, lr=lr), rates(-4, -1)),
    "AdaMax": (lambda p, lr: fastopt.Adamax(p, lr=lr), rates(-3, 0)),
    "NAdam": (lambda p, lr: fastopt.NAdam(p, lr=lr), rates(-4, -1)),
}


def made(name: str, lr: float) -> Make:
    return lambda params: TUNED[name][0](params, lr)


# ------------------------------------------------------------------------------------------------------ sparse features


class Text:
    """Made-up documents: words drawn by Zipf's law, each with a weight; the label follows the sum of the weights."""

    words, length, samples, held = 10_000, 20, 20_000, 4000

    def __init__(self, seed: int, quick: bool = False) -> None:
        rng = np.random.default_rng([seed, 4])
        train = self.samples // (8 if quick else 1)
        n = train + self.held
        chance = 1 / np.arange(1, self.words + 1)
        drawn = rng.choice(self.words, (n, self.length), p=chance / chance.sum())
        weights = rng.standard_normal(self.words)
        X = sparse.csr_matrix(
            (np.ones(drawn.size, np.float32), drawn.ravel(), np.arange(0, drawn.size + 1, self.length)), (n, self.words)
        )
        X.sum_duplicates()
        y = (rng.random(n) < expit(2 * (X @ weights) / math.sqrt(self.length / 4))).astype(np.intp)
        self.X, self.y, self.X_held, self.y_held = X[:train], y[:train], X[train:], y[train:]
        seen = np.bincount(self.X.indices, minlength=self.words)
        rare = (seen >= 1) & (seen <= 10)  # words seen once to ten times
        self.n_rare = np.asarray(self.X_held @ rare.astype(np.float32)).ravel()

    def fit(self, name: str, lr: float, seed: int, **more: Any) -> Any:
        model = LinearClassifier(optimizer=name, lr=lr, epochs=5, random_state=seed, **more)
        try:
            return model.fit(self.X, self.y)
        except fastopt.NonFiniteError:
            return None

    def loss(self, model: Any, where: Any = slice(None)) -> float:
        """Log loss on held-out documents."""
        if model is None:
            return math.inf
        score = model.decision_function(self.X_held[where]).astype(np.float64)
        return finite(float(np.logaddexp(0, np.where(self.y_held[where] == 1, -score, score)).mean()))

    def judged(self, model: Any) -> tuple[float, float, float]:
        """Log loss; error, in %, and log loss, where rare words abound."""
        where = self.n_rare >= np.quantile(self.n_rare, 0.9)
        error = 100 * float((model.predict(self.X_held) != self.y_held)[where].mean())
        return self.loss(model), error, self.loss(model, where)


#: for the documents, where they are not those of Adam
TEXT_RATES = {**dict.fromkeys(("sgd", "adagrad", "ftrl"), rates(-3.5, 0.5)), "adadelta": rates(-1, 2)}


class Texts:
    """Documents to choose rates on, and others to judge by."""

    def __init__(self, study: Study, seeds: range) -> None:
        self.tuning = {s: Text(s, study.quick) for s in study.tuning(3)}
        self.data = {s: Text(s, study.quick) for s in seeds}

    def best(self, name: str) -> tuple[float, str, list[tuple[Text, Any]]]:
        """The best rate of an optimizer, a warning if the grid ends there, and each set of documents with the model so trained."""
        grid, tuning = TEXT_RATES.get(name, rates(-4.5, -1)), self.tuning
        lr, _ = chosen(grid, lambda lr, s: tuning[s].loss(tuning[s].fit(name, lr, s)), tuning)
        return lr, at_edge(grid, lr), [(text, text.fit(name, lr, s)) for s, text in self.data.items()]


@claim(
    "Sparse features need adaptive rates",
    """Features that occur rarely want larger updates than frequent ones, which a single rate cannot give. Adagrad
    and its successors suit sparse data.""",
    f"{OVERVIEW}, 3, 4.3 and 4.10",
    ADAPTIVE,
)
def sparse_features(study: Study) -> Result:
    seeds = study.seeds(10)
    names = ("sgd", "adagrad", "rmsprop", "adadelta", "adam", "ftrl")
    rows, found = [], {}
    texts = Texts(study, seeds)
    for name in names:
        lr, edge, models = texts.best(name)
        judged = np.array([text.judged(model) for text, model in models])
        found[name] = judged.T
        rows.append(
            (
                name,
                f"{lr:g}{edge}",
                *(spread(column, form) for column, form in zip(judged.T, (".4f", ".1f", ".4f"), strict=True)),
            )
        )
    return Result(
        f"""Logistic regression (`LinearClassifier`, 5 passes, sample by sample) on {Text.samples} made-up
        documents of {Text.length} words from a vocabulary of {Text.words}, drawn by Zipf's law; every word has a
        normal weight. Held out: {Text.held}. Rates: the best of a grid in half decades, on {len(texts.tuning)} other sets. Rare:
        seen 1 to 10 times in training; documents with many: the tenth with the most rare words. {len(seeds)}
        seeds.""",
        (
            "",
            "rate",
            "held-out log loss",
            "error, %, documents with many rare words",
            "log loss, documents with many rare words",
        ),
        rows,
        [
            Check(
                "Adagrad's loss is clearly below SGD's",
                below(found["adagrad"][0], found["sgd"][0]),
                wins(found["adagrad"][0], found["sgd"][0]),
            ),
            Check(
                "Adam's loss is clearly below SGD's",
                below(found["adam"][0], found["sgd"][0]),
                wins(found["adam"][0], found["sgd"][0]),
            ),
            Check(
                "Adagrad's error on documents with many rare words is clearly below SGD's",
                below(found["adagrad"][1], found["sgd"][1]),
            ),
            Check(
                "Adagrad's loss on documents with many rare words is clearly below SGD's",
                below(found["adagrad"][2], found["sgd"][2]),
                wins(found["adagrad"][2], found["sgd"][2]),
            ),
        ],
    )


@claim(
    "Hogwild loses nothing on sparse data",
    "Threads may update shared weights without locks: where data are sparse they rarely "
    "meet, and the result is about as good.",
    f"{OVERVIEW}, 5.1",
    PARALLEL,
)
def hogwild(study: Study) -> Result:
    seeds, lr = study.seeds(5), 0.1
    rows, found = [], {}
    data = {s: Text(s, study.quick) for s in seeds}
    for name in ("sgd", "adagrad"):
        rate = 0.03 if name == "sgd" else lr
        for mode, jobs in (("sequential", 1), ("hogwild", 2)):
            found[name, mode] = np.array(
                [data[s].loss(data[s].fit(name, rate, s, mode=mode, n_jobs=jobs)) for s in seeds]
            )
            rows.append((f"{name}, rate {rate:g}", mode, jobs, spread(found[name, mode], ".4f")))
    worse = {n: found[n, "hogwild"].mean() / found[n, "sequential"].mean() - 1 for n in ("sgd", "adagrad")}
    return Result(
        f"""The documents of "Sparse features need adaptive rates", 5 passes; one thread, and two that share the
        weights without locks. {len(seeds)} seeds. The figures of two threads differ a little from run to run.""",
        ("optimizer", "mode", "threads", "held-out log loss"),
        rows,
        [
            Check(f"{n}: the loss of two threads is at most 1 % above that of one", w <= 0.01, f"{w:+.2%}")
            for n, w in worse.items()
        ],
        ["Speed is measured in bench/RESULTS.md."],
    )


# ------------------------------------------------------------------------------------------------------------ Adagrad


class Sums(Callback):
    """Keeps the sums of squares of the first layer after each epoch."""

    def __init__(self) -> None:
        self.seen: list[Array] = []

    def on_epoch_end(self, history: Any, params: Any, optimizer: Any) -> None:
        self.seen.append(optimizer.state_dict()["state"]["w0"]["sum"])


@claim(
    "Adagrad's rate shrinks until it no longer learns",
    """The sum of squared gradients only grows, so that the rate becomes ever smaller until nothing more can be
    learned. Adadelta and RMSprop were made against this.""",
    f"{OVERVIEW}, 4.3 to 4.5",
    ADAPTIVE,
)
def adagrad_stops(study: Study) -> Result:
    before, after, seeds = study.much(40, 5), study.much(5, 2), study.seeds(10)
    tasks = {"true": (Network(), {}), "30 % random": (Network((64, 8, 10)), {"wrong": 0.3})}
    rows, checks, curves = [], [], {}
    for task, (net, data) in tasks.items():
        picked = {}
        for name in ("Adagrad", "Adadelta", "RMSprop"):
            picked[name], _ = chosen(
                TUNED[name][1],
                lambda lr, s, n=name, net=net, data=data: fit(net, digits(s, **data), made(n, lr), s, 10).val,
                study.tuning(4),
            )
        losses: dict[str, list[float]] = {}
        shrunk, falls = [], True
        for seed in seeds:
            split = digits(seed, **data)
            new = (split.y + 1) % 10  # the same digits under other names
            for name in ("Adagrad", "Adagrad, state reset", "Adadelta", "RMSprop"):
                plain = name.partition(",")[0]
                sums = Sums()
                run = fit(
                    net, split, made(plain, picked[plain]), seed, before, callbacks=[sums] if name == "Adagrad" else []
                )
                if name == "Adagrad":
                    seen = np.array(
                        [total[sums.seen[0] > 0] for total in sums.seen]
                    )  # of pixels that are not always black
                    shrunk.append(float(np.median(np.sqrt(seen[0] / seen[-1]))))
                    falls = falls and bool((np.diff(seen, axis=0) >= 0).all())
                if name != plain:
                    run.optimizer.reset_state()
                history = train(
                    net.loss_and_grad, run.params, (split.X, new), run.optimizer, epochs=after, seed=seed + 500
                )
                losses.setdefault(name, []).append(finite(net.loss(run.params, split.X, new)))
                if task == "true":
                    curves.setdefault(name, history.loss)
        rows += [(task, name, f"{picked[name.partition(',')[0]]:g}", spread(loss)) for name, loss in losses.items()]
        words = f"labels {task}"
        checks += [
            Check(
                f"{words}: Adagrad's effective rate never rises, and ends below half of what it was after "
                "the first epoch",
                falls and max(shrunk) < 0.5,
                f"{np.mean(shrunk):.2f} of it",
            ),
            Check(
                f"{words}: it learns the exchanged labels clearly more slowly than with its state reset",
                below(losses["Adagrad, state reset"], losses["Adagrad"]),
            ),
            Check(f"{words}: clearly more slowly than Adadelta", below(losses["Adadelta"], losses["Adagrad"])),
            Check(f"{words}: clearly more slowly than RMSprop", below(losses["RMSprop"], losses["Adagrad"])),
        ]
    with study.picture("loss after the labels were exchanged") as ax:
        for name, loss in curves.items():
            ax.plot(np.convolve(loss, np.ones(8) / 8, "valid"), label=name)
        ax.set(xlabel="update after the exchange", ylabel="loss, mean of 8 batches", yscale="log")
        ax.legend()
    return Result(
        f"""1000 digits, batches of 32, {before} epochs; then every label is replaced by the next digit, for
        {after} epochs. Network 64-32-10 with true labels, which it learns, so that the gradients vanish; and
        64-8-10 with 30 % of the labels drawn at random, where they do not. Rates: least validation loss after 10
        epochs on {len(study.tuning(4))} other splits. {len(seeds)} seeds. Effective rate: rate / root of the sum;
        median over the first layer. The picture: true labels, one seed.""",
        ("labels", "", "rate", f"training loss {after} epochs after the exchange"),
        rows,
        checks,
        [
            "With true labels the comparison with Adadelta and RMSprop says little about rates: they fit the old labels "
            "more firmly, as the picture shows at its left end, and have more to unlearn."
        ],
        pictures=study.pictures,
    )


@claim(
    "Adagrad without the square root is much worse",
    "Without the root over the sum of squares the algorithm performs much worse.",
    f"{OVERVIEW}, 4.3",
    ADAPTIVE,
)
def adagrad_without_root(study: Study) -> Result:
    epochs, seeds = study.much(20, 3), study.seeds(5)
    lrs, usual, larger = {0.5: rates(-3, 1), 1.0: rates(-6, 1)}, 1e-8, (1e-8, 1e-4, 1e-2, 1.0)
    rows, loss, error = [], {}, {}
    for power, grid in lrs.items():

        def run(x: tuple[float, float], s: int, power: float = power) -> Fitted:
            make = partial(fastopt.Adagrad, lr=x[0], power=power, eps=x[1])
            return fit(Network(), digits(s), make, s, epochs)

        for what, epses in (("usual", (usual,)), ("tuned", larger)):
            (lr, eps), _ = chosen(
                [(lr, eps) for lr in grid for eps in epses], lambda x, s, run=run: run(x, s).val, study.tuning(2)
            )
            runs = [run((lr, eps), s) for s in seeds]
            loss[what, power], error[what, power] = np.array([r.loss for r in runs]), [r.error for r in runs]
            rows.append(
                (
                    f"sum ^ {power:g}",
                    f"{eps:g}{' (tuned)' if what == 'tuned' else ''}",
                    f"{lr:g}{at_edge(grid, lr)}",
                    spread(loss[what, power]),
                    spread(error[what, power]),
                )
            )
    checks = []
    for what, words in (("usual", f"eps {usual:g}"), ("tuned", "eps tuned")):
        times = loss[what, 1.0].mean() / loss[what, 0.5].mean()
        checks += [
            Check(f"{words}: the training loss is at least 3 times as large", times >= 3, f"{times:.3g} times"),
            Check(f"{words}: the test error is clearly larger", below(error[what, 0.5], error[what, 1.0])),
        ]
    return Result(
        f"""Network 64-32-10 on 1000 digits, batches of 32, {epochs} epochs; the rate with the least validation
        loss on {len(study.tuning(2))} other splits, in half decades. The divisor is the sum of squares to a power,
        plus eps: {usual:g}, as is usual, or tuned with the rate ({", ".join(f"{eps:g}" for eps in larger)}).
        {len(seeds)} seeds.""",
        ("divided by", "eps", "rate", "training loss", "test error, %"),
        rows,
        checks,
        [
            "Without the root eps has the unit of a squared gradient, and 1e-8 is too small to keep the first steps "
            "short: small gradients g then make steps of 1 / g. What the root is needed for is done by a larger eps."
        ],
    )


@claim(
    "Adagrad and Adadelta need no tuned rate",
    "Adagrad's rate is left at 0.01 by most; Adadelta does not even need one to be set.",
    f"{OVERVIEW}, 4.3 and 4.4",
    ADAPTIVE,
)
def no_rate_to_tune(study: Study) -> Result:
    epochs, seeds = study.much(20, 3), study.seeds(5)
    names = {"SGD": 0.01, "Adagrad": 0.01, "Adadelta": 1.0, "RMSprop": 0.001, "Adam": 0.001}
    rows, width, error = [], {}, {}
    for name, usual in names.items():
        grid = sorted(usual * 10.0**k for k in np.arange(-2, 3.1, 0.5))
        error[name] = {
            lr: np.array([fit(Network(), digits(s), made(name, lr), s, epochs).error for s in seeds]) for lr in grid
        }
        least = min(e.mean() for e in error[name].values())
        good = [lr for lr in grid if error[name][lr].mean() <= least + 1]
        width[name] = math.log10(good[-1] / good[0])
        best = min(grid, key=lambda lr: error[name][lr].mean())
        rows.append(
            (
                name,
                f"{usual:g}",
                spread(error[name][usual]),
                f"{best:.2g}",
                spread(error[name][best]),
                f"{width[name]:.1f}",
            )
        )
        error[name] = {"usual": error[name][usual], "best": error[name][best]}
    with_rate = {n: error[n]["usual"].mean() - error[n]["best"].mean() for n in names}
    return Result(
        f"""Network 64-32-10 on 1000 digits, batches of 32, {epochs} epochs, rates from 1/100 to 1000 times the
        usual one, in half decades; {len(seeds)} seeds. The best rate is chosen on the same runs. Range: from the
        smallest to the largest rate whose test error is within one point of the best.""",
        ("", "usual rate", "test error, %", "best rate", "test error, %", "good range, decades"),
        rows,
        [
            Check(
                "Adagrad at 0.01 is within one point of its best",
                with_rate["Adagrad"] <= 1,
                f"{with_rate['Adagrad']:.1f} points",
            ),
            Check(
                "Adadelta at 1 is within one point of its best",
                with_rate["Adadelta"] <= 1,
                f"{with_rate['Adadelta']:.1f} points",
            ),
            Check("Adagrad's good range is wider than SGD's", width["Adagrad"] > width["SGD"]),
            Check("Adadelta's good range is wider than SGD's", width["Adadelta"] > width["SGD"]),
        ],
    )


# --------------------------------------------------------------------------------------------------------------- Adam


@claim(
    "Adam's moments are biased in the first steps, and the correction matters",
    """The averages start at 0 and stay too small for the first steps, the more so the slower they forget;
    dividing by what is missing corrects that.""",
    f"{OVERVIEW}, 4.6",
    ADAPTIVE,
)
def bias_correction(study: Study) -> Result:
    epochs, seeds, grid = study.much(10, 2), study.seeds(10), rates(-4.5, 1)
    x = np.zeros(1)
    optimizer, off = fastopt.Adam(x, lr=1e-3), 0.0
    for t in range(1, 101):
        optimizer.step(np.ones(1))
        state = optimizer.state_dict()["state"][0]
        off = max(
            off, abs(float(state["exp_avg"][0]) - (1 - 0.9**t)), abs(float(state["exp_avg_sq"][0]) - (1 - 0.999**t))
        )

    def uncorrected(lr: float, betas: tuple[float, float]) -> Callable[[Any], Any]:
        """A rate that takes both corrections back."""
        return lambda t: lr * (1 - betas[0] ** (t + 1)) / np.sqrt(1 - betas[1] ** (t + 1))

    rows, loss, usable = [], {}, {}
    for beta2 in (0.99, 0.999, 0.9999):
        betas = (0.9, beta2)
        for corrected in (True, False):

            def run(lr: float, s: int, betas: Any = betas, corrected: bool = corrected) -> Fitted:
                return fit(
                    Network(),
                    digits(s),
                    lambda p: fastopt.Adam(p, lr=lr if corrected else uncorrected(lr, betas), betas=betas),
                    s,
                    epochs,
                )

            lr, means = chosen(grid, lambda lr, s, run=run: run(lr, s).loss, study.tuning(2))
            runs = [run(lr, s) for s in seeds]
            loss[beta2, corrected] = np.array([r.loss for r in runs])
            usable[beta2, corrected] = max(r for r in grid if means[r] < 1)
            x = np.zeros(1)
            fastopt.Adam(x, lr=1.0 if corrected else uncorrected(1.0, betas), betas=betas).step(np.ones(1))
            rows.append(
                (
                    beta2,
                    "yes" if corrected else "no",
                    f"{-x[0]:.1f}",
                    f"{lr:g}{at_edge(grid, lr)}",
                    spread(loss[beta2, corrected]),
                    f"{usable[beta2, corrected]:g}",
                )
            )
    return Result(
        f"""First: gradients of 1, and what the moments hold. Then the network 64-32-10 on 1000 digits, batches of
        32, {epochs} epochs; the rate with the least training loss on 2 other splits, in half decades.
        {len(seeds)} seeds. Without correction: a rate that takes it back, step by step. Largest usable rate: mean
        loss below 1 on those splits.""",
        ("beta2", "corrected", "first step / rate", "rate", "training loss", "largest usable rate"),
        rows,
        [
            Check("after t gradients of 1 the moments are 1 - beta^t, not 1", off < 1e-12, f"to {off:.0e}"),
            Check(
                "beta2 = 0.9999: the loss without correction is clearly larger",
                below(loss[0.9999, True], loss[0.9999, False]),
            ),
            Check(
                "beta2 = 0.999: the loss without correction is clearly larger",
                below(loss[0.999, True], loss[0.999, False]),
            ),
            Check(
                "beta2 = 0.9999: it bears larger rates with correction", usable[0.9999, True] > usable[0.9999, False]
            ),
        ],
    )


@claim(
    "RMSprop, Adadelta and Adam do similarly well, Adam best",
    """RMSprop, Adadelta and Adam are similar and do well in similar circumstances. Adam slightly outperforms
    RMSprop towards the end, as gradients become sparser, and may be the best choice overall.""",
    f"{OVERVIEW}, 4.10",
    ADAPTIVE,
)
def which_to_use(study: Study) -> Result:
    epochs, seeds = study.much(30, 3), study.seeds(10)
    rows = []
    loss, error, test, text = ({} for _ in range(4))
    texts = Texts(study, seeds)

    def run(name: str, lr: float, s: int) -> Fitted:
        return fit(Network(), digits(s, noise=0.3), made(name, lr), s, epochs)

    for name, (_, grid) in TUNED.items():
        tried = {(lr, s): run(name, lr, s) for lr in grid for s in study.tuning(3)}
        low, _ = chosen(grid, lambda lr, s, tried=tried: tried[lr, s].loss, study.tuning(3))
        good, _ = chosen(grid, lambda lr, s, tried=tried: tried[lr, s].val, study.tuning(3))
        loss[name] = [run(name, low, s).loss for s in seeds]
        judged = [run(name, good, s) for s in seeds]
        test[name], error[name] = [r.test for r in judged], [r.error for r in judged]
        cell = ""
        if name not in ("momentum", "NAG"):
            best, _, models = texts.best(name.lower())
            text[name] = [one.loss(model) for one, model in models]
            cell = f"{spread(text[name], '.4f')} ({best:g})"
        rows.append(
            (
                name,
                f"{spread(loss[name])} ({low:g})",
                f"{spread(test[name])} ({good:g})",
                spread(error[name], ".1f"),
                cell,
            )
        )
    means = [np.mean(error[n]) for n in ("RMSprop", "Adadelta", "Adam")]
    return Result(
        f"""Network 64-32-10 on 1000 digits with noise of 0.3 on the pixels, batches of 32, {epochs} epochs. Rates
        in brackets: that with the least training loss for the training loss, that with the least validation loss
        for the test, on {len(study.tuning(3))} other splits, in half decades. And the documents of "Sparse
        features need adaptive rates", one by one (momentum has no place there). {len(seeds)} seeds.""",
        ("", "training loss", "test loss", "test error, %", "documents: held-out log loss"),
        rows,
        [
            Check(
                "the test errors of RMSprop, Adadelta and Adam are within two points",
                max(means) - min(means) <= 2,
                f"{min(means):.1f} to {max(means):.1f} %",
            ),
            Check(
                "Adam's training loss ends clearly below RMSprop's",
                below(loss["Adam"], loss["RMSprop"]),
                wins(loss["Adam"], loss["RMSprop"]),
            ),
            Check(
                "with sparse gradients (documents) Adam's loss is clearly below RMSprop's",
                below(text["Adam"], text["RMSprop"]),
                wins(text["Adam"], text["RMSprop"]),
            ),
            *(
                Check(
                    f"{where}: no other method's loss is clearly below Adam's",
                    not better,
                    ", ".join(better) or f"the least is that of {min(found, key=lambda n: np.mean(found[n]))}",
                )
                for where, found in (("digits, test", test), ("documents", text))
                for better in [[n for n in found if below(found[n], found["Adam"])]]
            ),
        ],
    )


@claim(
    "AMSGrad mends a case in which Adam does not converge; in practice it gains little",
    """Where rare, large gradients carry the information, Adam's average forgets them too soon and converges to
    the wrong place; AMSGrad, which keeps the maximum, does not. Others found its results similar to Adam's or
    worse.""",
    f"{OVERVIEW} (the post, 2018), and {HIGHLIGHTS}",
    ADAPTIVE,
)
def amsgrad(study: Study) -> Result:
    steps = study.much(100_000, 5000)
    ends = {}
    for ams in (False, True):
        x = np.zeros(1)
        opt = fastopt.Adam(x, lr=lambda t: 0.5 / math.sqrt(t + 1), betas=(0.9, 0.99), amsgrad=ams)
        big, small = np.array([1010.0]), np.array([-10.0])
        for t in range(steps):
            opt.step(big if t % 101 == 0 else small)
            np.clip(x, -1, 1, out=x)
        ends[ams] = float(x[0])
    grid, epochs, runs, picked = rates(-4, -1), study.much(20, 3), {}, {}
    for ams in (False, True):

        def run(lr: float, s: int, ams: bool = ams) -> Fitted:
            return fit(Network(), digits(s, noise=0.3), lambda p: fastopt.Adam(p, lr=lr, amsgrad=ams), s, epochs)

        picked[ams], _ = chosen(grid, lambda lr, s, run=run: run(lr, s).val, study.tuning(3))
        runs[ams] = [run(picked[ams], s) for s in study.seeds(10)]
    test = {ams: [r.test for r in runs[ams]] for ams in runs}
    return Result(
        f"""First: a gradient of 1010 in one step of 101 and of -10 in the others, x between -1 and 1, rate 0.5 /
        √t, betas 0.9 and 0.99, {steps} steps; the sum of all gradients is positive, so that -1 is right. Then the
        network 64-32-10 on 1000 digits with noise of 0.3, batches of 32, {epochs} epochs; the rate with the least
        validation loss on 3 other splits. {len(runs[True])} seeds.""",
        ("", "x at the end", "rate", "training loss", "test loss", "test error, %"),
        [
            (
                "AMSGrad" if ams else "Adam",
                f"{ends[ams]:.2f}",
                f"{picked[ams]:g}",
                spread([r.loss for r in runs[ams]]),
                spread(test[ams]),
                spread([r.error for r in runs[ams]]),
            )
            for ams in (False, True)
        ],
        [
            Check("Adam ends at the wrong side", ends[False] > 0.9, f"{ends[False]:.2f}"),
            Check("AMSGrad ends at the right side", ends[True] < -0.9, f"{ends[True]:.2f}"),
            Check(
                "digits: the test losses are within 5 %, or not clearly different",
                same(test[True], test[False], 0.05 * float(np.mean(test[False]))),
            ),
        ],
    )


@claim(
    "Adam generalizes better with decoupled weight decay, which also separates decay from rate",
    """With Adam, L2 regularization is not weight decay. Decoupling the decay from the gradient improves
    generalization and makes the choice of the rate independent of that of the decay.""",
    HIGHLIGHTS,
    ADAPTIVE,
)
def decoupled_decay(study: Study) -> Result:
    epochs, seeds = study.much(30, 3), study.seeds(20)
    lrs = rates(-3, -1.5)
    decays = {"L2": [0.0, *rates(-4, -0.5)], "decoupled": [0.0, *rates(-2, 1.5)]}
    val: dict[tuple[str, float, float], float] = {}

    def run(kind: str, lr: float, decay: float, s: int) -> Fitted:
        return fit(
            Network(),
            digits(s, train=400, noise=0.3),
            lambda p: fastopt.Adam(p, lr=lr, weight_decay=decay, decoupled_weight_decay=kind == "decoupled"),
            s,
            epochs,
        )

    rows, best, wander, runs = [], {}, {}, {}
    for kind, grid in decays.items():
        for lr in lrs:
            for decay in grid:
                val[kind, lr, decay] = float(np.mean([run(kind, lr, decay, s).val for s in study.tuning(3)]))
        _, lr, decay = best[kind] = min((key for key in val if key[0] == kind), key=val.__getitem__)
        each = [min(grid, key=lambda d, kind=kind, lr=lr: val[kind, lr, d]) for lr in lrs]
        # what it costs to keep the decay that is best in all when the rate is another
        wander[kind] = float(np.mean([val[kind, r, decay] - min(val[kind, r, d] for d in grid) for r in lrs]))
        runs[kind] = [run(kind, lr, decay, s) for s in seeds]
        rows.append(
            (
                kind,
                f"{lr:g}",
                f"{decay:g}",
                ", ".join(f"{d:g}" for d in each),
                f"{wander[kind]:.4f}",
                spread([r.test for r in runs[kind]]),
                spread([r.error for r in runs[kind]]),
            )
        )
    tests = {kind: [r.test for r in runs[kind]] for kind in runs}
    return Result(
        f"""Network 64-32-10 on 400 digits with noise of 0.3, Adam, batches of 32, {epochs} epochs. Validation
        loss of every pair of rate ({", ".join(f"{x:g}" for x in lrs)}) and decay (0, and half decades:
        {decays["L2"][1]:g} to {decays["L2"][-1]:g} for L2, {decays["decoupled"][1]:g} to
        {decays["decoupled"][-1]:g} decoupled, where a step takes rate times decay, as in PyTorch) on 3 other
        splits; the best pair is judged. {len(seeds)} seeds.
        Cost: validation loss lost at the other rates by keeping the decay of the best pair.""",
        ("decay", "best rate", "best decay", "best decay at each rate", "cost", "test loss", "test error, %"),
        rows,
        [
            Check(
                "the test loss is clearly lower with decoupled decay",
                below(tests["decoupled"], tests["L2"]),
                wins(tests["decoupled"], tests["L2"]),
            ),
            Check(
                "keeping the best decay while the rate changes costs less with decoupled decay",
                wander["decoupled"] < wander["L2"],
                f"{wander['decoupled']:.4f} and {wander['L2']:.4f}",
            ),
        ],
    )
