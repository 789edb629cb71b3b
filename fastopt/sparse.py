"""Sparse gradients: some rows of a parameter, by index."""

from __future__ import annotations

import numpy as np

from . import checks
from .checks import Array
from .errors import DTypeError, IndexRangeError, ShapeError


class SparseGrad:
    """The gradient of some rows of a parameter.

    Parameters
    ----------
    indices : ndarray of integers, shape (k,)
        Rows, ``0 <= i < len(param)``, in any order. Negative indices are refused, not wrapped.
    values : ndarray, shape ``(k,) + param.shape[1:]``
        Gradients of these rows, in the dtype of the parameter.
    duplicates : {"sum", "error", "none"}
        What a repeated index means: its values are summed, from the first occurrence on, in input order
        (as ``torch.sparse_coo_tensor(...).coalesce()`` does); or it is an error; ``"none"`` is your promise that there
        is none, which is verified.

    Notes
    -----
    Nothing is copied or checked until the step, so that arrays can be refilled and used again. A step with a
    SparseGrad touches the listed rows only: their state decays, they take weight decay, and all other rows stand
    still (PyTorch calls this lazy). A SparseGrad without rows still advances the parameter's step counter.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> table = np.zeros((1000, 4), np.float32)
    >>> opt = fastopt.Adagrad(table, lr=0.1)
    >>> opt.step(fastopt.SparseGrad(np.array([3, 7, 3]), np.ones((3, 4), np.float32)))
    >>> table[[3, 7, 8], 0]
    array([-0.1, -0.1,  0. ], dtype=float32)
    """

    __slots__ = ("duplicates", "indices", "values")

    def __init__(self, indices: Array, values: Array, duplicates: str = "sum") -> None:
        self.duplicates = checks.one_of("sum", "error", "none")("duplicates", duplicates)
        self.indices = indices
        self.values = values

    def __repr__(self) -> str:
        return f"SparseGrad(indices={self.indices!r}, values={self.values!r}, duplicates={self.duplicates!r})"

    def resolve(self, name: str, p: Array) -> tuple[Array, Array]:
        """Unique rows (int64) and their gradients, checked against parameter `p`; neither aliases the caller's ids."""
        if p.ndim == 0:
            raise ShapeError(f"{name} is a SparseGrad, but the parameter has no rows (shape ())")
        if not p.flags.c_contiguous:
            raise ShapeError(
                f"{name} is a SparseGrad, but the parameter is Fortran-ordered: its rows are not contiguous"
            )
        ids = checks.plain_array(f"{name}.indices", self.indices)
        if ids.dtype.kind not in "iu":
            raise DTypeError(f"{name}.indices has dtype {ids.dtype}, expected integers such as int64")
        if ids.ndim != 1:
            raise ShapeError(f"{name}.indices has shape {ids.shape}, expected one dimension")
        values = checks.float_array(f"{name}.values", self.values, p.dtype)
        if values.shape != (len(ids), *p.shape[1:]):
            raise ShapeError(
                f"{name}.values has shape {values.shape}, expected {(len(ids), *p.shape[1:])}: one row of the parameter "
                f"(shape {p.shape}) for each of the {len(ids)} indices"
            )
        ids = ids.copy()  # what is checked is what is used, whatever other threads do
        bad = (ids < 0) | (ids >= len(p))  # in the indices' own dtype: uint64 above 2**63 must not wrap
        if bad.any():
            at = int(bad.argmax())
            raise IndexRangeError(
                f"{name}.indices[{at}] is {ids[at]}, out of range for {len(p)} rows; valid is 0 to {len(p) - 1}, "
                "and negative indices are not wrapped"
            )
        rows = ids.astype(np.int64)
        values = np.ascontiguousarray(values)
        if not values.flags.aligned:
            values = values.copy()
        unique, first, place = np.unique(rows, return_index=True, return_inverse=True)
        if len(unique) == len(rows):
            return rows, values
        if self.duplicates != "sum":
            repeated = np.ones(len(rows), bool)
            repeated[first] = False
            at = int(repeated.argmax())
            raise IndexRangeError(f"{name}.indices[{at}] repeats row {rows[at]}, but duplicates={self.duplicates!r}")
        total = values[first]
        later = np.ones(len(rows), bool)
        later[first] = False
        with np.errstate(all="ignore"):
            np.add.at(total, place[later], values[later])  # one after the other, in input order
        return unique, total
