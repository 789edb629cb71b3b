"""The optimizers, one file each; ``fastopt/__init__.py`` exports them."""

from .base import Optimizer as Optimizer
from .base import Rule as Rule
