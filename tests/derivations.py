"""Independent float64 derivations of the optimizers that PyTorch or Keras lack or have otherwise, as a test oracle.

Nothing here is fast, and nothing is shared with the library.  Interface::

    ORACLES["adamax"](params, grads_per_step, options) -> [parameters after step 1, after step 2, ...]

`params` is a list of arrays, `grads_per_step[k]` the gradients of step k (an entry None leaves that parameter, its state
and its counter alone), `options` a dict with fastopt's names and defaults.  `lr` may be a callable of the 0-based
step.  An unknown option raises TypeError.  `STEPPERS[name](params, options)` gives the object behind it: `.params`,
`.states` (one dict per parameter), `.step(grads)`.

Common to all: negate the gradient if `maximize`; then weight decay, either coupled (g + wd p) or, where
`decoupled_weight_decay` is offered and set, p (1 - lr wd) before the rule.
"""

from __future__ import annotations

import math

import numpy as np

zeros, sqrt, sign = np.zeros_like, np.sqrt, np.sign


# ------------------------------------------------------------------------------------------------ frame


class Stepper:
    """Parameters, one state dict each, options; a subclass defines `step`."""

    defaults: dict = {}

    def __init__(self, params, options=None):
        options = dict(options or {})
        unknown = set(options) - set(self.defaults)
        if unknown:
            raise TypeError(f"{type(self).__name__} has no option {sorted(unknown)}")
        self.o = {**self.defaults, **options}
        self.params = [np.array(p, dtype=np.float64) for p in params]
        self.states: list[dict] = [{} for _ in params]
        self.k = 0  # completed steps

    def rate(self):
        lr = self.o["lr"]
        return float(lr(self.k)) if callable(lr) else float(lr)

    def signed(self, grads):
        factor = -1.0 if self.o["maximize"] else 1.0
        return [None if g is None else factor * np.asarray(g, dtype=np.float64) for g in grads]

    def decayed(self, p, g, lr):
        """(p, g) after weight decay of either kind."""
        wd = self.o["weight_decay"]
        return (p * (1 - lr * wd), g) if self.o["decoupled_weight_decay"] else (p, g + wd * p)

    def run(self, grads_per_step):
        trajectory = []
        for grads in grads_per_step:
            self.step(grads)
            self.k += 1
            trajectory.append([p.copy() for p in self.params])
        return trajectory


STEPPERS: dict[str, type[Stepper]] = {}


def register(name, cls):
    STEPPERS[name.lower()] = cls
    return cls


def rule(name, owns_decay=False, **defaults):
    """Register ``f(p, g, s, t, lr, o) -> new p`` that works array by array; s its state, t = 1, 2, ... its own step.

    owns_decay: the rule sees `weight_decay` itself (if it has one), and `decoupled_weight_decay` is not offered.
    """

    def wrap(f):
        class PerArray(Stepper):
            def step(self, grads):
                lr = self.rate()
                for i, g in enumerate(self.signed(grads)):
                    if g is None:
                        continue
                    p, s = self.params[i], self.states[i]
                    s["t"] = s.get("t", 0) + 1
                    if not owns_decay:
                        p, g = self.decayed(p, g, lr)
                    self.params[i] = np.array(f(p, g, s, s["t"], lr, self.o))

        common = {"maximize": False}
        if not owns_decay:
            common |= {"weight_decay": 0.0, "decoupled_weight_decay": False}
        PerArray.defaults = {**common, **defaults}
        PerArray.__name__ = name
        register(name, PerArray)
        return f

    return wrap


def moments(g, s, beta1, beta2, start=0.0):
    """Adam's two moments."""
    s["m"] = beta1 * s.get("m", np.full_like(g, start)) + (1 - beta1) * g
    s["v"] = beta2 * s.get("v", np.full_like(g, start)) + (1 - beta2) * g**2
    return s["m"], s["v"]


def norm(x):
    return math.sqrt(float(np.sum(x * x)))


# ------------------------------------------------------------------------------------------------ Adagrad's relatives


@rule("Adagrad", lr=1e-2, lr_decay=0.0, initial_accumulator_value=0.0, eps=1e-10, eps_form="outside", power=0.5)
def adagrad(p, g, s, t, lr, o):
    s["sum"] = s.get("sum", np.full_like(p, o["initial_accumulator_value"])) + g**2
    a, eps, power = s["sum"], o["eps"], o["power"]
    root = a**power + eps if o["eps_form"] == "outside" else (a + eps) ** power
    return p - lr / (1 + (t - 1) * o["lr_decay"]) * g / root


@rule("RowwiseAdagrad", lr=1e-2, initial_accumulator_value=0.0, eps=1e-8)
def rowwise_adagrad(p, g, s, t, lr, o):
    square = g**2
    row_mean = square.mean(axis=tuple(range(1, g.ndim))) if g.ndim > 1 else square
    s["sum"] = s.get("sum", np.full_like(row_mean, o["initial_accumulator_value"])) + row_mean
    step = lr / (sqrt(s["sum"]) + o["eps"])
    return p - step.reshape(step.shape + (1,) * (p.ndim - step.ndim)) * g


@rule("SM3", lr=0.1, momentum=0.0, eps=1e-30)
def sm3(p, g, s, t, lr, o):
    """SM3-II: axis r keeps one number per index of that axis, covering the whole slice."""
    axes = range(g.ndim)
    if t == 1:
        s["acc"] = [np.zeros([g.shape[r] if q == r else 1 for q in axes]) for r in axes] or [np.zeros(())]
    nu = g**2 + np.broadcast_arrays(g, *s["acc"])[1]
    for acc in s["acc"][1:]:
        nu = np.minimum(nu, g**2 + acc)
    s["acc"] = [nu.max(axis=tuple(q for q in axes if q != r), keepdims=True) for r in axes] or [nu]
    u = g / sqrt(nu + o["eps"])
    if o["momentum"]:
        s["b"] = u = o["momentum"] * s.get("b", zeros(p)) + (1 - o["momentum"]) * u
    return p - lr * u


class AdaptiveRevision(Stepper):
    """`delays[k]` = how many steps old the parameters were that the gradient of step k was computed at (0 = none)."""

    defaults = dict(
        lr=1.0,
        initial_accumulator_value=1.0,
        maximize=False,
        weight_decay=0.0,
        decoupled_weight_decay=False,
        delays=None,
    )

    def step(self, grads):
        lr, o = self.rate(), self.o
        delay = o["delays"][self.k] if o["delays"] else 0
        if not 0 <= delay <= self.k:
            raise ValueError("a delay reaches before the first step")
        for i, g in enumerate(self.signed(grads)):
            p, s = self.params[i], self.states[i]
            if not s:
                s["past"] = [zeros(p)]  # the sum of the gradients after 0, 1, 2, ... steps
                s["z"] = s["zmax"] = np.full_like(p, o["initial_accumulator_value"])
            total = s["past"][-1]
            if g is None:
                s["past"].append(total)
                continue
            p, g = self.decayed(p, g, lr)
            missed = total - s["past"][self.k - delay]
            old = lr / sqrt(s["zmax"])
            s["z"] = s["z"] + g**2 + 2 * g * missed
            s["zmax"] = np.maximum(s["zmax"], s["z"])
            new = lr / sqrt(s["zmax"])
            # the missed gradients had been applied with rates meant for a shorter history: give back the excess
            self.params[i] = p - new * g + (old - new) * missed
            s["past"].append(total + g)


register("AdaptiveRevision", AdaptiveRevision)


# ------------------------------------------------------------------------------------------------ Adam's relatives


@rule("Adamax", lr=2e-3, betas=(0.9, 0.999), eps=1e-8, eps_form="inside")
def adamax(p, g, s, t, lr, o):
    beta1, beta2 = o["betas"]
    inside = o["eps_form"] == "inside"
    s["m"] = beta1 * s.get("m", zeros(p)) + (1 - beta1) * g
    s["u"] = np.maximum(beta2 * s.get("u", zeros(p)), abs(g) + (o["eps"] if inside else 0.0))
    return p - lr * (s["m"] / (1 - beta1**t)) / (s["u"] + (0.0 if inside else o["eps"]))


@rule("NAdam", lr=2e-3, betas=(0.9, 0.999), eps=1e-8, momentum_decay=4e-3)
def nadam(p, g, s, t, lr, o):
    beta1, beta2 = o["betas"]
    m, v = moments(g, s, beta1, beta2)

    def mu(j):
        return beta1 * (1 - 0.5 * 0.96 ** (j * o["momentum_decay"]))

    product = math.prod(mu(j) for j in range(1, t + 1))
    look_ahead = mu(t + 1) * m / (1 - product * mu(t + 1)) + (1 - mu(t)) * g / (1 - product)
    return p - lr * look_ahead / (sqrt(v / (1 - beta2**t)) + o["eps"])


def rectification(t, beta2):
    """(length of the simple moving average, rectifying factor or None where it is undefined); Liu et al. 2019."""
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * t * beta2**t / (1 - beta2**t)
    if length <= 4:
        return length, None
    return length, math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))


@rule("RAdam", lr=1e-3, betas=(0.9, 0.999), eps=1e-8)
def radam(p, g, s, t, lr, o):
    beta1, beta2 = o["betas"]
    m, v = moments(g, s, beta1, beta2)
    m_hat = m / (1 - beta1**t)
    length, factor = rectification(t, beta2)
    if length > 5:
        return p - lr * factor * m_hat * math.sqrt(1 - beta2**t) / (sqrt(v) + o["eps"])
    return p - lr * m_hat


@rule("AdaBelief", lr=1e-3, betas=(0.9, 0.999), eps=1e-16, rectify=True)
def adabelief(p, g, s, t, lr, o):
    beta1, beta2 = o["betas"]
    eps = o["eps"]
    s["m"] = beta1 * s.get("m", zeros(p)) + (1 - beta1) * g
    s["v"] = beta2 * s.get("v", zeros(p)) + (1 - beta2) * (g - s["m"]) ** 2 + eps
    m_hat, bc2 = s["m"] / (1 - beta1**t), 1 - beta2**t
    if not o["rectify"]:
        return p - lr * m_hat / (sqrt(s["v"] / bc2) + eps)
    length, factor = rectification(t, beta2)
    if length >= 5:
        return p - lr * factor * m_hat * math.sqrt(bc2) / (sqrt(s["v"]) + eps)
    return p - lr * m_hat


STEPPERS["adabelief"].defaults["decoupled_weight_decay"] = True


@rule("Yogi", lr=1e-2, betas=(0.9, 0.999), eps=1e-3, initial_accumulator_value=1e-6)
def yogi(p, g, s, t, lr, o):
    beta1, beta2 = o["betas"]
    start = np.full_like(p, o["initial_accumulator_value"])
    s["m"] = beta1 * s.get("m", start) + (1 - beta1) * g
    v = s.get("v", start)
    s["v"] = v - (1 - beta2) * sign(v - g**2) * g**2
    return p - lr * (s["m"] / (1 - beta1**t)) / (sqrt(s["v"] / (1 - beta2**t)) + o["eps"])


@rule("ADOPT", lr=1e-3, betas=(0.9, 0.9999), eps=1e-6)
def adopt(p, g, s, t, lr, o):
    beta1, beta2 = o["betas"]
    if t == 1:
        s["v"], s["m"] = g**2, zeros(p)
        return p
    normal = np.clip(g / np.maximum(sqrt(s["v"]), o["eps"]), -((t - 1) ** 0.25), (t - 1) ** 0.25)
    s["m"] = beta1 * s["m"] + (1 - beta1) * normal
    s["v"] = beta2 * s["v"] + (1 - beta2) * g**2
    return p - lr * s["m"]


@rule("QHAdam", lr=1e-3, betas=(0.9, 0.999), nus=(1.0, 1.0), eps=1e-8)
def qhadam(p, g, s, t, lr, o):
    (beta1, beta2), (nu1, nu2) = o["betas"], o["nus"]
    m, v = moments(g, s, beta1, beta2)
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    return p - lr * ((1 - nu1) * g + nu1 * m_hat) / (sqrt((1 - nu2) * g**2 + nu2 * v_hat) + o["eps"])


@rule("Adan", owns_decay=True, lr=1e-3, betas=(0.98, 0.92, 0.99), eps=1e-8, weight_decay=0.0, no_prox=False)
def adan(p, g, s, t, lr, o):
    beta1, beta2, beta3 = o["betas"]
    difference = g - s.get("g", g)
    s["g"] = g
    s["m"] = beta1 * s.get("m", zeros(p)) + (1 - beta1) * g
    s["d"] = beta2 * s.get("d", zeros(p)) + (1 - beta2) * difference
    s["n"] = beta3 * s.get("n", zeros(p)) + (1 - beta3) * (g + beta2 * difference) ** 2
    direction = s["m"] / (1 - beta1**t) + beta2 * s["d"] / (1 - beta2**t)
    step = lr * direction / (sqrt(s["n"] / (1 - beta3**t)) + o["eps"])
    if o["no_prox"]:
        return p * (1 - lr * o["weight_decay"]) - step
    return (p - step) / (1 + lr * o["weight_decay"])


@rule("LAMB", owns_decay=True, lr=1e-3, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.0)
def lamb(p, g, s, t, lr, o):
    beta1, beta2 = o["betas"]
    m, v = moments(g, s, beta1, beta2)
    u = (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + o["eps"]) + o["weight_decay"] * p
    ratio = norm(p) / norm(u) if norm(p) > 0 and norm(u) > 0 else 1.0
    return p - lr * ratio * u


# ------------------------------------------------------------------------------------------------ signs


@rule("Lion", owns_decay=True, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0)
def lion(p, g, s, t, lr, o):
    beta1, beta2 = o["betas"]
    m = s.get("m", zeros(p))
    s["m"] = beta2 * m + (1 - beta2) * g
    return p * (1 - lr * o["weight_decay"]) - lr * sign(beta1 * m + (1 - beta1) * g)


@rule("SignSGD", lr=1e-3)
def signsgd(p, g, s, t, lr, o):
    return p - lr * sign(g)


@rule("Signum", lr=1e-3, momentum=0.9)
def signum(p, g, s, t, lr, o):
    s["b"] = o["momentum"] * s.get("b", zeros(p)) + (1 - o["momentum"]) * g
    return p - lr * sign(s["b"])


@rule("Rprop", lr=1e-2, etas=(0.5, 1.2), step_sizes=(1e-6, 50.0))
def rprop(p, g, s, t, lr, o):
    """iRprop-: after a change of sign, no step and no memory of the gradient. lr counts at the first step only."""
    agreement = sign(g * s.get("prev", zeros(p)))
    factor = np.where(agreement > 0, o["etas"][1], np.where(agreement < 0, o["etas"][0], 1.0))
    s["size"] = np.clip(s.get("size", np.full_like(p, lr)) * factor, *o["step_sizes"])
    s["prev"] = np.where(agreement < 0, 0.0, g)
    return p - s["size"] * sign(s["prev"])


# ------------------------------------------------------------------------------------------------ averages, FTRL, betting


@rule("ASGD", lr=1e-2, lambd=1e-4, alpha=0.75, t0=1e6)
def asgd(p, g, s, t, lr, o):
    """s["ax"] is the average."""
    eta = lr / (1 + o["lambd"] * lr * (t - 1)) ** o["alpha"]
    p = p * (1 - o["lambd"] * eta) - eta * g
    mu = 1 / max(1.0, t - 1 - o["t0"])
    ax = s.get("ax", zeros(p))
    s["ax"] = ax + mu * (p - ax)
    return p


@rule(
    "FTRL",
    owns_decay=True,
    lr=1e-3,
    lr_power=-0.5,
    initial_accumulator_value=0.1,
    l1=0.0,
    l2=0.0,
    l2_shrinkage=0.0,
    beta=0.0,
)
def ftrl(p, g, s, t, lr, o):
    n = s.get("n", np.full_like(p, o["initial_accumulator_value"]))
    power = -o["lr_power"]
    s["n"] = n + g**2
    sigma = (s["n"] ** power - n**power) / lr
    s["z"] = s.get("z", zeros(p)) + g + 2 * o["l2_shrinkage"] * p - sigma * p
    curvature = (o["beta"] + s["n"] ** power) / lr + 2 * o["l2"]
    return -sign(s["z"]) * np.maximum(abs(s["z"]) - o["l1"], 0.0) / curvature


@rule("COCOB", lr=1.0, alpha=100.0, eps=1e-8)
def cocob(p, g, s, t, lr, o):
    """A gambler per coordinate: coin -g, wealth L + reward, betted fraction -sum(g) / (L max(G + L, alpha L))."""
    bet = s.get("bet", zeros(p))  # where the parameter stands, seen from its initial point
    s["L"] = np.maximum(s.get("L", np.full_like(p, o["eps"])), abs(g))
    s["G"] = s.get("G", zeros(p)) + abs(g)
    s["sum"] = s.get("sum", zeros(p)) + g
    s["reward"] = np.maximum(s.get("reward", zeros(p)) - g * bet, 0.0)
    L = s["L"]
    s["bet"] = -lr * s["sum"] / (L * np.maximum(s["G"] + L, o["alpha"] * L)) * (L + s["reward"])
    return p - bet + s["bet"]


# ------------------------------------------------------------------------------------------------ layerwise, matrices


@rule(
    "LARS",
    owns_decay=True,
    lr=1.0,
    momentum=0.9,
    weight_decay=0.0,
    trust_coefficient=1e-3,
    eps=0.0,
    nesterov=False,
)
def lars(p, g, s, t, lr, o):
    wd, mu = o["weight_decay"], o["momentum"]
    ratio, below = 1.0, norm(g) + wd * norm(p) + o["eps"]
    if p.ndim > 1 and norm(p) > 0 and below > 0:
        ratio = o["trust_coefficient"] * norm(p) / below
    step = lr * ratio * (g + wd * p)
    s["b"] = mu * s.get("b", zeros(p)) + step
    return p - (mu * s["b"] + step if o["nesterov"] else s["b"])


@rule("Adafactor", owns_decay=True, lr=1e-2, beta2_decay=-0.8, eps=(None, 1e-3), d=1.0, weight_decay=0.0)
def adafactor(p, g, s, t, lr, o):
    """eps[0] = None is the machine epsilon of float64; give float32's to compare with a float32 run."""
    eps1, eps2 = o["eps"]
    eps1 = np.finfo(np.float64).eps if eps1 is None else eps1
    new = t ** o["beta2_decay"]  # weight of the newest square, 1 at the first step
    alpha = max(eps2, math.sqrt(np.mean(p**2))) * min(lr, 1 / math.sqrt(t))
    if g.ndim > 1:
        s["row"] = (1 - new) * s.get("row", 0.0) + new * np.mean(g**2, axis=-1, keepdims=True)
        s["col"] = (1 - new) * s.get("col", 0.0) + new * np.mean(g**2, axis=-2, keepdims=True)
        v = s["row"] * s["col"] / np.maximum(s["row"].mean(axis=-2, keepdims=True), eps1)
    else:
        s["variance"] = v = (1 - new) * s.get("variance", 0.0) + new * g**2
    u = g / sqrt(np.maximum(v, eps1**2))
    u = u / max(1.0, math.sqrt(np.mean(u**2)) / o["d"])
    return p * (1 - lr * o["weight_decay"]) - alpha * u


def newton_schulz(a, coefficients=(3.4445, -4.775, 2.0315), steps=5, eps=1e-7):
    """Approximately U V^T of the singular value decomposition: an odd polynomial applied to the singular values."""
    c1, c3, c5 = coefficients
    x = a / max(norm(a), eps)
    x = x.T if a.shape[0] > a.shape[1] else x
    for _ in range(steps):
        gram = x @ x.T
        x = c1 * x + c3 * gram @ x + c5 * gram @ gram @ x
    return x.T if a.shape[0] > a.shape[1] else x


@rule(
    "Muon",
    owns_decay=True,
    lr=1e-3,
    weight_decay=0.1,
    momentum=0.95,
    nesterov=True,
    ns_coefficients=(3.4445, -4.775, 2.0315),
    eps=1e-7,
    ns_steps=5,
    adjust_lr_fn=None,
)
def muon(p, g, s, t, lr, o):
    mu, (rows, cols) = o["momentum"], p.shape
    s["b"] = mu * s.get("b", zeros(p)) + (1 - mu) * g
    u = mu * s["b"] + (1 - mu) * g if o["nesterov"] else s["b"]
    scale = (
        0.2 * math.sqrt(max(rows, cols)) if o["adjust_lr_fn"] == "match_rms_adamw" else math.sqrt(max(1, rows / cols))
    )
    direction = newton_schulz(u, o["ns_coefficients"], o["ns_steps"], o["eps"])
    return p * (1 - lr * o["weight_decay"]) - lr * scale * direction


# ------------------------------------------------------------------------------------------------ Schedule-Free


class ScheduleFree(Stepper):
    """Three sequences per parameter: z steps, x averages z, the gradient is taken at y between them (y = self.params)."""

    def __init__(self, params, options=None):
        super().__init__(params, options)
        self.x = [p.copy() for p in self.params]
        self.z = [p.copy() for p in self.params]
        self.weights = self.highest = 0.0

    def step(self, grads):
        o, t = self.o, self.k + 1
        lr = self.rate() * (min(1.0, t / o["warmup_steps"]) if o["warmup_steps"] else 1.0)
        self.highest = max(self.highest, lr)
        weight = t ** o["r"] * self.highest ** o["weight_lr_power"]
        self.weights += weight
        c = weight / self.weights if self.weights else 0.0
        for i, g in enumerate(self.signed(grads)):
            if g is None:
                continue
            self.z[i] = self.z[i] - lr * self.direction(g, self.states[i], t) - lr * o["weight_decay"] * self.params[i]
            self.x[i] = (1 - c) * self.x[i] + c * self.z[i]
            self.params[i] = self.beta() * self.x[i] + (1 - self.beta()) * self.z[i]

    def averages(self, grads_per_step):
        trajectory = []
        for grads in grads_per_step:
            self.step(grads)
            self.k += 1
            trajectory.append([x.copy() for x in self.x])
        return trajectory


FREE = dict(weight_decay=0.0, warmup_steps=0, r=0.0, weight_lr_power=2.0, maximize=False)


class ScheduleFreeSGD(ScheduleFree):
    defaults = dict(lr=1.0, momentum=0.9, **FREE)

    def beta(self):
        return self.o["momentum"]

    def direction(self, g, s, t):
        return g


class ScheduleFreeAdamW(ScheduleFree):
    defaults = dict(lr=0.0025, betas=(0.9, 0.999), eps=1e-8, **FREE)

    def beta(self):
        return self.o["betas"][0]

    def direction(self, g, s, t):
        beta2 = self.o["betas"][1]
        s["v"] = beta2 * s.get("v", zeros(g)) + (1 - beta2) * g**2
        return g / (sqrt(s["v"] / (1 - beta2**t)) + self.o["eps"])


register("ScheduleFreeSGD", ScheduleFreeSGD)
register("ScheduleFreeAdamW", ScheduleFreeAdamW)


def schedule_free_x(name, params, grads_per_step, options=None):
    """The averages x (what `eval()` shows) after each step."""
    return STEPPERS[name.lower()](params, options).averages(grads_per_step)


# ------------------------------------------------------------------------------------------------ Prodigy


class Prodigy(Stepper):
    defaults = dict(
        lr=1.0,
        betas=(0.9, 0.999),
        beta3=None,
        eps=1e-8,
        weight_decay=0.0,
        decouple=True,
        use_bias_correction=False,
        safeguard_warmup=False,
        d0=1e-6,
        d_coef=1.0,
        growth_rate=math.inf,
        maximize=False,
    )

    def __init__(self, params, options=None):
        super().__init__(params, options)
        self.start = [p.copy() for p in self.params]
        self.d = self.d_max = self.o["d0"]
        self.numerator = 0.0
        self.t = 1  # advances only with the parameters

    def step(self, grads):
        o, lr, d = self.o, self.rate(), self.d
        (beta1, beta2), d0 = o["betas"], o["d0"]
        beta3 = math.sqrt(beta2) if o["beta3"] is None else o["beta3"]
        if lr == 0:
            return
        correction = math.sqrt(1 - beta2**self.t) / (1 - beta1**self.t) if o["use_bias_correction"] else 1.0
        step = d * lr * correction
        numerator, denominator, live = beta3 * self.numerator, 0.0, []
        for i, g in enumerate(self.signed(grads)):
            if g is None:
                continue
            live.append(i)
            p, s = self.params[i], self.states[i]
            if not o["decouple"]:
                g = g + o["weight_decay"] * p
            numerator += d / d0 * step * float(np.sum(g * (self.start[i] - p)))
            s["m"] = beta1 * s.get("m", zeros(p)) + (1 - beta1) * d * g
            s["v"] = beta2 * s.get("v", zeros(p)) + (1 - beta2) * (d * g) ** 2
            s["s"] = beta3 * s.get("s", zeros(p)) + d / d0 * (d if o["safeguard_warmup"] else step) * g
            denominator += float(np.sum(abs(s["s"])))
        if denominator == 0:
            return
        estimate = o["d_coef"] * numerator / denominator
        if d == d0:
            d = max(d, estimate)
        self.d_max = max(self.d_max, estimate)
        self.d = min(self.d_max, d * o["growth_rate"])
        self.numerator = numerator
        self.t += 1
        for i in live:
            p, s = self.params[i], self.states[i]
            decay = o["weight_decay"] * step if o["decouple"] else 0.0
            self.params[i] = p * (1 - decay) - step * s["m"] / (sqrt(s["v"]) + self.d * o["eps"])


register("Prodigy", Prodigy)


# ------------------------------------------------------------------------------------------------ YellowFin


def single_step_root(d, c, h_min):
    """The x = sqrt(mu) in [0, 1] that minimises x^2 d^2 + (1-x)^4 c / h_min^2, by bisection of half its derivative.

    The derivative rises from -4c/h^2 at 0 to 2d^2 at 1, so that there is one root; the closed form of the cubic (Vieta)
    is the same number, with cancellation where c is small.
    """
    low, high = 0.0, 1.0
    for _ in range(1100):  # until the two are neighbours: x may be tiny
        x = 0.5 * (low + high)
        if x in (low, high):
            break
        if d * d * x < 2 * (c / h_min**2) * (1 - x) ** 3:
            low = x
        else:
            high = x
    return 0.5 * (low + high)


class YellowFin(Stepper):
    """Zhang & Mitliagkas 2017: SGD with momentum, both tuned from the gradients alone; one tuner for all parameters.

    Choices where the paper leaves freedom:

    1. order: measure with the current gradient (after coupled decay), tune, then step with the tuned values;
    2. every running mean starts at 0, keeps beta, and is divided by 1 - beta^t (`zero_debias`);
    3. curvature ||g||^2, window of the last `curv_window_width`, its extremes averaged as logarithms
       (`h_log_smooth=(h_max, h_min)`; the paper averages the values, the authors' last code the maximum's value and
       the minimum's logarithm);
    4. variance: mean of ||g||^2 less the squared norm of the mean gradient, debiased each on its own, at least eps;
    5. distance: mean of (mean ||g||) / (mean ||g||^2), the inner two not debiased (it cancels), the outer one debiased;
    6. mu = max(x^2, ((sqrt r - 1)/(sqrt r + 1))^2), r = h_max/h_min, lr = (1 - sqrt mu)^2 / h_min, eps = 1e-6 beside
       h_max, h_min, variance, distance as in the authors' code (not inside the solver, where they also have it);
    7. slow start: lr times min(1, t/(10 window)), t = 1, 2, ..., before the smoothing;
    8. lr and mu are then averaged as in 2. With `start=(lr0, mu0)` they start there instead, are not debiased, and the
       first step uses (lr0, mu0) untuned, as in the authors' code (1.0, 0.0 in their paper); `smooth=False`: no
       averaging (their last code);
    9. step: b = mu b + g, p = p - lr * factor * b (rate outside the buffer: torch's and TensorFlow's momentum, which is
       what the authors use; the paper's heavy ball is mu (p - previous p) - lr g, equal for a constant rate);
    10. no clipping of any kind.
    """

    defaults = dict(
        lr=1.0,
        beta=0.999,
        curv_window_width=20,
        zero_debias=True,
        weight_decay=0.0,
        decoupled_weight_decay=False,
        maximize=False,
        slow_start=True,
        eps=1e-6,
        h_log_smooth=(True, True),
        smooth=True,
        start=None,
    )

    def __init__(self, params, options=None):
        super().__init__(params, options)
        self.window: list[float] = []
        self.means: dict = {}
        self.lr_s, self.mu_s = self.o["start"] or (0.0, 0.0)

    def mean(self, key, value):
        """The running mean, not debiased."""
        beta = self.o["beta"]
        self.means[key] = beta * self.means.get(key, 0.0) + (1 - beta) * value
        return self.means[key]

    def debias(self):
        return 1 - self.o["beta"] ** (self.k + 1) if self.o["zero_debias"] else 1.0

    def measure(self, grads):
        """(h_max, h_min, variance, distance)."""
        o, eps, debias = self.o, self.o["eps"], self.debias()
        square = sum(float(np.sum(g * g)) for g in grads if g is not None)
        self.window = (self.window + [square])[-o["curv_window_width"] :]
        extremes = []
        for key, pick, logarithm in zip(("h_max", "h_min"), (max, min), o["h_log_smooth"], strict=False):
            h = pick(self.window)
            h = self.mean(key, math.log(h + eps) if logarithm else h) / debias
            extremes.append(math.exp(h) if logarithm else h)
        square_mean, norm_mean = self.mean("square", square), self.mean("norm", math.sqrt(square))
        mean_square = 0.0
        for g, s in zip(grads, self.states, strict=False):
            if g is not None:
                s["grad_avg"] = o["beta"] * s.get("grad_avg", zeros(g)) + (1 - o["beta"]) * g
            if "grad_avg" in s:
                mean_square += float(np.sum(s["grad_avg"] ** 2))
        variance = max(square_mean / debias - mean_square / debias**2, eps)
        distance = self.mean("distance", norm_mean / (square_mean + eps)) / debias
        return (*extremes, variance, distance)

    def tune(self, h_max, h_min, variance, distance):
        o, eps = self.o, self.o["eps"]
        x = single_step_root(distance + eps, variance + eps, h_min + eps)
        r = math.sqrt(max((h_max + eps) / (h_min + eps), 1 + eps))
        mu = max(x**2, ((r - 1) / (r + 1)) ** 2)
        lr = (1 - math.sqrt(mu)) ** 2 / (h_min + eps)
        if o["slow_start"]:
            lr *= min(1.0, (self.k + 1) / (10 * o["curv_window_width"]))
        return lr, mu

    def step(self, grads):
        o, factor, beta = self.o, self.rate(), self.o["beta"]
        grads = self.signed(grads)
        if not o["decoupled_weight_decay"]:
            grads = [None if g is None else g + o["weight_decay"] * p for p, g in zip(self.params, grads, strict=False)]
        measured = self.measure(grads)
        if self.k == 0 and o["start"]:
            lr, mu = self.lr_s, self.mu_s
        else:
            lr, mu = self.tune(*measured)
            if o["smooth"]:
                self.lr_s, self.mu_s = beta * self.lr_s + (1 - beta) * lr, beta * self.mu_s + (1 - beta) * mu
                lr, mu = self.lr_s, self.mu_s
                if not o["start"]:
                    lr, mu = lr / self.debias(), mu / self.debias()
        self.tuned = lr, mu
        for i, g in enumerate(grads):
            if g is None:
                continue
            p, s = self.params[i], self.states[i]
            if o["decoupled_weight_decay"]:
                p = p * (1 - lr * factor * o["weight_decay"])
            s["b"] = mu * s.get("b", zeros(p)) + g
            self.params[i] = p - lr * factor * s["b"]


register("YellowFin", YellowFin)


# ------------------------------------------------------------------------------------------------ transforms


def clip_global_norm(grads, max_norm):
    """All gradients (None passes) times min(1, max_norm / (norm + 1e-6)), norm that of all of them together."""
    total = math.sqrt(sum(norm(g) ** 2 for g in grads if g is not None))
    return [None if g is None else g * min(1.0, max_norm / (total + 1e-6)) for g in grads]


def lookahead(inner, k, alpha, params, grads_per_step, options=None):
    """Every k steps: slow += alpha (fast - slow), fast = slow. The slow weights start as `params`; inner state is kept."""
    stepper = STEPPERS[inner.lower()](params, options)
    if isinstance(stepper, (ScheduleFree, Prodigy)):
        raise TypeError("Lookahead over an optimizer with further copies of the parameters is not defined here")
    slow, trajectory = [p.copy() for p in stepper.params], []
    for grads in grads_per_step:
        stepper.step(grads)
        stepper.k += 1
        if stepper.k % k == 0:
            slow = [s + alpha * (p - s) for s, p in zip(slow, stepper.params, strict=False)]
            stepper.params = [s.copy() for s in slow]
        trajectory.append([p.copy() for p in stepper.params])
    return trajectory


def ema(trajectory, decay=0.999, start=None):
    """Averages after each step: e = decay e + (1 - decay) p.

    The average starts as `start`, the parameters at construction (the convention chosen here). Without `start`, the
    first call copies: e is p after the first step.
    """
    average, out = start, []
    for ps in trajectory:
        average = ps if average is None else [decay * e + (1 - decay) * p for e, p in zip(average, ps, strict=False)]
        out.append([np.array(e) for e in average])
    return out


def swa(trajectory, start=0, every=1):
    """Mean of the parameters after steps start+every, start+2 every, ... (1-based); the first copies.

    Until then, what is returned is the parameters themselves.
    """
    seen, out = [], []
    for t, ps in enumerate(trajectory, 1):
        if t > start and (t - start) % every == 0:
            seen.append(ps)
        out.append([np.mean(copies, axis=0) for copies in zip(*(seen or [ps]), strict=False)])
    return out


def oracle(name):
    return lambda params, grads_per_step, options=None: STEPPERS[name](params, options).run(grads_per_step)


ORACLES = {name: oracle(name) for name in STEPPERS}
