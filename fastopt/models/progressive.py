"""Training on a stream: each piece is predicted, then learned."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from ..checks import Array
from ..errors import StateError
from ..scores import VALUES
from ..strategies.training import interrupts
from .estimators import LOSS_PARAMETERS

#: Two labels that mean no and yes, whichever of them a stream shows first.
PAIRS: tuple[tuple[Any, Any], ...] = ((-1, 1), (0, 1), ("-1", "1"), ("0", "1"), ("false", "true"))


class Judged(NamedTuple):
    """What a model makes of samples whose targets are known."""

    losses: Array  #: of each sample, float64
    scores: Array  #: decision values of two classes, or of labels; the class of the largest probability of more; predictions of a regressor
    right: Array | None  #: whether the class is the predicted one; None of a regressor


def judge(model: Any, X: Any, y: Array) -> Judged:
    """The loss of each sample, by a fitted classifier or regressor of fastopt or scikit-learn.

    Of more than two classes it is minus the logarithm of the probability of the right one, where the model has
    probabilities, and else the sum of the losses of each class against the rest. Of several targets or labels it is the mean
    of their losses, and right is what is right in all labels.
    """
    loss = VALUES[model.loss]
    if not hasattr(model, "decision_function"):
        found = np.asarray(model.predict(X), np.float64)
        with np.errstate(divide="ignore"):
            z = np.log(found) if model.loss == "poisson" else found
        return Judged(_of_rows(loss(z, y, _parameter(model))), found, None)
    if y.ndim == 2:
        z = np.asarray(model.decision_function(X), np.float64)
        losses = loss(z, np.where(y == 1, 1.0, -1.0), 0.0)
        return Judged(_of_rows(losses), z, ((z > 0) == (y == 1)).all(axis=1))
    classes = model.classes_
    if len(classes) == 2:
        z = np.asarray(model.decision_function(X), np.float64)
        second = y == classes[1]
        return Judged(loss(z, np.where(second, 1.0, -1.0), 0.0), z, second == (z > 0))
    place = np.searchsorted(classes, y)
    if model.loss == "log_loss":
        p = np.asarray(model.predict_proba(X), np.float64)
        likely = p.argmax(axis=1)
        with np.errstate(divide="ignore"):
            return Judged(-np.log(p[np.arange(len(p)), place]), likely, likely == place)
    z = np.asarray(model.decision_function(X), np.float64)
    targets = np.where(place[:, np.newaxis] == np.arange(len(classes)), 1.0, -1.0)
    likely = z.argmax(axis=1)
    return Judged(loss(z, targets, 0.0).sum(axis=1), likely, likely == place)


def _parameter(model: Any) -> float:
    return float(getattr(model, LOSS_PARAMETERS.get(model.loss, ""), 0.0))


def _of_rows(losses: Array) -> Array:
    """Losses of samples, means of those of several targets."""
    found: Array = losses.mean(axis=1) if losses.ndim == 2 else losses
    return found


def _at_zero(model: Any, y: Array, classes: Array | None) -> Array:
    """The losses of a model that has learned nothing, whose scores are 0."""
    zero, loss = np.zeros(y.shape), VALUES[model.loss]
    if classes is None:
        return _of_rows(loss(zero, y, _parameter(model)))
    if y.ndim == 2:
        return _of_rows(loss(zero, np.where(y == 1, 1.0, -1.0), 0.0))
    if len(classes) == 2:
        return loss(zero, np.where(y == classes[1], 1.0, -1.0), 0.0)
    if model.loss == "log_loss":
        return zero + np.log(len(classes))
    return loss(zero, zero + 1, 0.0) + (len(classes) - 1) * loss(zero, zero - 1, 0.0)


@dataclass(frozen=True)
class Progress:
    """How far a stream has come."""

    rows: int = 0  #: learned
    nonzeros: int = 0  #: of these rows
    loss: float = float("nan")  #: mean progressive loss of these rows, by their weights
    last: float = float("nan")  #: that of the last piece
    seconds: float = 0.0  #: since the beginning
    waited: float = 0.0  #: of these, spent waiting for pieces
    weight: float = 0.0  #: sum of the sample weights: the rows, where there are none


def fit_stream(
    model: Any,
    pieces: Iterable[Any],
    *,
    classes: Any = None,
    callback: Callable[[Progress], Any] | None = None,
) -> Progress:
    """Train a model on pieces of data, each of which is predicted first: one pass, in the memory of a piece.

    Parameters
    ----------
    model : estimator of `fastopt.models`
        With ``partial_fit``. It goes on from where it is, at its present rate.
    pieces : iterable
        Of tuples (X, y) or (X, y, sample_weight), such as `chunks` gives. Weights are floating-point numbers: integers in the
        third place are taken for the fields of `read_libffm` or the queries of `read_svmlight`, and not looked at. Pieces
        without rows, or with weights of 0 alone, are passed by.
    classes : array-like, optional
        All labels that a classifier will see. Not needed where it has learned before, or where the labels are
        truth values, or those of the first piece -1 and 1, or 0 and 1, as numbers or texts.
    callback : callable, optional
        Called with the `Progress` after each piece.

    Returns
    -------
    Progress
        Its `loss` is the mean loss of rows that the model had not seen: an honest estimate without rows held out, as long as
        each row comes once. All rows of a piece are predicted before any is learned. Before the first piece all scores are 0.

    Raises
    ------
    StateError
        Where a label is none of the classes, or not a number: the message says in which rows. The model has learned the
        pieces before.
    KeyboardInterrupt
        Ctrl-C, after the piece under way: the model is whole. A second Ctrl-C interrupts at once.

    Examples
    --------
    >>> import io
    >>> from fastopt.models import LinearClassifier, chunks
    >>> text = b"1 |a x y\\n-1 |a z\\n1 |a x\\n-1 |a z y\\n" * 100
    >>> model = LinearClassifier(random_state=0)
    >>> progress = fit_stream(model, chunks(io.BytesIO(text), rows=50, reader="vw", n_features=16))
    >>> progress.rows, progress.loss < 0.3
    (400, True)
    """
    start = time.perf_counter()
    total, found, known = 0.0, Progress(), None if classes is None else np.unique(classes)
    source = iter(pieces)
    while True:
        begun = time.perf_counter()
        piece = next(source, None)
        waited = found.waited + time.perf_counter() - begun
        if piece is None:
            return replace(found, seconds=time.perf_counter() - start, waited=waited)
        X, y, weights = _parts(model, piece)
        if not len(y) or (weights is not None and not weights.any()):
            found = replace(found, waited=waited)
            continue
        with interrupts() as caught:
            known = checked_labels(model, y, known, found.rows)
            fitted = hasattr(model, "n_features_in_")
            losses = judge(model, X, y).losses if fitted else _at_zero(model, y, known)
            more = {"classes": known} if known is not None and not fitted else {}
            model.partial_fit(X, y, sample_weight=weights, **more)
            weight = float(len(y)) if weights is None else float(weights.sum())
            last = float(np.average(losses, weights=weights))
            total += last * weight
            found = Progress(
                found.rows + len(y),
                found.nonzeros + int(X.nnz if hasattr(X, "nnz") else np.count_nonzero(X)),
                total / (found.weight + weight),
                last,
                time.perf_counter() - start,
                waited,
                found.weight + weight,
            )
            if callback is not None:
                callback(found)
        if caught:
            raise KeyboardInterrupt


def _parts(model: Any, piece: Any) -> tuple[Any, Array, Array | None]:
    X, y, *more = piece
    weights = np.asarray(more[0]) if more and more[0] is not None else None
    if weights is not None and weights.dtype.kind != "f":  # fields or queries
        weights = None
    y = np.asarray(y.toarray() if sparse.issparse(y) else y)
    if y.ndim == 2 and y.shape[1] == 1 and hasattr(model, "decision_function"):
        y = y[:, 0]  # as `fit` takes it
    return X, y, weights


def checked_labels(model: Any, y: Array, classes: Array | None, done: int) -> Array | None:
    """The classes of a classifier, if each label is one of them; None for a regressor."""
    rows = f"rows {done + 1} to {done + len(y)} of the stream"
    if y.dtype.kind == "f" and not (known := np.isfinite(y)).all():
        at = np.unravel_index(int(known.argmin()), y.shape)
        raise StateError(f"row {done + 1 + int(at[0])} of the stream has the label {y[at]}")
    if hasattr(model, "_models"):
        model._check_columns(y.shape[1] if y.ndim == 2 else None)
    if not hasattr(model, "decision_function"):
        return None
    if y.ndim == 2:
        return np.arange(y.shape[1])
    if hasattr(model, "classes_"):
        classes = model.classes_
    labels = np.unique(y)
    if classes is None:
        if labels.dtype.kind == "b":
            return np.array([False, True])
        fits = [pair for pair in PAIRS if set(labels.tolist()) <= set(pair)]
        if len(fits) != 1:
            raise StateError(
                f"{rows} have the labels {_some(labels)}, of which it is not clear whether more will come; pass all in classes= (--classes)"
            )
        return np.array(fits[0], labels.dtype if labels.dtype.kind != "U" else None)
    others = labels[~np.isin(labels, classes)]
    if len(others):
        raise StateError(f"{rows} have the labels {_some(others)}, which are not among the classes {_some(classes)}")
    return classes


def _some(labels: Array) -> str:
    return f"{', '.join(map(str, labels[:5].tolist()))}{', ...' if len(labels) > 5 else ''}"
