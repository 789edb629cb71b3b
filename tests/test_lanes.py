"""Models side by side: bits of the driver, equality with models by themselves, the search for a rate, classes."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from conftest import needs_native
from settings import assert_bits, native_builds
from sklearn.linear_model import LogisticRegression
from test_models import LOSSES, NAMES, STEEP, rows

import fastopt
from fastopt import scores
from fastopt.errors import HyperParameterError, NonFiniteError, StateError, UnsupportedError
from fastopt.models import LinearClassifier, LinearRegressor, lanes
from fastopt.models.files import load_model, save_model
from fastopt.models.lanes import AutoTrainer, LaneTrainer
from fastopt.models.samples import SampleTrainer, new_order
from fastopt.optimizers import tables
from fastopt.optimizers.base import by_name

scipy_sparse = pytest.importorskip("scipy.sparse")
RATES = [0.001, 0.3, 0.02, 0.05, 0.1, 0.5, 0.01, 0.2]


def arguments(name, dtype, backend, *, loss="log_loss", lr=0.05, l2=0.0, fit_intercept=True, n_features=1100):
    cls, options = by_name(name)
    options = cls.fill_options({**options, "lr": lr})
    return n_features, np.dtype(dtype), cls, options, loss, 0.3, l2, fit_intercept, backend


def same(got: LaneTrainer, want: LaneTrainer, message: str) -> None:
    assert got.steps == want.steps
    assert_bits(got.scale, want.scale, f"{message} scale")
    assert_bits(got.sums, want.sums, f"{message} sums")
    assert_bits(got.records, want.records, f"{message} records")
    if want.bias is not None:
        assert_bits(got.bias, want.bias, f"{message} bias")


# ---------------------------------------------------------------------------------------------------------------- bits


@needs_native
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_lanes_equal_the_reference_and_models_by_themselves(name, dtype, use_build, rng):
    """Rates of their own: with and without penalty, weights and intercept; empty rows, and one that is longer than a block."""
    data = rows(rng, 30, 1100, dtype)
    order = rng.permutation(30).astype(np.int32)
    weights = rng.uniform(0, 3, 30).astype(dtype)
    for loss, l2, fit_intercept in [("log_loss", 0.0, True), ("huber", 0.01, False), ("hinge", 30.0, True)]:
        setting = {"loss": loss, "l2": l2, "fit_intercept": fit_intercept}
        w = weights if l2 else None
        rates = RATES if loss != "huber" else [*RATES, *RATES[::-1]]
        want = LaneTrainer(len(rates), *arguments(name, dtype, "numpy", **setting), rates=rates)
        for _ in range(2):
            want.train(*data, order, weights=w, look=11)
        for isa in native_builds():
            use_build(isa)
            got = LaneTrainer(len(rates), *arguments(name, dtype, "native", **setting), rates=rates)
            for _ in range(2):
                got.train(*data, order, weights=w, look=11)
            same(got, want, f"{isa} {setting}")
        for k in (0, 3, 7):
            alone = SampleTrainer(*arguments(name, dtype, "native", lr=RATES[k], **setting))
            for _ in range(2):
                alone.train(*data, order, weights=w)
            compact = got.alone(k)
            assert (compact.steps, compact.scale, compact.shrink) == (alone.steps, alone.scale, alone.shrink)
            assert_bits(compact.records, alone.records, f"{setting} lane {k}")
            for model in (compact, alone):  # and they go on as the same
                model.train(*data, order, weights=w)
            assert_bits(compact.records, alone.records, f"{setting} lane {k} goes on")


@needs_native
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("loss", [*LOSSES, "multinomial"])
@pytest.mark.parametrize("n_models", [3, 8, 19])
def test_losses_and_classes_equal_the_reference(loss, n_models, dtype, use_build, rng):
    indptr, indices, data, y = rows(rng, 40, 300, dtype, 12)
    codes = rng.integers(0, n_models - 1, 40).astype(np.int32)  # one class is absent
    settings = arguments(
        "adagrad", dtype, "numpy", loss=loss, lr=1e-4 if loss in STEEP else 0.05, l2=0.001, n_features=300
    )
    settings = [*settings[:5], float(n_models) if loss == "multinomial" else 0.3, *settings[6:]]
    for target in (codes,) if loss == "multinomial" else (y, codes):
        want = LaneTrainer(n_models, *settings)
        want.train(indptr, indices, data, target, None, look=0)
        for isa in native_builds():
            use_build(isa)
            got = LaneTrainer(n_models, *settings[:-1], "native")
            got.train(indptr, indices, data, target, None, look=0)
            same(got, want, f"{isa} {loss}")
        assert (want.records[:, 0, : n_models - 1] != 0).any()
        if loss == "multinomial":
            assert not want.records[:, 0, n_models:].any()  # idle ones


def test_losses_are_those_of_reports(rng):
    z, y = rng.standard_normal(200) * 20, np.where(rng.random(200) < 0.5, 1.0, -1.0)
    for loss in LOSSES:
        want = scores.VALUES[loss](z, y, 0.3)
        got = [scores.SUMMED[loss](*pair, 0.3) for pair in zip(z.tolist(), y.tolist(), strict=True)]
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12, err_msg=loss)


def test_what_is_not_finite_stays_so():
    for loss in LOSSES:
        for z in (np.nan, np.inf, -np.inf):
            found = [scores.SUMMED[loss](z, y, 0.3) for y in (-1.0, 1.0)]
            assert not np.isfinite(found).all(), (loss, z, found)


@pytest.mark.parametrize("name", NAMES)
def test_pace_is_the_scalar_that_multiplies_the_move(name, rng):
    cls, options = by_name(name)
    if cls.pace is None:
        return
    for t in (1, 2, 5, 6, 7, 100):
        o = cls.fill_options({**options, "lr": 0.1})
        rule = cls.rule_of(o)
        h, other = (
            tables.scalar_table(cls, {**o, "lr": lr}, np.array([t]), np.dtype(np.float32), 0)[0][0] for lr in (0.1, 0.7)
        )
        assert np.flatnonzero(h[2:] != other[2:]).tolist() == [cls.pace]
        one = h.copy()
        one[2 + cls.pace] = 1
        p, g = rng.standard_normal((2, 50)).astype(np.float32)
        states = [np.abs(rng.standard_normal(50)).astype(np.float32) for _ in rule.states]
        again, move = [s.copy() for s in states], np.zeros_like(p)
        want = p.copy()
        rule.reference(want, g, *states, h[2:])
        rule.reference(move, g, *again, one[2:])
        assert_bits(p + h[2 + cls.pace] * move, want)
        for s, a in zip(states, again, strict=True):
            assert_bits(a, s)


@needs_native
def test_a_lane_that_diverges_harms_no_other(rng):
    data = rows(rng, 50, 200, np.float32)
    settings = arguments("sgd", np.float32, "native", loss="squared_error", n_features=200)
    rates = [1e30, *RATES[1:3], 1e-4, 1e30, 1e-5, 1e-3, 1e30]
    group = LaneTrainer(8, *settings, rates=rates)
    for _ in range(20):
        group.train(*data, None, look=0)
    assert [group.is_finite(k, np.arange(200)) for k in (0, 3, 4, 5, 6, 7)] == [False, True, False, True, True, False]
    alone = SampleTrainer(*arguments("sgd", np.float32, "native", loss="squared_error", lr=1e-4, n_features=200))
    for _ in range(20):
        alone.train(*data, None)
    assert_bits(group.alone(3).records, alone.records)


# --------------------------------------------------------------------------------------------------------------- search


def problem(rng, n=6000, n_features=400, classes=2, noise=1.0, dtype=np.float32):
    X = scipy_sparse.random_array((n, n_features), density=0.03, format="csr", dtype=dtype, rng=rng)
    z = X @ rng.standard_normal((n_features, classes)) * 3 + noise * rng.gumbel(size=(n, classes))
    return X, z.argmax(axis=1)


def log_loss(model, X, y):
    return -np.log(np.maximum(model.predict_proba(X)[np.arange(len(y)), y], 1e-15)).mean()


@needs_native
@pytest.mark.parametrize("name", ["sgd", "momentum", "adagrad", "rmsprop", "ftrl"])
def test_search_is_as_good_as_the_best_of_single_fits(name, rng):
    X, y = problem(rng, noise=3.0)
    train, test = slice(0, 5000), slice(5000, None)
    options = {"optimizer": name, "epochs": 3, "random_state": 0}
    model = LinearClassifier(lr="auto", **options).fit(X[train], y[train])
    single = [
        log_loss(LinearClassifier(lr=r, **options).fit(X[train], y[train]), X[test], y[test]) for r in model.rates_
    ]
    assert model.lr_ == model.rates_[np.argmin(model.progressive_loss_)]
    assert log_loss(model, X[test], y[test]) <= min(single) * 1.02
    assert min(single) < 0.9 * max(single)  # so that the choice matters


@needs_native
@pytest.mark.parametrize("mode", ["sequential", "hogwild"])
def test_a_search_over_one_pass_is_the_single_fit(mode, rng):
    X, y = problem(rng)
    options = {"optimizer": "adagrad", "l2": 1e-4, "epochs": 1, "random_state": 3}
    model = LinearClassifier(lr="auto", mode=mode, **options).fit(X, y)
    single = LinearClassifier(lr=model.lr_, **options).fit(X, y)
    assert_bits(model.coef_, single.coef_)
    assert_bits(model.intercept_, single.intercept_)
    assert isinstance(model._models[0].trainer, AutoTrainer)
    assert model._models[0].trainer.lanes is None  # the others are gone


@needs_native
def test_later_passes_have_smaller_rates(rng):
    X, y = problem(rng)
    seed = np.random.RandomState(3).randint(0, 2**31 - 1, 4)
    draw = np.random.default_rng(seed)
    model = LinearClassifier(lr="auto", epochs=3, random_state=3).fit(X, y)
    single = SampleTrainer(*arguments("adagrad", np.float32, model._models[0].trainer.single.backend, n_features=400))
    data = (X.indptr.astype(np.int64), X.indices.astype(np.int32), X.data, np.where(y == 1, 1, -1).astype(np.float32))
    for e in (1, 2, 3):
        single.set_rate(model.lr_ / e**0.5, 0.0)
        single.train(*data, new_order(np.arange(len(y), dtype=np.int32), draw))
    assert_bits(model.coef_[0], single.weights())


def test_ftrl_does_not_jump_at_another_rate(rng):
    """The parameter is made anew of the states; with what they carry over it stands still where there is no gradient."""
    for power in (-0.5, -0.3):
        p = rng.standard_normal(20)
        opt = fastopt.FTRL(p, lr=0.5, lr_power=power, l1=0.1, beta=0.3)
        for _ in range(3):
            opt.step(rng.standard_normal(20))
        before, state = p.copy(), opt.state_dict()["state"][0]
        a, z = state["accumulator"], state["linear"]
        rule = fastopt.FTRL.rule_of(fastopt.FTRL.fill_options({"lr": 0.1, "lr_power": power}))
        for carried in (False, True):
            if carried:
                fastopt.FTRL.carry(p, [a, z], {"lr": 0.5, "lr_power": power, "beta": 0.3}, 0.1)
            again = before.copy()
            rule.reference(again, np.zeros(20), a.copy(), z.copy(), np.array([10.0, 3.0, 0.1, 0.0, -power]))
            assert (abs(again - before).max() < 1e-12) == carried


def test_partial_fit_searches_until_enough_samples(rng, monkeypatch):
    monkeypatch.setattr(lanes, "LEAST", 1000)
    monkeypatch.setattr(lanes, "MOST", 1500)
    X, y = problem(rng, 2000)
    model = LinearClassifier(lr="auto", shuffle=False)
    for i in range(0, 900, 300):
        model.partial_fit(X[i : i + 300], y[i : i + 300], classes=[0, 1])
        assert model._models[0].trainer.lanes is not None
        assert model.lr_ in model.rates_
        model.predict(X[:5])
    again = pickle.loads(pickle.dumps(model))
    for m in (model, again):
        m.partial_fit(X[900:], y[900:])  # passes MOST in the middle of the call
        assert m._models[0].trainer.lanes is None
        assert m._models[0].trainer.seen == 1500
        m.partial_fit(X[:10], y[:10])
    assert_bits(again.coef_, model.coef_)
    single = LinearClassifier(lr=model.lr_, shuffle=False).partial_fit(X[:2000], y[:2000], classes=[0, 1])
    single.partial_fit(X[:10], y[:10])
    assert_bits(model.coef_, single.coef_)
    rate = model.lr_
    model.set_params(lr=rate / 2).partial_fit(X[:10], y[:10])  # a number ends it for good
    with pytest.raises(AttributeError, match="lr_ exists"):
        print(model.lr_)
    with pytest.raises(StateError, match="began with a number"):
        model.set_params(lr="auto").partial_fit(X[:10], y[:10])


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 0.1, "mode": "minibatch"},
        {"lr": 0.1, "l1": 0.1},
        {"lr": lambda step: 0.1 + 0 * step, "l2": 0.1},
        {"lr": 1e300, "l2": 1e300},
        {"lr": 0.1, "random_state": "no seed"},
        {"lr": 0.1, "optimizer": "sgd"},
    ],
)
def test_a_refused_change_ends_no_search(change, rng):
    X, y = problem(rng, 600)
    model = LinearClassifier(lr="auto", random_state=0)
    twin = LinearClassifier(lr="auto", random_state=0)
    for m in (model, twin):
        m.partial_fit(X[:300], y[:300], classes=[0, 1])
    before = {name: model.get_params()[name] for name in change}
    with pytest.raises((fastopt.FastoptError, ValueError)):
        model.set_params(**change).partial_fit(X[300:], y[300:])
    assert model._models[0].trainer.lanes is not None
    model.set_params(**before)
    for m in (model, twin):
        m.partial_fit(X[300:], y[300:])
    assert_bits(model.progressive_loss_, twin.progressive_loss_)
    assert_bits(model.coef_, twin.coef_)


@pytest.mark.parametrize(
    "change", [{"lr": "auto"}, {"mode": "minibatch"}, {"lr": lambda step: 0.1 + 0 * step, "l2": 0.1}]
)
def test_a_refused_change_leaves_classes_side_by_side(change, rng):
    X, y = problem(rng, 300, classes=4)
    model = LinearClassifier(random_state=0).fit(X, y)
    with pytest.raises((StateError, UnsupportedError)):
        model.set_params(**change).partial_fit(X, y)
    assert all(isinstance(m.trainer, lanes.Lane) for m in model._models)


@pytest.mark.parametrize("loaded", [False, True])
def test_a_search_goes_on_where_features_are_ordered_by_frequency(loaded, rng, tmp_path):
    """Threads order them; then weights are read, and restored weights moved, as if they did not."""
    X, y = problem(rng, 1500)
    wild = LinearClassifier(lr="auto", shuffle=False, mode="hogwild", n_jobs=2)
    if loaded:
        save_model(tmp_path / "m.npz", wild.fit(X, y))
        wild, _ = load_model(tmp_path / "m.npz")
        calm, _ = load_model(tmp_path / "m.npz")
        calm.set_params(mode="sequential")
    else:
        calm = LinearClassifier(lr="auto", shuffle=False)
    for part in (slice(0, 5), slice(5, 700), slice(700, 1500)):  # of the first too little is learned for an order
        for model in (wild, calm):
            model.partial_fit(X[part], y[part], classes=[0, 1])
        assert wild._models[0].trainer.lanes is not None
        assert_bits(wild.coef_, calm.coef_)
        assert_bits(wild.decision_function(X), calm.decision_function(X))
        assert_bits(wild.progressive_loss_, calm.progressive_loss_)


def test_ftrl_goes_on_from_its_weights(rng, tmp_path):
    """At other rates, with the weights of a file, and when a search begins again with the full rate."""
    X, y = problem(rng, 3000, classes=3)
    for labels in (y, y > 0):
        for lr in (0.3, "auto"):
            model = LinearClassifier(optimizer="ftrl", lr=lr, epochs=9, random_state=0).fit(X, labels)
            save_model(tmp_path / "m.npz", model)
            loaded, _ = load_model(tmp_path / "m.npz")
            before = model.coef_.copy()
            scale = abs(before).max()
            model.partial_fit(X[:2], labels[:2])  # of a search: no longer at the rate of the ninth pass
            assert abs(model.coef_ - before).max() < 0.1 * scale
            loaded.partial_fit(X[:2], labels[:2])
            assert abs(loaded.coef_ - before).max() < 0.5 * scale
            if lr != "auto":
                before = model.coef_.copy()
                model.set_params(lr=1e-5).partial_fit(X[:2], labels[:2])
                assert abs(model.coef_ - before).max() < 1e-3 * scale


@needs_native
def test_rates_of_sgd_follow_the_length_of_rows(rng):
    X, y = problem(rng)
    fits = [LinearClassifier(optimizer="sgd", lr="auto", fit_intercept=False, random_state=0) for _ in range(2)]
    for model, by in zip(fits, (1, 64), strict=True):
        model.fit(X * np.float32(by), y)
    assert_bits(fits[1].rates_ * 64**2, fits[0].rates_)
    assert fits[1].lr_ * 64**2 == fits[0].lr_
    assert_bits(fits[1].coef_ * np.float32(64), fits[0].coef_)


def test_weights_that_are_not_finite_never_win(rng):
    X, y = problem(rng)
    model = LinearClassifier(lr="auto").partial_fit(X[:500], y[:500], classes=[0, 1])
    trainer = model._models[0].trainer
    best = trainer._best()
    trainer.lanes.records[X.indices[0], 0, best] = np.nan
    trainer._look(X.indices)
    assert np.isnan(model.progressive_loss_[best])
    assert trainer._best() != best
    assert np.isfinite(model.coef_).all()


def test_a_search_where_everything_diverges_says_so(rng):
    X, y = problem(rng)
    model = LinearRegressor(optimizer="adagrad", loss="poisson", lr="auto")
    with pytest.raises(NonFiniteError, match=r"each of the rates 0\.0156 to 2"):
        model.fit(X * np.float32(1e20), y)


@needs_native
def test_search_of_regressions_and_of_several_classes(rng):
    X, y = problem(rng, classes=3)
    regressor = LinearRegressor(lr="auto").fit(X, y)
    assert regressor.score(X, y) > 0.3
    assert regressor.progressive_loss_.shape == regressor.rates_.shape == (8,)
    model = LinearClassifier(lr="auto").fit(X, y)
    assert model.lr_.shape == (3,)
    assert model.rates_.shape == (3, 8)
    assert model.score(X, y) > 0.5


def test_a_model_that_searched_is_saved(rng, tmp_path):
    X, y = problem(rng)
    model = LinearClassifier(lr="auto").fit(X, y)
    save_model(tmp_path / "m.npz", model)
    again, _ = load_model(tmp_path / "m.npz")
    assert_bits(again.decision_function(X), model.decision_function(X))
    again.partial_fit(X, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "minibatch"}, "mode='minibatch' wants others"),
        ({"l1": 0.1}, "no l1"),
        ({"multi_class": "multinomial"}, "needs mode='sequential'"),
    ],
)
def test_what_a_search_cannot_do(options, message, rng):
    X, y = problem(rng, 50, classes=3)
    with pytest.raises(UnsupportedError, match=message):
        LinearClassifier(lr="auto", **options).fit(X, y)
    with pytest.raises(HyperParameterError, match="lr"):
        LinearClassifier(lr="best").fit(X, y)


# -------------------------------------------------------------------------------------------------------------- classes


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("name", ["adagrad", "adam", "ftrl", "rprop"])
def test_classes_side_by_side_are_models_by_themselves(name, n_jobs, rng):
    X, y = problem(rng, 600, classes=19)
    weights = rng.uniform(0.5, 2, 600)
    options = {"optimizer": name, "lr": 0.02, "l2": 0 if name == "ftrl" else 1e-3, "epochs": 2, "random_state": 0}
    model = LinearClassifier(n_jobs=n_jobs, average=True, **options).fit(X, y, weights)
    groups = {id(m.trainer.group) for m in model._models}
    assert len(groups) == n_jobs
    for k in (0, 7, 18):
        single = LinearClassifier(average=True, **options).fit(X, y == k, weights)
        assert_bits(model.coef_[k], single.coef_[0])
        assert_bits(model.intercept_[k], single.intercept_[0])


def test_classes_go_on_in_other_modes(rng):
    X, y = problem(rng, 600, classes=4)
    model = LinearClassifier(random_state=0).fit(X, y)
    copy = pickle.loads(pickle.dumps(model))
    model.partial_fit(X, y)
    copy.set_params(mode="hogwild").partial_fit(X, y)  # each by itself; one thread, so that the bits are the same
    assert isinstance(copy._models[0].trainer, SampleTrainer)
    assert_bits(copy.coef_, model.coef_)
    model.set_params(warm_start=True, early_stopping=True, epochs=4).fit(X, y)
    assert model.score(X, y) > 0.6


def test_verbose_and_early_stopping_of_classes(rng, capsys):
    X, y = problem(rng, 600, classes=3)
    LinearClassifier(verbose=1, epochs=2).fit(X, y)
    assert capsys.readouterr().out.count("training loss") == 2
    model = LinearClassifier(
        multi_class="multinomial",
        lr=0.5,
        early_stopping=True,
        epochs=40,
        n_iter_no_change=2,
        verbose=1,
        random_state=0,
    ).fit(X, y)
    assert model.n_iter_ < 40
    assert capsys.readouterr().out.count("validation loss") == model.n_iter_


@needs_native
def test_multinomial_reaches_the_optimum_of_scikit_learn(rng):
    X = rng.standard_normal((300, 5))
    y = (X @ rng.standard_normal((5, 4)) + rng.gumbel(size=(300, 4))).argmax(axis=1)
    l2 = 0.01
    peer = LogisticRegression(C=1 / (l2 * 300), tol=1e-10, max_iter=1000).fit(X, y)
    model = LinearClassifier(
        "log_loss", multi_class="multinomial", optimizer="sgd", lr=0.02, l2=l2, epochs=300, random_state=0
    )
    model.fit(X, y)
    for rate in (0.002, 0.0002):
        model.set_params(warm_start=True, lr=rate, epochs=400).fit(X, y)
    np.testing.assert_allclose(model.predict_proba(X), peer.predict_proba(X), rtol=0, atol=0.002)
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1, rtol=0, atol=1e-12)
    other = model.to_sklearn()
    np.testing.assert_allclose(other.predict_proba(X), model.predict_proba(X), rtol=0, atol=1e-12)
    assert (other.predict(X) == model.predict(X)).all()


def test_multinomial_of_two_classes_is_the_binary_model(rng):
    X, y = problem(rng, 300)
    options = {"random_state": 0, "epochs": 2}
    one, other = (LinearClassifier(multi_class=m, **options).fit(X, y) for m in ("ovr", "multinomial"))
    assert_bits(one.coef_, other.coef_)


def test_multinomial_is_saved_and_says_what_it_cannot(rng, tmp_path):
    X, y = problem(rng, 300, classes=3)
    model = LinearClassifier(multi_class="multinomial").fit(X, y)
    save_model(tmp_path / "m.npz", model)
    again, _ = load_model(tmp_path / "m.npz")
    assert_bits(again.predict_proba(X), model.predict_proba(X))
    again.partial_fit(X, y)
    with pytest.raises(HyperParameterError, match="has loss='log_loss'"):
        LinearClassifier("hinge", multi_class="multinomial").fit(X, y)
    for bad in ({"mode": "hogwild"}, {"mode": "minibatch"}, {"l1": 0.1}):
        with pytest.raises(UnsupportedError, match="multinomial' needs"):
            LinearClassifier(multi_class="multinomial", **bad).fit(X, y)
    with pytest.raises(StateError, match="multi_class changed"):
        model.set_params(multi_class="ovr").partial_fit(X, y)


def test_memory_is_planned(monkeypatch, rng):
    X, y = problem(rng, 300, classes=3)
    monkeypatch.setattr(lanes, "memory", lambda: 20_000)
    with pytest.raises(MemoryError, match=r"3 models of 400 features.*400 x 2 x 8 x 4 bytes.*hash to fewer"):
        LinearClassifier().fit(X, y)
    monkeypatch.undo()
    assert lanes.memory() is None or lanes.memory() > 1 << 26
