"""The settings of every optimizer that the tests go through. An export without settings fails test_structure."""

from __future__ import annotations

import inspect
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
    ],
    "adagrad": [{}, {"lr_decay": 0.1, "initial_accumulator_value": 0.5}, {"eps": 0.0}],
    "adadelta": [{}, {"rho": 0.5, "lr": 0.3, "eps": 0.0}],
    "rmsprop": [{}, {"momentum": 0.9}, {"centered": True}, {"centered": True, "momentum": 0.5, "eps": 0.0}],
    "adam": [
        {},
        {"amsgrad": True},
        {"eps_form": "hat", "betas": (0.5, 0.9), "eps": 0.0},
        {"amsgrad": True, "eps_form": "hat", "weight_decay": 0.1, "decoupled_weight_decay": True},
    ],
    "adamw": [{}, {"amsgrad": True, "maximize": True, "eps_form": "hat"}],
    "rprop": [{}, {"lr": 0.3, "etas": (0.3, 1.5), "step_sizes": (1e-3, 2.0)}],
    "asgd": [{}, {"lr": 0.1, "lambd": 0.3, "t0": 2, "alpha": 0.6}, {"lambd": 0.0, "t0": 0}],
    "lion": [{}, {"betas": (0.6, 0.8), "lr": 0.03}],
    "signsgd": [{}, {"lr": 0.3}],
    "signum": [{}, {"momentum": 0.6}],
    "adan": [
        {},
        {"betas": (0.5, 0.3, 0.9), "eps": 0.0},
        {"weight_decay": 0.1, "lr": 0.1},
        {"weight_decay": 0.1, "no_prox": True, "eps": 1e-3},
    ],
    "ftrl": [
        {"lr": 0.1},
        {"l1": 0.1, "l2": 0.2, "beta": 1.0, "lr": 0.3},
        {"initial_accumulator_value": 0.0, "l2_shrinkage": 0.1, "lr": 0.05},
    ],
    "cocob": [{}, {"alpha": 3.0, "lr": 0.1}, {"eps": 0.0}],
    "adaptiverevision": [{}, {"lr": 0.1, "initial_accumulator_value": 0.0}],
}
#: What the block operations add, tried with every setting.
BLOCKS: list[dict[str, Any]] = [
    {},
    {"weight_decay": 0.05},
    {"maximize": True},
    {"maximize": True, "weight_decay": 0.05},
    {"weight_decay": 0.05, "decoupled_weight_decay": True},
]


def decay(cls: type, amount: float) -> dict[str, float]:
    """Weight decay as an option, where an optimizer has it."""
    return {"weight_decay": amount} if "weight_decay" in inspect.signature(cls).parameters else {}


def cases(blocks: bool = True) -> list[tuple[str, dict[str, Any]]]:
    """Every optimizer with every setting, and with every block operation."""
    found = []
    for name, settings in SETTINGS.items():
        cls = fastopt.Optimizer.known[name]
        for setting in settings:
            for block in BLOCKS if blocks else [{}]:
                known = inspect.signature(cls).parameters
                both = {**{k: v for k, v in block.items() if k in known}, **setting}
                if (name, both) not in found:
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
