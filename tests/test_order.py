"""The order of the data: pure functions of seed and epoch, with the distributions that the papers have."""

from __future__ import annotations

import itertools
import math
import pickle
from typing import Any

import numpy as np
import pytest

import fastopt
from fastopt.strategies import Batches, Curriculum, Pace, Sequential, Shuffled


def test_shuffled_is_a_permutation_that_depends_on_seed_and_epoch_alone():
    found = {(s, e): Shuffled(s).indices(1000, e) for s, e in itertools.product(range(3), range(4))}
    for (s, e), order in found.items():
        assert (np.sort(order) == np.arange(1000)).all()
        assert (Shuffled(s).indices(1000, e) == order).all()
    assert len({order.tobytes() for order in found.values()}) == 12


def test_the_order_is_the_same_everywhere():
    """Written down once: no version of NumPy and no machine may change it, or runs could not be resumed there."""
    assert Shuffled(0).indices(8, 0).tolist() == FIRST
    assert Shuffled(2**64 - 1).indices(5, 3).tolist() == LAST


FIRST = [0, 3, 7, 5, 1, 2, 6, 4]
LAST = [1, 3, 0, 4, 2]


def test_shuffled_is_uniform():
    """Each sample stands at each place equally often, and no permutation is preferred: chi-square, 4 standard deviations."""
    counts = np.zeros(24)
    index = {p: k for k, p in enumerate(itertools.permutations(range(4)))}
    for epoch in range(4800):
        counts[index[tuple(Shuffled(1).indices(4, epoch).tolist())]] += 1
    chi = ((counts - 200) ** 2 / 200).sum()
    assert abs(chi - 23) < 4 * math.sqrt(46)


@pytest.mark.parametrize("order", [Shuffled(3), Sequential(), Pace("root", 0.3, 4)])
def test_value_classes(order):
    assert eval(repr(order)) == order and pickle.loads(pickle.dumps(order)) == order


def test_paces():
    assert [Pace("linear", 0.2, 4)(e) for e in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert [Pace("root", 0.5, 3)(e) for e in range(4)] == pytest.approx([math.sqrt(x) for x in (0.25, 0.5, 0.75, 1.0)])
    assert [Pace("step", 0.3, 2)(e) for e in range(4)] == [0.3, 0.3, 1.0, 1.0]
    assert Pace(epochs=0)(0) == 1.0


DIFFICULTY = np.random.default_rng(0).permutation(100) / 7.0


def test_paced_takes_the_easiest_once_each():
    order = Curriculum(DIFFICULTY, pace=Pace("linear", 0.1, 9), seed=5)
    ranked = np.argsort(DIFFICULTY)
    for epoch in range(12):
        found = order.indices(100, epoch)
        assert len(found) == len(set(found)) == min(10 * (epoch + 1), 100)
        assert set(found) == set(ranked[: len(found)])
    assert (found != Curriculum(DIFFICULTY, seed=6).indices(100, 11)).any()
    assert not (np.diff(DIFFICULTY[found]) > 0).all(), "the easiest are not shuffled"


def test_a_share_that_is_rounded_up_takes_no_sample_more():
    assert 0.1 + 0.2 > 0.3
    assert len(Curriculum(np.arange(10.0), pace=lambda epoch: 0.1 + 0.2).indices(10, 0)) == 3
    assert len(Curriculum(np.arange(10.0), pace=lambda epoch: 0.31).indices(10, 0)) == 4
    assert len(Curriculum(np.arange(10.0), pace=lambda epoch: 1e-9).indices(10, 0)) == 1


def test_sorted_goes_from_easy_to_hard_and_shuffles_what_is_equal():
    difficulty = np.repeat([2, 0, 1], 20)
    order = Curriculum(difficulty, "sorted")
    a, b = order.indices(60, 0), order.indices(60, 1)
    for found in (a, b):
        assert (np.diff(difficulty[found]) >= 0).all() and (np.sort(found) == np.arange(60)).all()
    assert (a != b).any()


def test_mixed_draws_levels_equally_often_however_many_samples_they_have():
    difficulty = np.array([0] * 5 + [1] * 45 + [2] * 150)
    order = Curriculum(difficulty, "mixed", seed=2)
    drawn = np.concatenate([order.indices(200, e) for e in range(50)])
    counts = np.bincount(difficulty[drawn]) / len(drawn)
    assert np.abs(counts - 1 / 3).max() < 4 * math.sqrt(2 / 9 / len(drawn))
    within = np.bincount(drawn[difficulty[drawn] == 0], minlength=5)
    assert np.abs(within / within.sum() - 0.2).max() < 4 * math.sqrt(0.16 / within.sum())


@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
def test_combined_draws_from_the_level_reached_and_from_the_mix(mix):
    order = Curriculum(np.arange(1000.0), "combined", pace=lambda epoch: (epoch + 1) / 5, levels=5, mix=mix)
    for epoch in range(5):
        level = order.indices(1000, epoch) // 200
        counts = np.bincount(level, minlength=5) / 1000
        want = np.full(5, mix / 5)
        want[epoch] += 1 - mix
        assert (np.abs(counts - want) <= 4 * np.sqrt(want * (1 - want) / 1000)).all()


def test_levels_of_equal_size():
    """103 samples in 4 levels: 25 or 26 in each."""
    order = Curriculum(np.arange(103.0), "combined", pace=lambda e: (e + 1) / 4, levels=4, mix=0.0)
    levels = [np.unique(order.indices(103, e)) for e in range(4)]
    bounds = [0, 25, 51, 77, 103]
    assert all(a <= x.min() and x.max() < b for x, a, b in zip(levels, bounds, bounds[1:], strict=False))


def test_a_curriculum_says_what_it_depends_on():
    one = Curriculum([1, 2, 3], "mixed", levels=2)
    assert (
        repr(one)
        == repr(Curriculum([1.0, 2.0, 3.0], "mixed", levels=2))
        != repr(Curriculum([1, 2, 4], "mixed", levels=2))
    )
    assert repr(one) != repr(Curriculum([1, 2, 3], "mixed", levels=2, seed=1))


def fixed(*indices: int) -> Any:
    return type("Fixed", (), {"indices": lambda self, n, epoch: np.array(indices)})()


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: Curriculum([[1.0]]), fastopt.ShapeError, "difficulty must have shape"),
        (lambda: Curriculum([]), fastopt.ShapeError, "at least 1"),
        (lambda: Curriculum(["x"]), fastopt.DTypeError, "must be numbers"),
        (lambda: Curriculum([1.0, math.nan]), fastopt.NonFiniteError, "NaN"),
        (lambda: Curriculum([1.0], "hard"), fastopt.HyperParameterError, "'paced', 'sorted', 'mixed', 'combined'"),
        (lambda: Curriculum([1.0], pace=0.5), fastopt.HyperParameterError, "a callable of the epoch"),
        (lambda: Curriculum([1.0], pace=lambda e: 0.0).indices(1, 0), fastopt.HyperParameterError, "pace of epoch 0"),
        (lambda: Curriculum([1.0]).indices(2, 0), fastopt.ShapeError, "1 numbers, but there are 2"),
        (lambda: Pace("cubic"), fastopt.HyperParameterError, "kind"),
        (lambda: Shuffled(-1), fastopt.HyperParameterError, "seed"),
        (lambda: Batches(0), fastopt.HyperParameterError, "n must"),
        (lambda: Batches(3, 0), fastopt.HyperParameterError, "batch_size"),
        (lambda: Batches(3, order="random"), fastopt.HyperParameterError, "'shuffled', 'sequential'"),
        (lambda: Batches(3, order=Shuffled), fastopt.HyperParameterError, "indices"),
        (lambda: list(Batches(3, lambda t: 0.9).epoch(0)), fastopt.HyperParameterError, "batch_size for step 0"),
        (lambda: list(Batches(3, lambda t: math.nan).epoch(0)), fastopt.HyperParameterError, "batch_size for step 0"),
        (
            lambda: Batches(3, order=fixed(0, 3)).indices(2),
            fastopt.IndexRangeError,
            "0 to 3 for epoch 2, but there are 3",
        ),
        (lambda: Batches(3, order=fixed(-1, 2)).indices(0), fastopt.IndexRangeError, "-1 to 2"),
    ],
)
def test_bad_arguments(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_batches_cut_the_order():
    shuffled = Shuffled(4).indices(10, 2)
    batches = list(Batches(10, 4, seed=4).epoch(2))
    assert [len(b) for b in batches] == [4, 4, 2] and (np.concatenate(batches) == shuffled).all()
    assert [len(b) for b in Batches(10, 4, drop_last=True).epoch(0)] == [4, 4]
    assert [len(b) for b in Batches(10, 12, drop_last=True).epoch(0)] == [10]
    assert [len(b) for b in Batches(10).epoch(0)] == [10]
    assert [len(b) for b in Batches(10, lambda step: np.int64(step + 1)).epoch(0, step=1)] == [2, 3, 4, 1]


def test_any_schedule_is_one_of_batch_sizes():
    """Also compositions, whose values are floats; they are rounded."""
    doubled = fastopt.schedules.Step(2, step_size=1, gamma=2.0)
    assert [len(b) for b in Batches(20, doubled).epoch(0)] == [2, 4, 8, 6]
    grown = fastopt.schedules.BatchSizeSchedule(doubled, 2).with_warmup(2).then(fastopt.schedules.Constant(3.4), 3)
    assert [len(b) for b in Batches(12, grown.scaled(1.3)).epoch(0)] == [1, 3, 3, 4, 1]
