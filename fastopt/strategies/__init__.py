"""Around the update rule: the training loop, the order of the data, accumulation, early stopping, rates, batch normalization."""

from .accumulation import Accumulator as Accumulator
from .normalization import BatchNorm as BatchNorm
from .order import Batches as Batches
from .order import Curriculum as Curriculum
from .order import Pace as Pace
from .order import Sequential as Sequential
from .order import Shuffled as Shuffled
from .rates import RangeTest as RangeTest
from .rates import lr_range_test as lr_range_test
from .stopping import EarlyStopping as EarlyStopping
from .training import Callback as Callback
from .training import History as History
from .training import ResetState as ResetState
from .training import train as train
