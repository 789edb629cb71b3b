"""Checks of arguments, shared by everything that takes arrays or hyper-parameters from a user."""

from __future__ import annotations

import importlib
import math
import numbers
import os
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .errors import (
    DTypeError,
    HyperParameterError,
    LayoutError,
    OverlapError,
    ReadOnlyError,
    ShapeError,
    UnsupportedError,
)

Array = npt.NDArray[Any]
Check = Callable[[str, Any], Any]


# ------------------------------------------------------------------------------------------------ hyper-parameters


def number(
    low: float = -math.inf, high: float = math.inf, *, closed_low: bool = True, closed_high: bool = True
) -> Check:
    """A check for a finite real number in an interval; it returns the number as a float."""
    text = f"{'[' if closed_low and low > -math.inf else '('}{low}, {high}{']' if closed_high and high < math.inf else ')'}"

    def check(name: str, value: Any) -> float:
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value[()]
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
            raise HyperParameterError(f"{name} must be a real number in {text}, got {value!r} ({type(value).__name__})")
        try:
            x = float(value)
        except OverflowError:  # an integer or a fraction beyond float64
            x = math.inf
        inside = (low <= x if closed_low else low < x) and (x <= high if closed_high else x < high)
        if not math.isfinite(x) or not inside:
            raise HyperParameterError(f"{name} must be a finite number in {text}, got {value!r}")
        return x + 0.0  # -0.0 becomes 0.0

    return check


def integer(low: int, high: int | None = None) -> Check:
    """A check for an integer in an interval."""
    text = f"of at least {low}" + ("" if high is None else f" and at most {high}")

    def check(name: str, value: Any) -> int:
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
            raise HyperParameterError(f"{name} must be an integer {text}, got {value!r} ({type(value).__name__})")
        n = int(value)
        if n < low or (high is not None and n > high):
            raise HyperParameterError(f"{name} must be an integer {text}, got {value!r}")
        return n

    return check


def flag(name: str, value: Any) -> bool:
    """A check for True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise HyperParameterError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def one_of(*known: str) -> Check:
    """A check for one of a few words."""

    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in known:
            raise HyperParameterError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}")
        return value

    return check


def several(each: Check, count: int, what: str) -> Check:
    """A check for a tuple or list of so many numbers, which the error calls `what`."""

    def check(name: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (tuple, list)) or len(value) != count:
            raise HyperParameterError(f"{name} must be {what}, got {value!r}")
        return tuple(each(f"{name}[{k}]", x) for k, x in enumerate(value))

    return check


def pair(each: Check) -> Check:
    """A check for a tuple or list of two numbers."""
    return several(each, 2, "a pair of numbers")


def optional(each: Check) -> Check:
    """A check for None, or for what `each` takes."""
    return lambda name, value: None if value is None else each(name, value)


def infinite_or(each: Check) -> Check:
    """A check for positive infinity, or for what `each` takes."""
    return lambda name, value: value if isinstance(value, float) and value == math.inf else each(name, value)


non_negative = number(0.0)


fraction = number(0.0, 1.0, closed_high=False)


def scheduled(each: Check) -> Check:
    """A check for what `each` takes, or for a callable of the step, which is asked when its time comes."""
    return lambda name, value: value if callable(value) and not isinstance(value, type) else each(name, value)


rate = scheduled(non_negative)


# ---------------------------------------------------------------------------------------------------------- arrays


def plain_array(name: str, a: Any) -> Array:
    """`a`, if it is an ndarray whose meaning is all in its buffer; a memmap counts, a masked array does not."""
    if type(a) is np.ndarray:
        return a
    if isinstance(a, np.memmap):
        base: Array = np.ndarray.view(a, np.ndarray)
        return base
    if isinstance(a, np.ma.MaskedArray):
        raise DTypeError(f"{name} is a masked array, whose mask would be lost; pass its .filled(0) or .data")
    if isinstance(a, np.ndarray):
        raise DTypeError(f"{name} is a {type(a).__name__}, a subclass of ndarray; pass numpy.asarray(...)")
    raise DTypeError(f"{name} must be a NumPy array, got {type(a).__name__}")


def real_array(name: str, values: Any) -> Array:
    """`values`, an array or what NumPy makes one of, as float64."""
    try:
        a = np.asarray(values)
    except (TypeError, ValueError):  # lists of different lengths
        a = np.asarray(None)
    if a.dtype.kind not in "biuf":
        raise DTypeError(f"{name} must be real numbers, got {values!r:.80}")
    return a.astype(np.float64)


def float_dtype(name: str, dtype: Any) -> np.dtype[Any]:
    """The dtype that `dtype` means, if that is native float32 or float64."""
    try:
        found = np.dtype(dtype)
    except Exception:  # SyntaxError, too
        found = np.dtype(object)
    if dtype is None or found not in (np.float32, np.float64) or not found.isnative:
        raise DTypeError(f"{name} must be float32 or float64, got {dtype!r:.80}")
    return found


def float_array(name: str, a: Any, dtype: np.dtype[Any] | None = None) -> Array:
    """`a`, if it is a plain array of native float32 or float64 (of `dtype`, where given)."""
    a = plain_array(name, a)
    if not a.dtype.isnative:
        raise DTypeError(
            f"{name} has foreign byte order ({a.dtype.str}); pass it as .astype(a.dtype.newbyteorder('='))"
        )
    if dtype is not None and a.dtype != dtype:
        raise DTypeError(
            f"{name} has dtype {a.dtype}, expected {dtype} like the parameter; pass it as .astype(numpy.{dtype})"
        )
    if a.dtype not in (np.float32, np.float64):
        raise DTypeError(f"{name} has dtype {a.dtype}, expected float32 or float64; pass it as .astype(numpy.float32)")
    return a


def address(a: Array) -> int:
    """The address of the first byte."""
    return int(a.__array_interface__["data"][0])


def writable(name: str, a: Array) -> None:
    """Raise if `a` cannot be written to."""
    if not a.flags.writeable:
        raise ReadOnlyError(f"{name} is read-only; pass a writable array (a memmap needs mode 'r+')")


def parameter(name: str, a: Any) -> Array:
    """`a`, if it can be updated in place; arrays keep their identity, so that the caller sees the updates."""
    base = float_array(name, a)
    if base.size and any(s == 0 and n > 1 for s, n in zip(base.strides, base.shape, strict=True)):
        raise OverlapError(f"{name} repeats the same memory (a broadcast view); pass a copy")
    writable(name, base)
    if not base.flags.aligned:
        raise LayoutError(f"{name} is not aligned to its {base.itemsize}-byte elements; pass a .copy() of it")
    if not (base.flags.c_contiguous or base.flags.f_contiguous):
        raise LayoutError(
            f"{name} is not contiguous (shape {base.shape}, strides {base.strides}); a copy would not be updated in "
            "place for you, so pass a C- or Fortran-contiguous array"
        )
    return base


def gradient(name: str, g: Any, p: Array) -> Array:
    """`g` as an array that the kernels can read beside parameter `p`: itself, or a copy in the layout of `p`."""
    g = float_array(name, g, p.dtype)
    if g.shape != p.shape:
        raise ShapeError(f"{name} has shape {g.shape}, but the parameter has {p.shape}")
    if p.flags.forc:
        same = all(a == b or n < 2 for a, b, n in zip(g.strides, p.strides, p.shape, strict=True))
    else:  # the strided rows of a Table
        same = g.flags.c_contiguous
    if not (g.flags.aligned and (same or g.size == 0)):
        g = np.array(g, order=order(p))
    return g


def all_finite(a: Array) -> bool:
    """Whether all elements are; quick where they are."""
    with np.errstate(all="ignore"):  # the sum is quick, and not finite whenever an element is not
        return math.isfinite(a.sum()) or bool(np.isfinite(a).all())


def order(a: Array) -> Literal["C", "F"]:
    """The order in which a contiguous array like `a` has its elements."""
    return "F" if a.flags.f_contiguous and not a.flags.c_contiguous else "C"


def byte_range(a: Array) -> tuple[int, int]:
    """First byte and byte after the last of an array without negative strides."""
    at = address(a)
    if a.flags.forc or not a.size:
        return at, at + a.nbytes
    return at, at + sum(s * (n - 1) for s, n in zip(a.strides, a.shape, strict=True)) + a.itemsize


def output_file(name: str, path: Any, *endings: str) -> str:
    """`path` as text, if a file with one of these endings can be written there: found out before the work, not after it."""
    is_path = isinstance(path, (str, os.PathLike))
    if not is_path or (endings and os.path.splitext(path)[1] not in endings):
        *first, last = endings or ("",)
        either = f"{', '.join(first)} or {last}" if first else last
        wanted = f"end in {either}" if endings else "be the name of a file"
        raise HyperParameterError(f"{name} must {wanted}, got {path!r:.80}")
    text = os.fspath(path)
    folder = os.path.dirname(os.path.realpath(text))
    if os.path.isdir(text) or not os.path.isdir(folder):
        raise HyperParameterError(f"{name} {text} cannot be written: it is a folder, or its folder does not exist")
    if os.path.exists(text) and not os.path.isfile(text):  # a file would take the place of the device
        raise HyperParameterError(f"{name} {text} is a device or a pipe; name a file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise HyperParameterError(f"{name} {text} cannot be written: its folder is not yours to write to")
    return str(text)


def need(module: str, extra: str) -> Any:
    """An optional library, or an error that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = {"sklearn": "scikit-learn"}.get(module.split(".")[0], module.split(".")[0])
        raise UnsupportedError(
            f'this needs {library}, which cannot be imported ({error}); pip install "fastopt[{extra}]"'
        ) from error
