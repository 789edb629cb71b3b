"""The README's quick start runs as it stands, and is as short as it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize

import fastopt
import fastopt.models
from fastopt.models import LinearClassifier

README = Path(__file__).parent.parent / "README.md"


def test_five_lines_run():
    code = re.search(r"## Five lines\n+```python\n(.*?)```", README.read_text(), re.S).group(1)
    assert len(code.strip().splitlines()) == 5
    scope: dict[str, object] = {}
    exec(code, scope)
    w, b, opt = scope["w"], scope["b"], scope["opt"]
    assert (w != 0).all() and (w[3] < w[0]).all() and (b != 0).all()
    assert {k: s["step"] for k, s in opt.state_dict()["state"].items()} == {"w": 2, "b": 1}


def test_what_the_readme_names_exists():
    text = README.read_text()
    makefile = (README.parent / "Makefile").read_text()
    for target in re.findall(r"make (\w+)", text):
        assert re.search(rf"^{target}:", makefile, re.M) or target in ("it",), target
    for path in re.findall(r"\]\((?!http)([^)#]+)\)|`((?:tests|bench|fastopt)/[\w./]+)`", text):
        assert (README.parent / (path[0] or path[1])).exists(), path


def test_the_readme_names_what_the_models_offer_and_links_to_its_own_headings():
    text = README.read_text()
    for name in fastopt.models.__all__:
        assert re.search(rf"\b{name}\b", text), f"README.md does not name {name} of fastopt.models."
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    places = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= places


def test_examples_of_docstrings_run():
    failed, run = {}, 0
    for module in pkgutil.walk_packages(fastopt.__path__, "fastopt."):
        if module.name.startswith("fastopt.kernels") or module.name.endswith("__main__"):
            continue
        results = doctest.testmod(importlib.import_module(module.name))
        run += results.attempted
        if results.failed:
            failed[module.name] = results.failed
    assert run > 40 and not failed


def test_example_of_the_optimizers_runs():
    text = re.search(r"## The optimizers\n+(.*?)```python\n(.*?)```", README.read_text(), re.S)
    for name in {*(cls.__name__ for cls in fastopt.Optimizer.known.values()), "NormalizedAdaptive"}:
        assert re.search(rf"\b{name}\b", text.group(1)), f"README.md does not name {name}."
    scope: dict[str, object] = {"np": np, "fastopt": fastopt}
    exec(text.group(2), scope)
    w, opt, mean = scope["w"], scope["opt"], scope["mean"]
    assert (w != 0).all() and (mean == w).all() and opt.skipped == 0
    assert opt.defaults["eps"] == 1e-7 and opt.state_dict()["state"][0]["step"] == 0


def test_batch_normalization_example_runs(rng: np.random.Generator):
    w, x, dy = (rng.standard_normal(s).astype(np.float32) for s in [(5, 64), (20, 5), (20, 64)])
    code = re.search(r"## Batch normalization\n+```python\n(.*?)```", README.read_text(), re.S).group(1)
    scope: dict[str, object] = {"fastopt": fastopt, "w": w, "x": x, "dy": dy}
    before = w.copy()
    exec(code, scope)
    assert abs(scope["y"].mean()) < 1e-5 and (w != before).all() and (scope["bn"].params["weight"] != 1).all()


def test_models_example_runs(rng: np.random.Generator):
    X, y = rng.standard_normal((50, 4)), rng.random(50) < 0.5
    code = re.search(r"## Linear models on sparse data\n+```python\n(.*?)```", README.read_text(), re.S).group(1)
    scope: dict[str, object] = {"X": X, "y": y}
    exec(code, scope)
    assert scope["model"].t_ == 150
    code = re.search(r"```python\n(from fastopt.models import FMClassifier.*?)```", README.read_text(), re.S).group(1)
    exec(code, scope)
    assert scope["pairs"].factors_.shape == (X.shape[1], 8)


def test_files_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.svm").write_text("1 1:2\n-1 2:3\n")
    (tmp_path / "rows.vw").write_text("1 |a b\n-1 |a c d\n")
    code = re.search(r"### Files and streams\n+```python\n(.*?)```", README.read_text(), re.S).group(1)
    scope: dict[str, object] = {"model": LinearClassifier(optimizer="adagrad")}
    exec(code, scope)
    assert scope["X"].nnz == 3 and (scope["model"].predict(scope["X"]) == scope["y"]).all()


def test_functions_example_runs():
    code = re.search(r"## Functions, and second order\n+```python\n(.*?)```", README.read_text(), re.S).group(1)
    scope = {"fastopt": fastopt, "scipy": scipy, "x0": np.zeros(2), "fun": lambda x: ((x - 1) @ (x - 1), 2 * (x - 1))}
    lines = code.strip().splitlines()
    assert len(lines) == 3
    for line in lines:
        result = eval(line.partition("#")[0], dict(scope))
        assert result.success and np.abs(result.x - 1).max() < 1e-4


def test_pictures_example_runs():
    pytest.importorskip("matplotlib").use("agg")
    code = re.search(r"## Pictures\n.*?```python\n(.*?)```", README.read_text(), re.S).group(1)
    scope: dict[str, object] = {}
    exec(code, scope)
    assert scope["ax"].images[0].get_array().shape == (3, 4)
    sys.modules["matplotlib.pyplot"].close("all")


def test_training_loop_example_runs_and_goes_on(tmp_path, monkeypatch, rng: np.random.Generator):
    monkeypatch.chdir(tmp_path)
    text = re.search(r"## Training loop\n+```python\n(.*?)```", README.read_text(), re.S).group(1)
    X = rng.standard_normal((400, 20))
    y = X @ rng.standard_normal(20)
    outcomes = []
    for stopped_at in (None, 25, None):
        scope = {"np": np, "fastopt": fastopt, "X": X[:300], "y": y[:300], "X_held": X[300:], "y_held": y[300:]}
        exec(text if stopped_at is None else text.replace("resume=True", f"resume=True, max_steps={stopped_at}"), scope)
        outcomes.append((scope["history"], scope["params"]["w"]))
        if stopped_at is None:
            (tmp_path / "run.npz").unlink()
    (whole, w), (part, _), (again, v) = outcomes
    assert part.steps == 25 and again.epochs == whole.epochs and (v == w).all()
    assert whole.epochs[-1]["validation"] < 0.01 * whole.epochs[0]["validation"]
