"""Build of the compiled kernels: one extension per instruction set and dtype, and the drivers.

Environment: FASTOPT_PURE=1 builds nothing (NumPy backend only); FASTOPT_OPENMP=auto|off|require.
"""

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
KERNELS = Path("fastopt/kernels")
# -fno-math-errno and -fno-trapping-math let loops with roots and selections vectorize; forbidding contraction keeps
# every instruction set, and NumPy, at the same bits. Never -ffast-math, never -march=native.
FLAGS = ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fno-strict-aliasing"]
ISA_FLAGS = {"baseline": [], "avx2": ["-march=x86-64-v3"], "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"]}
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,  # Python's division check stops the vectorizer, in silence
    "embedsignature": True,
}


def write_span_list():
    """List the span files for the builds to include, so that a new optimizer needs no edit here."""
    not_spans = {"drivers.pyx"}
    names = sorted(p.name for p in (ROOT / KERNELS).glob("*.pyx") if p.name not in not_spans)
    text = "# Written by setup.py.\nTABLE = {}\n" + "".join(f'include "../{n}"\n' for n in names)
    target = ROOT / KERNELS / "builds" / "spans.pxi"
    if not target.exists() or target.read_text() != text:
        target.write_text(text)


def isa_names():
    return list(ISA_FLAGS) if platform.machine().lower() in ("x86_64", "amd64") else ["baseline"]


def extensions():
    from Cython.Build import cythonize

    write_span_list()
    # Windows' compiler has no such flags; its builds rest on its defaults (/fp:precise, no contraction).
    flags = [] if sys.platform == "win32" else FLAGS
    common = {
        "include_dirs": ["csrc"],
        "define_macros": [("Py_LIMITED_API", "0x030B0000")],
        "py_limited_api": True,
        "depends": [str(p) for p in sorted((ROOT / "csrc").glob("*.h"))],
    }
    strip = ["-Wl,-s"] if sys.platform.startswith("linux") and not os.environ.get("FASTOPT_DEBUG") else []
    made = [
        Extension(
            "fastopt.kernels.drivers",
            [str(KERNELS / "drivers.pyx")],
            extra_compile_args=flags + ["-funroll-loops"] * bool(flags),
            extra_link_args=strip,
            **common,
        )
    ]
    for isa in isa_names():
        for dtype in ("f32", "f64"):
            name = f"{isa}_{dtype}"
            made.append(
                Extension(
                    f"fastopt.kernels.builds.{name}",
                    [str(KERNELS / "builds" / f"{name}.pyx")],
                    extra_compile_args=flags + (ISA_FLAGS[isa] if flags else []),
                    extra_link_args=strip,
                    **common,
                )
            )
    return cythonize(
        made,
        compiler_directives=DIRECTIVES,
        build_dir="build/cython",
        nthreads=0 if os.name == "nt" else os.cpu_count() or 1,
    )


class BuildKernels(build_ext):
    """Probes for OpenMP."""

    def build_extensions(self):
        msvc = self.compiler.compiler_type == "msvc"
        openmp = self.openmp_flags(msvc)
        self.parallel = self.parallel or os.cpu_count()
        for e in self.extensions:
            if e.name == "fastopt.kernels.drivers" and openmp is not None:
                e.extra_compile_args += openmp
                e.extra_link_args += openmp
        super().build_extensions()

    def openmp_flags(self, msvc):
        """Flags with which a parallel region compiles, links and runs; None where there is no OpenMP."""
        want = os.environ.get("FASTOPT_OPENMP", "auto")
        if want not in ("auto", "off", "require"):
            raise SystemExit(f"FASTOPT_OPENMP is {want!r}; it must be auto, off or require")
        if want != "off":
            for flags in [["/openmp"]] if msvc else [["-fopenmp"]]:
                if self.probe(flags):
                    return flags
            if want == "require":
                raise SystemExit("FASTOPT_OPENMP=require, but no OpenMP was found")
            print("fastopt: no OpenMP found; building serial kernels", file=sys.stderr)
        return None

    def probe(self, flags):
        source = "#include <omp.h>\nint main(void){int n=0;\n#pragma omp parallel reduction(+:n)\nn+=1;return n<1;}\n"
        with tempfile.TemporaryDirectory() as folder:
            at = Path(folder)
            (at / "probe.c").write_text(source)
            try:
                objects = self.compiler.compile([str(at / "probe.c")], output_dir=folder, extra_postargs=flags)
                self.compiler.link_executable(objects, str(at / "probe"), extra_postargs=flags)
                return subprocess.run([at / "probe"], timeout=20).returncode == 0
            except Exception:
                return False


if os.environ.get("FASTOPT_PURE") == "1":
    setup()
else:
    setup(
        ext_modules=extensions(),
        cmdclass={"build_ext": BuildKernels},
        options={"bdist_wheel": {"py_limited_api": "cp311"}},
    )
