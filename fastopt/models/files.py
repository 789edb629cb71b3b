"""Trained linear models in a file: NumPy arrays and JSON, no pickle."""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..version import __version__
from .features import ColumnHasher
from .linear import LinearClassifier, LinearRegressor, _Linear

FORMAT = "fastopt linear model 1"


def save_model(path: str | os.PathLike[str], model: _Linear, hasher: ColumnHasher | None = None) -> None:
    """Write a fitted `LinearClassifier` or `LinearRegressor`, and the hasher of its features, to `path` (.npz).

    Weights, intercept, classes and parameters are kept; the optimizer's state is not, so a loaded model predicts. The
    file appears whole or not at all: it is written beside its place, flushed to disk and renamed.
    """
    about = {
        "format": FORMAT,
        "fastopt": __version__,
        "class": type(model).__name__,
        "parameters": model.get_params(),
        "hasher": None
        if hasher is None
        else {"n_features": hasher.n_features, "columns": hasher.columns, "crosses": hasher.crosses},
    }
    try:
        text = json.dumps(about, default=_number)
    except TypeError as error:
        raise CheckpointError(f"a parameter of the model cannot be written as JSON: {error}") from error
    arrays = {"coef": model.coef_, "intercept": model.intercept_}
    if isinstance(model, LinearClassifier):
        if model.classes_.dtype.hasobject:
            raise CheckpointError("classes of Python objects cannot be saved without pickle; use strings or numbers")
        arrays["classes"] = model.classes_
    folder = os.path.dirname(os.path.abspath(path))
    handle, temporary = tempfile.mkstemp(".npz", ".fastopt-", folder)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, allow_pickle=False, about=np.array(text), **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes private files
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _number(x: Any) -> Any:
    if isinstance(x, np.generic):
        return x.item()
    raise TypeError(f"{type(x).__name__}: {x!r:.60}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def load_model(path: str | os.PathLike[str]) -> tuple[Any, ColumnHasher | None]:
    """The model and the hasher that `save_model` wrote to `path`; nothing in the file is executed.

    Returns
    -------
    model : LinearClassifier or LinearRegressor
        Fitted: it predicts. `partial_fit` goes on from the weights, with the optimizer's state at its start.
    hasher : ColumnHasher or None
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays.pop("about")))
        if about["format"] != FORMAT:
            raise CheckpointError(f"{path} has the format {about['format']!r}; this version reads {FORMAT!r}")
        cls = {"LinearClassifier": LinearClassifier, "LinearRegressor": LinearRegressor}[about["class"]]
        model: _Linear = cls(**about["parameters"])
        model._check_parameters()
        hasher = None if about["hasher"] is None else ColumnHasher(**about["hasher"])
        coef, intercept = np.atleast_2d(arrays["coef"])[0], arrays["intercept"]
        if coef.dtype not in (np.float32, np.float64) or coef.ndim != 1 or intercept.shape != (1,):
            raise CheckpointError(f"{path} is damaged: weights of shape {coef.shape} and dtype {coef.dtype}")
        if isinstance(model, LinearClassifier):
            model._set_classes(arrays["classes"])
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path} is not a model that fastopt saved: {error}") from error
    model._restore(coef, intercept[0])
    return model, hasher
