# `make` lists the targets. Each sets up .venv first if the requirements are newer than it.

PYTHON ?= python3.11
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock
ROOMS := search_spaces trainables sweep analysis

.PHONY: help demo sweep test lint docs bench

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' Makefile

demo: .venv/ready ## levels and biases on the embedded model, in minutes
	$(BIN)/python -m sweep run search_spaces/demo.yaml

sweep: .venv/ready ## six allocations at two sparsities on the embedded model
	$(BIN)/python -m sweep run search_spaces/embedded.yaml

test: lint ## lint, types and all tests
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: .venv/develop ## lint and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(ROOMS)

docs: .venv/ready ## generate the reference pages from the code
	$(BIN)/python -m tests.reference

bench: .venv/ready ## the measured tables
	for what in step selection workers overhead; do $(BIN)/python -m tests.benchmarks.$$what || exit 1; done

# pip compiles on one core only, so compileall does it. A few third-party files need a newer Python: ignore those errors
.venv/ready: requirements.txt requirements.lock
	@echo 'installing into .venv, about two minutes'
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) --no-compile --requirement requirements.txt
	$(BIN)/python -m compileall -q -j 0 .venv/lib > /dev/null || true
	touch $@

# All files at once, so that an optional package cannot change a pinned version
.venv/develop: requirements-dev.txt requirements-evaluate.txt .venv/ready
	$(PIP_INSTALL) --requirement requirements.txt --requirement requirements-dev.txt --requirement requirements-evaluate.txt
	touch $@
