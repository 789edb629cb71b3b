"""The drawings. matplotlib is imported when one is made; nothing here changes the state of pyplot if `ax` is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .. import checks
from ..checks import Array, need
from ..errors import DTypeError, HyperParameterError, ShapeError
from ..optimizers.base import Optimizer
from ..strategies import RangeTest
from .surfaces import Surface, as_path, surface_of

#: Okabe and Ito's palette, which the colour-blind can tell apart; its yellow, too pale for lines, is left out.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK = PALETTE
DASHES = ("-", "--", ":", "-.")
MARKERS = "osD^v<>PXph*"
#: Colours of the lowest and of the highest areas.
LOW, HIGH = (0.60, 0.70, 0.80), (0.95, 0.97, 0.99)
SEEN = 32, 62  # from how high, and from where around, in degrees
#: The usual ones; the others' come from their place in the catalogue.
FIXED = {
    "sgd": (VERMILION, "-", "o"),
    "momentum": (GREEN, "-", "^"),
    "nag": (PURPLE, "-", "v"),
    "adagrad": (BLUE, "-", "s"),
    "adadelta": (ORANGE, "-", "D"),
    "rmsprop": (BLACK, "-", "P"),
    "adam": (SKY, "-", "X"),
}


def styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour, dash and marker of each name, as keywords of matplotlib: an optimizer looks the same in every picture.

    Parameters
    ----------
    names : sequence of str
        Optimizers have a look of their own; other names take the colours that these leave, in turn.

    Returns
    -------
    dict of dict
        By name: ``color``, ``linestyle`` and ``marker``.
    """
    rest = sorted(set(Optimizer.known) - set(FIXED))
    found: dict[str, tuple[str, str, str]] = {}
    for name in names:
        if name in FIXED:
            found[name] = FIXED[name]
        elif name in rest:
            k = rest.index(name)
            found[name] = PALETTE[k % len(PALETTE)], DASHES[1 + k // len(PALETTE) % 3], MARKERS[k % len(MARKERS)]
    free = [look for look in FIXED.values() if look not in found.values()] or list(FIXED.values())
    for k, name in enumerate(n for n in dict.fromkeys(names) if n not in found):
        color, _, marker = free[k % len(free)]
        found[name] = color, DASHES[k // len(free) % len(DASHES)], marker
    return {n: dict(zip(("color", "linestyle", "marker"), look, strict=True)) for n in names for look in [found[n]]}


# ---------------------------------------------------------------------------------------------------------------- axes


def new_figure(**options: Any) -> Any:
    """A figure with a canvas that draws into memory, unknown to pyplot."""
    figure = need("matplotlib.figure", "plot").Figure(layout="constrained", **options)
    need("matplotlib.backends.backend_agg", "plot").FigureCanvasAgg(figure)
    return figure


def _axes(ax: Any, **options: Any) -> Any:
    """`ax`, or the axes of a new figure of pyplot's."""
    if ax is None:
        figure = need("matplotlib.pyplot", "plot").figure(layout="constrained")
        return figure.add_subplot(**options)
    three = options.get("projection") == "3d"
    if not hasattr(ax, "add_line") or (getattr(ax, "name", "") == "3d") != three:
        what = (
            'with projection="3d", as plt.figure().add_subplot(projection="3d") makes' if three else "in two dimensions"
        )
        raise HyperParameterError(f"ax must be axes of matplotlib {what}, got {type(ax).__name__}")
    return ax


def _finished(ax: Any, x: str, y: str, log: bool = False) -> Any:
    """The axes `ax` of curves, with what all such have."""
    if log:
        ax.set_yscale("log", nonpositive="mask")
    ax.set(xlabel=x, ylabel=y)
    ax.grid(alpha=0.25)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return ax


def _named(name: str, what: str, things: Any) -> dict[str, Any]:
    if not isinstance(things, Mapping) or not things:
        raise HyperParameterError(f"{name} must be a dict with at least one entry, {what} by name, got {things!r}")
    return {str(k): v for k, v in things.items()}


# --------------------------------------------------------------------------------------------------------------- paths


def _heights(surface: Surface, points: int = 400) -> tuple[Array, Array, Array]:
    x, y = np.meshgrid(*(np.linspace(*side, points) for side in surface.domain))
    z = np.asarray(surface.value(x, y), np.float64)
    return x, y, np.where(np.isfinite(z), z, np.nan)  # which is left out


def _levels(surface: Surface, z: Array) -> Array:
    known = z[np.isfinite(z)]
    low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
    high = high if high > low else low + 1.0
    if surface.levels == "log":  # from the floor up by factors, the first of which the narrowest ravine still shows
        return np.asarray(low + np.geomspace((high - low) * 2e-4, high - low, 13))
    return np.linspace(low, high, 17)


def _background(surface: Surface, ax: Any) -> None:
    """Heights as lines and pale areas, the minima as stars."""
    x, y, z = _heights(surface)
    levels = _levels(surface, z)
    shades = np.linspace(LOW, HIGH, len(levels) - 1)
    ax.contourf(x, y, z, levels, colors=shades, extend="min", zorder=0)
    ax.contour(x, y, z, levels, colors="white", linewidths=0.7, zorder=1)
    for a, b in surface.minima:
        ax.plot(a, b, "*", ms=15, mfc="white", mec="black", zorder=2)
    ax.set(xlim=surface.domain[0], ylim=surface.domain[1], xlabel="x", ylabel="y")


def _starts(paths: Mapping[str, Array]) -> list[Array]:
    """The different points at which paths begin."""
    return list({tuple(path[0]): path[0] for path in paths.values()}.values())


class _Lines:
    """The paths as lines with a marker at their head, which can be set to any step."""

    def __init__(self, surface: Surface, paths: Mapping[str, Array], ax: Any, lift: bool) -> None:
        self.surface, self.lift = surface, lift
        self.paths: dict[str, Array] = {}
        self.lines: list[Any] = []
        self.heads: list[Any] = []
        looks = styles(list(paths))
        # From wide to thin, so that of lines on one another each is seen.
        widths = np.linspace(3.2, 1.5, len(paths)) if len(paths) > 1 else [2.2]
        empty: list[list[float]] = [[]] * (3 if lift else 2)
        for k, (name, path) in enumerate(paths.items()):
            look = looks[name]
            # Leaving the picture is the end of a line in three dimensions, where nothing cuts it off.
            self.paths[name] = np.where(surface.inside(path)[:, None], path, np.nan) if lift else path
            (line,) = ax.plot(*empty, color=look["color"], ls=look["linestyle"], lw=widths[k], zorder=5 + k)
            (head,) = ax.plot(
                *empty, ls="", marker=look["marker"], ms=8, mfc=look["color"], mec="white", mew=0.9, zorder=30 + k
            )
            self.lines.append(line)
            self.heads.append(head)

    def artists(self) -> list[Any]:
        return [*self.lines, *self.heads]

    def _set(self, artist: Any, points: Array) -> None:
        x, y = points.T
        if self.lift:
            artist.set_data_3d(x, y, self.surface.value(x, y))
        else:
            artist.set_data(x, y)

    def upto(self, step: int) -> None:
        """Draw the first `step` steps; heads stay where a path was last seen."""
        for line, head, path in zip(self.lines, self.heads, self.paths.values(), strict=True):
            done = path[: step + 1]
            seen = done[self.surface.inside(done)]
            self._set(line, done)
            self._set(head, seen[-1:])

    def legend(self, ax: Any) -> None:
        """Lines with the markers of their heads: beside the picture if the figure makes room for that, else within."""
        lines = need("matplotlib.lines", "plot")
        looks = styles(list(self.paths))
        handles = [lines.Line2D([], [], lw=1.8, ms=7, mec="white", label=name, **look) for name, look in looks.items()]
        start = lines.Line2D([], [], ls="", marker="o", ms=8, mfc="white", mec="black", mew=1.6, label="start")
        star = lines.Line2D([], [], ls="", marker="*", ms=12, mfc="white", mec="black", label="minimum")
        handles += [start, *([star] if self.surface.minima and not self.lift else [])]
        # What does not fit beside the axes in one column gets smaller, and more columns: a row takes 1.5 times its type size.
        height = 72 * ax.bbox.height / ax.figure.dpi
        many = len(handles) > height / 12
        how = (
            dict(fontsize="x-small", ncols=-int(-len(handles) // (height / 11)), columnspacing=0.7, handlelength=1.2)
            if many
            else {}
        )
        if ax.figure.get_layout_engine() is not None:
            ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, **how)
        else:
            ax.legend(handles=handles, loc="best", framealpha=0.8, **({"fontsize": "small"} | how))


def _checked(surface: Any, paths: Any) -> tuple[Surface, dict[str, Array]]:
    found = _named("paths", "arrays of shape (steps + 1, 2)", paths)
    return surface_of(surface), {k: as_path(f"paths[{k!r}]", path) for k, path in found.items()}


def _flat(surface: Surface, paths: Mapping[str, Array], ax: Any, title: str | None) -> _Lines:
    _background(surface, ax)
    lines = _Lines(surface, paths, ax, lift=False)
    for a, b in _starts(paths):
        ax.plot(a, b, "o", ms=9, mfc="white", mec="black", mew=1.6, zorder=4)
    ax.set_title(surface.name.capitalize() if title is None else title)
    lines.legend(ax)
    return lines


def _solid(surface: Surface, paths: Mapping[str, Array], ax: Any, title: str | None) -> _Lines:
    x, y, z = _heights(surface, 60)
    ax.computed_zorder = False  # lines lie on the surface, and are drawn over it
    shades = need("matplotlib.colors", "plot").LinearSegmentedColormap.from_list("heights", [LOW, HIGH])
    ax.plot_surface(x, y, z, cmap=shades, lw=0, antialiased=False, rcount=60, ccount=60, zorder=0)
    ax.plot_wireframe(x, y, z, color="white", lw=0.6, rcount=13, ccount=13, zorder=1)
    lines = _Lines(surface, paths, ax, lift=True)
    for a, b in filter(surface.inside, _starts(paths)):  # nothing cuts off the others
        ax.plot([a], [b], [surface.value(a, b)], "o", ms=9, mfc="white", mec="black", mew=1.6, zorder=4)
    ax.set(
        xlim=surface.domain[0],
        ylim=surface.domain[1],
        xlabel="x",
        ylabel="y",
        title=surface.name.capitalize() if title is None else title,
    )
    ax.view_init(elev=SEEN[0], azim=SEEN[1])
    ax.set_box_aspect((1.0, 1.0, 0.7), zoom=1.1)
    ax.locator_params(nbins=5)
    ax.tick_params(labelsize="small")
    lines.legend(ax)
    return lines


def plot_paths(surface: Surface | str, paths: Mapping[str, Any], ax: Any = None, *, title: str | None = None) -> Any:
    """Draw paths over the contours of a surface.

    Parameters
    ----------
    surface : Surface or str
        A surface, or the name of one of `SURFACES`.
    paths : dict of arrays of shape (steps + 1, 2)
        By the name of the optimizer, as `trace` returns them.
    ax : matplotlib axes, optional
        Where to draw. Default: a new figure of pyplot's.
    title : str, optional
        Default: the surface's name.

    Returns
    -------
    matplotlib axes

    Raises
    ------
    FastoptError
        If an argument does not fit, or matplotlib is not installed.

    Examples
    --------
    >>> from fastopt import viz
    >>> names = ["sgd", "momentum", "rmsprop"]
    >>> ax = viz.plot_paths("beale", {name: viz.trace("beale", name) for name in names})
    """
    surface, found = _checked(surface, paths)
    ax = _axes(ax)
    _flat(surface, found, ax, title).upto(max(map(len, found.values())))
    return ax


def plot_paths_3d(surface: Surface | str, paths: Mapping[str, Any], ax: Any = None, *, title: str | None = None) -> Any:
    """Draw paths on a surface in three dimensions. A line ends where its path leaves the domain.

    Parameters
    ----------
    surface : Surface or str
        A surface, or the name of one of `SURFACES`.
    paths : dict of arrays of shape (steps + 1, 2)
        By the name of the optimizer, as `trace` returns them.
    ax : matplotlib axes with ``projection="3d"``, optional
        Where to draw. Default: a new figure of pyplot's.
    title : str, optional
        Default: the surface's name.

    Returns
    -------
    matplotlib axes

    Raises
    ------
    FastoptError
        If an argument does not fit, or matplotlib is not installed.
    """
    surface, found = _checked(surface, paths)
    ax = _axes(ax, projection="3d")
    _solid(surface, found, ax, title).upto(max(map(len, found.values())))
    return ax


def animate_paths(
    surface: Surface | str,
    paths: Mapping[str, Any],
    file: Any,
    *,
    solid: bool | None = None,
    every: int = 1,
    fps: float = 15.0,
    hold: float = 3.0,
    size: tuple[float, float] = (6.4, 4.2),
    title: str | None = None,
    tick: Callable[[], Any] | None = None,
) -> int:
    """Write paths as they grow, step by step, as a GIF that repeats for ever.

    Parameters
    ----------
    surface : Surface or str
        A surface, or the name of one of `SURFACES`.
    paths : dict of arrays of shape (steps + 1, 2)
        By the name of the optimizer, as `trace` returns them.
    file : path
        Its name ends in ``.gif``; a file of that name is replaced.
    solid : bool, optional
        Whether to draw in three dimensions. Default: what the surface says.
    every : int, default 1
        Steps from one frame to the next. The first frame is the start, the last one the end.
    fps : float, default 15.0
        Frames a second; GIF knows durations in hundredths of a second.
    hold : float, default 3.0
        Seconds for which the last frame is shown.
    size : pair of floats, default (6.4, 4.2)
        Width and height in units of 100 pixels.
    title : str, optional
        Default: the surface's name. The step is written behind it.
    tick : callable, optional
        Called without arguments after each frame.

    Returns
    -------
    int
        The number of frames.

    Raises
    ------
    FastoptError
        If an argument does not fit, or matplotlib is not installed.

    Notes
    -----
    Frames share one palette, without dithering, so that what stands still costs no bytes.
    """
    surface, found = _checked(surface, paths)
    every = checks.integer(1)("every", every)
    fps, hold = checks.number(0.1, 50.0)("fps", fps), checks.number(0.0, 600.0)("hold", hold)
    width, height = checks.pair(checks.number(1.0, 40.0))("size", size)
    file = checks.output_file("file", file, ".gif")  # plot_paths draws pictures that stand still
    solid = surface.solid if solid is None else checks.flag("solid", solid)
    image = need("PIL.Image", "plot")
    figure = new_figure(figsize=(width, height), dpi=100)
    ax = figure.add_subplot(**({"projection": "3d"} if solid else {}))
    lines = (_solid if solid else _flat)(surface, found, ax, "")
    name = surface.name.capitalize() if title is None else title
    last = max(map(len, found.values())) - 1
    steps = [*range(0, last, every), last]
    words = ax.set_title(f"{name}, step {last}")
    moving = [*lines.artists(), words]
    for artist in moving:
        artist.set_animated(True)
    figure.draw_without_rendering()  # in three dimensions the layout needs a second look
    figure.canvas.draw()  # what stands still, drawn once
    behind = figure.canvas.copy_from_bbox(figure.bbox)

    def frame(step: int) -> Any:
        lines.upto(step)
        words.set_text(f"{name}, step {step}")
        figure.canvas.restore_region(behind)
        for artist in moving:
            ax.draw_artist(artist)
        return image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())

    palette = image.new("P", (1, 1))
    palette.putpalette(_palette(image.fromarray(np.asarray(behind)[..., :3].copy()), list(found)))
    frames = []
    for step in steps:
        frames.append(frame(step).quantize(palette=palette, dither=image.Dither.NONE))
        if tick is not None:
            tick()
    shown = [round(1000 / fps)] * (len(steps) - 1) + [round(1000 * max(hold, 1 / fps))]
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=shown, loop=0, optimize=False)
    return len(frames)


def _palette(still: Any, names: Sequence[str]) -> list[int]:
    """Red, green and blue of 128 colours: those of the lines, black and white, their edges, and the best for what stands still.

    A palette made of a whole frame would give all colours to large areas and none to thin lines.
    """
    rgb = need("matplotlib.colors", "plot").to_rgb
    full = np.array([rgb(look["color"]) for look in styles(names).values()] + [rgb("black"), rgb("white")])
    full = np.unique(full, axis=0)
    edges = [full * part + other * (1 - part) for part in (0.4, 0.7) for other in (1.0, np.array(LOW))]
    own = np.round(255 * np.concatenate([full, *edges])).astype(int)
    best = np.array(still.quantize(128 - len(own)).getpalette()).reshape(-1, 3)[: 128 - len(own)]
    near = (np.abs(best[:, None] - own).max(axis=2) < 8).any(axis=1)  # Pillow may take these for the exact ones
    return [int(part) for color in (*own, *best[~near]) for part in color]


# -------------------------------------------------------------------------------------------------------------- curves


def _smoothed(loss: Array, smooth: float) -> Array:
    """The mean of what was before with weights that fall by `smooth` a step, without a bias to zero."""
    total = weight = 0.0
    out = np.empty_like(loss)
    for k, value in enumerate(loss.tolist()):
        total, weight = smooth * total + value, smooth * weight + 1.0
        out[k] = total / weight
    return out


def plot_losses(histories: Any, ax: Any = None, *, smooth: float = 0.0, log: bool = True) -> Any:
    """Draw the loss of each run, step by step.

    Parameters
    ----------
    histories : dict of arrays of shape (steps,), or of objects with such an attribute `loss`
        By name. Those that are names of optimizers have the colours of these.
    ax : matplotlib axes, optional
        Where to draw. Default: a new figure of pyplot's.
    smooth : float in [0, 1), default 0.0
        What the weight of a loss falls by with each later step, in a running mean that is drawn over the losses.
    log : bool, default True
        Whether the axis of the losses is logarithmic.

    Returns
    -------
    matplotlib axes

    Raises
    ------
    FastoptError
        If an argument does not fit, or matplotlib is not installed.
    """
    found = {}
    for name, history in _named("histories", "losses or histories", histories).items():
        loss = checks.real_array(f"histories[{name!r}]", getattr(history, "loss", history))
        if loss.ndim != 1:
            raise ShapeError(f"histories[{name!r}] must have one loss a step, shape (steps,), got {loss.shape}")
        found[name] = loss
    smooth, log = checks.fraction("smooth", smooth), checks.flag("log", log)
    ax = _axes(ax)
    for name, look in styles(list(found)).items():
        loss, line = found[name], dict(color=look["color"], ls=look["linestyle"], lw=1.6)
        if smooth:
            ax.plot(loss, **{**line, "lw": 0.8, "ls": "-", "alpha": 0.3})
            loss = _smoothed(loss, smooth)
        ax.plot(loss, label=name, **line)
    return _finished(ax, "step", "loss", log)


def plot_schedules(
    schedules: Mapping[str, Callable[[int], float]], steps: int, ax: Any = None, *, log: bool = False
) -> Any:
    """Draw schedules over the steps 0 to `steps` - 1.

    Parameters
    ----------
    schedules : dict of callables
        By name; each is called with every step, in order, and returns the rate.
    steps : int
    ax : matplotlib axes, optional
        Where to draw. Default: a new figure of pyplot's.
    log : bool, default False
        Whether the axis of the rates is logarithmic.

    Returns
    -------
    matplotlib axes

    Raises
    ------
    FastoptError
        If an argument does not fit, or matplotlib is not installed.
    """
    found, rates = _named("schedules", "callables of the step", schedules), {}
    steps, log = checks.integer(1)("steps", steps), checks.flag("log", log)
    for name, schedule in found.items():
        if not callable(schedule):
            raise HyperParameterError(f"schedules[{name!r}] must be a callable of the step, got {schedule!r}")
        rate = checks.real_array(
            f"schedules[{name!r}]", [schedule(step) for step in range(steps)]
        )  # not all take arrays
        if rate.ndim != 1:
            raise ShapeError(f"schedules[{name!r}] must return one number a step, got an array")
        rates[name] = rate
    ax = _axes(ax)
    for name, look in styles(list(found)).items():
        ax.plot(rates[name], color=look["color"], ls=look["linestyle"], lw=1.8, label=name)
    return _finished(ax, "step", "rate", log)


def plot_rates(found: Any, ax: Any = None) -> Any:
    """Draw what a learning-rate range test found: the losses over the rate, and the rate that it suggests.

    Parameters
    ----------
    found : RangeTest
        What `fastopt.lr_range_test` returned.
    ax : matplotlib axes, optional
        Where to draw. Default: a new figure of pyplot's.

    Returns
    -------
    matplotlib axes

    Raises
    ------
    FastoptError
        If an argument does not fit, or matplotlib is not installed.
    """
    if not isinstance(found, RangeTest):
        raise DTypeError(f"found must be what fastopt.lr_range_test returned, got {type(found).__name__}")
    ax = _axes(ax)
    ax.plot(found.rates, found.losses, color=BLUE, lw=0.8, alpha=0.3)
    ax.plot(found.rates, found.smoothed, color=BLUE, lw=1.8, label="smoothed loss")
    if math.isfinite(found.suggestion):
        ax.axvline(found.suggestion, color=VERMILION, ls="--", lw=1.2, label=f"suggestion: {found.suggestion:.2g}")
    ax.axvline(
        found.lowest_tenth, color=BLACK, ls=":", lw=1.2, label=f"a tenth of the lowest: {found.lowest_tenth:.2g}"
    )
    seen = found.smoothed[np.isfinite(found.smoothed)]
    if len(seen):  # what explodes at the end would press all else flat
        low, high = float(seen.min()), float(seen[: max(1, int(seen.argmin()) + 1)].max())
        ax.set_ylim(low - 0.3 * (high - low or 1.0), high + 0.4 * (high - low or 1.0))
    ax.set_xscale("log")
    return _finished(ax, "rate", "loss")


def plot_heatmap(
    rates: Sequence[float],
    betas: Sequence[float],
    values: Any,
    ax: Any = None,
    *,
    log: bool = True,
    limits: tuple[float, float] | None = None,
    label: str = "loss",
    title: str | None = None,
) -> Any:
    """Draw a value, such as the loss, for every rate and every beta. Light is less; a star marks the least.

    Parameters
    ----------
    rates, betas : sequences of floats
        What the columns and the rows stand for.
    values : array_like, shape (len(betas), len(rates))
        As `rate_beta_grid` returns them. A cell whose value is not finite has a cross and no colour.
    ax : matplotlib axes, optional
        Where to draw. Default: a new figure of pyplot's.
    log : bool, default True
        Whether colours follow the logarithm; values that are not positive are then coloured as the least that is.
    limits : pair of floats, optional
        What is below the first is coloured like it; what is above the second, as if it were not finite. The loss before the
        first step is a good second: what ends above it diverges. Default: the least and the greatest finite value.
    label : str, default "loss"
        What the values are, for the colour bar.
    title : str, optional

    Returns
    -------
    matplotlib axes

    Raises
    ------
    FastoptError
        If an argument does not fit, or matplotlib is not installed.
    """
    rates, betas = (checks.real_array(n, v).ravel().tolist() for n, v in (("rates", rates), ("betas", betas)))
    grid = checks.real_array("values", values)
    if grid.shape != (len(betas), len(rates)) or not grid.size:
        raise ShapeError(f"values must have shape (len(betas), len(rates)), {len(betas), len(rates)}, got {grid.shape}")
    log = checks.flag("log", log)
    bad = ~np.isfinite(grid)
    if limits is not None:
        low, high = checks.pair(checks.number())("limits", limits)
        if not low < high or (log and low <= 0):
            raise HyperParameterError(
                f"limits must rise{', from above 0 with log=True' if log else ''}, got {limits!r}"
            )
        bad |= grid > high
    else:
        known = grid[~bad & (grid > 0)] if log and (grid[~bad] > 0).any() else grid[~bad]
        low, high = (float(known.min()), float(grid[~bad].max())) if known.size else (1.0, 2.0)
    if log and low > 0:  # beyond, the ticks of matplotlib overflow
        low, high = np.clip((low, high), 1e-200, 1e200).tolist()
    high = high if high > low else low + max(1.0, abs(low))
    ax = _axes(ax)
    colors = need("matplotlib.colors", "plot")
    norm = (colors.LogNorm if log and low > 0 else colors.Normalize)(low, high)
    shown = np.ma.masked_array(np.maximum(grid, low), bad)
    mesh = ax.imshow(shown, cmap="viridis_r", norm=norm, aspect="auto", origin="lower")
    rows, columns = np.nonzero(bad)
    ax.plot(columns, rows, "x", color="#888888", ms=5)
    if not bad.all():
        at = np.unravel_index(np.argmin(np.where(bad, np.inf, grid)), grid.shape)
        ax.plot(at[1], at[0], "*", ms=16, mfc="white", mec="black", label="least")
    for axis, numbers in ((ax.xaxis, rates), (ax.yaxis, betas)):
        axis.set_ticks(range(len(numbers)), [f"{x:.3g}" for x in numbers])
    ax.tick_params(axis="x", rotation=45)
    ax.set(xlabel="rate", ylabel="beta")
    if title is not None:
        ax.set_title(title)
    ax.figure.colorbar(mesh, ax=ax, label=label)
    return ax
