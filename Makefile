# The one entry point: `make demo` shows what this is, `make test` shows that it works.
#
# The first run of a target creates $(VENV) and installs what the target needs; a stamp file in
# $(VENV), named after the content of pyproject.toml and constraints.txt, lets later runs start
# at once and installs again when either file changes.

.DEFAULT_GOAL := help
SHELL := /bin/sh
.DELETE_ON_ERROR:

PYTHON   ?= python3
VENV     ?= .venv
# More arguments for pip, e.g. PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu".
PIP_ARGS ?=
# Processes of the test suite; each uses one thread.
TEST_JOBS ?= 2
# More arguments for pytest, e.g. PYTEST_ARGS="-k schedule".
PYTEST_ARGS ?=

PY     := $(VENV)/bin/python
KEY    := $(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
PIP    := $(PY) -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt
PYTEST := $(PY) -m pytest

.PHONY: help
help:  ## show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp a set of extras: $(call stamp,report) is the file, the pattern rule installs it.
stamp = $(VENV)/.installed-$(1)-$(KEY)

$(VENV)/.installed-%-$(KEY): | $(PY)
	@echo "installing scidiffusion[$*] into $(VENV) (the first time takes some minutes)"
	$(PIP) -e ".[$*]"
	@rm -f $(VENV)/.installed-$*-*
	@touch $@

.PHONY: demo
demo: $(call stamp,demo)  ## copy a table, forecast a series, make conformers: pictures and scores
	$(PY) -m scidiffusion.demo

# The closing line of pytest is the last thing `make test` prints.
.PHONY: test
test: lint  ## lint, types, doctests and every test that is neither slow nor needs a GPU
	@$(PYTEST) -q -n $(TEST_JOBS) --dist loadfile --doctest-modules \
	  --doctest-ignore-import-errors src tests $(PYTEST_ARGS)

.PHONY: test-slow
test-slow: $(call stamp,dev)  ## the tests marked slow
	@$(PYTEST) -m "slow and not gpu" $(PYTEST_ARGS)

.PHONY: test-gpu
test-gpu: $(call stamp,dev)  ## the tests marked gpu; they skip themselves without CUDA
	@$(PYTEST) -m gpu $(PYTEST_ARGS)

.PHONY: lint
lint: $(call stamp,dev)  ## ruff (rules and format) and mypy
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

.PHONY: format
format: $(call stamp,dev)  ## let ruff repair and format the sources
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

.PHONY: docs
docs: $(call stamp,docs)  ## build the documentation into site/, running the tutorials
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

# Those of forecasts and molecules need data by path: docs/benchmarks.md has their commands.
BENCH := samplers speed images tabular imputation privacy conformer_networks

.PHONY: bench
bench: $(call stamp,bench)  ## run the benchmarks that need no data by path
	@set -e; for name in $(BENCH); do \
	  echo "== benchmarks/$$name.py"; $(PY) "benchmarks/$$name.py"; done

.PHONY: clean
clean:  ## remove caches and build outputs, keep $(VENV)
	rm -rf build dist site demo_output lightning_logs .pytest_cache .mypy_cache .ruff_cache \
	  .hypothesis .cache
	find src tests docs -name __pycache__ -type d -prune -exec rm -rf {} +
