"""Threads, fork, the environment and the floating-point state: results do not depend on them, and nothing hangs."""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import platform
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import needs_native
from settings import assert_bits, case_id, cases
from test_arguments import each_backend, refused, snapshot

import fastopt
from fastopt import ConcurrentStepError, HyperParameterError, SparseGrad, kernels
from fastopt.kernels import threads

OPENMP = kernels.drivers is not None and bool(kernels.drivers.OPENMP)
BIG = 3_000_000
plain_cases = pytest.mark.parametrize("case", cases(blocks=False), ids=case_id)


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = fastopt.get_num_threads()
    fastopt.set_num_threads(2)
    yield
    fastopt.set_num_threads(before)


def python(code: str, timeout: float = 60, ok: bool = True, **env: str | None) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, with some environment variables set, or unset where None."""
    whole = {k: v for k, v in os.environ.items() if not k.startswith(("FASTOPT_", "OMP_", "GOMP_", "KMP_"))}
    whole |= {k: v for k, v in env.items() if v is not None}
    whole["PYTHONWARNINGS"] = "ignore:fastopt was installed without compiled kernels:RuntimeWarning"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=whole,
        cwd=Path(__file__).parent,
    )
    assert not ok or done.returncode == 0, done.stderr
    return done


# ------------------------------------------------------------------------------------------------------------- fork

FORK = """
    import os, sys, warnings
    warnings.simplefilter("ignore")
    import numpy as np, fastopt
    fastopt.set_num_threads(2)

    def train(p, opt, steps):
        g = np.linspace(-1, 1, p.size, dtype=p.dtype)
        for _ in range(steps):
            opt.step(g)
        return p

    threads = fastopt.get_num_threads()
    p = np.ones(3_000_000, np.float32)
    opt = fastopt.Adam(p)
    train(p, opt, 2)                                     # the threads are there now
    want = p.copy()
    q = fastopt.Adam(want)
    q.load_state_dict(opt.state_dict())
    train(want, q, 2)
"""


def test_fork_after_a_parallel_step():
    """GNU OpenMP hangs here unless the child is kept from parallel regions. Children of children too."""
    code = textwrap.dedent(FORK) + textwrap.dedent("""
        def child(depth):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    assert fastopt.get_num_threads() == 1
                    fastopt.set_num_threads(2)           # does not bring them back
                    assert fastopt.get_num_threads() == 1
                    mine, other = p.copy(), np.ones(3_000_000, np.float32)
                    fresh = fastopt.Adam(mine)
                    fresh.load_state_dict(opt.state_dict())
                    assert (train(mine, fresh, 2) == want).all()
                    train(other, fastopt.Adam(other), 2)
                    assert (other == p).all()
                    if depth:
                        child(depth - 1)
                    train(p, opt, 2)                     # the one that was inherited
                    assert (p == want).all()
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitpid(pid, 0)[1] == 0

        for _ in range(3):
            child(1)
        assert fastopt.get_num_threads() == threads      # the parent keeps its own
        assert (train(p, opt, 2) == want).all()
        print("done")
    """)
    assert python(code).stdout == "done\n"


def test_fork_while_another_thread_steps():
    code = textwrap.dedent(FORK) + textwrap.dedent("""
        import threading
        stop = threading.Event()
        def busy():
            g = np.ones_like(p)
            while not stop.is_set():
                opt.step(g)
        thread = threading.Thread(target=busy)
        thread.start()
        for _ in range(5):
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    other = np.ones(3_000_000, np.float32)
                    train(other, fastopt.Adam(other), 1)
                    try:
                        opt.step(np.ones_like(p))        # it may have been in the middle of a step, and says so
                    except fastopt.ConcurrentStepError:
                        pass
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitpid(pid, 0)[1] == 0
        stop.set()
        thread.join()
        print("done")
    """)
    assert python(code).stdout == "done\n"


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method, tmp_path):
    """Workers that get an optimizer, or make one, give the bits of the parent."""
    script = tmp_path / "job.py"
    script.write_text(
        textwrap.dedent("""
        import multiprocessing as mp
        import sys
        import numpy as np
        import fastopt

        def work(opt):
            n = 600_000
            if opt is None:
                opt = fastopt.RMSprop(np.ones(n, np.float32), n_threads=2)
            for _ in range(2):
                opt.step(np.linspace(-1, 1, n, dtype=np.float32))
            return opt.param_groups[0]["params"][0]

        if __name__ == "__main__":
            fastopt.set_num_threads(2)
            want = work(None)
            sent = fastopt.RMSprop(np.ones(600_000, np.float32), n_threads=2)
            with mp.get_context(sys.argv[1]).Pool(2) as pool:
                for got in pool.map(work, [None, sent, None, sent]):
                    assert (got == want).all()
            assert (work(None) == want).all()
            print("done")
    """)
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), method], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr


# -------------------------------------------------------------------------------------------------- many Python threads


def together(*jobs: Callable[[], Any]) -> list[BaseException]:
    """Run the jobs at the same time; what they raised."""
    raised: list[BaseException] = []
    start = threading.Barrier(len(jobs))

    def run(job: Callable[[], Any]) -> None:
        start.wait()
        try:
            job()
        except BaseException as e:
            raised.append(e)

    workers = [threading.Thread(target=run, args=(job,), daemon=True) for job in jobs]
    for w in workers:
        w.start()
    for w in workers:
        w.join(60)
        assert not w.is_alive(), "a thread hangs"
    return raised


@each_backend
def test_one_optimizer_in_many_threads(backend):
    """Steps happen one after the other, or are refused whole; never two at a time."""
    p, g = np.ones(BIG, np.float32), np.full(BIG, 0.5, np.float32)
    opt = fastopt.Adam(p, backend=backend)
    made, refusals = [], []

    def hammer() -> None:
        for _ in range(8):
            try:
                opt.step(g)
                made.append(1)
            except ConcurrentStepError:
                refusals.append(1)

    assert together(*[hammer] * 4) == []
    assert len(made) + len(refusals) == 32
    d = opt.state_dict()
    assert d["step"] == d["state"][0]["step"] == len(made)
    q = np.ones(3, np.float32)
    twin = fastopt.Adam(q)
    for _ in made:
        twin.step(g[:3].copy())
    for mine, one in [
        (p, q),
        *((d["state"][0][k], twin.state_dict()["state"][0][k]) for k in ("exp_avg", "exp_avg_sq")),
    ]:
        assert mine.min() == mine.max() == one[0]


MEDDLE = """
    import contextlib, copy, itertools, sys, threading, time
    import numpy as np, fastopt
    backend, n = sys.argv[1:]
    pause = 0.0004
    if n < 1000:                                   # no pauses, and threads that change places all the time
        pause = 0
        sys.setswitchinterval(1e-6)
    g, q, known = np.ones(n, np.float32), np.ones(1, np.float32), [0.0]
    small = fastopt.Adam(q, lr=0.0, backend="numpy")
    for _ in range(300):
        small.step(g[:1])
        known.append(small.state_dict()["state"][0]["exp_avg"][0])
    assert known[-1] == known[-2]                  # 1: what it is after any more steps

    def whole(d):
        s = d["state"][9]
        return s["exp_avg"].min() == s["exp_avg"].max() == known[min(s["step"], 300)]

    def grow():
        if len(new) < 40:
            opt.add_param_group({"params": (b := np.ones(n // 20, np.float32))})
            new.append(b)

    def step():
        global made
        for k in itertools.count():
            if stop.wait(k % 7 * pause) if pause else stop.is_set():    # gaps in which the others get their turn
                return
            with contextlib.suppress(fastopt.ConcurrentStepError, fastopt.ShapeError):  # of a group just added
                opt.step([None] * 9 + [g] + [None] * len(new))
                made += 1

    acts = {"state_dict": lambda: opt.state_dict(), "deepcopy": lambda: copy.deepcopy(opt).state_dict(),
            "load": lambda: opt.load_state_dict(saved), "add": grow, "grads": lambda: opt.grads[9].fill(1),
            "edit": lambda: opt.param_groups[9].update(amsgrad=not opt.param_groups[9]["amsgrad"])}
    for act in acts:
        p, new, made, done, stop = np.ones(n, np.float32), [], 1, 0, threading.Event()
        groups = [{"params": x} for x in [*np.ones((9, 2), np.float32), p]]
        opt = fastopt.Adam(groups, lr=0.0, backend=backend, n_threads=2)    # the states move, the parameters do not
        opt.step([None] * 9 + [g])
        saved = opt.state_dict()
        print(act, flush=True)
        thread = threading.Thread(target=step, daemon=True)
        thread.start()
        end = time.monotonic() + (0.8 if act in ("load", "edit") else 0.3)
        while time.monotonic() < end or (not done and time.monotonic() < end + 30):
            time.sleep(2 * pause * (done % 5))
            try:
                d = acts[act]()
                done += 1
            except fastopt.ConcurrentStepError:
                continue
            assert not d or whole(d), "torn"
        stop.set()
        thread.join()
        final = opt.state_dict()
        s = final["state"][9]
        assert whole(final), "torn at the end"
        assert act == "load" or s["step"] == final["step"] == made, (s["step"], final["step"], made)
        assert (p == 1).all() and made > 1 and done, (made, done)
"""


@each_backend
@pytest.mark.parametrize("n", [100, 2_000_000])
def test_state_and_options_while_another_thread_steps(n, backend):
    """What is read is the state after a whole step; what is written holds from a whole step on; or it is refused."""
    done = python(MEDDLE.replace("sys.argv[1:]", repr([backend, n])), ok=False)
    assert done.returncode == 0, f"{done.stdout.split()[-1]}: {done.stderr}"


@each_backend
def test_different_optimizers_in_parallel(backend):
    rng = np.random.default_rng(2)
    start, g = rng.standard_normal((2, 400_000)).astype(np.float32)
    names = ["adam", "sgd", "adagrad", "rmsprop", "adadelta", "adamw", "adam", "sgd"]
    results = {}

    def work(k: int) -> None:
        p = start.copy()
        opt = fastopt.Optimizer.known[names[k]](p, lr=0.01, backend=backend)
        for i in range(4):
            opt.step(SparseGrad(np.arange(5), g[:5].copy()) if i == 2 else g)
        results[k] = p

    assert together(*[lambda k=k: work(k) for k in range(len(names))]) == []
    at_once = dict(results)
    for k in range(len(names)):
        work(k)
        assert_bits(at_once[k], results[k], names[k])


class Meddler(Mapping):
    """A mapping of gradients that runs code when it is read."""

    def __init__(self, grads: dict[str, Any], act: Callable[[], Any]) -> None:
        self.grads, self.act = grads, act

    def __getitem__(self, key: str) -> Any:
        self.act()
        return self.grads[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.grads)

    def __len__(self) -> int:
        return len(self.grads)


@each_backend
def test_a_callback_cannot_step(backend):
    params = {"a": np.ones(4), "b": np.ones(4)}
    grads = {"a": np.ones(4), "b": np.ones(4)}
    opt, twin = (
        fastopt.Adam(params, backend=backend),
        fastopt.Adam({k: v.copy() for k, v in params.items()}, backend=backend),
    )
    state = opt.state_dict()
    for act in (
        lambda: opt.step(grads),
        lambda: opt.load_state_dict(state),
        lambda: opt.param_groups[0].update(lr=0.5),
        lambda: opt.add_param_group({"params": {"c": np.ones(3)}}),
        lambda: opt.param_groups[0].__setitem__("lr", 2),
    ):
        with refused(ConcurrentStepError, "step", opt=opt):
            opt.step(Meddler(grads, act))
        opt.step(Meddler(grads, lambda: None))
        twin.step(grads)

    def interrupt() -> None:
        raise KeyboardInterrupt

    before = snapshot(opt)
    with pytest.raises(KeyboardInterrupt):
        opt.step(Meddler(grads, interrupt))
    assert snapshot(opt) == before
    seen = []
    opt.step(Meddler(grads, lambda: seen.append(1)))  # it works after that
    twin.step(grads)
    assert seen
    for a, b in zip(opt.param_groups[0]["params"], twin.param_groups[0]["params"], strict=True):
        assert_bits(a, b)


@needs_native
def test_interrupts_leave_whole_steps():
    """A signal at any moment: each step has happened whole, with its counters, or not at all."""
    python("""
        import random, signal
        import numpy as np, fastopt
        n = 30_000
        p, q, r = np.ones(n, np.float32), np.ones((n, 2), np.float32), np.ones(2, np.float32)
        grads = [np.ones(2 * n, np.float32)[::2], fastopt.SparseGrad(np.arange(n), np.ones((n, 2), np.float32))]
        opt, small = fastopt.Adam([p, q], n_threads=2), fastopt.Adam(r, backend="numpy")
        known = [(np.float32(1), np.float32(0))]

        def interrupt(*args):
            raise KeyboardInterrupt

        signal.signal(signal.SIGALRM, interrupt)
        random.seed(1)
        for k in range(200):
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 3e-3))
                while True:
                    opt.step(grads)
            except KeyboardInterrupt:
                pass
            opt.param_groups[0]["lr"] = 1e-3            # new scalars
            d = opt.state_dict()
            t = d["step"]
            while len(known) <= t:
                small.step(np.ones(2, np.float32))
                known.append((r[0], small.state_dict()["state"][0]["exp_avg"][0]))
            for x, s in ((p, d["state"][0]), (q, d["state"][1])):
                assert s["step"] == t
                assert x.min() == x.max() == known[t][0]
                assert s["exp_avg"].min() == s["exp_avg"].max() == known[t][1]
        assert t > 50, t
    """)


# --------------------------------------------------------------------------------------------- the number of threads


@plain_cases
def test_one_and_two_threads_give_the_same_bits(case):
    name, options = case
    rng = np.random.default_rng(7)
    # The second one lies across the middle, and across both thirds, with rows that the borders cut.
    shapes = [(60_001,), (90_000, 3), (0,), (77,), (40, 1001)]
    dtypes = [np.float32, np.float32, np.float32, np.float64, np.float64]
    start = [rng.standard_normal(s).astype(t) for s, t in zip(shapes, dtypes, strict=True)]
    grads = [rng.standard_normal(p.shape).astype(p.dtype) for p in start]
    rows = rng.permutation(90_000)
    results = []
    for n in (1, 2, 3, None):
        params = [p.copy() for p in start]
        opt = fastopt.Optimizer.known[name](params, **options, n_threads=n)
        for k in range(3):
            opt.step(grads if k != 1 else [grads[0], SparseGrad(rows, grads[1]), *grads[2:]])
            if OPENMP and opt.backend == "native":
                assert kernels.drivers.last_team() == (n or 2)
        results.append([*params, *(a for e in opt.state_dict()["state"].values() for s, a in e.items() if s != "step")])
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            assert_bits(a, b)


def test_set_and_get_num_threads():
    for n in (1, 2, 3, np.int64(2), 1024, 1):
        assert fastopt.set_num_threads(n) is None
        assert fastopt.get_num_threads() == (n if OPENMP else 1)
    for bad in (0, -1, 1025, 2**40, 1.0, "2", None, True):
        with refused(HyperParameterError, repr(bad)):
            fastopt.set_num_threads(bad)
    assert fastopt.get_num_threads() == 1
    fastopt.set_num_threads(2)
    config = fastopt.show_config("dicts")
    assert config["threads"] == (2 if OPENMP else 1)
    if OPENMP:
        p = np.zeros(BIG, np.float32)
        opt = fastopt.SGD(p, lr=1.0)
        for n in (2, 1, 2):
            fastopt.set_num_threads(n)
            opt.step(np.full(BIG, -1, np.float32))
            assert kernels.drivers.last_team() == n
        assert (p == 3).all()


TELL = "import fastopt; print(fastopt.get_num_threads(), fastopt.show_config('dicts')['threads set by'])"
LARGEST = 1024 if OPENMP else 1


@needs_native
@pytest.mark.parametrize(
    ("env", "want"),
    [
        ({"FASTOPT_NUM_THREADS": "1"}, 1),
        ({"FASTOPT_NUM_THREADS": "3"}, 3),
        ({"FASTOPT_NUM_THREADS": " 2 "}, 2),
        ({"FASTOPT_NUM_THREADS": "1024"}, 1024),
        ({"FASTOPT_NUM_THREADS": "3", "OMP_NUM_THREADS": "1"}, 3),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "1,4"}, 1),
        *(
            ({"OMP_NUM_THREADS": bad}, threads.available())
            for bad in ("0", "-1", "abc", "", "1000000", "1.5", "²", "99999999999999999999")
        ),
        ({"FASTOPT_NUM_THREADS": ""}, threads.available()),
        ({}, threads.available()),
    ],
    ids=str,
)
def test_environment(env, want):
    done = python(TELL, **env)
    count, by = done.stdout.split(maxsplit=1)
    assert int(count) == min(want, LARGEST)
    if OPENMP and list(env) and env.get("FASTOPT_NUM_THREADS"):
        assert by == "FASTOPT_NUM_THREADS\n"
    code = """
        import numpy as np, fastopt
        p = np.zeros(1_000_000, np.float32)
        fastopt.SGD(p, lr=1.0, n_threads=2).step(np.ones(1_000_000, np.float32))
        assert (p == -1).all()
    """
    if env.get("OMP_NUM_THREADS") in ("1000000", "0", "abc"):
        python(code, **env)
    if not env:
        for fewer in ({"OMP_THREAD_LIMIT": "1"}, {"OMP_DYNAMIC": "true"}, {"OMP_PROC_BIND": "true"}):
            python(code, **fewer)


@needs_native
@pytest.mark.parametrize("bad", ["0", "-1", "abc", "1.5", "1025", "1e2", "2,1", "²", "0x2", "99999999999999999999"])
def test_bad_environment_fails_loudly(bad):
    done = python("import fastopt", ok=False, FASTOPT_NUM_THREADS=bad)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    for word in ("ImportError", "FASTOPT_NUM_THREADS", repr(bad), "1024"):
        assert word in last, done.stderr


@needs_native
def test_forced_instruction_set():
    for bad, words in (("sse9", ("FASTOPT_ISA", "'sse9'", "baseline")), ("AVX2", ("FASTOPT_ISA", "'AVX2'"))):
        done = python("import fastopt", ok=False, FASTOPT_ISA=bad)
        assert done.returncode == 1
        for word in ("ImportError", *words):
            assert word in done.stderr.strip().splitlines()[-1]
    tell = "import fastopt; print(fastopt.show_config('dicts')['instruction set'])"
    for isa in kernels.runnable():
        assert python(tell, FASTOPT_ISA=isa).stdout == isa + "\n"
    assert python(tell, FASTOPT_ISA="").stdout == kernels.runnable()[0] + "\n"
    for isa in set(kernels.compiled()) - set(kernels.runnable()):
        assert "ImportError" in python("import fastopt", ok=False, FASTOPT_ISA=isa).stderr


@needs_native
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity is Linux's")
def test_affinity_is_honoured():
    done = python(f"import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); {TELL}")
    assert done.stdout.startswith("1 ")
    # affinity cuts OMP_NUM_THREADS, but not what was asked of fastopt by name
    done = python(f"import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); {TELL}", OMP_NUM_THREADS="2")
    assert done.stdout.startswith("1 ")
    if OPENMP:
        done = python(
            f"import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); {TELL}", FASTOPT_NUM_THREADS="2"
        )
        assert done.stdout.startswith("2 ")


#: version, lines of /proc/self/cgroup, files below the root, CPUs
QUOTAS: list[tuple[str, dict[str, str], float | None]] = [
    ("0::/\n", {}, None),
    ("0::/\n", {"cpu.max": "max 100000\n"}, None),
    ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
    ("0::/\n", {"cpu.max": "50000 100000"}, 0.5),
    ("0::/a/b\n", {"a/b/cpu.max": "200000 100000\n"}, 2.0),
    ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3.0),
    ("0::/a/b\n", {"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "100000 100000\n", "cpu.max": "max 1000\n"}, 1.0),
    ("0::/a/b/c/d\n", {"cpu.max": "70000 20000\n"}, 3.5),
    ("0::/a\n", {"other/cpu.max": "10000 100000\n"}, None),
    ("0::/docker/0123\n", {"cpu.max": "250000 100000\n"}, 2.5),  # a container that sees its own folder as the root
    ("0::/a\n", {"a/cpu.max": "garbage\n"}, None),
    ("0::/a\n", {"a/cpu.max": ""}, None),
    ("0::/a\n", {"a/cpu.max": "100000\n"}, None),
    ("0::/a\n", {"a/cpu.max": "100000 0\n"}, None),
    ("0::/a\n", {"a/cpu.max": "-1 100000\n", "cpu.max": "200000 100000\n"}, 2.0),
    ("", {"cpu.max": "100000 100000\n"}, 1.0),
    ("nonsense\n\n::::\n", {}, None),
    ("4:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    ("4:cpu,cpuacct:/\n", {"cpu/cpu.cfs_quota_us": "150000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1.5),
    ("4:cpuacct,cpu:/x/y\n", {"cpu/x/y/cpu.cfs_quota_us": "50000\n", "cpu/x/y/cpu.cfs_period_us": "50000\n"}, 1.0),
    (
        "9:memory:/m\n4:cpu:/x/y\n",
        {
            "cpu/x/cpu.cfs_quota_us": "30000\n",
            "cpu/x/cpu.cfs_period_us": "10000\n",
            "cpu/x/y/cpu.cfs_quota_us": "-1\n",
            "cpu/x/y/cpu.cfs_period_us": "10000\n",
        },
        3.0,
    ),
    ("5:cpuset:/s\n4:cpu:/docker/9\n", {"cpu/cpu.cfs_quota_us": "20000\n", "cpu/cpu.cfs_period_us": "10000\n"}, 2.0),
    ("5:cpuset:/s\n", {"cpu/s/cpu.cfs_quota_us": "10000\n", "cpu/s/cpu.cfs_period_us": "10000\n"}, None),
    ("4:cpu:/x\n", {"cpu/x/cpu.cfs_quota_us": "10000\n"}, None),
    ("4:cpu:/x\n", {"cpu/x/cpu.cfs_quota_us": "10000\n", "cpu/x/cpu.cfs_period_us": "?\n"}, None),
    ("4:cpu:/x\n0::/y\n", {"cpu/x/cpu.cfs_quota_us": "20000\n", "cpu/x/cpu.cfs_period_us": "10000\n"}, 2.0),
]


@pytest.mark.parametrize(("own", "files", "want"), QUOTAS)
def test_container_quota(own, files, want, tmp_path):
    root = tmp_path / "cgroup"
    root.mkdir()
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (tmp_path / "own").write_text(own)
    assert threads.cgroup_quota(root, tmp_path / "own") == want


def test_container_quota_without_its_files(tmp_path):
    assert threads.cgroup_quota(tmp_path / "none", tmp_path / "nothing") is None
    assert threads.cgroup_quota(tmp_path, tmp_path) is None
    (tmp_path / "cpu.max").mkdir()
    assert threads.cgroup_quota(tmp_path, tmp_path / "nothing") is None


def test_available_is_cut_by_the_quota(monkeypatch):
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for quota, want in [(None, cpus), (0.25, 1), (1.0, 1), (cpus - 0.5, cpus), (cpus + 7.5, cpus)]:
        monkeypatch.setattr(threads, "cgroup_quota", lambda *a, q=quota: q)
        assert threads.available() == want


@needs_native
def test_openmp_is_seen_by_threadpoolctl():
    code = """
        import numpy as np, fastopt, threadpoolctl
        p = np.ones(1_000_000, np.float32)
        opt = fastopt.SGD(p, n_threads=2)
        opt.step(p.copy())
        print([i["user_api"] for i in threadpoolctl.threadpool_info()].count("openmp"))
        with threadpoolctl.threadpool_limits(1):
            opt.step(p.copy())
    """
    assert int(python(code).stdout) == (1 if OPENMP else 0)


@pytest.mark.parametrize("order", ["fastopt, sklearn.linear_model", "sklearn.linear_model, fastopt"])
def test_import_beside_scikit_learn(order):
    code = f"""
        import numpy as np, {order}
        from sklearn.ensemble import HistGradientBoostingRegressor
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((3000, 5)), rng.standard_normal(3000)
        p = np.zeros(1_000_000, np.float32)
        opt = fastopt.SGD(p, lr=1.0, n_threads=2)
        for _ in range(3):
            HistGradientBoostingRegressor(max_iter=3).fit(x, y)
            opt.step(np.ones_like(p))
        assert (p == -3).all()
    """
    done = python(code, OMP_WAIT_POLICY="passive")
    assert done.stderr == ""


@needs_native
def test_steps_inside_joblib_threads():
    code = """
        import joblib, numpy as np, fastopt
        fastopt.set_num_threads(2)
        def work(k):
            p = np.ones(600_000, np.float32)
            opt = fastopt.Adam(p)
            for _ in range(3):
                opt.step(np.full_like(p, k + 1))
            return p
        want = [work(k) for k in range(6)]
        for got in (joblib.Parallel(n_jobs=3, prefer="threads")(joblib.delayed(work)(k) for k in range(6)),
                    joblib.Parallel(n_jobs=2)(joblib.delayed(work)(k) for k in range(6))):
            assert all((a == b).all() for a, b in zip(got, want))
    """
    python(code)


# ------------------------------------------------------------------------------------------- floating-point environment

LIBM = ctypes.CDLL(ctypes.util.find_library("m"))
ARM = platform.machine() in ("aarch64", "arm64")
NEAREST, *ROUNDINGS = (0, 0x800000, 0x400000, 0xC00000) if ARM else (0, 0x400, 0x800, 0xC00)
FLUSH = 1 << 24 if ARM else 0x8040
WORD = 0 if ARM else 7  # of fenv_t: FPCR, or MXCSR


def control() -> int:
    """The control word: rounding, flushing, traps."""
    env = (ctypes.c_uint32 * 8)()
    assert LIBM.fegetenv(env) == 0
    return env[WORD] & (0xFFFFFFFF if ARM else 0xFFC0)


def set_control(word: int, both: bool = True) -> None:
    env = (ctypes.c_uint32 * 8)()
    assert LIBM.fegetenv(env) == 0
    env[WORD] = word
    assert LIBM.fesetenv(env) == 0


@pytest.fixture
def floating_point() -> Iterator[None]:
    before = control()
    yield
    LIBM.fesetround(NEAREST)
    set_control(before)
    assert control() == before


def hostile() -> dict[str, Callable[[], Any]]:
    return {
        "nearest": lambda: LIBM.fesetround(NEAREST),
        **{f"rounding {r:#x}": lambda r=r: LIBM.fesetround(r) for r in ROUNDINGS},
        "flush": lambda: set_control(control() | FLUSH),
        "both": lambda: (LIBM.fesetround(ROUNDINGS[1]), set_control(control() | FLUSH)),
    }


def test_the_helpers_really_change_the_environment(floating_point):
    x, tiny = np.array([1.0]), np.array([5e-324])
    LIBM.fesetround(ROUNDINGS[1])
    assert (x + 1e-30)[0] > 1 or (x - 1e-30)[0] < 1
    LIBM.fesetround(NEAREST)
    set_control(control() | FLUSH)
    assert (tiny * 1)[0] == 0
    assert control() & FLUSH


@needs_native
@pytest.mark.parametrize("size", [100, 300_000], ids=["small", "threads"])
@pytest.mark.parametrize("how", hostile())
def test_the_callers_environment_is_its_own_and_results_ignore_it(how, size, floating_point):
    """Whatever rounding and flushing the caller has set: it has them still afterwards; the bits are the usual ones."""
    rng = np.random.default_rng(11)
    g = rng.standard_normal((4, size)).astype(np.float32)
    start = rng.standard_normal(size).astype(np.float32)
    g[:, ::3] *= np.float32(1e-39)  # subnormal buffers, and subnormal squares
    g[:, 1::3] *= np.float32(1e-21)
    start[::3] = 0
    ids = rng.permutation(size)[: size // 2]
    half = g[2][: len(ids)].copy()

    def train() -> list[np.ndarray]:
        found = []
        for name, options in [
            ("adam", {"lr": 0.1}),
            ("sgd", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
            ("adagrad", {"lr_decay": 0.1}),
            ("rmsprop", {"centered": True}),
            ("adadelta", {}),
            ("adafactor", {}),
            ("sm3", {"momentum": 0.9}),
        ]:
            p = start.copy()
            opt = fastopt.Optimizer.known[name](p, **options, n_threads=2)
            for k in range(4):
                opt.step(SparseGrad(ids, half) if k == 2 else g[k])
                assert not OPENMP or size < 1000 or k == 2 or kernels.drivers.last_team() == 2
                opt.param_groups[0]["lr"] = 0.3
            found += [p, *(a for s, a in opt.state_dict()["state"][0].items() if s != "step")]
        return found

    want = train()
    assert any(((a != 0) & (abs(a) < np.finfo(np.float32).tiny)).any() for a in want)  # else flushing would not show
    hostile()[how]()
    word, rounding = control(), LIBM.fegetround()
    got = train()
    assert control() == word
    assert LIBM.fegetround() == rounding
    LIBM.fesetround(NEAREST)
    set_control(control() & ~FLUSH)
    for k, (a, b) in enumerate(zip(got, want, strict=True)):
        assert_bits(a, b, f"{how}, array {k}")


@needs_native
def test_a_refused_step_leaves_the_environment(floating_point):
    opt = fastopt.SGD(np.ones(4))
    LIBM.fesetround(ROUNDINGS[0])
    word = control()
    with pytest.raises(fastopt.ShapeError):
        opt.step(np.ones(5))
    with pytest.raises(fastopt.IndexRangeError):
        opt.step(SparseGrad(np.array([4]), np.ones(1)))
    assert control() == word


@needs_native
@pytest.mark.skipif(not hasattr(LIBM, "feenableexcept"), reason="traps are set with a function of the GNU library")
def test_traps_of_the_caller_do_not_kill_the_step():
    code = """
        import ctypes, ctypes.util
        import numpy as np, fastopt
        libm = ctypes.CDLL(ctypes.util.find_library("m"))
        for n in (100, 600_000):
            p = np.ones(n, np.float32)
            opt = fastopt.RMSprop(p, eps=0.0, n_threads=2)
            g = np.zeros(n, np.float32)
            g[::3], g[1::3] = np.inf, np.nan
            opt.step(g)
            libm.feenableexcept(0x04 | 0x08 | 0x01)     # now x/0, 0/0 or an overflow is a signal, if it is the caller's
            traps = libm.fegetexcept()
            opt.step(g)
            assert libm.fegetexcept() == traps
            libm.fedisableexcept(0x3f)
        print("done")
    """
    assert python(code).stdout == "done\n"


@needs_native
def test_import_leaves_the_environment():
    code = """
        import ctypes, ctypes.util
        libm = ctypes.CDLL(ctypes.util.find_library("m"))
        def word():
            env = (ctypes.c_uint32 * 8)()
            libm.fegetenv(env)
            return [env[0] & 0xFFFFFFC0, env[7] & 0xFFC0]
        import numpy as np
        before = word()
        import fastopt
        for isa in fastopt.kernels.runnable():
            fastopt.kernels.load(isa)
        p = np.ones(1_000_000)
        fastopt.Adam(p, n_threads=2).step(p.copy())
        assert word() == before
        assert np.float64(5e-324) * 1 != 0
    """
    python(code)


# ------------------------------------------------------------------------------------------------------- end of process


@pytest.mark.parametrize(
    "end",
    [
        "",
        "raise SystemExit(0)",
        "os._exit(0)",
        "import gc; gc.collect()",
        "del fastopt, np",
        "sys.modules.clear()",
        "import importlib; importlib.reload(fastopt)",
    ],
)
def test_process_ends_quietly_with_live_optimizers(end):
    code = f"""
        import os, sys
        import numpy as np, fastopt
        opt = fastopt.Adam(np.ones(1_000_000, np.float32), n_threads=2)
        opt.step(opt.grads)
        opt.self = opt
        other = fastopt.SGD([np.ones(3)], momentum=0.9, backend="numpy")
        other.step([np.ones(3)])
        {end}
    """
    done = python(code)
    assert done.stderr == ""
