"""The class around a rule: parameters, groups, state, checks, and the call of the compiled step or of its reference."""

from __future__ import annotations

import bisect
import contextlib
import copy
import inspect
import itertools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, TypedDict

import numpy as np

from .. import checks, kernels
from .. import sparse as sparse_gradients
from .. import transforms as transforming
from ..checks import Array, Check
from ..errors import (
    ConcurrentStepError,
    DTypeError,
    HyperParameterError,
    IndexRangeError,
    LayoutError,
    NonFiniteError,
    OverlapError,
    ShapeError,
    StateError,
    UnsupportedError,
    did_you_mean,
)
from ..schedules import Schedule, is_pure
from ..sparse import Entries, SparseGrad
from ..transforms import Transform
from . import tables
from .plan import NumpyPlan
from .tables import Gap, Scalars

ALIGN = 64  # bytes: a cache line, and the widest vector
HUGE = 2**28  # bytes of a state from which on its zeros are left to the system, which has them ready for pages in use
MOST_STEPS = 2**62  # far from where 64-bit counters would wrap
NOW = object()  # step(): "take the gradients of opt.grads"


@dataclass(frozen=True)
class Rule:
    """One span and what belongs to it: the names of its states, and the same mathematics in NumPy.

    ``reference(p, g, *states, h)`` updates ``p`` and the states in place, with the operations of the span in the order
    of the span, in the dtype of the arrays; it never writes ``g``. ``catch`` names the law by which exact sparse mode
    catches rows up; None: there is none. ``moved`` is for the documentation: how many arrays of the parameter's size a step
    reads or writes; None: the gradient once, the parameter and such states twice, as one pass does. ``merge``: how what two
    lock-free threads have made of the parameter, and of each state, becomes one: "sum" of the moves, "mean" or "max"; empty: the
    sum for the parameter and means for the states.
    """

    span: str
    states: tuple[str, ...]
    reference: Callable[..., None]
    catch: Catch | None = None
    measure: Measure | None = None
    moved: int | None = None
    merge: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measure:
    """Sums over a whole parameter that a rule needs before its span: the kernel ``measure_<name>``, and the same in NumPy.

    ``reference(p, g, *states, h)`` gives the terms of each sum, float64 arrays in the shape of the parameter; it may update the
    states. `Optimizer.derive` makes the span's scalars of the sums.
    """

    name: str
    reference: Callable[..., Sequence[Array]]


@dataclass(frozen=True)
class Catch:
    """A catch-up of the kernels, and how many decays and series its gaps have."""

    name: str
    decays: int
    series: int  # ALL: as many as the build keeps
    steady: tuple[str, ...] = ()  # options that must not change within a gap: all rows are caught up before


ALL = -1
OF_BLOCKS = ("maximize", "decoupled_weight_decay")  # options that every group has


class ParamGroup(dict[str, Any]):
    """The options of a group of parameters, as a dict. Changes are checked at once and hold from the next step on."""

    def __init__(self, owner: Optimizer, options: Mapping[str, Any], params: list[Array]) -> None:
        super().__init__(options)
        super().__setitem__("params", tuple(params))  # not a list, which could be changed unseen
        self._owner = owner

    def __setitem__(self, key: str, value: Any) -> None:
        self.update({key: value})

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set several options at once; none is set when one is wrong."""
        new = dict(*args, **kwargs)
        if "params" in new:
            raise StateError("a group's 'params' cannot be replaced; use add_param_group, or make a new optimizer")
        with self._owner._still():
            before, owner = self.options(), self._owner
            old = owner.rule_of(before)
            super().update(owner._checked({**before, **new}, "group option "))
            try:
                rule, steady = owner.rule_of(self), old.catch.steady if old.catch else ()
                if rule.states == old.states and rule.catch == old.catch and all(before[k] == self[k] for k in steady):
                    owner._tell(owner._plan)
                else:
                    owner._build(*owner._clocks())
            except BaseException:
                super().update(before)
                raise

    def options(self) -> dict[str, Any]:
        """The options without the parameters."""
        return {k: v for k, v in self.items() if k != "params"}

    def setdefault(self, key: str, default: Any = None) -> Any:
        if key not in self:
            self[key] = default
        return self[key]

    def __ior__(self, other: Any) -> ParamGroup:  # type: ignore[override,misc]
        self.update(other)
        return self

    def _refuse(self, *args: Any) -> Any:
        raise StateError("options of a group can be changed, not removed")

    __delitem__ = pop = popitem = clear = _refuse

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


class CommonButDecay(TypedDict, total=False):
    """The keywords that every optimizer takes beside its own; `Optimizer` says what they mean."""

    maximize: bool
    transforms: Sequence[Transform]
    nonfinite: str
    preset: str | None
    sparse: str
    backend: str
    n_threads: int | None


class Common(CommonButDecay, total=False):
    """Those of optimizers that leave weight decay to the block operations."""

    decoupled_weight_decay: bool


class Constructor(type):
    """What happens to the arguments of an optimizer before its constructor sees them: presets, names of options."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **cls.complete(kwargs, len(args)))

    def complete(cls, options: Mapping[str, Any], positional: int = 1) -> dict[str, Any]:
        """`options` with those of their preset that are not given, be it by name or among the `positional` arguments."""
        known = list(inspect.signature(cls).parameters)
        for word in options:
            if word not in known:
                names = [n for n in known if n != "params"]
                raise UnsupportedError(f"{cls.__name__} has no option {word!r}.{did_you_mean(word, names)}")
        preset = options.get("preset")
        chosen = {} if preset is None else cls.preset_options(preset)  # type: ignore[attr-defined]
        return {**{k: v for k, v in chosen.items() if k not in known[:positional]}, **options}


class Optimizer(metaclass=Constructor):
    """Base class of the optimizers; see the classes derived from it.

    Parameters
    ----------
    params : array, list, dict or list of groups
        Parameters of float32 or float64, C- or Fortran-contiguous; updated in place.
    maximize : bool, default False
    decoupled_weight_decay : bool, default False
        ``p *= 1 - lr * weight_decay`` before the update, instead of ``g += weight_decay * p``. Not offered by optimizers
        that have a decay of their own.
    transforms : list of transforms, default ()
        Of `fastopt.transforms`: what clips (`clip_value`, and `clip_norm`, `clip_global_norm` or `clip_adaptive`), `noise`,
        and averages (`ema`, `swa`, `polyak`, `lookahead`). Their order in the list says nothing: `clip_value` comes first, then
        what clips by a norm, then noise, weight decay and the rule, then averages. Rules that measure their gradients see them
        so.
    nonfinite : {"propagate", "skip", "raise"}, default "propagate"
        What an infinity or a NaN among the gradients of a step does. "skip": nothing is written, no counter moves, `skipped`
        counts it; "raise": the same, with a NonFiniteError. Both cost a pass over the gradients, which clipping shares.
    preset : {"torch", "keras", "paper"}, optional
        Defaults of that library or of the paper, for those options that are not given, with its numerics where they differ.
        Without it, and with "torch": PyTorch's, or the authors' code where PyTorch has none.
    sparse : {"lazy", "exact"}, default "lazy"
        What a `SparseGrad` means for the rows that it does not list: they stand still, or they become what a dense step
        with zeros for them would have made of them, by the time they are read (`read`, `catch_up`, `flush`).
    backend : {"auto", "native", "numpy"}, default "auto"
    n_threads : int, optional
        Default: `fastopt.get_num_threads()`.

    Notes
    -----
    `lr`, `momentum` and `weight_decay` are numbers or callables. A callable is a schedule: ``lr(step)``, where `step` counts the
    optimizer's completed steps from 0; `fastopt.schedules` has those of the literature. It must be a pure function, for it is
    asked some steps ahead, or have an attribute ``pure = False``, as `ReduceOnPlateau` has: then it is asked before each step.

    What differs from other libraries in all of them:

    - Names, defaults and state dicts are PyTorch's where it has the optimizer. `foreach`, `fused`, `capturable` and
      `differentiable` do not exist, nor do complex numbers and half precision.
    - `weight_decay` is added to the gradient, as in PyTorch. Keras decouples it in every optimizer but ScheduleFreeSGD, and so
      does its preset. Both multiply it by the rate.
    - Epsilon is at least the smallest normal number of the dtype, so that a zero gradient on zero states moves nothing. PyTorch
      and Keras take ``eps=0`` as it is, and make NaN of 0/0.
    - Averages are formed as ``beta * m + (1 - beta) * g``, where PyTorch and Keras may have ``m + (1 - beta) * (g - m)``: the
      same but for rounding. What depends on the step alone is derived in float64 and rounded once.
    - None for a gradient leaves the parameter, its states and its count of steps alone, as in PyTorch; Keras has one count for
      all. A gradient of zeros is a gradient.
    - Sparse gradients are taken by all, with weight decay. Repeated rows are summed first. Lazy rows that are touched get the
      bias correction of the parameter's count, as in PyTorch's SparseAdam; ``sparse="exact"`` has no counterpart there.

    Raises
    ------
    FastoptError
        If anything does not fit: one of the classes derived from it, which says what was given, what was expected and what to do.
    """

    # A derived class declares `options`, `rules`, `rule`, `scalars` and `settled`; and where they apply, `presets`, `start`,
    # `gap` and the few other hooks below.

    #: check of each option beyond those of `COMMON`
    options: ClassVar[dict[str, Check]] = {}
    #: the spans that the options choose among
    rules: ClassVar[tuple[Rule, ...]] = ()
    #: options whose values are the class's own and cannot be given
    fixed: ClassVar[Mapping[str, Any]] = {}
    #: defaults that differ under a preset; "torch" is what the signature says
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    #: which weight decay, "coupled" or "decoupled", is the span's own affair, and not that of the block operations
    own_decay: ClassVar[tuple[str, ...]] = ()
    #: whether linear models can train by the span alone
    for_samples: ClassVar[bool] = True
    #: place of the span's scalar that multiplies the whole move of the parameter, where it has one and the parameter moves
    #: whatever it is: then models with rates of their own share a span
    pace: ClassVar[int | None] = None
    #: what a group remembers from step to step beside its arrays, and where that starts: numbers, or tuples of them
    memory: ClassVar[Mapping[str, Any]] = {}
    #: states that start as a copy of the parameter
    copies: ClassVar[frozenset[str]] = frozenset()
    #: states that do not exist before the first step that uses them (torch's momentum buffer)
    born_late: ClassVar[frozenset[str]] = frozenset()

    #: what makes the step, where it is not the plan of the kernels with its spans or that of their references
    plan: ClassVar[Any] = None
    #: the passes of the kernels that the rules of a `WholePlan` run, beside those that all share
    passes: ClassVar[tuple[Any, ...]] = ()

    #: the parameters of its constructor and of those that it builds on
    _offered: ClassVar[frozenset[str]] = frozenset()

    #: the memory of a `Table`, which then owns parameter and states
    _storage: Any = None

    #: the optimizers that exist, by their names in lower case
    known: ClassVar[dict[str, type[Optimizer]]] = {}

    COMMON: ClassVar[dict[str, Check]] = {
        "lr": checks.rate,
        "weight_decay": checks.scheduled(checks.non_negative),
        "decoupled_weight_decay": checks.flag,
        "maximize": checks.flag,
    }

    def __init_subclass__(cls) -> None:
        if not cls.__name__.startswith("_"):
            Optimizer.known.setdefault(cls.__name__.lower(), cls)
        cls.__signature__ = cls._whole_signature()  # type: ignore[attr-defined]
        # Here, and not at each edit of a group: signatures are slow. A subclass may hide some of the options.
        cls._offered = frozenset(n for c in cls.__mro__[:-2] for n in inspect.signature(c).parameters)

    @classmethod
    def _whole_signature(cls) -> inspect.Signature:
        """The constructor's parameters, with those that it hands on as ``**common`` written out."""
        own = list(inspect.signature(cls.__init__).parameters.values())[1:]
        if not own or own[-1].kind is not inspect.Parameter.VAR_KEYWORD:
            return inspect.Signature(own)
        without = {p.name for p in own} | set(cls.fixed)
        maker = next(c for c in cls.__mro__ if "__init__" in vars(c))
        above: list[inspect.Parameter] = []
        for base in maker.__mro__[1:-1]:  # what a constructor further up takes by name
            if "__init__" in vars(base):
                signature = vars(base).get("__signature__") or inspect.signature(vars(base)["__init__"])
                above = [p for p in signature.parameters.values() if p.name not in ("self", "params", "options")]
                break
        if len(cls.own_decay) == 2 or "weight_decay" not in without | {p.name for p in above}:
            without.add("decoupled_weight_decay")
        more = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in above if p.name not in without]
        return inspect.Signature([*own[:-1], *more])

    def __init__(
        self,
        params: Any,
        options: dict[str, Any],
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
        transforms: Sequence[Transform] = (),
        nonfinite: str = "propagate",
        preset: str | None = None,
        sparse: str = "lazy",
        backend: str = "auto",
        n_threads: int | None = None,
    ) -> None:
        common = {"maximize": maximize, "decoupled_weight_decay": decoupled_weight_decay}
        self.sparse = checks.one_of("lazy", "exact")("sparse", sparse)
        self._transforms = transforming.check(transforms)
        self._means = transforming.means(self._transforms)
        self._uncopied: set[int] = set()  # parameters whose states that start as copies of them wait for the first step
        self._tuned: list[dict[str, Any]] = []
        self._asks_anew = False  # some option follows a schedule with a memory
        # Of groups whose rule has a measure: the scalars of the step under way, in float64.
        self._wide: dict[int, Array] = {}
        if self.sparse == "exact" and (why := transforming.why_not_exact(self._transforms)):
            raise UnsupportedError(f"sparse='exact' {why}")
        self._nonfinite = checks.one_of("propagate", "skip", "raise")("nonfinite", nonfinite)
        #: steps left out because of ``nonfinite="skip"``
        self.skipped = 0
        self.defaults = self._checked({**common, **options, **self.fixed})
        self.n_threads = None if n_threads is None else checks.integer(1, kernels.threads.LIMIT)("n_threads", n_threads)
        self.backend = choose_backend(backend)
        self.param_groups: list[ParamGroup] = []
        self._params: list[Array] = []
        self._labels: list[str] = []
        self._names: list[str] | None = None
        self._group_of: list[int] = []
        self._state: list[dict[str, Array]] = []
        self._own: list[Array] = []
        self._taken: list[tuple[int, int]] = []
        self._plan: Any = None
        self._single = isinstance(params, np.ndarray)
        if isinstance(params, (list, tuple)) and params and all(isinstance(g, dict) for g in params):
            self._add_groups(list(params))
        elif isinstance(params, (np.ndarray, dict, list, tuple)):
            self._add_groups([{"params": params}])
        else:
            hint = "; a set has no order, pass a list" if isinstance(params, (set, frozenset)) else ""
            raise DTypeError(
                "params must be a NumPy array, a list or dict of arrays, or a list of groups, got "
                f"{type(params).__name__}{hint}"
            )

    @property
    def transforms(self) -> tuple[Transform, ...]:
        """What was given as `transforms`; it cannot be changed."""
        return self._transforms

    @property
    def nonfinite(self) -> str:
        """What was given as `nonfinite`; it cannot be changed."""
        return self._nonfinite

    @property
    def steps(self) -> int:
        """Completed steps: what schedules are asked for next. Steps that `nonfinite` skipped do not count."""
        return self._plan.steps

    # ------------------------------------------------------------------------------------- what a derived class says

    @classmethod
    def rule(cls, o: Mapping[str, Any]) -> str:
        """The span that the options `o` choose."""
        if len(cls.rules) != 1:
            raise UnsupportedError(
                "an optimizer with several rules, or none, needs to say which one its options choose"
            )
        return cls.rules[0].span

    @staticmethod
    def scalars(t: Array, o: Mapping[str, Any], born: int) -> Scalars:
        """The span's scalars in float64 for the steps `t` (integers from 1); the state began after step `born`."""
        raise UnsupportedError("an optimizer needs its scalars")

    @staticmethod
    def settled(o: Mapping[str, Any], born: int) -> int | None:
        """The first step from which the scalars stay the same for ever; None: never."""
        return 1

    @staticmethod
    def derive(
        sums: Array, h: Array, shapes: Sequence[tuple[int, ...]], o: Mapping[str, Any], memory: dict[str, Any]
    ) -> Array:
        """The span's scalars for what the rule's measure found, in float64: a row for each parameter of a group.

        `sums`, `h` (what `scalars` gave) and `shapes` have a row for each, too; `memory` is the group's, to be brought up to
        date. A parameter of which a `SparseGrad` lists rows alone is measured by those.
        """
        raise UnsupportedError("an optimizer whose rule has a measure needs to derive its scalars")

    @staticmethod
    def recall(h: Array, o: Mapping[str, Any], memory: Mapping[str, Any]) -> Array:
        """The measure's scalars for what the group remembers, `h` being what `scalars` gave."""
        return h

    @classmethod
    def decay_by_blocks(cls, o: Mapping[str, Any]) -> tuple[bool, bool]:
        """Whether the block operations are to apply weight decay before the span: coupled, decoupled."""
        decay, decoupled = o.get("weight_decay", 0.0) != 0, o.get("decoupled_weight_decay", False)
        return (
            decay and not decoupled and "coupled" not in cls.own_decay,
            decay and decoupled and "decoupled" not in cls.own_decay,
        )

    @staticmethod
    def start(state: str, o: Mapping[str, Any]) -> float:
        """The value that a state starts from."""
        return 0.0

    @classmethod
    def state_shapes(cls, shape: tuple[int, ...], o: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """The states of a parameter of this shape, by name, and their shapes."""
        return dict.fromkeys(cls.rule_of(o).states, shape)

    @classmethod
    def along_rows(cls, state: str, shape: tuple[int, ...]) -> bool:
        """Whether the first axis of this state of a parameter of this shape is that of the parameter."""
        return True

    @classmethod
    def check_shape(cls, label: str, shape: tuple[int, ...]) -> None:
        """Raise if parameters cannot have this shape."""

    @classmethod
    def check_together(cls, o: Mapping[str, Any]) -> None:
        """Raise if options that are right by themselves do not go together."""

    @staticmethod
    def gap(h: Sequence[Array], r: Sequence[Array], o: Mapping[str, Any], series: int) -> Gap:
        """What steps with the scalars `h` (in float64; `r`: rounded) do to a row whose gradient is zero."""
        raise UnsupportedError("an optimizer with exact sparse mode needs its gap")

    @classmethod
    def why_not_exact(cls, o: Mapping[str, Any]) -> str:
        """Why the options `o` have no exact sparse mode, and what to do instead; empty where they have one."""
        if cls.decay_by_blocks(o)[0]:
            return (
                "coupled weight_decay gives untouched rows a gradient, whose effect has no closed form; use "
                "decoupled_weight_decay=True, weight_decay=0 or sparse='lazy'"
            )
        return ""

    # ------------------------------------------------------------------------------------------------- construction

    @classmethod
    def _check_options(cls, options: Mapping[str, Any], where: str = "") -> dict[str, Any]:
        known = cls._known_options()
        for name in options:
            if name not in known:
                raise UnsupportedError(f"{where}{cls.__name__} has no option {name!r}.{did_you_mean(name, known)}")
        checked = {name: known[name](where + name, value) for name, value in options.items()}
        for name in OF_BLOCKS:  # every group has these, but not every class lets them be chosen
            offered = name not in cls.fixed and name in cls._offered
            if not offered and checked.get(name, False) != cls.fixed.get(name, False):
                raise UnsupportedError(
                    f"{where}{name} of {cls.__name__} is {cls.fixed.get(name, False)}, and cannot be chosen"
                )
        cls.check_together(checked)
        return checked

    def _checked(self, options: Mapping[str, Any], where: str = "") -> dict[str, Any]:
        """Options checked, also for the sparse mode of this optimizer."""
        checked = self._check_options(options, where)
        if self.sparse == "exact":
            if self.rule_of(checked).catch is None:
                raise UnsupportedError(f"{where}{type(self).__name__} has no exact sparse mode; use sparse='lazy'")
            if why := self.why_not_exact(checked):
                raise UnsupportedError(f"{where}sparse='exact' of {type(self).__name__}: {why}")
        return checked

    @classmethod
    def preset_options(cls, preset: Any) -> Mapping[str, Any]:
        """What a preset says in place of the signature's defaults."""
        known = dict.fromkeys(["torch", *cls.presets])
        if preset not in ("torch", "keras", "paper"):
            raise HyperParameterError(f"preset must be one of 'torch', 'keras', 'paper', got {preset!r}")
        if preset not in known:
            raise UnsupportedError(
                f"{cls.__name__} has no preset {preset!r}, only {', '.join(map(repr, known))}; give the options themselves"
            )
        return cls.presets.get(preset, {})

    @classmethod
    def fill_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """`options` checked, and those left out with their defaults: what a group of this optimizer would have."""
        signature = inspect.signature(cls).parameters
        defaults = {k: signature[k].default for k in cls._known_options() if k in signature}
        return cls._check_options({**defaults, **cls.fixed, **options})

    @classmethod
    def _known_options(cls) -> dict[str, Check]:
        """The check of each option that a group of this optimizer can have."""
        known = {**cls.COMMON, **cls.options}
        return {k: check for k, check in known.items() if k in cls._offered or k in cls.fixed or k in OF_BLOCKS}

    @classmethod
    def rule_of(cls, o: Mapping[str, Any]) -> Rule:
        """The rule of the span that the options `o` choose."""
        span = cls.rule(o)
        return next(r for r in cls.rules if r.span == span)

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters with options of their own.

        Parameters
        ----------
        group : dict
            ``"params"``: an array, a list of arrays, or, where the parameters have names, a dict of arrays under new
            names. Every other key is an option; those left out have the optimizer's defaults.
        """
        self._add_groups([group])

    def _add_groups(self, groups: Sequence[Mapping[str, Any]]) -> None:
        """Check all of them, then add them: a bad one leaves the optimizer as it was."""
        if self._storage and self._params:
            raise UnsupportedError(
                "the optimizer of a Table has that table alone; make another optimizer for more parameters"
            )
        with self._still():
            self._add_checked(groups)

    def _add_checked(self, groups: Sequence[Mapping[str, Any]]) -> None:
        old = len(self._params)
        params, labels, made, group_of = list(self._params), list(self._labels), [], list(self._group_of)
        names = None if self._names is None else list(self._names)
        for q, group in enumerate(groups, len(self.param_groups)):
            if not isinstance(group, Mapping) or "params" not in group:
                raise DTypeError(f"a group is a dict with the key 'params', got {group!r:.80}")
            options = {k: v for k, v in group.items() if k != "params"}
            checked = self._checked({**self.defaults, **options}, f"group {q}: " if q or len(groups) > 1 else "")
            items = self._items(group["params"], q, len(params), names)
            if isinstance(group["params"], dict):
                names = [*(names or []), *(name for name, _ in items)]
            for name, a in items:
                labels.append(f"param {name!r}" + (f" (group {q})" if q else ""))
                params.append(a if self._storage else checks.parameter(labels[-1], a))
                self.check_shape(labels[-1], params[-1].shape)
                group_of.append(q)
            made.append(ParamGroup(self, checked, [a for _, a in items]))
        refuse_overlap(params, labels)
        counters, borns, steps = self._clocks()
        # From here on nothing is refused.
        self._single = self._single and not self._params
        self._params, self._labels, self._names, self._group_of = params, labels, names, group_of
        self.param_groups += made
        self._tuned += [dict(self.memory) for _ in made]
        self._state += [{} for _ in params[old:]]
        if self._own:  # whoever holds an array of `grads` goes on filling it
            fresh = arena(params[old:])
            for g in fresh:
                g.fill(0)
            self._own += fresh
        self._build(counters + [0] * (len(params) - old), borns + [0] * (len(params) - old), steps)

    def _items(self, given: Any, q: int, at: int, names: list[str] | None) -> list[tuple[Any, Any]]:
        """The parameters of group `q` with what they are called: their names, or their places from `at` on."""
        if isinstance(given, dict):
            if at and names is None:
                raise UnsupportedError(f"group {q} has named parameters, but those before have none; pass a list")
            for name in given:
                if not isinstance(name, str):
                    raise DTypeError(f"names of parameters must be strings, got {name!r}")
                if name in (names or []):
                    raise StateError(f"there is already a parameter {name!r}")
            items: list[tuple[Any, Any]] = list(given.items())
        elif names is not None:
            raise UnsupportedError(f"the parameters have names; pass 'params' of group {q} as a dict of arrays")
        elif isinstance(given, (list, tuple)):
            items = list(enumerate(given, at))
        elif isinstance(given, np.ndarray):
            items = [(at, given)]
        else:
            raise DTypeError(f"'params' of group {q} must be an array, a list or a dict, got {type(given).__name__}")
        if not items:
            raise ShapeError(f"group {q} has no parameters" if q else "params is empty; an optimizer needs parameters")
        return items

    def _build(self, counters: list[int], borns: list[int], steps: int) -> None:
        """Make the states that the rules need and that are not there yet, and the plan of the step."""
        self._flush()  # what the old plan remembers goes with it
        shapes = [
            self._states_of(p.shape, self.param_groups[q]) for p, q in zip(self._params, self._group_of, strict=True)
        ]
        wanted: list[tuple[int, str, tuple[int, ...]]] = []
        for i, need in enumerate(shapes):
            missing = [name for name in need if name not in self._state[i]]
            wanted += [(i, name, need[name]) for name in missing]
            if self.born_late & set(missing):
                borns[i] = counters[i]
        fresh: list[dict[str, Array]] = [{} for _ in self._params]
        made = self._memory(wanted)
        for (i, name, _), a in zip(wanted, made, strict=True):
            start = self._start(name, self._group_of[i], self._params[i])
            untouched = self._storage.fresh if self._storage else a.nbytes >= HUGE
            if not untouched or np.any(start):
                a[...] = start  # now, and not by page faults in a step
            fresh[i][name] = a
            if name in self.copies or name in self._mean_names():
                self._uncopied.add(i)
        self._state = [
            {name: fresh[i][name] if name in fresh[i] else old[name] for name in need}
            for i, (need, old) in enumerate(zip(shapes, self._state, strict=True))
        ]
        plan = (self.plan or (kernels.drivers.Plan if self.backend == "native" else NumpyPlan))(
            self,
            np.ndarray,
            self._params,
            self._names,
            self._single,
            len(self.param_groups),
            self.n_threads or 0,
            steps,
        )
        for i, p in enumerate(self._params):
            places = {name: checks.address(a) for name, a in self._state[i].items()}
            means = [places.pop(name) for name in self._mean_names()]
            plan.set_param(
                i,
                self._group_of[i],
                checks.address(p),
                p.itemsize,
                p.shape,
                p.strides,
                list(places.values()),
                counters[i],
                borns[i],
                self._storage.used if self._storage else 0,
                checks.address(self._storage.last) if self._storage and self._storage.last is not None else 0,
                means,
            )
        units = transforming.the(self.transforms, transforming.ClipAdaptive)
        if units is not None:
            for i, p in enumerate(self._params):
                plan.set_units(i, *units.units(p.shape, checks.order(p)))
        taken = [checks.byte_range(a) for a in (*self._params, *(a for s in self._state for a in s.values())) if a.size]
        self._taken = merge(sorted(taken))
        plan.set_taken(self._taken)
        if self._own:
            plan.set_own([checks.address(g) for g in self._own])
        self._tell(plan)
        if self._storage:
            self._storage.fresh = False
        self._plan = plan  # last: from now on other threads may step it

    def _start(self, state: str, group: int, p: Array) -> Any:
        """What a state of (a part of) parameter `p` starts from: a number, or `p` itself."""
        copied = state in self.copies or state in self._mean_names()
        return p if copied else self.start(state, self.param_groups[group])

    def _mean_names(self) -> list[str]:
        return [m.state for m in self._means]

    def _states_of(self, shape: tuple[int, ...], o: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """The states of a parameter of this shape with the options `o`, and their shapes: the rule's, then the averages."""
        return {**self.state_shapes(shape, o), **dict.fromkeys(self._mean_names(), shape)}

    def _memory(self, wanted: Sequence[tuple[int, str, tuple[int, ...]]]) -> list[Array]:
        """Arrays for states, given as parameter, name and shape."""
        if self._storage is None:
            params = [(self._params[i], shape) for i, _, shape in wanted]
            return arena([p if p.shape == shape else np.broadcast_to(p.dtype.type(0), shape) for p, shape in params])
        for _, name, _ in wanted:
            if name not in self._storage.names:
                raise UnsupportedError(
                    f"the records of this Table have no room for the state {name!r}; make a new Table with these options"
                )
        return [self._storage.states[name] for _, name, _ in wanted]

    def _tell(self, plan: Any) -> None:
        """Tell the plan what the options decide: spans, block operations; and that its scalars are void."""
        for q, group in enumerate(self.param_groups):
            rule = self.rule_of(group)
            plan.set_group(
                q,
                rule.span,
                len(rule.states),
                group["maximize"],
                *self.decay_by_blocks(group),
                kernels.table,
                self._law(rule.catch, group.get("weight_decay", 0.0) != 0),
                rule.measure.name if rule.measure else None,
            )
        self._asks_anew = not all(is_pure(value) for group in self.param_groups for value in group.options().values())
        looks = self.nonfinite != "propagate" or transforming.needs_norms(self.transforms)
        plan.set_transforms(
            kernels.table,
            looks,
            [m.kernel for m in self._means],
            **transforming.of_kernels(self.transforms),
        )
        plan.forget_scalars()

    def _law(self, catch: Catch | None, decay: bool) -> tuple[str, int, int, bool] | None:
        if self.sparse == "lazy" or catch is None:
            return None
        return catch.name, catch.decays, catch.series, catch.name != "decay0" or decay

    def _clocks(self) -> tuple[list[int], list[int], int]:
        plan = self._plan
        return ([], [], 0) if plan is None else (plan.counters(), plan.borns(), plan.steps)

    @contextlib.contextmanager
    def _still(self) -> Iterator[None]:
        """No step begins meanwhile; raises if one is under way. What fails inside leaves the optimizer as it was."""
        plan = self._plan
        if plan is not None:
            plan.hold(True)
        before = {k: list(v) if isinstance(v, list) else v for k, v in vars(self).items()}
        before["_tuned"] = [dict(m) for m in self._tuned]
        groups = [dict(g) for g in self.param_groups]
        try:
            yield
        except BaseException:
            vars(self).update(before)
            for g, items in zip(self.param_groups, groups, strict=True):
                dict.clear(g)
                dict.update(g, items)
            raise
        finally:
            if self._plan is plan and plan is not None:  # a plan that was replaced is held for ever
                plan.hold(False)

    # ------------------------------------------------------------------------------ what the plan asks of its host

    def _scalar_table(
        self, group: int, itemsize: int, now: int, window: int, lag: int, born: int
    ) -> tuple[Array, bool, Array | None, int]:
        """The scalars of up to `window` steps from global step `now` on, a row each; whether one row serves for ever; in
        exact mode the gaps of these steps, and their reach.

        `lag` steps of the optimizer have passed the parameter by. The first two columns belong to the block operations.
        """
        o = self.param_groups[group]
        settled = tables.settled(type(self), o, born)
        for_ever = settled is not None and now - lag >= settled
        t = np.arange(now - lag, now - lag + (1 if for_ever else window))
        dtype = np.dtype(np.float32 if itemsize == 4 else np.float64)
        table, wide = tables.scalar_table(type(self), o, t, dtype, born, now - 1)
        bad = np.logical_not(np.isfinite(table).all(axis=1))
        if bad[0]:
            given = ", ".join(f"{k}={v!r}" for k, v in o.options().items())
            at = "".join(f"; step {now - 1} has {k}={tables.value_at(k, o[k], now - 1)!r}" for k in tables.following(o))
            raise HyperParameterError(
                f"the options of group {group} ({given}) give scalars beyond {dtype}{at}. Choose smaller ones, but "
                "none of 0 by which the rule divides; float64 parameters have more room"
            )
        if bad.any():  # a schedule's later steps; they are told when they come
            table, wide = table[: bad.argmax()], wide[: bad.argmax()]
        catch = self.rule_of(o).catch
        if self.sparse == "lazy" or catch is None or self.backend == "numpy":
            return table, for_ever, None, 0
        series = kernels.table[dtype.name]["SERIES"] if catch.series == ALL else catch.series
        return table, for_ever, *tables.gap_table(type(self), o, table, wide, series)

    def _look(self, squares: float, bad: int) -> float | None:
        """What the gradients of a step are multiplied by, for the sum of their squares; None: there is to be no step. `bad`:
        the parameter whose gradient is the first with an infinity or a NaN, or -1."""
        if bad >= 0 and self.nonfinite == "raise":
            raise NonFiniteError(
                f"gradient of {self._labels[bad]} has an infinity or a NaN; nothing was changed. Skip such steps by nonfinite='skip'"
            )
        if bad >= 0 and self.nonfinite == "skip":
            self.skipped += 1
            return None
        return transforming.norm_factor(self.transforms, squares)

    def _sigma(self, now: int) -> float:
        """The standard deviation of the noise in step `now`."""
        return transforming.the(self.transforms, transforming.Noise).sigma(now)  # type: ignore[union-attr]

    def _mean_scalars(self, now: int) -> tuple[Array, Array, list[bool]]:
        """The scalars of the averages in step `now`, in both dtypes, and which have a turn."""
        found = [m.scalars(now) for m in self._means]
        wide = np.array([(0.0, 0.0) if h is None else h for h in found])
        return wide.astype(np.float32), wide, [h is not None for h in found]

    def _recall(self, group: int, where: Sequence[int], now: int) -> list[Array]:
        """The scalars by which parameters `where` of a group are measured in step `now`. All that can fail about a step of a
        rule with a measure fails here, before anything is written."""
        o, counters, borns = self.param_groups[group], self._plan.counters(), self._plan.borns()
        rows: dict[tuple[int, int, Any], Array] = {}
        chosen = []
        for i in where:
            key = counters[i] + 1, borns[i], self._params[i].dtype
            if key not in rows:
                rows[key] = tables.scalar_table(type(self), o, np.array([key[0]]), key[2], key[1], now - 1)[1][0]
            chosen.append(rows[key])
        self._wide = {**self._wide, group: np.array(chosen)}
        return self._scalars_of(group, where, self.recall(self._wide[group][:, tables.SPAN :], o, self._tuned[group]))

    def _derive(self, group: int, where: Sequence[int], sums: Sequence[Sequence[float]]) -> list[Array]:
        """The scalars of the span for what was measured."""
        tiny = max(float(np.finfo(self._params[i].dtype).tiny) for i in where)
        o = {**self.param_groups[group], "tiny": tiny}
        shapes, own = [self._params[i].shape for i in where], self._wide[group][:, tables.SPAN :]
        with np.errstate(all="ignore"):
            made = self.derive(np.array(sums), own, shapes, o, self._tuned[group])
        return self._scalars_of(group, where, made)

    def _scalars_of(self, group: int, where: Sequence[int], own: Array) -> list[Array]:
        """Rows for the kernels: the block operations' scalars, then `own`, a row each or one for all."""
        blocks = self._wide[group][:, : tables.SPAN]
        whole = np.concatenate([blocks, np.broadcast_to(own, (len(where), own.shape[-1]))], axis=1)
        with np.errstate(all="ignore"):
            of = {dtype: list(whole.astype(dtype)) for dtype in {self._params[i].dtype for i in where}}
        return [of[self._params[i].dtype][k] for k, i in enumerate(where)]

    def _explain_busy(self) -> None:
        raise ConcurrentStepError(
            "this optimizer is in the middle of a step, made by another thread or by a callback; give each thread an "
            "optimizer of its own, or put a lock around step"
        )

    def _explain_structure(self, given: Any, what: str = "gradient") -> tuple[Any, ...]:
        """The gradients in the order of the parameters, or an error that says what does not fit."""
        n = len(self._params)
        if self._names is None:
            if not isinstance(given, (list, tuple)):
                raise DTypeError(
                    f"pass the {what}s as a list of {n}, one for each parameter in group order, got {type(given).__name__}"
                )
            if len(given) != n:
                raise ShapeError(f"got {len(given)} {what}s for {n} parameters; pass None for one to be skipped")
            return tuple(given)
        if not isinstance(given, Mapping):
            raise DTypeError(f"pass the {what}s as a dict under the parameters' names, got {type(given).__name__}")
        for name in given:
            if name not in self._names:
                raise ShapeError(f"there is no parameter {name!r}.{did_you_mean(name, self._names)}")
        for name in self._names:
            if name not in given:
                raise ShapeError(f"no {what} for parameter {name!r}; pass None for one to be skipped")
        return tuple(given[name] for name in self._names)

    def _explain_parameter(self, i: int) -> None:
        p, label = self._params[i], self._labels[i]
        if self._storage:
            checks.writable(label, p)
        else:
            checks.parameter(label, p)
        raise LayoutError(
            f"{label} is not the memory that it was when the optimizer was made (now shape {p.shape}, {p.dtype}): it was "
            "resized or reshaped in place. Make a new optimizer for it"
        )

    def _convert_gradient(self, i: int, g: Any) -> Array | Entries:
        """Gradient `g` of parameter `i` as an array or as sparse entries that can be read as they stand, or an error."""
        label, p = "gradient of " + self._labels[i], self._params[i]
        converted: Array | Entries
        if isinstance(g, SparseGrad):
            converted = SparseGrad.entries(g, label, p)  # not what a subclass may make of it
        elif sparse_gradients.is_scipy_sparse(g):
            converted = sparse_gradients.scipy_entries(label, g, p)
        else:
            converted = checks.gradient(label, g, p)
        low, high = checks.byte_range(converted.values if isinstance(converted, Entries) else converted)
        at = bisect.bisect_right(self._taken, (low, low)) - 1
        if low < high and any(a < high and low < b for a, b in self._taken[max(at, 0) : at + 2]):
            self._explain_overlap(label, low, high)
        return converted

    def _explain_size(self, i: int, n: int) -> None:
        raise UnsupportedError(
            f"{n} row indices are too many at once for {self._labels[i]} with its {len(self._params[i])} rows; pass them "
            "in several steps"
        )

    def _explain_rows(self, i: int, rows: Array | None, duplicates: str, reading: bool) -> None:
        """Say what is wrong with row indices that the plan refused."""
        what = "rows" if reading else f"gradient of {self._labels[i]}.indices"
        if rows is not None:
            sparse_gradients.check_rows(what, rows, self._params[i])
            if duplicates != "sum":
                sparse_gradients.check_repeats(what, rows, duplicates)
        raise IndexRangeError(f"{what} or the values were changed by another thread during the call")

    def _explain_overlap(self, label: str, low: int, high: int) -> None:
        for k, p in enumerate(self._params):
            for name, a in (("", p), *self._state[k].items()):
                first, last = checks.byte_range(a)
                if first < high and low < last:
                    what = f"state {name!r} of " if name else ""
                    raise OverlapError(f"{label} shares memory with {what}{self._labels[k]}; pass a copy")

    # ------------------------------------------------------------------------------------------------------ the step

    def step(self, grads: Any = NOW) -> None:
        """Update the parameters in place.

        Parameters
        ----------
        grads : array, list, dict, or nothing
            Gradients in the structure of the parameters: one array for one array, a list (flat, in group order) for a
            list or groups, a dict with the same names for a dict. Each is an ndarray of the parameter's shape and
            dtype, a `SparseGrad`, or None. None skips the parameter, and its step counter stands still; a gradient of
            zeros does neither. Gradients are only read; one whose memory layout differs from the parameter's is copied.
            Without the argument, the gradients in `grads` are used.

        Raises
        ------
        FastoptError
            If anything does not fit. No bit of any parameter, state or counter has changed then.
        """
        own = grads is NOW
        if own and not self._own:
            raise StateError("step() without gradients uses those in opt.grads, which nobody has asked for yet")
        plan = self._plan
        if self._asks_anew or self._uncopied:
            plan.hold(True)  # not _quiet, which a derived class may have entered
            try:
                if self._asks_anew:
                    plan.forget_scalars()
                if self._uncopied:
                    self._copy_late()
            finally:
                plan.hold(False)
        if self._uncopied:
            steps = plan.steps
            self._plan.step(None if own else grads, own)
            if self._plan.steps > steps:
                self._uncopied = set()
        else:
            self._plan.step(None if own else grads, own)

    def _copy_late(self) -> None:
        """States that start as copies of their parameter: of what it is as the first step is made, not at construction."""
        for i in self._uncopied:
            for name, a in self._state[i].items():
                if name in self.copies or name in self._mean_names():
                    a[...] = self._params[i]

    @property
    def grads(self) -> Any:
        """Gradient arrays that the optimizer owns and the caller fills, in the structure of the parameters.

        `step()` without an argument uses them. They are neither zeroed nor consumed by a step, and start as zeros. Fill
        them in place; the containers cannot be changed. They spare the check of each gradient.
        """
        if not self._own:
            own = arena(self._params)
            for g in own:
                g.fill(0)
            with self._still():
                if not self._own:  # another thread may have been first
                    self._plan.set_own([checks.address(g) for g in own])
                    self._own = own
        if self._single:
            return self._own[0]
        if self._names is None:
            return tuple(self._own)
        return MappingProxyType(dict(zip(self._names, self._own, strict=True)))

    def zero_grad(self) -> None:
        """Fill the arrays of `grads` with zeros."""
        for g in self._own:
            g.fill(0)

    # --------------------------------------------------------------------------------------- reading rows of a table

    def _find(self, param: Any) -> int:
        """The place of the parameter that a name, an index or the array itself denotes."""
        if isinstance(param, np.ndarray):
            for i, p in enumerate(self._params):
                if p is param:
                    return i
            raise StateError(
                "this array is not a parameter of the optimizer; pass the very array, its name or its index"
            )
        if isinstance(param, str):
            names = self._names or []
            if param not in names:
                raise StateError(f"there is no parameter {param!r}.{did_you_mean(param, names)}")
            return names.index(param)
        return int(checks.integer(0, len(self._params) - 1)("param", param))

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[Any]:
        """The plan, while no step begins; raises if one is under way."""
        plan = self._plan
        plan.hold(True)
        try:
            yield plan
        finally:
            plan.hold(False)

    def _flush(self) -> None:
        if self.sparse == "exact" and self._plan is not None:
            for i in range(len(self._plan.counters())):
                self._plan.catch_up(i)

    def read(self, param: Any, rows: Array) -> Array:
        """Current rows of a parameter, as a new array.

        Parameters
        ----------
        param : str, int or ndarray
            Name or index of the parameter, or the array itself.
        rows : ndarray of integers, any shape
            Row indices, ``0 <= i < len(param)``; repeated ones are allowed, negative ones are not.

        Returns
        -------
        ndarray, shape ``rows.shape + param.shape[1:]``
            In exact mode, the rows are caught up first: they are what dense steps would have made of them.

        Raises
        ------
        IndexRangeError, DTypeError, ShapeError, StateError
            If `rows` or `param` do not fit; nothing has changed then.
        """
        i = self._find(param)
        p, rows = self._params[i], checks.plain_array("rows", rows)
        ids = sparse_gradients.row_indices("rows", rows, p)
        out = np.empty(rows.shape + p.shape[1:], p.dtype)
        with self._quiet() as plan:
            plan.read(i, ids, out)
        return out

    def catch_up(self, param: Any, rows: Array | None = None) -> None:
        """Exact mode: bring rows up to date, so that they can be read in place. In lazy mode there is nothing to do.

        Parameters
        ----------
        param : str, int or ndarray
            Name or index of the parameter, or the array itself.
        rows : ndarray of integers, any shape, optional
            Row indices, ``0 <= i < len(param)``, repeated ones allowed. Default: all rows.
        """
        i = self._find(param)
        ids = None
        if rows is not None:
            ids = sparse_gradients.row_indices("rows", checks.plain_array("rows", rows), self._params[i])
        with self._quiet() as plan:
            plan.catch_up(i, ids)

    def flush(self) -> None:
        """Exact mode: bring every row of every parameter up to date. In lazy mode there is nothing to do."""
        with self._quiet():
            self._flush()

    # ----------------------------------------------------------------------------------------------------- the state

    def _keys(self) -> list[Any]:
        return list(range(len(self._params))) if self._names is None else list(self._names)

    def state_dict(self) -> dict[str, Any]:
        """A copy of state and options.

        Returns
        -------
        dict
            ``{"state": {name or index: {"step": int, state name: array}}, "param_groups": [{"params": [...], option:
            value}], "step": int, "optimizer": str}``, with PyTorch's state names. The momentum buffer of SGD is absent before
            its first step. ``"step"`` at the top counts the calls of `step`. Exact mode brings all rows up to date first (`flush`).
        """
        with self._still():
            return self._state_dict()

    def _state_dict(self) -> dict[str, Any]:
        self._flush()
        self._copy_late()
        counters, borns, steps = self._clocks()
        keys = self._keys()
        state = {}
        for i, key in enumerate(keys):
            late = self.born_late if counters[i] == borns[i] else frozenset()
            state[key] = {
                "step": counters[i],
                **{k: a.copy(order="K") for k, a in self._state[i].items() if k not in late},
            }
        groups = [
            {
                **{k: v if is_pure(v) else copy.deepcopy(v) for k, v in g.options().items()},
                "params": [k for k, r in zip(keys, self._group_of, strict=True) if r == q],
            }
            for q, g in enumerate(self.param_groups)
        ]
        if self.memory:
            groups = [{**g, "memory": dict(m)} for g, m in zip(groups, self._tuned, strict=True)]
        return {"state": state, "param_groups": groups, "step": steps, "optimizer": type(self).__name__}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over state and options from `state_dict`, which is copied.

        Parameters are matched by name where they have names, else by place. Everything is checked before anything is
        taken over.
        """
        with self._still():
            self._load_state_dict(state_dict)

    def _load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
            raise StateError("a state dict has the keys 'state' and 'param_groups'")
        maker = state_dict.get("optimizer", type(self).__name__)  # of another library's, nothing is known
        if (
            maker != type(self).__name__
            and getattr(self.known.get(str(maker).lower()), "rules", None) is not self.rules
        ):
            raise StateError(f"the state dict is that of {maker!r}, and this is {type(self).__name__}")
        groups, state, keys = state_dict["param_groups"], state_dict["state"], self._keys()
        if not isinstance(groups, (list, tuple)) or len(groups) != len(self.param_groups):
            raise StateError(f"the state dict must have {len(self.param_groups)} param_groups, as this optimizer has")
        options, tuned = [], []
        for q, group in enumerate(groups):
            mine = [k for k, r in zip(keys, self._group_of, strict=True) if r == q]
            listed = group.get("params") if isinstance(group, Mapping) else None
            if not isinstance(listed, (list, tuple)) or list(listed) != mine:
                raise StateError(f"group {q} of the state dict must have the parameters {mine!r:.80}")
            given = {k: v for k, v in group.items() if k not in ("params", "memory")}
            tuned.append(self._check_memory(q, group.get("memory", {} if not self.memory else None)))
            options.append(self._checked({**self.param_groups[q].options(), **given}, f"state dict, group {q}: "))
        if not isinstance(state, Mapping) or set(state) != set(keys):
            raise StateError(f"the state dict must have a state for each of {keys!r:.80}, and for no other")
        counters, borns, arrays = [], [], []
        whole = checks.integer(0, MOST_STEPS)
        for i, key in enumerate(keys):
            name, entry, p = self._labels[i], state[key], self._params[i]
            if not isinstance(entry, Mapping):
                raise StateError(f"the state of {name} must be a dict, got {type(entry).__name__}")
            if "step" not in entry:
                raise StateError(f"the state of {name} has no 'step', the number of its steps")
            counters.append(whole(f"'step' of {name}", entry["step"]))
            need = self._states_of(p.shape, options[self._group_of[i]])
            late = [k for k in need if k in self.born_late and k not in entry]
            # A late state that is there has had its first step, even if the counter stands at 0.
            has_late = any(k in self.born_late for k in need) and not late
            borns.append(counters[-1] if late else -1 if has_late and counters[-1] == 0 else 0)
            if set(entry) - {"step"} != set(need) - set(late):
                raise StateError(f"the state of {name} must have {sorted(need)}, got {sorted(set(entry) - {'step'})}")
            found = {k: checks.float_array(f"state {k!r} of {name}", entry[k], p.dtype) for k in need if k not in late}
            if self._storage:  # which these may be views of
                found = {k: a.copy() for k, a in found.items()}
            for k, a in found.items():
                if a.shape != need[k]:
                    of_parameter = "but the parameter has" if need[k] == p.shape else "expected"
                    raise ShapeError(f"state {k!r} of {name} has shape {a.shape}, {of_parameter} {need[k]}")
            arrays.append(found)
        steps = whole("'step' of the state dict", state_dict.get("step", max(counters)))
        # From here on nothing is refused.
        self._flush()
        fresh: list[dict[str, Array]] = []
        for i, found in enumerate(arrays):
            made = dict(zip(found, self._memory([(i, name, a.shape) for name, a in found.items()]), strict=True))
            for k, a in found.items():
                made[k][...] = a
            fresh.append(made)
        self._state, self._tuned, self._uncopied = fresh, tuned, set()
        for mine_, new in zip(self.param_groups, options, strict=True):
            dict.update(mine_, {k: v if is_pure(v) else remembering(mine_[k], v) for k, v in new.items()})
        self._build(counters, borns, steps)

    def _check_memory(self, q: int, given: Any) -> dict[str, Any]:
        """What group `q` of a state dict remembers, checked."""
        if not isinstance(given, Mapping) or set(given) != set(self.memory):
            raise StateError(
                f"group {q} of the state dict must have a 'memory' with {sorted(self.memory)}, got {given!r:.80}"
            )

        def number(what: str, value: Any) -> float:  # infinities and NaN, too, can be remembered
            return value if isinstance(value, float) else float(checks.number()(what, value))

        found: dict[str, Any] = {}
        for name, start in self.memory.items():
            what, value = f"{name!r} in the 'memory' of group {q}", given[name]
            if not isinstance(start, tuple):
                found[name] = checks.integer(0)(what, value) if isinstance(start, int) else number(what, value)
                continue
            if not isinstance(value, (tuple, list)):
                raise StateError(f"{what} must be numbers in a tuple, got {value!r:.80}")
            found[name] = tuple(number(what, v) for v in value)
        return found

    def reset_state(self) -> None:
        """Begin anew with the parameters as they are, as annealing with restarts does (Denkowski and Neubig 2017).

        States and what the groups remember return to where they start, and so do the parameters' step counters, by which
        biases are corrected. Options, averages (`transforms`) and the count of steps that schedules see stay.
        """
        with self._still():
            self._flush()
            for i, q in enumerate(self._group_of):
                for name in self.state_shapes(self._params[i].shape, self.param_groups[q]):
                    self._state[i][name][...] = self._start(name, q, self._params[i])
            self._tuned = [dict(self.memory) for _ in self._tuned]
            n = len(self._params)
            self._build([0] * n, [0] * n, self._plan.steps)

    def averaged(self, param: Any, name: str | None = None) -> Array:
        """The average of a parameter that `transforms` keep, as a new array.

        Parameters
        ----------
        param : str, int or ndarray
            Name or index of the parameter, or the array itself.
        name : {"ema", "swa", "slow"}, optional
            Which, where there are several; "slow" are those of `lookahead`.
        """
        i, known = self._find(param), self._mean_names()
        if not known:
            raise StateError("this optimizer keeps no averages; pass transforms=[fastopt.transforms.ema(0.999)]")
        if name is None:
            if len(known) > 1:
                raise StateError(f"name the average: {' or '.join(map(repr, known))}")
            name = known[0]
        if name not in known:
            raise StateError(f"there is no average {name!r}.{did_you_mean(name, known)}")
        with self._quiet():
            self._copy_late()
            average: Array = self._state[i][name].copy(order="K")
        return average

    def __deepcopy__(self, memo: dict[int, Any]) -> Optimizer:
        with self._still():
            new = type(self).__new__(type(self))
            memo[id(self)] = new
            new.__setstate__(copy.deepcopy(self._pickled(self._state_dict()), memo))
            return new

    def __getstate__(self) -> dict[str, Any]:
        return self._pickled(self.state_dict())

    def _pickled(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        return {
            "groups": [{**g.options(), "params": g["params"]} for g in self.param_groups],
            "names": self._names,
            "single": self._single,
            "state_dict": state_dict,
            "arguments": self._arguments(),
            "skipped": self.skipped,
        }

    def _arguments(self) -> dict[str, Any]:
        """What the base class's constructor was called with, the parameters aside; for copies, perhaps elsewhere."""
        return {
            "options": self.defaults,
            "backend": "numpy" if self.backend == "numpy" else "auto",
            "n_threads": self.n_threads,
            "sparse": self.sparse,
            "transforms": self.transforms,
            "nonfinite": self.nonfinite,
        }

    def __setstate__(self, s: dict[str, Any]) -> None:
        groups = s["groups"]
        if s["names"] is not None:
            names = iter(s["names"])
            groups = [{**g, "params": {next(names): a for a in g["params"]}} for g in groups]
        Optimizer.__init__(self, groups, **s["arguments"])
        self.skipped = s["skipped"]
        if s["single"]:
            self._single = True
        self.load_state_dict(s["state_dict"])

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__}("]
        for q, g in enumerate(self.param_groups):
            text = ", ".join(f"{k}={v!r}" for k, v in g.options().items())
            lines.append(f"  group {q}: {len(g['params'])} parameters, {text}")
        more = f", transforms={list(self.transforms)!r}" if self.transforms else ""
        more += f", nonfinite={self.nonfinite!r}" if self.nonfinite != "propagate" else ""
        return "\n".join([*lines, f"  backend={self.backend!r}, sparse={self.sparse!r}{more})"])


ALIASES = {"momentum": ("sgd", {"momentum": 0.9}), "nag": ("sgd", {"momentum": 0.9, "nesterov": True})}


def by_name(name: str) -> tuple[type[Optimizer], dict[str, Any]]:
    """The optimizer of this name (a class name in lower case, ``"momentum"`` or ``"nag"``) and the options it implies."""
    known = {**{k: (k, {}) for k in Optimizer.known}, **ALIASES}
    if not isinstance(name, str) or name not in known:
        raise HyperParameterError(f"there is no optimizer {name!r}.{did_you_mean(name, known)}")
    key, options = known[name]
    return Optimizer.known[key], dict(options)


def choose_backend(backend: str) -> str:
    """ "native" or "numpy", for what the caller and the environment ask for."""
    known = checks.one_of("auto", "native", "numpy")
    if known("backend", backend) == "auto":
        backend = known("FASTOPT_BACKEND", os.environ.get("FASTOPT_BACKEND") or "auto")
    if kernels.isa is None:
        if backend == "native":
            raise UnsupportedError(
                "backend='native', but fastopt was installed without compiled kernels (FASTOPT_PURE=1)"
            )
        if backend == "auto":
            global _warned
            if not _warned:
                warnings.warn(
                    "fastopt was installed without compiled kernels; its NumPy references are used, which are "
                    "slow. Install it with a C compiler, and without FASTOPT_PURE",
                    RuntimeWarning,
                    stacklevel=4,
                )
            _warned = True
        return "numpy"
    return "native" if backend == "auto" else backend


_warned = False


def remembering(mine: Any, given: Any) -> Any:
    """A schedule with the memory of the one `given`: `mine`, which its owner goes on telling, where it is the same."""
    if mine is given:
        return mine
    if isinstance(mine, Schedule) and isinstance(given, Schedule) and repr(mine) == repr(given):
        mine.load_state_dict(given.state_dict())
        return mine
    return copy.deepcopy(given)


def arena(like: Sequence[Array]) -> list[Array]:
    """Arrays of zeros of the shapes, dtypes and orders of `like`, side by side, each on a cache line of its own."""
    offsets, total = [], 0
    for a in like:
        offsets.append(total)
        total += -(-a.nbytes // ALIGN) * ALIGN
    memory = np.zeros(total + ALIGN, np.uint8)
    first = -checks.address(memory) % ALIGN
    return [
        memory[first + at : first + at + a.nbytes].view(a.dtype).reshape(a.shape, order=checks.order(a))
        for a, at in zip(like, offsets, strict=True)
    ]


def merge(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sorted byte ranges, those that touch made one."""
    merged: list[tuple[int, int]] = []
    for low, high in ranges:
        if merged and low <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(high, merged[-1][1])
        else:
            merged.append((low, high))
    return merged


def refuse_overlap(params: Sequence[Array], labels: Sequence[str]) -> None:
    """Raise if two parameters share memory; neighbours may touch."""
    spans = sorted((*checks.byte_range(a), label) for a, label in zip(params, labels, strict=True) if a.size)
    for (_, end, one), (begin, _, other) in itertools.pairwise(spans):
        if begin < end:
            raise OverlapError(f"{one} and {other} share memory; each parameter must be given once, as one array")
