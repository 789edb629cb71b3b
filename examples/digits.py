"""A network in NumPy on scikit-learn's digits: batch normalization, warm restarts (SGDR), early stopping.

    python examples/digits.py [--quick]

The optimizer sees the weights and the parameters of the normalization layers alike, as arrays in one dict.
"""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import numpy as np

import fastopt
from fastopt.schedules import SGDR
from fastopt.strategies import BatchNorm, EarlyStopping, History, ResetState


class Network:
    """Layers of ``x @ w``, batch normalization and ReLU, and a last one with softmax."""

    def __init__(self, sizes: tuple[int, ...], seed: int = 0, dtype: Any = np.float32) -> None:
        rng = np.random.default_rng(seed)
        self.norms = [BatchNorm(n, dtype=dtype) for n in sizes[1:-1]]
        self.params: dict[str, np.ndarray] = {}
        for k, (before, after) in enumerate(itertools.pairwise(sizes)):  # He et al. 2015
            self.params[f"w{k}"] = (rng.standard_normal((before, after)) * np.sqrt(2 / before)).astype(dtype)
        self.params["b"] = np.zeros(sizes[-1], dtype)
        for k, norm in enumerate(self.norms):
            self.params |= {f"{name}{k}": a for name, a in norm.params.items()}

    def forward(self, x: np.ndarray, training: bool) -> list[np.ndarray]:
        """What goes into each layer, and the logits."""
        inputs = [x]
        for k, norm in enumerate(self.norms):
            inputs.append(np.maximum(norm.forward(inputs[-1] @ self.params[f"w{k}"], training=training), 0))
        return [*inputs, inputs[-1] @ self.params[f"w{len(self.norms)}"] + self.params["b"]]

    def loss_and_grad(
        self, params: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray
    ) -> tuple[float, dict[str, Any]]:
        """Mean cross entropy of a batch, and its gradient by every parameter."""
        *inputs, logits = self.forward(x, training=True)
        loss, d = cross_entropy(logits, y)
        last = len(self.norms)
        grads: dict[str, Any] = {f"w{last}": inputs[-1].T @ d, "b": d.sum(axis=0)}
        d = d @ params[f"w{last}"].T
        for k in reversed(range(last)):
            d = self.norms[k].backward(d * (inputs[k + 1] > 0))
            grads |= {f"{name}{k}": g for name, g in self.norms[k].grads.items()}
            grads[f"w{k}"] = inputs[k].T @ d
            d = d @ params[f"w{k}"].T
        return loss, grads

    def scores(self, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
        """Cross entropy and accuracy, by the running statistics."""
        logits = self.forward(x, training=False)[-1]
        return {"validation": cross_entropy(logits, y)[0], "accuracy": float(np.mean(logits.argmax(axis=1) == y))}


def cross_entropy(logits: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """The mean over the rows, and its gradient by the logits."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    p = np.exp(shifted)
    total = p.sum(axis=1, keepdims=True)
    rows = np.arange(len(y))
    loss = float(np.mean(np.log(total[:, 0]) - shifted[rows, y]))
    p /= total
    p[rows, y] -= 1
    return loss, p / len(y)


def data(seed: int = 0) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Digits of 8 x 8 pixels, shuffled: for training, validation and test."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(y))
    x, y = (x[order] / 16).astype(np.float32), y[order]
    return (x[:1200], y[:1200]), (x[1200:1500], y[1200:1500]), (x[1500:], y[1500:])


def run(
    epochs: int = 120, hidden: tuple[int, ...] = (64, 64), seed: int = 0, **options: Any
) -> tuple[Network, History, float]:
    """Train; the network, the history, and the accuracy on the test set."""
    training, held_out, test = data(seed)
    network = Network((64, *hidden, 10), seed)
    batch_size = 50
    schedule = SGDR(0.1, period=4 * len(training[0]) // batch_size, multiplier=2, minimum=1e-4)
    optimizer = fastopt.SGD(network.params, lr=schedule, momentum=0.9, nesterov=True, weight_decay=1e-4)
    history = fastopt.train(
        network.loss_and_grad,
        network.params,
        training,
        optimizer,
        epochs=epochs,
        batch_size=batch_size,
        drop_last=True,
        seed=seed,
        validation=lambda params: network.scores(*held_out),
        early_stopping=EarlyStopping(patience=12),
        callbacks=[ResetState(schedule)],
        layers=network.norms,
        **options,
    )
    return network, history, network.scores(*test)["accuracy"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="six epochs of a smaller network")
    args = parser.parse_args(arguments)
    _, history, accuracy = run(6, (32,)) if args.quick else run()
    print(" epoch  loss    validation  accuracy")
    for entry in history.epochs:
        print(f"{entry['epoch']:6} {entry['loss']:7.4f} {entry['validation']:10.4f} {entry['accuracy']:10.4f}")
    best = min(history.epochs, key=lambda entry: entry["validation"])
    print(f"stopped: {history.stopped}; best epoch {best['epoch']}; accuracy on the test set {accuracy:.4f}")


if __name__ == "__main__":
    main()
