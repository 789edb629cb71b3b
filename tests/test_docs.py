"""docs/optimizers.md is what the docstrings say, and they say what a user has to know."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import fastopt
from fastopt import schedules
from fastopt.optimizers import normalized

ROOT = Path(__file__).parent.parent
GENERATOR = ROOT / "docs" / "generate.py"
OPTIMIZERS = sorted({*fastopt.Optimizer.known.values(), fastopt.NormalizedAdaptive}, key=lambda cls: cls.__name__)
#: What torch.optim and keras.optimizers have of them.
HAVE = {
    "PyTorch": "ASGD Adadelta Adafactor Adagrad Adam AdamW Adamax Muon NAdam RAdam RMSprop Rprop SGD",
    "Keras": (
        "Adadelta Adafactor Adagrad Adam AdamW Adamax FTRL LAMB Lion Muon NAdam RMSprop SGD ScheduleFreeAdamW "
        "ScheduleFreeSGD"
    ),
}

pytestmark = pytest.mark.skipif(not GENERATOR.exists(), reason="the documentation is not beside the tests")


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", GENERATOR)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def states(cls: type[Any]) -> set[str]:
    if not issubclass(cls, fastopt.Optimizer):
        return set(normalized.STATES)
    return {state for rule in cls.rules for state in rule.states}


def test_the_page_is_what_the_docstrings_say(generator):
    assert generator.PAGE.read_text() == generator.page(), "docs/optimizers.md is out of date; run make docs."


def test_the_page_of_the_schedules_is_what_the_docstrings_say(generator):
    assert generator.SCHEDULES.read_text() == generator.schedules_page(), (
        "docs/schedules.md is out of date; run make docs."
    )
    assert generator.PICTURE.stat().st_size > 10_000


def test_the_page_of_the_schedules_has_each_with_formula_source_and_differences(generator):
    page = generator.schedules_page()
    for left_over in (":math:", ".. math", r"\operatorname", "``)", "::\n", "](#"):
        assert left_over not in page, f"{left_over!r} is left over in docs/schedules.md."
    assert {type(s) for s, *_ in generator.NAMES} >= set(generator.schedule_classes()) - {
        schedules.Schedule,
        schedules.Constant,
    }
    for cls in generator.schedule_classes():
        text, name = generator.sections(cls), cls.__name__
        assert f"## {name}\n" in page
        if cls in (schedules.Schedule, schedules.Constant):
            continue
        assert ".. math::" in text["more"] or cls is schedules.ReduceOnPlateau, f"{name} has no formula."
        for library in ("PyTorch", "Keras", "optax"):
            assert library in text["Notes"], f"the Notes of {name} do not say what {library} calls it."


def test_the_page_has_every_optimizer_and_every_link_leads_somewhere(generator):
    page = generator.page()
    anchors = {title.lower().replace(" ", "-") for title in re.findall(r"^##+ (.*)$", page, re.M)}
    assert {cls.__name__.lower() for cls in OPTIMIZERS} <= anchors
    assert set(re.findall(r"\]\(#([^)]*)\)", page)) <= anchors


def test_the_page_is_markdown_that_github_renders(generator):
    page = generator.page()
    for left_over in (":math:", ".. math", r"\operatorname", "``)", "::\n"):
        assert left_over not in page, f"{left_over!r} is left over in docs/optimizers.md."
    formulas = re.findall(r"^```math\n(.*?)\n```$", page, re.M | re.S)
    assert len(formulas) >= len(OPTIMIZERS)
    for formula in formulas:
        assert formula.count("{") == formula.count("}") and formula.count(r"\begin") == formula.count(r"\end"), formula
    for line in page.splitlines():
        if line.startswith("|"):
            assert not re.search(r"\$`[^`]*\|[^`]*`\$", line), f"a bar in a formula divides the table: {line}"


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=lambda cls: cls.__name__)
def test_every_docstring_has_formula_source_states_and_differences(generator, cls):
    text, name = generator.sections(cls), cls.__name__
    before = f"{text['summary']}\n{text['more']}"
    assert ".. math::" in before, f"{name} has no formula."
    assert re.search(r"\b(19|20)\d\d\b", before), f"{name} has no source with its year."
    notes = " ".join(text.get("Notes", "").split())
    for state in states(cls):
        assert f"``{state}``" in notes, f"the Notes of {name} do not name its state {state!r}."
    for library, has in HAVE.items():
        assert library in notes, f"the Notes of {name} do not say where it differs from {library}."
        denied = re.search(rf"{library}( and Keras)? ha(s|ve) no(ne|thing)?\b", notes)
        assert bool(denied) == (name not in has.split()), f"the Notes of {name} are wrong on whether {library} has it."


@pytest.mark.parametrize("cls", OPTIMIZERS, ids=lambda cls: cls.__name__)
def test_every_span_is_reached_by_options_that_the_page_names(generator, cls):
    if issubclass(cls, fastopt.Optimizer):
        assert set(generator.settings(cls)) == {rule.span for rule in cls.rules}


def test_bytes_and_exact_modes(generator):
    facts = {cls.__name__: generator.Facts(cls) for cls in OPTIMIZERS}
    want = {
        "SGD": ("0 to 1", "12 to 20", "nothing, closed form"),
        "Adam": ("2 to 3", "28 to 36", "series"),
        "AdaBelief": ("2", "28", "replay"),
        "LAMB": ("2", "40", "none"),
        "Lion": ("1", "20", "closed form"),
    }
    assert {name: (facts[name].state, facts[name].bytes, facts[name].exact) for name in want} == want
    assert not facts["SGD"].refusals and len(facts["Adam"].refusals) == 2
