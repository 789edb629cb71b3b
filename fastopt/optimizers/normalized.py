"""The online learner of Vowpal Wabbit: normalized, adaptive, importance-aware updates of linear weights."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .. import checks, kernels
from ..checks import Array
from ..csr import csr_rows, longest_row
from ..elementary import exp
from ..errors import (
    ConcurrentStepError,
    DTypeError,
    HyperParameterError,
    LayoutError,
    NonFiniteError,
    ShapeError,
    StateError,
    UnsupportedError,
    did_you_mean,
)
from ..scores import DERIVATIVES, dot
from ..sparse import is_scipy_sparse
from .base import MOST_STEPS, arena, choose_backend

#: Losses, in the kernel's numbering, and the range of predictions that each starts with.
LOSSES = {"squared_error": (0.0, 0.0), "log_loss": (-50.0, 50.0)}
STATES = ("adaptive", "normalized")


def ahead_squared_error(z: float, y: float, c: float) -> float:
    k = c * (1.0 - 0.5 * c) if c < 1e-5 else 1.0 - exp(-c)
    return (y - z) * k


def ahead_log_loss(z: float, y: float, c: float) -> float:
    m = y * z
    e = exp(m)
    c = min(c, 1e300)
    first = c / (1.0 + e)
    if first < 1e-5:
        return y * (first * (1.0 - 0.5 * (first * (e / (1.0 + e)))))
    x = (c + m) + e
    if x < -1.0:
        r = x
    elif x < 3.0:
        r = 0.5 * (x - 1.0)
    else:
        f, power = math.frexp(x)
        r = 0.6931471805599453 * (power + (2.0 * f - 2.0))
    for _ in range(3):
        q = exp(r)
        f = (r + q) - x
        r = r - 2.0 * f / (2.0 * (1.0 + q) - f * (q / (1.0 + q)))
    return y * (r - m)


AHEAD = {"squared_error": ahead_squared_error, "log_loss": ahead_log_loss}


def normalized(
    p: Array,
    adaptive: Array,
    scales: Array,
    indptr: Array,
    indices: Array,
    data: Array,
    intercept: bool,
    y: Array | None,
    weight: Array | None,
    out: Array,
    sums: Array,
    lr: float,
    loss: str,
) -> None:
    """As ``kernels/normalized.pyx``: learn from CSR rows, or with ``y=None`` predict for them."""
    real = p.dtype.type
    tiny = np.finfo(real).tiny
    t, total_norm, low, high = map(float, sums)
    with np.errstate(all="ignore"):
        for r in range(len(out)):
            part = slice(int(indptr[r]), int(indptr[r + 1]))
            ids, x = indices[part], data[part]
            if intercept:
                ids, x = np.append(ids, len(p) - 1), np.append(x, real(1))
            label = 0.0 if y is None else float(y[r])
            if y is not None and loss == "squared_error":
                low, high = min(low, label), max(high, label)
            w = p[ids]
            z = dot(w, x)
            z = low if z < low else high if z > high else z
            out[r] = z
            if y is None or weight is None:
                continue
            h = float(weight[r])
            g = DERIVATIVES[loss](z, label, 0.0)
            g2 = real((h * g) * g)
            if not g2 > 0:
                continue
            a, s = adaptive[ids], scales[ids]
            size = np.where(x > 0, x, -x)
            scale = np.where(size > s, size, s)
            w = np.where(s > 0, w * (s / scale), w)
            a = a + g2 * (x * x)
            bar = np.sqrt(a) * scale
            v = np.where(scale > 0, x / scale, real(0))
            q = np.where(bar > tiny, x / bar, real(0))
            t = t + h
            total_norm = total_norm + h * dot(v, v)
            along = dot(x, q)
            if along > 0 and total_norm > 0:
                c = (lr * h) * (math.sqrt(t / total_norm) * along)
                w = w + real(AHEAD[loss](z, label, c) / along) * q
            p[ids], adaptive[ids], scales[ids] = w, a, scale
    sums[:] = t, total_norm, low, high


class NormalizedAdaptive:
    r"""Normalized, adaptive, importance-aware online learning of linear weights: the default update of Vowpal Wabbit.

    No scale of the features needs to be known, and none of the importance weights: features that differ by orders of
    magnitude are learned alike, and no weight of a sample carries its prediction beyond its label, once the scales of
    its features are known. It combines normalized adaptive gradients (NAG of Ross, Mineiro and Langford 2013, *Normalized
    online learning*, algorithm 2) with the importance-aware updates of Karampatziakis and Langford (2011, *Online importance
    weight aware updates*).

    For each sample, with its features :math:`x_i \ne 0`, label :math:`y` and importance weight :math:`h`, in order:

    .. math::
        z &= \mathrm{clip}\Big(\sum_i w_i x_i\Big), \quad g = \frac{\partial L(z, y)}{\partial z} \\
        w_i &\leftarrow w_i \frac{s_i}{\max(s_i, |x_i|)} \text{ where } s_i > 0, \quad s_i \leftarrow \max(s_i, |x_i|),
        \quad a_i \leftarrow a_i + h g^2 x_i^2 \\
        N &\leftarrow N + h \sum_i x_i^2 / s_i^2, \quad t \leftarrow t + h, \quad
        p = \sqrt{t / N} \sum_i \frac{x_i^2}{\sqrt{a_i}\, s_i} \\
        w_i &\leftarrow w_i + \sqrt{t / N}\, \frac{x_i}{\sqrt{a_i}\, s_i} \cdot \frac{\Delta}{p}

    where :math:`\Delta` is how far infinitely many infinitely small steps of total length :math:`c = \eta h p` carry the
    prediction. For the squared error it is :math:`(y - z)(1 - e^{-c})`; for the log loss :math:`y (m' - y z)`, where
    :math:`m' + e^{m'} = yz + e^{yz} + c`. The first-order step would be :math:`\Delta = -c g`.

    Parameters
    ----------
    w : ndarray, shape (n_features + 1,), or (n_features,) without intercept
        Weights, float32 or float64, contiguous; updated in place. The last one is the intercept.
    lr : float, default 0.5
        :math:`\eta`.
    loss : {"squared_error", "log_loss"}, default "squared_error"
        ``(z - y)**2 / 2``, or ``log(1 + exp(-y z))`` for labels -1 and +1.
    fit_intercept : bool, default True
        The intercept is the weight of one more feature, which is 1 in every sample.
    backend : {"auto", "native", "numpy"}, default "auto"

    Notes
    -----
    State: ``adaptive``, the sums :math:`a`, and ``normalized``, the scales :math:`s`, under Vowpal Wabbit's names; and
    the numbers ``total_weight`` (:math:`t`), ``total_norm`` (:math:`N`), and ``label_range``, to which predictions are
    clipped: for the squared error 0 and the labels so far, that of the sample included; for the log loss -50 and 50.

    It is no `Optimizer`, which knows gradients alone: here a step needs the features themselves, and the label. So there
    is no ``step`` and there are no groups; state dicts and pickling are alike. Samples are learned one after the other
    on one thread, with the same bits on every machine.

    As in Vowpal Wabbit, and other than in the paper, weights follow a new scale only after the prediction, which the
    clipping keeps within bounds; and samples without loss change nothing. It differs from Vowpal Wabbit (9.11) in this:
    ``power_t`` is 0.5, and there is neither l1 nor l2. The log loss takes the exact solution, where Vowpal Wabbit
    approximates Lambert's W with errors up to 9e-5. A sample is without loss where the square of its gradient is zero,
    not where its float32 loss is. The squared error is halved, which changes the state ``adaptive`` by a factor of 4 and
    no weight. Repeated indices of a row are summed first, as CSR means them. Where a feature is so small that its
    squared gradient vanishes (about 1e-19 in float32), it is left out. PyTorch and Keras have nothing like it.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> w = np.zeros(3)  # two features, of scales 1 and 1000, and the intercept
    >>> opt = fastopt.NormalizedAdaptive(w)
    >>> X = np.array([[1.0, 0.0], [0.0, 1000.0], [1.0, 1000.0]])
    >>> for _ in range(500):
    ...     before = opt.learn(X, np.array([1.0, 2.0, 3.0]))
    >>> opt.predict(X).round(2)
    array([1., 2., 3.])
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        known = ("lr", "loss", "fit_intercept", "backend")
        for word in kwargs:
            if word not in (*known, "w"):
                raise UnsupportedError(f"{cls.__name__} has no option {word!r}.{did_you_mean(word, known)}")
        return super().__new__(cls)

    def __init__(
        self,
        w: Array,
        lr: float = 0.5,
        loss: str = "squared_error",
        *,
        fit_intercept: bool = True,
        backend: str = "auto",
    ) -> None:
        self._options = self._checked({"lr": lr, "loss": loss, "fit_intercept": fit_intercept})
        self.backend = choose_backend(backend)
        self._w = checks.parameter("w", w)
        if self._w.ndim != 1 or len(self._w) < self._options["fit_intercept"]:
            raise ShapeError(f"w must have one axis, and an element for the intercept, got shape {self._w.shape}")
        self._state = dict(zip(STATES, arena([self._w] * len(STATES)), strict=True))
        self._sums = np.array([0.0, 0.0, *LOSSES[loss]])
        self._steps = 0
        self._lock = threading.Lock()

    @staticmethod
    def _checked(options: Mapping[str, Any], where: str = "") -> dict[str, Any]:
        known = {"lr": checks.non_negative, "loss": checks.one_of(*LOSSES), "fit_intercept": checks.flag}
        for name in options:
            if name not in known:
                raise UnsupportedError(f"{where}NormalizedAdaptive has no option {name!r}.{did_you_mean(name, known)}")
        return {name: known[name](where + name, value) for name, value in options.items()}

    @contextlib.contextmanager
    def _still(self) -> Iterator[None]:
        """Nobody else learns or loads meanwhile."""
        if not self._lock.acquire(blocking=False):
            raise ConcurrentStepError(
                "another thread is in the middle of a call of this learner; give each thread a learner of its own, or put "
                "a lock around the calls"
            )
        try:
            yield
        finally:
            self._lock.release()

    @property
    def lr(self) -> float:
        """The learning rate; a new one holds from the next sample on."""
        return float(self._options["lr"])

    @lr.setter
    def lr(self, value: float) -> None:
        with self._still():
            self._options.update(self._checked({"lr": value}))

    # ------------------------------------------------------------------------------------------------------- samples

    def _samples(self, X: Any) -> tuple[Array, Array, Array, int]:
        """Offsets, indices and data of the rows of `X`, and their number; all checked, nothing written."""
        w = checks.parameter("w", self._w)
        if w.shape != self._state["adaptive"].shape or w.dtype != self._state["adaptive"].dtype:
            raise LayoutError(f"w is not the array that it was: now shape {w.shape}, {w.dtype}; make a new learner")
        if is_scipy_sparse(X):
            if X.format != "csr":
                raise UnsupportedError(f"X is a SciPy matrix of format {X.format!r}; pass X.tocsr()")
            numbers = X.data
        else:
            X = numbers = checks.plain_array("X", X)
        if numbers.dtype.kind not in "biuf":
            raise DTypeError(f"X has dtype {numbers.dtype}, expected numbers")
        n_features = len(w) - self._options["fit_intercept"]
        if len(X.shape) != 2 or X.shape[1] != n_features:
            more = ", the last of them the intercept's" if self._options["fit_intercept"] else ""
            raise ShapeError(f"X has shape {X.shape}, expected (n, {n_features}) for the {len(w)} weights{more}")
        indptr, indices, data, shape = csr_rows(X)
        if shape[1] != n_features:
            raise ShapeError("X was given another shape by another thread during the call")
        with np.errstate(over="ignore"):
            converted = self._apart(np.ascontiguousarray(data[: indptr[-1]], w.dtype))
        if not np.isfinite(converted).all():
            raise NonFiniteError(f"X has elements that are not finite numbers in {w.dtype}")
        return indptr, indices, converted, shape[0]

    def _apart(self, a: Array) -> Array:
        """`a`, or a copy if learning might write to it."""
        return a.copy() if any(np.may_share_memory(a, b) for b in (self._w, *self._state.values())) else a

    def _numbers(self, name: str, a: Any, n: int) -> Array:
        """`a` as `n` finite float64."""
        found = np.asarray(a)
        if found.dtype.kind not in "biuf":
            raise DTypeError(f"{name} has dtype {found.dtype}, expected numbers")
        if found.shape != (n,):
            raise ShapeError(f"{name} has shape {found.shape}, expected ({n},), a number for each row of X")
        found = self._apart(np.ascontiguousarray(found, np.float64))
        if not np.isfinite(found).all():
            raise NonFiniteError(f"{name} has elements that are not finite numbers")
        return found

    def _check_range(self, data: Array, y: Array, h: Array) -> None:
        """Raise if a squared gradient could overflow: its feature would never learn again."""
        most = 1.0
        if self._options["loss"] == "squared_error":
            most = max(self._sums[3], y.max(initial=0.0)) - min(self._sums[2], y.min(initial=0.0))
        with np.errstate(over="ignore"):
            largest = np.float64(max(1.0, np.abs(data).max(initial=0.0)))
            squared = (most * largest) ** 2 * h.max(initial=0.0)
            total = self._sums[0] + h.sum()
        if not squared <= np.finfo(data.dtype).max or not np.isfinite(total):
            raise NonFiniteError(
                f"labels, features and weights this large give squared gradients beyond {data.dtype}; scale them down"
                + (", or use float64 weights" if data.dtype == np.float32 else "")
            )

    def learn(self, X: Any, y: Any, sample_weight: Any = None) -> Array:
        """Learn from the rows of `X`, once each, in their order.

        Parameters
        ----------
        X : CSR matrix or array of SciPy, or ndarray, shape (n, n_features)
        y : array-like, shape (n,)
            Labels: numbers, or -1 and +1 for ``loss="log_loss"``.
        sample_weight : array-like, shape (n,), optional
            Importance weights of at least 0; 1 by default. A sample of weight 0 changes no weight.

        Returns
        -------
        ndarray, shape (n,)
            The prediction for each row before it was learned from.

        Raises
        ------
        FastoptError
            If anything does not fit, or is not finite. Nothing has changed then.
        """
        with self._still():
            indptr, indices, data, n = self._samples(X)
            y = self._numbers("y", y, n)
            if self._options["loss"] == "log_loss" and not (np.abs(y) == 1).all():
                raise StateError("loss='log_loss' needs labels -1 and +1; for 0 and 1 pass 2 * y - 1")
            h = np.ones(n) if sample_weight is None else self._numbers("sample_weight", sample_weight, n)
            if h.min(initial=0.0) < 0:
                raise HyperParameterError("sample_weight must not be negative")
            self._check_range(data, y, h)
            out = self._call(indptr, indices, data, n, y, h)
            self._steps += n
            return out

    def predict(self, X: Any) -> Array:
        """The predictions for the rows of `X`, shape (n,), clipped to ``label_range``; scores for the log loss."""
        with self._still():
            return self._call(*self._samples(X))

    def _call(
        self, indptr: Array, indices: Array, data: Array, n: int, y: Array | None = None, h: Array | None = None
    ) -> Array:
        out = np.empty(n, self._w.dtype)
        o, a, s = self._options, *self._state.values()
        if self.backend == "native":
            kernels.drivers.online(
                kernels.table[self._w.dtype.name],
                "normalized",
                self._w,
                a,
                s,
                indptr,
                indices,
                data,
                o["fit_intercept"],
                y,
                h,
                out,
                self._sums,
                longest_row(indptr),
                o["lr"],
                list(LOSSES).index(o["loss"]),
            )
        else:
            normalized(
                self._w, a, s, indptr, indices, data, o["fit_intercept"], y, h, out, self._sums, o["lr"], o["loss"]
            )
        return out

    # --------------------------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """A copy of state and options.

        Returns
        -------
        dict
            In the layout of `Optimizer.state_dict`: ``{"state": {0: {"step": int, "adaptive": array, "normalized":
            array, "total_weight": float, "total_norm": float, "label_range": (float, float)}}, "param_groups":
            [{"params": [0], option: value}], "step": int}``. ``"step"`` counts samples.
        """
        with self._still():
            t, total_norm, low, high = map(float, self._sums)
            state = {
                "step": self._steps,
                **{k: a.copy() for k, a in self._state.items()},
                "total_weight": t,
                "total_norm": total_norm,
                "label_range": (low, high),
            }
            return {"state": {0: state}, "param_groups": [{**self._options, "params": [0]}], "step": self._steps}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over state and options from `state_dict`, which is copied. All of it is checked before."""
        with self._still():
            if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
                raise StateError("a state dict has the keys 'state' and 'param_groups'")
            groups, state = state_dict["param_groups"], state_dict["state"]
            if not isinstance(groups, (list, tuple)) or len(groups) != 1 or not isinstance(groups[0], Mapping):
                raise StateError("the state dict must have one group in its param_groups")
            if not isinstance(state, Mapping) or set(state) != {0} or not isinstance(state[0], Mapping):
                raise StateError("the state dict must have a state for parameter 0, and for no other")
            given = {k: v for k, v in groups[0].items() if k != "params"}
            options = {**self._options, **self._checked(given, "state dict: ")}
            entry = state[0]
            need = {"step", *STATES, "total_weight", "total_norm", "label_range"}
            if set(entry) != need:
                raise StateError(f"the state must have {sorted(need)}, got {sorted(map(str, entry))}")
            arrays = {}
            for k in STATES:
                arrays[k] = checks.float_array(f"state {k!r}", entry[k], self._w.dtype)
                if arrays[k].shape != self._w.shape:
                    raise ShapeError(f"state {k!r} has shape {arrays[k].shape}, but w has {self._w.shape}")
            steps = checks.integer(0, MOST_STEPS)("'step'", entry["step"])
            totals = [checks.non_negative(k, entry[k]) for k in ("total_weight", "total_norm")]
            low, high = checks.pair(checks.number())("label_range", entry["label_range"])
            widest = LOSSES[options["loss"]]
            if not (low <= widest[0] and high >= widest[1]) or (
                options["loss"] == "log_loss" and (low, high) != widest
            ):
                raise StateError(f"label_range {low, high} does not belong to loss={options['loss']!r}")
            # From here on nothing is refused.
            for k, a in arrays.items():
                self._state[k][...] = a
            self._sums[:] = *totals, low, high
            self._options, self._steps = options, steps

    def __getstate__(self) -> dict[str, Any]:
        return {"w": self._w, "options": dict(self._options), "backend": self.backend, "state_dict": self.state_dict()}

    def __setstate__(self, s: dict[str, Any]) -> None:
        backend = "numpy" if s["backend"] == "numpy" else "auto"
        NormalizedAdaptive.__init__(self, s["w"], **s["options"], backend=backend)
        self.load_state_dict(s["state_dict"])

    def __repr__(self) -> str:
        options = ", ".join(f"{k}={v!r}" for k, v in self._options.items())
        return f"{type(self).__name__}(w of {len(self._w)}, {options}, backend={self.backend!r})"
