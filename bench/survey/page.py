"""Runs the experiments and writes the page."""

from __future__ import annotations

import argparse
import re
import sys
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np

import fastopt

from . import adaptive, annealing, batches, generalization, paths
from .harness import CLAIMS, HELD, HIGHLIGHTS, IN_PART, NOT_HELD, OVERVIEW, Result, Study, contents, ordered, section

MODULES = batches, paths, adaptive, annealing, generalization  # importing them registers their claims
DOCS = Path(__file__).parents[2] / "docs"

HEAD = f"""\
# The survey, checked

Claims of two surveys by S. Ruder, in our words, each with an experiment: *An overview of gradient descent optimization
algorithms* (2016/17, arXiv 1609.04747; "{OVERVIEW}" below) and *Optimization for deep learning highlights in 2017*
("{HIGHLIGHTS}"). Sections are numbered as in the paper, figures as the images of the post on the author's site, which came
before it. This page is made by `make survey` from the code in `bench/survey`; edit that.

- Every run follows from its seed, which chooses the split of the data, the start and the order of the samples. Figures
  are means ± standard deviations over the seeds. "Clearly": the 95 % interval of the paired difference excludes 0.
- Another BLAS, or other vector units for NumPy's functions, round otherwise, and runs at the edge of divergence then end
  elsewhere. With OpenBLAS's AVX-512 kernels in place of the AVX2 ones used here, two checks of
  [sharp minima](#sharp-minima) went the other way, and no verdict.
- Where optimizers are compared, each has the rate of a grid that is best for it, chosen on other seeds than those that
  judge.
- The verdict is computed: each claim has checks. All true: *{HELD}*; some: *{IN_PART}*; none: *{NOT_HELD}*. They were
  written before the first run; what was changed after it stands [at the end](#changed-after-a-first-look).
- The networks have a few thousand weights and the data are scikit-learn's digits, or made up. That a claim holds here
  does not make it true of large networks, nor the other way round.
"""

LATER = """\
## Changed after a first look

Grids were widened where the best rate lay at their end, and seeds added where the intervals were wide; with more seeds and
data Adagrad's loss in [sparse features](#sparse-features) went from "no" to "yes". These checks are not those of the first run:

- [objective fluctuates](#objective-fluctuates): "clearly falls with each larger batch", which failed because it is 0 from 50
  on, became "falls, to 0 at last", which holds.
- [NAG](#nag-corrects): "goes less far" is asked only where momentum goes too far at all. It holds since.
- [ravine](#momentum-in-a-ravine): the check at rate 0.0395 was added, and holds; those that failed still fail.
- [annealing](#annealing-converges): that full-batch descent gets to the minimum was added, and holds.
- [saddle point](#saddle-point): the check of the symmetry was added, and holds; that of getting away fails as before.
- [annealed rates](#annealed-rates): five checks that failed became one, which fails, and a second setting, which holds.
- [which to use](#which-to-use): from the training loss to the test loss, and from "among the best two", where chance decides,
  to "no other is clearly better". On the digits it fails with each, on the documents it holds with both.
- [Adagrad stops](#adagrad-stops): the setting with random labels was added, and holds.
- [sparse features](#sparse-features): the signs of rare words, which failed, became the loss where rare words abound: the sign
  of the weight of a word that is seen once is the same with every optimizer. It fails, too.
- [Adagrad without root](#adagrad-without-root): held, at the usual eps. With eps tuned, which was added, it does not.
- [bias correction](#bias-correction): the grid ended where nothing diverges yet, so that the check of the rates could not hold.
  With the wider grid it fails, too.
- [annealed SGD](#annealed-sgd-against-adam): the checks against annealed Adam were added, and hold.
- [Adam with restarts](#adam-with-restarts): the check of the epochs was added, and holds.
- [sharp minima](#sharp-minima): at ten times the rate only the sharpness was asked for, now the curvature, too, which is larger.
  Sharpness was found by ten steps of ascent, which is too few: it came out smaller with the full
  batch. With 100 it is larger, at ten times the rate clearly.
- [batch normalization](#batch-normalization): starts at a rate of their own were added, and hold.

## Not checked yet

Downpour SGD, delay-tolerant algorithms, TensorFlow's distribution and elastic averaging (overview, 5.2 to 5.5), which
need distributed training. Optimizers found by learning or by search (highlights), which fastopt does not have.
"""


def run(name: str, pictures: Path, quick: bool) -> Result:
    """The experiment of one claim."""
    fastopt.set_num_threads(1)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return CLAIMS[name].run(Study(name, pictures, quick))


def page(found: dict[str, Result], quick: bool = False) -> str:
    """All sections, theme by theme."""
    found = {entry.name: found[entry.name] for entry in ordered() if entry.name in found}
    parts = [HEAD.rstrip()]
    if quick:
        parts.append("**A quick run: the figures mean nothing.**\n")
    parts.append(contents(found))
    theme = ""
    for name, result in found.items():
        if CLAIMS[name].theme != theme:
            theme = CLAIMS[name].theme
            parts.append(f"## {theme}")
        parts.append(section(CLAIMS[name], result))
    return "\n\n".join([*parts, LATER])


def patched(text: str, found: dict[str, Result]) -> str:
    """A page with the sections and verdicts of some claims replaced by what was `found` for them.

    What stands before the first and after the last section is that of the code, too.
    """
    for name, result in found.items():
        row = contents({name: result}).splitlines()[-1]
        for pattern, new in (
            (rf'<a id="{name}"></a>\n.*?\n(?=\n<a id=|\n## )', section(CLAIMS[name], result) + "\n"),
            (rf"^\| \[[^\n]*\]\(#{name}\) \|[^\n]*$", row),
        ):
            text, n = re.subn(pattern, lambda _, new=new: new, text, flags=re.DOTALL | re.MULTILINE)
            if n != 1:
                raise ValueError(f"the page has no section of {name}: write it anew, without names of claims")
    start, end = text.index("\n\n| claim |"), text.index(LATER.partition("\n")[0])
    return HEAD.rstrip() + text[start:end] + LATER


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.survey", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="CLAIM", help=f"of {', '.join(sorted(CLAIMS))} (default: all)")
    parser.add_argument(
        "--out",
        type=Path,
        default=DOCS / "survey.md",
        help="the page; its pictures go into survey/ beside it. Claims replace their sections in a page that is there",
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--quick", action="store_true", help="few seeds and epochs: shows that it runs, no more")
    args = parser.parse_args(argv)
    for name in args.names:
        if name not in CLAIMS:
            parser.error(f"there is no claim {name!r}; they are {', '.join(sorted(CLAIMS))}")
    if args.quick and args.out.exists():
        parser.error(f"a quick run replaces no page: give --out a new file, not {args.out}")
    from tqdm import tqdm

    names = args.names or [entry.name for entry in ordered()]
    pictures = args.out.parent / "survey"
    pictures.mkdir(parents=True, exist_ok=True)
    found, start = {}, time.perf_counter()
    # Spawned: in a forked child fastopt would run on one thread, and Hogwild have nobody to meet.
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool, tqdm(total=len(names), unit="claim") as bar:
        # the last theme first: it has what takes longest
        futures = {pool.submit(run, name, pictures, args.quick): name for name in reversed(names)}
        for future in as_completed(futures):
            name = futures[future]
            found[name] = future.result()
            bar.update()
            bar.write(f"{time.perf_counter() - start:5.0f} s  {name}: {found[name].verdict}", file=sys.stderr)
    if not args.names:
        made = {file for result in found.values() for file, _ in result.pictures}
        for old in pictures.glob("*.png"):
            if old.name not in made:
                old.unlink()
    if args.names and args.out.exists():
        args.out.write_text(patched(args.out.read_text(), found))
    else:
        args.out.write_text(page(found, args.quick))
    print(f"{len(found)} claims in {time.perf_counter() - start:.0f} s, written to {args.out}", file=sys.stderr)
