"""Factorization machines for sparse data, as scikit-learn estimators."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from .. import checks
from ..checks import Array
from ..csr import Rows, csr_rows
from ..errors import HyperParameterError, ShapeError, UnsupportedError
from ..optimizers.base import choose_backend
from .estimators import CLASSIFIER_LOSSES, REGRESSOR_LOSSES, Classifier, Estimator, Model, Regressor
from .factor_trainer import FactorTrainer, check_memory
from .samples import shrinking
from .streams import ROWS
from .text import LibFFM

#: More features than this are not taken for fields of their own.
MOST_FIELDS = 256


def unit_rows(rows: Rows) -> Rows:
    """The rows, scaled to length 1; those of zeros alone as they are."""
    indptr, indices, data, shape = rows
    row = np.repeat(np.arange(shape[0]), np.diff(indptr))
    wide = data.astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        squares = np.bincount(row, wide**2, shape[0])
    far = ((squares < 1e-280) | (squares > 1e280))[row]
    if far.any():  # the squares are no longer numbers: bring such rows near 1 first
        peak = np.zeros(shape[0])
        np.maximum.at(peak, row[far], np.abs(wide[far]))
        wide[far] /= np.where(peak > 0, peak, 1.0)[row[far]]
        squares = np.bincount(row, wide**2, shape[0])
    length = np.sqrt(np.where(squares > 0, squares, 1.0))
    return Rows(indptr, indices, (wide / length[row]).astype(data.dtype), shape)


class Factorization(Estimator):
    """Weights and vectors of features: the score has the products of the vectors of each two features of a sample."""

    rank: int
    init_scale: float
    normalize: bool
    class_weight: Any
    _draw: np.random.Generator

    def _check_parameters(self) -> None:
        super()._check_parameters()
        checks.integer(1, 4096)("rank", self.rank)
        checks.non_negative("init_scale", self.init_scale)
        checks.flag("normalize", self.normalize)
        if self._lasso():
            raise UnsupportedError(
                f"l1={self.l1}: factorization machines have no l1 penalty; use l2, or optimizer='ftrl', which has its own"
            )

    def _layout(self, n_features: int) -> tuple[Array | None, int]:
        """The field of each feature, and how many there are; None: all are of one."""
        return None, 1

    def _start(self, n_models: int, n_features: int, dtype: Any) -> None:
        optimizer, options = self._arguments(n_features, dtype)[2:4]
        n_states, n_fields = len(optimizer.rule_of(options).states), self._layout(n_features)[1]
        check_memory(n_models, n_features, np.dtype(dtype), self.rank, n_states, n_fields)
        seed = check_random_state(self.random_state).randint(0, 2**31 - 1, 4)
        self._draw = np.random.default_rng([*seed, 1])  # not that of the order of the samples
        super()._start(n_models, n_features, dtype)

    def _make(self, n_features: int, dtype: Any) -> FactorTrainer:
        fields, n_fields = self._layout(n_features)
        vectors = self._draw.standard_normal((n_features, n_fields, self.rank), np.float32).astype(dtype, copy=False)
        vectors *= dtype.type(self.init_scale)
        own = self._penalties()[2], bool(self.fit_intercept), choose_backend("auto")
        others: tuple[Any, ...] = (*self._arguments(n_features, dtype)[2:], *own)
        return FactorTrainer(self._size(), vectors, fields, dtype, *others)

    def _size(self) -> int | None:
        return self.batch_size if self.mode == "minibatch" else None

    def _check_change(self) -> None:
        shrinking(self.lr, self._penalties()[2])

    def _set_rate(self, trainer: FactorTrainer) -> None:
        own, _, l2 = self._penalties()
        trainer.options = {**trainer.options, **own}
        trainer.set_rate(self.lr if callable(self.lr) else float(self.lr), l2)
        trainer.set_size(self._size())

    def _training(self) -> dict[str, Any]:
        return {**super()._training(), "rank": self.rank, "normalize": self.normalize}

    def _passes(self, X: Any, *arguments: Any) -> None:
        if self.normalize:
            indptr, indices, data, shape = unit_rows(csr_rows(X))
            X = sparse.csr_matrix((data, indices, indptr), shape=shape)
        super()._passes(X, *arguments)

    def _rows(self, X: Any) -> Rows:
        rows = csr_rows(X)
        rows = rows._replace(data=rows.data.astype(self._models[0].trainer.dtype, copy=False))
        return unit_rows(rows) if self.normalize else rows

    def _score(self, model: Model, X: Any) -> Array:
        return self._score_rows(model, csr_rows(X))  # which have their lengths

    def _score_rows(self, model: Model, rows: Rows) -> Array:
        if rows.shape[1] != len(model.trainer.records):  # the kernel looks at no index
            raise ShapeError(f"X has {rows.shape[1]} features, and the model {len(model.trainer.records)}")
        found: Array = model.trainer.scores(rows[:3], self._threads(), model.kept())
        return found

    def _scores(self, X: Any) -> Array:
        if not hasattr(self, "_models"):
            check_is_fitted(self)
        rows = self._rows(self._finite(X, self._is_plain(X)))
        columns = [self._score_rows(model, rows) for model in self._models]
        return columns[0] if len(columns) == 1 else np.stack(columns, axis=1)

    def _parts(self, which: int, name: str) -> list[Array]:
        if not hasattr(self, "_models"):
            raise AttributeError(f"{name} does not exist before fit")
        return [model.parameters()[which] for model in self._models]

    @property
    def coef_(self) -> Array:
        """Weights of the features, shape (1 or n_classes, n_features) in a classifier and (n_features,) in a regressor."""
        weights = self._parts(0, "coef_")
        return np.stack(weights) if isinstance(self, ClassifierMixin) else weights[0]

    @property
    def intercept_(self) -> Array:
        """The intercept, shape (1,), or one for each class."""
        return np.concatenate(self._parts(1, "intercept_"))

    @property
    def factors_(self) -> Array:
        """Vectors of the features, shape (n_features, rank); of each class, one behind the other, for more than two."""
        factors = [v.reshape(self._shape(v)) for v in self._parts(2, "factors_")]
        return factors[0] if len(factors) == 1 else np.stack(factors)

    def _shape(self, vectors: Array) -> tuple[int, ...]:
        return vectors.shape[0], vectors.shape[2]


class FMClassifier(Factorization, Classifier):
    r"""Factorization machine (Rendle 2010) for two or more classes, trained on CSR or dense data by any optimizer that steps sample by sample.

    The score of a sample is

    .. math::
        z = b + \sum_i w_i x_i + \sum_{i<j} \langle v_i, v_j \rangle x_i x_j,

    at a cost linear in its entries, as the last sum is :math:`\frac12 \sum_f [(\sum_i v_{if} x_i)^2 - \sum_i v_{if}^2 x_i^2]`. So it learns
    what pairs of features mean, also of pairs that the data never have. Minimizes the mean loss + l2/2 (|w|^2 + |v|^2) by
    proximal steps as `LinearClassifier`; the intercept is not penalized.

    Parameters
    ----------
    loss, optimizer, epochs, batch_size, n_jobs, shuffle
        As in `LinearClassifier`.
    lr : float or callable, default 0.1
        Learning rate, of weights and vectors alike; as in `LinearClassifier`. Rows with many large entries need smaller ones
        than a linear model: consider `normalize`.
    rank : int, default 8
        Numbers of a vector. Up to 4, and multiples of 8, waste no time.
    init_scale : float, default 0.01
        The vectors start as normal random numbers of this standard deviation. From 0 they could not learn.
    normalize : bool, default False
        Scale each row to length 1, here and in predictions.
    l1 : float, default 0
        Only for ``optimizer="ftrl"``, whose own it is. FTRL sets a vector anew from its gradients' history: one whose first
        gradient is 0 becomes 0.
    l2 : float, default 0
        Penalty of weights and vectors.
    mode : {"sequential", "minibatch", "hogwild"}, default "sequential"
        As in `LinearClassifier`; the bits of the first two depend on the machine only as far as NumPy's normal numbers do, with
        which the vectors start.
    random_state : int, RandomState or None
        Seed of the vectors' start, of the order, and of the split of `early_stopping`.
    early_stopping, validation_fraction, n_iter_no_change, warm_start, tol, verbose, class_weight, fit_intercept
        As in `LinearClassifier`.
    average : bool or int, default False
        As in `LinearClassifier`; the vectors are averaged, too.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
    coef_ : ndarray, shape (1, n_features), or (n_classes, n_features) where there are more than two
    intercept_ : ndarray, shape (1,) or (n_classes,)
    factors_ : ndarray, shape (n_features, rank), or (n_classes, n_features, rank) where there are more than two
    n_features_in_, n_iter_, t_
        As in `LinearClassifier`.

    Notes
    -----
    float32 data are trained in float32, all other in float64. The sums over the entries of a row are in that precision, the rest
    of the score in float64. Entries of a row that repeat an index are summed first. The memory of a model is
    ``n_features * (width + 1) * (1 + states)`` numbers, width being 4 for ranks up to 4, and else the next multiple of 8.

    Examples
    --------
    >>> import numpy as np
    >>> from fastopt.models import FMClassifier
    >>> X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> y = [0, 1, 1, 0]                                         # either, but not both: no linear model can tell
    >>> FMClassifier(rank=2, lr=0.5, epochs=200, random_state=0).fit(X, y).predict(X)
    array([0, 1, 1, 0])
    """

    _losses = CLASSIFIER_LOSSES

    def __init__(
        self,
        loss: str = "log_loss",
        *,
        optimizer: str = "adagrad",
        lr: Any = 0.1,
        rank: int = 8,
        init_scale: float = 0.01,
        normalize: bool = False,
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
        self._keep(locals())


class FMRegressor(Factorization, Regressor):
    """Factorization machine (Rendle 2010) for numbers, trained on CSR or dense data by any optimizer that steps sample by sample.

    Parameters
    ----------
    loss : str, default "squared_error"
        As in `LinearRegressor`.
    optimizer, lr, rank, init_scale, normalize, epochs, batch_size, l1, l2, mode, n_jobs, shuffle, random_state
        As in `FMClassifier`.
    early_stopping, validation_fraction, n_iter_no_change, warm_start, average, tol, verbose, fit_intercept
        As in `FMClassifier`.
    epsilon : float, default 0.1
        As in `LinearRegressor`.
    quantile : float in (0, 1), default 0.5

    Attributes
    ----------
    coef_ : ndarray, shape (n_features,)
    intercept_ : ndarray, shape (1,)
    factors_ : ndarray, shape (n_features, rank)
    n_features_in_, n_iter_, t_
        As in `LinearRegressor`.
    """

    _losses = REGRESSOR_LOSSES

    def __init__(
        self,
        loss: str = "squared_error",
        *,
        optimizer: str = "adagrad",
        lr: Any = 0.1,
        rank: int = 8,
        init_scale: float = 0.01,
        normalize: bool = False,
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


class FFMClassifier(FMClassifier):
    r"""Field-aware factorization machine (Juan et al. 2016): a feature has a vector for each field of those that it meets.

    .. math::
        z = b + \sum_i w_i x_i + \sum_{i<j} \langle v_{i,\mathrm{field}(j)}, v_{j,\mathrm{field}(i)} \rangle x_i x_j

    The cost of a sample is its entries times its fields.

    Parameters
    ----------
    loss, optimizer, lr, rank, init_scale, normalize, epochs, batch_size, l1, l2, mode, n_jobs, shuffle, random_state
        As in `FMClassifier`.
    early_stopping, validation_fraction, n_iter_no_change, warm_start, average, tol, verbose, class_weight, fit_intercept
        As in `FMClassifier`.
    fields : array-like of int, shape (n_features,), optional
        The field of each feature, numbered from 0: `feature_fields` makes it of a libffm file, or of what `read_libffm` gives, and
        a `ColumnHasher` with ``own_slots=True`` has it as `slot_fields`. None: each feature is a field of its own, for at most
        256 features.

    Attributes
    ----------
    classes_, coef_, intercept_, n_features_in_, n_iter_, t_
        As in `FMClassifier`.
    factors_ : ndarray, shape (n_features, n_fields, rank), or (n_classes, n_features, n_fields, rank)
        ``factors_[i, f]`` meets the features of field f.

    Notes
    -----
    libffm has no weights of single features and no intercept, scales rows to length 1 (``normalize=True`` does so here), and starts
    Adagrad's sums at 1, which makes its first steps small. A step touches the vectors of the sample's features for the fields
    that the sample has. The memory of a model is ``n_features * (n_fields * width + 1) * (1 + states)`` numbers; see
    `FMClassifier`.
    """

    def __init__(
        self,
        loss: str = "log_loss",
        *,
        fields: Any = None,
        optimizer: str = "adagrad",
        lr: Any = 0.1,
        rank: int = 4,
        init_scale: float = 0.01,
        normalize: bool = False,
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
        self._keep(locals())

    def _layout(self, n_features: int) -> tuple[Array | None, int]:
        if self.fields is None:
            if n_features > MOST_FIELDS:
                raise HyperParameterError(
                    f"fields=None makes each feature a field, and X has {n_features}, more than {MOST_FIELDS}; give the field of each"
                )
            return np.arange(n_features, dtype=np.int32), n_features
        fields = np.asarray(self.fields)
        if fields.dtype.kind not in "iu" or fields.ndim != 1:
            raise HyperParameterError(
                f"fields must be integers in one dimension, got {fields.dtype}, shape {fields.shape}"
            )
        if len(fields) != n_features:
            raise ShapeError(
                f"fields has {len(fields)} entries, and X has {n_features} features; give the field of each"
            )
        if n_features and not (fields.min() >= 0 and fields.max() < 2**20):
            raise HyperParameterError(
                f"fields must be numbers from 0 to {2**20 - 1}, and has {fields.min()} to {fields.max()}"
            )
        return fields.astype(np.int32), int(fields.max(initial=0)) + 1

    def _training(self) -> dict[str, Any]:
        fields = None if self.fields is None else np.asarray(self.fields).tolist()
        return {**super()._training(), "fields": fields}

    def _shape(self, vectors: Array) -> tuple[int, ...]:
        return vectors.shape


def feature_fields(X: Any, fields: Any = None, *, n_features: int | None = None) -> Array:
    """The field of each feature, from the field of each entry.

    Parameters
    ----------
    X : CSR matrix, shape (n_samples, n_features), or path
        A path is that of a libffm file, which is read once, in bounded memory: for streams, which need the fields at their
        beginning.
    fields : array-like of int, shape (entries,)
        As `read_libffm` gives them; not with a path.
    n_features : int, optional
        With a path: their number; by default the largest index + 1.

    Returns
    -------
    ndarray of int32, shape (n_features,)
        0 for features that X lacks.

    Raises
    ------
    ShapeError
        If there is not one field for each entry.
    UnsupportedError
        If a feature is of two fields; give it an index for each.
    ParseError
        If a line of the file is bad.
    """
    if isinstance(X, (str, os.PathLike)):
        if fields is not None:
            raise HyperParameterError("fields are those of a matrix; of a path they are read")
        return _fields_of_file(X, n_features)
    if n_features is not None:
        raise HyperParameterError("n_features is for a path; a matrix has its own")
    fields = np.asarray(fields)
    indices = X.indices[: X.indptr[-1]]
    if fields.shape != indices.shape:
        raise ShapeError(
            f"fields has shape {fields.shape}, and X has {len(indices)} entries; one field for each is needed"
        )
    found = np.zeros(X.shape[1], np.int32)
    found[indices] = fields
    _check_fields(found, indices, fields)
    return found


def _check_fields(found: Array, indices: Array, fields: Array) -> None:
    wrong = np.flatnonzero(found[indices] != fields)
    if len(wrong):
        f = indices[wrong[0]]
        raise UnsupportedError(
            f"feature {f} is of the fields {fields[wrong[0]]} and {found[f]}; give a feature an index for each field"
        )


def _fields_of_file(path: str | os.PathLike[str], n_features: int | None) -> Array:
    """As `feature_fields`, of a libffm file."""
    source = LibFFM(path, n_features)
    width = n_features or 1
    found = np.full(width, -1, np.int32)
    try:
        while (piece := source.take(ROWS)) is not None:
            X, _, fields = piece
            width = max(width, X.shape[1])
            if width > len(found):  # at least twice as long as before, so that little is copied again
                longer = np.full(max(width, 2 * len(found)), -1, np.int32)
                longer[: len(found)] = found
                found = longer
            new = found[X.indices] < 0
            found[X.indices[new]] = fields[new]
            _check_fields(found, X.indices, fields)
    finally:
        source.close()
    return np.maximum(found[:width], 0)
