"""The optimizers beside `derivations`, which were written from the papers by someone who had not seen the library."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
from derivations import ORACLES, STEPPERS, schedule_free_x
from test_arguments import each_backend

import fastopt

STEPS = 60
SHAPES: list[tuple[int, ...]] = [(), (7,), (5, 3), (3, 4, 2)]
MATRICES = [(5, 3), (3, 6), (4, 4)]

#: what torch alone checks (tests/oracles): plain enough, and the same rules are in no derivation
BY_TORCH = {"sgd", "adadelta", "rmsprop", "adam", "adamw"}

#: (name, options of the library, those of the derivation where they are others, largest error in float64)
TABLE: list[tuple[str, dict[str, Any], dict[str, Any] | None, float]] = [
    ("adagrad", {"lr": 0.1}, None, 1e-12),
    ("adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.5}, None, 1e-12),
    ("adagrad", {"power": 0.3, "lr": 0.1}, None, 1e-12),
    ("adagrad", {"power": 0.7, "eps_form": "inside", "eps": 1e-3, "lr": 0.1}, None, 1e-12),
    ("rowwiseadagrad", {"lr": 0.1, "initial_accumulator_value": 0.1}, None, 1e-12),
    ("sm3", {}, None, 1e-12),
    ("sm3", {"momentum": 0.9}, None, 1e-12),
    ("adaptiverevision", {"lr": 0.3}, None, 1e-12),
    ("adaptiverevision", {"lr": 0.3, "initial_accumulator_value": 0.1}, None, 1e-12),
    ("adamax", {"lr": 0.05}, None, 1e-12),
    ("adamax", {"eps_form": "outside", "betas": (0.5, 0.9), "eps": 1e-3}, None, 1e-12),
    ("nadam", {"lr": 0.05}, None, 1e-12),
    ("nadam", {"betas": (0.5, 0.9), "momentum_decay": 0.3, "eps": 1e-3}, None, 1e-12),
    ("radam", {"lr": 0.05}, None, 1e-12),
    ("radam", {"betas": (0.5, 0.9), "eps": 1e-3}, None, 1e-12),
    ("radam", {"betas": (0.3, 0.6)}, None, 1e-12),
    ("adabelief", {"lr": 0.05}, None, 1e-10),
    ("adabelief", {"rectify": False, "betas": (0.5, 0.9), "eps": 1e-8}, None, 1e-10),
    ("adabelief", {"eps": 1e-3, "decoupled_weight_decay": False, "weight_decay": 0.1}, None, 1e-12),
    ("yogi", {}, None, 1e-12),
    ("adopt", {}, None, 1e-12),
    ("adopt", {"betas": (0.5, 0.9), "eps": 0.3}, None, 1e-11),
    ("yogi", {"initial_accumulator_value": 0.5, "betas": (0.5, 0.9), "eps": 1e-2}, None, 1e-11),
    ("qhadam", {"lr": 0.05}, None, 1e-12),
    ("qhadam", {"nus": (0.7, 0.4), "betas": (0.5, 0.9), "eps": 1e-3}, None, 1e-12),
    ("adan", {"lr": 0.05}, None, 1e-12),
    ("adan", {"betas": (0.5, 0.3, 0.9), "weight_decay": 0.1, "lr": 0.1}, None, 1e-12),
    ("adan", {"no_prox": True, "weight_decay": 0.1, "eps": 1e-3, "lr": 0.1}, None, 1e-12),
    ("lamb", {"lr": 0.01}, None, 1e-12),
    ("lamb", {"betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}, None, 1e-12),
    ("lion", {"lr": 0.01}, None, 1e-12),
    ("lion", {"betas": (0.6, 0.8), "lr": 0.03, "weight_decay": 0.1}, None, 1e-12),
    ("signsgd", {"lr": 0.03}, None, 1e-12),
    ("signum", {"lr": 0.03}, None, 1e-12),
    ("signum", {"momentum": 0.6}, None, 1e-12),
    ("rprop", {}, None, 1e-12),
    ("rprop", {"lr": 0.3, "etas": (0.3, 1.5), "step_sizes": (1e-3, 2.0)}, None, 1e-12),
    ("asgd", {"lr": 0.1}, None, 1e-12),
    ("asgd", {"lr": 0.1, "lambd": 0.3, "t0": 2, "alpha": 0.6}, None, 1e-12),
    ("ftrl", {"lr": 0.1}, None, 1e-10),
    ("ftrl", {"l1": 0.1, "l2": 0.2, "beta": 1.0, "lr": 0.3, "l2_shrinkage": 0.1}, None, 1e-10),
    ("ftrl", {"lr": 0.1, "lr_power": -0.3, "initial_accumulator_value": 0.5}, None, 1e-10),
    # With another lr the derivation lets the reward count what was wagered, the library what the algorithm of the paper
    # would have: test_scaled_bets
    ("cocob", {}, None, 1e-12),
    ("cocob", {"alpha": 3.0, "eps": 1e-4}, None, 1e-12),
    ("lars", {}, None, 1e-12),
    ("lars", {"momentum": 0.0, "weight_decay": 0.1}, None, 1e-12),
    (
        "lars",
        {"nesterov": True, "eps": 0.1, "trust_coefficient": 0.5, "weight_decay": 0.1, "lr": 0.3},
        None,
        1e-12,
    ),
    # eps[0] = None means the epsilon of the dtype
    ("adafactor", {}, None, 1e-12),
    ("adafactor", {"eps": (1e-3, 1e-2), "beta2_decay": -0.5, "weight_decay": 0.1, "lr": 0.5}, None, 1e-12),
    ("muon", {"lr": 0.02}, None, 1e-10),
    ("muon", {"lr": 0.02, "nesterov": False, "adjust_lr_fn": "match_rms_adamw", "ns_steps": 3}, None, 1e-10),
    ("schedulefreesgd", {"lr": 0.1}, None, 1e-12),
    ("schedulefreesgd", {"lr": 0.1, "momentum": 0.7, "weight_decay": 0.1, "warmup_steps": 9, "r": 1.0}, None, 1e-12),
    ("schedulefreeadamw", {"lr": 0.02}, None, 1e-12),
    ("schedulefreeadamw", {"betas": (0.7, 0.9), "weight_decay": 0.1, "warmup_steps": 9, "r": 0.5}, None, 1e-12),
    # the authors' name of the option is `decouple`
    ("prodigy", {"d0": 1e-2}, None, 1e-9),
    (
        "prodigy",
        {"d0": 1e-3, "decoupled_weight_decay": True, "weight_decay": 0.1, "use_bias_correction": True, "beta3": 0.5},
        {"d0": 1e-3, "decouple": True, "weight_decay": 0.1, "use_bias_correction": True, "beta3": 0.5},
        1e-9,
    ),
    (
        "prodigy",
        {"d0": 1e-3, "decoupled_weight_decay": False, "weight_decay": 0.1, "safeguard_warmup": True, "d_coef": 2.0},
        {"d0": 1e-3, "decouple": False, "weight_decay": 0.1, "safeguard_warmup": True, "d_coef": 2.0},
        1e-9,
    ),
    ("prodigy", {"d0": 1e-2, "growth_rate": 1.02, "maximize": True}, None, 1e-9),
    # The derivation adds the authors' eps = 1e-6 to all that it has measured; the library holds the variance at 1e-6 at
    # least, and adds nothing. What remains is the first step, in which there is no variance.
    ("yellowfin", {}, {"eps": 1e-15}, 3e-8),
    (
        "yellowfin",
        {"beta": 0.9, "curv_window_width": 5, "lr": 0.3},
        {"eps": 1e-15, "beta": 0.9, "curv_window_width": 5, "lr": 0.3},
        3e-8,
    ),
]
#: Options for which library and derivation mean different things: COCOB's lr is said above; Rprop's is what sizes start
#: from; the derivation decays by YellowFin's tuned rate, the library by `lr`, its factor.
APART = {("rprop", "lr"), ("cocob", "lr")}
#: YellowFin: the derivation keeps the share of a parameter without a gradient in the mean. Schedule-Free: its weights go on
#: while a parameter has no gradient; in the library every parameter has its own.
NEEDS_ALL_GRADIENTS = {"yellowfin", "schedulefreesgd", "schedulefreeadamw"}


def offers(name: str) -> Any:
    return inspect.signature(fastopt.Optimizer.known[name]).parameters


def entries() -> list[Any]:
    """The table, with decay of both kinds and `maximize` for each optimizer that has them; what is awaited left out."""
    found = []
    for name, options, theirs, limit in TABLE:
        if name in fastopt.Optimizer.known and set(options) <= set(offers(name)):
            found.append((name, options, options if theirs is None else theirs, limit))
    for name in dict.fromkeys(entry[0] for entry in found):
        limit = next(entry[3] for entry in found if entry[0] == name)
        options, theirs = next(entry[1:3] for entry in found if entry[0] == name)
        both = set(offers(name)) & set(STEPPERS[name].defaults)
        for extra in (
            {"maximize": True},
            {"weight_decay": 0.1},
            {"weight_decay": 0.1, "decoupled_weight_decay": True},
            {"lr": lambda t: 0.1 / (1 + 0.1 * t)},
        ):
            if set(extra) <= both and not any((name, option) in APART for option in extra):
                found.append((name, {**options, **extra}, {**theirs, **extra}, limit))
    return [
        pytest.param(
            *entry, id="-".join([entry[0], *(f"{k}={'f' if callable(v) else v}" for k, v in entry[1].items())])
        )
        for entry in found
    ]


def problem(name: str, seed: int = 0, steps: int = STEPS) -> tuple[list[np.ndarray], list[list[Any]]]:
    """Parameters of several shapes, and gradients that are None for some of them in some steps."""
    rng = np.random.default_rng(seed)
    shapes = MATRICES if name == "muon" else SHAPES
    params = [np.asarray(rng.standard_normal(s)) for s in shapes]
    scale = [10.0 ** rng.uniform(-1, 1, s) for s in shapes]
    grads: list[list[Any]] = []
    for t in range(steps):
        grads.append([np.asarray(a * (rng.standard_normal(a.shape) + 0.3)) for a in scale])
        if t % 7 == 3 and name not in NEEDS_ALL_GRADIENTS:
            grads[-1][t % len(shapes)] = None
    return params, grads


def gap(mine: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    return max(float(np.max(np.abs(p - q) / (1 + np.abs(q)))) for p, q in zip(mine, theirs, strict=True))


@each_backend
@pytest.mark.parametrize(("name", "options", "theirs", "limit"), entries())
def test_steps_are_those_of_the_derivation(name, options, theirs, limit, backend):
    params, grads = problem(name)
    want = ORACLES[name](params, grads, theirs)
    mine = [p.copy() for p in params]
    opt = fastopt.Optimizer.known[name](mine, **options, backend=backend)
    for t, (g, expected) in enumerate(zip(grads, want, strict=True)):
        opt.step(g)
        assert gap(mine, expected) <= limit, f"step {t}: {gap(mine, expected)}"
    assert gap(mine, params) > 1e-4  # something has moved


@each_backend
@pytest.mark.parametrize(("name", "options", "theirs", "limit"), entries())
def test_float32_is_near_the_derivation(name, options, theirs, limit, backend):
    params, grads = problem(name, 1, 25)
    params = [p.astype(np.float32) for p in params]
    grads = [[None if a is None else a.astype(np.float32) for a in g] for g in grads]
    if name == "adafactor" and "eps" not in options:
        theirs = {**theirs, "eps": (float(np.finfo(np.float32).eps), 1e-3)}
    want = ORACLES[name](params, grads, theirs)[-1]
    opt = fastopt.Optimizer.known[name](params, **options, backend=backend)
    for g in grads:
        opt.step(g)
    assert gap(params, want) <= 1e-2 if name == "muon" else 2e-3, gap(params, want)


@each_backend
@pytest.mark.parametrize("lr", [0.1, 3.0])
def test_scaled_bets(lr, backend):
    """COCOB's lr multiplies the bet that the paper's algorithm makes, whose reward does not know of it."""
    params, grads = problem("cocob")
    want = ORACLES["cocob"](params, grads, {"lr": 1.0})
    mine = [p.copy() for p in params]
    opt = fastopt.COCOB(mine, lr=lr, backend=backend)
    for g, expected in zip(grads, want, strict=True):
        opt.step(g)
        assert gap(mine, [p + lr * (q - p) for p, q in zip(params, expected, strict=True)]) <= 1e-12


@each_backend
@pytest.mark.parametrize("start", [1.0, 0.01])
def test_delayed_gradients(start, backend):
    """AdaptiveRevision with snapshots that are some steps old."""
    rng = np.random.default_rng(4)
    params = [rng.standard_normal(6), rng.standard_normal((3, 4))]
    grads = [[rng.standard_normal(p.shape) for p in params] for _ in range(STEPS)]
    delays = [int(rng.integers(0, min(k, 9) + 1)) for k in range(STEPS)]
    theirs = {"lr": 0.3, "initial_accumulator_value": start, "delays": delays}
    want = ORACLES["adaptiverevision"](params, grads, theirs)
    mine = [p.copy() for p in params]
    opt = fastopt.AdaptiveRevision(mine, lr=0.3, initial_accumulator_value=start, backend=backend)
    snapshots = [opt.snapshot()]
    for k, g in enumerate(grads):
        opt.step(g, seen=snapshots[k - delays[k]])
        snapshots.append(opt.snapshot())
        assert gap(mine, want[k]) <= 1e-11, k


@each_backend
def test_the_average_of_asgd(backend):
    options = {"lr": 0.1, "lambd": 0.3, "t0": 5}
    params, grads = problem("asgd")
    stepper = STEPPERS["asgd"](params, options)
    stepper.run(grads)
    opt = fastopt.ASGD(params, **options, backend=backend)
    for g in grads:
        opt.step(g)
    for k, entry in opt.state_dict()["state"].items():
        np.testing.assert_allclose(entry["ax"], stepper.states[k]["ax"], rtol=1e-10, atol=1e-12)


@each_backend
@pytest.mark.parametrize("name", ["schedulefreesgd", "schedulefreeadamw"])
def test_the_averages_of_schedule_free(name, backend):
    params, grads = problem(name)
    want = schedule_free_x(name, params, grads, {"lr": 0.05})[-1]
    opt = fastopt.Optimizer.known[name](params, lr=0.05, backend=backend)
    for g in grads:
        opt.step(g)
    opt.eval()
    assert gap(params, want) <= 1e-11


@each_backend
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_what_yellowfin_has_tuned(scale, backend):
    """The rate and the momentum themselves, where the trajectory would forgive an error."""
    params, grads = problem("yellowfin")
    stepper = STEPPERS["yellowfin"](params, {"eps": 1e-15})
    opt = fastopt.YellowFin(params, backend=backend)
    for g in grads:
        g = [np.asarray(scale * a) for a in g]
        stepper.step(g)
        stepper.k += 1
        opt.step(g)
        memory = opt.state_dict()["param_groups"][0]["memory"]
        undo = 1 - 0.999**stepper.k
        assert math.isclose(memory["rate"] / undo, stepper.tuned[0], rel_tol=1e-7)
        assert math.isclose(memory["momentum"] / undo, stepper.tuned[1], rel_tol=1e-7, abs_tol=1e-9)


def test_what_prodigy_has_estimated():
    params, grads = problem("prodigy")
    stepper = STEPPERS["prodigy"](params, {"d0": 1e-3})
    opt = fastopt.Prodigy(params, d0=1e-3)
    for g in grads:
        stepper.step(g)
        stepper.k += 1
        opt.step(g)
        memory = opt.state_dict()["param_groups"][0]["memory"]
        for key in ("d", "d_max", "numerator"):
            assert math.isclose(memory[key], getattr(stepper, key), rel_tol=1e-9), key


def test_every_optimizer_is_in_the_table():
    listed = {name for name, *_ in TABLE}
    known = set(fastopt.Optimizer.known)
    missing = known - listed - BY_TORCH
    assert not missing, f"tests/test_derivations.py has no entry for {', '.join(sorted(missing))}"
    assert not BY_TORCH & listed
    assert listed <= known, f"gone from the library: {', '.join(sorted(listed - known))}"
    unused = {
        (name, option) for name, options, *_ in TABLE if name in known for option in set(options) - set(offers(name))
    }
    assert not unused, f"no such options: {sorted(unused)}"
