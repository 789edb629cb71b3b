"""Models trained pass by pass, and scored on held-out rows after each."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..scores import VALUES


@dataclass
class Split:
    """Rows to learn from and rows held out, both as CSR, with their targets."""

    X: Any
    y: Any
    X_held: Any
    y_held: Any


@dataclass
class Result:
    """What one model reached."""

    name: str
    model: Any
    seconds: float = 0.0
    nonzeros: int = 0
    losses: list[float] = field(default_factory=list)  # held-out, after each pass
    score: float = float("nan")  # AUC, or R^2

    def row(self) -> list[str]:
        rate = self.nonzeros / self.seconds / 1e6 if self.seconds and self.nonzeros else float("nan")
        return [
            self.name,
            f"{self.losses[-1]:.4f}",
            f"{self.score:.4f}",
            f"{self.seconds:.2f}",
            "" if rate != rate else f"{rate:.0f}",
        ]


def fit(
    name: str, model: Any, rates: Sequence[float], epochs: int, data: Split, seed: int, tick: Callable[[], None]
) -> Result:
    """Train `model` pass by pass, and score it on the held-out rows after each; only training is timed."""
    result = Result(name, model, nonzeros=data.X.nnz * epochs)
    regression = not hasattr(model, "decision_function")
    for epoch in range(epochs):
        model.set_params(lr=rates[min(epoch, len(rates) - 1)], random_state=seed + epoch)
        start = time.perf_counter()
        model.partial_fit(data.X, data.y, **({} if regression or epoch else {"classes": np.unique(data.y)}))
        result.seconds += time.perf_counter() - start
        loss, result.score = evaluate(model, data)
        result.losses.append(loss)
        tick()
    return result


def evaluate(model: Any, data: Split) -> tuple[float, float]:
    """Mean held-out loss, and AUC (of a classifier) or R^2."""
    from sklearn.metrics import r2_score, roc_auc_score

    from ..models.linear import LOSS_PARAMETERS

    y = data.y_held
    loss = VALUES[model.loss]
    if not hasattr(model, "decision_function"):
        found = model.predict(data.X_held)
        z = np.log(found) if model.loss == "poisson" else found
        return float(loss(z, y, getattr(model, LOSS_PARAMETERS.get(model.loss, ""), 0.0)).mean()), float(
            r2_score(y, found)
        )
    z = model.decision_function(data.X_held).astype(np.float64)
    second = y == model.classes_[1]
    return float(loss(z, np.where(second, 1.0, -1.0), 0.0).mean()), float(roc_auc_score(second, z))
