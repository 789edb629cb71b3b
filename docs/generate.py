"""Writes docs/optimizers.md, schedules.md and models.md from the docstrings, and draws the schedules: ``make docs``."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastopt
from fastopt import models, schedules
from fastopt.optimizers import normalized, tables
from fastopt.optimizers.base import ALIASES, ALL, Optimizer, Rule

PAGE = Path(__file__).parent / "optimizers.md"
MODELS = PAGE.with_name("models.md")
SCHEDULES, PICTURE = PAGE.with_name("schedules.md"), PAGE.with_name("schedules.png")
MATRIX = 1009, 2003  # a parameter whose sides and their products tell what a state's size is made of
#: Values that are tried for options, to find which choose another rule, and which have no exact sparse mode.
TRIED = (
    True,
    False,
    0.9,
    0.0,
    1.0,
    0.1,
    0.3,
    "inside",
    "outside",
    "hat",
    (0.99, 0.9),
    (0.4, 0.4),
    (1.0, 0.0),
    (0.99, 0.99, 0.9),
)

HEAD = r"""# Optimizers

What each optimizer of fastopt computes, what it costs, and where it differs from PyTorch, Keras and its paper. This page is
made of the docstrings by `make docs`; edit those.

- **State**: numbers kept for each one of the parameter (of a matrix, where it depends on the shape).
- **Bytes**: what a dense step of float32 reads and writes for each element of the parameter, if nothing stays in the caches.
  Products of matrices are not counted. Each average of `transforms` adds 8; clipping by a norm and `nonfinite` together
  add 4, `clip_adaptive` another 8; `clip_value` and `noise` add none, but noise takes longer to compute than the rest.
- **Exact mode**: what `sparse="exact"` has to do about the steps that a row has missed. *Nothing*: without a gradient it
  stands still (weight decay, where it goes with the mode, in closed form). *Closed form*: one jump, however many steps.
  *Series*: one jump by a series that is cut below the precision of the dtype. *Replay*: the steps are made up for one by one
  until the moves have faded. *None*: lazy mode only. \*: refused with some options, which the optimizer's section names.
- **Presets**: besides `"torch"`, which is the defaults.
"""


# --------------------------------------------------------------------------------------- from reStructuredText to Markdown


def classes() -> list[type[Any]]:
    """All optimizers, by name."""
    return sorted([*Optimizer.known.values(), fastopt.NormalizedAdaptive], key=lambda cls: cls.__name__.lower())


def sections(thing: Any) -> dict[str, str]:
    """A docstring in parts: "summary", its first paragraph; "more", the rest before the sections; and these by their titles."""
    text = inspect.cleandoc(thing.__doc__ or "")
    first, *rest = re.split(r"^(\w[^\n]*)\n-{3,}\n", text, flags=re.M)
    summary, _, more = first.strip().partition("\n\n")
    return {
        "summary": summary,
        "more": more.strip(),
        **{t: s.strip() for t, s in zip(rest[::2], rest[1::2], strict=True)},
    }


def math(formula: str) -> str:
    r"""A formula as GitHub takes it: without \operatorname, which it refuses, and without bars, which divide tables."""
    formula = formula.strip().replace(r"\operatorname{", r"\,\mathrm{")
    return re.sub(" +", " ", formula.replace(r"\|", r"\Vert ").replace("|", r"\vert "))


def display(match: re.Match[str]) -> str:
    lines = [line.strip() for line in match[1].strip().splitlines()]
    formula = math("\n".join(lines))
    if "&" in formula or r"\\" in formula:
        formula = "\\begin{aligned}\n" + formula + "\n\\end{aligned}"
    return f"```math\n{formula}\n```\n"


def markdown(text: str, titles: bool = True) -> str:
    """Markdown of a docstring's text; `titles`: the optimizers it names become links."""
    text = re.sub(r"^\.\. math::\n((?:[ \t]+[^\n]*\n?|\n(?=[ \t]))+)", display, text + "\n", flags=re.M)
    text = re.sub(r"(?<!:)::$", ":", text, flags=re.M)
    text = re.sub(r":math:`([^`]*)`", lambda m: f"$`{math(m[1])}`$", text)
    text = text.replace("``", "`") if "```" not in text else re.sub(r"(?<!`)``(?!`)", "`", text)
    known = {cls.__name__ for cls in classes()} if titles else set()
    text = re.sub(r"`(\w+)`", lambda m: f"[`{m[1]}`](#{m[1].lower()})" if m[1] in known else m[0], text)
    return text.strip()


def parameters(thing: Any) -> dict[str, str]:
    """What the docstring says of each parameter, beyond its type and default."""
    section = sections(thing).get("Parameters", "") + "\n"
    found = re.findall(r"^(\w+) : [^\n]*\n((?:[ \t]+[^\n]*\n)*)", section, re.M)
    return {name: " ".join(text.split()) for name, text in found}


def row(*cells: Any) -> str:
    return "| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |\n"


def table(*head: str) -> str:
    return row(*head) + row(*["---"] * len(head))


def code(value: Any) -> str:
    return f"`{value!r}`"


# ---------------------------------------------------------------------------------------------------- facts of a class


def tried(cls: type[Optimizer], most: int = 2) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Settings that differ from the defaults in up to `most` options, and all options of a group with each."""
    names = [n for n in cls._known_options() if n not in ("lr", "maximize", *cls.fixed)]
    for count in range(most + 1):
        for chosen in itertools.combinations(names, count):
            for values in itertools.product(TRIED, repeat=count):
                setting = dict(zip(chosen, values, strict=True))
                try:
                    yield setting, cls.fill_options(setting)
                except fastopt.FastoptError:
                    continue


def settings(cls: type[Optimizer]) -> dict[str, dict[str, Any]]:
    """For each span the least that chooses it: the options in which it differs from the defaults."""
    found: dict[str, dict[str, Any]] = {}
    for setting, o in tried(cls):
        found.setdefault(cls.rule(o), setting)
        if len(found) == len(cls.rules):
            break
    return found


def shapes(cls: type[Optimizer], rule: Rule, o: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The states of a matrix."""
    ask = getattr(cls, "state_shapes", None)
    return dict(ask(MATRIX, o)) if ask else dict.fromkeys(rule.states, MATRIX)


def amount(whole: int, parts: Mapping[str, int], unit: int = 1) -> str:
    """A number of elements for each of a matrix, and of some for each of its rows or columns."""
    terms = [str(whole * unit)] if whole or not any(parts.values()) else []
    return " + ".join(terms + [f"{n * unit}/{side}" for side, n in parts.items() if n])


def cost(cls: type[Optimizer], rule: Rule, o: Mapping[str, Any]) -> tuple[str, str]:
    """Numbers in the states for each element of a parameter, and the bytes that a step moves for it."""
    sizes = [Fraction(int(np.prod(shape)), MATRIX[0] * MATRIX[1]) for shape in shapes(cls, rule, o).values()]
    whole = sizes.count(Fraction(1))
    parts = {"columns": sizes.count(Fraction(1, MATRIX[1])), "rows": sizes.count(Fraction(1, MATRIX[0]))}
    assert whole + sum(parts.values()) == len(sizes), f"{cls.__name__} has states of other shapes"
    moved = 3 + 2 * whole if rule.moved is None else rule.moved
    return amount(whole, parts), amount(moved, {side: 2 * n for side, n in parts.items()}, 4)


def exact_mode(cls: type[Optimizer], rule: Rule, o: Mapping[str, Any]) -> str:
    """How rows catch up, told by the gap that steps leave."""
    if rule.catch is None:
        return "none"
    if rule.catch.name == "decay0":
        return "nothing"
    wide = tables.scalar_table(cls, o, np.arange(1, 4), np.dtype(np.float64), 0)
    series = 3 if rule.catch.series == ALL else rule.catch.series
    _, reach = tables.gap_table(cls, o, *wide, series)
    if reach == 1:
        return "closed form"
    return "series" if series else "replay"


def refusals(cls: type[Optimizer]) -> list[str]:
    """Why options have no exact mode, once for each option."""
    found: dict[str, str] = {}
    coupled = {"weight_decay": 0.1, "decoupled_weight_decay": False}
    bases = [{}, coupled] if coupled.keys() <= cls._known_options().keys() - cls.fixed.keys() else [{}]
    for base, (setting, _) in itertools.product(bases, tried(cls, 1)):
        o = cls.fill_options({**base, **setting})
        if cls.rule_of(o).catch and (why := cls.why_not_exact(o)):
            found.setdefault(re.sub(r"[\d.]+", "", why), why)
    return list(found.values())


def extent(found: list[str]) -> str:
    """A range of amounts, or all of them."""
    if all(x.isdigit() for x in found):
        found = sorted(set(found), key=int)
        return " to ".join(dict.fromkeys([found[0], found[-1]]))
    return ", ".join(dict.fromkeys(found))


class Variant(NamedTuple):
    """What choosing a span brings with it."""

    states: tuple[str, ...]
    numbers: str
    moved: str
    exact: str


class Facts:
    """What the page says of one optimizer."""

    def __init__(self, cls: type[Any]) -> None:
        self.cls, self.name, self.text = cls, cls.__name__, sections(cls)
        self.variants: dict[Variant, dict[str, Any]] = {}
        self.refusals: list[str] = []
        self.presets: Mapping[str, Mapping[str, Any]] = {}
        self.state, self.bytes, self.exact = str(len(normalized.STATES)), "-", "-"
        if not issubclass(cls, Optimizer):  # NormalizedAdaptive
            return
        for setting in settings(cls).values():
            o = cls.fill_options(setting)
            rule = cls.rule_of(o)
            states = tuple(shapes(cls, rule, o))
            self.variants.setdefault(Variant(states, *cost(cls, rule, o), exact_mode(cls, rule, o)), setting)
        self.state = extent([v.numbers for v in self.variants])
        self.bytes = extent([v.moved for v in self.variants])
        self.exact = ", ".join(dict.fromkeys(v.exact for v in self.variants))
        self.refusals, self.presets = refusals(cls), cls.presets

    def overview(self) -> str:
        link = f"[{self.name}](#{self.name.lower()})"
        what = markdown(" ".join(self.text["summary"].split())).rstrip(".")
        mark = r" \*" if self.refusals else ""
        return row(link, what, self.state, self.bytes, self.exact + mark, ", ".join(self.presets) or "-")

    def options(self) -> str:
        """Defaults, what the presets have in their place, and what the docstring says; of the common options its own alone."""
        said = [parameters(c) for c in self.cls.__mro__ if c is not Optimizer]
        own = inspect.signature(self.cls.__init__).parameters
        lines = table("option", "default", *(f"`{p}`" for p in self.presets), "")
        for name, parameter in (inspect.signature(self.cls).parameters if self.variants else own).items():
            cells = ["" if name not in preset else code(preset[name]) for preset in self.presets.values()]
            told = next((one[name] for one in said if name in one), "")
            if parameter.default is not parameter.empty and (name in own or told or any(cells)):
                lines += row(f"`{name}`", code(parameter.default), *cells, markdown(told))
        return lines

    def section(self) -> str:
        parts = [f"## {self.name}", markdown(self.text["summary"]), markdown(self.text["more"]), self.options()]
        if self.variants:
            lines = table("with", "states", "numbers", "bytes", "exact mode")
            for variant, setting in self.variants.items():
                chosen = ", ".join(f"`{k}={v!r}`" for k, v in setting.items()) or "the defaults"
                lines += row(chosen, ", ".join(f"`{s}`" for s in variant.states) or "none", *variant[1:])
            parts.append(lines)
        if self.refusals:
            parts.append(
                'Refused with `sparse="exact"`:\n\n' + "\n".join(f"- {markdown(why)}" for why in self.refusals)
            )
        parts += ["**Notes, and where it differs**", markdown(self.text.get("Notes", ""))]
        if "Examples" in self.text:
            parts.append("```python\n" + self.text["Examples"] + "\n```")
        return "\n\n".join(part.strip() for part in parts if part) + "\n"


# ------------------------------------------------------------------------------------------------------------ the page


def common() -> str:
    """What holds for every optimizer, from the base class."""
    text = sections(Optimizer)
    lines = table("option", "default", "")
    defaults = inspect.signature(Optimizer.__init__).parameters
    for name, said in parameters(Optimizer).items():
        if name != "params":
            lines += row(f"`{name}`", code(defaults[name].default), markdown(said))
    return f"## Every optimizer\n\n{lines}\n{markdown(text['Notes'])}\n"


def transforms() -> str:
    """What `transforms` takes."""
    lines = "## Transforms\n\nWhat the option `transforms` takes, from `fastopt.transforms`.\n"
    for name in fastopt.transforms.__all__:
        thing = getattr(fastopt.transforms, name)
        text = sections(thing)
        said = [f"`{n}`: {markdown(what)}" for n, what in parameters(thing).items() if what]
        arguments = [p.replace(annotation=p.empty) for p in inspect.signature(thing).parameters.values()]
        lines += f"\n### `{name}{inspect.Signature(arguments)}`\n\n"
        lines += "\n\n".join([markdown(text["summary"]), *said, markdown(text.get("Notes", ""))]) + "\n"
    return lines


def page() -> str:
    facts = [Facts(cls) for cls in classes()]
    overview = table("optimizer", "", "state", "bytes", "exact mode", "presets") + "".join(f.overview() for f in facts)
    return "\n".join([HEAD, overview, common(), *(f.section() for f in facts), transforms()])


# -------------------------------------------------------------------------------------------------------- the schedules

SCHEDULES_HEAD = r"""# Schedules

`fastopt.schedules`: what a rate, a momentum, a weight decay or a batch size is at a step. This page is made of the
docstrings by `make docs`; edit those.

```python
from fastopt import schedules

rate = schedules.Cosine(0.1, steps=1000, minimum=1e-3).with_warmup(100)
rate(0), rate([0, 500, 10**12])  # a number; an array, with the same bits
opt = fastopt.SGD(w, lr=rate, momentum=schedules.OneCycle(0.1, 1100).momentum, weight_decay=rate.scaled(0.01))
```

- Steps count from 0: the completed steps before the one that is being made. The same t as in PyTorch, where the scheduler
  is called after the optimizer, in Keras and in optax.
- Every schedule is a pure function in closed form: a step costs about a microsecond however late it is, and training that
  is resumed at step t has the rate of step t. `ReduceOnPlateau` alone has a memory, and says so (`pure` is False); a state
  dict of the optimizer keeps it.
- Past its end a schedule keeps its last value.
- They compose: `a.then(b, at)`, `a.with_warmup(steps, start)`, `a.scaled(factor or schedule)`; `Schedule.of(function)`
  takes any callable.
- `lr` and `weight_decay` of every optimizer take a schedule, and so does `momentum` but for ScheduleFreeSGD's. So does the
  `lr` of the linear models, by the sample, without `l2`. A schedule of `momentum` or `weight_decay` counts as not zero,
  whatever its values.

![all schedules, drawn](schedules.png)
"""

#: What is drawn, and said beside PyTorch's name: PyTorch's scheduler with options, or None; Keras; optax.
NAMES: list[tuple[schedules.Schedule, tuple[str, dict[str, Any]] | None, str, str]] = [
    (
        schedules.Step(0.1, 30),
        ("StepLR", {"step_size": 30}),
        "`ExponentialDecay(staircase=True)`",
        "`exponential_decay(staircase=True)`",
    ),
    (
        schedules.MultiStep(0.1, (30, 60)),
        ("MultiStepLR", {"milestones": [30, 60]}),
        "`PiecewiseConstantDecay`, boundaries one less",
        "`piecewise_constant_schedule`",
    ),
    (schedules.Exponential(0.1, 0.97), ("ExponentialLR", {"gamma": 0.97}), "`ExponentialDecay`", "`exponential_decay`"),
    (
        schedules.Polynomial(0.1, 90, power=2.0),
        ("PolynomialLR", {"total_iters": 90, "power": 2.0}),
        "`PolynomialDecay`, end 1e-4",
        "`polynomial_schedule`",
    ),
    (schedules.InverseTime(0.1, 0.1), None, "`InverseTimeDecay`", "-"),
    (schedules.InverseSqrt(0.1, 10), None, "-", "-"),
    (
        schedules.LinearWarmup(0.1, 50, start=0.025),
        ("LinearLR", {"start_factor": 0.25, "total_iters": 50}),
        "`warmup_target` of `CosineDecay`",
        "`linear_schedule`",
    ),
    (
        schedules.Cosine(0.1, 90),
        ("CosineAnnealingLR", {"T_max": 90}),
        "`CosineDecay(alpha=minimum / base)`",
        "`cosine_decay_schedule(alpha=minimum / base)`",
    ),
    (
        schedules.SGDR(0.1, 15, 2),
        ("CosineAnnealingWarmRestarts", {"T_0": 15, "T_mult": 2}),
        "`CosineDecayRestarts`, `t_mul` 2 by default",
        "`sgdr_schedule`, a list of periods",
    ),
    (
        schedules.Cyclical(0.02, 0.1, 15, mode="triangular2"),
        ("CyclicLR", {"base_lr": 0.02, "max_lr": 0.1, "step_size_up": 15, "mode": "triangular2"}),
        "-",
        "-",
    ),
    (
        schedules.OneCycle(0.1, 100),
        ("OneCycleLR", {"max_lr": 0.1, "total_steps": 100}),
        "-",
        "`cosine_onecycle_schedule`, a step later",
    ),
    (schedules.Noam(64, 20, 4.0), None, "-", "-"),
    (schedules.WSD(0.1, 100, 10, 30), None, "-", "-"),
    (schedules.SlantedTriangular(0.1, 100), None, "-", "-"),
    (
        schedules.ReduceOnPlateau(0.1),
        ("ReduceLROnPlateau", {}),
        "`ReduceLROnPlateau`, an update earlier",
        "`reduce_on_plateau`, an update earlier",
    ),
    (schedules.BatchSizeSchedule(schedules.Step(0.1, 30, 0.5), 32), None, "-", "-"),
]


def schedule_classes() -> list[type[Any]]:
    """The schedules that have a formula or a memory, in the order of the module."""
    found = [getattr(schedules, name) for name in schedules.__all__]
    return sorted((c for c in found if isinstance(c, type)), key=lambda c: inspect.getsourcelines(c)[1])


def said(name: str, options: Mapping[str, Any]) -> str:
    return f"`{name}({', '.join(f'{k}={v!r}' for k, v in options.items())})`"


def conversions() -> str:
    """What others call the schedules. PyTorch's column is what `from_torch` takes, the first what it makes of that."""
    lines = table("fastopt", "PyTorch", "Keras", "optax")
    for schedule, theirs, keras, optax in NAMES:
        assert theirs is None or schedules.from_torch(theirs[0], 0.1, **theirs[1]) == schedule, theirs
        lines += row(code(schedule), "-" if theirs is None else said(*theirs), keras, optax)
    lines += row("`a.then(b, at=10)`", "`SequentialLR(milestones=[10])`", "-", "`join_schedules(boundaries=[10])`")
    lines += row("`a.scaled(b)`", "`ChainedScheduler`", "-", "-")
    return lines + row(
        "`Schedule.of(f).scaled(base)`",
        "`LambdaLR(lr_lambda=f)`",
        "a `LearningRateSchedule` of one's own",
        "any callable",
    )


def schedules_page() -> str:
    parts = [
        SCHEDULES_HEAD,
        "## What others call them\n",
        "For a base rate of 0.1. `schedules.from_torch(name, base, **options)` makes a schedule of PyTorch's name, and "
        "`schedule.to_torch()` goes the other way, or says why it cannot.\n",
        conversions(),
    ]
    for cls in schedule_classes():
        text, arguments = sections(cls), inspect.signature(cls).parameters.values()
        about = parameters(cls)
        lines = table("argument", "default", "")
        for p in arguments:
            lines += row(
                f"`{p.name}`", "" if p.default is p.empty else code(p.default), markdown(about.get(p.name, ""), False)
            )
        body = [f"## {cls.__name__}", markdown(text["summary"], False), markdown(text["more"], False)]
        body += [lines] if arguments else []
        body += [markdown(text[title], False) for title in ("Notes",) if title in text]
        if "Examples" in text:
            body.append("```python\n" + text["Examples"] + "\n```")
        parts.append("\n\n".join(part.strip() for part in body if part) + "\n")
    for thing in (
        schedules.Schedule.then,
        schedules.Schedule.with_warmup,
        schedules.Schedule.scaled,
        schedules.from_torch,
    ):
        text = sections(thing)
        told = [f"`{n}`: {markdown(what, False)}" for n, what in parameters(thing).items() if what]
        body = [f"## {thing.__name__}", markdown(text["summary"], False), markdown(text["more"], False), *told]
        parts.append(
            "\n\n".join(part.strip() for part in [*body, markdown(text.get("Notes", ""), False)] if part) + "\n"
        )
    return "\n".join(parts)


def draw() -> None:
    """The picture of all schedules, over 120 steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps = np.arange(120)
    drawn = [s for s, *_ in NAMES if not isinstance(s, schedules.ReduceOnPlateau)]
    figure, axes = pyplot.subplots(3, 5, figsize=(13, 6), sharex=True, layout="constrained")
    for ax, schedule in zip(axes.flat, drawn, strict=True):
        batch = isinstance(schedule, schedules.BatchSizeSchedule)
        ax.plot(steps, schedule(steps), color="C2" if batch else "C0", linewidth=1.5)
        ax.set_title(type(schedule).__name__ + (" (samples)" if batch else ""), fontsize=10)
        ax.set_ylim(bottom=0)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[-1]:
        ax.set_xlabel("step", fontsize=9)
    figure.savefig(PICTURE, dpi=100, metadata={"Software": None})


# ----------------------------------------------------------------------------------------------------------- the models

MODELS_HEAD = r"""# Models

`fastopt.models`: estimators in scikit-learn's manner on CSR or dense data, and vectors of words. This page is made of the docstrings
and of what the code says when it is asked, by `make docs`; edit those.
"""

#: Checks of scikit-learn that do not hold, and why; the tests run all, with these as the only failures that are expected.
DIFFER = {
    "check_sample_weight_equivalence_on_dense_data": """for `mode="sequential"`: steps that follow each other depend on the order of the
    samples, and a sample that is repeated makes more steps than one with a larger weight. It holds in the mean over orders; so
    with scikit-learn's `SGDClassifier`. It holds for `mode="minibatch"` with batches of all samples.""",
    "check_sample_weight_equivalence_on_sparse_data": "the same.",
}

#: What an optimizer is asked to train: a model and options beside those that `WAYS` and the penalties are.
WAYS: dict[str, dict[str, Any]] = {
    "sequential": {},
    "minibatch": {"mode": "minibatch"},
    "hogwild": {"mode": "hogwild"},
    'lr="auto"': {"lr": "auto"},
    "multinomial": {"multi_class": "multinomial"},
}
PENALTIES: dict[str, dict[str, float]] = {"l1": {"l1": 1e-3}, "l2": {"l2": 1e-3}}


def model_classes() -> list[type[Any]]:
    """What can be fitted, by name."""
    found = [getattr(models, name) for name in models.__all__]
    return [thing for thing in found if hasattr(thing, "fit")]


def optimizer_names() -> list[str]:
    """Those that the constructors take."""
    return sorted([*Optimizer.known, *ALIASES])


def served(cls: type[Any], name: str, options: Mapping[str, Any]) -> bool:
    """Whether the model takes the optimizer with these options: it is asked to learn a little."""
    rng = np.random.default_rng(0)
    X, y = rng.random((30, 4)), np.arange(30) % 3
    try:
        cls(optimizer=name, **{"lr": 1e-3, "epochs": 1, "random_state": 0, **options}).fit(X, y)
    except fastopt.UnsupportedError:
        return False
    return True


def trains_words(name: str) -> bool:
    text = [["a", "b", "c", "a"]] * 3
    try:
        models.SkipGram(4, min_count=1, sample=0, optimizer=name, lr=1e-3, epochs=1, random_state=0).fit(text)
    except fastopt.UnsupportedError:
        return False
    return True


def cells(name: str) -> tuple[str, ...]:
    """What is served with an optimizer: for each way the penalties, and "-" where it cannot train so at all."""
    found = []
    for cls in (models.LinearClassifier, models.FMClassifier):
        for options in WAYS.values():
            if cls is models.FMClassifier and not set(options) <= {"mode"}:
                continue
            if not served(cls, name, options):
                found.append("-")
                continue
            penalties = [p for p, more in PENALTIES.items() if served(cls, name, {**options, **more})]
            found.append(", ".join(penalties) or "no penalty")
    return *found, "yes" if trains_words(name) else "-"


def served_table() -> str:
    """Optimizers that are served alike are a row."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for name in optimizer_names():
        rows.setdefault(cells(name), []).append(f'`"{name}"`')
    factors = [f"FM, {way}" for way, options in WAYS.items() if set(options) <= {"mode"}]
    lines = table("optimizer", *WAYS, *factors, "words")
    for found, names in sorted(rows.items(), key=lambda item: ({*item[0]} == {"-"}, -len(item[1]))):
        lines += row(", ".join(names), *found)
    return lines


def losses_table() -> str:
    families = {name: getattr(models, name) for name in models.__all__ if hasattr(getattr(models, name), "_losses")}
    known = dict.fromkeys(loss for cls in families.values() for loss in cls._losses)
    lines = table("loss", *families)
    for loss in known:
        lines += row(f'`"{loss}"`', *("yes" if loss in cls._losses else "-" for cls in families.values()))
    return lines


def simple_table(match: re.Match[str]) -> str:
    """A simple table of reStructuredText, of two columns, in Markdown."""
    lines = match[0].strip().splitlines()
    width = len(lines[0].split()[0])
    pairs = [(line[:width].strip(), line[width:].strip()) for line in lines if not line.startswith("=")]
    return table(*pairs[0]) + "".join(row(*pair) for pair in pairs[1:])


def of_model(text: str) -> str:
    """Markdown of a model's docstring, in which models are links."""
    text = re.sub(r"^=+ +=+\n(?:[^\n]+\n)+?=+ +=+\n(?:[^\n]+\n)+?=+ +=+$", simple_table, text, flags=re.M)
    text = markdown(text, False)
    known = {cls.__name__ for cls in model_classes()}
    return re.sub(r"`(\w+)`", lambda m: f"[`{m[1]}`](#{m[1].lower()})" if m[1] in known else m[0], text)


def entries(section: str) -> list[tuple[list[str], str, str]]:
    """Names, type and text of the entries of a docstring's section; several names may share a text."""
    found = re.findall(r"^([\w, ]+?)(?: : ([^\n]*))?\n((?:[ \t]+[^\n]*\n)*)", section + "\n", re.M)
    return [(names.split(", "), kind, " ".join(text.split())) for names, kind, text in found]


def model_section(cls: type[Any]) -> str:
    text, arguments = sections(cls), inspect.signature(cls).parameters
    lines = table("parameter", "")
    for names, _, said in entries(text["Parameters"]):
        defaults = {name: arguments[name].default for name in names}
        given = (f"`{k}`" if v is inspect.Parameter.empty else f"`{k}={v!r}`" for k, v in defaults.items())
        lines += row(", ".join(given), of_model(said))
    kept = table("attribute", "", "")
    for names, kind, said in entries(text.get("Attributes", "")):
        kept += row(", ".join(f"`{name}`" for name in names), of_model(kind), of_model(said))
    parts = [f"## {cls.__name__}", of_model(text["summary"]), of_model(text["more"]), lines, "After `fit`:", kept]
    if losses := getattr(cls, "_losses", ()):
        parts.insert(3, "Losses: " + ", ".join(f'`"{loss}"`' for loss in losses) + ".")
    parts += [of_model(text["Notes"])] if "Notes" in text else []
    if "Examples" in text:
        parts.append("```python\n" + text["Examples"] + "\n```")
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def models_page() -> str:
    overview = table("model", "")
    for cls in model_classes():
        overview += row(f"[`{cls.__name__}`](#{cls.__name__.lower()})", of_model(sections(cls)["summary"]))
    others = table("beside them", "")
    for name in models.__all__:
        if (thing := getattr(models, name)) not in model_classes():
            others += row(f"`{name}`", of_model(" ".join(sections(thing)["summary"].split())))
    differ = table("check", "") + "".join(row(f"`{name}`", " ".join(why.split())) for name, why in DIFFER.items())
    parts = [
        MODELS_HEAD,
        overview,
        others,
        "## Losses\n\n`SkipGram` and `GloVe` have losses of their own.\n\n" + losses_table(),
        """## What is served

The optimizers that `optimizer=` takes, and with each the penalties: in the modes of the linear models, with ``lr="auto"`` and
``multi_class="multinomial"``, of the factorization machines (FM), and whether it trains vectors of words. "-": the call is refused. A
schedule as rate goes with every mode, without penalties. ``"ftrl"`` takes `l1` and `l2` as its own. Each cell is what the model said
when it was asked for it.

""".replace("``", "`")
        + served_table(),
        "## scikit-learn's checks\n\nAll checks that scikit-learn asks of an estimator hold (`check_estimator`), but:\n\n"
        + differ,
        *(model_section(cls) for cls in model_classes()),
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
    SCHEDULES.write_text(schedules_page())
    MODELS.write_text(models_page())
    draw()
