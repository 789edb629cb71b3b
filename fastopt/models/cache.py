"""Samples in a file that is mapped into memory: a short header, and the arrays of the matrix as they are."""

from __future__ import annotations

import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import checks
from ..checkpoint import replacing
from ..checks import Array, need
from ..csr import checked_csr
from ..errors import CheckpointError, DTypeError, ShapeError
from ..sparse import is_scipy_sparse

MAGIC = b"fastopt samples\n"
VERSION = 1
LIMIT = 1 << 16  # bytes of a header: more is none of ours
ALIGN = 64
NAMES = ("indptr", "indices", "data", "y")
#: Behind the magic bytes: version, length of the header, its checksum.
FRONT = struct.Struct("<III")
KINDS = "biufUS"  # of dtypes that labels may have


def write_cache(path: str | os.PathLike[str], X: Any, y: Any) -> None:
    """Write samples to a file from which `read_cache` has them at once.

    Parameters
    ----------
    path : path
        It appears whole or not at all, and replaces a file that is there.
    X : scipy.sparse matrix, shape (rows, features)
        float32 or float64. Written as CSR, entries in their order.
    y : array_like, shape (rows,)
        Numbers, truth values or texts.

    Raises
    ------
    ShapeError, DTypeError, LayoutError, IndexRangeError
        If X is not a valid matrix, or y does not fit. Nothing is written then.
    OSError
        If the file cannot be written. What was at `path` is still there.
    """
    if not is_scipy_sparse(X):
        raise DTypeError(f"X must be a sparse matrix of SciPy, got {type(X).__name__}")
    rows = checked_csr(X.tocsr())
    checks.float_array("X.data", rows.data)
    labels = np.ascontiguousarray(y)
    if labels.dtype.kind not in KINDS:
        raise DTypeError(f"y has dtype {labels.dtype}; it must hold numbers, truth values or texts of one length")
    if labels.shape != rows.shape[:1]:
        raise ShapeError(f"y has shape {labels.shape}, but X has {rows.shape[0]} rows")
    # SciPy wants offsets and indices of one type, and would copy them otherwise.
    index = np.int32 if len(rows.data) < 2**31 else np.int64
    arrays = [rows.indptr.astype(index), rows.indices.astype(index, copy=False), rows.data, labels]
    about = {
        "shape": list(rows.shape),
        "arrays": {name: [a.dtype.str, len(a), _checksum(a)] for name, a in zip(NAMES, arrays, strict=True)},
    }
    header = json.dumps(about).encode()
    front = MAGIC + FRONT.pack(VERSION, len(header), zlib.crc32(header)) + header
    with replacing(path) as file:
        file.write(front)
        for (start, end), a in zip(_places(len(front), [a.nbytes for a in arrays]), arrays, strict=True):
            file.write(bytes(start - file.tell()))
            file.write(a.data if a.size else b"")
            assert file.tell() == end


def read_cache(path: str | os.PathLike[str], *, verify: bool = True) -> tuple[Any, Array]:
    """The samples that `write_cache` wrote. They stay in the file, and come into memory as they are used.

    Parameters
    ----------
    path : path
    verify : bool, default True
        Whether to compare the checksums of the arrays, which reads the whole file once. Without, only header and sizes
        are checked: a file damaged elsewhere gives a matrix that may crash SciPy.

    Returns
    -------
    X : scipy.sparse.csr_matrix
    y : ndarray
        Both cannot be written to.

    Raises
    ------
    FileNotFoundError
    CheckpointError
        If the file is damaged, of another version or machine, or none of ours.
    """
    checks.flag("verify", verify)
    csr_matrix = need("scipy.sparse", "models").csr_matrix
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        front = file.read(len(MAGIC) + FRONT.size)
        if len(front) < len(MAGIC) + FRONT.size or not front.startswith(MAGIC):
            raise CheckpointError(f"{path} is no file that write_cache wrote")
        version, length, checksum = FRONT.unpack_from(front, len(MAGIC))
        if version != VERSION:
            raise CheckpointError(f"{path} has version {version}; this one reads {VERSION}: write it again")
        header = file.read(length) if length <= LIMIT else b""
        if len(header) != length or zlib.crc32(header) != checksum:
            raise CheckpointError(f"{path} is damaged: its header has another checksum")
        (n_rows, n_features), described = _decode(path, header)
        places = list(_places(len(front) + length, [dtype.itemsize * n for dtype, n, _ in described]))
        if places[-1][1] != size:
            raise CheckpointError(f"{path} is damaged: it has {size} bytes, but should have {places[-1][1]}")
        whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    arrays = []
    for name, (dtype, n, checksum), (start, _) in zip(NAMES, described, places, strict=True):
        a = np.frombuffer(whole, dtype, n, start)
        if verify and _checksum(a) != checksum:
            raise CheckpointError(f"{path} is damaged: its {name} have another checksum")
        arrays.append(a)
    indptr, indices, data, y = arrays
    if indptr[0] != 0 or indptr[-1] != len(indices):
        raise CheckpointError(f"{path} is damaged: its rows do not end where its entries do")
    return csr_matrix((data, indices, indptr), shape=(n_rows, n_features)), y


def _decode(path: Any, header: bytes) -> tuple[tuple[int, int], list[tuple[np.dtype[Any], int, int]]]:
    """Shape, and dtype, length and checksum of every array, if they fit each other."""
    try:
        about = json.loads(header)
        n_rows, n_features = about["shape"]
        described = [(np.dtype(kind), n, checksum) for kind, n, checksum in (about["arrays"][name] for name in NAMES)]
        (pointer, n_pointer, _), (index, n_index, _), (data, n_data, _), (label, n_label, _) = described
        if not all(type(n) is int and n >= 0 for n in (n_rows, n_features, n_pointer, n_index, n_data, n_label)):
            raise ValueError("a negative size")
        if (n_pointer, n_data, n_label) != (n_rows + 1, n_index, n_rows):
            raise ValueError("lengths that do not fit each other")
        if pointer != index or index not in (np.int32, np.int64) or data not in (np.float32, np.float64):
            raise ValueError("unknown types")
        if label.kind not in KINDS or not all(dtype.isnative for dtype, _, _ in described):
            raise ValueError("types of another machine")
    except Exception as error:  # whatever json and NumPy make of what is not theirs
        raise CheckpointError(f"{path} is damaged: its header cannot be read ({error})") from error
    return (n_rows, n_features), described


def _checksum(a: Array) -> int:
    return zlib.crc32(a.view(np.uint8).data if a.size else b"")


def _places(start: int, sizes: list[int]) -> Iterator[tuple[int, int]]:
    """First byte and byte after the last of each array, behind `start`."""
    for size in sizes:
        start = -(-start // ALIGN) * ALIGN
        yield start, start + size
        start += size
