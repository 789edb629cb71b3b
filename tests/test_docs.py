"""docs/optimizers.md, schedules.md and models.md are what the docstrings say, and they say what a user has to know."""

from __future__ import annotations

import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fastopt
import fastopt.models
from fastopt import schedules
from fastopt.models.estimators import MODES
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


# ----------------------------------------------------------------------------------------------------------- the models


@pytest.fixture(scope="module")
def models_page(generator) -> str:
    return generator.models_page()


def test_the_page_of_the_models_is_what_the_docstrings_and_the_code_say(generator, models_page):
    assert generator.MODELS.read_text() == models_page, "docs/models.md is out of date; run make docs."


def test_the_page_of_the_models_is_markdown_whose_links_lead_somewhere(models_page):
    for left_over in (":math:", ".. math", r"\operatorname", "``)", "::\n", "====", "<fastopt"):
        assert left_over not in models_page, f"{left_over!r} is left over in docs/models.md."
    anchors = {title.lower().replace(" ", "-") for title in re.findall(r"^##+ (.*)$", models_page, re.M)}
    assert set(re.findall(r"\]\(#([^)]*)\)", models_page)) <= anchors
    for name in fastopt.models.__all__:
        assert f"`{name}`" in models_page, f"docs/models.md does not name {name}."


def test_every_parameter_of_a_model_has_a_text_and_every_attribute_is_there_after_fit(generator):
    rng = np.random.default_rng(0)
    X, y, text = rng.random((40, 4)), np.arange(40) % 3, [["a", "b", "c", "a"]] * 9
    for cls in generator.model_classes():
        parts, name = generator.sections(cls), cls.__name__
        told = [k for names, _, _ in generator.entries(parts["Parameters"]) for k in names]
        assert sorted(told) == sorted(inspect.signature(cls).parameters), (
            f"the parameters of {name} and its docstring differ"
        )
        more = {"lr": "auto"} if name.startswith("Linear") else {"sample": 0} if name == "SkipGram" else {}
        if hasattr(cls, "predict"):
            model = cls(epochs=2, random_state=0, **more).fit(X, y)
        else:
            model = cls(4, epochs=2, min_count=1, random_state=0, **more).fit(text)
        kept = [k for names, _, _ in generator.entries(parts["Attributes"]) for k in names]
        assert "n_features_in_" in kept or "vectors_" in kept
        missing = [k for k in kept if not hasattr(model, k)]
        assert not missing, f"{name} says that it has {missing} after fit, and has not."


def test_what_is_served_is_said_of_every_optimizer(generator, models_page):
    for name in generator.optimizer_names():
        assert models_page.count(f'`"{name}"`') > 0
    assert generator.cells("sgd")[:5] == ("l1, l2", "l1, l2", "l2", "l2", "l2")
    assert set(generator.cells("muon")) == {"-"}


def test_the_checks_that_differ_are_those_of_the_tests(generator):
    from test_models import expected_failures

    differing = set().union(*(expected_failures(fastopt.models.LinearClassifier(mode=mode)) for mode in MODES))
    assert differing == set(generator.DIFFER)
    assert not expected_failures(fastopt.models.LinearClassifier(mode="minibatch"))
