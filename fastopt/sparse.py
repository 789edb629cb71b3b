"""Sparse gradients: some rows of a parameter, by index; pooled lookups; SciPy's matrices."""

from __future__ import annotations

import itertools
import math
import sys
from typing import Any, NamedTuple

import numpy as np

from . import checks
from .checks import Array
from .errors import DTypeError, IndexRangeError, LayoutError, ShapeError, UnsupportedError

DUPLICATES = checks.one_of("sum", "error", "none")
POOLING = checks.one_of("sum", "mean")


class Entries(NamedTuple):
    """A sparse gradient as the step takes it: entry e adds to row rows[e] of the parameter.

    The first two may be the caller's own memory, which other threads can change at any time.
    """

    #: int32 or int64, one-dimensional, contiguous, aligned; not yet checked for range
    rows: Array
    #: of the parameter's dtype, contiguous, aligned: a row for each entry, unless the fields below say otherwise
    values: Array
    #: int64, checked: entry e is one number, values[e], at this place of the flattened row; the rest of the row is zeros
    columns: Array | None = None
    #: int64, checked: entry e takes the row values[bags[e]]
    bags: Array | None = None
    #: of the parameter's dtype, with bags: entry e takes scales[e] times that row, rounded
    scales: Array | None = None
    #: "sum", "error" or "none"
    duplicates: str = "sum"


class SparseGrad:
    """The gradient of some rows of a parameter.

    Parameters
    ----------
    indices : ndarray of integers, shape (k,)
        Rows, ``0 <= i < len(param)``, in any order. Negative indices are refused, not wrapped. int32 and int64 are read
        where they are; other integers are converted.
    values : ndarray, shape ``(k,) + param.shape[1:]``
        Gradients of these rows, in the dtype of the parameter; shape ``(k,)`` for a 1-D parameter.
    duplicates : {"sum", "error", "none"}
        What a repeated index means: its values are summed, from the first occurrence on, in input order (PyTorch's
        ``coalesce()`` sums them, too, in no promised order); or it is an error; ``"none"`` is your promise that there
        is none, which is verified.

    Raises
    ------
    HyperParameterError
        If `duplicates` is another word. Everything else is found at the step, before anything is changed:
    DTypeError
        If indices are no integers (floats with integral values are none, and masks neither), or values have another
        dtype than the parameter.
    ShapeError
        If indices are not one-dimensional, values do not fit, or the parameter has no rows that are contiguous.
    IndexRangeError
        If an index is out of range, or repeated although `duplicates` says otherwise.
    OverlapError
        If values share memory with a parameter or its state.

    Notes
    -----
    Nothing is copied or checked until the step, so that arrays can be refilled and used again. With the optimizer's
    ``sparse="lazy"``, a step touches the listed rows only: their state decays, they take weight decay, and all other rows
    stand still. With ``sparse="exact"`` the others become what a dense step with zeros for them would have made of them,
    by the time they are read. A SparseGrad without rows still advances the parameter's step counter.

    The parameter is taken as an array of rows, along its first axis. PyTorch's sparse tensors can have more sparse axes,
    and are coalesced into a copy; here rows are summed as they are used.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> table = np.zeros((1000, 4), np.float32)
    >>> opt = fastopt.Adagrad(table, lr=0.1)
    >>> opt.step(fastopt.SparseGrad(np.array([3, 7, 3]), np.ones((3, 4), np.float32)))
    >>> table[[3, 7, 8], 0]
    array([-0.1, -0.1,  0. ], dtype=float32)
    """

    __slots__ = ("duplicates", "indices", "mode", "offsets", "values", "weights")

    def __init__(self, indices: Array, values: Array, duplicates: str = "sum") -> None:
        self.duplicates = DUPLICATES("duplicates", duplicates)
        self.indices = indices
        self.values = values
        self.offsets: Array | None = None
        self.weights: Array | None = None
        self.mode = "sum"

    @classmethod
    def bag(
        cls, indices: Array, offsets: Array, pooled: Array, weights: Array | None = None, mode: str = "sum"
    ) -> SparseGrad:
        """The gradient of pooled lookups: of ``torch.nn.functional.embedding_bag`` with respect to its table.

        Bag b is the rows ``indices[offsets[b]:offsets[b + 1]]`` of the parameter, of which the forward pass took the
        sum, the weighted sum or the mean. The gradient of a row is summed over the bags that it is in, without
        ``pooled`` being expanded to one row for each index.

        Parameters
        ----------
        indices : ndarray of integers, shape (n,)
            The rows of all bags, one bag after the other, ``0 <= i < len(param)``; repeats are summed in this order.
        offsets : ndarray of integers, shape (B,) or (B + 1,)
            Where each bag begins in `indices`; with B + 1 of them, the last one is n (PyTorch's
            ``include_last_offset=True``). They begin at 0 and never fall. Two equal ones make an empty bag.
        pooled : ndarray, shape ``(B,) + param.shape[1:]``
            Gradients of the pooled results, in the dtype of the parameter.
        weights : ndarray, shape (n,), optional
            A factor for each index, in the dtype of the parameter (PyTorch's ``per_sample_weights``).
        mode : {"sum", "mean"}
            ``"mean"`` divides by the number of indices in the bag: it multiplies by ``1 / number``, rounded once to the
            dtype of the parameter.

        Returns
        -------
        SparseGrad

        Raises
        ------
        HyperParameterError
            If `mode` is another word. There is no ``"max"``: pass a `SparseGrad` of the rows that won.
        UnsupportedError
            If there are weights with ``"mean"``, which PyTorch refuses too.
        DTypeError, ShapeError, IndexRangeError
            At the step, as for `SparseGrad`; offsets that fall or point past the indices are an IndexRangeError.

        Notes
        -----
        There is no ``padding_idx``: leave such indices out, as PyTorch does not count them in the mean either. The
        gradient with respect to the weights is not computed here.

        Examples
        --------
        >>> import numpy as np, fastopt
        >>> table = np.zeros((10, 2))
        >>> opt = fastopt.SGD(table, lr=1.0)
        >>> opt.step(fastopt.SparseGrad.bag(np.array([4, 1, 4, 2]), np.array([0, 3]), np.array([[1.0, 2.0], [5.0, 5.0]])))
        >>> table[[1, 2, 4]]
        array([[-1., -2.],
               [-5., -5.],
               [-2., -4.]])
        """
        POOLING("mode", mode)
        if weights is not None and mode != "sum":
            raise UnsupportedError(
                f"weights go with mode='sum' alone, got mode={mode!r}; divide the weights by the size of their bag, and "
                "pass mode='sum'"
            )
        new = cls(indices, pooled)
        new.offsets, new.weights, new.mode = offsets, weights, mode
        return new

    def __repr__(self) -> str:
        if self.offsets is None:
            return f"SparseGrad(indices={self.indices!r}, values={self.values!r}, duplicates={self.duplicates!r})"
        return (
            f"SparseGrad.bag(indices={self.indices!r}, offsets={self.offsets!r}, pooled={self.values!r}, "
            f"weights={self.weights!r}, mode={self.mode!r})"
        )

    def entries(self, name: str, p: Array) -> Entries:
        """Everything checked against parameter `p`, but for the range of the rows, which stay where they are."""
        check_has_rows(name, "a SparseGrad", p)
        ids, offsets = integers(f"{name}.indices", self.indices), self.offsets
        what = f"{name}.values" if offsets is None else f"{name}.pooled"
        values = checks.float_array(what, held(what, self.values), p.dtype)
        if offsets is not None:
            check_width(what, values, len(np.atleast_1d(values)), "bags", p)
            bags, scales = self._bags(name, offsets, len(ids), values)
            return Entries(as_rows(f"{name}.indices", ids, p), packed(values), bags=bags, scales=scales)
        check_width(what, values, len(ids), "indices", p)
        return Entries(as_rows(f"{name}.indices", ids, p), packed(values), duplicates=self.duplicates)

    def _bags(self, name: str, offsets: Array, n: int, pooled: Array) -> tuple[Array, Array | None]:
        """The bag of each of the `n` indices, and its factor."""
        what, n_bags = f"{name}.offsets", len(pooled)
        begins = private(what, offsets, n + 1, "places in indices")
        if len(begins) not in (n_bags, n_bags + 1):
            raise ShapeError(
                f"{what} has shape {begins.shape}, expected {(n_bags,)} or {(n_bags + 1,)}: pooled has {n_bags} bags"
            )
        if len(begins) == n_bags:
            begins = np.append(begins, n)
        if begins[0] != 0 or begins[-1] != n:
            raise IndexRangeError(
                f"{what} must lead from 0 to the number of indices, {n}, got {begins[0]} to {begins[-1]} for {n_bags} bags"
            )
        fall = begins[1:] < begins[:-1]
        if fall.any():
            at = int(fall.argmax()) + 1
            raise IndexRangeError(f"{what}[{at}] is {begins[at]}, less than {begins[at - 1]} before it; sort the bags")
        sizes = np.diff(begins)
        bags = np.repeat(np.arange(n_bags), sizes)
        if self.weights is not None:
            weights = checks.float_array(f"{name}.weights", self.weights, pooled.dtype).copy()
            if weights.shape != (n,):
                raise ShapeError(f"{name}.weights has shape {weights.shape}, expected {(n,)}: one for each index")
            return bags, weights
        if self.mode == "mean":
            return bags, (1.0 / np.maximum(sizes, 1)).astype(pooled.dtype)[bags]
        return bags, None


# ---------------------------------------------------------------------------------------------------- what is checked


def check_has_rows(name: str, kind: str, p: Array) -> None:
    if p.ndim == 0:
        raise ShapeError(f"{name} is {kind}, but the parameter has no rows (shape ())")
    if not p[:1].flags.c_contiguous:  # the stride from row to row is free, as in a Table
        raise ShapeError(f"{name} is {kind}, but the parameter is Fortran-ordered: its rows are not contiguous")


def check_width(what: str, values: Array, k: int, counted: str, p: Array) -> None:
    """Raise if `values` is not `k` rows of the parameter, one for each of what is `counted`."""
    if values.shape != (k, *p.shape[1:]):
        raise ShapeError(
            f"{what} has shape {values.shape}, expected {(k, *p.shape[1:])}: one row of the parameter "
            f"(shape {p.shape}) for each of the {k} {counted}"
        )


def held(what: str, a: Any) -> Array:
    """The array `a` under a header of our own: its shape and dtype stay what was checked, whatever other threads do."""
    return checks.plain_array(what, a).view()


def integers(what: str, a: Any) -> Array:
    """`a`, if it is a one-dimensional array of integers."""
    a = held(what, a)
    if a.dtype.kind not in "iu":
        way = "numpy.flatnonzero of the mask" if a.dtype.kind == "b" else "it as .astype(numpy.int64)"
        raise DTypeError(f"{what} has dtype {a.dtype}, expected integers such as int64; pass {way}")
    if a.ndim != 1:
        raise ShapeError(f"{what} has shape {a.shape}, expected one dimension; pass its .ravel()")
    return a


def check_range(what: str, a: Array, n: int, counted: str) -> None:
    """Raise if not 0 <= a < n, in the dtype of `a`: uint64 above 2**63 must not wrap."""
    if a.size and not (a.min() >= 0 and a.max() < n):
        at = int(((a < 0) | (a >= n)).argmax())
        raise IndexRangeError(
            f"{what}[{at}] is {a[at]}, out of range for {n} {counted}; valid is 0 to {n - 1}, "
            "and negative indices are not wrapped"
        )


def check_rows(what: str, rows: Array, p: Array) -> None:
    """Raise if one of the rows lies outside of parameter `p`."""
    check_range(what, rows, len(p), "rows")


def check_repeats(what: str, rows: Array, duplicates: str) -> None:
    """Raise if a row is repeated."""
    later = np.ones(len(rows), bool)
    later[np.unique(rows, return_index=True)[1]] = False
    if later.any():
        at = int(later.argmax())
        raise IndexRangeError(f"{what}[{at}] repeats row {rows[at]}, but duplicates={duplicates!r}")


def row_indices(what: str, rows: Array, p: Array) -> Array:
    """Row indices of any shape as the driver takes them: flat, not yet checked for range."""
    check_has_rows(what, "indices of rows", p)
    return as_rows(what, integers(what, rows.reshape(-1)), p)


def private(what: str, a: Any, n: int, counted: str) -> Array:
    """A copy in int64, checked: what is checked is what is used, whatever other threads do."""
    a = integers(what, a).copy()
    check_range(what, a, n, counted)
    return a.astype(np.int64, copy=False)


def packed(a: Array) -> Array:
    """`a`, or a copy that is contiguous and aligned."""
    return a if a.flags.c_contiguous and a.flags.aligned else a.copy()


def as_rows(what: str, ids: Array, p: Array) -> Array:
    """`ids` as the driver takes them, where they are if possible."""
    if ids.dtype in (np.int64, np.int32):  # of native byte order alone
        return packed(ids)
    return private(what, ids, len(p), "rows")


# -------------------------------------------------------------------------------------------------------- the reference


def unique_rows(name: str, e: Entries, p: Array) -> tuple[Array, Array]:
    """The rows that `e` touches, each once, and their gradients: what the compiled step does, in NumPy."""
    rows = e.rows.astype(np.int64)  # a copy, for the same reason as in `private`
    check_rows(f"{name}.indices", rows, p)
    if e.duplicates != "sum":
        check_repeats(f"{name}.indices", rows, e.duplicates)
    unique, first, place = np.unique(rows, return_index=True, return_inverse=True)
    later = np.ones(len(rows), bool)
    later[first] = False
    with np.errstate(all="ignore"):
        if e.columns is not None:
            total = np.zeros((len(unique), math.prod(p.shape[1:])), p.dtype)
            np.add.at(total, (place, e.columns), e.values)
            return unique, total.reshape((len(unique), *p.shape[1:]))
        values = e.values if e.bags is None else e.values[e.bags]
        if e.scales is not None:
            values = values * e.scales.reshape(-1, *[1] * (p.ndim - 1))
        if len(unique) == len(rows):
            return rows, values
        total = values[first]
        np.add.at(total, place[later], values[later])  # one after the other, in input order
    return unique, total


# -------------------------------------------------------------------------------------------------------- SciPy's matrices


def is_scipy_sparse(g: Any) -> bool:
    """Whether `g` is one of SciPy's sparse matrices or arrays. SciPy is not imported: who has one has imported it."""
    issparse = getattr(sys.modules.get("scipy.sparse"), "issparse", None)
    return issparse is not None and bool(issparse(g))


def scipy_entries(name: str, g: Any, p: Array) -> Entries:
    """The entries that SciPy's `g` stores, in its order; its arrays, flags and methods are not trusted."""
    check_has_rows(name, f"a SciPy {g.format} matrix", p)
    shape = tuple(int(n) for n in g.shape)
    if shape != p.shape and (p.ndim > 1 or shape not in ((1, len(p)), (len(p), 1))):
        also = f", (1, {len(p)}) or ({len(p)}, 1)" if p.ndim == 1 else ""
        raise ShapeError(f"{name} has shape {shape}, but the parameter has {p.shape}; expected {p.shape}{also}")
    coords, data = coordinates(name, g, shape, p.dtype)
    for axis, c in enumerate(coords):
        if c.shape != data.shape:
            raise ShapeError(f"{name} has {len(c)} indices along axis {axis}, but data of shape {data.shape}")
    axis = len(shape) - 1 if p.ndim == 1 and shape[0] == 1 else 0  # which one runs along the rows
    rows, columns = as_rows(f"{name}.indices", coords.pop(axis), p), None
    for c, n in zip(coords, shape[:axis] + shape[axis + 1 :], strict=True):
        c = private(f"{name}.indices", c, n, "columns")
        columns = c if columns is None else columns * n + c
    return Entries(rows, packed(data), columns=None if p.ndim == 1 else columns)


def coordinates(name: str, g: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[list[Array], Array]:
    """For each axis of `g` the indices of what it stores, with the values. Of the indices only the dtype is checked."""
    if g.format in ("lil", "dok"):
        return from_objects(name, g, dtype)
    data = checks.float_array(f"{name}.data", held(f"{name}.data", g.data), dtype)
    expected = {"csr": 1, "csc": 1, "coo": 1, "bsr": 3, "dia": 2}.get(g.format)
    if expected is None:
        raise UnsupportedError(f"{name} is a SciPy matrix of the format {g.format!r}; pass its .tocsr()")
    if data.ndim != expected:
        raise ShapeError(f"{name}.data has shape {data.shape}, expected {expected} dimensions in a {g.format} matrix")
    if g.format == "coo":
        given = g.coords if hasattr(g, "coords") else (g.row, g.col)  # SciPy before 1.13
        coords = [integers(f"{name}.coords[{axis}]", c) for axis, c in enumerate(given)]
        if len(coords) != len(shape):
            raise ShapeError(f"{name} has {len(coords)} arrays of indices, expected {len(shape)} for shape {shape}")
        return coords, data
    if g.format == "dia":
        return from_diagonals(name, g, shape, data)
    if g.format == "bsr":
        return from_blocks(name, g, shape, data)
    n_major = 1 if len(shape) == 1 else shape[g.format == "csc"]
    major, minor, data = compressed(name, g, n_major, data)
    return [major, minor][2 - len(shape) :] if g.format == "csr" else [minor, major], data


def compressed(name: str, g: Any, n_major: int, data: Array) -> tuple[Array, Array, Array]:
    """Row, column and value of the entries (of the blocks) that `indptr` says are there; for CSC column, row, value."""
    indptr = integers(f"{name}.indptr", g.indptr).astype(np.int64)
    if len(indptr) != n_major + 1:
        raise ShapeError(f"{name}.indptr has length {len(indptr)}, expected {n_major + 1} for shape {g.shape}")
    minor = integers(f"{name}.indices", g.indices)
    if len(minor) != len(data):
        raise ShapeError(f"{name}.indices has length {len(minor)}, but data has {len(data)}")
    if indptr[0] != 0:
        raise LayoutError(f"{name}.indptr begins with {indptr[0]}, expected 0; build the matrix anew")
    fall = indptr[1:] < indptr[:-1]  # a difference could wrap
    if fall.any():
        at = int(fall.argmax()) + 1
        raise LayoutError(
            f"{name}.indptr[{at}] is {indptr[at]}, less than {indptr[at - 1]} before it; it must not fall"
        )
    n = int(indptr[-1])
    if n > len(data):
        raise LayoutError(f"{name}.indptr ends with {n}, but there are only {len(data)} entries in data")
    return np.repeat(np.arange(n_major), np.diff(indptr)), minor[:n], data[:n]


def from_blocks(name: str, g: Any, shape: tuple[int, ...], data: Array) -> tuple[list[Array], Array]:
    """A BSR matrix: CSR with blocks for entries."""
    height, width = data.shape[1:]
    if not (height and width) or shape[0] % height or shape[1] % width:
        raise ShapeError(f"{name} has blocks of {height} x {width}, which do not divide its shape {shape}")
    row, column, data = compressed(name, g, shape[0] // height, data)
    column = private(f"{name}.indices", column, shape[1] // width, "columns of blocks")
    rows = row[:, None, None] * height + np.arange(height)[:, None]
    columns = column[:, None, None] * width + np.arange(width)
    return [np.broadcast_to(c, data.shape).reshape(-1) for c in (rows, columns)], data.reshape(-1)


def from_diagonals(name: str, g: Any, shape: tuple[int, ...], data: Array) -> tuple[list[Array], Array]:
    """A DIA matrix: data[k, j] stands in column j, offsets[k] to the right of the main diagonal."""
    offsets = integers(f"{name}.offsets", g.offsets).astype(np.int64)
    if len(offsets) != len(data):
        raise ShapeError(f"{name}.offsets has length {len(offsets)}, but data has {len(data)} diagonals")
    data = data[:, : shape[1]]
    columns = np.arange(data.shape[1])
    rows = columns - offsets[:, None]
    inside = (rows >= 0) & (rows < shape[0])
    return [rows[inside], np.broadcast_to(columns, data.shape)[inside]], data[inside]


def from_objects(name: str, g: Any, dtype: np.dtype[Any]) -> tuple[list[Array], Array]:
    """A LIL or DOK matrix, made of Python's lists or of a dict."""
    try:
        if g.format == "dok":
            keys = np.array(list(g.keys()), np.int64).reshape(-1, len(g.shape))
            coords, data = list(keys.T), np.fromiter(g.values(), g.dtype)
        else:
            sizes = [len(r) for r in g.rows]
            if sizes != [len(r) for r in g.data]:
                raise ValueError("rows and data differ in length")
            minor = np.fromiter(itertools.chain.from_iterable(g.rows), np.int64)
            coords = [np.repeat(np.arange(len(sizes)), sizes), minor]
            data = np.fromiter(itertools.chain.from_iterable(g.data), g.dtype)
    except (TypeError, ValueError, OverflowError, RuntimeError) as e:
        raise LayoutError(
            f"{name} is a {g.format} matrix whose contents do not fit together ({e}); pass another"
        ) from e
    return coords, checks.float_array(name, data, dtype)
