from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..checks import Array

OPENMP: int

def cpu_level() -> int: ...
def set_threads(n: int) -> None: ...
def force(threads: int = 0, chunk: int = 0) -> None: ...
def last_team() -> int: ...
def prefetch(on: bool) -> None: ...
def is_fork_child() -> bool: ...

class Plan:
    busy: bool
    steps: int
    def __init__(
        self,
        host: Any,
        ndarray: type,
        params: Sequence[Array],
        names: Sequence[str] | None,
        single: bool,
        n_groups: int,
        n_threads: int,
        steps: int,
    ) -> None: ...
    def set_group(
        self,
        q: int,
        span: str,
        n_states: int,
        negate: bool,
        couple: bool,
        shrink: bool,
        table: Mapping[str, Mapping[str, int]],
        law: tuple[str, int, int, bool] | None,
        measure: str | None = None,
    ) -> None: ...
    def set_transforms(
        self,
        table: Mapping[str, Mapping[str, int]],
        look: bool,
        means: Sequence[str],
        limit: float | None = None,
        max_norm: float | None = None,
        units: tuple[float, float] | None = None,
        seed: int | None = None,
    ) -> None: ...
    def set_units(self, i: int, kind: int, count: int) -> None: ...
    def set_param(
        self,
        i: int,
        group: int,
        address: int,
        itemsize: int,
        shape: Sequence[int],
        strides: Sequence[int],
        states: Sequence[int],
        counter: int,
        born: int,
        record: int = 0,
        last: int = 0,
        means: Sequence[int] = (),
    ) -> None: ...
    def set_taken(self, ranges: Sequence[tuple[int, int]]) -> None: ...
    def set_own(self, addresses: Sequence[int]) -> None: ...
    def forget_scalars(self) -> None: ...
    def counters(self) -> list[int]: ...
    def borns(self) -> list[int]: ...
    def hold(self, on: bool) -> None: ...
    def step(self, grads: Any, own: bool = False) -> None: ...
    def catch_up(self, i: int, rows: Array | None = None) -> None: ...
    def read(self, i: int, rows: Array, out: Array) -> None: ...

def samples(
    addresses: Mapping[str, int],
    span: str,
    n_states: int,
    loss: str,
    parameter: float,
    records: Array,
    bias: Array | None,
    stride: int,
    indptr: Array,
    indices: Array,
    data: Array,
    y: Array,
    weights: Array | None,
    order: Array | None,
    n: int,
    longest: int,
    h: Array,
    one_row: bool,
    scale: float,
    shrink: float,
    threads: int,
    laws: Sequence[str] = ...,
    tiers: Sequence[tuple[int, int]] = ...,
    piece: int = ...,
) -> float: ...
def abreast(
    addresses: Mapping[str, int],
    span: str,
    n_states: int,
    loss: str,
    parameter: float,
    lanes: int,
    records: Array,
    bias: Array | None,
    indptr: Array,
    indices: Array,
    data: Array,
    y: Array | None,
    classes: Array | None,
    weights: Array | None,
    order: Array,
    n: int,
    longest: int,
    h: Array,
    one_row: bool,
    rates: Array | None,
    scale: Array,
    shrink: Array,
    sums: Array,
    look: int,
) -> None: ...
def classes(
    addresses: Mapping[str, int],
    span: str,
    loss: str,
    parameter: float,
    lists: tuple[Any, ...],
    bias: Array | None,
    indptr: Array,
    indices: Array,
    data: Array,
    codes: Array,
    weights: Array | None,
    order: Array,
    n: int,
    h: Array,
    one_row: bool,
    scale: float,
    shrink: float,
    turns: bool,
) -> tuple[int, float]: ...
def list_entries(
    lists: tuple[Any, ...], features: Array | None = None, classes: Array | None = None, numbers: Array | None = None
) -> int: ...
def store_entries(lists: tuple[Any, ...], features: Array, classes: Array, numbers: Array) -> int: ...
def scale_lists(lists: tuple[Any, ...], ids: Array | None = None, by: float | None = None) -> bool: ...
def class_scores(
    addresses: Mapping[str, int],
    lists: tuple[Any, ...],
    indptr: Array,
    indices: Array,
    data: Array,
    scale: float,
    bias: Array,
    out: Array,
    column: int,
    threads: int = 1,
) -> int: ...
def batches(
    addresses: Mapping[str, int],
    span: str,
    n_states: int,
    loss: str,
    parameter: float,
    records: Array,
    bias: Array | None,
    stride: int,
    indptr: Array,
    indices: Array,
    data: Array,
    y: Array,
    weights: Array | None,
    order: Array,
    size: int,
    mean: float,
    longest: int,
    h: Array,
    one_row: bool,
    scale: float,
    shrink: float,
    last: Array | None,
    step: int,
    decay: Array | None,
    l1: float,
    threads: int,
) -> float: ...
def factors(
    addresses: Mapping[str, int],
    span: str,
    n_states: int,
    loss: str,
    parameter: float,
    records: Array,
    bias: Array | None,
    width: int,
    fields: Array | None,
    n_fields: int,
    indptr: Array,
    indices: Array,
    data: Array,
    y: Array,
    weights: Array | None,
    order: Array | None,
    n: int,
    longest: int,
    h: Array,
    one_row: bool,
    scale: float,
    shrink: float,
    threads: int,
    piece: int,
    laws: Sequence[str],
    tiers: Sequence[tuple[int, int]],
    copy_of: Array | None,
) -> float: ...
def factor_batches(
    addresses: Mapping[str, int],
    span: str,
    n_states: int,
    loss: str,
    parameter: float,
    records: Array,
    bias: Array | None,
    width: int,
    fields: Array | None,
    n_fields: int,
    indptr: Array,
    indices: Array,
    data: Array,
    y: Array,
    weights: Array | None,
    order: Array,
    size: int,
    mean: float,
    longest: int,
    h: Array,
    one_row: bool,
    scale: float,
    shrink: float,
    place: Array,
    threads: int,
) -> float: ...
def factor_scores(
    addresses: Mapping[str, int],
    n_states: int,
    records: Array,
    bias: Array | None,
    width: int,
    fields: Array | None,
    n_fields: int,
    indptr: Array,
    indices: Array,
    data: Array,
    out: Array,
    longest: int,
    scale: float,
    threads: int,
) -> None: ...
def row_scores(
    indptr: Array,
    indices: Array,
    data: Array,
    w: Array,
    bias: float,
    out: Array,
    threads: int = 1,
) -> int: ...
def predictions(
    addresses: Mapping[str, int],
    indptr: Array,
    indices: Array,
    data: Array,
    weights: Array,
    lanes: int,
    up: Array | None,
    bias: Array,
    out: Array,
    first: int,
    n_models: int,
    longest: int,
    threads: int = 1,
) -> int: ...
def drawn_pairs(source: tuple[Any, ...], k: int, begin: int, end: int, u: Array, v: Array, at: Array) -> int: ...
def pairs(
    addresses: Mapping[str, int],
    span: str,
    n_states: int,
    loss: str,
    u: Array,
    v: Array,
    width: int,
    fixed: tuple[int, int],
    source: tuple[Any, ...],
    k: int,
    begin: int,
    end: int,
    size: int,
    h: Array,
    one_row: bool,
    threads: int,
) -> tuple[float, int]: ...
def renumber(indices: Array, place: Array, threads: int) -> None: ...
def shuffle(order: Array, seed: int) -> None: ...
def by_frequency(indices: Array, place: Array, ends: Sequence[int], most: int) -> tuple[list[int], int]: ...
def online(
    addresses: Mapping[str, int],
    rule: str,
    p: Array,
    s0: Array,
    s1: Array,
    indptr: Array,
    indices: Array,
    data: Array,
    intercept: bool,
    y: Array | None,
    weight: Array | None,
    out: Array,
    sums: Array,
    longest: int,
    lr: float,
    loss: int,
) -> None: ...
def finite(x: Array, ids: Array | None = None) -> bool: ...
def copy_csr(indptr: Array, indices: Array, starts: Array, used: Array, n_features: int, threads: int) -> int: ...
def repeated_indices(indptr: Array, indices: Array, n_rows: int, n_features: int, seen: Array) -> int: ...
def sum_repeated(indptr: Array, indices: Array, data: Array, n_rows: int, place: Array) -> None: ...
def sweep(
    address: int,
    items: int,
    effort: int,
    sizes: tuple[int, ...],
    arrays: tuple[Array, ...],
    h: Array | None,
    n_threads: int,
) -> None: ...
def in_default_state(call: Callable[[], Any]) -> Any: ...
