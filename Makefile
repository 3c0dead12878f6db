# Two commands: `make sweep` and `make test`. Beside them `make docs` writes what is made from the code, and `make bench`
# the measured tables. Each sets up .venv first if requirements.txt is newer than it.

PYTHON ?= python3.11
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
ROOMS := search_spaces trainables sweep analysis

.PHONY: sweep test docs bench

sweep: .venv/ready
	$(BIN)/python -m sweep run search_spaces/embedded.yaml

test: .venv/develop
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(ROOMS)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

docs: .venv/ready
	$(BIN)/python -m sweep schema > docs/space.schema.json
	$(BIN)/python -m sweep schema --markdown > docs/config.md

bench: .venv/ready
	for what in step selection workers overhead; do $(BIN)/python -m tests.benchmarks.$$what || exit 1; done

# pip compiles on one core; and a few files of others are for newer Pythons
.venv/ready: requirements.txt
	@echo 'installing into .venv, about two minutes'
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) --no-compile --requirement requirements.txt
	$(BIN)/python -m compileall -q -j 0 .venv/lib > /dev/null || true
	touch $@

# All files at once, so that what is optional cannot move a pin
.venv/develop: requirements-dev.txt requirements-evaluate.txt .venv/ready
	$(PIP_INSTALL) --requirement requirements.txt --requirement requirements-dev.txt --requirement requirements-evaluate.txt
	touch $@
