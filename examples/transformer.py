"""A transformer block in NumPy, its gradients written by hand, trained with Noam warm-up to reverse sequences.

    python examples/transformer.py [--quick]

Attention, layer normalization and the training recipe (Adam with beta2 = 0.98, eps = 1e-9, warm-up) are those of Vaswani et al.
2017; the normalization comes before each part instead of after it, as is usual today (Xiong et al. 2020).
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import fastopt
from fastopt.schedules import Noam
from fastopt.strategies import History

Params = dict[str, np.ndarray]


def initial(vocabulary: int, length: int, d: int, dtype: Any = np.float32, seed: int = 0) -> Params:
    """Random weights of one block, with embeddings before it and logits after it."""
    rng = np.random.default_rng(seed)
    shapes = {
        "q": (d, d),
        "k": (d, d),
        "v": (d, d),
        "o": (d, d),
        "up": (d, 4 * d),
        "down": (4 * d, d),
        "logits": (d, vocabulary),
    }
    params = {name: rng.standard_normal(shape) / np.sqrt(shape[0]) for name, shape in shapes.items()}
    params |= {"tokens": rng.standard_normal((vocabulary, d)), "places": rng.standard_normal((length, d))}
    params |= {"up_bias": np.zeros(4 * d), "down_bias": np.zeros(d)}
    for name in ("norm1", "norm2", "norm3"):
        params |= {f"{name}_gain": np.ones(d), f"{name}_bias": np.zeros(d)}
    return {name: a.astype(dtype) for name, a in params.items()}


# Each part: what it computes and what its gradient needs, then the gradient by its input; those by parameters go into `grads`.


def norm(p: Params, name: str, x: np.ndarray) -> tuple[np.ndarray, Any]:
    """Layer normalization (Ba, Kiros and Hinton 2016) of the last axis."""
    centred = x - x.mean(axis=-1, keepdims=True)
    inverse = 1 / np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + 1e-5)
    unit = centred * inverse
    return unit * p[f"{name}_gain"] + p[f"{name}_bias"], (unit, inverse)


def norm_back(p: Params, name: str, dy: np.ndarray, kept: Any, grads: dict[str, Any]) -> np.ndarray:
    unit, inverse = kept
    grads[f"{name}_gain"], grads[f"{name}_bias"] = (dy * unit).sum(axis=(0, 1)), dy.sum(axis=(0, 1))
    du = dy * p[f"{name}_gain"]
    along = (du * unit).mean(axis=-1, keepdims=True)
    return (du - du.mean(axis=-1, keepdims=True) - unit * along) * inverse


def matmul_back(p: Params, name: str, dy: np.ndarray, x: np.ndarray, grads: dict[str, Any]) -> np.ndarray:
    """Of ``y = x @ p[name]``."""
    grads[name] = x.reshape(-1, x.shape[-1]).T @ dy.reshape(-1, dy.shape[-1])
    return dy @ p[name].T


def split(x: np.ndarray, heads: int) -> np.ndarray:
    """(batch, length, d) as (batch, heads, length, d / heads)."""
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def join(x: np.ndarray) -> np.ndarray:
    """The inverse of `split`."""
    x = x.swapaxes(1, 2)
    return x.reshape(*x.shape[:2], -1)


def attention(p: Params, x: np.ndarray, heads: int) -> tuple[np.ndarray, Any]:
    """Multi-head attention, every place to every place."""
    q, k, v = (split(x @ p[name], heads) for name in "qkv")
    scores = q @ k.swapaxes(2, 3) / x.dtype.type(np.sqrt(q.shape[-1]))
    share = np.exp(scores - scores.max(axis=-1, keepdims=True))
    share /= share.sum(axis=-1, keepdims=True)
    mixed = join(share @ v)
    return mixed @ p["o"], (x, q, k, v, share, mixed)


def attention_back(p: Params, dy: np.ndarray, kept: Any, grads: dict[str, Any]) -> np.ndarray:
    x, q, k, v, share, mixed = kept
    d = split(matmul_back(p, "o", dy, mixed, grads), q.shape[1])
    dv = share.swapaxes(2, 3) @ d
    ds = d @ v.swapaxes(2, 3)
    ds = share * (ds - (ds * share).sum(axis=-1, keepdims=True)) / x.dtype.type(np.sqrt(q.shape[-1]))
    parts = {"q": ds @ k, "k": ds.swapaxes(2, 3) @ q, "v": dv}
    return sum(matmul_back(p, name, join(dx), x, grads) for name, dx in parts.items())


def forward(p: Params, tokens: np.ndarray, heads: int) -> tuple[np.ndarray, list[Any]]:
    """Logits, shape (batch, length, vocabulary), and what the gradients need."""
    x = p["tokens"][tokens] + p["places"]
    normed, kept1 = norm(p, "norm1", x)
    mixed, kept2 = attention(p, normed, heads)
    x = x + mixed
    inner, kept3 = norm(p, "norm2", x)
    up = np.maximum(inner @ p["up"] + p["up_bias"], 0)
    x = x + up @ p["down"] + p["down_bias"]
    out, kept4 = norm(p, "norm3", x)
    return out @ p["logits"], [kept1, kept2, kept3, inner, up, kept4, out]


def loss_and_grad(p: Params, tokens: np.ndarray, targets: np.ndarray, heads: int = 2) -> tuple[float, dict[str, Any]]:
    """Mean cross entropy of all places, and its gradient by every parameter; that of the token table has its rows alone."""
    logits, (kept1, kept2, kept3, inner, up, kept4, out) = forward(p, tokens, heads)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    share = np.exp(shifted)
    total = share.sum(axis=-1, keepdims=True)
    at = (*np.indices(targets.shape), targets)
    loss = float(np.mean(np.log(total[..., 0]) - shifted[at]))
    share /= total
    share[at] -= 1
    grads: dict[str, Any] = {}
    dx = norm_back(p, "norm3", matmul_back(p, "logits", share / targets.size, out, grads), kept4, grads)
    grads["down_bias"] = dx.sum(axis=(0, 1))
    du = matmul_back(p, "down", dx, up, grads) * (up > 0)
    grads["up_bias"] = du.sum(axis=(0, 1))
    dx = dx + norm_back(p, "norm2", matmul_back(p, "up", du, inner, grads), kept3, grads)
    dx = dx + norm_back(p, "norm1", attention_back(p, dx, kept2, grads), kept1, grads)
    grads["places"] = dx.sum(axis=0)
    grads["tokens"] = fastopt.SparseGrad(tokens.reshape(-1), dx.reshape(-1, dx.shape[-1]))
    return loss, grads


def accuracy(p: Params, tokens: np.ndarray, targets: np.ndarray, heads: int = 2) -> float:
    """Share of the places where the right token is the likeliest."""
    return float(np.mean(forward(p, tokens, heads)[0].argmax(axis=-1) == targets))


def run(
    steps: int = 300,
    vocabulary: int = 12,
    length: int = 10,
    d: int = 32,
    warmup: int = 100,
    seed: int = 0,
    **options: Any,
) -> tuple[Params, History, float]:
    """Train on random sequences; the parameters, the history, and the share of places right on sequences not seen."""
    rng = np.random.default_rng(seed)
    batch_size = 32
    sequences = rng.integers(0, vocabulary, (steps * batch_size + 500, length))
    training, test = sequences[:-500], sequences[-500:]
    params = initial(vocabulary, length, d, seed=seed)
    optimizer = fastopt.Adam(params, lr=Noam(d, warmup), betas=(0.9, 0.98), eps=1e-9)
    data = (training, training[:, ::-1])
    history = fastopt.train(
        loss_and_grad, params, data, optimizer, batch_size=batch_size, order="sequential", **options
    )
    return params, history, accuracy(params, test, test[:, ::-1])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps, shorter sequences")
    args = parser.parse_args(arguments)
    _, history, right = run(100, 6, 5, 16, 40) if args.quick else run()
    print("  step     rate    loss")
    for step in range(0, history.steps, max(1, history.steps // 10)):
        print(f"{step:6} {history.lr[step]:8.5f} {history.loss[step : step + 20].mean():7.4f}")
    print(f"right on sequences not seen: {right:.4f}")


if __name__ == "__main__":
    main()
