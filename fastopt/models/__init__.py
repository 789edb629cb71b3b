"""Linear models on sparse data (scikit-learn estimators), and the features for them.

The estimators need scikit-learn: ``pip install "fastopt[models]"``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import UnsupportedError

if TYPE_CHECKING:
    from .features import ColumnHasher as ColumnHasher
    from .linear import LinearClassifier as LinearClassifier
    from .linear import LinearRegressor as LinearRegressor

__all__ = ["ColumnHasher", "LinearClassifier", "LinearRegressor"]


def __getattr__(name: str) -> Any:
    if name == "ColumnHasher":
        from .features import ColumnHasher

        return ColumnHasher
    if name in ("LinearClassifier", "LinearRegressor"):
        try:
            from . import linear
        except ModuleNotFoundError as missing:
            if missing.name and missing.name.split(".")[0] in ("sklearn", "scipy"):
                raise UnsupportedError('the models need scikit-learn: pip install "fastopt[models]"') from missing
            raise
        return getattr(linear, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
