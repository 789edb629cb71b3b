"""Samples as rows of CSR: the checks of matrices that come from outside, and repeated entries."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from . import kernels
from .checks import Array
from .errors import DTypeError, IndexRangeError, LayoutError, UnsupportedError


class Rows(NamedTuple):
    """CSR arrays, as SciPy's matrices have them."""

    indptr: Array
    indices: Array
    data: Array
    shape: tuple[int, int]


def check_shape(shape: tuple[int, int]) -> None:
    if max(shape) >= 2**31:
        raise UnsupportedError(f"X has shape {shape}; at most 2**31 - 1 rows and features are possible")


def dense_rows(X: Array) -> Rows:
    """The elements of `X` that are not zero, as CSR."""
    check_shape(X.shape)
    used = X != 0
    indptr = np.zeros(len(X) + 1, np.int64)
    np.cumsum(np.add.reduce(used, 1, np.int64), out=indptr[1:])
    return Rows(indptr, used.nonzero()[1].astype(np.int32), X[used], X.shape)


def copied(X: Any, n_threads: int = 1) -> tuple[Rows, bool] | None:
    """As `checked_csr`, and whether the indices of each row rise; in one go, where `X` is as SciPy makes it. Else None."""
    indptr, indices, data, (n_rows, n_features) = X.indptr, X.indices, X.data, X.shape
    if (
        kernels.drivers is None
        or not type(indptr) is type(indices) is type(data) is np.ndarray
        or max(X.shape) >= 2**31
        or not indptr.dtype == indices.dtype == np.int32
        or not indptr.ndim == indices.ndim == data.ndim == 1
        or not (indptr.flags.c_contiguous and indices.flags.c_contiguous)
        or len(indptr) != n_rows + 1
        or not 0 <= (n := int(indptr[-1])) <= min(len(indices), len(data))  # read once: another thread may change it
    ):
        return None
    starts, used = np.empty(len(indptr), np.int64), np.empty(n, np.int32)
    rising = kernels.drivers.copy_csr(indptr, indices, starts, used, n_features, n_threads)
    return None if rising < 0 else (Rows(starts, used, np.ascontiguousarray(data[: len(used)]), X.shape), bool(rising))


def longest_row(indptr: Array) -> int:
    """The most entries that a row has."""
    return int(indptr[1] - indptr[0]) if len(indptr) == 2 else int(np.diff(indptr).max(initial=0))


def checked_csr(X: Any) -> Rows:
    """The CSR arrays of `X`: offsets (int64), indices (int32) and data, if they fit each other and the shape.

    Offsets and indices are copied before they are checked: the caller's may share memory with the weights that are trained,
    or be changed by another thread.
    """
    if (found := copied(X)) is not None:
        return found[0]
    n_rows, n_features = shape = X.shape
    check_shape(shape)
    indptr, indices, data = np.asarray(X.indptr), np.asarray(X.indices), np.ascontiguousarray(X.data)
    if indptr.dtype.kind not in "iu" or indices.dtype.kind not in "iu":
        raise DTypeError(f"X has indptr of {indptr.dtype} and indices of {indices.dtype}; both must be integers")
    indptr = indptr.astype(np.int64, order="C")
    if (
        not indptr.ndim == indices.ndim == data.ndim == 1
        or len(indptr) != n_rows + 1
        or indptr[0] != 0
        or (indptr[1:] < indptr[:-1]).any()
        or indptr[-1] > min(len(indices), len(data))
    ):
        raise LayoutError("X is not a valid CSR matrix: indptr must rise from 0 to at most the number of entries")
    used = indices[: indptr[-1]].astype(indices.dtype, order="C")
    if len(used) and (used.min() < 0 or used.max() >= n_features):
        raise IndexRangeError(f"X has a column index outside 0 to {n_features - 1}")
    return Rows(indptr, used.astype(np.int32, copy=False), data[: indptr[-1]], shape)


def csr_rows(X: Any, n_threads: int = 1) -> Rows:
    """As `checked_csr`, from CSR or dense, with indices that are unique in their row: repeated ones are summed."""
    if isinstance(X, np.ndarray):
        return dense_rows(X)
    rows, rising = copied(X, n_threads) or (checked_csr(X), False)
    if rising:
        return rows
    indptr, indices, data, (n_rows, n_features) = rows
    native = kernels.drivers
    count, add = (native.repeated_indices, native.sum_repeated) if native else (repeated_indices, sum_repeated)
    ids, features = indices, None
    if len(indices) < n_features // 8:  # nothing as long as all features together
        features, places = np.unique(indices, return_inverse=True)
        ids, n_features = places.astype(np.int32), len(features)
    if count(indptr, ids, n_rows, n_features, np.zeros(n_features, np.int32)):
        rows = rows._replace(data=data.copy())
        add(indptr, ids, rows.data, n_rows, np.full(n_features, -1, np.int64))
        if features is not None:
            indices[:] = features[ids]
    return rows


def repeated_indices(indptr: Array, indices: Array, n_rows: int, n_features: int, seen: Array) -> int:
    """As ``kernels.drivers.repeated_indices``."""
    used = indices[: indptr[-1]]
    rows = np.repeat(np.arange(n_rows), np.diff(indptr))
    return len(used) - len(np.unique(rows * n_features + used))


def sum_repeated(indptr: Array, indices: Array, data: Array, n_rows: int, place: Array) -> None:
    """As ``kernels.drivers.sum_repeated``."""
    to, end = 0, int(indptr[0])
    for r in range(n_rows):
        begin, end, first = end, int(indptr[r + 1]), to
        indptr[r] = to
        for j in range(begin, end):
            at = place[indices[j]]
            if at >= first:
                data[at] += data[j]
            else:
                place[indices[j]] = to
                indices[to], data[to] = indices[j], data[j]
                to += 1
    indptr[n_rows] = to
