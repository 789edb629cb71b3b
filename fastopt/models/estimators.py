"""What the estimators on CSR data share: parameters, checks of the data, passes, classes. In scikit-learn's manner."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import operator
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from .. import checks, config, kernels
from ..checks import Array
from ..csr import csr_rows
from ..errors import HyperParameterError, NonFiniteError, ReadOnlyError, ShapeError, StateError, UnsupportedError
from ..optimizers.base import by_name
from ..optimizers.ftrl import FTRL
from ..scores import VALUES
from .samples import new_order

CLASSIFIER_LOSSES = ("log_loss", "hinge", "squared_hinge", "modified_huber")
REGRESSOR_LOSSES = (
    "squared_error",
    "huber",
    "epsilon_insensitive",
    "squared_epsilon_insensitive",
    "quantile",
    "poisson",
)
#: Which constructor parameter is the parameter of a loss.
LOSS_PARAMETERS = {
    "huber": "epsilon",
    "epsilon_insensitive": "epsilon",
    "squared_epsilon_insensitive": "epsilon",
    "quantile": "quantile",
}
MODES = ("sequential", "minibatch", "hogwild")
_THREADS = kernels.threads.LIMIT
DTYPES = [np.float64, np.float32]
_CSR = (sparse.csr_matrix, sparse.csr_array)


def merged(X: Any) -> Any:
    """`X` as a CSR matrix in which no row repeats an index: repeated entries are summed into the first, in order."""
    indptr, indices, data, shape = csr_rows(X)
    return sparse.csr_matrix((data[: indptr[-1]], indices[: indptr[-1]], indptr), shape=shape)


def is_finite(x: Array) -> bool:
    """Whether all elements are; `x` is contiguous, float32 or float64."""
    if kernels.drivers is not None:
        return kernels.drivers.finite(x)
    return checks.all_finite(x)


def _as(numbers: Array, dtype: Any, what: str) -> Array:
    """Finite numbers as another dtype."""
    with np.errstate(over="ignore"):
        found = np.ascontiguousarray(numbers, dtype)
    if not is_finite(found):
        raise HyperParameterError(f"{what} has numbers up to {abs(numbers).max():.3g}, too large for {found.dtype}")
    return found


def _entries(X: Any) -> Array:
    entries: Array = X if type(X) is np.ndarray else X.data
    return entries


@functools.cache
def _parameter_names(cls: type) -> tuple[str, ...]:
    return tuple(inspect.signature(cls).parameters)


def _is_table(y: Any) -> bool:
    """Whether targets have two dimensions; of a list its first entry tells."""
    if type(y) is np.ndarray:
        return y.ndim == 2
    first = y[0] if type(y) in (list, tuple) and len(y) else None
    return len(getattr(y, "shape", ())) == 2 or isinstance(first, (list, tuple)) or getattr(first, "ndim", 0) > 0


def _plain_labels(y: Any, n: int, tables: bool) -> Array | None:
    """`y` as an array, if it is of `n` finite numbers or of texts, or with `tables` of `n` rows of numbers; else None."""
    if type(y) is list:
        y = np.asarray(y)
    if type(y) is not np.ndarray or len(y.shape) not in (1, 1 + tables) or len(y) != n:
        return None
    if y.dtype.kind not in ("biufU" if y.ndim == 1 else "biuf") or not y.size:
        return None
    if y.dtype.kind == "f" and (y.dtype not in DTYPES or not y.flags.c_contiguous or not is_finite(y)):
        return None
    return y


class Model:
    """One model under training, and what predicts: its parameters now, their mean over passes, or the best of them."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.passes = self.count = 0
        self.lost = False  # what is trained has diverged, and the best is kept
        self._mean: tuple[Array, ...] | None = None
        self._best: tuple[Array, ...] | None = None

    def parameters(self) -> tuple[Array, ...]:
        """Arrays; those of a linear model: the weights, and the intercept, shape (1,)."""
        return self.kept() or self.trainer.parameters()

    def intercept(self) -> Array:
        """That of `parameters`, without making the weights."""
        kept = self.kept()
        found: Array = self.trainer.intercept() if kept is None else kept[1]
        return found

    def kept(self) -> tuple[Array, ...] | None:
        """The parameters, if they are not those of now."""
        return self._best or self._mean

    def end_pass(self, average: int) -> None:
        """`average`: the first pass that enters the mean; 0: none."""
        self.passes += 1
        self._best = None
        if average and self.passes >= average:
            now = self.trainer.parameters()
            self.count += 1
            n = self.count
            self._mean = tuple(
                a.copy() if n == 1 else m + (a - m) / a.dtype.type(n)
                for a, m in zip(now, self._mean or now, strict=True)
            )
        else:
            self._mean, self.count = None, 0

    def keep_best(self, best: tuple[Array, ...]) -> None:
        """Predict with these parameters, until training goes on."""
        self._best = best

    def keeps_finite(self) -> bool:
        """Whether there is a best one, of finite numbers."""
        return self._best is not None and all(is_finite(np.ascontiguousarray(a)) for a in self._best)


class Watch(NamedTuple):
    """Rows whose mean loss is looked at after each pass."""

    X: Any
    rows: Array
    weights: Array | None


class Estimator(BaseEstimator):  # type: ignore[misc]
    """Parameters, checks, training pass by pass. A subclass has trainers (`_make`, `_set_rate`) and scores (`_score`)."""

    _losses: tuple[str, ...] = ()
    #: Whether the score of a row is not finite wherever one of its entries is not, and weights are.
    _scores_show = False
    #: Whether targets may be a matrix; how many columns those of the present models have: None: they are one-dimensional.
    _takes_tables = False
    _columns: int | None = None
    #: The penalties that `fit` compares just now, with a model for each; the models of a target stand together.
    _trying: tuple[float, ...] = ()
    _checked: tuple[Any, ...] = ()  # the parameters that have been checked, and those that the trainers have
    _set: tuple[Any, ...] | None = None
    loss: str
    optimizer: str
    lr: Any
    epochs: int
    batch_size: int
    l1: float
    l2: float
    mode: str
    n_jobs: int | None
    shuffle: bool
    random_state: Any
    early_stopping: bool
    validation_fraction: float
    n_iter_no_change: int
    warm_start: bool
    average: Any
    tol: float | None
    verbose: Any
    fit_intercept: bool
    _models: list[Model]

    def _keep(self, given: dict[str, Any]) -> None:
        """Keep the constructor's parameters, its ``locals()``, as they are."""
        for name, value in given.items():
            if name not in ("self", "__class__"):
                setattr(self, name, value)

    # ------------------------------------------------------------------------------------------------------- checks

    def _look(self) -> None:
        """Check the parameters, unless they are the very objects of the last time."""
        cls: Any = type(self)
        now = tuple(map(self.__dict__.get, _parameter_names(cls)))
        if len(now) != len(self._checked) or not all(map(operator.is_, now, self._checked)):
            self._check_parameters()
            self._checked = now

    def _is_plain(self, X: Any) -> bool:
        """Whether `validate_data` would return `X` as it is, should its entries be finite."""
        return (
            (type(X) in _CSR or (type(X) is np.ndarray and X.ndim == 2))
            and X.dtype in DTYPES
            and _entries(X).flags.c_contiguous
            and X.shape[0] > 0
            and X.shape[1] == self.n_features_in_
            and not hasattr(self, "feature_names_in_")
        )

    def _valid(self, X: Any, y: Any, first: bool, **options: Any) -> tuple[Any, Array]:
        """As `validate_data`, which takes long for a few rows."""
        if (
            not first
            and self._is_plain(X)
            and (plain := _plain_labels(y, X.shape[0], "multi_output" in options)) is not None
            and is_finite(_entries(X))
        ):
            return X, plain
        found: tuple[Any, Array] = validate_data(self, X, y, accept_sparse="csr", dtype=DTYPES, reset=first, **options)
        return found

    def _check_parameters(self) -> None:
        checks.one_of(*self._losses)("loss", self.loss)
        cls, _ = by_name(self.optimizer)
        if not cls.for_samples:
            raise UnsupportedError(
                f"{cls.__name__} cannot train a linear model sample by sample; choose another optimizer"
            )
        self._check_rate()
        checks.integer(1)("epochs", self.epochs)
        checks.integer(1, 2**31 - 1)("batch_size", self.batch_size)
        checks.non_negative("l1", self.l1)
        checks.one_of(*MODES)("mode", self.mode)
        self._check_l2()
        if self.mode == "hogwild" and self._lasso():
            raise UnsupportedError("mode='hogwild' has no l1; use 'sequential' or 'minibatch', or optimizer='ftrl'")
        if self.n_jobs is not None:
            checks.integer(-1, _THREADS)("n_jobs", self.n_jobs)
        if self.n_jobs == 0:
            checks.integer(1, _THREADS)("n_jobs", self.n_jobs)
        for name in ("shuffle", "early_stopping", "warm_start", "fit_intercept"):
            checks.flag(name, getattr(self, name))
        checks.number(0.0, 1.0, closed_low=False, closed_high=False)("validation_fraction", self.validation_fraction)
        checks.integer(1)("n_iter_no_change", self.n_iter_no_change)
        if not isinstance(self.average, (bool, np.bool_)):
            checks.integer(0)("average", self.average)
        if self.tol is not None:
            checks.number()("tol", self.tol)
        if not isinstance(self.verbose, (bool, np.bool_)):
            checks.integer(0)("verbose", self.verbose)

    def _check_rate(self) -> None:
        checks.rate("lr", self.lr)

    def _check_l2(self) -> None:
        checks.non_negative("l2", self.l2)

    def _l2(self) -> float:
        """The penalty of the models."""
        return float(self.l2)

    def _check_partial_fit(self) -> None:
        """Raise if the parameters are not for partial_fit."""

    def _rate(self) -> Any:
        """The rate that trainers are made with."""
        return self.lr

    def _lasso(self) -> bool:
        """Whether weights are caught up with an l1 penalty; FTRL has its own."""
        return self.l1 > 0 and by_name(self.optimizer)[0] is not FTRL

    def _threads(self) -> int:
        if self.n_jobs is None:
            return 1
        return config.get_num_threads() if self.n_jobs == -1 else int(self.n_jobs)

    def _sample_weights(self, X: Any, sample_weight: Any) -> Array | None:
        if sample_weight is None:
            return None
        weights: Array = _check_sample_weight(sample_weight, X, dtype=np.float64)
        if weights.min() < 0:
            raise HyperParameterError(f"sample_weight must not be negative, and has {weights.min()}")
        if not weights.any():
            raise StateError("sample_weight is zero for every sample: there is nothing to learn from")
        return weights

    @contextlib.contextmanager
    def _as_before(self) -> Iterator[None]:
        """What is known of the data stays that of the present models, if an exception comes before new ones are there."""
        before = self.__dict__.copy()
        try:
            yield
        except BaseException:
            if "_models" in before and self._models is before["_models"]:
                for name in ("n_features_in_", "feature_names_in_", "classes_", "_columns"):
                    self.__dict__.pop(name, None)
                    if name in before:
                        setattr(self, name, before[name])
            raise

    # ----------------------------------------------------------------------------------------------------- training

    def _searches(self) -> bool:
        """Whether the trainers choose their rate."""
        return False

    def _make(self, n_features: int, dtype: Any) -> Any:
        """A trainer at its start."""
        raise NotImplementedError

    def _stops(self, epochs: int) -> bool:
        """Whether training may end early."""
        return epochs > 1 and (bool(self.early_stopping) or self.tol is not None)

    def _jobs(self, targets: Sequence[Array], dtype: Any, epochs: int) -> list[tuple[Any, slice, Array]]:
        """What is trained by itself: a trainer, which of the models are its, and its targets."""
        return [
            (model.trainer, slice(k, k + 1), np.ascontiguousarray(y, dtype))
            for k, (model, y) in enumerate(zip(self._models, targets, strict=True))
        ]

    def _set_rate(self, trainer: Any) -> None:
        """Let a trainer go on with the present rate and penalties."""
        raise NotImplementedError

    def _score(self, model: Model, X: Any) -> Array:
        """The scores of the rows of a CSR matrix with unique indices, shape (n_samples,)."""
        raise NotImplementedError

    def _prepare(self, indices: Array, n_rows: int, n_threads: int) -> None:
        """Write over `indices` what the trainers want there instead."""

    def _arguments(self, n_features: int, dtype: Any) -> tuple[Any, ...]:
        """What every trainer takes: number of features, dtype, optimizer and its options, loss and its parameter."""
        cls, options = by_name(self.optimizer)
        if "weight_decay" in inspect.signature(cls).parameters:
            options["weight_decay"] = 0.0  # l2 is the decay here
        options = cls.fill_options({**options, **self._penalties()[0], "lr": self._rate()})
        return n_features, dtype, cls, options, self.loss, self._loss_parameter()

    def _loss_parameter(self) -> float:
        return float(getattr(self, LOSS_PARAMETERS[self.loss])) if self.loss in LOSS_PARAMETERS else 0.0

    def _start(self, n_models: int, n_features: int, dtype: Any) -> None:
        self._began([Model(self._make(n_features, dtype)) for _ in range(n_models)])

    def _began(self, models: list[Model]) -> None:
        self._models = models
        self._trained_as = self._training()
        self.t_ = 0

    def _penalties(self, l2: float | None = None) -> tuple[dict[str, float], float, float]:
        """Options of the optimizer, and the proximal penalties l1 and l2."""
        l2 = self._l2() if l2 is None else l2
        if by_name(self.optimizer)[0] is FTRL:
            return {"l1": float(self.l1), "l2": l2 / 2}, 0.0, 0.0  # it counts l2 twice
        return {}, float(self.l1), l2

    def _training(self) -> dict[str, Any]:
        """The parameters that must stay as they are between calls of partial_fit."""
        names = ("loss", "optimizer", "fit_intercept", "epsilon", "quantile")
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    def _restore(self, parameters: Sequence[tuple[Array, ...]], n_features: int, dtype: Any) -> None:
        """Become a model with these parameters, a tuple each of the models, the optimizer's state at the start."""
        self._start(len(parameters), n_features, dtype)
        for model, arrays in zip(self._models, parameters, strict=True):
            model.trainer.restore(*arrays)
        self.n_features_in_ = n_features

    def _check_going_on(self, n_features: int) -> None:
        """Whether the models can be trained on, with the present parameters; nothing has changed where they cannot."""
        first = self._models[0].trainer
        if self._set is not self._checked and self._trained_as != self._training():
            raise StateError(
                f"{', '.join(k for k, v in self._training().items() if self._trained_as[k] != v)} changed since training "
                "began; call fit to start again"
            )
        if n_features != len(first.records):  # n_features_in_ is for everyone to write to
            raise ShapeError(f"X has {n_features} features, and training goes on with {len(first.records)}")
        if not first.records.flags.writeable:
            raise ReadOnlyError("the weights cannot be written: load the model without a memory map to train it on")
        if any(model.lost for model in self._models):
            raise StateError(
                "training diverged after the pass whose weights were kept, and cannot go on from there: call fit with "
                "warm_start=False to start again, or save the model and load it to go on from these weights"
            )
        if self._set is not self._checked:
            self._check_change()

    def _check_change(self) -> None:
        """Whether training can go on with the present rate, mode and penalties; raises if it cannot."""

    def _passes(
        self, X: Any, targets: Sequence[Array], weights: Array | None, epochs: int, fresh: bool, classes: Any = None
    ) -> None:
        """Train each model on its targets; `classes`: what a validation split is stratified by."""
        wild = self._threads() if self.mode == "hogwild" else 1
        indptr, indices, data, shape = csr_rows(X, wild)
        w = None if weights is None else _as(weights, data.dtype, "sample_weight, times class_weight,")
        if not fresh:
            self._check_going_on(shape[1])
        n = len(indptr) - 1
        stops = self._stops(epochs)
        holds_out = bool(self._trying) or (stops and self.early_stopping)
        draws = n > 1 and (self.shuffle or self.early_stopping or holds_out)
        random = check_random_state(self.random_state) if draws else None
        seed = random.randint(0, 2**31 - 1, 4) if random is not None and self.shuffle else None
        visits = np.arange(n, dtype=np.int32) if w is None else np.flatnonzero(w).astype(np.int32)
        watch = None
        if (stops or holds_out or self.verbose) and len(visits):
            seen = visits
            if holds_out:
                visits, seen = self._split(visits, random, classes)
            matrix = sparse.csr_matrix((data[: indptr[-1]], indices[: indptr[-1]], indptr), shape=shape)
            watch = Watch(matrix[seen], seen, None if weights is None else weights[seen])
        if fresh:
            self._start(len(targets), shape[1], data.dtype)
        jobs = self._jobs(targets, data.dtype, epochs)
        if fresh or self._set is not self._checked or self._searches():
            self._set = None
            for trainer, _, _ in jobs:
                self._set_rate(trainer)
            self._set = self._checked
        self._prepare(indices, n, wild)  # csr_rows has made them for us
        side = self._threads() if len(jobs) > 1 and self.mode == "sequential" else 1
        inside = 1 if self.mode == "sequential" else self._threads()

        def run(k: int) -> int:
            trainer, which, y = jobs[k]
            models = self._models[which]
            draw = None if seed is None else np.random.default_rng(seed)
            best, waited, kept = math.inf, 0, None
            for epoch in range(epochs):
                order = visits if draw is None else new_order(visits, draw)
                try:
                    trainer.train(indptr, indices, data, y, order, inside, w)
                except NonFiniteError:
                    if kept is None:
                        raise
                    for model in models:
                        model.lost = True
                    break
                for model in models:
                    model.end_pass(int(self.average))
                if watch is None or not (stops or self.verbose):
                    continue
                loss = self._mean_loss(models, watch, targets[which])
                if self.verbose:
                    whose = "" if len(jobs) == 1 else self._whose(which)
                    kind = "validation" if holds_out else "training"
                    print(f"{whose}epoch {epoch + 1}: {kind} loss {loss:.6g}")
                waited = 0 if loss < best - (self.tol or 0.0) else waited + 1
                if stops and self.early_stopping and loss < best:
                    kept = [model.parameters() for model in models]
                best = min(best, loss)
                if stops and waited >= self.n_iter_no_change:
                    break
            if kept is not None:
                for model, parameters in zip(models, kept, strict=True):
                    model.keep_best(parameters)
            return epoch + 1

        if side > 1:
            with ThreadPoolExecutor(side) as pool:
                made = list(pool.map(run, range(len(jobs))))
        else:
            made = [run(k) for k in range(len(jobs))]
        self.n_iter_ = max(made)
        self.t_ += len(visits) * self.n_iter_
        if self._trying and watch is not None:
            self._choose(watch, targets, indices)
        lost = [model for model in self._models if model.lost or not model.trainer.is_finite(indices)]
        if not all(model.keeps_finite() for model in lost):
            raise NonFiniteError("training diverged: weights are not finite; use a smaller lr, or scale the features")
        for model in lost:
            model.lost = True
        if lost:
            warnings.warn(
                "training diverged after the pass with the least validation loss, whose weights are kept; use a smaller "
                "lr, or scale the features",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _passes_of_fit(self, *arguments: Any) -> None:
        """`_passes` for `fit`, which may do more."""
        self._passes(*arguments)

    def _split(self, visits: Array, random: Any, classes: Array | None) -> tuple[Array, Array]:
        """Rows to learn from and rows held out, both in rising order."""
        held = self.validation_fraction
        train, seen = train_test_split(
            visits,
            test_size=held,
            random_state=random,
            stratify=None if classes is None else classes[visits],
        )
        return np.sort(train), np.sort(seen)

    def _whose(self, which: slice) -> str:
        """Of which targets some of the models are, before what is printed of them."""
        each = len(self._trying) or 1
        first, last = which.start // each, (which.stop - 1) // each
        one, several = ("class", "classes") if self._columns is None else ("column", "columns")
        return f"{one} {first}, " if first == last else f"{several} {first} to {last}, "

    def _choose(self, watch: Watch, targets: Sequence[Array], indices: Array) -> None:
        """Keep the models of the penalty whose loss is the least; `indices`: those of the features that were trained."""
        raise NotImplementedError

    def _mean_loss(self, models: Sequence[Model], watch: Watch, targets: Sequence[Array]) -> float:
        """The mean loss of models that are trained together; of several, its mean over them."""
        losses = self._losses_of(models, watch, targets)
        return math.fsum(losses) / len(losses)

    def _losses_of(self, models: Sequence[Model], watch: Watch, targets: Sequence[Array]) -> list[float]:
        """The mean loss of each of the models."""
        losses = []
        with np.errstate(all="ignore"):
            for model, y in zip(models, targets, strict=True):
                z = self._score(model, watch.X).astype(np.float64)
                loss = VALUES[self.loss](z, y[watch.rows], self._loss_parameter())
                losses.append(float(np.average(loss, weights=watch.weights)))
        return losses

    def _kept(self, X: Any) -> bool:
        """Whether fit goes on from the last one's weights and optimizer state; `X`: the new data."""
        if not self.warm_start or not hasattr(self, "_models"):
            return False
        if X.shape[1] != len(self._models[0].trainer.records):
            raise ShapeError(
                f"X has {X.shape[1]} features, and warm_start goes on with {len(self._models[0].trainer.records)}"
            )
        return True

    def _check_columns(self, columns: int | None) -> None:
        """Raise if the targets have not so many columns as those of the models."""
        if columns != self._columns:
            now, then = ("one dimension" if k is None else f"{k} columns" for k in (columns, self._columns))
            raise ShapeError(
                f"y has {now}, and training began with {then}; call fit with warm_start=False to start again"
            )

    def _as_trained(self, X: Any, fresh: bool) -> Any:
        if fresh or X.dtype == self._models[0].trainer.dtype:
            return X
        dtype = self._models[0].trainer.dtype
        entries = _as(_entries(X), dtype, "X")
        return entries if entries.ndim == 2 else type(X)((entries, X.indices, X.indptr), shape=X.shape)

    # --------------------------------------------------------------------------------------------------- predictions

    def _scores(self, X: Any) -> Array:
        """Shape (n_samples,), or (n_samples, n_classes)."""
        X, late = self._ready(X)
        found = self._score(self._models[0], X) if len(self._models) == 1 else self._score_all(self._models, X)
        if late:
            self._look_late(X, found)
        return found

    def _score_all(self, models: Sequence[Model], X: Any) -> Array:
        """As `_score`, of several models, shape (n_samples, n_models)."""
        return np.stack([self._score(model, X) for model in models], axis=1)

    def _ready(self, X: Any) -> tuple[Any, bool]:
        """`X`, of finite entries; or whether that has to be looked at late, when there are scores."""
        if not hasattr(self, "_models"):
            check_is_fitted(self)
        plain = self._is_plain(X)
        late = plain and self._scores_show and type(X) in _CSR
        return (X if late else self._finite(X, plain)), late

    def _look_late(self, X: Any, scores: Array) -> None:
        if not is_finite(scores):
            validate_data(self, X, accept_sparse="csr", dtype=DTYPES, reset=False)

    def _finite(self, X: Any, plain: bool) -> Any:
        """`X` as `validate_data` returns it; `plain`: see `_is_plain`."""
        if plain and is_finite(_entries(X)):
            return X
        return validate_data(self, X, accept_sparse="csr", dtype=DTYPES, reset=False)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_models")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _has_probabilities(self: Classifier) -> bool:
    if self.loss not in ("log_loss", "modified_huber"):
        raise AttributeError(f"probabilities need loss='log_loss' or 'modified_huber', not {self.loss!r}")
    return True


class Targets(Sequence[Array]):
    """Targets of models, each made when asked for. `classes`: of which class, or column, each model is."""

    classes: Any

    def __len__(self) -> int:
        return len(self.classes)

    def __iter__(self) -> Iterator[Array]:  # without the last try, which makes a fit of one row slower
        return map(self.__getitem__, range(len(self.classes)))

    def __getitem__(self, k: Any) -> Any:
        return self._with(self.classes[k]) if isinstance(k, slice) else self._of(self.classes[k])

    def repeated(self, times: int) -> Targets:
        """Each target for so many models, one beside the other."""
        return self._with(np.repeat(self.classes, times))

    def _with(self, classes: Any) -> Targets:
        raise NotImplementedError

    def _of(self, which: int) -> Array:
        raise NotImplementedError

    def abreast(self, models: slice, lanes: int, dtype: Any) -> Array:
        """Those of models side by side, as `LaneTrainer.train` takes them; `lanes`: their number with idle ones."""
        raise NotImplementedError


class OneAgainstRest(Targets):
    """+1 for the samples of the model's class and -1 for the others."""

    def __init__(self, codes: Array, classes: Any) -> None:
        self.codes, self.classes = codes, classes

    def _with(self, classes: Any) -> Targets:
        return OneAgainstRest(self.codes, classes)

    def _of(self, which: int) -> Array:
        return np.where(self.codes == which, 1.0, -1.0)

    def abreast(self, models: slice, lanes: int, dtype: Any) -> Array:
        mine = (self.codes >= models.start) & (self.codes < models.stop)
        return np.where(mine, self.codes - models.start, lanes).astype(np.int32)


class Columns(Targets):
    """The columns of a matrix."""

    def __init__(self, matrix: Array, classes: Any = None) -> None:
        self.matrix, self.classes = matrix, range(matrix.shape[1]) if classes is None else classes

    def _with(self, classes: Any) -> Targets:
        return Columns(self.matrix, classes)

    def _of(self, which: int) -> Array:
        column: Array = self.matrix[:, which]
        return column

    def abreast(self, models: slice, lanes: int, dtype: Any) -> Array:
        return np.ascontiguousarray(self.matrix[:, models], dtype)


class Classifier(ClassifierMixin, Estimator):  # type: ignore[misc]
    """Classes, one model for each where there are more than two."""

    class_weight: Any

    def _codes(self, y: Array) -> Array:
        """The place of each label among the classes."""
        if len(self.classes_) == 2:  # searching takes longer
            second = y == self.classes_[1]
            codes, known = second.astype(np.intp), second | (y == self.classes_[0])
        else:
            codes = np.minimum(self.classes_.searchsorted(y), len(self.classes_) - 1)
            known = self.classes_[codes] == y
        if not known.all():
            raise StateError(f"y has labels that are not among the classes {self.classes_.tolist()}")
        return codes

    def _targets(self, codes: Array) -> OneAgainstRest:
        """Targets -1 and +1 of each model."""
        return OneAgainstRest(codes, range(1, 2) if len(self.classes_) == 2 else range(len(self.classes_)))

    def _set_classes(self, classes: Array) -> None:
        if len(classes) < 2:
            raise StateError(f"the data have one class only, {classes.tolist()}; a classifier needs two")
        self.classes_ = classes

    def _class_weights(self, codes: Array, weights: Array | None) -> Array | None:
        """The weights of the samples, times those of their classes."""
        if self.class_weight is None:
            return weights
        if isinstance(self.class_weight, str):
            checks.one_of("balanced")("class_weight", self.class_weight)
            sizes = np.bincount(codes, weights, len(self.classes_)).astype(np.float64)
            by_class = sizes.sum() / (len(self.classes_) * np.where(sizes > 0, sizes, 1.0))
        else:
            if not isinstance(self.class_weight, Mapping):
                raise HyperParameterError(
                    f"class_weight must be None, 'balanced' or a dict of class and weight, got {self.class_weight!r:.80}"
                )
            by_class = np.ones(len(self.classes_))
            for label, weight in self.class_weight.items():
                place = np.flatnonzero(self.classes_ == label)
                if len(place) == 0:
                    raise HyperParameterError(
                        f"class_weight has a class {label!r}, which is not among the classes {self.classes_.tolist()}"
                    )
                by_class[place] = checks.non_negative(f"class_weight[{label!r}]", weight)
        return by_class[codes] if weights is None else weights * by_class[codes]

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Classifier:
        """Train from the start, or on with `warm_start`.

        Parameters
        ----------
        X : CSR matrix or array, or ndarray, shape (n_samples, n_features)
        y : array-like, shape (n_samples,)
            Labels of any kind. For linear models also of shape (n_samples, n_labels), dense or sparse: 1 where a sample has
            the label, else 0.
        sample_weight : array-like, shape (n_samples,), optional
            Not negative. The gradient of a sample's loss is multiplied by its weight; samples of weight 0 are left out. In
            minibatch mode only the ratios of weights count.

        Returns
        -------
        Classifier
            Itself.
        """
        with self._as_before():
            self._look()
            if self._takes_tables and _is_table(y) and np.shape(y)[1] != 1:
                return self._learn_labels(X, y, sample_weight, self.epochs, True, True)
            X, y = self._valid(X, y, True)
            whole = y.dtype.kind in "iub"
            if not whole:
                check_classification_targets(y)
            classes = np.unique(y)
            # Of whole numbers all it may say is that they look like a regression's.
            if whole and 2 * len(classes) > len(y):
                check_classification_targets(y)
            weights = self._sample_weights(X, sample_weight)
            kept = self._kept(X)
            if kept:
                self._check_columns(None)
            if kept and not np.isin(classes, self.classes_).all():
                raise StateError(f"warm_start goes on with the classes {self.classes_.tolist()}, and y has others")
            if not kept:
                if weights is not None and len(np.unique(y[weights > 0])) < 2:
                    raise StateError("the samples whose weight is not zero have one class only; a classifier needs two")
                self._set_classes(classes)
                self._columns = None
            codes = self._codes(y)
            weights = self._class_weights(codes, weights)
            if weights is not None and not weights.any():
                raise StateError(
                    "class_weight and sample_weight leave every sample a weight of 0: there is nothing to learn from"
                )
            X = self._as_trained(X, not kept)
            self._passes_of_fit(X, self._targets(codes), weights, self.epochs, not kept, codes)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Classifier:
        """Train on, with one pass over these samples, at the present `lr`, `l1` and `l2` (`set_params` changes them).

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.
        classes : array-like, shape (n_classes,)
            All labels; needed at the first call, but where `y` has a column for each.
        """
        self._look()
        self._check_partial_fit()
        if self._takes_tables and _is_table(y) and np.shape(y)[1] != 1:
            return self._learn_labels(X, y, sample_weight, 1, not hasattr(self, "_models"), False, classes)
        if isinstance(self.class_weight, str):
            raise UnsupportedError(
                "class_weight='balanced' needs all samples, which partial_fit does not see; pass a dict of weights"
            )
        first = not hasattr(self, "_models")
        X, y = self._valid(X, y, first)
        if first:
            if classes is None:
                raise StateError("the first call of partial_fit needs all labels in classes=")
            self._set_classes(np.unique(classes))
        else:
            self._check_columns(None)
        if not first and classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise StateError(f"classes={classes!r} are not those of the first call, {self.classes_.tolist()}")
        codes = self._codes(y)
        weights = self._class_weights(codes, self._sample_weights(X, sample_weight))
        self._passes(self._as_trained(X, first), self._targets(codes), weights, 1, first)
        return self

    def _learn_labels(
        self, X: Any, y: Any, sample_weight: Any, epochs: int, first: bool, kept: bool, classes: Any = None
    ) -> Classifier:
        """Learn labels of which a sample may have any number: a column of zeros and ones for each."""
        if self.class_weight is not None:
            raise UnsupportedError("class_weight is for classes of which a sample has one; use sample_weight, or None")
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=DTYPES, reset=first, multi_output=True)
        y = y.toarray() if sparse.issparse(y) else y
        if y.shape[1] == 0:
            raise ShapeError(f"y has the shape {y.shape}: no label to learn")
        if y.dtype.kind not in "biuf" or not ((y == 0) | (y == 1)).all():
            raise HyperParameterError(
                f"y of shape {y.shape} must have a column of 0 and 1 for each label; for several classes, of which a "
                "sample has one, y has one dimension"
            )
        labels = np.arange(y.shape[1])
        if classes is not None and not np.array_equal(np.unique(classes), labels):
            raise StateError(f"classes={classes!r:.80} are not the numbers of the {y.shape[1]} columns of y")
        weights = self._sample_weights(X, sample_weight)
        fresh = not self._kept(X) if kept else first
        if fresh:
            self.classes_, self._columns = labels, len(labels)
        self._check_columns(len(labels))
        passes = self._passes_of_fit if kept else self._passes
        passes(self._as_trained(X, fresh), Columns(np.where(y == 1, 1.0, -1.0)), weights, epochs, fresh)
        return self

    def decision_function(self, X: Any) -> Array:
        """Scores, shape (n_samples,), positive where ``classes_[1]`` is predicted; (n_samples, n_classes) for more classes, or labels."""
        return self._scores(X)

    def predict(self, X: Any) -> Array:
        """Labels, shape (n_samples,); of models of several labels 0 or 1 for each, shape (n_samples, n_labels)."""
        check_is_fitted(self)
        if self._columns is not None:
            return (self.decision_function(X) > 0).astype(int)
        if len(self._models) == 1:
            return self.classes_[(self.decision_function(X) > 0).astype(int)]
        return self.classes_[self._likeliest(X)]

    def _likeliest(self, X: Any) -> Array:
        """The place of the class with the greatest score, shape (n_samples,)."""
        return np.asarray(self.decision_function(X).argmax(axis=1))

    @available_if(_has_probabilities)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the classes, shape (n_samples, n_classes); for the losses "log_loss" and "modified_huber".

        The logistic function of the scores, or ``(clip(z, -1, 1) + 1) / 2`` (Zhang 2002); those of more than two classes are
        scaled to a sum of 1, as in scikit-learn, and those of several labels are not.
        """
        return self._probabilities(self.decision_function(X))

    def _probabilities(self, z: Array) -> Array:
        p = expit(z) if self.loss == "log_loss" else (np.clip(z, -1, 1) + 1) / 2
        if p.ndim == 1:
            return np.column_stack((1 - p, p))
        if self._columns is not None:
            labels: Array = np.asarray(p, z.dtype)
            return labels
        total = p.sum(axis=1, keepdims=True)
        none = total == 0
        found: Array = np.where(none, 1 / p.shape[1], p / np.where(none, 1, total)).astype(p.dtype)
        return found

    @available_if(_has_probabilities)  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: Any) -> Array:
        """The logarithms of `predict_proba`."""
        with np.errstate(divide="ignore"):
            found: Array = np.log(self.predict_proba(X))
        return found


class Regressor(RegressorMixin, Estimator):  # type: ignore[misc]
    """Targets that are numbers."""

    epsilon: float
    quantile: float

    def _check_parameters(self) -> None:
        super()._check_parameters()
        checks.non_negative("epsilon", self.epsilon)
        checks.number(0.0, 1.0, closed_low=False, closed_high=False)("quantile", self.quantile)

    def _learn(self, X: Any, y: Any, sample_weight: Any, epochs: int, first: bool, kept: bool) -> Regressor:
        X, y = self._valid(X, y, first, y_numeric=True, **({"multi_output": True} if self._takes_tables else {}))
        y = y.toarray() if sparse.issparse(y) else y
        columns = y.shape[1] if y.ndim == 2 else None
        if columns == 0:
            raise ShapeError(f"y has the shape {y.shape}: no target to learn")
        y = y.astype(np.float64)
        if self.loss == "poisson" and y.min() < 0:
            raise HyperParameterError(f"loss='poisson' needs y that is not negative, and y has {y.min()}")
        weights = self._sample_weights(X, sample_weight)
        fresh = not self._kept(X) if kept else first
        X = self._as_trained(X, fresh)
        _as(y, X.dtype, "y")  # while nothing has changed
        if fresh:
            self._columns = columns
        self._check_columns(columns)
        passes = self._passes_of_fit if kept else self._passes
        passes(X, [y] if columns is None else Columns(y), weights, epochs, fresh)
        return self

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Regressor:
        """Train from the start, or on with `warm_start`.

        `X` and `sample_weight` as in `LinearClassifier.fit`; `y` array-like of numbers, shape (n_samples,), for linear models
        also (n_samples, n_targets).
        """
        with self._as_before():
            self._look()
            return self._learn(X, y, sample_weight, self.epochs, True, True)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Regressor:
        """Train on, with one pass over these samples, at the present `lr`, `l1` and `l2` (`set_params` changes them)."""
        self._look()
        self._check_partial_fit()
        return self._learn(X, y, sample_weight, 1, not hasattr(self, "_models"), False)

    def predict(self, X: Any) -> Array:
        """Predictions, shape (n_samples,), or (n_samples, n_targets) where `y` had two dimensions."""
        z = self._scores(X)
        if self._columns is not None and z.ndim == 1:
            z = z[:, np.newaxis]
        return np.exp(z) if self.loss == "poisson" else z
