"""Draws the pictures of the README: ``make pictures``."""

from __future__ import annotations

from pathlib import Path

import fastopt
from fastopt import viz
from fastopt.cli import main
from fastopt.viz.pictures import new_figure

HERE = Path(__file__).parent
SIX = ["sgd", "momentum", "nag", "adagrad", "adadelta", "rmsprop"]


def animations(folder: Path) -> None:
    """The two well-known ones: a curved surface, and a saddle."""
    for surface in ("beale", "saddle"):
        main(["compare", "--surface", surface, "--optimizers", ",".join(SIX), "--out", str(folder / f"{surface}.gif")])


def stills(folder: Path) -> None:
    """A ravine and a curved valley, side by side."""
    figure = new_figure(figsize=(11, 4.2), dpi=100)
    for surface, ax in zip(("valley", "rosenbrock"), figure.subplots(1, 2), strict=True):
        steps = viz.SURFACES[surface].steps
        title = f"{surface.capitalize()}, {steps} steps"
        viz.plot_paths(surface, {name: viz.trace(surface, name) for name in SIX}, ax, title=title)
        if surface == "valley":
            ax.get_legend().remove()  # the same as the other's
    figure.savefig(folder / "paths.png")


def heatmap(folder: Path) -> None:
    """How the best rate depends on momentum, in the ravine; and on Adam's first beta."""
    figure = new_figure(figsize=(11, 4.2), dpi=100)
    rates = [k * unit for unit in (0.01, 0.1) for k in (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)] + [1.0, 1.5, 2.0, 3.0]
    betas = [0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99]
    surface = viz.SURFACES["valley"]
    first = float(surface.value(*surface.start))
    for ax, name, beta in zip(figure.subplots(1, 2), ("sgd", "adam"), ("momentum", "first beta"), strict=True):
        values = viz.rate_beta_grid(surface, name, rates, betas, steps=50)
        viz.plot_heatmap(rates, betas, values, ax, limits=(1e-6, first), label="value after 50 steps")
        ax.set(title=f"{name} in the valley", ylabel=beta)
    figure.savefig(folder / "heatmap.png")


if __name__ == "__main__":
    fastopt.set_num_threads(1)
    animations(HERE)
    stills(HERE)
    heatmap(HERE)
