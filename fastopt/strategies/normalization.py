"""Batch normalization."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from .. import checks, kernels
from ..checks import Array
from ..errors import LayoutError, OverlapError, ShapeError, StateError
from ..optimizers.base import ALIGN, choose_backend
from ..passes import Pass, Runner, folded
from ..reductions import STACKED, SUMMED, blocks_of, folded_blocks, stacked_sums

# ------------------------------------------------------------------------------------------------- the passes in NumPy
# What their arrays are is said in kernels/batchnorm.pyx.


def _statistics(x: Array, found: Array) -> None:
    found[:, 0] = stacked_sums(x)
    mean = found[:, 0] / _counts(len(x))[:, np.newaxis]
    e = x.astype(np.float64) - np.repeat(mean, STACKED, axis=0)[: len(x)]
    found[:, 1] = stacked_sums(e * e)


def _merge(found: Array, moments: Array, counts: Array) -> None:
    rows, count = counts.sum(), counts[:, np.newaxis]
    moments[0] = folded_blocks(found[:, 0]) / rows
    d = found[:, 0] / count - moments[0]
    moments[1] = folded_blocks(found[:, 1] + count * (d * d)) / rows


def _track(running: Array, moments: Array, how: Array) -> None:
    keep, take, unbiased = how
    running[0] = keep * running[0].astype(np.float64) + take * moments[0]
    running[1] = keep * running[1].astype(np.float64) + take * (unbiased * moments[1])


def _scales(centre: Array, invstd: Array, moments: Array, eps: Array, weight: Array) -> None:
    invstd[...] = 1.0 / np.sqrt(moments[1] + eps)
    centre[0] = moments[0]
    centre[1] = moments[0] - centre[0].astype(np.float64)
    centre[2] = invstd * weight.astype(np.float64)


def _centred(x: Array, centre: Array) -> Array:
    return (x - centre[0]) - centre[1]


def _apply(y: Array, x: Array, centre: Array, bias: Array) -> None:
    y[...] = _centred(x, centre) * centre[2] + bias


def _gather(dy: Array, x: Array, centre: Array, sums: Array) -> None:
    sums[:, 0] = stacked_sums(dy)
    sums[:, 1] = stacked_sums(dy.astype(np.float64) * _centred(x, centre).astype(np.float64))


def _slopes(slopes: Array, grads: Array, sums: Array, invstd: Array, rows: Array) -> None:
    grads[0] = xhat = sums[1] * invstd
    grads[1] = sums[0]
    slopes[0] = sums[0] / rows
    slopes[1] = xhat * invstd / rows


def _backward(dx: Array, dy: Array, x: Array, centre: Array, slopes: Array) -> None:
    dx[...] = ((dy - slopes[0]) - _centred(x, centre) * slopes[1]) * centre[2]


def _backward_running(dx: Array, dy: Array, centre: Array) -> None:
    dx[...] = dy * centre[2]


STATISTICS = Pass("batchnorm_statistics", _statistics)
MERGE = Pass("batchnorm_merge", _merge)
TRACK = Pass("batchnorm_track", _track)
SCALES = Pass("batchnorm_scales", _scales)
APPLY = Pass("batchnorm_apply", _apply)
GATHER = Pass("batchnorm_gather", _gather)
SLOPES = Pass("batchnorm_slopes", _slopes)
BACKWARD = Pass("batchnorm_backward", _backward)
BACKWARD_RUNNING = Pass("batchnorm_backward_running", _backward_running)
PASSES = (STATISTICS, MERGE, TRACK, SCALES, APPLY, GATHER, SLOPES, BACKWARD, BACKWARD_RUNNING)


@lru_cache(16)
def _counts(rows: int) -> Array:
    """The rows of each block."""
    counts = np.full(blocks_of(rows, STACKED), float(STACKED))
    counts[-1:] -= len(counts) * STACKED - rows
    counts.flags.writeable = False
    return counts


def _empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A new array that begins where a cache line does: where the widest vectors straddle two, a pass takes a third longer."""
    n, line = math.prod(shape), ALIGN // dtype.itemsize
    room = np.empty(n + line, dtype)
    start = -checks.address(room) % ALIGN // dtype.itemsize
    return room[start : start + n].reshape(shape)


def _tiles(shape: tuple[int, ...]) -> int:
    return blocks_of(shape[0], STACKED) * blocks_of(shape[1], SUMMED)


# ------------------------------------------------------------------------------------------------------------ the layer


@dataclass(frozen=True)
class _Forward:
    """What the backward pass needs of the forward pass."""

    x: Array
    centre: Array
    invstd: Array
    of_batch: bool


class BatchNorm:
    r"""Batch normalization of the columns of a matrix (Ioffe and Szegedy 2015), forward and backward.

    .. math::
        y = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}}\, w + b

    In training, :math:`\mu` and :math:`\sigma^2` are mean and biased variance of the batch, and running averages of the mean and
    of the unbiased variance are kept; in inference these take their place.

    Parameters
    ----------
    features : int
        Columns of the batches.
    eps : float of at least 0, default 1e-5
    momentum : float in [0, 1] or None, default 0.1
        Weight of a new batch in the running statistics. None: they are the means over all batches so far.
    affine : bool, default True
        Whether there are a weight w, 1 at first, and a bias b, 0 at first.
    track_running_stats : bool, default True
        Without running statistics, inference takes those of the batch, too.
    dtype : float32 or float64, default "float32"
        Of everything that goes in, comes out or is kept; statistics are formed in float64.
    backend : {"auto", "native", "numpy"}, default "auto"
        Compiled, or the NumPy reference, which gives the same bits.
    n_threads : int, optional
        For large batches, instead of `fastopt.set_num_threads`. The bits do not depend on it.

    Attributes
    ----------
    training : bool
        Set by `train` and `eval`.
    num_batches : int
        Batches that went into the running statistics.

    Notes
    -----
    The names and defaults are those of PyTorch's ``BatchNorm1d``, of which this is the case of two axes. Batches with more,
    such as images whose channels come last, are normalized as ``x.reshape(-1, features)``. Unlike PyTorch, `backward`
    overwrites the gradients instead of adding to them, and it takes the weight that the forward pass had. In Keras, eps is
    1e-3, `momentum` is what remains (0.99), and the running variance is that of biased variances.

    The variance is that of centred values, in float64 (blocks of 64 rows, merged after Chan, Golub and LeVeque 1979), so that a
    column far from 0 loses nothing to cancellation.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> from fastopt.strategies import BatchNorm
    >>> bn = BatchNorm(2)
    >>> opt = fastopt.SGD(bn.params, lr=0.1)
    >>> bn.forward(np.array([[1, 30], [3, 10]], np.float32)).round(3)
    array([[-1.,  1.],
           [ 1., -1.]], dtype=float32)
    >>> dx = bn.backward(np.array([[1, 0], [1, 0]], np.float32))
    >>> opt.step(bn.grads)
    >>> bn.params["bias"]
    array([-0.2,  0. ], dtype=float32)
    """

    def __init__(
        self,
        features: int,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        dtype: Any = "float32",
        backend: str = "auto",
        n_threads: int | None = None,
    ) -> None:
        self.features = checks.integer(1)("features", features)
        self.eps = checks.non_negative("eps", eps)
        self.momentum = checks.optional(checks.number(0.0, 1.0))("momentum", momentum)
        self.affine = checks.flag("affine", affine)
        self.track_running_stats = checks.flag("track_running_stats", track_running_stats)
        self.dtype = checks.float_dtype("dtype", dtype)
        self.n_threads = checks.optional(checks.integer(1, kernels.threads.LIMIT))("n_threads", n_threads)
        self.backend = choose_backend(backend)
        self.training = True
        self.num_batches = 0
        # Mean and variance; weight and bias; their gradients.
        self._running, self._params, self._grads = (np.zeros((2, self.features), self.dtype) for _ in range(3))
        self._running[1] = self._params[0] = 1
        self._saved: _Forward | None = None
        self._start()

    def _start(self) -> None:
        self._run = Runner(kernels.table if self.backend == "native" else None, self.n_threads or 0)

    def __getstate__(self) -> dict[str, Any]:
        """Without the last batch, and without what belongs to this process."""
        kept = {k: v for k, v in self.__dict__.items() if k != "_run"}
        return {**kept, "_saved": None, "backend": "numpy" if self.backend == "numpy" else "auto"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.backend = choose_backend(self.backend)
        self._start()

    def __repr__(self) -> str:
        more = f"track_running_stats={self.track_running_stats}, dtype={self.dtype.name!r}, backend={self.backend!r}"
        return f"BatchNorm({self.features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, {more})"

    # -------------------------------------------------------------------------------------------------------- arrays

    @property
    def params(self) -> dict[str, Array]:
        """``{"weight": (features,), "bias": (features,)}``, the arrays themselves, for an optimizer; empty without `affine`.

        The dict is a new one each time: to set the weight, write into it, as in ``bn.params["weight"][...] = 2``.
        """
        return dict(zip(("weight", "bias"), self._params, strict=True)) if self.affine else {}

    @property
    def grads(self) -> dict[str, Array]:
        """The gradients of `params` that `backward` found last: the same arrays each time, 0 at first."""
        return dict(zip(("weight", "bias"), self._grads, strict=True)) if self.affine else {}

    @property
    def running_mean(self) -> Array | None:
        """The running mean of each column, shape (features,), itself; None without running statistics."""
        return self._running[0] if self.track_running_stats else None

    @property
    def running_var(self) -> Array | None:
        """The running unbiased variance of each column, shape (features,), itself; None without running statistics."""
        return self._running[1] if self.track_running_stats else None

    # ---------------------------------------------------------------------------------------------------------- mode

    def train(self, mode: bool = True) -> BatchNorm:
        """Normalize with the statistics of the batch from now on, and keep running ones; ``mode=False`` is `eval`."""
        self.training = checks.flag("mode", mode)
        return self

    def eval(self) -> BatchNorm:
        """Normalize with the running statistics from now on."""
        return self.train(False)

    # -------------------------------------------------------------------------------------------------------- passes

    def forward(self, x: Array, out: Array | None = None, training: bool | None = None) -> Array:
        """Normalize the batch.

        Parameters
        ----------
        x : array of shape (batch, features)
            Of this layer's dtype. What is not in C order is copied. The layer keeps it, without a copy otherwise, for
            `backward`, until the next batch: do not write to it in between.
        out : array of shape (batch, features), optional
            Where the result goes: in C order, and apart from `x`.
        training : bool, optional
            For this batch, in the place of the attribute.

        Returns
        -------
        array of shape (batch, features)
            `out`, or a new array.

        Raises
        ------
        ShapeError
            Also for fewer than two rows where the statistics are those of the batch.
        OverlapError
            If `out` shares memory with `x`, or with an array of this layer.
        """
        training = self.training if training is None else checks.flag("training", training)
        x = self._input("x", x)
        rows, track = len(x), training and self.track_running_stats
        of_batch = training or not self.track_running_stats
        if of_batch and rows < 2:
            raise ShapeError(
                f"x has {rows} row{'s' * (rows != 1)}, but the statistics of a batch need at least 2; drop the batch, or pass "
                "training=False to a layer with running statistics"
            )
        y = self._output(out, x.shape, x=x)
        # From here on nothing is refused.
        centre, invstd = _empty((3, self.features), self.dtype), np.empty(self.features)
        moments = self._moments(x) if of_batch else self._running.astype(np.float64)
        if track:
            self.num_batches += 1
            take = 1.0 / self.num_batches if self.momentum is None else self.momentum
            how = np.array([1.0 - take, take, rows / (rows - 1)])
            self._run(TRACK, self.features, (self.features,), (self._running, moments, how))
        scalars = (centre, invstd, moments, np.array([self.eps]), self._params[0])
        self._run(SCALES, self.features, (self.features,), scalars)
        self._run(APPLY, _tiles(x.shape), x.shape, (y, x, centre, self._params[1]))
        self._saved = _Forward(x, centre, invstd, of_batch)
        return y

    def _moments(self, x: Array) -> Array:
        """Mean and biased variance of the columns, shape (2, features), in float64."""
        counts, moments = _counts(len(x)), np.empty((2, self.features))
        found = np.empty((len(counts), 2, self.features))
        self._run(STATISTICS, _tiles(x.shape), x.shape, (x, found))
        self._run(MERGE, self.features, x.shape, (found, moments, counts))
        return moments

    def backward(self, dy: Array, out: Array | None = None) -> Array:
        """The gradient of the last batch that went forward, from that of what came out; that of the parameters is in `grads`.

        Parameters
        ----------
        dy : array of shape (batch, features)
            The gradient of the loss by the result of `forward`. What is not in C order is copied.
        out : array of shape (batch, features), optional
            Where the result goes: in C order, and apart from `dy` and from the batch.

        Returns
        -------
        array of shape (batch, features)
            The gradient by the batch: `out`, or a new array. After inference, that of a layer whose statistics are constant.

        Raises
        ------
        StateError
            Before the first batch.
        """
        saved = self._saved
        if saved is None:
            raise StateError("backward needs the batch that went forward, and there was none; call forward first")
        x, centre, rows = saved.x, saved.centre, len(saved.x)
        dy = self._input("dy", dy)
        if dy.shape != x.shape:
            raise ShapeError(f"dy has shape {dy.shape}, but the last batch that went forward has {x.shape}")
        dx = self._output(out, x.shape, dy=dy, x=x)
        sums = np.empty((blocks_of(rows, STACKED), 2, self.features))
        slopes = _empty((2, self.features), self.dtype)
        self._run(GATHER, _tiles(x.shape), x.shape, (dy, x, centre, sums))
        total = folded(self._run, sums.reshape(len(sums), 2 * self.features)).reshape(2, self.features)
        scalars = (slopes, self._grads, total, saved.invstd, np.array([float(rows)]))
        self._run(SLOPES, self.features, (self.features,), scalars)
        if saved.of_batch:
            self._run(BACKWARD, _tiles(x.shape), x.shape, (dx, dy, x, centre, slopes))
        else:
            self._run(BACKWARD_RUNNING, _tiles(x.shape), x.shape, (dx, dy, centre))
        return dx

    def _input(self, name: str, a: Array) -> Array:
        a = checks.float_array(name, a, self.dtype)
        if a.ndim != 2 or a.shape[1] != self.features:
            raise ShapeError(
                f"{name} has shape {a.shape}, expected (batch, {self.features}); give other axes to the rows with "
                f"{name}.reshape(-1, {self.features}) if the features come last"
            )
        return a if a.flags.c_contiguous and a.flags.aligned else np.array(a, order="C")

    def _output(self, out: Array | None, shape: tuple[int, ...], **apart: Array) -> Array:
        if out is None:
            return _empty(shape, self.dtype)
        out = checks.parameter("out", checks.float_array("out", out, self.dtype))
        if out.shape != shape:
            raise ShapeError(f"out has shape {out.shape}, expected {shape}")
        if not out.flags.c_contiguous:
            raise LayoutError("out is in Fortran order; pass an array in C order, or none")
        low, high = checks.byte_range(out)
        own = {"the running statistics of this layer": self._running, "the parameters of this layer": self._params}
        own["the gradients of this layer"] = self._grads
        for name, other in (apart | own).items():
            first, last = checks.byte_range(other)
            if first < high and low < last:
                raise OverlapError(f"out shares memory with {name}, which is still needed; pass another array, or none")
        return out

    # --------------------------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """Copies of weight, bias, running_mean and running_var, as far as there are any, and num_batches_tracked, an int."""
        state: dict[str, Any] = {name: a.copy() for name, a in self._named().items()}
        if self.track_running_stats:
            state["num_batches_tracked"] = self.num_batches
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over a state dict, this class's or PyTorch's with its tensors as arrays; the arrays of this layer stay the same.

        Everything is checked before anything is taken over.
        """
        mine = self._named()
        names = [*mine, *(["num_batches_tracked"] if self.track_running_stats else [])]
        if not isinstance(state_dict, Mapping) or set(state_dict) != set(names):
            got = list(state_dict) if isinstance(state_dict, Mapping) else type(state_dict).__name__
            raise StateError(f"the state dict must have {names}, got {got!r:.80}")
        found = {name: checks.float_array(name, state_dict[name], self.dtype).copy() for name in mine}
        for name, a in found.items():
            if a.shape != mine[name].shape:
                raise ShapeError(f"{name} of the state dict has shape {a.shape}, expected {mine[name].shape}")
        count: Any = state_dict.get("num_batches_tracked", 0)
        if isinstance(count, np.ndarray) and count.ndim == 0:
            count = count[()]
        count = checks.integer(0)("num_batches_tracked", count)
        for name, a in found.items():
            mine[name][...] = a
        self.num_batches = count

    def _named(self) -> dict[str, Array]:
        running = dict(zip(("running_mean", "running_var"), self._running, strict=True))
        return {**self.params, **(running if self.track_running_stats else {})}
