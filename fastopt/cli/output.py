"""What the commands print and draw: tables, bars, curves of losses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..checks import need
from .runs import Result

#: Endings of pictures that stand still.
STILL = (".png", ".pdf", ".svg")


def progress(total: int, unit: str = "pass") -> Any:
    return need("tqdm", "cli").tqdm(total=total, unit=unit, leave=False, disable=None)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(header))]
    return "\n".join(
        "  ".join(c.ljust(w) if k == 0 else c.rjust(w) for k, (c, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    )


def draw(results: Sequence[Result], path: str, title: str) -> None:
    """The held-out loss of each model after each pass."""
    from ..viz.pictures import new_figure

    figure = new_figure(figsize=(7, 4.5))
    axes = figure.add_subplot()
    for k, r in enumerate(results):
        axes.plot(
            range(1, len(r.losses) + 1),
            r.losses,
            marker="osv^D<>pPX"[k % 10],
            ls=["-", "--", ":", "-."][k % 4],
            label=r.name,
            ms=5,
            lw=1.4,
        )
    axes.set(xlabel="pass over the training rows", ylabel="held-out loss", title=title)
    axes.xaxis.set_major_locator(need("matplotlib.ticker", "plot").MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(ncols=2, frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)
