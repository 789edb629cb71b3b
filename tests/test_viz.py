"""Surfaces and the paths on them as numbers; pictures by what is in them and in their files."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import fastopt
from fastopt import viz
from fastopt.cli import main
from fastopt.strategies import RangeTest
from fastopt.viz import pictures

SIX = ["sgd", "momentum", "nag", "adagrad", "adadelta", "rmsprop"]
ADAPTIVE = ["adagrad", "adadelta", "rmsprop"]
PICTURES = Path(__file__).parent.parent / "docs" / "pictures.py"

needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="the extra plot is not installed"
)


def frames(path: Path) -> list[float]:
    """The duration of each frame of a GIF, in milliseconds."""
    from PIL import Image, ImageSequence

    with Image.open(path) as image:
        assert image.format == "GIF" and image.info["loop"] == 0
        return [frame.info["duration"] for frame in ImageSequence.Iterator(image)]


def six(surface: str, **options) -> dict[str, np.ndarray]:
    return {name: viz.trace(surface, name, **options) for name in SIX}


# ------------------------------------------------------------------------------------------------------------ surfaces


@pytest.mark.parametrize("surface", viz.SURFACES.values(), ids=lambda s: s.name)
def test_gradients_are_those_of_the_values(surface, rng):
    low, high = np.array(surface.domain).T
    x, y = (low + (high - low) * rng.random((50, 2))).T
    h = 1e-6
    for part, dx, dy in zip(surface.gradient(x, y), (h, 0), (0, h), strict=True):
        difference = (surface.value(x + dx, y + dy) - surface.value(x - dx, y - dy)) / (2 * h)
        assert part.shape == x.shape
        np.testing.assert_allclose(part, difference, rtol=1e-6, atol=1e-5 * np.abs(difference).max())


@pytest.mark.parametrize("surface", viz.SURFACES.values(), ids=lambda s: s.name)
def test_points_of_a_surface(surface):
    """Numbers and grids give the same; minima are minima; start and minima can be seen."""
    low, high = np.array(surface.domain).T
    x, y = np.meshgrid(*(np.linspace(*side, 41) for side in surface.domain))
    z = surface.value(x, y)
    assert z.shape == x.shape and z[3, 5] == pytest.approx(surface.value(float(x[3, 5]), float(y[3, 5])))
    for point in surface.minima:
        np.testing.assert_allclose(surface.gradient(*point), 0, atol=1e-12)
        assert surface.value(*point) <= z.min() + 1e-20 and surface.value(*point) == pytest.approx(0, abs=1e-20)
    seen = np.array([surface.start, *surface.minima])
    assert surface.inside(seen).all() and not surface.inside(high + 0.01) and not surface.inside(low - 0.01)
    assert not surface.there(np.array(surface.start)) and surface.width == (high - low).max()


def test_arrival_is_the_first_step_and_the_first_for_good():
    valley = viz.SURFACES["valley"]
    path = np.array([[1.0, 0], [0.05, 0], [1.0, 0], [0.0, 0.1], [0.0, 0]])
    assert valley.arrival(path) == (1, 3)
    assert valley.arrival(path[:3]) == (1, None)
    assert valley.arrival(path[:1]) == (None, None) and valley.arrival(path[4:]) == (0, 0)
    assert valley.arrival(path, within=0.01) == (4, 4)
    flown = np.array([[1.0, 0], [0, 0], [np.nan, np.nan]])  # given up: it has not stayed
    assert valley.arrival(flown) == (1, None) and valley.arrival(flown[[0, 2, 1]]) == (2, 2)
    assert valley.arrival(flown[2:]) == viz.SURFACES["saddle"].arrival(flown[2:]) == (None, None)
    gone = np.array([[1.0, 0.1], [0.1, 1.0], [0.1, 1.1], [np.nan, np.nan]])  # y^2 - x^2 > 1 has left
    assert viz.SURFACES["saddle"].arrival(gone) == (2, 2)


# --------------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("name", [*SIX, "adam"])
def test_a_trace_is_stepping_by_hand(name):
    surface = viz.SURFACES["beale"]
    options = {"momentum": 0.9, "nesterov": name == "nag"} if name in ("momentum", "nag") else {}
    cls = fastopt.Optimizer.known["sgd" if options else name]
    x = np.array(surface.start)
    opt = cls(x, lr=viz.default_rate(surface, name), **options)
    want = [x.copy()]
    for _ in range(30):
        opt.step(np.array(surface.gradient(*x)))
        want.append(x.copy())
    assert (viz.trace("beale", name, steps=30) == want).all()


def test_what_a_trace_takes():
    path = viz.trace("valley", "adam", lr=0.1, betas=(0.5, 0.9), start=(1, -1), steps=20)
    assert path.shape == (21, 2) and path.dtype == np.float64 and (path[0] == [1, -1]).all()
    made = viz.trace("valley", lambda p: fastopt.Adam(p, lr=0.1, betas=(0.5, 0.9)), start=np.array([1, -1]), steps=20)
    named = viz.trace(
        viz.SURFACES["valley"], fastopt.Adam, lr=lambda k: 0.1, betas=(0.5, 0.9), start=[1.0, -1], steps=20
    )
    assert (made == path).all() and (named == path).all()
    assert len(viz.trace("valley", "sgd")) == viz.SURFACES["valley"].steps + 1
    assert len(viz.trace("valley", "sgd", steps=0)) == 1


def test_noise_comes_from_the_seed():
    plain, one, same, other = (
        viz.trace("valley", "sgd", noise=noise, seed=seed, steps=5)
        for noise, seed in ((0, 0), (0.1, 1), (0.1, 1), (0.1, 2))
    )
    assert (one == same).all() and (one[1:] != plain[1:]).all() and (one[1:] != other[1:]).all()


def test_a_path_that_is_far_away_is_given_up():
    path = viz.trace("beale", "sgd", lr=1.0, steps=50)
    known = np.isfinite(path).all(axis=1)
    assert known[0] and not known[-1] and (np.diff(known.astype(int)) <= 0).all()
    assert np.abs(path[known]).max() < 1000 and viz.SURFACES["beale"].arrival(path) == (None, None)


def test_default_rates():
    assert viz.default_rate("saddle", "sgd") == viz.default_rate("saddle", "nag") == viz.SURFACES["saddle"].slope
    assert viz.default_rate("saddle", "rmsprop") == 0.007
    assert viz.default_rate("saddle", "lion") == viz.default_rate("saddle", "adam") == 0.02
    assert viz.default_rate("saddle", "prodigy") == 1.0
    for name in (set(fastopt.Optimizer.known) | set(SIX)) - {"muon"}:  # for matrices
        assert np.isfinite(viz.trace("valley", name, steps=3)).all(), name


@pytest.mark.parametrize(
    ("arguments", "options", "word"),
    [
        (("beal", "sgd"), {}, "'beale'"),
        ((3, "sgd"), {}, "there is no surface 3"),
        (("beale", "adamm"), {}, "'adam'"),
        (("beale", 3), {}, "optimizer must be"),
        (("beale", fastopt.SGD(np.zeros(2))), {}, "optimizer must be"),
        (("beale", lambda p: None), {}, "NoneType"),
        (("beale", lambda p: fastopt.SGD(p)), {"lr": 0.1, "momentum": 0.9}, "drop lr, momentum"),
        (("beale", "sgd"), {"lr": -1.0}, "lr must be"),
        (("beale", "sgd"), {"steps": -1}, "steps must be"),
        (("beale", "sgd"), {"start": (1, 2, 3)}, "start must be a pair"),
        (("beale", "sgd"), {"start": (1, np.nan)}, "start"),
        (("beale", "sgd"), {"start": (1e200, 1)}, "at most 100 widths"),
        (("beale", "sgd"), {"noise": -1}, "noise must be"),
        (("beale", "sgd"), {"seed": 0.5}, "seed must be"),
        (("beale", "sgd"), {"betas": (0.9, 0.9)}, "betas"),
        (("beale", "muon"), {}, "matrices"),
    ],
)
def test_mistakes_of_a_trace(arguments, options, word):
    with pytest.raises(fastopt.FastoptError, match=word.replace("(", r"\(")):
        viz.trace(*arguments, **options)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"value": 3}, "value must be a callable"),
        ({"domain": (0, 1)}, "domain"),
        ({"domain": ((0, 1), (1, 1))}, "domain must be the least and"),
        ({"start": (0, np.nan)}, "start"),
        ({"slope": -1}, "slope"),
        ({"steps": 1.5}, "steps"),
        ({"minima": (1.0, 2.0)}, r"minima\[0\]"),
        ({"levels": "lgo"}, "'log'"),
        ({"solid": 1}, "solid"),
    ],
)
def test_mistakes_of_a_surface(change, word):
    with pytest.raises(fastopt.HyperParameterError, match=word):
        dataclasses.replace(viz.SURFACES["beale"], **change)


def test_the_facts_of_the_saddle():
    """SGD is last, momentum and NAG swing across the saddle first, the adaptive ones leave at once."""
    saddle = viz.SURFACES["saddle"]
    paths = six("saddle", steps=400)
    left = {name: saddle.arrival(path)[1] for name, path in paths.items()}
    assert all(left.values())
    assert max(left[n] for n in ADAPTIVE) < 0.6 * min(left["nag"], left["momentum"])
    assert left["nag"] <= left["momentum"] < 0.3 * left["sgd"]
    swing = {name: np.nanmin(path[:, 0]) for name, path in paths.items()}  # from x = 1; the saddle is at 0
    assert swing["momentum"] < swing["nag"] < -0.1 and swing["sgd"] > 0 and all(swing[n] > -0.02 for n in ADAPTIVE)
    first = {name: path[5, 1] / saddle.start[1] for name, path in paths.items()}  # the way down, after 5 steps
    assert all(first[n] > 10 for n in ADAPTIVE) and all(first[n] < 2 for n in ("sgd", "momentum", "nag"))


def test_the_facts_of_the_curved_surface():
    """The adaptive ones head for the minimum at once; momentum and NAG overshoot it, NAG less and not for so long."""
    beale = viz.SURFACES["beale"]
    paths, goal = six("beale"), np.array(beale.minima[0])

    def off(path):  # the angle between the first three steps and the way to the minimum, in degrees
        a, b = path[3] - path[0], goal - path[0]
        return np.degrees(np.arccos(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))

    angles = {name: off(path) for name, path in paths.items()}
    assert max(angles[n] for n in ADAPTIVE) < 15 < 30 < min(angles[n] for n in ("sgd", "momentum", "nag"))
    beyond = {name: np.nanmax(path[:, 0]) - goal[0] for name, path in paths.items()}
    assert beyond["momentum"] > beyond["nag"] > 0.5 and max(beyond[n] for n in ADAPTIVE) < 0.1
    there = {name: beale.arrival(path) for name, path in paths.items()}
    assert max(there[n][0] for n in ADAPTIVE) < there["nag"][1] < there["momentum"][1]
    assert there["sgd"] == (None, None)


# --------------------------------------------------------------------------------------------------------------- grids


def test_a_grid_is_run_by_run():
    rates, betas = [0.01, 0.1, 1e9], [0.0, 0.5, 0.9]
    grid = viz.rate_beta_grid("valley", "sgd", rates, betas, steps=40)
    assert grid.shape == (3, 3) and np.isinf(grid[:, 2]).all()
    for row, beta in enumerate(betas):
        for column in (0, 1):
            path = viz.trace("valley", "sgd", lr=rates[column], momentum=beta, steps=40)
            assert grid[row, column] == viz.SURFACES["valley"].value(*path[-1])


def test_a_grid_of_a_problem_and_what_beta_means():
    def bowl(x):
        return (x**2).sum(), 2 * x

    start = np.ones((2, 3), np.float32)
    grid = viz.rate_beta_grid(bowl, "adam", [0.1], [0.5, 0.9], start=start, steps=20)
    x = np.ones((2, 3))
    opt = fastopt.Adam(x, lr=0.1, betas=(0.5, 0.999))
    for _ in range(20):
        opt.step(2 * x)
    assert grid[0, 0] == (x**2).sum() != grid[1, 0] and (start == 1).all()
    by_alpha = viz.rate_beta_grid(bowl, "rmsprop", [0.1], [0.5], option="alpha", start=start, steps=20)
    assert by_alpha != viz.rate_beta_grid(bowl, "rmsprop", [0.1], [0.5], start=start, steps=20)  # momentum
    with pytest.raises(fastopt.HyperParameterError, match="start is needed"):
        viz.rate_beta_grid(bowl, "adam", [0.1], [0.5])
    with pytest.raises(fastopt.UnsupportedError, match="Adagrad has no option 'beta'"):
        viz.rate_beta_grid("valley", "adagrad", [0.1], [0.5])
    with pytest.raises(fastopt.HyperParameterError, match="momentum"):
        viz.rate_beta_grid("valley", "sgd", [0.1], [1.5])
    for more, word in [
        ({"lr": 1}, "drop lr"),
        ({"momentum": 0.9}, "drop momentum"),
        ({"option": "lr"}, "drop lr"),
        ({"start": [1, 2, 3]}, r"start must be a point .* \(3,\)"),
        ({"start": "a"}, "start must be real numbers"),
    ]:
        with pytest.raises(fastopt.FastoptError, match=word):
            viz.rate_beta_grid("valley", "sgd", [0.1], [0.5], **more)
    assert np.isinf(viz.rate_beta_grid(lambda x: (np.nan, x), "sgd", [0.1], [0.5], start=start)).all()


# ------------------------------------------------------------------------------------------------------------ pictures


@pytest.fixture
def pyplot():
    pytest.importorskip("matplotlib")
    import matplotlib.pyplot as plt

    before = plt.rcParams["backend"]
    plt.switch_backend("agg")
    yield plt
    plt.close("all")
    plt.switch_backend(before)


def range_test(suggestion: float = 0.1) -> RangeTest:
    rates, losses = np.logspace(-3, 1, 5), np.array([2.0, 1.9, 1.0, 0.5, 1e9])
    return RangeTest(rates, losses, losses + 0.1, suggestion, 0.1)


DRAW = {
    "paths": (lambda ax: viz.plot_paths("beale", six("beale", steps=20), ax), None),
    "paths_3d": (lambda ax: viz.plot_paths_3d("saddle", six("saddle", steps=20), ax), "3d"),
    "losses": (lambda ax: viz.plot_losses({"adam": [3.0, 2.0, 1.0]}, ax), None),
    "schedules": (lambda ax: viz.plot_schedules({"flat": lambda step: 0.1}, 10, ax), None),
    "heatmap": (lambda ax: viz.plot_heatmap([0.1, 0.2], [0.9], [[1.0, 2.0]], ax), None),
    "rates": (lambda ax: viz.plot_rates(range_test(), ax), None),
}


@pytest.mark.parametrize("what", DRAW)
def test_axes_are_made_or_taken(what, pyplot, tmp_path):
    draw, projection = DRAW[what]
    made = draw(None)
    assert pyplot.get_fignums() == [made.figure.number]
    pyplot.close("all")
    figure = pictures.new_figure()
    ax = figure.add_subplot(projection=projection)
    assert draw(ax) is ax and pyplot.get_fignums() == []
    figure.savefig(tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    wrong = figure.add_subplot(projection=None if projection else "3d")
    with pytest.raises(fastopt.HyperParameterError, match="ax must be axes"):
        draw(wrong)
    with pytest.raises(fastopt.HyperParameterError, match="ax must be axes"):
        draw(3)


@needs_matplotlib
def test_paths_are_drawn_as_they_are():
    paths = six("beale", steps=20)
    ax = viz.plot_paths("beale", paths, pictures.new_figure().add_subplot())
    by_color = {line.get_color(): line.get_xydata() for line in ax.lines if len(line.get_xydata()) == 21}
    for name, path in paths.items():
        assert (by_color[viz.styles([name])[name]["color"]] == path).all()
    drawn = [
        next(line for line in ax.lines if line.get_xydata().shape == (21, 2) and (line.get_xydata() == path).all())
        for path in paths.values()
    ]
    wide, high = ([getattr(line, f"get_{what}")() for line in drawn] for what in ("linewidth", "zorder"))
    assert (np.diff(wide) < 0).all() and (np.diff(high) > 0).all()  # so that of lines on one another each is seen
    (star,) = (line for line in ax.lines if line.get_marker() == "*")
    assert star.get_xydata().tolist() == [list(viz.SURFACES["beale"].minima[0])]
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == [*SIX, "start", "minimum"] and ax.get_title() == "Beale"


@pytest.mark.parametrize("layout", ["constrained", None])
def test_nothing_lies_outside_of_the_picture_or_over_another_legend(layout, pyplot):
    figure, axes = pyplot.subplots(1, 2, layout=layout, figsize=(10, 4))
    for ax in axes:
        viz.plot_paths("beale", six("beale", steps=5), ax)
    figure.canvas.draw()
    boxes = [ax.get_legend().get_window_extent() for ax in axes]
    whole = figure.bbox
    assert all(b.x0 >= whole.x0 and b.x1 <= whole.x1 and b.y0 >= whole.y0 and b.y1 <= whole.y1 for b in boxes)
    assert not boxes[0].overlaps(axes[1].get_window_extent()) and not boxes[0].overlaps(boxes[1])


@needs_matplotlib
def test_a_line_in_three_dimensions_ends_where_its_path_leaves():
    path = viz.trace("saddle", "adagrad")
    ax = viz.plot_paths_3d("saddle", {"adagrad": path}, pictures.new_figure().add_subplot(projection="3d"), title="T")
    assert not ax.computed_zorder  # which would hide lines in the surface
    x, y, z = next(line for line in ax.lines if len(line.get_data_3d()[0]) == len(path)).get_data_3d()
    inside = np.abs(path[:, 1]) <= 1.5
    assert np.isfinite(x).tolist() == inside.tolist() and not inside.all()
    np.testing.assert_array_equal(z[inside], x[inside] ** 2 - y[inside] ** 2)
    assert ax.get_title() == "T"
    heads = [line for line in ax.lines if line.get_marker() == viz.styles(["adagrad"])["adagrad"]["marker"]]
    assert np.ravel(heads[0].get_data_3d()[:2]).tolist() == path[inside][-1].tolist()


@needs_matplotlib
def test_a_start_out_of_sight_does_not_flatten_the_surface():
    seen = []
    for start in ((1.0, -1.0), (5.0, 5.0)):
        ax = pictures.new_figure().add_subplot(projection="3d")
        viz.plot_paths_3d("beale", {"sgd": viz.trace("beale", "sgd", start=start, steps=2)}, ax)
        seen.append(ax.get_zlim())
    assert seen[0] == seen[1]


@needs_matplotlib
@pytest.mark.parametrize("solid", [False, True])
def test_a_legend_of_the_whole_catalogue_leaves_room_for_the_picture(solid):
    paths = {name: np.ones((2, 2)) for name in [*fastopt.Optimizer.known, "momentum", "nag"]}
    figure = pictures.new_figure(figsize=(6.4, 4.2))
    ax = figure.add_subplot(projection="3d" if solid else None)
    (viz.plot_paths_3d if solid else viz.plot_paths)("beale", paths, ax)
    figure.draw_without_rendering()
    figure.canvas.draw()
    box = ax.get_legend().get_window_extent()
    assert box.y0 >= 0 and box.x1 <= figure.bbox.x1
    assert ax.bbox.width > 0.3 * figure.bbox.width and ax.bbox.height > 0.7 * figure.bbox.height


@needs_matplotlib
@pytest.mark.parametrize("levels", ["even", "log"])
def test_surfaces_with_holes_and_flat_ones_are_drawn(levels):
    def log(x, y):
        with np.errstate(all="ignore"):
            return np.log(x) + y

    for value in (log, lambda x, y: 0 * x):
        surface = dataclasses.replace(viz.SURFACES["saddle"], value=value, levels=levels)
        for draw, projection in ((viz.plot_paths, None), (viz.plot_paths_3d, "3d")):
            ax = pictures.new_figure().add_subplot(projection=projection)
            draw(surface, {"a": np.ones((2, 2))}, ax).figure.canvas.draw()


def test_an_optimizer_looks_the_same_everywhere_and_unlike_the_others():
    every = [*fastopt.Optimizer.known, "momentum", "nag"]
    looks = viz.styles(every)
    assert list(looks) == every
    assert len({tuple(look[k] for k in ("color", "linestyle")) for look in looks.values()}) >= len(every) - 7
    assert len({tuple(look.values()) for look in looks.values()}) == len(every)
    for name in every:
        assert viz.styles(["mine", name])[name] == looks[name]
    mine = viz.styles(["mine", "sgd", "yours"])
    assert list(mine) == ["mine", "sgd", "yours"]
    assert len({look["color"] for look in mine.values()}) == 3
    assert len({tuple(look.values()) for look in viz.styles([str(k) for k in range(20)]).values()}) == 20


@needs_matplotlib
def test_an_animation_has_its_frames(tmp_path):
    paths = {"sgd": viz.trace("saddle", "sgd", steps=10), "adam": viz.trace("saddle", "adam", steps=7)}
    ticks = []
    count = viz.animate_paths("saddle", paths, tmp_path / "a.gif", fps=10, hold=1.0, tick=lambda: ticks.append(1))
    assert count == 11 == len(ticks) and frames(tmp_path / "a.gif") == [100] * 10 + [1000]
    count = viz.animate_paths("saddle", paths, tmp_path / "b.gif", every=4, solid=False, size=(3, 2), title="T")
    assert count == 4 == len(frames(tmp_path / "b.gif"))  # steps 0, 4, 8, 10
    viz.animate_paths("saddle", paths, tmp_path / "c.gif", every=5, fps=10, hold=0.0)
    assert frames(tmp_path / "c.gif") == [100] * 3


@needs_matplotlib
@pytest.mark.parametrize("solid", [False, True])
def test_of_what_moves_nothing_shines_through_from_another_frame(solid, tmp_path):
    """Least of all the number of the last step behind that of the first."""
    from PIL import Image

    path, first = viz.trace("saddle", "adam", steps=88), []
    for name, steps in (("a.gif", 89), ("b.gif", 1)):
        viz.animate_paths("saddle", {"adam": path[:steps]}, tmp_path / name, every=88, solid=solid)
        with Image.open(tmp_path / name) as image:
            first.append(np.asarray(image.convert("RGB")))
    assert (first[0] == first[1]).all()


@needs_matplotlib
def test_an_animation_shows_the_colours_of_the_lines(tmp_path):
    from PIL import Image

    viz.animate_paths("beale", six("beale"), tmp_path / "a.gif", every=60)
    with Image.open(tmp_path / "a.gif") as image:
        seen = []
        for k in (0, 3):
            image.seek(k)
            seen.append(Counter(map(tuple, np.asarray(image.convert("RGB")).reshape(-1, 3).tolist())))
    for name, look in viz.styles(SIX).items():
        color = tuple(int(look["color"][k : k + 2], 16) for k in (1, 3, 5))
        assert seen[1][color] > seen[0][color] + 50, name  # the start, and the end of a line
    assert seen[0][255, 255, 255] > 10_000 and len(seen[1]) <= 128


@needs_matplotlib
def test_smoothing_is_a_mean_without_bias():
    loss = np.array([4.0, 2.0, 1.0])
    ax = viz.plot_losses({"a": loss}, pictures.new_figure().add_subplot(), smooth=0.5, log=False)
    raw, smooth = (line.get_ydata() for line in ax.lines)
    assert (raw == loss).all() and ax.get_yscale() == "linear"
    np.testing.assert_allclose(smooth, [4, (2 + 0.5 * 4) / 1.5, (1 + 0.5 * 2 + 0.25 * 4) / 1.75])

    class History:
        loss = [3.0, 2.0]

    ax = viz.plot_losses({"adam": History()}, pictures.new_figure().add_subplot())
    assert ax.lines[0].get_ydata().tolist() == [3, 2] and ax.get_yscale() == "log"
    assert ax.lines[0].get_color() == viz.styles(["adam"])["adam"]["color"]


@needs_matplotlib
def test_schedules_are_asked_step_by_step():
    asked = []

    def stepwise(step):
        asked.append(step)
        return 1.0 if step < 3 else 0.5

    ax = viz.plot_schedules({"s": stepwise}, 5, pictures.new_figure().add_subplot())
    assert ax.lines[0].get_ydata().tolist() == [1, 1, 1, 0.5, 0.5] and asked == [0, 1, 2, 3, 4]


@needs_matplotlib
def test_a_heat_map_marks_the_least_and_what_diverged():
    values = [[3.0, 0.0, 8.0], [2.0, np.inf, np.nan]]
    ax = viz.plot_heatmap(
        [0.1, 0.2, 0.3], [0.5, 0.9], values, pictures.new_figure().add_subplot(), label="L", title="T"
    )
    crosses, star = (line.get_xydata().tolist() for line in ax.lines)
    assert crosses == [[1, 1], [2, 1]] and star == [[1, 0]]
    shown = ax.images[0].get_array()
    assert shown.mask.tolist() == [[False] * 3, [False, True, True]] and shown[0, 1] == 2.0  # the least above 0
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0.1", "0.2", "0.3"] and ax.get_title() == "T"
    ax = viz.plot_heatmap([0.1, 0.2, 0.3], [0.5, 0.9], values, pictures.new_figure().add_subplot(), limits=(1, 5))
    assert ax.lines[0].get_xydata().tolist() == [[2, 0], [1, 1], [2, 1]]
    for grid in ([[np.inf]], [[0.0]], [[1.0]], [[1e-320, 1e308]], [[1e-320]], [[1e308]]):
        viz.plot_heatmap(
            [0.1, 0.2][: len(grid[0])], [0.5], grid, pictures.new_figure().add_subplot()
        ).figure.canvas.draw()


@needs_matplotlib
@pytest.mark.parametrize(
    ("draw", "word"),
    [
        (lambda: viz.plot_paths("beal", six("beale", steps=1)), "'beale'"),
        (lambda: viz.plot_paths("beale", {}), "paths must be a dict"),
        (lambda: viz.plot_paths("beale", [np.zeros((3, 2))]), "paths must be a dict"),
        (lambda: viz.plot_paths("beale", {"a": np.zeros((3, 3))}), r"paths\['a'\] must have shape"),
        (lambda: viz.plot_paths("beale", {"a": "abc"}), r"paths\['a'\] must be real numbers"),
        (lambda: viz.plot_losses({"a": [[1.0], [2.0, 3.0]]}), r"histories\['a'\] must be real numbers"),
        (lambda: viz.plot_schedules({"a": lambda step: None}, 3), r"schedules\['a'\] must be real numbers"),
        (lambda: viz.plot_schedules({"a": lambda step: [1, 2]}, 3), r"schedules\['a'\] must return one"),
        (lambda: viz.plot_heatmap(["a"], [0.5], [[1.0]]), "rates must be real numbers"),
        (lambda: viz.plot_heatmap([0.1], [0.5], [["a"]]), "values must be real numbers"),
        (lambda: viz.animate_paths("beale", six("beale", steps=1), None), "must end in .gif"),
        (lambda: viz.animate_paths("beale", six("beale", steps=1), "no/such/a.gif"), "folder does not exist"),
        (lambda: viz.plot_losses({"a": np.zeros((3, 3))}), r"histories\['a'\]"),
        (lambda: viz.plot_losses([1.0, 2.0]), "histories must be a dict"),
        (lambda: viz.plot_losses({"a": [1.0]}, smooth=1.0), "smooth"),
        (lambda: viz.plot_rates([0.1]), "found must be what fastopt.lr_range_test returned, got list"),
        (lambda: viz.plot_schedules({"a": 0.1}, 10), r"schedules\['a'\] must be a callable"),
        (lambda: viz.plot_schedules({"a": abs}, 0), "steps must be"),
        (lambda: viz.plot_heatmap([0.1], [0.5], [[1.0, 2.0]]), "values must have shape"),
        (lambda: viz.plot_heatmap([0.1], [0.5], [[1.0]], limits=(0, 1)), "limits must rise, from above 0"),
        (lambda: viz.animate_paths("beale", six("beale", steps=1), "a.png"), "must end in .gif"),
        (lambda: viz.animate_paths("beale", six("beale", steps=1), "a.gif", every=0), "every must be"),
        (lambda: viz.animate_paths("beale", six("beale", steps=1), "a.gif", fps=0), "fps must be"),
        (lambda: viz.animate_paths("beale", six("beale", steps=1), "a.gif", size=3), "size must be"),
    ],
)
def test_mistakes_of_pictures_leave_nothing_behind(draw, word, pyplot, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(fastopt.FastoptError, match=word):
        draw()
    assert pyplot.get_fignums() == [] and not list(tmp_path.iterdir())


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in [n for n in sys.modules if n.startswith("matplotlib.")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(fastopt.UnsupportedError, match=r'matplotlib.*pip install "fastopt\[plot\]"'):
        viz.plot_losses({"a": [1.0]})


def test_matplotlib_is_imported_when_something_is_drawn():
    code = (
        "import sys, fastopt; assert 'fastopt.viz' not in sys.modules; fastopt.viz.trace('beale', 'sgd', steps=2); "
        "assert not {'matplotlib', 'PIL', 'tqdm', 'sklearn', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# -------------------------------------------------------------------------------------------------------- command line


@needs_matplotlib
def test_compare(tmp_path, capsys):
    gif, still = tmp_path / "a.gif", tmp_path / "a.png"
    options = ["--optimizers", "sgd,adagrad", "--lr", "sgd=0.05", "--steps", "400"]
    assert main(["compare", "--surface", "saddle", *options, "--out", str(gif), "--still", str(still)]) == 0
    lines = capsys.readouterr().out.splitlines()
    left = viz.SURFACES["saddle"].arrival(viz.trace("saddle", "sgd", lr=0.05, steps=400))[0]
    assert lines[0].split() == ["saddle,", "400", "steps", "rate", "left", "the", "saddle", "last", "value"]
    assert lines[1].split()[:3] == ["sgd", "0.05", str(left)] and lines[2].split()[:3] == ["adagrad", "0.12", "14"]
    assert str(gif) in lines[3] and str(still) in lines[4]
    assert len(frames(gif)) == 135 and still.read_bytes().startswith(b"\x89PNG")  # every third step


@needs_matplotlib
@pytest.mark.parametrize(
    ("arguments", "solid"),
    [
        (["--surface", "saddle"], True),
        (["--surface", "saddle", "--no-3d"], False),
        (["--surface", "beale"], False),
        (["--surface", "beale", "--3d"], True),
    ],
)
def test_compare_in_two_or_three_dimensions(arguments, solid, tmp_path, monkeypatch):
    drawn = []
    for name, kind in (("plot_paths", False), ("plot_paths_3d", True)):
        monkeypatch.setattr(viz, name, lambda *a, kind=kind, **k: drawn.append(kind))
    monkeypatch.setattr(viz, "animate_paths", lambda *a, **k: (drawn.append(k["solid"]), open(a[2], "w").close()))
    files = ["--out", str(tmp_path / "a.gif"), "--still", str(tmp_path / "a.png")]
    assert main(["compare", "--steps", "1", *arguments, *files]) == 0
    assert drawn == [solid, solid]


def test_compare_says_what_was_given_up(capsys):
    options = ["--optimizers", "sgd, momentum", "--lr", "sgd=100", "--steps", "5"]
    assert main(["compare", "--surface", "beale", *options]) == 0
    sgd, momentum = (line.split() for line in capsys.readouterr().out.splitlines()[1:])
    assert sgd == ["sgd", "100", "never", "never", "far", "away"]
    assert momentum[0] == "momentum" and float(momentum[-1]) < 100


def test_compare_without_pictures(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["compare", "--surface", "valley", "--start", "-1", "0.5", "--noise", "0.1", "--seed", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == SIX and "for good" in lines[0]
    path = viz.trace("valley", "nag", start=(-1, 0.5), noise=0.1, seed=3)
    first, stays = viz.SURFACES["valley"].arrival(path)
    assert lines[3].split()[2:4] == [str(first), "never" if stays is None else str(stays)]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--surface", "saddel"], "'saddle'"),
        (["--optimizers", "sgd,adamm"], "'adam'"),
        (["--lr", "adam=0.1"], "one of --optimizers"),
        (["--lr", "sgd"], "is not a number"),
        (["--lr", "sgd=x"], "'x' is not a number"),
        (["--lr", "sgd=-1"], "lr must be"),
        (["--start", "1", "inf"], "start"),
        (["--start", "1e6", "1e6"], "at most 100 widths"),
        (["--steps", "-1"], "steps"),
        (["--noise", "-1"], "noise"),
        (["--out", "a.png"], "must end in .gif"),
        (["--out", "no/such/folder/a.gif"], "cannot be written"),
        (["--still", "a.gif"], ".png, .pdf or .svg"),
    ],
)
def test_mistakes_of_compare_are_one_line_and_status_2(arguments, word, capsys):
    assert main(["compare", *arguments]) == 2
    out, error = capsys.readouterr()
    assert error.startswith("fastopt: ") and word in error and error.count("\n") == 1 and not out


@needs_matplotlib
@pytest.mark.skipif(not PICTURES.exists(), reason="the documentation is not beside the tests")
def test_the_pictures_of_the_readme_are_drawn_and_small(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("pictures_docs", PICTURES)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for draw in (module.animations, module.stills, module.heatmap):
        draw(tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    readme = (PICTURES.parent.parent / "README.md").read_text()
    assert drawn == {"beale.gif", "saddle.gif", "paths.png", "heatmap.png"}
    for name in drawn:
        committed = PICTURES.parent / name
        assert f"docs/{name})" in readme and committed.stat().st_size < 1.5e6, name
        if name.endswith(".gif"):
            assert frames(committed) == frames(tmp_path / name), name


def test_a_range_test_is_drawn_up_to_where_it_explodes(pyplot):
    ax = viz.plot_rates(range_test())
    raw, smoothed, suggested, tenth = ax.lines
    assert (raw.get_ydata() == range_test().losses).all() and (smoothed.get_ydata() == range_test().smoothed).all()
    assert set(suggested.get_xdata()) == set(tenth.get_xdata()) == {0.1} and ax.get_xscale() == "log"
    low, high = ax.get_ylim()
    assert low < 0.6 and 2.1 < high < 4.0
    assert "suggestion: 0.1" in [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(viz.plot_rates(range_test(float("nan"))).lines) == 3
