"""Outside oracle: the optimizers step by step beside PyTorch's own, on the settings of PyTorch's own tests.

Whoever wrote a kernel wrote its NumPy reference too, so that both can share an error; torch shares none of them.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.testing._internal.common_optimizers import OptimizerInfo, optim_db

import fastopt

STEPS = 50
SHAPES = [(), (7,), (5, 3), (33, 17), (0, 4)]
NAMES = ["scalar", "bias", "weight", "table", "empty"]
TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}

#: How many settings torch 2.13 has of each optimizer: one that vanishes there would not be missed here otherwise.
COUNTS = {"ASGD": 12, "Adadelta": 9, "Adafactor": 5, "Adagrad": 7, "Adam": 10, "AdamW": 10, "Adamax": 10, "Muon": 7}
COUNTS |= {"NAdam": 11, "RAdam": 10, "RMSprop": 11, "Rprop": 7, "SGD": 9, "SparseAdam": 4}
#: The settings that need an option which fastopt lacks: (optimizer, torch's description) -> reason. There are none.
SKIPPED: dict[tuple[str, str], str] = {}

#: Flags that choose among torch's implementations of the same mathematics ("capturable" needs a GPU).
TORCH_ONLY = {"foreach", "fused", "capturable", "differentiable"}

DENSE = sorted(set(COUNTS) - {"Muon", "SparseAdam"})
INFO: dict[str, OptimizerInfo] = {info.name: info for info in optim_db}


@pytest.fixture(autouse=True)
def torch_has_its_scalars_in_float64() -> Iterator[None]:
    """ASGD keeps its rate in torch's default dtype, whatever the parameters are."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def decay_of(name: str, amount: float) -> dict[str, float]:
    """Weight decay as an option, where torch's optimizer has it."""
    return (
        {"weight_decay": amount} if "weight_decay" in inspect.signature(getattr(torch.optim, name)).parameters else {}
    )


dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
optimizers = pytest.mark.parametrize("name", DENSE)


# ------------------------------------------------------------------------------------------------------- the settings


def convert(kwargs: dict[str, Any], tensor: Callable[[torch.Tensor], Any]) -> dict[str, Any]:
    """The options that both libraries have, tensors converted, also inside a pair."""

    def one(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return tensor(value)
        return tuple(map(one, value)) if isinstance(value, (tuple, list)) else value

    return {k: one(v) for k, v in kwargs.items() if k not in TORCH_ONLY}


def for_torch(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The options as torch gets them. Tensors stay tensors, but in double: with a rate that is a float32 tensor it
    derives the bias-corrected rate in float32, whatever the parameters are."""
    return convert(kwargs, torch.Tensor.double)


def for_fastopt(name: str, kwargs: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The options as fastopt gets them, and why it cannot take them ("" if it can)."""
    options = convert(kwargs, torch.Tensor.item)
    unknown = sorted(set(options) - set(inspect.signature(mine_of(name)).parameters))
    return options, f"fastopt.{mine_of(name).__name__} has no {', '.join(unknown)}" if unknown else ""


def mine_of(name: str) -> type[fastopt.Optimizer]:
    return fastopt.Adam if name == "SparseAdam" else getattr(fastopt, name)


def settings_of(name: str) -> list[Any]:
    """Those for a CPU, then those that torch tries on a GPU only, which have tensors for numbers."""
    cpu, gpu = (INFO[name].optim_inputs_func(device=device) for device in ("cpu", "cuda"))
    known = {s.desc for s in cpu}
    return cpu + [s for s in gpu if s.desc not in known]


def collect(names: Sequence[str]) -> list[Any]:
    """The settings that fastopt can take, as parameters of a test."""
    return [
        pytest.param(name, s.kwargs, id=f"{name}: {s.desc}")
        for name in names
        for s in settings_of(name)
        if not for_fastopt(name, s.kwargs)[1]
    ]


dense_settings = pytest.mark.parametrize(("name", "kwargs"), collect(DENSE))


def test_no_optimizer_that_torch_has_is_forgotten() -> None:
    assert {name for name in INFO if hasattr(fastopt, name)} == {*DENSE, "Muon"}


def test_every_setting_of_torch_runs_or_is_skipped_by_name() -> None:
    skipped = {}
    for name, count in COUNTS.items():
        settings = settings_of(name)
        assert len({f"{s.desc} {s.kwargs}" for s in settings}) == len(settings) == count, name
        # Torch leaves the parameters to the test. Should that change, their structure has to be taken over here.
        assert all(s.params is None for s in settings), name
        reasons = {(name, s.desc): for_fastopt(name, s.kwargs)[1] for s in settings}
        skipped.update({key: reason for key, reason in reasons.items() if reason})
        assert len(collect([name])) == count - sum(map(bool, reasons.values())), name
    assert skipped == SKIPPED


# -------------------------------------------------------------------------------------------------------- side by side


def assert_close(mine: np.ndarray, theirs: torch.Tensor, what: str) -> None:
    """|mine - theirs| <= tol max(1, max |theirs|), everywhere. NaN is never close."""
    want = theirs.detach().numpy()
    assert (mine.dtype, mine.shape) == (want.dtype, want.shape), what
    if want.size:
        difference = np.abs(mine.astype(np.float64) - want.astype(np.float64)).max()
        limit = TOLERANCE[want.dtype] * max(1.0, float(np.abs(want).max()))
        assert difference <= limit, f"{what}: differs by {difference:.3g}, allowed is {limit:.3g}"


class Pair:
    """An optimizer of fastopt and the same of torch, on copies of the same parameters.

    `structure` is how the parameters are handed over: "array", "list", "dict", "groups" or "named groups". With groups,
    `groups` has the number of parameters and the options of each.
    """

    def __init__(
        self,
        name: str,
        kwargs: dict[str, Any],
        start: Sequence[np.ndarray],
        structure: str = "list",
        groups: Sequence[tuple[int, dict[str, Any]]] = (),
        **fastopt_only: Any,
    ) -> None:
        cls: type[torch.optim.Optimizer] = getattr(torch.optim, name)
        self.mine = [p.copy() for p in start]
        self.theirs = [torch.tensor(p) for p in start]
        self.named = structure in ("dict", "named groups")
        self.keys: Sequence[Any] = NAMES[: len(start)] if self.named else range(len(start))
        self.structure, self.calls, self.counts = structure, 0, [0] * len(start)
        self.no_empty = name == "Adafactor"  # which divides by the number of elements

        named = dict(zip(self.keys, self.mine, strict=True))
        params: Any = self.mine[0] if structure == "array" else named if structure == "dict" else self.mine
        tensors: Any = list(zip(self.keys, self.theirs, strict=True)) if structure == "dict" else self.theirs
        if "groups" in structure:
            # Torch takes Adagrad's start from the constructor only, and ignores it in a group.
            starts = {k: v for _, o in groups for k, v in o.items() if k == "initial_accumulator_value"}
            kwargs = {**kwargs, **starts}
            params, tensors, first = [], [], 0
            for n, options in groups:
                part = list(self.keys[first : first + n])
                params.append(
                    {
                        "params": {k: named[k] for k in part} if self.named else [named[k] for k in part],
                        **for_fastopt(name, options)[0],
                    }
                )
                tensors.append({"params": self.theirs[first : first + n], **for_torch(options)})
                first += n
            assert first == len(start)
        self.opt = mine_of(name)(params, **for_fastopt(name, kwargs)[0], **fastopt_only)
        plain = {k: False for k in ("foreach", "fused") if k in inspect.signature(cls).parameters}
        self.reference = cls(tensors, **for_torch(kwargs), **plain)
        assert self.opt.backend == "native", "the oracle is for the compiled kernels"

    def step(self, grads: Sequence[Any], tensors: Sequence[torch.Tensor | None] | None = None) -> None:
        """One step of both; `tensors` are torch's gradients where they are not copies of `grads`."""
        if tensors is None:
            tensors = [None if g is None else torch.tensor(g) for g in grads]
        for p, g in zip(self.theirs, tensors, strict=True):
            p.grad = None if self.no_empty and not p.numel() else g
        self.reference.step()
        given: Any = dict(zip(self.keys, grads, strict=True)) if self.named else list(grads)
        self.opt.step(grads[0] if self.structure == "array" else given)
        self.calls += 1
        self.counts = [n + (g is not None) for n, g in zip(self.counts, grads, strict=True)]

    def change(self, group: int = 0, **options: Any) -> None:
        """Change options of a group in the way of both libraries."""
        for opt in (self.opt, self.reference):
            for key, value in options.items():
                opt.param_groups[group][key] = value
        # Torch's ASGD forms the rate of a step at the end of the one before; here a change holds at once.
        theirs = self.reference.param_groups[group]
        for p in theirs["params"]:
            if "eta" in self.reference.state[p] and "lr" in options:
                state = self.reference.state[p]
                state["eta"].fill_(
                    theirs["lr"] / (1 + theirs["lambd"] * theirs["lr"] * state["step"]) ** theirs["alpha"]
                )

    def states(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """The states of each parameter, of fastopt and of torch, by name."""
        mine, theirs = self.opt.state_dict()["state"], self.reference.state_dict()["state"]
        scalars = {"eta", "mu"}  # ASGD's, which follow from the step
        return [
            (dict(mine[key]), {k: v for k, v in theirs.get(i, {}).items() if k not in scalars})
            for i, key in enumerate(self.keys)
        ]

    def check(self) -> None:
        """Parameters, states and counters agree."""
        assert self.opt.state_dict()["step"] == self.calls
        for i, (mine, theirs) in enumerate(self.states()):
            what = f"parameter {i} of shape {self.mine[i].shape} after step {self.calls}"
            assert_close(self.mine[i], self.theirs[i], what)
            assert mine.pop("step") == self.counts[i], what
            assert int(theirs.pop("step", self.counts[i])) == self.counts[i], what
            theirs.pop("mu_product", None)  # of NAdam's momenta; here it is a function of the step
            if not theirs and (not self.counts[i] or (self.no_empty and not self.mine[i].size)):
                # Torch makes states in a parameter's first step, fastopt at once.
                group = self.opt.param_groups[self.opt._group_of[i]]
                assert all((a == a.dtype.type(self.opt.start(k, group))).all() for k, a in mine.items()), what
                continue
            assert mine.keys() == theirs.keys(), what
            for state, a in mine.items():
                assert_close(a, theirs[state], f"{state} of {what}")


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    """Torch keeps NAdam's product of momenta in its default dtype, whatever the parameters are."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def numbers(*key: Any) -> np.random.Generator:
    """Random numbers of a test's own, the same in every run."""
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def draw(rng: np.random.Generator, dtype: type, shapes: Sequence[tuple[int, ...]] = SHAPES) -> list[np.ndarray]:
    return [np.asarray(rng.standard_normal(shape), dtype) for shape in shapes]


# --------------------------------------------------------------------------------------------------------------- dense


@dtypes
@dense_settings
def test_setting(name: str, kwargs: dict[str, Any], dtype: type) -> None:
    rng = numbers(name, kwargs, dtype)
    pair = Pair(name, kwargs, draw(rng, dtype))
    for _ in range(STEPS):
        pair.step(draw(rng, dtype))
        pair.check()


@pytest.mark.parametrize("structure", ["array", "dict", "groups", "named groups"])
@dense_settings
def test_setting_in_other_structures(name: str, kwargs: dict[str, Any], structure: str) -> None:
    """In groups, the first has the setting's options as its own, the second has the optimizer's defaults."""
    rng = numbers(name, kwargs, structure)
    shapes = SHAPES[3:4] if structure == "array" else SHAPES
    grouped = "groups" in structure
    pair = Pair(name, {} if grouped else kwargs, draw(rng, np.float64, shapes), structure, [(3, kwargs), (2, {})])
    for _ in range(STEPS):
        pair.step(draw(rng, np.float64, shapes))
    pair.check()


#: Options that choose every span, for the tests that go beyond torch's settings.
SPANS: dict[str, list[dict[str, Any]]] = {
    "SGD": [
        {"lr": 0.1},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.3},
        {"lr": 0.1, "momentum": 0.8, "nesterov": True},
    ],
    "Adagrad": [{"lr": 0.1}, {"lr": 0.3, "lr_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3}],
    "Adadelta": [{"lr": 0.5, "rho": 0.8, "eps": 1e-4}],
    "Adafactor": [{"lr": 0.1}, {"lr": 0.3, "d": 1.5, "beta2_decay": -0.5, "eps": (1e-6, 1e-2)}],
    "RMSprop": [
        {"alpha": 0.9},
        {"momentum": 0.7},
        {"centered": True, "alpha": 0.8, "eps": 1e-4},
        {"centered": True, "momentum": 0.5},
    ],
    "Adam": [{"lr": 0.05}, {"amsgrad": True, "betas": (0.5, 0.8), "eps": 1e-3}, {"decoupled_weight_decay": True}],
    "AdamW": [{"lr": 0.05}, {"amsgrad": True, "betas": (0.0, 0.9)}],
    "Adamax": [{"lr": 0.05}, {"betas": (0.5, 0.8), "eps": 1e-2}],
    "NAdam": [{"lr": 0.05}, {"betas": (0.5, 0.8), "eps": 1e-3, "momentum_decay": 0.5}],
    "RAdam": [{"lr": 0.05}, {"betas": (0.5, 0.8), "eps": 1e-3}, {"betas": (0.9, 0.6)}],
    "ASGD": [{"lr": 0.1}, {"lr": 0.1, "lambd": 0.2, "alpha": 0.6, "t0": 5}],
    "Rprop": [{"lr": 0.05}, {"lr": 0.3, "etas": (0.3, 1.6), "step_sizes": (1e-2, 0.5)}],
}
#: Spans for options that torch lacks.
NOT_TORCH = {"adagrad_first_power", "adagrad_power", "adamax_outside"}
every_span = pytest.mark.parametrize(
    ("name", "kwargs"),
    [pytest.param(n, o, id=f"{n}{''.join(f'-{k}={v}' for k, v in o.items())}") for n in DENSE for o in SPANS[n]],
)


def test_no_span_and_no_state_is_left_out() -> None:
    spans, states = set(), set()
    for name in DENSE:
        for kwargs in SPANS[name]:
            pair = Pair(name, kwargs, [np.ones(3), np.ones((3, 2))])
            pair.step([np.ones(3), np.ones((3, 2))])
            pair.check()
            spans.add((name, pair.opt.rule(pair.opt.param_groups[0])))
            states |= {state for mine, _ in pair.states() for state in mine}
    assert spans == {(name, rule.span) for name in DENSE for rule in mine_of(name).rules if rule.span not in NOT_TORCH}
    names = "acc_delta ax col_var exp_avg exp_avg_sq exp_inf grad_avg max_exp_avg_sq momentum_buffer prev row_var"
    names += " square_avg step step_size sum variance"
    assert sorted(states) == names.split()


@dtypes
@pytest.mark.parametrize("maximize", [False, True], ids=["minimize", "maximize"])
@pytest.mark.parametrize("decay", [0.0, 0.2])
@every_span
def test_weight_decay_and_maximize(
    name: str, kwargs: dict[str, Any], decay: float, maximize: bool, dtype: type
) -> None:
    rng = numbers(name, kwargs, decay, maximize, dtype)
    pair = Pair(name, {**kwargs, **decay_of(name, decay), "maximize": maximize}, draw(rng, dtype))
    for _ in range(STEPS):
        pair.step(draw(rng, dtype))
        pair.check()


@dtypes
@every_span
def test_none_skips_and_zero_does_not(name: str, kwargs: dict[str, Any], dtype: type) -> None:
    """Counters drift apart: bias corrections, Adagrad's decay and the first step of momentum follow each its own."""
    rng = numbers(name, kwargs, dtype)
    start = draw(rng, dtype, [(4,), (7,), (5, 3), (33, 17), ()])
    pair = Pair(name, {**kwargs, **decay_of(name, 0.1)}, start)
    for t in range(STEPS):
        grads: list[np.ndarray | None] = [*draw(rng, dtype, [p.shape for p in start])]
        # The first never has a gradient, the second not before the eleventh step, the last always.
        absent = [True, t < 10 or t % 4 == 1, t % 3 == 0, t % 5 == 1, False]
        for i, none in enumerate(absent):
            if none:
                grads[i] = None
            elif rng.random() < 0.2:
                grads[i] = np.zeros_like(start[i])
        pair.step(grads)
        pair.check()
    assert pair.counts == [0, 30, 33, 40, 50]
    assert np.array_equal(pair.mine[0], start[0])


@dtypes
@pytest.mark.parametrize("structure", ["groups", "named groups"])
@optimizers
def test_two_groups_with_different_options(name: str, structure: str, dtype: type) -> None:
    rng = numbers(name, structure, dtype)
    one, other = SPANS[name][-1], SPANS[name][0]
    groups = [(2, {**one, **decay_of(name, 0.1)}), (3, {**other, "maximize": True, "lr": 0.02})]
    pair = Pair(name, {"lr": 0.3}, draw(rng, dtype), structure, groups)
    for t in range(STEPS):
        grads: list[np.ndarray | None] = [*draw(rng, dtype)]
        grads[t % 5] = None
        pair.step(grads)
        pair.check()


@dtypes
@every_span
def test_options_changed_in_the_middle(name: str, kwargs: dict[str, Any], dtype: type) -> None:
    rng = numbers(name, kwargs, dtype)
    pair = Pair(name, {}, draw(rng, dtype), "groups", [(3, kwargs), (2, kwargs)])
    changes = {
        10: (0, {"lr": 0.2}),
        20: (1, {"lr": 0.003}),
        25: (0, {"lr": 0.0}),  # a rate of zero holds the parameters; the states go on
        30: (0, {"lr": 0.05, **decay_of(name, 0.3)}),
        40: (1, {"maximize": True, "lr": 0.01}),
    }
    for t in range(STEPS):
        if t in changes:
            group, options = changes[t]
            pair.change(group, **options)
        grads: list[np.ndarray | None] = [*draw(rng, dtype)]
        if t % 3 == 0:
            grads[t % 5] = None
        pair.step(grads)
        pair.check()


# -------------------------------------------------------------------------------------------------- matrices and tensors


@dtypes
@pytest.mark.parametrize("kwargs", SPANS["Adafactor"], ids=str)
def test_adafactor_factors_the_last_two_dimensions(kwargs: dict[str, Any], dtype: type) -> None:
    rng = numbers(kwargs, dtype)
    shapes = [(3, 4, 5), (2, 3, 4, 5), (70, 1030), (1, 9), (9, 1)]
    pair = Pair("Adafactor", kwargs, draw(rng, dtype, shapes))
    for _ in range(STEPS):
        pair.step(draw(rng, dtype, shapes))
        pair.check()


@pytest.mark.parametrize(("name", "kwargs"), collect(["Muon"]))
def test_muon_up_to_the_precision_of_bfloat16(name: str, kwargs: dict[str, Any]) -> None:
    """In which torch iterates, whatever the parameters are; the momentum is exact there too."""
    rng = numbers(kwargs)
    shapes = [(5, 3), (33, 17), (17, 64), (1, 9)]
    start = draw(rng, np.float32, shapes)
    pair = Pair(name, kwargs, start)
    for _ in range(10):
        pair.step(draw(rng, np.float32, shapes))
    for before, mine, theirs, (state, other) in zip(start, pair.mine, pair.theirs, pair.states(), strict=True):
        assert np.abs(mine - theirs.numpy()).max() <= 0.05 * np.abs(mine - before).max()
        assert_close(state["momentum_buffer"], other["momentum_buffer"], "momentum_buffer")


# ------------------------------------------------------------------------------------------------- the momentum buffer


@dtypes
@pytest.mark.parametrize("options", [{"dampening": 0.4}, {"dampening": 1.0}, {"nesterov": True}], ids=str)
def test_sgd_momentum_buffer_is_absent_before_its_first_step(options: dict[str, Any], dtype: type) -> None:
    rng = numbers(options, dtype)
    pair = Pair("SGD", {"lr": 0.1, "momentum": 0.9, **options}, draw(rng, dtype, SHAPES[:3]))

    def have_buffer() -> list[bool]:
        found = [("momentum_buffer" in mine, "momentum_buffer" in theirs) for mine, theirs in pair.states()]
        assert all(mine == theirs for mine, theirs in found)
        return [mine for mine, _ in found]

    assert have_buffer() == [False, False, False]
    first = draw(rng, dtype, SHAPES[:3])
    pair.step([first[0], None, None])
    assert have_buffer() == [True, False, False]
    pair.step([None, first[1], None])
    assert have_buffer() == [True, True, False]
    for (mine, theirs), g in zip(pair.states()[:2], first[:2], strict=True):
        # Dampening does not act on the first step: the buffer is the gradient, to the bit.
        assert np.array_equal(mine["momentum_buffer"], g)
        assert np.array_equal(theirs["momentum_buffer"].numpy(), g)
    pair.check()
    for _ in range(STEPS):
        pair.step(draw(rng, dtype, SHAPES[:3]))
        pair.check()
    assert have_buffer() == [True, True, True]


@dtypes
@pytest.mark.parametrize("options", [{"dampening": 0.4}, {"nesterov": True}, {"maximize": True}], ids=str)
def test_sgd_momentum_switched_on_in_the_middle(options: dict[str, Any], dtype: type) -> None:
    """The buffer begins at the switch, for each parameter with its own next gradient."""
    rng = numbers(options, dtype)
    shapes = SHAPES[:4]
    pair = Pair("SGD", {"lr": 0.1, "weight_decay": 0.1}, draw(rng, dtype, shapes))
    for t in range(STEPS):
        if t == 20:
            pair.change(momentum=0.9)
            pair.change(**options)  # after momentum, which Nesterov's needs
            pair.check()
        grads: list[np.ndarray | None] = [*draw(rng, dtype, shapes)]
        if t < 30:
            grads[1] = None  # had no step before the switch
        if t in (19, 20, 21, 35):
            grads[2] = None  # absent at the switch
        pair.step(grads)
        pair.check()
    assert pair.counts == [50, 20, 46, 50]


# -------------------------------------------------------------------------------------------------------------- sparse

TABLES = [(50,), (50, 3), (40, 16), (9, 4, 5)]


def draw_sparse(
    rng: np.random.Generator, dtype: type, shape: tuple[int, ...], entries: int, coalesced: bool
) -> tuple[fastopt.SparseGrad, torch.Tensor]:
    """The same sparse gradient for both; rows repeat unless it is coalesced."""
    ids = rng.integers(0, shape[0], entries)
    values = np.asarray(rng.standard_normal((entries, *shape[1:])), dtype)
    theirs = torch.sparse_coo_tensor(torch.tensor(ids)[None], torch.tensor(values), shape)
    if not coalesced:
        return fastopt.SparseGrad(ids, values), theirs
    theirs = theirs.coalesce()
    mine = fastopt.SparseGrad(theirs.indices()[0].numpy().copy(), theirs.values().numpy().copy(), duplicates="none")
    return mine, theirs


@torch.sparse.check_sparse_tensor_invariants()  # else torch warns that it does not check
def run_sparse(pair: Pair, rng: np.random.Generator, dtype: type, coalesced: bool) -> None:
    repeated = 0
    for t in range(STEPS):
        # No row, one, a few, and so many that most repeat; each table has another number in the same step.
        sizes = [(0, 1, 5, 20, 100)[(t + i) % 5] for i in range(len(TABLES))]
        both = [draw_sparse(rng, dtype, s, n, coalesced) for s, n in zip(TABLES, sizes, strict=True)]
        repeated += sum(len(g.indices) - len(np.unique(g.indices)) for g, _ in both)
        before = [p.copy() for p in pair.mine]
        mine: list[Any] = [g for g, _ in both]
        theirs: list[Any] = [g for _, g in both]
        if t % 7 == 3:
            mine[t % 4] = theirs[t % 4] = None
        pair.step(mine, theirs)
        pair.check()
        for g, p, old in zip(mine, pair.mine, before, strict=True):
            untouched = np.setdiff1d(np.arange(len(p)), [] if g is None else g.indices)
            assert np.array_equal(p[untouched], old[untouched])
    assert (repeated == 0) == coalesced


@dtypes
@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        *collect(["SparseAdam"]),
        pytest.param("SparseAdam", INFO["SparseAdam"].metadata_for_sparse[0], id="SparseAdam: for sparse tests"),
        pytest.param("SparseAdam", {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3}, id="SparseAdam: betas, eps"),
    ],
)
def test_sparse_adam(name: str, kwargs: dict[str, Any], dtype: type) -> None:
    """Torch has its lazy Adam as a class, with epsilon beside the uncorrected root."""
    rng = numbers(kwargs, dtype)
    run_sparse(Pair(name, kwargs, draw(rng, dtype, TABLES), eps_form="hat"), rng, dtype, coalesced=False)


@dtypes
@pytest.mark.parametrize("coalesced", [True, False], ids=["coalesced", "duplicates"])
@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        pytest.param("SGD", INFO["SGD"].metadata_for_sparse[0], id="SGD: for sparse tests"),
        pytest.param("SGD", {"lr": 0.1, "maximize": True}, id="SGD: maximize"),
        pytest.param("Adagrad", INFO["Adagrad"].metadata_for_sparse[0], id="Adagrad: for sparse tests"),
        pytest.param("Adagrad", {"lr": 0.1, "lr_decay": 0.2, "initial_accumulator_value": 0.3}, id="Adagrad: lr_decay"),
        pytest.param("Adagrad", {"lr": 0.1, "eps": 1e-3, "maximize": True}, id="Adagrad: maximize"),
    ],
)
def test_sparse_sgd_and_adagrad(name: str, kwargs: dict[str, Any], coalesced: bool, dtype: type) -> None:
    rng = numbers(name, kwargs, coalesced, dtype)
    run_sparse(Pair(name, kwargs, draw(rng, dtype, TABLES)), rng, dtype, coalesced)


# ------------------------------------------------------------------------------- one process, several OpenMP libraries


def run_python(script: str, *args: str) -> None:
    """Run a script in a process of its own with two threads; a failure or a hang of it is one of the test."""
    env = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *args], env=env, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), f"{done.returncode}\n{done.stdout}\n{done.stderr}"


SIDE_BY_SIDE = """
    import importlib, sys
    order = sys.argv[1].split(",")
    for module in order:
        importlib.import_module(module)
    import fastopt, numpy, torch, sklearn.cluster
    from fastopt.kernels import drivers

    fastopt.set_num_threads(2)
    torch.set_num_threads(2)
    n = 1_200_001
    rng = numpy.random.default_rng(7)
    mine = rng.standard_normal(n, dtype=numpy.float32)
    theirs = torch.tensor(mine)
    a, b = fastopt.Adam(mine, lr=0.01), torch.optim.Adam([theirs], lr=0.01, foreach=False, fused=False)
    far_apart = rng.random((300_001, 4), dtype=numpy.float32)
    far_apart[1::2] += 10

    def step_fastopt():
        a.step(g)
        assert drivers.last_team() == 2 or not drivers.OPENMP, drivers.last_team()

    def step_torch():
        theirs.grad = torch.tensor(g)
        b.step()
        assert torch.get_num_threads() == 2, torch.get_num_threads()

    def step_sklearn():
        model = sklearn.cluster.KMeans(2, init=far_apart[:2], n_init=1, max_iter=3, algorithm="lloyd").fit(far_apart)
        assert (model.labels_ == numpy.arange(len(far_apart)) % 2).all()

    steps = {"fastopt": step_fastopt, "torch": step_torch, "sklearn.cluster": step_sklearn}
    for _ in range(3):
        g = rng.standard_normal(n, dtype=numpy.float32)
        for module in order:
            steps[module]()
        difference, limit = numpy.abs(mine - theirs.numpy()).max(), 1e-5 * max(1, numpy.abs(mine).max())
        assert difference <= limit, (difference, limit)
    print("done")
"""


@pytest.mark.parametrize(
    "order",
    [
        "fastopt,torch,sklearn.cluster",
        "fastopt,sklearn.cluster,torch",
        "torch,fastopt,sklearn.cluster",
        "sklearn.cluster,fastopt,torch",
        "torch,sklearn.cluster,fastopt",
        "sklearn.cluster,torch,fastopt",
    ],
)
def test_any_order_of_import(order: str) -> None:
    """Each library brings an OpenMP of its own. All take steps with two threads, the first to be imported first."""
    run_python(SIDE_BY_SIDE, order)


FORK = """
    import os, signal, sys
    import numpy, fastopt
    from fastopt.kernels import drivers

    fastopt.set_num_threads(2)
    n = 1_200_001
    rng = numpy.random.default_rng(7)
    start, g = rng.standard_normal((2, n), dtype=numpy.float32)
    if sys.argv[1] == "torch":
        import torch
        torch.set_num_threads(2)
        p = torch.tensor(start)
        p.grad = torch.tensor(g)
        torch.optim.Adam([p], foreach=False, fused=False).step()

    want = start.copy()
    reference = fastopt.Adam(want, backend="numpy")
    reference.step(g)
    reference.step(g)

    p = start.copy()
    opt = fastopt.Adam(p)
    opt.step(g)
    team = 2 if drivers.OPENMP else 1
    assert drivers.last_team() == team  # else there is nothing to hang
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.alarm(30)  # ends a child that hangs, which nobody else would
            opt.step(g)
            code = 0 if numpy.array_equal(p, want) and fastopt.get_num_threads() == 1 else 2
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code != -signal.SIGALRM, "the child hung in its step"
    assert code == 0, f"the child ended with {code}"
    opt.step(g)  # the parent goes on as before
    assert drivers.last_team() == team and numpy.array_equal(p, want)
    print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("company", ["alone", "torch"])
def test_fork_after_a_parallel_step_does_not_hang(company: str) -> None:
    run_python(FORK, company)
