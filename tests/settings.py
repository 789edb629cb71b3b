"""The settings of every optimizer that the tests go through. An export without settings fails test_structure."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastopt
from fastopt import kernels

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "sgd": [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.3},
        {"momentum": 0.9, "nesterov": True},
        {"momentum": 0.8, "dampening": 1.0, "maximize": True},
        {"momentum": 0.9, "dampening": 0.3, "lr_inside": True},
        {"momentum": 0.9, "nesterov": True, "lr_inside": True},
    ],
    "adagrad": [
        {},
        {"lr_decay": 0.1, "initial_accumulator_value": 0.5},
        {"eps": 0.0},
        {"eps_form": "inside", "eps": 1e-7, "power": 1.0},
        {"eps_form": "inside", "eps": 0.0, "power": 0.3},
        {"eps": 0.0, "power": 0.75},
    ],
    "adadelta": [{}, {"rho": 0.5, "lr": 0.3, "eps": 0.0}],
    "rmsprop": [
        {},
        {"momentum": 0.9},
        {"centered": True},
        {"centered": True, "momentum": 0.5, "eps": 0.0},
        {"eps_form": "inside", "momentum": 0.9, "lr_inside": True},
        {"eps_form": "inside", "centered": True, "momentum": 0.5, "eps": 0.0},
    ],
    "adam": [
        {},
        {"amsgrad": True},
        {"eps_form": "hat", "betas": (0.5, 0.9), "eps": 0.0},
        {"amsgrad": True, "eps_form": "hat", "weight_decay": 0.1, "decoupled_weight_decay": True},
    ],
    "adamw": [{}, {"amsgrad": True, "maximize": True, "eps_form": "hat"}],
    "schedulefreesgd": [{}, {"momentum": 0.5, "warmup_steps": 7, "r": 0.7, "weight_lr_power": 1.5}],
    "schedulefreeadamw": [{}, {"betas": (0.5, 0.9), "eps": 0.0, "warmup_steps": 7, "r": 0.7, "weight_lr_power": 0.0}],
}
#: What the block operations add, tried with every setting.
BLOCKS: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.05},
    {"maximize": True},
    {"maximize": True, "weight_decay": 0.05},
    {"weight_decay": 0.05, "decoupled_weight_decay": True},
]


def cases(blocks: bool = True) -> list[tuple[str, dict[str, Any]]]:
    """Every optimizer with every setting, and with every block operation."""
    found = []
    for name, settings in SETTINGS.items():
        cls = fastopt.Optimizer.known[name]
        for setting in settings:
            for block in BLOCKS if blocks else [{}]:
                both = {**block, **setting}
                if name == "adamw":
                    both.pop("decoupled_weight_decay", None)
                if (cls.__name__.lower(), both) not in found:
                    found.append((name, both))
    return found


def case_id(case: tuple[str, dict[str, Any]]) -> str:
    return case[0] + "".join(f"-{k}={v}" for k, v in case[1].items())


def bits(a: np.ndarray) -> np.ndarray:
    """The bits of an array, every NaN made the same one."""
    a = np.ascontiguousarray(a)
    b = a.view(np.uint32 if a.dtype == np.float32 else np.uint64).copy()
    b[np.isnan(a)] = 0xFFFFFFFF
    return b


def assert_bits(a: np.ndarray, b: np.ndarray, what: str = "") -> None:
    x, y = bits(a), bits(b)
    if not np.array_equal(x, y):
        at = tuple(int(k[0]) for k in np.nonzero(x != y))
        raise AssertionError(f"{what}: {int((x != y).sum())} of {a.size} differ, first at {at}: {a[at]!r} != {b[at]!r}")


def native_builds() -> list[str]:
    return kernels.runnable()
