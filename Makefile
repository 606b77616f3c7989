# Two commands: `make demo` trains on this machine's own documentation, `make test` runs the fast tests. Both make the
# environment they need in $(VENV) and install again only when setup.cfg or constraints.txt changed; the install is
# editable, so a change of code needs none.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
WORKERS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
REQUIREMENTS := setup.cfg pyproject.toml constraints.txt

.PHONY: help demo test test-slow lint index clean
.DELETE_ON_ERROR:

help:
	@echo "make demo       install, then: fwk-train --task mlm --criterion semantic_augment  (more: ARGS='train.minutes=1')"
	@echo "make test       install what tests need, then the fast suite  (more: ARGS='-k schedule')"
	@echo "make test-slow  the whole suite"
	@echo "make lint       ruff"
	@echo "make index      write the index of built-in and first-party components again"
	@echo "make clean      remove $(VENV), build products and caches; runs stay"
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

demo: $(VENV)/installed
	$(BIN)/fwk-train --task mlm --criterion semantic_augment $(ARGS)

# One thread per worker: the workers share the cores.
test: $(VENV)/installed-for-tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(WORKERS) $(ARGS)

test-slow: $(VENV)/installed-for-tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

lint: $(VENV)/installed-for-tests
	$(BIN)/python -m ruff check .

index: $(VENV)/installed
	$(BIN)/fwk-plugins index

clean:
	test ! -f $(VENV)/pyvenv.cfg || rm -rf $(VENV)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
