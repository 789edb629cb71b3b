"""Early stopping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .. import checks
from ..errors import StateError


class EarlyStopping:
    """Stop when nothing has got better for some epochs, and go back to the best (Prechelt 1998).

    Parameters
    ----------
    patience : int, default 5
        So many epochs in a row may pass without an improvement; the next such one is the last.
    min_delta : float, default 0.0
        An improvement is a change by more than this.
    mode : {"min", "max"}, default "min"
        What is better: less or more.
    monitor : str, optional
        What to look at: a key of the epoch's entry in `History.epochs`. Default: what `validation` returns, if it is a number;
        without it, ``"loss"``.
    restore_best : bool, default True
        Whether the parameters become those of the best epoch when training ends.

    Attributes
    ----------
    best : float or None
        The best value so far.
    best_epoch : int or None
        Its epoch.
    bad : int
        Epochs in a row without an improvement.

    Notes
    -----
    NaN is no improvement. What is restored are the parameters alone, as in Keras: states of the optimizer, averages and the
    history are those of the last epoch. Keras stops when `patience` such epochs are full, one earlier; ``patience=0`` stops
    at the first epoch without an improvement.
    """

    def __init__(
        self,
        patience: int = 5,
        min_delta: float = 0.0,
        mode: str = "min",
        monitor: str | None = None,
        restore_best: bool = True,
    ) -> None:
        self.patience = checks.integer(0)("patience", patience)
        self.min_delta = checks.non_negative("min_delta", min_delta)
        self.mode = checks.one_of("min", "max")("mode", mode)
        if monitor is not None and not isinstance(monitor, str):
            raise StateError(f"monitor must be the name of what validation returns, got {monitor!r:.60}")
        self.monitor = monitor
        self.restore_best = checks.flag("restore_best", restore_best)
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.bad = 0

    @property
    def exhausted(self) -> bool:
        """Whether it is time to stop."""
        return self.bad > self.patience

    def update(self, value: float, epoch: int) -> bool:
        """Take in what an epoch reached, and say whether it is the best so far."""
        sign = 1.0 if self.mode == "min" else -1.0
        better = not math.isnan(value) and (self.best is None or sign * value < sign * self.best - self.min_delta)
        if better:
            self.best, self.best_epoch, self.bad = float(value), epoch, 0
        else:
            self.bad += 1
        return better

    def state_dict(self) -> dict[str, Any]:
        """What was seen so far."""
        return {"best": self.best, "best_epoch": self.best_epoch, "bad": self.bad}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        if not isinstance(state_dict, Mapping) or set(state_dict) != {"best", "best_epoch", "bad"}:
            raise StateError(f"the state of EarlyStopping has 'best', 'best_epoch' and 'bad', got {state_dict!r:.60}")
        best = state_dict["best"]  # which may be infinite
        if best is not None and not isinstance(best, float):
            raise StateError(f"'best' must be a float or None, got {best!r:.60}")
        epoch = checks.optional(checks.integer(0))("best_epoch", state_dict["best_epoch"])
        self.best, self.best_epoch, self.bad = best, epoch, checks.integer(0)("bad", state_dict["bad"])
