"""``python -m bench.survey``: runs the experiments, writes docs/survey.md and its pictures."""

from __future__ import annotations

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):  # before NumPy: a process for each core
    os.environ.setdefault(_name, "1")
# The kernels of matrix products that all x86 processors of the last ten years run, or sums would hang on the processor.
os.environ.setdefault("OPENBLAS_CORETYPE", "Haswell")

from .page import main  # noqa: E402

if __name__ == "__main__":
    main()
