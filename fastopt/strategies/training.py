"""A training loop for NumPy models."""

from __future__ import annotations

import array
import contextlib
import math
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import numpy as np

from .. import checkpoint as files
from .. import checks
from ..checks import Array
from ..errors import (
    CheckpointError,
    DTypeError,
    HyperParameterError,
    NonFiniteError,
    ShapeError,
    StateError,
    UnsupportedError,
    did_you_mean,
)
from ..optimizers.base import Optimizer, by_name
from ..optimizers.table import Table
from ..schedules import SGDR, Schedule, is_pure
from .accumulation import Accumulator
from .order import Batches
from .stopping import EarlyStopping

HOOKS = ("on_step_end", "on_epoch_end")
MEMORY = ("state_dict", "load_state_dict")


class History:
    """What happened in a training run.

    Parameters
    ----------
    optimizer : Optimizer, optional
        The one that trains.

    Attributes
    ----------
    epochs : list of dict
        One for each epoch that was completed: ``"epoch"`` (from 0), ``"step"`` (steps completed by then), ``"loss"`` (the mean over
        its samples, each at the time when it was used), and what validation returned: ``"validation"`` for a number, else the
        keys of its dict.
    stopped : str or None
        Why training ended: None, all epochs are done; ``"early"``, by early stopping; ``"interrupt"``, by Ctrl-C; ``"max_steps"``;
        ``"callback"``.
    """

    def __init__(self, optimizer: Optimizer | None = None) -> None:
        self._loss, self._lr = array.array("d"), array.array("d")
        self.epochs: list[dict[str, Any]] = []
        self.stopped: str | None = None
        self.optimizer = optimizer

    @property
    def loss(self) -> Array:
        """The loss of each step, float64, shape (steps,): that of the batches of the step, before it."""
        return np.array(self._loss, np.float64)

    @property
    def lr(self) -> Array:
        """The rate of each step, float64, shape (steps,): that of the optimizer's first group."""
        return np.array(self._lr, np.float64)

    @property
    def steps(self) -> int:
        """Steps, those before a resumption included."""
        return len(self._loss)

    def record(self, loss: float, lr: float) -> None:
        """Add a step."""
        self._loss.append(loss)
        self._lr.append(lr)

    def state_dict(self) -> dict[str, Any]:
        """A copy of all but the optimizer."""
        return {"loss": self.loss, "lr": self.lr, "epochs": [dict(e) for e in self.epochs], "stopped": self.stopped}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        loss, lr = (np.asarray(state_dict[k], np.float64) for k in ("loss", "lr"))
        if loss.ndim != 1 or loss.shape != lr.shape:
            raise StateError(f"a history has a loss and a rate for each step, got shapes {loss.shape} and {lr.shape}")
        epochs, stopped = [dict(e) for e in state_dict["epochs"]], state_dict["stopped"]
        self._loss, self._lr = array.array("d", loss.tobytes()), array.array("d", lr.tobytes())
        self.epochs, self.stopped = epochs, stopped

    def __repr__(self) -> str:
        last = f", loss {self._loss[-1]:.4g}" if self.steps else ""
        return f"History({self.steps} steps, {len(self.epochs)} epochs{last}, stopped={self.stopped!r})"


class Callback:
    """What `train` calls as it goes; a base class, of which either method can be left as it is.

    Notes
    -----
    One with ``state_dict()`` and ``load_state_dict(d)`` has its state in the checkpoints.
    """

    def on_step_end(self, history: History, params: Any, optimizer: Optimizer) -> bool | None:
        """After each step of the optimizer; True ends the training."""

    def on_epoch_end(self, history: History, params: Any, optimizer: Optimizer) -> bool | None:
        """After each epoch, when its entry in `History.epochs` is complete; True ends the training."""


class ResetState(Callback):
    """Reset the optimizer's state at some steps: restarts of the descent (Denkowski and Neubig 2017), with any schedule.

    Parameters
    ----------
    at : int, collection of ints, Schedule or callable
        After how many steps: every so many; these; where the schedule, an `SGDR` or one made of it such as
        ``SGDR(...).with_warmup(100)``, restarts, before the step that has the peak again; or where ``at(steps)`` is true.

    Notes
    -----
    See `Optimizer.reset_state`: moments and bias corrections begin anew; parameters, averages and the schedule's step go on.
    """

    def __init__(self, at: Any) -> None:
        if isinstance(at, Schedule):
            if not any(isinstance(part, SGDR) for part in parts_of(at)):
                raise HyperParameterError(
                    f"at={at!r:.80} has no SGDR in it, and no restarts; give steps, or a callable that says after which"
                )
            self._is: Callable[[int], Any] = at.is_restart
        elif callable(at) and not isinstance(at, type):
            self._is = at
        elif isinstance(at, (list, tuple, set, frozenset, range, np.ndarray)):
            chosen = frozenset(checks.integer(1)("at", step) for step in at)
            self._is = chosen.__contains__
        else:
            every = checks.integer(1)("at", at)
            self._is = lambda step: step % every == 0

    def on_step_end(self, history: History, params: Any, optimizer: Optimizer) -> None:
        if self._is(optimizer.steps):
            optimizer.reset_state()


def train(
    loss_and_grad: Callable[..., Any],
    params: Any,
    data: Any,
    optimizer: Any,
    *,
    epochs: int = 1,
    batch_size: Any = 32,
    order: Any = "shuffled",
    seed: int = 0,
    sample_weight: Any = None,
    accumulate: int = 1,
    drop_last: bool = False,
    validation: Callable[[Any], Any] | None = None,
    early_stopping: EarlyStopping | None = None,
    callbacks: Sequence[Any] = (),
    layers: Sequence[Any] = (),
    progress: bool = False,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    max_steps: int | None = None,
    stop_on_nan: bool = True,
) -> History:
    """Train a model whose loss and gradients are a function of NumPy arrays.

    Parameters
    ----------
    loss_and_grad : callable
        ``loss_and_grad(params, *batch)`` returns the mean loss of a batch and its gradients, in the structure of `params`: what
        `Optimizer.step` takes, `SparseGrad` and None included. With `sample_weight`, it is called with the keyword
        ``sample_weight``, too, an array of shape (batch,), and returns the mean over the batch of weight times loss.
    params : array, list or dict of arrays
        float32 or float64, updated in place.
    data : array or tuple of arrays
        Arrays (or SciPy matrices that can be indexed by rows) with a common first axis, that of the samples.
    optimizer : Optimizer, Table, str or callable
        One made over `params`; the name of one, with its defaults; or a callable that makes one of `params`, such as
        ``lambda params: fastopt.Adam(params, lr=1e-2)``.
    epochs : int, default 1
        Those before a resumption included.
    batch_size : int, callable or None, default 32
        Samples of a batch; None takes all at once. A callable is a schedule of the optimizer's step, such as a
        `fastopt.schedules.BatchSizeSchedule`, whose values are rounded.
    order : "shuffled", "sequential" or an order, default "shuffled"
        See `Batches`; a `Curriculum` goes here.
    seed : int, default 0
        Of "shuffled".
    sample_weight : array_like, optional
        Shape (n,), finite and not negative.
    accumulate : int, default 1
        Batches whose gradients are averaged, weighted by their numbers of samples, for one step. At the end of an epoch those that
        are left make a step.
    drop_last : bool, default False
        Whether the last batch of an epoch is left out if it is smaller than the others.
    validation : callable, optional
        ``validation(params)``, called after each epoch, returns a number or a dict of numbers. The Schedule-Free optimizers are in
        `eval` mode meanwhile. To judge an average: ``lambda params: score(optimizer.averaged(0))``.
    early_stopping : EarlyStopping, optional
        What it saw before is forgotten, but for a resumption.
    callbacks : sequence, default ()
        Objects with ``on_step_end``, ``on_epoch_end``, or both; see `Callback`. `ResetState` is one.
    layers : sequence, default ()
        What has a memory inside `loss_and_grad`, such as each `BatchNorm`: objects with ``state_dict()`` and
        ``load_state_dict(d)``. They are in the checkpoints, and go back to the best epoch with the parameters.
    progress : bool, default False
        A bar for each epoch, with loss and rate, by tqdm.
    checkpoint : path, optional
        A file, written at the end whatever the reason, and every `checkpoint_every` steps. `fastopt.load` takes the optimizer from it.
    checkpoint_every : int, optional
    resume : bool, default False
        Go on from the file `checkpoint` bit for bit, order of the data and history included; where there is none, begin.
    max_steps : int, optional
        End after so many steps, those before a resumption included.
    stop_on_nan : bool, default True
        Raise when a loss is not finite, before its gradient is used. An optimizer with ``nonfinite="skip"`` is left to skip it.

    Returns
    -------
    History

    Raises
    ------
    FastoptError
        If an argument does not fit; nothing has been changed then.
    NonFiniteError
        See `stop_on_nan`.
    CheckpointError
        If the file is damaged, or is that of a run with other samples, order, batches or optimizer.

    Notes
    -----
    A resumed run needs the same arguments; more `epochs`, another `max_steps`, schedule or patience are fine. Options of the
    optimizer that are numbers, such as a constant rate, become those of the file. In exact sparse mode a
    checkpoint brings all rows up to date, which may round them otherwise: there, runs agree to the bit that were saved at
    the same steps.

    Ctrl-C ends the training after the step under way, with the file saved; a second one raises KeyboardInterrupt at once. Signals
    are left alone outside the main thread.

    Schedules with memory (`fastopt.schedules.ReduceOnPlateau`), known by their method `update`, are told after each epoch what
    `early_stopping` looks at, or would, be they options of the optimizer or that of the batches.

    With `early_stopping`, the parameters are those of the best epoch at the end, unless Ctrl-C or `max_steps` ended the training, which
    is then to be resumed. The file always has those of the last step.

    What is random inside `loss_and_grad` (dropout) is the caller's to make a function of the step, or to keep by one of the
    `layers`. Keras's ``fit`` draws the order of the data from a global seed.

    Examples
    --------
    >>> import numpy as np, fastopt
    >>> X = np.linspace(-1, 1, 64).reshape(-1, 1)
    >>> def loss_and_grad(params, x, y):
    ...     r = x[:, 0] * params["w"] + params["b"] - y
    ...     return np.mean(r * r), {"w": 2 * np.mean(r * x[:, 0], keepdims=True), "b": 2 * np.mean(r, keepdims=True)}
    >>> params = {"w": np.zeros(1), "b": np.zeros(1)}
    >>> history = fastopt.train(loss_and_grad, params, (X, 3 * X[:, 0] + 1), fastopt.Adam(params, lr=0.1), epochs=100, batch_size=16)
    >>> params["w"].round(3), params["b"].round(3), history.steps
    (array([3.]), array([1.]), 400)
    """
    run = _Run(
        loss_and_grad,
        params,
        make_optimizer(optimizer, params),
        Data(data, sample_weight),
        lambda n: Batches(n, batch_size, order, seed=seed, drop_last=drop_last),
        checks.integer(1)("accumulate", accumulate),
        validation,
        early_stopping,
        callbacks,
        layers,
        checks.flag("stop_on_nan", stop_on_nan),
    )
    path = None if checkpoint is None else check_path(checkpoint)
    every = checks.optional(checks.integer(1))("checkpoint_every", checkpoint_every)
    if path is None and (every is not None or resume):
        raise HyperParameterError("checkpoint_every and resume need checkpoint, the path of a file")
    last = checks.integer(0)("epochs", epochs)
    most = checks.optional(checks.integer(0))("max_steps", max_steps)
    show = bars(last) if checks.flag("progress", progress) else None
    if checks.flag("resume", resume) and path is not None and os.path.exists(path):
        run.restore(files.read(path), path)
    elif early_stopping is not None:
        early_stopping.reset()
    with interrupts() as interrupted:
        run.go(last, most, path, every, interrupted, show)
    return run.history


# -------------------------------------------------------------------------------------------------------- arguments


def make_optimizer(given: Any, params: Any) -> Optimizer:
    """The optimizer that `given` means, over `params`."""
    arrays = leaves(params)
    if isinstance(given, str):
        cls, options = by_name(given)
        return cls(params, **options)
    if isinstance(given, (Optimizer, Table)):
        opt = files.plain(given)
    elif callable(given):
        opt = given(params)
        if not isinstance(opt, (Optimizer, Table)):
            raise DTypeError(f"optimizer, called with params, must return an Optimizer, got {type(opt).__name__}")
        opt = files.plain(opt)
    else:
        raise DTypeError(
            f"optimizer must be an Optimizer, its name, or a callable that makes one of params, got {type(given).__name__}"
        )
    mine, theirs = ({(checks.address(a), a.shape) for a in some} for some in (files.parameters(opt), arrays))
    if mine != theirs:  # by memory: of a memmap, an optimizer has a view
        raise StateError(
            "optimizer was made for other arrays than params; make it for the very same ones, or pass its name or a callable "
            "that makes it of params"
        )
    return opt


def leaves(params: Any) -> list[Array]:
    """The arrays in `params`."""
    found = [params] if isinstance(params, np.ndarray) else params
    if isinstance(params, Mapping):
        found = list(params.values())
    if not isinstance(found, (list, tuple)) or not all(isinstance(a, np.ndarray) for a in found):
        raise DTypeError(
            "params must be an array, a list of arrays or a dict of arrays; for groups, make the optimizer and pass all "
            f"arrays in the order of the groups. Got {type(params).__name__}"
        )
    return list(found)


class Data:
    """Arrays with a common first axis, and weights of the samples."""

    def __init__(self, data: Any, sample_weight: Any = None) -> None:
        self.arrays = data if isinstance(data, tuple) else (data,)
        if not self.arrays:
            raise ShapeError("data is empty; pass an array, or a tuple of arrays with a common first axis")
        for k, a in enumerate(self.arrays):
            if (
                not hasattr(a, "shape") or not hasattr(a, "__getitem__") or hasattr(a, "iloc")
            ):  # pandas: a[rows] are columns
                several = "a tuple of arrays, or " if isinstance(data, list) else ""
                raise DTypeError(
                    f"data[{k}] must be an array, got {type(a).__name__}; pass {several}numpy.asarray(...)"
                )
            if not a.shape or a.shape[0] != self.arrays[0].shape[0]:
                raise ShapeError(
                    f"data[{k}] has shape {a.shape}, but data[0] has {self.arrays[0].shape}; samples go along axis 0"
                )
        self.n = int(self.arrays[0].shape[0])
        if not self.n:
            raise ShapeError("data has no samples")
        self.weight = None
        if sample_weight is not None:
            try:
                self.weight = np.array(sample_weight, np.float64)
            except (TypeError, ValueError) as error:
                raise DTypeError(f"sample_weight must be numbers, got {sample_weight!r:.60}") from error
            if self.weight.shape != (self.n,):
                raise ShapeError(
                    f"sample_weight has shape {self.weight.shape}, expected {(self.n,)}: one for each sample"
                )
            if not (np.isfinite(self.weight) & (self.weight >= 0)).all():
                raise HyperParameterError("sample_weight must be finite numbers of at least 0")

    def take(self, rows: Array) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The batch of these samples: what `loss_and_grad` gets after the parameters."""
        return tuple(a[rows] for a in self.arrays), {} if self.weight is None else {"sample_weight": self.weight[rows]}


def has_memory(thing: Any) -> bool:
    """Whether it has a state for checkpoints."""
    return all(callable(getattr(thing, name, None)) for name in MEMORY)


def check_layers(layers: Any) -> list[Any]:
    """`layers` as a list of objects with memory."""
    if not isinstance(layers, (list, tuple)):
        raise DTypeError(f"layers must be a list of layers, got {type(layers).__name__}")
    for layer in layers:
        if isinstance(layer, type) or not has_memory(layer):
            raise DTypeError(
                f"layers has {layer!r:.60}, which lacks {' or '.join(MEMORY)}; leave out what has no memory"
            )
    return list(layers)


def check_path(path: Any) -> str:
    """`path`, if a file can be written there: found out now, and not after hours."""
    if not isinstance(path, (str, os.PathLike)):
        raise CheckpointError(f"checkpoint must be the path of a file, got {path!r:.60} ({type(path).__name__})")
    name = os.fspath(path)
    folder = os.path.dirname(os.path.abspath(name))
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK) or os.path.isdir(name):
        raise CheckpointError(
            f"checkpoint {name!r} cannot be written: it must be a file in a folder that can be written to"
        )
    return str(name)


def rate_of(opt: Optimizer) -> float:
    """The rate of the next step, in the first group."""
    lr = opt.param_groups[0]["lr"]
    return float(lr(opt.steps)) if callable(lr) else float(lr)


def loss_of(found: Any) -> tuple[float, Any]:
    """Loss and gradients, of what `loss_and_grad` returned."""
    if not isinstance(found, (tuple, list)) or len(found) != 2:
        raise DTypeError(f"loss_and_grad must return the loss and its gradients, a pair; got {type(found).__name__}")
    loss, grads = found
    return one_number("loss_and_grad must return one real number as the loss", loss), grads


def one_number(what: str, x: Any) -> float:
    """`x` as a float, which may be infinite or NaN."""
    if not (np.ndim(x) or np.iscomplexobj(x) or isinstance(x, str)):
        with contextlib.suppress(TypeError, ValueError):
            return float(x)
    raise DTypeError(f"{what}, got {x!r:.60}")


def parts_of(schedule: Any) -> Iterator[Any]:
    """The schedule, and all that it is made of."""
    yield schedule
    for part in schedule._parts() if isinstance(schedule, Schedule) else ():
        yield from parts_of(part)


def bars(epochs: int) -> Callable[[int, int], Any]:
    """Makes a bar for an epoch with so many samples."""
    try:
        from tqdm.auto import tqdm
    except ModuleNotFoundError as missing:
        raise UnsupportedError('progress=True needs tqdm: pip install tqdm, or "fastopt[cli]"') from missing
    return lambda epoch, n: tqdm(total=n, desc=f"epoch {epoch + 1}/{epochs}", unit="sample", leave=epoch + 1 == epochs)


@contextlib.contextmanager
def interrupts() -> Iterator[list[int]]:
    """A list to which the first Ctrl-C adds an entry; the second does what it did before. In other threads, nothing."""
    caught: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):  # ignored, or not Python's
        yield caught
        return

    def catch(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, catch)
    try:
        yield caught
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def in_use(opt: Optimizer) -> Iterator[None]:
    """The parameters as they are to be used: up to date; of the Schedule-Free optimizers, the average. Then as they were."""
    opt.flush()
    if getattr(opt, "_averaged", True):  # an optimizer without modes, or one that the caller has switched
        yield
        return
    kept = [p.copy(order="K") for p in files.parameters(opt)]
    opt.eval()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        opt.train()  # type: ignore[attr-defined]
        for p, before in zip(files.parameters(opt), kept, strict=True):  # which train() rounds
            p[...] = before


# -------------------------------------------------------------------------------------------------------------- a run


class _Run:
    """A training run between two steps: all that a checkpoint has."""

    def __init__(
        self,
        loss_and_grad: Callable[..., Any],
        params: Any,
        optimizer: Optimizer,
        data: Data,
        batches: Callable[[int], Batches],
        accumulate: int,
        validation: Callable[[Any], Any] | None,
        early_stopping: EarlyStopping | None,
        callbacks: Sequence[Any],
        layers: Sequence[Any],
        stop_on_nan: bool,
    ) -> None:
        for name, value in (("loss_and_grad", loss_and_grad), ("validation", validation)):
            if not callable(value) and not (name == "validation" and value is None):
                raise DTypeError(f"{name} must be callable, got {type(value).__name__}")
        if early_stopping is not None and not isinstance(early_stopping, EarlyStopping):
            raise DTypeError(f"early_stopping must be an EarlyStopping, got {early_stopping!r:.60}")
        if not isinstance(callbacks, (list, tuple)):
            raise DTypeError(f"callbacks must be a list of callbacks, got {type(callbacks).__name__}")
        for one in callbacks:
            if isinstance(one, type) or not any(callable(getattr(one, hook, None)) for hook in HOOKS):
                raise DTypeError(f"callbacks has {one!r:.60}, which has neither {' nor '.join(HOOKS)}")
        self.loss_and_grad, self.params, self.optimizer, self.data = loss_and_grad, params, optimizer, data
        self.layers = check_layers(layers)
        self.batches = batches(data.n)
        self.accumulator = Accumulator(optimizer, accumulate)
        self.validation, self.early_stopping, self.callbacks = validation, early_stopping, callbacks
        self.stop_on_nan = stop_on_nan and optimizer.nonfinite != "skip"
        self.history = History(optimizer)
        self.epoch, self.at = 0, 0  # where the next batch begins
        self.total, self.samples = 0.0, 0  # losses times samples in this epoch, and samples
        self.best: dict[str, Any] | None = None  # parameters, and what the layers remember

    def remembering(self) -> list[Any]:
        """Layers; callbacks with a state for checkpoints; the schedule of the batches, if it has one."""
        size = self.batches.batch_size
        others = [*self.callbacks] if is_pure(size) else [*self.callbacks, size]
        return [*self.layers, *(one for one in others if has_memory(one))]

    def identity(self) -> dict[str, Any]:
        """Which run this is: a checkpoint of another cannot be resumed."""
        size = self.batches.batch_size
        return {
            "samples": self.data.n,
            "data": [[list(map(int, a.shape[1:])), str(a.dtype)] for a in self.data.arrays],
            "order": re.sub(r" at 0x[0-9a-f]+", "", repr(self.batches.order)),
            "batch_size": "a schedule" if callable(size) else size,
            "drop_last": self.batches.drop_last,
            "accumulate": self.accumulator.steps,
            "sample_weight": self.data.weight is not None,
            "optimizer": type(self.optimizer).__name__,
            "early_stopping": self.early_stopping is not None,
            "what has a memory": [type(one).__name__ for one in self.remembering()],
        }

    def go(
        self,
        epochs: int,
        most: int | None,
        path: str | None,
        every: int | None,
        interrupted: list[int],
        show: Callable[[int, int], Any] | None,
    ) -> None:
        """Train until something says stop, save, and restore the best parameters."""
        history, stopping = self.history, self.early_stopping

        def reason(by_callback: bool = False) -> str | None:
            if interrupted:
                return "interrupt"
            if by_callback:
                return "callback"
            return "max_steps" if most is not None and history.steps >= most else None

        history.stopped = "early" if stopping is not None and stopping.exhausted else reason()
        while history.stopped is None and self.epoch < epochs:
            order = self.batches.indices(self.epoch)
            with contextlib.nullcontext() if show is None else show(self.epoch, len(order)) as bar:
                if bar is not None:
                    bar.update(self.at)
                batch = self.batches.cut(order, self.at, self.optimizer.steps)
                while batch is not None and history.stopped is None:
                    before = self.at
                    loss, batch = self.step(order, batch)
                    if bar is not None:
                        bar.update(self.at - before)
                        bar.set_postfix(loss=f"{loss:.4g}", lr=f"{history._lr[-1]:.3g}")
                    by_callback = self.tell("on_step_end")
                    history.stopped = reason(by_callback)
                    if path is not None and every is not None and history.steps % every == 0 and batch is not None:
                        self.save(path)
            if batch is None:  # the epoch is over, whatever stops training with it
                by_callback = self.end_epoch() or history.stopped == "callback"
                early, why = stopping is not None and stopping.exhausted, reason(by_callback)
                if why == "max_steps" and self.epoch == epochs:
                    why = None
                history.stopped = "early" if early and why != "interrupt" else why
                if path is not None and every is not None and history.steps % every == 0 and self.epoch < epochs:
                    self.save(path)
        if path is not None:
            self.save(path)
        if history.stopped not in ("interrupt", "max_steps"):
            self.restore_best()

    def step(self, order: Array, rows: Array) -> tuple[float, Array | None]:
        """One step of the optimizer. Its loss, and the batch that comes after it."""
        now, lr = self.optimizer.steps, rate_of(self.optimizer)
        total, samples, batch, stepped = 0.0, 0, rows, False
        while not stepped:
            given, options = self.data.take(batch)
            loss, grads = loss_of(self.loss_and_grad(self.params, *given, **options))
            if self.stop_on_nan and not math.isfinite(loss):
                raise NonFiniteError(
                    f"the loss is {loss} at step {self.history.steps} (epoch {self.epoch}); its gradient was not used. Use a "
                    "smaller lr, clip the gradients, or pass stop_on_nan=False"
                )
            total, samples, self.at = total + loss * len(batch), samples + len(batch), self.at + len(batch)
            stepped = self.accumulator.add(grads, float(len(batch)))
            if not stepped:
                following = self.batches.cut(order, self.at, now)
                if following is None:
                    stepped = self.accumulator.flush()
                else:
                    batch = following
        self.total, self.samples = self.total + total, self.samples + samples
        self.history.record(total / samples, lr)
        return total / samples, self.batches.cut(order, self.at, self.optimizer.steps)

    def end_epoch(self) -> bool:
        """Validate, record, tell everyone, and go on to the next epoch. Whether a callback says stop."""
        entry = {"epoch": self.epoch, "step": self.history.steps, "loss": self.total / max(self.samples, 1)}
        with in_use(self.optimizer):
            entry |= self.validated()
            value = self.monitored(entry)
            if self.early_stopping is not None and self.early_stopping.update(value, self.epoch):
                self.keep_best()
        self.history.epochs.append(entry)
        options = [option for group in self.optimizer.param_groups for option in group.options().values()]
        schedules = [one for one in (*options, self.batches.batch_size) if callable(one)]
        for part in {id(part): part for one in schedules for part in parts_of(one)}.values():
            if callable(getattr(part, "update", None)):
                part.update(value)
        self.epoch, self.at, self.total, self.samples = self.epoch + 1, 0, 0.0, 0
        return self.tell("on_epoch_end")

    def validated(self) -> dict[str, float]:
        """What `validation` says of the parameters as they are."""
        if self.validation is None:
            return {}
        found = self.validation(self.params)
        named = dict(found) if isinstance(found, Mapping) else {"validation": found}
        for name in named:
            if not isinstance(name, str) or name in ("epoch", "step", "loss"):
                raise DTypeError(
                    f"validation must name its numbers by words other than epoch, step and loss; got {name!r:.60}"
                )
        what = "validation must return a number, or a dict of numbers"
        return {name: one_number(what, value) for name, value in named.items()}

    def monitored(self, entry: Mapping[str, Any]) -> float:
        """The value that early stopping, and schedules with memory, go by."""
        stopping = self.early_stopping
        name = None if stopping is None else stopping.monitor
        if stopping is not None and name is None and self.validation is not None and "validation" not in entry:
            raise StateError(f"early stopping needs a name to look at: pass monitor=, one of {', '.join(entry)}")
        name = name or ("validation" if "validation" in entry else "loss")
        if name not in entry:
            raise StateError(f"monitor is {name!r}, which no epoch has.{did_you_mean(name, entry)}")
        return float(entry[name])

    def tell(self, hook: str) -> bool:
        """Call the callbacks; whether one says stop."""
        answers = [
            getattr(one, hook)(self.history, self.params, self.optimizer)
            for one in self.callbacks
            if hasattr(one, hook)
        ]
        return any(answer is True for answer in answers)

    def keep_best(self) -> None:
        """Remember the parameters as they are in use."""
        assert self.early_stopping is not None
        if not self.early_stopping.restore_best:
            return
        arrays = files.parameters(self.optimizer)
        if self.best is None:
            self.best = {"params": [np.empty_like(p) for p in arrays]}
        for kept, p in zip(self.best["params"], arrays, strict=True):
            kept[...] = p
        self.best["layers"] = [layer.state_dict() for layer in self.layers]

    def restore_best(self) -> None:
        """The best parameters; those of a Schedule-Free optimizer are averages, and it knows."""
        if self.best is None:
            return
        self.optimizer.flush()
        if hasattr(self.optimizer, "eval"):
            self.optimizer.eval()
        for layer, memory in zip(self.layers, self.best["layers"], strict=True):
            layer.load_state_dict(memory)
        for p, kept in zip(files.parameters(self.optimizer), self.best["params"], strict=True):
            p[...] = kept

    # -------------------------------------------------------------------------------------------------- checkpoints

    def save(self, path: str) -> None:
        """Write all that a resumption needs."""
        stopping = self.early_stopping
        files.write(
            path,
            {
                "kind": "training",
                "run": self.identity(),
                "optimizer": files.pack(self.optimizer),
                "position": {"epoch": self.epoch, "at": self.at, "total": self.total, "samples": self.samples},
                "history": self.history.state_dict(),
                "early_stopping": None if stopping is None else stopping.state_dict(),
                "best": self.best,
                "memories": [one.state_dict() for one in self.remembering()],
            },
        )

    def restore(self, tree: Any, path: str) -> None:
        """Go on from what `save` wrote, or raise and leave everything as it was."""
        parts = {"run", "optimizer", "position", "history", "early_stopping", "best", "memories"}
        if not isinstance(tree, dict) or tree.get("kind") != "training" or not parts <= set(tree):
            raise CheckpointError(f"{path} is no checkpoint of train; fastopt.load reads what fastopt.save wrote")
        mine = self.identity()
        for name, value in mine.items():
            saved = tree["run"].get(name)
            if saved != value:
                raise CheckpointError(
                    f"{path} cannot be resumed: there, {name} is {saved!r:.120}, but here it is {value!r:.120}; pass what was passed "
                    "then, or take the optimizer alone by fastopt.load"
                )
        history, position = History(self.optimizer), tree["position"]
        loaders: list[tuple[Any, Any]] = [(history, tree["history"])]
        if self.early_stopping is not None:
            loaders.append((self.early_stopping, tree["early_stopping"]))
        loaders += zip(self.remembering(), tree["memories"], strict=True)
        best = tree["best"]
        shapes = [(p.shape, p.dtype) for p in files.parameters(self.optimizer)]
        if best is not None and [(p.shape, p.dtype) for p in best["params"]] != shapes:
            raise CheckpointError(f"{path} is damaged: its best parameters have other shapes than the parameters")
        files.remember(loaders, lambda: files.unpack(tree["optimizer"], self.optimizer, path))
        self.history, self.best = history, best
        self.epoch, self.at = position["epoch"], position["at"]
        self.total, self.samples = position["total"], position["samples"]
