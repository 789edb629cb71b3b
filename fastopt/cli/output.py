"""What the commands print and draw: tables, bars, JSON, curves of losses."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from ..checks import need
from .runs import Result

#: Endings of pictures that stand still.
STILL = (".png", ".pdf", ".svg")


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Help that states a default where there is one and the text has not."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        if action.default in (None, False, []) or "default:" in text:
            return text
        return super()._get_help_string(action)


def progress(total: int | None, unit: str = "pass", **options: Any) -> Any:
    """A bar on standard error, where that is a terminal."""
    return need("tqdm", "cli").tqdm(total=total, unit=unit, leave=False, disable=None, **options)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Columns side by side; those named in `left` begin at the same place, the others end there."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(header))]
    return "\n".join(
        "  ".join(
            c.ljust(w) if k in left else c.rjust(w) for k, (c, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def as_json(figures: dict[str, Any]) -> str:
    """One object on one line; what is not finite is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(v) for key, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return value

    return json.dumps(plain(figures), allow_nan=False)


def draw(results: Sequence[Result], path: str, title: str) -> None:
    """The held-out loss of each model after each pass, or the progressive loss of a stream after each piece."""
    from ..viz.pictures import new_figure

    figure = new_figure(figsize=(7, 4.5))
    axes = figure.add_subplot()
    stream = bool(results[0].at)
    for k, r in enumerate(results):
        axes.plot(
            r.at or range(1, len(r.losses) + 1),
            r.losses,
            marker=None if stream else "osv^D<>pPX"[k % 10],
            ls=["-", "--", ":", "-."][k % 4],
            label=r.name,
            ms=5,
            lw=1.4,
        )
    if stream:
        axes.set(xlabel="rows", ylabel="progressive loss", title=title)
    else:
        axes.set(xlabel="pass over the training rows", ylabel="held-out loss", title=title)
        axes.xaxis.set_major_locator(need("matplotlib.ticker", "plot").MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend(ncols=2, frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)
