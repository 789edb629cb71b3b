"""Build of the compiled kernels: one extension per instruction set and dtype, and the drivers.

Environment: FASTOPT_PURE=1 builds nothing (NumPy backend only); FASTOPT_OPENMP=auto|off|require.
"""

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
KERNELS = Path("fastopt/kernels")
WINDOWS = sys.platform == "win32"
X86 = sysconfig.get_platform().endswith(("x86_64", "amd64")) and sys.maxsize > 2**32
# The stable ABI does not exist without the GIL, nor outside CPython.
LIMITED = sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED")

# These come last on the command line, so that they undo what the environment's CFLAGS and LDFLAGS ask for. When
# linking too: before version 13, GCC adds code to a library linked with -ffast-math that flushes subnormals in the
# whole process as soon as it is imported.
STRICT = ["-O3", "-fno-fast-math", "-fno-unsafe-math-optimizations", "-fno-finite-math-only"]
# -fno-math-errno and -fno-trapping-math let loops with roots and selections vectorize; forbidding contraction keeps
# every instruction set, and NumPy, at the same bits. Never -ffast-math, never -march=native.
FLAGS = [*STRICT, "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fno-strict-aliasing"]
# A function without a header would return an int; newer compilers refuse it by themselves.
FLAGS += ["-Werror=implicit-function-declaration"]
ISA_FLAGS = {
    "baseline": ["-march=x86-64", "-mno-sse3"],  # no SSE3: nor any later extension that the environment turned on
    "avx2": ["-march=x86-64-v3", "-mno-avx512f"],
    "avx512": ["-march=x86-64-v4", "-mprefer-vector-width=512"],
}
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
    not_spans = {"drivers.pyx", "text.pyx"}
    names = sorted(p.name for p in (ROOT / KERNELS).glob("*.pyx") if p.name not in not_spans)
    text = "# Written by setup.py.\nTABLE = {}\n" + "".join(f'include "../{n}"\n' for n in names)
    target = ROOT / KERNELS / "builds" / "spans.pxi"
    if not target.exists() or target.read_text() != text:
        target.write_text(text)


def extension(name, source, isa, more=()):
    # Windows' compiler has no such flags; its builds rest on its defaults (/fp:precise, no contraction).
    strip = sys.platform.startswith("linux") and not os.environ.get("FASTOPT_DEBUG")
    return Extension(
        f"fastopt.kernels.{name}",
        [str(KERNELS / source)],
        include_dirs=["csrc"],
        depends=sorted(map(str, Path("csrc").glob("*.h"))),
        define_macros=[("Py_LIMITED_API", "0x030B0000")] if LIMITED else [],
        py_limited_api=LIMITED,
        extra_compile_args=[] if WINDOWS else [*FLAGS, *more, *(ISA_FLAGS[isa] if X86 else [])],
        extra_link_args=[] if WINDOWS else [*STRICT, *(["-Wl,-s"] if strip else [])],
    )


def extensions():
    made = [
        extension("drivers", "drivers.pyx", "baseline", ["-funroll-loops"]),
        extension("text", "text.pyx", "baseline"),
    ]
    for isa in ISA_FLAGS if X86 and not WINDOWS else ["baseline"]:
        for dtype in ("f32", "f64"):
            made.append(extension(f"builds.{isa}_{dtype}", f"builds/{isa}_{dtype}.pyx", isa))
    return made


class BuildKernels(build_ext):
    """Translates to C, probes for OpenMP, compiles everything anew."""

    def run(self):
        from Cython.Build import cythonize

        write_span_list()
        # Always anew, here and below: neither Cython nor setuptools sees that flags, directives or versions changed.
        made = cythonize(
            self.extensions,
            compiler_directives=DIRECTIVES,
            build_dir="build/cython",
            force=True,
            nthreads=0 if WINDOWS else os.cpu_count() or 1,
        )
        sources = {e.name: e.sources for e in made}
        for e in self.extensions:
            e.sources = sources[e.name]
        self.force = True
        super().run()

    def build_extensions(self):
        openmp = self.openmp_flags(self.compiler.compiler_type == "msvc")
        self.parallel = self.parallel or os.cpu_count()
        for e in self.extensions:
            if e.name == "fastopt.kernels.drivers" and openmp is not None:
                e.extra_compile_args += openmp
                e.extra_link_args += openmp
        try:
            super().build_extensions()
        except Exception as error:
            raise SystemExit(
                f"fastopt: the kernels could not be compiled: {error}\n"
                "They need a C compiler and Python's headers; FASTOPT_PURE=1 installs the NumPy backend without them."
            ) from error

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


if __name__ == "__main__":
    if os.environ.get("FASTOPT_PURE") == "1":
        setup()
    else:
        setup(
            ext_modules=extensions(),
            cmdclass={"build_ext": BuildKernels},
            options={"bdist_wheel": {"py_limited_api": "cp311"}} if LIMITED else {},
        )
