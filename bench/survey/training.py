"""One training run, as all experiments use it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

import fastopt
from fastopt.strategies import Callback

from .networks import Array, Network, Split

train = partial(fastopt.train, stop_on_nan=False)  # a rate that is too large is a result
Make = Callable[[dict[str, Array]], fastopt.Optimizer]


def rates(low: float, high: float, each: int = 2) -> list[float]:
    """Powers of ten from 10^low to 10^high, `each` to a decade."""
    return [float(f"{10**x:.3g}") for x in np.arange(low, high + 1e-9, 1 / each)]


def finite(x: float) -> float:
    return x if math.isfinite(x) else math.inf


@dataclass(eq=False)
class Fitted:
    """A trained network and how it got there; losses that are not finite are infinite."""

    net: Network
    split: Split
    params: dict[str, Array]
    history: Any
    optimizer: Any

    @cached_property
    def loss(self) -> float:
        """On the training samples."""
        return finite(self.net.loss(self.params, self.split.X, self.split.y))

    @cached_property
    def val(self) -> float:
        return finite(self.net.loss(self.params, self.split.X_val, self.split.y_val))

    @cached_property
    def test(self) -> float:
        return finite(self.net.loss(self.params, self.split.X_test, self.split.y_test))

    @cached_property
    def error(self) -> float:
        """Test error in percent."""
        return 100 - self.net.accuracy(self.params, self.split.X_test, self.split.y_test)

    @cached_property
    def val_error(self) -> float:
        return 100 - self.net.accuracy(self.params, self.split.X_val, self.split.y_val)


def fit(
    net: Network,
    split: Split,
    make: Make,
    seed: int,
    epochs: int,
    batch_size: Any = 32,
    scale: float = 1.0,
    **more: Any,
) -> Fitted:
    """Train from the start that belongs to the seed, with the order of data that does; `more` is for `fastopt.train`."""
    params = net.start(seed, scale)
    optimizer = make(params)
    data = split.X, split.y
    history = train(net.loss_and_grad, params, data, optimizer, epochs=epochs, batch_size=batch_size, seed=seed, **more)
    return Fitted(net, split, params, history, optimizer)


class Each(Callback):
    """Calls a function of the parameters after each step, or after each epoch, and keeps what it returns in `seen`.

    Training ends where `until` is true of that.
    """

    def __init__(
        self, look: Callable[[Any], Any], when: str = "epoch", until: Callable[[Any], bool] | None = None
    ) -> None:
        self.look, self.when, self.until = look, when, until
        self.seen: list[Any] = []

    def _now(self, when: str, params: Any) -> bool:
        if when != self.when:
            return False
        self.seen.append(self.look(params))
        return self.until is not None and self.until(self.seen[-1])

    def on_step_end(self, history: Any, params: Any, optimizer: Any) -> bool:
        return self._now("step", params)

    def on_epoch_end(self, history: Any, params: Any, optimizer: Any) -> bool:
        return self._now("epoch", params)
