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
    "rowwiseadagrad": [{}, {"initial_accumulator_value": 0.5, "eps": 0.0}],
    "sm3": [{}, {"momentum": 0.9}, {"eps": 0.0}],
    "adafactor": [
        {},
        {"beta2_decay": -0.5, "d": 2.0, "eps": (0.0, 0.0)},
        {"eps_form": "inside", "eps": (1e-30, 1e-3)},
    ],
    "muon": [
        {},
        {"nesterov": False, "momentum": 0.0, "eps": 0.0, "weight_decay": 0.0},
        {"adjust_lr_fn": "match_rms_adamw", "ns_steps": 3, "ns_coefficients": (1.5, -0.5, 0.0)},
    ],
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
        {"lr_power": -0.7, "l1": 0.05, "lr": 0.1},
    ],
    "cocob": [{}, {"alpha": 3.0, "lr": 0.1}, {"eps": 0.0}],
    "adaptiverevision": [{}, {"lr": 0.1, "initial_accumulator_value": 0.0}],
    "lamb": [{}, {"betas": (0.5, 0.9), "eps": 0.0, "weight_decay": 0.1}],
    "lars": [
        {},
        {"momentum": 0.0, "weight_decay": 0.1},
        {"nesterov": True, "eps": 0.1, "trust_coefficient": 0.5, "weight_decay": 0.1},
    ],
    "prodigy": [
        {"d0": 1e-2},
        {"d0": 0.1, "growth_rate": 1.02, "beta3": 0.5, "use_bias_correction": True, "eps": 0.0},
        {"d0": 1e-3, "decoupled_weight_decay": False, "safeguard_warmup": True, "d_coef": 2.0},
    ],
    "yellowfin": [{}, {"beta": 0.9, "curv_window_width": 5, "lr": 0.3}],
    "adamax": [{}, {"eps_form": "outside"}, {"eps": 0.0, "betas": (0.5, 0.9)}, {"eps_form": "outside", "eps": 0.0}],
    "nadam": [{}, {"betas": (0.5, 0.9), "momentum_decay": 0.3, "eps": 0.0}],
    "radam": [{}, {"betas": (0.5, 0.9), "eps": 0.0}, {"betas": (0.3, 0.6)}],  # the last is never rectified
    "adabelief": [{}, {"rectify": False, "betas": (0.5, 0.9), "eps": 0.0}, {"eps": 1e-3}],
    "adopt": [{}, {"betas": (0.5, 0.9), "eps": 0.0, "lr": 0.1}],
    "yogi": [{}, {"initial_accumulator_value": 0.5, "betas": (0.5, 0.9), "eps": 0.0}],
    "qhadam": [{}, {"nus": (0.7, 0.4), "betas": (0.5, 0.9), "eps": 0.0}],
    "schedulefreesgd": [{}, {"momentum": 0.5, "warmup_steps": 7, "r": 0.7, "weight_lr_power": 1.5}],
    "schedulefreeadamw": [{}, {"betas": (0.5, 0.9), "eps": 0.0, "warmup_steps": 7, "r": 0.7, "weight_lr_power": 0.0}],
}
#: Those that take matrices alone; tests/test_whole.py has them.
MATRICES = {"muon"}
#: What the block operations add. They know nothing of the rules, so each is tried with some setting of each optimizer.
BLOCKS: list[dict[str, Any]] = [
    {"weight_decay": 0.05},
    {"maximize": True},
    {"maximize": True, "weight_decay": 0.05},
    {"weight_decay": 0.05, "decoupled_weight_decay": True},
    {"transforms": [fastopt.clip_global_norm(0.5), fastopt.transforms.ema(0.9)], "maximize": True},
    {"transforms": [fastopt.transforms.lookahead(3), fastopt.transforms.swa(1, 2)], "weight_decay": 0.05},
    {
        "transforms": [fastopt.transforms.clip_value(0.5), fastopt.transforms.clip_adaptive(0.1)],
        "maximize": True,
        "weight_decay": 0.05,
    },
]


def decay(cls: type, amount: float) -> dict[str, float]:
    """Weight decay as an option, where an optimizer has it."""
    return {"weight_decay": amount} if "weight_decay" in inspect.signature(cls).parameters else {}


def cases(blocks: bool = True, whole: bool = True) -> list[tuple[str, dict[str, Any]]]:
    """Every optimizer of parameters of any shape with every setting, and with every block operation that it offers; `whole`:
    also those whose step looks at whole rows or matrices."""
    found: list[tuple[str, dict[str, Any]]] = []
    for name, settings in SETTINGS.items():
        if name in MATRICES or not (whole or fastopt.Optimizer.known[name].plan is None):
            continue
        offers = inspect.signature(fastopt.Optimizer.known[name]).parameters
        tried = list(settings)
        for k, block in enumerate(BLOCKS if blocks else []):
            setting = settings[k % len(settings)]
            tried.append({**{option: v for option, v in block.items() if option in offers}, **setting})
        for both in tried:
            if (name, both) not in found:
                found.append((name, both))
    return found


def has_exact_form(case: tuple[str, dict[str, Any]]) -> bool:
    """Coupled decay is linear in SGD, ASGD and Schedule-Free alone; FTRL's shrinkage is not."""
    name, o = case
    cls = fastopt.Optimizer.known[name]
    if cls.rules[0].catch is None or o.get("transforms"):  # which test_transforms.py and test_clipping.py have
        return False
    decays = name in ("sgd", "adamw", "asgd", "lion", "adan", "schedulefreesgd", "schedulefreeadamw")
    decays |= o.get("decoupled_weight_decay", name == "adabelief")
    return (decays or not o.get("weight_decay")) and not o.get("l2_shrinkage")


def case_id(case: tuple[str, dict[str, Any]]) -> str:
    short = {k: [t.__class__.__name__ for t in v] if k == "transforms" else v for k, v in case[1].items()}
    return case[0] + "".join(f"-{k}={v}" for k, v in short.items())


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
