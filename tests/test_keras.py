"""Keras 3 as an outside oracle: preset="keras" gives the numbers that Keras's and TensorFlow's own tests print."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from conftest import needs_native

import fastopt
from fastopt import SparseGrad

Array = np.ndarray
Options = dict[str, Any]

#: half a unit of the fourth decimal, the last that Keras prints
DIGITS = 5e-5
#: a whole unit, for numbers that were cut off instead of rounded
CUT = 1e-4
#: what Keras itself allows, 5e-4 + 5e-4 |x|: for goldens that are another optimizer's, or one column's for ten
SHARED = 1e-3
#: relative error of TensorFlow's FTRL vectors, which were computed in float32
VECTORS = {np.float32: 2e-6, np.float64: 3e-7}

each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
each_backend = pytest.mark.parametrize("backend", [pytest.param("native", marks=needs_native), "numpy"])


def make(name: str, params: Any, **options: Any) -> Any:
    return getattr(fastopt, name)(params, preset="keras", **options)


def assert_near(got: Array, want: Any, within: float, ulps: float = 32) -> None:
    """Every element is within `within`, and some rounding of its dtype, of the number wanted; NaN is near nothing."""
    want = np.broadcast_to(np.asarray(want, np.float64), got.shape)
    bound = within + ulps * np.finfo(got.dtype).eps * np.maximum(1.0, np.abs(want))
    error = np.abs(got - want)
    assert (error <= bound).all(), f"got {got}, want {want}, worst error {error.max():.3g}, allowed {bound.max():.3g}"


# ---------------------------------------------------------------------------------------------------------- the facts

#: Keras's defaults in fastopt's words: learning_rate is lr, beta_1 and beta_2 are betas (the momentum of ScheduleFreeSGD),
#: rho is alpha (RMSprop), epsilon is eps, clip_threshold is d, rms_rate=0.2 is match_rms_adamw; no decay is weight_decay=0
DEFAULTS: dict[str, Options] = {
    "SGD": dict(lr=0.01, momentum=0.0, nesterov=False, weight_decay=0.0),
    "RMSprop": dict(lr=1e-3, alpha=0.9, momentum=0.0, eps=1e-7, centered=False, weight_decay=0.0),
    "Adagrad": dict(lr=1e-3, initial_accumulator_value=0.1, eps=1e-7, weight_decay=0.0),
    "Adadelta": dict(lr=1e-3, rho=0.95, eps=1e-7, weight_decay=0.0),
    "Adam": dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-7, amsgrad=False, weight_decay=0.0),
    "AdamW": dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-7, amsgrad=False, weight_decay=0.004),
    "Adamax": dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-7, weight_decay=0.0),
    "NAdam": dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-7, weight_decay=0.0),
    "Lion": dict(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0),
    "LAMB": dict(lr=1e-3, betas=(0.9, 0.999), eps=1e-7, weight_decay=0.0),
    "Adafactor": dict(lr=1e-3, beta2_decay=-0.8, eps=(1e-30, 1e-3), d=1.0, weight_decay=0.0),
    "FTRL": dict(lr=1e-3, lr_power=-0.5, initial_accumulator_value=0.1, l1=0.0, l2=0.0, l2_shrinkage=0.0, beta=0.0),
    "Muon": dict(
        lr=1e-3,
        weight_decay=0.004,
        momentum=0.95,
        nesterov=True,
        ns_coefficients=(3.4445, -4.775, 2.0315),
        eps=1e-7,
        ns_steps=5,
        adjust_lr_fn="match_rms_adamw",
    ),
    "ScheduleFreeAdamW": dict(lr=0.0025, betas=(0.9, 0.999), eps=1e-8, warmup_steps=0, weight_decay=0.0),
    "ScheduleFreeSGD": dict(lr=0.0025, momentum=0.9, warmup_steps=0, weight_decay=0.0),
}


@dataclass(frozen=True)
class Golden:
    """Ten parameters of 1 after each of five steps: a gradient of 0.01 everywhere, then four times 0.1, 0.2, ..., 1.0."""

    name: str
    options: Options
    rows: list[Any]
    within: float = DIGITS

    start = np.ones(10)
    gradients = [np.full(10, 0.01)] + 4 * [np.arange(1, 11) / 10]


GOLDENS = [
    # Keras gives nesterov=True here, which has no effect without momentum.
    Golden("SGD", {}, [0.9999] + [0.9999 - 0.001 * k * np.arange(1, 11) for k in range(1, 5)]),
    Golden("RMSprop", dict(centered=True), [0.9967, 0.9933, 0.9908, 0.9885, 0.9864]),
    Golden(
        "Adagrad",
        dict(lr=0.2, initial_accumulator_value=0.3, eps=1e-6),
        [
            0.9963,
            [0.9604, 0.9278, 0.9003, 0.8784, 0.8615, 0.8487, 0.8388, 0.8313, 0.8255, 0.8209],
            [0.9251, 0.8629, 0.8137, 0.7768, 0.7497, 0.7298, 0.7151, 0.704, 0.6956, 0.6891],
            [0.8903, 0.8012, 0.7342, 0.6862, 0.6521, 0.6277, 0.6099, 0.5967, 0.5867, 0.579],
            [0.856, 0.7422, 0.6604, 0.6037, 0.5644, 0.5367, 0.5168, 0.5021, 0.491, 0.4825],
        ],
    ),
    Golden("Adadelta", dict(lr=1.0, rho=0.8, eps=1e-6), [0.9978, 0.9947, 0.9915, 0.9882, 0.9849]),
    Golden("Adam", dict(amsgrad=True), [0.999, 0.9982, 0.9974, 0.9965, 0.9955], SHARED),
    Golden(
        "AdamW",
        dict(lr=1.0, weight_decay=0.5, eps=2.0),
        [
            0.4998,
            [0.2486, 0.2475, 0.2463, 0.2451, 0.244, 0.2428, 0.2417, 0.2405, 0.2394, 0.2382],
            [0.1223, 0.1198, 0.1174, 0.1149, 0.1124, 0.11, 0.1075, 0.1051, 0.1027, 0.1003],
            [0.0586, 0.0549, 0.0512, 0.0475, 0.0439, 0.0402, 0.0366, 0.033, 0.0294, 0.0258],
            [0.0263, 0.0215, 0.0167, 0.012, 0.0073, 0.0026, -0.0021, -0.0067, -0.0113, -0.0159],
        ],
    ),
    Golden(
        "Adamax",
        dict(lr=0.2, betas=(0.85, 0.95), eps=1e-6),
        [
            0.8,
            [0.6827, 0.6873, 0.6888, 0.6896, 0.6901, 0.6904, 0.6906, 0.6908, 0.6909, 0.691],
            [0.5333, 0.5407, 0.5431, 0.5444, 0.5451, 0.5456, 0.546, 0.5462, 0.5464, 0.5466],
            [0.368, 0.3773, 0.3804, 0.382, 0.3829, 0.3835, 0.384, 0.3843, 0.3846, 0.3848],
            [0.1933, 0.204, 0.2076, 0.2094, 0.2105, 0.2112, 0.2117, 0.2121, 0.2124, 0.2126],
        ],
    ),
    Golden(
        "NAdam",
        dict(lr=0.5, betas=(0.5, 0.67), eps=1e-5),
        [
            0.4281,
            [-0.1738, -0.1731, -0.1726, -0.1723, -0.1721, -0.172, -0.1719, -0.1718, -0.1718, -0.1717],
            [-0.7115, -0.7103, -0.7096, -0.7092, -0.709, -0.7088, -0.7086, -0.7085, -0.7085, -0.7084],
            [-1.2335, -1.2322, -1.2313, -1.2309, -1.2306, -1.2304, -1.2302, -1.2301, -1.23, -1.2299],
            [-1.7492, -1.7478, -1.7469, -1.7464, -1.7461, -1.7459, -1.7457, -1.7456, -1.7455, -1.7454],
        ],
    ),
    Golden("Lion", {}, [0.999, 0.998, 0.997, 0.996, 0.995]),
    Golden("LAMB", {}, [0.999, 0.9982, 0.9974, 0.9965, 0.9955], SHARED),  # Adam's numbers, 6e-4 away at the end
    Golden(
        "Adafactor",
        dict(lr=0.5, beta2_decay=-0.65, eps=(1e-15, 1e-4), d=0.9),
        [
            0.55,
            [0.3031, 0.3026, 0.3025, 0.3024, 0.3024, 0.3024, 0.3024, 0.3024, 0.3024, 0.3024],
            [0.1671, 0.1665, 0.1663, 0.1663, 0.1663, 0.1663, 0.1663, 0.1663, 0.1663, 0.1663],
            [0.0923, 0.0916, 0.0915, 0.0914, 0.0914, 0.0914, 0.0914, 0.0914, 0.0914, 0.0914],
            [0.0554, 0.0548, 0.0546, 0.0546, 0.0546, 0.0546, 0.0546, 0.0545, 0.0545, 0.0545],
        ],
    ),
    Golden(
        "FTRL",
        dict(lr=0.05, lr_power=-0.2, initial_accumulator_value=0.4, l1=0.05, l2=0.15, l2_shrinkage=0.01, beta=0.3),
        [
            0.0,
            [-0.0034, -0.0077, -0.0118, -0.0157, -0.0194, -0.023, -0.0263, -0.0294, -0.0325, -0.0354],
            [-0.0078, -0.0162, -0.0242, -0.0317, -0.0387, -0.0454, -0.0516, -0.0575, -0.0631, -0.0685],
            [-0.0121, -0.0246, -0.0363, -0.0472, -0.0573, -0.0668, -0.0757, -0.0842, -0.0922, -0.0999],
            [-0.0164, -0.0328, -0.0481, -0.0623, -0.0753, -0.0875, -0.099, -0.1098, -0.1201, -0.1299],
        ],
    ),
]


@dataclass(frozen=True)
class Single:
    """One step with a rate of 0.5, of 1, 2, 3, 4 along 1, 6, 7, 2, as a vector or as two rows."""

    name: str
    want: list[Any]
    within: float = DIGITS
    options: Options = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.name}-{np.ndim(self.want)}d" + "".join(f"-{v}" for v in self.options.values())


SINGLES = [
    Single("SGD", [0.5, -1.0, -0.5, 3.0]),
    Single("RMSprop", [-0.5811, 0.4189, 1.4189, 2.4189]),
    Single("Adagrad", [0.5233, 1.5007, 2.5005, 3.5061]),
    Single("Adadelta", [0.9993, 1.9993, 2.9993, 3.9993]),
    Single("Adam", [0.5, 1.5, 2.5, 3.5]),
    Single("AdamW", [0.498, 1.496, 2.494, 3.492]),
    Single("Adamax", [0.5, 1.5, 2.5, 3.5]),
    Single("NAdam", [0.4686, 1.4686, 2.4686, 3.4686]),
    Single("Lion", [0.5, 1.5, 2.5, 3.5]),
    Single("LAMB", [-0.3693, 0.6306, 1.6306, 2.6306], CUT),
    Single("Adafactor", [-0.3693, 0.6307, 1.6307, 2.6307]),
    Single("Adafactor", [[0.7007, -0.0081], [1.2492, 3.4407]]),
    Single("FTRL", [0.2218, 1.3954, 2.3651, 2.8814]),
    Single("Muon", [[0.988775, 1.887053], [2.873428, 3.97035]], 5e-7, dict(weight_decay=0.0)),
    # of an earlier Keras, with six iterations and the factor of the first implementation; two decimals, cut off
    Single("Muon", [[1.13, 1.51], [2.57, 4.06]], 1e-2, dict(weight_decay=0.0, ns_steps=6, adjust_lr_fn="original")),
]


@dataclass(frozen=True)
class Vector:
    """FTRL of TensorFlow, rate 3: two parameters after some steps along the gradients (0.1, 0.2) or (0.01, 0.02)."""

    options: Options
    steps: int
    start: list[float]
    gradient: list[float]
    want: list[float]


L1 = dict(l1=0.001)
L1_L2 = dict(l1=0.001, l2=2.0)
SHRUNK = dict(l1=0.001, l2=2.0, l2_shrinkage=0.1)
FTRL_VECTORS = [
    Vector({}, 3, [0.0, 0.0], [0.1, 0.2], [-2.60260963, -4.29698515]),
    Vector({}, 3, [0.0, 0.0], [0.01, 0.02], [-0.28432083, -0.56694895]),
    Vector({}, 3, [1.0, 2.0], [0.1, 0.2], [-2.55607247, -3.98729396]),
    Vector({}, 3, [4.0, 3.0], [0.01, 0.02], [-0.28232238, -0.56096673]),
    Vector(L1, 10, [1.0, 2.0], [0.1, 0.2], [-7.66718769, -10.91273689]),
    Vector(L1, 10, [4.0, 3.0], [0.01, 0.02], [-0.93460727, -1.86147261]),
    Vector(L1_L2, 10, [1.0, 2.0], [0.1, 0.2], [-0.24059935, -0.46829352]),
    Vector(L1_L2, 10, [4.0, 3.0], [0.01, 0.02], [-0.02406147, -0.04830509]),
    Vector(SHRUNK, 10, [1.0, 2.0], [0.1, 0.2], [-0.22578995, -0.44345796]),
    Vector(SHRUNK, 10, [4.0, 3.0], [0.01, 0.02], [-0.14378493, -0.13229476]),
]

# ---------------------------------------------------------------------------------------------------------- the rules
# What Keras computes, in float64. `s` is the state, empty at first; `t` counts from 1; `o` has Keras's options, the rate
# of this step among them. Weight decay has already been applied to `p`.


def rms(x: Array) -> float:
    return float(np.sqrt(np.mean(x * x)))


def ema(s: Options, key: str, beta: float, x: Array) -> Array:
    s[key] = beta * s.get(key, 0.0) + (1 - beta) * x
    return s[key]


def sgd(p: Array, g: Array, t: int, s: Options, o: Options) -> Array:
    mu, step = o["momentum"], o["lr"] * g
    s["b"] = mu * s.get("b", 0.0) - step
    return p + (mu * s["b"] - step if o["nesterov"] else s["b"])


def rmsprop(p: Array, g: Array, t: int, s: Options, o: Options) -> Array:
    v = ema(s, "v", o["alpha"], g * g)
    if o["centered"]:
        v = v - ema(s, "a", o["alpha"], g) ** 2
    s["b"] = o["momentum"] * s.get("b", 0.0) + o["lr"] * g / np.sqrt(v + o["eps"])
    return p - s["b"]


def adagrad(p: Array, g: Array, t: int, s: Options, o: Options) -> Array:
    s["n"] = s.get("n", o["initial_accumulator_value"]) + g * g
    return p - o["lr"] * g / np.sqrt(s["n"] + o["eps"])


def adadelta(p: Array, g: Array, t: int, s: Options, o: Options) -> Array:
    v = ema(s, "v", o["rho"], g * g)
    delta = g * np.sqrt((s.get("d", 0.0) + o["eps"]) / (v + o["eps"]))
    ema(s, "d", o["rho"], delta * delta)
    return p - o["lr"] * delta


def adam(p: Array, g: Array, t: int, s: Options, o: Options) -> Array:
    b1, b2 = o["betas"]
    m, v = ema(s, "m", b1, g), ema(s, "v", b2, g * g)
    if o["amsgrad"]:
        v = s["w"] = np.maximum(s.get("w", 0.0), v)
    return p - o["lr"] * np.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + o["eps"])


def adamax(p: Array, g: Array, t: int, s: Options, o: Options) -> Array:
    b1, b2 = o["betas"]
    m = ema(s, "m", b1, g)
    s["u"] = np.maximum(b2 * s.get("u", 0.0), np.abs(g))
    return p - o["lr"] * m / ((1 - b1**t) * (s["u"] + o["eps"]))


def nadam(p: Array, g: Array, t: int, s: Options, o: Options) -> Array:
    b1, b2 = o["betas"]
    now, later = (b1 * (1 - 0.5 * 0.96**k) for k in (t, t + 1))
    s["product"] = s.get("product", 1.0) * now
    m, v = ema(s, "m", b1, g), ema(s, "v", b2, g * g)
    mean = later * m / (1 - s["product"] * later) + (1 - now) * g / (1 - s["product"])
    return p - o["lr"] * mean / (np.sqrt(v / (1 - b2**t)) + o["eps"])


def lion(p: Array, g: Array, t: int, s: Options, o: Options) -> Array:
    b1, b2 = o["betas"]
    direction = np.sign(b1 * s.get("m", 0.0) + (1 - b1) * g)
    ema(s, "m", b2, g)
    return p - o["lr"] * direction


def lamb(p: Array, g: Array, t: int, s: Options, o: Options) -> Array:
    b1, b2 = o["betas"]
    m, v = ema(s, "m", b1, g), ema(s, "v", b2, g * g)
    u = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + o["eps"])
    ratio = rms(p) / rms(u) if rms(p) > 0 and rms(u) > 0 else 1.0
    return p - o["lr"] * ratio * u


def adafactor(p: Array, g: Array, t: int, s: Options, o: Options) -> Array:
    eps1, eps2 = o["eps"]
    beta, q = 1 - t ** o["beta2_decay"], g * g + eps1
    if p.ndim < 2:
        v = ema(s, "v", beta, q)
    else:
        rows, columns = ema(s, "r", beta, q.mean(-1)), ema(s, "c", beta, q.mean(-2))
        v = (rows / rows.mean(-1, keepdims=True))[..., :, None] * columns[..., None, :]
    u = g / np.sqrt(v)
    return p - max(eps2, rms(p)) * min(o["lr"], t**-0.5) * u / max(1.0, rms(u) / o["d"])


def ftrl(p: Array, g: Array, t: int, s: Options, o: Options) -> Array:
    before = s.get("n", np.full(p.shape, o["initial_accumulator_value"]))
    s["n"] = before + g * g
    old, new = before ** -o["lr_power"], s["n"] ** -o["lr_power"]
    s["z"] = s.get("z", 0.0) + g + 2 * o["l2_shrinkage"] * p - (new - old) / o["lr"] * p
    return (np.clip(s["z"], -o["l1"], o["l1"]) - s["z"]) / ((new + o["beta"]) / o["lr"] + 2 * o["l2"])


def orthogonal(x: Array, o: Options) -> Array:
    """The quintic Newton-Schulz iteration, on the side that has fewer rows."""
    if x.shape[0] > x.shape[1]:
        return orthogonal(x.T, o).T
    a, b, c = o["ns_coefficients"]
    x = x / (np.linalg.norm(x) + o["eps"])
    for _ in range(o["ns_steps"]):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def muon(p: Array, g: Array, t: int, s: Options, o: Options) -> Array:
    rows, columns = p.shape
    s["b"] = o["momentum"] * s.get("b", 0.0) + g
    x = orthogonal(g + o["momentum"] * s["b"] if o["nesterov"] else s["b"], o)
    scale = 0.2 * max(rows, columns) ** 0.5 if o["adjust_lr_fn"] == "match_rms_adamw" else max(1, rows / columns) ** 0.5
    return p - o["lr"] * scale * x


def warm(t: int, o: Options) -> float:
    return o["lr"] * (min(t / o["warmup_steps"], 1.0) if o["warmup_steps"] else 1.0)


def schedule_free_adamw(p: Array, g: Array, t: int, s: Options, o: Options) -> Array:
    b1, b2 = o["betas"]
    v, z = ema(s, "v", b2, g * g), s.get("z", s["start"])
    x = (p - (1 - b1) * z) / b1
    s["z"] = z - warm(t, o) * g / (np.sqrt(v / (1 - b2**t)) + o["eps"])
    s["x"] = (1 - 1 / t) * x + s["z"] / t
    return (1 - b1) * s["z"] + b1 * s["x"]


def schedule_free_sgd(p: Array, g: Array, t: int, s: Options, o: Options) -> Array:
    lr, beta = warm(t, o), o["momentum"]
    s["sum"] = s.get("sum", 0.0) + lr * lr
    weight = lr * lr / s["sum"]
    s["z"] = s.get("z", s["start"]) - lr * (g + o["weight_decay"] * p)  # the one decay that goes into the gradient
    s["x"] = (1 - weight) * s.get("x", s["start"]) + weight * s["z"]
    return (1 - beta) * s["z"] + beta * s["x"]


RULES: dict[str, Callable[[Array, Array, int, Options, Options], Array]] = {
    "SGD": sgd,
    "RMSprop": rmsprop,
    "Adagrad": adagrad,
    "Adadelta": adadelta,
    "Adam": adam,
    "AdamW": adam,
    "Adamax": adamax,
    "NAdam": nadam,
    "Lion": lion,
    "LAMB": lamb,
    "Adafactor": adafactor,
    "FTRL": ftrl,
    "Muon": muon,
    "ScheduleFreeAdamW": schedule_free_adamw,
    "ScheduleFreeSGD": schedule_free_sgd,
}


class Model:
    """Keras's optimizer of one parameter, from its rule and its defaults."""

    def __init__(self, name: str, start: Any, **options: Any) -> None:
        self.name, self.options, self.steps = name, {**DEFAULTS[name], **options}, 0
        self.p = np.array(start, np.float64)
        self.state: Options = {"start": self.p}

    def step(self, g: Any) -> Array:
        o, self.steps = dict(self.options), self.steps + 1
        if callable(o["lr"]):
            o["lr"] = o["lr"](self.steps - 1)
        decay = 0.0 if self.name == "ScheduleFreeSGD" else o.get("weight_decay", 0.0)
        p = self.p - self.p * decay * o["lr"]
        self.p = RULES[self.name](p, np.array(g, np.float64), self.steps, self.state, o)
        return self.p


# ------------------------------------------------------------------------------------- rules and facts go together


def single_case(case: Single) -> tuple[Array, Array]:
    shape = np.shape(case.want)
    return np.array([1.0, 2.0, 3.0, 4.0]).reshape(shape), np.array([1.0, 6.0, 7.0, 2.0]).reshape(shape)


each_golden = pytest.mark.parametrize("case", GOLDENS, ids=lambda c: c.name)
each_single = pytest.mark.parametrize("case", SINGLES, ids=lambda c: c.id)
each_vector = pytest.mark.parametrize("case", FTRL_VECTORS, ids=lambda c: "-".join([*c.options, str(c.want[0])]))


@each_golden
def test_rule_gives_the_golden_numbers(case):
    """The oracle is sound: without fastopt, the rules of this file give what Keras's tests expect."""
    model = Model(case.name, case.start, **case.options)
    for g, want in zip(case.gradients, case.rows, strict=True):
        assert_near(model.step(g), want, case.within)


@each_single
def test_rule_gives_the_single_steps(case):
    start, g = single_case(case)
    assert_near(Model(case.name, start, **{"lr": 0.5, **case.options}).step(g), case.want, case.within)


@each_vector
def test_rule_gives_the_vectors_of_tensorflow(case):
    model = Model("FTRL", case.start, lr=3.0, **case.options)
    for _ in range(case.steps):
        model.step(case.gradient)
    assert_near(model.p, case.want, VECTORS[np.float64] * np.abs(case.want))


def test_rule_gives_the_iteration_of_newton_and_schulz():
    """Keras asks for 1e-3 here: the matrix, of four decimals, is close to a singular one."""
    x = orthogonal(np.array([[0.2499, 0.9105], [0.2655, 0.8824]]), DEFAULTS["Muon"])
    assert_near(x, [[-0.4422, 0.6457], [0.7285, 0.2968]], 1e-3)


# ------------------------------------------------------------------------------------------------- numbers of Keras


@each_backend
@each_dtype
@each_golden
def test_golden(case, dtype, backend):
    p = case.start.astype(dtype)
    opt = make(case.name, p, backend=backend, **case.options)
    for g, want in zip(case.gradients, case.rows, strict=True):
        opt.step(g.astype(dtype))
        assert_near(p, want, case.within)


@each_backend
@each_dtype
@each_single
def test_single_step(case, dtype, backend):
    start, g = (a.astype(dtype) for a in single_case(case))
    make(case.name, start, lr=0.5, backend=backend, **case.options).step(g)
    assert_near(start, case.want, case.within)


@pytest.mark.parametrize("name", DEFAULTS)
def test_defaults(name):
    """The preset has Keras's hyper-parameters, and what is given wins over them."""
    group = make(name, np.ones((2, 3))).param_groups[0]
    got = {key: group[key] for key in DEFAULTS[name]}
    assert got == DEFAULTS[name]
    assert make(name, np.ones((2, 3)), lr=0.125).param_groups[0]["lr"] == 0.125


DECOUPLED = [
    "SGD", "RMSprop", "Adagrad", "Adadelta", "Adam", "AdamW", "Adamax", "NAdam", "Lion", "LAMB", "Adafactor",
]  # fmt: skip


@each_backend
@each_dtype
@pytest.mark.parametrize("name", DECOUPLED)
def test_weight_decay_is_decoupled(name, dtype, backend):
    """Three optimizers in turn decay a scalar without a gradient; what a group exempts stands still."""
    decayed, exempt = np.array(2.0, dtype), np.array(2.0, dtype)
    zero = np.zeros((), dtype)
    make(name, decayed, lr=1.0, weight_decay=0.004, backend=backend).step(zero)
    for _ in range(2):
        groups = [{"params": [decayed]}, {"params": [exempt], "weight_decay": 0.0}]
        make(name, groups, lr=1.0, weight_decay=0.004, backend=backend).step([zero, zero])
    assert_near(decayed, 1.9760959, 5e-8, ulps=2)
    assert exempt == 2.0


@each_backend
@each_dtype
def test_weight_decay_of_muon(dtype, backend):
    p = np.array([[1.0, 2.0], [3.0, 4.0]], dtype)
    make("Muon", p, lr=1.0, weight_decay=0.01, backend=backend).step(np.zeros((2, 2), dtype))
    assert_near(p, [[0.99, 1.98], [2.97, 3.96]], 0.0, ulps=2)


@each_backend
@pytest.mark.parametrize("name", ["ScheduleFreeSGD", "ScheduleFreeAdamW"])
def test_schedule_free_without_decay_and_gradient_stands_still(name, backend):
    p = np.array(2.0)
    make(name, p, lr=1.0, weight_decay=0.0, backend=backend).step(np.zeros(()))
    assert_near(p, 2.0, 0.0, ulps=2)


# ------------------------------------------------------------------------------------------------ FTRL of TensorFlow


def after(opt: Any, p: Array, gradient: Any, steps: int) -> Array:
    for _ in range(steps):
        opt.step(gradient)
    return p


@each_backend
@each_dtype
@each_vector
def test_ftrl_vectors(case, dtype, backend):
    p, g = np.array(case.start, dtype), np.array(case.gradient, dtype)
    after(make("FTRL", p, lr=3.0, backend=backend, **case.options), p, g, case.steps)
    np.testing.assert_allclose(p, case.want, rtol=VECTORS[dtype], atol=0)


@each_backend
@each_dtype
def test_ftrl_vectors_of_sparse_gradients(dtype, backend):
    """Rows that are not listed keep their values: shrinkage, too, acts on the listed ones alone."""
    for row, start, g, want in [
        (0, [[1.0], [2.0]], 0.1, [[-0.22578995], [2.0]]),
        (1, [[4.0], [3.0]], 0.02, [[4.0], [-0.13229476]]),
    ]:
        p = np.array(start, dtype)
        gradient = SparseGrad(np.array([row]), np.array([[g]], dtype))
        after(make("FTRL", p, lr=3.0, backend=backend, **SHRUNK), p, gradient, 10)
        np.testing.assert_allclose(p, want, rtol=VECTORS[dtype], atol=0)
        assert p[1 - row] == dtype(start[1 - row][0])


@each_backend
@each_dtype
def test_ftrl_of_a_squared_product(dtype, backend):
    """One step of rate 1 on (p . (4, 5))**2 from (1, 2), whose gradient is 28 (4, 5), ends at (0, 1)."""
    p = np.array([[1.0, 2.0]], dtype)
    make("FTRL", p, lr=1.0, backend=backend).step(SparseGrad(np.array([0]), np.array([[112.0, 140.0]], dtype)))
    assert_near(p, [[0.0, 1.0]], 1e-2)


@each_backend
@pytest.mark.parametrize("lr_power, twin", [(-0.5, "Adagrad"), (0.0, "SGD")])
@pytest.mark.parametrize("gradient", [[0.1, 0.2], [0.01, 0.02]], ids=str)
def test_ftrl_without_regularization_is(gradient, lr_power, twin, backend):
    """From zeros, FTRL without penalties is Adagrad, or with a constant rate gradient descent."""
    p, q, g = np.zeros(2), np.zeros(2), np.array(gradient)
    after(make("FTRL", p, lr=3.0, lr_power=lr_power, initial_accumulator_value=0.1, backend=backend), p, g, 5)
    own = dict(initial_accumulator_value=0.1, eps=0.0) if twin == "Adagrad" else {}
    after(make(twin, q, lr=3.0, backend=backend, **own), q, g, 5)
    np.testing.assert_allclose(p, q, rtol=1e-12)


@each_backend
def test_ftrl_shrinkage_leaves_the_accumulator(backend):
    """Shrinkage makes the parameters smaller; the accumulator, and with it the rate, takes the plain gradient."""
    g, ends, sums = np.array([0.1, 0.2]), [], []
    for options in (SHRUNK, L1_L2):
        p = np.array([1.0, 2.0])
        opt = make("FTRL", p, lr=3.0, backend=backend, **options)
        ends.append(after(opt, p, g, 10))
        (state,) = opt.state_dict()["state"].values()
        sums.append(state["accumulator"])
    assert (np.abs(ends[0]) < np.abs(ends[1])).all()
    assert np.array_equal(sums[0], sums[1])
    np.testing.assert_allclose(sums[0], 0.1 + 10 * g * g, rtol=1e-14)


# ------------------------------------------------------------------------- rules, beyond what Keras's numbers reach

#: what the goldens leave out: decay, momentum, Nesterov, warm-up, other powers; each with a changing rate
BEYOND: list[tuple[str, float, Options]] = [
    ("SGD", 0.1, dict()),
    ("SGD", 0.1, dict(momentum=0.9, weight_decay=0.1)),
    ("SGD", 0.1, dict(momentum=0.9, nesterov=True, weight_decay=0.1)),
    ("RMSprop", 0.1, dict(weight_decay=0.1)),
    ("RMSprop", 0.1, dict(momentum=0.9, weight_decay=0.1)),
    ("RMSprop", 0.1, dict(momentum=0.9, centered=True)),
    ("Adagrad", 0.1, dict(weight_decay=0.1)),
    ("Adagrad", 0.1, dict(initial_accumulator_value=0.0)),
    ("Adadelta", 10.0, dict(weight_decay=0.1)),
    ("Adam", 0.1, dict(weight_decay=0.1)),
    ("Adam", 0.1, dict(amsgrad=True)),
    ("AdamW", 0.1, dict()),
    ("AdamW", 0.1, dict(amsgrad=True, betas=(0.8, 0.9), weight_decay=0.1)),
    ("Adamax", 0.1, dict(betas=(0.9, 0.5), weight_decay=0.1)),
    ("NAdam", 0.1, dict(weight_decay=0.1)),
    ("Lion", 0.1, dict(weight_decay=0.1)),
    ("LAMB", 0.1, dict()),
    ("LAMB", 0.1, dict(weight_decay=0.1)),
    ("Adafactor", 0.6, dict()),
    ("Adafactor", 0.6, dict(weight_decay=0.1, d=0.5)),
    ("Adafactor", 0.6, dict(eps=(0.01, 0.5))),
    ("FTRL", 0.5, dict()),
    ("FTRL", 0.5, dict(lr_power=-0.3, l1=0.05, l2=0.2, l2_shrinkage=0.1, beta=0.5)),
    ("Muon", 0.1, dict()),
    ("Muon", 0.1, dict(nesterov=False, weight_decay=0.1)),
    ("Muon", 0.1, dict(adjust_lr_fn="original", ns_steps=3)),
    ("ScheduleFreeAdamW", 0.1, dict()),
    ("ScheduleFreeAdamW", 0.1, dict(warmup_steps=4)),
    ("ScheduleFreeAdamW", 0.1, dict(warmup_steps=4, weight_decay=0.1)),
    ("ScheduleFreeSGD", 0.1, dict(warmup_steps=4)),
    ("ScheduleFreeSGD", 0.1, dict(momentum=0.7, weight_decay=0.1)),
]
SHAPES = [(7,), (6, 4), (4, 6), (2, 5, 3)]
RATES = (1.0, 0.5, 0.5, 2.0, 1.0, 0.1, 1.0, 1.5)
RISING = (0.1, 0.2, 0.5, 0.5, 1.0, 1.0, 1.5, 2.0)


def beyond() -> Iterable[Any]:
    for name, lr, options in BEYOND:
        for shape in SHAPES:
            if name != "Muon" or len(shape) == 2:
                words = "-".join([name, *(f"{k}={v}" for k, v in options.items()), str(shape)])
                yield pytest.param(name, lr, options, shape, id=words)


def gradients(rng: np.random.Generator, shape: tuple[int, ...], steps: int) -> list[Array]:
    """Gradients of magnitudes from 1e-5 to 1, so that it matters where epsilon stands."""
    scale = 10.0 ** rng.uniform(-5, 0, shape)
    return [rng.normal(size=shape) * scale for _ in range(steps)]


def follow(opt: Any, model: Model, p: Array, gs: list[Array]) -> None:
    # Muon's epsilon, 1e-7 beside a norm, may as well be a floor of the norm, and its buffer a multiple of Keras's.
    rtol = 1e-5 if model.name == "Muon" else 1e-9
    for g in gs:
        opt.step(g.copy())
        np.testing.assert_allclose(p, model.step(g), rtol=rtol, atol=1e-2 * rtol)


@each_backend
@pytest.mark.parametrize("name, lr, options, shape", list(beyond()))
def test_rule(name, lr, options, shape, backend, rng):
    """Step by step as Keras's rule, with a rate that changes (that only rises where steps are averaged by rates)."""
    factors = RISING if name == "ScheduleFreeSGD" else RATES
    p = rng.normal(size=shape)

    def rate(t: int) -> float:
        return lr * factors[t % len(factors)]

    model = Model(name, p, lr=rate, **options)
    follow(make(name, p, lr=rate, backend=backend, **options), model, p, gradients(rng, shape, len(factors)))


@each_backend
@each_dtype
@pytest.mark.parametrize("shape", [(4,), (2, 3)], ids=str)
def test_adafactor_of_gradients_without_size(shape, dtype, backend):
    """The first epsilon is part of the squared gradient: none at all is no 0/0, and a tiny one moves by a full step."""
    p = np.ones(shape, dtype)
    make("Adafactor", p, lr=0.5, backend=backend).step(np.zeros(shape, dtype))
    assert_near(p, 1.0, 0.0, ulps=2)
    p = np.ones(shape, dtype)
    make("Adafactor", p, lr=0.5, backend=backend).step(np.full(shape, 1e-10, dtype))
    assert_near(p, 0.5, 1e-6)


# ---------------------------------------------------------------------------------------------------- schedule-free


@each_backend
@pytest.mark.parametrize("name", ["ScheduleFreeSGD", "ScheduleFreeAdamW"])
def test_schedule_free_evaluates_at_the_average(name, backend):
    """eval() puts the averaged sequence into the parameters, train() the point that gradients are taken at."""
    p, g = np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.2, 0.3])
    model, opt = Model(name, p, lr=0.1), make(name, p, lr=0.1, backend=backend)
    follow(opt, model, p, [g] * 5)
    opt.eval()
    assert not np.allclose(p, model.p, rtol=1e-3)
    np.testing.assert_allclose(p, model.state["x"], rtol=1e-12)
    opt.train()
    np.testing.assert_allclose(p, model.p, rtol=1e-12)
    follow(opt, model, p, [g] * 3)


@each_backend
@pytest.mark.parametrize("name", ["ScheduleFreeSGD", "ScheduleFreeAdamW"])
def test_schedule_free_warms_up(name, backend):
    """The first of ten steps of warm-up is a tenth of the step without."""
    start, moves = np.array([1.0, 2.0, 3.0]), []
    for warmup in (0, 10):
        p = start.copy()
        make(name, p, lr=0.5, warmup_steps=warmup, backend=backend).step(np.ones(3))
        moves.append(start - p)
    np.testing.assert_allclose(moves[0], 0.5, rtol=1e-7)
    np.testing.assert_allclose(moves[1], moves[0] / 10, rtol=1e-12)


# -------------------------------------------------------------------------------------------- clipping and averages


@each_backend
@each_dtype
@pytest.mark.parametrize("gradient", [[100.0, 100.0], [50.0, 100.0]], ids=str)
def test_clip_by_the_norm(gradient, dtype, backend):
    """Up to the 1e-6 that torch's coefficient, which fastopt has, adds to the norm."""
    p, g = np.zeros(2, dtype), np.array(gradient, dtype)
    clip = fastopt.transforms.clip_global_norm(1.0)
    make("SGD", p, lr=1.0, transforms=(clip,), backend=backend).step(g)
    assert_near(p, -np.array(gradient) / np.hypot(*gradient), 1e-7)


@each_backend
@each_dtype
def test_ema(dtype, backend):
    """The average is the parameters after the first step, and moves by a tenth of the way from then on."""
    p = np.array([[3.0, 4.0], [5.0, 6.0]], dtype)
    base = p - 3.0
    opt = make("SGD", p, lr=1.0, transforms=(fastopt.transforms.ema(decay=0.9),), backend=backend)
    for value, average in [(2.0, 2.0), (1.0, 1.9), (0.0, 1.71)]:
        opt.step(np.ones((2, 2), dtype))
        assert_near(p, base + value, 0.0)
        assert_near(opt.averaged(p), base + average, 0.0)


@each_backend
@each_dtype
def test_ema_of_a_fit(dtype, backend):
    """Two steps of rate 0.1 on the mean of two squares, from ones: 0.9, then 0.81, and an average of 0.891."""
    p = np.ones((1, 2), dtype)
    opt = make("SGD", p, lr=0.1, transforms=(fastopt.transforms.ema(decay=0.9),), backend=backend)
    for _ in range(2):
        opt.step(p.copy())
    assert_near(opt.averaged(p), 0.891, 0.0)
