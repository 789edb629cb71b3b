"""Optimizers, and any tree of arrays and plain values, in a file: NumPy arrays and JSON, no pickle."""

from __future__ import annotations

import json
import math
import os
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

import numpy as np

from . import checks
from .checks import Array
from .errors import CheckpointError, ConcurrentStepError, DTypeError, FastoptError
from .optimizers.base import Optimizer
from .optimizers.table import Table
from .schedules import is_pure, memory_of
from .version import __version__

__all__ = ["load", "read", "save", "write"]

FORMAT = "fastopt checkpoint 1"
KINDS = "biufcmMSU"  # of dtypes that a file keeps without pickle
SCHEDULE = "schedule"  # what a file has in the place of a callable option: {SCHEDULE: its memory, or None}


# ------------------------------------------------------------------------------------------------------------- files


def write_arrays(path: str | os.PathLike[str], about: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
    """Write arrays, and what JSON can say `about` them, to `path`, an .npz whatever its name.

    The file appears whole or not at all.
    """
    try:
        text = json.dumps({**about, "fastopt": __version__}, default=_number)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"a value cannot be written as JSON: {error}") from error
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, about=np.array(text), **arrays)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A file to write that appears at `path` whole or not at all: beside its place, flushed to disk and renamed."""
    path = os.path.realpath(path)  # a link goes on pointing to what is written
    folder = os.path.dirname(path)
    handle, temporary = tempfile.mkstemp(".tmp", ".fastopt-", folder)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes private files
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    _sync(folder)


def read_arrays(path: str | os.PathLike[str], form: str) -> tuple[dict[str, Any], dict[str, Array]]:
    """What `write_arrays` wrote, if the "format" in it is `form`. Nothing in the file is executed.

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
    CheckpointError
        If the file is damaged, of another format, or none of ours.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise CheckpointError(f"path must be that of a file, got a {type(path).__name__}")
    try:
        with zipfile.ZipFile(path) as whole:
            if (bad := whole.testzip()) is not None:  # NumPy alone would not look at every checksum
                raise CheckpointError(f"{path} is damaged: {bad} has another checksum")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays.pop("about")))
        if about["format"] != form:
            raise CheckpointError(f"{path} has the format {about['format']!r}; this version reads {form!r}")
    except (CheckpointError, FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:  # whatever zipfile, zlib, json and NumPy make of bytes that are not theirs
        raise CheckpointError(
            f"{path} is damaged, or no file that fastopt wrote ({type(error).__name__}: {error})"
        ) from error
    return about, arrays


def _number(x: Any) -> Any:
    if isinstance(x, np.generic):
        return x.item()
    raise TypeError(f"{type(x).__name__}: {x!r:.60}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(folder: str) -> None:
    """Flush the name of a file to disk, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


# ------------------------------------------------------------------------------------------------------------- trees


def write(path: str | os.PathLike[str], tree: Any) -> None:
    """Write a tree of dicts, lists and tuples to `path`, with arrays and plain values as its leaves.

    Parameters
    ----------
    path : path
        The file, an .npz by what is in it. It appears whole or not at all, and replaces one that is there.
    tree : object
        Dicts (keys are strings or integers), lists, tuples, NumPy arrays and scalars, strings, numbers, True, False and None.
        All come back from `read` as they were, to the last bit.

    Raises
    ------
    CheckpointError
        If something in the tree is of another kind. Nothing is written then.
    OSError
        If the file cannot be written. What was at `path` is still there.
    """
    arrays: dict[str, Array] = {}
    write_arrays(path, {"format": FORMAT, "tree": _encode(tree, arrays, "the tree")}, arrays)


def read(path: str | os.PathLike[str]) -> Any:
    """The tree that `write` or `save` wrote to `path`. Nothing in the file is executed.

    Raises
    ------
    FileNotFoundError
    CheckpointError
        If the file is damaged, of another format, or none of ours.
    """
    about, arrays = read_arrays(path, FORMAT)
    try:
        return _decode(about["tree"], arrays)
    except Exception as error:
        raise CheckpointError(f"{path} is damaged: its tree and its arrays do not fit ({error!r})") from error


def _encode(x: Any, arrays: dict[str, Array], where: str) -> Any:
    """`x` as JSON; its arrays go into `arrays`."""
    if isinstance(x, np.generic):  # before float, of which np.float64 is one
        return {"scalar": _store(np.asarray(x), arrays, where)}
    if x is None or isinstance(x, (bool, str, int)):
        return x
    if isinstance(x, float):  # JSON has every finite float to the bit, but no NaN, of which there are many
        return x if math.isfinite(x) else {"float": struct.pack(">d", x).hex()}
    if isinstance(x, np.ndarray):
        return {"array": _store(x, arrays, where)}
    if isinstance(x, (list, tuple)):
        items = [_encode(item, arrays, f"{where}[{k}]") for k, item in enumerate(x)]
        return items if isinstance(x, list) else {"tuple": items}
    if isinstance(x, Mapping):
        for key in x:
            if not isinstance(key, (str, int)) or isinstance(key, bool):
                raise CheckpointError(f"{where} has the key {key!r:.60}; a file keeps strings and integers as keys")
        return {"dict": [[key, _encode(item, arrays, f"{where}[{key!r:.60}]")] for key, item in x.items()]}
    raise CheckpointError(
        f"{where} is a {type(x).__name__}, which a file without pickle does not keep; arrays, numbers, strings, dicts, lists "
        "and tuples can be saved"
    )


def _store(a: Array, arrays: dict[str, Array], where: str) -> str:
    if type(a) not in (np.ndarray, np.memmap) or a.dtype.kind not in KINDS:
        raise CheckpointError(
            f"{where} is a {type(a).__name__} of {a.dtype}, which a file without pickle does not keep"
        )
    name = f"a{len(arrays)}"
    arrays[name] = a
    return name


def _decode(x: Any, arrays: Mapping[str, Array]) -> Any:
    if isinstance(x, list):
        return [_decode(item, arrays) for item in x]
    if not isinstance(x, dict):
        return x
    ((kind, value),) = x.items()
    if kind == "dict":
        return {key: _decode(item, arrays) for key, item in value}
    makers: dict[str, Callable[[], Any]] = {
        "array": lambda: arrays[value],
        "scalar": lambda: arrays[value][()],
        "float": lambda: struct.unpack(">d", bytes.fromhex(value))[0],
        "tuple": lambda: tuple(_decode(item, arrays) for item in value),
    }
    return makers[kind]()


# -------------------------------------------------------------------------------------------------------- optimizers


def save(opt: Optimizer | Table, path: str | os.PathLike[str], params: bool = True) -> None:
    """Write an optimizer, with its parameters, to a file from which `load` continues bit for bit.

    Parameters
    ----------
    opt : Optimizer or Table
        Exact sparse mode brings all rows up to date first.
    path : path
        The file, an .npz by what is in it. It appears whole or not at all, and replaces one that is there.
    params : bool, default True
        Whether the parameters are written beside state and options.

    Raises
    ------
    CheckpointError
        If something in the state cannot be written without pickle.
    OSError
        If the file cannot be written. What was at `path` is still there.

    Notes
    -----
    Callable options (schedules) are not written: the optimizer that is loaded keeps its own, and goes on at the right step. One
    with memory (`ReduceOnPlateau`, or any that has ``pure = False``, a ``state_dict`` and a ``load_state_dict``) has it in the file. PyTorch pickles a state
    dict (``torch.save``), and leaves parameters and scheduler to the caller.

    Examples
    --------
    >>> import numpy as np, fastopt, tempfile, os
    >>> w = np.zeros(3, np.float32)
    >>> opt = fastopt.Adam(w, lr=0.1)
    >>> opt.step(np.ones_like(w))
    >>> path = os.path.join(tempfile.mkdtemp(), "adam.npz")
    >>> fastopt.save(opt, path)
    >>> again = np.zeros(3, np.float32)
    >>> fastopt.load(path, fastopt.Adam(again, lr=0.1))
    >>> bool((again == w).all())
    True
    """
    write(path, {"kind": "optimizer", "optimizer": pack(opt, checks.flag("params", params))})


def load(path: str | os.PathLike[str], opt: Optimizer | Table) -> None:
    """Let an optimizer, and its parameters, be what `save` wrote.

    Parameters
    ----------
    path : path
        A file of `save`, or a checkpoint of `train`, of which the optimizer is taken.
    opt : Optimizer or Table
        One of the same class over parameters of the same names, shapes and dtypes. Its options become those of the file; callable
        ones stay. Its parameters are written in place, where the file has them.

    Raises
    ------
    FileNotFoundError
    CheckpointError
        If the file is damaged, or does not fit `opt`. Everything is as it was then.
    """
    tree = read(path)
    if not isinstance(tree, dict) or "optimizer" not in tree:
        raise CheckpointError(f"{path} has no optimizer in it; fastopt.checkpoint.read reads what it has")
    unpack(tree["optimizer"], opt, str(path))


def plain(opt: Any) -> Optimizer:
    """The optimizer itself, be it that of a `Table`."""
    if isinstance(opt, Table):
        return opt.optimizer
    if not isinstance(opt, Optimizer):
        raise DTypeError(f"opt must be an optimizer or a Table, got {type(opt).__name__}")
    return opt


def parameters(opt: Optimizer) -> list[Array]:
    """All parameters, in the order of the groups."""
    return [p for group in opt.param_groups for p in group["params"]]


def pack(opt: Optimizer | Table, params: bool = True) -> dict[str, Any]:
    """All that an optimizer is beside its schedules, as a tree that `write` takes."""
    opt = plain(opt)
    state = opt.state_dict()  # first: it brings all rows up to date
    for group in state["param_groups"]:
        for name, value in group.items():
            if callable(value):
                group[name] = {SCHEDULE: None if is_pure(value) else memory_of(value)}
    return {
        "state": state,
        "skipped": opt.skipped,
        "params": [p.copy(order="K") for p in parameters(opt)] if params else None,
    }


def unpack(tree: Any, opt: Optimizer | Table, where: str) -> None:
    """Let `opt` be what `pack` made a tree of, or raise and leave everything as it was."""
    opt = plain(opt)
    try:
        state, skipped, params = tree["state"], int(tree["skipped"]), tree["params"]
        groups = [dict(group) for group in state["param_groups"]]
    except Exception as error:
        raise CheckpointError(f"{where} has no optimizer in it that can be read ({error!r})") from error
    if state.get("optimizer") != type(opt).__name__:
        raise CheckpointError(f"{where} has the optimizer {state.get('optimizer')!r}, but this is {type(opt).__name__}")
    if len(groups) != len(opt.param_groups):
        raise CheckpointError(
            f"{where} has {len(groups)} groups of parameters, but the optimizer {len(opt.param_groups)}"
        )
    if params is not None:
        _check_params(params, opt, where)
    memories = []
    for q, (given, mine) in enumerate(zip(groups, opt.param_groups, strict=True)):
        for name, value in given.items():
            is_schedule = isinstance(value, dict) and SCHEDULE in value
            if name in mine and name != "params" and is_schedule != callable(mine[name]):
                has, got = ("a schedule", "a number") if is_schedule else (f"the number {value!r}", "a schedule")
                raise CheckpointError(
                    f"{where} has {has} as {name} of group {q}, but the optimizer has {got}; make it with what was saved, "
                    f"and set param_groups[{q}][{name!r}] after loading"
                )
            if is_schedule:
                given[name], memory = mine[name], value[SCHEDULE]
                if is_pure(mine[name]) != (memory is None):
                    raise CheckpointError(
                        f"{where} has a schedule {'without' if memory is None else 'with'} memory as {name} of group {q}; the "
                        f"optimizer has {mine[name]!r:.60}"
                    )
                if memory is not None:
                    memories.append((mine[name], memory))
    try:
        remember(memories, lambda: opt.load_state_dict({**state, "param_groups": groups}))
    except (CheckpointError, ConcurrentStepError):
        raise
    except FastoptError as error:
        raise CheckpointError(f"{where} does not fit the optimizer: {error}") from error
    opt.skipped = skipped
    for p, saved in zip(parameters(opt), params or [], strict=params is not None):
        p[...] = saved


def _check_params(params: Any, opt: Optimizer, where: str) -> None:
    mine = parameters(opt)
    if not isinstance(params, list) or len(params) != len(mine):
        raise CheckpointError(f"{where} must have {len(mine)} parameters, as the optimizer has")
    for i, (p, saved) in enumerate(zip(mine, params, strict=True)):
        if not isinstance(saved, np.ndarray) or saved.shape != p.shape or saved.dtype != p.dtype:
            got = f"shape {saved.shape} and {saved.dtype}" if isinstance(saved, np.ndarray) else type(saved).__name__
            raise CheckpointError(
                f"{where} has parameter {i} with {got}, but here it has shape {p.shape} and {p.dtype}"
            )
        checks.writable(f"parameter {i}", p)


def remember(memories: Sequence[tuple[Any, Any]], then: Callable[[], None]) -> None:
    """Give each object the memory beside it, by its ``load_state_dict``, then do `then`; what fails leaves all as they were."""
    before = []
    try:
        for one, memory in memories:
            before.append((one, one.state_dict()))
            one.load_state_dict(memory)
        then()
    except BaseException:
        for one, memory in reversed(before):
            one.load_state_dict(memory)
        raise
