"""The errors of fastopt. Every one is raised before the first byte is written, and leaves everything as it was; but for
`NonFiniteError` of a model whose training diverged.

Each is also a ``ValueError``, a ``TypeError`` or an ``IndexError``, so that code which catches those keeps working.
Messages say what is wrong, for which argument, what was expected, and the way out.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FastoptError(Exception):
    """Base of all errors of fastopt."""


class ShapeError(FastoptError, ValueError):
    """A shape, a length or the structure of a list or dict does not fit."""


class DTypeError(FastoptError, TypeError):
    """An argument is not an array of the right type and byte order, or not an array at all."""


class LayoutError(FastoptError, ValueError):
    """An array's memory layout cannot be updated in place: strided, misaligned, or changed behind our back."""


class OverlapError(FastoptError, ValueError):
    """Two arrays that must be apart share memory."""


class ReadOnlyError(FastoptError, ValueError):
    """A parameter cannot be written."""


class IndexRangeError(FastoptError, IndexError):
    """An index of a sparse gradient or of a CSR row lies outside the array."""


class HyperParameterError(FastoptError, ValueError):
    """A hyper-parameter is outside its range, or not a number."""


class StateError(FastoptError, ValueError):
    """A state dict, or the state of an object, does not allow the call."""


class UnsupportedError(FastoptError, TypeError):
    """This combination of arguments does not exist, or not in this build."""


class NonFiniteError(FastoptError, ValueError):
    """A value is infinite or not a number where that cannot be borne."""


class ConcurrentStepError(FastoptError, ValueError):
    """The optimizer is in the middle of a step, made by another thread or by a callback."""


class ParseError(FastoptError, ValueError):
    """A text is not of the form that it should have; `line` and `column`, from 1, where that can be said."""

    line: int | None = None
    column: int | None = None


class CheckpointError(FastoptError, ValueError):
    """A saved file is damaged, incomplete or of another kind."""


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` when a known name is close, else the list of known names."""
    names, lower = sorted(known), str(word).lower()
    alias = {"learning_rate": "lr", "eta": "lr", "rate": "lr", "decay": "weight_decay", "l2": "weight_decay"}.get(lower)
    close = [alias] if alias in names else [n for n in names if n.lower() == lower]
    close = close or difflib.get_close_matches(lower, names, 1, 0.5) or [n for n in names if n in lower or lower in n]
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known: {', '.join(names)}."
