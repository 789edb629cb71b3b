"""What a claim is, how its experiment is judged, and how it becomes a section of the page.

The verdict is computed. An experiment returns checks: sentences with a condition. All true: the
claim held; none: it did not; else it held in part.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

HELD, IN_PART, NOT_HELD = "held", "held in part", "did not hold"
OVERVIEW = "overview"  # S. Ruder, An overview of gradient descent optimization algorithms, 2016/17
HIGHLIGHTS = "highlights"  # S. Ruder, Optimization for deep learning highlights in 2017
BATCHES, PATHS, ADAPTIVE, ANNEALING, PARALLEL, STRATEGIES, GENERALIZATION = THEMES = (
    "Batches and rates",
    "Ravines, curved surfaces, saddle points",
    "Adaptive methods",
    "Annealing, restarts, averages",
    "Parallel training",
    "Strategies around the update",
    "Minima and generalization",
)  # in the order of the page
TUNING = 1000  # seeds from here on choose rates, those below judge
MOST_BYTES = 80_000  # of a picture


@dataclass(frozen=True)
class Check:
    """A condition that the claim implies; `found` says in figures what was seen."""

    says: str
    true: bool
    found: str = ""


@dataclass
class Result:
    """What an experiment found: `setup` in words, a table, the checks, and notes that judge nothing."""

    setup: str
    head: Sequence[str]
    rows: Sequence[Sequence[Any]]
    checks: Sequence[Check]
    notes: Sequence[str] = ()
    pictures: list[tuple[str, str]] = field(default_factory=list)  # file, what it shows

    @property
    def verdict(self) -> str:
        return verdict(self.checks)


def verdict(checks: Iterable[Check]) -> str:
    """One of HELD, IN_PART and NOT_HELD."""
    true = [bool(check.true) for check in checks]
    if not true:
        raise ValueError("a claim needs at least one check")
    return HELD if all(true) else IN_PART if any(true) else NOT_HELD


@dataclass(frozen=True)
class Claim:
    """One claim of a survey, in our words, and the function that runs its experiment."""

    name: str
    title: str
    says: str
    source: str
    theme: str
    run: Callable[[Study], Result]


CLAIMS: dict[str, Claim] = {}


def ordered() -> list[Claim]:
    """All claims in the order of the page."""
    return sorted(CLAIMS.values(), key=lambda entry: THEMES.index(entry.theme))


def claim(title: str, says: str, source: str, theme: str) -> Callable[[Callable[[Study], Result]], Any]:
    """Register the experiment of a claim under the name of its function."""

    def register(run: Callable[[Study], Result]) -> Callable[[Study], Result]:
        name = run.__name__.replace("_", "-")
        if name in CLAIMS:
            raise ValueError(f"there are two claims {name}")
        CLAIMS[name] = Claim(name, title, " ".join(says.split()), source, theme, run)
        return run

    return register


class Study:
    """How much is done, and where the pictures go."""

    def __init__(self, name: str, pictures: Path, quick: bool = False) -> None:
        self.name, self.directory, self.quick = name, pictures, quick
        self.pictures: list[tuple[str, str]] = []

    def seeds(self, n: int) -> range:
        return range(min(n, 2) if self.quick else n)

    def tuning(self, n: int) -> range:
        return range(TUNING, TUNING + (1 if self.quick else n))

    def much(self, n: int, least: int = 1) -> int:
        """`n` epochs or steps, of which a quick run does a tenth."""
        return max(n // 10, least) if self.quick else n

    @contextmanager
    def picture(self, shows: str, columns: int = 1, wide: float = 6.4, high: float = 3.6) -> Iterator[Any]:
        """Axes to draw on, saved when the block ends; an array of axes if there are several."""
        from matplotlib.figure import Figure  # no pyplot: nothing global, and it runs in any process

        figure = Figure(figsize=(wide, high), layout="constrained")
        yield figure.subplots(1, columns)
        file = f"{self.name}-{len(self.pictures) + 1}.png" if self.pictures else f"{self.name}.png"
        (self.directory / file).write_bytes(png(figure))
        self.pictures.append((file, shows))


def png(figure: Any) -> bytes:
    """The figure as a small file: without transparency, and without more colours than a palette holds."""
    from PIL import Image  # a dependency of matplotlib

    raw, small = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png", dpi=100)
    image = Image.open(raw).convert("RGB")
    # Steps of 8 merge the blends at the edges of lines, and leave the colours of the lines apart.
    image = image.point([min(255, round(k / 8) * 8) for k in range(256)] * 3)
    few = image.getcolors(256)
    (image.quantize(256, dither=Image.Dither.NONE) if few else image).save(small, format="png", optimize=True)
    if small.tell() > MOST_BYTES:
        raise ValueError(f"a picture of {small.tell()} bytes is larger than {MOST_BYTES}")
    return small.getvalue()


# --------------------------------------------------------------------------------------------------------- statistics


def spread(values: Any, form: str = ".3g") -> str:
    """Mean and standard deviation over the seeds."""
    found = np.asarray(values, np.float64)
    if not np.isfinite(found).all():
        bad = int((~np.isfinite(found)).sum())
        return f"diverges ({bad} of {len(found)})"
    return f"{found.mean():{form}} ± {found.std(ddof=1):{form}}" if len(found) > 1 else f"{found[0]:{form}}"


def below(a: Any, b: Any) -> bool:
    """Whether `a` is below `b`, seed by seed, by more than chance: the 95 % interval of the mean difference excludes 0.

    Where a run diverged, `a` must be the smaller one for every seed.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return bool((np.nan_to_num(a, nan=math.inf) < np.nan_to_num(b, nan=math.inf)).all())
    d = a - b
    if len(d) < 2 or d.std() == 0:
        return bool(d.mean() < 0)
    return bool(d.mean() + stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / math.sqrt(len(d)) < 0)


def same(a: Any, b: Any, within: float) -> bool:
    """Whether the means differ by `within` at most, or by less than chance explains."""
    return bool(abs(np.mean(a) - np.mean(b)) <= within) or not (below(a, b) or below(b, a))


def wins(a: Any, b: Any) -> str:
    """How often `a` is the smaller one."""
    return f"{int((np.asarray(a) < np.asarray(b)).sum())} of {len(a)} seeds"


def chosen(
    grid: Sequence[Any], score: Callable[[Any, int], float], seeds: Iterable[int]
) -> tuple[Any, dict[Any, float]]:
    """The entry of `grid` with the least mean score over `seeds`, and all means; what is not finite counts as worst."""
    seeds = list(seeds)
    means = {x: float(np.mean([score(x, seed) for seed in seeds])) for x in grid}
    return min(grid, key=lambda x: means[x] if math.isfinite(means[x]) else math.inf), means


def at_edge(grid: Sequence[Any], best: Any) -> str:
    """A word of warning where the best rate lies at the end of its grid."""
    return " (end of the grid)" if best in (grid[0], grid[-1]) else ""


# --------------------------------------------------------------------------------------------------------------- page


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; numbers are right-aligned."""
    lines = [[str(cell).replace("|", r"\|") for cell in row] for row in [head, *rows]]
    marks = ["---" if i == 0 else "--:" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [lines[0], marks, *lines[1:]])


def section(entry: Claim, result: Result) -> str:
    """The claim with its experiment, figures and verdict, in Markdown."""
    checks = "\n".join(
        f"- **{'yes' if check.true else 'no'}**: {check.says}{f' ({check.found})' if check.found else ''}"
        for check in result.checks
    )
    parts = [
        f'<a id="{entry.name}"></a>\n### {entry.title}',
        f"*Claim* ({entry.source}): {entry.says}",
        f"*Experiment*: {' '.join(result.setup.split())}",
        table(result.head, result.rows),
        *(f"![{shows}](survey/{file})" for file, shows in result.pictures),
        checks,
        *(" ".join(note.split()) for note in result.notes),
        f"Verdict: **{result.verdict}**.",
    ]
    return "\n\n".join(parts)


def contents(found: dict[str, Result]) -> str:
    """The table at the top: every claim, where it is made, its verdict."""
    rows = [
        (f"[{CLAIMS[name].title}](#{name})", CLAIMS[name].source, f"**{result.verdict}**")
        for name, result in found.items()
    ]
    return table(("claim", "source", "verdict"), rows).replace("| --: | --: |", "| --- | --- |")
