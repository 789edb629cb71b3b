"""Fails if the compiler did not vectorize a loop over the elements of a span or block operation, in any of the builds.

Each build is compiled again, in a temporary folder, with the flags of setup.py and GCC's report on vectorization, whose
lines are led back to the sources. A loop that needs a test for overlapping arrays before it fails, too: `restrict` was
lost. With another compiler than GCC nothing is checked, and that is said.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import ROOT, compiler, setup_constants

NOT_SPANS = {"abreast.pyx", "drivers.pyx", "pairs.pyx", "scores.pyx", "text.pyx"}
LOOP = re.compile(r"^\s*for (\w+) in range\(n\):")
REPORT = re.compile(r"^(?P<file>[^\s:]+\.pyx):(?P<line>\d+):\d+: (?P<kind>optimized|missed|note):\s+(?P<text>.*)")
Lines = dict[tuple[str, int], list[tuple[str, str]]]


def loops(kernels: Path) -> dict[tuple[str, int], tuple[int, str]]:
    """The loops over elements: (file, line) -> (last line of the body, text)."""
    found = {}
    for path in sorted(kernels.glob("*.pyx")):
        if path.name in NOT_SPANS:
            continue
        lines = path.read_text().splitlines()
        for at, text in enumerate(lines, 1):
            if LOOP.match(text):
                depth = len(text) - len(text.lstrip())
                last = at
                for k in range(at + 1, len(lines) + 1):
                    body = lines[k - 1]
                    if body.strip() and len(body) - len(body.lstrip()) <= depth:
                        break
                    last = k if body.strip() else last
                found[path.name, at] = last, text.strip()
    return found


def is_gcc(cc: list[str]) -> bool:
    """Whether this compiler is GCC itself; clang answers to the name on some systems."""
    try:
        done = subprocess.run([*cc, "-dM", "-E", "-x", "c", os.devnull], capture_output=True, text=True)
    except FileNotFoundError:
        raise SystemExit(f"there is no C compiler {cc[0]!r}; name one in CC") from None
    return done.returncode == 0 and "__GNUC__" in done.stdout and "__clang__" not in done.stdout


def build_names(constants: dict[str, dict[str, list[str]]]) -> list[str]:
    isas = list(constants["ISA_FLAGS"]) if platform.machine().lower() in ("x86_64", "amd64") else ["baseline"]
    return [f"{isa}_{dtype}" for isa in isas for dtype in ("f32", "f64")]


def to_c(folder: Path, names: list[str], directives: dict[str, object]) -> None:
    """Cython's output for the build stubs, with the lines of the sources in it."""
    try:
        from Cython.Build import cythonize
    except ImportError:
        raise SystemExit("bench/vec.py needs Cython: pip install 'cython>=3.3.1'") from None
    kernels = folder / "fastopt" / "kernels"
    shutil.copytree(ROOT / "csrc", folder / "csrc")
    shutil.copytree(ROOT / "fastopt" / "kernels", kernels, ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__"))
    (folder / "fastopt" / "__init__.py").touch()
    spans = sorted(p.name for p in kernels.glob("*.pyx") if p.name not in ("drivers.pyx", "text.pyx"))
    (kernels / "builds" / "spans.pxi").write_text("TABLE = {}\n" + "".join(f'include "../{n}"\n' for n in spans))
    os.chdir(folder)
    stubs = [f"fastopt/kernels/builds/{name}.pyx" for name in names]
    cythonize(stubs, compiler_directives=directives, emit_linenums=True, force=True, quiet=True)


def report(cc: list[str], constants: dict[str, object], name: str) -> Lines:
    """What the compiler says about each line of the sources, in one build."""
    flags = [*constants["FLAGS"], *constants["ISA_FLAGS"][name.split("_")[0]]]
    ours = ["-fPIC", "-Icsrc", f"-I{sysconfig.get_path('include')}", "-DPy_LIMITED_API=0x030B0000", *flags]
    theirs = shlex.split(f"{sysconfig.get_config_var('CFLAGS') or ''} {os.environ.get('CFLAGS', '')}")
    source = f"fastopt/kernels/builds/{name}.c"
    done = subprocess.run(
        [*cc, *theirs, *ours, "-fopt-info-vec-all", "-c", source, "-o", f"{name}.o"], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{name} does not compile:\n{done.stderr[-3000:]}")
    said: Lines = defaultdict(list)
    for text in done.stderr.splitlines():
        m = REPORT.match(text)
        if m:
            said[Path(m["file"]).name, int(m["line"])].append((m["kind"], m["text"]))
    return said


def verdict(said: Lines, file: str, first: int, last: int) -> tuple[str, str]:
    """The width of the loop's vectors in bytes, or "" and the reason that the compiler gives."""
    loop = said.get((file, first), [])
    missed = [text for k in range(first, last + 1) for kind, text in said.get((file, k), []) if kind == "missed"]
    reasons = [text for text in missed if "not vectorized" in text]
    widths = [m[1] for _, text in loop if (m := re.match(r"loop vectorized using (\d+) byte vectors", text))]
    versioned = [f"{text} (are the pointers restrict?)" for _, text in loop if "versioned for vectorization" in text]
    failed = [text for kind, text in loop if kind == "missed" and "couldn't vectorize loop" in text]
    if widths and not versioned and not failed:  # failed: another copy of the same source, inlined elsewhere
        return max(widths, key=int), ""
    said_nothing = ["the compiler says nothing about it (is it never called?)"]
    return "", "; ".join(dict.fromkeys(versioned or reasons or failed or said_nothing))


def main() -> int:
    cc = compiler()
    if not is_gcc(cc):
        print(f"*** NOTHING CHECKED: {' '.join(cc)} is not GCC, and its reports are not read here. ***")
        return 0
    constants = setup_constants()
    names = build_names(constants)
    wanted = loops(ROOT / "fastopt" / "kernels")
    if not wanted:
        print("no loop `for i in range(n)` in fastopt/kernels: either the spans or bench/vec.py changed its shape")
        return 1
    home = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        try:
            to_c(Path(folder), names, constants["DIRECTIVES"])
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                said = dict(zip(names, pool.map(lambda name: report(cc, constants, name), names), strict=True))
        finally:
            os.chdir(home)
    failures = 0
    width: dict[str, set[str]] = defaultdict(set)
    for (file, first), (last, text) in wanted.items():
        reasons = defaultdict(list)
        for name in names:
            bytes_, why = verdict(said[name], file, first, last)
            if bytes_:
                width[name].add(bytes_)
            else:
                reasons[why].append(name)
        for why, builds in reasons.items():
            failures += 1
            print(f"fastopt/kernels/{file}:{first}: `{text}` in {', '.join(builds)}: {why}")
    for name in names:
        print(f"{name:14} vectors of {' and '.join(sorted(width[name], key=int)) or 'no'} bytes")
    version = subprocess.run([*cc, "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    print(f"{len(wanted)} loops in {len(names)} builds, {version}: {failures or 'no'} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
