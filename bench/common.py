"""What the scripts of this folder share: the flags of the build, the machine in words, interleaved timing, tables."""

from __future__ import annotations

import os
import platform
import runpy
import shlex
import statistics
import sys
import sysconfig
import time
import timeit
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
QUIET = 0.02  # seconds after which the threads of every OpenMP runtime sleep instead of spinning


def setup_constants() -> dict[str, Any]:
    """What setup.py builds with: FLAGS, ISA_FLAGS, DIRECTIVES. Run under another name it builds nothing."""
    return runpy.run_path(str(ROOT / "setup.py"), run_name="constants")


def compiler() -> list[str]:
    """The C compiler of Python's extensions, or the one that the environment names."""
    return shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")


# ---------------------------------------------------------------------------------------------------------- timing


class Call:
    """A function with its arguments, timed with as little around it as possible."""

    def __init__(self, function: Any, *args: Any) -> None:
        known = {f"a{i}": a for i, a in enumerate(args)}
        self._timer = timeit.Timer(f"f({', '.join(known)})", globals={"f": function, **known})

    def seconds(self, number: int) -> float:
        """Seconds a call, as the mean of `number` calls in a row, without garbage collection."""
        return self._timer.timeit(number) / number


def interleave(
    calls: Mapping[str, Call], rounds: int, slot: float = 0.003, pause: float = QUIET
) -> dict[str, list[float]]:
    """Seconds a call of each peer, in each of `rounds` rounds; the peers take turns in each round.

    A turn is long enough to measure (`slot` seconds, at least one call). Before it all threads go to sleep, so that no
    peer's idle threads spin on the cores of the next, and an untimed call wakes the peer's own.
    """
    number = {}
    for name, call in calls.items():
        call.seconds(2)
        number[name] = max(1, round(slot / call.seconds(1)))
        number[name] = max(1, round(slot / call.seconds(number[name])))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(pause)
            call.seconds(1)
            seconds[name].append(call.seconds(number[name]))
    return seconds


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round: what slows the machine down for a while slows both."""
    return [a / b for a, b in zip(above, below, strict=True)]


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile."""
    if len(values) < 2:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


# ---------------------------------------------------------------------------------------------------------- output


def duration(seconds: float) -> str:
    """Three digits in a unit that suits."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if abs(seconds) >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.0f} ns"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table with aligned columns."""
    lines = [list(head), ["-" * 3] * len(head), *map(list, rows)]
    width = [max(len(line[k]) for line in lines) for k in range(len(head))]
    lines[1] = ["-" * w for w in width]
    return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(line, width, strict=True)) + " |" for line in lines)


def cpu_model() -> str:
    """The name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith(("model name", "cpu model", "processor\t: a")):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def caches() -> str:
    """The caches of the first core, from Linux."""
    found = []
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((folder / f).read_text().strip() for f in ("level", "type", "size"))
        if kind != "Instruction":
            found.append(f"L{level} {size}")
    return ", ".join(found) or "unknown"


def openmp_runtimes() -> list[str]:
    """The OpenMP runtimes in this process: with more than one, idle threads of one can spin beside the other's."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return ["unknown (threadpoolctl is not installed)"]
    return sorted({Path(lib["filepath"]).name for lib in threadpool_info() if lib["user_api"] == "openmp"})


def machine(*packages: str) -> dict[str, str]:
    """The machine and the versions of `packages`."""
    import fastopt

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = {
        "CPU": f"{cpu_model()}, {cores} of {os.cpu_count()} cores, caches {caches()}",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "fastopt": f"{fastopt.__version__}, {fastopt.kernels.isa} build, default threads {fastopt.get_num_threads()}",
    }
    for name in packages:
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            facts[name] = "not installed"
    if hasattr(os, "getloadavg"):
        facts["load before"] = f"{os.getloadavg()[0]:.2f}"
    facts["command"] = " ".join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]])
    return facts


def describe(facts: Mapping[str, str]) -> str:
    """The machine as a list in markdown."""
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())
