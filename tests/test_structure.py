"""The order of the layers, and the places where an optimizer must appear: a failure names the forgotten one."""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import needs_native
from settings import SETTINGS

import fastopt
from fastopt import kernels
from fastopt.optimizers.whole import SHARED
from fastopt.strategies import normalization

PACKAGE = Path(fastopt.__file__).parent
ROOT = PACKAGE.parent  # the repository, where the package is installed from it as editable
KERNELS = PACKAGE / "kernels"

#: What may import what: each module or package the ones beside it and below it, never above.
LAYERS = [
    ["kernels"],
    [
        "errors",
        "checks",
        "config",
        "version",
        "elementary",
        "reductions",
        "passes",
        "sparse",
        "csr",
        "scores",
        "schedules",
        "transforms",
    ],
    ["optimizers"],
    ["checkpoint", "minimize", "strategies"],
    ["models"],
    ["distributed", "torch", "viz", "cli", "__main__", "fastopt"],  # the last: the public names in __init__.py
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

needs_sources = pytest.mark.skipif(
    not (KERNELS / "drivers.pyx").exists() or not (ROOT / "csrc").exists(),
    reason="the sources of the kernels are not beside the installed package",
)


def python_files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_of(file: Path) -> str:
    parts = list(file.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(module: str) -> str:
    """The module or package right below fastopt that `module` belongs to; "fastopt" for the public names."""
    return [*module.split("."), "fastopt"][1]


def is_module(name: str) -> bool:
    at = ROOT.joinpath(*name.split("."))
    return at.is_dir() or any(at.parent.glob(f"{at.name}.py*"))


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of every module of fastopt that a file imports, wherever in the file it does so."""
    package = module_of(file) if file.name == "__init__.py" else module_of(file).rpartition(".")[0]

    def absolute(level: int, name: str) -> str:
        return ".".join([*package.split(".")[: len(package.split(".")) - level + 1], *([name] if name else [])])

    for node in ast.walk(ast.parse(file.read_text())):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = absolute(node.level, node.module or "") if node.level else node.module or ""
            found = [f"{source}.{a.name}" if is_module(f"{source}.{a.name}") else source for a in node.names]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name.strip("_") in ("import_module", "import") and isinstance(text := node.args[0].value, str):
                dots = len(text) - len(text.lstrip("."))
                found = [absolute(dots, text[dots:]) if dots else text]
        yield from ((getattr(node, "lineno", 0), name) for name in found if name.split(".")[0] == "fastopt")


# ----------------------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("file", python_files(), ids=lambda f: str(f.relative_to(PACKAGE)))
def test_nothing_lower_imports_anything_higher(file):
    own = layer_of(module_of(file))
    assert own in RANK, f"fastopt/{own} has no place in LAYERS of tests/test_structure.py."
    for line, name in imports(file):
        other = layer_of(name)
        assert other in RANK, f"{name}, imported in line {line} of {module_of(file)}, has no place in LAYERS."
        # The public names are made of everything else, and load some modules when asked for.
        allowed = RANK[other] <= RANK[own] and (other != "fastopt" or own != "kernels")
        assert allowed, f"{module_of(file)} imports {name} in line {line}, which stands above it."


@needs_sources
def test_compiled_files_import_nothing_of_the_python_layers():
    for file in [*KERNELS.rglob("*.pyx"), *KERNELS.rglob("*.pxi"), *KERNELS.rglob("*.pxd")]:
        for line in file.read_text().splitlines():
            if match := re.match(r"\s*(?:from\s+(\S+)\s+)?c?import\b\s*(.*)", line):
                named = match[1] or match[2]
                assert not named.startswith((".", "fastopt")), f"{file.name} imports {named}, a layer above it."


@needs_sources
def test_headers_include_system_headers_and_each_other_alone():
    for file in (ROOT / "csrc").glob("*.h"):
        for name in re.findall(r'#include\s+["<]([^">]+)', file.read_text()):
            higher = name.startswith(("Python", "numpy", "fo_")) and not (ROOT / "csrc" / name).exists()
            assert not higher, f"csrc/{file.name} includes {name}, a layer above it."


@needs_sources
def test_openmp_lives_in_the_drivers_alone():
    for file in [*KERNELS.rglob("*.pyx"), *KERNELS.rglob("*.pxi"), *(ROOT / "csrc").glob("*.h")]:
        text = file.read_text()
        if file.name != "drivers.pyx":
            used = re.search(r"\bprange\b|\bpragma omp\b|omp\.h", text)
            assert not used, f"{file.name} uses OpenMP, which belongs into drivers.pyx."


# ------------------------------------------------------------------------------------------------------- optimizers

#: "normalized" learns from samples: no Optimizer, which steps by gradients, and no span.
RESERVED = {"__init__", "base", "normalized", "plan", "powers", "table", "tables", "whole"}
HELPERS = {
    "abreast",
    "batchnorm",
    "drivers",
    "blocks",
    "catch",
    "factors",
    "normalized",
    "pairs",
    "passes",
    "predictions",
    "scores",
    "text",
}


def optimizer_files() -> list[str]:
    return sorted({f.stem for f in (PACKAGE / "optimizers").glob("*.py")} - RESERVED)


def kernel_files() -> list[str]:
    return sorted({f.stem for f in KERNELS.glob("*.pyx")} - HELPERS)


def optimizers_in(stem: str) -> list[type[fastopt.Optimizer]]:
    module = import_module(f"fastopt.optimizers.{stem}")
    return [
        c
        for c in vars(module).values()
        if isinstance(c, type)
        and issubclass(c, fastopt.Optimizer)
        and c.__module__ == module.__name__
        and not c.__name__.startswith("_")
    ]


@needs_sources
@pytest.mark.parametrize("stem", optimizer_files())
def test_an_optimizer_has_its_kernel_export_and_settings(stem):
    here = f"fastopt/optimizers/{stem}.py"
    assert stem in kernel_files(), f"{here} has no kernel: fastopt/kernels/{stem}.pyx is missing."
    classes = optimizers_in(stem)
    assert classes, f"{here} defines no public subclass of Optimizer."
    for cls in classes:
        name = cls.__name__
        assert getattr(fastopt, name, None) is cls, f"{name} of {here} is not exported by fastopt/__init__.py."
        assert fastopt.Optimizer.known.get(name.lower()) is cls, f"{name} is not known by the name {name.lower()!r}."
        assert SETTINGS.get(name.lower()), f"{name} of {here} has no settings in SETTINGS of tests/settings.py."
        assert cls.rules, f"{name} of {here} has no rules."


@needs_sources
def test_every_kernel_export_and_setting_has_its_optimizer():
    for stem in kernel_files():
        found = stem in optimizer_files()
        assert found, f"fastopt/kernels/{stem}.pyx has no optimizer: fastopt/optimizers/{stem}.py is missing."
    classes = {c for stem in optimizer_files() for c in optimizers_in(stem)}
    for name, cls in vars(fastopt).items():
        if isinstance(cls, type) and issubclass(cls, fastopt.Optimizer) and cls is not fastopt.Optimizer:
            assert cls in classes, f"{name}, exported by fastopt/__init__.py, is in no file of fastopt/optimizers."
    for name in SETTINGS:
        known = fastopt.Optimizer.known.get(name)
        assert known in classes, f"{name!r} in SETTINGS of tests/settings.py is the name of no optimizer."


def every_rule() -> Iterator[tuple[str, Any]]:
    """The rules of all optimizers, each with the file that declares it."""
    for stem in optimizer_files():
        for cls in optimizers_in(stem):
            for rule in cls.rules:
                yield f"fastopt/optimizers/{stem}.py", rule


def catches() -> dict[str, str]:
    """Every catch-up of exact sparse mode that an optimizer names, and the file that does."""
    return {rule.catch.name: file for file, rule in every_rule() if rule.catch is not None}


@needs_native
@pytest.mark.parametrize("isa", kernels.runnable())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_catch_up_has_both_entries_and_every_entry_its_rule(isa, dtype):
    table = kernels.load(isa)[dtype]
    for name, file in catches().items():
        for kind in ("row", "each"):
            assert table.get(f"catch_{name}_{kind}"), (
                f"{file} names the catch-up {name!r}, which has no entry {kind!r}."
            )
    for entry in table:
        if entry.startswith("catch_"):
            name = re.sub(r"^catch_|_(row|each|stiff|scalars|count)$", "", entry)
            assert name in catches(), f"the catch-up {entry!r} in fastopt/kernels is named by no Rule."


def rules() -> dict[str, str]:
    """Every span or pass that an optimizer names, and the file that does."""
    found = {}
    for stem in optimizer_files():
        for cls in optimizers_in(stem):
            names = [rule.span for rule in cls.rules] if cls.plan is None else [one.name for one in cls.passes]
            found.update(dict.fromkeys(names, f"fastopt/optimizers/{stem}.py"))
    found.update({one.name: "fastopt/optimizers/whole.py" for one in SHARED})
    return {**found, **{one.name: "fastopt/strategies/normalization.py" for one in normalization.PASSES}}


def measures() -> dict[str, str]:
    """Every measure that a rule names, and the file that does."""
    return {f"measure_{rule.measure.name}": file for file, rule in every_rule() if rule.measure}


@needs_native
@pytest.mark.parametrize("isa", kernels.runnable())
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_rule_has_its_span_and_every_span_its_rule(isa, dtype):
    """The other builds include the same files; what this CPU cannot run is not imported."""
    table = kernels.load(isa)[dtype]
    named = rules() | measures()
    for span, file in named.items():
        assert table.get(span), f"{file} names the span {span!r}, which no TABLE line in fastopt/kernels enters."
    helpers = set()
    for stem in sorted(HELPERS):
        if (KERNELS / f"{stem}.pyx").exists():
            helpers |= set(re.findall(r'^TABLE\["(\w+)"\]', (KERNELS / f"{stem}.pyx").read_text(), re.M))
    if helpers:
        for name in table:
            assert name in named or name in helpers or name.startswith("catch_"), (
                f"the span {name!r} in fastopt/kernels is named by no Rule."
            )


@needs_sources
@pytest.mark.parametrize("stem", kernel_files())
def test_every_span_is_entered_under_its_own_name(stem):
    text = (KERNELS / f"{stem}.pyx").read_text()
    entered = re.findall(r'^TABLE\["(\w+)"\] = <size_t><void \*>(\w+)$', text, re.M)
    assert entered, f"fastopt/kernels/{stem}.pyx enters nothing in TABLE."
    for name, function in entered:
        assert name == function, f"fastopt/kernels/{stem}.pyx enters {function} in TABLE under the name {name!r}."


@needs_sources
def test_every_build_includes_its_dtype_and_every_span_file():
    builds = KERNELS / "builds"
    names = {f"{isa}_{dtype}" for isa in kernels.LEVELS for dtype in ("f32", "f64")}
    assert {f.stem for f in builds.glob("*.pyx")} == names, "fastopt/kernels/builds and LEVELS have different builds."
    for name in sorted(names):
        text = (builds / f"{name}.pyx").read_text()
        want = f'include "../real{name[-2:]}.pxi"\ninclude "spans.pxi"\n'
        assert text == want, f"fastopt/kernels/builds/{name}.pyx does not include its dtype and all spans."


# ------------------------------------------------------------------------------------------------------- docstrings


OPTIONAL = [
    n for n in ("schedules", "transforms", "checkpoint", "strategies", "models", "viz") if is_module(f"fastopt.{n}")
]


@cache
def exports() -> dict[str, Any]:
    """The public functions and classes, by the names under which users reach them."""
    found = {f"fastopt.{n}": getattr(fastopt, n) for n in vars(fastopt) if not n.startswith("_")}
    for name in OPTIONAL:
        module = import_module(f"fastopt.{name}")
        for n in getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")]):
            with suppress(fastopt.UnsupportedError, ModuleNotFoundError):  # the next test tells which are missing
                found[f"fastopt.{name}.{n}"] = getattr(module, n)
    return {
        name: thing
        for name, thing in found.items()
        if not isinstance(thing, ModuleType)
        and callable(thing)
        and str(getattr(thing, "__module__", "")).startswith("fastopt")
    }


@pytest.mark.parametrize("name", OPTIONAL)
def test_every_name_in_all_exists(name):
    module = import_module(f"fastopt.{name}")
    for n in getattr(module, "__all__", ()):
        try:
            getattr(module, n)
        except fastopt.UnsupportedError as missing:
            pytest.skip(str(missing))
        except ModuleNotFoundError as missing:
            raise AssertionError(f"fastopt.{name}.{n} cannot be had: {missing}.") from missing


def documented(cls: type) -> dict[str, str]:
    """The parameters in the section "Parameters" of a class's own docstring, and what follows their colon."""
    text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[^\n]*\n-{3,}$|\Z)", text, re.M | re.S)
    lines = re.findall(r"^(\*{0,2}[A-Za-z_][\w*, ]*?)(?: : (.*))?$", section[1] if section else "", re.M)
    return {name.strip(" *"): kind for names, kind in lines for name in names.split(",")}


def own_constructor(cls: type) -> dict[str, inspect.Parameter]:
    if issubclass(cls, fastopt.Optimizer):
        return dict(inspect.signature(cls).parameters)
    return dict(list(inspect.signature(cls.__init__).parameters.items())[1:])


@pytest.mark.parametrize("name", sorted(exports()))
def test_what_is_public_has_a_docstring(name):
    thing = exports()[name]
    assert (thing.__doc__ or "").strip(), f"{name} has no docstring."
    if not isinstance(thing, type):
        return
    for part, member in inspect.getmembers(thing):
        function = member.fget if isinstance(member, property) else member
        if part.startswith("_") or not str(getattr(function, "__module__", "")).startswith("fastopt"):
            continue
        if inspect.isfunction(function) or inspect.ismethod(function):
            own = inspect.getattr_static(thing, part)
            text = inspect.getdoc(own if isinstance(own, property) else function)
            assert text and text.strip(), f"{name}.{part} has no docstring."


@pytest.mark.parametrize(
    "name", sorted(n for n, c in exports().items() if isinstance(c, type) and "__init__" in vars(c))
)
def test_every_parameter_of_a_constructor_is_documented_with_its_default(name):
    cls = exports()[name]
    if cls is fastopt.Optimizer:
        return  # it is made through the classes derived from it
    text, known = documented(cls), own_constructor(cls)
    if text.pop("common", None) is not None:  # what all optimizers share is described once
        text = {**{k: v for k, v in documented(fastopt.Optimizer).items() if k in known}, **text}
    for parameter in known:
        assert parameter in text, f"the docstring of {name} does not describe {parameter!r} under Parameters."
    for parameter, kind in text.items():
        assert parameter in known, f"the docstring of {name} describes {parameter!r}, which it does not take."
        if match := re.search(r"\bdefault (.+?)\s*$", kind or ""):
            want = known[parameter].default
            said = math.inf if match[1] == "inf" else ast.literal_eval(match[1])
            assert said == want, f"the docstring of {name} gives {parameter} the default {said!r}, but it is {want!r}."
