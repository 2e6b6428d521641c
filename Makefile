# neuroPushkin. `make run` and `make test` set up everything they need in .venv by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
DESCRIPTION := pyproject.toml constraints.txt

.PHONY: run test lint format help
.DEFAULT_GOAL := help

run: $(VENV)/run.stamp  ## the bot and a worker; with no BOT_TOKEN, in this terminal
	@exec $(BIN)/python -m scripts.run

test: $(VENV)/test.stamp  ## every test
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/test.stamp  ## style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(VENV)/test.stamp  ## put the code in shape
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit("neuroPushkin needs Python 3.11 or newer (make PYTHON=python3.11), and this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else 0'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: $(DESCRIPTION) | $(BIN)/pip
	@echo "Setting up .venv for the bot and the worker: a minute, once." >&2
	@$(INSTALL) --editable '.[bot,worker]'
	@touch $@

$(VENV)/test.stamp: $(DESCRIPTION) | $(BIN)/pip
	@echo "Setting up .venv for the tests: a few minutes, once." >&2
	@$(INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/run.stamp
