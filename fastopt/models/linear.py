"""Linear models for sparse data, as scikit-learn estimators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse
from scipy.special import logsumexp, softmax
from sklearn.base import ClassifierMixin, clone
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    PoissonRegressor,
    QuantileRegressor,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils.validation import check_is_fitted

from .. import checks, kernels
from ..checks import Array
from ..csr import Rows, checked_csr
from ..errors import HyperParameterError, NonFiniteError, StateError, UnsupportedError
from ..optimizers.base import choose_backend
from . import predictions
from .batches import BatchTrainer, check_lasso
from .classes import ClassLane, ClassTrainer, pays
from .estimators import (
    CLASSIFIER_LOSSES,
    REGRESSOR_LOSSES,
    Classifier,
    Columns,
    Estimator,
    Model,
    Regressor,
    Targets,
    Watch,
)
from .lanes import GROUP, AutoTrainer, Lane, LaneTrainer
from .samples import SampleTrainer, shrinking


class Linear(Estimator):
    """Weights of features and an intercept, whose sum is the score."""

    _scores_show = True
    _takes_tables = True
    l2: Any

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

    def _l2s(self) -> list[Any]:
        """The penalties that `fit` compares; none, where it is given one."""
        l2 = self.l2
        if type(l2) is float or isinstance(l2, str) or not (isinstance(l2, Sequence) or getattr(l2, "ndim", 0) > 0):
            return []
        return list(l2)

    def _check_l2(self) -> None:
        several = self._l2s()
        if not several and not hasattr(self.l2, "__len__"):
            super()._check_l2()
            return
        if not 1 <= len(several) <= GROUP:
            raise HyperParameterError(
                f"l2 must be a number, or 1 to {GROUP} of them, which fit compares, got {len(several)}; "
                "compare more by several calls of fit"
            )
        for k, one in enumerate(several):
            checks.non_negative(f"l2[{k}]", one)
        if callable(self.lr) or self._searches():
            raise UnsupportedError(
                f"fit compares several l2 at a number for lr, not lr={self.lr!r:.80}; give lr or l2 one"
            )
        if self.mode != "sequential" or self._lasso():
            raise UnsupportedError(
                "fit compares several l2 with mode='sequential' and no l1 except that of optimizer='ftrl'; give l2 one number"
            )
        if self.early_stopping or self.tol is not None or self.warm_start:
            raise UnsupportedError(
                "several l2 are compared after the same passes from the start, which early_stopping, tol and warm_start do "
                "not make; leave these, or give l2 one number"
            )

    def _l2(self) -> float:
        return float(getattr(self, "l2_", 0.0) if self._l2s() else self.l2)

    def _check_partial_fit(self) -> None:
        if self._l2s():
            way = f", such as l2={self.l2_:g} that it chose" if hasattr(self, "l2_") else ""
            raise UnsupportedError(f"partial_fit has no rows held out to compare several l2; give l2 one number{way}")

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

    def _check_change(self) -> None:
        trainers = [model.trainer for model in self._models]
        if self._searches():
            if not all(isinstance(trainer, AutoTrainer) for trainer in trainers):
                raise StateError(
                    "training began with a number for lr, which lr='auto' cannot join; call fit to start again"
                )
            return
        if self._in_batches() and not all(isinstance(trainer, BatchTrainer) for trainer in trainers):
            raise StateError(
                "training began without l1 and mode='minibatch', which cannot join it; call fit to start again"
            )
        _, l1, l2 = self._penalties()
        check_lasso(self.lr, l1)
        shrinking(self.lr, l2)

    def _is_multinomial(self) -> bool:
        return False

    def _is_one_against_rest(self) -> bool:
        """Whether models are of classes, each against the rest, whose weights nobody averages."""
        return False

    def _passes_of_fit(self, X: Any, targets: Sequence[Array], *arguments: Any) -> None:
        l2s = self._l2s()
        if not l2s:
            self._passes(X, targets, *arguments)
            return
        self._check_l2()  # a list may have changed
        before = self.__dict__.copy()
        self._trying = tuple(map(float, l2s))
        targets = targets if isinstance(targets, Targets) else Columns(np.stack(targets, axis=1))
        try:
            self._passes(X, targets.repeated(len(l2s)), *arguments)
            del self._trying
        except BaseException:  # the models that were compared are no one's
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _mean_loss(self, models: Sequence[Model], watch: Watch, targets: Any) -> float:
        if not self._trying:
            return super()._mean_loss(models, watch, targets)
        return min(filter(math.isfinite, self._losses_of(models, watch, targets)), default=math.nan)  # of the best

    def _choose(self, watch: Watch, targets: Sequence[Array], indices: Array) -> None:
        each = len(self._trying)
        losses = np.array(self._losses_of(self._models, watch, targets)).reshape(-1, each)
        means = np.array([math.fsum(column) / len(column) for column in losses.T.tolist()])
        for best in np.argsort(means, kind="stable").tolist():
            winners = self._models[best::each]
            if np.isfinite(means[best]) and all(model.trainer.is_finite(indices) for model in winners):
                break
        else:
            raise NonFiniteError(
                f"of the l2 {list(self._trying)} none has finite weights and a finite loss on the rows held out: training "
                "diverged; use a smaller lr, or scale the features"
            )
        for model in winners:
            model.trainer = model.trainer.alone()
        self._models = winners
        self.l2_, self.penalties_, self.validation_loss_ = self._trying[best], np.array(self._trying), means

    def _apart(self, epochs: int) -> bool:
        """Whether each model is trained by itself."""
        return self._in_batches() or self._searches() or self.mode == "hogwild" or self._stops(epochs)

    def _start(self, n_models: int, n_features: int, dtype: Any) -> None:
        for name in ("l2_", "penalties_", "validation_loss_"):
            self.__dict__.pop(name, None)
        several = n_models > 1 and (self._is_multinomial() or not self._apart(self.epochs))
        if not several and not self._trying:
            super()._start(n_models, n_features, dtype)
            return
        size, options = n_models, dict[str, Any]()
        arguments = [n_models, *self._with_penalty(n_features, dtype)]
        if self._trying:  # the models of a target
            size = len(self._trying)
            own, _, l2s = zip(*map(self._penalties, self._trying), strict=True)
            arguments[7] = list(l2s)
            options = {"own": list(own) if own[0] else None, "groups": n_models // size}
            options["way_out"] = "give l2 one number, or "
        elif self._is_multinomial():
            arguments[5:7] = ["multinomial", float(n_models)]
        else:  # a share of whole groups for each thread
            size = -(-n_models // GROUP // self._threads()) * GROUP or GROUP
            if self._is_one_against_rest() and self.loss == "log_loss":
                options["way_out"] = "take a hinge loss, which keeps the weights alone that have moved, or "
        listed = not self._trying and self._is_one_against_rest() and pays(n_models, *arguments[1:6])
        models = []
        for start in range(0, n_models, size):
            arguments[0] = min(size, n_models - start)
            together = (ClassTrainer if listed else LaneTrainer)(*arguments, **options)
            models += [Model((ClassLane if listed else Lane)(together, k, start)) for k in range(arguments[0])]
        self._began(models)

    def _set_rate(self, trainer: Any) -> None:
        if self._trying:  # it has just been made with it
            return
        own, l1, l2 = self._penalties()
        trainer.options = {**trainer.options, **own}
        if isinstance(trainer, AutoTrainer):
            trainer.begin(l2)
            return
        rate = self.lr if callable(self.lr) else float(self.lr)
        if isinstance(trainer, BatchTrainer):
            trainer.set_rate(rate, l2, l1, self._batch())
        else:
            trainer.set_rate(rate, l2)

    def _jobs(self, targets: Sequence[Array], dtype: Any, epochs: int) -> list[tuple[Any, slice, Array]]:
        for model in self._models:
            if isinstance(model.trainer, AutoTrainer) and not self._searches():
                model.trainer = model.trainer.alone()
        if not isinstance(self._models[0].trainer, Lane):
            return super()._jobs(targets, dtype, epochs)
        if self._apart(epochs) and not self._is_multinomial():  # from now on each by itself
            trainers = [model.trainer.alone() for model in self._models]
            for model, trainer in zip(
                self._models, trainers, strict=True
            ):  # all, or none where memory does not suffice
                model.trainer = trainer
            return super()._jobs(targets, dtype, epochs)
        jobs = []
        for lane in [model.trainer for model in self._models]:
            if lane.k == 0:
                models = slice(lane.start, lane.start + lane.group.n_models)
                if self._trying:
                    y = np.ascontiguousarray(targets[lane.start], dtype)
                else:
                    assert isinstance(targets, Targets)
                    y = targets.abreast(models, lane.group.lanes, dtype)
                jobs.append((lane.group, models, y))
        return jobs

    def _prepare(self, indices: Array, n_rows: int, n_threads: int) -> None:
        if isinstance(self._models[0].trainer, Lane):
            return
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

    def _is_native(self, X: Any) -> bool:
        return kernels.drivers is not None and X.dtype == self._models[0].trainer.dtype

    def _native_rows(self, X: Any) -> Rows | None:
        """CSR rows whose indices the kernel checks as it reads them; None where it cannot."""
        if not self._is_native(X):
            return None
        if X.indices.dtype != np.int32:
            return checked_csr(X)
        indptr = X.indptr.astype(np.int64)
        if not X.indices.ndim == indptr.ndim == X.data.ndim == 1 or len(indptr) != X.shape[0] + 1:
            return None
        indices, data = np.ascontiguousarray(X.indices), np.ascontiguousarray(X.data)
        if indptr[0] < 0 or (indptr[1:] < indptr[:-1]).any() or indptr[-1] > min(len(indices), len(data)):
            return None
        return Rows(indptr, indices, data, X.shape)

    def _native_score(self, model: Model, X: Any) -> Array | None:
        """Scores of CSR rows by the kernel; None where it cannot."""
        trainer, out = model.trainer, np.empty(X.shape[0], X.dtype)
        if not self._is_native(X):
            return None
        if model.kept() is None and len(X.indices) < len(trainer.records) // 8:  # not worth an array of all weights
            indptr, features, data, _ = checked_csr(X)
            w, b, places = trainer.weights_of(features), trainer.intercept(), np.arange(len(features), dtype=np.int32)
            kernels.drivers.row_scores(indptr, places, data, w, float(b[0]), out)
            return out
        if (rows := self._native_rows(X)) is None:
            return None
        w, b = model.parameters()
        failed = kernels.drivers.row_scores(*rows[:3], w, float(b[0]), out, self._threads())
        return None if failed >= 0 else out  # the checks will say what is wrong

    def _score_all(self, models: Sequence[Model], X: Any) -> Array:
        if sparse.issparse(X) and (rows := self._native_rows(X)) is not None:
            found = predictions.scores(models, rows, self._threads())
            if found is not None:
                return found
        return super()._score_all(models, X)

    def _likeliest(self, X: Any) -> Array:
        """As `Classifier._likeliest`; the scores of all classes are held for some rows at a time, where the kernel makes them."""
        X, late = self._ready(X)
        if sparse.issparse(X) and (rows := self._native_rows(X)) is not None:
            found = predictions.likeliest(self._models, rows, self._threads())
            if found is not None:
                if late:  # an entry that is not finite makes all scores of its row so
                    self._look_late(X, found[1])
                return found[0]
        return np.asarray(self._scores(X).argmax(axis=1))

    @property
    def coef_(self) -> Array:
        """Weights of the features, shape (1 or n_classes, n_features) in a classifier and (n_features,) in a regressor.

        Of several targets or labels, shape (n_targets, n_features).
        """
        if not hasattr(self, "_models"):
            raise AttributeError("coef_ does not exist before fit")
        weights = [model.parameters()[0] for model in self._models]
        if not isinstance(self, ClassifierMixin) and self._columns is None:
            return weights[0]
        return weights[0][np.newaxis] if len(weights) == 1 else np.stack(weights)

    @property
    def intercept_(self) -> Array:
        """The intercept, shape (1,), or one for each class or target."""
        if not hasattr(self, "_models"):
            raise AttributeError("intercept_ does not exist before fit")
        return np.concatenate([model.intercept() for model in self._models])


class LinearClassifier(Linear, Classifier):
    """Linear classifier of two or more classes, or of several labels, trained on CSR or dense data by any optimizer that steps sample by sample.

    Minimizes the mean loss + l2/2 |w|^2 + l1 |w|_1, the intercept not penalized. The penalties are proximal: after each
    step ``w <- soft(w, lr * l1) / (1 + lr * l2)``, not scaled by adaptive rates; features that a sample lacks are caught up
    exactly when they are next read. The state of a feature stands still while samples lack it. More than two classes are
    trained one against the rest. Of labels a sample may have any number: `y` is then a matrix of 0 and 1, a column for each.

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
    l2 : float, or sequence of up to 8 floats, default 0
        See the table below. Of several, `fit` keeps the best, see Notes.
    mode : {"sequential", "minibatch", "hogwild"}, default "sequential"
        ``"sequential"``: a step for each sample, with the same bits on every machine. ``"minibatch"``: a step for each
        `batch_size` samples with the mean of their gradients, on `n_jobs` threads, with the same bits for any number
        of them; it wants larger rates or more passes. ``"hogwild"``: `n_jobs` threads that share the weights without locks
        (Niu et al. 2011), whose results vary from run to run. Each thread trains a copy of the most frequent features, and
        merges it with the others' every few hundred samples; so rates that are nearly too large for one thread may be too
        large for several. Below some ten thousand samples it gains little.
    n_jobs : int, optional
        Threads; None is 1, -1 is `fastopt.get_num_threads()`. In sequential mode they share the classes, where there are
        more than two, or the labels, with the same bits. Predictions for many sparse rows use them, too, with the same bits.
    shuffle : bool, default True
        Visit the samples in a new random order in each epoch.
    random_state : int, RandomState or None
        Seed of the order, and of the split of `early_stopping` and of several `l2`.
    early_stopping : bool, default False
        Hold out `validation_fraction` of the samples (stratified by class, not by labels), and stop when their mean loss has not fallen by more than
        `tol` for `n_iter_no_change` passes. scikit-learn looks at the accuracy instead. The weights are those of the
        pass with the least loss; training on goes on from the last one's. Where a later pass diverges, a `ConvergenceWarning` of
        scikit-learn says so, and training on is refused.
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
        the number of samples by the number of classes and that of the class's samples, by weight. Not for several labels.
    fit_intercept : bool, default True
    multi_class : {"ovr", "multinomial"}, default "ovr"
        More than two classes: a model for each, against the rest, or one whose probabilities are the softmax of its scores
        (for the loss "log_loss", in sequential mode, without `l1`). Both train the classes side by side, so that a
        feature is fetched once for all; those of ``"ovr"`` have the bits of separate fits. With early stopping and with
        ``lr="auto"`` they are trained one by one.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
        Of several labels their numbers from 0.
    coef_ : ndarray, shape (1, n_features), or (n_classes, n_features) where there are more than two, or labels
    intercept_ : ndarray, shape (1,) or (n_classes,)
    layout_ : {"dense", "sparse"}
        How weights are kept, see Notes.
    n_features_in_ : int
    n_iter_ : int
        Passes of the last `fit`.
    t_ : int
        Samples learned so far.
    l2_ : float
        The penalty that `fit` chose of several.
    penalties_ : ndarray, shape (n_penalties,)
        Those that it compared.
    validation_loss_ : ndarray, shape (n_penalties,)
        Their mean losses on the rows held out, without the penalty; infinite or NaN where a model diverged.
    lr_ : float, or ndarray of shape (n_classes,)
        The rate that ``lr="auto"`` chose, or while it searches the best so far; for more than two classes, or labels, that of each.
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

    Several `l2` are compared by models side by side, each with the bits of a fit by itself: `fit` holds out `validation_fraction` of the
    samples (stratified by class) as `early_stopping` does, makes its passes over the others, and keeps the models of the
    penalty with the least mean loss on those held out; of several classes or labels it is the least mean over them, one penalty for all.
    The held-out rows are not learned afterwards; ``set_params(l2=model.l2_).fit(X, y)`` learns all. They need a number for lr,
    ``mode="sequential"``, no `l1` (but FTRL's), and the same passes for all: no `early_stopping`, `tol` or `warm_start`. `partial_fit`
    takes one `l2`. The memory is that of 8 models for each class.

    Several classes side by side need ``n_features * (1 + states) * n_classes`` numbers, the classes rounded up to a multiple of 8;
    if the machine has less memory, `fit` says so before it allocates. That is the dense layout. The losses ``"hinge"``,
    ``"squared_hinge"`` and ``"modified_huber"`` are 0 beyond a margin: there most classes learn nothing from most samples, and
    weights that never had a gradient are 0. With an optimizer that a gradient of 0 does not move (``"sgd"``, ``"adagrad"``,
    ``"signsgd"``) each feature then keeps a list of the classes that it has a weight for, the sparse layout: the same bits
    with a fraction of the memory, and predictions straight from the lists. It is chosen for 64 classes or more whose dense layout
    would take 64 MiB or more, and for fewer where that would take more than half of the machine's memory; not with `average`,
    with early stopping, or in another mode than ``"sequential"``. `partial_fit` and `warm_start` keep it. A feature takes 8 bytes
    and, for c classes, room for the next power of two of at least 4 of them: 2 bytes and the numbers ``1 + states`` each; beyond
    half of the classes it has a record of all. How many classes features will meet is not known beforehand: memory comes in
    pieces, between samples, and if there is no more, `MemoryError` leaves the model as the last sample left it. `coef_` is dense
    at each call, `save_model` writes the lists.

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
        if self.mode != "sequential" or self._lasso() or self._searches() or self._l2s():
            raise UnsupportedError(
                "multi_class='multinomial' needs mode='sequential', a number or schedule for lr, one l2, and no l1 except that "
                "of optimizer='ftrl'; change these, or use multi_class='ovr'"
            )

    def _learn_labels(self, *arguments: Any) -> Classifier:
        if self.multi_class == "multinomial":
            raise UnsupportedError("multi_class='multinomial' is for classes of which a sample has one; use 'ovr'")
        return super()._learn_labels(*arguments)

    def _training(self) -> dict[str, Any]:
        return {**super()._training(), "multi_class": self.multi_class}

    def _is_multinomial(self) -> bool:
        return self.multi_class == "multinomial" and self._columns is None and len(self.classes_) > 2

    def _is_one_against_rest(self) -> bool:
        return self._columns is None and not self._is_multinomial() and not self.average

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

    @property
    def _scores_show(self) -> bool:  # type: ignore[override]
        """Not those of lists, which pass by the entries of features that they have no weight for."""
        return not hasattr(self, "_models") or self.layout_ == "dense"

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
        found = self._entries()
        whole = np.zeros(found.shape, found.dtype)
        for k, row in enumerate(whole):  # `toarray` adds to 0, which makes 0 of -0
            part = slice(found.indptr[k], found.indptr[k + 1])
            row[found.indices[part]] = found.data[part]
        return whole

    def _mean_loss(self, models: Sequence[Model], watch: Watch, targets: Any) -> float:
        if not self._is_multinomial():
            return super()._mean_loss(models, watch, targets)
        z = self._score_all(models, watch.X).astype(np.float64)
        codes = targets.codes[watch.rows]
        return float(np.average(logsumexp(z, axis=1) - z[np.arange(len(z)), codes], weights=watch.weights))

    def _probabilities(self, z: Array) -> Array:
        if not self._is_multinomial():
            return super()._probabilities(z)
        return np.asarray(softmax(z, axis=1), z.dtype)

    def to_sklearn(self) -> Any:
        """A fitted scikit-learn estimator with these weights, which predicts the same without fastopt.

        ``SGDClassifier``; ``LogisticRegression`` of a multinomial model; ``OneVsRestClassifier`` of several labels.
        """
        check_is_fitted(self)
        if self._is_multinomial():
            whole = LogisticRegression(fit_intercept=self.fit_intercept)
            whole.classes_ = self.classes_.copy()
            return _fitted(whole, self, self.coef_)
        other = SGDClassifier(loss=self.loss, **_sgd_options(self), class_weight=self.class_weight)
        other.classes_ = self.classes_.copy()
        if self._columns is None:
            return _fitted(other, self, self.coef_)
        several = OneVsRestClassifier(other)
        several.estimators_ = []
        for k, coef in enumerate(self.coef_):
            one = _fitted(clone(other), self, coef[np.newaxis])
            one.classes_, one.intercept_ = np.arange(2), one.intercept_[k : k + 1]
            several.estimators_.append(one)
        several.label_binarizer_ = LabelBinarizer(sparse_output=True)
        several.label_binarizer_.fit(np.eye(self._columns, dtype=int))
        several.classes_ = several.label_binarizer_.classes_
        several.n_features_in_ = self.n_features_in_
        return several

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = tags.classifier_tags.multi_label = self.multi_class == "ovr"
        return tags


class LinearRegressor(Linear, Regressor):
    """Linear regression, trained on CSR or dense data by any optimizer that steps sample by sample.

    Parameters
    ----------
    loss : str, default "squared_error"
        With ``r = z - y``, z the score: ``"squared_error"``, r**2 / 2; ``"huber"``, that within `epsilon` and linear beyond;
        ``"epsilon_insensitive"``, what |r| is above `epsilon`; ``"squared_epsilon_insensitive"``, its square;
        ``"quantile"``, the pinball loss of `quantile`; ``"poisson"``, exp(z) - y z for counts y, of which `predict` returns
        the mean exp(z).
    optimizer, lr, epochs, batch_size, l1, l2, mode, n_jobs, shuffle, random_state
        As in `LinearClassifier`, and so are the attributes of ``lr="auto"`` and of several `l2`; each target has its own rate.
    early_stopping, validation_fraction, n_iter_no_change, warm_start, average, tol, verbose, fit_intercept
        As in `LinearClassifier`.
    epsilon : float, default 0.1
        As in scikit-learn.
    quantile : float in (0, 1), default 0.5

    Attributes
    ----------
    coef_ : ndarray, shape (n_features,), or (n_targets, n_features) where `y` has two dimensions
    intercept_ : ndarray, shape (1,) or (n_targets,)
    n_features_in_ : int
    n_iter_ : int
        Passes of the last `fit`.
    t_ : int
        Samples learned so far.

    Notes
    -----
    Several targets, `y` of shape (n_samples, n_targets), are trained side by side, each with the bits of a fit by itself, so that a
    feature is fetched once for all; `n_jobs` threads share them. With ``mode="minibatch"``, ``"hogwild"``, `l1`, ``lr="auto"``,
    `early_stopping` and `tol` they are trained one by one.
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

        ``SGDRegressor``; ``QuantileRegressor`` or ``PoissonRegressor`` for those losses; ``LinearRegression`` of several targets.
        """
        check_is_fitted(self)
        if self._columns is not None:
            if self.loss == "poisson":
                raise UnsupportedError(
                    "scikit-learn has no Poisson regression of several targets; train each by itself"
                )
            return _fitted(LinearRegression(fit_intercept=self.fit_intercept), self, self.coef_)
        if self.loss == "quantile":
            other: Any = QuantileRegressor(quantile=self.quantile, alpha=self.l1, fit_intercept=self.fit_intercept)
        elif self.loss == "poisson":
            other = PoissonRegressor(alpha=self._l2(), fit_intercept=self.fit_intercept)
            other._base_loss = other._get_loss()
        else:
            other = SGDRegressor(loss=self.loss, epsilon=self.epsilon, **_sgd_options(self))
        return _fitted(other, self, self.coef_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _sgd_options(model: Linear) -> dict[str, Any]:
    """The options of scikit-learn's SGD that mean what ours do."""
    l2 = model._l2()
    alpha = model.l1 + l2
    penalty = "elasticnet" if model.l1 and l2 else "l1" if model.l1 else "l2"
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
