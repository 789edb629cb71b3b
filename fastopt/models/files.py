"""Trained linear models in a file: NumPy arrays and JSON, no pickle."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..checkpoint import read_arrays, write_arrays
from ..errors import CheckpointError
from .features import ColumnHasher
from .linear import Linear, LinearClassifier, LinearRegressor

FORMAT = "fastopt linear model 1"


def save_model(path: str | os.PathLike[str], model: Linear, hasher: ColumnHasher | None = None) -> None:
    """Write a fitted `LinearClassifier` or `LinearRegressor`, and the hasher of its features, to `path` (.npz).

    Weights, intercept, classes and parameters are kept; the optimizer's state is not, so a loaded model predicts. The
    file appears whole or not at all: it is written beside its place, flushed to disk and renamed.
    """
    about = {
        "format": FORMAT,
        "class": type(model).__name__,
        "parameters": model.get_params(),
        "hasher": None
        if hasher is None
        else {"n_features": hasher.n_features, "columns": hasher.columns, "crosses": hasher.crosses},
    }
    arrays = {"coef": model.coef_, "intercept": model.intercept_}
    if isinstance(model, LinearClassifier):
        if model.classes_.dtype.hasobject:
            raise CheckpointError("classes of Python objects cannot be saved without pickle; use strings or numbers")
        arrays["classes"] = model.classes_
    write_arrays(path, about, arrays)


def load_model(path: str | os.PathLike[str]) -> tuple[Any, ColumnHasher | None]:
    """The model and the hasher that `save_model` wrote to `path`; nothing in the file is executed.

    Returns
    -------
    model : LinearClassifier or LinearRegressor
        Fitted: it predicts. `partial_fit` goes on from the weights, with the optimizer's state at its start.
    hasher : ColumnHasher or None
    """
    about, arrays = read_arrays(path, FORMAT)
    try:
        cls = {"LinearClassifier": LinearClassifier, "LinearRegressor": LinearRegressor}[about["class"]]
        model: Linear = cls(**about["parameters"])
        model._check_parameters()
        hasher = None if about["hasher"] is None else ColumnHasher(**about["hasher"])
        coef, intercept = np.atleast_2d(arrays["coef"]), arrays["intercept"]
        if coef.dtype not in (np.float32, np.float64) or coef.ndim != 2 or intercept.shape != coef.shape[:1]:
            raise CheckpointError(f"{path} is damaged: weights of shape {coef.shape} and dtype {coef.dtype}")
        if isinstance(model, LinearClassifier):
            model._set_classes(arrays["classes"])
            if len(coef) != (1 if len(model.classes_) == 2 else len(model.classes_)):
                raise CheckpointError(f"{path} is damaged: {len(coef)} rows of weights, {len(model.classes_)} classes")
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path} is not a model that fastopt saved: {error}") from error
    model._restore([(w, b) for w, b in zip(coef, intercept[:, np.newaxis], strict=True)], coef.shape[1], coef.dtype)
    return model, hasher
