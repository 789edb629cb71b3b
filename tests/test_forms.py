"""Forms of the same rule that papers and libraries write differently: where they are equal, and where they are not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from test_arguments import each_backend

import fastopt

Array = np.ndarray
MU, RATE, STEPS = 0.9, 0.05, 60


def falling(t: int) -> float:
    return RATE / (1 + t)


def gradient(x: Array) -> Array:
    """Of a function with a curvature of its own in each direction, neither quadratic nor symmetric."""
    k = np.arange(1.0, 1 + x.size)
    return np.sin(k * x) + 0.3 * k * x - 0.1


def run(step: Callable[[Array], None], p: Array) -> Array:
    """Where the parameter stood before and after each step."""
    course = [p.copy()]
    for _ in range(STEPS):
        step(gradient(p))
        course.append(p.copy())
    return np.array(course)


@each_backend
def test_nesterov_is_the_textbooks_at_the_point_looked_ahead_to(backend):
    """x <- x + v, v <- mu v - rate gradient(x + mu v): the parameter is x + mu v, and the buffer -v / rate."""
    p = np.linspace(-1.0, 1.0, 7)
    x, v = p.copy(), np.zeros(7)
    opt = fastopt.SGD(p, lr=RATE, momentum=MU, nesterov=True, backend=backend)
    course = run(opt.step, p)
    for looked_ahead in course:
        np.testing.assert_allclose(looked_ahead, x + MU * v, rtol=0, atol=1e-13)
        v = MU * v - RATE * gradient(x + MU * v)
        x = x + v
    assert np.abs(course[-1] - course[0]).max() > 0.1


@each_backend
@pytest.mark.parametrize("nesterov", [False, True])
def test_the_rate_inside_the_buffer_is_the_rate_outside_while_it_is_constant(backend, nesterov):
    """The papers' momentum is inside (v <- mu v + rate g, p <- p - v), PyTorch's outside."""
    ends = {}
    for lr in (RATE, falling):
        for inside in (False, True):
            p = np.linspace(-1.0, 1.0, 7)
            opt = fastopt.SGD(p, lr=lr, momentum=MU, nesterov=nesterov, lr_inside=inside, backend=backend)
            ends[lr, inside] = run(opt.step, p)
            if inside:
                q, v = np.linspace(-1.0, 1.0, 7), np.zeros(7)
                for t, now in enumerate(ends[lr, inside]):
                    np.testing.assert_allclose(now, q, rtol=0, atol=1e-13)
                    rate = lr(t) if callable(lr) else lr
                    g = gradient(q)
                    v = MU * v + rate * g
                    q = q - (MU * v + rate * g if nesterov else v)
    np.testing.assert_allclose(ends[RATE, True], ends[RATE, False], rtol=0, atol=1e-13)
    assert np.abs(ends[falling, True] - ends[falling, False]).max() > 1e-3


@each_backend
@pytest.mark.parametrize("centered", [False, True])
def test_rmsprop_with_the_rate_and_epsilon_inside(backend, centered):
    p = np.linspace(-1.0, 1.0, 7)
    q, v, a, b = p.copy(), *np.zeros((3, 7))
    inside = {"eps_form": "inside", "lr_inside": True, "eps": 1e-3}
    opt = fastopt.RMSprop(p, lr=falling, alpha=0.9, momentum=0.5, centered=centered, backend=backend, **inside)
    for t, now in enumerate(run(opt.step, p)):
        np.testing.assert_allclose(now, q, rtol=0, atol=1e-13)
        g = gradient(q)
        v, a = 0.9 * v + 0.1 * g * g, 0.9 * a + 0.1 * g
        b = 0.5 * b + falling(t) * g / np.sqrt(v - centered * a * a + 1e-3)
        q = q - b


@each_backend
def test_adagrad_with_epsilon_inside(backend):
    p = np.linspace(-1.0, 1.0, 7)
    q, a = p.copy(), np.zeros(7)
    opt = fastopt.Adagrad(p, lr=RATE, eps=1e-3, eps_form="inside", backend=backend)
    for now in run(opt.step, p):
        np.testing.assert_allclose(now, q, rtol=0, atol=1e-13)
        a = a + gradient(q) ** 2
        q = q - RATE * gradient(q) / np.sqrt(a + 1e-3)


PRESETS = [
    (fastopt.SGD, "keras", {"lr": 0.01, "lr_inside": True, "decoupled_weight_decay": True}),
    (fastopt.SGD, "paper", {"lr": 0.01, "lr_inside": True}),
    (fastopt.Adagrad, "keras", {"initial_accumulator_value": 0.1, "eps": 1e-7, "eps_form": "inside"}),
    (fastopt.Adagrad, "paper", {"lr": 0.01, "eps": 1e-8, "eps_form": "inside"}),
    (fastopt.Adadelta, "keras", {"lr": 1e-3, "rho": 0.95, "eps": 1e-7, "decoupled_weight_decay": True}),
    (fastopt.AdaBelief, "paper", {"rectify": False}),
    (fastopt.FTRL, "paper", {"initial_accumulator_value": 0.0}),
    (fastopt.Adadelta, "paper", {"lr": 1.0, "rho": 0.95, "eps": 1e-6}),
    (fastopt.RMSprop, "keras", {"alpha": 0.9, "eps": 1e-7, "eps_form": "inside", "lr_inside": True}),
    (fastopt.RMSprop, "paper", {"lr": 1e-3, "alpha": 0.9, "eps": 1e-8, "eps_form": "inside", "lr_inside": False}),
]


@pytest.mark.parametrize(("cls", "preset", "said"), PRESETS)
def test_presets(cls, preset, said):
    group = cls(np.ones(2), preset=preset).param_groups[0]
    assert said == {k: group[k] for k in said}


@pytest.mark.parametrize("cls", [fastopt.AdamW, fastopt.COCOB, fastopt.Adan])
def test_there_is_no_preset_of_a_paper_that_differs(cls):
    with pytest.raises(fastopt.UnsupportedError, match="paper"):
        cls(np.ones(3), preset="paper")
