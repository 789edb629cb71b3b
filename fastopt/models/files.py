"""Trained models in a file: NumPy arrays and JSON, no pickle."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from ..checkpoint import read_arrays, write_arrays
from ..checks import Array
from ..errors import CheckpointError
from .estimators import Classifier
from .factorization import Factorization, FFMClassifier, FMClassifier, FMRegressor
from .features import ColumnHasher
from .linear import Linear, LinearClassifier, LinearRegressor

FORMAT = "fastopt linear model 1"
CLASSES = {cls.__name__: cls for cls in (LinearClassifier, LinearRegressor, FMClassifier, FMRegressor, FFMClassifier)}


class SparseRows(Sequence[Array]):
    """The weights of classes that were saved without those that are 0; each made when asked for."""

    def __init__(self, arrays: Mapping[str, Array], n_features: int) -> None:
        self.data, self.indices, self.indptr = (arrays[f"coef_{name}"] for name in ("data", "indices", "indptr"))
        rows = sparse.csr_array((self.data, self.indices, self.indptr), shape=(len(self.indptr) - 1, n_features))
        rows.check_format(full_check=True)
        if self.indices.dtype.kind != "i":
            raise CheckpointError(f"coef_indices have the dtype {self.indices.dtype}")
        self.dtype, self.shape, self.ndim = self.data.dtype, rows.shape, 2

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, k: Any) -> Any:
        part, row = slice(self.indptr[k], self.indptr[k + 1]), np.zeros(self.shape[1], self.dtype)
        row[self.indices[part]] = self.data[part]
        return row


class Parameters(Sequence[tuple[Any, ...]]):
    """The arrays of each model, of sequences of them."""

    def __init__(self, *of_models: Sequence[Any] | Array) -> None:
        self.of_models = of_models

    def __len__(self) -> int:
        return len(self.of_models[0])

    def __getitem__(self, k: Any) -> Any:
        if not 0 <= k < len(self):
            raise IndexError(k)
        return tuple(arrays[k] for arrays in self.of_models)


class Saved(NamedTuple):
    """What `save_model` wrote: the model, its hasher, and how its samples were read."""

    model: Any
    hasher: ColumnHasher | None
    reader: dict[str, Any]


def save_model(
    path: str | os.PathLike[str],
    model: Linear | Factorization,
    hasher: ColumnHasher | None = None,
    reader: Mapping[str, Any] | None = None,
) -> None:
    """Write a fitted estimator, and the hasher of its features, to a file without pickle.

    Weights, vectors, intercept, classes and parameters are kept; the optimizer's state is not, so a loaded model predicts. Of
    several `l2` the one chosen is kept.

    Parameters
    ----------
    path : path
        A .npz file. It appears whole or not at all: it is written beside its place, flushed to disk and renamed.
    model : estimator of `fastopt.models`
        Linear, or a factorization machine.
    hasher : ColumnHasher, optional
        What made its features of a table. One that leaves a column's kind to the table's types does so after loading, too;
        `ColumnHasher.decide` writes it down.
    reader : mapping, optional
        What else is to be known of the samples to read more of them, kept as it is; JSON must have a form for it.

    Raises
    ------
    CheckpointError
        If a parameter or class has no form in JSON or NumPy: schedules, random states, objects. Nothing is written then.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from fastopt.models import LinearClassifier, load_model
    >>> model = LinearClassifier(random_state=0).fit(np.eye(4), [0, 1, 0, 1])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_model(os.path.join(folder, "m.npz"), model)
    ...     again, hasher = load_model(os.path.join(folder, "m.npz"))
    >>> again.predict(np.eye(4)).tolist()
    [0, 1, 0, 1]
    """
    parameters = model.get_params()
    fields = parameters.pop("fields", None)
    if hasattr(model, "l2_") and model._l2s():
        parameters["l2"] = model.l2_
    if isinstance(weights := parameters.get("class_weight"), Mapping):
        parameters["class_weight"] = list(weights.items())  # keys of JSON would be texts
    about = {
        "format": FORMAT,
        "class": type(model).__name__,
        "parameters": parameters,
        "columns": model._columns,
        "hasher": None if hasher is None else hasher.options(),
        "reader": dict(reader or {}),
    }
    if isinstance(model, LinearClassifier) and model.layout_ == "sparse" and model._lists() is not None:
        entries = model._entries()
        arrays = {"coef_data": entries.data, "coef_indices": entries.indices, "coef_indptr": entries.indptr}
        about["n_features"] = entries.shape[1]
    else:
        arrays = {"coef": model.coef_}
    arrays["intercept"] = model.intercept_
    if isinstance(model, Factorization):
        arrays["factors"] = model.factors_
    if fields is not None:
        arrays["fields"] = np.asarray(fields)
    if isinstance(model, Classifier) and model._columns is None:
        classes = model.classes_
        if classes.dtype.hasobject:
            if not all(isinstance(label, str) for label in classes):
                raise CheckpointError(
                    "classes of Python objects cannot be saved without pickle; use strings or numbers"
                )
            classes = classes.astype(np.str_)
        arrays["classes"] = classes
    write_arrays(path, about, arrays)


def load_model(path: str | os.PathLike[str]) -> tuple[Any, ColumnHasher | None]:
    """The model and the hasher that `save_model` wrote to `path`; nothing in the file is executed.

    Parameters
    ----------
    path : path
        Also one of ``fastopt train --out``.

    Returns
    -------
    model : an estimator of `fastopt.models`
        Fitted: it predicts. `partial_fit` goes on from the weights, with the optimizer's state at its start.
    hasher : ColumnHasher or None

    Raises
    ------
    FileNotFoundError
    CheckpointError
        If the file is damaged, or none of ours.
    """
    return load_saved(path)[:2]


def load_saved(path: str | os.PathLike[str]) -> Saved:
    """As `load_model`, with the `reader` of `save_model`."""
    about, arrays = read_arrays(path, FORMAT)
    try:
        cls: Any = CLASSES[about["class"]]
        own = {"fields": arrays["fields"]} if "fields" in arrays else {}
        parameters = about["parameters"]
        if isinstance(weights := parameters.get("class_weight"), list):
            parameters["class_weight"] = dict(weights)
        model = cls(**parameters, **own)
        model._check_parameters()
        hasher = None if about["hasher"] is None else ColumnHasher(**about["hasher"])
        reader = dict(about.get("reader", {}))
        coef: Any = (
            SparseRows(arrays, about["n_features"]) if "coef_indptr" in arrays else np.atleast_2d(arrays["coef"])
        )
        intercept = arrays["intercept"]
        one_each = coef.ndim == 2 and coef.shape[1] > 0 and intercept.shape == coef.shape[:1]
        if coef.dtype not in (np.float32, np.float64) or not one_each:
            raise CheckpointError(f"{path} is damaged: weights of shape {coef.shape} and dtype {coef.dtype}")
        columns = about.get("columns")
        rows = 1 if columns is None and not isinstance(model, Classifier) else columns
        if not isinstance(columns, int | None) or (rows is not None and len(coef) != rows):
            raise CheckpointError(f"{path} is damaged: {len(coef)} rows of weights, {columns} columns of targets")
        if isinstance(model, Classifier) and columns is not None:
            model.classes_ = np.arange(columns)
        elif isinstance(model, Classifier):
            model._set_classes(arrays["classes"])
            if coef.shape[0] != (1 if len(model.classes_) == 2 else len(model.classes_)):
                raise CheckpointError(
                    f"{path} is damaged: {coef.shape[0]} rows of weights, {len(model.classes_)} classes"
                )
        arrays_of: Sequence[tuple[Any, ...]] = Parameters(coef, intercept[:, np.newaxis])
        if isinstance(model, Factorization):
            _, n_fields = model._layout(coef.shape[1])
            factors = arrays["factors"]
            if factors.dtype != coef.dtype:
                raise CheckpointError(f"{path} is damaged: weights of {coef.dtype}, vectors of {factors.dtype}")
            vectors = factors.reshape(*coef.shape, n_fields, model.rank)
            arrays_of = Parameters(coef, intercept[:, np.newaxis], vectors)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{path} is not a model that fastopt saved: {error}") from error
    model._columns = columns
    model._restore(arrays_of, coef.shape[1], coef.dtype)
    return Saved(model, hasher, reader)
