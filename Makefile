# `make demo` and `make test` set up .venv by themselves; nothing else is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OLDEST := $(VENV)/azure-oldest

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check fix docs bench clean

help:  ## Say what each target does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

setup: $(READY)  ## Make .venv with penala and all it needs

# torch goes first and alone: constraints.txt names the CPU build, which nothing later replaces; the oldest SDK of Azure
# ML that penala[azure] takes lies beside the newest, for the tests that put it first on their path
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --target $(OLDEST) --upgrade --no-deps azure-ai-ml==1.27.1 azure-common
	touch $@

demo: $(READY)  ## Tune the kopitiam's assistant here, deploy it, ask it (minutes)
	$(BIN)/python examples/01_kopitiam/demo.py

test: $(READY)  ## Lint, types and the tests but the slow ones
	$(MAKE) check
	$(BIN)/python -m pytest -m 'not slow'

test-all: $(READY)  ## Lint, types and every test
	$(MAKE) check
	$(BIN)/python -m pytest

check: $(READY)  ## Lint, format and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(READY)  ## Mend what the linter and the formatter can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)  ## Write the generated pages of docs/reference
	$(BIN)/python docs/generate.py

bench: $(READY)  ## Ratios against peers, side by side in one run
	$(BIN)/python benchmarks/conversations.py
	$(BIN)/python benchmarks/tokens.py
	$(BIN)/python benchmarks/training.py

clean:  ## Remove .venv and caches; workspaces stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
