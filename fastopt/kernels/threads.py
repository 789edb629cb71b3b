"""How many threads to use when nobody says: environment, then affinity and container quota."""

from __future__ import annotations

import math
import os
from pathlib import Path

LIMIT = 1024


def available() -> int:
    """CPUs that this process may use: its affinity, cut by the quota of its control group."""
    try:
        n = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        n = os.cpu_count() or 1
    quota = cgroup_quota()
    return max(1, n if quota is None else min(n, math.ceil(quota)))


def cgroup_quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> float | None:
    """CPUs that the control groups of this process allow (version 1 or 2), or None where there is no limit."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    folders = [root, root / "cpu"]
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        base = root / "cpu" if "cpu" in controllers.split(",") else root
        here = base / path.lstrip("/")
        while here != base and base in here.parents:  # a limit on any ancestor holds
            folders.append(here)
            here = here.parent
    found = []
    for folder in folders:
        try:
            if (folder / "cpu.max").exists():
                quota, period = (folder / "cpu.max").read_text().split()[:2]
            else:
                quota = (folder / "cpu.cfs_quota_us").read_text()
                period = (folder / "cpu.cfs_period_us").read_text()
            if quota != "max" and float(quota) > 0 and float(period) > 0:
                found.append(float(quota) / float(period))
        except (OSError, ValueError):
            continue
    return min(found) if found else None


def whole(text: str) -> int:
    """The number that `text` writes with ASCII digits; 0 where it writes none."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdecimal() else 0


def default() -> tuple[int, str]:
    """The number of threads, and where it comes from."""
    cpus = available()
    own = os.environ.get("FASTOPT_NUM_THREADS", "")
    if own:
        n = whole(own)
        if not 1 <= n <= LIMIT:
            raise ImportError(f"FASTOPT_NUM_THREADS={own!r} must be an integer from 1 to {LIMIT}")
        return n, "FASTOPT_NUM_THREADS"
    omp = whole(os.environ.get("OMP_NUM_THREADS", "").split(",")[0])
    if omp >= 1:
        return min(omp, cpus), "OMP_NUM_THREADS"
    return cpus, "CPUs that affinity and container quota allow"
