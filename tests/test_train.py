"""The training loop: what it computes, what it records, and that it goes on where it stopped, to the last bit."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from test_checkpoint import bits

import fastopt
from fastopt import checkpoint
from fastopt.strategies import Accumulator, Callback, Curriculum, EarlyStopping, ResetState, Sequential, Shuffled

X = np.random.default_rng(0).standard_normal((50, 3))
Y = X @ np.array([1.0, -2.0, 0.5]) + 0.3


def loss_and_grad(params: Any, x: Any, y: Any, sample_weight: Any = 1.0) -> tuple[float, Any]:
    r = x @ params["w"] + params["b"] - y
    v = r * sample_weight
    return float(np.mean(v * r)), {"w": 2 * x.T @ v / len(r), "b": np.array([2 * np.mean(v)])}


def fresh() -> dict[str, Any]:
    return {"w": np.zeros(3), "b": np.zeros(1)}


def fit(params: Any, optimizer: Any = "sgd", **options: Any) -> fastopt.strategies.History:
    return fastopt.train(loss_and_grad, params, (X, Y), optimizer, **options)


# ------------------------------------------------------------------------------------------------------ what it does


@pytest.mark.parametrize("batch_size", [1, 16, 50, None])
@pytest.mark.parametrize("order", ["shuffled", "sequential"])
def test_it_is_the_loop_that_one_would_write(batch_size, order):
    params, mine = fresh(), fresh()
    opt = fastopt.SGD(mine, lr=0.05, momentum=0.9)
    losses, epochs = [], []
    for epoch in range(3):
        total, index = 0.0, Shuffled(7).indices(50, epoch) if order == "shuffled" else np.arange(50)
        for at in range(0, 50, batch_size or 50):
            rows = index[at : at + (batch_size or 50)]
            loss, grads = loss_and_grad(mine, X[rows], Y[rows])
            opt.step(grads)
            losses.append(loss)
            total += loss * len(rows)
        epochs.append({"epoch": epoch, "step": len(losses), "loss": total / 50})
    sgd = fastopt.SGD(params, lr=0.05, momentum=0.9)
    history = fit(params, sgd, epochs=3, batch_size=batch_size, order=order, seed=7)
    assert all((params[k] == mine[k]).all() for k in mine)
    assert history.loss.tolist() == losses and history.epochs == epochs
    assert history.steps == len(losses) and history.stopped is None and history.optimizer is sgd
    assert history.lr.tolist() == [0.05] * len(losses) and history.loss.dtype == np.float64


def test_optimizers_by_name_callable_and_table():
    for given in ("adam", fastopt.Adam, lambda params: fastopt.Adam(params), fastopt.Adam(shared := fresh())):
        params = shared if isinstance(given, fastopt.Optimizer) else fresh()
        history = fit(params, given, epochs=2)
        assert type(history.optimizer) is fastopt.Adam and history.steps == 4 and (params["w"] != 0).all()
    table = fastopt.Table(5, 2, "sgd", dtype="float64", lr=0.5)
    ids = np.arange(10) % 5

    def pull(t: Any, rows: Any) -> Any:
        return float(t[rows].mean()), fastopt.SparseGrad(rows, np.full((len(rows), 2), -1.0))

    fastopt.train(pull, table.param, ids, table, batch_size=5)
    assert (table.param == 1.0).all()


def test_parameters_in_a_file(tmp_path):
    w = np.memmap(tmp_path / "w", np.float64, "w+", shape=(3,))
    fastopt.train(lambda w, x: (1.0, np.ones(3)), w, X, fastopt.SGD(w, lr=1.0), batch_size=None)
    assert w.tolist() == [-1, -1, -1]


def test_schedules_of_rate_and_batch_see_the_optimizers_steps():
    sizes: list[int] = []

    def spy(params: Any, x: Any, y: Any) -> Any:
        sizes.append(len(x))
        return loss_and_grad(params, x, y)

    params = fresh()
    opt = fastopt.SGD(params, lr=lambda step: 0.01 / (1 + step))
    history = fastopt.train(spy, params, (X, Y), opt, epochs=2, batch_size=lambda step: 10 + 5 * step)
    assert sizes == [10, 15, 20, 5, 30, 20]
    assert history.lr.tolist() == [0.01 / (1 + t) for t in range(6)]
    history = fastopt.train(spy, params, (X, Y), opt, batch_size=lambda step: step, drop_last=True)
    assert sizes[6:] == [6, 7, 8, 9, 10] and history.lr[0] == 0.01 / 7
    sizes.clear()
    fastopt.train(spy, fresh(), (X, Y), "sgd", batch_size=lambda step: 10 + 2 * step, accumulate=2)
    assert sizes == [10, 10, 12, 12, 6], "all batches of a step have one size"


def test_drop_last():
    assert fit(fresh(), batch_size=20, drop_last=True).steps == 2
    assert fit(fresh(), batch_size=60, drop_last=True).steps == 1


def test_accumulated_batches_are_one_large_batch():
    one, two = fresh(), fresh()
    a = fit(one, "adam", epochs=3, batch_size=40)
    b = fit(two, "adam", epochs=3, batch_size=10, accumulate=4)
    assert a.steps == b.steps == 6, "the last batch of an epoch makes a step of its own"
    assert np.abs(a.loss - b.loss).max() < 1e-13
    assert all(np.abs(one[k] - two[k]).max() < 1e-13 for k in one)
    ragged = fresh()
    c = fit(ragged, "adam", epochs=3, batch_size=33, accumulate=2)
    full = fresh()
    d = fit(full, "adam", epochs=3, batch_size=None)
    assert c.steps == d.steps == 3 and all(np.abs(ragged[k] - full[k]).max() < 1e-13 for k in one), "33 and 17 samples"


def test_sample_weights():
    """A whole weight is as many samples; zero is none."""
    weight = np.arange(50) % 3
    one, two = fresh(), fresh()
    fit(one, lambda p: fastopt.SGD(p, lr=0.05), epochs=20, batch_size=None, sample_weight=weight)
    repeated = np.repeat(np.arange(50), weight)

    def scaled(params: Any, x: Any, y: Any) -> Any:
        loss, grads = loss_and_grad(params, x, y)
        return loss, {k: g * (len(repeated) / 50) for k, g in grads.items()}

    fastopt.train(
        scaled, two, (X[repeated], Y[repeated]), lambda p: fastopt.SGD(p, lr=0.05), epochs=20, batch_size=None
    )
    assert all(np.abs(one[k] - two[k]).max() < 1e-12 for k in one)


def test_validation_and_history():
    seen = []

    def judge(params: Any) -> Any:
        seen.append(params["w"].copy())
        return {"error": float(np.abs(params["w"]).sum()), "n": np.int64(3)}

    history = fit(fresh(), epochs=2, validation=judge)
    assert [e["error"] for e in history.epochs] == [np.abs(w).sum() for w in seen] and history.epochs[0]["n"] == 3.0
    assert fit(fresh(), validation=lambda p: 1).epochs[0]["validation"] == 1.0
    assert repr(history).startswith("History(4 steps, 2 epochs, loss ")
    assert fit(fresh(), epochs=0).steps == 0


@pytest.mark.parametrize("name", ["schedulefreesgd", "schedulefreeadamw"])
def test_schedule_free_optimizers_are_judged_by_their_average(name):
    plain, judged, seen = fresh(), fresh(), []
    make = fastopt.Optimizer.known[name]
    history = fit(plain, make(plain, lr=0.01), epochs=3)
    opt = make(judged, lr=0.01)
    fit(judged, opt, epochs=3, validation=lambda p: seen.append(p["w"].copy()) or 0.0)
    assert all((plain[k] == judged[k]).all() for k in plain), "validation must not change the training"
    history.optimizer.eval()
    assert (seen[-1] == plain["w"]).all()
    stopping = EarlyStopping(patience=0, mode="max", monitor="validation")
    scores = iter([2.0, 1.0])
    params = fresh()
    fit(params, make(params, lr=0.01), epochs=5, validation=lambda p: next(scores), early_stopping=stopping)
    assert (params["w"] == seen[0]).all()
    opt = make(params := fresh(), lr=0.01)
    fit(params, opt, epochs=2, early_stopping=EarlyStopping())
    assert opt.state_dict()["train_mode"] is False, "it knows that the parameters hold the average"


def test_exact_mode_is_judged_up_to_date():
    table = np.ones((6, 2))

    def pull(t: Any, rows: Any) -> Any:
        return 0.0, fastopt.SparseGrad(rows[:1], np.ones((1, 2)))

    opt = fastopt.SGD(table, lr=0.1, weight_decay=0.1, decoupled_weight_decay=True, sparse="exact")
    seen: list[Any] = []
    fastopt.train(
        pull,
        table,
        np.array([0, 1]),
        opt,
        batch_size=1,
        order="sequential",
        validation=lambda t: seen.append(t.copy()) or 0.0,
    )
    assert np.abs(seen[0][5] - 0.99**2).max() < 1e-15


# ------------------------------------------------------------------------------------------------------------ stopping


def test_early_stopping_restores_the_best():
    scores, kept = [3.0, 2.0, 2.5, 1.95, 2.2, math.nan, 2.0], []
    params = fresh()

    def judge(p: Any) -> float:
        kept.append(p["w"].copy())
        return scores[len(kept) - 1]

    stopping = EarlyStopping(patience=2, min_delta=0.1)
    history = fit(params, epochs=20, validation=judge, early_stopping=stopping)
    assert history.stopped == "early" and len(history.epochs) == 5, "1.95 is not better than 2.0 by more than 0.1"
    assert (stopping.best, stopping.best_epoch, stopping.bad) == (2.0, 1, 3)
    assert (params["w"] == kept[1]).all()
    kept.clear()
    fit(params, epochs=3, validation=judge, early_stopping=stopping)
    assert stopping.best_epoch == 1 and (params["w"] == kept[1]).all(), "restored at the end, too, and begun anew"
    kept.clear()
    fit(params, epochs=3, validation=judge, early_stopping=EarlyStopping(restore_best=False))
    assert (params["w"] == kept[2]).all()


def test_the_best_is_whole_in_exact_mode_where_a_callback_stops_in_the_middle_of_an_epoch():
    """Rows that wait for steps without gradients would take them after the best had been put back."""
    table, seen = np.ones((6, 2)), []

    def pull(t: Any, ids: Any) -> Any:
        return 1.0, fastopt.SparseGrad(ids, t[ids])

    class Stop:
        def on_step_end(self, history: Any, params: Any, optimizer: Any) -> bool:
            return history.steps == 8

    opt = fastopt.SGD(table, lr=0.1, momentum=0.9, sparse="exact")
    scores = iter([1.0])
    history = fastopt.train(
        pull, table, np.arange(6), opt, epochs=9, batch_size=1, order="sequential", callbacks=[Stop()],
        validation=lambda p: seen.append(p.copy()) or next(scores), early_stopping=EarlyStopping(),
    )  # fmt: skip
    assert history.stopped == "callback" and np.array_equal(table, seen[0])
    opt.flush()
    assert np.array_equal(table, seen[0])


def test_early_stopping_begins_with_the_first_number():
    stopping = EarlyStopping()
    assert not stopping.update(math.nan, 0) and stopping.update(math.inf, 1) and stopping.update(1.0, 2)
    assert not stopping.update(math.nan, 3) and (stopping.best, stopping.best_epoch, stopping.bad) == (1.0, 2, 1)


def test_the_best_is_not_restored_in_the_middle():
    scores, params, plain = iter([1.0, 2.0]), fresh(), fresh()
    stopping = EarlyStopping()
    fit(params, epochs=9, max_steps=4, validation=lambda p: next(scores), early_stopping=stopping)
    fit(plain, epochs=2)
    assert stopping.best_epoch == 0 and (params["w"] == plain["w"]).all()


def test_early_stopping_by_name_and_mode():
    history = fit(
        fresh(),
        epochs=9,
        validation=lambda p: {"a": 0.0, "score": 1.0},
        early_stopping=EarlyStopping(0, mode="max", monitor="score"),
    )
    assert len(history.epochs) == 2
    losses = fit(fresh(), epochs=3, early_stopping=(stopping := EarlyStopping())).epochs
    assert stopping.best == losses[-1]["loss"]
    with pytest.raises(fastopt.StateError, match="pass monitor=, one of epoch, step, loss, score"):
        fit(fresh(), validation=lambda p: {"score": 1.0}, early_stopping=EarlyStopping())
    with pytest.raises(fastopt.StateError, match="monitor is 'scores'"):
        fit(fresh(), validation=lambda p: {"score": 1.0}, early_stopping=EarlyStopping(monitor="scores"))


class Recorder(Callback):
    def __init__(self, stop_step: int = 0, stop_epoch: int = 0) -> None:
        self.seen: list[Any] = []
        self.stop_step, self.stop_epoch = stop_step, stop_epoch

    def on_step_end(self, history: Any, params: Any, optimizer: Any) -> bool:
        self.seen.append((history.steps, len(history.epochs)))
        return history.steps == self.stop_step

    def on_epoch_end(self, history: Any, params: Any, optimizer: Any) -> bool:
        self.seen.append(("epoch", history.epochs[-1]["step"]))
        return len(history.epochs) == self.stop_epoch

    def state_dict(self) -> dict[str, Any]:
        return {"seen": list(self.seen)}

    def load_state_dict(self, state: Any) -> None:
        self.seen = list(state["seen"])


def test_callbacks_see_and_stop():
    one = Recorder(stop_step=3)
    history = fit(fresh(), epochs=4, callbacks=[one])
    assert one.seen == [(1, 0), (2, 0), ("epoch", 2), (3, 1)] and history.stopped == "callback"
    history = fit(fresh(), epochs=4, callbacks=[two := Recorder(stop_epoch=2), object_with_one_hook()])
    assert history.stopped == "callback" and history.steps == 4 and two.seen[-1] == ("epoch", 4)
    history = fit(fresh(), epochs=4, callbacks=[Recorder(stop_step=2)])
    assert history.stopped == "callback" and len(history.epochs) == 1, "the epoch that is full is judged"
    history = fit(fresh(), epochs=4, max_steps=2)
    assert history.stopped == "max_steps" and len(history.epochs) == 1
    assert fit(fresh(), epochs=1, max_steps=2).stopped is None


def object_with_one_hook() -> Any:
    class One:
        def on_epoch_end(self, history: Any, params: Any, optimizer: Any) -> None:
            assert history.epochs

    return One()


@pytest.mark.parametrize(
    ("at", "resets"),
    [
        (3, [3, 6]),
        ([1, 5], [1, 5]),
        (lambda t: t == 4, [4]),
        (np.arange(2, 4), [2, 3]),
        (fastopt.schedules.SGDR(0.1, period=2, multiplier=2), [2, 6]),
        (fastopt.schedules.SGDR(0.1, period=2).with_warmup(1), [3, 5]),
        (fastopt.schedules.SGDR(0.1, period=2).scaled(0.5).then(fastopt.schedules.Constant(0.1), at=5), [2, 4]),
        (fastopt.schedules.Constant(0.1).then(fastopt.schedules.SGDR(0.1, period=2), at=2), [4, 6]),
        (fastopt.schedules.Cosine(0.1, 9).scaled(fastopt.schedules.SGDR(0.1, period=4)), [4]),
    ],
)
def test_reset_state(at, resets):
    params = fresh()
    opt = fastopt.Adam(params)
    ages: list[int] = []
    spy = type("Spy", (), {"on_step_end": lambda *a: ages.append(opt.state_dict()["state"]["w"]["step"]) or None})()
    history = fit(params, opt, epochs=3, callbacks=[ResetState(at), spy])
    assert [k + 1 for k, age in enumerate(ages) if age == 0] == resets
    assert history.steps == opt.steps == 6


@pytest.mark.parametrize(("period", "multiplier"), [(1, 1), (7, 1), (3, 2), (5, 1.5), (4, 3)])
def test_restarts_are_where_the_rate_jumps_up(period, multiplier):
    schedule = fastopt.schedules.SGDR(0.1, period, multiplier, peak_decay=0.9, minimum=1e-5)
    rates = schedule(range(200))
    jumps = [t for t in range(1, 200) if rates[t] > rates[t - 1] or period == 1]
    assert [t for t in range(200) if schedule.is_restart(t)] == jumps


def test_schedules_with_memory_are_told():
    class Memory:
        pure = False

        def __init__(self) -> None:
            self.told: list[float] = []

        def __call__(self, step: int) -> float:
            return 0.01

        def update(self, value: float) -> None:
            self.told.append(value)

    memory, params = Memory(), fresh()
    groups = [{"params": {"w": params["w"]}}, {"params": {"b": params["b"]}}]
    history = fit(params, fastopt.SGD(groups, lr=memory), epochs=2)
    assert memory.told == [e["loss"] for e in history.epochs]
    scores = iter([5.0, 4.0])
    fit(params, fastopt.SGD(params, lr=memory), epochs=2, validation=lambda p: next(scores))
    assert memory.told[2:] == [5.0, 4.0]


def test_reduce_on_plateau_holds_from_the_next_epoch_on_and_after_a_resumption(tmp_path):
    def run(epochs: int, **options: Any) -> Any:
        plateau = fastopt.schedules.ReduceOnPlateau(0.1, patience=1, factor=0.5)
        params = fresh()
        opt = fastopt.SGD(params, lr=plateau.with_warmup(2))
        return fit(params, opt, epochs=epochs, validation=lambda p: 1.0, **options), params

    whole, params = run(6)
    assert whole.lr.tolist() == [0.05, 0.1, 0.1, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05, 0.05, 0.025, 0.025]
    run(2, checkpoint=tmp_path / "run.npz")
    again, others = run(6, checkpoint=tmp_path / "run.npz", resume=True)
    assert bits(again.lr) == bits(whole.lr) and bits(params) == bits(others)


def test_batches_may_follow_a_plateau_too(tmp_path):
    """Batches that grow where a rate would be reduced (Smith et al. 2017), with the memory in the checkpoint."""

    def run(epochs: int, **options: Any) -> Any:
        plateau, params = fastopt.schedules.ReduceOnPlateau(1.0, patience=0, factor=0.5), fresh()
        batches = fastopt.schedules.BatchSizeSchedule(plateau, 10, most=50)
        options |= {"batch_size": batches, "validation": lambda p: 1.0}
        return fit(params, epochs=epochs, **options), params

    whole, params = run(5)
    assert np.diff([0] + [e["step"] for e in whole.epochs]).tolist() == [5, 5, 3, 2, 1]
    run(3, checkpoint=tmp_path / "run.npz")
    again, others = run(5, checkpoint=tmp_path / "run.npz", resume=True)
    assert again.epochs == whole.epochs and bits(params) == bits(others)


def test_a_loss_that_is_not_finite():
    def broken(params: Any, x: Any, y: Any) -> Any:
        loss, grads = loss_and_grad(params, x, y)
        return (math.nan if params["w"].any() else loss), grads

    params = fresh()
    with pytest.raises(fastopt.NonFiniteError, match=r"nan at step 1 \(epoch 0\)"):
        fastopt.train(broken, params, (X, Y), "sgd", epochs=2)
    after_one = fresh()
    fit(after_one, max_steps=1)
    assert (params["w"] == after_one["w"]).all(), "the gradient was used"
    history = fastopt.train(broken, fresh(), (X, Y), "sgd", epochs=2, stop_on_nan=False)
    assert np.isnan(history.loss).tolist() == [False, True, True, True]

    def burst(params: Any, x: Any, y: Any) -> Any:
        return math.inf, {"w": np.full(3, np.nan), "b": np.zeros(1)}

    params = fresh()
    history = fastopt.train(burst, params, (X, Y), fastopt.SGD(params, nonfinite="skip"), batch_size=lambda t: 25 + t)
    assert history.steps == 2 and history.optimizer.skipped == 2 and history.optimizer.steps == 0


# ------------------------------------------------------------------------------------------------------------ resuming


def rows_loss(params: Any, ids: Any) -> Any:
    rows = params["table"][ids]
    return float((rows**2).sum()), {"table": fastopt.SparseGrad(ids, rows - 1), "bias": None}


def setting(kind: str) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
    """A run made of new objects: loss, parameters, data, optimizer, options."""
    params = {k: a.astype(np.float32) for k, a in fresh().items()}
    data: Any = (X.astype(np.float32), Y.astype(np.float32))
    loss: Any = loss_and_grad_32
    options: dict[str, Any] = {"epochs": 4, "batch_size": 12, "seed": 3}
    if kind == "adam":
        opt: Any = fastopt.Adam(params, lr=lambda t: 0.1 / (1 + t))
    elif kind == "momentum":
        opt = fastopt.SGD(params, lr=0.01, momentum=0.9)
        options |= {"batch_size": lambda t: 5 + t, "accumulate": 2}
    elif kind == "averaged":
        opt = fastopt.AdamW(params, transforms=[fastopt.clip_global_norm(0.5), fastopt.transforms.ema(0.9)])
        options |= {"early_stopping": EarlyStopping(patience=1), "validation": rising(), "epochs": 6}
        options |= {"callbacks": [Recorder(), ResetState(4)]}
    elif kind == "schedulefree":
        opt = fastopt.ScheduleFreeAdamW(params, lr=0.01)
        options |= {"validation": lambda p: float(p["w"].sum())}
    elif kind == "curriculum":
        opt = fastopt.RMSprop(params)
        options |= {"order": Curriculum(np.abs(Y), "combined", seed=1), "drop_last": True, "accumulate": 3}
    else:
        params = {"table": np.random.default_rng(1).standard_normal((30, 4)).astype(np.float32), "bias": np.zeros(2)}
        opt, data, loss = fastopt.Adam(params), np.random.default_rng(2).integers(0, 30, 50), rows_loss
        options |= {"accumulate": 2}
    return loss, params, data, opt, options


def rising() -> Any:
    """A score that depends on the parameters alone, and is best in the middle."""
    return lambda p: abs(float(p["w"][0]) - 0.011)


def loss_and_grad_32(params: Any, x: Any, y: Any) -> Any:
    loss, grads = loss_and_grad(params, x, y)
    return loss, {k: g.astype(np.float32) for k, g in grads.items()}


def outcome(params: Any, history: Any, options: Any) -> Any:
    told = [one.seen for one in options.get("callbacks", ()) if isinstance(one, Recorder)]
    stopping = options.get("early_stopping")
    return (
        bits(params),
        bits(checkpoint.pack(history.optimizer)),
        [history.loss.tobytes(), history.lr.tobytes(), history.epochs, history.stopped],
        told,
        stopping and stopping.state_dict(),
    )


KINDS = ["adam", "momentum", "averaged", "schedulefree", "curriculum", "sparse"]


@pytest.mark.parametrize("kind", KINDS)
def test_resuming_goes_on_bit_for_bit(tmp_path, kind):
    loss, params, data, opt, options = setting(kind)
    whole = fastopt.train(loss, params, data, opt, **options)
    want = outcome(params, whole, options)
    assert whole.steps > 6
    if kind == "averaged":
        assert whole.stopped == "early" and 0 < options["early_stopping"].best_epoch < len(whole.epochs) - 1
    for stops in ([1, 2, 3, 4, 5, 6, 7], [whole.steps - 1], [4]):
        path = tmp_path / f"{stops[0]}.npz"
        for stop in stops:
            loss, params, data, opt, options = setting(kind)
            history = fastopt.train(loss, params, data, opt, checkpoint=path, resume=True, max_steps=stop, **options)
            assert history.steps == stop and history.stopped == "max_steps"
        loss, params, data, opt, options = setting(kind)
        for p in params.values():
            p += 1  # what is loaded counts, not what was there
        history = fastopt.train(loss, params, data, opt, checkpoint=path, resume=True, **options)
        assert outcome(params, history, options) == want, stops
        # A run that is over stays so.
        loss, params, data, opt, options = setting(kind)
        history = fastopt.train(loss, params, data, opt, checkpoint=path, resume=True, **options)
        assert outcome(params, history, options) == want


@pytest.mark.parametrize("every", [1, 2, 3, 5])
def test_a_run_that_was_killed_goes_on_from_its_last_checkpoint(tmp_path, every):
    class Killed(Exception):
        pass

    for at in (4, 5, 6, 11):
        loss, params, data, opt, options = setting("averaged")
        want_history = fastopt.train(loss, params, data, opt, **options)
        want = outcome(params, want_history, options)
        path, calls = tmp_path / f"{at}.npz", []

        def dying(*args: Any, loss: Any = loss, calls: Any = calls, at: int = at) -> Any:
            calls.append(0)
            if len(calls) > at:
                raise Killed
            return loss(*args)

        _, params, data, opt, options = setting("averaged")
        with pytest.raises(Killed):
            fastopt.train(dying, params, data, opt, checkpoint=path, checkpoint_every=every, **options)
        loss, params, data, opt, options = setting("averaged")
        if at < every:
            assert not path.exists()
        else:
            assert checkpoint.read(path)["history"]["loss"].shape == (at // every * every,)
        history = fastopt.train(loss, params, data, opt, checkpoint=path, resume=True, **options)
        assert outcome(params, history, options) == want


def test_more_epochs_and_the_optimizer_alone(tmp_path):
    path = tmp_path / "run.npz"
    one = fresh()
    fit(one, "adam", epochs=5)
    two = fresh()
    fit(two, "adam", epochs=2, checkpoint=path)
    three = fresh()
    history = fit(three, "adam", epochs=5, checkpoint=path, resume=True)
    assert (three["w"] == one["w"]).all() and len(history.epochs) == 5
    other = fastopt.Adam(params := fresh())
    fastopt.load(path, other)
    assert (params["w"] == three["w"]).all() and other.steps == history.steps


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"data": (X[:40], Y[:40])}, "samples is 50, but here it is 40"),
        ({"data": (X[:, :2], Y)}, "data is"),
        ({"seed": 1}, r"order is 'Shuffled\(seed=0\)', but here it is 'Shuffled\(seed=1\)'"),
        ({"order": "sequential"}, "order is"),
        ({"batch_size": 16}, "batch_size is 32, but here it is 16"),
        ({"batch_size": lambda t: 32}, "'a schedule'"),
        ({"drop_last": True}, "drop_last is"),
        ({"accumulate": 2}, "accumulate is"),
        ({"sample_weight": np.ones(50)}, "sample_weight is"),
        ({"optimizer": "rmsprop"}, "optimizer is 'Adam', but here it is 'RMSprop'"),
        ({"optimizer": lambda p: fastopt.Adam(p, lr=lambda t: 0.1)}, "the number 0.001 as lr"),
        ({"optimizer": lambda p: fastopt.Adam(p, transforms=[fastopt.transforms.ema()])}, "ema"),
        ({"early_stopping": EarlyStopping()}, "early_stopping is"),
        ({"callbacks": [Recorder()]}, r"memory is \[\], but here it is \['Recorder'\]"),
        ({"layers": [Recorder()]}, "what has a memory is"),
    ],
)
def test_another_run_cannot_be_resumed(tmp_path, change, match):
    path = tmp_path / "run.npz"
    fit(fresh(), "adam", checkpoint=path)
    before, params = path.read_bytes(), fresh()
    given = {"data": (X, Y), "optimizer": "adam", "epochs": 3, **change}
    data, optimizer = given.pop("data"), given.pop("optimizer")
    with pytest.raises(fastopt.CheckpointError, match=match):
        fastopt.train(loss_and_grad, params, data, optimizer, checkpoint=path, resume=True, **given)
    assert not params["w"].any() and path.read_bytes() == before


def test_files_that_are_none(tmp_path):
    path = tmp_path / "run.npz"
    params = fresh()
    fastopt.save(fastopt.Adam(params), path)
    with pytest.raises(fastopt.CheckpointError, match="no checkpoint of train"):
        fit(params, "adam", checkpoint=path, resume=True)
    path.write_bytes(b"PK")
    with pytest.raises(fastopt.CheckpointError, match="damaged"):
        fit(params, "adam", checkpoint=path, resume=True)
    with pytest.raises(fastopt.CheckpointError, match="cannot be written"):
        fit(params, "adam", checkpoint=tmp_path / "none" / "run.npz")
    with pytest.raises(fastopt.CheckpointError, match="cannot be written"):
        fit(params, "adam", checkpoint=tmp_path)
    assert not params["w"].any()


def test_a_state_that_a_callback_refuses_changes_nothing(tmp_path):
    class Picky(Recorder):
        def load_state_dict(self, state: Any) -> None:
            super().load_state_dict(state)
            if state["seen"]:
                raise fastopt.StateError("not mine")

    path, stopping = tmp_path / "run.npz", EarlyStopping()
    fit(fresh(), "adam", checkpoint=path, callbacks=[Picky()], early_stopping=stopping)
    params, picky, other = fresh(), Picky(), EarlyStopping()
    with pytest.raises(fastopt.StateError, match="not mine"):
        fit(params, "adam", checkpoint=path, resume=True, callbacks=[picky], early_stopping=other)
    assert not params["w"].any() and picky.seen == [] and other.best is None


class Running:
    """A layer with a memory, as batch normalization has one."""

    def __init__(self) -> None:
        self.mean = 0.0

    def __call__(self, params: Any, x: Any, y: Any) -> Any:
        self.mean = 0.9 * self.mean + 0.1 * float(y.mean())
        loss, grads = loss_and_grad(params, x, y)
        return loss + self.mean, grads

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean}

    def load_state_dict(self, state: Any) -> None:
        self.mean = state["mean"]


def test_layers_go_along(tmp_path):
    path, layer, means = tmp_path / "run.npz", Running(), []

    def run(layer: Any, **options: Any) -> Any:
        return fastopt.train(layer, fresh(), (X, Y), "adam", batch_size=20, layers=[layer], **options)

    scores = iter([3.0, 1.0, 2.0])
    judge = lambda p: means.append(layer.mean) or next(scores)  # noqa: E731
    run(layer, epochs=3, validation=judge, early_stopping=EarlyStopping())
    assert layer.mean == means[1] != means[2]
    whole = run(Running(), epochs=3)
    run(Running(), epochs=3, max_steps=4, checkpoint=path)
    assert run(Running(), epochs=3, checkpoint=path, resume=True).loss.tolist() == whole.loss.tolist()
    layer.mean = 7.0
    fastopt.lr_range_test(layer, fresh(), (X, Y), "sgd", layers=[layer])
    assert layer.mean == 7.0


# ------------------------------------------------------------------------------------------------------------- Ctrl-C

SCRIPT = """
    import signal, sys, time
    import numpy as np, fastopt

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets its background jobs ignore it
    w = np.zeros(2)

    def loss_and_grad(w, x):
        print("step", flush=True)
        for _ in range(SLEEPS):
            time.sleep(0.02)
        return 1.0, x.mean(axis=0)

    try:
        history = fastopt.train(loss_and_grad, w, np.ones((10, 2)), "adam", epochs=200, batch_size=1, checkpoint=sys.argv[1])
    except KeyboardInterrupt:
        print("raised")
    else:
        print(history.stopped, history.steps)
    print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


def start(path: Any, sleeps: int) -> subprocess.Popen[str]:
    code = textwrap.dedent(SCRIPT).replace("SLEEPS", str(sleeps))
    return subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)


def test_ctrl_c_saves_and_returns(tmp_path):
    path = tmp_path / "run.npz"
    process = start(path, 1)
    assert process.stdout
    for _ in range(3):
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    ended, restored = out.strip().splitlines()[-2:]
    assert re.fullmatch(r"interrupt \d+", ended) and restored == "True"
    tree = checkpoint.read(path)
    assert tree["history"]["stopped"] == "interrupt" and f"interrupt {len(tree['history']['loss'])}" == ended
    assert len(tree["history"]["loss"]) < 100


def test_a_second_ctrl_c_raises_at_once(tmp_path):
    process = start(tmp_path / "run.npz", 1000)
    assert process.stdout
    process.stdout.readline()
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert out.split() == ["raised", "True"] and time.monotonic() - began < 15
    assert not (tmp_path / "run.npz").exists()


def test_signals_are_put_back_and_other_threads_leave_them_alone():
    before = signal.getsignal(signal.SIGINT)

    def bad(params: Any, x: Any, y: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fastopt.train(bad, fresh(), (X, Y), "sgd")
    assert signal.getsignal(signal.SIGINT) is before
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(fit(fresh())))
    thread.start()
    thread.join()
    assert found[0].steps == 2 and signal.getsignal(signal.SIGINT) is before
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        seen: list[Any] = []
        spy = type("Spy", (), {"on_step_end": lambda *a: seen.append(signal.getsignal(signal.SIGINT)) or None})()
        fit(fresh(), callbacks=[spy])
        assert set(seen) == {signal.SIG_IGN}, "who ignores Ctrl-C goes on ignoring it"
    finally:
        signal.signal(signal.SIGINT, before)


# ------------------------------------------------------------------------------------------------------------ progress


def test_progress(capsys):
    fit(fresh(), epochs=2, progress=True)
    text = capsys.readouterr().err
    assert "epoch 2/2: 100%" in text and "50/50" in text and "lr=0.001" in text and "loss=" in text


def test_progress_without_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    params = fresh()
    with pytest.raises(fastopt.UnsupportedError, match="pip install tqdm"):
        fit(params, progress=True)
    assert not params["w"].any()


def test_nothing_is_imported_before_it_is_asked_for():
    code = (
        "import sys, numpy as np, fastopt; assert not {'fastopt.strategies', 'fastopt.checkpoint'} & set(sys.modules);"
        "w = np.zeros(1); fastopt.train(lambda w, x: (0.0, w + 1), w, np.zeros(3), 'sgd');"
        "assert not {'tqdm', 'matplotlib', 'sklearn', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ})


# -------------------------------------------------------------------------------------------------------- accumulation


def test_accumulated_sums_and_means():
    w = np.zeros(2)
    acc = Accumulator(fastopt.SGD(w, lr=1.0), 2)
    g = np.array([1.0, 2.0])
    assert acc.add(g, weight=3.0) is False and acc.count == 1
    g[:] = 100.0  # it was copied
    assert acc.add(np.array([5.0, 6.0]), weight=1.0) is True and acc.count == 0
    assert w.tolist() == [-2.0, -3.0]
    acc = Accumulator(fastopt.SGD(w, lr=1.0), 3, mean=False)
    w[:] = 0
    acc.add(np.array([1.0, 0.0]), weight=2.0)
    acc.add(np.array([1.0, 1.0]))
    assert acc.flush() is True and acc.flush() is False
    assert w.tolist() == [-3.0, -1.0]
    acc.add(np.ones(2))
    acc.reset()
    assert acc.flush() is False and w.tolist() == [-3.0, -1.0]
    one = Accumulator(fastopt.SGD(w, lr=1.0), 1, mean=False)
    one.add(np.ones(2), weight=2.0)
    assert w.tolist() == [-5.0, -3.0]


def test_equal_weights_are_plain_sums():
    """In float32 a sum of g and a division, and nothing else, is what is rounded."""
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal(1000).astype(np.float32) for _ in range(3)]
    w = np.zeros(1000, np.float32)
    acc = Accumulator(fastopt.SGD(w, lr=1.0), 3)
    for g in grads:
        acc.add(g, weight=7.0)
    want = (grads[0] + grads[1] + grads[2]) * np.float32(1 / 3)
    assert (w == -want).all()


def test_none_counts_as_zeros_unless_it_is_always_none():
    params = [np.zeros(1), np.zeros(1), np.zeros(1)]
    opt = fastopt.SGD(params, lr=1.0)
    acc = Accumulator(opt, 2)
    acc.add([np.ones(1), None, None])
    acc.add([np.ones(1), np.ones(1), None])
    assert [p[0] for p in params] == [-1.0, -0.5, 0.0]
    assert [s["step"] for s in opt.state_dict()["state"].values()] == [1, 1, 0]


def sparse_cases() -> dict[str, Any]:
    rng = np.random.default_rng(3)

    def values(k: int) -> Any:
        return rng.standard_normal((k, 3))

    def bag() -> Any:
        return fastopt.SparseGrad.bag(rng.integers(0, 8, 6), np.array([0, 2, 3]), values(3), mode="mean")

    return {
        "rows": [fastopt.SparseGrad(rng.integers(0, 8, 4), values(4)) for _ in range(2)],
        "bags": [bag(), bag()],
        "both": [bag(), fastopt.SparseGrad(rng.integers(0, 8, 4).astype(np.int32), values(4))],
        "scipy": [scipy.sparse.random(8, 3, 0.3, "csr", random_state=k) for k in range(2)],
    }


@pytest.mark.parametrize("kind", ["rows", "bags", "both", "scipy"])
def test_sparse_gradients_are_strung_together(kind):
    grads = sparse_cases()[kind]
    dense = []
    for g in grads:
        p = np.zeros((8, 3))
        fastopt.SGD(p, lr=1.0).step(g)
        dense.append(-p)
    table = np.zeros((8, 3))
    opt = fastopt.SGD(table, lr=1.0)
    acc = Accumulator(opt, 2)
    acc.add(grads[0], weight=3.0)
    kept = (
        (grads[0].data, grads[0].indices) if kind == "scipy" else (grads[0].values, grads[0].indices)
    )  # they were copied
    for a in kept:
        a[...] = 1
    acc.add(grads[1], weight=1.0)
    assert np.abs(table + (0.75 * dense[0] + 0.25 * dense[1])).max() < 1e-15
    assert (table != 0).any() and (table[(dense[0] == 0).all(axis=1) & (dense[1] == 0).all(axis=1)] == 0).all()


def test_what_cannot_be_added_leaves_what_waits():
    table = np.zeros((4, 2))
    acc = Accumulator(fastopt.SGD(table, lr=1.0), 2)
    good = fastopt.SparseGrad(np.array([1]), np.ones((1, 2)))
    acc.add(good)
    for bad, error in (
        (np.ones((4, 2)), fastopt.UnsupportedError),
        (fastopt.SparseGrad(np.array([4]), np.ones((1, 2))), fastopt.IndexRangeError),
        (fastopt.SparseGrad(np.array([1, 1]), np.ones((2, 2)), duplicates="error"), fastopt.IndexRangeError),
        (np.ones(4), fastopt.ShapeError),
        (np.ones((4, 2), np.float32), fastopt.DTypeError),
        (scipy.sparse.eye(4, 2, format="csr"), fastopt.UnsupportedError),
    ):
        with pytest.raises(error):
            acc.add(bad)
        assert acc.count == 1
    with pytest.raises(fastopt.HyperParameterError, match="weight"):
        acc.add(good, weight=0.0)
    acc.add(good)
    assert table.tolist() == [[0, 0], [-1, -1], [0, 0], [0, 0]]
    dense = Accumulator(fastopt.SGD(table, lr=1.0), 2)
    dense.add(np.ones((4, 2)))
    with pytest.raises(fastopt.UnsupportedError, match="another kind"):
        dense.add(good)


def test_tables_accumulate():
    table = fastopt.Table(4, 2, "sgd", dtype="float64", lr=1.0)
    before, acc = table.param.copy(), Accumulator(table, 2)
    assert [acc.add(fastopt.SparseGrad(np.array([k]), np.ones((1, 2)))) for k in (1, 2)] == [False, True]
    assert np.array_equal(before - table.param, [[0, 0], [0.5, 0.5], [0.5, 0.5], [0, 0]])
    with pytest.raises(fastopt.DTypeError, match="an optimizer or a Table"):
        Accumulator("sgd", 2)


def test_a_step_that_fails_forgets_what_was_added():
    w = np.zeros(2)
    acc = Accumulator(fastopt.SGD(w, lr=1.0, nonfinite="raise"), 2)
    acc.add(np.array([np.inf, 0.0]))
    with pytest.raises(fastopt.NonFiniteError):
        acc.add(np.ones(2))
    assert acc.count == 0 and not w.any()


# --------------------------------------------------------------------------------------------------------------- rates


def test_range_test_finds_a_rate_that_trains_and_changes_nothing():
    params = fresh()
    opt = fastopt.SGD(params, lr=(schedule := lambda step: 0.123), momentum=0.5, transforms=[fastopt.transforms.ema()])
    fit(params, opt)
    before = checkpoint.pack(opt), {k: a.copy() for k, a in params.items()}
    found = fastopt.lr_range_test(loss_and_grad, params, (X, Y), opt, batch_size=10, steps=80)
    assert bits(checkpoint.pack(opt)) == bits(before[0]) and opt.param_groups[0]["lr"] is schedule
    assert all((params[k] == before[1][k]).all() for k in params)
    assert found.rates.shape == found.losses.shape == found.smoothed.shape and len(found.rates) < 80
    assert found.rates[0] == 1e-6 and (np.diff(np.log(found.rates)) > 0).all()
    assert found.losses[-1] > 4 * found.losses.min()
    # The largest stable rate of this quadratic is 2 (1 + momentum) / largest eigenvalue of the Hessian.
    stable = 2 * 1.5 / np.linalg.eigvalsh(2 * np.cov(X.T, bias=True)).max()
    assert stable / 300 < found.suggestion < stable and found.lowest_tenth < stable
    history = fit(fresh(), lambda p: fastopt.SGD(p, lr=found.suggestion, momentum=0.5), epochs=20)
    assert history.epochs[-1]["loss"] < 0.02 * history.epochs[0]["loss"]


def test_range_test_rates_steps_and_smoothing():
    seen: list[float] = []
    params = fresh()
    opt = fastopt.SGD(params, lr=0.5)

    def spy(p: Any, x: Any, y: Any) -> Any:
        seen.append(opt.param_groups[0]["lr"](opt.steps))
        return 10.0 - len(seen), {"w": np.zeros(3), "b": np.zeros(1)}

    found = fastopt.lr_range_test(spy, params, (X, Y), opt, lowest=1e-3, highest=1.0, batch_size=10, smoothing=0.5)
    assert seen == found.rates.tolist() and len(seen) == 5
    assert np.abs(found.rates - 10.0 ** np.linspace(-3, 0, 5)).max() < 1e-15
    assert found.losses.tolist() == [9, 8, 7, 6, 5]
    want, average = [], 0.0
    for k, loss in enumerate(found.losses):
        average = 0.5 * average + 0.5 * loss
        want.append(average / (1 - 0.5 ** (k + 1)))
    assert np.abs(found.smoothed - want).max() < 1e-15
    assert abs(found.lowest_tenth - 0.1) < 1e-15
    rows: list[int] = []
    ids = np.arange(6)
    fastopt.lr_range_test(lambda w, k: (1.0, rows.extend(k)), np.zeros(1), ids, "sgd", steps=4, batch_size=3, seed=5)
    assert rows == [*Shuffled(5).indices(6, 0), *Shuffled(5).indices(6, 1)]


def test_range_test_that_fails_changes_nothing():
    params = fresh()
    opt = fastopt.Adam(params)
    calls: list[int] = []

    def dying(p: Any, x: Any, y: Any) -> Any:
        calls.append(0)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return loss_and_grad(p, x, y)

    with pytest.raises(KeyboardInterrupt):
        fastopt.lr_range_test(dying, params, (X, Y), opt, batch_size=5)
    assert not params["w"].any() and opt.steps == 0 and opt.param_groups[0]["lr"] == 1e-3
    flat = fastopt.lr_range_test(lambda p, x, y: (1.0, {"w": None, "b": None}), params, (X, Y), opt, steps=10)
    assert math.isnan(flat.suggestion) and len(flat.rates) == 10
    falling = fastopt.lr_range_test(
        lambda p, x, y: (-5.0 - opt.steps, {"w": p["w"] + 1, "b": None}), params, (X, Y), opt, steps=10
    )
    assert len(falling.rates) == 10, "losses below zero do not end it"
    params["w"][:] = 1.0
    raising = fastopt.Adam(params, nonfinite="raise")
    burst = fastopt.lr_range_test(
        lambda p, x, y: (1.0, {"w": np.full(3, np.nan), "b": None}), params, (X, Y), raising, steps=10
    )
    assert len(burst.rates) == 1 and (params["w"] == 1).all()
    own = type("Own", (), {"pure": False, "__call__": lambda self, step: 0.1})()
    for schedule in (fastopt.schedules.ReduceOnPlateau(0.1), own):
        opt = fastopt.SGD(params, lr=schedule)
        fastopt.lr_range_test(loss_and_grad, params, (X, Y), opt)
        assert opt.param_groups[0]["lr"] is schedule
    doubtful = fastopt.SGD(params, nonfinite="skip")
    fastopt.lr_range_test(lambda p, x, y: (1.0, {k: a * np.nan for k, a in p.items()}), params, (X, Y), doubtful)
    assert doubtful.skipped == 0
    with pytest.raises(fastopt.HyperParameterError, match="lowest must be below highest"):
        fastopt.lr_range_test(loss_and_grad, params, (X, Y), opt, lowest=1.0, highest=0.5)


# ----------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"epochs": -1}, fastopt.HyperParameterError, "epochs"),
        ({"accumulate": 0}, fastopt.HyperParameterError, "accumulate"),
        ({"batch_size": 1.5}, fastopt.HyperParameterError, "batch_size"),
        ({"order": "up"}, fastopt.HyperParameterError, "order"),
        ({"max_steps": -1}, fastopt.HyperParameterError, "max_steps"),
        ({"resume": True}, fastopt.HyperParameterError, "resume need checkpoint"),
        ({"checkpoint_every": 3}, fastopt.HyperParameterError, "checkpoint_every and"),
        ({"progress": 1}, fastopt.HyperParameterError, "progress"),
        ({"validation": 3}, fastopt.DTypeError, "validation must be callable"),
        ({"early_stopping": 3}, fastopt.DTypeError, "an EarlyStopping"),
        ({"layers": Recorder()}, fastopt.DTypeError, "a list of layers"),
        ({"layers": [print]}, fastopt.DTypeError, "lacks state_dict or load_state_dict"),
        ({"callbacks": Recorder()}, fastopt.DTypeError, "a list of callbacks"),
        ({"callbacks": [Recorder]}, fastopt.DTypeError, "on_step_end"),
        ({"callbacks": [print]}, fastopt.DTypeError, "neither on_step_end nor on_epoch_end"),
        ({"sample_weight": np.ones(49)}, fastopt.ShapeError, r"sample_weight has shape \(49,\)"),
        ({"sample_weight": -np.ones(50)}, fastopt.HyperParameterError, "sample_weight"),
        ({"sample_weight": "x"}, fastopt.DTypeError, "sample_weight"),
        ({"data": ()}, fastopt.ShapeError, "data is empty"),
        ({"data": [X, Y]}, fastopt.DTypeError, "pass a tuple of arrays, or numpy.asarray"),
        ({"checkpoint": 3}, fastopt.CheckpointError, "path of a file, got 3"),
        (
            {"data": type("Frame", (), {"shape": (3,), "iloc": 0, "__getitem__": None})()},
            fastopt.DTypeError,
            "numpy.asarray",
        ),
        ({"data": (X, Y[:3])}, fastopt.ShapeError, r"data\[1\] has shape \(3,\)"),
        ({"data": np.zeros((0, 2))}, fastopt.ShapeError, "no samples"),
        ({"data": np.array(1.0)}, fastopt.ShapeError, "axis 0"),
        ({"optimizer": "adams"}, fastopt.HyperParameterError, "Did you mean 'adam'"),
        ({"optimizer": 3}, fastopt.DTypeError, "its name, or a callable"),
        ({"optimizer": lambda p: None}, fastopt.DTypeError, "must return an Optimizer"),
        ({"optimizer": fastopt.Adam(fresh())}, fastopt.StateError, "other arrays than params"),
        ({"params": [{"params": [np.zeros(1)]}]}, fastopt.DTypeError, "for groups"),
        ({"params": (np.zeros(1), 2.0)}, fastopt.DTypeError, "params must be"),
        ({"loss_and_grad": 3}, fastopt.DTypeError, "loss_and_grad must be callable"),
        ({"loss_and_grad": lambda p, x, y: 1.0}, fastopt.DTypeError, "a pair"),
        ({"loss_and_grad": lambda p, x, y: (np.ones(2), None)}, fastopt.DTypeError, "one real number"),
        ({"loss_and_grad": lambda p, x, y: (None, None)}, fastopt.DTypeError, "one real number"),
        ({"loss_and_grad": lambda p, x, y: (1.0, {"w": np.zeros(3)})}, fastopt.ShapeError, "no gradient for"),
        ({"validation": lambda p: "good"}, fastopt.DTypeError, "validation must return"),
        ({"validation": lambda p: {"loss": 1.0}}, fastopt.DTypeError, "other than epoch, step and loss"),
    ],
)
def test_bad_arguments(options, error, match):
    given = {"loss_and_grad": loss_and_grad, "params": fresh(), "data": (X, Y), "optimizer": "adam", **options}
    positional = [given.pop(k) for k in ("loss_and_grad", "params", "data", "optimizer")]
    with pytest.raises(error, match=match):
        fastopt.train(*positional, **given)


@pytest.mark.parametrize(
    "bad", [0, 1.5, [0], fastopt.schedules.SGDR, fastopt.schedules.Cosine(0.1, steps=3).with_warmup(2)]
)
def test_reset_state_arguments(bad):
    with pytest.raises(fastopt.HyperParameterError, match=r"at must be an integer|has no SGDR in it"):
        ResetState(bad)


@pytest.mark.parametrize("bad", [-1, 1.5, True])
def test_early_stopping_arguments(bad):
    with pytest.raises(fastopt.HyperParameterError, match="patience"):
        EarlyStopping(patience=bad)


def test_matrices_of_scipy_as_data():
    one, two = fresh(), fresh()
    fastopt.train(loss_and_grad, one, (scipy.sparse.csr_array(X), Y), "sgd", epochs=2)
    fit(two, epochs=2)
    assert np.abs(one["w"] - two["w"]).max() < 1e-15


def test_a_curriculum_is_an_order():
    seen: list[Any] = []

    def spy(params: Any, x: Any, y: Any) -> Any:
        seen.append(np.abs(y).max())
        return loss_and_grad(params, x, y)

    fastopt.train(spy, fresh(), (X, Y), "sgd", order=Curriculum(np.abs(Y), "sorted"), batch_size=10)
    assert seen == sorted(seen)
    assert Sequential() == Sequential()
