"""Paths on functions of two variables: ravine, curved surface, saddle."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import fastopt
from fastopt import viz
from fastopt.schedules import Cosine

from .harness import OVERVIEW, PATHS, Check, Result, Study, below, chosen, claim, spread, wins
from .networks import Array
from .training import rates

MAKE: dict[str, Callable[[Array, Any], fastopt.Optimizer]] = {
    "SGD": lambda x, lr: fastopt.SGD(x, lr=lr),
    "momentum": lambda x, lr: fastopt.SGD(x, lr=lr, momentum=0.9),
    "NAG": lambda x, lr: fastopt.SGD(x, lr=lr, momentum=0.9, nesterov=True),
    "Adagrad": lambda x, lr: fastopt.Adagrad(x, lr=lr),
    "Adadelta": lambda x, lr: fastopt.Adadelta(x, lr=lr),
    "RMSprop": lambda x, lr: fastopt.RMSprop(x, lr=lr, alpha=0.9),
    "Adam": lambda x, lr: fastopt.Adam(x, lr=lr),
}
Function = Callable[[Array], tuple[float, Array]]
FIRST_SIX = tuple(MAKE)[:6]  # those of the survey's pictures
EDGE = 0.0395  # SGD descends into the ravine up to a rate of 2 / 50
QUICK, HEAVY = ("Adagrad", "Adadelta", "RMSprop"), ("SGD", "momentum", "NAG")


def bowl(x: Array) -> tuple[float, Array]:
    """A ravine: 50 times as steep across as along."""
    return float(x[0] ** 2 + 50 * x[1] ** 2) / 2, np.array([x[0], 50 * x[1]])


def of(surface: viz.Surface) -> Function:
    """A surface as a function of one array."""

    def both(x: Array) -> tuple[float, Array]:
        a, b = x.tolist()
        try:
            return float(surface.value(a, b)), np.array(surface.gradient(a, b), np.float64)
        except OverflowError:
            return math.inf, np.full(2, math.nan)

    return both


def walk(
    function: Function, start: Any, make: Callable[[Array], Any], steps: int, there: Callable[[Array, float], bool]
) -> Array:
    """The points of a path, the start included, that ends where it is `there`, or after `steps` steps."""
    x = np.array(start, np.float64)
    optimizer, points = make(x), [x.copy()]
    for _ in range(steps):
        value, gradient = function(x)
        if there(x, value) or not math.isfinite(value):
            break
        optimizer.step(gradient)
        points.append(x.copy())
    return np.array(points)


def steps_needed(function: Function, path: Array, there: Callable[[Array, float], bool]) -> float:
    """The steps of a path; infinity if it did not arrive."""
    return float(len(path) - 1) if there(path[-1], function(path[-1])[0]) else math.inf


def counted(steps: float) -> str:
    return f"{steps:.0f}" if math.isfinite(steps) else "not there"


def crossings(coordinate: Array) -> int:
    return int((np.diff(np.sign(coordinate[coordinate != 0])) != 0).sum())


def detour(path: Array) -> float:
    """Length of the path in units of the distance between its ends."""
    return float(np.hypot(*np.diff(path, axis=0).T).sum() / np.hypot(*(path[-1] - path[0])))


def newton(
    function: Function, start: Any, method: str, there: Callable[[Array, float], bool], **more: Any
) -> list[Array]:
    """The iterates of a method of SciPy until it is `there`."""
    points = [np.array(start, np.float64)]

    def seen(x: Array) -> None:
        points.append(x.copy())
        if there(x, function(x)[0]):
            raise StopIteration

    fastopt.minimize(function, points[0], jac=True, method=method, callback=seen, tol=1e-14, **more)
    return points


def draw(
    ax: Any, function: Function, paths: dict[str, Array], box: tuple[float, float, float, float], levels: Any
) -> None:
    x, y = np.meshgrid(np.linspace(*box[:2], 200), np.linspace(*box[2:], 200))
    z = np.array([function(np.array(p))[0] for p in zip(x.ravel(), y.ravel(), strict=True)]).reshape(x.shape)
    ax.contour(x, y, z, levels, colors="0.8", linewidths=0.6)
    for i, (name, path) in enumerate(paths.items()):
        ax.plot(*path.T, color=f"C{i}", linewidth=1.3, label=name)
        ax.plot(*path[-1], color=f"C{i}", marker="o", markersize=4)
    ax.plot(*next(iter(paths.values()))[0], "k*", markersize=9)
    ax.set(xlim=box[:2], ylim=box[2:])


@claim(
    "Momentum is faster in a ravine",
    """Where the surface is much steeper in one direction, SGD swings across the slopes and hardly moves along the
    bottom. Momentum dampens the swings and gains speed along the bottom.""",
    f"{OVERVIEW}, 4.1, Figures 2 and 3",
    PATHS,
)
def momentum_in_a_ravine(study: Study) -> Result:
    start, most, grid = (-10.0, 1.0), 5000, rates(-3, -1, 8)

    def there(x: Array, value: float) -> bool:
        return value < 1e-6

    def path(name: str, lr: float) -> Array:
        return walk(bowl, start, lambda x: MAKE[name](x, lr), most, there)

    best, rows = {}, []
    for name in ("SGD", "momentum", "NAG"):
        best[name], _ = chosen(grid, lambda lr, _, name=name: steps_needed(bowl, path(name, lr), there), [0])
    shown = {(name, lr): path(name, lr) for name in best for lr in sorted({best["SGD"], best[name], 0.01, EDGE})}
    for (name, lr), points in shown.items():
        moved = np.abs(np.diff(points, axis=0)).sum(axis=0)
        arrives = math.isfinite(steps_needed(bowl, points, there))
        rows.append(
            (
                name,
                f"{lr:.3g}{' (its best)' if lr == best[name] else ''}",
                len(points) - 1 if arrives else "diverges",
                crossings(points[:, 1]) if arrives else "",
                f"{moved[1]:.3g}" if arrives else "",
                f"{np.abs(points[1:31, 0] - points[:30, 0]).sum():.3g}",
            )
        )
    with study.picture(
        "30 steps in a ravine, at one rate and at the best of each", columns=2, wide=9.0, high=2.8
    ) as axes:
        for ax, lrs in zip(axes, (dict.fromkeys(("SGD", "momentum"), EDGE), best), strict=True):
            paths = {
                n: walk(bowl, start, lambda x, n=n, lr=lr: MAKE[n](x, lr), 30, lambda *_: False)
                for n, lr in lrs.items()
            }
            draw(ax, bowl, paths, (-11, 3, -1.5, 1.5), 12)
            ax.set_title(f"rate {EDGE}" if lrs is not best else "best rates", fontsize=10)
            ax.legend(loc="upper right", fontsize=8)
    plain, heavy = shown["SGD", best["SGD"]], shown["momentum", best["momentum"]]
    same, small = shown["momentum", best["SGD"]], shown["momentum", 0.01]
    across = {
        k: float(np.abs(np.diff(v[:, 1])).sum())
        for k, v in {
            "plain": plain,
            "same": same,
            "best": heavy,
            "edge": shown["momentum", EDGE],
            "plain, edge": shown["SGD", EDGE],
        }.items()
    }
    return Result(
        f"""(x² + 50 y²) / 2 from {start}, no noise, momentum 0.9, until the value is below 1e-6. Rates: the best
        of {grid[0]:g} to {grid[-1]:g}, 8 to a decade; that of SGD; 0.01; and {EDGE}, just below 0.04, from which
        on SGD diverges (NAG from 0.0271 on, momentum from 0.076).""",
        ("", "rate", "steps", "crosses the bottom", "moves across, in all", "along, in 30 steps"),
        rows,
        [
            Check(
                "SGD at its best rate crosses the bottom in every other step or more",
                crossings(plain[:, 1]) >= (len(plain) - 1) / 2,
                f"{crossings(plain[:, 1])} times in {len(plain) - 1} steps",
            ),
            Check(
                "momentum at its best rate needs at most half the steps",
                len(heavy) - 1 <= (len(plain) - 1) / 2,
                f"{len(heavy) - 1} and {len(plain) - 1}",
            ),
            Check(
                "it needs fewer at the small rate 0.01, too",
                len(small) < len(shown["SGD", 0.01]),
                f"{len(small) - 1} and {len(shown['SGD', 0.01]) - 1}",
            ),
            Check(
                "it dampens the swings: at SGD's rate it moves less across than SGD",
                across["same"] < across["plain"],
                f"{across['same']:.1f} and {across['plain']:.1f}",
            ),
            Check(
                f"it dampens the swings: at rate {EDGE}, where SGD swings most",
                across["edge"] < across["plain, edge"],
                f"{across['edge']:.1f} and {across['plain, edge']:.1f}",
            ),
            Check(
                "it dampens the swings: each at its best rate",
                across["best"] < across["plain"],
                f"{across['best']:.1f} and {across['plain']:.1f}",
            ),
        ],
        pictures=study.pictures,
    )


@claim(
    "Momentum reaches a terminal velocity",
    "On a steady slope the steps of momentum grow until they are 1 / (1 - momentum) times those of SGD.",
    f"{OVERVIEW}, 4.1",
    PATHS,
)
def terminal_velocity(study: Study) -> Result:
    lr, rows, worst, soon = 0.01, [], 0.0, True
    for mu in (0.5, 0.9, 0.99):
        x = np.zeros(1)
        optimizer = fastopt.SGD(x, lr=lr, momentum=mu)
        sizes, before = [], 0.0
        for _ in range(2000):
            optimizer.step(np.ones(1))
            sizes.append((before - x[0]) / lr)
            before = float(x[0])
        reached = int(np.flatnonzero(np.array(sizes) > 0.95 / (1 - mu))[0]) + 1
        rows.append((mu, f"{1 / (1 - mu):.0f}", f"{sizes[-1]:.3f}", reached))
        worst = max(worst, abs(sizes[-1] * (1 - mu) - 1))
        soon = soon and reached <= 3.1 / (1 - mu)
    return Result(
        f"A gradient of 1 throughout, SGD with rate {lr}, 2000 steps.",
        ("momentum", "1 / (1 - momentum)", "step / rate at the end", "steps to 95 % of it"),
        rows,
        [
            Check("the last step is 1 / (1 - momentum) to 0.1 %", worst < 1e-3),
            Check("95 % of it is there after about 3 / (1 - momentum) steps", soon),
        ],
    )


@claim(
    "NAG corrects momentum",
    "Nesterov's gradient is taken where the momentum will lead, which keeps the ball from "
    "rolling too far up the other side.",
    f"{OVERVIEW}, 4.2, Figure 4",
    PATHS,
)
def nag_corrects(study: Study) -> Result:
    start, most = (-10.0, 1.0), 3000
    grid = rates(-3, -1.6, 6)
    rows, fewer, less, beyond = [], [], [], {}
    for lr in grid:
        cells: list[Any] = [f"{lr:g}"]
        for name in ("momentum", "NAG"):
            path = walk(bowl, start, lambda x, name=name, lr=lr: MAKE[name](x, lr), most, lambda x, value: value < 1e-6)
            beyond[name] = float(path[:, 0].max())
            cells += [len(path) - 1 if len(path) - 1 < most else "never", f"{max(beyond[name], 0.0):.2f}"]
        if beyond["momentum"] > 0.01:
            less.append(beyond["NAG"] < beyond["momentum"])
        fewer.append(isinstance(cells[3], int) and (not isinstance(cells[1], int) or cells[3] < cells[1]))
        rows.append(cells)
    with study.picture("how far beyond the minimum along a ravine") as ax:
        for name in ("momentum", "NAG"):
            ax.plot(
                walk(bowl, start, lambda x, name=name: MAKE[name](x, 0.01), 150, lambda *_: False)[:, 0], label=name
            )
        ax.axhline(0, color="0.6", linestyle=":")
        ax.set(xlabel="step", ylabel="place along the ravine")
        ax.legend()
    return Result(
        f"""The ravine (x² + 50 y²) / 2 from {start}, momentum 0.9, until the value is below 1e-6; rates
        {grid[0]:g} to {grid[-1]:.3g}, up to the last at which NAG does not diverge. How far beyond the minimum, along
        the ravine. The picture is at rate 0.01.""",
        ("rate", "momentum: steps", "beyond", "NAG: steps", "beyond"),
        rows,
        [
            Check(
                "wherever momentum goes beyond the minimum, NAG goes less far",
                all(less),
                f"at {sum(less)} of {len(less)}",
            ),
            Check("NAG needs fewer steps at every rate", all(fewer), f"at {sum(fewer)} of {len(fewer)}"),
        ],
        pictures=study.pictures,
    )


@claim(
    "On a curved surface the adaptive methods head the right way at once",
    """On the contours of Beale's function Adagrad, Adadelta and RMSprop set out in the right direction and
    converge similarly fast; momentum and NAG are led off the track, and NAG corrects its course sooner.""",
    f"{OVERVIEW}, 4.9, Figure 5",
    PATHS,
)
def curved_surface(study: Study) -> Result:
    surface, most, within = viz.SURFACES["beale"], study.much(3000, 600), 0.1
    function, start, minimum = of(surface), np.array(surface.start), np.array(surface.minima[0])
    way = minimum - start

    def stays(path: Array) -> float:
        """The step from which on a path stays within that distance of the minimum."""
        away = np.flatnonzero(~(np.hypot(*(path - minimum).T) <= within))
        return math.inf if away[-1] == len(path) - 1 else float(away[-1] + 1)

    def comes(path: Array) -> float:
        found = np.flatnonzero(np.hypot(*(path - minimum).T) <= within)
        return float(found[0]) if len(found) else math.inf

    def path_of(make: Any, lr: float) -> Array:
        return walk(function, start, lambda x: make(x, lr), most, lambda *_: False)

    drawn, rows, seen = {}, [], {}
    for name, make in MAKE.items():
        grid = rates(-4, 1, 3) if name != "Adadelta" else rates(-1, 3, 3)
        fastest, _ = chosen(grid, lambda lr, _, make=make: stays(path_of(make, lr)), [0])
        for rule, lr in (("picture", viz.default_rate(surface, name.lower())), ("best", fastest)):
            path = path_of(make, lr)[: surface.steps + 1 if rule == "picture" else None]
            first, arrival = comes(path), stays(path)
            path = path[: int(min(arrival, most)) + 1]
            move = path[min(5, len(path) - 1)] - start
            angle = math.degrees(math.acos(np.clip(move @ way / np.hypot(*move) / np.hypot(*way), -1, 1)))
            seen[rule, name] = arrival, angle, detour(path) if math.isfinite(arrival) else math.inf
            rows.append(
                (
                    name,
                    f"{lr:.3g} ({rule})",
                    counted(first),
                    counted(arrival),
                    f"{angle:.0f}°",
                    f"{seen[rule, name][2]:.2f}" if math.isfinite(arrival) else "",
                )
            )
            if rule == "picture":
                drawn[name.lower()] = path
    for method in ("Newton-CG", "L-BFGS-B"):
        points = np.array(newton(function, start, method, lambda *_: False))
        arrival = stays(points)
        rows.append(
            (
                f"SciPy's {method}",
                "",
                counted(comes(points)),
                counted(arrival),
                "",
                f"{detour(points[: int(arrival) + 1]):.2f}",
            )
        )
    with study.picture("paths on Beale's function", high=4.2) as ax:
        viz.plot_paths(surface, {n.lower(): drawn[n.lower()] for n in FIRST_SIX}, ax)
    checks = []
    for rule, words in (("picture", "the picture's rates"), ("best", "the best rates")):
        steps, angle, long = ({n: seen[rule, n][k] for n in MAKE} for k in range(3))
        some = [steps[n] for n in QUICK]
        checks += [
            Check(
                f"{words}: Adagrad, Adadelta and RMSprop set out nearer the right direction than SGD, momentum and NAG",
                max(angle[n] for n in QUICK) < min(angle[n] for n in HEAVY),
            ),
            Check(
                f"{words}: the paths of momentum and NAG are longer than those of Adagrad, Adadelta and RMSprop",
                min(long["momentum"], long["NAG"]) > max(long[n] for n in QUICK),
            ),
            Check(f"{words}: NAG's path is shorter than momentum's", long["NAG"] < long["momentum"]),
            Check(
                f"{words}: Adagrad, Adadelta and RMSprop arrive in similar numbers of steps (within a factor of 3)",
                max(some) <= 3 * min(some),
                f"{counted(min(some))} to {counted(max(some))}",
            ),
        ]
    return Result(
        f"""Beale's function from {surface.start}, until it stays within {within} of the minimum at
        {surface.minima[0]}. Two rates for each: that of the pictures of `fastopt.viz`, for the {surface.steps}
        steps that the picture has; and the one that needs the fewest steps, 3 to a decade, for {most} steps.
        Angle: between the first five steps and the straight way. Detour: length of the path, in units of the
        straight way.""",
        ("", "rate", "first there", "stays", "angle", "detour"),
        rows,
        checks,
        ["The picture has the picture's rates. SciPy's methods count iterations, which need several gradients each."],
        study.pictures,
    )


@claim(
    "At a saddle point SGD is slowest, and the adaptive methods leave at once",
    """Where one direction goes up and another down, SGD, momentum and NAG find it hard to break the symmetry;
    momentum and NAG get away at last. Adagrad, RMSprop and Adadelta head down the negative slope at once.""",
    f"{OVERVIEW}, 3 and 4.9, Figure 6",
    PATHS,
)
def saddle_point(study: Study) -> Result:
    surface, first, most = viz.SURFACES["saddle"], 0.05, 5000
    function, start = of(surface), surface.start

    def there(x: Array, value: float) -> bool:
        return value < surface.exit

    drawn, rows, off, steps, swings = {}, [], {}, {}, {}
    for name, make in MAKE.items():
        unit = walk(function, start, lambda x, make=make: make(x, 1e-3), 1, there)
        alike = 1e-3 * first / float(np.hypot(*(unit[1] - unit[0])))
        for rule, lr in (("picture", viz.default_rate(surface, name.lower())), ("first step", alike)):
            path = walk(function, start, lambda x, make=make, lr=lr: make(x, lr), most, there)
            off[rule, name] = int(np.flatnonzero(np.abs(path[:, 1]) > 0.1)[0])
            steps[rule, name], swings[rule, name] = len(path) - 1, crossings(path[:, 0])
            rows.append((name, f"{lr:.3g} ({rule})", off[rule, name], len(path) - 1, swings[rule, name]))
            if rule == "picture":
                drawn[name.lower()] = path
    points = [np.array(start)]
    for _ in range(3):  # Newton's own steps
        points.append(points[-1] - np.linalg.solve(np.diag([2.0, -2.0]), function(points[-1])[1]))
    rows.append(
        ("Newton, full steps", "", "never", f"never: at ({points[-1][0]:g}, {points[-1][1]:g}) after 1 step", 0)
    )
    for method, more in {"Newton-CG": {}, "trust-exact": {"hess": lambda x: np.diag([2.0, -2.0])}}.items():
        seen = np.array(newton(function, start, method, there, **more))
        rows.append(
            (
                f"SciPy's {method}",
                "",
                "",
                len(seen) - 1 if there(seen[-1], function(seen[-1])[0]) else "stays",
                crossings(seen[:, 0]),
            )
        )
    with study.picture("paths at a saddle point, and the way down by step", columns=2, wide=9.0, high=4.0) as (
        left,
        right,
    ):
        viz.plot_paths(surface, {n.lower(): drawn[n.lower()] for n in FIRST_SIX}, left)
        looks = viz.styles([n.lower() for n in FIRST_SIX])
        for name, path in drawn.items():
            if name in looks:
                right.plot(
                    np.abs(path[:, 1]), color=looks[name]["color"], linestyle=looks[name]["linestyle"], label=name
                )
        right.set(xlabel="step", ylabel="abs(y): way down the saddle", yscale="log", xscale="symlog", xlim=(0, None))
    checks = []
    for rule, words in (("picture", "the picture's rates"), ("first step", "equal first steps")):
        mine = {n: steps[rule, n] for n in MAKE}
        checks += [
            Check(
                f"{words}: SGD is the last to leave", max(mine, key=mine.__getitem__) == "SGD", f"{mine['SGD']} steps"
            ),
            Check(
                f"{words}: Adagrad, Adadelta and RMSprop break the symmetry (abs(y) > 0.1) before SGD, "
                "momentum and NAG",
                max(off[rule, n] for n in QUICK) < min(off[rule, n] for n in HEAVY),
            ),
            Check(
                f"{words}: Adagrad, Adadelta and RMSprop are away before SGD, momentum and NAG",
                max(mine[n] for n in QUICK) < min(mine[n] for n in HEAVY),
            ),
            Check(
                f"{words}: momentum and NAG get away in less than half of SGD's steps",
                max(mine["momentum"], mine["NAG"]) < mine["SGD"] / 2,
            ),
            Check(
                f"{words}: momentum and NAG swing: they cross the ridge, SGD does not",
                min(swings[rule, "momentum"], swings[rule, "NAG"]) > 0 == swings[rule, "SGD"],
            ),
        ]
    return Result(
        f"""x² - y² from {start}, nearly on the ridge, until the value is below {surface.exit:g}. Two rates for
        each: that of the pictures of `fastopt.viz`; and that with which the first step has the length {first}.""",
        ("", "rate", "steps until abs(y) > 0.1", "until away", "crosses the ridge"),
        rows,
        checks,
        [
            "Newton's full step goes to the saddle point itself. trust-exact is given the second "
            "derivatives and uses negative curvature. The picture has the picture's rates."
        ],
        study.pictures,
    )


@claim(
    "Fluctuation carries SGD to better minima",
    "Full-batch descent ends in the minimum of the basin where it starts; the noise of "
    "stochastic descent can carry it to a better one.",
    f"{OVERVIEW}, 2.2",
    PATHS,
)
def better_minima(study: Study) -> Result:
    surface, steps, n, lr = viz.SURFACES["waves"], study.much(1000, 100), 200, 0.05
    (low, high), _ = surface.domain

    def ends(deviation: float, seed: int) -> Array:
        """The values where descent from `n` random places ends; SGD works element by element."""
        rng = np.random.default_rng([seed, 7])
        x = rng.uniform(low, high, (n, 2))
        optimizer = fastopt.SGD(x, lr=Cosine(lr, steps))
        for _ in range(steps):
            gradient = np.stack(surface.gradient(*x.T), axis=1)
            optimizer.step(gradient + deviation * rng.standard_normal(x.shape))
        return np.asarray(surface.value(*x.T))

    deviations, seeds = (0.0, 1.0, 3.0, 10.0, 30.0), study.seeds(10)
    best, _ = chosen(deviations[1:], lambda d, s: float(ends(d, s).mean()), study.tuning(3))
    found = {d: np.array([ends(d, s) for s in seeds]) for d in deviations}
    value = {d: found[d].mean(axis=1) for d in found}
    lowest = {d: 100 * (found[d] < 0.5).mean(axis=1) for d in found}
    return Result(
        f"""{n} random starts on "waves" of `fastopt.viz`, x² + y² + 2 - cos 4x - cos 4y, whose least value is 0;
        SGD from rate {lr} along a cosine to 0, {steps} steps; normal noise on the gradient. Deviation for the
        checks: {best:g}, the best on other seeds. {len(seeds)} seeds.""",
        ("deviation of the noise", "value at the end", "in the lowest basin, %"),
        [(f"{d:g}", spread(value[d]), spread(lowest[d])) for d in found],
        [
            Check(
                "the value at the end is clearly lower with noise",
                below(value[best], value[0.0]),
                wins(value[best], value[0.0]),
            ),
            Check(
                "it ends clearly more often in the lowest basin",
                below(lowest[0.0], lowest[best]),
                wins(lowest[0.0], lowest[best]),
            ),
        ],
    )
