# Every target makes what it needs, the virtual environment included.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILD := pyproject.toml setup.cfg difflayers/__init__.py

.PHONY: help demo demo-vos test test-slow test-gpu test-browser test-compat lint bench bench-gpu docs release-check clean

help:
	@echo "make demo       train a 4x4 Sudoku solver from nothing, in about a minute"
	@echo "make demo-vos   track objects in synthetic video by matching, in minutes"
	@echo "make test       the tests (minutes)"
	@echo "make test-slow  the long tests"
	@echo "make test-gpu   the tests that need a CUDA device"
	@echo "make test-browser  the tests of the page of demos.web, in Chromium"
	@echo "make test-compat   the tests of the layers with the oldest supported torch, numba, numpy and scipy"
	@echo "make lint       ruff and mypy"
	@echo "make bench      the benchmarks; results go to benchmarks/results"
	@echo "make bench-gpu  those that need a CUDA device"
	@echo "make docs       the documentation, into docs/_build/html"
	@echo "make release-check  builds the archives and tries them in an empty environment"

demo: $(VENV)/.demos
	$(BIN)/python -m demos.sudoku

demo-vos: $(VENV)/.demos
	$(BIN)/python -m demos.vos --overwrite

test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m slow

test-gpu: $(VENV)/.test
	$(BIN)/python -m pytest -m gpu

test-browser: $(VENV)/.browser
	$(BIN)/python -m pytest -m browser tests/browser

# torch 2.11's compiler warns of its own code.
test-compat: $(VENV)-oldest/.installed
	$(VENV)-oldest/bin/python -m pytest -n auto --dist worksteal -W ignore::DeprecationWarning -W ignore::UserWarning \
		tests/contract tests/inference tests/matching tests/maxsat tests/metrics tests/satnet

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.test
	$(BIN)/python -m benchmarks

bench-gpu: $(VENV)/.test
	$(BIN)/python -m benchmarks --gpu

docs: $(VENV)/.docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

release-check: $(VENV)/.release
	$(BIN)/python tests/release_check.py

clean:
	rm -rf $(VENV) $(VENV)-oldest build dist *.egg-info docs/_build

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# These two build and check the archives; the package itself goes into an environment of its own.
$(VENV)/.release: | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'build>=1.2' 'twine>=6'
	touch $@

# One stamp for each extra; installing an extra again after pyproject.toml changed is quick.
$(VENV)/.%: $(BUILD) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

$(VENV)-oldest/.installed: $(BUILD) tests/oldest.txt
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet --disable-pip-version-check --constraint tests/oldest.txt \
		--editable '.[maxsat,verify]' hypothesis 'pot>=0.9.5' pytest pytest-xdist
	touch $@
