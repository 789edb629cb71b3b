"""Files: every bit comes back, and a damaged or foreign file changes nothing."""

from __future__ import annotations

import copy
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from settings import SETTINGS

import fastopt
from fastopt import checkpoint


def bits(x: Any) -> Any:
    """What must be equal of a tree: kinds, keys, and the bits of every number."""
    if isinstance(x, np.ndarray):
        return "array", str(x.dtype), x.shape, x.tobytes()
    if isinstance(x, np.generic):
        return "scalar", str(x.dtype), x.tobytes()
    if isinstance(x, float):
        return "float", struct.pack(">d", x)
    if isinstance(x, dict):
        return "dict", [(type(k), k, bits(v)) for k, v in x.items()]
    if isinstance(x, (list, tuple)):
        return type(x).__name__, [bits(v) for v in x]
    return type(x).__name__, x


def nan_of(payload: int, dtype: Any = np.float64) -> Any:
    word = np.uint64(0x7FF8000000000000 + payload) if dtype is np.float64 else np.uint32(0x7FC00000 + payload)
    return np.array(word).view(dtype)[()]


TREE: dict[Any, Any] = {
    "floats": [0.0, -0.0, 0.1, 5e-324, 1.7976931348623157e308, math.inf, -math.inf, float(nan_of(7)), -math.nan],
    "scalars": (np.float64(0.1), np.float32(nan_of(5, np.float32)), np.int64(-(2**63)), np.uint8(255), np.bool_(True)),
    "whole": [0, -1, 2**63, -(2**200), True, False, None],
    "words": ["", "dict", "ä\ud800\x00\n", "a" * 1000],
    7: {"seven": (), -3: [], "none": {}},
    "arrays": {
        "empty": np.zeros((0, 3)),
        "zero": np.array(-0.0),
        "nan": np.array([nan_of(9), -np.inf]),
        "fortran": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
        "strided": np.arange(10)[::3],
        "big": np.arange(3, dtype=">i8"),
        "bytes": np.array([b"ab", b"c"]),
        "text": np.array(["ab", "ä"]),
        "flags": np.array([True, False]),
    },
}


def test_every_bit_comes_back(tmp_path):
    checkpoint.write(tmp_path / "tree", TREE)
    assert bits(checkpoint.read(tmp_path / "tree")) == bits(TREE)
    assert [f.name for f in tmp_path.iterdir()] == ["tree"], "a temporary file is left over"


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        (lambda: 0, "the tree"),
        ({"a": [1, {2}]}, r"the tree\['a'\]\[1\] is a set"),
        ({"a": np.array([object()])}, "object"),
        ({1.5: 0}, "the key 1.5"),
        ({True: 0}, "the key True"),
        ({"m": np.ma.array([1.0])}, "MaskedArray"),
        (np.zeros(2, "f4,i4"), "ndarray"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_the_file_stays(tmp_path, bad, where):
    path = tmp_path / "tree.npz"
    checkpoint.write(path, [1])
    with pytest.raises(fastopt.CheckpointError, match=where):
        checkpoint.write(path, bad)
    assert checkpoint.read(path) == [1] and len(list(tmp_path.iterdir())) == 1


def test_a_failing_write_leaves_the_file(tmp_path, monkeypatch):
    path = tmp_path / "tree.npz"
    checkpoint.write(path, [1])

    def full(*args: Any, **kwargs: Any) -> None:
        args[0].write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.write(path, [2])
    assert checkpoint.read(path) == [1] and len(list(tmp_path.iterdir())) == 1


def test_a_file_is_replaced_and_not_written_over(tmp_path):
    path = tmp_path / "tree.npz"
    checkpoint.write(path, [1])
    first = path.read_bytes()
    with path.open("rb") as old:
        checkpoint.write(path, [2])
        assert old.read() == first != path.read_bytes(), "who had it open reads on"
    assert checkpoint.read(path) == [2]


def test_every_checksum_is_looked_at(tmp_path):
    """An array whose header says less than there is would be read without its checksum."""
    path = tmp_path / "tree.npz"
    checkpoint.write(path, np.zeros((300, 300)))
    content = path.read_bytes()
    assert content.count(b"(300, 300)") == 1
    path.write_bytes(content.replace(b"(300, 300)", b"(300,   3)"))
    with pytest.raises(fastopt.CheckpointError, match="checksum"):
        checkpoint.read(path)


def make(name: str, dtype: Any, seed: int = 0, **options: Any) -> tuple[list[Any], Any]:
    rng = np.random.default_rng(seed)
    params = [rng.standard_normal((4, 3)).astype(dtype), np.asfortranarray(rng.standard_normal((2, 5)).astype(dtype))]
    return params, fastopt.Optimizer.known[name](params, **options)


def step(opt: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    opt.step([rng.standard_normal(p.shape).astype(p.dtype) for p in opt.param_groups[0]["params"]])


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_every_optimizer_goes_on_bit_for_bit(tmp_path, name):
    for k, setting in enumerate(SETTINGS[name]):
        dtype = (np.float32, np.float64)[k % 2]
        params, opt = make(name, dtype, **setting)
        for seed in range(3):
            step(opt, seed)
        fastopt.save(opt, tmp_path / "opt.npz")
        others, other = make(name, dtype, seed=1, **setting)
        step(other, 9)
        fastopt.load(tmp_path / "opt.npz", other)
        for seed in range(3, 6):
            step(opt, seed)
            step(other, seed)
        assert bits(params) == bits(others)
        assert bits(checkpoint.pack(opt)) == bits(checkpoint.pack(other))


def test_names_groups_transforms_and_skipped_steps(tmp_path):
    def build(fill: float) -> Any:
        groups = [
            {"params": {"w": np.full((3, 2), fill, np.float32)}, "lr": 0.5},
            {"params": {"b": np.full(2, fill)}, "weight_decay": 0.1},
        ]
        transforms = [fastopt.clip_global_norm(1.0), fastopt.transforms.ema(0.9), fastopt.transforms.lookahead(2)]
        return fastopt.AdamW(groups, lr=lambda t: 1 / (1 + t), transforms=transforms, nonfinite="skip")

    def go(opt: Any) -> None:
        for x in (1.0, math.nan, 2.0):
            opt.step({"w": np.full((3, 2), x, np.float32), "b": None})

    one, two = build(1.0), build(2.0)
    go(one)
    fastopt.save(one, tmp_path / "a.npz")
    fastopt.load(tmp_path / "a.npz", two)
    assert two.skipped == 1 and two.steps == 2
    assert two.param_groups[0]["lr"] == 0.5 and callable(two.param_groups[1]["lr"])
    go(one), go(two)
    for name in ("ema", "slow"):
        assert (one.averaged("w", name) == two.averaged("w", name)).all()
    assert bits(checkpoint.pack(one)) == bits(checkpoint.pack(two))


@pytest.mark.parametrize("sparse", ["lazy", "exact"])
def test_tables(tmp_path, sparse):
    def build() -> Any:
        return fastopt.Table(50, 3, "adam", lr=0.1, sparse=sparse)

    one, two, rng = build(), build(), np.random.default_rng(0)
    grads = [fastopt.SparseGrad(rng.integers(0, 50, 8), rng.standard_normal((8, 3)).astype("f")) for _ in range(6)]
    for g in grads[:3]:
        one.step(g)
    fastopt.save(one, tmp_path / "t.npz")
    fastopt.load(tmp_path / "t.npz", two)
    for g in grads[3:]:
        one.step(g)
        two.step(g)
    one.flush(), two.flush()
    assert one.param.any() and bits(one.param) == bits(two.param)
    with pytest.raises(fastopt.CheckpointError, match="shape"):
        fastopt.load(tmp_path / "t.npz", fastopt.Table(51, 3, "adam", sparse=sparse))


def test_parameters_can_be_left_out(tmp_path):
    _, opt = make("adam", np.float32)
    step(opt, 0)
    fastopt.save(opt, tmp_path / "a.npz", params=False)
    others, other = make("adam", np.float32, seed=1)
    before = copy.deepcopy(others)
    fastopt.load(tmp_path / "a.npz", other)
    assert bits(others) == bits(before) and other.steps == 1
    with pytest.raises(fastopt.HyperParameterError, match="params"):
        fastopt.save(opt, tmp_path / "a.npz", params=1)  # type: ignore[arg-type]


class Remembering:
    """A schedule with memory."""

    pure = False

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, step: int) -> float:
        return self.rate

    def state_dict(self) -> dict[str, Any]:
        return {"rate": self.rate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["rate"] < 0:
            raise fastopt.StateError("negative")
        self.rate = state["rate"]


def test_schedules_stay_and_their_memory_is_kept(tmp_path):
    w = np.ones(2)
    fastopt.save(fastopt.SGD(w, lr=Remembering(0.25)), tmp_path / "a.npz")
    schedule = Remembering(0.5)
    other = fastopt.SGD(w, lr=schedule)
    fastopt.load(tmp_path / "a.npz", other)
    assert other.param_groups[0]["lr"] is schedule and schedule.rate == 0.25
    other.step(np.ones(2))
    assert (w == 0.75).all()
    for lr, match in ((0.1, "has a schedule as lr of group 0"), (lambda t: 0.1, "with memory")):
        with pytest.raises(fastopt.CheckpointError, match=match):
            fastopt.load(tmp_path / "a.npz", fastopt.SGD(w, lr=lr))
    fastopt.save(fastopt.SGD(w, lr=0.3), tmp_path / "b.npz")
    with pytest.raises(fastopt.CheckpointError, match=r"the number 0.3 as lr"):
        fastopt.load(tmp_path / "b.npz", fastopt.SGD(w, lr=schedule))


def test_what_does_not_fit_changes_nothing(tmp_path):
    params, opt = make("adam", np.float32, lr=Remembering(0.1), amsgrad=True)
    step(opt, 0)
    path = tmp_path / "a.npz"
    fastopt.save(opt, path)
    whole = checkpoint.read(path)

    def spoil(change: Any) -> Any:
        tree = copy.deepcopy(whole)
        change(tree["optimizer"])
        return tree

    trees: list[tuple[Any, str]] = [
        ([], "no optimizer in it"),
        ({"optimizer": {}}, "can be read"),
        (spoil(lambda t: t["params"].pop()), "2 parameters"),
        (spoil(lambda t: t.update(params=[t["params"][1]] * 2)), "shape"),
        (spoil(lambda t: t.update(params=[p.astype("d") for p in t["params"]])), "float64"),
        (spoil(lambda t: t["state"].update(optimizer="SGD")), "the optimizer 'SGD'"),
        (spoil(lambda t: t["state"]["state"][0].pop("exp_avg")), "exp_avg"),
        (spoil(lambda t: t["state"]["param_groups"].append({})), "2 groups"),
        (spoil(lambda t: t["state"]["param_groups"][0].update(eps=-1.0)), "eps"),
        (spoil(lambda t: t["state"]["param_groups"][0]["lr"].update(schedule={"rate": -1.0})), "negative"),
    ]
    others, other = make("adam", np.float32, seed=1, lr=Remembering(0.7), amsgrad=True)
    step(other, 1)
    before = bits([checkpoint.pack(other), others])
    for tree, match in trees:
        checkpoint.write(path, tree)
        with pytest.raises(fastopt.CheckpointError, match=match):
            fastopt.load(path, other)
        assert bits([checkpoint.pack(other), others]) == before, match
    with pytest.raises(fastopt.DTypeError, match="an optimizer or a Table"):
        fastopt.load(path, params)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError):
        fastopt.load(tmp_path / "none.npz", other)
    checkpoint.write(path, whole)
    others[1].setflags(write=False)
    with pytest.raises(fastopt.ReadOnlyError, match="parameter 1"):
        fastopt.load(path, other)
    assert bits([checkpoint.pack(other), others]) == before


def test_damaged_files_change_nothing(tmp_path):
    """Truncated at fifty places, and with a byte flipped at many: an error and nothing changed, or the same bits."""
    _, opt = make("adam", np.float32)
    step(opt, 0)
    path, bad = tmp_path / "good.npz", tmp_path / "bad.npz"
    fastopt.save(opt, path)
    good, want = path.read_bytes(), bits(checkpoint.read(path))
    others, other = make("adam", np.float32, seed=1)
    before = bits([checkpoint.pack(other), others])
    for k in range(50):
        bad.write_bytes(good[: len(good) * k // 50])
        with pytest.raises(fastopt.CheckpointError):
            fastopt.load(bad, other)
        assert bits([checkpoint.pack(other), others]) == before
    rng, refused = np.random.default_rng(0), 0
    places = np.unique(np.concatenate([rng.integers(0, len(good), 500), np.arange(64)]))
    for at in places:
        flipped = bytearray(good)
        flipped[at] ^= 1 << int(rng.integers(8))
        bad.write_bytes(flipped)
        try:
            assert bits(checkpoint.read(bad)) == want  # dates and the like: not ours
        except fastopt.CheckpointError:
            refused += 1
    assert refused > 0.7 * len(places)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x05\x06" + bytes(18), b"PK\x03\x04", b"\x93NUMPY\x01\x00v\x00", b"hello", b"\x80\x04\x95"],
)
def test_foreign_files(tmp_path: Path, content: bytes):
    path = tmp_path / "foreign.npz"
    path.write_bytes(content)
    with pytest.raises(fastopt.CheckpointError, match="is damaged, or no file"):
        checkpoint.read(path)


def test_what_is_no_file_at_all(tmp_path):
    with pytest.raises(IsADirectoryError):
        checkpoint.read(tmp_path)
    with pytest.raises(FileNotFoundError):
        checkpoint.read(tmp_path / "nothing.npz")
    opt = fastopt.SGD(np.zeros(2))
    with pytest.raises(fastopt.CheckpointError, match="path must be that of a file, got a SGD"):
        fastopt.load(opt, tmp_path / "opt.npz")


def test_a_schedule_with_a_memory_that_it_does_not_give(tmp_path):
    class Told:
        pure = False

        def __call__(self, step: int) -> float:
            return 0.1

    for lr in (Told(), fastopt.schedules.Schedule.of(Told()).with_warmup(3)):
        with pytest.raises(fastopt.StateError, match=r"has no state_dict\(\) and load_state_dict"):
            fastopt.save(fastopt.SGD(np.zeros(2), lr=lr), tmp_path / "opt.npz")
    assert not list(tmp_path.iterdir())


def test_other_formats(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, a=np.zeros(2))
    with pytest.raises(fastopt.CheckpointError, match="about"):
        checkpoint.read(path)
    checkpoint.write_arrays(path, {"format": "fastopt checkpoint 9", "tree": None}, {})
    with pytest.raises(
        fastopt.CheckpointError, match="'fastopt checkpoint 9'; this version reads 'fastopt checkpoint 1'"
    ):
        checkpoint.read(path)
    checkpoint.write_arrays(path, {"format": checkpoint.FORMAT, "tree": {"array": "a7"}}, {})
    with pytest.raises(fastopt.CheckpointError, match="do not fit"):
        checkpoint.read(path)
