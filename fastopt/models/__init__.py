"""Models of sparse data (scikit-learn estimators): linear, factorization machines; and their features: hashing, files, streams.

The estimators need scikit-learn, the readers SciPy: ``pip install "fastopt[models]"``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import UnsupportedError

if TYPE_CHECKING:
    from .cache import read_cache as read_cache
    from .cache import write_cache as write_cache
    from .embeddings import GloVe as GloVe
    from .embeddings import SkipGram as SkipGram
    from .factorization import FFMClassifier as FFMClassifier
    from .factorization import FMClassifier as FMClassifier
    from .factorization import FMRegressor as FMRegressor
    from .factorization import feature_fields as feature_fields
    from .features import ColumnHasher as ColumnHasher
    from .files import load_model as load_model
    from .files import save_model as save_model
    from .linear import LinearClassifier as LinearClassifier
    from .linear import LinearRegressor as LinearRegressor
    from .progressive import fit_stream as fit_stream
    from .streams import chunks as chunks
    from .text import read_libffm as read_libffm
    from .text import read_svmlight as read_svmlight
    from .text import read_vw as read_vw

#: Where what is public stands: imported when asked for.
_HOMES = {
    "ColumnHasher": "features",
    "FFMClassifier": "factorization",
    "FMClassifier": "factorization",
    "FMRegressor": "factorization",
    "GloVe": "embeddings",
    "LinearClassifier": "linear",
    "LinearRegressor": "linear",
    "SkipGram": "embeddings",
    "chunks": "streams",
    "feature_fields": "factorization",
    "fit_stream": "progressive",
    "load_model": "files",
    "read_cache": "cache",
    "read_libffm": "text",
    "read_svmlight": "text",
    "read_vw": "text",
    "save_model": "files",
    "write_cache": "cache",
}

__all__ = [
    "ColumnHasher",
    "FFMClassifier",
    "FMClassifier",
    "FMRegressor",
    "GloVe",
    "LinearClassifier",
    "LinearRegressor",
    "SkipGram",
    "chunks",
    "feature_fields",
    "fit_stream",
    "load_model",
    "read_cache",
    "read_libffm",
    "read_svmlight",
    "read_vw",
    "save_model",
    "write_cache",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        home = import_module(f".{_HOMES[name]}", __name__)
    except ModuleNotFoundError as missing:
        if missing.name and missing.name.split(".")[0] in ("sklearn", "scipy"):
            raise UnsupportedError('the models need scikit-learn: pip install "fastopt[models]"') from missing
        raise
    return getattr(home, name)
