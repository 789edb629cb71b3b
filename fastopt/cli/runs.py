"""Models trained pass by pass or on a stream, and what they reach."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

from ..errors import UnsupportedError

#: The estimators of `--model`: their module in `fastopt.models`, the classifier, the regressor (or none).
MODELS: dict[str, tuple[str, str, str | None]] = {
    "linear": ("linear", "LinearClassifier", "LinearRegressor"),
    "fm": ("factorization", "FMClassifier", "FMRegressor"),
    "ffm": ("factorization", "FFMClassifier", None),
}


def estimator(name: str, classify: bool, **options: Any) -> Any:
    """An estimator by the name of its kind; of `options` it gets those that it has."""
    home, *classes = MODELS[name]
    if (chosen := classes[0 if classify else 1]) is None:
        raise UnsupportedError(f"--model {name} has no regression; choose another --loss")
    cls = getattr(import_module(f"fastopt.models.{home}"), chosen)
    known = inspect.signature(cls).parameters
    return cls(**{key: value for key, value in options.items() if key in known})


@dataclass
class Split:
    """Rows to learn from and rows held out, both as CSR, with their targets and weights."""

    X: Any
    y: Any
    X_held: Any
    y_held: Any
    weights: Any = None
    weights_held: Any = None


@dataclass
class Result:
    """What one model reached."""

    name: str
    model: Any
    seconds: float = 0.0
    rows: int = 0  # times passes
    nonzeros: int = 0
    losses: list[float] = field(default_factory=list)  # held-out after each pass; of a stream, after each piece
    at: list[int] = field(default_factory=list)  # of a stream: the rows that had been seen then
    scores: dict[str, float] = field(default_factory=dict)

    def speed(self, count: int) -> float:
        return count / self.seconds if self.seconds and count else float("nan")

    def rate(self) -> Any:
        """The rate that ``--lr auto`` chose, of several models a list; None where it was given."""
        chosen = getattr(self.model, "lr_", None)
        return None if chosen is None else np.asarray(chosen).tolist()

    def row(self) -> list[str]:
        rate = self.speed(self.nonzeros) / 1e6
        return [
            self.name,
            f"{self.losses[-1]:.4f}",
            f"{next(iter(self.scores.values()), float('nan')):.4f}",
            f"{self.seconds:.2f}",
            "" if rate != rate else f"{rate:.0f}",
        ]

    def figures(self) -> dict[str, Any]:
        """All that JSON is to have of it."""
        return {
            "optimizer": self.name,
            "loss": self.losses[-1],
            **self.scores,
            **({} if (rate := self.rate()) is None else {"lr": rate}),
            "losses": self.losses,
            **({"rows_at": self.at} if self.at else {}),
            "rows": self.rows,
            "nonzeros": self.nonzeros,
            "seconds": self.seconds,
            "rows_per_second": self.speed(self.rows),
            "nonzeros_per_second": self.speed(self.nonzeros),
        }


#: The first score of a model, and what tables call it.
TITLES = {"auc": "AUC", "accuracy": "accuracy", "r2": "R^2"}


def fit(
    name: str,
    model: Any,
    rates: Sequence[float],
    epochs: int,
    data: Split,
    seed: int,
    tick: Callable[[], Any],
    classes: Any = None,
) -> Result:
    """Train `model` pass by pass, and score it on the held-out rows after each; only training is timed."""
    result = Result(name, model, rows=data.X.shape[0] * epochs, nonzeros=data.X.nnz * epochs)
    regression = not hasattr(model, "decision_function")
    for epoch in range(epochs):
        model.set_params(lr=rates[min(epoch, len(rates) - 1)], random_state=seed + epoch)
        more = {} if regression or epoch else {"classes": np.unique(data.y) if classes is None else classes}
        start = time.perf_counter()
        model.partial_fit(data.X, data.y, sample_weight=data.weights, **more)
        result.seconds += time.perf_counter() - start
        loss, result.scores = evaluate(model, data)
        result.losses.append(loss)
        tick()
    return result


def evaluate(model: Any, data: Split) -> tuple[float, dict[str, float]]:
    """Mean held-out loss, and scores."""
    from ..models.progressive import judge

    found = judge(model, data.X_held, data.y_held)
    loss = float(np.average(found.losses, weights=data.weights_held))
    return loss, measures(model, found.scores, data.y_held, found.right, data.weights_held)


def measures(model: Any, scores: Any, y: Any, right: Any, weights: Any) -> dict[str, float]:
    """AUC and accuracy of two classes, accuracy of more, R^2 of a regressor; the first is the one of the tables."""
    from sklearn.metrics import r2_score, roc_auc_score

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one class alone, or one row, there is no score
        if right is None:
            return {"r2": float(r2_score(y, scores, sample_weight=weights))}
        accuracy = {"accuracy": float(np.average(right, weights=weights))}
        if len(model.classes_) > 2:
            return accuracy
        second = y == model.classes_[1]
        both = second.any() and not second.all()
        auc = float(roc_auc_score(second, scores, sample_weight=weights)) if both else float("nan")
        return {"auc": auc, **accuracy}
