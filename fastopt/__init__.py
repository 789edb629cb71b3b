"""fastopt: optimizer kernels for training on CPUs, in place on NumPy arrays."""

from importlib import import_module as _import_module
from types import ModuleType as _ModuleType

from .config import get_num_threads as get_num_threads
from .config import set_num_threads as set_num_threads
from .config import show_config as show_config
from .errors import CheckpointError as CheckpointError
from .errors import ConcurrentStepError as ConcurrentStepError
from .errors import DTypeError as DTypeError
from .errors import FastoptError as FastoptError
from .errors import HyperParameterError as HyperParameterError
from .errors import IndexRangeError as IndexRangeError
from .errors import LayoutError as LayoutError
from .errors import NonFiniteError as NonFiniteError
from .errors import OverlapError as OverlapError
from .errors import ReadOnlyError as ReadOnlyError
from .errors import ShapeError as ShapeError
from .errors import StateError as StateError
from .errors import UnsupportedError as UnsupportedError
from .optimizers.adadelta import Adadelta as Adadelta
from .optimizers.adagrad import Adagrad as Adagrad
from .optimizers.adam import Adam as Adam
from .optimizers.adam import AdamW as AdamW
from .optimizers.base import Optimizer as Optimizer
from .optimizers.rmsprop import RMSprop as RMSprop
from .optimizers.schedulefree import ScheduleFreeAdamW as ScheduleFreeAdamW
from .optimizers.schedulefree import ScheduleFreeSGD as ScheduleFreeSGD
from .optimizers.sgd import SGD as SGD
from .optimizers.table import Table as Table
from .sparse import SparseGrad as SparseGrad
from .version import __version__ as __version__


def __getattr__(name: str) -> _ModuleType:
    if name == "models":  # imports scikit-learn, so only when asked for
        return _import_module(".models", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
