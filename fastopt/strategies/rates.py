"""Which rate to train with, found by raising it until the loss explodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import checkpoint as files
from .. import checks
from ..checks import Array
from ..errors import HyperParameterError, NonFiniteError
from .order import Batches
from .training import Data, check_layers, loss_of, make_optimizer


class RangeTest(NamedTuple):
    """What `lr_range_test` found.

    Attributes
    ----------
    rates : ndarray of float64, shape (m,)
        The rate of each step that was made.
    losses : ndarray of float64, shape (m,)
        The loss of each batch, before its step.
    smoothed : ndarray of float64, shape (m,)
        The losses, smoothed.
    suggestion : float
        The rate at which the loss falls most steeply over the logarithm of the rate, by lines fitted to an eighth of the losses at a
        time; NaN if it falls nowhere.
    lowest_tenth : float
        A tenth of the rate with the smallest smoothed loss.
    """

    rates: Array
    losses: Array
    smoothed: Array
    suggestion: float
    lowest_tenth: float


def lr_range_test(
    loss_and_grad: Callable[..., Any],
    params: Any,
    data: Any,
    optimizer: Any,
    *,
    lowest: float = 1e-6,
    highest: float = 10.0,
    steps: int | None = None,
    batch_size: int | None = 32,
    order: Any = "shuffled",
    seed: int = 0,
    sample_weight: Any = None,
    layers: Sequence[Any] = (),
    smoothing: float = 0.9,
    stop_at: float = 4.0,
) -> RangeTest:
    """Train with a rate that rises from step to step, and see where the loss falls and where it explodes (Smith 2015, 2018).

    Parameters
    ----------
    loss_and_grad, params, data, optimizer, batch_size, order, seed, sample_weight, layers
        As in `train`. Parameters, optimizer and layers are as they were in the end, to the last bit, also if the test fails.
    lowest, highest : float, default 1e-6 and 10.0
        The first and the last rate; those between grow geometrically.
    steps : int, optional
        Default: those of one epoch. With more, the data are taken again, in the order of the next epochs.
    smoothing : float in [0, 1), default 0.9
        Each loss enters an exponential average with ``1 - smoothing``, corrected for its start as in Adam.
    stop_at : float, default 4.0
        The test ends when the smoothed loss is so many times the smallest one before, or is not finite. Above 1.

    Returns
    -------
    RangeTest

    Notes
    -----
    The rate of every group is the tested one meanwhile. Smith raises the rate linearly; the geometric rise, the smoothing and the end at four times
    the best are those of fastai's ``lr_find``, which smooths by 0.98 and looks for the slope in what is smoothed.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w, X = np.ones(10), np.random.default_rng(0).standard_normal((256, 10))
    >>> def loss_and_grad(w, x):
    ...     r = x @ w
    ...     return np.mean(r * r) / 2, x.T @ r / len(r)
    >>> found = fastopt.lr_range_test(loss_and_grad, w, X, fastopt.SGD(w), steps=100)
    >>> 0.01 < found.suggestion < 1.0, bool((w == 1).all())
    (True, True)
    """
    low = checks.number(0.0, closed_low=False)("lowest", lowest)
    high = checks.number(0.0, closed_low=False)("highest", highest)
    if low >= high:
        raise HyperParameterError(f"lowest must be below highest, got {lowest!r} and {highest!r}")
    keep = checks.fraction("smoothing", smoothing)
    limit = checks.number(1.0, closed_low=False)("stop_at", stop_at)
    remembering = check_layers(layers)
    opt, samples = make_optimizer(optimizer, params), Data(data, sample_weight)
    batches = Batches(samples.n, batch_size, order, seed=seed)
    count = checks.integer(2)("steps", steps) if steps is not None else max(2, sum(1 for _ in batches.epoch(0)))
    first = opt.steps
    rates = low * (high / low) ** (np.arange(count) / (count - 1))
    before, skipped, settings = opt.state_dict(), opt.skipped, [group.options() for group in opt.param_groups]
    kept, memories = [p.copy(order="K") for p in files.parameters(opt)], [layer.state_dict() for layer in remembering]
    losses: list[float] = []
    smoothed: list[float] = []
    average, lowest_yet, epoch = 0.0, math.inf, 0
    batch: Iterator[Array] = iter(())
    try:
        for group in opt.param_groups:
            # Asked for steps of the past and the future, too.
            group["lr"] = lambda step: float(rates[min(max(step - first, 0), count - 1)])
        while len(losses) < count:
            rows = next(batch, None)
            if rows is None:
                batch, epoch = batches.epoch(epoch), epoch + 1
                continue
            given, options = samples.take(rows)
            loss, grads = loss_of(loss_and_grad(params, *given, **options))
            average = keep * average + (1.0 - keep) * loss
            losses.append(loss)
            smoothed.append(average / (1.0 - keep ** len(losses)))
            lowest_yet = min(lowest_yet, smoothed[-1])
            if not math.isfinite(smoothed[-1]) or smoothed[-1] > lowest_yet + (limit - 1.0) * abs(lowest_yet):
                break
            try:
                opt.step(grads)
            except NonFiniteError:  # an optimizer with nonfinite="raise"
                break
    finally:
        for group, saved, mine in zip(opt.param_groups, before["param_groups"], settings, strict=True):
            group.update(mine)
            saved.update(mine)  # schedules with memory themselves, of which a state dict has copies
        opt.load_state_dict(before)
        opt.skipped = skipped
        for layer, memory in zip(remembering, memories, strict=True):
            layer.load_state_dict(memory)
        for p, value in zip(files.parameters(opt), kept, strict=True):
            p[...] = value
    return judge(rates[: len(losses)], np.array(losses), np.array(smoothed))


def judge(rates: Array, losses: Array, smoothed: Array) -> RangeTest:
    """What the curve says."""
    best = int(np.where(np.isfinite(smoothed), smoothed, np.inf).argmin())
    x, y = np.log(rates[: best + 1]), losses[: best + 1]
    width = min(max(5, len(rates) // 8), len(x))
    suggestion = math.nan
    if width > 1:
        # Slopes of lines fitted to so many losses each: an average would lag behind, and call for a rate too large.
        steps = np.lib.stride_tricks.sliding_window_view(np.stack([x, y]), width, axis=1)
        off = steps[0] - steps[0].mean(axis=1, keepdims=True)
        slopes = (off * steps[1]).sum(axis=1) / (off * off).sum(axis=1)
        steepest = int(np.where(np.isfinite(slopes), slopes, np.inf).argmin())
        width_in_x = steps[0][steepest][-1] - steps[0][steepest][0]
        if -slopes[steepest] * width_in_x > 1e-12 * np.abs(steps[1][steepest]).max():  # more than rounding
            suggestion = float(np.exp(steps[0][steepest].mean()))
    return RangeTest(rates, losses, smoothed, suggestion, float(rates[best]) / 10.0)
