"""The examples run, learn, and their gradients, written by hand, are right."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import fastopt

EXAMPLES = Path(__file__).parent.parent / "examples"

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="the examples are not beside the tests")


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def dense(g: Any, p: np.ndarray) -> np.ndarray:
    if isinstance(g, fastopt.SparseGrad):
        whole = np.zeros_like(p)
        np.add.at(whole, g.indices, g.values)
        return whole
    return g


def check_gradients(loss_and_grad: Callable[[], tuple[float, dict[str, Any]]], params: dict[str, np.ndarray]) -> None:
    """Every parameter along two random directions, by central differences in float64."""
    _, grads = loss_and_grad()
    assert set(grads) == set(params)
    found = {name: dense(g, params[name]).copy() for name, g in grads.items()}
    rng, h = np.random.default_rng(0), 1e-6
    for name, p in params.items():
        assert found[name].shape == p.shape
        for _ in range(2):
            direction, kept = rng.standard_normal(p.shape), p.copy()
            ends = []
            for sign in (1, -1):
                p[...] = kept + sign * h * direction
                ends.append(loss_and_grad()[0])
            p[...] = kept
            slope = (ends[0] - ends[1]) / (2 * h)
            assert abs(slope - (found[name] * direction).sum()) < 1e-6 * max(1.0, abs(slope)), name


def test_gradients_of_the_network():
    digits = example("digits")
    network = digits.Network((5, 7, 6, 3), dtype=np.float64)
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((20, 5)), rng.integers(0, 3, 20)
    check_gradients(lambda: network.loss_and_grad(network.params, x, y), network.params)


def test_gradients_of_the_transformer():
    transformer = example("transformer")
    params = transformer.initial(5, 4, 6, np.float64)
    rng = np.random.default_rng(1)
    for p in params.values():
        p += 0.1 * rng.standard_normal(p.shape)  # gains and biases, too, where they are no special case
    tokens, targets = rng.integers(0, 5, (2, 3, 4))
    check_gradients(lambda: transformer.loss_and_grad(params, tokens, targets, heads=3), params)


def test_digits_are_learned_and_resumed(tmp_path):
    digits = example("digits")
    network, history, right = digits.run(4, (32,))
    assert right > 0.93 and history.steps == 4 * 24
    assert history.lr[0] == 0.1 and history.lr[95] < 1e-3, "a period has 96 steps"
    path = tmp_path / "run.npz"
    digits.run(4, (32,), checkpoint=path, max_steps=40)
    again, resumed, _ = digits.run(4, (32,), checkpoint=path, resume=True)
    assert resumed.epochs == history.epochs
    assert all((again.params[name] == p).all() for name, p in network.params.items())
    assert all((a.running_mean == b.running_mean).all() for a, b in zip(again.norms, network.norms, strict=True))


def test_the_transformer_learns_to_reverse():
    transformer = example("transformer")
    _, history, right = transformer.run(60, 5, 4, 16, 30)
    assert right > 0.95 and history.lr.argmax() == 29


@pytest.mark.parametrize(
    ("name", "last"), [("digits", "accuracy on the test set"), ("transformer", "right on sequences")]
)
def test_examples_run_as_programs(capsys, name, last):
    example(name).main(["--quick"])
    out = capsys.readouterr().out.strip().splitlines()
    assert last in out[-1] and float(out[-1].split()[-1]) > 0.9


def test_words_find_their_neighbours(capsys, tmp_path):
    words = example("words")
    for nothing in ([], ["--data", str(tmp_path)]):
        with pytest.raises(SystemExit):
            words.main(nothing)
        assert "--data must name a text file" in capsys.readouterr().err
    rng = np.random.default_rng(0)
    lines = [
        " ".join(rng.choice(["war army navy ships", "money gold silver taxes"][k % 2].split(), 9)) for k in range(300)
    ]
    text = tmp_path / "text.txt"
    text.write_text("\n".join(lines))
    for model in ("skipgram", "glove"):
        picture, vectors = tmp_path / f"{model}.png", tmp_path / f"{model}.txt"
        words.main(
            ["--data", str(text), "--model", model, "--plot", str(picture), "--save", str(vectors), "--words", "war"]
        )
        shown = capsys.readouterr().out
        near = next(line for line in shown.splitlines() if line.lstrip().startswith("war:")).split(": ")[1]
        assert set(near.split(", ")[:3]) == {"army", "navy", "ships"}
        assert picture.stat().st_size > 1000 and vectors.read_text().startswith("8 ")
    words.main(["--data", str(text), "--epochs", "1", "--words", "nope", "--plot", str(tmp_path / "none.png")])
    assert "none of nope is among the words" in capsys.readouterr().out
