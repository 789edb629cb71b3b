"""Linear models for sparse data, as scikit-learn estimators."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.linear_model import PoissonRegressor, QuantileRegressor, SGDClassifier, SGDRegressor
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from .. import checks, config, kernels
from ..checks import Array
from ..csr import checked_csr, csr_rows
from ..errors import HyperParameterError, NonFiniteError, ShapeError, StateError, UnsupportedError
from ..optimizers.base import by_name, choose_backend
from ..optimizers.ftrl import FTRL
from ..scores import VALUES
from .batches import BatchTrainer
from .samples import SampleTrainer, new_order

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
_MODES = ("sequential", "minibatch", "hogwild")
_THREADS = kernels.threads.LIMIT
_DTYPES = [np.float64, np.float32]


def merged(X: Any) -> Any:
    """`X` as a CSR matrix in which no row repeats an index: repeated entries are summed into the first, in order."""
    indptr, indices, data, shape = csr_rows(X)
    return sparse.csr_matrix((data[: indptr[-1]], indices[: indptr[-1]], indptr), shape=shape)


class _Weights:
    """One linear model under training, and the mean of its weights after each pass where that is asked for."""

    def __init__(self, trainer: SampleTrainer) -> None:
        self.trainer = trainer
        self.passes = self.count = 0
        self.mean: Array | None = None
        self.mean_intercept = 0.0

    def end_pass(self, average: int) -> None:
        """`average`: the first pass that enters the mean; 0: none."""
        self.passes += 1
        if average and self.passes >= average:
            w, b = self.trainer.weights(), self.trainer.intercept()
            self.count += 1
            self.mean = w.copy() if self.mean is None else self.mean + (w - self.mean) / w.dtype.type(self.count)
            self.mean_intercept += (b - self.mean_intercept) / self.count

    def weights(self) -> Array:
        return self.trainer.weights() if self.mean is None else self.mean

    def intercept(self) -> float:
        return self.trainer.intercept() if self.mean is None else self.mean_intercept


class _Watch(NamedTuple):
    """Rows whose mean loss is looked at after each pass."""

    X: Any
    rows: Array
    weights: Array | None


class _Linear(BaseEstimator):  # type: ignore[misc]
    """What classifier and regressor share: parameters, checks of the data, training, linear scores."""

    _losses: tuple[str, ...] = ()
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
    _models: list[_Weights]

    # ------------------------------------------------------------------------------------------------------- checks

    def _check_parameters(self) -> None:
        checks.one_of(*self._losses)("loss", self.loss)
        cls, _ = by_name(self.optimizer)
        if not cls.for_samples:
            raise UnsupportedError(
                f"{cls.__name__} cannot train a linear model sample by sample; choose another optimizer"
            )
        checks.rate("lr", self.lr)
        checks.integer(1)("epochs", self.epochs)
        checks.integer(1)("batch_size", self.batch_size)
        checks.non_negative("l1", self.l1)
        checks.non_negative("l2", self.l2)
        checks.one_of(*_MODES)("mode", self.mode)
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

    # ----------------------------------------------------------------------------------------------------- training

    def _start(self, n_models: int, n_features: int, dtype: Any) -> None:
        cls, options = by_name(self.optimizer)
        if "weight_decay" in inspect.signature(cls).parameters:
            options["weight_decay"] = 0.0  # l2 is the decay here
        own, l1, l2 = self._penalties()
        options = cls.fill_options({**options, **own, "lr": self.lr})
        parameter = float(getattr(self, LOSS_PARAMETERS[self.loss])) if self.loss in LOSS_PARAMETERS else 0.0
        arguments = (
            n_features,
            dtype,
            cls,
            options,
            self.loss,
            parameter,
            l2,
            bool(self.fit_intercept),
            choose_backend("auto"),
        )
        size = self.batch_size if self.mode == "minibatch" else 1
        self._models = [
            _Weights(BatchTrainer(size, l1, *arguments) if self._in_batches() else SampleTrainer(*arguments))
            for _ in range(n_models)
        ]
        self._trained_as = self._training()
        self.t_ = 0

    def _in_batches(self) -> bool:
        return self.mode == "minibatch" or self._lasso()

    def _penalties(self) -> tuple[dict[str, float], float, float]:
        """Options of the optimizer, and the proximal penalties l1 and l2."""
        if by_name(self.optimizer)[0] is FTRL:
            return {"l1": float(self.l1), "l2": float(self.l2) / 2}, 0.0, 0.0  # it counts l2 twice
        return {}, float(self.l1), float(self.l2)

    def _training(self) -> dict[str, Any]:
        """The parameters that must stay as they are between calls of partial_fit."""
        names = ("loss", "optimizer", "fit_intercept", "epsilon", "quantile")
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    def _restore(self, coef: Array, intercept: Array) -> None:
        """Become a model with these weights, a row each, its optimizer's state at the start."""
        self._start(coef.shape[0], coef.shape[1], coef.dtype)
        for k, model in enumerate(self._models):
            model.trainer.restore(coef[k], intercept[k])
        self.n_features_in_ = coef.shape[1]

    def _passes(
        self, X: Any, targets: Sequence[Array], weights: Array | None, epochs: int, fresh: bool, classes: Any = None
    ) -> None:
        """Train each model on its targets; `classes`: what a validation split is stratified by."""
        indptr, indices, data, shape = csr_rows(X)
        if fresh:
            self._start(len(targets), shape[1], data.dtype)
        elif self._trained_as != self._training():
            raise StateError(
                f"{', '.join(k for k, v in self._training().items() if self._trained_as[k] != v)} changed since training "
                "began; call fit to start again"
            )
        elif self._in_batches() and not isinstance(self._models[0].trainer, BatchTrainer):
            raise StateError(
                "training began without l1 and mode='minibatch', which cannot join it; call fit to start again"
            )
        own, l1, l2 = self._penalties()
        rate = self.lr if callable(self.lr) else float(self.lr)
        for model in self._models:
            trainer = model.trainer
            trainer.options = {**trainer.options, **own}
            if isinstance(trainer, BatchTrainer):
                trainer.set_rate(rate, l2, l1, self.batch_size if self.mode == "minibatch" else 1)
            else:
                trainer.set_rate(rate, l2)
        random = check_random_state(self.random_state) if self.shuffle or self.early_stopping else None
        seed = random.randint(0, 2**31 - 1, 4) if random is not None and self.shuffle else None
        n = len(indptr) - 1
        visits = np.arange(n, dtype=np.int32) if weights is None else np.flatnonzero(weights).astype(np.int32)
        stops = epochs > 1 and (self.early_stopping or self.tol is not None)
        watch = None
        if stops or self.verbose:
            seen = visits
            if stops and self.early_stopping:
                visits, seen = self._split(visits, random, classes)
            matrix = sparse.csr_matrix((data[: indptr[-1]], indices[: indptr[-1]], indptr), shape=shape)
            watch = _Watch(matrix[seen], seen, None if weights is None else weights[seen])
        w = None if weights is None else np.ascontiguousarray(weights, data.dtype)
        wild = self._threads() if self.mode == "hogwild" else 1
        first, *others = (model.trainer for model in self._models)
        first.renumber(indices, n, wild)  # csr_rows has made them for us
        for trainer in others:
            trainer.follow(first)
        side = self._threads() if len(targets) > 1 and self.mode == "sequential" else 1
        inside = 1 if self.mode == "sequential" else self._threads()

        def run(k: int) -> int:
            model, y = self._models[k], np.ascontiguousarray(targets[k], data.dtype)
            draw = None if seed is None else np.random.default_rng(seed)
            best, waited = math.inf, 0
            for epoch in range(epochs):
                order = visits if draw is None else new_order(visits, draw, wild)
                model.trainer.train(indptr, indices, data, y, order, inside, w)
                model.end_pass(int(self.average))
                if watch is not None:
                    loss = self._mean_loss(model, watch, targets[k])
                    if self.verbose:
                        which = "" if len(targets) == 1 else f"class {k}, "
                        kind = "validation" if stops and self.early_stopping else "training"
                        print(f"{which}epoch {epoch + 1}: {kind} loss {loss:.6g}")
                    waited = 0 if loss < best - (self.tol or 0.0) else waited + 1
                    best = min(best, loss)
                    if stops and waited >= self.n_iter_no_change:
                        return epoch + 1
            return epochs

        if side > 1:
            with ThreadPoolExecutor(side) as pool:
                made = list(pool.map(run, range(len(targets))))
        else:
            made = [run(k) for k in range(len(targets))]
        self.n_iter_ = max(made)
        self.t_ += len(visits) * self.n_iter_
        for model in self._models:
            records = model.trainer.records[:, 0]
            if len(indices) < len(records):  # only weights of these features have moved
                records = records[indices]
            with np.errstate(all="ignore"):  # the sum is quick, and not finite whenever a weight is not
                suspect = not np.isfinite(records.sum())
            if suspect and not np.isfinite(records).all():
                raise NonFiniteError(
                    "training diverged: weights are not finite; use a smaller lr, or scale the features"
                )

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

    def _mean_loss(self, model: _Weights, watch: _Watch, y: Array) -> float:
        parameter = float(getattr(self, LOSS_PARAMETERS[self.loss])) if self.loss in LOSS_PARAMETERS else 0.0
        with np.errstate(all="ignore"):
            z = np.asarray(watch.X @ model.weights(), np.float64) + model.intercept()
            return float(np.average(VALUES[self.loss](z, y[watch.rows], parameter), weights=watch.weights))

    def _kept(self, X: Any) -> bool:
        """Whether fit goes on from the last one's weights and optimizer state; `X`: the new data."""
        if not self.warm_start or not hasattr(self, "_models"):
            return False
        if X.shape[1] != len(self._models[0].trainer.records):
            raise ShapeError(
                f"X has {X.shape[1]} features, and warm_start goes on with {len(self._models[0].trainer.records)}"
            )
        return True

    def _as_trained(self, X: Any, fresh: bool) -> Any:
        return X if fresh else X.astype(self._models[0].trainer.dtype, copy=False)

    @property
    def coef_(self) -> Array:
        """Weights of the features, shape (1 or n_classes, n_features) in a classifier and (n_features,) in a regressor."""
        if not hasattr(self, "_models"):
            raise AttributeError("coef_ does not exist before fit")
        if not isinstance(self, ClassifierMixin):
            return self._models[0].weights()
        if len(self._models) == 1:
            return self._models[0].weights()[np.newaxis]
        return np.stack([model.weights() for model in self._models])

    @property
    def intercept_(self) -> Array:
        """The intercept, shape (1,), or one for each class."""
        if not hasattr(self, "_models"):
            raise AttributeError("intercept_ does not exist before fit")
        return np.array([model.intercept() for model in self._models], self._models[0].trainer.dtype)

    def _scores(self, X: Any) -> Array:
        """Shape (n_samples,), or (n_samples, n_classes)."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=_DTYPES, reset=False)
        if sparse.issparse(X):
            if (found := self._native_scores(X)) is not None:
                return found
            indptr, indices, data, shape = checked_csr(X)  # SciPy does not look where indices point
            X = sparse.csr_matrix((data, indices, indptr), shape=shape)
        if len(self._models) > 1:
            return np.asarray(X @ self.coef_.T + self.intercept_)
        model = self._models[0]
        return np.asarray(X @ model.weights() + model.trainer.dtype.type(model.intercept()))

    def _native_scores(self, X: Any) -> Array | None:
        """Scores of CSR rows by the kernel, which checks indices as it reads them; None where it cannot."""
        dtype = self._models[0].trainer.dtype
        fits = X.dtype == dtype and X.indices.dtype == np.int32 and X.indices.ndim == X.indptr.ndim == X.data.ndim == 1
        if kernels.drivers is None or not fits or len(X.indptr) != X.shape[0] + 1:
            return None
        indptr = X.indptr.astype(np.int64)
        indices, data = np.ascontiguousarray(X.indices), np.ascontiguousarray(X.data)
        if indptr[0] < 0 or (indptr[1:] < indptr[:-1]).any() or indptr[-1] > min(len(indices), len(data)):
            return None
        longest = int(np.diff(indptr).max(initial=0))
        out = np.empty((len(self._models), X.shape[0]), dtype)
        for scores, model in zip(out, self._models, strict=True):
            w, b = model.weights(), float(dtype.type(model.intercept()))
            if kernels.drivers.row_scores(indptr, indices, data, w, b, scores, longest) >= 0:
                return None  # the checks will say what is wrong
        return out[0] if len(out) == 1 else np.ascontiguousarray(out.T)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_models")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _has_probabilities(self: LinearClassifier) -> bool:
    if self.loss not in ("log_loss", "modified_huber"):
        raise AttributeError(f"probabilities need loss='log_loss' or 'modified_huber', not {self.loss!r}")
    return True


class LinearClassifier(ClassifierMixin, _Linear):  # type: ignore[misc]
    """Linear classifier of two or more classes, trained on CSR or dense data by any optimizer of fastopt.

    Minimizes the mean loss + l2/2 |w|^2 + l1 |w|_1, the intercept not penalized. The penalties are proximal: after each
    step ``w <- soft(w, lr * l1) / (1 + lr * l2)``, not scaled by adaptive rates; features that a sample lacks are caught up
    exactly when they are next read. The state of a feature stands still while samples lack it. More than two classes are
    trained one against the rest.

    Parameters
    ----------
    loss : {"log_loss", "hinge", "squared_hinge", "modified_huber"}, default "log_loss"
        As in scikit-learn's ``SGDClassifier``.
    optimizer : str, default "adagrad"
        Name of an optimizer: the class name in lower case (``"sgd"``, ``"adam"``, ...), or ``"momentum"`` or ``"nag"``,
        SGD with momentum 0.9. Its other options have their defaults, but for weight decay: that is `l2`, which is
        decoupled as AdamW's, so that ``"adam"`` and ``"adamw"`` are the same here. ``"ftrl"`` takes `l1` and `l2` as its own
        penalties, in closed form: they count once against the sum of the losses seen, not against their mean.
    lr : float or callable, default 0.1
        Learning rate. 0.1 suits Adagrad and SGD; Adam, AdamW and RMSprop want about 0.001, Adadelta 1. A schedule, such as
        those of `fastopt.schedules`, counts steps from 0 (samples, or batches with ``mode="minibatch"``); it needs
        ``l1=0`` and ``l2=0``, and is not saved by `save_model`.
    epochs : int, default 5
        Passes over the data, at most.
    batch_size : int, default 256
        Samples of a step of ``mode="minibatch"``.
    l1 : float, default 0
        Makes weights exactly 0. Not for ``mode="hogwild"``.
    l2 : float, default 0
        See the table below.
    mode : {"sequential", "minibatch", "hogwild"}, default "sequential"
        ``"sequential"``: a step for each sample, with the same bits on every machine. ``"minibatch"``: a step for each
        `batch_size` samples with the mean of their gradients, on `n_jobs` threads, with the same bits for any number
        of them; it wants larger rates or more passes. ``"hogwild"``: `n_jobs` threads that share the weights without locks
        (Niu et al. 2011), whose results vary from run to run. Each thread trains a copy of the most frequent features, and
        merges it with the others' every few hundred samples; so rates that are nearly too large for one thread may be too
        large for several. Below some ten thousand samples it gains little.
    n_jobs : int, optional
        Threads; None is 1, -1 is `fastopt.get_num_threads()`. In sequential mode they train classes side by side, where
        there are more than two, with the same bits.
    shuffle : bool, default True
        Visit the samples in a new random order in each epoch.
    random_state : int, RandomState or None
        Seed of the order, and of the split of `early_stopping`.
    early_stopping : bool, default False
        Hold out `validation_fraction` of the samples (stratified), and stop when their mean loss has not fallen by more than
        `tol` for `n_iter_no_change` passes. scikit-learn looks at the accuracy instead. The weights are those of the
        last pass.
    validation_fraction : float in (0, 1), default 0.1
    n_iter_no_change : int, default 5
    warm_start : bool, default False
        `fit` goes on from the weights and the optimizer's state of the last `fit`.
    average : bool or int, default False
        Polyak averaging: the weights are the mean of those after each pass, from the first on, or from pass number
        `average`; a call of `partial_fit` is a pass. scikit-learn averages over samples.
    tol : float, optional
        Without `early_stopping`: stop when the mean training loss, without the penalty, has not fallen by more than `tol` for
        `n_iter_no_change` passes. None: never (with `early_stopping`: 0). Looking costs about the time of a prediction.
    verbose : bool or int, default False
        Print the mean loss after each pass.
    class_weight : dict, "balanced" or None
        Weights of classes, multiplied into those of their samples; a class that a dict lacks has weight 1. ``"balanced"``:
        the number of samples by the number of classes and that of the class's samples, by weight.
    fit_intercept : bool, default True

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
    coef_ : ndarray, shape (1, n_features), or (n_classes, n_features) where there are more than two
    intercept_ : ndarray, shape (1,) or (n_classes,)
    n_features_in_ : int
    n_iter_ : int
        Passes of the last `fit`.
    t_ : int
        Samples learned so far.

    Notes
    -----
    float32 data are trained in float32, all other in float64. Zeros in dense data count as absent features.

    What others call the same penalty, for n samples:

    ===================================================== =================================================
    scikit-learn                                          here
    ===================================================== =================================================
    ``SGDClassifier(alpha)``, ``SGDRegressor(alpha)``     ``l2=alpha``
    the same, ``penalty="l1"``                            ``l1=alpha``
    the same, ``penalty="elasticnet"``                    ``l1=alpha * l1_ratio``, ``l2=alpha * (1 - l1_ratio)``
    ``LogisticRegression(C)``, ``LinearSVC(C)``           ``l2=1 / (C * n)``
    ``LogisticRegression(C)`` with l1                     ``l1=1 / (C * n)``
    ``Ridge(alpha)``                                      ``l2=alpha / n``
    ``Lasso(alpha)``, ``QuantileRegressor(alpha)``        ``l1=alpha``
    ``PoissonRegressor(alpha)``                           ``l2=alpha``
    ===================================================== =================================================

    Examples
    --------
    >>> import numpy as np
    >>> from fastopt.models import LinearClassifier
    >>> X = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    >>> LinearClassifier(epochs=20, random_state=0).fit(X, ["a", "b", "b", "a"]).predict([[3.0, 1.0]])
    array(['b'], dtype='<U1')
    """

    _losses = CLASSIFIER_LOSSES

    def __init__(
        self,
        loss: str = "log_loss",
        *,
        optimizer: str = "adagrad",
        lr: Any = 0.1,
        epochs: int = 5,
        batch_size: int = 256,
        l1: float = 0.0,
        l2: float = 0.0,
        mode: str = "sequential",
        n_jobs: int | None = None,
        shuffle: bool = True,
        random_state: Any = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        warm_start: bool = False,
        average: bool | int = False,
        tol: float | None = None,
        verbose: bool | int = False,
        class_weight: Any = None,
        fit_intercept: bool = True,
    ) -> None:
        self.loss = loss
        self.optimizer = optimizer
        self.lr = lr
        self.epochs = epochs
        self.batch_size = batch_size
        self.l1 = l1
        self.l2 = l2
        self.mode = mode
        self.n_jobs = n_jobs
        self.shuffle = shuffle
        self.random_state = random_state
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.average = average
        self.tol = tol
        self.verbose = verbose
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight

    def _codes(self, y: Array) -> Array:
        """The place of each label among the classes."""
        codes = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        if not (self.classes_[codes] == y).all():
            raise StateError(f"y has labels that are not among the classes {self.classes_.tolist()}")
        return codes

    def _targets(self, codes: Array) -> list[Array]:
        """Targets -1 and +1 of each model."""
        positive = [1] if len(self.classes_) == 2 else range(len(self.classes_))
        return [np.where(codes == k, 1.0, -1.0) for k in positive]

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

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LinearClassifier:
        """Train from the start, or on with `warm_start`.

        Parameters
        ----------
        X : CSR matrix or array, or ndarray, shape (n_samples, n_features)
        y : array-like, shape (n_samples,)
            Labels of any kind.
        sample_weight : array-like, shape (n_samples,), optional
            Not negative. The gradient of a sample's loss is multiplied by its weight; samples of weight 0 are left out. In
            minibatch mode only the ratios of weights count.

        Returns
        -------
        LinearClassifier
            Itself.
        """
        self._check_parameters()
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=_DTYPES)
        check_classification_targets(y)
        weights = self._sample_weights(X, sample_weight)
        kept, classes = self._kept(X), np.unique(y)
        if kept and not np.isin(classes, self.classes_).all():
            raise StateError(f"warm_start goes on with the classes {self.classes_.tolist()}, and y has others")
        if not kept:
            if weights is not None and len(np.unique(y[weights > 0])) < 2:
                raise StateError("the samples whose weight is not zero have one class only; a classifier needs two")
            self._set_classes(classes)
        codes = self._codes(y)
        weights = self._class_weights(codes, weights)
        self._passes(self._as_trained(X, not kept), self._targets(codes), weights, self.epochs, not kept, codes)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> LinearClassifier:
        """Train on, with one pass over these samples, at the present `lr`, `l1` and `l2` (`set_params` changes them).

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.
        classes : array-like, shape (n_classes,)
            All labels; needed at the first call.
        """
        self._check_parameters()
        if isinstance(self.class_weight, str):
            raise UnsupportedError(
                "class_weight='balanced' needs all samples, which partial_fit does not see; pass a dict of weights"
            )
        first = not hasattr(self, "_models")
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=_DTYPES, reset=first)
        if first:
            if classes is None:
                raise StateError("the first call of partial_fit needs all labels in classes=")
            self._set_classes(np.unique(classes))
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise StateError(f"classes={classes!r} are not those of the first call, {self.classes_.tolist()}")
        codes = self._codes(y)
        weights = self._class_weights(codes, self._sample_weights(X, sample_weight))
        self._passes(self._as_trained(X, first), self._targets(codes), weights, 1, first)
        return self

    def decision_function(self, X: Any) -> Array:
        """Scores, shape (n_samples,), positive where ``classes_[1]`` is predicted; (n_samples, n_classes) for more classes."""
        return self._scores(X)

    def predict(self, X: Any) -> Array:
        """Labels, shape (n_samples,)."""
        check_is_fitted(self)
        z = self.decision_function(X)
        return self.classes_[(z > 0).astype(int) if z.ndim == 1 else z.argmax(axis=1)]

    @available_if(_has_probabilities)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the classes, shape (n_samples, n_classes); for the losses "log_loss" and "modified_huber".

        The logistic function of the scores, or ``(clip(z, -1, 1) + 1) / 2`` (Zhang 2002); those of more than two classes are
        scaled to a sum of 1, as in scikit-learn.
        """
        z = self.decision_function(X)
        p = expit(z) if self.loss == "log_loss" else (np.clip(z, -1, 1) + 1) / 2
        if p.ndim == 1:
            return np.column_stack((1 - p, p))
        total = p.sum(axis=1, keepdims=True)
        none = total == 0
        return np.where(none, 1 / p.shape[1], p / np.where(none, 1, total)).astype(p.dtype)

    @available_if(_has_probabilities)  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: Any) -> Array:
        """The logarithms of `predict_proba`."""
        with np.errstate(divide="ignore"):
            found: Array = np.log(self.predict_proba(X))
        return found

    def to_sklearn(self) -> Any:
        """A fitted scikit-learn ``SGDClassifier`` with these weights, which predicts the same without fastopt."""
        check_is_fitted(self)
        other = SGDClassifier(loss=self.loss, **_sgd_options(self), class_weight=self.class_weight)
        other.classes_ = self.classes_.copy()
        return _fitted(other, self, self.coef_)


class LinearRegressor(RegressorMixin, _Linear):  # type: ignore[misc]
    """Linear regression, trained on CSR or dense data by any optimizer of fastopt.

    Parameters
    ----------
    loss : str, default "squared_error"
        With ``r = z - y``, z the score: ``"squared_error"``, r**2 / 2; ``"huber"``, that within `epsilon` and linear beyond;
        ``"epsilon_insensitive"``, what |r| is above `epsilon`; ``"squared_epsilon_insensitive"``, its square;
        ``"quantile"``, the pinball loss of `quantile`; ``"poisson"``, exp(z) - y z for counts y, of which `predict` returns
        the mean exp(z).
    optimizer, lr, epochs, batch_size, l1, l2, mode, n_jobs, shuffle, random_state
        As in `LinearClassifier`.
    early_stopping, validation_fraction, n_iter_no_change, warm_start, average, tol, verbose, fit_intercept
        As in `LinearClassifier`.
    epsilon : float, default 0.1
        As in scikit-learn.
    quantile : float in (0, 1), default 0.5

    Attributes
    ----------
    coef_ : ndarray, shape (n_features,)
    intercept_ : ndarray, shape (1,)
    n_features_in_ : int
    n_iter_ : int
        Passes of the last `fit`.
    t_ : int
        Samples learned so far.
    """

    _losses = REGRESSOR_LOSSES

    def __init__(
        self,
        loss: str = "squared_error",
        *,
        optimizer: str = "adagrad",
        lr: Any = 0.1,
        epochs: int = 5,
        batch_size: int = 256,
        l1: float = 0.0,
        l2: float = 0.0,
        mode: str = "sequential",
        n_jobs: int | None = None,
        shuffle: bool = True,
        random_state: Any = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        warm_start: bool = False,
        average: bool | int = False,
        tol: float | None = None,
        verbose: bool | int = False,
        fit_intercept: bool = True,
        epsilon: float = 0.1,
        quantile: float = 0.5,
    ) -> None:
        self.loss = loss
        self.optimizer = optimizer
        self.lr = lr
        self.epochs = epochs
        self.batch_size = batch_size
        self.l1 = l1
        self.l2 = l2
        self.mode = mode
        self.n_jobs = n_jobs
        self.shuffle = shuffle
        self.random_state = random_state
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.warm_start = warm_start
        self.average = average
        self.tol = tol
        self.verbose = verbose
        self.fit_intercept = fit_intercept
        self.epsilon = epsilon
        self.quantile = quantile

    def _check_parameters(self) -> None:
        super()._check_parameters()
        checks.non_negative("epsilon", self.epsilon)
        checks.number(0.0, 1.0, closed_low=False, closed_high=False)("quantile", self.quantile)

    def _learn(self, X: Any, y: Any, sample_weight: Any, epochs: int, first: bool, kept: bool) -> LinearRegressor:
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=_DTYPES, y_numeric=True, reset=first)
        if self.loss == "poisson" and y.min() < 0:
            raise HyperParameterError(f"loss='poisson' needs y that is not negative, and y has {y.min()}")
        weights = self._sample_weights(X, sample_weight)
        fresh = not self._kept(X) if kept else first
        self._passes(self._as_trained(X, fresh), [y.astype(np.float64)], weights, epochs, fresh)
        return self

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LinearRegressor:
        """Train from the start, or on with `warm_start`.

        `X` and `sample_weight` as in `LinearClassifier.fit`; `y` array-like of numbers, shape (n_samples,).
        """
        self._check_parameters()
        return self._learn(X, y, sample_weight, self.epochs, True, True)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> LinearRegressor:
        """Train on, with one pass over these samples, at the present `lr`, `l1` and `l2` (`set_params` changes them)."""
        self._check_parameters()
        return self._learn(X, y, sample_weight, 1, not hasattr(self, "_models"), False)

    def predict(self, X: Any) -> Array:
        """Predictions, shape (n_samples,)."""
        z = self._scores(X)
        return np.exp(z) if self.loss == "poisson" else z

    def to_sklearn(self) -> Any:
        """A fitted scikit-learn estimator with these weights, which predicts the same without fastopt.

        ``SGDRegressor``; ``QuantileRegressor`` or ``PoissonRegressor`` for those losses.
        """
        check_is_fitted(self)
        if self.loss == "quantile":
            other: Any = QuantileRegressor(quantile=self.quantile, alpha=self.l1, fit_intercept=self.fit_intercept)
        elif self.loss == "poisson":
            other = PoissonRegressor(alpha=self.l2, fit_intercept=self.fit_intercept)
            other._base_loss = other._get_loss()
        else:
            other = SGDRegressor(loss=self.loss, epsilon=self.epsilon, **_sgd_options(self))
        return _fitted(other, self, self.coef_)


def _sgd_options(model: _Linear) -> dict[str, Any]:
    """The options of scikit-learn's SGD that mean what ours do."""
    alpha = model.l1 + model.l2
    penalty = "elasticnet" if model.l1 and model.l2 else "l1" if model.l1 else "l2"
    return {
        "penalty": penalty,
        "alpha": alpha,
        "l1_ratio": model.l1 / alpha if alpha else 0.15,
        "fit_intercept": model.fit_intercept,
        "max_iter": model.epochs,
        "tol": None,
        "shuffle": model.shuffle,
        "random_state": model.random_state,
    }


def _fitted(other: Any, model: _Linear, coef: Array) -> Any:
    other.coef_, other.intercept_ = coef.copy(), model.intercept_
    if isinstance(other, (QuantileRegressor, PoissonRegressor)):
        other.intercept_ = float(other.intercept_[0])
    other.n_features_in_ = model.n_features_in_
    if hasattr(model, "feature_names_in_"):
        other.feature_names_in_ = model.feature_names_in_
    return other
