"""Linear models for sparse data, as scikit-learn estimators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse
from scipy.special import logsumexp, softmax
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression, PoissonRegressor, QuantileRegressor, SGDClassifier, SGDRegressor
from sklearn.utils.validation import check_is_fitted

from .. import checks, kernels
from ..checks import Array
from ..csr import checked_csr
from ..errors import HyperParameterError, StateError, UnsupportedError
from ..optimizers.base import choose_backend
from .batches import BatchTrainer
from .classes import ClassLane, ClassTrainer, pays
from .estimators import CLASSIFIER_LOSSES, REGRESSOR_LOSSES, Classifier, Estimator, Model, Regressor, Watch
from .lanes import GROUP, AutoTrainer, Lane, LaneTrainer
from .samples import SampleTrainer


class Linear(Estimator):
    """Weights of features and an intercept, whose sum is the score."""

    _scores_show = True

    def _check_rate(self) -> None:
        if not self._searches():
            super()._check_rate()
            return
        if self.mode == "minibatch":
            raise UnsupportedError(
                "lr='auto' compares rates for steps of single samples, and mode='minibatch' wants others; give it a number"
            )
        if self._lasso():
            raise UnsupportedError("lr='auto' has no l1; give lr a number, or use optimizer='ftrl'")

    def _searches(self) -> bool:
        return isinstance(self.lr, str) and self.lr == "auto"

    def _rate(self) -> Any:
        return 1.0 if self._searches() else self.lr

    def _in_batches(self) -> bool:
        return self.mode == "minibatch" or self._lasso()

    def _batch(self) -> int:
        return self.batch_size if self.mode == "minibatch" else 1

    def _with_penalty(self, n_features: int, dtype: Any) -> tuple[Any, ...]:
        return (
            *self._arguments(n_features, dtype),
            self._penalties()[2],
            bool(self.fit_intercept),
            choose_backend("auto"),
        )

    def _make(self, n_features: int, dtype: Any) -> SampleTrainer | AutoTrainer:
        arguments = self._with_penalty(n_features, dtype)
        if self._searches():
            return AutoTrainer(self.optimizer, *arguments)
        if self._in_batches():
            return BatchTrainer(self._batch(), self._penalties()[1], *arguments)
        return SampleTrainer(*arguments)

    def _set_rate(self, trainer: Any) -> None:
        own, l1, l2 = self._penalties()
        trainer.options = {**trainer.options, **own}
        if isinstance(trainer, AutoTrainer):
            trainer.begin(l2)
            return
        if self._searches():
            raise StateError(
                "training began with a number for lr, which lr='auto' cannot join; call fit to start again"
            )
        rate = self.lr if callable(self.lr) else float(self.lr)
        if isinstance(trainer, BatchTrainer):
            trainer.set_rate(rate, l2, l1, self._batch())
        elif self._in_batches():
            raise StateError(
                "training began without l1 and mode='minibatch', which cannot join it; call fit to start again"
            )
        else:
            trainer.set_rate(rate, l2)

    def _jobs(self, targets: Sequence[Array], dtype: Any, epochs: int) -> list[tuple[Any, slice, Array]]:
        for model in self._models:
            if isinstance(model.trainer, AutoTrainer) and not self._searches():
                model.trainer = model.trainer.alone()
        return super()._jobs(targets, dtype, epochs)

    def _prepare(self, indices: Array, n_rows: int, n_threads: int) -> None:
        first, *others = (model.trainer for model in self._models)
        first.renumber(indices, n_rows, n_threads)
        for trainer in others:
            trainer.follow(first)

    def _of_search(self, name: str, what: Any) -> Any:
        trainers = [model.trainer for model in getattr(self, "_models", ())]
        if not trainers or not all(isinstance(trainer, AutoTrainer) for trainer in trainers):
            raise AttributeError(f"{name} exists after training with lr='auto' only")
        found = [what(trainer) for trainer in trainers]
        return found[0] if len(found) == 1 else np.array(found)

    @property
    def lr_(self) -> Any:
        """The rate that ``lr="auto"`` chose, or while it searches the best so far; an array of those of several models."""
        return self._of_search("lr_", lambda trainer: trainer.lr)

    @property
    def rates_(self) -> Array:
        """The rates that ``lr="auto"`` tries, shape (8,), or (n_classes, 8)."""
        rates: Array = self._of_search("rates_", lambda trainer: np.array(trainer.rates))
        return rates

    @property
    def progressive_loss_(self) -> Array:
        """The mean losses that `rates_` had on samples before they learned them; infinite or NaN where one diverged."""
        losses: Array = self._of_search("progressive_loss_", lambda trainer: trainer.losses.copy())
        return losses

    def _score(self, model: Model, X: Any) -> Array:
        if sparse.issparse(X) and (found := self._native_score(model, X)) is not None:
            return found
        w, b = model.parameters()
        if sparse.issparse(X):
            indptr, indices, data, shape = checked_csr(X)  # SciPy does not look where indices point
            X = sparse.csr_matrix((data, indices, indptr), shape=shape)
        return np.asarray(X @ w + b)

    def _native_score(self, model: Model, X: Any) -> Array | None:
        """Scores of CSR rows by the kernel, which checks indices as it reads them; None where it cannot."""
        trainer = model.trainer
        if kernels.drivers is None or X.dtype != trainer.dtype or X.indices.dtype != np.int32:
            return None
        out = np.empty(X.shape[0], X.dtype)
        if model.kept() is None and len(X.indices) < len(trainer.records) // 8:  # not worth an array of all weights
            indptr, features, data, _ = checked_csr(X)
            w, b, places = trainer.weights_of(features), trainer.intercept(), np.arange(len(features), dtype=np.int32)
            kernels.drivers.row_scores(indptr, places, data, w, float(b[0]), out)
            return out
        indptr = X.indptr.astype(np.int64)
        if not X.indices.ndim == indptr.ndim == X.data.ndim == 1 or len(indptr) != len(out) + 1:
            return None
        indices, data = np.ascontiguousarray(X.indices), np.ascontiguousarray(X.data)
        if indptr[0] < 0 or (indptr[1:] < indptr[:-1]).any() or indptr[-1] > min(len(indices), len(data)):
            return None
        w, b = model.parameters()
        failed = kernels.drivers.row_scores(indptr, indices, data, w, float(b[0]), out, self._threads())
        return None if failed >= 0 else out  # the checks will say what is wrong

    @property
    def coef_(self) -> Array:
        """Weights of the features, shape (1 or n_classes, n_features) in a classifier and (n_features,) in a regressor."""
        if not hasattr(self, "_models"):
            raise AttributeError("coef_ does not exist before fit")
        weights = [model.parameters()[0] for model in self._models]
        if not isinstance(self, ClassifierMixin):
            return weights[0]
        return weights[0][np.newaxis] if len(weights) == 1 else np.stack(weights)

    @property
    def intercept_(self) -> Array:
        """The intercept, shape (1,), or one for each class."""
        if not hasattr(self, "_models"):
            raise AttributeError("intercept_ does not exist before fit")
        return np.concatenate([model.parameters()[1] for model in self._models])


class LinearClassifier(Linear, Classifier):
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
    lr : float, callable or "auto", default 0.1
        Learning rate. 0.1 suits Adagrad and SGD; Adam, AdamW and RMSprop want about 0.001, Adadelta 1. A schedule, such as
        those of `fastopt.schedules`, counts steps from 0 (samples, or batches with ``mode="minibatch"``); it needs
        ``l1=0`` and ``l2=0``, and is not saved by `save_model`. ``"auto"`` chooses one of eight, see Notes.
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
        Threads; None is 1, -1 is `fastopt.get_num_threads()`. In sequential mode they share the classes, where there are
    more than two, with the same bits. Predictions for many sparse rows use them, too, with the same bits.
    shuffle : bool, default True
        Visit the samples in a new random order in each epoch.
    random_state : int, RandomState or None
        Seed of the order, and of the split of `early_stopping`.
    early_stopping : bool, default False
        Hold out `validation_fraction` of the samples (stratified), and stop when their mean loss has not fallen by more than
        `tol` for `n_iter_no_change` passes. scikit-learn looks at the accuracy instead. The weights are those of the
        pass with the least loss; training on goes on from the last one's.
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
    multi_class : {"ovr", "multinomial"}, default "ovr"
        More than two classes: a model for each, against the rest, or one whose probabilities are the softmax of its scores
        (for the loss "log_loss", in sequential mode, without `l1`). Both train the classes side by side, so that a
        feature is fetched once for all; those of ``"ovr"`` have the bits of separate fits. With early stopping and with
        ``lr="auto"`` they are trained one by one.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
    coef_ : ndarray, shape (1, n_features), or (n_classes, n_features) where there are more than two
    intercept_ : ndarray, shape (1,) or (n_classes,)
    layout_ : {"dense", "sparse"}
        How weights are kept, see Notes.
    n_features_in_ : int
    n_iter_ : int
        Passes of the last `fit`.
    t_ : int
        Samples learned so far.
    lr_ : float, or ndarray of shape (n_classes,)
        The rate that ``lr="auto"`` chose, or while it searches the best so far; for more than two classes that of each.
    rates_ : ndarray, shape (8,) or (n_classes, 8)
        The rates that it tries.
    progressive_loss_ : ndarray, shape (8,) or (n_classes, 8)
        Their mean losses on samples before these were learned; infinite or NaN where a model diverged.

    Notes
    -----
    float32 data are trained in float32, all other in float64. Zeros in dense data count as absent features.

    With ``lr="auto"`` eight models with rates that are powers of two are trained side by side, each with the bits of a fit at its
    rate, and the one with the least progressive loss goes on alone with its optimizer's state. That is the mean loss of samples
    before they were learned, over the second half of each pass or call. The search ends with the first pass of `fit`, or call
    of `partial_fit`, after which 4096 samples have been learned; after 131 072 samples at once. It runs on one thread, in
    Hogwild mode too. Rates: 2**-6 to 2 for Adagrad and FTRL, whose first steps are about the rate whatever the features are;
    for SGD 2**-5 to 4 by the mean squared length of the first 1024 rows visited, as its steps grow with that (2**-8 to 1/2 with
    momentum); for others 1/8 to 16 times the default rate of the class. A rate that is best for one pass is too
    large for several: in later passes of the same `fit` it is divided by the number of passes since, by its root for Adagrad,
    and not for Adan, ASGD, NAdam and others whose states may hold the rate. Not for ``mode="minibatch"`` and `l1`.

    Several classes side by side need ``n_features * (1 + states) * n_classes`` numbers, the classes rounded up to a multiple of 8;
    if the machine has less memory, `fit` says so before it allocates. That is the dense layout. The losses ``"hinge"``,
    ``"squared_hinge"`` and ``"modified_huber"`` are 0 beyond a margin: there most classes learn nothing from most samples, and
    weights that never had a gradient are 0. With an optimizer that a gradient of 0 does not move (``"sgd"``, ``"adagrad"``,
    ``"signsgd"``) each feature then keeps a list of the classes that it has a weight for, the sparse layout: the same bits
    with a fraction of the memory, and predictions straight from the lists. It is chosen for 64 classes or more whose dense layout
    would take 64 MiB or more, and for fewer where that would take more than half of the machine's memory; not with `average`,
    with early stopping, or in another mode than ``"sequential"``. `partial_fit` and `warm_start` keep it. A feature takes 8 bytes and, for c classes, room for the next power of two of at least 4 of them:
    2 bytes and the numbers ``1 + states`` each; beyond half of the classes it has a record of all. How many classes
    features will meet is not known beforehand: memory comes in pieces, between samples, and if there is no more,
    `MemoryError` leaves the model as the last sample left it. `coef_` is dense at each call, `save_model` writes the lists.

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
        multi_class: str = "ovr",
    ) -> None:
        self._keep(locals())

    def _check_parameters(self) -> None:
        super()._check_parameters()
        checks.one_of("ovr", "multinomial")("multi_class", self.multi_class)
        if self.multi_class == "ovr":
            return
        if self.loss != "log_loss":
            raise HyperParameterError(f"multi_class='multinomial' has loss='log_loss', not {self.loss!r}")
        if self.mode != "sequential" or self._lasso() or self._searches():
            raise UnsupportedError(
                "multi_class='multinomial' needs mode='sequential', a number or schedule for lr, and no l1 except that of "
                "optimizer='ftrl'; change these, or use multi_class='ovr'"
            )

    def _training(self) -> dict[str, Any]:
        return {**super()._training(), "multi_class": self.multi_class}

    def _is_multinomial(self) -> bool:
        return self.multi_class == "multinomial" and len(self.classes_) > 2

    def _start(self, n_models: int, n_features: int, dtype: Any) -> None:
        apart = self._in_batches() or self._searches() or self.mode == "hogwild" or self._stops(self.epochs)
        if n_models == 1 or (apart and not self._is_multinomial()):
            super()._start(n_models, n_features, dtype)
            return
        size = n_models
        arguments = [n_models, *self._with_penalty(n_features, dtype)]
        if self._is_multinomial():
            arguments[5:7] = ["multinomial", float(n_models)]
        else:  # a share of whole groups for each thread
            size = -(-n_models // GROUP // self._threads()) * GROUP or GROUP
        kind, lane = LaneTrainer, Lane
        if not self._is_multinomial() and not self.average and pays(n_models, *arguments[1:6]):
            kind, lane = ClassTrainer, ClassLane
        models = []
        for start in range(0, n_models, size):
            arguments[0] = min(size, n_models - start)
            together = kind(*arguments)
            models += [Model(lane(together, k, start)) for k in range(arguments[0])]
        self._began(models)

    def _jobs(self, targets: Any, dtype: Any, epochs: int) -> list[tuple[Any, slice, Array]]:
        lanes = [model.trainer for model in self._models]
        if not isinstance(lanes[0], Lane):
            return super()._jobs(targets, dtype, epochs)
        apart = self._in_batches() or self._searches() or self.mode == "hogwild" or self._stops(epochs)
        if apart and not self._is_multinomial():  # from now on each by itself
            for model in self._models:
                model.trainer = model.trainer.alone()
            return super()._jobs(targets, dtype, epochs)
        jobs = []
        for lane in lanes:
            if lane.k == 0:
                end = lane.start + lane.group.n_models
                mine = (targets.codes >= lane.start) & (targets.codes < end)
                place = np.where(mine, targets.codes - lane.start, lane.group.lanes).astype(np.int32)
                jobs.append((lane.group, slice(lane.start, end), place))
        return jobs

    def _prepare(self, indices: Array, n_rows: int, n_threads: int) -> None:
        if not isinstance(self._models[0].trainer, Lane):
            super()._prepare(indices, n_rows, n_threads)

    @property
    def layout_(self) -> str:
        """How weights are kept: "dense", one for each feature and class, or "sparse", those that had a gradient."""
        if not hasattr(self, "_models"):
            raise AttributeError("layout_ does not exist before fit")
        return "sparse" if isinstance(self._models[0].trainer, ClassLane) else "dense"

    def _lists(self) -> list[tuple[int, ClassTrainer]] | None:
        """Trainers and their first classes, if the weights are those of lists."""
        if self.layout_ == "dense" or self._models[0].kept() is not None:
            return None
        return [(model.trainer.start, model.trainer.group) for model in self._models if model.trainer.k == 0]

    def _scores(self, X: Any) -> Array:
        if not hasattr(self, "_models") or (lists := self._lists()) is None or kernels.drivers is None:
            return super()._scores(X)
        X = self._finite(X, self._is_plain(X))
        if not sparse.issparse(X) or X.dtype != lists[0][1].dtype:
            return super()._scores(X)
        rows = checked_csr(X)
        out = np.empty((X.shape[0], len(self._models)), X.dtype)
        for start, trainer in lists:
            trainer.scores(rows, out, start, self._threads())
        return out

    def _entries(self) -> sparse.csr_array:
        """`coef_` of lists, class by class."""
        lists = self._lists()
        assert lists is not None
        found = [(*trainer.by_class(), trainer) for _, trainer in lists]
        sizes = np.concatenate([np.diff(starts) for starts, *_ in found])
        data = np.concatenate([numbers[:, 0] * t.dtype.type(t.scale[0]) for _, _, numbers, t in found])
        indices = np.concatenate([features for _, features, _, _ in found])
        shape = len(self._models), lists[0][1].n_features
        return sparse.csr_array((data, indices, np.concatenate([[0], np.cumsum(sizes)])), shape=shape)

    @property
    def coef_(self) -> Array:
        """Weights of the features, shape (1 or n_classes, n_features). Of the sparse layout made anew at each call."""
        if not hasattr(self, "_models") or self._lists() is None:
            return super().coef_
        return self._entries().toarray()

    def _mean_loss(self, models: Sequence[Model], watch: Watch, targets: Any) -> float:
        if not self._is_multinomial():
            return super()._mean_loss(models, watch, targets)
        z = np.stack([self._score(model, watch.X) for model in models], axis=1).astype(np.float64)
        codes = targets.codes[watch.rows]
        return float(np.average(logsumexp(z, axis=1) - z[np.arange(len(z)), codes], weights=watch.weights))

    def _probabilities(self, z: Array) -> Array:
        if not self._is_multinomial():
            return super()._probabilities(z)
        return np.asarray(softmax(z, axis=1), z.dtype)

    def to_sklearn(self) -> Any:
        """A fitted scikit-learn estimator with these weights, which predicts the same without fastopt.

        ``SGDClassifier``; ``LogisticRegression`` of a multinomial model.
        """
        check_is_fitted(self)
        if self._is_multinomial():
            whole = LogisticRegression(fit_intercept=self.fit_intercept)
            whole.classes_ = self.classes_.copy()
            return _fitted(whole, self, self.coef_)
        other = SGDClassifier(loss=self.loss, **_sgd_options(self), class_weight=self.class_weight)
        other.classes_ = self.classes_.copy()
        return _fitted(other, self, self.coef_)


class LinearRegressor(Linear, Regressor):
    """Linear regression, trained on CSR or dense data by any optimizer of fastopt.

    Parameters
    ----------
    loss : str, default "squared_error"
        With ``r = z - y``, z the score: ``"squared_error"``, r**2 / 2; ``"huber"``, that within `epsilon` and linear beyond;
        ``"epsilon_insensitive"``, what |r| is above `epsilon`; ``"squared_epsilon_insensitive"``, its square;
        ``"quantile"``, the pinball loss of `quantile`; ``"poisson"``, exp(z) - y z for counts y, of which `predict` returns
        the mean exp(z).
    optimizer, lr, epochs, batch_size, l1, l2, mode, n_jobs, shuffle, random_state
        As in `LinearClassifier`, and so are the attributes of ``lr="auto"``.
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
        self._keep(locals())

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


def _sgd_options(model: Linear) -> dict[str, Any]:
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


def _fitted(other: Any, model: Linear, coef: Array) -> Any:
    other.coef_, other.intercept_ = coef.copy(), model.intercept_
    if isinstance(other, (QuantileRegressor, PoissonRegressor)):
        other.intercept_ = float(other.intercept_[0])
    other.n_features_in_ = model.n_features_in_
    if hasattr(model, "feature_names_in_"):
        other.feature_names_in_ = model.feature_names_in_
    return other
