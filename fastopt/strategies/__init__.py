"""What surrounds the steps of an optimizer in training."""

from .normalization import BatchNorm as BatchNorm
