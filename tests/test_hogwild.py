"""Lock-free threads: every optimizer where features collide, the laws of merging, the order of the features, the penalty."""

from __future__ import annotations

import numpy as np
import pytest
from settings import assert_bits
from sklearn.metrics import log_loss

import fastopt
from fastopt import kernels
from fastopt.models import LinearClassifier, reference, samples
from fastopt.models.samples import TIERS, SampleTrainer
from fastopt.optimizers.base import ALIASES, by_name

scipy_sparse = pytest.importorskip("scipy.sparse")
if kernels.drivers is None:
    pytest.skip("installed with FASTOPT_PURE=1: there are no threads", allow_module_level=True)
needs_openmp = pytest.mark.skipif(not kernels.drivers.OPENMP, reason="a serial build has no threads that share records")

NAMES = sorted({*(k for k, c in fastopt.Optimizer.known.items() if c.for_samples), *ALIASES} - {"rprop", "signsgd"})
NAMES_WITH_MOMENTUM = ("momentum", "nag", "qhadam")
LAWS = ("sum", "mean", "max")
#: rates for those that do not learn at 0.1
RATES = {
    "adadelta": 3.0,
    "adam": 0.01,
    "adamw": 0.01,
    "rmsprop": 0.01,
    "momentum": 0.003,
    "nag": 0.003,
    "qhadam": 0.02,
    "lion": 0.001,
}
RATES |= {"signum": 0.001, "cocob": 1.0, "nadam": 0.01, "radam": 0.01, "adabelief": 0.01, "yogi": 0.01, "adan": 0.01}
#: states that squares, sums of sizes or largest sizes never bring below zero
NEVER_NEGATIVE = {
    "exp_avg_sq",
    "max_exp_avg_sq",
    "exp_avg_var",
    "exp_inf",
    "square_avg",
    "sum",
    "acc_delta",
    "accumulator",
}
NEVER_NEGATIVE |= {"sum_abs_grad", "max_abs_grad", "reward", "revised", "revised_max"}


def dense_problem(rng, n=4000, n_features=6, dtype=np.float32):
    """All samples have nearly all of few features, so that threads disturb each other as much as they can."""
    X = rng.standard_normal((n, n_features)).astype(dtype)
    X[rng.random(X.shape) < 0.2] = 0
    w = rng.standard_normal(n_features) * 2
    y = np.where(rng.random(n) < 1 / (1 + np.exp(-X @ w)), "yes", "no")
    return scipy_sparse.csr_matrix(X), y


def made(name, X, y, n_jobs, **more):
    setting = {"optimizer": name, "lr": RATES.get(name, 0.1), "epochs": 3, "random_state": 0, **more}
    return LinearClassifier(mode="hogwild", n_jobs=n_jobs, **setting).fit(X, y)


# ------------------------------------------------------------------------------------------------------------ optimizers


@pytest.mark.parametrize("hot", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_learns_where_threads_collide(name, hot, monkeypatch, rng):
    """With copies of hot features, and with records shared element by element."""
    X, y = dense_problem(rng)
    if not hot:
        monkeypatch.setattr(SampleTrainer, "_rank", lambda *_: None)
    alone, wild = made(name, X, y, 1), made(name, X, y, 2)
    trainer = wild._models[0].trainer
    assert bool(trainer._tiers(4000, 2)[0][0]) is hot
    for k, state in enumerate(trainer.rule.states):
        values = np.append(trainer.records[:, 1 + k], trainer.bias[1 + k])
        assert np.isfinite(values).all(), state
        if state in NEVER_NEGATIVE:
            assert (values >= 0).all(), state
    losses = [log_loss(y, m.predict_proba(X)) for m in (alone, wild)]
    # Momentum of several threads adds up on features that all have; it must still learn, from log 2.
    assert losses[1] < losses[0] + (0.03 if name not in NAMES_WITH_MOMENTUM else 0.15), losses


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rmsprop", {}),
        ("rmsprop", {"momentum": 0.5}),
        ("adam", {"betas": (0.9, 0.98)}),
        ("adam", {"betas": (0.9, 0.98), "amsgrad": True}),
        ("adadelta", {}),
        ("adabelief", {"betas": (0.9, 0.98)}),
        ("adamax", {"betas": (0.9, 0.98)}),
    ],
)
def test_averages_that_fade_never_fall_below_zero(name, options, rng):
    """Nearly all gradients are zero, so that both threads take much from the moments: the sum of that would be too much."""
    n, n_features = 1_000_000, 2
    indptr, indices = np.arange(n + 1, dtype=np.int64) * n_features, np.tile(np.arange(n_features, dtype=np.int32), n)
    y = np.where(np.arange(n) % 150, 1, -1).astype(np.float32)
    cls, implied = by_name(name)
    chosen = cls.fill_options({**implied, **options, "lr": 0.0})
    t = SampleTrainer(n_features, np.dtype(np.float32), cls, chosen, "hinge", 0.0, 0.0, True, "native")
    t.records[:, 0], t.records[:, 1:] = 5, 1
    t.bias[1:] = 1
    t.hot = [1.0]
    t.train(indptr, indices, np.ones(n * n_features, np.float32), y, None, 2)
    for record in (*t.records, t.bias):
        assert np.isfinite(record).all(), "the root of something negative"
        assert (record[1 : 1 + len(t.rule.states)] >= 0).all()


def test_every_rule_says_how_its_states_are_merged():
    for name in NAMES:
        for rule in by_name(name)[0].rules:
            assert rule.merge == () or len(rule.merge) == 1 + len(rule.states), rule.span
            assert set(rule.merge) <= set(LAWS), rule.span
            for law, state in zip(rule.merge[1:], rule.states, strict=False):
                assert law != "sum" or not state.startswith(("exp_", "square_avg", "momentum")), "averages have no sum"


# -------------------------------------------------------------------------------------------------------------- merging


def met(law, to, own, seen):
    """What a number becomes when a thread merges its own."""
    if law == "sum":
        return to + (own - seen)
    if law == "mean":
        return np.where(own == seen, to, np.where(to == seen, own, (to + own) / 2))
    return np.maximum(to, own)


@needs_openmp
@pytest.mark.parametrize("laws", [("sum",) * 4, ("sum", "mean", "max", "max"), ("mean", "sum", "mean", "max")])
def test_merging_by_every_law(laws, rng):
    """Two threads with a sample each; some features are in both. They may run at once, or one after the other."""
    n_features = 43
    start = rng.standard_normal((n_features, 4))
    start[:, 1:] = np.abs(start[:, 1:])
    indptr = np.arange(3, dtype=np.int64) * 30
    indices = np.concatenate([np.arange(30), np.arange(13, 43)]).astype(np.int32)
    data, y = rng.standard_normal(60), np.array([1.0, -1.0])
    cls, options = by_name("adam")
    options = cls.fill_options({**options, "amsgrad": True, "lr": 0.1})

    def trained(records, samples):
        t = SampleTrainer(n_features, np.dtype(np.float64), cls, options, "log_loss", 0.0, 0.0, False, "native")
        t.records[...], t.laws = records, laws
        if len(samples) == 2:
            t._tiers = lambda *_: [(n_features, 64)]
            t.train(indptr, indices, data, y, None, 2)
        else:
            k = t.steps = samples[0]
            part = slice(int(indptr[k]), int(indptr[k + 1]))
            t.train(indptr[k : k + 2] - indptr[k], indices[part], data[part], y[k : k + 1], None)
        return t.records

    def all_met(to, own, seen):
        return np.stack([met(laws[q], to[:, q], own[:, q], seen[:, q]) for q in range(4)], 1)

    first, second = trained(start, [0]), trained(start, [1])
    expected = [all_met(all_met(start, first, start), second, start)]
    for one, then in (first, [1]), (second, [0]):
        to = all_met(start, one, start)
        expected.append(all_met(to, trained(to, then), to))
    for _ in range(5):
        got = trained(start, [0, 1])
        assert any(np.allclose(got, e, rtol=1e-12, atol=1e-14) for e in expected)


@pytest.mark.parametrize("n_threads", [2, 3, 7])
def test_features_of_one_thread_are_as_if_it_were_alone(n_threads, rng):
    """Samples that share no feature: whatever is copied, merged and renumbered, each thread's own come out exactly."""
    n, each = 420, 12
    n_features = n * each
    indptr = np.arange(n + 1, dtype=np.int64) * each
    indices = rng.permutation(n_features).astype(np.int32)
    data, y = rng.standard_normal(n_features), np.where(rng.random(n) < 0.5, -1.0, 1.0)
    for name in ("sgd", "adagrad", "ftrl", "momentum", "rmsprop"):
        cls, options = by_name(name)
        options = cls.fill_options({**options, "lr": 0.1, **({"weight_decay": 0.0} if name != "ftrl" else {})})
        one, many = (
            SampleTrainer(n_features, np.dtype(np.float64), cls, options, "log_loss", 0.0, 0.0, False, "native")
            for _ in "ab"
        )
        mine = indices.copy()
        many.renumber(mine, n, n_threads)
        many._tiers = lambda *_: [(256, 4), (1024, 16), (4096, 64)]
        assert sorted(many.place) == list(range(n_features))
        for _ in range(3):
            one.train(indptr, indices, data, y, None)
            many.train(indptr, mine, data, y, None, n_threads)
        np.testing.assert_allclose(many.weights(), one.weights(), rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(many.records[many.place], one.records, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", ["sgd", "adagrad", "adam"])
def test_weights_of_samples_count_in_every_thread(name, rng):
    X, y = dense_problem(rng, 6000)
    y = np.where(rng.random(6000) < 0.2, "yes", y)
    weights = np.where(y == "yes", 0.2, 3.0) * rng.uniform(0.5, 1.5, 6000)
    one, two, plain = (
        LinearClassifier(mode=mode, n_jobs=2, optimizer=name, lr=RATES.get(name, 0.1) / 4, random_state=0).fit(X, y, w)
        for mode, w in (("sequential", weights), ("hogwild", weights), ("hogwild", None))
    )
    losses = [log_loss(y, model.predict_proba(X), sample_weight=weights) for model in (one, two, plain)]
    assert losses[1] < losses[0] + 0.02
    assert losses[1] < losses[2] - 0.1, "weights have made a difference"


def test_samples_of_weight_zero_are_left_out_by_every_thread(rng):
    X, y = dense_problem(rng, 3000, 6)
    left_out = rng.random(3000) < 0.5
    mark = scipy_sparse.csr_matrix(left_out[:, np.newaxis].astype(np.float32))
    X = scipy_sparse.hstack([X, mark], format="csr")
    model = LinearClassifier(mode="hogwild", n_jobs=2).fit(X, y, np.where(left_out, 0.0, 2.0))
    assert model.t_ == 5 * (~left_out).sum()
    assert model.coef_[0, 6] == 0
    assert (model.coef_[0, :6] != 0).all()


def test_shuffled_orders_are_fair():
    """Every element is as often in every place; the seed decides."""
    counts = np.zeros((5, 5), int)
    for seed in range(20000):
        order = np.arange(5, dtype=np.int32)
        kernels.drivers.shuffle(order, seed)
        counts[np.arange(5), order] += 1
    assert np.abs(counts - 4000).max() < 5 * np.sqrt(20000 * 0.2 * 0.8)
    a, b, c = (np.arange(1000, dtype=np.int32) for _ in range(3))
    for order, seed in ((a, 2**63), (b, 2**63), (c, 1)):
        kernels.drivers.shuffle(order, seed)
    assert (a == b).all() and (a != c).any() and sorted(a) == list(range(1000))


@pytest.mark.parametrize("seed", [0, 5, 2**63 - 1, 2**64 - 1])
@pytest.mark.parametrize("n", [0, 1, 2, 7, 3000])
def test_shuffled_orders_are_those_of_the_reference(n, seed):
    order, expected = np.arange(n, dtype=np.int32) * 3, np.arange(n, dtype=np.int32) * 3
    kernels.drivers.shuffle(order, seed)
    reference.shuffle(expected, seed)
    assert (order == expected).all()


# ------------------------------------------------------------------------------------------------------- order of features


def test_the_most_frequent_come_first(rng):
    n_features = 1000
    indices = rng.permutation(n_features)[(rng.zipf(1.3, 50000) - 1) % n_features].astype(np.int32)
    place = np.empty(n_features, np.int32)
    hits, looked = kernels.drivers.by_frequency(indices, place, [10, 100, n_features], 1 << 30)
    counts = np.bincount(indices, minlength=n_features)
    assert sorted(place) == list(range(n_features))
    assert (np.diff(counts[np.argsort(place)]) <= 0).all()
    falling = np.sort(counts)[::-1]
    assert hits == [falling[:10].sum(), falling[:100].sum(), 50000]
    assert looked == 50000
    guess = np.empty(n_features, np.int32)
    hits, looked = kernels.drivers.by_frequency(indices, guess, [10], 10000)
    assert 8000 < looked < 13000
    assert len({*np.argsort(guess)[:10]} & {*np.argsort(place)[:10]}) >= 7
    mine = indices.copy()
    kernels.drivers.renumber(mine, place, 2)
    assert (mine == place[indices]).all()


def test_weights_are_the_features_own_whatever_their_order(rng):
    """After a fit of two threads: reading, training on by one and by two, a strange number of features."""
    n_features = 3001
    X = scipy_sparse.random_array((4000, n_features), density=0.01, format="csr", dtype=np.float32, rng=rng)
    w = rng.standard_normal(n_features) * 3
    y = np.where(X @ w > 0, 1, 0)
    wild = made("adagrad", X, y, 2, epochs=5, lr=0.3)
    assert wild._models[0].trainer.place is not None
    scores = X @ wild.coef_[0] + wild.intercept_[0]
    np.testing.assert_allclose(wild.decision_function(X), scores, rtol=1e-5, atol=1e-5)
    alone = made("adagrad", X, y, 1, epochs=5, lr=0.3)
    assert np.corrcoef(wild.coef_[0], alone.coef_[0])[0, 1] > 0.9
    before = wild.coef_.copy()
    wild.set_params(n_jobs=1).partial_fit(X[:1], y[:1])
    moved = np.nonzero((wild.coef_ != before)[0])[0]
    assert {*moved} <= {*X[[0]].indices}
    assert len(moved)
    wild.set_params(n_jobs=2).partial_fit(X, y)
    assert log_loss(y, wild.predict_proba(X)) < log_loss(y, alone.predict_proba(X)) + 0.02
    # Features get their order when there is enough to learn it from, also after training.
    late = LinearClassifier(mode="hogwild", n_jobs=2, shuffle=False, optimizer="sgd", lr=0.1)
    late.partial_fit(X[:3], y[:3], classes=[0, 1])
    assert late._models[0].trainer.place is None
    kept = late.coef_.copy()
    late.set_params(lr=0.0).partial_fit(X, y)
    assert late._models[0].trainer.place is not None
    assert_bits(late.coef_, kept)


def test_one_thread_is_sequential_also_in_another_order(rng):
    X, y = dense_problem(rng, 1500, 30)
    want = made("adam", X, y, 1).coef_
    assert_bits(want, LinearClassifier(optimizer="adam", lr=0.01, epochs=3, random_state=0).fit(X, y).coef_)


def test_tiers_follow_threads_and_frequencies():
    cls, options = by_name("sgd")
    options = cls.fill_options({**options, "lr": 0.1})
    t = SampleTrainer(1 << 15, np.dtype(np.float32), cls, options, "log_loss", 0.0, 0.0, True, "native")
    t.hot = [0.1, 0.01, 0.002, 0.00001]
    assert t._tiers(10**6, 2) == [(256, 64), (1024, 256), (4096, 1024)]
    assert t._tiers(1000, 2) == [(256, 64), (1024, 256)], "not longer than the threads run apart"
    assert t._tiers(10**6, 16)[0] == (256, 8), "all threads together"
    t.hot = [1.0] * 4
    for threads in (2, 3, 5, 64, 1000):
        every = [e for _, e in t._tiers(10**9, threads)]
        assert every == sorted(every)
        assert all(e & (e - 1) == 0 and e >= 1 for e in every)
    assert [end for end, _ in t._tiers(10**9, 2)] == [end for end, _ in TIERS]


# -------------------------------------------------------------------------------------------------------------- penalty


@pytest.mark.parametrize("l2", [1e-3, 0.03])
@pytest.mark.parametrize("name", ["sgd", "adagrad"])
def test_a_strong_penalty_reaches_rare_features_too(name, l2, rng):
    """Each rare feature is in one sample, so that its weight afterwards is the penalty's work; beside one thread."""
    n, common = 3000, 4
    X = np.ones((n, common)) * rng.standard_normal((n, common))
    rare = scipy_sparse.eye_array(n, format="csr")
    X = scipy_sparse.hstack([scipy_sparse.csr_matrix(X), rare]).tocsr()
    y = np.arange(n) % 2
    setting = {"lr": 0.05, "l2": l2, "epochs": 1, "shuffle": False}
    one, two = made(name, X, y, 1, **setting), made(name, X, y, 2, **setting)
    # Threads meet after each piece. Between, they stand in its two halves: sample i of a half is step 2 i of the piece.
    i, shrink = np.arange(n), 1 / (1 + 0.05 * l2)
    piece = min(n, int(np.log(samples.DRIFT) / np.log(shrink)))
    begin, size = i // piece * piece, np.minimum(n - i // piece * piece, piece)
    step = begin + np.where(i - begin < size // 2, 2 * (i - begin), 2 * (i - begin - size // 2) + 1)
    left = two.coef_[0, common:] / shrink ** (n - step)  # the weights as they were when they were made
    fresh = one.coef_[0, common:] / shrink ** (n - i)
    ok = np.abs(left - fresh) <= 0.35 * np.abs(fresh)
    assert ok.mean() > 0.95, "the penalty since then is what differs"
    assert abs(np.abs(two.coef_).sum() / np.abs(one.coef_).sum() - 1) < 0.05
    assert abs(two.intercept_[0] - one.intercept_[0]) < 0.1


def test_threads_meet_before_their_scales_part(monkeypatch, rng):
    """A penalty so strong that threads must meet after every few samples still gives weights of the right size."""
    X, y = dense_problem(rng, 600, 5, np.float64)
    calls = []
    whole = kernels.drivers.samples
    monkeypatch.setattr(kernels.drivers, "samples", lambda *a: calls.append(a[-1]) or whole(*a))
    one, two = (made("sgd", X, y, n, l2=1.0, lr=0.1, shuffle=False) for n in (1, 2))
    assert calls[-1] == 1, "0.9 is reached after one sample"
    np.testing.assert_allclose(two.coef_, one.coef_, rtol=1e-12)
    sizes = []
    for _ in range(5):  # who comes late loses some of its steps
        one, two = (made("sgd", X, y, n, l2=0.05, lr=0.1, shuffle=False).coef_[0] for n in (1, 2))
        assert calls[-1] == int(np.log(samples.DRIFT) / np.log(1 / 1.005))
        sizes.append(two @ one / (one @ one))
    assert 0.7 < np.median(sizes) < 1.1, sizes


@needs_openmp
@pytest.mark.parametrize("n_threads", [2, 3])
@pytest.mark.parametrize("l2", [1e-4, 0.03])
def test_the_penalty_of_a_rare_feature_is_that_of_its_step(l2, n_threads):
    """Each feature is in one sample: its weight is one step from zero, and the penalty of all steps since."""
    n, lr = 2000, 0.05
    y = np.where(np.arange(n) % 3, 1.0, -1.0)
    X, shrink = scipy_sparse.eye_array(n, format="csr"), 1 / (1 + lr * l2)
    model = made("sgd", X, y, n_threads, lr=lr, l2=l2, epochs=1, shuffle=False, fit_intercept=False)
    piece, step = int(np.log(samples.DRIFT) / np.log(shrink)), np.empty(n)
    for begin in range(0, n, piece):
        size = min(piece, n - begin)
        for k in range(n_threads):
            first, last = size * k // n_threads, size * (k + 1) // n_threads
            step[begin + first : begin + last] = begin + np.arange(last - first) * n_threads + k
    np.testing.assert_allclose(model.coef_[0], lr * y / 2 * shrink ** (n - step), rtol=1e-9)
