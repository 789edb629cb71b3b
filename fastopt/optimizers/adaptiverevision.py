"""AdaptiveRevision: Adagrad for gradients that come late."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from .. import checks
from ..checks import Array
from ..errors import ShapeError
from ..sparse import Entries, check_rows
from .base import NOW, Catch, Common, Optimizer, Rule
from .tables import SHRINK, Gap, Scalars


def adaptiverevision(p: Array, g: Array, sum: Array, z: Array, most: Array, seen: Array, h: Array) -> None:
    lr = h[0]
    late = sum - seen
    before = lr / np.sqrt(most)
    z[...] = z + g * (g + (late + late))
    most[...] = np.where(most >= z, most, z)
    rate = lr / np.sqrt(most)
    p[...] = p - rate * g + (before - rate) * late
    sum[...] = sum + g
    seen[...] = sum


class AdaptiveRevision(Optimizer):
    r"""Adagrad for delayed gradients (McMahan and Streeter 2014): rates that turned out too large are revised.

    .. math::
        b &= G - G_{\mathrm{seen}}, \quad \eta = \alpha / \sqrt{z'}, \quad z \leftarrow z + g^2 + 2 g b, \quad
        z' \leftarrow \max(z, z'), \quad \eta' = \alpha / \sqrt{z'} \\
        p &\leftarrow p - \eta' g + (\eta - \eta')\, b, \quad G \leftarrow G + g

    Here :math:`G_{\mathrm{seen}}` is the sum of gradients that had arrived when the parameters were read for which g was
    computed, so that b is what has come in between. Without delays b is 0, and this is Adagrad.

    Parameters
    ----------
    params : array, list, dict or list of groups
    lr : float or callable, default 1.0
        The paper's alpha.
    initial_accumulator_value : float, default 1.0
        What z and z' start from; at least the smallest normal number of float32 is used, so that 0/0 cannot arise.
    **common
        Options of every optimizer: see `Optimizer`.

    Notes
    -----
    A worker takes a `snapshot` when it reads the parameters, and hands it back with the gradient::

        seen = opt.snapshot()
        grads = ...                      # meanwhile, others make their steps
        opt.step(grads, seen=seen)

    The sums of gradients grow without bound: in float32, where one is above :math:`2^{24}` times a gradient, that gradient no
    longer changes it, and is lost to those who come later. Both rates of a step are made of its own alpha, also under a schedule; the paper has none. PyTorch and Keras have no
    AdaptiveRevision. State: ``grad_sum`` (G), ``revised`` (z), ``revised_max`` (z'), ``seen``, which between steps
    equals ``grad_sum``.
    """

    options = {"initial_accumulator_value": checks.non_negative}
    rules = (
        Rule(
            "adaptiverevision",
            ("grad_sum", "revised", "revised_max", "seen"),
            adaptiverevision,
            Catch("decay0", 0, 0),
            merge=("sum", "sum", "sum", "max", "sum"),
        ),
    )
    presets = {"paper": {}}

    def __init__(
        self, params: Any, lr: float = 1.0, *, initial_accumulator_value: float = 1.0, **common: Unpack[Common]
    ) -> None:
        super().__init__(params, dict(lr=lr, initial_accumulator_value=initial_accumulator_value), **common)

    @staticmethod
    def start(state: str, o: Mapping[str, Any]) -> float:
        least = float(np.finfo(np.float32).tiny)
        return max(float(o["initial_accumulator_value"]), least) if state in ("revised", "revised_max") else 0.0

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        return (o["lr"],)

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        return Gap(r[SHRINK])

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """A step with a snapshot is two things in one, between which nobody else may come: raises if somebody is at work."""
        mine = object()
        if vars(self).setdefault("_at_work", mine) is not mine:  # a dict's test and set are one
            self._explain_busy()
        try:
            yield
        finally:
            del vars(self)["_at_work"]

    @contextlib.contextmanager
    def _still(self) -> Iterator[None]:
        with self._alone(), super()._still():
            yield

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[Any]:
        with self._alone(), super()._quiet() as plan:
            yield plan

    def snapshot(self) -> Any:
        """What a worker that reads the parameters now has seen: copies of the sums of gradients.

        Returns
        -------
        array, list or dict
            In the structure of the parameters, of their shapes and dtypes.
        """
        with self._quiet():
            sums = [entry["grad_sum"].copy(order="K") for entry in self._state]
        if self._single:
            return sums[0]
        return sums if self._names is None else dict(zip(self._names, sums, strict=True))

    def step(self, grads: Any = NOW, seen: Any = None) -> None:
        """Update the parameters in place.

        Parameters
        ----------
        grads : array, list, dict, or nothing
            As in `Optimizer.step`.
        seen : array, list or dict, optional
            The `snapshot` of the worker that made these gradients, or arrays like it; None in the place of a parameter, or
            altogether: there was no delay. They are arrays of the parameters' shapes also where the gradient is a
            `SparseGrad`, of which then the touched rows alone are looked at.

        Raises
        ------
        FastoptError
            If anything does not fit. No bit of any parameter, state or counter has changed then.
        """
        with self._alone():
            if seen is None or (grads is NOW and not self._own):  # the latter is an error
                super().step(grads)
                return
            with super()._quiet():
                late = self._late(grads, seen)
                before = [state[rows].copy() for state, rows, _ in late]
                for state, rows, a in late:
                    state[rows] = a[rows]
            skipped, done = self.skipped, False
            try:
                super().step(grads)
                done = self.skipped == skipped
            finally:
                if not done:  # refused, or skipped for what is not finite
                    for (state, rows, _), old in zip(late, before, strict=True):
                        state[rows] = old

    def _late(self, grads: Any, seen: Any) -> list[tuple[Array, Any, Array]]:
        """Of each parameter with a snapshot and a gradient: its state, the rows to set, and the snapshot; all checked."""
        whole = (seen,) if self._single else self._explain_structure(seen, "snapshot")
        given = self._own if grads is NOW else (grads,) if self._single else self._explain_structure(grads)
        late = []
        for i, (a, g) in enumerate(zip(whole, given, strict=True)):
            label, p = f"seen of {self._labels[i]}", self._params[i]
            if a is not None:
                a = checks.float_array(label, a, p.dtype)
                if a.shape != p.shape:
                    raise ShapeError(f"{label} has shape {a.shape}, but the parameter has {p.shape}")
            converted = None if g is None else self._convert_gradient(i, g)
            if a is None or converted is None:
                continue
            rows: Any = ...
            if isinstance(converted, Entries):
                rows = converted.rows.astype(np.int64)  # a copy, which no other thread can change
                check_rows(f"gradient of {self._labels[i]}.indices", rows, p)
            late.append((self._state[i]["seen"], rows, a))
        return late
