"""fastopt: optimizer kernels for training on CPUs, in place on NumPy arrays."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from . import schedules as schedules
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
from .errors import ParseError as ParseError
from .errors import ReadOnlyError as ReadOnlyError
from .errors import ShapeError as ShapeError
from .errors import StateError as StateError
from .errors import UnsupportedError as UnsupportedError
from .minimize import minimize as minimize
from .minimize import scipy_method as scipy_method
from .optimizers.adabelief import AdaBelief as AdaBelief
from .optimizers.adadelta import Adadelta as Adadelta
from .optimizers.adafactor import Adafactor as Adafactor
from .optimizers.adagrad import Adagrad as Adagrad
from .optimizers.adam import Adam as Adam
from .optimizers.adam import AdamW as AdamW
from .optimizers.adamax import Adamax as Adamax
from .optimizers.adan import Adan as Adan
from .optimizers.adaptiverevision import AdaptiveRevision as AdaptiveRevision
from .optimizers.adopt import ADOPT as ADOPT
from .optimizers.asgd import ASGD as ASGD
from .optimizers.base import Optimizer as Optimizer
from .optimizers.cocob import COCOB as COCOB
from .optimizers.ftrl import FTRL as FTRL
from .optimizers.lamb import LAMB as LAMB
from .optimizers.lars import LARS as LARS
from .optimizers.lion import Lion as Lion
from .optimizers.muon import Muon as Muon
from .optimizers.nadam import NAdam as NAdam
from .optimizers.normalized import NormalizedAdaptive as NormalizedAdaptive
from .optimizers.prodigy import Prodigy as Prodigy
from .optimizers.qhadam import QHAdam as QHAdam
from .optimizers.radam import RAdam as RAdam
from .optimizers.rmsprop import RMSprop as RMSprop
from .optimizers.rowwise_adagrad import RowwiseAdagrad as RowwiseAdagrad
from .optimizers.rprop import Rprop as Rprop
from .optimizers.schedulefree import ScheduleFreeAdamW as ScheduleFreeAdamW
from .optimizers.schedulefree import ScheduleFreeSGD as ScheduleFreeSGD
from .optimizers.sgd import SGD as SGD
from .optimizers.signsgd import SignSGD as SignSGD
from .optimizers.signsgd import Signum as Signum
from .optimizers.sm3 import SM3 as SM3
from .optimizers.table import Table as Table
from .optimizers.yellowfin import YellowFin as YellowFin
from .optimizers.yogi import Yogi as Yogi
from .sparse import SparseGrad as SparseGrad
from .transforms import clip_global_norm as clip_global_norm
from .version import __version__ as __version__

if _TYPE_CHECKING:
    from .checkpoint import load as load
    from .checkpoint import save as save
    from .strategies import lr_range_test as lr_range_test
    from .strategies import train as train


#: What is imported when it is asked for: modules (models import scikit-learn), and what stands in them.
_LAZY = {
    "checkpoint": None,
    "load": ".checkpoint",
    "lr_range_test": ".strategies",
    "models": None,
    "save": ".checkpoint",
    "strategies": None,
    "train": ".strategies",
    "viz": None,
}


def __getattr__(name: str) -> _Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _LAZY[name]
    return _import_module(f".{name}", __name__) if home is None else getattr(_import_module(home, __name__), name)
