# Two commands: `make sweep` and `make test`. Both set up .venv first if requirements.txt is newer than it.

PYTHON ?= python3.11
BIN := .venv/bin
ROOMS := search_spaces trainables sweep analysis

.PHONY: sweep test

sweep: .venv/ready
	$(BIN)/python -m sweep run search_spaces/embedded.yaml

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(ROOMS)
	$(BIN)/python -m pytest

.venv/ready: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.txt
	touch $@
