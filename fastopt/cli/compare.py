"""``fastopt compare``: the paths of several optimizers on a surface, drawn."""

from __future__ import annotations

import argparse
import os
from typing import Any

import numpy as np

from .. import checks
from ..errors import HyperParameterError
from .output import STILL, progress, table


def add(commands: Any) -> None:
    """The command and its options."""
    compare = commands.add_parser("compare", help="the paths of several optimizers on a surface, drawn")
    compare.set_defaults(run=run)
    compare.add_argument("--surface", default="saddle", metavar="NAME", help="default: saddle; a wrong name lists them")
    compare.add_argument(
        "--optimizers",
        default="sgd,momentum,nag,adagrad,adadelta,rmsprop",
        metavar="NAME,NAME,...",
        help="in any order",
    )
    compare.add_argument(
        "--lr",
        action="append",
        default=[],
        metavar="NAME=RATE",
        help="an optimizer's rate; repeat (default: see viz.RATES)",
    )
    compare.add_argument("--steps", type=int, help="default: what suits the surface")
    compare.add_argument("--start", type=float, nargs=2, metavar=("X", "Y"), help="default: the surface's")
    compare.add_argument("--noise", type=float, default=0.0, help="standard deviation of noise on the gradients")
    compare.add_argument("--seed", type=int, default=0, help="of the noise")
    compare.add_argument("--out", metavar="FILE.gif", help="draw the paths as they grow")
    compare.add_argument("--still", metavar="FILE.png", help="draw the whole paths")
    compare.add_argument(
        "--3d",
        dest="solid",
        action=argparse.BooleanOptionalAction,
        help="in three dimensions (default: the saddle alone)",
    )


MOST_FRAMES = 180  # of an animation; more steps than that are drawn several at once


def run(args: argparse.Namespace) -> int:
    from .. import viz
    from ..viz.pictures import new_figure
    from ..viz.surfaces import NEAR, surface_of

    if args.out:
        checks.output_file("--out", args.out, ".gif")
    if args.still:
        checks.output_file("--still", args.still, *STILL)
    surface = surface_of(args.surface)
    names = list(dict.fromkeys(name.strip() for name in args.optimizers.split(",")))
    rates = {name: viz.default_rate(surface, name) for name in names}
    for given in args.lr:
        name, _, rate = given.partition("=")
        if name not in rates:
            raise HyperParameterError(f"--lr {given} must be NAME=RATE with one of --optimizers {','.join(names)}")
        try:
            rates[name] = float(rate)
        except ValueError:
            raise HyperParameterError(f"--lr {given}: {rate!r} is not a number") from None
    options = dict(start=args.start, steps=args.steps, noise=args.noise, seed=args.seed)
    paths = {name: viz.trace(surface, name, lr=rate, **options) for name, rate in rates.items()}
    steps = len(paths[names[0]]) - 1
    goal = [f"within {NEAR} of a minimum", "for good"] if surface.minima else ["left the saddle"]
    rows = []
    for name, path in paths.items():
        at = ["never" if step is None else str(step) for step in surface.arrival(path)]
        value = f"{surface.value(*path[-1]):.3g}" if np.isfinite(path[-1]).all() else "far away"
        rows.append([name, f"{rates[name]:g}", *at[: len(goal)], value])
    print(table([f"{surface.name}, {steps} steps", "rate", *goal, "last value"], rows))
    solid = surface.solid if args.solid is None else args.solid
    if args.out:
        every = -(-steps // MOST_FRAMES) or 1
        with progress(-(-steps // every) + 1, "frame") as bar:
            viz.animate_paths(surface, paths, args.out, solid=solid, every=every, tick=bar.update)
        print(f"animated in {args.out}, {os.path.getsize(args.out) / 1e6:.1f} MB")
    if args.still:
        figure = new_figure(figsize=(6.4, 4.2), dpi=150)
        if solid:
            viz.plot_paths_3d(surface, paths, figure.add_subplot(projection="3d"))
        else:
            viz.plot_paths(surface, paths, figure.add_subplot())
        figure.savefig(args.still)
        print(f"drawn in {args.still}")
    return 0
