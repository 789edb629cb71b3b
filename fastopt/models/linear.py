"""Linear models for sparse data, as scikit-learn estimators."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from scipy import sparse
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from .. import checks, config, kernels
from ..checks import Array
from ..csr import checked_csr, csr_rows
from ..errors import NonFiniteError, StateError, UnsupportedError
from ..optimizers.base import by_name, choose_backend
from .samples import SampleTrainer

CLASSIFIER_LOSSES = ("log_loss", "hinge")
REGRESSOR_LOSSES = ("squared_error", "huber")
_MODES = ("sequential", "hogwild", "minibatch")
_THREADS = kernels.threads.LIMIT


def merged(X: Any) -> Any:
    """`X` as a CSR matrix in which no row repeats an index: repeated entries are summed into the first, in order."""
    indptr, indices, data, shape = csr_rows(X)
    return sparse.csr_matrix((data[: indptr[-1]], indices[: indptr[-1]], indptr), shape=shape)


class _Linear(BaseEstimator):  # type: ignore[misc]
    """What classifier and regressor share: parameters, checks of the data, training, linear scores."""

    _losses: tuple[str, ...] = ()

    def __init__(
        self,
        loss: str,
        optimizer: str = "adagrad",
        lr: float = 0.1,
        epochs: int = 5,
        l2: float = 0.0,
        fit_intercept: bool = True,
        shuffle: bool = True,
        mode: str = "sequential",
        batch_size: int = 256,
        n_jobs: int | None = None,
        random_state: Any = None,
    ) -> None:
        self.loss = loss
        self.optimizer = optimizer
        self.lr = lr
        self.epochs = epochs
        self.l2 = l2
        self.fit_intercept = fit_intercept
        self.shuffle = shuffle
        self.mode = mode
        self.batch_size = batch_size
        self.n_jobs = n_jobs
        self.random_state = random_state

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
        checks.non_negative("l2", self.l2)
        checks.flag("fit_intercept", self.fit_intercept)
        checks.flag("shuffle", self.shuffle)
        checks.integer(1)("batch_size", self.batch_size)
        checks.one_of(*_MODES)("mode", self.mode)
        if self.mode == "minibatch":
            raise UnsupportedError(
                "mode='minibatch' does not exist yet; use 'sequential', or 'hogwild' for more threads"
            )
        if self.n_jobs is not None:
            checks.integer(-1, _THREADS)("n_jobs", self.n_jobs)
        if self.n_jobs == 0:
            checks.integer(1, _THREADS)("n_jobs", self.n_jobs)

    def _threads(self) -> int:
        if self.mode != "hogwild" or self.n_jobs is None:
            return 1
        return config.get_num_threads() if self.n_jobs == -1 else int(self.n_jobs)

    # ----------------------------------------------------------------------------------------------------- training

    def _start(self, n_features: int, dtype: Any) -> None:
        cls, options = by_name(self.optimizer)
        if "weight_decay" in inspect.signature(cls).parameters:
            options["weight_decay"] = 0.0  # l2 is the decay here
        options = cls.fill_options({**options, "lr": self.lr})
        parameter = float(getattr(self, "epsilon", 0.0))
        self._trainer = SampleTrainer(
            n_features,
            dtype,
            cls,
            options,
            self.loss,
            parameter,
            float(self.l2),
            bool(self.fit_intercept),
            choose_backend("auto"),
        )
        self._trained_as = self._training()
        self.t_ = 0

    def _training(self) -> dict[str, Any]:
        """The parameters that must stay as they are between calls of partial_fit."""
        names = ("loss", "optimizer", "fit_intercept", "epsilon")
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    def _restore(self, coef: Array, intercept: Any) -> None:
        """Become a model with these weights, its optimizer's state at the start."""
        self._start(len(coef), coef.dtype)
        self._trainer.restore(coef, intercept)
        self.n_features_in_ = len(coef)

    def _passes(self, X: Any, y: Array, epochs: int, fresh: bool) -> None:
        indptr, indices, data, shape = csr_rows(X)
        if fresh:
            self._start(shape[1], data.dtype)
        elif self._trained_as != self._training():
            raise StateError(
                f"{', '.join(k for k, v in self._training().items() if self._trained_as[k] != v)} changed since training "
                "began; call fit to start again"
            )
        self._trainer.set_rate(self.lr if callable(self.lr) else float(self.lr), float(self.l2))
        y = np.ascontiguousarray(y, data.dtype)
        random = check_random_state(self.random_state) if self.shuffle else None
        draw = None if random is None else np.random.default_rng(random.randint(0, 2**31 - 1, 4))
        n_threads = self._threads()
        self._trainer.renumber(indices, len(y), n_threads)  # csr_rows has made them for us
        for _ in range(epochs):
            order = None if draw is None else self._trainer.order(len(y), draw, n_threads)
            self._trainer.train(indptr, indices, data, y, order, n_threads)
        self.t_ = self._trainer.steps
        records = self._trainer.records[:, 0]
        with np.errstate(all="ignore"):  # the sum is quick, and not finite whenever a weight is not
            suspect = not np.isfinite(records.sum())
        if suspect and not np.isfinite(records).all():
            raise NonFiniteError("training diverged: weights are not finite; use a smaller lr, or scale the features")

    @property
    def coef_(self) -> Array:
        """Weights of the features, shape (1, n_features) in a classifier and (n_features,) in a regressor."""
        if not hasattr(self, "_trainer"):
            raise AttributeError("coef_ does not exist before fit")
        w = self._trainer.weights()
        return w[np.newaxis] if isinstance(self, ClassifierMixin) else w

    @property
    def intercept_(self) -> Array:
        """The intercept, shape (1,)."""
        if not hasattr(self, "_trainer"):
            raise AttributeError("intercept_ does not exist before fit")
        return np.array([self._trainer.intercept()], self._trainer.dtype)

    def _scores(self, X: Any) -> Array:
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
        if sparse.issparse(X):
            indptr, indices, data, shape = checked_csr(X)  # SciPy does not look where indices point
            X = sparse.csr_matrix((data, indices, indptr), shape=shape)
        return np.asarray(X @ self._trainer.weights() + self._trainer.dtype.type(self._trainer.intercept()))

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_trainer")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _has_probabilities(self: LinearClassifier) -> bool:
    if self.loss != "log_loss":
        raise AttributeError(f"probabilities need loss='log_loss', not {self.loss!r}")
    return True


class LinearClassifier(ClassifierMixin, _Linear):  # type: ignore[misc]
    """Binary linear classifier, trained sample by sample on CSR or dense data by any optimizer of fastopt.

    Minimizes the mean loss + l2/2 |w|^2, the intercept not penalized. The penalty is proximal: after each step
    ``w <- w / (1 + lr * l2)``, not scaled by adaptive rates; features that a sample lacks are caught up exactly when
    they are next read. The state of a feature stands still while samples lack it.

    Parameters
    ----------
    loss : {"log_loss", "hinge"}, default "log_loss"
    optimizer : str, default "adagrad"
        Name of an optimizer: the class name in lower case (``"sgd"``, ``"adam"``, ...), or ``"momentum"`` or ``"nag"``,
        SGD with momentum 0.9. Its other options have their defaults, but for weight decay: that is `l2`, which is
        decoupled as AdamW's, so that ``"adam"`` and ``"adamw"`` are the same here.
    lr : float or callable, default 0.1
        Learning rate. 0.1 suits Adagrad and SGD; Adam, AdamW and RMSprop want about 0.001, Adadelta 1. A schedule, such as
        those of `fastopt.schedules`, counts samples from 0; it needs ``l2=0``, and is not saved by `save_model`.
    epochs : int, default 5
        Passes over the data.
    l2 : float, default 0
        scikit-learn's ``alpha`` of ``SGDClassifier``.
    fit_intercept : bool, default True
    shuffle : bool, default True
        Visit the samples in a new random order in each epoch.
    mode : {"sequential", "hogwild"}, default "sequential"
        One thread with the same bits on every machine, or ``n_jobs`` threads that share the weights without locks (Niu
        et al. 2011), whose results vary from run to run. Each thread trains a copy of the most frequent features, and
        merges it with the others' every few hundred samples; so rates that are nearly too large for one thread may be
        too large for several. Below some ten thousand samples it gains little.
    batch_size : int, default 256
        For ``mode="minibatch"``, which does not exist yet.
    n_jobs : int, optional
        Threads of ``mode="hogwild"``; None is 1, -1 is `fastopt.get_num_threads()`.
    random_state : int, RandomState or None
        Seed of the order.

    Attributes
    ----------
    classes_ : ndarray, shape (2,)
    coef_ : ndarray, shape (1, n_features)
    intercept_ : ndarray, shape (1,)
    n_features_in_ : int
    t_ : int
        Samples learned so far.

    Notes
    -----
    float32 data are trained in float32, all other in float64. Zeros in dense data count as absent features.

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
        lr: float = 0.1,
        epochs: int = 5,
        l2: float = 0.0,
        fit_intercept: bool = True,
        shuffle: bool = True,
        mode: str = "sequential",
        batch_size: int = 256,
        n_jobs: int | None = None,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            loss, optimizer, lr, epochs, l2, fit_intercept, shuffle, mode, batch_size, n_jobs, random_state
        )

    def _targets(self, y: Array) -> Array:
        """Targets -1 and +1."""
        second = y == self.classes_[1]
        if not (second | (y == self.classes_[0])).all():
            raise StateError(f"y has labels that are not among the classes {self.classes_.tolist()}")
        return np.where(second, 1.0, -1.0)

    def _set_classes(self, classes: Array) -> None:
        if len(classes) > 2:
            raise StateError(
                f"Only binary classification is supported. The type of the target is multiclass. y has {len(classes)} classes"
            )
        if len(classes) < 2:
            raise StateError(f"the data have one class only, {classes.tolist()}; a classifier needs two")
        self.classes_ = classes

    def fit(self, X: Any, y: Any) -> LinearClassifier:
        """Train from the start.

        Parameters
        ----------
        X : CSR matrix or array, or ndarray, shape (n_samples, n_features)
        y : array-like, shape (n_samples,)
            Two classes of any labels.

        Returns
        -------
        LinearClassifier
            Itself.
        """
        self._check_parameters()
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self._set_classes(np.unique(y))
        self._passes(X, self._targets(y), self.epochs, True)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> LinearClassifier:
        """Train on, with one pass over these samples, at the present `lr` and `l2` (`set_params` changes them).

        Parameters
        ----------
        X, y
            As in `fit`.
        classes : array-like, shape (2,)
            All labels; needed at the first call.
        """
        self._check_parameters()
        first = not hasattr(self, "_trainer")
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32], reset=first)
        if first:
            if classes is None:
                raise StateError("the first call of partial_fit needs all labels in classes=")
            self._set_classes(np.unique(classes))
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise StateError(f"classes={classes!r} are not those of the first call, {self.classes_.tolist()}")
        X = X if first else X.astype(self._trainer.dtype, copy=False)
        self._passes(X, self._targets(y), 1, first)
        return self

    def decision_function(self, X: Any) -> Array:
        """Scores, shape (n_samples,); positive means ``classes_[1]``."""
        return self._scores(X)

    def predict(self, X: Any) -> Array:
        """Labels, shape (n_samples,)."""
        check_is_fitted(self)
        return self.classes_[(self.decision_function(X) > 0).astype(int)]

    @available_if(_has_probabilities)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the two classes, shape (n_samples, 2); for ``loss="log_loss"``."""
        p = expit(self.decision_function(X))
        return np.column_stack((1 - p, p))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


class LinearRegressor(RegressorMixin, _Linear):  # type: ignore[misc]
    """Linear regression, trained sample by sample on CSR or dense data by any optimizer of fastopt.

    Parameters
    ----------
    loss : {"squared_error", "huber"}, default "squared_error"
        ``(z - y)**2 / 2``, or that within ``epsilon`` and linear beyond.
    optimizer, lr, epochs, l2, fit_intercept, shuffle, mode, batch_size, n_jobs, random_state
        As in `LinearClassifier`.
    epsilon : float, default 0.1
        Where the Huber loss becomes linear, as in scikit-learn.

    Attributes
    ----------
    coef_ : ndarray, shape (n_features,)
    intercept_ : ndarray, shape (1,)
    n_features_in_ : int
    t_ : int
        Samples learned so far.
    """

    _losses = REGRESSOR_LOSSES

    def __init__(
        self,
        loss: str = "squared_error",
        *,
        optimizer: str = "adagrad",
        lr: float = 0.1,
        epochs: int = 5,
        l2: float = 0.0,
        fit_intercept: bool = True,
        shuffle: bool = True,
        mode: str = "sequential",
        batch_size: int = 256,
        n_jobs: int | None = None,
        random_state: Any = None,
        epsilon: float = 0.1,
    ) -> None:
        super().__init__(
            loss, optimizer, lr, epochs, l2, fit_intercept, shuffle, mode, batch_size, n_jobs, random_state
        )
        self.epsilon = epsilon

    def _check_parameters(self) -> None:
        super()._check_parameters()
        checks.non_negative("epsilon", self.epsilon)

    def fit(self, X: Any, y: Any) -> LinearRegressor:
        """Train from the start. `X` as in `LinearClassifier.fit`; `y` array-like of numbers, shape (n_samples,)."""
        self._check_parameters()
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32], y_numeric=True)
        self._passes(X, y, self.epochs, True)
        return self

    def partial_fit(self, X: Any, y: Any) -> LinearRegressor:
        """Train on, with one pass over these samples, at the present `lr` and `l2` (`set_params` changes them)."""
        self._check_parameters()
        first = not hasattr(self, "_trainer")
        X, y = validate_data(
            self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32], y_numeric=True, reset=first
        )
        X = X if first else X.astype(self._trainer.dtype, copy=False)
        self._passes(X, y, 1, first)
        return self

    def predict(self, X: Any) -> Array:
        """Predictions, shape (n_samples,)."""
        return self._scores(X)
