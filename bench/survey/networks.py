"""Data and small networks in NumPy: what the experiments train."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastopt.strategies import BatchNorm

Array = np.ndarray[Any, Any]
CLASSES = 10


class Split(NamedTuple):
    """Samples to learn from, to choose by, and to judge by."""

    X: Array
    y: Array
    X_val: Array
    y_val: Array
    X_test: Array
    y_test: Array


@cache
def _digits() -> tuple[Array, Array]:
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    return (X / 16).astype(np.float32), y.astype(np.intp)


def digits(seed: int, train: int = 1000, noise: float = 0.0, wrong: float = 0.0) -> Split:
    """scikit-learn's digits, split by the seed: `train` to learn from, 297 to choose by, 500 to judge by.

    `noise` is the standard deviation of what is added to every pixel (white is 1), `wrong` the share of the training
    samples that get a random label.
    """
    rng = np.random.default_rng([seed, 1])
    X, y = _digits()
    order = rng.permutation(len(X))
    X, y = X[order], y[order].copy()
    X = X + np.float32(noise) * rng.standard_normal(X.shape, np.float32) if noise else X
    X = (X - X[797:].mean(axis=0)) * np.float32(2)
    replaced = np.flatnonzero(rng.random(train) < wrong)
    y[797 + replaced] = rng.integers(CLASSES, size=len(replaced))
    return Split(X[797 : 797 + train], y[797 : 797 + train], X[:297], y[:297], X[297:797], y[297:797])


class Network:
    """Layers of `sizes`, fully connected, with softmax and cross-entropy at the end.

    It holds no parameters: `start` makes them, a dict of arrays, `loss_and_grad` takes them. `norm` puts a batch
    normalization before every hidden activation; its running statistics belong to the network, so that each training
    needs a network of its own then.
    """

    def __init__(self, sizes: Sequence[int] = (64, 32, CLASSES), activation: str = "relu", norm: bool = False) -> None:
        self.sizes, self.activation = tuple(sizes), activation
        self.norms = [BatchNorm(n) for n in sizes[1:-1]] if norm else []

    def start(self, seed: int, scale: float = 1.0, dtype: Any = np.float32) -> dict[str, Array]:
        """Weights from a normal distribution, of standard deviation `scale` times He's, and biases of 0."""
        rng = np.random.default_rng([seed, 2])
        params = {}
        for i, (m, n) in enumerate(zip(self.sizes, self.sizes[1:], strict=False)):
            deviation = scale * math.sqrt((2.0 if self.activation == "relu" else 1.0) / m)
            params[f"w{i}"] = (deviation * rng.standard_normal((m, n))).astype(dtype)
            params[f"b{i}"] = np.zeros(n, dtype)
        for i, norm in enumerate(self.norms):
            params |= {f"{name}{i}n": array for name, array in norm.params.items()}
        return params

    def _forward(self, params: dict[str, Array], X: Array, training: bool) -> list[Array]:
        """The activations, from the input to the scores."""
        hidden = [X]
        last = len(self.sizes) - 2
        for i in range(last + 1):
            z = hidden[-1] @ params[f"w{i}"] + params[f"b{i}"]
            if i < last:
                if self.norms:
                    z = self.norms[i].forward(z, training=training)
                z = np.tanh(z) if self.activation == "tanh" else np.maximum(z, 0, out=z)
            hidden.append(z)
        return hidden

    def loss_and_grad(self, params: dict[str, Array], X: Array, y: Array) -> tuple[float, dict[str, Array]]:
        """Mean cross-entropy of a batch, and its gradient in the structure of the parameters."""
        hidden = self._forward(params, X, training=True)
        loss, d = cross_entropy(hidden[-1], y)
        grads = {}
        for i in reversed(range(len(self.sizes) - 1)):
            grads[f"w{i}"], grads[f"b{i}"] = hidden[i].T @ d, d.sum(axis=0)
            if i:
                d = d @ params[f"w{i}"].T
                d *= (1 - hidden[i] * hidden[i]) if self.activation == "tanh" else hidden[i] > 0
                if self.norms:
                    norm = self.norms[i - 1]
                    d = norm.backward(d)
                    grads |= {f"{name}{i - 1}n": array for name, array in norm.grads.items()}
        return loss, {name: grads[name] for name in params}

    def scores(self, params: dict[str, Array], X: Array) -> Array:
        return self._forward(params, X, training=False)[-1]

    def loss(self, params: dict[str, Array], X: Array, y: Array) -> float:
        return cross_entropy(self.scores(params, X), y)[0]

    def accuracy(self, params: dict[str, Array], X: Array, y: Array) -> float:
        """In percent."""
        return 100 * float((self.scores(params, X).argmax(axis=1) == y).mean())


def cross_entropy(scores: Array, y: Array) -> tuple[float, Array]:
    """Mean loss, and its gradient by the scores."""
    n, row = len(y), np.arange(len(y))
    z = scores - scores.max(axis=1, keepdims=True)
    e = np.exp(z)
    total = e.sum(axis=1, keepdims=True)
    loss = float((np.log(total[:, 0]) - z[row, y]).mean())
    e /= total
    e[row, y] -= 1
    e /= n
    return loss, e


def flat(arrays: dict[str, Array]) -> Array:
    """All parameters or gradients in one float64 vector."""
    return np.concatenate([a.ravel() for a in arrays.values()]).astype(np.float64)


def copied(params: dict[str, Array]) -> dict[str, Array]:
    return {name: array.copy() for name, array in params.items()}
